//! The breakers' rows: what counts in a scope, when it trips, and what follows from a step of the pure breaker.

use super::Ctx;
use super::config::Config;
use super::dispatch::backoff;
use super::dispatch::breaker::{
    Breaker, Cause, Change, Event, Mode, Override, Rules, State as BreakerState, Trial, step,
};
use super::effect::DataPoint;
use super::error::TownError;
use super::id::{AttemptId, BeadId, RigId};
use super::json::{self, json};
use super::notify::{self, Notice, NoticeKind};
use super::sorted::Sorted;
use super::sql::{Arg, Columns, Row, Sql, SqlError, each, first};
use super::state::State;
use super::time::{Millis, Timestamp, in_words};
use serde_json::Value as Json;

/// What a breaker stands over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The whole town.
    Town,
    /// One rig.
    Rig(RigId),
}

impl Scope {
    /// `town` or `rig:<id>`, as stored and as on the wire.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Town => "town".to_owned(),
            Self::Rig(id) => format!("rig:{id}"),
        }
    }
    /// Reads a scope.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "town" => Some(Self::Town),
            _ => text.strip_prefix("rig:").filter(|id| !id.is_empty()).map(|id| Self::Rig(RigId::from(id))),
        }
    }
}

/// The moments of a list that a text holds.
fn moments(text: &str) -> Option<Vec<Timestamp>> {
    json::read(text)?.as_array()?.iter().map(|at| at.as_i64().map(Timestamp)).collect()
}

fn read(r: &Row) -> Result<(Scope, Breaker), SqlError> {
    let c = Columns::of(r);
    let scope = c.word(0, Scope::parse, Scope::Town);
    let trial = c.opt_text(14).map(|attempt| Trial {
        attempt: AttemptId(attempt),
        bead: c.opt_text(15).map(BeadId),
        booked_at: c.at(16),
        proven: c.flag(17),
        lease_until: c.at(18),
    });
    let override_ = match (c.opt_text(25), c.opt_at(28)) {
        (Some(_), Some(until)) => Some(Override {
            mode: c.word(25, Mode::parse, Mode::Shadow),
            actor: c.opt_text(26).unwrap_or_default(),
            reason: c.opt_text(27).unwrap_or_default(),
            until,
        }),
        _ => None,
    };
    let cause = match (c.opt_text(4), c.opt_text(5)) {
        (Some(code), Some(text)) => Some(Cause { code, text }),
        _ => None,
    };
    let breaker = Breaker {
        state: c.word(1, BreakerState::parse, BreakerState::Closed),
        generation: c.count(2),
        opened_at: c.opt_at(3),
        cause,
        blamed_role: c.opt_text(6),
        blamed_rig: c.opt_text(7).map(RigId),
        trial_ms: c.int(8),
        told: c.flag(9),
        still_open_told: c.flag(10),
        next_probe_at: c.opt_at(11),
        delay_step: c.count(12),
        failed_probes: c.count(13),
        trial,
        health_until: c.opt_at(19),
        trials: c.count(20),
        forwarded: c.flag(21),
        forwards: moments(&c.text(22)).unwrap_or_default(),
        asked_at: c.opt_at(23),
        closed_at: c.opt_at(24),
        override_,
        settled: c.flag(29),
    };
    c.done((scope, breaker))
}

macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT scope, state, generation, opened_at, cause_code, cause_text, blamed_role, blamed_rig, trial_ms,
                    told, still_open_told, next_probe_at, delay_step, failed_probes, probe_attempt_id, probe_bead_id,
                    probe_booked_at, probe_proven, probe_lease_until, health_until, trials, forwarded, forwards,
                    asked_at, closed_at, override_mode, override_actor, override_reason, override_until, settled
             FROM breakers ",
            $rest
        )
    };
}

/// The breaker of a scope; a closed one if it has no row yet.
pub fn load(sql: &dyn Sql, scope: &Scope) -> Result<Breaker, TownError> {
    let row = first(sql, columns!("WHERE scope = ?1"), &[(&scope.text()).into()])?;
    Ok(row.as_ref().map(read).transpose()?.map_or_else(Breaker::default, |(_, b)| b))
}

/// Every breaker that has a row.
pub fn all(sql: &dyn Sql) -> Result<Sorted<Scope, Breaker>, TownError> {
    Ok(sql.query(columns!("ORDER BY scope"), &[])?.iter().map(read).collect::<Result<_, _>>()?)
}

