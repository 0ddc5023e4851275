use super::*;
use crate::clock::START;
use crate::fault::{Fault, Said};
use gastown::town::effect::ReviewRequest;
use gastown::town::time::SECOND;

fn container() -> Container {
    Container::new(1, START)
}

fn request(agent: &str, attempt: &str, bead8: &str) -> StartRequest {
    StartRequest {
        agent_id: agent.to_owned(),
        rig_id: "rig".to_owned(),
        town_id: "town".to_owned(),
        role: "polecat".to_owned(),
        name: "Toast".to_owned(),
        branch: format!("gt/toast/{bead8}"),
        dispatch_id: attempt.to_owned(),
        ..StartRequest::default()
    }
}

fn start(container: &mut Container, now: Timestamp, request: &StartRequest) -> SimAnswer {
    container.call(now, "POST", "/agents/start", &serde_json::to_string(request).unwrap())
}

fn said(answer: &SimAnswer) -> (u16, Json) {
    match answer {
        SimAnswer::Http { said, .. } => (said.status, serde_json::from_str(&said.body).unwrap_or_default()),
        other => panic!("no answer: {other:?}"),
    }
}

fn status_of(container: &mut Container, now: Timestamp, agent: &str) -> String {
    let (status, body) = said(&container.call(now, "GET", &format!("/agents/{agent}/status"), ""));
    if status == 200 { body["status"].as_str().unwrap().to_owned() } else { format!("{status} {}", body["error"]) }
}

fn kinds(voices: &[Voice]) -> Vec<String> {
    let kind = |v: &Voice| {
        let at = v.at.since(START) / SECOND;
        match &v.says {
            Says::Heartbeat { status, .. } => format!("{at} {status}"),
            Says::Done { branch, .. } => format!("{at} done {}", branch.as_deref().unwrap_or("-")),
            Says::RequestChanges { feedback } => format!("{at} wants {feedback}"),
            Says::Completed { status, reason, .. } => format!("{at} {status} {}", reason.as_deref().unwrap_or("-")),
            Says::Verdict { entry_id, status, .. } => format!("{at} {entry_id} {status}"),
            Says::EvictionContext { branch, .. } => format!("{at} saved {branch}"),
            Says::Evicting => format!("{at} evicting"),
            Says::Ready { nonce } => format!("{at} ready {nonce}"),
            other => format!("{at} {other:?}"),
        }
    };
    voices.iter().map(kind).collect()
}

#[test]
fn a_good_polecat_heartbeats_at_once_and_every_half_minute_and_is_done_with_its_branch() {
    let mut c = container();
    let (status, body) = said(&start(&mut c, START, &request("a", "att", "0123abcd")));
    assert_eq!((status, body["status"].as_str()), (201, Some("running")));
    let voices = c.run_until(START.plus(5 * MINUTE));
    assert_eq!(kinds(&voices), ["0 running", "30 running", "60 done gt/toast/0123abcd"]);
    assert!(voices.iter().all(|v| v.dispatch_id.as_deref() == Some("att") && v.agent_id == Some("a".into())));
    assert_eq!(c.due(), None);
    assert_eq!(status_of(&mut c, START.plus(5 * MINUTE), "a"), "exited");
    assert_eq!(c.starts()[0].bead8.as_deref(), Some("0123abcd"));
    assert_eq!(c.starts()[0].ended_at, Some(START.plus(MINUTE)));
}

#[test]
fn each_behaviour_ends_as_it_says() {
    let cases: [(Behaviour, &[&str], &str); 7] = [
        (Behaviour::fails(SECOND, "no luck"), &["0 running", "1 failed no luck"], "failed"),
        (Behaviour::idles_out(SECOND), &["0 running", "1 completed -"], "exited"),
        (Behaviour::exits(SECOND), &["0 running"], "exited"),
        (Behaviour::vanishes(SECOND), &["0 running"], "404 \"Agent a not found\""),
        (Behaviour::hangs(), &["0 running", "30 running", "60 running"], "running"),
        (Behaviour::hangs().mute(), &[], "running"),
        (Behaviour::hangs().starting_for(HEARTBEAT), &["0 starting", "30 running", "60 running"], "running"),
    ];
    for (behaviour, wanted, status) in cases {
        let mut c = container();
        c.behave_all(behaviour.clone());
        start(&mut c, START, &request("a", "att", "0123abcd"));
        let end = START.plus(MINUTE + 10 * SECOND);
        assert_eq!(kinds(&c.run_until(end)), wanted, "{behaviour:?}");
        assert_eq!(status_of(&mut c, end, "a"), status, "{behaviour:?}");
    }
}

