//! Every row of the table of failure classes (`design.md` 5.3), provoked from outside: what it is called, what it
//! costs, where it counts, and what becomes of its bead.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::Command;
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

/// Where a failure counts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum In {
    Town,
    Rig,
    Nowhere,
}

/// One row of the table.
struct Row {
    code: &'static str,
    class: &'static str,
    charged: bool,
    counts: In,
}

const fn row(code: &'static str, class: &'static str, charged: bool, counts: In) -> Row {
    Row { code, class, charged, counts }
}

const LOST: Row = row("container.lost", "infra", false, In::Town);
const UNREACHABLE: Row = row("container.unreachable", "infra", false, In::Town);
const TIMEOUT: Row = row("container.timeout", "infra", false, In::Town);
const DRAINING: Row = row("container.draining", "throttle", false, In::Nowhere);
const THROTTLED: Row = row("container.throttled", "throttle", false, In::Nowhere);
const MODEL_THROTTLED: Row = row("model.throttled", "throttle", false, In::Nowhere);
const MODEL_REJECTED: Row = row("model.rejected", "config", false, In::Town);
const REPO: Row = row("repo.unavailable", "rig", false, In::Rig);
const REJECTED: Row = row("container.rejected", "bead", true, In::Town);
const MISCONFIGURED: Row = row("container.misconfigured", "config", false, In::Town);
const UNAVAILABLE: Row = row("container.unavailable", "infra", false, In::Town);
const ERROR: Row = row("container.error", "unknown", true, In::Town);
const AGENT_LOST: Row = row("agent.lost", "agent", true, In::Town);
const EXITED: Row = row("agent.exited", "agent", true, In::Town);
const NO_PROGRESS: Row = row("agent.no_progress", "agent", true, In::Town);

/// Lets one bead fail once, checks everything the table and 5.2 say about it, and hands back the attempt.
fn fails_as(w: &mut World, rig: &RigId, expected: &Row, told: &str) -> Json {
    let bead = w.sling(rig, "one");
    let failed = |w: &World| w.attempts(&bead).iter().any(|a| a["outcome"] == "failed");
    assert!(w.run_while_not(20 * MINUTE, failed), "{told}: no failure\n{}", w.journal());
    let attempt = last(w, &bead);
    check(w, rig, &bead, &attempt, expected, told);
    attempt
}

fn check(w: &World, rig: &RigId, bead: &BeadId, attempt: &Json, expected: &Row, told: &str) {
    let got = (text(attempt, "code"), text(attempt, "class"), &attempt["charged"]);
    assert_eq!(got, (expected.code, expected.class, &json!(expected.charged)), "{told}: {attempt}");
    assert!(!text(attempt, "reason").trim().is_empty(), "{told}");
    assert!(!text(attempt, "fingerprint").is_empty(), "{told}");
    assert!(attempt["duration_ms"].is_i64() && !attempt["finished_at"].is_null(), "{told}");
    let counted = |scope: &str| w.breaker(scope)["failures_in_window"].as_i64().unwrap();
    let counted = (counted("town"), counted(&format!("rig:{rig}")));
    let wanted = match expected.counts {
        In::Town => (1, 0),
        In::Rig => (0, 1),
        In::Nowhere => (0, 0),
    };
    assert_eq!(counted, wanted, "{told}: counted in (town, rig)");
    // One step puts everything right.
    let agent = w.sql.peek(
        "SELECT status, current_hook_bead_id FROM agents WHERE agent_id = ?1",
        &[text(attempt, "agent_id").into()],
    );
    assert_eq!((agent[0].text(0).unwrap().as_str(), agent[0].opt_text(1).unwrap()), ("idle", None), "{told}");
    assert_eq!(charged(w, bead), i64::from(expected.charged), "{told}");
    assert_eq!(streak(w, bead), 1, "{told}: the backoff counts every failure");
    let shown = w.bead(bead);
    assert_eq!(shown["assignee_agent_bead_id"], Json::Null, "{told}");
    if expected.code == "container.rejected" {
        assert_eq!((text(&shown, "status"), &shown["failure_reason"]["code"]), ("failed", &json!(expected.code)));
        return;
    }
    assert_eq!(text(&shown, "status"), "open", "{told}");
    let wait = row_of(w, bead, "next_dispatch_at").unwrap() - time(&attempt["finished_at"]).0;
    assert!((2 * MINUTE..=2 * MINUTE * 11 / 10).contains(&wait), "{told}: due after {wait} ms");
    let point = w.points_of("agent.dispatch_failed").pop().unwrap().clone();
    assert_eq!((point.label.as_str(), point.bead_id.as_str()), (expected.code, bead.as_str()), "{told}");
    assert!(!point.reason.is_empty() && !point.error.is_empty(), "{told}");
}

