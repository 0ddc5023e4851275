//! Beads: the work items of a town, their row and their transitions.
//!
//! A transition is compare-and-set: it names the state it leaves, and a wrong one is a 409, never silence. Each writes
//! one `bead_events` row. What dispatch asks of a bead stands in columns (`held`, `open_blockers`, `not_before`, …) that
//! are kept on write, so that no rule has to read labels or recount edges.

use super::Ctx;
use super::convoy;
use super::dependency;
use super::effect::DataPoint;
use super::error::TownError;
use super::event::{self, Happening};
use super::id::{AgentId, BeadId, RigId};
use super::json::{self, json};
use super::molecule;
use super::sql::{Arg, Columns, Row, Sql, SqlError, first};
use super::state;
use super::time::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

/// The status of a bead (`domain.md` 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for dispatch, or for whatever it is for.
    Open,
    /// An attempt is live.
    InProgress,
    /// A merge request stands for it.
    InReview,
    /// Done. Never changes again.
    Closed,
    /// Given up. Changes by redrive only.
    Failed,
}

impl Status {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::InProgress => "in_progress",
            Self::InReview => "in_review",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
    /// Reads a status.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::InProgress, Self::InReview, Self::Closed, Self::Failed]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
    /// `closed` or `failed`.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Failed)
    }
}

/// What a bead is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work for a polecat.
    Issue,
    /// A call for help.
    Escalation,
    /// "This branch wants in": work for a refinery.
    MergeRequest,
    /// A group of issues.
    Convoy,
    /// Ordered steps.
    Molecule,
}

impl Kind {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Escalation => "escalation",
            Self::MergeRequest => "merge_request",
            Self::Convoy => "convoy",
            Self::Molecule => "molecule",
        }
    }
    /// Reads a type.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Issue, Self::Escalation, Self::MergeRequest, Self::Convoy, Self::Molecule]
            .into_iter()
            .find(|k| k.as_str() == text)
    }
}

/// How urgent a bead is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Priority {
    Critical,
    High,
    #[default]
    Medium,
    Low,
}

impl Priority {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
    /// Reads a priority.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Critical, Self::High, Self::Medium, Self::Low].into_iter().find(|p| p.as_str() == text)
    }
    /// 0 for the most urgent.
    #[must_use]
    pub const fn rank(self) -> u32 {
        match self {
            Self::Critical => 0,
            Self::High => 1,
            Self::Medium => 2,
            Self::Low => 3,
        }
    }
}

/// Labels with a meaning for dispatch.
pub mod label {
    /// Never dispatched while it carries this.
    pub const HELD: &str = "gt:held";
    /// A question about a stuck agent; answered, not dispatched.
    pub const TRIAGE_REQUEST: &str = "gt:triage-request";
    /// Labels whose beads close on done without another review.
    pub const CLOSES_ON_DONE: [&str; 5] = ["gt:rework", "gt:triage", "gt:pr-fixup", "gt:pr-feedback", "gt:pr-conflict"];
    /// A merge request.
    pub const MERGE_REQUEST: &str = "gt:merge-request";
    /// A convoy.
    pub const CONVOY: &str = "gt:convoy";
}

/// Why a bead failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureReason {
    /// The code of the attempt that failed it, or `review.exhausted`, `cancelled`, ….
    pub code: String,
    /// In words; never empty.
    pub message: String,
    /// `dispatch`, `review`, `convoy` or the actor.
    pub source: String,
}

impl FailureReason {
    /// What was written of one.
    fn read(text: &str) -> Option<Self> {
        let said = json::read(text)?;
        let field = |key: &str| said.get(key)?.as_str().map(str::to_owned);
        Some(Self { code: field("code")?, message: field("message")?, source: field("source")? })
    }
}

