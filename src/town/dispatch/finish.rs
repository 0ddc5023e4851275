//! The end of an attempt. One step puts everything right: the attempt closed with its reason, its agent idle and
//! unhooked, its bead open with its next time, or failed at the cap; the charge refunded if the class says so; the breaker
//! told. No later tick has to discover any of it.

use super::super::Ctx;
use super::super::agent::{self, AgentStatus, Role};
use super::super::bead::{self, Bead, Because, FailureReason, Kind, Status};
use super::super::breakers::{self, Scope};
use super::super::config::{Config, RigConfig, effective_max_attempts};
use super::super::effect::DataPoint;
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::id::RigId;
use super::super::notify::{self, Notice, NoticeKind};
use super::super::policy::{PROBE_TRIAL_CAP, REJECTED_IN_A_ROW, RETRY_AFTER_MAX};
use super::super::redrive;
use super::super::rig;
use super::super::sql::{Arg, Sql, first};
use super::super::state::State;
use super::super::time::{Millis, Timestamp};
use super::super::{live, mail};
use super::attempt::{Attempt, Outcome};
use super::backoff;
use super::breaker::{self, Cause, Event, Verdict};
use super::failure::{Class, Code, Counts, Failure};
use super::{instance, proof};
use crate::town::json::json;

/// What becomes of the bead of a cancelled attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Open again, due at this time (now, if none); failed if its cap is reached.
    Requeue(Option<Timestamp>),
    /// The caller decides, in the same savepoint.
    Leave,
}

/// How an attempt ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// It did its work; the caller moves the bead on.
    Succeeded,
    /// It failed. An instance that drained turns any failure into an eviction.
    Failed(Failure),
    /// Somebody stopped it, and why.
    Cancelled(String, Then),
}

/// The cap of a bead: its rig's, else the town's.
pub fn cap(sql: &dyn Sql, config: &Config, rig_id: Option<&RigId>) -> Result<u32, TownError> {
    let rig = rig_id.map(|id| rig::find(sql, id)).transpose()?.flatten();
    Ok(effective_max_attempts(config, &rig.map_or_else(RigConfig::defaults, |r| r.config)))
}

/// Ends a live attempt; compare-and-set, so late and repeated ends change nothing and answer `false`.
pub fn finish(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt, end: End) -> Result<bool, TownError> {
    let mut state = State::load(sql)?;
    let config = Config::load(sql)?;
    let end = match end {
        End::Failed(f) if f.code != Code::AgentEvicted && instance::drained(&state, attempt) => {
            End::Failed(Failure::new(Code::AgentEvicted, f.status_code, &f.reason))
        }
        End::Failed(f) if attempt.role == Role::Mayor && f.code == Code::AgentNoProgress => {
            // A mayor has nothing to hand in: its session is over when it says so, and what its start carried was read;
            // unless somebody else waits to be heard.
            live::read(sql, ctx, attempt)?;
            if mail::wakes(sql)? { End::Failed(f) } else { End::Succeeded }
        }
        other => other,
    };
    if end == End::Succeeded {
        let lease = ctx.now.plus(config.dispatch.heartbeat_timeout_ms);
        proof::prove(sql, ctx, &mut state, &config, attempt, lease, None)?;
    }
    let bead = attempt.bead.as_ref().map(|id| bead::find(sql, id)).transpose()?.flatten();
    let sentence = Sentence::of(sql, &state, attempt, bead.as_ref(), &end)?;
    if !close_row(sql, ctx, attempt, &sentence)? {
        return Ok(false);
    }
    live::ended(sql, attempt)?;
    let was_working = agent::find(sql, &attempt.agent)?;
    if was_working.is_some_and(|a| a.status == AgentStatus::Working || a.status == AgentStatus::Waiting) {
        agent::set_status(sql, ctx, &attempt.agent, AgentStatus::Idle)?;
    }
    match bead {
        Some(bead) => settle_bead(sql, ctx, &state, &config, attempt, bead, &end, &sentence)?,
        None => settle_mayor(sql, ctx, &state, &config, attempt, &end, &sentence)?,
    }
    if let End::Failed(f) = &end {
        after_failure(sql, ctx, &mut state, &config, f)?;
        // An eviction is no failure: it is no cause, and no reason to stop a redrive.
        if sentence.outcome == Outcome::Failed {
            note_cause(sql, ctx, attempt, f)?;
            if let Some(bead) = &attempt.bead {
                redrive::failed(sql, ctx, bead, &f.fingerprint())?;
            }
        }
    }
    tell_breakers(sql, ctx, &state, &config, attempt, &end, &sentence)?;
    Ok(true)
}

