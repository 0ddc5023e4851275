//! What a review of the merged town found: seams between parts that were built side by side, one test per wrong state.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Actor, Batch, BeadFilter, BeadPatch, Command, NewBead, Task};
use gastown::town::effect::Effect;
use gastown::town::id::{AgentId, BeadId, Ids, RigId};
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown::town::{Town, prompts};
use gastown_host::behaviour::Behaviour;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

fn task(title: &str, labels: &[&str]) -> Task {
    let labels = labels.iter().map(|l| (*l).to_owned()).collect();
    Task { bead: NewBead { title: title.to_owned(), labels, ..NewBead::default() }, depends_on: Vec::new() }
}

fn batch(rig_id: &RigId, tasks: Vec<Task>) -> Command {
    let batch = Batch { title: "Add user auth".to_owned(), tasks, staged: Some(false), ..Batch::default() };
    Command::SlingBatch { rig_id: rig_id.clone(), batch }
}

fn id(of: &Json, key: &str) -> BeadId {
    text(of, key).into()
}

// ── convoys ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn who_watches_a_town_is_told_how_far_a_convoy_has_come() {
    let (mut w, rig) = World::founded(1);
    polecats(&mut w, Behaviour::hangs());
    let slung = w.must(batch(&rig, vec![task("A", &[]), task("B", &[])]));
    let (convoy, first) = (text(&slung["convoy"], "id").to_owned(), id(&slung["beads"][0]["bead"], "bead_id"));
    let ctx = w.ctx().watched(true);
    let close = Command::SetBeadStatus { rig_id: rig, bead_id: first, status: "closed".to_owned() };
    let reply = Town::new(&w.sql).handle(&ctx, &Actor::System, close).unwrap();
    let of_convoys = |e: &Effect| match e {
        Effect::Broadcast(frame) if frame["channel"] == "convoy" => Some(frame.clone()),
        _ => None,
    };
    let frames: Vec<Json> = reply.effects.iter().filter_map(of_convoys).collect();
    let at = w.now().to_string();
    assert_eq!(frames, [json!({"channel": "convoy", "convoyId": convoy, "totalBeads": 2, "closedBeads": 1, "ts": at})]);
}

#[test]
fn a_batch_with_a_question_among_its_tasks_is_refused_since_nobody_would_ever_do_that() {
    let (mut w, rig) = World::founded(2);
    let (status, _, words) = refused(&mut w, batch(&rig, vec![task("A", &[]), task("B", &["gt:triage-request"])]));
    assert_eq!(status, 422, "{words}");
    assert!(words.contains("triage request"), "{words}");
}

fn of_kind(w: &mut World, rig: &RigId, kind: &str) -> Vec<Json> {
    let filter = BeadFilter { kind: Some(kind.to_owned()), limit: Some(500), ..BeadFilter::default() };
    w.must(Command::ListBeads { rig_id: rig.clone(), filter }).as_array().cloned().unwrap()
}

/// A town of strategy `pr` at a forge that merges whatever it is asked about.
fn at_a_forge(seed: u64) -> (World, RigId) {
    let mut w = World::new(seed);
    w.found_town();
    let rig = RigId(w.ids.uuid());
    let (name, git_url) = ("app".to_owned(), "https://github.com/acme/app.git".to_owned());
    w.must(Command::AddRig { rig_id: rig.clone(), name, git_url, default_branch: None });
    w.patch_config(json!({"merge_strategy": "pr", "git_auth": {"github_token": "planted"}}));
    w.forge.obliging = true;
    (w, rig)
}

