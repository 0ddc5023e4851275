//! Reviews: the merge request that stands for "this branch wants in", and what its verdict does.
//!
//! The review queue *is* the open MR beads. A rig's refinery takes one at a time, through the same gate as all work.

pub mod answer;
pub mod forge;
pub mod pull_request;
pub mod rework;

use super::Ctx;
use super::agent;
use super::bead::{self, Bead, Because, Draft, FailureReason, Kind, Priority, Status};
use super::config::Config;
use super::convoy::{self, Convoy};
use super::dependency;
use super::dispatch::attempt;
use super::dispatch::backoff;
use super::dispatch::finish::{End, Then, finish};
use super::dispatch::late::Work;
use super::dispatch::stops::{self, When};
use super::effect::DataPoint;
use super::error::TownError;
use super::escalation::{self, Raise};
use super::event::{self, Happening};
use super::id::{AgentId, BeadId};
use super::json::json;
use super::notify;
use super::rig;
use super::sql::{Arg, Columns, Row, Sql, SqlError, each, first};
use super::state::State;
use super::text;

/// The satellite row of a merge request.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns, documented in migrations/town/0001_town.sql")]
pub struct MergeRequest {
    pub bead_id: BeadId,
    pub source_bead_id: BeadId,
    pub source_agent_id: Option<AgentId>,
    pub branch: String,
    pub target_branch: String,
    pub pr_url: Option<String>,
    pub verdict: Option<String>,
    pub message: Option<String>,
}

/// What a refinery decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The branch is in.
    Merged,
    /// Its gates failed, or it was refused.
    Failed,
    /// It does not merge.
    Conflict,
}

impl Verdict {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Merged => "merged",
            Self::Failed => "failed",
            Self::Conflict => "conflict",
        }
    }
    /// Reads a verdict.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Merged, Self::Failed, Self::Conflict].into_iter().find(|v| v.as_str() == text)
    }
}

/// The code of a source that was refused too often, and of its merge request.
const EXHAUSTED: &str = "review.exhausted";

fn read(r: &Row) -> Result<MergeRequest, SqlError> {
    let c = Columns::of(r);
    let read = MergeRequest {
        bead_id: BeadId(c.text(0)),
        source_bead_id: BeadId(c.text(1)),
        source_agent_id: c.opt_text(2).map(AgentId),
        branch: c.text(3),
        target_branch: c.text(4),
        pr_url: c.opt_text(5),
        verdict: c.opt_text(6),
        message: c.opt_text(7),
    };
    c.done(read)
}

