//! The driver, with effects put into its hands: the town they name does not know them, so its rows stay empty and what
//! is seen is the driver alone.

use super::*;
use crate::behaviour::{Behaviour, Says};
use crate::clock::START;
use crate::fault::{Endpoint, Fault};
use gastown::town::effect::{Health, Observe, PostWebhook, StartAgent, StartRequest, StopAgent};
use gastown::town::time::{DAY, HOUR, MINUTE};
use std::cell::RefCell;
use std::rc::Rc;

fn start(agent: &str, attempt: &str) -> StartAgent {
    let request = StartRequest {
        agent_id: agent.to_owned(),
        role: "polecat".to_owned(),
        branch: format!("gt/toast/{attempt:0>8}"),
        dispatch_id: attempt.to_owned(),
        ..StartRequest::default()
    };
    StartAgent {
        attempt_id: attempt.into(),
        agent_id: agent.into(),
        timeout: 60 * SECOND,
        request,
        stop_first: Vec::new(),
        repeat: false,
    }
}

fn starts(n: usize) -> Vec<Effect> {
    (0..n).map(|i| Effect::StartAgent(Box::new(start(&format!("agent-{i}"), &format!("{i}"))))).collect()
}

fn stop(agent: &str, attempt: &str) -> StopAgent {
    StopAgent { stop_id: format!("stop-{attempt}"), agent_id: agent.into(), attempt_id: attempt.into() }
}

fn look(agents: &[&str]) -> Effect {
    let observe = |a: &&str| Observe { attempt_id: format!("att-{a}").as_str().into(), agent_id: (*a).into() };
    Effect::ObserveAgents(agents.iter().map(observe).collect())
}

fn post(id: &str) -> Effect {
    Effect::PostWebhook(PostWebhook {
        delivery_id: id.to_owned(),
        url: "https://example.com".to_owned(),
        body: "{}".to_owned(),
        signature: None,
    })
}

/// What ended, as `<ms after the start of time> <kind>`.
fn ended(world: &World) -> Vec<String> {
    let told_in = |answer: &Answer| match answer {
        Answer::Http { status, .. } => status.to_string(),
        Answer::Unreachable { .. } => "unreachable".to_owned(),
        Answer::TimedOut { after } => format!("timeout {after}"),
    };
    let told = |outcome: &Outcome| match outcome {
        Outcome::Started { attempt_id, answer, stops } => {
            let stops: Vec<String> = stops.iter().map(|(id, a)| format!("{id} {}, ", told_in(a))).collect();
            let stops = stops.concat();
            format!("{stops}start {attempt_id} {}", told_in(answer))
        }
        Outcome::Stopped { stop_id, answer } => format!("{stop_id} {}", told_in(answer)),
        Outcome::Observed { health, agents } => {
            let agents: Vec<String> = agents.iter().map(|(id, a)| format!(", {id} {}", told_in(a))).collect();
            let agents = agents.concat();
            format!("health {}{agents}", health.is_some())
        }
        Outcome::Probed { scope, result, .. } => format!("probed {scope} {}", result.is_ok()),
        Outcome::Told { what, answer, .. } => format!("tell {what:?} {}", told_in(answer)),
        Outcome::Posted { delivery_id, answer } => format!("post {delivery_id} {}", told_in(answer)),
        Outcome::ForgeAnswered { bead_id, answer, .. } => format!("forge {bead_id} {}", told_in(answer)),
        Outcome::Erased { agent_id, erased } => format!("erased {agent_id} {erased}"),
        Outcome::Reported { delivered } => format!("reported {delivered}"),
        Outcome::Messaged { .. } => format!("{outcome:?}"),
    };
    world.outcomes.iter().map(|(at, o)| format!("{} {}", at.since(START), told(o))).collect()
}

#[test]
fn a_year_in_which_nothing_is_due_passes_without_a_tick() {
    let mut world = World::new(1);
    world.run_for(365 * DAY);
    assert_eq!(world.now(), START.plus(365 * DAY));
    assert_eq!((world.counts.ticks, world.counts.alarms, world.alarm()), (0, 0, None));
}

