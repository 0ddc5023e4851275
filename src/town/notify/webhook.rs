//! The webhook: posting notices until they are accepted or given up.
//!
//! A post is booked before it is made: its row carries a lease, and its due time is moved to the lease's end. So an
//! alarm that runs twice posts once, and an object that dies in between posts again. [`settle_post`] is
//! compare-and-set: only a booked post can be settled, and only once.

use super::super::Ctx;
use super::super::config::Config;
use super::super::effect::{Answer, Effect, PostWebhook};
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::id::BeadId;
use super::super::policy::{
    POSTS_AT_ONCE, REASON_BYTES, RULE_ROWS, WEBHOOK_BACKOFF_MAX, WEBHOOK_BACKOFF_MIN, WEBHOOK_GIVE_UP, WEBHOOK_LEASE,
};
use super::super::sql::{Row, Sql, SqlError, any, first};
use super::super::state::State;
use super::super::text;
use super::super::time::{Millis, Timestamp, in_words};
use super::{Channel, emit};
use crate::town::json::{self, json};
use hmac::{Hmac, Mac};
use serde::Serialize;
use serde_json::Value as Json;
use sha2::Sha256;

/// What a webhook receives (`api.md`). `text` makes it readable for Slack as it is.
#[derive(Serialize)]
struct WebhookBody<'a> {
    id: &'a str,
    kind: &'a str,
    town_id: &'a str,
    text: &'a str,
    facts: Json,
    created_at: Timestamp,
}

/// Rule 9: books the posts that are due and returns them as effects.
///
/// *Guarantees*: at most [`POSTS_AT_ONCE`] are in the air; a booked one is not booked again before its lease ends.
/// *Assumptions*: each effect's outcome is given to [`settle_post`], or [`resume`] is called, or the lease ends. Rows
/// due while no webhook is configured are skipped, not kept: who configures one later does not want old news.
pub fn book_posts(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config) -> Result<Vec<Effect>, TownError> {
    let Some(url) = &config.notify.webhook_url else {
        skip_posts(sql, ctx)?;
        return Ok(Vec::new());
    };
    let due = sql.query(
        "SELECT d.delivery_id, d.attempts, d.last_error, n.id, n.kind, n.severity, n.bead_id, n.text, n.facts,
                n.created_at
         FROM deliveries d
         JOIN notifications n ON n.id = d.notification_id
         WHERE d.state = 'pending'
           AND d.next_attempt_at IS NOT NULL
           AND d.next_attempt_at <= ?1
         ORDER BY d.next_attempt_at
         LIMIT ?2",
        &[ctx.now.into(), POSTS_AT_ONCE.into()],
    )?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let free = POSTS_AT_ONCE.saturating_sub(in_flight(sql, ctx.now)?.count);
    let town_id = State::load(sql)?.town_id;
    let mut posts = Vec::new();
    for r in due.iter().take(usize::try_from(free).unwrap_or(0)) {
        let delivery_id = r.text(0)?;
        let created_at = Timestamp(r.int(9)?);
        if r.count(1)? > 0 && ctx.now.since(created_at) > WEBHOOK_GIVE_UP {
            // Its last try was due at the end of its time, and nobody was there to make it.
            let error = r.opt_text(2)?.unwrap_or_else(|| "no answer was recorded".to_owned());
            give_up(sql, ctx, &delivery_id, &About::read(r, 4)?, &error)?;
            continue;
        }
        let lease = ctx.now.plus(WEBHOOK_LEASE);
        sql.execute(
            "UPDATE deliveries
             SET attempts = attempts + 1, sent_until = ?2, next_attempt_at = ?2
             WHERE delivery_id = ?1",
            &[(&delivery_id).into(), lease.into()],
        )?;
        let body = WebhookBody {
            id: &r.text(3)?,
            kind: &r.text(4)?,
            town_id: &town_id,
            text: &r.text(7)?,
            facts: json::read(&r.text(8)?).unwrap_or_else(|| json!({})),
            created_at,
        };
        let body = serde_json::to_string(&body).map_err(|e| SqlError::new(e.to_string()))?;
        let signature = config.notify.webhook_secret.as_deref().map(|s| sign(s, &body)).transpose()?;
        posts.push(Effect::PostWebhook(PostWebhook { delivery_id, url: url.clone(), body, signature }));
    }
    Ok(posts)
}

/// `sha256=<hmac-sha256 over the raw body>`, lower-case hexadecimal.
fn sign(secret: &str, body: &str) -> Result<String, TownError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|e| SqlError::new(e.to_string()))?;
    mac.update(body.as_bytes());
    Ok(format!("sha256={}", text::hex(&mac.finalize().into_bytes())))
}

