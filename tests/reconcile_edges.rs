//! The rules of a tick at their edges: how many rows they take, at which millisecond they begin, and what a tick tells
//! about itself (`design.md` 8, `domain.md` 10 and 11).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Command, NewBead};
use gastown::town::effect::{DataPoint, Effect};
use gastown::town::id::{BeadId, RigId};
use gastown::town::policy::{ATTEMPT_RETENTION, IDLE_AGENT_RETENTION, ORPHAN_GRACE, RULE_ROWS};
use gastown::town::reconcile::invariants;
use gastown::town::sql::{Arg, Row, Sql, SqlError, Undo, Usage};
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND};
use gastown::town::{Ctx, Town};
use gastown_host::behaviour::Behaviour;
use gastown_host::sqlite::Sqlite;
use gastown_host::world::World;
use serde_json::json;
use std::cell::Cell;
use support::*;

fn count(w: &World, sql: &str) -> i64 {
    w.sql.peek(sql, &[])[0].int(0).unwrap()
}

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn create(w: &mut World, rig: &RigId, title: &str) -> BeadId {
    let bead = NewBead { title: title.to_owned(), ..NewBead::default() };
    text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into()
}

fn force(w: &mut World, mode: &str) {
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: mode.to_owned(),
        reason: Some("a test".to_owned()),
        expires_in_ms: Some(DAY),
    });
}

/// The database with a meter: every statement reads a row and writes two, on top of what was metered before.
struct Metered<'a> {
    sql: &'a Sqlite,
    statements: Cell<u64>,
}

impl Sql for Metered<'_> {
    fn query(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, SqlError> {
        self.statements.set(self.statements.get() + 1);
        self.sql.query(sql, args)
    }
    fn execute(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, SqlError> {
        self.statements.set(self.statements.get() + 1);
        self.sql.execute(sql, args)
    }
    fn savepoint(&self, body: &mut dyn FnMut() -> Result<(), Undo>) -> Result<(), SqlError> {
        self.sql.savepoint(body)
    }
    fn script(&self, sql: &'static str) -> Result<(), SqlError> {
        self.sql.script(sql)
    }
    fn usage(&self) -> Usage {
        let n = self.statements.get();
        Usage { rows_read: n, rows_written: 2 * n, statements: n }
    }
}

/// One tick, now: its effects and the point in which it tells about itself.
fn tick(w: &World) -> (Vec<Effect>, DataPoint) {
    tick_over(w, &w.sql)
}

fn tick_over(w: &World, sql: &dyn Sql) -> (Vec<Effect>, DataPoint) {
    let (points, effects): (Vec<_>, Vec<_>) = Town::new(sql)
        .tick(&Ctx::new(w.now(), &w.ids))
        .unwrap()
        .into_iter()
        .partition(|e| matches!(e, Effect::Emit(DataPoint { event: "reconciler_tick", .. })));
    match points.as_slice() {
        [Effect::Emit(point)] => (effects, point.clone()),
        other => panic!("one point a tick: {other:?}"),
    }
}

// ── what a tick tells ────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_tick_tells_how_many_rules_had_effects_how_many_effects_and_what_it_read_and_wrote() {
    let (mut w, rig) = World::founded(1);
    let metered = |w: &World| {
        let meter = Metered { sql: &w.sql, statements: Cell::new(1_000_000) };
        let (effects, point) = tick_over(w, &meter);
        let starts = effects.iter().filter(|e| matches!(e, Effect::StartAgent(_))).count();
        let [rules, told, read, written, ..] = point.own;
        assert_eq!(written.to_bits(), (2.0 * read).to_bits(), "{read} read and {written} written");
        assert!(read > 0.0 && read < 1_000.0, "{read} rows in one tick");
        (starts, [rules, told].map(f64::to_bits), read)
    };
    let counts = |rules: f64, told: f64| [rules, told].map(f64::to_bits);
    let (starts, told, idle) = metered(&w);
    assert_eq!((starts, told), (0, counts(0.0, 0.0)));
    polecats(&mut w, Behaviour::hangs());
    w.sling(&rig, "proves the container");
    w.run_for(SECOND);
    w.sling(&rig, "a");
    w.sling(&rig, "b");
    let (starts, told, busy) = metered(&w);
    assert_eq!((starts, told), (2, counts(1.0, 2.0)), "one rule, two effects");
    assert!(idle < busy, "a tick with nothing due reads less");
}

#[test]
fn what_waits_and_when_the_town_wakes_is_told_to_the_fleet() {
    let (mut w, rig) = World::founded(2);
    w.sling(&rig, "a");
    w.sling(&rig, "b");
    force(&mut w, "forced_open");
    let report = gastown::town::reconcile::report(&w.sql, &Ctx::new(w.now(), &w.ids)).unwrap();
    assert_eq!((report.town_id.as_str(), report.breaker.as_str(), report.open_work), (w.town_id.as_str(), "closed", 2));
    assert_eq!((report.next_wake, report.at), (w.alarm(), w.now()));
}

