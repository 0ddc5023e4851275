//! A history from a seed. Swarm testing: every run draws which kinds of things happen at all, and how often each does;
//! a town to which everything happens at once seldom gets anywhere.

use crate::deed::{Deed, History, Timed};
use crate::history::{Op, Wrong};
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND};
use gastown_host::ids::SplitMix64;

/// Places of endpoints in `Endpoint::ALL`, as bits.
const START: u8 = 1;
const TELL: u8 = 32;
const STOP: u8 = 4;
const ALL: u8 = 31;

/// What a kind may know while it draws.
struct Draw<'a> {
    chance: &'a SplitMix64,
    stops_work: bool,
    at: Millis,
    kind: &'static str,
    deeds: &'a mut Vec<Timed>,
}

impl Draw<'_> {
    fn byte(&self) -> u8 {
        u8::try_from(self.chance.below(256)).expect("a byte")
    }
    fn below(&self, n: u64) -> u8 {
        u8::try_from(self.chance.below(n)).expect("small")
    }
    fn between(&self, least: Millis, most: Millis) -> Millis {
        let span = u64::try_from(most - least + 1).expect("most is not less than least");
        least + i64::try_from(self.chance.below(span)).expect("small")
    }
    /// Many short ones, few long ones.
    fn span(&self, least: Millis, most: Millis) -> Millis {
        let mut most = most;
        while most > least * 2 && self.chance.per_mille(600) {
            most /= 2;
        }
        self.between(least, most)
    }
    fn few(&self) -> Vec<u8> {
        (0..self.chance.below(6).saturating_sub(3)).map(|_| self.byte()).collect()
    }
    fn maybe_rig(&self) -> Option<u8> {
        self.chance.per_mille(500).then(|| self.byte())
    }
    fn after(&mut self, ms: Millis, deed: Deed) {
        self.deeds.push(Timed { at: self.at + ms, kind: self.kind, deed });
    }
    fn now(&mut self, op: Op) {
        self.after(0, Deed::Op(op));
    }
    /// An outage of these endpoints, with its end. Where stops work, they do and nobody lies about what it did.
    fn outage(&mut self, endpoints: u8, wrong: Wrong) {
        let endpoints = if self.stops_work { (endpoints & !STOP).max(START) } else { endpoints };
        let wrong = match wrong {
            Wrong::DoesAndSays(n) if self.stops_work && ![7, 18].contains(&n) => Wrong::DropAfter,
            wrong => wrong,
        };
        let per_mille = [50, 300, 1_000, 1_000][usize::from(self.below(4))];
        let seed = self.chance.next_u64();
        self.after(0, Deed::Flaky { endpoints, wrong, per_mille, seed });
        let end = self.span(30 * SECOND, 6 * HOUR);
        self.after(end, Deed::Op(Op::Clear));
    }
    fn alarms(&mut self, kind: u8) {
        let per_mille = [100, 500, 1_000][usize::from(self.below(3))];
        let seed = self.chance.next_u64();
        self.after(0, Deed::Alarms { kind, per_mille, seed });
        let end = self.span(MINUTE, 3 * HOUR);
        self.after(end, Deed::AlarmsRight);
    }
    fn endpoints(&self) -> u8 {
        match self.below(4) {
            0 => ALL,
            1 => 1 << self.below(5),
            _ => START,
        }
    }
}

