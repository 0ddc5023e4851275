//! A history happens to a town, and everything is checked.

use crate::cover::{self, Cover, Pairs};
use crate::deed::{Deed, History, Timed};
use crate::draw;
use crate::history::{Op, Play};
use crate::letters::Letters;
use gastown::town::command::{Actor, Command, Heartbeat};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, MINUTE, Millis, Timestamp};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::Endpoint;
use gastown_host::ids::SplitMix64;
use gastown_host::owner;
use gastown_host::sqlite::SqlFault;
use gastown_host::world::Ring;
use serde_json::{Value as Json, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;

/// Every so many checks the public answers are compared, too.
const ANSWERS_EVERY: u64 = 211;

/// How a run broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What stays the same while the history shrinks: the words of the first line, without ids and numbers.
    pub class: String,
    /// All of it, with what happened last.
    pub told: String,
    /// How long after the founding.
    pub at: Millis,
}

/// What runs have come to, so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Histories played to their end.
    pub runs: u64,
    /// Simulated time.
    pub lived: Millis,
    /// Things that happened.
    pub steps: u64,
    /// Commands and voices that the town handled, outcomes it settled, ticks, crashes.
    pub events: [u64; 5],
    /// Processes that really started.
    pub starts: u64,
    /// Deeds by kind: people's and what goes wrong.
    pub deeds: BTreeMap<&'static str, u64>,
    /// Calls that went wrong, by kind.
    pub calls: BTreeMap<&'static str, u64>,
    /// What was in the air when the object died: (effect, how far it was).
    pub interrupted: BTreeMap<(&'static str, &'static str), u64>,
    /// Verbs in which a statement was made to fail.
    pub failed_verbs: u64,
    /// Pairs of states seen.
    pub pairs: Pairs,
}

impl Report {
    /// In words.
    #[must_use]
    pub fn told(&self) -> String {
        let [commands, voices, outcomes, ticks, crashes] = self.events;
        let hours = self.lived / HOUR;
        let list = |of: &BTreeMap<&'static str, u64>| {
            of.iter().fold(String::new(), |mut out, (kind, n)| {
                let _ = writeln!(out, "  {n:>8}  {kind}");
                out
            })
        };
        let pairs = self.pairs.iter().fold(String::new(), |mut out, ((what, from, to), n)| {
            let _ = writeln!(out, "  {n:>8}  {what}: {from} -> {to}");
            out
        });
        let interrupted = self.interrupted.iter().fold(String::new(), |mut out, ((what, how_far), n)| {
            let _ = writeln!(out, "  {n:>8}  {what}: {how_far}");
            out
        });
        let or_none = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!(
            "{} runs, {}.{} town-days, {} steps; {commands} commands, {voices} voices, {outcomes} outcomes, {ticks} \
             ticks, {crashes} crashes, {} verbs with a failed statement; {} real starts\nwhat happened, by \
             kind:\n{}never: {}\ncalls and alarms that went wrong, by kind:\n{}in the air when the object \
             died:\n{interrupted}state pairs, {}:\n{pairs}never, though possible: {}\n",
            self.runs,
            hours / 24,
            hours % 24 * 10 / 24,
            self.steps,
            self.failed_verbs,
            self.starts,
            list(&self.deeds),
            or_none(draw::kinds().filter(|kind| !self.deeds.contains_key(kind)).map(str::to_owned).collect()),
            list(&self.calls),
            self.pairs.len(),
            or_none(cover::missing(&self.pairs)),
        )
    }
}

