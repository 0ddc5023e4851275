//! `explain`: why a bead is, or is not, running. It is the gate, read-only, plus what was tried so far.

use super::Ctx;
use super::bead::{self, Bead, FailureReason, Kind, Status};
use super::dispatch::attempt::{self, Attempt};
use super::dispatch::finish;
use super::dispatch::gate::{self, Hold, HoldCode, Purpose, View};
use super::error::TownError;
use super::id::BeadId;
use super::policy::ATTEMPTS_SHOWN;
use super::pulse;
use super::review::{self, pull_request};
use super::sql::{Sql, first};
use super::time::Timestamp;
use serde::Serialize;

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words are api.md's")]
pub enum VerdictWord {
    Running,
    Ready,
    Waiting,
    InReview,
    Finished,
    Failed,
}

/// `api.md`, *Explanation*.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are api.md's")]
pub struct Explanation {
    pub bead_id: BeadId,
    pub status: Status,
    pub verdict: VerdictWord,
    pub summary: String,
    pub holds: Vec<Hold>,
    pub next_eligible_at: Option<Timestamp>,
    pub attempts: Attempts,
    pub review_rounds: u32,
    pub live_attempt: Option<Attempt>,
    pub last_attempts: Vec<Attempt>,
    pub failure_reason: Option<FailureReason>,
}

/// Attempts so far: those that count against the cap, those that do not, and the cap.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are api.md's")]
pub struct Attempts {
    pub charged: u32,
    pub free: u32,
    pub cap: u32,
}

/// Explains one bead.
pub fn explain(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId) -> Result<Explanation, TownError> {
    let bead = bead::get(sql, id)?;
    let view = View::load(sql, ctx.now)?;
    let mut live = attempt::live_of_bead(sql, id)?;
    let mut last = attempt::of_bead(sql, id, ATTEMPTS_SHOWN)?;
    for shown in live.iter_mut().chain(&mut last) {
        pulse::freshen(ctx, shown);
    }
    let cap = finish::cap(sql, &view.config, bead.rig_id.as_ref())?;
    let free = first(sql, "SELECT count(*) FROM attempts WHERE bead_id = ?1 AND charged = 0", &[id.into()])?;
    let mut holds = match bead.status {
        Status::Open => gate::holds(sql, &view, &bead, &Purpose::Work)?,
        // What waits for it is its merge request: whatever holds that holds this.
        Status::InReview => review_holds(sql, &view, id)?,
        // With a pull request it may wait for the bead that repairs it.
        Status::InProgress if live.is_none() => gate::blocker_holds(sql, &bead)?,
        Status::InProgress | Status::Closed | Status::Failed => Vec::new(),
    };
    holds.sort_by_key(|h| h.code);
    let forge = forge_told(sql, &bead)?;
    let verdict = match bead.status {
        Status::InProgress if forge.is_some() => VerdictWord::InReview,
        Status::InProgress => VerdictWord::Running,
        Status::InReview => VerdictWord::InReview,
        Status::Closed => VerdictWord::Finished,
        Status::Failed => VerdictWord::Failed,
        Status::Open if holds.is_empty() => VerdictWord::Ready,
        Status::Open => VerdictWord::Waiting,
    };
    // Known only if everything that stands against it ends by itself.
    let ends: Vec<_> = holds.iter().map(|h| h.until).collect();
    let next_eligible_at = match verdict {
        VerdictWord::Ready => Some(ctx.now),
        VerdictWord::Waiting if ends.iter().all(Option::is_some) => {
            // A probe that is overdue stands in the past; nothing is eligible before now.
            ends.into_iter().flatten().max().map(|t| t.max(ctx.now))
        }
        _ => None,
    };
    Ok(Explanation {
        summary: match forge {
            Some(forge) if holds.is_empty() => forge,
            Some(forge) => format!("{forge} Meanwhile {}.", told(&holds)),
            None => summary(&bead, verdict, &holds, live.as_ref()),
        },
        bead_id: bead.id.clone(),
        status: bead.status,
        verdict,
        holds,
        next_eligible_at,
        attempts: Attempts { charged: bead.dispatch_attempts, free: free.map_or(Ok(0), |r| r.count(0))?, cap },
        review_rounds: bead.review_rounds,
        live_attempt: live,
        last_attempts: last,
        failure_reason: bead.failure_reason,
    })
}

fn review_holds(sql: &dyn Sql, view: &View, source: &BeadId) -> Result<Vec<Hold>, TownError> {
    for mr in review::of_source(sql, source)? {
        match bead::find(sql, &mr.bead_id)? {
            Some(mr) if mr.status == Status::InProgress && mr.open_blockers > 0 => {
                return gate::blocker_holds(sql, &mr);
            }
            Some(mr) if !matches!(mr.status, Status::Closed | Status::InProgress) => {
                return gate::holds(sql, view, &mr, &Purpose::Work);
            }
            _ => {}
        }
    }
    Ok(Vec::new())
}

/// How a merge request, or that of a bead in review, stands with its forge.
fn forge_told(sql: &dyn Sql, bead: &Bead) -> Result<Option<String>, TownError> {
    let mut mrs = match bead.status {
        Status::InProgress if bead.kind == Kind::MergeRequest => vec![bead.id.clone()],
        Status::InReview => review::of_source(sql, &bead.id)?.into_iter().map(|mr| mr.bead_id).collect(),
        _ => Vec::new(),
    };
    mrs.reverse();
    for mr in mrs {
        if let Some(told) = pull_request::told(sql, &mr)? {
            return Ok(Some(told));
        }
    }
    Ok(None)
}

fn summary(bead: &Bead, verdict: VerdictWord, holds: &[Hold], live: Option<&Attempt>) -> String {
    match verdict {
        VerdictWord::Running => live.map_or_else(
            || "It is in progress without a live attempt; the safety net will re-queue it.".to_owned(),
            |a| format!("{} is working on it since {}.", a.agent_name, a.booked_at),
        ),
        VerdictWord::Ready => "Nothing stands against it; it is dispatched at the next tick.".to_owned(),
        VerdictWord::InReview if holds.is_empty() => {
            "Its work is done and waits for the refinery's verdict.".to_owned()
        }
        VerdictWord::InReview => format!("Its work is done; its merge request waits: {}.", told(holds)),
        VerdictWord::Finished => "It is finished.".to_owned(),
        VerdictWord::Failed => {
            let why = bead.failure_reason.as_ref().map_or("no reason was recorded", |f| f.message.as_str());
            format!("It failed and stays so until somebody redrives it: {why}")
        }
        VerdictWord::Waiting => {
            let about =
                if holds.iter().any(|h| h.code == HoldCode::NotOpen) { "It is not dispatched" } else { "It waits" };
            format!("{about}: {}.", told(holds))
        }
    }
}

/// The holds in one sentence; reasons that end in a full stop lose it.
fn told(holds: &[Hold]) -> String {
    holds.iter().map(|h| h.text.trim_end_matches('.')).collect::<Vec<_>>().join("; ")
}
