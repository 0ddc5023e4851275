//! The breaker's `step`, event by event: what each one changes, at the very millisecond where it begins to, and what it
//! leaves alone. Every expectation is `design.md` 5.5.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::dispatch::breaker::{
    Breaker, Cause, Change, Event, Mode, Override, Rules, State, Trial, Verdict, step,
};
use gastown::town::id::{AttemptId, RigId};
use gastown::town::policy::{CLOSED_ANNOUNCE, PROBE_TRIAL_CAP, REOPEN_WINDOW};
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND, Timestamp};

const T0: Timestamp = Timestamp(1_000_000_000_000);
const STILL_OPEN: Millis = HOUR;

/// A minute for each probe so far, and a second for each episode: every delay says whose it is.
fn delay(generation: u32, step: u32) -> Millis {
    MINUTE * i64::from(step + 1) + SECOND * i64::from(generation)
}

fn on(b: &mut Breaker, at: Timestamp, event: Event) -> Vec<Change> {
    step(b, event, at, &Rules { delay: &delay, still_open: STILL_OPEN })
}

/// The event changes nothing at all.
fn ignores(b: &Breaker, at: Timestamp, event: Event) {
    let mut after = b.clone();
    let told = format!("{event:?}");
    assert_eq!((on(&mut after, at, event), &after), (vec![], b), "{told}");
}

fn tripped(longest: Millis) -> Event {
    let cause = Cause { code: "container.unreachable".into(), text: "20 in a row".into() };
    Event::Tripped { cause, longest, role: Some("polecat".into()), rig: Some(RigId::from("r")) }
}

fn trial(name: &str, at: Timestamp) -> Event {
    let (attempt, lease_until) = (AttemptId::from(name), at.plus(HOUR));
    Event::TrialBooked(Trial { attempt, bead: None, booked_at: at, proven: false, lease_until })
}

fn ended(name: &str, verdict: Verdict) -> Event {
    Event::Ended(AttemptId::from(name), verdict)
}

fn proven(name: &str) -> Event {
    Event::Proven(AttemptId::from(name))
}

fn ordered(mode: Mode, until: Timestamp) -> Event {
    Event::Ordered(Some(Override { mode, actor: "user:a".into(), reason: "r".into(), until }))
}

/// Opened at [`T0`] by failures that took two minutes; its first probe is due after a minute and a second.
fn open() -> Breaker {
    let mut b = Breaker::default();
    on(&mut b, T0, tripped(2 * MINUTE));
    b
}

/// Its probe was answered: a permit is free.
fn half_open() -> Breaker {
    let mut b = open();
    on(&mut b, T0, Event::HealthBooked(T0.plus(MINUTE)));
    on(&mut b, T0, Event::HealthOk);
    b
}

/// Trial `a` runs.
fn trying() -> Breaker {
    let mut b = half_open();
    on(&mut b, T0, trial("a", T0));
    b
}

/// Trial `a` succeeded at [`T0`].
fn closed_again() -> Breaker {
    let mut b = trying();
    on(&mut b, T0, ended("a", Verdict::Succeeded));
    b
}

#[test]
fn words_on_the_wire_are_read_back() {
    for (state, word) in [(State::Closed, "closed"), (State::Open, "open"), (State::HalfOpen, "half_open")] {
        assert_eq!((state.as_str(), State::parse(word)), (word, Some(state)));
    }
    let modes = [(Mode::ForcedOpen, "forced_open"), (Mode::ForcedClosed, "forced_closed"), (Mode::Shadow, "shadow")];
    for (mode, word) in modes {
        assert_eq!((mode.as_str(), Mode::parse(word)), (word, Some(mode)));
    }
    assert_eq!((State::parse("ajar"), Mode::parse("auto")), (None, None));
}

#[test]
fn a_tripped_breaker_begins_an_episode_tells_and_knows_whom_to_blame() {
    let mut b = Breaker::default();
    let changes = on(&mut b, T0, tripped(2 * MINUTE));
    assert_eq!(changes, [Change::EpisodeBegan, Change::Opened, Change::TellOpened]);
    assert_eq!((b.state, b.generation, b.opened_at, b.told), (State::Open, 1, Some(T0), true));
    assert_eq!((b.next_probe_at, b.trial_ms), (Some(T0.plus(MINUTE + SECOND)), 2 * MINUTE));
    assert_eq!(b.cause.as_ref().unwrap().code, "container.unreachable");
    assert_eq!((b.blamed_role.as_deref(), &b.blamed_rig), (Some("polecat"), &Some(RigId::from("r"))));
    ignores(&b, T0.plus(MINUTE), tripped(5 * MINUTE));
    ignores(&half_open(), T0.plus(MINUTE), tripped(5 * MINUTE));
}