/// What the end costs and where it counts.
struct Sentence {
    outcome: Outcome,
    failure: Option<Failure>,
    charged: bool,
    counts_in: Option<Scope>,
}

impl Sentence {
    fn of(sql: &dyn Sql, state: &State, attempt: &Attempt, bead: Option<&Bead>, end: &End) -> Result<Self, TownError> {
        Ok(match end {
            End::Succeeded => {
                Self { outcome: Outcome::Succeeded, failure: None, charged: attempt.charged, counts_in: None }
            }
            End::Cancelled(reason, _) => Self {
                outcome: Outcome::Cancelled,
                failure: Some(Failure::new(Code::DispatchCancelled, None, reason)),
                charged: attempt.charged,
                counts_in: None,
            },
            End::Failed(f) => {
                let rule = f.rule();
                let interrupted = rule.class == Class::Interrupted;
                // A bead that kills containers is the bead's fault: another one got through since it last failed.
                let to_blame = rule.class == Class::Infra
                    && bead.is_some_and(|b| {
                        b.last_failed_at.is_some_and(|last| state.other_proof(&b.id).is_some_and(|p| p > last))
                    });
                Self {
                    outcome: if interrupted { Outcome::Interrupted } else { Outcome::Failed },
                    failure: Some(f.clone()),
                    charged: rule.charged || to_blame,
                    counts_in: scope_of(sql, attempt, f)?,
                }
            }
        })
    }
}

fn scope_of(sql: &dyn Sql, attempt: &Attempt, f: &Failure) -> Result<Option<Scope>, TownError> {
    Ok(match f.rule().counts {
        Counts::Nothing => None,
        Counts::Town => Some(Scope::Town),
        Counts::Rig => attempt.rig.clone().map(Scope::Rig),
        Counts::TownOncePerInstance => {
            let counted = match &attempt.instance_id {
                None => None,
                Some(instance) => first(
                    sql,
                    "SELECT 1
                     FROM attempts
                     WHERE counts_in IN ('town', ?4) AND finished_at > ?1 AND code = ?2 AND instance_id = ?3
                     LIMIT 1",
                    &[
                        // An instance's agents fall silent within a few heartbeats of each other.
                        attempt.booked_at.plus(-RETRY_AFTER_MAX).into(),
                        f.code.as_str().into(),
                        instance.into(),
                        // Blame may have moved the town's failures to a rig.
                        Arg::from(attempt.rig.clone().map(|rig| Scope::Rig(rig).text()).as_deref()),
                    ],
                )?,
            };
            counted.is_none().then_some(Scope::Town)
        }
    })
}

