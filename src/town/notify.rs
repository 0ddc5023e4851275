//! Telling people: what to say, once per dedupe key, and how each channel is getting on with it.
//!
//! A notice is written in the transaction that caused it, with everything it takes to deliver it, so that it exists
//! exactly if its cause does. Three channels: `mail`, the mayor's mail row, there at once; `mayor`, delivered when the
//! mayor has read that mail; `webhook`, posted by a rule until it is accepted or given up.

mod rollup;
mod webhook;

pub use rollup::{bead_failed, flush_rollup};
pub use webhook::{book_posts, resume, settle_post};

use super::Ctx;
use super::audit;
use super::bead::Priority;
use super::command::Page;
use super::config::Config;
use super::effect::DataPoint;
use super::error::TownError;
use super::escalation::{self, Raise};
use super::id::{BeadId, RigId};
use super::json::{self, json};
use super::mail;
use super::policy::{EXCERPT_CHARS, FACTS_BYTES, MESSAGE_BYTES, NOTIFICATION_RETENTION, RULE_ROWS};
use super::sql::{Arg, Columns, Row, Sql, SqlError, each, first};
use super::state::{self, State};
use super::text;
use super::time::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Nothing is dispatched in a scope any more.
    BreakerOpened,
    /// … and that has been so for long.
    BreakerStillOpen,
    /// It is over.
    BreakerClosed,
    /// Beads failed otherwise than by hand.
    BeadFailed,
    /// Settings are wrong: a key, a credit, an address.
    ConfigError,
    /// Somebody tries whether notices arrive.
    Test,
}

impl NoticeKind {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpened => "breaker.opened",
            Self::BreakerStillOpen => "breaker.still_open",
            Self::BreakerClosed => "breaker.closed",
            Self::BeadFailed => "bead.failed",
            Self::ConfigError => "config.error",
            Self::Test => "test",
        }
    }
    /// True for what also raises an escalation, so that it shows wherever escalations do.
    #[must_use]
    pub const fn escalates(self) -> bool {
        match self {
            Self::BreakerOpened | Self::ConfigError => true,
            Self::BreakerStillOpen | Self::BreakerClosed | Self::BeadFailed | Self::Test => false,
        }
    }
}

/// How a notice reaches people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// The mayor's mail row.
    Mail,
    /// The mayor itself.
    Mayor,
    /// The town's webhook.
    Webhook,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Mail, Self::Mayor, Self::Webhook];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Mayor => "mayor",
            Self::Webhook => "webhook",
        }
    }
    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }
}

/// What to say.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What it is about.
    pub kind: NoticeKind,
    /// Said at most once per key.
    pub dedupe_key: String,
    /// `low`, `medium`, `high` or `critical`.
    pub severity: &'static str,
    /// The breaker's scope, if it is about one.
    pub scope: Option<String>,
    /// The bead, if it is about one.
    pub bead_id: Option<BeadId>,
    /// For people: the first line says it all.
    pub text: String,
    /// For programs: a JSON object.
    pub facts: Json,
}

/// Says something once: true if it is new, false if its dedupe key has been used before, and then nothing is written.
#[allow(clippy::needless_pass_by_value, reason = "whoever made a notice has said it, and needs it no more")]
pub fn notify(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, notice: Notice) -> Result<bool, TownError> {
    Ok(write(sql, ctx, config, &notice)?.is_some())
}

