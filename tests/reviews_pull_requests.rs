//! Pull requests (`domain.md` 4, `protocol.md` 6.3): opened once, asked about once a minute at most, repaired, merged, and
//! given up with words that help.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{BeadFilter, Command};
use gastown::town::effect::{Effect, StartRequest};
use gastown::town::id::{BeadId, Ids, RigId};
use gastown::town::sql::Sql;
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND, Timestamp};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::Fault;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

/// Of no form that `redact` would know.
const TOKEN: &str = "planted-by-a-test-of-reviews";
const REPO: &str = "acme/app";

/// A town of strategy `pr` with a rig at GitHub; auto merge is off.
fn town(seed: u64, git_url: &str) -> (World, RigId) {
    let mut w = World::new(seed);
    w.found_town();
    let rig = RigId(w.ids.uuid());
    let (name, git_url) = ("app".to_owned(), git_url.to_owned());
    w.must(Command::AddRig { rig_id: rig.clone(), name, git_url, default_branch: None });
    w.patch_config(json!({"merge_strategy": "pr", "git_auth": {"github_token": TOKEN, "gitlab_token": TOKEN},
                          "refinery": {"auto_merge": false}}));
    (w, rig)
}

fn hub(seed: u64) -> (World, RigId) {
    town(seed, "https://github.com/acme/app.git")
}

fn beads(w: &mut World, rig: &RigId, kind: &str) -> Vec<Json> {
    let filter = BeadFilter { kind: Some(kind.to_owned()), limit: Some(500), ..BeadFilter::default() };
    let mut list = w.must(Command::ListBeads { rig_id: rig.clone(), filter }).as_array().cloned().unwrap();
    list.reverse();
    list
}

fn mr(w: &mut World, rig: &RigId) -> Json {
    beads(w, rig, "merge_request").pop().unwrap()
}

fn id(bead: &Json) -> BeadId {
    text(bead, "bead_id").into()
}

fn labelled(w: &mut World, rig: &RigId, label: &str) -> Vec<Json> {
    let all = beads(w, rig, "issue").into_iter();
    all.filter(|b| b["labels"].as_array().unwrap().iter().any(|l| l == label)).collect()
}

fn starts(w: &World, role: &str) -> Vec<StartRequest> {
    let started = w.effects.iter().filter_map(|(_, e)| match e {
        Effect::StartAgent(s) if s.request.role == role => Some(s.request.clone()),
        _ => None,
    });
    started.collect()
}

/// When the forge was asked how pull requests stand.
fn polls(w: &World) -> Vec<Timestamp> {
    w.forge.calls.iter().filter(|(_, method, path)| method == "GET" && !path.contains('?')).map(|c| c.0).collect()
}

fn happened(w: &mut World, bead: &BeadId, kind: &str) -> Vec<Json> {
    let events = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: None });
    events.as_array().unwrap().iter().filter(|e| e["event_type"] == kind).cloned().collect()
}

fn summary(w: &World, bead: &BeadId) -> String {
    text(&w.explain(bead), "summary").to_owned()
}

/// A bead whose pull request is open and watched.
fn watched(w: &mut World, rig: &RigId) -> (BeadId, BeadId) {
    let bead = w.sling(rig, "one");
    let watched = |w: &World| !polls(w).is_empty();
    assert!(w.run_while_not(20 * MINUTE, watched), "{}", w.journal());
    w.run_for(SECOND);
    (bead, id(&mr(w, rig)))
}

/// Checks what every town with pull requests promises, after every step.
fn watch(w: &mut World) {
    w.watch(|w| {
        let stray = w.sql.peek(
            "SELECT b.bead_id FROM beads b
             WHERE b.type = 'merge_request' AND b.status = 'in_progress'
               AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.bead_id = b.bead_id AND t.finished_at IS NULL)
               AND NOT EXISTS (SELECT 1 FROM pull_requests p WHERE p.bead_id = b.bead_id)
             UNION ALL
             SELECT p.bead_id FROM pull_requests p LEFT JOIN beads b ON b.bead_id = p.bead_id
             WHERE b.status IS NOT 'in_progress'",
            &[],
        );
        assert!(stray.is_empty(), "a merge request is nobody's, or watched for nothing\n{}", w.journal());
    });
}