/// The webhook was removed from the settings: what waits for it is skipped, but for posts in the air.
fn skip_posts(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    let wait =
        any(sql, "SELECT 1 FROM deliveries WHERE state = 'pending' AND next_attempt_at IS NOT NULL LIMIT 1", &[])?;
    if !wait {
        return Ok(());
    }
    sql.execute(
        "UPDATE deliveries
         SET state = 'skipped', next_attempt_at = NULL, sent_until = NULL
         WHERE delivery_id IN (SELECT delivery_id
                               FROM deliveries
                               WHERE state = 'pending'
                                 AND next_attempt_at IS NOT NULL
                                 AND (sent_until IS NULL OR sent_until <= ?1)
                               ORDER BY next_attempt_at
                               LIMIT ?2)",
        &[ctx.now.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}

/// Posts in the air.
struct InFlight {
    count: u32,
    first_lease_end: Option<Timestamp>,
}

/// Counts the posts whose lease has not ended. A booked post is due at its lease's end, so they all lie in the next
/// [`WEBHOOK_LEASE`] of the queue.
fn in_flight(sql: &dyn Sql, now: Timestamp) -> Result<InFlight, TownError> {
    let row = first(
        sql,
        "SELECT count(*), min(next_attempt_at)
         FROM (SELECT next_attempt_at
               FROM deliveries
               WHERE state = 'pending'
                 AND next_attempt_at IS NOT NULL
                 AND next_attempt_at > ?1
                 AND next_attempt_at <= ?2
                 AND sent_until > ?1
               ORDER BY next_attempt_at
               LIMIT ?3)",
        &[now.into(), now.plus(WEBHOOK_LEASE).into(), POSTS_AT_ONCE.into()],
    )?;
    let Some(r) = row else { return Ok(InFlight { count: 0, first_lease_end: None }) };
    Ok(InFlight { count: r.count(0)?, first_lease_end: r.opt_int(1)?.map(Timestamp) })
}

/// What a delivery is about, for events and data points.
struct About {
    kind: String,
    severity: String,
    bead: Option<BeadId>,
}

impl About {
    /// Reads kind, severity and bead from column `i` on.
    fn read(r: &Row, i: usize) -> Result<Self, SqlError> {
        Ok(Self { kind: r.text(i)?, severity: r.text(i + 1)?, bead: r.opt_text(i + 2)?.map(BeadId) })
    }
}

/// Records how a post ended. Late and repeated outcomes change nothing.
pub fn settle_post(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    delivery_id: &str,
    answer: &Answer,
) -> Result<(), TownError> {
    let row = first(
        sql,
        "SELECT d.attempts, n.created_at, n.kind, n.severity, n.bead_id
         FROM deliveries d
         JOIN notifications n ON n.id = d.notification_id
         WHERE d.delivery_id = ?1
           AND d.state = 'pending'
           AND d.sent_until IS NOT NULL",
        &[delivery_id.into()],
    )?;
    let Some(r) = row else { return Ok(()) };
    let about = About::read(&r, 2)?;
    let Some(error) = refusal(answer, config.notify.webhook_url.as_deref()) else {
        sql.execute(
            "UPDATE deliveries
             SET state = 'delivered', delivered_at = ?2, next_attempt_at = NULL, sent_until = NULL, last_error = NULL
             WHERE delivery_id = ?1",
            &[delivery_id.into(), ctx.now.into()],
        )?;
        emit(ctx, "notification.delivered", Channel::Webhook, &about.kind, about.bead.as_ref(), "");
        return Ok(());
    };
    let ends = Timestamp(r.int(1)?).plus(WEBHOOK_GIVE_UP);
    if config.notify.webhook_url.is_none() {
        sql.execute(
            "UPDATE deliveries
             SET state = 'skipped', next_attempt_at = NULL, sent_until = NULL, last_error = ?2
             WHERE delivery_id = ?1",
            &[delivery_id.into(), (&error).into()],
        )?;
        return Ok(());
    }
    if ctx.now >= ends {
        return give_up(sql, ctx, delivery_id, &about, &error);
    }
    // The last try is made when the time is up, not before.
    let next = ctx.now.plus(wait_after(r.count(0)?)).min(ends);
    sql.execute(
        "UPDATE deliveries
         SET next_attempt_at = ?2, sent_until = NULL, last_error = ?3
         WHERE delivery_id = ?1",
        &[delivery_id.into(), next.into(), (&error).into()],
    )?;
    Ok(())
}

/// The wait after the n-th failed post: doubles from the first on, up to its end.
fn wait_after(posts: u32) -> Millis {
    let doublings = posts.saturating_sub(1).min(30);
    WEBHOOK_BACKOFF_MIN.saturating_mul(1 << doublings).min(WEBHOOK_BACKOFF_MAX)
}

/// Why an answer is no delivery, in words without secrets and never empty; `None` for a 2xx.
///
/// Of the address, too: who knows a Slack webhook's may post to it.
fn refusal(answer: &Answer, url: Option<&str>) -> Option<String> {
    let words = match answer {
        Answer::Http { status: 200..=299, .. } => return None,
        Answer::Http { status, body, .. } if body.trim().is_empty() => format!("the webhook answered {status}"),
        Answer::Http { status, body, .. } => format!("the webhook answered {status}: {}", body.trim()),
        Answer::Unreachable { detail } if detail.trim().is_empty() => "the webhook could not be reached".to_owned(),
        Answer::Unreachable { detail } => format!("the webhook could not be reached: {}", detail.trim()),
        Answer::TimedOut { after } => format!("the webhook did not answer within {}", in_words(*after)),
    };
    let words = url.map_or_else(|| words.clone(), |url| words.replace(url, text::REDACTED));
    Some(text::cut(&text::redact(&words), REASON_BYTES).to_owned())
}

/// Ends a delivery that never succeeded, and says so where its bead is told about.
fn give_up(sql: &dyn Sql, ctx: &Ctx<'_>, delivery_id: &str, about: &About, error: &str) -> Result<(), TownError> {
    sql.execute(
        "UPDATE deliveries
         SET state = 'failed', next_attempt_at = NULL, sent_until = NULL, last_error = ?2
         WHERE delivery_id = ?1",
        &[delivery_id.into(), error.into()],
    )?;
    if let Some(bead) = &about.bead {
        event::record(
            sql,
            ctx,
            bead,
            Happening {
                kind: "notification_failed",
                metadata: Some(json!({
                    "target": Channel::Webhook.as_str(), "reason": error, "severity": about.severity,
                })),
                ..Happening::default()
            },
        )?;
    }
    emit(ctx, "notification.failed", Channel::Webhook, &about.kind, about.bead.as_ref(), error);
    Ok(())
}

/// The object was made anew: posts that were in the air have lost their owner and are due again.
pub fn resume(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let posting = any(
        sql,
        "SELECT 1
         FROM deliveries
         WHERE state = 'pending' AND next_attempt_at IS NOT NULL AND sent_until IS NOT NULL
         LIMIT 1",
        &[],
    )?;
    if !posting {
        return Ok(());
    }
    sql.execute(
        "UPDATE deliveries
         SET next_attempt_at = ?1, sent_until = NULL
         WHERE delivery_id IN (SELECT delivery_id
                               FROM deliveries
                               WHERE state = 'pending'
                                 AND next_attempt_at IS NOT NULL
                                 AND sent_until IS NOT NULL
                               LIMIT ?2)",
        &[now.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}

/// When a post is due, or the lease of one in the air ends.
pub(super) fn next_deadline(sql: &dyn Sql, config: &Config, now: Timestamp) -> Result<Option<Timestamp>, TownError> {
    let row = first(
        sql,
        "SELECT next_attempt_at
         FROM deliveries
         WHERE state = 'pending'
           AND next_attempt_at IS NOT NULL
         ORDER BY next_attempt_at
         LIMIT 1",
        &[],
    )?;
    let due = row.map(|r| r.int(0)).transpose()?.map(Timestamp);
    if due.is_some_and(|at| at <= now) && config.notify.webhook_url.is_some() {
        // Due, but perhaps it has to wait for one in the air.
        let air = in_flight(sql, now)?;
        if air.count >= POSTS_AT_ONCE {
            return Ok(air.first_lease_end);
        }
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::super::super::time::{HOUR, SECOND};
    use super::*;

    #[test]
    fn a_signature_is_the_hmac_that_everybody_else_computes() {
        // RFC 4231, test case 2.
        assert_eq!(
            sign("Jefe", "what do ya want for nothing?").unwrap(),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn posts_are_repeated_after_ten_seconds_doubling_up_to_an_hour() {
        let waits: Vec<_> = (1..=5).map(wait_after).collect();
        assert_eq!(waits, [10 * SECOND, 20 * SECOND, 40 * SECOND, 80 * SECOND, 160 * SECOND]);
        assert_eq!(wait_after(9), 2_560 * SECOND);
        assert_eq!((wait_after(10), wait_after(u32::MAX)), (HOUR, HOUR));
    }

    #[test]
    fn a_refusal_is_never_empty_and_only_a_2xx_is_none() {
        let http = |status, body: &str| Answer::Http { status, body: body.to_owned(), retry_after: None };
        assert_eq!(refusal(&http(204, ""), None), None);
        assert_eq!(refusal(&http(302, " "), None).as_deref(), Some("the webhook answered 302"));
        assert_eq!(refusal(&http(500, "oops\n"), None).as_deref(), Some("the webhook answered 500: oops"));
        let nothing = Answer::Unreachable { detail: String::new() };
        assert_eq!(refusal(&nothing, None).as_deref(), Some("the webhook could not be reached"));
        let late = Answer::TimedOut { after: 10 * SECOND };
        assert_eq!(refusal(&late, None).as_deref(), Some("the webhook did not answer within 10 s"));
        assert!(refusal(&http(500, &"ä".repeat(9_000)), None).is_some_and(|r| r.len() <= REASON_BYTES));
    }
}