#[test]
fn a_refinery_reports_its_verdict_before_it_is_done() {
    let mut c = container();
    let mut refinery = request("r", "att", "0123abcd");
    refinery.role = "refinery".to_owned();
    refinery.review = Some(ReviewRequest { entry_id: "entry".to_owned(), ..ReviewRequest::default() });
    start(&mut c, START, &refinery);
    assert_eq!(kinds(&c.run_until(START.plus(MINUTE))), ["0 running", "30 entry merged", "30 done -"]);
}

#[test]
fn a_repeated_dispatch_is_the_same_start_and_another_one_kills_the_live_agent() {
    let mut c = container();
    assert_eq!(said(&start(&mut c, START, &request("a", "one", "0123abcd"))).0, 201);
    assert_eq!(said(&start(&mut c, START, &request("a", "one", "0123abcd"))).0, 201);
    assert_eq!(c.starts().len(), 1);
    assert!(c.twice().is_empty());
    assert_eq!(said(&start(&mut c, START.plus(1), &request("a", "two", "0123abcd"))).0, 201);
    assert_eq!(c.starts().len(), 2);
    assert_eq!(c.twice().len(), 1, "{:?}", c.twice());
    assert_eq!(c.running(), [("a", "two")]);

    let mut old = container();
    old.features.clear();
    start(&mut old, START, &request("a", "one", "0123abcd"));
    start(&mut old, START, &request("a", "one", "0123abcd"));
    assert_eq!(old.starts().len(), 2);
    assert!(old.run_until(START.plus(SECOND)).iter().all(|v| v.dispatch_id.is_none()));
    old.refuses_live_agents = true;
    let (status, body) = said(&start(&mut old, START, &request("a", "two", "0123abcd")));
    assert!(status == 500 && body["error"].as_str().unwrap().contains("already running"));
}

#[test]
fn two_live_processes_of_one_bead_are_found_by_the_ledger() {
    let mut c = container();
    start(&mut c, START, &request("a", "one", "0123abcd"));
    start(&mut c, START.plus(SECOND), &request("b", "two", "0123abcd"));
    assert_eq!(c.twice().len(), 1, "{:?}", c.twice());
    let mut c = container();
    start(&mut c, START, &request("a", "one", "0123abcd"));
    c.run_until(START.plus(MINUTE));
    start(&mut c, START.plus(MINUTE), &request("b", "two", "0123abcd"));
    assert!(c.twice().is_empty(), "{:?}", c.twice());
}

#[test]
fn a_fault_is_on_one_side_of_the_deed_and_the_caller_cannot_tell_which() {
    let no = Said { status: 500, body: "no".to_owned(), retry_after: None };
    let cases = [
        (Fault::Refuse, false, SimAnswer::lost(0)),
        (Fault::DropBefore, false, SimAnswer::lost(5)),
        (Fault::DropAfter, true, SimAnswer::lost(5)),
        (Fault::HangBefore, false, SimAnswer::Never),
        (Fault::HangAfter, true, SimAnswer::Never),
        (Fault::Answer(no.clone()), false, SimAnswer::http(5, 500, "no")),
        (Fault::AnswerAfter(no), true, SimAnswer::http(5, 500, "no")),
    ];
    for (fault, really, wanted) in cases {
        let mut c = container();
        c.faults.once(Endpoint::Start, fault.clone());
        assert_eq!(start(&mut c, START, &request("a", "one", "0123abcd")), wanted, "{fault:?}");
        assert_eq!(c.starts().len(), usize::from(really), "{fault:?}");
        assert_eq!(said(&start(&mut c, START, &request("b", "two", "00000000"))).0, 201, "healed by itself");
    }
    let mut c = container();
    c.faults.set_all(&Fault::Slow(9_000));
    let answer = start(&mut c, START, &request("a", "one", "0123abcd"));
    assert!(matches!(answer, SimAnswer::Http { after: 9_000, .. }));
    c.faults.clear_all();
    c.faults.set(Endpoint::Start, Fault::retry_after(429, "slow down", 7_000));
    let answer = start(&mut c, START, &request("b", "two", "00000000"));
    assert!(matches!(answer, SimAnswer::Http { said: Said { status: 429, retry_after: Some(7_000), .. }, .. }));
}

