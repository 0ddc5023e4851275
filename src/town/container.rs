//! The container as the town sees it beside its agents: what it is told while something lives in it, what the town says
//! when it is asked whether it needs it, and what its end means.
//!
//! *Guarantees.*
//! * A token is renewed, and changed settings are passed on, only while an attempt lives; each telling moves its due time
//!   before it leaves, so an object that dies tells again later and nothing is told in a loop.
//! * The end of an instance is a fact, not a verdict: it makes leases due, and the look decides (`dispatch::look`).

use super::Ctx;
use super::config::Config;
use super::dispatch::gate::View;
use super::dispatch::instance;
use super::effect::{Answer, DataPoint, Effect, Tell};
use super::error::TownError;
use super::id::{AgentId, RigId};
use super::json::json;
use super::policy::{CONTAINER_SLEEP_AFTER, TELL_RETRY, TOKEN_PUSH_AFTER};
use super::rig;
use super::sql::{Sql, any};
use super::state::State;
use super::text;
use super::time::{MINUTE, Millis, Timestamp};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// What a container is given with its start: secrets among it, so it is made for one call and stored nowhere.
#[derive(Clone, PartialEq)]
pub struct Outfit {
    /// The town's part of `X-Town-Config` (`protocol.md` 4.2): the settings that are there.
    pub settings: Json,
    /// The town's part of its environment (`protocol.md` 5.1).
    pub variables: BTreeMap<String, String>,
}

/// Of secrets nothing is printed.
impl std::fmt::Debug for Outfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outfit")
    }
}

/// The outfit of this moment.
pub fn outfit(sql: &dyn Sql) -> Result<Outfit, TownError> {
    let config = Config::load(sql)?;
    Ok(Outfit { settings: config.for_container(), variables: super::config::system_env(&config) })
}

/// Tells what is due to be told. `idle`: nothing lived when the tick began.
///
/// *Assumptions*: every start brings a fresh token and the settings as they are, so after an idle time there is nothing to
/// make up for.
pub fn tell(sql: &dyn Sql, ctx: &Ctx<'_>, view: &View, idle: bool) -> Result<Vec<Effect>, TownError> {
    let (was_push, was_sync) = (view.state.push_at, view.state.sync_at);
    if view.load.live == 0 || view.state.draining(ctx.now) {
        return Ok(Vec::new());
    }
    let (mut push, mut sync) = (was_push, was_sync.filter(|_| !idle));
    let mut effects = Vec::new();
    let until = ctx.now.plus(TELL_RETRY);
    if push.is_none_or(|at| idle && at < ctx.now.plus(TOKEN_PUSH_AFTER / 2)) {
        // What lives now began with a token of now. One that is due late enough stays: it saves the row.
        push = Some(ctx.now.plus(TOKEN_PUSH_AFTER));
    } else if push.is_some_and(|at| at <= ctx.now) {
        push = Some(until);
        effects.push(Effect::TellContainer { what: Tell::Token, until });
    }
    if sync.is_some_and(|at| at <= ctx.now) {
        sync = Some(until);
        effects.push(Effect::TellContainer { what: Tell::Settings, until });
    }
    if (push, sync) != (was_push, was_sync) {
        sql.execute("UPDATE town SET push_at = ?1, sync_at = ?2 WHERE id = 1", &[push.into(), sync.into()])?;
    }
    Ok(effects)
}

/// When something is due to be told; none while nothing lives.
#[must_use]
pub fn next_deadline(view: &View) -> Option<Timestamp> {
    if view.load.live == 0 || view.state.draining(view.now) {
        return None;
    }
    [view.state.push_at, view.state.sync_at].into_iter().flatten().min()
}

/// Records how a telling ended: understood (a control server that does not know the route never will), or to be tried
/// again when its time comes. What was changed meanwhile is due by itself, so only the telling of `until` is ticked off.
pub fn told(sql: &dyn Sql, ctx: &Ctx<'_>, what: Tell, until: Timestamp, answer: &Answer) -> Result<(), TownError> {
    if !matches!(answer, Answer::Http { status: ..500, .. }) {
        return Ok(());
    }
    match what {
        Tell::Token => sql.execute(
            "UPDATE town SET push_at = ?2 WHERE id = 1 AND push_at = ?1",
            &[until.into(), ctx.now.plus(TOKEN_PUSH_AFTER).into()],
        )?,
        Tell::Settings => {
            sql.execute("UPDATE town SET sync_at = NULL WHERE id = 1 AND sync_at = ?1", &[until.into()])?
        }
    };
    Ok(())
}

