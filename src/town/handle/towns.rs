//! Commands about the town itself, its configuration and its rigs.

use super::super::Reply;
use super::super::agent::{self, NewAgent, Role};
use super::super::breakers;
use super::super::command::Actor;
use super::super::config::Config;
use super::super::dispatch::backoff;
use super::super::dispatch::breaker::State as BreakerState;
use super::super::error::TownError;
use super::super::id::{AgentId, BeadId, RigId};
use super::super::policy::{NAME_CHARS, RULE_ROWS, SETTING_BYTES, URL_BYTES};
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::super::{Ctx, audit, container, convoy, rig};
use super::{by_hand, capped};
use crate::town::json::json;
use serde_json::Value as Json;

/// Names the town, makes its configuration and its mayor's row. Repeating it changes nothing.
pub fn found(sql: &dyn Sql, ctx: &Ctx<'_>, town_id: &str, name: &str, owner: &str) -> Result<Reply, TownError> {
    if let Some(state) = State::find(sql)? {
        if state.town_id != town_id {
            return Err(TownError::conflict("founded", format!("This object is town {}", state.town_id)));
        }
        return Reply::ok(json!({"town_id": town_id, "mayor_agent_id": state.mayor}));
    }
    check_name("name", name)?;
    sql.execute(
        "INSERT INTO town (id, town_id, name, owner_user_id, mayor_agent_id, created_at)
         VALUES (1, ?1, ?2, ?3, '', ?4)",
        &[town_id.into(), name.into(), owner.into(), ctx.now.into()],
    )?;
    Config::defaults().owned_by(owner).store(sql)?;
    let mayor = agent::create(
        sql,
        ctx,
        &NewAgent {
            rig_id: None,
            role: Role::Mayor,
            name: "mayor".to_owned(),
            identity: agent::identity("mayor", Role::Mayor, None, town_id),
        },
    )?;
    sql.execute("UPDATE town SET mayor_agent_id = ?1 WHERE id = 1", &[(&mayor.id).into()])?;
    Reply::created(json!({"town_id": town_id, "mayor_agent_id": mayor.id}))
}

/// 1 … 64 characters.
fn check_name(field: &str, name: &str) -> Result<(), TownError> {
    let chars = name.chars().count();
    if name.trim().is_empty() || chars > NAME_CHARS || name.chars().any(char::is_control) {
        return Err(TownError::invalid(field, format!("{field} must have 1 … {NAME_CHARS} printable characters")));
    }
    Ok(())
}

/// What git and the container accept as a branch (`protocol.md` 6.2).
pub fn check_branch(field: &str, branch: &str) -> Result<(), TownError> {
    let bad = |c: char| c.is_control() || c == ' ' || "~^:?*[\\".contains(c);
    let wrong = branch.is_empty()
        || branch.len() > SETTING_BYTES
        || branch.starts_with('-')
        || branch.starts_with('/')
        || branch.ends_with('/')
        || branch.strip_suffix(".lock").is_some()
        || branch.contains("..")
        || branch.contains("//")
        || branch.contains("@{")
        || branch.chars().any(bad);
    if wrong {
        return Err(TownError::invalid(field, format!("{field} is not a branch name that git accepts")));
    }
    Ok(())
}

/// Attaches a repository.
pub fn add_rig(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    id: &RigId,
    name: &str,
    git_url: &str,
    default_branch: Option<&str>,
) -> Result<Reply, TownError> {
    let state = State::load(sql)?;
    check_name("name", name)?;
    capped("git_url", git_url, URL_BYTES)?;
    let known = ["https://", "http://", "ssh://", "git://", "file://", "/"].iter().any(|p| git_url.starts_with(p));
    let scp_like = git_url.split_once(':').is_some_and(|(host, path)| host.contains('@') && !path.is_empty());
    if git_url.chars().any(|c| c.is_control() || c == ' ') || !(known || scp_like) {
        return Err(TownError::invalid(
            "git_url",
            "git_url must be an https, ssh or git@host:path URL (paths and file:// in development)",
        ));
    }
    let branch = default_branch.unwrap_or("main");
    check_branch("default_branch", branch)?;
    let rig = rig::add(sql, ctx, id, name, git_url, branch)?;
    Reply::created(rig.view(&state.town_id))
}

/// The town's rigs, newest first.
pub fn list_rigs(sql: &dyn Sql) -> Result<Reply, TownError> {
    let state = State::load(sql)?;
    let mut rigs: Vec<_> = rig::all(sql)?.iter().map(|r| r.view(&state.town_id)).collect();
    rigs.reverse();
    Reply::quiet(rigs)
}