#[test]
fn no_trial_must_run_longer_than_the_cap() {
    let mut b = Breaker::default();
    on(&mut b, T0, tripped(HOUR));
    assert_eq!(b.trial_ms, PROBE_TRIAL_CAP);
    let mut b = trying();
    on(&mut b, T0.plus(3 * MINUTE), ended("a", Verdict::Failed(3 * MINUTE)));
    assert_eq!(b.trial_ms, 3 * MINUTE, "a trial that failed later teaches patience");
    assert_eq!(b.failed_probes, 1);
}

#[test]
fn reopening_within_the_window_takes_the_next_wait_and_goes_on_with_the_episode() {
    let mut b = closed_again();
    let changes = on(&mut b, T0.plus(REOPEN_WINDOW), tripped(MINUTE));
    assert_eq!(changes, [Change::Opened], "its end was never told");
    assert_eq!((b.generation, b.delay_step, b.settled), (1, 1, true));
    assert_eq!(b.next_probe_at, Some(T0.plus(REOPEN_WINDOW + 2 * MINUTE + SECOND)));

    let mut b = closed_again();
    let changes = on(&mut b, T0.plus(REOPEN_WINDOW + 1), tripped(MINUTE));
    assert_eq!((changes, b.delay_step), (vec![Change::Opened], 0), "the window is over, the episode is not");
}

#[test]
fn after_the_end_was_told_the_next_opening_is_a_new_episode() {
    let mut b = closed_again();
    b.failed_probes = 3;
    assert_eq!(on(&mut b, T0.plus(MINUTE), Event::UpToSpeed), [Change::TellClosed]);
    let at = T0.plus(2 * MINUTE);
    let changes = on(&mut b, at, tripped(MINUTE));
    assert_eq!(changes, [Change::EpisodeBegan, Change::Opened, Change::TellOpened]);
    assert_eq!((b.generation, b.opened_at, b.failed_probes, b.delay_step), (2, Some(at), 0, 1));
    assert_eq!(b.next_probe_at, Some(at.plus(2 * MINUTE + 2 * SECOND)));
}

#[test]
fn only_an_open_breaker_whose_check_was_booked_hears_its_result() {
    for event in [Event::HealthOk, Event::HealthFailed] {
        ignores(&open(), T0, event.clone());
        ignores(&half_open(), T0, event.clone());
        ignores(&Breaker::default(), T0, event);
    }
    ignores(&half_open(), T0, Event::HealthBooked(T0.plus(MINUTE)));
    ignores(&Breaker::default(), T0, Event::HealthBooked(T0.plus(MINUTE)));

    let mut b = open();
    assert_eq!(on(&mut b, T0, Event::HealthBooked(T0.plus(MINUTE))), []);
    assert_eq!(b.health_until, Some(T0.plus(MINUTE)));
    let mut failed = b.clone();
    assert_eq!(on(&mut b, T0, Event::HealthOk), [Change::HalfOpened]);
    assert_eq!((b.state, b.health_until, &b.trial), (State::HalfOpen, None, &None));

    let at = T0.plus(10 * SECOND);
    assert_eq!(on(&mut failed, at, Event::HealthFailed), [Change::ProbeFailed]);
    assert_eq!((failed.state, failed.health_until, failed.failed_probes), (State::Open, None, 1));
    assert_eq!(failed.next_probe_at, Some(at.plus(2 * MINUTE + SECOND)), "the next wait of the list");
}

#[test]
fn a_check_whose_owner_died_is_forgotten_when_its_lease_ends() {
    let mut b = open();
    on(&mut b, T0, Event::HealthBooked(T0.plus(MINUTE)));
    ignores(&b, T0.plus(MINUTE - 1), Event::Tick);
    assert_eq!(on(&mut b, T0.plus(MINUTE), Event::Tick), []);
    assert_eq!((b.state, b.health_until), (State::Open, None));
    assert_eq!(b.next_probe_at, Some(T0.plus(MINUTE + SECOND)), "nothing was learnt");
}

