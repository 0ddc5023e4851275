//! The town's own row: who it is, its slow start, its hold, its drain, and what it last heard of its container.

use super::error::TownError;
use super::id::{AgentId, BeadId};
use super::sql::{Arg, Columns, Sql, SqlError, first};
use super::time::Timestamp;

/// The single row of table `town`.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The town's id.
    pub town_id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner_user_id: String,
    /// Its mayor.
    pub mayor: AgentId,
    /// Starts that may be in flight.
    pub slow_start: u32,
    /// The town hold: no dispatch before this.
    pub hold_until: Option<Timestamp>,
    /// The code that caused the hold.
    pub hold_cause: Option<String>,
    /// Throttles in a row.
    pub hold_streak: u32,
    /// Draining since.
    pub draining_since: Option<Timestamp>,
    /// What the new instance must present.
    pub drain_nonce: Option<String>,
    /// The instance that is going away.
    pub drain_instance: Option<String>,
    /// When the container was last asked whether it is another one by now.
    pub drain_asked_at: Option<Timestamp>,
    /// The container process last heard of.
    pub instance_id: Option<String>,
    /// The instance whose drain ended last: ends of its attempts are evictions.
    pub drained_instance: Option<String>,
    /// The last proof of a bead's attempt.
    pub last_proven_at: Option<Timestamp>,
    /// Whose it was.
    pub last_proven_bead: Option<BeadId>,
    /// The last proof of another bead than that.
    pub other_proven_at: Option<Timestamp>,
    /// The last proof of the mayor, who has no bead.
    pub mayor_proven_at: Option<Timestamp>,
    /// Open beads may stand above a lowered cap.
    pub caps_lowered: bool,
    /// Invariants found broken so far.
    pub invariant_violations: u32,
    /// When the tokens of the agents in the container are to be renewed (`container`, which keeps this and the next; never
    /// saved from here).
    pub push_at: Option<Timestamp>,
    /// When the container is to be told the settings, which have changed.
    pub sync_at: Option<Timestamp>,
    /// Failed beads wait to be told together (`notify`, which keeps this and the next; never saved from here).
    pub rollup_waits: bool,
    /// When the last notice about failed beads went out.
    pub rollup_last_at: Option<Timestamp>,
}

impl State {
    /// Reads the row; 404 if the town was never founded.
    pub fn load(sql: &dyn Sql) -> Result<Self, TownError> {
        Self::find(sql)?.ok_or_else(|| TownError::missing("Town"))
    }

    /// Reads the row, if there is one.
    pub fn find(sql: &dyn Sql) -> Result<Option<Self>, TownError> {
        let row = first(
            sql,
            "SELECT town_id, name, owner_user_id, mayor_agent_id, slow_start, hold_until, hold_cause, hold_streak,
                    draining_since, drain_nonce, drain_instance, instance_id, drained_instance, last_proven_at,
                    last_proven_bead, other_proven_at, caps_lowered, invariant_violations, drain_asked_at,
                    rollup_count > 0, rollup_last_at, push_at, sync_at, mayor_proven_at
             FROM town
             WHERE id = 1",
            &[],
        )?;
        let Some(r) = row else { return Ok(None) };
        let c = Columns::of(&r);
        let state = Self {
            town_id: c.text(0),
            name: c.text(1),
            owner_user_id: c.text(2),
            mayor: AgentId(c.text(3)),
            slow_start: c.count(4),
            hold_until: c.opt_at(5),
            hold_cause: c.opt_text(6),
            hold_streak: c.count(7),
            draining_since: c.opt_at(8),
            drain_nonce: c.opt_text(9),
            drain_instance: c.opt_text(10),
            instance_id: c.opt_text(11),
            drained_instance: c.opt_text(12),
            last_proven_at: c.opt_at(13),
            last_proven_bead: c.opt_text(14).map(BeadId),
            other_proven_at: c.opt_at(15),
            caps_lowered: c.flag(16),
            invariant_violations: c.count(17),
            drain_asked_at: c.opt_at(18),
            rollup_waits: c.flag(19),
            rollup_last_at: c.opt_at(20),
            push_at: c.opt_at(21),
            sync_at: c.opt_at(22),
            mayor_proven_at: c.opt_at(23),
        };
        Ok(Some(c.done(state)?))
    }

    /// Writes every mutable column but those of the roll-up and of the tellings; one row.
    pub fn save(&self, sql: &dyn Sql) -> Result<(), TownError> {
        sql.execute(
            "UPDATE town
             SET slow_start = ?1, hold_until = ?2, hold_cause = ?3, hold_streak = ?4, draining_since = ?5,
                 drain_nonce = ?6, drain_instance = ?7, instance_id = ?8, drained_instance = ?9, last_proven_at = ?10,
                 last_proven_bead = ?11, other_proven_at = ?12, caps_lowered = ?13, invariant_violations = ?14,
                 drain_asked_at = ?15, mayor_proven_at = ?16
             WHERE id = 1",
            &[
                self.slow_start.into(),
                self.hold_until.into(),
                Arg::from(self.hold_cause.as_ref()),
                self.hold_streak.into(),
                self.draining_since.into(),
                Arg::from(self.drain_nonce.as_ref()),
                Arg::from(self.drain_instance.as_ref()),
                Arg::from(self.instance_id.as_ref()),
                Arg::from(self.drained_instance.as_ref()),
                self.last_proven_at.into(),
                Arg::from(self.last_proven_bead.as_ref()),
                self.other_proven_at.into(),
                self.caps_lowered.into(),
                self.invariant_violations.into(),
                self.drain_asked_at.into(),
                self.mayor_proven_at.into(),
            ],
        )?;
        Ok(())
    }

    /// True while the container is going away and no other instance has reported; ends by itself after the drain limit.
    #[must_use]
    pub fn draining(&self, now: Timestamp) -> bool {
        self.draining_since.is_some_and(|since| now.since(since) < super::policy::DRAIN_LIMIT)
    }

    /// The hold that is in force, if one is.
    #[must_use]
    pub fn hold(&self, now: Timestamp) -> Option<Timestamp> {
        self.hold_until.filter(|until| *until > now)
    }

    /// Notes a proof, the mayor's if there is no bead: another bead's infra failures may now be that bead's own fault.
    pub fn note_proof(&mut self, bead: Option<&BeadId>, now: Timestamp) {
        let Some(bead) = bead else {
            self.mayor_proven_at = Some(now);
            return;
        };
        if self.last_proven_bead.as_ref() != Some(bead) {
            self.other_proven_at = self.last_proven_at;
            self.last_proven_bead = Some(bead.clone());
        }
        self.last_proven_at = Some(now);
    }

    /// When a bead other than `bead` was last proven.
    #[must_use]
    pub fn other_proof(&self, bead: &BeadId) -> Option<Timestamp> {
        if self.last_proven_bead.as_ref() == Some(bead) { self.other_proven_at } else { self.last_proven_at }
    }
}

/// The next value of the town's order counter.
pub fn next_seq(sql: &dyn Sql) -> Result<i64, TownError> {
    let row = first(sql, "UPDATE counters SET value = value + 1 WHERE name = 'seq' RETURNING value", &[])?;
    Ok(row.ok_or_else(|| SqlError::new("counter seq is missing"))?.int(0)?)
}