fn save(sql: &dyn Sql, scope: &Scope, b: &Breaker) -> Result<(), TownError> {
    let forwards: Vec<i64> = b.forwards.iter().map(|t| t.0).collect();
    let trial = b.trial.as_ref();
    let over = b.override_.as_ref();
    sql.execute(
        "INSERT OR REPLACE INTO breakers
           (scope, state, generation, opened_at, cause_code, cause_text, blamed_role, blamed_rig, trial_ms, told,
            still_open_told, next_probe_at, delay_step, failed_probes, probe_attempt_id, probe_bead_id,
            probe_booked_at, probe_proven, probe_lease_until, health_until, trials, forwarded, forwards, asked_at,
            closed_at, override_mode, override_actor, override_reason, override_until, settled)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
                 ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30)",
        &[
            (&scope.text()).into(),
            b.state.as_str().into(),
            b.generation.into(),
            b.opened_at.into(),
            Arg::from(b.cause.as_ref().map(|c| c.code.as_str())),
            Arg::from(b.cause.as_ref().map(|c| c.text.as_str())),
            Arg::from(b.blamed_role.as_ref()),
            b.blamed_rig.as_ref().into(),
            b.trial_ms.into(),
            b.told.into(),
            b.still_open_told.into(),
            b.next_probe_at.into(),
            b.delay_step.into(),
            b.failed_probes.into(),
            trial.map(|t| &t.attempt).into(),
            trial.and_then(|t| t.bead.as_ref()).into(),
            trial.map(|t| t.booked_at).into(),
            trial.is_some_and(|t| t.proven).into(),
            trial.map(|t| t.lease_until).into(),
            b.health_until.into(),
            b.trials.into(),
            b.forwarded.into(),
            (&json!(forwards).to_string()).into(),
            b.asked_at.into(),
            b.closed_at.into(),
            Arg::from(over.map(|o| o.mode.as_str())),
            Arg::from(over.map(|o| o.actor.as_str())),
            Arg::from(over.map(|o| o.reason.as_str())),
            over.map(|o| o.until).into(),
            b.settled.into(),
        ],
    )?;
    Ok(())
}

/// Applies one event to one breaker, stores it, and does what follows: tells people, frees beads, counts.
pub fn apply(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    config: &Config,
    scope: &Scope,
    event: Event,
) -> Result<Vec<Change>, TownError> {
    let before = load(sql, scope)?;
    let mut b = before.clone();
    let name = scope.text();
    let delay = |generation, step| backoff::probe_delay(&config.breaker, &state.town_id, &name, generation, step);
    let rules = Rules { delay: &delay, still_open: config.notify.still_open_ms };
    let changes = step(&mut b, event, ctx.now, &rules);
    if b != before {
        save(sql, scope, &b)?;
    }
    for change in &changes {
        follow(sql, ctx, config, scope, &b, *change)?;
    }
    Ok(changes)
}

fn follow(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    scope: &Scope,
    b: &Breaker,
    change: Change,
) -> Result<(), TownError> {
    let point = |event| DataPoint {
        event,
        label: scope.text(),
        reason: b.cause.as_ref().map_or_else(|| "-".to_owned(), |c| c.text.clone()),
        error: b.cause.as_ref().map_or_else(|| "-".to_owned(), |c| c.code.clone()),
        value: f64::from(b.generation),
        ..DataPoint::default()
    };
    match change {
        Change::Opened => ctx.emit(point("breaker.opened")),
        Change::HalfOpened => ctx.emit(point("breaker.half_opened")),
        Change::Closed => {
            ctx.emit(point("breaker.closed"));
            free_the_blameless(sql, scope)?;
        }
        Change::EpisodeBegan => forget_probes(sql, scope)?,
        Change::TellOpened => tell(sql, ctx, config, scope, b, NoticeKind::BreakerOpened)?,
        Change::TellStillOpen => tell(sql, ctx, config, scope, b, NoticeKind::BreakerStillOpen)?,
        Change::TellClosed => tell(sql, ctx, config, scope, b, NoticeKind::BreakerClosed)?,
        Change::ProbeFailed | Change::OverrideEnded => {}
    }
    Ok(())
}