#[test]
fn a_permit_that_nothing_wants_is_taken_back_and_costs_no_delay() {
    let mut b = half_open();
    let at = T0.plus(5 * MINUTE);
    assert_eq!(on(&mut b, at, Event::NoCandidate), []);
    assert_eq!((b.state, b.next_probe_at), (State::Open, Some(at.plus(MINUTE + SECOND))));
    assert_eq!((b.failed_probes, b.delay_step), (0, 0));
    ignores(&trying(), at, Event::NoCandidate);
    ignores(&open(), at, Event::NoCandidate);
}

#[test]
fn one_trial_at_a_time_and_none_while_closed() {
    ignores(&Breaker::default(), T0, trial("a", T0));
    ignores(&trying(), T0, trial("b", T0));
    let mut b = half_open();
    assert_eq!(on(&mut b, T0, trial("a", T0)), [], "it was half-open already");
    assert_eq!(b.trial.as_ref().unwrap().attempt, AttemptId::from("a"));
    // Under a mask real traffic gives the trial, and no health check comes before it.
    let mut b = open();
    on(&mut b, T0, Event::HealthBooked(T0.plus(MINUTE)));
    assert_eq!(on(&mut b, T0, trial("a", T0)), [Change::HalfOpened]);
    assert_eq!((b.state, b.health_until), (State::HalfOpen, None));
}

#[test]
fn only_the_trial_itself_decides() {
    for verdict in [Verdict::Succeeded, Verdict::Failed(MINUTE), Verdict::Inconclusive] {
        ignores(&trying(), T0, ended("b", verdict));
        ignores(&half_open(), T0, ended("a", verdict));
        ignores(&open(), T0, ended("a", verdict));
    }
    ignores(&trying(), T0.plus(HOUR), proven("b"));

    let mut b = trying();
    assert_eq!(on(&mut b, T0, ended("a", Verdict::Succeeded)), [Change::Closed]);
    assert_eq!((b.state, b.closed_at, b.settled), (State::Closed, Some(T0), false));
    assert_eq!((b.next_probe_at, &b.trial), (None, &None));

    let mut b = trying();
    assert_eq!(on(&mut b, T0, ended("a", Verdict::Failed(MINUTE))), [Change::ProbeFailed]);
    assert_eq!((b.state, b.delay_step, &b.trial), (State::Open, 1, &None));
    assert_eq!(b.trial_ms, 2 * MINUTE, "the longer one counts");
}

#[test]
fn a_proven_trial_closes_it_once_it_has_outlived_the_failures() {
    let mut b = trying();
    ignores(&b, T0.plus(HOUR - 1), Event::Tick);
    assert_eq!(b.trial_deadline(), None, "not proven");
    assert_eq!(on(&mut b, T0.plus(SECOND), proven("a")), []);
    assert_eq!(b.trial_deadline(), Some(T0.plus(2 * MINUTE + 1)));
    ignores(&b, T0.plus(2 * MINUTE), Event::Tick);
    assert_eq!(on(&mut b, T0.plus(2 * MINUTE + 1), Event::Tick), [Change::Closed]);
    assert_eq!(b.state, State::Closed);

    let mut b = trying();
    assert_eq!(on(&mut b, T0.plus(2 * MINUTE + 1), proven("a")), [Change::Closed], "proven late enough");
}

#[test]
fn three_trials_that_say_nothing_send_it_back_to_wait_as_long_as_before() {
    let mut b = trying();
    for next in ["b", "c"] {
        let last = b.trial.clone().unwrap().attempt.0;
        assert_eq!(on(&mut b, T0, ended(&last, Verdict::Inconclusive)), []);
        assert_eq!((b.state, &b.trial), (State::HalfOpen, &None), "the permit is free again");
        on(&mut b, T0, trial(next, T0));
    }
    assert_eq!(on(&mut b, T0, ended("c", Verdict::Inconclusive)), []);
    assert_eq!((b.state, b.next_probe_at), (State::Open, Some(T0.plus(MINUTE + SECOND))));
    assert_eq!((b.failed_probes, b.trials), (0, 0));
}

