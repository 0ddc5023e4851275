//! `gastown-sim`: towns live through drawn histories until one breaks a promise, or all are done.
//!
//! `--seed N` the first seed (1), `--runs N` so many seeds (1), `--days N` or `--hours N` how long each lives (a day),
//! `--seconds N` no new run begins after so long, `--shrink N` seconds for shrinking (60); or `--flood N`: so many beads
//! due at once. `--json FILE`: what was covered goes there, too, if every promise was kept. Ends with 1 if one was broken.

use gastown::town::time::HOUR;
use gastown_sim::{Report, draw, flood, play, shrink};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// The commit this was built from, as far as git knows.
fn commit() -> String {
    let git = |args: &[&str]| Command::new("git").args(args).output().ok().filter(|o| o.status.success());
    let text = |o: std::process::Output| String::from_utf8_lossy(&o.stdout).trim().to_owned();
    let head = git(&["rev-parse", "--short=12", "HEAD"]).map_or_else(|| "unknown".to_owned(), text);
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|o| !o.stdout.is_empty());
    if changed { format!("{head} with changes") } else { head }
}

/// The day, as the system's `date` has it.
fn today() -> String {
    let date = Command::new("date").args(["-u", "+%F"]).output();
    date.map_or_else(|_| "unknown".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

#[allow(clippy::disallowed_methods, reason = "a host program that may take so long and no longer")]
fn main() -> ExitCode {
    let mut given: BTreeMap<String, u64> = BTreeMap::new();
    let mut args = std::env::args().skip(1);
    let mut file = None;
    while let Some(name) = args.next() {
        if name == "--json" {
            file = args.next();
            continue;
        }
        let known =
            ["--seed", "--runs", "--days", "--hours", "--seconds", "--shrink", "--flood"].contains(&name.as_str());
        let Some(value) = args.next().and_then(|v| v.parse().ok()).filter(|_| known) else {
            eprintln!(
                "usage: gastown-sim [--seed N] [--runs N] [--days N | --hours N] [--seconds N] [--shrink N] [--json FILE] | \
                 --flood N"
            );
            return ExitCode::from(2);
        };
        given.insert(name, value);
    }
    if let Some(beads) = given.get("--flood") {
        println!("{:#?}", flood::flood(usize::try_from(*beads).unwrap_or(10_000)));
        return ExitCode::SUCCESS;
    }
    let number = |name: &str, usual: u64| given.get(name).copied().unwrap_or(usual);
    let (seed, runs) = (number("--seed", 1), number("--runs", 1));
    let hours = number("--hours", number("--days", 1).min(365) * 24).clamp(1, 365 * 24);
    let length = if hours % 24 == 0 { format!("DAYS={}", hours / 24) } else { format!("HOURS={hours}") };
    let lasts = i64::try_from(hours).unwrap_or(24) * HOUR;
    let begun = Instant::now();
    let most = given.get("--seconds").map(|s| Duration::from_secs(*s));
    let mut report = Report::default();
    let mut told = begun;
    for seed in seed..seed.saturating_add(runs) {
        if told.elapsed() > Duration::from_mins(1) {
            told = Instant::now();
            let (days, steps) = (report.lived / (24 * HOUR), report.steps);
            eprintln!("{} runs, {days} town-days, {steps} steps so far; seed {seed}", report.runs);
        }
        if most.is_some_and(|most| begun.elapsed() > most) {
            break;
        }
        let history = draw::history(seed, lasts);
        let Err(failure) = play::play(&history, &mut report) else { continue };
        let (steps, seconds) = (report.steps, begun.elapsed().as_secs_f32());
        println!("{}", report.told());
        println!("seed {seed} breaks a promise at commit {}; shrinking: {}", commit(), failure.class);
        let (least, failure) = shrink::shrink(&history, &failure, Duration::from_secs(number("--shrink", 60)));
        println!(
            "\n{}\n\nthe shortest history found ({} deeds of {}):",
            failure.told,
            least.deeds.len(),
            history.deeds.len()
        );
        println!("seed {}, stops_work {}, lasts {}", least.seed, least.stops_work, least.lasts);
        for deed in &least.deeds {
            println!("  {deed:?}");
        }
        let (least, all) = (least.deeds.len(), history.deeds.len());
        println!("\nfound after {steps} steps, {seconds:.1} s; {least} deeds of {all} left: {}", failure.class);
        println!("again: make sim SEED={seed} {length} (at commit {})", commit());
        return ExitCode::FAILURE;
    }
    println!("{}", report.told());
    let last = seed + report.runs.saturating_sub(1);
    println!("seeds {seed} … {last}, {length}, commit {}: every promise was kept", commit());
    if let Some(file) = file {
        let told = json!({
            "commit": commit(),
            "date": today(),
            "seeds": [seed, last],
            "hours_each": hours,
            "seconds": begun.elapsed().as_secs(),
            "covered": report.json(),
        });
        if let Err(e) = std::fs::write(&file, format!("{told:#}\n")) {
            eprintln!("{file}: {e}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