/// Detaches a repository: its live attempts end, its beads and agents are deleted.
///
/// What is deleted is what hangs on the rig, however much that is: a person asked for it, and half a rig would be worse.
pub fn remove_rig(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &RigId) -> Result<Reply, TownError> {
    let rig = rig::get(sql, id)?;
    for convoy in convoy::of_rig(sql, id)? {
        by_hand::erase(sql, ctx, &convoy, "its rig was removed")?;
    }
    loop {
        let rows = sql.query(
            "SELECT bead_id FROM beads WHERE rig_id = ?1 ORDER BY seq LIMIT ?2",
            &[id.into(), RULE_ROWS.into()],
        )?;
        if rows.is_empty() {
            break;
        }
        for r in &rows {
            by_hand::erase(sql, ctx, &BeadId(r.text(0)?), "its rig was removed")?;
        }
    }
    let agents = sql.query("SELECT agent_id FROM agents WHERE rig_id = ?1", &[id.into()])?;
    for r in &agents {
        agent::delete(sql, ctx.now, &AgentId(r.text(0)?))?;
    }
    sql.execute("DELETE FROM breakers WHERE scope = ?1", &[(&breakers::Scope::Rig(id.clone()).text()).into()])?;
    rig::remove(sql, id)?;
    let before = json!({"name": rig.name, "git_url": super::super::text::redact(&rig.git_url)});
    audit::record(sql, ctx, actor, "rig.remove", id.as_str(), "removed by hand", Some(&before), None)?;
    Reply::ok(json!({"deleted": true}))
}

/// Changes the town's configuration. A change applies to later decisions and moves deadlines only earlier.
pub fn patch_config(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, patch: &Json) -> Result<Reply, TownError> {
    State::load(sql)?;
    let before = Config::load(sql)?;
    let after = before.patched(patch)?;
    after.store(sql)?;
    container::settings_changed(sql, ctx, &before, &after)?;
    move_deadlines(sql, ctx, &before, &after)?;
    note_lowered_caps(sql)?;
    let (was, is) = (before.masked(), after.masked());
    if was != is {
        audit::record(sql, ctx, actor, "config", "town", "changed by hand", Some(&was), Some(&is))?;
    }
    Reply::ok(after.masked())
}

/// Changes a rig's overrides.
pub fn patch_rig_config(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &RigId,
    patch: &Json,
) -> Result<Reply, TownError> {
    let rig = rig::get(sql, id)?;
    let after = rig.config.patched(patch)?;
    rig::configure(sql, id, &after)?;
    note_lowered_caps(sql)?;
    let (was, is) = (rig.config.shown(), after.shown());
    if was != is {
        audit::record(sql, ctx, actor, "rig.config", id.as_str(), "changed by hand", Some(&was), Some(&is))?;
    }
    Reply::ok(after.shown())
}

/// An open bead at or above a lowered cap fails on the next tick.
pub fn note_lowered_caps(sql: &dyn Sql) -> Result<(), TownError> {
    let mut state = State::load(sql)?;
    let any = first(
        sql,
        "SELECT 1 FROM beads INDEXED BY beads_charged WHERE status = 'open' AND dispatch_attempts > 0 LIMIT 1",
        &[],
    )?;
    if any.is_some() && !state.caps_lowered {
        state.caps_lowered = true;
        state.save(sql)?;
    }
    Ok(())
}

fn move_deadlines(sql: &dyn Sql, ctx: &Ctx<'_>, before: &Config, after: &Config) -> Result<(), TownError> {
    let (old, new) = (&before.dispatch, &after.dispatch);
    let state = State::load(sql)?;
    if old.backoff_ms != new.backoff_ms || (old.jitter - new.jitter).abs() > f64::EPSILON {
        for streak in 1..=u32::try_from(new.backoff_ms.len()).unwrap_or(1) {
            // A streak's longest wait; beads beyond the table's end wait as long as its last entry.
            let last = streak as usize >= new.backoff_ms.len();
            let base = new.backoff_ms.get(streak as usize - 1).copied().unwrap_or(0);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                reason = "at most a day plus jitter"
            )]
            let wait = base + (base as f64 * new.jitter) as i64;
            sql.execute(
                "UPDATE beads
                 SET next_dispatch_at = min(next_dispatch_at, ?2),
                     not_before = max(min(next_dispatch_at, ?2), coalesce(review_not_before, 0))
                 WHERE not_before IS NOT NULL AND next_dispatch_at > ?2
                   AND (failure_streak = ?1 OR (?3 = 1 AND failure_streak > ?1))",
                &[streak.into(), ctx.now.plus(wait).into(), last.into()],
            )?;
        }
    }
    if new.heartbeat_timeout_ms < old.heartbeat_timeout_ms || new.start_timeout_ms < old.start_timeout_ms {
        sql.execute(
            "UPDATE attempts
             SET lease_until = min(lease_until, CASE WHEN outcome = 'pending' THEN ?1 ELSE ?2 END)
             WHERE finished_at IS NULL",
            &[
                ctx.now.plus(new.start_timeout_ms).plus(new.heartbeat_timeout_ms).into(),
                ctx.now.plus(new.heartbeat_timeout_ms).into(),
            ],
        )?;
        if let Some(pulses) = ctx.pulses {
            pulses.cap(ctx.now.plus(new.heartbeat_timeout_ms));
        }
    }
    if before.breaker.probe_ms != after.breaker.probe_ms {
        for (scope, b) in breakers::all(sql)? {
            if b.state == BreakerState::Open {
                let name = scope.text();
                let delay = backoff::probe_delay(&after.breaker, &state.town_id, &name, b.generation, b.delay_step);
                sql.execute(
                    "UPDATE breakers SET next_probe_at = min(next_probe_at, ?2) WHERE scope = ?1",
                    &[(&name).into(), ctx.now.plus(delay).into()],
                )?;
            }
        }
    }
    Ok(())
}
