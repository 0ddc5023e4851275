use super::*;

fn http(status: u16, body: &Json) -> Answer {
    Answer::Http { status, body: body.to_string(), retry_after: None }
}

fn github_place() -> Place {
    pull_request("https://github.com/acme/app/pull/7", None).unwrap()
}

fn gitlab_place() -> Place {
    pull_request("https://gitlab.com/acme/sub/app/-/merge_requests/7", None).unwrap()
}

const WORDS: Words<'static> = Words { branch: "gt/a/1", target: "main", title: "t", body: "b", head: "abc" };

#[test]
fn only_pull_requests_of_known_hosts_over_https_are_recognised() {
    let own = Some("https://git.example.com:8443/lab/");
    let found = |url: &str| pull_request(url, own).map(|p| (p.base, p.repo, p.number.unwrap()));
    let at = |base: &str, repo: &str, n| Some((base.to_owned(), repo.to_owned(), n));
    assert_eq!(found("https://github.com/acme/app/pull/7"), at("https://api.github.com", "acme/app", 7));
    assert_eq!(found("https://gitlab.com/a/b/c/-/merge_requests/12"), at("https://gitlab.com/api/v4", "a/b/c", 12));
    let there = "https://git.example.com:8443/lab/a/b/-/merge_requests/3";
    assert_eq!(found(there), at("https://git.example.com:8443/lab/api/v4", "a/b", 3));
    assert_eq!(pull_request(there, None), None, "only what the settings name");
    for wrong in [
        "http://github.com/acme/app/pull/7",
        "https://github.com.evil.example/acme/app/pull/7",
        "https://github.com@evil.example/acme/app/pull/7",
        "https://evil.example/acme/app/pull/7",
        "https://github.com/acme/app/pull/7/files",
        "https://github.com/acme/app/pull/7?x=1",
        "https://github.com/acme/app/pull/+7",
        "https://github.com/acme/app/pull/0",
        "https://github.com/acme/app/pull/12345678901",
        "https://github.com/acme/../pull/7",
        "https://github.com/acme/pull/7",
        "https://github.com/acme/app/-/merge_requests/7",
        "https://gitlab.com/acme/app/pull/7",
        "https://gitlab.com/app/-/merge_requests/7",
        "https://gitlab.com/a//b/-/merge_requests/7",
        "https://gitlab.com/a b/c/-/merge_requests/7",
        "https://169.254.169.254/a/b/-/merge_requests/7",
        "",
    ] {
        assert_eq!(found(wrong), None, "{wrong}");
    }
    let bare = "https://git.example.com/a/b/-/merge_requests/3";
    assert_eq!(pull_request(bare, Some("http://git.example.com")), None, "no token goes over http");
    assert_eq!(pull_request(bare, Some("https:///")), None);
}

#[test]
fn a_git_url_of_any_form_names_its_repository_and_never_its_password() {
    for url in [
        "https://github.com/acme/app.git",
        "https://github.com/acme/app/",
        "https://x-access-token:secret@github.com/acme/app",
        "git@github.com:acme/app.git",
        "ssh://git@github.com/acme/app.git",
    ] {
        let place = repository(url, None).unwrap_or_else(|| panic!("{url}"));
        assert_eq!((place.repo.as_str(), place.number, place.github), ("acme/app", None, true), "{url}");
    }
    assert_eq!(repository("git@gitlab.com:a/b/c.git", None).map(|p| p.repo).as_deref(), Some("a/b/c"));
    for url in ["https://git.example.com/acme/app.git", "file:///srv/app.git", "/srv/app.git", ""] {
        assert_eq!(repository(url, None), None, "{url}");
    }
}

