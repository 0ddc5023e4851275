//! The container's registry: which agents a new container process may go on with (`domain.md` 9).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod support_host;

use gastown::town::command::{Actor, Command};
use gastown::town::id::{BeadId, RigId};
use gastown::town::prompts;
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support_host::*;

const CONTAINER: Actor = Actor::Container { agent_id: None, dispatch_id: None };

/// A town with so many proven agents in a container that is registered and goes on with what ran.
fn at_work(n: usize) -> (World, RigId, Vec<BeadId>) {
    let (mut w, rig) = World::founded(5);
    w.container.resurrects = true;
    polecats(&mut w, Behaviour::hangs());
    let beads = sling_many(&mut w, &rig, n);
    let all = |w: &World| beads.iter().all(|b| w.attempts(b).last().is_some_and(|a| a["outcome"] == "proven"));
    assert!(w.run_while_not(30 * MINUTE, all), "{}", w.journal());
    w.run_for(MINUTE);
    (w, rig, beads)
}
fn read(w: &mut World, instance: Option<&str>) -> Vec<Json> {
    let command = Command::ReadRegistry { container_instance_id: instance.map(str::to_owned) };
    w.command(&CONTAINER, command).unwrap().data.as_array().unwrap().clone()
}
fn resurrected(w: &World) -> Vec<String> {
    w.starts().iter().filter(|s| s.resurrected).map(|s| s.attempt_id.clone()).collect()
}
fn live(w: &World) -> usize {
    attempts(w).iter().filter(|a| a["finished_at"].is_null()).count()
}

#[test]
fn an_agent_goes_on_in_the_next_container_as_the_same_attempt_without_another_charge() {
    let (mut w, _, beads) = at_work(1);
    let before = last(&w, &beads[0]);
    w.container.restart(w.clock.now());
    w.run_for(2 * HOUR);
    assert_eq!(resurrected(&w), [text(&before, "attempt_id")]);
    assert_eq!((w.attempts(&beads[0]).len(), charged(&w, &beads[0])), (1, 1));
    assert_eq!(w.status(&beads[0]), "in_progress");
    let instance = w.sql.peek("SELECT instance_id FROM attempts", &[])[0].text(0).unwrap();
    assert_eq!(instance, w.container.instance_id());
}

#[test]
fn an_entry_names_its_attempt_and_is_made_afresh_from_the_towns_rows() {
    let (mut w, _, beads) = at_work(1);
    w.patch_config(json!({"env_vars": {"COLOUR": "blue", "MY_TOKEN": "s3cret-in-settings"}}));
    let entry = read(&mut w, Some("another")).remove(0);
    let request = &entry["request"];
    let attempt = last(&w, &beads[0]);
    assert_eq!(
        (text(request, "dispatchId"), text(&entry, "agentId")),
        (text(&attempt, "attempt_id"), text(&attempt, "agent_id"))
    );
    assert_eq!((text(request, "agentId"), text(&entry, "workdir")), (text(&attempt, "agent_id"), "/work"));
    assert_eq!(text(&request["envVars"], "COLOUR"), "blue", "as the settings are now");
    assert!(text(request, "prompt").contains("bead 0") && text(request, "branch").starts_with("gt/"));
}

#[test]
fn no_secret_is_kept_and_none_is_handed_out() {
    let (mut w, _, _) = at_work(1);
    w.patch_config(
        json!({"env_vars": {"MY_TOKEN": "s3cret-in-settings"}, "git_auth": {"github_token": "ghp_settings1234"}}),
    );
    let agent = text(&attempts(&w)[0], "agent_id").to_owned();
    let entries = vec![json!({
        "agentId": agent, "workdir": "/work",
        "request": {"gitUrl": "https://x:s3cret@git.example.com/r.git", "envVars": {"GASTOWN_CONTAINER_TOKEN": "s3cret", "A": "1"}},
        "env": {"API_KEY": "s3cret", "GITHUB_CLI_PAT": "s3cret", "B": "ghp_0123456789s3cret", "C": "plain"},
    })];
    assert_eq!(w.command(&CONTAINER, Command::WriteRegistry { entries }).unwrap().data, json!({"stored": 1}));
    let kept = w.sql.peek("SELECT entries FROM container_registry", &[])[0].text(0).unwrap();
    let answer = Json::Array(read(&mut w, Some("another"))).to_string();
    for text in [&kept, &answer] {
        assert!(!text.contains("s3cret") && !text.contains("ghp_"), "{text}");
    }
    assert!(kept.contains("\"C\":\"plain\"") && answer.contains("\"C\":\"plain\""));
}