#[test]
fn the_town_opens_what_the_polecat_did_not_the_refinery_reads_it_and_the_forge_merges_it() {
    let (mut w, rig) = hub(1);
    watch(&mut w);
    w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 5}}));
    let (bead, request) = watched(&mut w, &rig);
    let url = "https://github.com/acme/app/pull/1";
    let refinery = starts(&w, "refinery").remove(0);
    assert_eq!(refinery.review.as_ref().unwrap().pr_url.as_deref(), Some(url), "opened before it is read");
    assert!(refinery.prompt.contains("Do not merge it"), "{}", refinery.prompt);
    assert_eq!(w.bead(&request)["metadata"]["pr_url"], url);
    assert_eq!(happened(&mut w, &bead, "pr_created")[0]["new_value"], url);
    let opened = &w.forge.requests[0];
    assert_eq!((opened.repo.as_str(), opened.target.as_str()), (REPO, "main"));
    assert_eq!(opened.branch, starts(&w, "polecat")[0].branch);
    assert_eq!((w.status(&bead).as_str(), w.status(&request).as_str()), ("in_review", "in_progress"));
    assert!(summary(&w, &bead).contains(url), "{}", summary(&w, &bead));
    w.run_for(4 * MINUTE);
    assert!(w.forge.merges.is_empty(), "people have five minutes to object");
    w.run_for(3 * MINUTE);
    assert_eq!(w.forge.merges, [(1, "squash".to_owned())]);
    assert_eq!((w.status(&bead).as_str(), w.status(&request).as_str()), ("closed", "closed"));
    w.run_for(MINUTE);
    assert_eq!(w.alarm(), None);
}