/// The settings were changed: a container in which something lives is to be told.
pub fn settings_changed(sql: &dyn Sql, ctx: &Ctx<'_>, before: &Config, after: &Config) -> Result<(), TownError> {
    if before.for_container() != after.for_container()
        && any(sql, "SELECT 1 FROM attempts WHERE finished_at IS NULL LIMIT 1", &[])?
    {
        sql.execute("UPDATE town SET sync_at = ?1 WHERE id = 1", &[ctx.now.into()])?;
    }
    Ok(())
}

/// Whether the town needs its container, and how long it may idle: `{busy, sleepAfterMs}`.
///
/// Busy is: an attempt lives, or a stop is due. A mayor that waits for its next message needs no container, and work that
/// the gate holds back starts one when it may go.
pub fn needed(sql: &dyn Sql) -> Result<Json, TownError> {
    let busy = any(
        sql,
        "SELECT 1
         FROM attempts t LEFT JOIN agents a ON a.agent_id = t.agent_id
         WHERE t.finished_at IS NULL AND NOT (t.role = 'mayor' AND a.status IS 'waiting')
         LIMIT 1",
        &[],
    )? || any(sql, "SELECT 1 FROM stops WHERE due_at IS NOT NULL LIMIT 1", &[])?;
    let minutes = Config::load(sql)?.sleep_after_minutes;
    let after: Millis = minutes.map_or(CONTAINER_SLEEP_AFTER, |m| Millis::from(m) * MINUTE);
    Ok(json!({"busy": busy, "sleepAfterMs": after}))
}

/// An instance has ended. Whatever is thought to run in it is looked at now; of a drain it is the end.
pub fn exited(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    instance: Option<&str>,
    exit_code: Option<i32>,
    reason: &str,
) -> Result<(), TownError> {
    let mut state = State::load(sql)?;
    if state.draining_since.is_some() && (state.drain_instance.is_none() || state.drain_instance.as_deref() == instance)
    {
        instance::end_drain(&mut state);
        state.save(sql)?;
    }
    // Its heartbeats say nothing any more, neither those in the rows nor those in memory.
    let rows = sql.query(
        "UPDATE attempts
         SET lease_until = min(coalesce(lease_until, ?1), ?1), last_heartbeat_at = NULL
         WHERE finished_at IS NULL AND (?2 IS NULL OR instance_id IS NULL OR instance_id = ?2)
         RETURNING agent_id",
        &[ctx.now.into(), instance.into()],
    )?;
    if let Some(pulses) = ctx.pulses {
        for row in &rows {
            pulses.forget(&AgentId(row.text(0)?));
        }
    }
    ctx.emit(DataPoint {
        event: "container.exited",
        label: exit_code.map_or_else(|| "unknown".to_owned(), |code| code.to_string()),
        reason: text::redact(reason),
        value: f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX)),
        ..DataPoint::default()
    });
    Ok(())
}

/// `POST refresh-git-token`: what git in the container may use for this rig now.
///
/// A token is handed out for its own forge only: a GitLab never learns the one for GitHub. The mayor's pseudo rig gets
/// whichever there is.
pub fn git_token(sql: &dyn Sql, id: &RigId) -> Result<Json, TownError> {
    let auth = Config::load(sql)?.git_auth;
    let token = if rig::is_mayors(id) {
        auth.github_token.or(auth.gitlab_token)
    } else {
        let url = rig::get(sql, id)?.git_url;
        let host = host(&url);
        let own = auth.gitlab_instance_url.as_deref().is_some_and(|instance| self::host(instance) == host);
        if own || host.contains("gitlab") { auth.gitlab_token } else { auth.github_token }
    };
    let token = token.ok_or_else(|| TownError::not_found("No git token available for this rig"))?;
    Ok(json!({"token": token}))
}

/// The host in a git url: `https://host/…`, `ssh://user@host:port/…`, `user@host:path`.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_of_every_kind_of_git_url() {
        for url in [
            "https://forge.example/o/r.git",
            "https://user:word@forge.example:8443/o/r",
            "ssh://git@forge.example:22/o/r",
            "git@forge.example:o/r.git",
        ] {
            assert_eq!(host(url), "forge.example", "{url}");
        }
        assert_eq!(host("/tmp/repo"), "");
    }
}