fn close_row(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt, s: &Sentence) -> Result<bool, TownError> {
    let f = s.failure.as_ref();
    let duration: Millis = ctx.now.since(attempt.booked_at).max(0);
    let changed = sql.execute(
        "UPDATE attempts
         SET outcome = ?2, class = ?3, code = ?4, reason = ?5, status_code = ?6, fingerprint = ?7, charged = ?8,
             counts_in = ?9, finished_at = ?10, duration_ms = ?11, look_until = NULL, lost_code = NULL,
             lost_reason = NULL
         WHERE attempt_id = ?1 AND finished_at IS NULL",
        &[
            (&attempt.id).into(),
            s.outcome.as_str().into(),
            // A dispatch that somebody stopped belongs to no class of failures.
            Arg::from(f.filter(|_| s.outcome != Outcome::Cancelled).map(|f| f.rule().class.as_str())),
            Arg::from(f.map(|f| f.code.as_str())),
            Arg::from(f.map(|f| f.reason.as_str())),
            Arg::from(f.and_then(|f| f.status_code).map(u32::from)),
            Arg::from(f.map(Failure::fingerprint).as_deref()),
            s.charged.into(),
            Arg::from(s.counts_in.as_ref().map(Scope::text).as_deref()),
            ctx.now.into(),
            duration.into(),
        ],
    )?;
    if changed > 0 {
        let reason = f.map_or_else(|| s.outcome.as_str().to_owned(), |f| f.reason.clone());
        ctx.emit(DataPoint {
            event: if s.outcome == Outcome::Failed { "agent.dispatch_failed" } else { "agent.exited" },
            error: f.map(|f| f.reason.clone()).unwrap_or_default(),
            reason,
            label: f.map_or_else(|| s.outcome.as_str(), |f| f.code.as_str()).to_owned(),
            rig_id: attempt.rig.clone().map(|r| r.0).unwrap_or_default(),
            agent_id: attempt.agent.0.clone(),
            bead_id: attempt.bead.clone().map(|b| b.0).unwrap_or_default(),
            role: attempt.role.as_str().to_owned(),
            #[allow(clippy::cast_precision_loss, reason = "milliseconds of one attempt are far below 2^53")]
            duration_ms: duration as f64,
            status_code: f64::from(f.and_then(|f| f.status_code).unwrap_or(0)),
            ..DataPoint::default()
        });
    }
    Ok(changed > 0)
}

#[allow(clippy::too_many_arguments, reason = "one savepoint, one story; splitting it would hide the order")]
fn settle_bead(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    config: &Config,
    attempt: &Attempt,
    mut bead: Bead,
    end: &End,
    s: &Sentence,
) -> Result<(), TownError> {
    if agent::find(sql, &attempt.agent)?.is_some_and(|a| a.hook.as_ref() == Some(&bead.id)) {
        agent::unhook(sql, ctx, &attempt.agent, &bead.id, s.outcome.as_str())?;
    }
    let f = match (end, &s.failure) {
        (End::Succeeded, _) | (_, None) => {
            return counters(sql, &bead, &Counters { attempts: 0, streak: 0, ..Counters::keep(&bead) });
        }
        (_, Some(f)) => f,
    };
    let attempts = if s.charged { bead.dispatch_attempts } else { bead.dispatch_attempts.saturating_sub(1) };
    let at_cap = attempts >= cap(sql, config, bead.rig_id.as_ref())?;
    let streak = bead.failure_streak.saturating_add(1);
    let backoff = || ctx.now.plus(backoff::bead_backoff(&config.dispatch, &state.town_id, bead.id.as_str(), streak));
    let (next, streak, failed_at) = match (s.outcome, end) {
        // Nobody's fault: at once, as if it had never begun.
        (Outcome::Interrupted, _) => (None, bead.failure_streak, bead.last_failed_at),
        (_, End::Cancelled(_, Then::Requeue(next))) => (*next, streak, bead.last_failed_at),
        (_, End::Cancelled(_, Then::Leave)) => (None, streak, bead.last_failed_at),
        _ => (Some(backoff()), streak, Some(ctx.now)),
    };
    let left = matches!(end, End::Cancelled(_, Then::Leave)) || bead.status != Status::InProgress;
    let hopeless = f.code == Code::ContainerRejected;
    // An uncharged end comes to the cap, too, if that was lowered meanwhile.
    let fails = !left && (at_cap || hopeless);
    counters(
        sql,
        &bead,
        &Counters {
            attempts,
            streak,
            next: next.filter(|_| !fails),
            failed_at,
            failure_charged: (s.outcome == Outcome::Failed).then_some(s.charged),
            review: bead.review_not_before,
        },
    )?;
    if s.outcome == Outcome::Failed {
        event::record(
            sql,
            ctx,
            &bead.id,
            Happening {
                kind: "dispatch_failed",
                agent: Some(&attempt.agent),
                old: Some(attempt.id.as_str()),
                new: Some(f.code.as_str()),
                metadata: Some(json!({"class": f.rule().class.as_str(), "reason": f.reason, "charged": s.charged})),
            },
        )?;
    }
    if left {
        return Ok(());
    }
    let because = Because { agent: Some(&attempt.agent), ..Because::of("system", &f.reason) };
    if fails {
        return fail(sql, ctx, config, &mut bead, f, &because);
    }
    bead::transition(sql, ctx, &mut bead, Status::Open, because)
}