#[test]
fn what_is_no_entry_is_left_out_and_too_much_is_refused() {
    let (mut w, _) = World::founded(5);
    let write = |entries: Vec<Json>| Command::WriteRegistry { entries };
    let odd = vec![json!(7), json!({"agentId": 7}), json!({"agentId": "a"}), json!(null)];
    assert_eq!(w.command(&CONTAINER, write(odd)).unwrap().data, json!({"stored": 1}));
    let huge = vec![json!({"agentId": "a", "workdir": "x".repeat(600 * 1024)})];
    assert_eq!(refused_by(&mut w, &CONTAINER, write(huge)).0, 413);
    assert!(read(&mut w, None).is_empty(), "nobody of that name is at work");
}

#[test]
fn a_new_instance_is_unproven_so_one_agent_goes_on_and_the_others_are_found_and_requeued() {
    let (mut w, _, beads) = at_work(4);
    w.container.restart(w.clock.now());
    w.run_for(SECOND);
    assert_eq!(resurrected(&w).len(), 1);
    w.run_for(10 * MINUTE);
    let lost = failures(&w, "container.lost");
    assert_eq!(lost.len(), 3, "{}", w.journal());
    assert!(beads.iter().all(|b| charged(&w, b) <= 1));
    w.run_for(30 * MINUTE);
    assert_eq!(live(&w), 4, "all of them are at work again");
    assert!(w.container.twice().iter().all(|t| t.starts_with("attempt")), "{:?}", w.container.twice());
}

#[test]
fn what_is_handed_out_counts_as_a_start_in_flight_until_it_is_heard() {
    let (mut w, rig, _) = at_work(1);
    w.container.behave(|_| Behaviour::hangs().mute());
    assert_eq!(read(&mut w, Some("another")).len(), 1);
    let bead = w.sling(&rig, "Waits");
    assert!(w.holds(&bead).contains(&"starts_in_flight".to_owned()), "{:?}", w.holds(&bead));
    assert!(read(&mut w, Some("a third")).is_empty(), "an attempt goes on once, wherever that leads");
}

#[test]
fn a_bead_that_kills_containers_does_not_go_on_for_ever() {
    let (mut w, _, beads) = at_work(1);
    for _ in 0..5 {
        w.container.restart(w.clock.now());
        w.run_for(MINUTE);
    }
    assert_eq!(resurrected(&w).len(), 1);
    w.run_for(5 * MINUTE);
    let first = &w.attempts(&beads[0])[0];
    assert_eq!((text(first, "outcome"), text(first, "code")), ("failed", "container.lost"));
}

#[test]
fn nothing_goes_on_behind_an_open_breaker_or_in_a_drain() {
    let (mut w, _, _) = at_work(2);
    w.command(&CONTAINER, Command::ContainerEviction).unwrap();
    let old = w.container.instance_id().to_owned();
    assert!(read(&mut w, Some(&old)).is_empty(), "the container that drains is no new one");
    let (mut w, _, _) = at_work(2);
    let reason = Some("maintenance".to_owned());
    let (scope, mode) = ("town".to_owned(), "forced_open".to_owned());
    w.must(Command::OverrideBreaker { scope, mode, reason, expires_in_ms: Some(HOUR) });
    assert!(read(&mut w, Some("another")).is_empty());
}

#[test]
fn after_an_eviction_the_first_reading_ends_the_drain_whoever_reads() {
    for instance in [None, Some("another")] {
        let (mut w, _, _) = at_work(1);
        w.command(&CONTAINER, Command::ContainerEviction).unwrap();
        assert_eq!(w.must(Command::DrainStatus)["draining"], true);
        assert_eq!(read(&mut w, instance).len(), 1);
        assert_eq!(w.must(Command::DrainStatus)["draining"], false);
        let slow = w.sql.peek("SELECT slow_start FROM town", &[])[0].int(0).unwrap();
        assert_eq!(slow, 1, "it is unproven");
    }
}