#[test]
fn a_pull_request_that_stays_open_is_asked_about_once_a_minute_at_most_and_blocks_nobody() {
    let (mut w, rig) = hub(2);
    let (bead, request) = watched(&mut w, &rig);
    let began = w.now();
    let other = w.sling(&rig, "two");
    w.run_for(10 * MINUTE);
    assert_eq!(starts(&w, "refinery").len(), 2, "the second is read while the first is open");
    w.forge.request(2).state = "merged";
    w.keep_history = false;
    w.run_for(8 * HOUR);
    let first: Vec<_> = w.forge.calls.iter().filter(|c| c.1 == "GET" && c.2.ends_with("/1")).map(|c| c.0).collect();
    for hour in 0..8 {
        let asked = first.iter().filter(|at| at.since(began).div_euclid(HOUR) == hour).count();
        assert!((55..=60).contains(&asked), "{asked} times in hour {hour}");
    }
    assert_eq!((w.status(&request).as_str(), w.status(&other).as_str()), ("in_progress", "closed"));
    w.forge.request(1).state = "merged";
    w.run_for(2 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
    let calls = w.forge.calls.len();
    w.run_for(DAY);
    assert_eq!((w.forge.calls.len(), w.alarm()), (calls, None), "nothing is asked while nothing is open");
}

#[test]
fn a_pull_request_that_the_polecat_opened_is_checked_before_it_is_kept() {
    let (mut w, rig) = hub(3);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let agent = text(&last(&w, &bead), "agent_id").to_owned();
    let done = |url: &str| Command::Done {
        agent_id: agent.as_str().into(),
        branch: Some("gt/a/1".to_owned()),
        pr_url: Some(url.to_owned()),
        summary: None,
    };
    for wrong in
        ["http://github.com/acme/app/pull/7", "https://evil.example/acme/app/pull/7", "https://github.com/acme/app"]
    {
        let (status, field, words) = refused_by(&mut w, &voice(&agent, None), done(wrong));
        assert!((status, field.as_str()) == (422, "pr_url") && words.contains("/pull/<number>"), "{words}");
    }
    w.patch_config(json!({"merge_strategy": "direct"}));
    let (status, _, words) = refused_by(&mut w, &voice(&agent, None), done("https://github.com/acme/app/pull/7"));
    assert!(status == 422 && words.contains("without pr_url"), "{words}");
    w.patch_config(json!({"merge_strategy": "pr"}));
    w.command(&voice(&agent, None), done("https://github.com/acme/app/pull/7")).unwrap();
    let request = mr(&mut w, &rig);
    assert_eq!(
        (text(&request, "status"), &request["metadata"]["pr_url"]),
        ("open", &json!("https://github.com/acme/app/pull/7"))
    );
    assert!(w.forge.calls.is_empty(), "a person asked for a review first");
}

#[test]
fn without_code_review_a_pull_request_waits_for_its_forge_at_once() {
    let (mut w, rig) = hub(4);
    watch(&mut w);
    w.patch_config(json!({"refinery": {"code_review": false}}));
    let number = w.forge.open(REPO, "gt/a/1", "main");
    polecats(
        &mut w,
        Behaviour::ends(MINUTE, Ending::OpensPullRequest { url: format!("https://github.com/{REPO}/pull/{number}") }),
    );
    let (bead, request) = watched(&mut w, &rig);
    assert_eq!((w.status(&request).as_str(), starts(&w, "refinery").len()), ("in_progress", 0));
    w.forge.request(number).state = "merged";
    w.run_for(2 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn one_that_people_close_sends_the_work_back() {
    let (mut w, rig) = hub(5);
    watch(&mut w);
    let (bead, request) = watched(&mut w, &rig);
    w.forge.request(1).state = "closed";
    w.run_for(61 * SECOND);
    assert_eq!((w.status(&request).as_str(), w.status(&bead).as_str()), ("failed", "open"));
    assert_eq!((w.holds(&bead), row(&w, &bead, "review_rounds")), (vec!["review_backoff".to_owned()], Some(1)));
    w.run_for(10 * MINUTE);
    assert_eq!(w.forge.requests.len(), 2, "the branch is handed in again, and has a new one");
}

#[test]
fn conflicts_are_repaired_by_one_bead_at_a_time() {
    let (mut w, rig) = hub(6);
    watch(&mut w);
    let (bead, request) = watched(&mut w, &rig);
    w.container.behave(|_| Behaviour::hangs());
    w.forge.request(1).conflict = true;
    w.forge.request(1).unresolved = true;
    w.run_for(30 * MINUTE);
    let all = labelled(&mut w, &rig, "gt:pr-conflict");
    assert_eq!((all.len(), labelled(&mut w, &rig, "gt:pr-feedback").len()), (1, 0));
    let branch = w.forge.requests[0].branch.clone();
    let url = "https://github.com/acme/app/pull/1";
    assert_eq!(
        all[0]["metadata"],
        json!({"pr_url": url, "branch": branch, "target_branch": "main", "mr_bead_id": request, "source_bead_id": bead,
               "has_feedback": true})
    );
    let polecat = starts(&w, "polecat").pop().unwrap();
    assert_eq!(polecat.branch, branch, "it works on the branch itself");
    let agent = polecat.agent_id;
    let prime = w.command(&voice(&agent, None), Command::Prime { agent_id: agent.as_str().into() }).unwrap().data;
    assert_eq!(
        prime["pr_conflict_context"],
        json!({"pr_url": url, "branch": branch, "target_branch": "main", "has_feedback": true})
    );
    assert_eq!((w.status(&request).as_str(), w.holds(&bead)), ("in_progress", vec!["blocked".to_owned()]));
    w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 0}}));
    w.run_for(2 * MINUTE);
    assert!(w.forge.merges.is_empty(), "not while it is being repaired");
    let request = w.forge.request(1);
    (request.conflict, request.unresolved, request.commits) = (false, false, 2);
    let done = Command::Done { agent_id: agent.as_str().into(), branch: Some(branch), pr_url: None, summary: None };
    w.command(&voice(&agent, None), done).unwrap();
    w.run_for(5 * MINUTE);
    assert_eq!((w.forge.merges.len(), w.status(&bead).as_str()), (1, "closed"));
}

#[test]
fn failed_checks_and_open_comments_are_repaired_only_if_the_town_wants_it() {
    for (kind, label) in [("checks", "gt:pr-fixup"), ("comments", "gt:pr-feedback"), ("conflict", "gt:pr-conflict")] {
        for wanted in [true, false] {
            let (mut w, rig) = hub(7);
            watch(&mut w);
            w.patch_config(
                json!({"refinery": {"auto_resolve_pr_feedback": !wanted, "auto_resolve_merge_conflicts": !wanted}}),
            );
            let patch = json!({"auto_resolve_pr_feedback": wanted, "auto_resolve_merge_conflicts": wanted});
            w.must(Command::PatchRigConfig { rig_id: rig.clone(), patch });
            watched(&mut w, &rig);
            w.container.behave(|_| Behaviour::hangs());
            let request = w.forge.request(1);
            match kind {
                "checks" => request.checks = "failed",
                "comments" => request.unresolved = true,
                _ => request.conflict = true,
            }
            w.run_for(10 * MINUTE);
            assert_eq!(labelled(&mut w, &rig, label).len(), usize::from(wanted), "{kind} {wanted}");
        }
    }
}