/// Fails a bead by dispatch: with the code of the attempt that failed it, and a word to the mayor.
pub fn fail(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    bead: &mut Bead,
    f: &Failure,
    because: &Because<'_>,
) -> Result<(), TownError> {
    let failure =
        FailureReason { code: f.code.as_str().to_owned(), message: f.reason.clone(), source: "dispatch".to_owned() };
    bead::transition(
        sql,
        ctx,
        bead,
        Status::Failed,
        Because { failure: Some(failure), agent: because.agent, ..Because::of(because.actor, because.reason) },
    )?;
    sql.execute(
        "UPDATE beads SET failed_fingerprint = ?2 WHERE bead_id = ?1",
        &[(&bead.id).into(), (&f.fingerprint()).into()],
    )?;
    let what = if bead.kind == Kind::MergeRequest { "The review" } else { "The bead" };
    let text = format!("{what} «{}» failed and waits for a redrive: {}", bead.title, f.reason);
    let facts = json!({"bead_id": bead.id, "title": bead.title, "code": f.code.as_str(), "reason": f.reason});
    notify::bead_failed(sql, ctx, config, &bead.id, &text, facts)
}

/// The columns that an end writes.
struct Counters {
    attempts: u32,
    streak: u32,
    next: Option<Timestamp>,
    failed_at: Option<Timestamp>,
    /// Whether the failure was charged; none = it was no failure, and the last one's stays.
    failure_charged: Option<bool>,
    review: Option<Timestamp>,
}

impl Counters {
    const fn keep(bead: &Bead) -> Self {
        Self {
            attempts: bead.dispatch_attempts,
            streak: bead.failure_streak,
            next: None,
            failed_at: bead.last_failed_at,
            failure_charged: Some(false),
            review: bead.review_not_before,
        }
    }
}

fn counters(sql: &dyn Sql, bead: &Bead, c: &Counters) -> Result<(), TownError> {
    sql.execute(
        "UPDATE beads
         SET dispatch_attempts = ?2, failure_streak = ?3, next_dispatch_at = ?4, not_before = ?5, last_failed_at = ?6,
             last_failure_charged = coalesce(?7, last_failure_charged)
         WHERE bead_id = ?1",
        &[
            (&bead.id).into(),
            c.attempts.into(),
            c.streak.into(),
            c.next.into(),
            c.next.max(c.review).into(),
            c.failed_at.into(),
            c.failure_charged.into(),
        ],
    )?;
    Ok(())
}

