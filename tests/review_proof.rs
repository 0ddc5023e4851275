//! What a second reading of the load work suspected, and what came of it (`docs/decisions/008`, `009`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::edge::admission::{Hand, Lane, Place};
use gastown::edge::route::Route;
use gastown::town::Town;
use gastown::town::command::Command;
use gastown::town::effect::Effect;
use gastown::town::id::BeadId;
use gastown::town::policy::{BYTES_IN_HAND, REQUESTS_IN_HAND};
use gastown::town::time::{MINUTE, SECOND, Timestamp};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::{Fate, World};
use support::*;

// ── stops ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn redrive(w: &mut World, bead: &BeadId) {
    w.must(Command::RedriveBead { bead_id: bead.clone(), reason: None });
}

/// The predecessor's container knows no dispatches: a stop that names an agent ends whatever it runs.
#[test]
fn a_stop_owed_by_a_bead_spares_its_agent_while_that_works_on_another_bead() {
    let (mut w, rig) = World::founded(21);
    let now = w.now();
    w.container.replace_by_predecessor(now, false);
    w.container.behave_all(Behaviour::hangs());
    let first = w.sling(&rig, "first");
    w.run_for(MINUTE);
    // Nobody hears the stop: it stays owed, and its agent takes another bead, whose start replaces the old process.
    w.container.faults.set(Endpoint::Stop, Fault::Refuse);
    w.must(Command::CancelBead { bead_id: first.clone(), reason: "not now".to_owned() });
    w.run_for(10 * SECOND);
    let second = w.sling(&rig, "second");
    w.run_for(MINUTE);
    assert_eq!(last(&w, &second)["agent_id"], last(&w, &first)["agent_id"], "the same agent");
    assert_eq!(last(&w, &second)["outcome"], "proven");
    w.container.faults.clear_all();
    redrive(&mut w, &first);
    w.run_for(MINUTE);
    assert_ne!(last(&w, &second)["agent_id"], last(&w, &first)["agent_id"], "{}", w.journal());
    let mut running: Vec<_> = w.container.running().into_iter().map(|(agent, _)| agent.to_owned()).collect();
    running.sort_unstable();
    let mut wanted: Vec<_> = [&first, &second].map(|b| text(&last(&w, b), "agent_id").to_owned()).into();
    wanted.sort_unstable();
    assert_eq!(running, wanted, "both work:\n{}", w.journal());
}

// ── the memory of heartbeats ─────────────────────────────────────────────────────────────────────────────────────

/// The object's memory is lost and its clock steps back: the deadline that the lost memory left room for is later than
/// the one that the next heartbeat sets, so the alarm must move with it.
#[test]
fn a_heartbeat_after_a_lost_memory_and_a_clock_that_stepped_back_moves_the_alarm_earlier() {
    let (mut w, rig) = World::founded(22);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE + 20 * SECOND);
    let stored = w.sql.peek("SELECT last_heartbeat_at FROM attempts", &[])[0].int(0).unwrap();
    w.run_for(3 * MINUTE);
    w.crash();
    w.step_clock(-2 * MINUTE);
    assert!(Timestamp(stored) < w.town_now());
    let voices = w.counts.voices;
    assert!(w.run_while_not(MINUTE, |w| w.counts.voices > voices), "{}", w.journal());
    let wake = Town::new(&w.sql).next_wake(&w.ctx()).unwrap();
    assert_eq!(w.alarm(), wake, "{}", w.journal());
    // And an agent that then falls silent is missed in time.
    w.filter_voices(|_| Fate::Lost);
    w.run_for(2 * MINUTE);
    let looked = w.effects.iter().any(|(_, e)| matches!(e, Effect::ObserveAgents(_)));
    assert!(looked, "nobody looks:\n{}", w.journal());
    assert_eq!(w.status(&bead), "in_progress");
}

// ── admission ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Takes slings, large ones first, until not even a small one fits.
fn crowd(hand: &Hand) -> Vec<Place<'_>> {
    let sizes = [1_000_000, 20_000, 1_000];
    sizes.iter().flat_map(|size| std::iter::from_fn(|| hand.take(Lane::of(Route::Sling), *size).ok())).collect()
}

#[test]
fn a_burst_of_large_slings_leaves_room_for_heartbeats_and_work_that_is_done() {
    let hand = Hand::new();
    let slings = crowd(&hand);
    assert!(
        (BYTES_IN_HAND / 1_000_000..REQUESTS_IN_HAND).contains(&slings.len()),
        "it is full of bytes, not of slings"
    );
    for route in [Route::Heartbeat, Route::Heartbeats, Route::Done, Route::Completed, Route::ContainerEviction] {
        assert!(hand.take(Lane::of(route), 1_000).is_ok(), "{route:?}");
    }
}
