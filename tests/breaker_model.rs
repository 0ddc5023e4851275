//! The breaker, exhaustively: every state that its own `step` (the code that ships) can reach within small bounds, by
//! breadth-first search, and what must always and what must eventually hold there.
//!
//! Time is cut into units of half an hour and kept relative to *now*, so that the reachable states are finite: what lies
//! further back than every window of the breaker counts as "long ago".

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use gastown::town::dispatch::breaker::{
    Breaker, Cause, Change, Event, Mode, Override, Rules, State, Trial, Verdict, step,
};
use gastown::town::id::AttemptId;
use gastown::town::time::{MINUTE, Millis, Timestamp};
use std::collections::{HashSet, VecDeque};
use std::sync::OnceLock;

const UNIT: Millis = 30 * MINUTE;
/// Where *now* stands in every stored state.
const NOW: Timestamp = Timestamp(1_000_000_000_000);
/// Further back than this is long ago: beyond the hour that limits forwards and the half hour that limits re-opening.
const LONG_AGO: Millis = 3 * UNIT;
/// The delays of the model: one unit, then two.
fn delay(_generation: u32, step: u32) -> Millis {
    if step == 0 { UNIT } else { 2 * UNIT }
}

fn rules() -> Rules<'static> {
    Rules { delay: &delay, still_open: 2 * UNIT }
}

/// Everything that can happen to a breaker at one moment. Trials are called `a`; `b` is any other attempt, whose voice
/// is a late one.
fn events() -> Vec<Event> {
    let attempt = |name: &str| AttemptId::from(name);
    let order = |mode| {
        Event::Ordered(Some(Override { mode, actor: "user:x".into(), reason: "r".into(), until: NOW.plus(2 * UNIT) }))
    };
    let mut events = vec![
        Event::Tripped {
            cause: Cause { code: "container.unreachable".into(), text: "t".into() },
            longest: 0,
            role: None,
            rig: None,
        },
        Event::Tripped {
            cause: Cause { code: "agent.exited".into(), text: "t".into() },
            longest: UNIT,
            role: None,
            rig: None,
        },
        Event::HealthBooked(NOW.plus(UNIT)),
        Event::HealthOk,
        Event::HealthFailed,
        Event::NoCandidate,
        Event::NewInstance,
        Event::Asked,
        Event::Ordered(None),
        order(Mode::ForcedOpen),
        order(Mode::ForcedClosed),
        order(Mode::Shadow),
        Event::UpToSpeed,
        Event::Tick,
    ];
    events.push(Event::TrialBooked(Trial {
        attempt: attempt("a"),
        bead: None,
        booked_at: NOW,
        proven: false,
        lease_until: NOW.plus(UNIT),
    }));
    for name in ["a", "b"] {
        events.push(Event::Proven(attempt(name)));
        for verdict in [Verdict::Succeeded, Verdict::Failed(UNIT), Verdict::Inconclusive] {
            events.push(Event::Ended(attempt(name), verdict));
        }
    }
    events
}

/// The shell's promises, without which an event does not happen: what the reconcile rules see to.
fn possible(b: &Breaker, event: &Event) -> bool {
    match event {
        // A health check is booked when the probe is due and nobody has ordered anything.
        Event::HealthBooked(_) => {
            b.state == State::Open
                && b.health_until.is_none()
                && b.order(NOW).is_none()
                && b.next_probe_at.is_none_or(|t| t <= NOW)
        }
        // A permit is given away while half-open, or to real traffic under a mask when the probe is due.
        Event::TrialBooked(_) => {
            b.trial.is_none()
                && (b.state == State::HalfOpen && b.order(NOW).is_none()
                    || b.masked(NOW) && b.next_probe_at.is_none_or(|t| t <= NOW))
        }
        Event::NoCandidate => b.state == State::HalfOpen && b.trial.is_none() && b.order(NOW).is_none(),
        _ => true,
    }
}

