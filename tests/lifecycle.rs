//! The life of an attempt when the world does not keep to the plan: crashes, lost answers, silence, late voices, drains,
//! and the one way back from the cap (`design.md` 5.1, 5.2, 5.4, 8; `domain.md` 9).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Actor, BeadPatch, Command, Heartbeat, NewBead};
use gastown::town::effect::{Effect, StartAgent};
use gastown::town::id::{BeadId, RigId};
use gastown::town::sql::Sql;
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND, Timestamp};
use gastown_host::behaviour::{Behaviour, Ending, Says};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::{Fate, World};
use serde_json::{Value as Json, json};
use std::cell::Cell;
use support::*;

fn start_effects(w: &World) -> Vec<&StartAgent> {
    let starts = w.effects.iter().filter_map(|(_, effect)| match effect {
        Effect::StartAgent(start) => Some(start.as_ref()),
        _ => None,
    });
    starts.collect()
}

/// When stops were sent, and for which attempt, alone or before a start.
fn stops(w: &World) -> Vec<(Timestamp, String)> {
    let of = |(at, e): &(Timestamp, Effect)| -> Vec<(Timestamp, String)> {
        match e {
            Effect::StopAgent(s) => vec![(*at, s.attempt_id.0.clone())],
            Effect::StartAgent(s) => s.stop_first.iter().map(|s| (*at, s.attempt_id.0.clone())).collect(),
            _ => Vec::new(),
        }
    };
    w.effects.iter().flat_map(of).collect()
}

fn beat(w: &mut World, attempt: &Json, status: &str) {
    let (agent, id) = (text(attempt, "agent_id").to_owned(), text(attempt, "attempt_id").to_owned());
    let body = Heartbeat {
        status: Some(status.to_owned()),
        container_instance_id: Some(w.container.instance_id().to_owned()),
        ..Heartbeat::default()
    };
    let told = w.command(&voice(&agent, Some(&id)), Command::Heartbeat { agent_id: agent.as_str().into(), body });
    assert_eq!(told.unwrap().status, 200);
}

fn done(attempt: &Json, branch: Option<&str>) -> (Actor, Command) {
    let (agent, id) = (text(attempt, "agent_id"), text(attempt, "attempt_id"));
    let branch = branch.map(str::to_owned);
    (voice(agent, Some(id)), Command::Done { agent_id: agent.into(), branch, pr_url: None, summary: None })
}

fn completed(attempt: &Json) -> (Actor, Command) {
    let (agent, id) = (text(attempt, "agent_id"), text(attempt, "attempt_id"));
    let (status, reason) = ("failed".to_owned(), Some("too late".to_owned()));
    let end = Command::Completed { agent_id: agent.into(), status, reason, phase: None, model_status: None };
    (voice(agent, Some(id)), end)
}

/// The bead waits for a person; its agent stays idle.
fn hold(w: &mut World, rig: &RigId, bead: &BeadId, held: bool) {
    let labels = if held { vec!["gt:held".to_owned()] } else { Vec::new() };
    let patch = BeadPatch { labels: Some(labels), ..BeadPatch::default() };
    w.must(Command::UpdateBead { rig_id: rig.clone(), bead_id: bead.clone(), patch });
}

fn tamper(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn shadow(w: &mut World) {
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: "shadow".to_owned(),
        reason: Some("a test".to_owned()),
        expires_in_ms: Some(7 * DAY),
    });
}

// ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_crash_between_booking_and_call_costs_neither_a_second_attempt_nor_a_second_process() {
    for features in [vec!["dispatch-id".to_owned()], Vec::new()] {
        let (mut w, rig) = World::founded(1);
        w.container.features = features;
        let bead = w.sling(&rig, "one");
        assert!(w.run_while_not(SECOND, |w| !start_effects(w).is_empty()));
        w.crash_losing_requests();
        assert_eq!((w.starts().len(), last(&w, &bead)["outcome"].as_str()), (0, Some("pending")));
        w.run_for(20 * SECOND);
        assert_eq!((w.starts().len(), w.attempts(&bead).len()), (1, 1), "the look found nothing; it was sent again");
        w.run_for(10 * MINUTE);
        assert_eq!(w.status(&bead), "closed");
        assert_eq!((w.attempts(&bead).len(), w.container.twice()), (1, Vec::new()));
    }
}