/// A mayor's attempt has no bead: its streak and backoff are the agent's, and there is no cap. One that ends well although
/// somebody still waits to be heard backs off, too, or it would be started in a circle.
fn settle_mayor(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    config: &Config,
    attempt: &Attempt,
    end: &End,
    s: &Sentence,
) -> Result<(), TownError> {
    let Some(mayor) = agent::find(sql, &attempt.agent)? else { return Ok(()) };
    if s.outcome == Outcome::Interrupted || *end == End::Succeeded && !mail::wakes(sql)? {
        return agent::set_streak(sql, &mayor.id, 0, 0, None);
    }
    // One that lived as long as a trial must has shown that starts work: what failed before it is forgotten.
    let lasted = ctx.now.since(attempt.booked_at) >= PROBE_TRIAL_CAP;
    let streak = if lasted { 1 } else { mayor.failure_streak.saturating_add(1) };
    let wait = backoff::bead_backoff(&config.dispatch, &state.town_id, mayor.id.as_str(), streak);
    agent::set_streak(sql, &mayor.id, mayor.dispatch_attempts, streak, Some(ctx.now.plus(wait)))
}

/// Holds, slow start and notices that a class brings with it.
fn after_failure(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &mut State,
    config: &Config,
    f: &Failure,
) -> Result<(), TownError> {
    match f.rule().class {
        Class::Infra => {
            state.slow_start = 1;
            state.save(sql)?;
        }
        Class::Throttle => {
            state.hold_streak = state.hold_streak.saturating_add(1);
            let wait = backoff::throttle_hold(&config.dispatch, state.hold_streak, f.retry_after);
            // A hold is only ever prolonged: answers to starts that were already in the air may ask for less.
            state.hold_until = state.hold_until.max(Some(ctx.now.plus(wait)));
            state.hold_cause = Some(f.code.as_str().to_owned());
            state.save(sql)?;
        }
        _ => {}
    }
    Ok(())
}

fn note_cause(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt, f: &Failure) -> Result<(), TownError> {
    let fingerprint = f.fingerprint();
    let seen = match &attempt.bead {
        None => None,
        Some(bead) => first(
            sql,
            "SELECT 1 FROM attempts WHERE fingerprint = ?1 AND bead_id = ?2 AND attempt_id <> ?3 LIMIT 1",
            &[(&fingerprint).into(), bead.into(), (&attempt.id).into()],
        )?,
    };
    let new_bead = attempt.bead.is_some() && seen.is_none();
    sql.execute(
        "INSERT INTO causes (fingerprint, code, class, failures, beads, first_seen, last_seen, sample)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?5, ?6)
         ON CONFLICT (fingerprint) DO UPDATE
         SET failures = failures + 1, beads = beads + excluded.beads, last_seen = excluded.last_seen,
             sample = excluded.sample",
        &[
            (&fingerprint).into(),
            f.code.as_str().into(),
            f.rule().class.as_str().into(),
            new_bead.into(),
            ctx.now.into(),
            (&f.reason).into(),
        ],
    )?;
    Ok(())
}

/// What the end means to a scope whose trial this attempt is.
fn verdict(scope: &Scope, end: &End, ran: Millis) -> Verdict {
    let f = match end {
        End::Succeeded => return Verdict::Succeeded,
        End::Cancelled(..) => return Verdict::Inconclusive,
        End::Failed(f) => f,
    };
    // A container that refuses a bead says nothing about itself; see `rejected_in_a_row`.
    if f.code == Code::ContainerRejected {
        return Verdict::Inconclusive;
    }
    match (scope, f.rule().counts) {
        (Scope::Town, Counts::Town | Counts::TownOncePerInstance) | (Scope::Rig(_), Counts::Rig) => {
            Verdict::Failed(ran)
        }
        (Scope::Rig(_), Counts::Town) if !matches!(f.rule().class, Class::Infra | Class::Throttle) => {
            Verdict::Failed(ran)
        }
        _ => Verdict::Inconclusive,
    }
}

