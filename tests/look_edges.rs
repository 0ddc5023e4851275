//! Looks and stops at their edges: one look at a time, what a status answer means when, who is stopped and when again
//! (`design.md` 5.2, `domain.md` 9).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::Command;
use gastown::town::effect::{Answer, Effect, Health, Outcome};
use gastown::town::id::{BeadId, RigId};
use gastown::town::policy::{BOOT_GRACE, STOP_LEASE, STOP_RETENTION, STOP_RETRY, STOP_TIMEOUT, STOPS_AT_ONCE};
use gastown::town::sql::Sql as _;
use gastown::town::time::{MINUTE, SECOND, Timestamp};
use gastown::town::{Ctx, Town};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::{Fate, World};
use serde_json::Value as Json;
use support::*;

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn number(w: &World, sql: &str) -> Option<i64> {
    w.sql.peek(sql, &[]).first().and_then(|r| r.opt_int(0).unwrap())
}

fn settle(w: &World, outcome: Outcome) -> Vec<Effect> {
    Town::new(&w.sql).settle(&Ctx::new(w.now(), &w.ids), outcome).unwrap()
}

fn tick(w: &World) -> Vec<Effect> {
    Town::new(&w.sql).tick(&Ctx::new(w.now(), &w.ids)).unwrap()
}

fn looks(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::ObserveAgents(asked) if !asked.is_empty())).count()
}

fn http(status: u16, body: &str) -> Answer {
    Answer::Http { status, body: body.to_owned(), retry_after: None }
}

fn lost() -> Answer {
    Answer::Unreachable { detail: "lost".to_owned() }
}

fn health(w: &World) -> Health {
    Health { instance_id: Some(w.container.instance_id().to_owned()), draining: false, dispatch_id: true }
}

fn outcome(w: &World, bead: &BeadId) -> (String, String) {
    let a = last(w, bead);
    (text(&a, "outcome").to_owned(), text(&a, "code").to_owned())
}

/// A running agent that nobody hears any more, and the moment at which its lease ends.
fn overdue(seed: u64) -> (World, RigId, BeadId, Json) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    w.filter_voices(|_| Fate::Lost);
    let attempt = last(&w, &bead);
    w.clock.set(time(&attempt["lease_until"]));
    (w, rig, bead, attempt)
}

/// The look at `attempt` found this.
fn observed(w: &World, attempt: &Json, health: Option<Health>, answer: Answer) -> Vec<Effect> {
    settle(w, Outcome::Observed { health, agents: vec![(text(attempt, "attempt_id").into(), answer)] })
}

// ── looks ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn one_look_is_in_the_air_at_a_time_and_none_while_the_container_drains() {
    let (w, _, _, _) = overdue(1);
    assert_eq!(looks(&tick(&w)), 1);
    assert_eq!(looks(&tick(&w)), 0, "it is in the air");
    w.clock.set(Timestamp(number(&w, "SELECT look_until FROM attempts").unwrap()));
    assert_eq!(looks(&tick(&w)), 1, "its lease is over: its owner died");
    let (mut w, _, _, _) = overdue(2);
    w.must(Command::ContainerEviction);
    assert_eq!(looks(&tick(&w)), 0);
}

#[test]
fn a_container_that_does_not_answer_for_one_agent_has_lost_it_and_a_slow_one_is_asked_again() {
    let (w, _, bead, attempt) = overdue(3);
    tick(&w);
    observed(&w, &attempt, Some(health(&w)), lost());
    assert_eq!(outcome(&w, &bead), ("failed".to_owned(), "container.lost".to_owned()));

    for answer in [Answer::TimedOut { after: 10_000 }, http(502, "")] {
        let (w, _, bead, attempt) = overdue(4);
        tick(&w);
        observed(&w, &attempt, Some(health(&w)), answer.clone());
        let again = last(&w, &bead);
        assert_eq!((text(&again, "outcome"), time(&again["lease_until"]).since(w.now())), ("proven", 90 * SECOND));
        w.clock.set(time(&again["lease_until"]));
        tick(&w);
        observed(&w, &attempt, Some(health(&w)), answer.clone());
        assert_eq!(outcome(&w, &bead), ("failed".to_owned(), "container.error".to_owned()), "{answer:?}: twice");
    }
}