/// The merge request behind an MR bead.
pub fn find(sql: &dyn Sql, mr: &BeadId) -> Result<Option<MergeRequest>, TownError> {
    let row = first(
        sql,
        "SELECT bead_id, source_bead_id, source_agent_id, branch, target_branch, pr_url, verdict, message
         FROM merge_requests
         WHERE bead_id = ?1",
        &[mr.into()],
    )?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// The merge request behind an MR bead that must have one.
pub fn request(sql: &dyn Sql, mr: &BeadId) -> Result<MergeRequest, TownError> {
    find(sql, mr)?.ok_or_else(|| SqlError::new("a merge request without its satellite row").into())
}

/// The merge requests of a source, newest last.
pub fn of_source(sql: &dyn Sql, source: &BeadId) -> Result<Vec<MergeRequest>, TownError> {
    let rows = sql.query(
        "SELECT bead_id, source_bead_id, source_agent_id, branch, target_branch, pr_url, verdict, message
         FROM merge_requests
         WHERE source_bead_id = ?1",
        &[source.into()],
    )?;
    Ok(each(&rows, read)?)
}

/// Work with a branch: the source goes `in_review`, and an MR bead stands for the branch. Idempotent per source and
/// branch while that MR is undecided.
pub fn submit(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    source: &mut Bead,
    agent: Option<&AgentId>,
    branch: &str,
    work: &Work<'_>,
) -> Result<(), TownError> {
    let summary = work.summary;
    if source.status != Status::InReview {
        let by = agent.map_or("system", AgentId::as_str);
        let because = Because { agent, ..Because::of(by, "submitted for review") };
        bead::transition(sql, ctx, source, Status::InReview, because)?;
    }
    for mr in of_source(sql, &source.id)? {
        let undecided = bead::find(sql, &mr.bead_id)?.filter(|b| !b.status.is_final());
        if let Some(mut known) = undecided.filter(|_| mr.branch == branch) {
            // Handed in again, with the pull request that was missing.
            return match work.pr_url.filter(|_| mr.pr_url.is_none()) {
                Some(_) => pull_request::begin(sql, ctx, &mut known, work.pr_url),
                None => Ok(()),
            };
        }
    }
    let rig = source.rig_id.as_ref().map(|id| rig::find(sql, id)).transpose()?.flatten();
    let convoy = convoy::of_task(sql, &source.id)?;
    let feature = convoy.as_ref().and_then(Convoy::feature).map(str::to_owned);
    let target = feature.or(rig.map(|r| r.default_branch)).unwrap_or_else(|| "main".to_owned());
    let mut mr = bead::create(
        sql,
        ctx,
        Draft {
            kind: Kind::MergeRequest,
            title: text::cut(&format!("Review: {branch}"), super::policy::TITLE_BYTES).to_owned(),
            body: summary.map(str::to_owned),
            rig_id: source.rig_id.clone(),
            parent: None,
            priority: source.priority,
            labels: vec![bead::label::MERGE_REQUEST.to_owned()],
            metadata: json!({"source_bead_id": source.id, "source_agent_id": agent,
                             "convoy_id": convoy.as_ref().map(|c| &c.bead.id),
                             "convoy_feature_branch": convoy.as_ref().and_then(Convoy::feature)}),
            created_by: agent.map(|a| a.0.clone()),
            depends_on: Vec::new(),
        },
    )?;
    sql.execute(
        "INSERT INTO merge_requests (bead_id, source_bead_id, source_agent_id, branch, target_branch, summary)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &[(&mr.id).into(), (&source.id).into(), agent.into(), branch.into(), (&target).into(), summary.into()],
    )?;
    dependency::add(sql, &mr.id, &source.id, dependency::Kind::Tracks)?;
    event::record(
        sql,
        ctx,
        &source.id,
        Happening {
            kind: "review_submitted",
            agent,
            new: Some(branch),
            metadata: Some(json!({"branch": branch, "target_branch": target, "mr_bead_id": mr.id})),
            ..Happening::default()
        },
    )?;
    ctx.emit(DataPoint { event: "review.submitted", bead_id: source.id.0.clone(), ..DataPoint::default() });
    pull_request::begin(sql, ctx, &mut mr, work.pr_url)
}

/// `POST review-queue/:id/complete`: a verdict, which is also the success of the refinery's attempt. Repeating the same
/// verdict changes nothing; another one for a decided MR is 409.
pub fn complete(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    entry: &BeadId,
    verdict: Verdict,
    message: &str,
    commit_sha: Option<&str>,
) -> Result<(), TownError> {
    let mut mr = bead::find(sql, entry)?
        .filter(|b| b.kind == Kind::MergeRequest)
        .ok_or_else(|| TownError::missing("Review entry"))?;
    if mr.status.is_final() {
        let known = find(sql, entry)?.and_then(|m| m.verdict);
        if known.as_deref() == Some(verdict.as_str()) {
            return Ok(());
        }
        return Err(TownError::conflict(
            mr.status.as_str(),
            format!("Merge request {entry} was decided already: {}", known.as_deref().unwrap_or(mr.status.as_str())),
        ));
    }
    // The verdict judges the source, not the dispatch: whatever it says, the refinery did its work.
    if let Some(attempt) = attempt::live_of_bead(sql, entry)? {
        finish(sql, ctx, &attempt, End::Succeeded)?;
        mr = bead::get(sql, entry)?;
    }
    settle(sql, ctx, &mut mr, verdict, message, commit_sha)
}

/// Applies a verdict to an undecided MR and its source.
pub fn settle(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    mr: &mut Bead,
    verdict: Verdict,
    message: &str,
    commit_sha: Option<&str>,
) -> Result<(), TownError> {
    // Redacted before it is cut, or half a token could survive at the edge.
    let message = text::cut_tail(&text::redact(message), super::policy::MESSAGE_BYTES).to_owned();
    let message =
        if message.trim().is_empty() { format!("the refinery reported {}", verdict.as_str()) } else { message };
    sql.execute(
        "UPDATE merge_requests SET verdict = ?2, message = ?3, commit_sha = ?4 WHERE bead_id = ?1",
        &[(&mr.id).into(), verdict.as_str().into(), (&message).into(), commit_sha.into()],
    )?;
    pull_request::forget(sql, &mr.id)?;
    let request = request(sql, &mr.id)?;
    let source = bead::find(sql, &request.source_bead_id)?;
    event::record(
        sql,
        ctx,
        &request.source_bead_id,
        Happening {
            kind: "review_completed",
            new: Some(verdict.as_str()),
            metadata: Some(json!({"message": text::cut(&message, 2_000), "commit_sha": commit_sha})),
            ..Happening::default()
        },
    )?;
    ctx.emit(DataPoint {
        event: "review.completed",
        bead_id: request.source_bead_id.0.clone(),
        label: verdict.as_str().to_owned(),
        reason: text::cut(&message, 500).to_owned(),
        ..DataPoint::default()
    });
    match verdict {
        Verdict::Merged => merged(sql, ctx, mr, source)?,
        Verdict::Failed | Verdict::Conflict => refused(sql, ctx, mr, source, verdict, &message)?,
    }
    rework::call_off(sql, ctx, &mr.id)
}

/// MR, source and sibling MRs closed; dependants freed.
fn merged(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &mut Bead, source: Option<Bead>) -> Result<(), TownError> {
    bead::transition(sql, ctx, mr, Status::Closed, Because::of("system", "merged"))?;
    let Some(source) = source else { return Ok(()) };
    for sibling in of_source(sql, &source.id)? {
        let Some(mut other) = bead::find(sql, &sibling.bead_id)?.filter(|b| !b.status.is_final()) else { continue };
        end_attempt(sql, ctx, &other.id, "its source was merged by another merge request")?;
        other = bead::get(sql, &other.id)?;
        bead::transition(sql, ctx, &mut other, Status::Closed, Because::of("system", "its source was merged"))?;
        rework::call_off(sql, ctx, &other.id)?;
    }
    source_merged(sql, ctx, source)
}

/// What a verdict means for the source: it is in.
fn source_merged(sql: &dyn Sql, ctx: &Ctx<'_>, mut source: Bead) -> Result<(), TownError> {
    if !source.status.is_final() {
        // Refused by another review, it may be at work or hooked again.
        end_attempt(sql, ctx, &source.id, "it was merged by an earlier merge request")?;
        if let Some(agent) = agent::hooked_to(sql, &source.id)? {
            agent::unhook(sql, ctx, &agent.id, &source.id, "it was merged")?;
        }
        source = bead::get(sql, &source.id)?;
        bead::transition(sql, ctx, &mut source, Status::Closed, Because::of("system", "merged"))?;
    }
    Ok(())
}

/// The merge request fails, and its source hears why.
fn refused(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    mr: &mut Bead,
    source: Option<Bead>,
    verdict: Verdict,
    message: &str,
) -> Result<(), TownError> {
    let config = Config::load(sql)?;
    let rounds = source.as_ref().map_or(1, |s| s.review_rounds.saturating_add(1));
    let code = match verdict {
        _ if rounds >= config.dispatch.max_review_rounds => EXHAUSTED,
        Verdict::Conflict => "review.conflict",
        Verdict::Failed | Verdict::Merged => "review.failed",
    };
    let failure = FailureReason {
        code: code.to_owned(),
        message: text::cut_tail(message, 4_096).to_owned(),
        source: "review".to_owned(),
    };
    let because = Because { failure: Some(failure.clone()), ..Because::of("system", verdict.as_str()) };
    bead::transition(sql, ctx, mr, Status::Failed, because)?;
    match source.filter(|s| s.status == Status::InReview) {
        Some(source) => source_refused(sql, ctx, &config, &mr.id, source, rounds, verdict, failure),
        None => Ok(()),
    }
}

/// What a verdict means for the source: it is open again after a while, or has failed when it was refused too often.
#[allow(clippy::too_many_arguments, reason = "one verdict, one story; splitting it would hide the order")]
fn source_refused(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    mr: &BeadId,
    mut source: Bead,
    rounds: u32,
    verdict: Verdict,
    failure: FailureReason,
) -> Result<(), TownError> {
    let message = failure.message.clone();
    sql.execute("UPDATE beads SET review_rounds = ?2 WHERE bead_id = ?1", &[(&source.id).into(), rounds.into()])?;
    if verdict == Verdict::Conflict {
        escalation::raise(
            sql,
            ctx,
            Raise {
                rig_id: source.rig_id.as_ref(),
                agent: None,
                severity: Priority::High,
                category: Some("merge_conflict"),
                message: &format!("«{}» does not merge: {}", source.title, text::cut(&message, 300)),
                body: None,
                metadata: Some(json!({"bead_id": source.id, "mr_bead_id": mr})),
                by_notification: false,
            },
        )?;
    }
    if failure.code == EXHAUSTED {
        let because = Because { failure: Some(failure), ..Because::of("system", "refused too often") };
        bead::transition(sql, ctx, &mut source, Status::Failed, because)?;
        let text = format!(
            "«{}» was refused {rounds} times and waits for a redrive. The last word of its gates: {}",
            source.title,
            text::cut_tail(&message, 400)
        );
        let facts = json!({"bead_id": source.id, "title": source.title, "code": EXHAUSTED, "review_rounds": rounds});
        return notify::bead_failed(sql, ctx, config, &source.id, &text, facts);
    }
    let state = State::load(sql)?;
    let wait = backoff::review_backoff(&config.dispatch, &state.town_id, source.id.as_str(), rounds);
    let until = ctx.now.plus(wait);
    sql.execute(
        "UPDATE beads SET review_not_before = ?2, not_before = ?2, next_dispatch_at = NULL WHERE bead_id = ?1",
        &[(&source.id).into(), until.into()],
    )?;
    let reason = format!("review round {rounds}: {}", verdict.as_str());
    bead::transition(sql, ctx, &mut source, Status::Open, Because::of("system", &reason))
}

/// Ends the live attempt of a bead, its process with it, or the wait for its pull request; the caller moves the bead.
pub fn end_attempt(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &BeadId, reason: &str) -> Result<(), TownError> {
    if let Some(attempt) = attempt::live_of_bead(sql, bead)? {
        stops::owe(sql, ctx, &attempt, When::Now)?;
        finish(sql, ctx, &attempt, End::Cancelled(reason.to_owned(), Then::Leave))?;
    }
    pull_request::forget(sql, bead)
}

/// The source ended otherwise than by its review: its undecided MRs end with it.
pub fn end_of_source(sql: &dyn Sql, ctx: &Ctx<'_>, source: &BeadId, to: Status, reason: &str) -> Result<(), TownError> {
    for mr in of_source(sql, source)? {
        let Some(before) = bead::find(sql, &mr.bead_id)?.filter(|b| b.status != Status::Closed) else { continue };
        end_attempt(sql, ctx, &before.id, reason)?;
        let mut bead = bead::get(sql, &before.id)?;
        if bead.status == to || bead.status == Status::Failed {
            continue;
        }
        let failure = (to == Status::Failed).then(|| FailureReason {
            code: "cancelled".to_owned(),
            message: reason.to_owned(),
            source: "system".to_owned(),
        });
        bead::transition(sql, ctx, &mut bead, to, Because { failure, ..Because::of("system", reason) })?;
        rework::call_off(sql, ctx, &bead.id)?;
    }
    Ok(())
}

/// Forgets a deleted bead's satellite row.
pub fn forget(sql: &dyn Sql, bead: &BeadId) -> Result<(), TownError> {
    sql.execute("DELETE FROM merge_requests WHERE bead_id = ?1", &[Arg::from(bead)])?;
    Ok(())
}