#[test]
fn a_crash_after_the_call_left_finds_the_agent_by_looking() {
    let (mut w, rig) = World::founded(2);
    let bead = w.sling(&rig, "one");
    polecats(&mut w, Behaviour { first_heartbeat: Some(MINUTE), ..Behaviour::done(2 * MINUTE) });
    assert!(w.run_while_not(SECOND, |w| !start_effects(w).is_empty()));
    w.crash();
    w.run_for(20 * SECOND);
    assert!(!last(&w, &bead)["accepted_at"].is_null(), "by the look, before the first heartbeat");
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), w.attempts(&bead).len(), w.container.twice()), ("closed", 1, Vec::new()));
}

#[test]
fn a_crash_at_a_dead_container_ends_the_attempt_uncharged() {
    let (mut w, rig) = World::founded(3);
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(SECOND, |w| !start_effects(w).is_empty()));
    w.crash_losing_requests();
    w.container.kill(w.now());
    w.run_for(30 * SECOND);
    let attempt = last(&w, &bead);
    assert_eq!((text(&attempt, "outcome"), text(&attempt, "class")), ("failed", "infra"));
    assert_eq!((w.status(&bead).as_str(), charged(&w, &bead)), ("open", 0));
}

#[test]
fn wherever_the_object_crashes_everything_is_done_once() {
    for step in (0..60).step_by(4) {
        for losing in [true, false] {
            let (mut w, rig) = World::founded(4);
            let beads = sling_many(&mut w, &rig, 3);
            let end = w.now().plus(HOUR);
            for _ in 0..step {
                w.step(end);
            }
            if losing {
                w.crash_losing_requests();
            } else {
                w.crash();
            }
            w.run_until(end);
            assert_eq!(w.container.twice(), Vec::<String>::new(), "crash after {step} steps");
            assert!(beads.iter().all(|b| w.status(b) == "closed"), "crash after {step} steps\n{}", w.journal());
            assert_eq!((w.alarm(), w.dispatch()["invariant_violations"].as_i64()), (None, Some(0)));
        }
    }
}

// ── lost answers ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_start_whose_answer_is_lost_is_accepted_if_the_look_finds_its_agent_alive() {
    for fault in [Fault::DropAfter, Fault::HangAfter] {
        let (mut w, rig) = World::founded(5);
        polecats(&mut w, Behaviour { first_heartbeat: Some(80 * SECOND), ..quick(3 * MINUTE) });
        w.container.faults.once(Endpoint::Start, fault.clone());
        let bead = w.sling(&rig, "one");
        w.run_for(75 * SECOND);
        let attempt = last(&w, &bead);
        assert!(!attempt["accepted_at"].is_null() && attempt["finished_at"].is_null(), "{fault:?}");
        w.run_for(10 * MINUTE);
        assert_eq!((w.status(&bead).as_str(), w.starts().len(), w.attempts(&bead).len()), ("closed", 1, 1));
    }
}

#[test]
fn an_answer_that_is_lost_at_a_container_nobody_reaches_fails_now_and_its_agent_is_stopped_before_the_next_start() {
    let (mut w, rig) = World::founded(6);
    let n = Cell::new(0);
    w.container.behave(move |start| match (start.request.role.as_str(), n.replace(n.get() + 1)) {
        ("polecat", 0) => Behaviour::hangs().mute(),
        (role, _) => Behaviour::good(role),
    });
    w.container.faults.once(Endpoint::Start, Fault::DropAfter);
    w.container.faults.set(Endpoint::Health, Fault::Refuse);
    w.container.faults.set(Endpoint::Status, Fault::Refuse);
    w.container.faults.set(Endpoint::Stop, Fault::Refuse);
    let bead = w.sling(&rig, "one");
    w.run_for(30 * SECOND);
    let lost = last(&w, &bead);
    assert_eq!((text(&lost, "outcome"), text(&lost, "code")), ("failed", "container.unreachable"));
    assert_eq!(w.container.running().len(), 1, "it lives, and nobody knows");
    w.run_for(MINUTE);
    let before_it_answers = stops(&w).len();
    w.container.faults.clear_all();
    w.run_for(10 * MINUTE);
    let sent: Vec<_> = stops(&w).into_iter().filter(|(_, a)| a == text(&lost, "attempt_id")).collect();
    assert!(!sent.is_empty() && before_it_answers <= 1);
    let second = w.attempts(&bead).remove(1);
    let real = w.starts();
    let (first, next) = (&real[0], real.iter().find(|s| s.attempt_id == text(&second, "attempt_id")).unwrap());
    assert!(first.ended_at.unwrap() <= next.at && !first.replaced, "stopped, then started");
    assert_eq!((w.status(&bead).as_str(), w.container.twice()), ("closed", Vec::new()));
}

