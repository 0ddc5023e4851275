//! Ends that come from the side: a mayor's attempt, which has no bead; answers that come too late; and answers that were
//! cut off (`design.md` 5.1, 5.2, 5.3).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::Command;
use gastown::town::dispatch::failure::{Code, Failure, StartVerdict, classify_start};
use gastown::town::effect::{Answer, Effect, Outcome};
use gastown::town::id::{BeadId, RigId};
use gastown::town::policy::{ANSWER_BYTES, REASON_BYTES};
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown::town::{Ctx, Town};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::world::World;
use serde_json::Value as Json;
use support::*;

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn started(w: &World, attempt: &Json, answer: Answer) -> Vec<Effect> {
    let outcome = Outcome::Started { attempt_id: text(attempt, "attempt_id").into(), answer, stops: Vec::new() };
    Town::new(&w.sql).settle(&Ctx::new(w.now(), &w.ids), outcome).unwrap()
}

fn http(status: u16, body: &str) -> Answer {
    Answer::Http { status, body: body.to_owned(), retry_after: None }
}

fn stops_of(w: &World, attempt: &Json) -> usize {
    w.sql.peek("SELECT 1 FROM stops WHERE attempt_id = ?1", &[text(attempt, "attempt_id").into()]).len()
}

/// A running bead.
fn running(seed: u64) -> (World, RigId, BeadId) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    (w, rig, bead)
}

// ── the mayor's own ──────────────────────────────────────────────────────────────────────────────────────────────

/// A town whose mayor has a live attempt, which has no bead.
fn mayor_at_work(seed: u64) -> (World, String) {
    let (mut w, _) = World::founded(seed);
    let mayor = w.sql.peek("SELECT mayor_agent_id FROM town", &[])[0].text(0).unwrap();
    let at = w.now();
    w.sql
        .execute(
            "INSERT INTO attempts (attempt_id, seq, agent_id, agent_name, role, booked_at, lease_until, outcome, charged)
             VALUES ('m', 1, ?1, 'mayor', 'mayor', ?2, ?3, 'pending', 1)",
            &[mayor.as_str().into(), at.into(), at.plus(HOUR).into()],
        )
        .unwrap();
    edit(&w, "UPDATE agents SET status = 'waiting', failure_streak = 1, dispatch_attempts = 1 WHERE role = 'mayor'");
    w.run_for(SECOND);
    (w, mayor)
}

/// (status, streak, charges, due in ms) of the mayor.
fn mayor_row(w: &World) -> (String, i64, i64, Option<i64>) {
    let r = &w.sql.peek(
        "SELECT status, failure_streak, dispatch_attempts, next_dispatch_at FROM agents WHERE role = 'mayor'",
        &[],
    )[0];
    let due = r.opt_int(3).unwrap().map(|t| t - w.now().0);
    (r.text(0).unwrap(), r.int(1).unwrap(), r.int(2).unwrap(), due)
}

fn mayor_says(w: &mut World, mayor: &str, command: Command) {
    w.command(&voice(mayor, Some("m")), command).unwrap();
}

#[test]
fn a_mayors_failure_is_counted_on_its_own_row_and_waits_without_a_cap() {
    let (mut w, mayor) = mayor_at_work(13);
    let end = |status: &str| Command::Completed {
        agent_id: mayor.as_str().into(),
        status: status.to_owned(),
        reason: Some("boom".to_owned()),
        phase: None,
        model_status: None,
    };
    mayor_says(&mut w, &mayor, end("failed"));
    let (status, streak, charges, due) = mayor_row(&w);
    assert_eq!((status.as_str(), streak, charges), ("idle", 2, 1));
    assert!((5 * MINUTE..=5 * MINUTE * 11 / 10).contains(&due.unwrap()), "the second failure in a row: {due:?}");
    // A late `done` changes nothing and tells nothing.
    let (row, points) = (mayor_row(&w), w.points.len());
    let done = Command::Done { agent_id: mayor.as_str().into(), branch: None, pr_url: None, summary: None };
    mayor_says(&mut w, &mayor, done);
    assert_eq!((mayor_row(&w), w.points.len()), (row, points));
    assert_eq!(w.sql.peek("SELECT outcome FROM attempts", &[])[0].text(0).unwrap(), "failed");
}