#[test]
fn a_new_instance_brings_the_scheduled_probe_forward_once() {
    let mut b = open();
    assert_eq!(on(&mut b, T0.plus(SECOND), Event::NewInstance), []);
    assert_eq!((b.next_probe_at, b.forwarded), (Some(T0.plus(SECOND)), true));
    assert_eq!(b.forwards, [T0.plus(SECOND)]);
    b.next_probe_at = Some(T0.plus(HOUR));
    ignores(&b, T0.plus(MINUTE), Event::NewInstance);
}

#[test]
fn a_probe_that_is_due_or_under_way_needs_no_new_instance() {
    let b = open();
    let due = b.next_probe_at.unwrap();
    ignores(&b, due, Event::NewInstance);
    let mut checking = open();
    on(&mut checking, T0, Event::HealthBooked(T0.plus(HOUR)));
    ignores(&checking, T0.plus(SECOND), Event::NewInstance);
    ignores(&half_open(), T0.plus(SECOND), Event::NewInstance);
    ignores(&closed_again(), T0.plus(SECOND), Event::NewInstance);
}

#[test]
fn new_instances_bring_three_probes_an_hour_forward_and_no_more() {
    let mut b = open();
    for n in 0..3 {
        let at = T0.plus(n * MINUTE);
        (b.next_probe_at, b.forwarded) = (Some(at.plus(HOUR)), false);
        on(&mut b, at, Event::NewInstance);
        assert_eq!(b.next_probe_at, Some(at), "number {n}");
    }
    (b.next_probe_at, b.forwarded) = (Some(T0.plus(2 * HOUR)), false);
    ignores(&b, T0.plus(HOUR - 1), Event::NewInstance);
    on(&mut b, T0.plus(HOUR), Event::NewInstance);
    assert_eq!(b.next_probe_at, Some(T0.plus(HOUR)), "an hour after the first");
    assert_eq!(b.forwards, [T0.plus(MINUTE), T0.plus(2 * MINUTE), T0.plus(HOUR)]);
}

#[test]
fn a_person_may_ask_an_open_breaker_for_a_probe() {
    let mut b = open();
    assert_eq!(on(&mut b, T0.plus(SECOND), Event::Asked), []);
    assert_eq!((b.next_probe_at, b.asked_at), (Some(T0.plus(SECOND)), Some(T0.plus(SECOND))));
    ignores(&half_open(), T0.plus(SECOND), Event::Asked);
    ignores(&closed_again(), T0.plus(SECOND), Event::Asked);
}

#[test]
fn an_order_masks_the_automatic_state_until_it_ends() {
    let until = T0.plus(HOUR);
    let under = |mut b: Breaker, mode| {
        on(&mut b, T0, ordered(mode, until));
        b
    };
    let forced = under(Breaker::default(), Mode::ForcedOpen);
    assert_eq!((forced.state, forced.effective(T0)), (State::Closed, State::Open));
    assert!(!forced.masked(T0));
    for mode in [Mode::ForcedClosed, Mode::Shadow] {
        let b = under(open(), mode);
        assert_eq!((b.state, b.effective(T0)), (State::Open, State::Closed));
        assert!(b.masked(until.plus(-1)) && !b.masked(until), "{mode:?}");
        assert_eq!(b.order(until.plus(-1)).map(|o| o.mode), Some(mode));
        assert_eq!((b.order(until), b.effective(until)), (None, State::Open), "until then, not longer");
        assert!(!under(Breaker::default(), mode).masked(T0), "nothing to mask");
    }
    assert!(!open().masked(T0) && !half_open().masked(T0) && !Breaker::default().masked(T0));
}

#[test]
fn an_order_ends_by_itself_and_says_so() {
    let mut b = open();
    on(&mut b, T0, ordered(Mode::Shadow, T0.plus(MINUTE)));
    ignores(&b, T0.plus(MINUTE - 1), Event::Tick);
    let probe = b.next_probe_at;
    assert_eq!(on(&mut b, T0.plus(MINUTE), Event::Tick), [Change::OverrideEnded]);
    assert_eq!((&b.override_, b.next_probe_at), (&None, probe), "only forced_open leaves through a trial");
}

