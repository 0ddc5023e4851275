//! Logging in, and what is done with what was stored.

use crate::{
    fake_worker::{FakeWorker, Reply},
    world::{OTHER, RIG, TOKEN, TOWN, World},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _};

const TOWNS: &str = "GET /api/users/alice/towns";

fn stored(world: &World, profile: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(world.profile(profile)).unwrap()).unwrap()
}

#[test]
fn a_login_is_checked_and_then_stored_for_its_owner_alone() {
    let world = World::stranger();
    world.worker.gives(TOWNS, &json!([{"id": TOWN, "name": "Home"}]));
    let ended = world.run_with(&["login", "--api", &format!("{}/", world.worker.url)], &format!("{TOKEN}\n")).ok();
    assert!(ended.out.contains("alice") && !ended.out.contains(TOKEN), "{ended:?}");
    let mode = fs::metadata(world.profile("default")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let expected = json!({"api": world.worker.url, "token": TOKEN, "user": "alice", "town": TOWN, "rig": null});
    assert_eq!(stored(&world, "default"), expected, "without the slash, with the only town");
    assert_eq!(world.worker.last().header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
}

#[test]
fn a_token_that_the_server_refuses_is_not_stored() {
    let world = World::stranger();
    world.worker.answer(TOWNS, &[Reply::refusal(401, "token_invalid", "Invalid token")]);
    let ended = world.run(&["login", "--api", &world.worker.url, "--token", TOKEN]).ends(1);
    assert!(ended.err.contains("Invalid token (HTTP 401)") && ended.err.contains("Log in again"), "{ended:?}");
    assert!(!world.profile("default").exists());
}

#[test]
fn the_token_may_come_from_a_variable_and_the_user_from_a_flag() {
    let mut world = World::stranger();
    world.set("GASTOWN_TOKEN", "opaque");
    world.worker.gives("GET /api/users/bob/towns", &json!([]));
    let nameless = world.run(&["login", "--api", &world.worker.url]).ends(2);
    assert!(nameless.err.contains("does not say whose it is"), "{nameless:?}");
    world.run(&["login", "--api", &world.worker.url, "--user", "bob"]).ok();
    assert_eq!(stored(&world, "default")["user"], "bob");
}

#[test]
fn with_several_towns_one_is_chosen_and_can_be_changed() {
    let world = World::stranger();
    world.worker.gives(TOWNS, &json!([{"id": TOWN, "name": "Home"}, {"id": OTHER, "name": "Work"}]));
    world.worker.gives(&format!("GET /api/mayor/{OTHER}/tools/rigs"), &json!([{"id": RIG, "name": "app"}]));
    let ended = world.run(&["login", "--api", &world.worker.url, "--token", TOKEN]).ok();
    assert!(ended.out.contains("gt towns use NAME"), "{ended:?}");
    let asked = world.run(&["dispatch"]).ends(2);
    assert!(asked.err.contains("there are several towns") && asked.err.contains("gt towns use NAME"), "{asked:?}");

    world.run(&["towns", "use", "Work"]).ok();
    assert_eq!(stored(&world, "default")["town"], OTHER);
    world.run(&["rigs", "use", "app"]).ok();
    assert_eq!(stored(&world, "default")["rig"], RIG);
    // A rig of another town is no longer the usual one.
    world.run(&["towns", "use", "1111"]).ok();
    assert_eq!(
        (stored(&world, "default")["town"].clone(), stored(&world, "default")["rig"].clone()),
        (json!(TOWN), Value::Null)
    );
    world.run(&["login", "--api", &world.worker.url, "--token", TOKEN, "--town", "Work"]).ok();
    assert_eq!(stored(&world, "default")["town"], OTHER);
}

#[test]
fn logins_have_names_and_end() {
    let world = World::person();
    world.run(&["login", "--profile", "work", "--api", &world.worker.url, "--token", TOKEN]).ok();
    assert!(world.profile("work").exists());
    let who = world.run(&["whoami", "--json"]).ok().json();
    assert_eq!(who, json!({"who": "alice", "as": "person", "api": world.worker.url, "town": TOWN, "rig": null}));
    world.run(&["logout"]).ok();
    assert!(!world.profile("default").exists() && world.profile("work").exists());
    let ended = world.run(&["dispatch"]).ends(2);
    assert!(ended.err.contains("nobody is logged in") && ended.err.contains("gt login"), "{ended:?}");
    assert_eq!(world.run(&["logout"]).ok().out, "nobody was logged in\n");
    assert!(world.run(&["whoami", "--profile", "../etc"]).ends(2).err.contains("cannot name a profile"));
}

#[test]
fn a_stored_token_is_sent_to_its_own_server_only() {
    let world = World::person();
    let other = FakeWorker::start();
    let ended = world.run(&["dispatch", "--api", &other.url]).ends(2);
    assert!(ended.err.contains("the login is for"), "{ended:?}");
    assert!(other.requests().is_empty());
}

#[test]
fn an_agent_is_an_agent_even_where_somebody_logged_in() {
    let mut world = World::person();
    let agent = World::agent("polecat");
    for name in ["GASTOWN_AGENT_ID", "GASTOWN_TOWN_ID"] {
        world.set(name, "x");
    }
    world.set("GASTOWN_API_URL", &agent.worker.url).set("GASTOWN_CONTAINER_TOKEN", "c");
    assert_eq!(world.run(&["whoami", "--json"]).ok().json()["as"], "polecat");
}
