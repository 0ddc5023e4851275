//! Whose trial a bead may be, at the edges: rooms that are full, rigs that are open themselves, roles and rigs that were
//! blamed, and the moment at which the next bead ripens (`design.md` 5.5).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::breakers::Scope;
use gastown::town::command::{Command, NewBead};
use gastown::town::dispatch::breaker::{Breaker, Mode, Override, State, Trial};
use gastown::town::dispatch::candidates::{trial, trial_ripens};
use gastown::town::dispatch::gate::View;
use gastown::town::id::{BeadId, RigId};
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, MINUTE, Timestamp};
use gastown_host::world::World;
use support::*;

fn open() -> Breaker {
    Breaker { state: State::Open, generation: 1, ..Breaker::default() }
}

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn create(w: &mut World, rig: &RigId, title: &str) -> BeadId {
    let bead = NewBead { title: title.to_owned(), ..NewBead::default() };
    text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into()
}

/// What the gate sees of a town whose own breaker is open, and its rigs' as given.
fn view(w: &World, rigs: &[(&RigId, Breaker)]) -> View {
    let mut view = View::load(&w.sql, w.now()).unwrap();
    view.breakers.insert(Scope::Town, open());
    for (rig, b) in rigs {
        view.breakers.insert(Scope::Rig((*rig).clone()), b.clone());
    }
    view
}

/// The bead that would be tried, and for how many scopes.
fn tried(w: &World, view: &View, scope: &Scope, b: &Breaker) -> Option<(BeadId, usize)> {
    trial(&w.sql, view, scope, b).unwrap().map(|c| (c.bead.id, c.scopes.len()))
}

fn towns(w: &World, view: &View) -> Option<(BeadId, usize)> {
    tried(w, view, &Scope::Town, &open())
}

/// A merge request of the rig, waiting.
fn review(w: &mut World, rig: &RigId) -> BeadId {
    let bead = create(w, rig, "a review");
    w.sql.execute("UPDATE beads SET type = 'merge_request', rank = 0 WHERE bead_id = ?1", &[(&bead).into()]).unwrap();
    bead
}

#[test]
fn no_trial_where_the_town_holds_or_no_start_may_leave() {
    let (mut w, rig) = World::founded(1);
    let bead = create(&mut w, &rig, "one");
    let mut v = view(&w, &[]);
    assert_eq!(towns(&w, &v), Some((bead, 1)));
    v.load.in_flight = v.starts_limit();
    assert_eq!(towns(&w, &v), None, "no start may leave");
    v.load.in_flight = 0;
    v.state.hold_until = Some(w.now().plus(1));
    assert_eq!(towns(&w, &v), None, "the town is throttled");
}

#[test]
fn a_rig_that_is_open_itself_is_tried_for_both_and_only_if_no_other_has_a_bead() {
    let (mut w, rig) = World::founded(2);
    let other = w.add_rig("other");
    let sick = create(&mut w, &rig, "in the open rig");
    let v = view(&w, &[(&rig, open())]);
    assert_eq!(towns(&w, &v), Some((sick, 2)));
    let well = create(&mut w, &other, "in a closed rig");
    assert_eq!(towns(&w, &v), Some((well, 1)));
}

#[test]
fn a_rig_forced_open_or_at_its_own_trial_is_nobodys_trial() {
    let (mut w, rig) = World::founded(3);
    let bead = create(&mut w, &rig, "one");
    let ordered = |mode| {
        let until = w.now().plus(HOUR);
        Breaker { override_: Some(Override { mode, actor: "a".into(), reason: "r".into(), until }), ..open() }
    };
    let trying =
        Trial { attempt: "a".into(), bead: None, booked_at: w.now(), proven: false, lease_until: w.now().plus(HOUR) };
    let trying = Breaker { state: State::HalfOpen, trial: Some(trying), ..open() };
    assert_eq!(towns(&w, &view(&w, &[(&rig, ordered(Mode::ForcedOpen))])), None);
    assert_eq!(towns(&w, &view(&w, &[(&rig, trying)])), None);
    assert_eq!(towns(&w, &view(&w, &[(&rig, ordered(Mode::Shadow))])), Some((bead, 1)));
}

#[test]
fn a_rigs_own_trial_waits_for_the_town() {
    let (mut w, rig) = World::founded(4);
    let bead = create(&mut w, &rig, "one");
    let scope = Scope::Rig(rig.clone());
    let mut v = view(&w, &[(&rig, open())]);
    assert_eq!(tried(&w, &v, &scope, &open()), None);
    v.breakers.insert(Scope::Town, Breaker::default());
    assert_eq!(tried(&w, &v, &scope, &open()), Some((bead, 1)));
}