#[test]
fn a_look_that_settles_nothing_leaves_a_pending_start_to_its_lease() {
    let (mut w, rig) = World::founded(7);
    polecats(&mut w, Behaviour { first_heartbeat: Some(10 * MINUTE), ..quick(20 * MINUTE) });
    w.container.faults.once(Endpoint::Start, Fault::DropAfter);
    w.container.faults.set(Endpoint::Status, Fault::answer(500, error("cannot say")));
    let bead = w.sling(&rig, "one");
    w.run_for(60 * SECOND);
    let attempt = last(&w, &bead);
    assert_eq!(text(&attempt, "outcome"), "pending");
    assert_eq!(time(&attempt["lease_until"]).since(time(&attempt["booked_at"])), 150 * SECOND);
    w.container.faults.clear_all();
    w.run_for(2 * MINUTE);
    assert!(!last(&w, &bead)["accepted_at"].is_null(), "looked at again when the lease ended");
    w.run_for(HOUR);
    assert_eq!((w.status(&bead).as_str(), w.starts().len()), ("closed", 1));
}

// ── silence ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_agent_that_runs_in_silence_is_kept_alive_by_looks() {
    let (mut w, rig) = World::founded(8);
    polecats(&mut w, quick(10 * MINUTE).mute());
    let bead = w.sling(&rig, "one");
    w.run_for(3 * MINUTE);
    assert_eq!(last(&w, &bead)["outcome"], "proven", "`running` counts as a heartbeat and as proof");
    w.run_for(HOUR);
    assert_eq!((w.status(&bead).as_str(), w.attempts(&bead).len()), ("closed", 1));
    let looks = w.container.calls[&Endpoint::Status];
    assert!((5..=7).contains(&looks), "one for each 90 s of silence: {looks}");
}

#[test]
fn an_agent_that_speaks_is_never_looked_at() {
    let (mut w, rig) = World::founded(9);
    polecats(&mut w, quick(3 * HOUR));
    w.sling(&rig, "one");
    w.run_for(4 * HOUR);
    assert_eq!(w.container.calls.get(&Endpoint::Status), None);
    assert_eq!(w.container.calls.get(&Endpoint::Health), None);
}

#[test]
fn an_agent_may_be_starting_for_fifteen_minutes_and_no_longer() {
    for (mute, boots_for, in_time) in
        [(false, 14 * MINUTE, true), (true, 14 * MINUTE, true), (false, HOUR, false), (true, HOUR, false)]
    {
        let (mut w, rig) = World::founded(10);
        let behaviour = quick(14 * MINUTE + 40 * SECOND).starting_for(boots_for);
        let behaviour = if in_time { behaviour } else { Behaviour::hangs().starting_for(boots_for) };
        polecats(&mut w, if mute { behaviour.mute() } else { behaviour });
        let bead = w.sling(&rig, "one");
        w.run_for(13 * MINUTE);
        let attempt = last(&w, &bead);
        assert!(attempt["proven_at"].is_null() && attempt["finished_at"].is_null(), "mute {mute}, {boots_for}");
        w.run_for(5 * MINUTE);
        let attempt = w.attempts(&bead).remove(0);
        if in_time {
            assert_eq!((w.status(&bead).as_str(), text(&attempt, "outcome")), ("closed", "succeeded"), "mute {mute}");
        } else {
            let ran = time(&attempt["finished_at"]).since(time(&attempt["booked_at"]));
            assert!((15 * MINUTE..=15 * MINUTE + 20 * SECOND).contains(&ran), "mute {mute}: {ran}");
            assert_eq!(text(&attempt, "outcome"), "failed");
            assert!(!text(&attempt, "code").is_empty() && attempt["proven_at"].is_null());
            assert!(w.container.running().iter().all(|(_, a)| *a != text(&attempt, "attempt_id")), "stopped");
        }
    }
}

// ── late voices ──────────────────────────────────────────────────────────────────────────────────────────────────

/// A bead whose only attempt was lost, held so that nothing starts; and that attempt.
fn zombie(seed: u64) -> (World, RigId, BeadId, Json) {
    let (mut w, rig) = World::founded(seed);
    polecats(&mut w, Behaviour::vanishes(10 * SECOND));
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(5 * MINUTE, |w| last_is(w, &bead, "failed")));
    let attempt = last(&w, &bead);
    assert_eq!(text(&attempt, "code"), "agent.lost");
    hold(&mut w, &rig, &bead, true);
    w.run_for(10 * SECOND);
    polecats(&mut w, quick(10 * MINUTE));
    (w, rig, bead, attempt)
}