#[test]
fn a_look_that_finds_nothing_clear_leaves_an_attempt_whose_lease_still_runs() {
    let (mut w, rig) = World::founded(5);
    w.container.behave_all(Behaviour::hangs().mute());
    w.container.faults.once(Endpoint::Start, Fault::DropBefore);
    w.container.faults.set(Endpoint::Status, Fault::answer(200, "?"));
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    let lease = time(&last(&w, &bead)["lease_until"]);
    assert_eq!((outcome(&w, &bead).0.as_str(), number(&w, "SELECT looks FROM attempts")), ("pending", Some(0)));
    for (at, looks) in [(lease.plus(-1), 0), (lease, 1)] {
        w.clock.set(at);
        edit(&w, "UPDATE attempts SET look_until = 9000000000000");
        let attempt = last(&w, &bead);
        observed(&w, &attempt, Some(health(&w)), http(200, "?"));
        assert_eq!(number(&w, "SELECT looks FROM attempts"), Some(looks));
    }
}

#[test]
fn an_agent_that_is_still_starting_has_until_the_very_end_of_its_grace() {
    for (late, wanted) in [(-1, "accepted"), (0, "failed")] {
        let (mut w, rig) = World::founded(6);
        w.container.behave_all(Behaviour::hangs().mute());
        let bead = w.sling(&rig, "one");
        w.run_for(SECOND);
        let attempt = last(&w, &bead);
        w.clock.set(time(&attempt["booked_at"]).plus(BOOT_GRACE + late));
        tick(&w);
        observed(&w, &attempt, Some(health(&w)), http(200, r#"{"status":"starting"}"#));
        assert_eq!(outcome(&w, &bead).0, wanted);
        if late < 0 {
            assert_eq!(time(&last(&w, &bead)["lease_until"]).since(w.now()), 1, "no longer than the grace");
        } else {
            assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(1), "its process is stopped");
        }
    }
}

#[test]
fn only_a_container_that_is_not_the_one_that_drains_ends_its_drain() {
    let answers = |draining: bool, name: &str, known: bool| {
        let (mut w, _, _, _) = overdue(7);
        if !known {
            edit(&w, "UPDATE town SET instance_id = NULL");
        }
        w.must(Command::ContainerEviction);
        let health = Health { instance_id: Some(name.to_owned()), draining, dispatch_id: true };
        settle(&w, Outcome::Observed { health: Some(health), agents: Vec::new() });
        w.must(Command::DrainStatus)["draining"] == false
    };
    assert!(answers(false, "another", true));
    assert!(!answers(true, "another", true), "it says that it goes away, too");
    assert!(!answers(false, "another", false), "nobody can be told from one that has no name");
}

#[test]
fn whoever_drained_and_lives_on_is_taken_back_when_its_drain_is_over() {
    let (mut w, rig) = World::founded(8);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    let known = w.container.instance_id().to_owned();
    w.must(Command::ContainerEviction);
    w.run_for(5 * MINUTE);
    let drained = |w: &World| w.sql.peek("SELECT drained_instance FROM town", &[])[0].opt_text(0).unwrap();
    assert_eq!(drained(&w), Some(known), "its heartbeats change nothing yet");
    w.run_for(5 * MINUTE);
    assert_eq!((drained(&w), outcome(&w, &bead).0.as_str()), (None, "proven"));
}

#[test]
fn an_agent_without_a_known_container_was_evicted_if_it_was_booked_before_the_drain_began() {
    for (booked, code) in [(0, "agent.evicted"), (1, "container.lost")] {
        let (mut w, _, bead, attempt) = overdue(9);
        w.must(Command::ContainerEviction);
        let at = w.now().plus(booked);
        w.sql.execute("UPDATE attempts SET instance_id = NULL, booked_at = ?1", &[at.into()]).unwrap();
        w.clock.set(w.now().plus(2));
        edit(&w, "UPDATE attempts SET look_until = 9000000000000");
        observed(&w, &attempt, None, lost());
        assert_eq!(outcome(&w, &bead).1, code);
    }
}

// ── stops ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A bead whose running attempt was cancelled: one stop is due, and not sent yet.
fn owed(seed: u64) -> (World, RigId, BeadId, Json) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    w.filter_voices(|_| Fate::Lost);
    let attempt = last(&w, &bead);
    w.must(Command::CancelBead { bead_id: bead.clone(), reason: "x".to_owned() });
    (w, rig, bead, attempt)
}

fn stop(w: &World) -> (String, Option<i64>, Option<i64>) {
    let r = &w.sql.peek("SELECT stop_id, due_at, sent_until FROM stops", &[])[0];
    let from_now = |i| r.opt_int(i).unwrap().map(|t| t - w.now().0);
    (r.text(0).unwrap(), from_now(1), from_now(2))
}

fn stopped(w: &World, answer: Answer) {
    let stop_id = stop(w).0;
    settle(w, Outcome::Stopped { stop_id, answer });
}

#[test]
fn a_stop_is_done_when_the_container_took_it_or_knows_nothing_of_it() {
    for (status, left) in [(200, 0), (404, 0), (499, 0), (500, 1)] {
        let (w, _, _, _) = owed(10);
        tick(&w);
        assert_eq!(stop(&w).2, Some(STOP_LEASE));
        stopped(&w, http(status, ""));
        assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(left), "{status}");
    }
}