#[test]
fn repairs_that_repair_nothing_have_an_end() {
    let (mut w, rig) = hub(8);
    watch(&mut w);
    let (bead, request) = watched(&mut w, &rig);
    w.forge.request(1).checks = "failed";
    w.run_for(DAY);
    assert_eq!(labelled(&mut w, &rig, "gt:pr-fixup").len(), 4);
    for failed in [&bead, &request] {
        assert_eq!(text(&w.bead(failed)["failure_reason"], "code"), "review.exhausted");
    }
    assert_eq!((mail_with(&w, "refused 5 times"), w.alarm()), (1, None));
}

#[test]
fn after_a_repair_the_forge_has_time_to_test_again() {
    let (mut w, rig) = hub(9);
    watched(&mut w, &rig);
    w.forge.request(1).checks = "failed";
    let fixed = |w: &mut World| labelled(w, &rig, "gt:pr-fixup").iter().filter(|b| b["status"] == "closed").count();
    w.run_for(5 * MINUTE);
    assert_eq!(fixed(&mut w), 1);
    w.run_for(5 * MINUTE);
    assert_eq!(labelled(&mut w, &rig, "gt:pr-fixup").len(), 1);
    w.run_for(10 * MINUTE);
    assert_eq!(labelled(&mut w, &rig, "gt:pr-fixup").len(), 2);
}

#[test]
fn a_way_of_merging_that_is_not_allowed_gives_way_to_the_next() {
    let (mut w, rig) = hub(10);
    w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 0}}));
    w.forge.forbidden = vec!["squash", "merge"];
    let (bead, _) = watched(&mut w, &rig);
    w.run_for(5 * MINUTE);
    assert_eq!((w.forge.merges.clone(), w.status(&bead).as_str()), (vec![(1, "rebase".to_owned())], "closed"));
}

#[test]
fn what_the_forge_does_not_let_the_town_merge_waits_for_people() {
    let (mut w, rig) = hub(11);
    w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 0}}));
    w.forge.protected = true;
    let (bead, request) = watched(&mut w, &rig);
    w.run_for(HOUR);
    let tries = |w: &World| w.forge.calls.iter().filter(|c| c.1 == "PUT").count();
    assert_eq!((tries(&w), w.status(&request).as_str()), (3, "in_progress"), "each way once, not once a minute");
    assert!(summary(&w, &request).contains("not allowed"), "{}", summary(&w, &request));
    w.forge.protected = false;
    w.run_for(HOUR);
    assert_eq!(tries(&w), 3, "only a new commit is worth another try");
    w.forge.request(1).commits = 2;
    w.run_for(5 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn the_towns_token_merges_in_the_rigs_own_repository_only() {
    let (mut w, rig) = hub(12);
    w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 0}}));
    let number = w.forge.open("somebody/else", "gt/a/1", "main");
    let url = format!("https://github.com/somebody/else/pull/{number}");
    polecats(&mut w, Behaviour::ends(MINUTE, Ending::OpensPullRequest { url }));
    let (bead, _) = watched(&mut w, &rig);
    w.run_for(HOUR);
    assert_eq!((w.forge.merges.len(), w.status(&bead).as_str()), (0, "in_review"));
    w.forge.request(number).state = "merged";
    w.run_for(2 * MINUTE);
    assert_eq!(w.status(&bead), "closed", "people may");
}

