//! What watchers of a town are told, and that nobody is told anything while nobody watches.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::command::{Actor, Command, NewBead};
use gastown::town::effect::Effect;
use gastown::town::id::BeadId;
use gastown::town::{Ctx, Town, frame};
use gastown_host::world::World;
use serde_json::{Value as Json, json};

fn frames(effects: &[Effect]) -> Vec<Json> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Broadcast(frame) => Some(frame.clone()),
            _ => None,
        })
        .collect()
}

/// A command's frames while somebody watches, or nobody does; and its answer.
fn told(w: &World, watched: bool, command: Command) -> (Vec<Json>, Json) {
    let ctx = Ctx::new(w.now(), &w.ids).watched(watched);
    let person = Actor::User { sub: "alice".to_owned() };
    let reply = Town::new(&w.sql).handle(&ctx, &person, command).unwrap();
    (frames(&reply.effects), reply.data)
}

fn held(title: &str) -> NewBead {
    NewBead { title: title.to_owned(), labels: vec!["gt:held".to_owned()], ..NewBead::default() }
}

#[test]
fn a_bead_is_told_of_when_it_is_made_and_whenever_its_status_changes() {
    let mut w = World::new(1);
    w.found_town();
    let rig_id = w.add_rig("main");
    let create = Command::CreateBead { rig_id: rig_id.clone(), bead: held("Seen") };
    let (made, bead) = told(&w, true, create);
    let at = w.now().to_string();
    let bead_id = bead["bead_id"].clone();
    assert_eq!(
        made,
        [json!({"channel": "bead", "type": "bead.created", "beadId": bead_id, "title": "Seen", "status": "open",
                "rigId": rig_id, "ts": at})]
    );
    let set = |status: &str| Command::SetBeadStatus {
        rig_id: rig_id.clone(),
        bead_id: BeadId::from(bead_id.as_str().unwrap()),
        status: status.to_owned(),
    };
    let (closed, _) = told(&w, true, set("closed"));
    assert_eq!((closed[0]["type"].clone(), closed[0]["status"].clone()), (json!("bead.closed"), json!("closed")));
    assert_eq!(closed.len(), 1);
    let (again, _) = told(&w, true, set("closed"));
    assert!(again.is_empty(), "what changes nothing is no news: {again:?}");
}

#[test]
fn while_nobody_watches_nothing_is_told_and_nothing_is_read_for_it() {
    let mut w = World::new(2);
    w.found_town();
    let rig_id = w.add_rig("main");
    let statements = |watched: bool, w: &World| {
        let before = gastown::town::sql::Sql::usage(&w.sql).statements;
        let (frames, _) = told(w, watched, Command::CreateBead { rig_id: rig_id.clone(), bead: held("Bead") });
        assert_eq!(frames.is_empty(), !watched);
        gastown::town::sql::Sql::usage(&w.sql).statements - before
    };
    let (quiet, watched) = (statements(false, &w), statements(true, &w));
    assert_eq!(watched, quiet + 1);
}

#[test]
fn a_command_that_is_refused_tells_nobody_anything() {
    let mut w = World::new(3);
    w.found_town();
    w.add_rig("main");
    let ctx = Ctx::new(w.now(), &w.ids).watched(true);
    let command = Command::CreateBead { rig_id: "no such rig".into(), bead: held("Bead") };
    Town::new(&w.sql).handle(&ctx, &Actor::System, command).unwrap_err();
    let reply = Town::new(&w.sql).handle(&ctx, &Actor::System, Command::ListRigs).unwrap();
    assert!(frames(&reply.effects).is_empty());
}

#[test]
fn a_convoys_progress_is_told_where_it_is_counted() {
    let mut w = World::new(5);
    w.found_town();
    let rig_id = w.add_rig("main");
    let at = w.now().to_string();
    let (_, bead) = told(&w, true, Command::CreateBead { rig_id: rig_id.clone(), bead: held("Task") });
    let bead_id = BeadId::from(bead["bead_id"].as_str().unwrap());
    let create = Command::CreateConvoy { title: "Convoy".to_owned(), beads: vec![(bead_id.clone(), rig_id.clone())] };
    let (made, convoy) = told(&w, true, create);
    let frame = |closed: u32| json!({"channel": "convoy", "convoyId": convoy["id"], "totalBeads": 1, "closedBeads": closed, "ts": at});
    assert!(made.contains(&frame(0)), "{made:?}");
    let (closed, _) = told(&w, true, Command::SetBeadStatus { rig_id, bead_id, status: "closed".to_owned() });
    assert!(closed.contains(&frame(1)), "{closed:?}");
}

#[test]
fn convoys_agents_and_the_mayors_wishes_have_frames_of_their_own() {
    let mut w = World::new(4);
    w.found_town();
    let at = w.now().to_string();
    let ctx = Ctx::new(w.now(), &w.ids).watched(true);
    frame::convoy(&ctx, &"c".into(), 5, 2);
    frame::agent_status(&ctx, &"a".into(), "reading");
    frame::ui_action(&ctx, &json!({"type": "navigate", "page": "beads"}));
    let reply = Town::new(&w.sql).handle(&ctx, &Actor::System, Command::ListRigs).unwrap();
    assert_eq!(
        frames(&reply.effects),
        [
            json!({"channel": "convoy", "convoyId": "c", "totalBeads": 5, "closedBeads": 2, "ts": at}),
            json!({"type": "agent_status", "agentId": "a", "message": "reading", "timestamp": at}),
            json!({"channel": "ui_action", "action": {"type": "navigate", "page": "beads"}, "ts": at}),
        ]
    );
}
