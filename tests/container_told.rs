//! What a town tells its container and hears of it: tokens, settings, its end, whether it is needed (`src/town/container.rs`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Actor, Command};
use gastown::town::id::RigId;
use gastown::town::policy::{CONTAINER_SLEEP_AFTER, TELL_RETRY, TOKEN_PUSH_AFTER};
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND, Timestamp};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

/// A town with one agent that works for ever.
fn at_work(seed: u64) -> (World, RigId) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    assert_eq!(w.container.running().len(), 1);
    (w, rig)
}

fn told(w: &World, path: &str) -> Vec<Timestamp> {
    w.container.posted.iter().filter(|(_, p)| p == path).map(|(at, _)| *at).collect()
}

fn exited(w: &mut World, instance: Option<&str>) {
    let told = Command::ContainerExited {
        instance: instance.map(str::to_owned),
        exit_code: Some(137),
        reason: "killed".to_owned(),
    };
    w.command(&Actor::System, told).unwrap();
}

fn needed(w: &mut World) -> Json {
    w.command(&Actor::System, Command::ContainerNeeded).unwrap().data
}

// ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_agent_that_works_for_days_always_has_a_token_that_lives() {
    let (mut w, _) = at_work(1);
    let mut fresh = w.now();
    w.run_for(2 * DAY);
    let pushes = told(&w, "/refresh-token");
    assert_eq!(pushes.len(), 8);
    for push in pushes {
        let age = push.since(fresh);
        assert!(age <= TOKEN_PUSH_AFTER + MINUTE, "a token of {age} ms, which ends after eight hours");
        assert!(age >= TOKEN_PUSH_AFTER - MINUTE, "the predecessor's container restarts its agents for each push");
        fresh = push;
    }
}

#[test]
fn a_token_that_does_not_arrive_is_pushed_again_and_in_time() {
    let (mut w, _) = at_work(2);
    w.container.faults.set(Endpoint::Tell, Fault::answer(500, error("not now")));
    w.run_for(TOKEN_PUSH_AFTER + 20 * MINUTE);
    let tries = *w.container.calls.get(&Endpoint::Tell).unwrap();
    assert!((3..=5).contains(&tries), "{tries} tries, one every {TELL_RETRY} ms");
    w.container.faults.clear_all();
    w.run_for(2 * TELL_RETRY);
    assert_eq!(told(&w, "/refresh-token").len(), 1);
}

#[test]
fn a_control_server_that_knows_no_tokens_is_told_as_seldom_as_one_that_does() {
    let (mut w, _) = at_work(3);
    w.container.faults.set(Endpoint::Tell, Fault::answer(404, error("Not found")));
    w.run_for(DAY);
    assert_eq!(w.container.calls.get(&Endpoint::Tell), Some(&4));
}

#[test]
fn nobody_is_told_anything_and_no_alarm_is_armed_when_nothing_lives() {
    let (mut w, rig) = World::founded(4);
    polecats(&mut w, quick(MINUTE));
    w.sling(&rig, "one");
    w.run_for(HOUR);
    assert_eq!(w.dispatch()["alarm"], Json::Null);
    let patched = w.patch_config(json!({"git_auth": {"github_token": "ghp_0123456789"}}));
    assert_eq!(patched["git_auth"]["github_token"], "****6789");
    assert_eq!(w.dispatch()["alarm"], Json::Null);
    w.run_for(3 * DAY);
    assert_eq!(w.container.posted, []);
}

#[test]
fn short_lives_one_after_the_other_cost_no_push() {
    let (mut w, rig) = World::founded(5);
    polecats(&mut w, quick(10 * MINUTE));
    for n in 0..36 {
        w.sling(&rig, &format!("bead {n}"));
        w.run_for(20 * MINUTE);
    }
    assert_eq!(told(&w, "/refresh-token"), []);
}

// ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn changed_settings_reach_a_container_at_work_at_once_and_once() {
    let (mut w, _) = at_work(6);
    w.patch_config(json!({"github_cli_pat": "ghp_abcdefgh"}));
    w.run_for(SECOND);
    assert_eq!(told(&w, "/sync-config").len(), 1);
    // The same again, and what is none of the container's business.
    w.patch_config(json!({"github_cli_pat": "****efgh"}));
    w.patch_config(json!({"dispatch": {"max_agents": 3}}));
    w.run_for(HOUR);
    assert_eq!(told(&w, "/sync-config").len(), 1);
}

#[test]
fn settings_that_change_while_they_are_told_are_told_again() {
    let (mut w, _) = at_work(7);
    w.container.faults.set(Endpoint::Tell, Fault::Slow(5 * SECOND));
    w.patch_config(json!({"git_author_name": "Ann"}));
    w.run_for(SECOND);
    w.patch_config(json!({"git_author_name": "Bob"}));
    w.run_for(MINUTE);
    assert_eq!(told(&w, "/sync-config").len(), 2);
    w.run_for(HOUR);
    assert_eq!(told(&w, "/sync-config").len(), 2);
}

#[test]
fn an_object_that_dies_while_it_tells_tells_again() {
    let (mut w, _) = at_work(8);
    w.container.faults.set(Endpoint::Tell, Fault::Slow(5 * SECOND));
    w.patch_config(json!({"git_author_name": "Ann"}));
    w.run_for(SECOND);
    w.crash_losing_requests();
    w.container.faults.clear_all();
    w.run_for(2 * TELL_RETRY);
    assert!(told(&w, "/sync-config").len() >= 2, "{:?}", w.container.posted);
}

