//! `gt batch`: from a plan to one request.

use crate::world::{OTHER, RIG, TOWN, World};
use serde_json::json;

const PLAN: &str =
    "schema: Add the table\n  With an index.\nform: Build the form <- schema\ntest: Test both <- schema, form\n";

fn batch() -> String {
    format!("POST /api/mayor/{TOWN}/tools/sling-batch")
}

#[test]
fn a_plan_becomes_one_convoy() {
    let world = World::person();
    let made = json!({"convoy": {"id": OTHER, "staged": true}, "beads": [{}, {}, {}]});
    world.worker.gives(&batch(), &made);
    let ended = world.run_with(&["batch", "Log in", "--file", "-", "--merge-mode", "review-and-merge"], PLAN).ok();
    assert!(ended.out.contains("with 3 beads") && ended.out.contains(&format!("gt convoy start {OTHER}")), "{ended:?}");
    assert!(ended.out.contains("schema  Add the table\n  form    Build the form  <- schema\n    test"), "{ended:?}");
    let tasks = json!([{"title": "Add the table", "body": "With an index."}, {"title": "Build the form", "depends_on": [0]},
        {"title": "Test both", "depends_on": [0, 1]}]);
    let body = json!({"rig_id": RIG, "convoy_title": "Log in", "tasks": tasks, "merge_mode": "review-and-merge"});
    assert_eq!(world.worker.last().json(), body, "what was not said is the town's to decide");

    let file = world.home.path().join("plan.json");
    std::fs::write(
        &file,
        r#"{"title": "T", "staged": true, "tasks": [{"title": "a"}, {"title": "b", "depends_on": [0]}]}"#,
    )
    .unwrap();
    world.run(&["batch", "-f", "plan.json", "--start"]).ok();
    let sent = world.worker.last().json();
    assert_eq!((sent["convoy_title"].clone(), sent["staged"].clone()), (json!("T"), json!(false)), "flags win");
}

#[test]
fn a_dry_run_draws_the_plan_and_needs_no_login() {
    let world = World::stranger();
    let ended = world.run(&["batch", "--task", "a: A", "--task", "b: B <- a", "--dry-run"]).ok();
    assert_eq!(ended.out, "a  A\n  b  B  <- a\n");
    assert!(world.worker.requests().is_empty());
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_sent() {
    let world = World::person();
    let before = world.worker.requests().len();
    let refused = |arguments: &[&str], text: &str| {
        let ended = world.run(&[&["batch", "T"], arguments].concat()).ends(2);
        assert!(ended.err.contains(text), "{ended:?}");
    };
    refused(&["--task", "a: A <- b", "--task", "b: B <- a"], "in a circle: a <- b <- a");
    refused(&["--task", "a: A <- x"], "'a' waits for 'x', which is no task");
    refused(&["--task", "a: A", "--task", "b: B"], "say --parallel");
    let nameless = world.run(&["batch", "--task", "a: A"]).ends(2);
    assert!(nameless.err.contains("the convoy has no title"), "{nameless:?}");
    assert_eq!(world.worker.requests().len(), before);

    world.worker.gives(&batch(), &json!({"convoy": {"id": OTHER}, "beads": [{}, {}]}));
    world.run(&["batch", "T", "--task", "A", "--task", "B", "--parallel"]).ok();
    assert_eq!(world.worker.last().json()["parallel"], json!(true));
}
