//! Attempts: one row per dispatch, from its booking to its end.

use super::super::agent::Role;
use super::super::error::TownError;
use super::super::id::{AgentId, AttemptId, BeadId, RigId};
use super::super::policy::BOOT_GRACE;
use super::super::sorted::Sorted;
use super::super::sql::{Columns, Row, Sql, SqlError, each, first};
use super::super::time::{Millis, Timestamp};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// How far an attempt has come, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Booked; the start's answer is not known.
    Pending,
    /// The container took it.
    Accepted,
    /// The agent gave a first sign of life.
    Proven,
    /// It did its work.
    Succeeded,
    /// It failed, for a reason.
    Failed,
    /// It was ended by the container's going away.
    Interrupted,
    /// A person, the mayor or triage stopped it.
    Cancelled,
}

impl Outcome {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Proven => "proven",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }
    /// Reads an outcome.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Accepted, Self::Proven, Self::Succeeded, Self::Failed, Self::Interrupted, Self::Cancelled]
            .into_iter()
            .find(|o| o.as_str() == text)
    }
}

/// One attempt.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "columns, documented in migrations/town/0001_town.sql")]
#[allow(clippy::struct_excessive_bools, reason = "columns; each is a fact of its own")]
pub struct Attempt {
    pub id: AttemptId,
    pub seq: i64,
    pub bead: Option<BeadId>,
    pub agent: AgentId,
    pub agent_name: String,
    pub rig: Option<RigId>,
    pub role: Role,
    pub booked_at: Timestamp,
    pub lease_until: Option<Timestamp>,
    pub accepted_at: Option<Timestamp>,
    pub proven_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub outcome: Outcome,
    pub class: Option<String>,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub status_code: Option<i64>,
    pub fingerprint: Option<String>,
    pub charged: bool,
    pub probe: bool,
    pub generation: u32,
    pub instance_id: Option<String>,
    pub duration_ms: Option<Millis>,
    pub counts_in: Option<String>,
    pub lost_code: Option<String>,
    pub lost_reason: Option<String>,
    pub looks: u32,
    pub look_until: Option<Timestamp>,
    pub late_stop_at: Option<Timestamp>,
    pub last_heartbeat_at: Option<Timestamp>,
    pub repeated: bool,
    pub last_event_at: Option<Timestamp>,
    pub quiet: Quiet,
    pub revived_at: Option<Timestamp>,
    pub reviving: bool,
}

/// What the town has done about an agent that does nothing (`reconcile::inactivity`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// The last thing that the agent had done then; after a later one, all begins anew.
    pub since: Option<Timestamp>,
    /// How many steps were taken.
    pub step: u32,
    /// When it was last nudged.
    pub nudged_at: Option<Timestamp>,
}

impl Attempt {
    /// True until it has ended.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.finished_at.is_none()
    }
    /// True while it is a start in flight: booked, or handed to another container, not yet heard or ended, and within its
    /// lease.
    #[must_use]
    pub fn in_flight(&self, now: Timestamp) -> bool {
        let unheard = self.proven_at.is_none() || self.reviving;
        self.is_live() && unheard && self.lease_until.is_some_and(|t| t > now)
    }
    /// Until when it may say that it is starting.
    #[must_use]
    pub fn boots_until(&self) -> Timestamp {
        self.revived_at.map_or(self.booked_at, |t| t.max(self.booked_at)).plus(BOOT_GRACE)
    }
}

