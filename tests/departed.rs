//! An agent that is removed takes its store along, whatever happens meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::command::Command;
use gastown::town::effect::Effect;
use gastown::town::id::{AgentId, RigId};
use gastown::town::policy::{ERASE_GIVE_UP, ERASE_LEASE, ERASE_RETRY, ERASES_AT_ONCE};
use gastown::town::time::{DAY, HOUR, MINUTE};
use gastown::town::{Ctx, Town};
use gastown_host::owner;
use gastown_host::world::World;
use serde_json::Value as Json;

fn town() -> (World, RigId) {
    let mut w = World::new(1);
    w.found_town();
    let rig = w.add_rig("main");
    (w, rig)
}

fn polecat(w: &mut World, rig: &RigId, name: &str) -> AgentId {
    let [role, name, identity] = ["polecat", name, &format!("{name}@here")].map(str::to_owned);
    let made = w.must(Command::CreateAgent { rig_id: rig.clone(), role, name, identity });
    AgentId::from(made["id"].as_str().unwrap())
}

fn knows(w: &mut World, agent: &AgentId) -> Result<Json, u16> {
    w.command(&owner(), Command::KnowsAgent { agent_id: agent.clone() }).map(|r| r.data).map_err(|e| e.status())
}

fn owed(w: &World) -> usize {
    w.sql.peek("SELECT agent_id FROM departed", &[]).len()
}

#[test]
fn an_agent_that_is_deleted_by_hand_takes_its_store_along_and_the_town_sleeps_again() {
    let (mut w, rig) = town();
    let agent = polecat(&mut w, &rig, "Max");
    assert!(knows(&mut w, &agent).is_ok());
    w.command(&owner(), Command::DeleteAgent { rig_id: rig, agent_id: agent.clone() }).unwrap();
    assert_eq!(knows(&mut w, &agent).unwrap_err(), 404);
    assert_eq!(owed(&w), 1, "owed in the savepoint in which it was removed");
    w.run_for(MINUTE);
    assert_eq!((w.erased.clone(), owed(&w)), (vec![agent], 0));
    assert_eq!(Town::new(&w.sql).next_wake(&Ctx::new(w.now(), &w.ids)).unwrap(), None);
}

#[test]
fn agents_that_were_idle_for_a_day_and_those_of_a_removed_rig_take_theirs_along() {
    let (mut w, rig) = town();
    polecat(&mut w, &rig, "Takes the bead");
    let idle = polecat(&mut w, &rig, "Idle");
    w.run_for(2 * DAY);
    assert!(w.erased.is_empty(), "retention arms nothing: it rides along");
    w.sling(&rig, "something to do");
    w.run_for(HOUR);
    assert_eq!(w.erased, [idle]);
    let agents: Vec<String> = w
        .sql
        .peek("SELECT agent_id FROM agents WHERE rig_id IS NOT NULL", &[])
        .iter()
        .map(|r| r.text(0).unwrap())
        .collect();
    assert!(!agents.is_empty());
    w.command(&owner(), Command::RemoveRig { rig_id: rig }).unwrap();
    w.run_for(MINUTE);
    assert!(agents.iter().all(|a| w.erased.iter().any(|e| e.0 == *a)), "{agents:?} {:?}", w.erased);
    assert_eq!(owed(&w), 0);
}

#[test]
fn a_store_that_cannot_be_erased_is_tried_ever_more_slowly_and_given_up_after_a_week() {
    let (mut w, rig) = town();
    let agent = polecat(&mut w, &rig, "Max");
    w.stubborn_stores = true;
    let began = w.now();
    w.command(&owner(), Command::DeleteAgent { rig_id: rig, agent_id: agent }).unwrap();
    w.run_for(ERASE_GIVE_UP + 2 * HOUR);
    let tries: Vec<i64> = w
        .effects
        .iter()
        .filter(|(_, e)| matches!(e, Effect::EraseAgent(_)))
        .map(|(at, _)| at.since(began) / ERASE_RETRY)
        .collect();
    assert_eq!(tries[..6], [0, 1, 3, 7, 15, 31]);
    assert!(tries.len() < 180, "{}", tries.len());
    assert_eq!(owed(&w), 0);
    assert_eq!(Town::new(&w.sql).next_wake(&Ctx::new(w.now(), &w.ids)).unwrap(), None);
}

#[test]
fn one_that_was_in_the_air_when_the_object_died_is_made_again_when_its_lease_ends() {
    let (mut w, rig) = town();
    let agent = polecat(&mut w, &rig, "Max");
    w.command(&owner(), Command::DeleteAgent { rig_id: rig, agent_id: agent.clone() }).unwrap();
    // The tick's effects are lost with the object.
    let effects = Town::new(&w.sql).tick(&Ctx::new(w.now(), &w.ids)).unwrap();
    assert!(effects.contains(&Effect::EraseAgent(agent.clone())));
    let wake = Town::new(&w.sql).next_wake(&Ctx::new(w.now(), &w.ids)).unwrap();
    assert_eq!(wake, Some(w.now().plus(ERASE_LEASE)));
    w.run_for(ERASE_LEASE + 1_000);
    assert_eq!((w.erased.clone(), owed(&w)), (vec![agent], 0));
}

#[test]
fn many_are_erased_a_few_at_a_time() {
    let (mut w, rig) = town();
    let agents: Vec<_> = (0..20).map(|n| polecat(&mut w, &rig, &format!("A{n}"))).collect();
    for agent_id in agents {
        w.command(&owner(), Command::DeleteAgent { rig_id: rig.clone(), agent_id }).unwrap();
    }
    let effects = Town::new(&w.sql).tick(&Ctx::new(w.now(), &w.ids)).unwrap();
    let erasures = effects.iter().filter(|e| matches!(e, Effect::EraseAgent(_))).count();
    assert_eq!(u32::try_from(erasures).unwrap(), ERASES_AT_ONCE);
    w.run_for(2 * ERASE_LEASE);
    assert_eq!((w.erased.len(), owed(&w)), (20, 0));
}