/// The state as it looks `by` later, with everything relative to *now* again and what no rule can tell apart made equal.
fn later(b: &Breaker, by: Millis) -> Breaker {
    let clamp = |t: Timestamp| Timestamp((t.0 - by).max(NOW.0 - LONG_AGO));
    let mut c = b.clone();
    for t in [&mut c.opened_at, &mut c.next_probe_at, &mut c.health_until, &mut c.asked_at, &mut c.closed_at] {
        *t = t.map(clamp);
    }
    if let Some(t) = &mut c.trial {
        t.booked_at = clamp(t.booked_at);
        t.lease_until = clamp(t.lease_until);
    }
    if let Some(o) = &mut c.override_ {
        o.until = clamp(o.until);
    }
    c.forwards = c.forwards.iter().map(|t| clamp(*t)).filter(|t| NOW.since(*t) < 2 * UNIT).collect();
    c.generation = c.generation.min(1);
    c.delay_step = c.delay_step.min(1);
    c.failed_probes = 0;
    // What nothing reads in this state, or only people do.
    c.asked_at = None;
    c.cause = c.cause.map(|_| Cause { code: String::new(), text: String::new() });
    match (c.state, c.settled) {
        (State::Closed, true) => {
            (c.told, c.still_open_told, c.failed_probes, c.trial_ms) = (false, false, 0, 0);
            c.opened_at = c.opened_at.map(|_| NOW);
        }
        (State::Closed, false) => {}
        _ => c.closed_at = None,
    }
    if c.still_open_told && c.state != State::Closed {
        c.opened_at = c.opened_at.map(|_| NOW);
    }
    c
}

/// What must hold in every state.
fn always(b: &Breaker) {
    match b.state {
        State::Closed => {
            assert!(b.trial.is_none(), "a closed breaker has no trial: {b:?}");
            assert!(b.next_probe_at.is_none() && b.health_until.is_none(), "a closed breaker probes nothing: {b:?}");
        }
        State::Open => {
            assert!(b.trial.is_none(), "an open breaker has no trial: {b:?}");
            assert!(b.next_probe_at.is_some(), "an open breaker has a finite next probe: {b:?}");
            assert!(b.opened_at.is_some());
        }
        State::HalfOpen => assert!(b.health_until.is_none(), "a half-open breaker has passed its health check: {b:?}"),
    }
    assert!(b.trials < 3, "a probe has at most three trials: {b:?}");
    assert!(b.forwards.len() <= 3, "three forwards an hour: {b:?}");
    if b.state != State::Closed {
        assert!(b.settled, "while open its last closing is history: {b:?}");
    }
    if let Some(t) = b.trial_deadline() {
        assert!(t.since(b.trial.as_ref().unwrap().booked_at) <= 15 * MINUTE + 1, "a trial lasts 15 minutes at most");
    }
}

/// What must hold of every step.
fn always_step(before: &Breaker, event: &Event, after: &Breaker, changes: &[Change]) {
    assert!(after.generation >= before.generation, "generations do not run backwards");
    let began = changes.contains(&Change::EpisodeBegan);
    assert_eq!(after.generation > before.generation, began, "a generation is an episode: {event:?} {before:?}");
    if changes.contains(&Change::TellOpened) {
        assert!(!before.told || began, "an episode is told once: {event:?} {before:?}");
    }
    if changes.contains(&Change::TellClosed) {
        assert!(before.told && after.settled && after.state == State::Closed);
    }
    if before.state != State::Closed && after.state == State::Closed {
        // Proof only: the trial's success, or its being proven for long enough.
        let trial = before.trial.as_ref().expect("only a trial closes a breaker");
        match event {
            Event::Ended(a, Verdict::Succeeded) | Event::Proven(a) => {
                assert_eq!(a, &trial.attempt, "only the trial decides");
            }
            Event::Tick => assert!(trial.proven && NOW.since(trial.booked_at) > before.trial_ms),
            other => panic!("{other:?} closed it: {before:?}"),
        }
    }
    if let (Some(t), Some(u)) = (&before.trial, &after.trial) {
        assert_eq!(t.attempt, u.attempt, "one trial at a time: {event:?}");
    }
    if let Event::Ended(a, _) | Event::Proven(a) = event
        && before.trial.as_ref().is_none_or(|t| t.attempt != *a)
    {
        assert_eq!(before, after, "a late voice changes nothing");
    }
    let mode = |b: &Breaker| b.order(NOW).map(|o| o.mode);
    let left = mode(before) == Some(Mode::ForcedOpen) && mode(after) != Some(Mode::ForcedOpen);
    if matches!(event, Event::Ordered(_)) && !left {
        assert_eq!(before.state, after.state, "an order masks the state, it does not change it");
    }
}

/// Every reachable state, found once for all tests.
fn reachable() -> &'static [Breaker] {
    static STATES: OnceLock<Vec<Breaker>> = OnceLock::new();
    STATES.get_or_init(search)
}