/// One bead.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "columns, documented in migrations/town/0001_town.sql")]
pub struct Bead {
    pub id: BeadId,
    pub seq: i64,
    pub kind: Kind,
    pub status: Status,
    pub title: String,
    pub body: Option<String>,
    pub rig_id: Option<RigId>,
    pub parent: Option<BeadId>,
    pub assignee: Option<AgentId>,
    pub priority: Priority,
    pub labels: Vec<String>,
    pub metadata: Json,
    pub held: bool,
    pub staged: bool,
    pub triage_request: bool,
    pub open_blockers: u32,
    pub dispatch_attempts: u32,
    pub failure_streak: u32,
    pub last_dispatch_attempt_at: Option<Timestamp>,
    pub last_failed_at: Option<Timestamp>,
    pub next_dispatch_at: Option<Timestamp>,
    pub review_rounds: u32,
    pub review_not_before: Option<Timestamp>,
    pub probes: u32,
    pub agent_redrives: u32,
    pub failure_reason: Option<FailureReason>,
    pub created_by: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub closed_at: Option<Timestamp>,
}

impl Bead {
    /// True if the bead carries `label`.
    #[must_use]
    pub fn has_label(&self, label: &str) -> bool {
        self.labels.iter().any(|l| l == label)
    }
    /// True if the bead closes on done without another review.
    #[must_use]
    pub fn closes_on_done(&self) -> bool {
        label::CLOSES_ON_DONE.iter().any(|l| self.has_label(l))
    }
    /// True for the kinds that the gate dispatches.
    #[must_use]
    pub const fn is_work(&self) -> bool {
        matches!(self.kind, Kind::Issue | Kind::MergeRequest)
    }
    /// True if its dependants may start although it failed: only if the dependant says so.
    #[must_use]
    pub fn allows_failed_blockers(&self) -> bool {
        self.metadata.get("allow_failed_blockers").and_then(Json::as_bool).unwrap_or(false)
    }
}

impl Serialize for Bead {
    /// `protocol.md` 2.1; every bead also carries `id` = `bead_id`.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("id", &self.id)?;
        m.serialize_entry("bead_id", &self.id)?;
        m.serialize_entry("type", self.kind.as_str())?;
        m.serialize_entry("status", self.status.as_str())?;
        m.serialize_entry("title", &self.title)?;
        m.serialize_entry("body", &self.body)?;
        m.serialize_entry("rig_id", &self.rig_id)?;
        m.serialize_entry("parent_bead_id", &self.parent)?;
        m.serialize_entry("assignee_agent_bead_id", &self.assignee)?;
        m.serialize_entry("priority", self.priority.as_str())?;
        m.serialize_entry("labels", &self.labels)?;
        m.serialize_entry("metadata", &self.metadata)?;
        m.serialize_entry("dispatch_attempts", &self.dispatch_attempts)?;
        m.serialize_entry("last_dispatch_attempt_at", &self.last_dispatch_attempt_at)?;
        m.serialize_entry("failure_streak", &self.failure_streak)?;
        m.serialize_entry("next_dispatch_at", &self.next_dispatch_at)?;
        m.serialize_entry("review_rounds", &self.review_rounds)?;
        m.serialize_entry("failure_reason", &self.failure_reason)?;
        m.serialize_entry("created_by", &self.created_by)?;
        m.serialize_entry("created_at", &self.created_at)?;
        m.serialize_entry("updated_at", &self.updated_at)?;
        m.serialize_entry("closed_at", &self.closed_at)?;
        m.end()
    }
}

/// Column list of every `SELECT` that [`read`] decodes. A macro, because statement text is constant.
#[macro_export]
#[doc(hidden)]
macro_rules! bead_columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT bead_id, seq, type, status, title, body, rig_id, parent_bead_id, assignee_agent_bead_id, priority,
                    labels, metadata, held, staged, triage_request, open_blockers, dispatch_attempts, failure_streak,
                    last_dispatch_attempt_at, last_failed_at, next_dispatch_at, review_rounds, review_not_before,
                    probes, agent_redrives, failure_reason, created_by, created_at, updated_at, closed_at
             FROM beads ",
            $($rest)*
        )
    };
}