/// Beads whose last failure was not theirs become due now with streak 0 (`design.md` 5.5), and so does the mayor.
fn free_the_blameless(sql: &dyn Sql, scope: &Scope) -> Result<(), TownError> {
    if *scope == Scope::Town {
        sql.execute(
            "UPDATE agents
             SET failure_streak = 0, next_dispatch_at = NULL
             WHERE agent_id = (SELECT mayor_agent_id FROM town) AND next_dispatch_at IS NOT NULL
               AND (SELECT t.charged FROM attempts t WHERE t.agent_id = agents.agent_id ORDER BY t.seq DESC LIMIT 1) = 0",
            &[],
        )?;
    }
    match scope {
        Scope::Town => sql.execute(
            "UPDATE beads
             SET failure_streak = 0, next_dispatch_at = NULL, not_before = review_not_before
             WHERE status = 'open' AND failure_streak > 0 AND last_failure_charged = 0",
            &[],
        )?,
        Scope::Rig(rig) => sql.execute(
            "UPDATE beads
             SET failure_streak = 0, next_dispatch_at = NULL, not_before = review_not_before
             WHERE rig_id = ?1 AND status = 'open' AND failure_streak > 0 AND last_failure_charged = 0",
            &[rig.into()],
        )?,
    };
    Ok(())
}

/// A new episode counts its probes anew.
fn forget_probes(sql: &dyn Sql, scope: &Scope) -> Result<(), TownError> {
    match scope {
        Scope::Town => sql.execute("UPDATE beads SET probes = 0 WHERE probes > 0", &[])?,
        Scope::Rig(rig) => {
            sql.execute("UPDATE beads SET probes = 0 WHERE probes > 0 AND rig_id = ?1", &[rig.into()])?
        }
    };
    Ok(())
}

fn place(sql: &dyn Sql, scope: &Scope) -> Result<String, TownError> {
    Ok(match scope {
        Scope::Town => "this town".to_owned(),
        Scope::Rig(id) => {
            let row = first(sql, "SELECT name FROM rigs WHERE rig_id = ?1", &[id.into()])?;
            format!("rig {}", row.map_or_else(|| Ok(id.0.clone()), |r| r.text(0))?)
        }
    })
}

fn tell(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    scope: &Scope,
    b: &Breaker,
    kind: NoticeKind,
) -> Result<(), TownError> {
    let place = place(sql, scope)?;
    let why = b.cause.as_ref().map_or("unknown", |c| c.text.trim_end_matches('.'));
    let next = b.next_probe_at.map_or_else(|| "as soon as a bead is ready".to_owned(), |t| format!("at {t}"));
    let lasted = b.opened_at.map_or(0, |t| ctx.now.since(t));
    let mut text = match kind {
        NoticeKind::BreakerOpened => format!(
            "Dispatch is stopped in {place}: {why}. No bead is lost. The next probe is {next}; dispatch goes on by \
             itself once one succeeds."
        ),
        NoticeKind::BreakerStillOpen => format!(
            "Dispatch is still stopped in {place} after {}: {why}. {} probes have failed; the next one is {next}.",
            in_words(lasted),
            b.failed_probes
        ),
        _ => format!("Dispatch is back in {place} after {}. It was stopped because: {why}.", in_words(lasted)),
    };
    if let Some(o) = b.order(ctx.now) {
        text = format!("{text} (An override is in force until {}: {}, by {}.)", o.until, o.mode.as_str(), o.actor);
    }
    let facts = json!({
        "scope": scope.text(),
        "generation": b.generation,
        "cause": b.cause.as_ref().map(|c| json!({"code": c.code, "text": c.text})),
        "opened_at": b.opened_at,
        "next_probe_at": b.next_probe_at,
        "failed_probes": b.failed_probes,
        "closed_at": b.closed_at.filter(|_| kind == NoticeKind::BreakerClosed),
    });
    let word = match kind {
        NoticeKind::BreakerOpened => "opened",
        NoticeKind::BreakerStillOpen => "still_open",
        _ => "closed",
    };
    notify::notify(
        sql,
        ctx,
        config,
        Notice {
            kind,
            dedupe_key: format!("breaker:{}:{}:{word}", scope.text(), b.generation),
            severity: if kind == NoticeKind::BreakerClosed { "low" } else { "high" },
            scope: Some(scope.text()),
            bead_id: None,
            text,
            facts,
        },
    )?;
    Ok(())
}

/// A counted failure, as far as a threshold asks.
#[derive(Clone, Debug)]
struct Counted {
    class: String,
    code: String,
    who: String,
    rig: Option<RigId>,
    role: String,
    duration: Millis,
    reason: String,
}