#[test]
fn a_start_sends_the_stops_it_owes_first_and_its_latency_takes_time() {
    let mut world = World::new(1);
    let mut effect = start("a", "two");
    effect.stop_first = vec![stop("a", "one"), stop("b", "zero")];
    world.container.faults.once(Endpoint::Stop, Fault::HangBefore);
    world.perform(vec![Effect::StartAgent(Box::new(effect))]);
    world.run_for(30 * SECOND);
    // 10 s of silence, 5 + 5 ms for a 404, 5 + 50 ms for the start.
    assert_eq!(ended(&world), ["10065 stop-one timeout 10000, stop-zero 404, start two 201"]);
    assert_eq!(world.starts()[0].at, START.plus(10_015));
    assert_eq!(world.counts.container_calls, 3);
}

#[test]
fn at_most_six_calls_and_five_starts_are_in_the_air_and_a_hanging_start_delays_no_webhook() {
    let mut world = World::new(1);
    world.container.faults.set(Endpoint::Start, Fault::HangAfter);
    world.perform(starts(12));
    world.perform(vec![post("x"), Effect::StopAgent(stop("z", "9")), look(&["q"])]);
    world.run_for(MINUTE - 1);
    assert_eq!(ended(&world), ["25 post x 200", "35 stop-9 404", "55 health true, att-q 404"]);
    assert_eq!(world.starts().len(), 5);
    world.run_for(5 * MINUTE);
    assert_eq!(world.outcomes.len(), 3 + 12);
    assert_eq!(ended(&world)[3], "60000 start 0 timeout 60000");
    assert_eq!((world.counts.most_calls, world.counts.most_starts), (6, 5));
    assert_eq!(world.starts().len(), 12, "nobody heard of it, but they run");
    assert_eq!(world.in_the_air(), 0);
}

#[test]
fn effects_of_one_agent_are_performed_in_the_order_of_their_emission() {
    let mut world = World::new(1);
    world.container.faults.set(Endpoint::Start, Fault::Slow(20 * SECOND));
    let first = Effect::StartAgent(Box::new(start("a", "one")));
    let second = Effect::StartAgent(Box::new(start("a", "two")));
    world.perform(vec![first, Effect::StopAgent(stop("a", "one")), second, Effect::StopAgent(stop("b", "x"))]);
    world.run_for(MINUTE);
    assert_eq!(ended(&world), ["10 stop-x 404", "20005 start one 201", "20015 stop-one 200", "40020 start two 201"]);
    assert!(world.container.twice().is_empty());
}