#[test]
fn a_mayors_success_or_eviction_forgets_its_streak() {
    let (mut w, mayor) = mayor_at_work(14);
    let done = Command::Done { agent_id: mayor.as_str().into(), branch: None, pr_url: None, summary: None };
    mayor_says(&mut w, &mayor, done);
    assert_eq!(mayor_row(&w), ("idle".to_owned(), 0, 0, None));

    let (mut w, mayor) = mayor_at_work(15);
    w.must(Command::ContainerEviction);
    let evicted = Command::Completed {
        agent_id: mayor.as_str().into(),
        status: "failed".to_owned(),
        reason: Some("container eviction".to_owned()),
        phase: None,
        model_status: None,
    };
    mayor_says(&mut w, &mayor, evicted);
    assert_eq!(mayor_row(&w), ("idle".to_owned(), 0, 0, None));
}

// ── answers too late, and answers cut off ────────────────────────────────────────────────────────────────────────

#[test]
fn a_start_that_is_answered_after_its_end_is_stopped_unless_it_was_refused_or_done() {
    for (answer, stops) in [
        (http(200, "{}"), 1),
        (http(299, ""), 1),
        (http(300, ""), 0),
        (http(500, ""), 0),
        (Answer::Unreachable { detail: "x".to_owned() }, 1),
        (Answer::TimedOut { after: 1 }, 1),
    ] {
        let (mut w, _, bead) = running(16);
        w.must(Command::CancelBead { bead_id: bead.clone(), reason: "x".to_owned() });
        edit(&w, "DELETE FROM stops");
        let attempt = last(&w, &bead);
        started(&w, &attempt, answer.clone());
        assert_eq!(stops_of(&w, &attempt), stops, "{answer:?}");
        assert_eq!(last(&w, &bead), attempt);
    }
    let (mut w, rig) = World::founded(17);
    polecats(&mut w, Behaviour::ends(SECOND, Ending::DoneWithoutBranch));
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let attempt = last(&w, &bead);
    started(&w, &attempt, http(200, "{}"));
    assert_eq!((text(&attempt, "outcome"), stops_of(&w, &attempt)), ("succeeded", 0), "it ended by itself");
}

#[test]
fn an_answer_that_is_lost_after_a_sign_of_life_needs_no_look() {
    for answer in [Answer::Unreachable { detail: "x".to_owned() }, Answer::TimedOut { after: 1 }] {
        let (w, _, bead) = running(18);
        let attempt = last(&w, &bead);
        assert!(started(&w, &attempt, answer.clone()).is_empty(), "{answer:?}");
        assert_eq!(last(&w, &bead), attempt);
        edit(&w, "UPDATE attempts SET outcome = 'pending', proven_at = NULL, accepted_at = NULL");
        let effects = started(&w, &attempt, answer);
        assert!(matches!(effects.as_slice(), [Effect::ObserveAgents(asked)] if asked.len() == 1), "{effects:?}");
    }
}

#[test]
fn an_error_that_was_cut_off_at_the_limit_of_what_is_read_is_still_the_control_servers() {
    let code = |body: &str| match classify_start(&http(400, body)) {
        StartVerdict::Failed(f) => f,
        StartVerdict::Accepted => panic!("accepted"),
    };
    let cut = |bytes: usize| format!("{:x<bytes$}", r#"{"error":""#);
    assert_eq!(code(&cut(ANSWER_BYTES)).code, Code::ContainerRejected);
    assert_eq!(code(&cut(ANSWER_BYTES - 3)).code, Code::ContainerRejected, "three bytes may go with a character");
    assert_eq!(code(&cut(ANSWER_BYTES - 4)).code, Code::ContainerMisconfigured, "that one was not cut");
    let whole_error = format!("{:x<ANSWER_BYTES$}", r#"{"error":"boom","issues":["#);
    assert!(code(&whole_error).reason.ends_with(": boom"), "{}", code(&whole_error).reason);
}

#[test]
fn failures_with_one_cause_have_one_fingerprint() {
    let of = |said: &str| Failure::new(Code::ContainerError, Some(500), said).fingerprint();
    let same = "y".repeat(REASON_BYTES / 3);
    assert_eq!(of(&format!("{same} then this")), of(&format!("{same} then that")), "what is far behind may be cut off");
    assert_ne!(of("no disk"), of("no memory"));
    // What a process says explains itself at its end, so there the beginning may be missing.
    let of = |said: &str| Failure::new(Code::AgentExited, None, said).fingerprint();
    assert_eq!(of(&format!("this, then {same}")), of(&format!("that, then {same}")));
    assert_ne!(of("no disk left"), of("no memory left"));
}