// ── its end ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_end_of_a_container_is_noticed_at_once_and_costs_its_beads_nothing() {
    let (mut w, rig) = World::founded(9);
    w.container.behave_all(Behaviour::hangs());
    let beads = sling_many(&mut w, &rig, 3);
    w.run_for(5 * MINUTE);
    assert_eq!(w.container.running().len(), 3);
    let instance = w.container.instance_id().to_owned();
    let now = w.now();
    w.container.kill(now);
    exited(&mut w, Some(&instance));
    w.run_for(SECOND);
    for bead in &beads {
        let attempt = last(&w, bead);
        assert_eq!((text(&attempt, "outcome"), text(&attempt, "code")), ("failed", "container.lost"));
        assert!(time(&attempt["finished_at"]).since(now) < SECOND, "no heartbeat had to be missed for it");
        assert_eq!((w.status(bead).as_str(), charged(&w, bead)), ("open", 0));
    }
    let now = w.now();
    w.container.restart(now);
    w.run_for(30 * MINUTE);
    assert_eq!(w.container.running().len(), 3, "{}", w.journal());
}

#[test]
fn an_end_that_was_none_is_looked_into_and_changes_nothing() {
    let (mut w, _) = at_work(10);
    w.run_for(5 * MINUTE);
    let before = attempts(&w);
    let instance = w.container.instance_id().to_owned();
    for said in [Some(instance.as_str()), None] {
        exited(&mut w, said);
        w.run_for(5 * MINUTE);
    }
    assert_eq!(attempts(&w).len(), before.len());
    assert_eq!((text(&attempts(&w)[0], "outcome"), w.container.running().len()), ("proven", 1));
}

#[test]
fn the_end_of_another_instance_is_nobodys_here() {
    let (mut w, _) = at_work(11);
    w.run_for(5 * MINUTE);
    let asked = w.container.calls.get(&Endpoint::Status).copied();
    exited(&mut w, Some("another"));
    w.run_for(5 * MINUTE);
    assert_eq!(w.container.calls.get(&Endpoint::Status).copied(), asked, "no look");
}

#[test]
fn the_end_of_a_container_that_drained_is_the_end_of_the_drain() {
    let (mut w, rig) = at_work(12);
    let instance = w.container.instance_id().to_owned();
    w.command(&Actor::Container { agent_id: None, dispatch_id: None }, Command::ContainerEviction).unwrap();
    let now = w.now();
    w.container.kill(now);
    assert_eq!(w.dispatch()["draining"], true);
    exited(&mut w, Some(&instance));
    assert_eq!(w.dispatch()["draining"], false);
    w.container.restart(now);
    w.run_for(2 * MINUTE);
    let first = &attempts(&w)[0];
    assert_eq!((text(first, "code"), first["charged"].as_bool()), ("agent.evicted", Some(false)));
    assert_eq!(w.container.running().len(), 1, "again at once, in the next container: {}", w.journal());
    let _ = rig;
}

// ── is it needed? ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_town_needs_its_container_while_an_attempt_lives_or_a_stop_is_due() {
    let (mut w, rig) = World::founded(13);
    assert_eq!(needed(&mut w), json!({"busy": false, "sleepAfterMs": CONTAINER_SLEEP_AFTER}));
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    assert_eq!(needed(&mut w)["busy"], false, "what waits at the gate starts a container when it may go");
    w.run_for(10 * SECOND);
    assert_eq!(needed(&mut w)["busy"], true);
    w.must(Command::CancelBead { bead_id: bead, reason: "enough".to_owned() });
    assert_eq!(needed(&mut w)["busy"], true, "its process is to be stopped");
    w.run_for(MINUTE);
    w.patch_config(json!({"container": {"sleep_after_minutes": 7}}));
    assert_eq!(needed(&mut w), json!({"busy": false, "sleepAfterMs": 7 * MINUTE}));
}

// ── git tokens ───────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_rig_gets_the_token_of_its_own_forge_and_no_other() {
    let (mut w, rig) = World::founded(14);
    let gitlab = w.add_rig("gitlab-mirror");
    w.must(Command::RemoveRig { rig_id: gitlab });
    let on = |w: &mut World, name: &str, url: &str| {
        let rig_id: RigId = name.into();
        let add = Command::AddRig {
            rig_id: rig_id.clone(),
            name: name.to_owned(),
            git_url: url.to_owned(),
            default_branch: None,
        };
        w.must(add);
        rig_id
    };
    let lab = on(&mut w, "lab", "https://gitlab.com/o/r.git");
    let own = on(&mut w, "own", "git@code.example:o/r.git");
    let token = |w: &mut World, rig: &RigId| {
        let asked = w.command(
            &Actor::Container { agent_id: None, dispatch_id: None },
            Command::GitToken { rig_id: rig.clone() },
        );
        asked.map(|reply| reply.data["token"].as_str().unwrap().to_owned()).map_err(|e| (e.status(), e.to_string()))
    };
    let none = Err((404, "No git token available for this rig".to_owned()));
    assert_eq!(token(&mut w, &rig), none);
    w.patch_config(json!({"git_auth": {"github_token": "hub"}}));
    assert_eq!(token(&mut w, &rig).unwrap(), "hub");
    assert_eq!(token(&mut w, &lab), none);
    assert_eq!(token(&mut w, &own).unwrap(), "hub");
    w.patch_config(json!({"git_auth": {"gitlab_token": "lab", "gitlab_instance_url": "https://code.example"}}));
    assert_eq!(token(&mut w, &rig).unwrap(), "hub");
    assert_eq!(token(&mut w, &lab).unwrap(), "lab");
    assert_eq!(token(&mut w, &own).unwrap(), "lab");
    assert_eq!(token(&mut w, &"mayor-x".into()).unwrap(), "hub");
    assert_eq!(token(&mut w, &"nowhere".into()).unwrap_err().0, 404);
}
