//! Prime: what an agent reads when it starts, and after its context was compacted. Reading it delivers its mail.

use super::Ctx;
use super::agent::{self, Agent};
use super::bead::{self, Bead};
use super::error::TownError;
use super::id::{AgentId, BeadId};
use super::json::json;
use super::mail::{self, Mail};
use super::policy::{PRIME_BEADS, PRIME_LOOKBACK};
use super::sql::{Sql, each};
use crate::bead_columns;
use serde::Serialize;
use serde_json::Value as Json;
use std::cmp::Reverse;

/// As on the wire (`protocol.md` 2.11); every key is always present.
#[derive(Debug, Serialize)]
struct PrimeContext {
    agent: Agent,
    hooked_bead: Option<Bead>,
    undelivered_mail: Vec<Mail>,
    open_beads: Vec<Bead>,
    rework_context: Option<Json>,
    pr_fixup_context: Option<Json>,
    pr_conflict_context: Option<Json>,
}

/// Everything that `agent` needs to begin; its mail is delivered by it. A `late` process gets none: its mail waits for the next.
pub fn prime(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, late: bool) -> Result<Json, TownError> {
    let agent = agent::get(sql, agent)?;
    let hooked_bead = match &agent.hook {
        Some(hook) => bead::find(sql, hook)?,
        None => None,
    };
    let original = original_title(sql, hooked_bead.as_ref())?;
    let hook = hooked_bead.as_ref();
    let context = PrimeContext {
        undelivered_mail: if late { Vec::new() } else { mail::take(sql, ctx, &agent.id)? },
        open_beads: open_beads(sql, &agent)?,
        rework_context: hook.and_then(|b| rework(b, original.as_deref())),
        pr_fixup_context: hook.and_then(fixup),
        pr_conflict_context: hook.and_then(conflict),
        agent,
        hooked_bead,
    };
    Ok(json!(context))
}

/// Beads open or in progress, of no rig or of the agent's, newest first.
///
/// Only the newest [`PRIME_LOOKBACK`] beads of each are looked at, so that starting an agent costs the same whatever is
/// stored: the list gives an impression of what is going on, it is not the queue.
fn open_beads(sql: &dyn Sql, agent: &Agent) -> Result<Vec<Bead>, TownError> {
    let mut rows = sql.query(
        bead_columns!(
            "WHERE bead_id IN (SELECT bead_id FROM beads WHERE rig_id IS NULL ORDER BY seq DESC LIMIT ?1)
               AND status IN ('open', 'in_progress')
             ORDER BY seq DESC
             LIMIT ?2"
        ),
        &[PRIME_LOOKBACK.into(), PRIME_BEADS.into()],
    )?;
    if let Some(rig) = &agent.rig_id {
        rows.extend(sql.query(
            bead_columns!(
                "WHERE bead_id IN (SELECT bead_id FROM beads WHERE rig_id = ?3 ORDER BY seq DESC LIMIT ?1)
                   AND status IN ('open', 'in_progress')
                 ORDER BY seq DESC
                 LIMIT ?2"
            ),
            &[PRIME_LOOKBACK.into(), PRIME_BEADS.into(), rig.into()],
        )?);
    }
    let mut beads: Vec<Bead> = each(&rows, bead::read)?;
    beads.sort_by_key(|b| Reverse(b.seq));
    beads.truncate(usize::try_from(PRIME_BEADS).unwrap_or(usize::MAX));
    Ok(beads)
}

/// The title of the bead that a rework bead reworks.
fn original_title(sql: &dyn Sql, hook: Option<&Bead>) -> Result<Option<String>, TownError> {
    let original = hook.and_then(|b| b.metadata.get("rework_for")).and_then(Json::as_str);
    let Some(original) = original else { return Ok(None) };
    Ok(bead::find(sql, &BeadId::from(original))?.map(|b| b.title))
}

/// A text among a bead's metadata, or null.
fn word(bead: &Bead, key: &str) -> Json {
    bead.metadata.get(key).filter(|v| v.is_string()).cloned().unwrap_or_default()
}

fn flag(bead: &Bead, key: &str) -> bool {
    bead.metadata.get(key).and_then(Json::as_bool).unwrap_or(false)
}