impl Serialize for Attempt {
    /// `api.md`, *Attempt*.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("attempt_id", &self.id)?;
        m.serialize_entry("bead_id", &self.bead)?;
        m.serialize_entry("agent_id", &self.agent)?;
        m.serialize_entry("agent_name", &self.agent_name)?;
        m.serialize_entry("rig_id", &self.rig)?;
        m.serialize_entry("role", self.role.as_str())?;
        m.serialize_entry("outcome", self.outcome.as_str())?;
        m.serialize_entry("class", &self.class)?;
        m.serialize_entry("code", &self.code)?;
        m.serialize_entry("reason", &self.reason)?;
        m.serialize_entry("status_code", &self.status_code)?;
        m.serialize_entry("fingerprint", &self.fingerprint)?;
        m.serialize_entry("charged", &self.charged)?;
        m.serialize_entry("probe", &self.probe)?;
        m.serialize_entry("generation", &self.generation)?;
        m.serialize_entry("booked_at", &self.booked_at)?;
        m.serialize_entry("lease_until", &self.lease_until)?;
        m.serialize_entry("accepted_at", &self.accepted_at)?;
        m.serialize_entry("proven_at", &self.proven_at)?;
        m.serialize_entry("finished_at", &self.finished_at)?;
        m.serialize_entry("duration_ms", &self.duration_ms)?;
        m.end()
    }
}

/// Column list of every `SELECT` that [`read`] decodes. A macro, because statement text is constant.
#[macro_export]
#[doc(hidden)]
macro_rules! attempt_columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT attempt_id, seq, bead_id, agent_id, agent_name, rig_id, role, booked_at, lease_until, accepted_at,
                    proven_at, finished_at, outcome, class, code, reason, status_code, fingerprint, charged, probe,
                    generation, instance_id, duration_ms, counts_in, lost_code, lost_reason, looks, look_until,
                    late_stop_at, last_heartbeat_at, repeated, last_event_at, quiet_since, quiet_step, nudged_at,
                    revived_at, reviving
             FROM attempts ",
            $($rest)*
        )
    };
}

/// Decodes a row of [`attempt_columns`](crate::attempt_columns).
pub fn read(r: &Row) -> Result<Attempt, SqlError> {
    let c = Columns::of(r);
    let attempt = Attempt {
        id: AttemptId(c.text(0)),
        seq: c.int(1),
        bead: c.opt_text(2).map(BeadId),
        agent: AgentId(c.text(3)),
        agent_name: c.text(4),
        rig: c.opt_text(5).map(RigId),
        role: c.word(6, Role::parse, Role::Polecat),
        booked_at: c.at(7),
        lease_until: c.opt_at(8),
        accepted_at: c.opt_at(9),
        proven_at: c.opt_at(10),
        finished_at: c.opt_at(11),
        outcome: c.word(12, Outcome::parse, Outcome::Pending),
        class: c.opt_text(13),
        code: c.opt_text(14),
        reason: c.opt_text(15),
        status_code: c.opt_int(16),
        fingerprint: c.opt_text(17),
        charged: c.flag(18),
        probe: c.flag(19),
        generation: c.count(20),
        instance_id: c.opt_text(21),
        duration_ms: c.opt_int(22),
        counts_in: c.opt_text(23),
        lost_code: c.opt_text(24),
        lost_reason: c.opt_text(25),
        looks: c.count(26),
        look_until: c.opt_at(27),
        late_stop_at: c.opt_at(28),
        last_heartbeat_at: c.opt_at(29),
        repeated: c.flag(30),
        last_event_at: c.opt_at(31),
        quiet: Quiet { since: c.opt_at(32), step: c.count(33), nudged_at: c.opt_at(34) },
        revived_at: c.opt_at(35),
        reviving: c.flag(36),
    };
    c.done(attempt)
}

fn one(sql: &dyn Sql, text: &'static str, id: super::super::sql::Arg<'_>) -> Result<Option<Attempt>, TownError> {
    Ok(first(sql, text, &[id])?.as_ref().map(read).transpose()?)
}

/// The attempt, if there is one.
pub fn find(sql: &dyn Sql, id: &AttemptId) -> Result<Option<Attempt>, TownError> {
    one(sql, attempt_columns!("WHERE attempt_id = ?1"), id.into())
}

/// The live attempt of an agent.
pub fn live_of_agent(sql: &dyn Sql, agent: &AgentId) -> Result<Option<Attempt>, TownError> {
    one(sql, attempt_columns!("WHERE agent_id = ?1 AND finished_at IS NULL"), agent.into())
}