// ── a hundred rows a tick ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_lowered_cap_fails_a_hundred_beads_a_tick_over_all_rigs() {
    let (mut w, rig) = World::founded(3);
    let other = w.add_rig("other");
    force(&mut w, "forced_open");
    for n in 0..150 {
        create(&mut w, if n % 2 == 0 { &rig } else { &other }, &format!("bead {n}"));
    }
    edit(&w, "UPDATE beads SET dispatch_attempts = 3");
    w.patch_config(json!({"dispatch": {"max_attempts": 2}}));
    let failed = |w: &World| count(w, "SELECT count(*) FROM beads WHERE status = 'failed'");
    tick(&w);
    assert_eq!(failed(&w), i64::from(RULE_ROWS));
    assert_eq!(Town::new(&w.sql).next_wake(&Ctx::new(w.now(), &w.ids)).unwrap(), Some(w.now()), "the rest at once");
    tick(&w);
    assert_eq!(failed(&w), 150);
    assert_eq!(count(&w, "SELECT caps_lowered FROM town"), 0, "and then it is done");
}

#[test]
fn exactly_a_hundred_beads_at_a_lowered_cap_leave_nothing_behind() {
    let (mut w, rig) = World::founded(4);
    force(&mut w, "forced_open");
    for n in 0..RULE_ROWS {
        create(&mut w, &rig, &format!("bead {n}"));
    }
    edit(&w, "UPDATE beads SET dispatch_attempts = 3");
    w.patch_config(json!({"dispatch": {"max_attempts": 2}}));
    tick(&w);
    assert_eq!(count(&w, "SELECT caps_lowered FROM town"), 1, "there may be more");
    tick(&w);
    assert_eq!(count(&w, "SELECT caps_lowered FROM town"), 0);
}

// ── the safety net ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_orphan_goes_back_when_its_grace_is_over_not_before_and_frees_who_was_hooked_to_it() {
    let (mut w, rig) = World::founded(5);
    polecats(&mut w, Behaviour::hangs().mute());
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    edit(&w, "DELETE FROM attempts");
    force(&mut w, "forced_open");
    tick(&w);
    let found = row(&w, &bead, "orphaned_at").unwrap();
    assert_eq!(found, w.now().0);
    w.clock.set(w.now().plus(ORPHAN_GRACE - 1));
    tick(&w);
    assert_eq!((w.status(&bead).as_str(), row(&w, &bead, "orphaned_at")), ("in_progress", Some(found)));
    w.clock.set(w.now().plus(1));
    let wake = Town::new(&w.sql).next_wake(&Ctx::new(w.now(), &w.ids)).unwrap();
    assert_eq!(wake, Some(w.now()));
    tick(&w);
    assert_eq!(w.status(&bead), "open");
    let free =
        "SELECT count(*) FROM agents WHERE role = 'polecat' AND status = 'idle' AND current_hook_bead_id IS NULL";
    assert_eq!((count(&w, free), w.dispatch()["invariant_violations"].clone()), (1, json!(1)));
}

#[test]
fn hook_assignee_and_status_that_disagree_with_a_live_attempt_are_named_one_by_one() {
    let broken = |edit_: &'static str| {
        let (mut w, rig) = World::founded(6);
        w.container.behave_all(Behaviour::hangs());
        w.sling(&rig, "one");
        w.run_for(SECOND);
        edit(&w, edit_);
        invariants::check(&w.sql).unwrap()
    };
    assert!(broken("UPDATE town SET slow_start = slow_start").is_empty());
    for (edit_, words) in [
        ("UPDATE beads SET status = 'open'", "is not in progress"),
        ("UPDATE beads SET assignee_agent_bead_id = NULL", "is not assigned to agent"),
        ("UPDATE agents SET current_hook_bead_id = NULL", "is not hooked to bead"),
    ] {
        let found = broken(edit_);
        assert!(found.len() == 1 && found[0].contains(words), "{edit_}: {found:?}");
    }
}

// ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn attempts_are_kept_for_ninety_days_and_idle_agents_for_one() {
    let (mut w, rig) = World::founded(7);
    polecats(&mut w, quick(10 * SECOND));
    w.sling(&rig, "old");
    w.run_for(MINUTE);
    let finished = time(&attempts(&w)[0]["finished_at"]);
    let idle_since = count(&w, "SELECT max(coalesce(last_activity_at, created_at)) FROM agents WHERE role = 'polecat'");
    let polecats_ = "SELECT count(*) FROM agents WHERE role = 'polecat'";
    w.clock.set(gastown::town::time::Timestamp(idle_since).plus(IDLE_AGENT_RETENTION));
    tick(&w);
    assert_eq!(count(&w, polecats_), 1);
    w.clock.set(w.now().plus(1));
    tick(&w);
    assert_eq!(count(&w, polecats_), 0);
    assert_eq!(count(&w, "SELECT count(*) FROM agents WHERE role = 'mayor'"), 1, "a mayor stays");
    w.clock.set(finished.plus(ATTEMPT_RETENTION));
    tick(&w);
    assert_eq!(attempts(&w).len(), 1);
    w.clock.set(w.now().plus(1));
    tick(&w);
    assert!(attempts(&w).is_empty());
}

#[test]
fn a_live_attempt_is_kept_however_old_it_is() {
    let (mut w, rig) = World::founded(8);
    w.container.behave_all(Behaviour::hangs());
    w.sling(&rig, "for ever");
    w.run_for(HOUR);
    w.clock.set(w.now().plus(ATTEMPT_RETENTION + DAY));
    edit(&w, "UPDATE attempts SET lease_until = 9000000000000");
    tick(&w);
    assert_eq!(attempts(&w).len(), 1);
}
