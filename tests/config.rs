//! Settings: what may be set, how they are shown, and that a change applies to later decisions and moves deadlines only
//! earlier (`design.md` 9, `protocol.md` 2.13).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::Command;
use gastown::town::id::RigId;
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

fn patch(patch: Json) -> Command {
    Command::PatchConfig { patch }
}

fn patch_rig(rig: &RigId, patch: Json) -> Command {
    Command::PatchRigConfig { rig_id: rig.clone(), patch }
}

#[test]
fn a_new_town_has_the_defaults_of_the_design() {
    let (mut w, _) = World::founded(1);
    let config = w.must(Command::GetConfig);
    assert_eq!(
        config["dispatch"],
        json!({"max_attempts": 5, "backoff_ms": [120_000, 300_000, 600_000, 1_800_000], "jitter": 0.1,
               "start_timeout_ms": 60_000, "heartbeat_timeout_ms": 90_000, "boot_timeout_ms": 120_000,
               "max_agents": 20, "max_polecats_per_rig": 10, "max_starts_in_flight": 6, "max_review_rounds": 5})
    );
    assert_eq!(
        config["breaker"],
        json!({"failures": 20, "window_ms": 1_800_000, "consecutive": 5, "rig_consecutive": 3,
               "probe_ms": [120_000, 300_000, 600_000, 1_200_000, 1_800_000], "probe_jitter": 0.2})
    );
    assert_eq!(
        config["notify"],
        json!({"webhook_url": null, "webhook_secret": null, "still_open_ms": 3_600_000, "rollup_ms": 600_000})
    );
    assert_eq!((&config["merge_strategy"], &config["owner_user_id"]), (&json!("direct"), &json!("owner")));
}

#[test]
fn every_range_is_kept_and_the_refusal_names_the_field() {
    let (mut w, rig) = World::founded(2);
    let ms = [
        "dispatch.start_timeout_ms",
        "dispatch.heartbeat_timeout_ms",
        "dispatch.boot_timeout_ms",
        "breaker.window_ms",
        "notify.still_open_ms",
        "notify.rollup_ms",
    ];
    let counts = [
        "dispatch.max_attempts",
        "dispatch.max_agents",
        "dispatch.max_polecats_per_rig",
        "dispatch.max_starts_in_flight",
        "dispatch.max_review_rounds",
        "breaker.failures",
        "breaker.consecutive",
        "breaker.rig_consecutive",
    ];
    let lists = ["dispatch.backoff_ms", "breaker.probe_ms"];
    let shares = ["dispatch.jitter", "breaker.probe_jitter"];
    let mut good: Vec<(&str, Json)> = Vec::new();
    let mut bad: Vec<(&str, Json)> = Vec::new();
    for field in ms {
        good.extend([(field, json!(100)), (field, json!(86_400_000))]);
        bad.extend([json!(99), json!(86_400_001), json!(-1), json!("x"), json!(true)].map(|v| (field, v)));
    }
    for field in counts {
        good.extend([(field, json!(1)), (field, json!(500))]);
        bad.extend([json!(0), json!(501), json!(1.5), json!("5")].map(|v| (field, v)));
    }
    for field in lists {
        good.extend([(field, json!([100])), (field, json!(vec![86_400_000; 20]))]);
        bad.extend(
            [json!([]), json!(vec![1_000; 21]), json!([99]), json!([1_000, 86_400_001]), json!(1_000)]
                .map(|v| (field, v)),
        );
    }
    for field in shares {
        good.extend([(field, json!(0.0)), (field, json!(1.0)), (field, json!(0.5))]);
        bad.extend([json!(-0.1), json!(1.1), json!("x")].map(|v| (field, v)));
    }
    let wrap = |field: &str, value: &Json| {
        let (group, key) = field.split_once('.').unwrap();
        json!({ group: { key: value } })
    };
    for (field, value) in &bad {
        let (status, named, message) = refused(&mut w, patch(wrap(field, value)));
        assert!(status == 422 && named.starts_with(field), "{field} {value}: {status} {named} {message}");
    }
    for (field, value) in &good {
        let (group, key) = field.split_once('.').unwrap();
        assert_eq!(&w.must(patch(wrap(field, value)))[group][key], value, "{field}");
    }
    for (key, value) in [
        ("max_dispatch_attempts", json!(0)),
        ("max_concurrent_polecats", json!(0)),
        ("max_dispatch_attempts", json!("x")),
    ] {
        let (status, named, _) = refused(&mut w, patch_rig(&rig, json!({ key: value })));
        assert_eq!((status, named.as_str()), (422, key));
    }
    assert!(matches!(refused(&mut w, patch(json!([1]))).0, 400 | 422));
}