fn search() -> Vec<Breaker> {
    let mut index = HashSet::new();
    let mut states = Vec::new();
    let mut queue = VecDeque::new();
    let mut steps = 0;
    let start = Breaker::default();
    index.insert(start.clone());
    states.push(start);
    queue.push_back(0);
    let events = events();
    while let Some(i) = queue.pop_front() {
        let before: Breaker = states[i].clone();
        let mut next = vec![later(&before, UNIT)];
        for event in &events {
            if !possible(&before, event) {
                continue;
            }
            let mut after = before.clone();
            let changes = step(&mut after, event.clone(), NOW, &rules());
            always_step(&before, event, &after, &changes);
            always(&after);
            steps += 1;
            next.push(later(&after, 0));
        }
        for state in next {
            if index.insert(state.clone()) {
                queue.push_back(states.len());
                states.push(state);
            }
        }
    }
    println!("{} states, {steps} steps", states.len());
    states
}

/// What a healthy world does to a breaker, by the rules of `reconcile/probes.rs`: time passes, health is good, trials
/// succeed. Returns after how many units it is closed and announced, and nothing is ordered.
fn heals_in(start: &Breaker) -> Option<u32> {
    let mut b = start.clone();
    for units in 0..40 {
        for _ in 0..8 {
            step(&mut b, Event::Tick, NOW, &rules());
            let due = b.next_probe_at.is_none_or(|t| t <= NOW);
            match (b.state, b.order(NOW).map(|o| o.mode)) {
                (State::Open, None) if due => {
                    step(&mut b, Event::HealthBooked(NOW.plus(UNIT)), NOW, &rules());
                    step(&mut b, Event::HealthOk, NOW, &rules());
                }
                (State::HalfOpen, _) if b.trial.is_some() => {
                    let attempt = b.trial.as_ref().unwrap().attempt.clone();
                    step(&mut b, Event::Proven(attempt.clone()), NOW, &rules());
                    step(&mut b, Event::Ended(attempt, Verdict::Succeeded), NOW, &rules());
                }
                (State::HalfOpen, None) => {
                    let trial = Trial {
                        attempt: AttemptId::from("healer"),
                        bead: None,
                        booked_at: NOW,
                        proven: false,
                        lease_until: NOW.plus(UNIT),
                    };
                    step(&mut b, Event::TrialBooked(trial), NOW, &rules());
                }
                _ => {}
            }
        }
        let silent = b.override_.is_none();
        if b.state == State::Closed && b.settled && silent {
            return Some(units);
        }
        b = later(&b, UNIT);
    }
    None
}

#[test]
fn every_reachable_state_keeps_the_promises_and_none_is_stuck_open_or_half_open() {
    let states = reachable();
    assert!(states.len() > 1_000, "the model is too small to mean anything: {}", states.len());
    let mut longest = 0;
    for state in states {
        let units = heals_in(state).unwrap_or_else(|| panic!("never closes again: {state:?}"));
        longest = longest.max(units);
    }
    // An override of two units, the longest delay, a health check whose owner died, and half an hour to the announcement.
    assert!(longest <= 6, "{longest} half hours until everything is over");
}

#[test]
fn an_override_returns_by_itself_and_what_it_masked_rules_again() {
    let states = reachable();
    let seen: HashSet<_> = states.iter().filter_map(|b| b.override_.as_ref().map(|o| o.mode)).collect();
    assert_eq!(seen.len(), 3, "every mode is reached");
    for state in states.iter().filter(|b| b.override_.is_some()) {
        let mut b = later(state, 3 * UNIT);
        assert_eq!(b.order(NOW), None, "an expired order orders nothing, tick or no tick");
        let was_forced_open = b.override_.as_ref().map(|o| o.mode) == Some(Mode::ForcedOpen);
        let (before, had_trial) = (b.state, b.trial.is_some());
        step(&mut b, Event::Tick, NOW, &rules());
        assert_eq!(b.override_, None);
        match before {
            State::Closed if was_forced_open => {
                assert_eq!(b.state, State::Open, "forced open is left through half-open");
                assert!(b.next_probe_at.unwrap() <= NOW);
            }
            State::Closed => assert_eq!(b.state, State::Closed),
            State::Open => assert_eq!(b.state, State::Open),
            // A trial may have ripened meanwhile; nothing else can have decided.
            State::HalfOpen => assert!(b.state == State::HalfOpen || had_trial),
        }
    }
}