fn tell_breakers(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    config: &Config,
    attempt: &Attempt,
    end: &End,
    s: &Sentence,
) -> Result<(), TownError> {
    let ran = ctx.now.since(attempt.booked_at).max(0);
    let rejected = match end {
        End::Failed(f) if f.code == Code::ContainerRejected => rejected_in_a_row(sql, ctx)?,
        _ => false,
    };
    for scope in [Some(Scope::Town), attempt.rig.clone().map(Scope::Rig)].into_iter().flatten() {
        if attempt.probe {
            let verdict =
                if rejected && scope == Scope::Town { Verdict::Failed(ran) } else { verdict(&scope, end, ran) };
            breakers::apply(sql, ctx, state, config, &scope, Event::Ended(attempt.id.clone(), verdict))?;
        }
    }
    proof::up_to_speed(sql, ctx, state, config)?;
    let End::Failed(f) = end else { return Ok(()) };
    if rejected {
        let cause = Cause {
            code: f.code.as_str().to_owned(),
            text: format!("the container refused {REJECTED_IN_A_ROW} different beads in a row: {}", f.reason),
        };
        breakers::open_at_once(sql, ctx, state, config, cause, ran)?;
    }
    if f.rule().opens_at_once {
        let cause = Cause { code: f.code.as_str().to_owned(), text: f.reason.clone() };
        breakers::open_at_once(sql, ctx, state, config, cause, ran)?;
    }
    if let Some(scope) = &s.counts_in {
        breakers::judge(sql, ctx, state, config, scope)?;
    }
    if f.rule().notice {
        // Once per episode; what comes before one belongs to the episode that it will begin.
        let b = breakers::load(sql, &Scope::Town)?;
        let before = b.state == breaker::State::Closed && b.settled;
        let generation = b.generation.saturating_add(u32::from(before));
        notify::notify(
            sql,
            ctx,
            config,
            Notice {
                kind: NoticeKind::ConfigError,
                dedupe_key: format!("config:{}:{generation}", f.code.as_str()),
                severity: "high",
                scope: Some(Scope::Town.text()),
                bead_id: attempt.bead.clone(),
                text: format!(
                    "Agents cannot be started until somebody changes something: {} {}",
                    f.reason,
                    f.rule().advice
                ),
                facts: json!({"code": f.code.as_str(), "reason": f.reason, "advice": f.rule().advice}),
            },
        )?;
    }
    Ok(())
}

/// Three rejections in a row on different beads with nothing accepted in between are the container's fault: their beads
/// are redriven. True if that is so now.
///
/// It also ends a trial as failed. The paper calls a rejected trial inconclusive; but a container that refuses everything
/// would then fail three beads every two minutes for ever (`docs/decisions/004`).
fn rejected_in_a_row(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<bool, TownError> {
    // As many attempts as may be in flight beside the three are read: they, too, could have been accepted in between.
    let rows =
        sql.query("SELECT bead_id, code, accepted_at, finished_at FROM attempts ORDER BY seq DESC LIMIT 20", &[])?;
    let mut refused: Vec<(String, i64)> = Vec::new();
    let mut accepted = i64::MIN;
    for r in &rows {
        accepted = accepted.max(r.opt_int(2)?.unwrap_or(i64::MIN));
        if let (Some(bead), Some(code), Some(at)) = (r.opt_text(0)?, r.opt_text(1)?, r.opt_int(3)?)
            && code == Code::ContainerRejected.as_str()
        {
            refused.push((bead, at));
        }
    }
    refused.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    refused.truncate(REJECTED_IN_A_ROW as usize);
    let mut beads: Vec<&str> = refused.iter().map(|(b, _)| b.as_str()).collect();
    beads.sort_unstable();
    beads.dedup();
    let enough = beads.len() >= REJECTED_IN_A_ROW as usize;
    let uninterrupted = refused.iter().all(|(_, at)| accepted < *at);
    if !enough || !uninterrupted {
        return Ok(false);
    }
    for (bead, _) in &refused {
        redrive::by_system(sql, ctx, &bead.as_str().into(), "the container refused every bead, not only this one")?;
    }
    Ok(true)
}