/// Decodes a row of [`bead_columns`](crate::bead_columns).
pub fn read(r: &Row) -> Result<Bead, SqlError> {
    let c = Columns::of(r);
    let bead = Bead {
        id: BeadId(c.text(0)),
        seq: c.int(1),
        kind: c.word(2, Kind::parse, Kind::Issue),
        status: c.word(3, Status::parse, Status::Open),
        title: c.text(4),
        body: c.opt_text(5),
        rig_id: c.opt_text(6).map(RigId),
        parent: c.opt_text(7).map(BeadId),
        assignee: c.opt_text(8).map(AgentId),
        priority: c.word(9, Priority::parse, Priority::Medium),
        labels: json::texts(&c.text(10)).unwrap_or_default(),
        metadata: json::read(&c.text(11)).unwrap_or_else(|| json!({})),
        held: c.flag(12),
        staged: c.flag(13),
        triage_request: c.flag(14),
        open_blockers: c.count(15),
        dispatch_attempts: c.count(16),
        failure_streak: c.count(17),
        last_dispatch_attempt_at: c.opt_at(18),
        last_failed_at: c.opt_at(19),
        next_dispatch_at: c.opt_at(20),
        review_rounds: c.count(21),
        review_not_before: c.opt_at(22),
        probes: c.count(23),
        agent_redrives: c.count(24),
        failure_reason: c.opt_text(25).and_then(|t| FailureReason::read(&t)),
        created_by: c.opt_text(26),
        created_at: c.at(27),
        updated_at: c.at(28),
        closed_at: c.opt_at(29),
    };
    c.done(bead)
}

/// The bead, if there is one.
pub fn find(sql: &dyn Sql, id: &BeadId) -> Result<Option<Bead>, TownError> {
    Ok(first(sql, bead_columns!("WHERE bead_id = ?1"), &[id.into()])?.as_ref().map(read).transpose()?)
}

/// The bead, or 404 `Bead not found`.
pub fn get(sql: &dyn Sql, id: &BeadId) -> Result<Bead, TownError> {
    find(sql, id)?.ok_or_else(|| TownError::missing("Bead"))
}

/// What a new bead is made of. Texts are within their caps (`beads::validated` saw to it).
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Bead")]
pub struct Draft {
    pub kind: Kind,
    pub title: String,
    pub body: Option<String>,
    pub rig_id: Option<RigId>,
    pub parent: Option<BeadId>,
    pub priority: Priority,
    pub labels: Vec<String>,
    pub metadata: Json,
    pub created_by: Option<String>,
    /// `blocks` edges: beads this one waits for. They exist.
    pub depends_on: Vec<BeadId>,
}

/// Inserts a bead, `open`, with its edges and its *created* event.
pub fn create(sql: &dyn Sql, ctx: &Ctx<'_>, draft: Draft) -> Result<Bead, TownError> {
    let id = BeadId(ctx.ids.uuid());
    let seq = state::next_seq(sql)?;
    let rank = if draft.kind == Kind::MergeRequest { 0 } else { draft.priority.rank() };
    sql.execute(
        "INSERT INTO beads
           (bead_id, seq, type, status, title, body, rig_id, parent_bead_id, priority, rank, labels, metadata, held,
            triage_request, created_by, created_at, updated_at)
         VALUES (?1, ?2, ?3, 'open', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?15)",
        &[
            (&id).into(),
            seq.into(),
            draft.kind.as_str().into(),
            (&draft.title).into(),
            Arg::from(draft.body.as_ref()),
            draft.rig_id.as_ref().into(),
            draft.parent.as_ref().into(),
            draft.priority.as_str().into(),
            rank.into(),
            (&json!(draft.labels).to_string()).into(),
            (&draft.metadata.to_string()).into(),
            draft.labels.iter().any(|l| l == label::HELD).into(),
            draft.labels.iter().any(|l| l == label::TRIAGE_REQUEST).into(),
            Arg::from(draft.created_by.as_ref()),
            ctx.now.into(),
        ],
    )?;
    for blocker in &draft.depends_on {
        dependency::add(sql, &id, blocker, dependency::Kind::Blocks)?;
    }
    if !draft.depends_on.is_empty() {
        dependency::recount(sql, &id)?;
    }
    event::record(
        sql,
        ctx,
        &id,
        Happening {
            kind: "created",
            new: Some("open"),
            metadata: Some(json!({"type": draft.kind.as_str(), "title": draft.title})),
            ..Happening::default()
        },
    )?;
    ctx.emit(DataPoint {
        event: "bead.created",
        bead_id: id.0.clone(),
        rig_id: draft.rig_id.map(|r| r.0).unwrap_or_default(),
        bead_type: draft.kind.as_str().to_owned(),
        ..DataPoint::default()
    });
    get(sql, &id)
}

