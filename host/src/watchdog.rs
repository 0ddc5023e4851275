//! Notices a town that spins, and says what it did.
//!
//! A town spins if it ticks [`IDLE_TICKS`] times in a row without anything else happening, each no more than a
//! millisecond after the last, or [`TICKS_PER_MINUTE`] times in a minute, or wants one and the same thing done more than
//! [`REPEATS_PER_MINUTE`] times in a minute. The test then panics with the journal of what happened last.

use gastown::town::effect::Effect;
use gastown::town::time::{MINUTE, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;

/// Ticks in a row, a millisecond apart at most and with nothing between them, that are spinning.
pub const IDLE_TICKS: u32 = 50;
/// Ticks in one simulated minute that are spinning, whatever lies between them: six calls of 50 ms in the air land 120
/// times a second.
pub const TICKS_PER_MINUTE: u32 = 20_000;
/// Repetitions of one effect (the same attempt looked at, the same stop sent …) in one simulated minute that are
/// spinning. The shortest time a town's config can name is 100 ms, which makes 600.
pub const REPEATS_PER_MINUTE: u32 = 1_000;
/// Lines of the journal kept for a panic.
const JOURNAL: usize = 80;

/// Notices a town that spins.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    last_tick: Option<Timestamp>,
    in_a_row: u32,
    minute: i64,
    in_minute: u32,
    /// How often each effect was wanted in this minute.
    wanted: HashMap<String, u32>,
    journal: VecDeque<(Timestamp, String)>,
}

impl Watchdog {
    pub(crate) fn note(&mut self, now: Timestamp, line: impl FnOnce() -> String) {
        if self.journal.len() == JOURNAL {
            self.journal.pop_front();
        }
        self.journal.push_back((now, line()));
    }
    /// Anything but a tick happened.
    pub(crate) const fn something(&mut self) {
        self.in_a_row = 0;
    }
    pub(crate) fn tick(&mut self, now: Timestamp) {
        let close = self.last_tick.is_some_and(|last| now.since(last) <= 1);
        self.in_a_row = if close { self.in_a_row + 1 } else { 1 };
        self.last_tick = Some(now);
        self.turn_minute(now);
        self.in_minute += 1;
        assert!(
            self.in_a_row <= IDLE_TICKS && self.in_minute <= TICKS_PER_MINUTE,
            "the town spins: {} ticks in a row with nothing between them, {} in this minute. Last of all:\n{}",
            self.in_a_row,
            self.in_minute,
            self.told()
        );
    }
    pub(crate) fn effect(&mut self, now: Timestamp, effect: &Effect) {
        self.note(now, || format!("  {}", brief(effect)));
        self.turn_minute(now);
        for key in keys(effect) {
            let times = self.wanted.entry(key).or_default();
            *times += 1;
            let times = *times;
            assert!(
                times <= REPEATS_PER_MINUTE,
                "the town spins: {} for the {times}th time in a minute. Last of all:\n{}",
                brief(effect),
                self.told()
            );
        }
    }
    fn turn_minute(&mut self, now: Timestamp) {
        let minute = now.0.div_euclid(MINUTE);
        if minute != self.minute {
            self.minute = minute;
            self.in_minute = 0;
            self.wanted.clear();
        }
    }
    pub(crate) fn told(&self) -> String {
        self.journal.iter().fold(String::new(), |mut out, (at, line)| {
            let _ = writeln!(out, "{at} {line}");
            out
        })
    }
}

pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(300));
    text
}

/// What makes an effect the same one again.
fn keys(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::StartAgent(start) => vec![format!("start {}", start.attempt_id)],
        Effect::StopAgent(stop) => vec![format!("stop {}", stop.stop_id)],
        Effect::ObserveAgents(agents) => agents.iter().map(|a| format!("look {}", a.attempt_id)).collect(),
        Effect::ProbeContainer { scope, .. } => vec![format!("probe {scope}")],
        Effect::TellContainer { what, .. } => vec![format!("tell {what:?}")],
        Effect::PostWebhook(post) => vec![format!("post {}", post.delivery_id)],
        Effect::MessageAgent(m) => vec![format!("message {}", m.agent_id)],
        Effect::CallForge(call) => vec![format!("forge {}", call.bead_id)],
        Effect::EraseAgent(agent) => vec![format!("erase {agent}")],
        Effect::ReportToFleet(_) => vec!["report".to_owned()],
        Effect::Emit(_) | Effect::Broadcast(_) => Vec::new(),
    }
}

fn brief(effect: &Effect) -> String {
    match effect {
        Effect::StartAgent(s) => format!("start {} for {}", s.agent_id.short(), s.attempt_id.short()),
        Effect::StopAgent(s) => format!("stop {} of {}", s.agent_id.short(), s.attempt_id.short()),
        Effect::ObserveAgents(agents) => format!("look at {} agents", agents.len()),
        Effect::ProbeContainer { scope, generation, .. } => format!("probe {scope} in generation {generation}"),
        Effect::TellContainer { what, .. } => format!("tell {what:?}"),
        Effect::PostWebhook(post) => format!("post {}", post.delivery_id),
        Effect::MessageAgent(m) => format!("message {}: {}", m.agent_id.short(), cut(m.prompt.clone())),
        Effect::CallForge(call) => format!("{} {} for {}", call.method, call.path, call.bead_id.short()),
        Effect::ReportToFleet(report) => cut(format!("{report:?}")),
        Effect::EraseAgent(agent) => format!("erase the store of {}", agent.short()),
        Effect::Emit(point) => point.event.to_owned(),
        Effect::Broadcast(frame) => cut(frame.to_string()),
    }
}