fn last_is(w: &World, bead: &BeadId, outcome: &str) -> bool {
    w.attempts(bead).last().is_some_and(|a| a["outcome"] == outcome)
}

#[test]
fn a_heartbeat_of_an_attempt_that_is_over_stops_its_process_once_a_minute() {
    let (mut w, _, bead, attempt) = zombie(11);
    let before = stops(&w).len();
    assert_eq!(before, 1, "the re-queueing itself had booked one");
    for _ in 0..18 {
        beat(&mut w, &attempt, "running");
        w.run_for(10 * SECOND);
    }
    let sent: Vec<_> = stops(&w).split_off(before);
    assert_eq!(sent.len(), 3, "three minutes: {sent:?}");
    assert!(sent.windows(2).all(|p| p[1].0.since(p[0].0) >= MINUTE));
    assert!(sent.iter().all(|(_, a)| a == text(&attempt, "attempt_id")));
    let agent = w.sql.peek("SELECT status FROM agents WHERE agent_id = ?1", &[text(&attempt, "agent_id").into()]);
    assert_eq!((agent[0].text(0).unwrap().as_str(), w.status(&bead).as_str()), ("idle", "open"), "it revives nothing");
    assert_eq!(w.attempts(&bead)[0], attempt);
}

#[test]
fn no_stop_is_sent_while_the_agent_has_another_live_attempt() {
    let (mut w, rig, bead, attempt) = zombie(12);
    hold(&mut w, &rig, &bead, false);
    assert!(w.run_while_not(5 * MINUTE, |w| last_is(w, &bead, "proven")));
    assert_eq!(text(&last(&w, &bead), "agent_id"), text(&attempt, "agent_id"), "the same polecat");
    let before = stops(&w).len();
    for _ in 0..12 {
        beat(&mut w, &attempt, "running");
        w.run_for(10 * SECOND);
    }
    assert_eq!(stops(&w).len(), before);
    assert_eq!(last(&w, &bead)["outcome"], "proven");
    w.run_for(20 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn finished_work_that_comes_late_is_accepted_while_its_bead_is_open() {
    let (mut w, rig, bead, attempt) = zombie(13);
    hold(&mut w, &rig, &bead, false);
    let (actor, done_) = done(&attempt, Some("gt/toast/late"));
    w.command(&actor, done_.clone()).unwrap();
    assert_eq!((w.status(&bead).as_str(), w.attempts(&bead).len()), ("in_review", 1), "the re-queue is undone");
    assert_eq!((charged(&w, &bead), streak(&w, &bead)), (0, 0));
    let before = w.sql.dump();
    w.command(&actor, done_).unwrap();
    assert_eq!(w.sql.dump(), before, "applied once");
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), w.attempts(&bead).len()), ("closed", 1));
}

#[test]
fn finished_work_that_comes_when_somebody_else_is_at_it_is_a_409() {
    let (mut w, rig, bead, attempt) = zombie(14);
    hold(&mut w, &rig, &bead, false);
    assert!(w.run_while_not(5 * MINUTE, |w| last_is(w, &bead, "proven")));
    let (actor, late) = done(&attempt, Some("gt/toast/late"));
    let (status, state, _) = refused_by(&mut w, &actor, late.clone());
    assert_eq!((status, state.as_str()), (409, "in_progress"));
    w.run_for(20 * MINUTE);
    assert_eq!(refused_by(&mut w, &actor, late).1, "closed");
}

#[test]
fn an_end_that_is_reported_late_or_twice_changes_nothing() {
    let (mut w, rig, bead, attempt) = zombie(15);
    let before = w.sql.dump();
    let (actor, end) = completed(&attempt);
    assert_eq!(w.command(&actor, end.clone()).unwrap().status, 200);
    assert_eq!(w.sql.dump(), before);
    hold(&mut w, &rig, &bead, false);
    assert!(w.run_while_not(5 * MINUTE, |w| last_is(w, &bead, "proven")));
    w.run_for(SECOND);
    let before = w.sql.dump();
    w.command(&actor, end).unwrap();
    assert_eq!(w.sql.dump(), before, "it names its attempt, so the live one is not meant");
}

