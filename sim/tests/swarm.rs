//! A bounded swarm, the same in every run: each seed draws its own faults and people. `make sim-long` goes on from there.

#![allow(clippy::panic, reason = "test code: a broken promise must stop the test")]

use gastown::town::time::HOUR;
use gastown_sim::{Deed, Report, Timed, draw, flood, play, shrink};
use std::time::{Duration, Instant};

/// Lives so many hours each.
const HOURS: i64 = 6;
/// Seeds of the swarm.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=60;
/// Those that once broke a promise: seed and hours.
const BROKEN_ONCE: &str = include_str!("seeds.txt");
/// On a slow machine, no new town is founded after so long.
const PATIENCE: Duration = Duration::from_secs(28);

fn broken_once() -> impl Iterator<Item = (u64, i64)> {
    let lines = BROKEN_ONCE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| {
        let read =
            line.split_once(' ').and_then(|(seed, hours)| Some((seed.parse().ok()?, hours.trim().parse().ok()?)));
        read.unwrap_or_else(|| panic!("seeds.txt: `{line}` is not a seed and hours"))
    })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test that may take so long and no longer")]
fn a_swarm_of_towns_keeps_every_promise() {
    let (mut report, begun) = (Report::default(), Instant::now());
    for (seed, hours) in broken_once().chain(SEEDS.map(|seed| (seed, HOURS))) {
        if begun.elapsed() > PATIENCE {
            break;
        }
        let history = draw::history(seed, hours * HOUR);
        if let Err(failure) = play::play(&history, &mut report) {
            let (least, failure) = shrink::shrink(&history, &failure, Duration::from_secs(20));
            panic!("make sim SEED={seed} HOURS={hours}\n{}\n{least:#?}", failure.told);
        }
    }
    println!("{}", report.told());
    assert!(report.runs > 0 && report.starts > 0, "towns lived");
}

/// `gastown-sim --flood 10000` does the same with ten thousand.
#[test]
fn a_thousand_beads_due_at_once_cost_no_more_at_a_time_than_a_hundred_and_all_get_their_turn() {
    let (few, many) = (flood::flood(100), flood::flood(1_000));
    assert_eq!((many.most_statements, many.most_rows), (few.most_statements, few.most_rows));
    // Each rule asks once whether anything is due: some thirty more statements than when there were half as many rules.
    assert!(many.most_statements <= 300 && many.most_rows <= 100, "{many:?}");
    assert_eq!((many.most_alive, many.out_of_turn, few.out_of_turn), (40, 0, 0), "{many:?}");
    assert!(many.ticks < 1_000, "less than one tick a bead: {many:?}");
}

/// A failure is replayed by its seed alone.
#[test]
fn the_same_seed_gives_the_same_history_and_the_same_life() {
    let once = || {
        let mut report = Report::default();
        let history = draw::history(5, 2 * HOUR);
        play::play(&history, &mut report).expect("seed 5 keeps its promises");
        (format!("{history:?}"), report.told())
    };
    assert_eq!(once(), once());
}

/// The time that a history lasts cuts it off and changes nothing else.
#[test]
fn a_longer_history_begins_with_the_shorter_one() {
    let (short, long) = (draw::history(7, 2 * HOUR), draw::history(7, 48 * HOUR));
    let begins = long.deeds.iter().filter(|d| d.at < 2 * HOUR);
    assert_eq!(format!("{:?}", short.deeds), format!("{:?}", begins.collect::<Vec<_>>()));
}

/// The simulator itself: what breaks a promise in the midst of everything else is found, and found to be the cause.
#[test]
fn a_tampered_town_is_found_out_and_its_history_shrinks_to_the_cause() {
    let tampered = [
        ("3: ", "UPDATE beads SET dispatch_attempts = dispatch_attempts + 1 WHERE type = 'issue'"),
        ("2: ", "UPDATE beads SET status = 'in_progress' WHERE status = 'closed'"),
        ("12: ", "UPDATE beads SET open_blockers = open_blockers + 1 WHERE type = 'issue'"),
        ("convoys: ", "UPDATE beads SET staged = 1 WHERE type = 'issue' AND status = 'closed'"),
    ];
    for (number, sql) in tampered {
        let mut history = draw::history(3, 2 * HOUR);
        let at = HOUR;
        let place = history.deeds.partition_point(|d| d.at < at);
        history.deeds.insert(place, Timed { at, kind: "tamper", deed: Deed::Tamper(sql) });
        let failure = play::play(&history, &mut Report::default()).expect_err("it was tampered with");
        assert!(failure.class.starts_with(number), "{sql}: {}", failure.class);
        let (least, again) = shrink::shrink(&history, &failure, Duration::from_secs(5));
        assert_eq!(again.class, failure.class);
        assert!(least.deeds.len() < 6 && least.deeds.len() < history.deeds.len(), "{least:#?}");
        assert!(least.deeds.iter().any(|d| d.kind == "tamper"), "{least:#?}");
    }
}