/// [`notify`] that tells the new notification's id.
fn write(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, notice: &Notice) -> Result<Option<String>, TownError> {
    let used = first(sql, "SELECT 1 FROM notifications WHERE dedupe_key = ?1", &[(&notice.dedupe_key).into()])?;
    if used.is_some() {
        return Ok(None);
    }
    let id = ctx.ids.uuid();
    let kind = notice.kind.as_str();
    let words = text::cut(&notice.text, MESSAGE_BYTES);
    let written = sql.execute(
        "INSERT INTO notifications
           (id, seq, dedupe_key, kind, severity, scope, bead_id, text, facts, mail_id, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?1, ?10)
         ON CONFLICT DO NOTHING",
        &[
            (&id).into(),
            state::next_seq(sql)?.into(),
            (&notice.dedupe_key).into(),
            kind.into(),
            notice.severity.into(),
            Arg::from(notice.scope.as_ref()),
            notice.bead_id.as_ref().into(),
            words.into(),
            (&capped(&notice.facts)).into(),
            ctx.now.into(),
        ],
    )?;
    if written == 0 {
        return Ok(None);
    }
    let mayor = State::load(sql)?.mayor;
    // Mail and notification share their id: who reads the mail finds the notification by its key, without an index.
    mail::post(sql, ctx, &id, mail::SYSTEM, &mayor, &subject(kind, words), words)?;
    let webhook = if config.notify.webhook_url.is_some() { ("pending", Some(ctx.now)) } else { ("skipped", None) };
    for (channel, (state, due)) in
        [(Channel::Mail, ("delivered", None)), (Channel::Mayor, ("pending", None)), (Channel::Webhook, webhook)]
    {
        let delivered = state == "delivered";
        sql.execute(
            "INSERT INTO deliveries
               (delivery_id, notification_id, channel, state, attempts, next_attempt_at, delivered_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            &[
                (&ctx.ids.uuid()).into(),
                (&id).into(),
                channel.as_str().into(),
                state.into(),
                delivered.into(),
                due.into(),
                delivered.then_some(ctx.now).into(),
            ],
        )?;
    }
    emit(ctx, "notification.delivered", Channel::Mail, kind, notice.bead_id.as_ref(), "");
    if notice.kind.escalates() {
        let rig = notice.scope.as_deref().and_then(|s| s.strip_prefix("rig:")).map(RigId::from);
        escalation::raise(
            sql,
            ctx,
            Raise {
                rig_id: rig.as_ref(),
                agent: None,
                severity: Priority::High,
                category: Some(kind),
                message: words,
                body: None,
                metadata: Some(json!({"notification_id": id, "scope": notice.scope, "bead_id": notice.bead_id})),
                by_notification: true,
            },
        )?;
    }
    Ok(Some(id))
}

/// The subject of a notice's mail: its kind and the beginning of its first line.
fn subject(kind: &str, words: &str) -> String {
    let line = words.lines().next().unwrap_or_default();
    format!("[{kind}] {}", text::excerpt(line, EXCERPT_CHARS))
}

/// Facts as JSON text within their cap. They are the town's own and small; the cap is a promise, not a habit.
fn capped(facts: &Json) -> String {
    let full = facts.to_string();
    if full.len() <= FACTS_BYTES { full } else { json!({"truncated": true, "original_bytes": full.len()}).to_string() }
}

fn emit(ctx: &Ctx<'_>, event: &'static str, channel: Channel, kind: &str, bead: Option<&BeadId>, error: &str) {
    ctx.emit(DataPoint {
        event,
        label: channel.as_str().to_owned(),
        reason: kind.to_owned(),
        bead_id: bead.map(|b| b.0.clone()).unwrap_or_default(),
        error: error.to_owned(),
        ..DataPoint::default()
    });
}

/// Mail was handed over: where it belongs to a notification, the mayor has been told.
pub(super) fn mail_delivered(sql: &dyn Sql, ctx: &Ctx<'_>, mail: &[&str]) -> Result<(), TownError> {
    let told = sql.query(
        "UPDATE deliveries
         SET state = 'delivered', attempts = attempts + 1, delivered_at = ?2, next_attempt_at = NULL,
             sent_until = NULL, last_error = NULL
         WHERE notification_id IN (SELECT value FROM json_each(?1))
           AND channel = 'mayor'
           AND state = 'pending'
         RETURNING notification_id",
        &[(&json!(mail).to_string()).into(), ctx.now.into()],
    )?;
    for row in told {
        let Some(n) = first(sql, "SELECT kind, bead_id FROM notifications WHERE id = ?1", &[(&row.text(0)?).into()])?
        else {
            continue;
        };
        let bead = n.opt_text(1)?.map(BeadId);
        emit(ctx, "notification.delivered", Channel::Mayor, &n.text(0)?, bead.as_ref(), "");
    }
    Ok(())
}

/// When this module next has something to do by itself: a post, the end of a post's lease, the end of a roll-up.
pub fn next_deadline(
    sql: &dyn Sql,
    config: &Config,
    state: &State,
    now: Timestamp,
) -> Result<Option<Timestamp>, TownError> {
    let deadlines = [webhook::next_deadline(sql, config, now)?, rollup::next_deadline(config, state, now)];
    Ok(deadlines.into_iter().flatten().min())
}

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// One notification, as on the wire (`api.md`).
#[derive(Clone, Debug, Serialize)]
struct Notification {
    id: String,
    dedupe_key: String,
    kind: String,
    severity: String,
    scope: Option<String>,
    bead_id: Option<String>,
    text: String,
    facts: Json,
    created_at: Timestamp,
    deliveries: Vec<Delivery>,
}

/// How one channel is getting on, as on the wire.
#[derive(Clone, Debug, Serialize)]
struct Delivery {
    channel: String,
    state: String,
    attempts: u32,
    next_attempt_at: Option<Timestamp>,
    delivered_at: Option<Timestamp>,
    last_error: Option<String>,
}

fn read(r: &Row) -> Result<Notification, SqlError> {
    let c = Columns::of(r);
    let read = Notification {
        id: c.text(0),
        dedupe_key: c.text(1),
        kind: c.text(2),
        severity: c.text(3),
        scope: c.opt_text(4),
        bead_id: c.opt_text(5),
        text: c.text(6),
        facts: json::read(&c.text(7)).unwrap_or_else(|| json!({})),
        created_at: c.at(8),
        deliveries: Vec::new(),
    };
    c.done(read)
}

fn read_delivery(r: &Row) -> Result<Delivery, SqlError> {
    let c = Columns::of(r);
    let read = Delivery {
        channel: c.text(1),
        state: c.text(2),
        attempts: c.count(3),
        next_attempt_at: c.opt_at(4),
        delivered_at: c.opt_at(5),
        last_error: c.opt_text(6),
    };
    c.done(read)
}

/// Notifications newest first, with their deliveries: `{notifications, next}`.
pub fn list(sql: &dyn Sql, page: &Page) -> Result<Json, TownError> {
    let window = audit::window(sql, page, "SELECT seq FROM notifications WHERE id = ?1")?;
    let rows = sql.query(
        "SELECT id, dedupe_key, kind, severity, scope, bead_id, text, facts, created_at
         FROM notifications
         WHERE seq < ?1
         ORDER BY seq DESC
         LIMIT ?2",
        &window.args(),
    )?;
    let notifications: Vec<Notification> = each(&rows, read)?;
    let (mut notifications, next) = window.turn(notifications, |n| &n.id);
    with_deliveries(sql, &mut notifications)?;
    Ok(json!({"notifications": notifications, "next": next}))
}

/// Fills in the deliveries of a page, in the order of [`Channel::ALL`].
fn with_deliveries(sql: &dyn Sql, notifications: &mut [Notification]) -> Result<(), TownError> {
    let ids: Vec<&str> = notifications.iter().map(|n| n.id.as_str()).collect();
    let rows = sql.query(
        "SELECT notification_id, channel, state, attempts, next_attempt_at, delivered_at, last_error
         FROM deliveries
         WHERE notification_id IN (SELECT value FROM json_each(?1))",
        &[(&json!(ids).to_string()).into()],
    )?;
    let of = each(&rows, |r| Ok((r.text(0)?, read_delivery(r)?)))?;
    for n in notifications {
        n.deliveries = of.iter().filter(|(id, _)| *id == n.id).map(|(_, d)| d.clone()).collect();
        n.deliveries.sort_by_key(|d| Channel::parse(&d.channel).map(|c| c as u8));
    }
    Ok(())
}

/// Somebody tries whether notices arrive: every call is a new one. Answers `{notifications: [it], next: null}`.
pub fn test(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config) -> Result<Json, TownError> {
    let town = State::load(sql)?;
    let notice = Notice {
        kind: NoticeKind::Test,
        dedupe_key: format!("test:{}", ctx.ids.uuid()),
        severity: "low",
        scope: None,
        bead_id: None,
        text: format!("This is a test: notices of the town {} arrive here.", town.name),
        facts: json!({"town": town.name}),
    };
    let Some(id) = write(sql, ctx, config, &notice)? else {
        return Err(SqlError::new("the id source repeats itself").into());
    };
    let rows = sql.query(
        "SELECT id, dedupe_key, kind, severity, scope, bead_id, text, facts, created_at
         FROM notifications
         WHERE id = ?1",
        &[(&id).into()],
    )?;
    let mut notifications: Vec<Notification> = each(&rows, read)?;
    with_deliveries(sql, &mut notifications)?;
    Ok(json!({"notifications": notifications, "next": null}))
}

/// Drops notifications past retention and their deliveries, oldest first. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let keep_from = now.plus(-NOTIFICATION_RETENTION);
    // Usually nothing is old enough, and one row says so.
    let oldest = first(sql, "SELECT created_at FROM notifications ORDER BY seq LIMIT 1", &[])?;
    if oldest.map_or(Ok(keep_from.0), |r| r.int(0))? >= keep_from.0 {
        return Ok(());
    }
    // Each notification takes its row and one per channel.
    let rows = RULE_ROWS / (1 + u32::try_from(Channel::ALL.len()).unwrap_or(u32::MAX - 1));
    sql.execute(
        "DELETE FROM deliveries
         WHERE notification_id IN (SELECT id
                                   FROM (SELECT id, created_at FROM notifications ORDER BY seq LIMIT ?2)
                                   WHERE created_at < ?1)",
        &[keep_from.into(), rows.into()],
    )?;
    sql.execute(
        "DELETE FROM notifications
         WHERE id IN (SELECT id FROM notifications ORDER BY seq LIMIT ?2)
           AND created_at < ?1",
        &[keep_from.into(), rows.into()],
    )?;
    Ok(())
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_the_kind_and_the_beginning_of_the_first_line() {
        assert_eq!(subject("test", "one\ntwo"), "[test] one");
        assert_eq!(subject("test", &"ä".repeat(200)).chars().count(), "[test] ".len() + EXCERPT_CHARS + 2);
        assert!(subject("test", &"word ".repeat(50)).ends_with("word …"));
    }
}