#[test]
fn done_and_close_may_be_repeated() {
    let (mut w, rig) = World::founded(16);
    polecats(&mut w, Behaviour::hangs());
    let (bead, other) = (w.sling(&rig, "one"), w.sling(&rig, "two"));
    w.run_for(MINUTE);
    let (actor, done_) = done(&last(&w, &bead), None);
    let agent_id = text(&last(&w, &other), "agent_id").to_owned();
    let close = Command::CloseBead { rig_id: rig, bead_id: other.clone(), agent_id: agent_id.clone() };
    for (actor, command, bead) in [(actor, done_, &bead), (voice(&agent_id, None), close, &other)] {
        assert_eq!(w.command(&actor, command.clone()).unwrap().status, 200);
        assert_eq!((w.status(bead).as_str(), text(&last(&w, bead), "outcome")), ("closed", "succeeded"));
        let before = w.sql.dump();
        assert_eq!(w.command(&actor, command).unwrap().status, 200);
        assert_eq!(w.sql.dump(), before);
    }
}

#[test]
fn what_agents_say_twice_counts_once() {
    let (mut w, rig) = World::founded(17);
    w.filter_voices(|_| Fate::Twice);
    let fails = w.sling(&rig, "fails first");
    let n = Cell::new(0);
    w.container.behave(move |start| match (start.request.role.as_str(), n.replace(n.get() + 1)) {
        ("polecat", 0) => Behaviour::fails(10 * SECOND, "no"),
        (role, _) => Behaviour::good(role),
    });
    w.run_for(HOUR);
    assert_eq!((w.status(&fails).as_str(), w.attempts(&fails).len()), ("closed", 2));
    assert_eq!((w.refused.len(), w.dispatch()["failures"][0]["count"].as_i64()), (0, Some(1)));
    assert_eq!(w.container.twice(), Vec::<String>::new());
}

// ── drain ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_drain_holds_dispatch_suspends_deadlines_and_hands_the_saved_branch_to_the_next_instance() {
    let (mut w, rig) = World::founded(18);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "interrupted");
    w.run_for(2 * MINUTE);
    let old = w.container.instance_id().to_owned();
    w.container.drain(w.now(), 5 * MINUTE);
    let waits = w.sling(&rig, "waits");
    w.run_for(4 * MINUTE);
    // Whatever wakes the town meanwhile does not make it look.
    w.patch_config(json!({"notify": {"webhook_url": "https://example.com/x"}}));
    w.must(Command::TestNotification);
    w.run_for(30 * SECOND);
    assert_eq!(w.holds(&waits), ["draining"]);
    assert_eq!(w.dispatch()["draining"], true);
    assert_eq!(last(&w, &bead)["outcome"], "proven", "silence is no failure while the container drains");
    assert_eq!(w.container.calls.get(&Endpoint::Status), None, "{}", w.journal());
    w.run_for(31 * SECOND);
    assert_eq!(last(&w, &bead)["outcome"], "interrupted");
    // Its old polecat gets something else to do.
    let agent_id = text(&last(&w, &bead), "agent_id").into();
    let other = Command::CreateBead {
        rig_id: rig.clone(),
        bead: NewBead { title: "another".to_owned(), ..NewBead::default() },
    };
    let bead_id = text(&w.must(other), "bead_id").into();
    w.must(Command::Hook { rig_id: rig.clone(), agent_id, bead_id });
    w.container.restart(w.now());
    assert_ne!(w.container.instance_id(), old);
    polecats(&mut w, quick(MINUTE));
    w.run_for(10 * MINUTE);
    assert!(w.status(&bead) == "closed" && w.status(&waits) == "closed", "{}", w.journal());
    let branch = start_effects(&w)[0].request.branch.clone();
    let again = start_effects(&w).into_iter().rfind(|s| s.request.branch.ends_with(bead.short())).unwrap();
    assert_eq!(again.request.branch, branch, "whoever takes it goes on where it was saved");
    let taker = text(&w.attempts(&bead)[1], "agent_name").to_owned();
    assert_ne!(text(&w.attempts(&bead)[0], "agent_name"), taker);
    assert!(text(&w.bead(&bead), "body").contains(&branch));
    assert_eq!(w.attempts(&bead).iter().filter(|a| a["outcome"] == "failed").count(), 0);
}