#[test]
fn forced_open_is_left_through_a_trial_whoever_ends_it() {
    let forced = |mut b: Breaker| {
        on(&mut b, T0, ordered(Mode::ForcedOpen, T0.plus(MINUTE)));
        b
    };
    let at = T0.plus(MINUTE);
    let mut b = forced(Breaker::default());
    assert_eq!(on(&mut b, at, Event::Tick), [Change::OverrideEnded, Change::EpisodeBegan]);
    assert_eq!((b.state, b.next_probe_at, b.generation), (State::Open, Some(at), 1));
    assert_eq!((b.opened_at, b.told, b.trial_ms), (Some(at), false, 0));
    assert_eq!(b.cause.unwrap().code, "by_hand");

    let mut b = forced(Breaker::default());
    assert_eq!(on(&mut b, at, Event::Ordered(None)), [], "an order that has ended was left by the tick");
    let mut b = forced(Breaker::default());
    assert_eq!(on(&mut b, T0, Event::Ordered(None)), [Change::EpisodeBegan]);
    let mut b = forced(Breaker::default());
    assert_eq!(on(&mut b, T0, ordered(Mode::ForcedClosed, at)), [Change::EpisodeBegan]);
    let mut b = forced(Breaker::default());
    assert_eq!(on(&mut b, T0, ordered(Mode::ForcedOpen, at)), [], "renewed, not left");
    assert_eq!(b.state, State::Closed);
    let mut b = Breaker::default();
    assert_eq!((on(&mut b, T0, Event::Ordered(None)), b.state), (vec![], State::Closed));

    let mut b = forced(closed_again());
    assert_eq!(on(&mut b, T0, Event::Ordered(None)), [], "the episode goes on");
    assert_eq!((b.state, b.generation, b.next_probe_at, b.settled), (State::Open, 1, Some(T0), true));
    let mut b = forced(open());
    on(&mut b, T0, Event::Ordered(None));
    assert_eq!((b.state, b.next_probe_at, b.generation), (State::Open, Some(T0), 1));
    let mut b = forced(trying());
    on(&mut b, T0, Event::Ordered(None));
    assert_eq!((b.state, b.trial.is_some()), (State::HalfOpen, true));
}

#[test]
fn people_hear_once_that_it_is_still_open_and_only_if_they_heard_that_it_opened() {
    let mut b = open();
    b.next_probe_at = Some(T0.plus(9 * HOUR));
    assert_eq!(b.still_open_deadline(STILL_OPEN), Some(T0.plus(STILL_OPEN)));
    ignores(&b, T0.plus(STILL_OPEN - 1), Event::Tick);
    assert_eq!(on(&mut b, T0.plus(STILL_OPEN), Event::Tick), [Change::TellStillOpen]);
    ignores(&b, T0.plus(2 * STILL_OPEN), Event::Tick);
    let untold = Breaker { told: false, ..open() };
    assert_eq!(untold.still_open_deadline(STILL_OPEN), None);
    ignores(&untold, T0.plus(STILL_OPEN), Event::Tick);
    assert_eq!(closed_again().still_open_deadline(STILL_OPEN), None);
}

#[test]
fn a_failed_probe_tells_those_who_were_not_told_yet() {
    let mut b = Breaker { told: false, ..trying() };
    let changes = on(&mut b, T0, ended("a", Verdict::Failed(0)));
    assert_eq!((changes, b.told), (vec![Change::ProbeFailed, Change::TellOpened], true));
}

#[test]
fn the_end_is_told_at_full_speed_or_after_half_an_hour_and_once() {
    let mut b = closed_again();
    assert_eq!(b.announce_deadline(), Some(T0.plus(CLOSED_ANNOUNCE)));
    ignores(&b, T0.plus(CLOSED_ANNOUNCE - 1), Event::Tick);
    let mut fast = b.clone();
    assert_eq!(on(&mut b, T0.plus(CLOSED_ANNOUNCE), Event::Tick), [Change::TellClosed]);
    assert_eq!(on(&mut fast, T0, Event::UpToSpeed), [Change::TellClosed]);
    for b in [&b, &fast] {
        assert_eq!((b.settled, b.announce_deadline()), (true, None));
        ignores(b, T0.plus(2 * CLOSED_ANNOUNCE), Event::Tick);
        ignores(b, T0, Event::UpToSpeed);
    }
    for b in [open(), half_open(), trying()] {
        assert_eq!(b.announce_deadline(), None);
        ignores(&b, T0, Event::UpToSpeed);
    }
    let mut untold = Breaker { told: false, ..closed_again() };
    assert_eq!((on(&mut untold, T0, Event::UpToSpeed), untold.settled), (vec![], true), "nobody heard of it");
}