#[test]
fn secrets_are_masked_when_read_kept_when_their_mask_comes_back_and_never_in_the_audit() {
    let (mut w, _) = World::founded(3);
    let secret = "s3cr3t-value-1234";
    w.must(patch(json!({
        "env_vars": {"MY_TOKEN": secret, "PLAIN": "visible", "API_KEY": "abc"},
        "git_auth": {"github_token": secret},
        "notify": {"webhook_url": "https://example.com/x", "webhook_secret": secret},
    })));
    let shown = w.must(Command::GetConfig);
    assert_eq!(shown["env_vars"], json!({"MY_TOKEN": "****1234", "PLAIN": "visible", "API_KEY": "****"}));
    assert_eq!(
        (text(&shown["git_auth"], "github_token"), text(&shown["notify"], "webhook_secret")),
        ("****1234", "****1234")
    );
    assert!(!shown.to_string().contains(secret));
    // What was read goes back as it is, with one thing changed.
    let mut back = shown.clone();
    back["env_vars"]["PLAIN"] = json!("changed");
    w.must(patch(json!({"env_vars": back["env_vars"], "git_auth": back["git_auth"], "notify": back["notify"]})));
    let stored = w.sql.peek("SELECT json FROM config", &[])[0].text(0).unwrap();
    let stored: Json = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["env_vars"], json!({"MY_TOKEN": secret, "PLAIN": "changed", "API_KEY": "abc"}));
    assert_eq!(
        (text(&stored["git_auth"], "github_token"), text(&stored["notify"], "webhook_secret")),
        (secret, secret)
    );
    let entries = audit(&mut w);
    assert!(!entries.is_empty() && entries.iter().all(|e| !e.to_string().contains(secret)));
    assert!(w.points.iter().all(|p| !format!("{p:?}").contains(secret)));
}

#[test]
fn groups_merge_by_key_env_vars_are_replaced_and_null_resets() {
    let (mut w, _) = World::founded(4);
    w.must(patch(json!({"dispatch": {"max_attempts": 3}, "env_vars": {"A": "1", "B": "2"}})));
    let shown = w.must(patch(json!({"dispatch": {"max_agents": 7}, "env_vars": {"C": "3"}})));
    assert_eq!((&shown["dispatch"]["max_attempts"], &shown["dispatch"]["max_agents"]), (&json!(3), &json!(7)));
    assert_eq!(shown["env_vars"], json!({"C": "3"}));
    assert_eq!(w.must(patch(json!({"dispatch": {"max_attempts": null}})))["dispatch"]["max_attempts"], 5);
    for (key, status) in [("1X", 400), ("A-B", 400), ("GASTOWN_X", 400)] {
        assert_eq!(refused(&mut w, patch(json!({"env_vars": { key: "v" }}))).0, status, "{key}");
    }
}

#[test]
fn max_polecats_per_rig_has_two_names_and_one_value() {
    let (mut w, rig) = World::founded(5);
    let shown = w.must(patch(json!({"max_polecats_per_rig": 3})));
    assert_eq!((&shown["max_polecats_per_rig"], &shown["dispatch"]["max_polecats_per_rig"]), (&json!(3), &json!(3)));
    let shown = w.must(patch(json!({"dispatch": {"max_polecats_per_rig": 2}})));
    assert_eq!((&shown["max_polecats_per_rig"], &shown["dispatch"]["max_polecats_per_rig"]), (&json!(2), &json!(2)));
    polecats(&mut w, Behaviour::hangs());
    let beads = sling_many(&mut w, &rig, 4);
    w.run_for(5 * MINUTE);
    assert_eq!(w.container.running().len(), 2);
    assert!(w.holds(&beads[3]).contains(&"rig_polecats".to_owned()));
}

#[test]
fn limits_of_town_and_rig_hold_and_raising_them_wakes_the_town() {
    let (mut w, rig) = World::founded(6);
    let other = w.add_rig("other");
    w.must(patch(json!({"dispatch": {"max_agents": 3}})));
    w.must(patch_rig(&rig, json!({"max_concurrent_polecats": 1})));
    polecats(&mut w, Behaviour::hangs());
    let (here, there) = (sling_many(&mut w, &rig, 3), sling_many(&mut w, &other, 3));
    w.run_for(5 * MINUTE);
    let at_work =
        |w: &World, beads: &[gastown::town::id::BeadId]| beads.iter().filter(|b| w.status(b) == "in_progress").count();
    assert_eq!((at_work(&w, &here), at_work(&w, &there)), (1, 2));
    assert!(w.holds(&there[2]).contains(&"town_agents".to_owned()));
    let of_rig = w.explain(&here[2]);
    assert!(of_rig["holds"].as_array().unwrap().iter().any(|h| h["code"] == "rig_polecats" && h["ref"]["limit"] == 1));
    w.must(patch(json!({"dispatch": {"max_agents": 20}})));
    w.must(patch_rig(&rig, json!({"max_concurrent_polecats": 2})));
    w.run_for(MINUTE);
    assert_eq!((at_work(&w, &here), at_work(&w, &there)), (2, 3));
    let shown = w.must(Command::GetRigConfig { rig_id: rig });
    assert_eq!(shown["max_concurrent_polecats"], 2);
}