/// A kind of thing that happens: its name, the shortest and the longest mean time between two of it in minutes, and
/// what it is.
type Kind = (&'static str, i64, i64, fn(&mut Draw));

/// What goes wrong.
const FAULTS: [Kind; 43] = [
    ("container dead", 90, 720, |d| {
        d.now(Op::Kill);
        let dead = d.span(30 * SECOND, 4 * HOUR);
        d.after(dead, Deed::Op(Op::Restart));
    }),
    ("container's end reported", 60, 720, |d| {
        d.after(0, Deed::Exit { dies: true, other: false });
        let dead = d.span(SECOND, 30 * MINUTE);
        d.after(dead, Deed::Op(Op::Restart));
    }),
    ("an end reported that was none", 60, 720, |d| {
        let other = d.chance.per_mille(500);
        d.after(0, Deed::Exit { dies: false, other });
    }),
    ("telling goes wrong", 120, 720, |d| {
        let wrong = if d.chance.per_mille(500) { Wrong::Refuse } else { Wrong::Says(0) };
        d.outage(TELL, wrong);
    }),
    ("container asleep", 90, 720, |d| {
        let boot = u16::from(d.byte());
        d.now(Op::Sleep(boot));
    }),
    ("container replaced", 60, 720, |d| d.now(Op::Restart)),
    ("container draining", 120, 720, |d| {
        let grace = u16::try_from(d.between(1, 400)).expect("small");
        d.now(Op::Drain(grace));
        let late = d.span(SECOND, 30 * MINUTE);
        d.after(late, Deed::Op(Op::Restart));
    }),
    ("eviction told", 240, 720, |d| d.now(Op::Evict)),
    ("refused", 60, 720, |d| d.outage(d.endpoints(), Wrong::Refuse)),
    ("lost before", 60, 720, |d| d.outage(d.endpoints(), Wrong::DropBefore)),
    ("start lost, agent alive", 60, 720, |d| {
        let wrong = if d.chance.per_mille(500) { Wrong::DropAfter } else { Wrong::HangAfter };
        d.outage(START, wrong);
    }),
    ("no answer", 60, 720, |d| d.outage(d.endpoints(), Wrong::HangBefore)),
    ("late answers", 60, 720, |d| {
        let late = u16::try_from(d.between(1, 80)).expect("small");
        d.outage(d.endpoints(), Wrong::Slow(late));
    }),
    ("4xx", 90, 720, |d| {
        let n = 14 + d.below(4);
        d.outage(d.endpoints(), Wrong::Says(n));
    }),
    ("5xx", 60, 720, |d| {
        let n = d.below(3);
        d.outage(d.endpoints(), Wrong::Says(n));
    }),
    ("model error", 120, 720, |d| {
        let n = 3 + d.below(3);
        d.outage(START, Wrong::Says(n));
    }),
    ("429 and Retry-After", 90, 720, |d| {
        let n = [10, 12, 13][usize::from(d.below(3))];
        d.outage(d.endpoints(), Wrong::Says(n));
    }),
    ("draining answer", 120, 720, |d| d.outage(START, Wrong::Says(8))),
    ("platform error", 60, 720, |d| {
        let n = [6, 9, 11][usize::from(d.below(3))];
        d.outage(d.endpoints(), Wrong::Says(n));
    }),
    ("odd answer", 120, 720, |d| {
        let n = [7, 18][usize::from(d.below(2))];
        d.outage(d.endpoints(), Wrong::Says(n));
    }),
    ("done, and an error answered", 120, 720, |d| {
        let n = d.below(19);
        d.outage(START, Wrong::DoesAndSays(n));
    }),
    ("agents behave", 20, 240, |d| {
        let (kind, seed) = (d.byte(), d.chance.next_u64());
        d.now(Op::Behave(kind, seed));
    }),
    ("voices lost, late, twice", 60, 480, |d| {
        let (kind, seed) = (d.byte(), d.chance.next_u64());
        d.now(Op::Voices(kind, seed));
        let end = d.span(MINUTE, 3 * HOUR);
        d.after(end, Deed::Op(Op::HearAll));
    }),
    ("voice of a process that is gone", 10, 240, |d| {
        let (nth, says) = (u16::from(d.byte()), d.below(3));
        d.after(0, Deed::Ghost { nth, says });
    }),
    ("stall", 30, 480, |d| {
        let ms = d.span(10, 20 * MINUTE);
        d.after(0, Deed::Stall(ms));
    }),
    ("crash", 20, 480, |d| {
        let losing = d.chance.per_mille(500);
        d.now(Op::Crash(losing));
    }),
    ("crash in flight", 15, 480, |d| {
        let (steps, losing) = (d.below(8), d.chance.per_mille(500));
        d.after(0, Deed::CrashInFlight { steps, losing });
    }),
    ("mayor's session ends", 60, 480, |d| {
        let how = d.below(3);
        d.after(0, Deed::MayorEnds(how));
    }),
    ("webhook down", 60, 480, |d| {
        let kind = 1 + d.below(3);
        d.now(Op::Webhook(kind));
        let end = d.span(MINUTE, 5 * HOUR);
        d.after(end, Deed::Op(Op::Webhook(0)));
    }),
    ("forge down", 60, 480, |d| {
        let kind = 1 + d.below(9);
        d.now(Op::ForgeDown(kind));
        let end = d.span(MINUTE, 5 * HOUR);
        d.after(end, Deed::Op(Op::ForgeDown(0)));
    }),
    ("refineries want changes", 60, 480, |d| {
        let seed = d.chance.next_u64();
        d.now(Op::Picky(seed));
        let end = d.span(10 * MINUTE, 6 * HOUR);
        d.after(end, Deed::Op(Op::Behave(0, 0)));
    }),
    // Agents with long work outlive the trial that they were, and then everything goes wrong once more: the next trial is
    // slow to start, and the first one ends meanwhile.
    ("outage upon outage", 120, 480, |d| {
        let refuses = |d: &mut Draw, at: Millis| {
            let seed = d.chance.next_u64();
            d.after(at, Deed::Flaky { endpoints: START, wrong: Wrong::Says(5), per_mille: 1_000, seed });
            d.after(at + SECOND, Deed::Burst(3));
            d.after(at + 5 * MINUTE, Deed::Op(Op::Clear));
        };
        d.now(Op::Behave(1, 4));
        refuses(d, MINUTE);
        let again = d.between(20, 32) * MINUTE;
        d.after(again, Deed::Op(Op::Behave(1, 13)));
        refuses(d, again + MINUTE);
        d.after(HOUR, Deed::Op(Op::Behave(0, 0)));
    }),
    ("alarm twice", 60, 480, |d| d.alarms(0)),
    ("alarm late", 120, 480, |d| d.alarms(1)),
    ("alarm dropped", 60, 480, |d| d.alarms(2)),
    ("alarm at any time", 10, 240, |d| d.after(0, Deed::Ring)),
    ("clock steps forwards", 60, 720, |d| {
        let ms = d.span(1, 2 * HOUR);
        d.after(0, Deed::ClockSteps(ms));
    }),
    ("clock steps backwards", 60, 720, |d| {
        let ms = d.span(1, 10 * MINUTE);
        d.after(0, Deed::ClockSteps(-ms));
    }),
    ("statement fails", 5, 120, |d| {
        let nth = 1 + d.below(60);
        d.after(0, Deed::SqlFails { nth, dies: false });
    }),
    ("object dies in a statement", 15, 240, |d| {
        let nth = 1 + d.below(60);
        d.after(0, Deed::SqlFails { nth, dies: true });
    }),
    ("agents go quiet", 60, 480, |d| {
        let (minutes, action) = (d.below(40), d.below(9));
        d.now(Op::Quiet(minutes, action));
        let end = d.span(HOUR, 8 * HOUR);
        d.after(end, Deed::Op(Op::Behave(0, 0)));
    }),
    ("containers go on with what ran", 120, 720, |d| {
        d.now(Op::Resurrects(true));
        let replaced = d.span(MINUTE, HOUR);
        d.after(replaced, Deed::Op(Op::Restart));
        let end = d.span(HOUR, 12 * HOUR);
        d.after(end, Deed::Op(Op::Resurrects(false)));
    }),
    ("predecessor's container", 240, 720, |d| {
        let refuses = d.chance.per_mille(300);
        d.after(0, Deed::Predecessor(Some(refuses)));
        let end = d.span(10 * MINUTE, 12 * HOUR);
        d.after(end, Deed::Predecessor(None));
    }),
];

/// What people, the mayor and odd agents do.
const PEOPLE: [Kind; 48] = [
    ("burst", 120, 1_440, |d| {
        let n = u16::try_from(d.span(3, 40)).expect("small");
        d.after(0, Deed::Burst(n));
    }),
    ("create", 30, 480, |d| {
        let (rig, on) = (d.byte(), d.few());
        d.now(Op::Create { rig, on });
    }),
    ("batch", 60, 480, |d| {
        let (rig, staged, alone) = (d.byte(), d.chance.per_mille(500), d.chance.per_mille(300));
        let plan = (0..=d.below(5)).map(|_| d.few()).collect();
        d.now(Op::Batch { rig, plan, staged, alone });
    }),
    ("convoy", 15, 240, |d| {
        let (nth, does, bead) = (d.byte(), d.byte(), d.byte());
        d.now(Op::Convoy { nth, does, bead });
    }),
    ("delete many", 240, 1_440, |d| {
        let n = d.byte();
        d.now(Op::DeleteMany(n));
    }),
    ("reassign, reset", 60, 720, |d| {
        let (a, b) = (d.byte(), d.byte());
        let op = if d.chance.per_mille(500) { Op::Reassign(b, a) } else { Op::Reset(a) };
        d.now(op);
    }),
    ("cancel", 30, 480, |d| {
        let n = d.byte();
        d.now(Op::Cancel(n));
    }),
    ("close", 60, 480, |d| {
        let n = d.byte();
        d.now(Op::Close(n));
    }),
    ("status by hand", 30, 480, |d| {
        let (b, s) = (d.byte(), d.byte());
        d.now(Op::SetStatus(b, s));
    }),
    ("redrive", 20, 240, |d| {
        let n = d.byte();
        d.now(Op::Redrive(n));
    }),
    ("redrive many", 120, 720, |d| {
        let n = d.byte();
        d.now(Op::RedriveMany(n));
    }),
    ("label", 60, 480, |d| {
        let (b, held) = (d.byte(), d.chance.per_mille(400));
        d.now(Op::Label(b, held));
    }),
    ("priority", 60, 480, |d| {
        let (b, p) = (d.byte(), d.below(4));
        d.now(Op::Priority(b, p));
    }),
    ("depend", 60, 480, |d| {
        let (b, on) = (d.byte(), d.few());
        d.now(Op::Depend(b, on));
    }),
    ("lenient", 120, 720, |d| {
        let b = d.byte();
        d.now(Op::Lenient(b));
    }),
    ("move", 60, 480, |d| {
        let (b, rig) = (d.byte(), d.maybe_rig());
        d.now(Op::Move(b, rig));
    }),
    ("delete bead", 60, 720, |d| {
        let b = d.byte();
        d.now(Op::DeleteBead(b));
    }),
    ("override", 60, 720, |d| {
        let (rig, mode, minutes) = (d.maybe_rig(), d.below(4), 1 + d.below(59));
        d.now(Op::Override { rig, mode, minutes });
    }),
    ("probe", 20, 240, |d| {
        let rig = d.maybe_rig();
        d.now(Op::Probe(rig));
    }),
    ("settings", 60, 720, |d| {
        let n = d.byte();
        d.after(0, Deed::Settings(n));
    }),
    ("limits", 120, 720, |d| {
        let (agents, per_rig, starts) = (1 + d.below(6), 1 + d.below(5), 1 + d.below(8));
        d.now(Op::Limits { agents, per_rig, starts });
    }),
    ("cap", 120, 720, |d| {
        let n = 1 + d.below(7);
        d.now(Op::Cap(n));
    }),
    ("rig limits", 120, 720, |d| {
        let r = d.byte();
        let polecats = d.chance.per_mille(500).then(|| 1 + d.below(3));
        let cap = d.chance.per_mille(500).then(|| 1 + d.below(7));
        d.now(Op::RigLimits(r, polecats, cap));
    }),
    ("add rig", 60, 720, |d| d.now(Op::AddRig)),
    ("remove rig", 240, 1_440, |d| {
        let r = d.byte();
        d.now(Op::RemoveRig(r));
    }),
    ("agent made or deleted", 60, 720, |d| {
        let a = d.byte();
        let op = if d.chance.per_mille(500) { Op::CreateAgent(a) } else { Op::DeleteAgent(a) };
        d.now(op);
    }),
    ("hook", 60, 480, |d| {
        let (a, b) = (d.byte(), d.byte());
        d.now(Op::Hook(a, b));
    }),
    ("unhook", 60, 480, |d| {
        let a = d.byte();
        d.now(Op::Unhook(a));
    }),
    ("done out of turn", 60, 480, |d| {
        let (a, branch) = (d.byte(), d.chance.per_mille(700));
        d.now(Op::AgentDone(a, branch));
    }),
    ("agent closes its bead", 60, 480, |d| {
        let a = d.byte();
        d.now(Op::AgentCloses(a));
    }),
    ("completed out of turn", 120, 720, |d| {
        let (a, failed) = (d.byte(), d.chance.per_mille(500));
        // Its process lives, and nobody would stop it.
        if !d.stops_work {
            d.now(Op::AgentCompleted(a, failed));
        }
    }),
    ("verdict by hand", 60, 480, |d| {
        let (m, v) = (d.byte(), d.byte());
        d.now(Op::Verdict(m, v));
    }),
    ("merge strategy", 120, 720, |d| {
        let pr = d.chance.per_mille(700);
        d.now(Op::Strategy(pr));
    }),
    ("somebody at the forge", 5, 60, |d| {
        let (n, kind) = (d.byte(), d.byte());
        d.now(Op::Forge(n, kind));
    }),
    ("submitted by an agent", 120, 720, |d| {
        let (a, b) = (d.byte(), d.byte());
        d.now(Op::Submit(a, b));
    }),
    ("triage resolved", 30, 240, |d| {
        let (request, action, who) = (d.byte(), d.byte(), d.byte());
        d.now(Op::Resolve { request, action, who });
    }),
    ("molecule", 60, 480, |d| {
        let (b, a) = (d.byte(), d.byte());
        d.now(Op::Molecule(b));
        for later in [20 * SECOND, 5 * MINUTE, 15 * MINUTE] {
            d.after(later, Deed::Op(Op::Advance(a)));
        }
    }),
    ("escalation acknowledged", 120, 720, |d| {
        let n = d.byte();
        d.now(Op::Acknowledge(n));
    }),
    ("checkpoint", 60, 480, |d| {
        let a = d.byte();
        d.now(Op::Checkpoint(a));
    }),
    ("message to the mayor", 30, 480, |d| d.after(0, Deed::Say)),
    ("mayor's turn ends", 30, 480, |d| d.after(0, Deed::TurnEnds)),
    ("nudge", 30, 480, |d| {
        let (whom, how) = (d.byte(), d.below(3));
        d.after(0, Deed::Nudge { whom, how });
    }),
    ("agent reads its nudges", 20, 240, |d| {
        let a = d.byte();
        d.after(0, Deed::ReadsNudges(a));
    }),
    ("mayor's page", 60, 480, |d| {
        let n = d.below(6);
        d.after(0, Deed::MayorHandled(n));
    }),
    ("agents open pull requests", 120, 720, |d| {
        let n = 1 + d.below(12);
        d.now(Op::Strategy(true));
        d.after(0, Deed::OwnPullRequests(n));
        let end = d.span(10 * MINUTE, 4 * HOUR);
        d.after(end, Deed::Op(Op::Behave(0, 0)));
    }),
    ("beads made a convoy", 120, 720, |d| {
        let beads = (0..=d.below(4)).map(|_| d.byte()).collect();
        d.after(0, Deed::ConvoyOf(beads));
    }),
    ("delete by status", 480, 1_440, |d| {
        let n = d.byte();
        d.after(0, Deed::DeleteByStatus(n));
    }),
    ("mayor", 60, 480, |d| match d.below(3) {
        0 => d.now(Op::MayorReads),
        1 => d.now(Op::TestNotice),
        _ => {
            let a = d.byte();
            d.after(0, Deed::Mail(a));
        }
    }),
];

/// The kinds of faults and of people, all there are.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().chain(&PEOPLE).map(|kind| kind.0).chain(["sling"])
}

