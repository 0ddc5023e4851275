//! What the mayor shows people: checked, told to whoever watches, and of this town whatever it says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

mod support_host;

use gastown::town::Town;
use gastown::town::command::Command;
use gastown::town::effect::Effect;
use gastown_host::owner;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support_host::refused;

fn shown(w: &World, action: Json) -> Json {
    let ctx = w.ctx().watched(true);
    let reply = Town::new(&w.sql).handle(&ctx, &owner(), Command::UiAction { action }).unwrap();
    assert_eq!(reply.data, json!({"broadcast": true}));
    match reply.effects.as_slice() {
        [Effect::Broadcast(frame)] => {
            assert_eq!(frame["channel"], "ui_action");
            frame["action"].clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_action_of_the_wire_is_told_with_what_it_names_and_nothing_else() {
    let (w, rig) = World::founded(1);
    for (action, told) in [
        (
            json!({"type": "open_bead_drawer", "beadId": "b", "rigId": rig, "x": 1}),
            json!({"type": "open_bead_drawer", "beadId": "b", "rigId": rig}),
        ),
        (
            json!({"type": "highlight_bead", "beadId": "b", "rigId": rig}),
            json!({"type": "highlight_bead", "beadId": "b", "rigId": rig}),
        ),
        (json!({"type": "navigate", "page": "agents"}), json!({"type": "navigate", "page": "agents"})),
        (
            json!({"type": "open_convoy_drawer", "convoyId": "c", "townId": "another"}),
            json!({"type": "open_convoy_drawer", "convoyId": "c", "townId": w.town_id}),
        ),
        (
            json!({"type": "open_agent_drawer", "agentId": "a", "rigId": rig}),
            json!({"type": "open_agent_drawer", "agentId": "a", "rigId": rig, "townId": w.town_id}),
        ),
    ] {
        assert_eq!(shown(&w, action), told);
    }
}

#[test]
fn anything_else_is_refused_with_what_would_do() {
    let (mut w, rig) = World::founded(2);
    for (action, words) in [
        (json!(null), "action.type must be one of"),
        (json!({"type": "format_disk"}), "action.type must be one of"),
        (json!({"type": "navigate", "page": "moon"}), "action.page must be one of"),
        (json!({"type": "open_bead_drawer", "rigId": rig}), "action.beadId is required"),
        (json!({"type": "open_bead_drawer", "beadId": "a\nb", "rigId": rig}), "action.beadId is required"),
        (json!({"type": "highlight_bead", "beadId": "b", "rigId": "r9"}), "Rig r9 does not belong to this town"),
    ] {
        let (status, _, text) = refused(&mut w, Command::UiAction { action: action.clone() });
        assert!(status == 400 && text.contains(words), "{action}: {status} {text}");
    }
}