#[test]
fn a_rigs_cap_overrides_the_towns() {
    let (mut w, rig) = World::founded(7);
    let other = w.add_rig("other");
    w.must(patch_rig(&rig, json!({"max_dispatch_attempts": 2})));
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: "shadow".to_owned(),
        reason: Some("a test".to_owned()),
        expires_in_ms: Some(24 * HOUR),
    });
    every_start(&mut w, 500, &error("no"));
    let (low, high) = (w.sling(&rig, "low"), w.sling(&other, "high"));
    assert_eq!((&w.explain(&low)["attempts"]["cap"], &w.explain(&high)["attempts"]["cap"]), (&json!(2), &json!(5)));
    w.run_for(3 * HOUR);
    assert_eq!((w.attempts(&low).len(), w.attempts(&high).len()), (2, 5));
    assert!(w.status(&low) == "failed" && w.status(&high) == "failed");
}

#[test]
fn open_beads_at_or_above_a_lowered_cap_fail_on_the_next_tick() {
    for by_rig in [false, true] {
        let (mut w, rig) = World::founded(8);
        w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
        w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
        let tried = w.sling(&rig, "tried twice");
        w.run_for(4 * MINUTE);
        assert_eq!((charged(&w, &tried), w.status(&tried).as_str()), (2, "open"));
        let fresh = sling_with(
            &mut w,
            &rig,
            gastown::town::command::NewBead {
                title: "fresh".to_owned(),
                labels: vec!["gt:held".to_owned()],
                ..Default::default()
            },
        );
        w.must(if by_rig {
            patch_rig(&rig, json!({"max_dispatch_attempts": 2}))
        } else {
            patch(json!({"dispatch": {"max_attempts": 2}}))
        });
        w.run_for(SECOND);
        let shown = w.bead(&tried);
        assert_eq!((text(&shown, "status"), &shown["failure_reason"]["code"]), ("failed", &json!("container.error")));
        assert_eq!(w.status(&fresh), "open");
        assert_eq!(w.notified("bead.failed"), 1);
    }
}

#[test]
fn a_change_moves_a_deadline_earlier_and_never_later() {
    let (mut w, rig) = World::founded(9);
    every_start(&mut w, 500, &error("no"));
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    let due = due_in(&w, &bead).unwrap();
    assert!(due > MINUTE);
    w.must(patch(json!({"dispatch": {"backoff_ms": [3_600_000]}})));
    assert_eq!(due_in(&w, &bead), Some(due), "not later");
    w.must(patch(json!({"dispatch": {"backoff_ms": [20_000], "jitter": 0}})));
    assert!(due_in(&w, &bead).unwrap() <= 20_000, "earlier: {:?}", due_in(&w, &bead));
    w.run_for(21 * SECOND);
    assert_eq!(w.attempts(&bead).len(), 2, "and the alarm with it");
    assert_eq!(due_in(&w, &bead).map(|ms| ms <= 20_000), Some(true), "later decisions use it");

    // A probe.
    let (mut w, rig) = World::founded(10);
    w.container.kill(w.now());
    sling_many(&mut w, &rig, 6);
    w.run_for(10 * SECOND);
    let probe = |w: &World| time(&w.breaker("town")["next_probe_at"]);
    let was = probe(&w);
    w.must(patch(json!({"breaker": {"probe_ms": [3_600_000]}})));
    assert_eq!(probe(&w), was);
    w.must(patch(json!({"breaker": {"probe_ms": [5_000], "probe_jitter": 0}})));
    assert!(probe(&w).since(w.now()) <= 5_000);

    // A lease.
    let (mut w, rig) = World::founded(11);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    let lease = |w: &World| time(&last(w, &bead)["lease_until"]);
    let was = lease(&w);
    w.must(patch(json!({"dispatch": {"heartbeat_timeout_ms": 600_000}})));
    assert_eq!(lease(&w), was);
    w.must(patch(json!({"dispatch": {"heartbeat_timeout_ms": 60_000}})));
    assert!(lease(&w).since(w.now()) <= 60_000);
}

#[test]
fn what_changed_is_audited_and_what_did_not_is_not() {
    let (mut w, rig) = World::founded(12);
    w.must(patch(json!({"dispatch": {"max_attempts": 5}})));
    assert_eq!(audit(&mut w).len(), 0, "nothing changed");
    w.must(patch(json!({"dispatch": {"max_attempts": 4}})));
    w.must(patch_rig(&rig, json!({"code_review": false})));
    let entries = audit(&mut w);
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|e| e["actor"] == "user:owner"));
    let town = entries.iter().find(|e| text(e, "subject") == "town").unwrap();
    assert_ne!(town["before"], town["after"]);
}