#[test]
fn a_convoy_gets_into_the_default_branch_by_a_pull_request_where_the_town_wants_one() {
    let (mut w, rig) = at_a_forge(3);
    let slung = w.must(batch(&rig, vec![task("A", &[]), task("B", &[])]));
    let (convoy, feature) = (id(&slung["convoy"], "id"), text(&slung["convoy"], "feature_branch").to_owned());
    assert!(w.run_while_not(3 * HOUR, |w| w.status(&convoy) == "closed"), "{}", w.journal());
    let opened: Vec<_> = w.forge.requests.iter().map(|r| (r.branch.as_str(), r.target.as_str())).collect();
    // Tasks go into the feature branch, which no forge has before the first of them is merged.
    assert_eq!(opened, [(feature.as_str(), "main")]);
    let mrs = of_kind(&mut w, &rig, "merge_request");
    let landing = mrs.iter().find(|m| m["metadata"]["source_bead_id"] == convoy.as_str()).unwrap();
    assert_eq!(text(&landing["metadata"], "pr_url"), "https://github.com/acme/app/pull/1");
}

// ── beads that go with others ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn who_waits_for_a_step_of_a_molecule_waits_no_more_when_that_is_deleted_with_its_bead() {
    let (mut w, rig) = World::founded(4);
    polecats(&mut w, Behaviour::hangs());
    let subject = w.sling(&rig, "with steps");
    let formula = json!({"steps": [{"title": "one", "instructions": "do it"}]});
    w.must(Command::AttachMolecule { rig_id: rig.clone(), bead_id: subject.clone(), formula });
    let step = w.sql.peek("SELECT bead_id FROM beads WHERE title = 'one'", &[])[0].text(0).unwrap();
    let new = NewBead { title: "after it".to_owned(), depends_on: vec![step], ..NewBead::default() };
    let waits = id(&w.must(Command::CreateBead { rig_id: rig.clone(), bead: new }), "bead_id");
    assert_eq!(w.holds(&waits), ["blocked"]);
    w.must(Command::DeleteBead { rig_id: rig, bead_id: subject });
    w.run_for(MINUTE);
    assert_eq!((w.status(&waits).as_str(), row(&w, &waits, "open_blockers")), ("in_progress", Some(0)));
    assert!(w.sql.peek("SELECT 1 FROM bead_dependencies", &[]).is_empty(), "and no edge leads to nowhere");
}

#[test]
fn nobody_repairs_a_branch_whose_merge_request_is_decided() {
    let (mut w, rig) = World::founded(9);
    w.container.behave(|start| match start.request.role.as_str() {
        "refinery" => Behaviour::hangs(),
        _ if start.request.prompt.starts_with("Rework") => Behaviour::fails(MINUTE, "out of ideas"),
        role => Behaviour::good(role),
    });
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    w.sling(&rig, "one");
    let at_work =
        "SELECT agent_id FROM attempts WHERE role = 'refinery' AND proven_at IS NOT NULL AND finished_at IS NULL";
    assert!(w.run_while_not(20 * MINUTE, |w| !w.sql.peek(at_work, &[]).is_empty()));
    let refinery = w.sql.peek(at_work, &[])[0].text(0).unwrap();
    let (feedback, files) = ("tests are missing".to_owned(), Vec::new());
    let asks = Command::RequestChanges { agent_id: refinery.as_str().into(), feedback, files };
    let rework = id(&w.command(&voice(&refinery, None), asks).unwrap().data, "rework_bead_id");
    assert!(w.run_while_not(HOUR, |w| w.status(&rework) == "failed"));
    let mr = id(&of_kind(&mut w, &rig, "merge_request")[0], "bead_id");
    let (entry_id, status, message) = (mr, "merged".to_owned(), "by hand".to_owned());
    w.must(Command::CompleteReview { entry_id, status, message, commit_sha: None });
    let starts = w.starts().len();
    let (status, _, words) = refused(&mut w, Command::RedriveBead { bead_id: rework, reason: None });
    assert_eq!(status, 409, "{words}");
    let reason = "after an outage".to_owned();
    let all = Command::Redrive { fingerprint: None, rig_id: None, limit: None, dry_run: false, reason };
    assert_eq!(w.must(all)["redriven"], 0);
    w.run_for(HOUR);
    assert_eq!(w.starts().len(), starts, "nobody works for nothing");
}