/// The live attempt of a bead.
pub fn live_of_bead(sql: &dyn Sql, bead: &BeadId) -> Result<Option<Attempt>, TownError> {
    one(sql, attempt_columns!("WHERE bead_id = ?1 AND finished_at IS NULL AND bead_id IS NOT NULL"), bead.into())
}

/// The last attempt of an agent, live or not.
pub fn last_of_agent(sql: &dyn Sql, agent: &AgentId) -> Result<Option<Attempt>, TownError> {
    one(sql, attempt_columns!("WHERE agent_id = ?1 ORDER BY seq DESC LIMIT 1"), agent.into())
}

/// The newest attempts of a bead, newest first.
pub fn of_bead(sql: &dyn Sql, bead: &BeadId, limit: u32) -> Result<Vec<Attempt>, TownError> {
    let rows =
        sql.query(attempt_columns!("WHERE bead_id = ?1 ORDER BY seq DESC LIMIT ?2"), &[bead.into(), limit.into()])?;
    Ok(each(&rows, read)?)
}

/// Every live attempt: as many as the limits allow, no more.
pub fn live(sql: &dyn Sql) -> Result<Vec<Attempt>, TownError> {
    let rows = sql.query(attempt_columns!("WHERE finished_at IS NULL ORDER BY agent_id"), &[])?;
    Ok(each(&rows, read)?)
}

/// Moves the lease of a live attempt, and notes who runs it.
pub fn renew(
    sql: &dyn Sql,
    id: &AttemptId,
    lease_until: Timestamp,
    heartbeat_at: Option<Timestamp>,
    instance: Option<&str>,
) -> Result<(), TownError> {
    heard(sql, id, lease_until, heartbeat_at, instance, None)
}

/// The same, with the last thing that its agent did, if it told one.
pub fn heard(
    sql: &dyn Sql,
    id: &AttemptId,
    lease_until: Timestamp,
    heartbeat_at: Option<Timestamp>,
    instance: Option<&str>,
    event_at: Option<Timestamp>,
) -> Result<(), TownError> {
    sql.execute(
        "UPDATE attempts
         SET lease_until = ?2, looks = 0, look_until = NULL,
             last_heartbeat_at = coalesce(?3, last_heartbeat_at), instance_id = coalesce(?4, instance_id),
             last_event_at = coalesce(?5, last_event_at),
             reviving = CASE WHEN ?3 IS NULL THEN reviving ELSE 0 END
         WHERE attempt_id = ?1 AND finished_at IS NULL",
        &[id.into(), lease_until.into(), heartbeat_at.into(), instance.into(), event_at.into()],
    )?;
    Ok(())
}

/// Beads and agents that are busy now, counted from the live attempts.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Live polecats per rig.
    pub polecats: Sorted<RigId, u32>,
    /// Live polecats of the town.
    pub polecats_in_town: u32,
    /// Rigs whose refinery is at work.
    pub refineries: Vec<RigId>,
    /// The mayor lives.
    pub mayor: bool,
    /// Starts in flight.
    pub in_flight: u32,
    /// Live attempts.
    pub live: u32,
}

/// Counts the live attempts.
pub fn load(sql: &dyn Sql, now: Timestamp) -> Result<Load, TownError> {
    let rows = sql.query(
        "SELECT role, rig_id, proven_at IS NULL OR reviving = 1, lease_until
         FROM attempts
         WHERE finished_at IS NULL
         ORDER BY agent_id",
        &[],
    )?;
    let mut load = Load::default();
    for r in &rows {
        let rig = r.opt_text(1)?.map(RigId);
        load.live += 1;
        if r.flag(2)? && r.opt_int(3)?.is_some_and(|t| t > now.0) {
            load.in_flight += 1;
        }
        match (r.text(0)?.as_str(), rig) {
            ("polecat", Some(rig)) => {
                load.polecats.count(rig);
                load.polecats_in_town += 1;
            }
            ("refinery", Some(rig)) => {
                load.refineries.push(rig);
            }
            ("mayor", _) => load.mayor = true,
            _ => {}
        }
    }
    Ok(load)
}