#[test]
fn a_stop_that_is_answered_with_an_error_is_sent_again_after_twice_as_long_each_time_for_a_day() {
    let (w, _, _, _) = owed(11);
    for n in 1..4 {
        tick(&w);
        stopped(&w, http(500, ""));
        let (_, due, sent) = stop(&w);
        assert_eq!((due, sent), (Some(STOP_RETRY << n), None));
        w.clock.set(w.now().plus(STOP_RETRY << n));
    }
    let booked = Timestamp(number(&w, "SELECT booked_at FROM stops").unwrap());
    w.clock.set(booked.plus(STOP_RETENTION - 1));
    stopped(&w, http(500, ""));
    assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(1));
    w.clock.set(booked.plus(STOP_RETENTION));
    stopped(&w, http(500, ""));
    assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(0), "its process has gone with its container");
}

#[test]
fn a_stop_that_reaches_nobody_waits_until_the_container_answers_anything() {
    let (mut w, rig, _, _) = owed(12);
    tick(&w);
    stopped(&w, lost());
    assert_eq!((stop(&w).1, stop(&w).2), (None, None));
    edit(&w, "UPDATE agents SET status = 'stalled' WHERE role = 'polecat'");
    w.sling(&rig, "another polecat's");
    tick(&w);
    let other = attempts(&w).pop().unwrap();
    let started =
        |answer| Outcome::Started { attempt_id: text(&other, "attempt_id").into(), answer, stops: Vec::new() };
    settle(&w, started(lost()));
    assert_eq!(stop(&w).1, None, "silence is no answer");
    settle(&w, started(http(200, "{}")));
    assert_eq!(stop(&w).1, Some(0));
}

#[test]
fn a_stop_that_waits_for_an_answer_is_forgotten_after_a_day_or_with_its_container() {
    let (w, _, _, _) = owed(13);
    let booked = w.now();
    tick(&w);
    stopped(&w, lost());
    w.clock.set(booked.plus(STOP_RETENTION));
    tick(&w);
    assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(1));
    w.clock.set(w.now().plus(1));
    tick(&w);
    assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(0));

    for due in [true, false] {
        let (w, _, _, _) = owed(14);
        if !due {
            tick(&w);
            stopped(&w, lost());
        }
        let other = Health { instance_id: Some("another".to_owned()), draining: false, dispatch_id: true };
        settle(&w, Outcome::Observed { health: Some(other), agents: Vec::new() });
        assert_eq!(number(&w, "SELECT count(*) FROM stops"), Some(0), "gone with its container");
    }
}

#[test]
fn stops_that_go_before_a_start_are_leased_until_all_of_them_can_have_been_answered() {
    let (mut w, rig, _, attempt) = owed(15);
    let agent_id = text(&attempt, "agent_id").into();
    let bead = gastown::town::command::NewBead { title: "next".to_owned(), ..Default::default() };
    let bead_id = text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into();
    w.must(Command::Hook { rig_id: rig, agent_id, bead_id });
    edit(&w, "UPDATE stops SET due_at = NULL");
    let effects = tick(&w);
    let first = effects.iter().find_map(|e| match e {
        Effect::StartAgent(s) => Some(s.stop_first.len()),
        _ => None,
    });
    assert_eq!((first, stop(&w).2), (Some(1), Some(STOP_TIMEOUT * i64::from(STOPS_AT_ONCE))));
}

#[test]
fn a_stop_whose_owner_died_is_sent_again_at_once() {
    let (w, _, _, _) = owed(16);
    tick(&w);
    assert!(stop(&w).2.is_some());
    Town::new(&w.sql).resume(&Ctx::new(w.now(), &w.ids)).unwrap();
    assert_eq!(stop(&w).2, None);
    assert!(tick(&w).iter().any(|e| matches!(e, Effect::StopAgent(_))));
}

#[test]
fn work_that_comes_late_needs_no_stop_any_more() {
    let (w, _, bead, attempt) = overdue(17);
    tick(&w);
    observed(&w, &attempt, Some(health(&w)), http(404, ""));
    assert_eq!((outcome(&w, &bead).1.as_str(), number(&w, "SELECT count(*) FROM stops")), ("agent.lost", Some(1)));
    let (agent, id) = (text(&attempt, "agent_id"), text(&attempt, "attempt_id"));
    let done = Command::Done { agent_id: agent.into(), branch: None, pr_url: None, summary: None };
    let mut w = w;
    w.command(&voice(agent, Some(id)), done).unwrap();
    assert_eq!((w.status(&bead).as_str(), number(&w, "SELECT count(*) FROM stops")), ("closed", Some(0)));
}