#[test]
fn requests_are_those_of_the_forges_rest() {
    let (hub, lab) = (github_place(), gitlab_place());
    let asked = |place: &Place, step: &Step| {
        let (method, path, body) = request(place, step, &WORDS);
        format!("{method} {path} {}", body.unwrap_or_default())
    };
    let open = asked(&hub, &Step::Open);
    assert_eq!(open, r#"POST /repos/acme/app/pulls {"base":"main","body":"b","head":"gt/a/1","title":"t"}"#);
    assert_eq!(asked(&hub, &Step::Find), "GET /repos/acme/app/pulls?state=open&head=acme%3Agt%2Fa%2F1&base=main null");
    assert_eq!(asked(&hub, &Step::Poll), "GET /repos/acme/app/pulls/7 null");
    assert!(asked(&hub, &Step::Talk(Seen::default())).starts_with("POST /graphql "));
    let ways: Vec<String> = (0..3).map(|n| asked(&hub, &Step::Merge(n))).collect();
    for (way, said) in ["squash", "merge", "rebase"].into_iter().zip(ways) {
        assert_eq!(said, format!(r#"PUT /repos/acme/app/pulls/7/merge {{"merge_method":"{way}","sha":"abc"}}"#));
    }
    assert_eq!((next_way(&hub, 0), next_way(&hub, 2), next_way(&lab, 0)), (Some(Step::Merge(1)), None, None));
    let project = "/projects/acme%2Fsub%2Fapp/merge_requests";
    assert!(asked(&lab, &Step::Open).starts_with(&format!("POST {project} ")));
    assert_eq!(
        asked(&lab, &Step::Find),
        format!("GET {project}?state=opened&source_branch=gt%2Fa%2F1&target_branch=main null")
    );
    assert_eq!(asked(&lab, &Step::Poll), format!("GET {project}/7 null"));
    assert_eq!(asked(&lab, &Step::Merge(0)), format!(r#"PUT {project}/7/merge {{"sha":"abc"}}"#));
}

#[test]
fn what_github_says_of_a_pull_request_is_understood() {
    let poll = |body: Json| read(&github_place(), &Step::Poll, &http(200, &body));
    let open =
        |state: &str| json!({"state": "open", "merged": false, "mergeable_state": state, "head": {"sha": "abc"}});
    let seen = |conflict, ready| Ok(Said::Open(Seen { head: "abc".to_owned(), conflict, ready, ..Seen::default() }));
    assert_eq!(poll(open("clean")), seen(false, true));
    assert_eq!(poll(open("dirty")), seen(true, false));
    for state in ["unknown", "blocked", "behind", "draft"] {
        assert_eq!(poll(open(state)), seen(false, false), "{state}");
    }
    let merged = json!({"state": "closed", "merged": true, "merge_commit_sha": "m"});
    assert_eq!(poll(merged), Ok(Said::Merged(Some("m".to_owned()))));
    assert_eq!(poll(json!({"state": "closed", "merged": false})), Ok(Said::Closed));
    for odd in [json!({}), json!([]), json!("open"), json!({"state": "open"}), json!({"state": "closed"})] {
        assert_eq!(poll(odd.clone()).unwrap_err().kind, Kind::Malformed, "{odd}");
    }
    let talk = |rollup: &str, resolved: bool| {
        let said = json!({"data": {"repository": {"pullRequest": {
            "reviewThreads": {"nodes": [{"isResolved": resolved}]},
            "commits": {"nodes": [{"commit": {"statusCheckRollup": {"state": rollup}}}]}}}}});
        let before = Seen { head: "abc".to_owned(), ready: true, ..Seen::default() };
        match read(&github_place(), &Step::Talk(before), &http(200, &said)).unwrap() {
            Said::Open(seen) => (seen.failing, seen.unresolved, seen.ready),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(talk("SUCCESS", true), (false, false, true));
    assert_eq!(talk("FAILURE", true), (true, false, true));
    assert_eq!(talk("PENDING", false), (false, true, false));
    let limited = json!({"data": null, "errors": [{"message": "API rate limit exceeded"}]});
    let trouble = read(&github_place(), &Step::Talk(Seen::default()), &http(200, &limited)).unwrap_err();
    assert_eq!(trouble.kind, Kind::Transient);
    let denied = json!({"data": null, "errors": [{"type": "FORBIDDEN", "message": "Resource not accessible"}]});
    let trouble = read(&github_place(), &Step::Talk(Seen::default()), &http(200, &denied)).unwrap_err();
    assert_eq!(trouble.kind, Kind::Denied);
}

#[test]
fn what_gitlab_says_of_a_merge_request_is_understood() {
    let poll = |body: Json| read(&gitlab_place(), &Step::Poll, &http(200, &body)).unwrap();
    let open = |more: Json| {
        let mut body = json!({"state": "opened", "sha": "abc", "has_conflicts": false, "detailed_merge_status": "mergeable",
                              "blocking_discussions_resolved": true, "head_pipeline": {"status": "success"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match poll(body) {
            Said::Open(seen) => (seen.conflict, seen.failing, seen.unresolved, seen.ready),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(open(json!({})), (false, false, false, true));
    assert_eq!(open(json!({"has_conflicts": true, "detailed_merge_status": "conflict"})), (true, false, false, false));
    assert_eq!(open(json!({"head_pipeline": {"status": "failed"}})), (false, true, false, false));
    assert_eq!(open(json!({"blocking_discussions_resolved": false})), (false, false, true, true));
    assert_eq!(open(json!({"head_pipeline": {"status": "running"}})), (false, false, false, false));
    assert_eq!(open(json!({"head_pipeline": null})), (false, false, false, true));
    assert_eq!(poll(json!({"state": "merged", "squash_commit_sha": "s"})), Said::Merged(Some("s".to_owned())));
    assert_eq!(poll(json!({"state": "closed"})), Said::Closed);
}

#[test]
fn trouble_is_classified_and_says_what_to_do() {
    let poll = |answer: &Answer| read(&github_place(), &Step::Poll, answer).unwrap_err();
    let says = |status| poll(&http(status, &json!({"message": "because"})));
    for (status, kind, advice) in [
        (401, Kind::Denied, "set git_auth.github_token anew"),
        (403, Kind::Denied, "scope repo"),
        (404, Kind::Denied, "check both"),
        (301, Kind::Denied, "new git_url"),
        (422, Kind::Rejected, "because"),
        (429, Kind::Transient, "because"),
        (500, Kind::Transient, "because"),
        (503, Kind::Transient, "because"),
    ] {
        let trouble = says(status);
        assert_eq!(trouble.kind, kind, "{status}");
        assert!(trouble.words.contains(advice) && trouble.words.contains(&status.to_string()), "{}", trouble.words);
    }
    let busy = poll(&http(403, &json!({"message": "You have exceeded a secondary rate limit"})));
    assert_eq!(busy.kind, Kind::Transient);
    let wait = Answer::Http { status: 403, body: String::new(), retry_after: Some(60_000) };
    assert_eq!((poll(&wait).kind, poll(&wait).wait), (Kind::Transient, Some(60_000)));
    assert_eq!(poll(&Answer::TimedOut { after: 10_000 }).words, "GitHub did not answer within 10 s");
    let gone = Answer::Unreachable { detail: "Network connection lost.".to_owned() };
    assert_eq!(poll(&gone).kind, Kind::Transient);
    let html = Answer::Http { status: 200, body: "<html>".to_owned(), retry_after: None };
    assert_eq!(poll(&html).kind, Kind::Malformed);
    let leak = poll(&http(401, &json!({"message": "bad token ghp_abcdefghijklmnopqrstuvwxyz0123456789"})));
    assert!(!leak.words.contains("ghp_abc"), "{}", leak.words);
}

#[test]
fn one_that_is_open_already_is_found_and_not_opened_twice() {
    let hub = |status, body: Json| read(&github_place(), &Step::Open, &http(status, &body));
    let url = "https://github.com/acme/app/pull/8";
    assert_eq!(hub(201, json!({"html_url": url})), Ok(Said::Opened(url.to_owned())));
    let twice =
        json!({"message": "Validation Failed", "errors": [{"message": "A pull request already exists for a:b."}]});
    assert_eq!(hub(422, twice), Ok(Said::Exists));
    assert_eq!(hub(422, json!({"message": "No commits between"})).unwrap_err().kind, Kind::Rejected);
    let lab = |status, body: Json| read(&gitlab_place(), &Step::Open, &http(status, &body));
    assert_eq!(lab(409, json!({"message": ["Another open merge request already exists"]})), Ok(Said::Exists));
    let found = read(&github_place(), &Step::Find, &http(200, &json!([{"html_url": url}])));
    assert_eq!(found, Ok(Said::Opened(url.to_owned())));
    let none = read(&github_place(), &Step::Find, &http(200, &json!([])));
    assert_eq!(none.unwrap_err().kind, Kind::Malformed);
    let moved = read(&github_place(), &Step::Merge(0), &http(409, &json!({"message": "modified"})));
    assert_eq!(moved, Ok(Said::Moved));
}