impl Report {
    /// The same for programs. Times are in hours, kinds and pairs are counted.
    #[must_use]
    pub fn json(&self) -> Json {
        let [commands, voices, outcomes, ticks, crashes] = self.events;
        let interrupted: Vec<Json> = self
            .interrupted
            .iter()
            .map(|((effect, how_far), n)| json!({"effect": effect, "how_far": how_far, "times": n}))
            .collect();
        let pairs: Vec<Json> = self
            .pairs
            .iter()
            .map(|((what, from, to), n)| json!({"what": what, "from": from, "to": to, "times": n}))
            .collect();
        json!({
            "runs": self.runs,
            "town_hours": self.lived / HOUR,
            "steps": self.steps,
            "commands": commands,
            "voices": voices,
            "outcomes": outcomes,
            "ticks": ticks,
            "crashes": crashes,
            "verbs_with_a_failed_statement": self.failed_verbs,
            "real_starts": self.starts,
            "happened": self.deeds,
            "happened_never": draw::kinds().filter(|kind| !self.deeds.contains_key(kind)).collect::<Vec<_>>(),
            "calls_gone_wrong": self.calls,
            "interrupted": interrupted,
            "state_pairs": pairs,
            "state_pairs_never": cover::missing(&self.pairs),
        })
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Plays a history on a town of its own.
///
/// # Errors
/// The first promise that it broke.
pub fn play(history: &History, report: &mut Report) -> Result<(), Failure> {
    static HOOK: Once = Once::new();
    // A broken promise is a panic that is caught here and told once, shrunk: not a thousand times on the way.
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let at = Rc::new(Cell::new(0));
    let seen = Rc::clone(&at);
    let was_quiet = QUIET.replace(true);
    let played = catch_unwind(AssertUnwindSafe(|| Run::new(history, report, seen).live_to_the_end()));
    QUIET.set(was_quiet);
    played.map_err(|panic| {
        let told = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned());
        Failure { class: class(&told), told, at: at.get() }
    })
}

/// The first words of a failure that are neither ids nor numbers, but for the invariant's.
fn class(told: &str) -> String {
    let line = told.lines().next().unwrap_or_default();
    let line = line.split("explain says").next().unwrap_or(line);
    let (number, rest) = line.split_once(": ").unwrap_or(("", line));
    let plain = |w: &&str| !w.contains(|c: char| c.is_ascii_digit() || c == '{' || c == '"');
    let words: Vec<&str> = rest.split_whitespace().filter(plain).take(8).collect();
    format!("{number}: {}", words.join(" "))
}

struct Run<'a> {
    history: &'a History,
    report: &'a mut Report,
    play: Play,
    cover: Cover,
    begun: Timestamp,
    at: Rc<Cell<Millis>>,
    wrong: Rc<RefCell<BTreeMap<&'static str, u64>>>,
    letters: Letters,
    /// Somebody reads the mayor's mail in this step.
    read: bool,
}

impl<'a> Run<'a> {
    fn new(history: &'a History, report: &'a mut Report, at: Rc<Cell<Millis>>) -> Self {
        let mut play = Play::new(history.seed, history.stops_work, ANSWERS_EVERY);
        play.world.keep_history = false;
        // Only these may fail; whoever is hit must say so and change nothing.
        play.world.tolerate_errors = history.deeds.iter().any(|d| matches!(d.deed, Deed::SqlFails { .. }));
        let begun = play.world.now();
        Self {
            history,
            report,
            play,
            cover: Cover::default(),
            begun,
            at,
            wrong: Rc::default(),
            letters: Letters::default(),
            read: false,
        }
    }

    fn live_to_the_end(mut self) {
        for timed in &self.history.deeds {
            self.run_until(self.begun.plus(timed.at));
            self.deed(timed);
            self.look();
        }
        self.run_until(self.begun.plus(self.history.lasts));
        self.play.heal_and_demand_everything();
        let end = self.play.world.now().plus(2 * HOUR);
        while !self.letters.all_delivered(&self.play.world) && self.step(end) {}
        self.letters.demand(&self.play.world);
        // The predecessor's processes do not say for whom they speak, so what one says may be taken for another's.
        if self.history.stops_work && self.play.world.container.always_named_dispatches() {
            self.play.nothing_twice();
        } else {
            self.play.no_attempt_twice();
        }
        self.look();
        let (world, report) = (&self.play.world, self.report);
        let counts = &world.counts;
        report.runs += 1;
        report.lived += world.now().since(self.begun);
        let events = [counts.commands, counts.voices, counts.outcomes, counts.ticks, counts.crashes];
        for (sum, n) in report.events.iter_mut().zip(events) {
            *sum += n;
        }
        report.starts += u64::try_from(world.starts().len()).expect("few");
        report.failed_verbs += counts.failed_verbs;
        for (what, n) in &world.interrupted {
            *report.interrupted.entry(*what).or_default() += n;
        }
        for (kind, n) in self.wrong.borrow().iter() {
            *report.calls.entry(kind).or_default() += n;
        }
        for (pair, n) in &self.cover.pairs {
            *report.pairs.entry(pair.clone()).or_default() += n;
        }
    }