#[test]
fn passing_trouble_is_waited_out_ten_times_and_then_given_up_with_the_reason() {
    let (mut w, rig) = hub(13);
    watch(&mut w);
    let (bead, request) = watched(&mut w, &rig);
    w.forge.fault = Some(Fault::answer(503, "{\"message\": \"Unicorn\"}"));
    w.run_for(30 * MINUTE);
    assert!(summary(&w, &bead).contains("GitHub answered 503"), "{}", summary(&w, &bead));
    w.forge.fault = None;
    w.run_for(HOUR);
    assert_eq!(w.status(&request), "in_progress", "an outage of half an hour costs nothing");
    assert!(!summary(&w, &bead).contains("503"));
    w.forge.fault = Some(Fault::DropBefore);
    let before = w.forge.calls.len();
    w.run_for(6 * HOUR);
    assert_eq!(w.forge.calls.len() - before, 10);
    let given_up = w.bead(&request);
    assert_eq!((text(&given_up, "status"), w.status(&bead).as_str()), ("failed", "in_review"));
    let metadata = &given_up["metadata"];
    assert_eq!((text(metadata, "failureReason"), text(metadata, "failureKind")), ("forge.transient", "transient"));
    assert!(text(metadata, "failureMessage").contains("10 times in a row"), "{metadata}");
    assert_eq!((mail_with(&w, "was given up and waits for a redrive"), w.alarm()), (1, None));
    assert!(w.holds(&bead).contains(&"not_open".to_owned()), "explain names the merge request that failed");
    w.forge.fault = None;
    w.must(Command::RedriveBead { bead_id: request.clone(), reason: None });
    w.run_for(2 * MINUTE);
    assert_eq!((w.status(&request).as_str(), starts(&w, "refinery").len()), ("in_progress", 1), "it was read already");
    assert_eq!(w.bead(&request)["metadata"].get("failureKind"), None);
    w.forge.request(1).state = "merged";
    w.run_for(2 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn answers_that_cannot_be_read_are_given_up_after_three_and_refusals_at_once() {
    for (fault, calls, kind, words) in [
        (Fault::answer(200, "<html>"), 3, "malformed", "no JSON"),
        (Fault::answer(200, "{}"), 3, "malformed", "cannot be understood"),
        (Fault::answer(401, "{\"message\": \"Bad credentials\"}"), 1, "denied", "set git_auth.github_token anew"),
        (Fault::answer(403, "{\"message\": \"Resource not accessible\"}"), 1, "denied", "scope repo"),
        (Fault::answer(404, "{\"message\": \"Not Found\"}"), 1, "denied", "may not see it"),
        (Fault::answer(418, "{\"message\": \"a teapot\"}"), 1, "rejected", "a teapot"),
    ] {
        let (mut w, rig) = hub(14);
        watch(&mut w);
        let (bead, request) = watched(&mut w, &rig);
        w.forge.fault = Some(fault);
        let before = w.forge.calls.len();
        w.run_for(HOUR);
        let given_up = w.bead(&request);
        assert_eq!((w.forge.calls.len() - before, text(&given_up, "status")), (calls, "failed"), "{kind}");
        assert_eq!(text(&given_up["metadata"], "failureKind"), kind);
        let said = text(&given_up["failure_reason"], "message").to_owned();
        assert!(said.contains(words), "{said}");
        assert!(w.explain(&bead).to_string().contains("failed"));
    }
}

#[test]
fn a_pull_request_that_cannot_be_opened_says_so_and_the_work_is_kept() {
    let (mut w, rig) = town(15, "https://git.example.com/app.git");
    watch(&mut w);
    let bead = w.sling(&rig, "one");
    w.run_for(10 * MINUTE);
    let request = mr(&mut w, &rig);
    assert_eq!((text(&request, "status"), w.status(&bead).as_str()), ("failed", "in_review"));
    assert!(text(&request["metadata"], "failureMessage").contains("merge_strategy direct"));
    assert_eq!((happened(&mut w, &bead, "pr_creation_failed").len(), w.forge.calls.len()), (1, 0));
    w.patch_config(json!({"merge_strategy": "direct"}));
    w.must(Command::RedriveBead { bead_id: id(&request), reason: None });
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "closed");

    let (mut w, rig) = hub(16);
    watch(&mut w);
    w.patch_config(json!({"git_auth": {"github_token": null}}));
    let bead = w.sling(&rig, "one");
    w.run_for(10 * MINUTE);
    let request = mr(&mut w, &rig);
    assert!(text(&request["metadata"], "failureMessage").contains("set git_auth.github_token"));
    assert!(starts(&w, "refinery").is_empty(), "with strategy pr nothing is merged without one");
    w.patch_config(json!({"git_auth": {"github_token": TOKEN}}));
    w.must(Command::RedriveBead { bead_id: id(&request), reason: None });
    w.run_for(10 * MINUTE);
    assert_eq!((w.forge.requests.len(), w.status(&bead).as_str()), (1, "in_review"));
}

#[test]
fn an_object_that_dies_while_it_opens_or_asks_opens_one_and_merges_once() {
    for losing in [false, true] {
        for moment in ["POST", "GET", "PUT"] {
            let (mut w, rig) = hub(17);
            watch(&mut w);
            w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 0}}));
            let bead = w.sling(&rig, "one");
            let in_the_air = |w: &World| {
                matches!(w.effects.last(), Some((at, Effect::CallForge(c))) if c.method == moment && *at == w.now())
                    && w.in_the_air() > 0
            };
            assert!(w.run_while_not(HOUR, in_the_air), "{moment} never left");
            if losing {
                w.crash_losing_requests();
            } else {
                w.step(w.now().plus(SECOND));
                w.crash();
            }
            w.run_for(HOUR);
            assert_eq!((w.forge.requests.len(), w.forge.merges.len()), (1, 1), "{moment} {losing}");
            assert_eq!(w.status(&bead), "closed", "{moment} {losing}");
        }
    }
}