#[test]
fn a_reading_with_a_new_name_brings_a_probe_forward() {
    let (mut w, rig, _) = at_work(1);
    every_start(&mut w, 502, "Bad gateway");
    sling_many(&mut w, &rig, 6);
    assert!(w.run_while_not(HOUR, |w| w.breaker("town")["state"] == "open"), "{}", w.journal());
    let before = time(&w.breaker("town")["next_probe_at"]);
    read(&mut w, Some("another"));
    assert!(time(&w.breaker("town")["next_probe_at"]) < before);
    assert!(resurrected(&w).is_empty());
}

#[test]
fn the_container_that_runs_an_agent_is_not_told_to_start_it_again() {
    let (mut w, _, _) = at_work(1);
    let here = w.container.instance_id().to_owned();
    assert!(read(&mut w, Some(&here)).is_empty());
}

#[test]
fn a_limit_that_was_lowered_holds_for_what_goes_on() {
    let (mut w, _, _) = at_work(4);
    w.patch_config(json!({"dispatch": {"max_agents": 1, "max_polecats_per_rig": 1}}));
    // Without a name of its own it is no new instance, and the slow start stays as wide as it is.
    assert_eq!(read(&mut w, None).len(), 1);
}

#[test]
fn the_predecessors_container_goes_on_with_what_the_town_hands_out() {
    let (mut w, _, beads) = at_work(1);
    w.container.replace_by_predecessor(w.clock.now(), false);
    w.run_for(10 * MINUTE);
    assert_eq!(resurrected(&w).len(), 1);
    assert_eq!((w.attempts(&beads[0]).len(), w.status(&beads[0]).as_str()), (1, "in_progress"));
}

#[test]
fn an_answer_that_was_lost_is_given_again_to_the_same_process_and_to_no_other() {
    let (mut w, _, beads) = at_work(1);
    w.container.resurrects = false;
    w.container.restart(w.clock.now());
    let here = w.container.instance_id().to_owned();
    for _ in 0..2 {
        assert_eq!(read(&mut w, Some(&here)).len(), 1);
    }
    assert!(read(&mut w, Some("a third")).is_empty());
    // Nobody ever goes on with it: no fault of the bead's.
    w.run_for(5 * MINUTE);
    let first = &w.attempts(&beads[0])[0];
    assert_eq!((text(first, "code"), &first["charged"]), ("container.lost", &json!(false)));
}

/// A town at work whose mayor's second start carried a person's words, in a container that is registered.
fn a_mayor_with_words(behaviour: Behaviour) -> World {
    let (mut w, ..) = at_work(2);
    let mayors = |w: &mut World, behaviour: Behaviour| {
        w.container
            .behave(move |start| if start.request.role == "mayor" { behaviour.clone() } else { Behaviour::hangs() });
    };
    let say = |w: &mut World, message: &str| {
        w.must(Command::MessageMayor { message: message.to_owned(), ui_context: None });
        w.run_for(30 * SECOND);
    };
    mayors(&mut w, Behaviour::idles_out(MINUTE));
    say(&mut w, "the first words");
    w.run_for(10 * MINUTE);
    mayors(&mut w, behaviour);
    say(&mut w, "build a bridge");
    w
}
/// The prompt that a mayor would go on with elsewhere.
fn prompt_elsewhere(w: &mut World) -> String {
    let entries = read(w, None);
    let mayor = entries.iter().find(|e| e["request"]["role"] == "mayor").expect("the mayor goes on");
    text(&mayor["request"], "prompt").to_owned()
}

#[test]
fn a_mayor_that_goes_on_elsewhere_is_not_told_again_what_it_has_read() {
    let mut w = a_mayor_with_words(Behaviour::hangs());
    let told = w.container.told().iter().filter(|t| t.prompt.contains("build a bridge")).count();
    assert_eq!((told, prompt_elsewhere(&mut w).as_str()), (1, prompts::RESUMED), "{}", w.journal());
}

#[test]
fn a_mayor_that_was_never_heard_of_takes_unread_words_along() {
    let mut w = a_mayor_with_words(Behaviour::hangs().mute());
    assert!(prompt_elsewhere(&mut w).contains("build a bridge"), "its first process may never have read them");
}
