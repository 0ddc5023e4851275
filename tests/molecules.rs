//! Molecules: ordered steps attached to a bead (`protocol.md` 2.8, 3.1).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod support_host;

use gastown::town::command::{Actor, Command};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE};
use gastown_host::behaviour::Behaviour;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support_host::*;

fn steps(n: usize) -> Json {
    let step = |i: usize| json!({"title": format!("Step {i}"), "instructions": format!("Do {i}.")});
    json!({"steps": (0..n).map(step).collect::<Vec<_>>()})
}
fn attach(rig: &RigId, bead: &BeadId, formula: Json) -> Command {
    Command::AttachMolecule { rig_id: rig.clone(), bead_id: bead.clone(), formula }
}

/// A town whose agent works on a bead with a molecule of so many steps.
fn at_work(n: usize) -> (World, RigId, BeadId, AgentId, Json) {
    let (mut w, rig) = World::founded(4);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "Work");
    let molecule = w.must(attach(&rig, &bead, steps(n)));
    w.run_for(MINUTE);
    let agent = text(&last(&w, &bead), "agent_id").into();
    (w, rig, bead, agent, molecule)
}
fn speaker(agent: &AgentId) -> Actor {
    voice(agent.as_str(), None)
}
fn current(w: &mut World, agent: &AgentId) -> Json {
    w.command(&speaker(agent), Command::CurrentStep { agent_id: agent.clone() }).unwrap().data
}
fn advance(w: &mut World, agent: &AgentId) -> Json {
    let command = Command::AdvanceStep { agent_id: agent.clone(), summary: "did it".to_owned() };
    w.command(&speaker(agent), command).unwrap().data
}
fn step_beads(w: &World) -> Vec<Json> {
    let sql = "SELECT bead_id FROM beads WHERE parent_bead_id IS NOT NULL ORDER BY seq";
    w.sql.peek(sql, &[]).iter().map(|r| w.bead(&r.text(0).unwrap().into())).collect()
}

#[test]
fn steps_are_done_one_by_one_and_the_last_ends_the_molecule() {
    let (mut w, _, bead, agent, molecule) = at_work(3);
    assert_eq!((text(&molecule, "bead_id"), &molecule["current_step"]), (bead.as_str(), &json!(0)));
    for n in 0..3 {
        let now = current(&mut w, &agent);
        assert_eq!(now["step"], json!({"title": format!("Step {n}"), "instructions": format!("Do {n}.")}));
        assert_eq!((&now["currentStep"], &now["totalSteps"], text(&now, "status")), (&json!(n), &json!(3), "active"));
        assert_eq!((&now["moleculeId"], &now["molecule"]["id"]), (&molecule["id"], &molecule["id"]));
        let after = advance(&mut w, &agent);
        let wanted = json!({"id": molecule["id"], "moleculeId": molecule["id"], "previousStep": n, "currentStep": n + 1,
                            "current_step": n + 1, "totalSteps": 3, "completed": n == 2});
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(&after[key], value, "{key} after step {n}");
        }
        assert_eq!(text(&after, "status"), if n == 2 { "completed" } else { "active" });
    }
    assert!(step_beads(&w).iter().all(|s| text(s, "status") == "closed"));
    assert_eq!(w.status(&text(&molecule, "id").into()), "closed");
    assert_eq!(w.status(&bead), "in_progress", "the bead itself is its agent's to finish");
    for command in [
        Command::CurrentStep { agent_id: agent.clone() },
        Command::AdvanceStep { agent_id: agent.clone(), summary: "again".to_owned() },
    ] {
        let (status, _, words) = refused_by(&mut w, &speaker(&agent), command);
        assert_eq!((status, words.as_str()), (404, "No active molecule for this agent"));
    }
}