#[test]
fn what_was_to_be_told_to_an_agent_goes_with_it() {
    let (mut w, rig) = World::founded(5);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let agent = text(&last(&w, &bead), "agent_id").to_owned();
    let (message, mode) = ("go on".to_owned(), Some("immediate".to_owned()));
    w.must(Command::Nudge { target: agent.as_str().into(), message, mode });
    w.run_for(MINUTE);
    let lines = |w: &World| {
        w.sql.peek("SELECT count(*) FROM lines WHERE agent_id = ?1", &[agent.as_str().into()])[0].int(0).unwrap()
    };
    assert_eq!(lines(&w), 1);
    w.must(Command::DeleteAgent { rig_id: rig, agent_id: agent.as_str().into() });
    assert_eq!(lines(&w), 0, "a row for every polecat that there ever was");
}

#[test]
fn what_the_town_goes_by_outlives_metadata_that_somebody_replaces() {
    let (mut w, rig) = World::founded(8);
    polecats(&mut w, Behaviour::hangs());
    let patch = BeadPatch { metadata: Some(json!({"note": "look"})), ..BeadPatch::default() };
    for (label, metadata) in [
        ("gt:rework", json!({"branch": "gt/toast/0badcafe"})),
        ("plain", json!({"resume_branch": "gt/toast/0badcafe", "own": 1})),
    ] {
        let labels = vec!["gt:held".to_owned(), label.to_owned()];
        let new = NewBead { title: label.to_owned(), labels, metadata: Some(metadata), ..NewBead::default() };
        let bead = id(&w.must(Command::CreateBead { rig_id: rig.clone(), bead: new }), "bead_id");
        let (rig_id, bead_id) = (rig.clone(), bead.clone());
        let free = BeadPatch { labels: Some(vec![label.to_owned()]), ..patch.clone() };
        let shown = w.must(Command::UpdateBead { rig_id, bead_id, patch: free });
        assert_eq!((&shown["metadata"]["note"], &shown["metadata"]["own"]), (&json!("look"), &Json::Null));
        w.run_for(MINUTE);
        let mut starts = w.effects.iter().filter_map(|(_, e)| match e {
            Effect::StartAgent(s) => Some(s.request.branch.clone()),
            _ => None,
        });
        assert_eq!(starts.next_back().as_deref(), Some("gt/toast/0badcafe"), "{label}");
    }
}

// ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_triage_agent_is_told_what_its_role_is_and_which_tools_it_has() {
    let (mut w, rig) = World::founded(6);
    polecats(&mut w, Behaviour::hangs());
    let labels = vec!["gt:triage-request".to_owned()];
    let question = NewBead { title: "Stuck".to_owned(), labels, ..NewBead::default() };
    w.must(Command::CreateBead { rig_id: rig, bead: question });
    w.run_for(MINUTE);
    let prompt = w.effects.iter().find_map(|(_, e)| match e {
        Effect::StartAgent(s) => Some(s.request.system_prompt.clone()),
        _ => None,
    });
    assert_eq!(prompt.as_deref(), Some(prompts::TRIAGE));
}

// ── the mayor ────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_mayor_that_its_containers_drain_ends_is_interrupted_and_pays_nothing() {
    let (mut w, _) = World::founded(7);
    w.container.behave(|_| Behaviour::hangs());
    w.must(Command::MessageMayor { message: "hello".to_owned(), ui_context: None });
    w.run_for(MINUTE);
    let mayor: AgentId = w.sql.peek("SELECT mayor_agent_id FROM town", &[])[0].text(0).unwrap().as_str().into();
    w.must(Command::ContainerEviction);
    let reason = Some("container eviction".to_owned());
    let says = Command::MayorCompleted { status: "completed".to_owned(), reason };
    w.command(&voice(mayor.as_str(), None), says).unwrap();
    let ended = attempts(&w).pop().unwrap();
    assert_eq!((text(&ended, "outcome"), &ended["charged"]), ("interrupted", &json!(false)));
    let streak = w.sql.peek("SELECT failure_streak, next_dispatch_at FROM agents WHERE role = 'mayor'", &[]);
    assert_eq!((streak[0].int(0).unwrap(), streak[0].opt_int(1).unwrap()), (0, None));
    w.run_for(30 * SECOND);
    assert_eq!(attempts(&w).len(), 1, "nobody waits for it");
}