fn row_of(w: &World, bead: &BeadId, column: &str) -> Option<i64> {
    support::row(w, bead, column)
}

/// What the container answers to a start, and what that is.
fn answered(status: u16, body: &str, expected: &Row) -> Json {
    let (mut w, rig) = World::founded(1);
    w.container.faults.once(Endpoint::Start, Fault::answer(status, body));
    let attempt = fails_as(&mut w, &rig, expected, &format!("{status} {body}"));
    assert!(w.starts().is_empty());
    attempt
}

/// How a polecat ends, and what that is.
fn ended(ending: Ending, expected: &Row) -> Json {
    let (mut w, rig) = World::founded(1);
    let told = format!("{ending:?}");
    polecats(&mut w, Behaviour::ends(20 * SECOND, ending));
    fails_as(&mut w, &rig, expected, &told)
}

fn completed(reason: Option<&str>, phase: Option<&str>, model_status: Option<u16>) -> Ending {
    Ending::Failed { reason: reason.map(str::to_owned), phase: phase.map(str::to_owned), model_status }
}

// ── answers to a start ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn each_answer_to_a_start_is_the_first_row_that_matches() {
    let control = error("boom");
    for (status, body, expected) in [
        (503, error("Container is draining, cannot start new agents").as_str(), &DRAINING),
        (429, "", &THROTTLED),
        (429, control.as_str(), &THROTTLED),
        (429, r#"{"error":"x","phase":"initial_prompt","status":401}"#, &THROTTLED),
        (500, r#"{"error":"x","phase":"initial_prompt","status":429}"#, &MODEL_THROTTLED),
        (500, r#"{"error":"x","phase":"initial_prompt","status":529}"#, &MODEL_THROTTLED),
        (500, r#"{"error":"x","phase":"initial_prompt","status":401}"#, &MODEL_REJECTED),
        (500, r#"{"error":"x","phase":"initial_prompt","status":402}"#, &MODEL_REJECTED),
        (500, r#"{"error":"x","phase":"initial_prompt","status":403}"#, &MODEL_REJECTED),
        (500, r#"{"error":"clone failed","phase":"repository"}"#, &REPO),
        (422, r#"{"error":"clone failed","phase":"repository"}"#, &REPO),
        (500, r#"{"error":"git clone: fatal: repository not found"}"#, &REPO),
        (400, r#"{"error":"Invalid request body","issues":[{"path":["name"]}]}"#, &REJECTED),
        (413, control.as_str(), &REJECTED),
        (422, control.as_str(), &REJECTED),
        (400, "<html>Bad Request</html>", &MISCONFIGURED),
        (401, control.as_str(), &MISCONFIGURED),
        (404, r#"{"error":"Not found"}"#, &MISCONFIGURED),
        (418, "", &MISCONFIGURED),
        (502, "", &UNAVAILABLE),
        (504, "upstream timed out", &UNAVAILABLE),
        (503, "There is no Container instance available at this time.", &UNAVAILABLE),
        (500, "the container is not listening in the TCP address 10.0.0.1:8080", &UNAVAILABLE),
        (500, "Failed to start container", &UNAVAILABLE),
        (500, "Container crashed while checking for ports", &UNAVAILABLE),
        (500, "container exited with unexpected exit code: 1", &UNAVAILABLE),
        (500, error("the worker crashed").as_str(), &ERROR),
        (500, control.as_str(), &ERROR),
        (500, "", &ERROR),
        (503, control.as_str(), &ERROR),
        (302, "", &ERROR),
        (500, r#"{"error":"x","phase":"initial_prompt","status":500}"#, &ERROR),
    ] {
        let attempt = answered(status, body, expected);
        if !expected.code.starts_with("model.") {
            assert_eq!(attempt["status_code"], status, "{body}");
        }
    }
}

#[test]
fn a_503_with_retry_after_is_throttled_unless_it_says_draining() {
    for (body, expected) in [("busy", &THROTTLED), (error("busy").as_str(), &THROTTLED), ("draining", &DRAINING)] {
        let (mut w, rig) = World::founded(1);
        w.container.faults.once(Endpoint::Start, Fault::retry_after(503, body, MINUTE));
        fails_as(&mut w, &rig, expected, body);
    }
}

#[test]
fn a_start_that_nobody_answers_is_unreachable_or_a_timeout_and_has_no_status() {
    for (fault, expected) in
        [(Fault::Refuse, &UNREACHABLE), (Fault::DropBefore, &UNREACHABLE), (Fault::HangBefore, &TIMEOUT)]
    {
        // With a container that answers the look, and with one that does not.
        for dead in [false, true] {
            let (mut w, rig) = World::founded(1);
            if dead {
                w.container.faults.set_all(&fault);
            } else {
                w.container.faults.set(Endpoint::Start, fault.clone());
            }
            let begun = w.now();
            let attempt = fails_as(&mut w, &rig, expected, &format!("{fault:?}, dead: {dead}"));
            assert_eq!(attempt["status_code"], Json::Null);
            let took = time(&attempt["finished_at"]).since(begun);
            let limit = if fault == Fault::HangBefore { 60 * SECOND } else { 0 };
            assert!(took >= limit && took <= limit + 25 * SECOND, "{fault:?}: {took} ms");
        }
    }
}

#[test]
fn a_2xx_that_cannot_be_read_and_a_500_that_says_already_running_are_accepted() {
    for (status, body) in [(201, "<html>"), (200, ""), (204, "{"), (500, &error("Agent x is already running"))] {
        let (mut w, rig) = World::founded(1);
        w.container.faults.once(Endpoint::Start, Fault::answer_after(status, body));
        let bead = w.sling(&rig, "fine");
        w.run_for(30 * SECOND);
        assert_eq!(last(&w, &bead)["outcome"], "proven", "{status} {body}");
        w.run_for(10 * MINUTE);
        assert_eq!((w.status(&bead).as_str(), w.attempts(&bead).len()), ("closed", 1));
    }
    // What was accepted and does not exist is found out by evidence.
    let (mut w, rig) = World::founded(1);
    w.container.faults.once(Endpoint::Start, Fault::answer(201, "<html>"));
    let attempt = fails_as(&mut w, &rig, &AGENT_LOST, "an empty promise");
    assert!(!attempt["accepted_at"].is_null());
}

// ── ends of agents ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn each_end_of_an_agent_is_the_first_row_that_matches() {
    for (ending, expected) in [
        (completed(Some("exit status 1"), Some("run"), None), &EXITED),
        (completed(None, None, None), &EXITED),
        (completed(Some("Event stream error"), None, None), &EXITED),
        (completed(Some("rate limit"), Some("run"), Some(429)), &MODEL_THROTTLED),
        (completed(Some("overloaded"), Some("run"), Some(529)), &MODEL_THROTTLED),
        (completed(Some("bad key"), Some("run"), Some(401)), &MODEL_REJECTED),
        (completed(Some("no credit"), Some("run"), Some(402)), &MODEL_REJECTED),
        (completed(Some("cannot push"), Some("repository"), None), &REPO),
        (completed(Some("fatal: the script's own words"), Some("run"), None), &EXITED),
        (Ending::Completed { reason: None }, &NO_PROGRESS),
        (Ending::Completed { reason: Some("completed".to_owned()) }, &NO_PROGRESS),
        (Ending::Completed { reason: Some("container eviction".to_owned()) }, &NO_PROGRESS),
        (Ending::Exited { reason: "completed".to_owned() }, &NO_PROGRESS),
        (Ending::Vanished, &AGENT_LOST),
    ] {
        ended(ending, expected);
    }
}

#[test]
fn gits_fatal_from_the_predecessor_is_the_repositorys_failure() {
    let (mut w, rig) = World::founded(1);
    w.container.features.clear();
    polecats(&mut w, Behaviour::ends(20 * SECOND, completed(Some("git: fatal: no such ref"), None, None)));
    fails_as(&mut w, &rig, &REPO, "the predecessor");
}

#[test]
fn a_container_that_is_gone_when_a_heartbeat_is_overdue_is_lost_with_its_agents_and_counts_once() {
    let (mut w, rig) = World::founded(2);
    polecats(&mut w, Behaviour::hangs());
    let beads = sling_many(&mut w, &rig, 6);
    w.run_for(MINUTE);
    assert_eq!(w.container.running().len(), 6);
    w.container.kill(w.now());
    w.run_for(3 * MINUTE);
    for bead in &beads {
        let attempt = &w.attempts(bead)[0];
        assert_eq!((text(attempt, "code"), text(attempt, "class")), (LOST.code, LOST.class));
        assert_eq!((&attempt["charged"], charged(&w, bead)), (&json!(false), 0));
    }
    let lost = failures(&w, "container.lost").len();
    assert_eq!((lost, w.breaker("town")["state"].as_str()), (6, Some("closed")), "six beads, one instance");
    assert_eq!(w.breaker("town")["failures_in_window"].as_i64().unwrap(), 1 + infra_but_lost(&w));
}

fn infra_but_lost(w: &World) -> i64 {
    i64::try_from(attempts(w).iter().filter(|a| a["class"] == "infra" && a["code"] != "container.lost").count())
        .unwrap()
}

#[test]
fn another_instance_that_answers_has_lost_the_old_ones_agents() {
    let (mut w, rig) = World::founded(3);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    w.container.restart(w.now());
    assert!(w.run_while_not(5 * MINUTE, |w| w.attempts(&bead)[0]["outcome"] == "failed"));
    check(&w, &rig, &bead, &w.attempts(&bead)[0], &LOST, "another instance");
}

#[test]
fn an_agent_that_ended_without_a_word_is_settled_by_what_its_status_says() {
    let (mut w, rig) = World::founded(4);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let failed = r#"{"status":"failed","exitReason":"out of memory"}"#;
    w.container.faults.set(Endpoint::Status, Fault::answer(200, failed));
    w.filter_voices(|_| gastown_host::world::Fate::Lost);
    assert!(w.run_while_not(5 * MINUTE, |w| w.attempts(&bead)[0]["outcome"] == "failed"));
    let attempt = w.attempts(&bead).remove(0);
    check(&w, &rig, &bead, &attempt, &EXITED, "failed");
    assert!(text(&attempt, "reason").contains("out of memory"));
}

#[test]
fn a_status_that_stays_unclear_is_asked_for_twice_and_is_then_a_container_error() {
    let (mut w, rig) = World::founded(5);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let before = w.container.calls.get(&Endpoint::Status).copied().unwrap_or(0);
    w.container.faults.set(Endpoint::Status, Fault::answer(500, error("cannot say")));
    w.filter_voices(|_| gastown_host::world::Fate::Lost);
    assert!(w.run_while_not(10 * MINUTE, |w| w.attempts(&bead)[0]["outcome"] == "failed"));
    assert_eq!(text(&w.attempts(&bead)[0], "code"), "container.error");
    assert_eq!(w.container.calls[&Endpoint::Status] - before, 2);
}

// ── what follows from a class ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_throttle_holds_the_town_for_as_long_as_it_asks_within_five_seconds_and_half_an_hour() {
    for (asked, wanted) in [(1, 5 * SECOND), (MINUTE, MINUTE), (5 * HOUR, 30 * MINUTE)] {
        let (mut w, rig) = World::founded(6);
        w.container.faults.once(Endpoint::Start, Fault::retry_after(429, "slow down", asked));
        let first = w.sling(&rig, "one");
        assert!(w.run_while_not(MINUTE, |w| !w.dispatch()["hold"].is_null()));
        let until = time(&w.dispatch()["hold"]["until"]);
        assert_eq!(until.since(w.now()), wanted, "asked for {asked}");
        let second = w.sling(&rig, "two");
        w.run_until(until.plus(-1));
        assert_eq!((w.holds(&second), w.attempts(&second).len()), (vec!["town_hold".to_owned()], 0));
        assert!(w.holds(&first).contains(&"town_hold".to_owned()));
        w.run_for(SECOND);
        assert_eq!((w.attempts(&second).len(), &w.dispatch()["hold"]), (1, &Json::Null));
    }
}

#[test]
fn throttles_without_a_time_hold_the_town_for_2_5_10_and_30_minutes() {
    let (mut w, rig) = World::founded(7);
    every_start(&mut w, 429, "slow down");
    sling_many(&mut w, &rig, 10);
    for wait in [2, 5, 10, 30, 30] {
        let n = attempts(&w).len();
        assert!(w.run_while_not(HOUR, |w| attempts(w).len() > n && !w.dispatch()["hold"].is_null()));
        let held = time(&w.dispatch()["hold"]["until"]).since(w.now());
        assert!(held >= wait * MINUTE && held <= wait * MINUTE * 11 / 10, "{held} ms, not {wait} min");
    }
    assert_eq!((w.breaker("town")["state"].as_str(), attempts(&w).len()), (Some("closed"), 5));
    assert_eq!(w.notifications().len(), 0);
}

#[test]
fn a_draining_answer_holds_the_town_until_another_instance_reports() {
    let (mut w, rig) = World::founded(8);
    polecats(&mut w, Behaviour::hangs());
    let alive = w.sling(&rig, "alive");
    w.run_for(MINUTE);
    let draining = error("Container is draining, cannot start new agents");
    w.container.faults.once(Endpoint::Start, Fault::retry_after(503, draining, 20 * MINUTE));
    let bead = w.sling(&rig, "waits");
    w.run_for(5 * SECOND);
    assert!(w.holds(&bead).contains(&"town_hold".to_owned()) && w.dispatch()["draining"] == false);
    let live = last(&w, &alive);
    let actor = voice(text(&live, "agent_id"), Some(text(&live, "attempt_id")));
    let body = gastown::town::command::Heartbeat {
        container_instance_id: Some("another".to_owned()),
        status: Some("running".to_owned()),
        ..Default::default()
    };
    w.command(&actor, Command::Heartbeat { agent_id: text(&live, "agent_id").into(), body }).unwrap();
    assert_eq!(w.dispatch()["hold"], Json::Null);
}

#[test]
fn a_refused_key_opens_the_town_at_once_whether_a_start_or_an_agent_reports_it() {
    for by_start in [true, false] {
        let (mut w, rig) = World::founded(9);
        if by_start {
            every_start(&mut w, 500, r#"{"error":"no credit","phase":"initial_prompt","status":402}"#);
        } else {
            w.container.behave_all(Behaviour::ends(5 * SECOND, completed(Some("no credit"), Some("run"), Some(402))));
        }
        w.sling(&rig, "one");
        w.run_for(MINUTE);
        assert_eq!(w.breaker("town")["state"], "open", "by a start: {by_start}");
        assert_eq!(
            (w.notified("config.error"), w.breaker("town")["cause"]["code"].as_str()),
            (1, Some("model.rejected"))
        );
    }
}

#[test]
fn a_wrong_address_is_told_as_a_configuration_error_but_opens_only_by_count() {
    let (mut w, rig) = World::founded(10);
    every_start(&mut w, 404, "nothing here");
    w.sling(&rig, "one");
    w.run_for(MINUTE);
    assert_eq!((w.breaker("town")["state"].as_str(), w.notified("config.error")), (Some("closed"), 1));
    w.sling(&rig, "two");
    w.run_for(HOUR);
    assert_eq!((w.breaker("town")["state"].as_str(), w.notified("config.error")), (Some("open"), 1));
}

#[test]
fn a_rejected_bead_fails_at_once() {
    let (mut w, rig) = World::founded(11);
    w.container.faults.once(Endpoint::Start, Fault::answer(422, error("title too long")));
    let bead = w.sling(&rig, "one");
    w.run_for(HOUR);
    let shown = w.bead(&bead);
    assert_eq!((text(&shown, "status"), w.attempts(&bead).len()), ("failed", 1));
    let reason = &shown["failure_reason"];
    assert_eq!((text(reason, "code"), text(reason, "source")), ("container.rejected", "dispatch"));
    assert!(text(reason, "message").contains("title too long"));
    assert_eq!((w.notified("bead.failed"), w.alarm()), (1, None));
}

#[test]
fn three_rejections_in_a_row_on_different_beads_are_the_containers_fault() {
    let (mut w, rig) = World::founded(12);
    every_start(&mut w, 400, &error("Invalid request body"));
    let beads = sling_many(&mut w, &rig, 4);
    w.run_for(MINUTE);
    assert_eq!((w.breaker("town")["state"].as_str(), attempts(&w).len()), (Some("open"), 3));
    assert!(beads.iter().all(|b| w.status(b) == "open"), "redriven");
    assert!(beads.iter().all(|b| charged(&w, b) == 0));
    let redrives: Vec<_> = audit(&mut w).into_iter().filter(|e| e["action"] == "redrive").collect();
    assert_eq!(redrives.len(), 3);
    assert!(redrives.iter().all(|e| e["actor"] == "system" && !text(e, "reason").is_empty()));
    w.container.faults.clear_all();
    w.run_for(2 * HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
}

#[test]
fn two_rejections_with_an_acceptance_in_between_are_not() {
    let (mut w, rig) = World::founded(13);
    let n = std::cell::Cell::new(0);
    w.container.faults.script(move |_, endpoint, _, _| {
        if endpoint != Endpoint::Start {
            return None;
        }
        n.set(n.get() + 1);
        [1, 2, 4, 5].contains(&n.get()).then(|| Fault::answer(400, error("no")))
    });
    sling_many(&mut w, &rig, 6);
    w.run_for(HOUR);
    assert_eq!(w.breaker("town")["state"], "closed");
    assert_eq!(failures(&w, "container.rejected").len(), 4);
}

#[test]
fn an_infra_failure_is_charged_if_another_bead_was_proven_since_the_beads_last_one() {
    let (mut w, rig) = World::founded(14);
    w.container.faults.once(Endpoint::Start, Fault::Refuse);
    let killer = w.sling(&rig, "kills containers");
    w.run_for(MINUTE);
    assert_eq!(w.attempts(&killer)[0]["charged"], false, "there was no failure before");
    let other = w.sling(&rig, "proves that the container works");
    w.run_for(30 * SECOND);
    assert_eq!(last(&w, &other)["outcome"], "proven");
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    assert!(w.run_while_not(5 * MINUTE, |w| w.attempts(&killer).len() == 2));
    w.run_for(SECOND);
    assert_eq!((&w.attempts(&killer)[1]["charged"], charged(&w, &killer)), (&json!(true), 1));
    assert_eq!(w.attempts(&killer)[1]["class"], "infra");
    assert!(w.run_while_not(10 * MINUTE, |w| w.attempts(&killer).len() == 3));
    w.run_for(SECOND);
    assert_eq!((&w.attempts(&killer)[2]["charged"], charged(&w, &killer)), (&json!(false), 1), "nobody since");
}

#[test]
fn an_evicted_agent_costs_nothing_and_its_bead_is_due_at_once() {
    let (mut w, rig) = World::founded(15);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "interrupted");
    w.run_for(MINUTE);
    w.container.drain(w.now(), 2 * MINUTE);
    w.run_for(2 * MINUTE + SECOND);
    let attempt = last(&w, &bead);
    assert_eq!((text(&attempt, "outcome"), text(&attempt, "code")), ("interrupted", "agent.evicted"));
    assert_eq!((text(&attempt, "class"), &attempt["charged"]), ("interrupted", &json!(false)));
    assert!(!text(&attempt, "reason").is_empty());
    assert_eq!((charged(&w, &bead), streak(&w, &bead), w.status(&bead).as_str()), (0, 0, "open"));
    assert_eq!(w.holds(&bead), ["draining"], "nothing else stands against it");
    assert_eq!(w.breaker("town")["failures_in_window"], 0);
}

#[test]
fn a_cancelled_attempt_keeps_its_charge_and_adds_to_the_streak() {
    let (mut w, rig) = World::founded(16);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "again");
    w.run_for(MINUTE);
    let status = "open".to_owned();
    w.must(Command::SetBeadStatus { rig_id: rig, bead_id: bead.clone(), status });
    let attempt = w.attempts(&bead).remove(0);
    assert_eq!((text(&attempt, "outcome"), text(&attempt, "code")), ("cancelled", "dispatch.cancelled"));
    assert_eq!((&attempt["charged"], charged(&w, &bead), streak(&w, &bead)), (&json!(true), 1, 1));
    assert!(!text(&attempt, "reason").is_empty());
    assert_eq!(w.breaker("town")["failures_in_window"], 0);
}

// ── reasons ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn no_reason_that_anybody_can_read_holds_a_credential() {
    let secrets = [
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvd25lciJ9.c2lnbmF0dXJlc2lnbmF0dXJl",
        "hunter2hunter2",
        "AKIAIOSFODNN7EXAMPLE",
        "tok_very_secret_value",
        "glpat-abcdefghij0123456789",
    ];
    let said = format!(
        "clone https://bot:{}@github.com/x failed; Authorization: Bearer {}; x-api-key: {}; GITHUB_TOKEN={} \
         AWS_ACCESS_KEY_ID={} token={} {}",
        secrets[3], secrets[2], secrets[1], secrets[0], secrets[4], secrets[5], secrets[6]
    );
    let (mut w, rig) = World::founded(17);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    every_start(&mut w, 500, &error(&said));
    w.sling(&rig, "one");
    w.run_for(MINUTE);
    w.container.faults.clear_all();
    w.container.behave_all(Behaviour::fails(SECOND, &said));
    w.sling(&rig, "two");
    w.run_for(HOUR);
    assert_eq!(attempts(&w).len(), 2);
    let everything = w.sql.dump();
    let points = format!("{:?}", w.points);
    for secret in secrets {
        assert!(!everything.contains(secret), "a row holds {secret}");
        assert!(!points.contains(secret), "a data point holds {secret}");
    }
    assert!(attempts(&w).iter().all(|a| text(a, "reason").contains("clone")), "the rest is kept");
}

#[test]
fn a_long_reason_is_cut_to_five_hundred_bytes_on_a_character_boundary() {
    let attempt = answered(500, &error(&"ü".repeat(3_000)), &ERROR);
    let reason = text(&attempt, "reason");
    assert!((500..=620).contains(&reason.len()), "{}", reason.len());
    assert!(reason.contains("500"));
}

#[test]
fn a_thousand_failures_of_one_cause_are_one_line_whatever_ids_and_paths_they_name() {
    let (mut w, rig) = World::founded(18);
    let n = std::cell::Cell::new(0);
    w.container.faults.script(move |_, endpoint, _, _| {
        n.set(n.get() + 1);
        let words = format!(
            "agent 5f1c2b7e-0a4b-4c1d-8e2f-{:012x}: no space at /work/{}/x after {} ms",
            n.get(),
            n.get(),
            n.get()
        );
        (endpoint == Endpoint::Start).then(|| Fault::answer(500, error(&words)))
    });
    let beads = sling_many(&mut w, &rig, 3);
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: "shadow".to_owned(),
        reason: Some("to see many".to_owned()),
        expires_in_ms: Some(24 * HOUR),
    });
    w.run_for(2 * HOUR);
    assert_eq!(attempts(&w).len(), 15);
    let causes = w.dispatch()["failures"].clone();
    let causes = causes.as_array().unwrap();
    assert_eq!((causes.len(), &causes[0]["count"], &causes[0]["beads"]), (1, &json!(15), &json!(3)));
    assert_eq!(beads.iter().filter(|b| w.status(b) == "failed").count(), 3);
    let total: Millis = causes.iter().map(|c| c["last_hour"].as_i64().unwrap()).sum();
    assert!(total < 15);
}