#[test]
fn steps_are_beads_with_their_labels_and_are_never_dispatched_by_themselves() {
    let (mut w, _, _, _, molecule) = at_work(2);
    for (n, step) in step_beads(&w).iter().enumerate() {
        assert_eq!(step["labels"], json!(["gt:molecule-step", format!("step:{n}")]));
        assert_eq!((text(step, "parent_bead_id"), step["rig_id"].is_null()), (text(&molecule, "id"), true));
    }
    w.run_for(3 * HOUR);
    assert_eq!(w.starts().len(), 1, "the bead, and nothing else");
}

#[test]
fn a_bead_that_is_closed_or_cancelled_ends_its_molecule() {
    let (mut w, rig, bead, _, molecule) = at_work(2);
    w.must(Command::SetBeadStatus { rig_id: rig, bead_id: bead, status: "closed".to_owned() });
    assert_eq!(w.status(&text(&molecule, "id").into()), "closed");
    let (mut w, _, bead, _, molecule) = at_work(2);
    w.must(Command::CancelBead { bead_id: bead, reason: "not wanted".to_owned() });
    let id: BeadId = text(&molecule, "id").into();
    assert_eq!((w.status(&id).as_str(), text(&w.bead(&id)["failure_reason"], "code")), ("failed", "cancelled"));
    assert!(step_beads(&w).iter().all(|s| text(s, "status") == "failed"));
}

#[test]
fn a_bead_that_dispatch_has_failed_goes_on_with_its_steps_when_it_is_redriven() {
    let (mut w, rig) = World::founded(4);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    every_start(&mut w, 500, &error("it broke"));
    let bead = w.sling(&rig, "Work");
    let molecule = w.must(attach(&rig, &bead, steps(2)));
    w.run_for(MINUTE);
    assert_eq!(w.status(&bead), "failed");
    w.container.faults.clear_all();
    polecats(&mut w, Behaviour::hangs());
    w.must(Command::RedriveBead { bead_id: bead.clone(), reason: None });
    w.run_for(MINUTE);
    let agent = text(&last(&w, &bead), "agent_id").into();
    assert_eq!(current(&mut w, &agent)["moleculeId"], molecule["id"]);
}

#[test]
fn a_bead_that_is_deleted_takes_its_molecule_with_it() {
    let (mut w, rig, bead, _, _) = at_work(2);
    w.must(Command::DeleteBead { rig_id: rig, bead_id: bead });
    assert_eq!(w.sql.peek("SELECT count(*) FROM beads", &[])[0].int(0).unwrap(), 0);
    assert_eq!(w.sql.peek("SELECT count(*) FROM molecules", &[])[0].int(0).unwrap(), 0);
}

#[test]
fn a_formula_without_good_steps_is_refused_and_so_is_a_second_molecule() {
    let (mut w, rig, bead, _, molecule) = at_work(1);
    let (status, state, _) = refused(&mut w, attach(&rig, &bead, steps(1)));
    assert_eq!((status, state.as_str()), (409, "in_progress"));
    let other = w.sling(&rig, "Other");
    let long = json!({"steps": [{"title": "x".repeat(501), "instructions": "x"}]});
    for formula in [json!({}), steps(0), steps(51), json!({"steps": [{"title": "x"}]}), json!({"steps": "x"}), long] {
        let (status, field, _) = refused(&mut w, attach(&rig, &other, formula));
        assert_eq!((status, field.as_str()), (422, "formula.steps"));
    }
    assert_eq!(refused(&mut w, attach(&rig, &BeadId::from("nothing"), steps(1))).0, 404);
    assert_eq!(refused(&mut w, attach(&rig, &text(&molecule, "id").into(), steps(1))).0, 409);
    w.must(Command::CancelBead { bead_id: other.clone(), reason: "x".to_owned() });
    assert_eq!(refused(&mut w, attach(&rig, &other, steps(1))).0, 409, "it has ended");
}

#[test]
fn a_step_that_people_closed_is_passed_over() {
    let (mut w, rig, _, agent, _) = at_work(2);
    let first: BeadId = text(&step_beads(&w)[0], "bead_id").into();
    w.must(Command::SetBeadStatus { rig_id: rig, bead_id: first, status: "closed".to_owned() });
    assert_eq!(advance(&mut w, &agent)["currentStep"], 1);
}