#[test]
fn a_drain_ends_when_another_instance_speaks_when_the_nonce_comes_back_or_after_seven_minutes() {
    let drain = |w: &mut World| {
        let data = w.command(&voice("", None), Command::ContainerEviction).unwrap().data;
        assert_eq!(data["acknowledged"], true);
        text(&data, "drainNonce").to_owned()
    };
    let draining = |w: &mut World| w.must(Command::DrainStatus)["draining"] == true;
    // Another instance.
    let (mut w, rig) = World::founded(19);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "alive");
    w.run_for(MINUTE);
    w.filter_voices(|v| if matches!(v.says, Says::Heartbeat { .. }) { Fate::Lost } else { Fate::Arrives });
    drain(&mut w);
    let attempt = last(&w, &bead);
    beat(&mut w, &attempt, "running");
    assert!(draining(&mut w), "the one that goes away says nothing new");
    let body = Heartbeat { container_instance_id: Some("another".to_owned()), ..Heartbeat::default() };
    let (agent, id) = (text(&attempt, "agent_id"), text(&attempt, "attempt_id"));
    w.command(&voice(agent, Some(id)), Command::Heartbeat { agent_id: agent.into(), body }).unwrap();
    assert!(!draining(&mut w));
    // The nonce.
    let (mut w, _) = World::founded(20);
    let nonce = drain(&mut w);
    assert_eq!(drain(&mut w), nonce, "said twice, it is one drain");
    assert_eq!(w.must(Command::ContainerReady { nonce: "wrong".to_owned() }), json!({"cleared": false}));
    assert!(draining(&mut w));
    assert_eq!(w.must(Command::ContainerReady { nonce }), json!({"cleared": true}));
    assert!(!draining(&mut w));
    assert_eq!(w.must(Command::ContainerReady { nonce: "any".to_owned() }), json!({"cleared": true}));
    assert_eq!(refused(&mut w, Command::ContainerReady { nonce: String::new() }).0, 400);
    // Time.
    let (mut w, rig) = World::founded(21);
    drain(&mut w);
    let bead = w.sling(&rig, "waits");
    w.run_for(7 * MINUTE - 1);
    assert!(draining(&mut w) && w.attempts(&bead).is_empty());
    assert_eq!(text(&w.explain(&bead)["holds"][0], "until"), w.now().plus(1).to_string());
    w.run_for(SECOND);
    assert!(!draining(&mut w) && w.attempts(&bead).len() == 1);
}

#[test]
fn whoever_is_lost_in_a_drain_that_nobody_ends_is_evicted_not_failed() {
    let (mut w, rig) = World::founded(22);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    w.must(Command::ContainerEviction);
    w.container.kill(w.now());
    w.run_for(12 * MINUTE);
    let first = w.attempts(&bead).remove(0);
    assert_eq!((text(&first, "outcome"), text(&first, "code")), ("interrupted", "agent.evicted"));
    assert_eq!(charged(&w, &bead), 0);
}

// ── backoff, cap, redrive ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_wait_grows_with_every_failure_in_a_row_charged_or_not_and_its_jitter_is_at_most_a_tenth() {
    let (mut w, rig) = World::founded(23);
    shadow(&mut w);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    let beads = sling_many(&mut w, &rig, 8);
    w.run_for(4 * HOUR);
    let mut firsts = std::collections::BTreeSet::new();
    for bead in &beads {
        let attempts = w.attempts(bead);
        assert!(attempts.len() >= 8, "never at the cap: {}", attempts.len());
        for (pair, minutes) in attempts.windows(2).zip([2, 5, 10, 30, 30, 30, 30]) {
            let wait = time(&pair[1]["booked_at"]).since(time(&pair[0]["finished_at"]));
            // A bead that is due may have to wait for the one start that may be in flight.
            let room = SECOND;
            assert!(
                (minutes * MINUTE..=minutes * MINUTE * 11 / 10 + room).contains(&wait),
                "{wait}, not {minutes} min"
            );
        }
        firsts.insert(time(&attempts[1]["booked_at"]).since(time(&attempts[0]["finished_at"])) / SECOND);
    }
    assert!(firsts.len() >= 4, "beads do not march in step: {firsts:?}");
}

#[test]
fn a_history_replayed_is_the_same_history() {
    let history = || {
        let (mut w, rig) = World::founded(24);
        w.container.faults.set(Endpoint::Start, Fault::answer(500, error("no")));
        sling_many(&mut w, &rig, 3);
        w.run_for(3 * HOUR);
        w.sql.dump()
    };
    assert_eq!(history(), history());
}

#[test]
fn success_forgets_charges_and_streak() {
    let (mut w, rig) = World::founded(25);
    w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
    w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
    polecats(&mut w, quick(5 * MINUTE));
    let bead = w.sling(&rig, "third time");
    assert!(w.run_while_not(20 * MINUTE, |w| last_is(w, &bead, "proven")));
    assert_eq!((charged(&w, &bead), streak(&w, &bead)), (3, 2), "a heartbeat is no success");
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), charged(&w, &bead), streak(&w, &bead)), ("closed", 0, 0));
}