#[test]
fn a_dead_container_refuses_forgets_its_agents_and_comes_back_as_another_instance() {
    let mut c = container();
    let first = c.instance_id().to_owned();
    start(&mut c, START, &request("a", "one", "0123abcd"));
    c.kill(START.plus(SECOND));
    assert_eq!(c.call(START.plus(SECOND), "GET", "/health", ""), SimAnswer::lost(0));
    assert!(c.run_until(START.plus(MINUTE)).is_empty() && c.due().is_none());
    c.restart(START.plus(MINUTE));
    let (_, health) = said(&c.call(START.plus(MINUTE), "GET", "/health", ""));
    assert_ne!(health["containerInstanceId"], json!(first));
    assert_eq!(health["features"], json!(["dispatch-id"]));
    assert!(status_of(&mut c, START.plus(MINUTE), "a").starts_with("404"));
    assert_eq!(c.starts()[0].ended_at, Some(START.plus(SECOND)));
}

#[test]
fn a_sleeping_container_is_started_by_a_call_and_listens_when_it_has_booted() {
    let mut c = container();
    c.kill_until_called(START, 10 * SECOND);
    assert_eq!(said(&c.call(START.plus(SECOND), "GET", "/health", "")).0, 503);
    assert_eq!(said(&c.call(START.plus(10 * SECOND), "GET", "/health", "")).0, 503);
    let (status, health) = said(&c.call(START.plus(12 * SECOND), "GET", "/health", ""));
    assert_eq!((status, &health["startedAt"]), (200, &json!(START.plus(11 * SECOND))));
}

#[test]
fn a_draining_container_refuses_starts_saves_stragglers_and_ends() {
    let mut c = container();
    c.behave(|s| if s.request.agent_id == "a" { Behaviour::done(40 * SECOND) } else { Behaviour::hangs() });
    start(&mut c, START, &request("a", "one", "0123abcd"));
    start(&mut c, START, &request("b", "two", "00000000"));
    c.run_until(START.plus(SECOND));
    c.drain(START.plus(2 * SECOND), MINUTE);
    let (status, body) = said(&start(&mut c, START.plus(3 * SECOND), &request("c", "three", "11111111")));
    assert!(status == 503 && body["error"].as_str().unwrap().contains("draining"));
    assert_eq!(said(&c.call(START.plus(3 * SECOND), "GET", "/health", "")).1["draining"], json!(true));
    let voices = c.run_until(START.plus(5 * MINUTE));
    assert_eq!(
        kinds(&voices),
        ["2 evicting", "40 done gt/toast/0123abcd", "62 saved gt/toast/00000000", "62 completed container eviction"]
    );
    assert_eq!(c.call(START.plus(5 * MINUTE), "GET", "/health", ""), SimAnswer::lost(0));
    assert_eq!(c.due(), None);

    // The next instance hands the nonce back, once.
    c.restart(START.plus(6 * MINUTE));
    start(&mut c, START.plus(6 * MINUTE), &request("a", "four", "0123abcd"));
    let heartbeat = c.run_until(START.plus(6 * MINUTE + SECOND)).remove(0);
    for _ in 0..2 {
        c.heard(START.plus(6 * MINUTE + SECOND), &heartbeat, &json!({"heartbeat": true, "drainNonce": "n"}));
    }
    assert_eq!(kinds(&c.run_until(START.plus(6 * MINUTE + SECOND))), ["361 ready n"]);
}