/// Draws the history of `seed` for so long.
#[must_use]
pub fn history(seed: u64, lasts: Millis) -> History {
    let chance = SplitMix64::new(seed ^ 0x5eed_0f70_3415);
    let stops_work = chance.per_mille(600);
    let mut deeds = Vec::new();
    let plenty = |kind: &Kind, chosen: u64, deeds: &mut Vec<Timed>| {
        let &(name, least, most, draw) = kind;
        // Its own generator: a longer history begins with the shorter one, and a kind that is new leaves the others be.
        let own = SplitMix64::new(
            seed.rotate_left(17)
                ^ name
                    .bytes()
                    .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)),
        );
        if !own.per_mille(chosen) {
            return;
        }
        let mean = (least << own.below(4)).min(most) * MINUTE;
        let mut at = 0;
        loop {
            // The sum of two even draws: neither a clock nor all at once.
            at += gap(&own, mean) + gap(&own, mean);
            if at >= lasts {
                break;
            }
            draw(&mut Draw { chance: &own, stops_work, at, kind: name, deeds });
        }
    };
    let sling: Kind = ("sling", 4, 60, |d| {
        let (rig, rank, on, held) = (d.byte(), d.below(4), d.few(), d.chance.per_mille(50));
        d.now(Op::Sling { rig, rank, on, held });
    });
    plenty(&sling, 1_000, &mut deeds);
    let (faults, people) = (100 + chance.below(500), 100 + chance.below(500));
    for kind in &FAULTS {
        plenty(kind, faults, &mut deeds);
    }
    for kind in &PEOPLE {
        plenty(kind, people, &mut deeds);
    }
    deeds.retain(|d| d.at < lasts);
    deeds.sort_by_key(|d| d.at); // stable: what happens at one time happens in the order of the tables
    History { seed, lasts, stops_work, deeds }
}

/// Between 1 ms and `mean`, so that two make `mean` on average.
fn gap(chance: &SplitMix64, mean: Millis) -> Millis {
    1 + i64::try_from(chance.below(u64::try_from(mean).expect("positive"))).expect("small")
}