/// Beads that are failed at their cap.
fn failed_beads(w: &mut World, rig: &RigId, n: usize) -> Vec<BeadId> {
    shadow(w);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    every_start(w, 500, &error("no"));
    let beads = sling_many(w, rig, n);
    w.run_for(10 * MINUTE);
    assert!(beads.iter().all(|b| w.status(b) == "failed"));
    beads
}

fn redrive(bead: &BeadId) -> Command {
    Command::RedriveBead { bead_id: bead.clone(), reason: Some("mended".to_owned()) }
}

#[test]
fn a_failed_bead_comes_back_by_redrive_only_with_its_counters_at_nothing_and_an_entry_in_the_audit() {
    let (mut w, rig) = World::founded(26);
    let bead = failed_beads(&mut w, &rig, 1).remove(0);
    let status = Command::SetBeadStatus { rig_id: rig, bead_id: bead.clone(), status: "open".to_owned() };
    let (code, _, message) = refused(&mut w, status);
    assert!(code == 409 && message.contains("redrive"), "{code} {message}");
    w.container.faults.clear_all();
    polecats(&mut w, quick(MINUTE));
    let shown = w.must(redrive(&bead));
    assert_eq!((text(&shown, "status"), &shown["failure_reason"]), ("open", &Json::Null));
    assert_eq!((charged(&w, &bead), streak(&w, &bead), due_in(&w, &bead)), (0, 0, None));
    let entry = audit(&mut w).remove(0);
    assert_eq!((text(&entry, "action"), text(&entry, "actor")), ("redrive", "user:owner"));
    assert_eq!((text(&entry, "reason"), text(&entry, "subject")), ("mended", bead.as_str()));
    let events = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: None });
    assert!(events.as_array().unwrap().iter().any(|e| e["event_type"] == "redriven"));
    assert_eq!(refused(&mut w, redrive(&bead)).1, "open");
    w.run_for(5 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), refused(&mut w, redrive(&bead)).1.as_str()), ("closed", "closed"));
}

#[test]
fn of_agents_only_the_mayor_may_redrive_and_twice_at_most() {
    let (mut w, rig) = World::founded(27);
    let bead = failed_beads(&mut w, &rig, 1).remove(0);
    let mayor = w.sql.peek("SELECT mayor_agent_id FROM town", &[])[0].text(0).unwrap();
    let polecat = text(&last(&w, &bead), "agent_id").to_owned();
    assert_eq!(refused_by(&mut w, &voice(&polecat, None), redrive(&bead)).0, 403);
    for _ in 0..2 {
        w.command(&voice(&mayor, None), redrive(&bead)).unwrap();
        w.run_for(5 * MINUTE);
        assert_eq!(w.status(&bead), "failed");
    }
    assert_eq!(refused_by(&mut w, &voice(&mayor, None), redrive(&bead)).0, 409);
    for _ in 0..3 {
        w.must(redrive(&bead));
        w.run_for(5 * MINUTE);
        assert_eq!(w.status(&bead), "failed");
    }
}

fn many(fingerprint: Option<&str>, rig: Option<&RigId>, limit: u32, dry_run: bool) -> Command {
    Command::Redrive {
        fingerprint: fingerprint.map(str::to_owned),
        rig_id: rig.cloned(),
        limit: Some(limit),
        dry_run,
        reason: "mended".to_owned(),
    }
}