    fn look(&mut self) {
        if self.play.world.sql.is_broken() {
            self.play.one(&Op::Crash(false));
        }
        self.at.set(self.play.world.now().since(self.begun));
        self.cover.see(&self.play.world);
        self.letters.look(&self.play.world, std::mem::take(&mut self.read));
    }

    fn run_until(&mut self, end: Timestamp) {
        while self.play.world.step(end) {
            self.report.steps += 1;
            self.look();
        }
        if self.play.world.now() < end {
            self.play.world.clock.set(end);
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm per deed")]
    fn deed(&mut self, timed: &Timed) {
        *self.report.deeds.entry(timed.kind).or_default() += 1;
        match &timed.deed {
            Deed::Op(op) => {
                self.read = matches!(op, Op::MayorReads);
                self.play.one(op);
            }
            Deed::Burst(n) => {
                for nth in 0..*n {
                    let rig = u8::try_from(nth % 4).expect("small");
                    self.play.one(&Op::Sling { rig, rank: 2, on: Vec::new(), held: false });
                }
            }
            Deed::Flaky { endpoints, wrong, per_mille, seed } => {
                let (endpoints, fault, per_mille) = (*endpoints, wrong.fault(), u64::from(*per_mille));
                let (chance, kind, counted) = (SplitMix64::new(*seed), timed.kind, Rc::clone(&self.wrong));
                self.play.world.container.faults.script(move |_, endpoint, _, _| {
                    let place = Endpoint::ALL.iter().position(|e| *e == endpoint)?;
                    let hit = endpoints >> place & 1 == 1 && chance.per_mille(per_mille);
                    hit.then(|| {
                        *counted.borrow_mut().entry(kind).or_default() += 1;
                        fault.clone()
                    })
                });
            }
            Deed::Stall(ms) => self.play.world.freeze(*ms),
            Deed::CrashInFlight { steps, losing } => {
                let end = self.play.world.now().plus(HOUR);
                while self.play.world.in_the_air() == 0 && self.step(end) {}
                for _ in 0..*steps {
                    self.step(end);
                }
                self.play.one(&Op::Crash(*losing));
            }
            Deed::Ghost { nth, says } => self.ghost(usize::from(*nth), *says),
            Deed::Mail(a) => self.mail(usize::from(*a)),
            Deed::Say => {
                let command = self.letters.next();
                self.play.tell(&owner(), command);
                self.letters.given(&self.play.world);
            }
            Deed::TurnEnds => {
                let Some(agent_id) = Letters::mayor(&self.play.world) else { return };
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                self.play.tell(&actor, Command::Waiting { agent_id, fired_at: None });
            }
            Deed::MayorEnds(how) => {
                let Some(mayor) = Letters::mayor(&self.play.world) else { return };
                let ending = match how {
                    0 => Ending::Completed { reason: None },
                    1 => Ending::Exited { reason: "completed".to_owned() },
                    _ => Ending::Vanished,
                };
                let now = self.play.world.now();
                self.play.world.container.end_now(now, mayor.as_str(), ending);
            }
            Deed::Nudge { whom, how } => {
                let agents = self.texts("SELECT agent_id FROM agents ORDER BY seq");
                let Some(target) = place(&agents, *whom).map(AgentId) else { return };
                let command = self.letters.nudge(target, ["immediate", "wait-idle", "queue"][usize::from(*how) % 3]);
                self.play.tell(&owner(), command);
                self.letters.given(&self.play.world);
            }
            Deed::ReadsNudges(a) => {
                // One that has some, if there is one.
                let pending = self.texts("SELECT agent_id FROM nudges WHERE delivered_at IS NULL ORDER BY seq");
                let Some(agent_id) = place(&pending, *a).map(AgentId) else { return };
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                let asked = Command::PendingNudges { agent_id: agent_id.clone() };
                let Ok(reply) = self.play.world.command(&actor, asked) else { return };
                let Some(nudge_id) = reply.data[0]["nudge_id"].as_str().map(str::to_owned) else { return };
                self.read = true;
                self.play.tell(&actor, Command::NudgeDelivered { agent_id, nudge_id });
            }
            Deed::MayorHandled(n) => {
                let said = |status: &str| Command::MayorCompleted { status: status.to_owned(), reason: None };
                let container = Actor::Container { agent_id: Letters::mayor(&self.play.world), dispatch_id: None };
                let (actor, command) = match n {
                    0 => (owner(), Command::EnsureMayor),
                    1 => (owner(), Command::DestroyMayor),
                    // Its process lives, and nobody would stop it.
                    2 if !self.history.stops_work => (container, said("completed")),
                    3 if !self.history.stops_work => (container, said("failed")),
                    4 => (owner(), Command::ConfigureMayor),
                    _ => (owner(), Command::DashboardContext { context: "{\"page\": \"beads\"}".to_owned() }),
                };
                self.play.tell(&actor, command);
            }
            Deed::OwnPullRequests(n) => self.own_pull_requests(*n),
            Deed::ConvoyOf(beads) => {
                let all = self.play.world.sql.peek(
                    "SELECT bead_id, coalesce(rig_id, '') FROM beads WHERE type = 'issue' AND status = 'open' ORDER BY seq",
                    &[],
                );
                let pair = |n: &u8| {
                    let row = all.get(usize::from(*n) % all.len().max(1))?;
                    Some((BeadId(row.text(0).ok()?), RigId(row.text(1).ok()?)))
                };
                let mut beads: Vec<_> = beads.iter().filter_map(pair).collect();
                // Four in five lists name nothing twice.
                if beads.len() < 5 {
                    beads.sort();
                    beads.dedup();
                }
                self.play.tell(&owner(), Command::CreateConvoy { title: "Gathered".to_owned(), beads });
            }
            Deed::DeleteByStatus(n) => {
                let rigs = self.texts("SELECT rig_id FROM rigs ORDER BY seq");
                let Some(rig_id) = place(&rigs, *n).map(RigId) else { return };
                let status = ["closed", "failed", "open"][usize::from(*n) % 3].to_owned();
                let kind = (*n > 127).then(|| "merge_request".to_owned());
                self.play.tell(&owner(), Command::DeleteByStatus { rig_id, status, kind });
            }
            Deed::Alarms { kind, per_mille, seed } => {
                let (kind, per_mille, chance) = (*kind, u64::from(*per_mille), SplitMix64::new(*seed));
                let (name, counted) = (timed.kind, Rc::clone(&self.wrong));
                self.play.world.filter_alarms(move || {
                    if !chance.per_mille(per_mille) {
                        return Ring::Once;
                    }
                    *counted.borrow_mut().entry(name).or_default() += 1;
                    match kind {
                        0 => Ring::Twice,
                        1 => Ring::Late(1 + i64::try_from(chance.below(10)).expect("small") * MINUTE),
                        _ => Ring::Dropped,
                    }
                });
            }
            Deed::AlarmsRight => self.play.world.unfilter_alarms(),
            Deed::Ring => self.play.world.ring(),
            Deed::ClockSteps(ms) => self.play.world.step_clock(*ms),
            Deed::SqlFails { nth, dies } => {
                let fault = if *dies { SqlFault::Broken } else { SqlFault::Once };
                self.play.world.sql.fail_statement(u64::from(*nth), fault);
            }
            Deed::Predecessor(kind) => {
                let now = self.play.world.now();
                match kind {
                    Some(refuses) => self.play.world.container.replace_by_predecessor(now, *refuses),
                    None => self.play.world.container.replace_by_ours(now),
                }
            }
            Deed::Exit { dies, other } => {
                let now = self.play.world.now();
                let mut instance = self.play.world.container.instance_id().to_owned();
                if *other {
                    instance = format!("{instance}-before");
                }
                if *dies {
                    self.play.world.container.kill(now);
                }
                let reason = "the platform says so".to_owned();
                let exited = Command::ContainerExited { instance: Some(instance), exit_code: Some(137), reason };
                self.play.tell(&Actor::System, exited);
            }
            Deed::Settings(n) => {
                let patch = json!({"git_author_name": format!("author {n}")});
                let actor = Actor::User { sub: "owner".to_owned() };
                self.play.tell(&actor, Command::PatchConfig { patch });
            }
            Deed::Tamper(sql) => {
                self.play.world.sql.execute(sql, &[]).expect("the statement is good");
            }
        }
    }

    fn step(&mut self, end: Timestamp) -> bool {
        let stepped = self.play.world.step(end);
        self.report.steps += u64::from(stepped);
        self.look();
        stepped
    }

    /// What a process said before it ended arrives only now.
    fn ghost(&mut self, nth: usize, says: u8) {
        let starts = self.play.world.starts();
        let lives = |attempt: &str| starts.iter().any(|s| s.attempt_id == attempt && s.ended_at.is_none());
        let gone: Vec<_> = starts.iter().filter(|s| s.role != "mayor" && !lives(&s.attempt_id)).collect();
        // The latest are the likeliest.
        let Some(start) = gone.len().checked_sub(1 + nth % 8).and_then(|at| gone.get(at)) else { return };
        let agent_id = AgentId(start.agent_id.clone());
        let dispatch_id = Some(start.attempt_id.clone());
        let command = match says % 3 {
            0 => Command::Heartbeat {
                body: Heartbeat {
                    agent_id: Some(start.agent_id.clone()),
                    status: Some("running".to_owned()),
                    container_instance_id: Some(start.instance_id.clone()),
                    dispatch_id: dispatch_id.clone(),
                    ..Heartbeat::default()
                },
                agent_id: agent_id.clone(),
            },
            1 => Command::Done {
                agent_id: agent_id.clone(),
                branch: Some("gt/late/branch".to_owned()),
                pr_url: None,
                summary: None,
            },
            _ => Command::Completed {
                agent_id: agent_id.clone(),
                status: "failed".to_owned(),
                reason: None,
                phase: None,
                model_status: None,
            },
        };
        self.play.tell(&Actor::Container { agent_id: Some(agent_id), dispatch_id }, command);
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        self.play.world.sql.peek(sql, &[]).iter().filter_map(|r| r.text(0).ok()).collect()
    }

    /// Agents are done with a pull request each that they opened themselves; some belong to another rig's repository, and the
    /// last one is named again and again.
    fn own_pull_requests(&mut self, n: u8) {
        let opened: Vec<String> = (0..n)
            .map(|nth| {
                let number = self.play.world.forge.open("acme/main", &format!("gt/own/{nth}"), "main");
                format!("https://github.com/acme/main/pull/{number}")
            })
            .collect();
        let next = Cell::new(0);
        self.play.world.container.behave(move |start| match start.request.role.as_str() {
            "polecat" if start.request.lightweight.is_none() => {
                let url = opened[next.get().min(opened.len() - 1)].clone();
                next.set(next.get() + 1);
                Behaviour::ends(2 * MINUTE, Ending::OpensPullRequest { url })
            }
            role => Behaviour::good(role),
        });
    }

    fn mail(&mut self, nth: usize) {
        let agents = self.texts("SELECT agent_id FROM agents ORDER BY seq");
        let rigs = self.texts("SELECT rig_id FROM rigs ORDER BY seq");
        let mayor = self.texts("SELECT mayor_agent_id FROM town");
        let (Some(from), Some(to)) = (agents.get(nth % agents.len().max(1)), mayor.first()) else { return };
        let actor = Actor::Container { agent_id: Some(AgentId(from.clone())), dispatch_id: None };
        let mail = Command::SendMail {
            from_agent_id: from.clone(),
            to_agent_id: to.clone(),
            subject: "A question".to_owned(),
            body: "What now?".to_owned(),
        };
        self.play.tell(&actor, mail);
        if let Some(rig_id) = rigs.get(nth % rigs.len().max(1)) {
            let title = "It is stuck".to_owned();
            let rig_id = RigId(rig_id.clone());
            let escalate = Command::Escalate { rig_id, title, body: None, priority: None, metadata: None };
            self.play.tell(&actor, escalate);
        }
    }
}

/// One of them, by its place.
fn place(of: &[String], n: u8) -> Option<String> {
    of.get(usize::from(n) % of.len().max(1)).cloned()
}