#[test]
fn a_look_asks_for_health_and_then_for_each_agent_unless_nobody_answers() {
    let mut world = World::new(1);
    world.perform(starts(1));
    world.run_for(SECOND);
    let names: Vec<String> = (0..20).map(|i| format!("agent-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.perform(vec![look(&names)]);
    world.run_for(SECOND);
    let (_, Outcome::Observed { health: Some(health), agents }) = &world.outcomes[1] else { panic!() };
    assert_eq!(health.instance_id.as_deref(), Some(world.container.instance_id()));
    assert!(health.dispatch_id && !health.draining);
    assert!(matches!(&agents[0].1, Answer::Http { status: 200, body, .. } if body.contains("running")));
    assert!(agents[1..].iter().all(|(_, a)| matches!(a, Answer::Http { status: 404, .. })));
    assert_eq!((agents.len(), world.counts.most_calls), (20, 6));

    world.container.kill(world.now());
    let calls = world.counts.container_calls;
    world.perform(vec![look(&["agent-0", "agent-1"])]);
    world.run_for(SECOND);
    assert!(ended(&world)[2].ends_with("health false, att-agent-0 unreachable, att-agent-1 unreachable"));
    assert_eq!(world.counts.container_calls - calls, 1);
}

#[test]
fn a_health_probe_boots_a_sleeping_container_and_gives_up_on_a_dead_one() {
    let probe =
        |scope: &str| Effect::ProbeContainer { scope: scope.to_owned(), generation: 3, boot_timeout: 2 * MINUTE };
    let mut world = World::new(1);
    world.container.kill_until_called(START, 9 * SECOND);
    world.perform(vec![probe("town")]);
    world.run_for(MINUTE);
    assert_eq!(ended(&world), ["10060 probed town true"]);
    let (_, Outcome::Probed { generation: 3, result: Ok(Health { instance_id: Some(id), .. }), .. }) =
        &world.outcomes[0]
    else {
        panic!("{:?}", world.outcomes)
    };
    assert_eq!(id, world.container.instance_id());

    let mut world = World::new(1);
    world.container.kill(START);
    world.perform(vec![probe("rig:x")]);
    world.run_for(5 * MINUTE);
    assert_eq!(ended(&world), ["118300 probed rig:x false"]);
    let mut world = World::new(1);
    world.container.faults.set(Endpoint::Health, Fault::HangBefore);
    world.perform(vec![probe("town")]);
    world.run_for(5 * MINUTE);
    assert_eq!(ended(&world), ["118000 probed town false"]);
}

#[test]
fn a_crash_forgets_what_is_in_the_air_but_the_world_does_not() {
    let mut world = World::new(1);
    world.perform(starts(7));
    while world.counts.container_calls < 3 {
        assert!(world.step(START));
    }
    world.crash();
    assert_eq!(world.in_the_air(), 0);
    world.run_for(SECOND);
    assert_eq!(world.starts().len(), 3, "they had left");
    assert!(world.outcomes.is_empty(), "nobody heard the answers");

    let mut world = World::new(1);
    world.perform(starts(7));
    while world.counts.container_calls < 3 {
        assert!(world.step(START));
    }
    world.crash_losing_requests();
    world.run_for(SECOND);
    assert_eq!((world.starts().len(), world.outcomes.len(), world.counts.crashes), (0, 0, 1));
}

#[test]
fn a_town_that_spins_is_stopped_with_its_journal() {
    let caught = std::panic::catch_unwind(|| {
        let mut watchdog = Watchdog::default();
        for n in 0.. {
            watchdog.note(START.plus(n), || format!("what it did, {n}"));
            watchdog.tick(START.plus(n));
        }
    });
    let text = *caught.expect_err("it spins").downcast::<String>().expect("a message");
    assert!(text.contains("51 ticks in a row") && text.contains("what it did, 50"), "{text}");

    let caught = std::panic::catch_unwind(|| {
        let mut watchdog = Watchdog::default();
        for n in 0..6_000 {
            watchdog.something();
            watchdog.effect(START.plus(10 * n), &look(&["a"]));
        }
    });
    let text = *caught.expect_err("it looks again and again").downcast::<String>().expect("a message");
    assert!(text.contains("look at 1 agents for the 1001th time"), "{text}");

    let mut watchdog = Watchdog::default();
    for n in 0..600 {
        watchdog.effect(START.plus(100 * n), &look(&["a"]));
    }
    for n in 0..10_000 {
        watchdog.tick(START.plus(n));
        if n % 40 == 0 {
            watchdog.something();
        }
        watchdog.tick(START.plus(n));
        watchdog.something();
    }
}

#[test]
fn what_agents_say_can_be_lost_late_or_doubled() {
    let delivered = |fate: Fate| {
        let mut world = World::new(1);
        world.container.behave_all(Behaviour::exits(50 * SECOND));
        world.filter_voices(move |_| fate);
        world.perform(starts(1));
        world.run_for(40 * SECOND);
        world.counts.voices
    };
    assert_eq!(delivered(Fate::Arrives), 2);
    assert_eq!(delivered(Fate::Lost), 0);
    assert_eq!(delivered(Fate::Twice), 4);
    assert_eq!(delivered(Fate::Late(20 * SECOND)), 1);
}

#[test]
fn the_sentinel_sees_every_step_and_equal_seeds_give_equal_histories() {
    let history = |seed: u64| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let mut world = World::new(seed);
        world.watch(move |w| log.borrow_mut().push((w.now(), w.in_the_air(), w.starts().len())));
        world
            .container
            .faults
            .script(|now, _, path, _| (now.0 % 3 == 0 && path != "/health").then_some(Fault::DropAfter));
        world.perform(starts(20));
        world.perform(vec![look(&["agent-1", "agent-19"]), post("x")]);
        world.run_for(3 * MINUTE);
        let steps = seen.borrow().clone();
        (steps, world.journal(), ended(&world), world.container.instance_id().to_owned())
    };
    let one = history(1);
    assert!(one.0.len() > 60 && one.0.last().is_some_and(|s| s.2 == 20));
    assert_eq!(one, history(1));
    assert_ne!(one.3, history(2).3);
}

#[test]
fn voices_are_commands_in_the_name_of_the_agent_and_its_dispatch() {
    let voice = Voice {
        at: START,
        agent_id: Some("a".into()),
        dispatch_id: Some("one".to_owned()),
        instance_id: "i".to_owned(),
        says: Says::Heartbeat { status: "running".to_owned(), last_event_at: None, active_tools: Vec::new() },
    };
    let actor = Actor::Container { agent_id: Some("a".into()), dispatch_id: Some("one".to_owned()) };
    assert_eq!(voice.actor(), actor);
    let Command::Heartbeat { agent_id, body } = voice.command() else { panic!() };
    assert_eq!((agent_id.as_str(), body.container_instance_id.as_deref()), ("a", Some("i")));
}

// ── what goes wrong with the alarm, the clock and the rows ───────────────────────────────────────────────────────────

/// A town in which one agent works and says nothing: its lease is the next thing that is due.
fn silent() -> World {
    let (mut w, rig) = World::founded(1);
    w.container.behave_all(Behaviour::hangs().mute());
    w.sling(&rig, "Quiet");
    w.run_for(SECOND);
    assert!(w.alarm().is_some() && w.in_the_air() == 0, "{}", w.journal());
    w
}

#[test]
fn an_alarm_that_was_dropped_stays_away_until_a_request_repairs_it() {
    let mut w = silent();
    w.filter_alarms(|| Ring::Dropped);
    w.run_for(DAY);
    assert_eq!((w.alarm(), w.alarm_is_sound(), w.container.calls.get(&Endpoint::Health)), (None, false, None));
    w.unfilter_alarms();
    w.must(Command::GetDispatch);
    assert!(w.alarm().is_some() && w.alarm_is_sound());
    w.run_for(SECOND);
    assert_eq!(w.container.calls.get(&Endpoint::Health), Some(&1), "{}", w.journal());
}

#[test]
fn an_alarm_that_rings_twice_looks_once() {
    let mut w = silent();
    w.filter_alarms(|| Ring::Twice);
    let ticks = w.counts.ticks;
    w.run_while_not(10 * MINUTE, |w| w.container.calls.contains_key(&Endpoint::Health));
    assert_eq!((w.counts.ticks - ticks, w.container.calls.get(&Endpoint::Health)), (2, Some(&1)), "{}", w.journal());
}

#[test]
fn a_late_alarm_is_repaired_by_the_next_request_once_it_is_stuck() {
    let mut w = silent();
    let due = w.alarm().unwrap();
    w.filter_alarms(|| Ring::Late(HOUR));
    w.run_until(due.plus(4 * SECOND));
    w.must(Command::GetDispatch);
    w.run_for(SECOND);
    assert_eq!(w.container.calls.get(&Endpoint::Health), None, "it may still ring");
    w.run_until(due.plus(6 * SECOND));
    w.unfilter_alarms();
    w.must(Command::GetDispatch);
    w.run_for(SECOND);
    assert_eq!(w.container.calls.get(&Endpoint::Health), Some(&1), "{}", w.journal());
}

#[test]
fn the_object_s_clock_steps_and_everybody_else_s_does_not() {
    let mut w = silent();
    let due = w.alarm().unwrap();
    w.step_clock(-MINUTE);
    assert_eq!((w.town_now(), w.stepped_back), (w.now().plus(-MINUTE), MINUTE));
    w.run_until(due.plus(MINUTE - 1));
    assert_eq!(w.container.calls.get(&Endpoint::Health), None, "by its own clock it is not due");
    w.run_for(SECOND);
    assert_eq!(w.container.calls.get(&Endpoint::Health), Some(&1), "{}", w.journal());
}

#[test]
fn a_verb_in_which_a_statement_fails_says_so_and_is_tried_again() {
    // In the deadline that the alarm asks for first, which the tick makes up for; and in the tick.
    for (statement, told) in [(5, 0), (60, 1)] {
        let mut w = silent();
        w.tolerate_errors = true;
        w.sql.fail_statement(statement, crate::sqlite::SqlFault::Once);
        w.run_while_not(HOUR, |w| w.container.calls.contains_key(&Endpoint::Health));
        assert_eq!((w.counts.failed_verbs, w.errors.len()), (1, told), "{}", w.journal());
        assert_eq!(w.container.calls.get(&Endpoint::Health), Some(&1), "{}", w.journal());
    }
}