#[test]
fn a_mayor_that_goes_on_in_another_container_is_not_told_once_more_what_it_was_told() {
    let (mut w, _) = World::founded(10);
    w.container.behave(|_| Behaviour::hangs());
    w.container.resurrects = true;
    let say = |w: &mut World, words: &str| {
        w.must(Command::MessageMayor { message: words.to_owned(), ui_context: None });
        w.run_for(MINUTE);
    };
    say(&mut w, "hello");
    w.must(Command::MayorCompleted { status: "completed".to_owned(), reason: None });
    w.run_for(MINUTE);
    // By now its container is known to read the prompt of a start.
    say(&mut w, "make five beads");
    let carried =
        w.effects.iter().any(|(_, e)| matches!(e, Effect::StartAgent(s) if s.request.prompt == "make five beads"));
    assert!(carried, "{}", w.journal());
    let handed = w.must(Command::ReadRegistry { container_instance_id: Some("the next one".to_owned()) });
    assert_eq!(handed.as_array().unwrap().len(), 1, "{handed}");
    assert_eq!(text(&handed[0]["request"], "prompt"), prompts::RESUMED);
}

#[test]
fn a_process_that_was_stopped_takes_no_mail_from_the_one_after_it() {
    let (mut w, _) = World::founded(11);
    w.container.behave(|_| Behaviour::hangs());
    w.must(Command::MessageMayor { message: "hello".to_owned(), ui_context: None });
    w.run_for(MINUTE);
    let first = text(&attempts(&w)[0], "attempt_id").to_owned();
    let mayor = text(&attempts(&w)[0], "agent_id").to_owned();
    w.must(Command::DestroyMayor);
    w.must(Command::MessageMayor { message: "make a plan".to_owned(), ui_context: None });
    let agent_id = || AgentId::from(mayor.as_str());
    for reads in [Command::ReadMail { agent_id: agent_id() }, Command::Prime { agent_id: agent_id() }] {
        for named in [Some(first.as_str()), None] {
            let told = w.command(&voice(&mayor, named), reads.clone()).unwrap().data;
            assert!(!told.to_string().contains("make a plan"), "{told}");
        }
    }
    w.run_for(10 * MINUTE);
    let heard = w.container.told().iter().filter(|t| t.prompt.contains("make a plan")).count();
    assert_eq!(heard, 1, "{}", w.journal());
}

#[test]
fn work_that_an_old_process_saves_goes_to_its_own_bead_and_to_no_other_of_its_agent() {
    let (mut w, rig) = World::founded(12);
    polecats(&mut w, Behaviour::hangs());
    let old = w.sling(&rig, "old");
    w.run_for(MINUTE);
    let (agent, first) = (text(&last(&w, &old), "agent_id").to_owned(), text(&last(&w, &old), "attempt_id").to_owned());
    w.must(Command::CancelBead { bead_id: old, reason: "not needed".to_owned() });
    w.run_for(MINUTE);
    let new = w.sling(&rig, "new");
    w.run_for(MINUTE);
    assert_eq!(text(&last(&w, &new), "agent_id"), agent, "it has another bead by now");
    let saved = || Command::EvictionContext {
        agent_id: agent.as_str().into(),
        branch: "gt/toast/01d01d01".to_owned(),
        agent_name: "Toast".to_owned(),
        saved_at: "2026-11-20T10:00:00Z".to_owned(),
    };
    w.command(&voice(&agent, Some(&first)), saved()).unwrap();
    assert_eq!(w.bead(&new)["metadata"], json!({}));
    w.command(&voice(&agent, None), saved()).unwrap();
    assert_eq!(w.bead(&new)["metadata"]["resume_branch"], "gt/toast/01d01d01");
}
