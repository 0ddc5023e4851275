//! What each answer means: every row of the table, and what comes first.

use super::*;
use proptest::prelude::*;

fn http(status: u16, body: &str) -> Answer {
    Answer::Http { status, body: body.to_owned(), retry_after: None }
}

fn start(answer: &Answer) -> Option<Failure> {
    match classify_start(answer) {
        StartVerdict::Accepted => None,
        StartVerdict::Failed(failure) => Some(failure),
    }
}

fn code(status: u16, body: &str) -> Option<&'static str> {
    start(&http(status, body)).map(|f| f.code.as_str())
}

#[test]
fn the_table_is_the_one_of_the_design() {
    let rows: Vec<(&str, &str, bool, Counts)> =
        TABLE.iter().map(|r| (r.code.as_str(), r.class.as_str(), r.charged, r.counts)).collect();
    assert_eq!(
        rows,
        [
            ("agent.evicted", "interrupted", false, Counts::Nothing),
            ("container.lost", "infra", false, Counts::TownOncePerInstance),
            ("container.unreachable", "infra", false, Counts::Town),
            ("container.timeout", "infra", false, Counts::Town),
            ("container.draining", "throttle", false, Counts::Nothing),
            ("container.throttled", "throttle", false, Counts::Nothing),
            ("model.throttled", "throttle", false, Counts::Nothing),
            ("model.rejected", "config", false, Counts::Town),
            ("repo.unavailable", "rig", false, Counts::Rig),
            ("container.rejected", "bead", true, Counts::Town),
            ("container.misconfigured", "config", false, Counts::Town),
            ("container.unavailable", "infra", false, Counts::Town),
            ("container.error", "unknown", true, Counts::Town),
            ("agent.lost", "agent", true, Counts::Town),
            ("agent.exited", "agent", true, Counts::Town),
            ("agent.no_progress", "agent", true, Counts::Town),
            ("dispatch.orphaned", "unknown", true, Counts::Nothing),
            ("dispatch.cancelled", "cancelled", true, Counts::Nothing),
        ]
    );
}

#[test]
fn only_a_refused_key_opens_at_once_and_both_config_rows_raise_a_notice() {
    for rule in TABLE {
        assert_eq!(rule.opens_at_once, rule.code == Code::ModelRejected);
        assert_eq!(rule.notice, rule.class == Class::Config);
        assert!(!rule.words.is_empty() && !rule.advice.is_empty());
    }
}

#[test]
fn codes_and_classes_read_what_they_write() {
    for r in TABLE {
        assert_eq!(Code::parse(r.code.as_str()), Some(r.code));
        assert_eq!(rule(r.code), *r);
    }
    for class in Class::ALL {
        assert_eq!(Class::parse(class.as_str()), Some(class));
    }
    assert_eq!(Code::parse("nonsense"), None);
    assert_eq!(Class::parse(""), None);
}