/// The counted failures of a scope: those of the window, and those in a row.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    window: Vec<Counted>,
    streak: Vec<Counted>,
}

fn counted(sql: &dyn Sql, scope: &Scope, after: Timestamp, limit: u32) -> Result<Vec<Counted>, TownError> {
    let rows = sql.query(
        "SELECT class, code, coalesce(bead_id, agent_id), rig_id, role, duration_ms, reason
         FROM attempts
         WHERE counts_in = ?1 AND finished_at > ?2
         ORDER BY finished_at DESC
         LIMIT ?3",
        &[(&scope.text()).into(), after.into(), limit.into()],
    )?;
    let read = |r: &Row| -> Result<Counted, SqlError> {
        Ok(Counted {
            class: r.opt_text(0)?.unwrap_or_default(),
            code: r.opt_text(1)?.unwrap_or_default(),
            who: r.text(2)?,
            rig: r.opt_text(3)?.map(RigId),
            role: r.text(4)?,
            duration: r.opt_int(5)?.unwrap_or(0),
            reason: r.opt_text(6)?.unwrap_or_default(),
        })
    };
    Ok(each(&rows, read)?)
}

/// Reads what counts in a scope now: at most one row more than the threshold asks for.
pub fn tally(
    sql: &dyn Sql,
    state: &State,
    config: &Config,
    scope: &Scope,
    b: &Breaker,
    now: Timestamp,
) -> Result<Tally, TownError> {
    let closed = b.closed_at.unwrap_or_default();
    let policy = &config.breaker;
    let proven = match scope {
        Scope::Town => last_proof(sql, state)?,
        Scope::Rig(rig) => super::rig::find(sql, rig)?.and_then(|r| r.last_proven_at),
    }
    .unwrap_or_default();
    let window = counted(sql, scope, closed.max(now.plus(-policy.window_ms)), policy.failures.saturating_add(1))?;
    let streak = counted(sql, scope, closed.max(proven), consecutive(config, scope))?;
    Ok(Tally { window, streak })
}

/// The last proof of any attempt of the town, the mayor's included.
fn last_proof(sql: &dyn Sql, state: &State) -> Result<Option<Timestamp>, TownError> {
    let rigs = first(sql, "SELECT max(last_proven_at) FROM rigs", &[])?.map_or(Ok(None), |r| r.opt_int(0))?;
    Ok(state.last_proven_at.max(state.mayor_proven_at).max(rigs.map(Timestamp)))
}

const fn consecutive(config: &Config, scope: &Scope) -> u32 {
    match scope {
        Scope::Town => config.breaker.consecutive,
        Scope::Rig(_) => config.breaker.rig_consecutive,
    }
}

impl Tally {
    /// Counted failures in the window (at most one more than the threshold).
    #[must_use]
    pub fn failures_in_window(&self) -> u32 {
        u32::try_from(self.window.len()).unwrap_or(u32::MAX)
    }
    /// Counted failures in a row with nothing proven in between (at most as many as the threshold).
    #[must_use]
    pub fn in_a_row(&self) -> u32 {
        u32::try_from(self.streak.len()).unwrap_or(u32::MAX)
    }

    /// Which of the two rules trips, if one does; the failures it judged by.
    fn trips(&self, config: &Config, scope: &Scope) -> Option<(&[Counted], String)> {
        let policy = &config.breaker;
        if self.failures_in_window() > policy.failures {
            let text = format!("more than {} failures in {}", policy.failures, in_words(policy.window_ms));
            return Some((&self.window, text));
        }
        if self.in_a_row() >= consecutive(config, scope) {
            let first = self.streak.first().map(|f| &f.who);
            let several = self.streak.iter().any(|f| Some(&f.who) != first);
            let infra = self.streak.iter().all(|f| f.class == "infra");
            // One bad bead must not open a town; a rig's repository is nobody's bead.
            if infra || several || matches!(scope, Scope::Rig(_)) {
                let text = format!("{} failures in a row with nothing proven in between", self.streak.len());
                return Some((&self.streak, text));
            }
        }
        None
    }
}

fn most<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts: Sorted<&str, u32> = Sorted::new();
    for word in words {
        counts.count(word);
    }
    counts.iter().max_by_key(|(_, n)| **n).map(|(w, _)| (*w).to_owned())
}

fn only_rig(failures: &[Counted]) -> Option<RigId> {
    let rig = failures.first()?.rig.clone()?;
    failures.iter().all(|f| f.rig.as_ref() == Some(&rig)).then_some(rig)
}

