//! A history as data: what happens, and when.

use crate::history::{Op, Wrong};
use gastown::town::time::Millis;

/// Something that happens at a time, counted from the town's founding.
#[derive(Clone, Debug)]
pub struct Timed {
    /// When.
    pub at: Millis,
    /// Its kind, by which faults and people are counted.
    pub kind: &'static str,
    /// What.
    pub deed: Deed,
}

/// What happens. Small numbers name things by their place among those that exist at that moment.
#[derive(Clone, Debug)]
pub enum Deed {
    /// What the property tests know, too.
    Op(Op),
    /// So many beads are slung at once.
    Burst(u16),
    /// From now on, calls to these endpoints (a bit each, in the order of `Endpoint::ALL`) go wrong so many times in a
    /// thousand.
    Flaky {
        /// The endpoints.
        endpoints: u8,
        /// What goes wrong.
        wrong: Wrong,
        /// How often.
        per_mille: u16,
        /// Which of them.
        seed: u64,
    },
    /// Nothing runs for so long, and then everything that was due is late: the alarm above all.
    Stall(Millis),
    /// The object dies with something in the air, if something is within the hour.
    CrashInFlight {
        /// So many steps after it has left.
        steps: u8,
        /// What has not arrived yet never does.
        losing: bool,
    },
    /// A process that is gone is heard once more: its words were long under way.
    Ghost {
        /// Which.
        nth: u16,
        /// Heartbeat, done, completed.
        says: u8,
    },
    /// An agent writes to the mayor, and escalates.
    Mail(u8),
    /// A person writes to the mayor.
    Say,
    /// The mayor's turn has ended.
    TurnEnds,
    /// The mayor's process ends: cleanly, without a word, without a trace.
    MayorEnds(u8),
    /// Somebody nudges an agent.
    Nudge {
        /// Whom.
        whom: u8,
        /// At once, when it is idle, when it asks.
        how: u8,
    },
    /// An agent asks for its nudges and says that it has read the first.
    ReadsNudges(u8),
    /// Somebody opens the mayor's page, destroys the mayor, or says that its session is over; the dashboard tells what it
    /// shows.
    MayorHandled(u8),
    /// From now on agents open pull requests by themselves: these, one after another.
    OwnPullRequests(u8),
    /// These beads become a convoy.
    ConvoyOf(Vec<u8>),
    /// All beads of a status are deleted.
    DeleteByStatus(u8),
    /// From now on alarms that are due in a quiet town ring twice, late, or never, so many times in a thousand.
    Alarms {
        /// Twice, late, dropped, or any of these.
        kind: u8,
        /// How often.
        per_mille: u16,
        /// Which of them, and how late.
        seed: u64,
    },
    /// They ring as they should again.
    AlarmsRight,
    /// The alarm rings though nobody armed it for now.
    Ring,
    /// The object's clock steps by so much.
    ClockSteps(Millis),
    /// The so-manieth statement from now fails.
    SqlFails {
        /// Which; 1 is the next.
        nth: u8,
        /// All that follow do, too, until the object has died of it.
        dies: bool,
    },
    /// The container is replaced by the predecessor's (`Some`: does it refuse live agents?), or by ours again.
    Predecessor(Option<bool>),
    /// The container's process ends, or is only said to, and the platform reports it: of the instance that is, or of one that
    /// has been.
    Exit {
        /// It really ends.
        dies: bool,
        /// Another instance is named.
        other: bool,
    },
    /// A person changes settings that the container is told.
    Settings(u8),
    /// The rows are changed behind the town's back. Never drawn: with it the simulator is tested itself.
    Tamper(&'static str),
}

/// All that happens to one town.
#[derive(Clone, Debug)]
pub struct History {
    /// What the town's ids and the history are drawn from.
    pub seed: u64,
    /// How long it lasts; then everything heals.
    pub lasts: Millis,
    /// The way to `stop` is free of faults: then nothing at all may be done twice.
    pub stops_work: bool,
    /// What happens, in order of time.
    pub deeds: Vec<Timed>,
}