#[test]
fn every_2xx_is_accepted_even_if_unreadable_and_so_is_already_running() {
    for body in ["{}", "", "<html>", "\u{0}", "{\"error\":\"x\"}"] {
        assert_eq!(code(201, body), None);
        assert_eq!(code(200, body), None);
    }
    assert_eq!(code(500, r#"{"error":"Agent x is already running"}"#), None);
    assert_eq!(code(500, "Already running"), None);
    assert_eq!(code(503, "already running"), Some("container.error"));
}

#[test]
fn each_answer_to_a_start_finds_its_row() {
    let control = r#"{"error":"boom"}"#;
    for (status, body, expected) in [
        (503, r#"{"error":"Container is draining, cannot start new agents"}"#, "container.draining"),
        (503, "Draining", "container.draining"),
        (429, "", "container.throttled"),
        (429, r#"{"error":"x","phase":"initial_prompt","status":401}"#, "container.throttled"),
        (500, r#"{"error":"x","phase":"initial_prompt","status":429}"#, "model.throttled"),
        (500, r#"{"error":"x","phase":"initial_prompt","status":"529"}"#, "model.throttled"),
        (529, r#"{"error":"x","phase":"initial_prompt"}"#, "model.throttled"),
        (500, r#"{"error":"x","phase":"initial_prompt","status":401}"#, "model.rejected"),
        (500, r#"{"error":"x","phase":"initial_prompt","status":402}"#, "model.rejected"),
        (500, r#"{"error":"x","phase":"initial_prompt","status":403}"#, "model.rejected"),
        (500, r#"{"error":"x","phase":"initial_prompt","status":500}"#, "container.error"),
        (500, r#"{"error":"fatal: x","phase":"initial_prompt","status":400}"#, "container.error"),
        (500, r#"{"error":"x","status":429}"#, "container.error"),
        (500, r#"{"error":"x","phase":"repository"}"#, "repo.unavailable"),
        (422, r#"{"error":"x","phase":"repository"}"#, "repo.unavailable"),
        (500, r#"{"error":"git clone failed: fatal: repository not found"}"#, "repo.unavailable"),
        (500, "Cloning into 'x'...\nfatal: could not read Username", "repo.unavailable"),
        (500, r#"{"error":"a non-fatal: warning"}"#, "container.error"),
        (502, "fatal: upstream", "container.unavailable"),
        (400, r#"{"error":"Invalid request body","issues":[{"path":["name"]}]}"#, "container.rejected"),
        (413, control, "container.rejected"),
        (422, control, "container.rejected"),
        (400, "Bad Request", "container.misconfigured"),
        (422, r#"{"detail":"x"}"#, "container.misconfigured"),
        (404, r#"{"error":"Not found"}"#, "container.misconfigured"),
        (401, control, "container.misconfigured"),
        (409, "", "container.misconfigured"),
        (502, control, "container.unavailable"),
        (504, "", "container.unavailable"),
        (503, "There is no Container instance available at this time.", "container.unavailable"),
        (500, "Failed to start container: port 8080", "container.unavailable"),
        (500, "the container is not listening in the TCP address 10.0.0.1:8080", "container.unavailable"),
        (500, "Container crashed while checking for ports", "container.unavailable"),
        (500, "container exited with unexpected exit code: 1", "container.unavailable"),
        (500, r#"{"error":"worker crashed"}"#, "container.error"),
        (503, control, "container.error"),
        (503, "busy", "container.error"),
        (500, control, "container.error"),
        (500, "", "container.error"),
        (302, "", "container.error"),
        (599, "", "container.error"),
    ] {
        assert_eq!(code(status, body), Some(expected), "{status} {body}");
    }
}

#[test]
fn a_503_with_retry_after_is_a_throttle_and_tells_how_long_to_wait() {
    let answer = Answer::Http { status: 503, body: r#"{"error":"busy"}"#.to_owned(), retry_after: Some(7_000) };
    let failure = start(&answer).unwrap();
    assert_eq!((failure.code, failure.retry_after), (Code::ContainerThrottled, Some(7_000)));
    let draining = Answer::Http { status: 503, body: "draining".to_owned(), retry_after: Some(7_000) };
    assert_eq!(start(&draining).unwrap().code, Code::ContainerDraining);
}

#[test]
fn a_start_without_an_answer_is_unreachable_or_a_timeout() {
    let lost = start(&Answer::Unreachable { detail: "Network connection lost.".to_owned() }).unwrap();
    assert_eq!(lost.code, Code::ContainerUnreachable);
    assert_eq!(lost.reason, "the container could not be reached: Network connection lost.");
    let late = start(&Answer::TimedOut { after: 60_000 }).unwrap();
    assert_eq!(late.code, Code::ContainerTimeout);
    assert_eq!(late.reason, "the container did not answer in time: no answer in 1 min");
}

#[test]
fn a_reason_has_the_words_the_status_and_what_was_said() {
    let failure = start(&http(500, r#"{"error":"disk full","phase":"run"}"#)).unwrap();
    assert_eq!(failure.reason, "the container answered with an error (status 500): disk full");
    assert_eq!(failure.status_code, Some(500));
    let refused =
        start(&http(500, r#"{"error":"no","error_type":"auth","phase":"initial_prompt","status":401}"#)).unwrap();
    assert_eq!(refused.status_code, Some(401));
    assert!(refused.reason.ends_with("(status 401): auth: no"), "{}", refused.reason);
    let invalid = start(&http(400, r#"{"error":"Invalid request body","issues":[{"path":["name"]}]}"#)).unwrap();
    assert!(invalid.reason.ends_with(r#"Invalid request body: [{"path":["name"]}]"#), "{}", invalid.reason);
}

#[test]
fn a_reason_is_never_empty_whatever_was_not_said() {
    for r in TABLE {
        for said in ["", "  \n", "\u{0}\u{7}"] {
            assert_eq!(reason(r.code, None, said), r.words);
        }
    }
    assert!(!start(&http(500, "")).unwrap().reason.is_empty());
    assert!(!classify_completed("", None, None, None, false).reason.is_empty());
}

#[test]
fn a_reason_is_redacted_before_it_is_cut_on_a_character_boundary() {
    let said = format!("{}ü token=abcdefghijklmnop", "x".repeat(REASON_BYTES - 8));
    let text = reason(Code::ContainerError, Some(500), &said);
    assert!(text.contains("xü"));
    assert!(!text.contains("abc"));
    let long = reason(Code::ContainerError, None, &"ü".repeat(REASON_BYTES));
    assert_eq!(long.len(), Code::ContainerError.rule().words.len() + 2 + REASON_BYTES);
}

#[test]
fn of_a_processes_output_the_end_is_kept_and_of_an_answer_the_beginning() {
    let said = format!("begin {} end", "x".repeat(2_000));
    assert!(reason(Code::AgentExited, None, &said).ends_with("end"));
    assert!(reason(Code::ContainerError, None, &said).contains(": begin"));
}

#[test]
fn an_error_of_which_only_the_beginning_was_read_is_still_the_control_servers() {
    let whole = format!(r#"{{"error":"Invalid request body","issues":["{}"]}}"#, "x".repeat(ANSWER_BYTES));
    assert_eq!(code(400, text::cut(&whole, ANSWER_BYTES)), Some("container.rejected"));
    let whole = format!(r#"{{ "error": "fatal: {}"}}"#, "x".repeat(ANSWER_BYTES));
    assert_eq!(code(500, text::cut(&whole, ANSWER_BYTES)), Some("repo.unavailable"));
    assert_eq!(code(400, r#"{"error":"Inv"#), Some("container.misconfigured"));
}

#[test]
fn an_end_is_read_by_drain_then_cleanness_then_phase_then_model() {
    for (status, said, phase, model, drained, expected) in [
        ("completed", Some("container eviction"), None, None, true, "agent.evicted"),
        ("failed", Some("fatal: x"), Some("repository"), Some(401), true, "agent.evicted"),
        ("completed", Some("container eviction"), None, None, false, "agent.no_progress"),
        ("completed", None, None, None, false, "agent.no_progress"),
        ("failed", Some("x"), Some("repository"), Some(429), false, "repo.unavailable"),
        ("failed", Some("git: fatal: no such ref"), None, None, false, "repo.unavailable"),
        ("failed", Some("git: fatal: no such ref"), Some("run"), None, false, "agent.exited"),
        ("failed", Some("x"), Some("run"), Some(429), false, "model.throttled"),
        ("failed", Some("x"), Some("run"), Some(529), false, "model.throttled"),
        ("failed", Some("x"), None, Some(401), false, "model.rejected"),
        ("failed", Some("x"), Some("run"), Some(402), false, "model.rejected"),
        ("failed", Some("x"), Some("run"), Some(500), false, "agent.exited"),
        ("failed", Some("Event stream error"), None, None, false, "agent.exited"),
    ] {
        let failure = classify_completed(status, said, phase, model, drained);
        assert_eq!(failure.code.as_str(), expected, "{status} {said:?} {phase:?} {model:?}");
        assert!(!failure.reason.is_empty());
    }
}

#[test]
fn a_status_answer_is_read_and_stopping_is_unclear() {
    let why = Some("why".to_owned());
    for (status, body, expected) in [
        (200, r#"{"status":"running"}"#, StatusVerdict::Running),
        (200, r#"{"status":"starting","exitReason":null}"#, StatusVerdict::Starting),
        (200, r#"{"status":"exited","exitReason":"why"}"#, StatusVerdict::Exited(why.clone())),
        (200, r#"{"status":"exited","exitReason":" "}"#, StatusVerdict::Exited(None)),
        (200, r#"{"status":"failed","exitReason":"why"}"#, StatusVerdict::Failed(why)),
        (200, r#"{"status":"failed","exitReason":5}"#, StatusVerdict::Failed(None)),
        (200, r#"{"status":"stopping"}"#, StatusVerdict::Unclear),
        (200, "garbage", StatusVerdict::Unclear),
        (200, "[]", StatusVerdict::Unclear),
        (404, r#"{"error":"Agent x not found"}"#, StatusVerdict::Gone),
        (500, r#"{"error":"x crashed"}"#, StatusVerdict::Unclear),
        (500, "Container crashed", StatusVerdict::NoAnswer),
        (503, "There is no Container instance available", StatusVerdict::NoAnswer),
        (502, "", StatusVerdict::NoAnswer),
        (401, "", StatusVerdict::Unclear),
    ] {
        assert_eq!(classify_status(&http(status, body)), expected, "{status} {body}");
    }
    assert_eq!(classify_status(&Answer::TimedOut { after: 1 }), StatusVerdict::NoAnswer);
    assert_eq!(classify_status(&Answer::Unreachable { detail: String::new() }), StatusVerdict::NoAnswer);
}

#[test]
fn a_status_answer_may_name_its_dispatch() {
    let named = http(200, r#"{"status":"running","dispatchId":"d1","x":[1]}"#);
    assert_eq!(status_dispatch_id(&named), Some("d1".to_owned()));
    assert_eq!(status_dispatch_id(&http(200, r#"{"status":"running"}"#)), None);
    assert_eq!(status_dispatch_id(&http(404, r#"{"dispatchId":"d1"}"#)), None);
}

#[test]
fn failures_of_one_cause_group_although_their_ids_differ_and_their_texts_were_cut() {
    let one = |n: usize| {
        let answer = http(500, &format!("agent {n}: disk full at /a/{n} {}", "y".repeat(2_000)));
        start(&answer).unwrap().fingerprint()
    };
    assert_eq!(one(7), one(1_234_567));
    let other = start(&http(500, "agent 7: no memory")).unwrap().fingerprint();
    assert_ne!(one(7), other);
    let exit = |n: usize| classify_completed("failed", Some(&"log ".repeat(n)), None, None, false).fingerprint();
    assert_eq!(exit(900), exit(901));
}

proptest! {
    #[test]
    fn any_answer_and_any_report_has_a_code_and_a_reason(
        status in any::<u16>(),
        body in "\\PC*|\\{\"error\":\"\\PC*\"\\}|\\{\"error\":\"x\",\"phase\":\"(initial_prompt|repository|run)\",\"status\":[0-9]{1,9}\\}",
        retry_after in proptest::option::of(any::<i64>()),
    ) {
        let answer = Answer::Http { status, body: body.clone(), retry_after };
        if let StartVerdict::Failed(failure) = classify_start(&answer) {
            prop_assert!(!failure.reason.trim().is_empty());
            prop_assert!(failure.reason.len() <= 700);
            prop_assert!(!(200..300).contains(&status));
        }
        let _ = classify_status(&answer);
        let _ = status_dispatch_id(&answer);
        prop_assert!(!classify_completed("failed", Some(&body), None, Some(status), false).reason.is_empty());
    }
}