fn tripped(failures: &[Counted], text: &str) -> Event {
    let code = most(failures.iter().map(|f| f.code.as_str())).unwrap_or_default();
    let sample = failures.iter().find(|f| f.code == code).map_or("", |f| f.reason.as_str());
    Event::Tripped {
        cause: Cause { text: format!("{text}, mostly {code}: {sample}"), code },
        longest: failures.iter().map(|f| f.duration).max().unwrap_or(0),
        role: most(failures.iter().map(|f| f.role.as_str())),
        rig: only_rig(failures),
    }
}

/// A failure was counted in `scope`: opens its breaker if a threshold is crossed.
///
/// If every counted failure of the window is one rig's and another rig was proven in it, that rig opens instead of the
/// town, and the failures count there from now on: the town must not open over what has been dealt with.
pub fn judge(sql: &dyn Sql, ctx: &Ctx<'_>, state: &State, config: &Config, scope: &Scope) -> Result<(), TownError> {
    let b = load(sql, scope)?;
    if b.state != BreakerState::Closed {
        return Ok(());
    }
    let tally = tally(sql, state, config, scope, &b, ctx.now)?;
    let Some((failures, text)) = tally.trips(config, scope) else { return Ok(()) };
    let event = tripped(failures, &text);
    if let (Scope::Town, Some(rig)) = (scope, only_rig(&tally.window)) {
        let since = b.closed_at.unwrap_or_default().max(ctx.now.plus(-config.breaker.window_ms));
        let other = first(
            sql,
            "SELECT 1 FROM rigs WHERE rig_id <> ?1 AND last_proven_at > ?2 LIMIT 1",
            &[(&rig).into(), since.into()],
        )?;
        if other.is_some() {
            let rig = Scope::Rig(rig);
            apply(sql, ctx, state, config, &rig, event)?;
            sql.execute(
                "UPDATE attempts SET counts_in = ?2 WHERE counts_in = 'town' AND finished_at > ?1",
                &[since.into(), (&rig.text()).into()],
            )?;
            return Ok(());
        }
    }
    apply(sql, ctx, state, config, scope, event)?;
    Ok(())
}

/// Opens the town at once: the failure says that nothing can succeed (a refused key, a container that refuses all).
pub fn open_at_once(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    config: &Config,
    cause: Cause,
    longest: Millis,
) -> Result<(), TownError> {
    apply(sql, ctx, state, config, &Scope::Town, Event::Tripped { cause, longest, role: None, rig: None })?;
    Ok(())
}

/// One breaker in `api.md`'s shape.
pub fn show(
    sql: &dyn Sql,
    state: &State,
    config: &Config,
    scope: &Scope,
    b: &Breaker,
    now: Timestamp,
) -> Result<Json, TownError> {
    let tally = tally(sql, state, config, scope, b, now)?;
    let threshold = match scope {
        Scope::Town => config.breaker.failures,
        Scope::Rig(_) => config.breaker.rig_consecutive,
    };
    Ok(json!({
        "scope": scope.text(),
        "state": b.state.as_str(),
        "effective": b.effective(now).as_str(),
        "generation": b.generation,
        "cause": b.cause.as_ref().filter(|_| b.state != BreakerState::Closed)
            .map(|c| json!({"code": c.code, "text": c.text})),
        "failures_in_window": tally.failures_in_window(),
        "in_a_row": tally.in_a_row(),
        "threshold": threshold,
        "window_ms": config.breaker.window_ms,
        "opened_at": b.opened_at,
        "next_probe_at": b.next_probe_at,
        "failed_probes": b.failed_probes,
        "probe": b.trial.as_ref()
            .map(|t| json!({"attempt_id": t.attempt, "bead_id": t.bead, "lease_until": t.lease_until})),
        "closed_at": b.closed_at,
        "override": b.order(now).map(|o| json!({
            "mode": o.mode.as_str(), "actor": o.actor, "reason": o.reason, "expires_at": o.until})),
    }))
}

/// The health check of a scope has lost its owner: its lease ends now, and the probe is due as before.
pub fn forget_health(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    config: &Config,
    scope: &Scope,
) -> Result<(), TownError> {
    apply(sql, ctx, state, config, scope, Event::HealthBooked(ctx.now))?;
    apply(sql, ctx, state, config, scope, Event::Tick)?;
    Ok(())
}