/// Who makes a transition and why.
#[derive(Clone, Debug)]
pub struct Because<'a> {
    /// The actor's label, or `system`.
    pub actor: &'a str,
    /// In words.
    pub reason: &'a str,
    /// The agent concerned.
    pub agent: Option<&'a AgentId>,
    /// For `failed`: why.
    pub failure: Option<FailureReason>,
}

impl<'a> Because<'a> {
    /// A transition that is no failure.
    #[must_use]
    pub const fn of(actor: &'a str, reason: &'a str) -> Self {
        Self { actor, reason, agent: None, failure: None }
    }
}

/// Moves `bead` from the status in it to `to`, compare-and-set, and keeps its dependants' `open_blockers`.
///
/// Refused with 409 if the row is no longer in that status. Everything that hangs on the status (assignee, attempt,
/// MR) is the caller's to settle in the same savepoint.
pub fn transition(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    bead: &mut Bead,
    to: Status,
    because: Because<'_>,
) -> Result<(), TownError> {
    let from = bead.status;
    let failure = because.failure.as_ref().map(|f| json!(f).to_string());
    let closed_at = (to == Status::Closed).then_some(ctx.now);
    let changed = sql.execute(
        "UPDATE beads
         SET status = ?3, updated_at = ?4, closed_at = ?5, failure_reason = ?6, orphaned_at = NULL
         WHERE bead_id = ?1 AND status = ?2",
        &[
            (&bead.id).into(),
            from.as_str().into(),
            to.as_str().into(),
            ctx.now.into(),
            closed_at.into(),
            Arg::from(failure.as_deref()),
        ],
    )?;
    if changed == 0 {
        let state = find(sql, &bead.id)?.map_or("deleted", |b| b.status.as_str());
        return Err(TownError::conflict(state, format!("Bead {} is {state}, not {}", bead.id, from.as_str())));
    }
    bead.status = to;
    bead.updated_at = ctx.now;
    bead.closed_at = closed_at;
    bead.failure_reason.clone_from(&because.failure);
    let mut metadata = json!({"actor": because.actor, "reason": because.reason});
    if let (Some(f), Some(m)) = (&because.failure, metadata.as_object_mut()) {
        m.insert("failure_reason".to_owned(), json!(f));
    }
    event::record(
        sql,
        ctx,
        &bead.id,
        Happening {
            kind: "status_changed",
            agent: because.agent,
            old: Some(from.as_str()),
            new: Some(to.as_str()),
            metadata: Some(metadata),
        },
    )?;
    ctx.emit(DataPoint {
        event: match to {
            Status::Closed => "bead.closed",
            Status::Failed => "bead.failed",
            _ => "bead.status_changed",
        },
        bead_id: bead.id.0.clone(),
        rig_id: bead.rig_id.clone().map(|r| r.0).unwrap_or_default(),
        bead_type: bead.kind.as_str().to_owned(),
        label: because.failure.as_ref().map_or_else(|| to.as_str().to_owned(), |f| f.code.clone()),
        reason: because.failure.map_or_else(|| because.reason.to_owned(), |f| f.message),
        ..DataPoint::default()
    });
    if from.is_final() != to.is_final() || to == Status::Failed || to == Status::Closed {
        dependency::blocker_changed(sql, &bead.id)?;
        convoy::bead_moved(sql, ctx, bead)?;
    }
    if to.is_final() {
        molecule::bead_ended(sql, ctx, bead)?;
    }
    Ok(())
}

/// Sets or clears the assignee; hook and assignee change together (`agent::hook`, `agent::unhook`).
pub fn assign(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &BeadId, agent: Option<&AgentId>) -> Result<(), TownError> {
    sql.execute(
        "UPDATE beads SET assignee_agent_bead_id = ?2, updated_at = ?3 WHERE bead_id = ?1",
        &[bead.into(), agent.into(), ctx.now.into()],
    )?;
    Ok(())
}
