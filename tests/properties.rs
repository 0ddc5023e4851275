//! Random histories of a town: whatever people, agents, containers and networks do, the invariants of `domain.md` 10
//! hold after every step, and once all faults have ended everything eligible is dispatched.
//!
//! `PROPTEST_CASES` makes it search longer; failing seeds are kept in `tests/properties.proptest-regressions`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod oracle;

#[path = "oracle/history.rs"]
mod history;

use gastown::town::time::{HOUR, MINUTE};
use history::{Op, Play, ops};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

fn cases(default: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    Config {
        cases,
        max_shrink_iters: 3_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(cases(48))]

    /// Invariants 1–13 after every step, 14 at the end; the container's own ledger says that nothing was done twice.
    #[test]
    fn the_invariants_hold_through_any_history(seed in 0..1_000_u64, history in ops(true, 60)) {
        let mut play = Play::new(seed, true, 7);
        play.all(&history);
        play.heal_and_demand_everything();
        play.nothing_twice();
    }

    /// The same where stops may fail, too: then two processes of one bead cannot always be prevented, but no attempt is
    /// ever started twice and every invariant of the rows holds.
    #[test]
    fn the_invariants_hold_even_if_nothing_can_be_stopped(seed in 0..1_000_u64, history in ops(false, 60)) {
        let mut play = Play::new(seed, false, 7);
        play.all(&history);
        play.heal_and_demand_everything();
        play.no_attempt_twice();
    }
}

proptest! {
    #![proptest_config(cases(12))]

    /// Long outages: hours between events, many beads.
    #[test]
    fn the_invariants_hold_through_long_outages(
        seed in 0..1_000_u64,
        beads in 5..40_usize,
        history in proptest::collection::vec((history::fair_weather(), 10..180_i64), 1..8),
    ) {
        let mut play = Play::new(seed, true, 97);
        play.many(beads);
        for (weather, minutes) in &history {
            play.one(weather);
            play.wait(minutes * MINUTE);
        }
        play.heal_and_demand_everything();
        play.nothing_twice();
        prop_assert!(play.lost().is_empty());
    }

    /// A quiet town costs nothing: after any history, once all is done, there is no alarm.
    #[test]
    fn a_town_with_nothing_left_to_do_has_no_alarm(seed in 0..1_000_u64, history in ops(true, 25)) {
        let mut play = Play::new(seed, true, 13);
        play.all(&history);
        play.heal_and_demand_everything();
        play.finish_everything_by_hand();
        play.wait(26 * HOUR);
        prop_assert_eq!(play.world.alarm(), None);
    }
}

#[test]
fn the_same_history_gives_the_same_rows() {
    let history =
        [Op::Sling { rig: 0, rank: 1, on: vec![], held: false }, Op::Wait(3 * MINUTE), Op::Kill, Op::Wait(HOUR)];
    let dump = || {
        let mut play = Play::new(3, true, 1);
        play.all(&history);
        play.world.sql.dump()
    };
    assert_eq!(dump(), dump());
}