#[test]
fn a_drain_with_nobody_at_work_ends_at_once() {
    let mut c = container();
    c.drain(START, DRAIN_GRACE);
    assert!(c.run_until(START).is_empty());
    assert_eq!(c.call(START, "GET", "/health", ""), SimAnswer::lost(0));
}

#[test]
fn a_stop_ends_the_dispatch_it_names_and_no_other() {
    let mut c = container();
    start(&mut c, START, &request("a", "one", "0123abcd"));
    let stop = |c: &mut Container, agent: &str, body: &str| {
        said(&c.call(START, "POST", &format!("/agents/{agent}/stop"), body))
    };
    assert_eq!(stop(&mut c, "a", r#"{"dispatchId":"other"}"#), (200, json!({"stopped": false})));
    assert_eq!(c.running().len(), 1);
    assert_eq!(stop(&mut c, "a", r#"{"dispatchId":"one"}"#), (200, json!({"stopped": true})));
    assert_eq!(stop(&mut c, "a", ""), (200, json!({"stopped": true})));
    assert_eq!(stop(&mut c, "nobody", "{}"), (404, json!({"error": "Agent nobody not found"})));
    assert!(c.running().is_empty() && c.run_until(START.plus(MINUTE)).is_empty());
}

#[test]
fn a_sign_of_life_is_of_the_process_that_gave_it_and_not_of_its_successor() {
    let mut c = container();
    start(&mut c, START, &request("a", "first", "0123abcd"));
    assert_eq!(c.sign_of_life("first"), None, "a start that was accepted says nothing of its process");
    let beat = c.run_until(START.plus(SECOND)).remove(0);
    start(&mut c, START.plus(2 * SECOND), &request("a", "second", "0123abcd"));
    // What the first one said arrives when the second one lives; then a look finds that one.
    let later = START.plus(3 * SECOND);
    c.heard(later, &beat, &Json::Null);
    assert_eq!(c.sign_of_life("first"), Some(SignOfLife { heard: Some(later), seen: None }));
    assert_eq!(c.sign_of_life("second"), None);
    status_of(&mut c, later, "a");
    assert_eq!(c.sign_of_life("second"), Some(SignOfLife { heard: None, seen: Some(later) }));
}

#[test]
fn what_is_malformed_or_unknown_is_answered_as_the_protocol_says() {
    let mut c = container();
    for body in ["", "[]", "{}", r#"{"agentId":1}"#] {
        let (status, answer) = said(&c.call(START, "POST", "/agents/start", body));
        assert_eq!((status, answer["error"].as_str()), (400, Some("Invalid request body")), "{body}");
    }
    let mut odd = request("a", "one", "0123abcd");
    odd.role = "mechanic".to_owned();
    assert_eq!(said(&start(&mut c, START, &odd)).0, 400);
    for (method, path) in
        [("GET", "/"), ("GET", "/agents/start"), ("POST", "/health"), ("GET", "/agents/a/status/x"), ("GET", "/x")]
    {
        assert_eq!(said(&c.call(START, method, path, "")), (404, json!({"error": "Not found"})), "{method} {path}");
    }
    assert_eq!(said(&c.call(START, "POST", "/agents/a/message", r#"{"prompt":"x"}"#)).0, 404);
    assert_eq!(said(&c.call(START, "POST", "/agents/a/message", "{}")).0, 400);
}

#[test]
fn a_message_reaches_a_live_agent_only() {
    let mut c = container();
    c.obeys_messages = true;
    c.behave_all(Behaviour::hangs());
    start(&mut c, START, &request("a", "one", "0123abcd"));
    let send = |c: &mut Container, now| said(&c.call(now, "POST", "/agents/a/message", r#"{"prompt":"exit"}"#));
    assert_eq!(send(&mut c, START), (200, json!({"sent": true})));
    c.run_until(START.plus(SECOND));
    let (status, body) = send(&mut c, START.plus(SECOND));
    assert_eq!((status, &body["error"]), (500, &json!("Agent a is not running (status: exited)")));
}