#[test]
fn many_are_redriven_one_a_minute_until_one_is_proven_and_then_twenty() {
    let (mut w, rig) = World::founded(28);
    let beads = failed_beads(&mut w, &rig, 45);
    let dry = w.must(many(None, None, 5_000, true));
    assert_eq!((&dry["matched"], &dry["redriven"], &dry["dry_run"]), (&json!(45), &json!(0), &json!(true)));
    assert!(beads.iter().all(|b| w.status(b) == "failed"));
    w.container.faults.clear_all();
    // The first ones take four minutes to show a sign of life.
    polecats(&mut w, Behaviour { first_heartbeat: Some(200 * SECOND), ..quick(4 * MINUTE) }.starting_for(190 * SECOND));
    let begun = w.must(many(None, None, 5_000, false));
    assert_eq!((&begun["matched"], &begun["redriven"], &begun["remaining"]), (&json!(45), &json!(1), &json!(44)));
    let back = |w: &World| 45 - beads.iter().filter(|b| w.status(b) == "failed").count();
    for wanted in [1, 2, 3] {
        w.run_for(59 * SECOND);
        assert_eq!(back(&w), wanted);
        w.run_for(SECOND);
    }
    assert!(w.run_while_not(10 * MINUTE, |w| attempts(w).iter().any(|a| !a["proven_at"].is_null())));
    let before = back(&w);
    w.run_for(MINUTE);
    assert_eq!(back(&w), before + 20);
    w.run_for(3 * HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    assert!(audit(&mut w).iter().filter(|e| e["action"] == "redrive").all(|e| e["actor"] == "user:owner"));
}

#[test]
fn a_redrive_stops_when_three_of_its_first_ten_fail_with_the_same_cause() {
    let (mut w, rig) = World::founded(29);
    let beads = failed_beads(&mut w, &rig, 20);
    w.must(many(None, None, 5_000, false));
    w.run_for(3 * HOUR);
    let tried: usize = beads.iter().map(|b| w.attempts(b).len() - 1).sum();
    assert_eq!(tried, 3);
    assert!(beads.iter().all(|b| w.status(b) == "failed"));
    w.run_for(HOUR);
    assert!(audit(&mut w).iter().any(|e| text(e, "action").contains("redrive") && e["actor"] == "system"));
}

#[test]
fn a_redrive_of_many_takes_those_that_match_and_never_those_cancelled_by_hand() {
    let (mut w, rig) = World::founded(30);
    let beads = failed_beads(&mut w, &rig, 3);
    let other_rig = w.add_rig("other");
    every_start(&mut w, 500, &error("another cause"));
    let other = w.sling(&other_rig, "other");
    w.run_for(5 * MINUTE);
    let cancelled = w.sling(&rig, "cancelled");
    w.must(Command::CancelBead { bead_id: cancelled.clone(), reason: "not needed".to_owned() });
    let cause = text(&last(&w, &beads[0]), "fingerprint").to_owned();
    let ids = |data: &Json| data["bead_ids"].as_array().unwrap().len();
    let by_cause = w.must(many(Some(&cause), None, 5_000, true));
    assert_eq!((&by_cause["matched"], ids(&by_cause)), (&json!(3), 3));
    let by_rig = w.must(many(None, Some(&other_rig), 5_000, true));
    assert_eq!(by_rig["bead_ids"], json!([other]));
    assert_eq!(w.must(many(None, None, 2, true))["matched"], 2);
    assert_eq!(w.must(many(None, None, 5_000, true))["matched"], 4, "not the cancelled one");
    for limit in [0, 5_001] {
        assert_eq!(refused(&mut w, many(None, None, limit, false)).1, "limit");
    }
    let polecat = voice(text(&last(&w, &other), "agent_id"), None);
    assert_eq!(refused_by(&mut w, &polecat, many(None, None, 1, false)).0, 403);
}

// ── the safety net ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_bead_in_progress_that_nobody_works_on_goes_back_after_five_minutes_and_is_reported() {
    for (cap, wanted) in [(5, "open"), (1, "failed")] {
        let (mut w, rig) = World::founded(31);
        w.patch_config(json!({"dispatch": {"max_attempts": cap}}));
        polecats(&mut w, Behaviour::ends(HOUR, Ending::DoneWithoutBranch).mute());
        let bead = w.sling(&rig, "one");
        w.run_for(MINUTE);
        // What no path of the town does: the attempt is gone, and the bead still says that it is worked on.
        tamper(&w, "DELETE FROM attempts");
        tamper(&w, "UPDATE agents SET status = 'idle', current_hook_bead_id = NULL WHERE role = 'polecat'");
        let begun = w.now();
        // The order wakes the town, and keeps what comes back where a test can see it.
        w.must(Command::OverrideBreaker {
            scope: "town".to_owned(),
            mode: "forced_open".to_owned(),
            reason: Some("a test".to_owned()),
            expires_in_ms: Some(DAY),
        });
        w.run_for(4 * MINUTE + 50 * SECOND);
        assert_eq!((w.status(&bead).as_str(), w.bead(&bead)["failure_reason"].is_null()), ("in_progress", true));
        assert!(w.run_while_not(30 * SECOND, |w| w.status(&bead) != "in_progress"), "{}", w.journal());
        assert!(w.now().since(begun) >= 5 * MINUTE);
        assert_eq!((w.status(&bead).as_str(), charged(&w, &bead)), (wanted, 1), "the charge stays");
        if wanted == "failed" {
            assert_eq!(w.bead(&bead)["failure_reason"]["code"], "dispatch.orphaned");
        }
        assert!(w.dispatch()["invariant_violations"].as_i64().unwrap() >= 1, "never in silence");
        assert_eq!(w.breaker("town")["failures_in_window"], 0, "it counts nowhere");
    }
}