#[test]
fn a_trial_needs_room_for_its_role() {
    let (mut w, rig) = World::founded(5);
    let bead = create(&mut w, &rig, "work");
    let mut v = view(&w, &[]);
    v.config.dispatch.max_agents = 1;
    v.load.polecats_in_town = 1;
    assert_eq!(towns(&w, &v), None, "no room for a polecat");
    let mr = review(&mut w, &rig);
    assert_eq!(towns(&w, &v), Some((mr, 1)), "a refinery is none");
    v.load.polecats_in_town = 0;
    v.load.refineries.push(rig.clone());
    assert_eq!(towns(&w, &v), Some((bead.clone(), 1)), "the refinery is at work");
    v.load.refineries.clear();
    edit(
        &w,
        "INSERT INTO agents (agent_id, seq, rig_id, role, name, identity, status, created_at)
              SELECT 'r', 999, rig_id, 'refinery', 'r', 'r@x', 'idle', 0 FROM rigs",
    );
    edit(&w, "INSERT INTO stops (stop_id, attempt_id, agent_id, booked_at, sent_until) VALUES ('s', 'a', 'r', 0, 9)");
    assert_eq!(towns(&w, &v), Some((bead, 1)), "the refinery is just being stopped");
}

#[test]
fn the_role_and_the_rig_that_were_blamed_are_tried_first() {
    let (mut w, rig) = World::founded(6);
    let other = w.add_rig("other");
    let here = create(&mut w, &rig, "here");
    let there = create(&mut w, &other, "there");
    let mr = review(&mut w, &rig);
    let v = view(&w, &[]);
    let of = |role: Option<&str>, rig: Option<&RigId>| {
        let b = Breaker { blamed_role: role.map(str::to_owned), blamed_rig: rig.cloned(), ..open() };
        tried(&w, &v, &Scope::Town, &b).unwrap().0
    };
    assert_eq!(of(Some("polecat"), None), here);
    assert_eq!(of(Some("polecat"), Some(&rig)), here);
    assert_eq!(of(Some("polecat"), Some(&other)), there);
    assert_eq!(of(Some("refinery"), Some(&other)), mr, "the role comes first");
    assert_eq!(of(None, None), mr, "else rank and age");
    assert_eq!(of(None, Some(&other)), there);
}

#[test]
fn a_bead_ripens_for_a_trial_when_its_reviews_backoff_ends_and_somebody_could_try_it_then() {
    let (mut w, rig) = World::founded(7);
    let other = w.add_rig("other");
    let (later, sooner) = (w.now().plus(2 * MINUTE), w.now().plus(MINUTE));
    for (rig, at) in [(&rig, sooner), (&other, later)] {
        let bead = create(&mut w, rig, "refused");
        let text = "UPDATE beads SET review_not_before = ?2, not_before = ?2 WHERE bead_id = ?1";
        w.sql.execute(text, &[(&bead).into(), at.into()]).unwrap();
    }
    let ripens = |v: &View, scope: &Scope| -> Option<Timestamp> { trial_ripens(&w.sql, v, scope).unwrap() };
    let town = Scope::Town;
    assert_eq!(ripens(&view(&w, &[]), &town), Some(sooner));
    assert_eq!(ripens(&view(&w, &[(&rig, open())]), &town), Some(sooner), "an open rig's bead tries both");
    let until = w.now().plus(HOUR);
    let order = Override { mode: Mode::ForcedOpen, actor: "a".into(), reason: "r".into(), until };
    let forced = Breaker { override_: Some(order), ..open() };
    assert_eq!(ripens(&view(&w, &[(&rig, forced)]), &town), Some(later), "a person holds that rig");

    let own = Scope::Rig(rig.clone());
    let mut v = view(&w, &[(&rig, open())]);
    assert_eq!(ripens(&v, &own), None, "the town comes first");
    v.breakers.insert(Scope::Town, Breaker::default());
    assert_eq!(ripens(&v, &own), Some(sooner));
    assert_eq!(ripens(&v, &Scope::Rig(other)), Some(later));

    let mut full = view(&w, &[]);
    full.load.in_flight = full.starts_limit();
    assert_eq!(ripens(&full, &town), None, "a start that ends brings the next look");
    let mut held = view(&w, &[]);
    held.state.hold_until = Some(until);
    assert_eq!(ripens(&held, &town), None, "so does the hold's end");
    let mut busy = view(&w, &[]);
    busy.load.polecats.insert(rig, busy.config.dispatch.max_polecats_per_rig);
    assert_eq!(ripens(&busy, &town), Some(later), "no room in the first rig");
}