fn rework(bead: &Bead, original_title: Option<&str>) -> Option<Json> {
    bead.has_label("gt:rework").then(|| {
        json!({
            "feedback": bead.body.as_deref().unwrap_or_default(),
            "branch": word(bead, "branch"),
            "target_branch": word(bead, "target_branch"),
            "files": bead.metadata.get("files").filter(|f| f.is_array()).cloned().unwrap_or_else(|| json!([])),
            "original_bead_title": original_title,
            "mr_bead_id": word(bead, "mr_bead_id"),
        })
    })
}

fn fixup(bead: &Bead) -> Option<Json> {
    bead.has_label("gt:pr-fixup").then(|| {
        json!({
            "pr_url": word(bead, "pr_url"),
            "branch": word(bead, "branch"),
            "target_branch": word(bead, "target_branch"),
        })
    })
}

/// A conflict bead, or a feedback bead whose pull request has conflicts, too.
fn conflict(bead: &Bead) -> Option<Json> {
    let (target, has_feedback) = if bead.has_label("gt:pr-conflict") {
        (word(bead, "target_branch"), flag(bead, "has_feedback"))
    } else if bead.has_label("gt:pr-feedback") && flag(bead, "has_conflicts") {
        (word(bead, "conflict_target_branch"), true)
    } else {
        return None;
    };
    Some(json!({
        "pr_url": word(bead, "pr_url"),
        "branch": word(bead, "branch"),
        "target_branch": target,
        "has_feedback": has_feedback,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::bead::{Kind, Priority, Status};
    use super::*;

    fn bead(label: &str, metadata: Json) -> Bead {
        Bead {
            id: BeadId::from("b"),
            seq: 1,
            kind: Kind::Issue,
            status: Status::Open,
            title: "Rework: a".to_owned(),
            body: Some("tests are missing".to_owned()),
            rig_id: None,
            parent: None,
            assignee: None,
            priority: Priority::Medium,
            labels: vec![label.to_owned()],
            metadata,
            held: false,
            staged: false,
            triage_request: false,
            open_blockers: 0,
            dispatch_attempts: 0,
            failure_streak: 0,
            last_dispatch_attempt_at: None,
            last_failed_at: None,
            next_dispatch_at: None,
            review_rounds: 0,
            review_not_before: None,
            probes: 0,
            agent_redrives: 0,
            failure_reason: None,
            created_by: None,
            created_at: super::super::time::Timestamp(0),
            updated_at: super::super::time::Timestamp(0),
            closed_at: None,
        }
    }

    #[test]
    fn a_rework_bead_brings_its_feedback_and_what_it_is_about() {
        let b = bead("gt:rework", json!({"branch": "gt/toast/1", "files": ["a.rs"], "mr_bead_id": "m"}));
        assert_eq!(
            rework(&b, Some("a")),
            Some(json!({
                "feedback": "tests are missing", "branch": "gt/toast/1", "target_branch": null, "files": ["a.rs"],
                "original_bead_title": "a", "mr_bead_id": "m",
            }))
        );
        assert_eq!((fixup(&b), conflict(&b)), (None, None));
    }

    #[test]
    fn a_feedback_bead_has_a_conflict_context_only_if_there_are_conflicts() {
        let metadata =
            json!({"pr_url": "https://x", "branch": "b", "has_conflicts": true, "conflict_target_branch": "main"});
        let expected = json!({"pr_url": "https://x", "branch": "b", "target_branch": "main", "has_feedback": true});
        assert_eq!(conflict(&bead("gt:pr-feedback", metadata)), Some(expected));
        assert_eq!(conflict(&bead("gt:pr-feedback", json!({"pr_url": "https://x"}))), None);
    }

    #[test]
    fn conflict_and_fixup_beads_bring_branch_and_target_and_null_for_what_is_unknown() {
        let metadata = json!({"branch": "b", "target_branch": "main", "has_feedback": true});
        let expected = json!({"pr_url": null, "branch": "b", "target_branch": "main", "has_feedback": true});
        assert_eq!(conflict(&bead("gt:pr-conflict", metadata.clone())), Some(expected));
        let expected = json!({"pr_url": null, "branch": "b", "target_branch": "main"});
        assert_eq!(fixup(&bead("gt:pr-fixup", metadata)), Some(expected));
    }
}