#[test]
fn gitlab_is_asked_in_its_own_words() {
    let (mut w, rig) = town(18, "git@gitlab.com:acme/sub/app.git");
    watch(&mut w);
    w.patch_config(json!({"refinery": {"auto_merge": true, "auto_merge_delay_minutes": 1}}));
    let (bead, request) = watched(&mut w, &rig);
    assert_eq!(w.bead(&request)["metadata"]["pr_url"], "https://gitlab.com/acme/sub/app/-/merge_requests/1");
    w.run_for(5 * MINUTE);
    assert_eq!((w.forge.merges.len(), w.status(&bead).as_str()), (1, "closed"));
    assert!(w.forge.calls.iter().all(|c| c.2.starts_with("/projects/acme%2Fsub%2Fapp/merge_requests")));
}

#[test]
fn a_refinery_that_lost_its_hook_hands_its_pull_request_in_all_the_same() {
    let (mut w, rig) = hub(19);
    watch(&mut w);
    refineries(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(20 * MINUTE, |w| starts(w, "refinery").len() == 1));
    w.run_for(SECOND);
    let refinery = starts(&w, "refinery").remove(0);
    w.container.behave(|_| Behaviour::hangs());
    let unhook = Command::Unhook { rig_id: rig.clone(), agent_id: refinery.agent_id.as_str().into() };
    w.must(unhook);
    assert_eq!(text(&mr(&mut w, &rig), "status"), "open");
    let url = refinery.review.unwrap().pr_url;
    let agent_id = refinery.agent_id.as_str().into();
    let done = Command::Done { agent_id, branch: Some("gt/a/1".to_owned()), pr_url: url, summary: None };
    w.command(&voice(&refinery.agent_id, Some(&refinery.dispatch_id)), done).unwrap();
    assert_eq!(text(&mr(&mut w, &rig), "status"), "in_progress", "stored and watched");
    w.run_for(2 * MINUTE);
    assert!(!polls(&w).is_empty());
    w.forge.request(1).state = "merged";
    w.run_for(2 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn by_hand_a_watched_merge_request_ends_and_comes_back_as_any_other() {
    let (mut w, rig) = hub(20);
    watch(&mut w);
    let (bead, request) = watched(&mut w, &rig);
    let set = |status: &str| Command::SetBeadStatus {
        rig_id: rig.clone(),
        bead_id: request.clone(),
        status: status.to_owned(),
    };
    w.must(set("open"));
    w.run_for(10 * MINUTE);
    assert_eq!(starts(&w, "refinery").len(), 2, "re-opened, it is read once more");
    assert_eq!(w.status(&request), "in_progress");
    w.must(set("closed"));
    assert_eq!(w.status(&bead), "open");
    w.must(Command::CancelBead { bead_id: bead, reason: "not needed".to_owned() });
    w.run_for(MINUTE);
    let calls = w.forge.calls.len();
    w.run_for(HOUR);
    assert_eq!(w.forge.calls.len(), calls);
}

#[test]
fn no_token_gets_into_rows_effects_or_words() {
    let (mut w, rig) = hub(21);
    watched(&mut w, &rig);
    w.forge.fault = Some(Fault::answer(401, format!("{{\"message\": \"{TOKEN} is no token\"}}")));
    w.run_for(10 * MINUTE);
    let calls: Vec<_> = w.effects.iter().filter(|(_, e)| matches!(e, Effect::CallForge(_))).collect();
    assert!(!calls.is_empty() && !format!("{calls:?}").contains(TOKEN));
    w.sql.execute("DELETE FROM config", &[]).unwrap();
    assert!(!format!("{:?}", w.sql.dump()).contains(TOKEN));
}
