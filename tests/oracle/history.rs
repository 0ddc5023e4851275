//! Random histories: what people, agents, the container and the network may do to a town, and how it is done to one.

use super::oracle::Oracle;
use super::oracle::rows::Rows;
use gastown::town::command::{Actor, Batch, BeadPatch, Command, NewBead, Task};
use gastown::town::id::{AgentId, BeadId, Ids, RigId};
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND};
use gastown_host::behaviour::{Behaviour, Ending, Says};
use gastown_host::fault::{Endpoint, Fault, Said};
use gastown_host::ids::SplitMix64;
use gastown_host::world::{Fate, World};
use gastown_host::{operator, owner};
use proptest::prelude::*;
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;

/// One thing that happens. Small numbers name beads, rigs and agents by their place among those there are.
#[derive(Clone, Debug)]
pub enum Op {
    Sling {
        rig: u8,
        rank: u8,
        on: Vec<u8>,
        held: bool,
    },
    Create {
        rig: u8,
        on: Vec<u8>,
    },
    /// Tasks that wait for earlier ones, or for anybody.
    Batch {
        rig: u8,
        plan: Vec<Vec<u8>>,
        staged: bool,
        alone: bool,
    },
    /// Something is done to a convoy, with a bead.
    Convoy {
        nth: u8,
        does: u8,
        bead: u8,
    },
    DeleteMany(u8),
    Reassign(u8, u8),
    Reset(u8),
    Cancel(u8),
    Close(u8),
    SetStatus(u8, u8),
    Redrive(u8),
    RedriveMany(u8),
    Label(u8, bool),
    Priority(u8, u8),
    Depend(u8, Vec<u8>),
    Lenient(u8),
    Move(u8, Option<u8>),
    DeleteBead(u8),
    Override {
        rig: Option<u8>,
        mode: u8,
        minutes: u8,
    },
    Probe(Option<u8>),
    Limits {
        agents: u8,
        per_rig: u8,
        starts: u8,
    },
    Cap(u8),
    RigLimits(u8, Option<u8>, Option<u8>),
    AddRig,
    RemoveRig(u8),
    CreateAgent(u8),
    DeleteAgent(u8),
    Hook(u8, u8),
    Unhook(u8),
    AgentDone(u8, bool),
    AgentCloses(u8),
    AgentCompleted(u8, bool),
    Verdict(u8, u8),
    Submit(u8, u8),
    /// Through pull requests from now on, or not.
    Strategy(bool),
    /// What people and machines do to a pull request.
    Forge(u8, u8),
    /// What goes wrong with every call to the forge; 0 is nothing.
    ForgeDown(u8),
    /// Refineries ask for changes every other time.
    Picky(u64),
    Checkpoint(u8),
    MayorReads,
    Webhook(u8),
    TestNotice,
    Standing(u8, Wrong),
    Once(u8, Wrong),
    Everything(Wrong),
    Clear,
    Behave(u8, u64),
    Voices(u8, u64),
    HearAll,
    Drain(u16),
    Evict,
    Kill,
    Sleep(u16),
    Restart,
    /// Agents that go quiet after so many minutes, and triage agents that choose this.
    Quiet(u8, u8),
    /// A person, the mayor or anybody else resolves a request.
    Resolve {
        request: u8,
        action: u8,
        who: u8,
    },
    /// From now on a process that takes over goes on with what the registry has, or does not.
    Resurrects(bool),
    /// A molecule is attached to a bead; its agent goes a step on.
    Molecule(u8),
    Advance(u8),
    Acknowledge(u8),
    Crash(bool),
    Wait(Millis),
    Steps(u8),
}

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Wrong {
    Refuse,
    DropBefore,
    DropAfter,
    HangBefore,
    HangAfter,
    Says(u8),
    DoesAndSays(u8),
    Slow(u16),
}

/// Answers of a container that something is wrong with: status, body, `Retry-After`.
const ANSWERS: [(u16, &str, Option<Millis>); 19] = [
    (500, r#"{"error":"it broke"}"#, None),
    (500, r#"{"error":"git said no","phase":"repository"}"#, None),
    (500, r#"{"error":"Command failed: fatal: repository 'x' not found"}"#, None),
    (500, r#"{"error":"rate limited","phase":"initial_prompt","status":429}"#, None),
    (500, r#"{"error":"overloaded","phase":"initial_prompt","status":529}"#, None),
    (500, r#"{"error":"no credit","phase":"initial_prompt","status":402}"#, None),
    (500, "The container is not listening in the TCP address 10.0.0.1:8080", None),
    (500, r#"{"error":"Agent x is already running"}"#, None),
    (503, r#"{"error":"Container is draining, cannot start new agents"}"#, None),
    (503, "There is no Container instance available at this time.", None),
    (503, r#"{"error":"busy"}"#, Some(40_000)),
    (502, "Bad gateway", None),
    (429, r#"{"error":"slow down"}"#, Some(90_000)),
    (429, "", None),
    (400, r#"{"error":"Invalid request body","issues":[]}"#, None),
    (422, r#"{"error":"this bead is odd"}"#, None),
    (404, "<html>not here</html>", None),
    (401, r#"{"error":"who are you"}"#, None),
    (200, "not json at all", None),
];

impl Wrong {
    /// An error that is answered after the deed is taken for one before it (`design.md` 5.3): it may cost a second start.
    fn honest(self) -> Self {
        match self {
            // `already running`, or a 2xx that cannot be read: both count as accepted.
            Self::DoesAndSays(n) if ![7, 18].contains(&n) => Self::DropAfter,
            wrong => wrong,
        }
    }
    pub fn fault(&self) -> Fault {
        let said = |n: u8| {
            let (status, body, retry_after) = ANSWERS[usize::from(n) % ANSWERS.len()];
            Said { status, body: body.to_owned(), retry_after }
        };
        match self {
            Self::Refuse => Fault::Refuse,
            Self::DropBefore => Fault::DropBefore,
            Self::DropAfter => Fault::DropAfter,
            Self::HangBefore => Fault::HangBefore,
            Self::HangAfter => Fault::HangAfter,
            Self::Says(n) => Fault::Answer(said(*n)),
            Self::DoesAndSays(n) => Fault::AnswerAfter(said(*n)),
            Self::Slow(s) => Fault::Slow(i64::from(*s) * SECOND),
        }
    }
}

pub fn wrong() -> impl Strategy<Value = Wrong> {
    let answers = u8::try_from(ANSWERS.len()).expect("few");
    prop_oneof![
        2 => Just(Wrong::Refuse),
        1 => Just(Wrong::DropBefore),
        2 => Just(Wrong::DropAfter),
        1 => Just(Wrong::HangBefore),
        1 => Just(Wrong::HangAfter),
        8 => (0..answers).prop_map(Wrong::Says),
        1 => (0..answers).prop_map(Wrong::DoesAndSays),
        1 => (1..80_u16).prop_map(Wrong::Slow),
    ]
}

fn few() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => Just(Vec::new()), 2 => proptest::collection::vec(any::<u8>(), 1..3)]
}

fn time() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..120_i64).prop_map(|s| Op::Wait(s * SECOND)),
        4 => (1..45_i64).prop_map(|m| Op::Wait(m * MINUTE)),
        1 => (1..9_i64).prop_map(|h| Op::Wait(h * HOUR)),
        3 => (1..20_u8).prop_map(Op::Steps),
    ]
}

/// What the container, its agents and the way to them do; stops get through, and nobody lies.
pub fn fair_weather() -> impl Strategy<Value = Op> {
    weather().prop_map(Op::benign)
}

/// What the container, its agents and the way to them do.
fn weather() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), any::<u64>()).prop_map(|(b, s)| Op::Behave(b, s)),
        3 => wrong().prop_map(|w| Op::Standing(0, w)),
        2 => (0..5_u8, wrong()).prop_map(|(e, w)| Op::Standing(e, w)),
        3 => (0..5_u8, wrong()).prop_map(|(e, w)| Op::Once(e, w)),
        1 => wrong().prop_map(Op::Everything),
        4 => Just(Op::Clear),
        2 => (any::<u8>(), any::<u64>()).prop_map(|(k, s)| Op::Voices(k, s)),
        2 => Just(Op::HearAll),
        2 => (1..400_u16).prop_map(Op::Drain),
        1 => Just(Op::Evict),
        2 => Just(Op::Kill),
        1 => (1..200_u16).prop_map(Op::Sleep),
        3 => Just(Op::Restart),
        1 => (0..40_u8, any::<u8>()).prop_map(|(minutes, action)| Op::Quiet(minutes, action)),
        1 => any::<bool>().prop_map(Op::Resurrects),
        2 => any::<bool>().prop_map(Op::Crash),
    ]
}

fn people() -> impl Strategy<Value = Op> {
    let work = prop_oneof![
        10 => (any::<u8>(), 0..4_u8, few(), proptest::bool::weighted(0.1))
            .prop_map(|(rig, rank, on, held)| Op::Sling { rig, rank, on, held }),
        2 => (any::<u8>(), few()).prop_map(|(rig, on)| Op::Create { rig, on }),
        1 => (any::<u8>(), proptest::collection::vec(few(), 1..5), any::<bool>(), any::<bool>())
            .prop_map(|(rig, plan, staged, alone)| Op::Batch { rig, plan, staged, alone }),
        2 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(nth, does, bead)| Op::Convoy { nth, does, bead }),
        1 => any::<u8>().prop_map(Op::DeleteMany),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(b, a)| Op::Reassign(b, a)),
        1 => any::<u8>().prop_map(Op::Reset),
        1 => any::<u8>().prop_map(Op::Cancel),
        1 => any::<u8>().prop_map(Op::Close),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(b, s)| Op::SetStatus(b, s)),
        3 => any::<u8>().prop_map(Op::Redrive),
        1 => any::<u8>().prop_map(Op::RedriveMany),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(b, h)| Op::Label(b, h)),
        1 => (any::<u8>(), 0..4_u8).prop_map(|(b, p)| Op::Priority(b, p)),
        1 => (any::<u8>(), few()).prop_map(|(b, on)| Op::Depend(b, on)),
        1 => any::<u8>().prop_map(Op::Lenient),
        1 => (any::<u8>(), proptest::option::of(any::<u8>())).prop_map(|(b, r)| Op::Move(b, r)),
        1 => any::<u8>().prop_map(Op::DeleteBead),
        2 => (any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(request, action, who)| Op::Resolve { request, action, who }),
        1 => any::<u8>().prop_map(Op::Molecule),
        1 => any::<u8>().prop_map(Op::Acknowledge),
    ];
    let control = prop_oneof![
        3 => (proptest::option::of(any::<u8>()), 0..4_u8, 1..120_u8)
            .prop_map(|(rig, mode, minutes)| Op::Override { rig, mode, minutes }),
        3 => proptest::option::of(any::<u8>()).prop_map(Op::Probe),
        1 => (1..6_u8, 1..5_u8, 1..8_u8).prop_map(|(agents, per_rig, starts)| Op::Limits { agents, per_rig, starts }),
        1 => (1..8_u8).prop_map(Op::Cap),
        1 => (any::<u8>(), proptest::option::of(1..4_u8), proptest::option::of(1..8_u8))
            .prop_map(|(r, p, c)| Op::RigLimits(r, p, c)),
        1 => any::<bool>().prop_map(Op::Strategy),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(n, k)| Op::Forge(n, k)),
        1 => (0..10_u8).prop_map(Op::ForgeDown),
        1 => any::<u64>().prop_map(Op::Picky),
        1 => Just(Op::AddRig),
        1 => any::<u8>().prop_map(Op::RemoveRig),
        1 => Just(Op::MayorReads),
        1 => (0..4_u8).prop_map(Op::Webhook),
        1 => Just(Op::TestNotice),
    ];
    let agents = prop_oneof![
        1 => any::<u8>().prop_map(Op::CreateAgent),
        1 => any::<u8>().prop_map(Op::DeleteAgent),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Hook(a, b)),
        1 => any::<u8>().prop_map(Op::Unhook),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(a, b)| Op::AgentDone(a, b)),
        1 => any::<u8>().prop_map(Op::AgentCloses),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(a, b)| Op::AgentCompleted(a, b)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(m, v)| Op::Verdict(m, v)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Submit(a, b)),
        1 => any::<u8>().prop_map(Op::Checkpoint),
        1 => any::<u8>().prop_map(Op::Advance),
    ];
    prop_oneof![6 => work, 2 => control, 2 => agents]
}

/// A history. `stops_work` keeps the way to `stop` free of faults.
pub fn ops(stops_work: bool, most: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![5 => people(), 4 => weather(), 5 => time()];
    let op = op.prop_map(move |op| if stops_work { op.benign() } else { op });
    proptest::collection::vec(op, 1..most)
}

impl Op {
    /// The same, as far as nothing need be done twice over it: stops get through, and nobody lies about what it did.
    fn benign(self) -> Self {
        match self {
            Self::Standing(3, w) => Self::Standing(0, w.honest()),
            Self::Standing(e, w) => Self::Standing(e, w.honest()),
            Self::Once(3, w) => Self::Once(0, w.honest()),
            Self::Once(e, w) => Self::Once(e, w.honest()),
            Self::Everything(w) => Self::Everything(w.honest()),
            // The process lives, and nobody would stop it.
            Self::AgentCompleted(a, b) => Self::AgentDone(a, b),
            op => op,
        }
    }
}
const ENDPOINTS: [Endpoint; 5] =
    [Endpoint::Start, Endpoint::Status, Endpoint::Health, Endpoint::Stop, Endpoint::Message];

/// A town to which a history happens.
pub struct Play {
    pub world: World,
    oracle: Rc<RefCell<Oracle>>,
    stops_work: bool,
    rigs: u32,
}

impl Play {
    pub fn new(seed: u64, stops_work: bool, answers_every: u64) -> Self {
        let (mut world, _) = World::founded(seed);
        let oracle = Rc::new(RefCell::new(Oracle::new(answers_every)));
        let sees = Rc::clone(&oracle);
        world.watch(move |w| sees.borrow_mut().check(w));
        world.webhook.fault = None;
        world.patch_config(json!({"notify": {"webhook_url": "https://hook.example.com", "webhook_secret": "s"}}));
        Self { world, oracle, stops_work, rigs: 1 }
    }

    pub fn all(&mut self, history: &[Op]) {
        for op in history {
            self.one(op);
        }
    }

    pub fn many(&mut self, beads: usize) {
        for _ in 0..beads {
            self.one(&Op::Sling { rig: 0, rank: 2, on: Vec::new(), held: false });
        }
    }

    pub fn wait(&mut self, ms: Millis) {
        self.world.run_for(ms);
    }

    /// Gives a command, whatever comes of it, and checks.
    pub fn tell(&mut self, actor: &Actor, command: Command) {
        // Words that do not come from its process may prove an attempt all the same.
        let whom = match (actor, &command) {
            (Actor::Container { agent_id: Some(agent), dispatch_id: None }, _) => Some(agent.0.clone()),
            (
                _,
                Command::CompleteReview { entry_id: bead, .. }
                | Command::CloseBead { bead_id: bead, .. }
                | Command::SetBeadStatus { bead_id: bead, .. },
            ) => Some(bead.0.clone()),
            _ => None,
        };
        if let Actor::Container { dispatch_id: Some(attempt_id), .. } = actor {
            self.oracle.borrow_mut().somebody_speaks_as(attempt_id);
        }
        if let Some(whom) = whom {
            self.oracle.borrow_mut().somebody_speaks_for(&self.world, &whom);
        }
        let _ = self.world.command(actor, command);
        self.oracle.borrow_mut().check(&self.world);
    }

    fn ids(&self, sql: &str) -> Vec<String> {
        self.world.sql.peek(sql, &[]).iter().map(|r| r.text(0).unwrap()).collect()
    }
    fn beads(&self) -> Vec<String> {
        self.ids("SELECT bead_id FROM beads WHERE type = 'issue' ORDER BY seq")
    }
    fn any_bead(&self, n: u8) -> Option<BeadId> {
        pick(&self.ids("SELECT bead_id FROM beads WHERE type IN ('issue', 'merge_request') ORDER BY seq"), n)
            .map(BeadId)
    }
    fn bead(&self, n: u8) -> Option<BeadId> {
        pick(&self.beads(), n).map(BeadId)
    }
    fn rig(&self, n: u8) -> Option<RigId> {
        pick(&self.ids("SELECT rig_id FROM rigs ORDER BY seq"), n).map(RigId)
    }
    fn rig_of(&self, bead: &BeadId) -> RigId {
        self.world.bead(bead)["rig_id"]
            .as_str()
            .map_or_else(|| RigId(format!("mayor-{}", self.world.town_id)), RigId::from)
    }
    fn agent(&self, n: u8) -> Option<(AgentId, RigId)> {
        let all = "SELECT agent_id FROM agents WHERE role <> 'mayor' ORDER BY seq";
        let id = pick(&self.ids(all), n)?;
        let rig = self.ids(&format!("SELECT rig_id FROM agents WHERE agent_id = '{id}'"));
        Some((AgentId(id), RigId(rig[0].clone())))
    }
    fn depends_on(&self, on: &[u8]) -> Vec<String> {
        on.iter().filter_map(|n| pick(&self.beads(), *n)).collect()
    }

    #[allow(clippy::too_many_lines, reason = "one arm per op")]
    pub fn one(&mut self, op: &Op) {
        match op {
            Op::Sling { rig, rank, on, held } => {
                let Some(rig_id) = self.rig(*rig) else { return };
                let labels = if *held { vec!["gt:held".to_owned()] } else { Vec::new() };
                let bead = NewBead {
                    title: "Work".to_owned(),
                    priority: Some(PRIORITIES[usize::from(*rank)].to_owned()),
                    depends_on: self.depends_on(on),
                    labels,
                    ..NewBead::default()
                };
                self.tell(&owner(), Command::Sling { rig_id, bead });
            }
            Op::Create { rig, on } => {
                let Some(rig_id) = self.rig(*rig) else { return };
                let bead = NewBead { title: "Idea".to_owned(), depends_on: self.depends_on(on), ..NewBead::default() };
                self.tell(&owner(), Command::CreateBead { rig_id, bead });
            }
            Op::Batch { rig, plan, staged, alone } => {
                let Some(rig_id) = self.rig(*rig) else { return };
                // One in 16 edges may point anywhere: such a plan is refused.
                let place = |n: usize, b: u8| usize::from(b) % if b > 240 { plan.len() } else { n };
                let task = |(n, on): (usize, &Vec<u8>)| Task {
                    bead: NewBead { title: format!("Task {n}"), ..NewBead::default() },
                    depends_on: on.iter().filter(|b| n > 0 || **b > 240).map(|b| place(n, *b)).collect(),
                };
                let tasks = plan.iter().enumerate().map(task).collect();
                let merge_mode = alone.then(|| "review-and-merge".to_owned());
                let batch =
                    Batch { title: "Convoy".to_owned(), tasks, merge_mode, staged: Some(*staged), metadata: None };
                self.tell(&owner(), Command::SlingBatch { rig_id, batch });
            }
            Op::Convoy { nth, does, bead } => {
                let convoys = self.ids("SELECT bead_id FROM convoys ORDER BY seq");
                let Some(convoy_id) = pick(&convoys, *nth).map(BeadId) else { return };
                let task = self.ids(&format!(
                    "SELECT bead_id FROM bead_dependencies
                     WHERE kind = 'tracks' AND depends_on_bead_id = '{convoy_id}' ORDER BY bead_id"
                ));
                let (task, bead_id) = (pick(&task, *bead).map(BeadId), self.bead(*bead));
                let command = match (does % 8, task, bead_id) {
                    (0..=2, ..) => Command::StartConvoy { convoy_id },
                    (3, ..) => Command::CloseConvoy { convoy_id },
                    (4, _, Some(bead_id)) => Command::AddToConvoy { convoy_id, bead_id, depends_on: Vec::new() },
                    (5, Some(bead_id), _) => Command::RemoveFromConvoy { convoy_id, bead_id },
                    (6, ..) => {
                        let mode = if *bead > 127 { "review-and-merge" } else { "review-then-land" };
                        Command::PatchConvoy { convoy_id, merge_mode: Some(mode.to_owned()), feature_branch: None }
                    }
                    (7, Some(_), _) => Command::CancelBead { bead_id: convoy_id, reason: "not wanted".to_owned() },
                    (_, Some(bead_id), _) => Command::ConvoyBeadClosed { convoy_id, bead_id },
                    _ => return,
                };
                self.tell(&owner(), command);
            }
            Op::DeleteMany(n) => {
                let Some(rig_id) = self.rig(*n) else { return };
                let all = self.ids("SELECT bead_id FROM beads ORDER BY seq");
                let bead_ids = (0..3).filter_map(|i| pick(&all, n.wrapping_mul(7).wrapping_add(i * 5))).collect();
                self.tell(&owner(), Command::DeleteBeads { rig_id, bead_ids });
            }
            Op::Reassign(b, a) => {
                let (Some((agent_id, rig_id)), Some(bead_id)) = (self.agent(*a), self.any_bead(*b)) else { return };
                self.tell(&owner(), Command::Reassign { rig_id, bead_id, agent_id });
            }
            Op::Reset(a) => {
                let Some((agent_id, rig_id)) = self.agent(*a) else { return };
                self.tell(&owner(), Command::ResetAgent { rig_id, agent_id });
            }
            Op::Cancel(b) => {
                let Some(bead_id) = self.any_bead(*b) else { return };
                self.tell(&owner(), Command::CancelBead { bead_id, reason: "not wanted".to_owned() });
            }
            Op::Close(b) => {
                let Some(bead_id) = self.any_bead(*b) else { return };
                let rig_id = self.rig_of(&bead_id);
                self.tell(&owner(), Command::CloseBead { rig_id, bead_id, agent_id: "somebody".to_owned() });
            }
            Op::SetStatus(b, s) => {
                let Some(bead_id) = self.any_bead(*b) else { return };
                let status = ["open", "closed", "failed", "in_progress", "in_review"][usize::from(*s) % 5].to_owned();
                let rig_id = self.rig_of(&bead_id);
                self.tell(&owner(), Command::SetBeadStatus { rig_id, bead_id, status });
            }
            Op::Redrive(n) => {
                let failed = self.ids("SELECT bead_id FROM beads WHERE status = 'failed' ORDER BY seq");
                let Some(bead_id) = pick(&failed, *n).map(BeadId) else { return };
                self.tell(&owner(), Command::RedriveBead { bead_id, reason: None });
            }
            Op::RedriveMany(n) => {
                let command = Command::Redrive {
                    fingerprint: None,
                    rig_id: None,
                    limit: Some(u32::from(*n % 20) + 1),
                    dry_run: *n > 200,
                    reason: "it is better now".to_owned(),
                };
                self.tell(&operator(), command);
            }
            Op::Label(b, held) => {
                let labels = if *held { vec!["gt:held".to_owned()] } else { Vec::new() };
                self.patch(*b, BeadPatch { labels: Some(labels), ..BeadPatch::default() });
            }
            Op::Priority(b, p) => {
                let priority = Some(PRIORITIES[usize::from(*p)].to_owned());
                self.patch(*b, BeadPatch { priority, ..BeadPatch::default() });
            }
            Op::Depend(b, on) => {
                let depends_on = Some(self.depends_on(on));
                self.patch(*b, BeadPatch { depends_on, ..BeadPatch::default() });
            }
            Op::Lenient(b) => {
                let metadata = Some(json!({"allow_failed_blockers": true}));
                self.patch(*b, BeadPatch { metadata, ..BeadPatch::default() });
            }
            Op::Move(b, rig) => {
                let rig_id = Some(rig.and_then(|r| self.rig(r)).map(|r| r.0));
                self.patch(*b, BeadPatch { rig_id, ..BeadPatch::default() });
            }
            Op::DeleteBead(b) => {
                let Some(bead_id) = self.any_bead(*b) else { return };
                let rig_id = self.rig_of(&bead_id);
                self.tell(&owner(), Command::DeleteBead { rig_id, bead_id });
            }
            Op::Override { rig, mode, minutes } => {
                let scope = self.scope(*rig);
                let mode = ["auto", "forced_open", "forced_closed", "shadow"][usize::from(*mode)].to_owned();
                let expires_in_ms = Some(i64::from((*minutes).min(59)) * MINUTE);
                let reason = Some("because".to_owned());
                self.tell(&operator(), Command::OverrideBreaker { scope, mode, reason, expires_in_ms });
            }
            Op::Probe(rig) => {
                let scope = self.scope(*rig);
                self.tell(&owner(), Command::ProbeBreaker { scope });
            }
            Op::Limits { agents, per_rig, starts } => {
                let patch = json!({"dispatch": {"max_agents": agents, "max_polecats_per_rig": per_rig,
                                                "max_starts_in_flight": starts}});
                self.tell(&owner(), Command::PatchConfig { patch });
            }
            Op::Cap(n) => {
                self.tell(&owner(), Command::PatchConfig { patch: json!({"dispatch": {"max_attempts": n}}) });
            }
            Op::RigLimits(r, polecats, cap) => {
                let Some(rig_id) = self.rig(*r) else { return };
                let patch = json!({"max_concurrent_polecats": polecats, "max_dispatch_attempts": cap});
                self.tell(&owner(), Command::PatchRigConfig { rig_id, patch });
            }
            Op::AddRig => {
                if self.rigs < 4 {
                    self.rigs += 1;
                    let (rig_id, name) = (RigId(self.world.ids.uuid()), format!("rig-{}", self.rigs));
                    let git_url = format!("https://github.com/acme/{name}.git");
                    self.tell(&owner(), Command::AddRig { rig_id, name, git_url, default_branch: None });
                }
            }
            Op::RemoveRig(r) => {
                // One rig stays, or the history would be over.
                if self.ids("SELECT rig_id FROM rigs").len() > 1
                    && let Some(rig_id) = self.rig(*r)
                {
                    self.tell(&owner(), Command::RemoveRig { rig_id });
                }
            }
            Op::CreateAgent(r) => {
                let Some(rig_id) = self.rig(*r) else { return };
                let role = if *r % 4 == 0 { "refinery" } else { "polecat" }.to_owned();
                self.tell(&owner(), Command::GetOrCreateAgent { rig_id, role });
            }
            Op::DeleteAgent(a) => {
                let Some((agent_id, rig_id)) = self.agent(*a) else { return };
                self.tell(&owner(), Command::DeleteAgent { rig_id, agent_id });
            }
            Op::Hook(a, b) => {
                let (Some((agent_id, rig_id)), Some(bead_id)) = (self.agent(*a), self.any_bead(*b)) else { return };
                self.tell(&owner(), Command::Hook { rig_id, agent_id, bead_id });
            }
            Op::Unhook(a) => {
                let Some((agent_id, rig_id)) = self.agent(*a) else { return };
                self.tell(&owner(), Command::Unhook { rig_id, agent_id });
            }
            Op::AgentDone(a, branch) => {
                let Some((agent_id, _)) = self.agent(*a) else { return };
                let branch = branch.then(|| "gt/odd/branch".to_owned());
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                self.tell(&actor, Command::Done { agent_id, branch, pr_url: None, summary: None });
            }
            Op::AgentCloses(a) => {
                let Some((agent_id, rig_id)) = self.agent(*a) else { return };
                let hook = format!(
                    "SELECT current_hook_bead_id FROM agents
                                    WHERE agent_id = '{agent_id}' AND current_hook_bead_id IS NOT NULL"
                );
                let Some(bead_id) = self.ids(&hook).first().cloned().map(BeadId) else { return };
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                self.tell(&actor, Command::CloseBead { rig_id, bead_id, agent_id: agent_id.0 });
            }
            Op::AgentCompleted(a, failed) => {
                let Some((agent_id, _)) = self.agent(*a) else { return };
                let status = if *failed { "failed" } else { "completed" }.to_owned();
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                let command = Command::Completed { agent_id, status, reason: None, phase: None, model_status: None };
                self.tell(&actor, command);
            }
            Op::Verdict(m, v) => {
                let all = self.ids("SELECT bead_id FROM beads WHERE type = 'merge_request' ORDER BY seq");
                let Some(entry_id) = pick(&all, *m).map(BeadId) else { return };
                let status = ["merged", "failed", "conflict"][usize::from(*v) % 3].to_owned();
                let command =
                    Command::CompleteReview { entry_id, status, message: "by hand".to_owned(), commit_sha: None };
                self.tell(&owner(), command);
            }
            Op::Submit(a, b) => {
                let (Some((agent_id, rig_id)), Some(bead_id)) = (self.agent(*a), self.bead(*b)) else { return };
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                let branch = "gt/odd/submitted".to_owned();
                self.tell(
                    &actor,
                    Command::SubmitReview { rig_id, agent_id, bead_id, branch, pr_url: None, summary: None },
                );
            }
            Op::Strategy(pr) => {
                let merge_strategy = if *pr { "pr" } else { "direct" };
                let refinery = json!({"auto_merge_delay_minutes": 1});
                let patch = json!({"merge_strategy": merge_strategy, "git_auth": {"github_token": "a-token-of-the-forge"}, "refinery": refinery});
                self.tell(&owner(), Command::PatchConfig { patch });
            }
            Op::Forge(n, kind) => {
                let open: Vec<u32> =
                    self.world.forge.requests.iter().filter(|r| r.state == "open").map(|r| r.number).collect();
                let Some(number) = open.get(usize::from(*n) % open.len().max(1)) else { return };
                let request = self.world.forge.request(*number);
                match kind % 8 {
                    0 => request.state = "merged",
                    1 => request.state = "closed",
                    2 => request.conflict = true,
                    3 => request.checks = "failed",
                    4 => request.unresolved = true,
                    5 => request.checks = "pending",
                    _ => {
                        (request.conflict, request.checks, request.unresolved) = (false, "success", false);
                        request.commits += 1;
                    }
                }
            }
            Op::ForgeDown(kind) => {
                self.world.forge.heal();
                self.world.forge.protected = *kind == 9;
                self.world.forge.fault = match kind {
                    1 => Some(Fault::Refuse),
                    2 => Some(Fault::DropAfter),
                    3 => Some(Fault::HangAfter),
                    4 => Some(Fault::answer(503, "")),
                    5 => Some(Fault::answer(401, r#"{"message": "Bad credentials"}"#)),
                    6 => Some(Fault::answer(200, "<html>")),
                    7 => Some(Fault::retry_after(403, r#"{"message": "rate limit"}"#, 90_000)),
                    8 => Some(Fault::Slow(20 * SECOND)),
                    _ => None,
                };
            }
            Op::Picky(seed) => {
                let chance = SplitMix64::new(*seed);
                self.world.container.behave(move |start| match start.request.role.as_str() {
                    "refinery" if chance.per_mille(500) => Behaviour::ends(
                        30 * SECOND,
                        Ending::RequestsChanges { feedback: "tests are missing".to_owned() },
                    ),
                    role => Behaviour::good(role),
                });
            }
            Op::Checkpoint(a) => {
                let Some((agent_id, _)) = self.agent(*a) else { return };
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                self.tell(&actor, Command::Checkpoint { agent_id, data: json!({"half": "done"}) });
            }
            Op::MayorReads => {
                let agent_id = AgentId(self.ids("SELECT mayor_agent_id FROM town")[0].clone());
                self.tell(&owner(), Command::ReadMail { agent_id });
            }
            Op::Webhook(kind) => {
                self.world.webhook.fault = match kind {
                    0 => None,
                    1 => Some(Fault::Refuse),
                    2 => Some(Fault::HangAfter),
                    _ => Some(Fault::answer(500, "no")),
                };
            }
            Op::TestNotice => self.tell(&owner(), Command::TestNotification),
            Op::Standing(endpoint, wrong) => {
                self.world.container.faults.set(ENDPOINTS[usize::from(*endpoint)], wrong.fault());
            }
            Op::Once(endpoint, wrong) => {
                self.world.container.faults.once(ENDPOINTS[usize::from(*endpoint)], wrong.fault());
            }
            Op::Everything(wrong) => {
                for endpoint in ENDPOINTS {
                    if endpoint != Endpoint::Stop || !self.stops_work {
                        self.world.container.faults.set(endpoint, wrong.fault());
                    }
                }
            }
            Op::Clear => self.world.container.faults.clear_all(),
            Op::Behave(kind, seed) => behave(&mut self.world, *kind, *seed),
            Op::Voices(kind, seed) => voices(&mut self.world, *kind, *seed),
            Op::HearAll => self.world.unfilter_voices(),
            Op::Drain(grace) => {
                let now = self.world.now();
                self.world.container.drain(now, i64::from(*grace) * SECOND);
            }
            Op::Evict => {
                self.tell(&Actor::Container { agent_id: None, dispatch_id: None }, Command::ContainerEviction);
            }
            Op::Kill => {
                let now = self.world.now();
                self.world.container.kill(now);
            }
            Op::Sleep(boot) => {
                let now = self.world.now();
                self.world.container.kill_until_called(now, i64::from(*boot) * SECOND);
            }
            Op::Restart => {
                let now = self.world.now();
                self.world.container.restart(now);
            }
            Op::Quiet(minutes, action) => {
                let (after, action) = (i64::from(*minutes) * MINUTE, TRIAGE[usize::from(*action) % TRIAGE.len()]);
                self.world.container.behave(move |start| {
                    match (start.request.role.as_str(), start.request.lightweight) {
                        ("mayor", _) => Behaviour::hangs(),
                        (_, Some(true)) => Behaviour::ends(MINUTE, Ending::Triaged { action: action.to_owned() }),
                        _ => Behaviour::hangs().quiet_after(after),
                    }
                });
            }
            Op::Resolve { request, action, who } => {
                let open = "SELECT bead_id FROM beads WHERE triage_request > 0 ORDER BY seq";
                let Some(request_id) = pick(&self.ids(open), *request).map(BeadId) else { return };
                let mayor = AgentId(self.ids("SELECT mayor_agent_id FROM town")[0].clone());
                let anybody = self.agent(*who).map(|(id, _)| id);
                let actor = match who % 3 {
                    0 => owner(),
                    1 => Actor::Container { agent_id: Some(mayor), dispatch_id: None },
                    _ => Actor::Container { agent_id: anybody, dispatch_id: None },
                };
                let action = TRIAGE[usize::from(*action) % TRIAGE.len()].to_lowercase();
                self.tell(&actor, Command::ResolveTriage { request_id, action, notes: String::new() });
            }
            Op::Resurrects(yes) => self.world.container.resurrects = *yes,
            Op::Molecule(b) => {
                // One that somebody may still work on, if there is one.
                let work =
                    self.ids("SELECT bead_id FROM beads WHERE type = 'issue' AND status IN ('open', 'in_progress')");
                let Some(bead_id) = pick(&work, *b).map(BeadId).or_else(|| self.bead(*b)) else { return };
                let rig_id = self.rig_of(&bead_id);
                let step = |n: u8| json!({"title": format!("Step {n}"), "instructions": "Do it."});
                let formula = json!({"steps": (0..=b % 3).map(step).collect::<Vec<_>>()});
                self.tell(&owner(), Command::AttachMolecule { rig_id, bead_id, formula });
            }
            Op::Advance(a) => {
                let at_it =
                    "SELECT a.agent_id FROM agents a JOIN molecules m ON m.subject_bead_id = a.current_hook_bead_id
                             WHERE m.status = 'active' ORDER BY a.seq";
                let at_it = pick(&self.ids(at_it), *a).map(AgentId);
                let Some(agent_id) = at_it.or_else(|| self.agent(*a).map(|(id, _)| id)) else { return };
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                self.tell(&actor, Command::AdvanceStep { agent_id, summary: "a step".to_owned() });
            }
            Op::Acknowledge(n) => {
                let Some(id) = pick(&self.ids("SELECT bead_id FROM escalations ORDER BY seq"), *n) else { return };
                self.tell(&owner(), Command::AcknowledgeEscalation { escalation_id: BeadId(id) });
            }
            Op::Crash(losing) => {
                if *losing {
                    self.world.crash_losing_requests();
                } else {
                    self.world.crash();
                }
                self.oracle.borrow_mut().check(&self.world);
            }
            Op::Wait(ms) => self.world.run_for(*ms),
            Op::Steps(n) => {
                let end = self.world.now().plus(HOUR);
                for _ in 0..*n {
                    self.world.step(end);
                }
            }
        }
    }

    fn patch(&mut self, bead: u8, patch: BeadPatch) {
        let Some(bead_id) = self.bead(bead) else { return };
        let rig_id = RigId(format!("mayor-{}", self.world.town_id));
        self.tell(&owner(), Command::UpdateBead { rig_id, bead_id, patch });
    }

    fn scope(&self, rig: Option<u8>) -> String {
        rig.and_then(|r| self.rig(r)).map_or_else(|| "town".to_owned(), |r| format!("rig:{r}"))
    }

    // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Invariant 14: all faults end, overrides end; everything eligible is dispatched within the longest probe delay
    /// plus the ramp; then no scope in which a bead waited is open, and no delivery is due.
    pub fn heal_and_demand_everything(&mut self) {
        self.world.container.faults.clear_all();
        self.world.unfilter_voices();
        self.world.unfilter_alarms();
        self.world.sql.heal();
        self.world.webhook.fault = None;
        // People merge what is open, and whatever will be opened.
        self.world.forge.heal();
        self.world.forge.obliging = true;
        // Every request repairs an alarm that was dropped.
        self.tell(&owner(), Command::GetDispatch);
        self.world.container.behave(|start| Behaviour::good(&start.request.role));
        let now = self.world.now();
        // Agents that would hang for ever go with their process: those that tell of nothing are never taken for inactive.
        self.world.container.resurrects = false;
        self.world.container.restart(now);
        for scope in self.ids("SELECT scope FROM breakers WHERE override_mode IS NOT NULL") {
            let (mode, reason) = ("auto".to_owned(), Some("all is well".to_owned()));
            self.tell(&operator(), Command::OverrideBreaker { scope, mode, reason, expires_in_ms: None });
        }
        // The longest probe delay is 36 min, a backoff or a hold before it 33 min, a town that re-opens over what its
        // lost agents left behind takes a second delay; then every bead is done and reviewed in 2 min, one after another.
        let beads = i64::try_from(self.beads().len()).expect("few");
        // What was written before a clock stepped back lies so much further in the future.
        let patience = (36 + 36 + 33) * MINUTE + beads * 3 * MINUTE + self.world.stepped_back;
        self.world.run_for(patience);
        self.oracle.borrow_mut().check(&self.world);
        let rows = Rows::read(&self.world);
        let persistent = ["held_label", "blocked", "blocker_failed", "convoy_staged", "no_rig_config", "not_open"];
        for bead in rows.beads.values().filter(|b| Rows::dispatchable(b)) {
            let stuck = match bead.status.as_str() {
                "open" => !rows.holds(bead).iter().any(|h| persistent.contains(&h.as_str())),
                "in_progress" => true,
                // Its merge request may have failed by dispatch, or be held by a label.
                "in_review" => rows
                    .requests
                    .iter()
                    .filter(|m| m.source == bead.id)
                    .all(|m| rows.beads.get(&m.mr).is_none_or(|mr| mr.status != "failed" && mr.status != "open")),
                _ => false,
            };
            assert!(
                !stuck,
                "14: bead {} is {} still: {}\n{}",
                bead.id,
                bead.status,
                self.world.explain(&BeadId::from(bead.id.as_str())),
                self.world.journal()
            );
        }
        for c in &rows.convoys {
            let landing = c.land_at.is_some() || c.landing.is_some();
            assert!(!landing, "14: convoy {} lands still\n{}", c.id, self.world.journal());
        }
        for b in rows.breakers.values().filter(|b| b.state != "closed") {
            assert!(!rows.probe_ready(b), "14: {} is {} and work waits\n{}", b.scope, b.state, self.world.journal());
        }
        let due =
            rows.deliveries.iter().any(|d| d.state == "pending" && d.next_attempt_at.is_some_and(|t| t <= rows.now));
        assert!(!due, "14: a delivery is due\n{}", self.world.journal());
        // 9: an episode that was told is over when its scope has closed, half an hour later at the latest.
        self.world.run_for(31 * MINUTE);
        let rows = Rows::read(&self.world);
        for b in rows.breakers.values().filter(|b| b.state == "closed" && b.generation > 0) {
            let key = |word: &str| format!("breaker:{}:{}:{word}", b.scope, b.generation);
            let has = |key: &str| rows.notices.iter().any(|n| n.key == key);
            let (opened, closed) = (key("opened"), key("closed"));
            assert!(
                !has(&opened) || has(&closed),
                "9: {opened} was not followed by {closed}\n{}",
                self.world.journal()
            );
        }
    }

    /// The ledger of the container: nothing was done twice. A process whose work is done may linger and be replaced.
    pub fn nothing_twice(&self) {
        let done = self.ids("SELECT attempt_id FROM attempts WHERE outcome = 'succeeded'");
        let lingering = |told: &str| {
            let other = told.split_once("live attempt ").or_else(|| told.split_once("while attempt "));
            other.is_some_and(|(_, other)| other.split(' ').next().is_some_and(|id| done.iter().any(|d| d == id)))
        };
        self.demand_none(|told| !lingering(told));
    }

    /// The ledger of the container: no attempt was started twice.
    pub fn no_attempt_twice(&self) {
        self.demand_none(|told| told.starts_with("attempt"));
    }

    fn demand_none(&self, counts: impl Fn(&str) -> bool) {
        // A start may be repeated if a look says that it is not running (`design.md` 5.2): its process was gone.
        let starts = self.world.starts();
        let repeated_over_a_live_one = |id: &str| {
            let of: Vec<_> = starts.iter().filter(|s| s.attempt_id == id).collect();
            of.windows(2).any(|pair| pair[0].ended_at.is_none_or(|end| end > pair[1].at))
        };
        let attempt = |told: &str| told.strip_prefix("attempt ").and_then(|t| t.split(' ').next()).map(str::to_owned);
        let mut twice = self.world.container.twice();
        twice.retain(|told| counts(told) && attempt(told).is_none_or(|id| repeated_over_a_live_one(&id)));
        assert!(twice.is_empty(), "{}\n{}", twice.join("\n"), self.world.journal());
    }

    /// Beads that an outage of the container's making has failed.
    pub fn lost(&self) -> Vec<String> {
        self.ids(
            "SELECT bead_id FROM beads
             WHERE status = 'failed'
               AND json_extract(failure_reason, '$.code') IN ('container.unreachable', 'container.timeout',
                                                              'container.unavailable', 'container.throttled',
                                                              'container.draining', 'repo.unavailable')
               AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.bead_id = beads.bead_id AND a.charged = 1)",
        )
    }

    /// What is left (held, blocked, failed) is put away by a person.
    pub fn finish_everything_by_hand(&mut self) {
        for id in self.ids("SELECT bead_id FROM beads WHERE status NOT IN ('closed', 'failed') ORDER BY seq DESC") {
            let bead_id = BeadId(id);
            let rig_id = self.rig_of(&bead_id);
            self.tell(&owner(), Command::SetBeadStatus { rig_id, bead_id, status: "closed".to_owned() });
        }
    }
}

const TRIAGE: [&str; 9] = [
    "RESTART",
    "RESTART_WITH_BACKOFF",
    "CLOSE",
    "ESCALATE",
    "NUDGE",
    "REASSIGN_BEAD",
    "DISCARD",
    "PROVIDE_GUIDANCE",
    "NO_SUCH_ACTION",
];
const PRIORITIES: [&str; 4] = ["critical", "high", "medium", "low"];

fn pick(from: &[String], n: u8) -> Option<String> {
    (!from.is_empty()).then(|| from[usize::from(n) % from.len()].clone())
}

fn failed(phase: &str, model_status: Option<u16>) -> Ending {
    let reason = Some("it went wrong at /tmp/x 42".to_owned());
    Ending::Failed { reason, phase: Some(phase.to_owned()), model_status }
}

/// The ways of agents.
fn way(kind: u64, role: &str) -> Behaviour {
    let verdict = |status: &str| Ending::Verdict { status: status.to_owned(), message: "gate: 1 failed".to_owned() };
    let unless_refinery =
        |b: Behaviour| if role == "refinery" { Behaviour::ends(20 * SECOND, verdict("failed")) } else { b };
    match kind % 20 {
        0..=2 => Behaviour::good(role),
        3 => Behaviour::done(1),
        4 => Behaviour::done(40 * MINUTE),
        5 => Behaviour::fails(3 * MINUTE, "out of ideas"),
        6 => Behaviour::fails(0, "at once"),
        7 => Behaviour::idles_out(2 * MINUTE),
        8 => Behaviour::exits(MINUTE),
        9 => Behaviour::vanishes(MINUTE),
        10 => Behaviour::hangs(),
        11 => Behaviour::hangs().mute(),
        12 => Behaviour::done(5 * MINUTE).mute(),
        13 => Behaviour::done(12 * MINUTE).starting_for(10 * MINUTE),
        14 => Behaviour::hangs().starting_for(30 * HOUR),
        15 => Behaviour::ends(MINUTE, failed("repository", None)),
        16 => Behaviour::ends(MINUTE, failed("run", Some(401))),
        17 => Behaviour::ends(MINUTE, failed("initial_prompt", Some(429))),
        18 => Behaviour::ends(30 * SECOND, Ending::DoneWithoutBranch),
        _ => unless_refinery(Behaviour::ends(20 * SECOND, verdict("conflict"))),
    }
}

fn behave(world: &mut World, kind: u8, seed: u64) {
    let chance = SplitMix64::new(seed);
    world.container.behave(move |start| {
        let role = start.request.role.as_str();
        match kind % 4 {
            0 => Behaviour::good(role),
            1 => way(seed, role),
            2 if chance.per_mille(500) => Behaviour::good(role),
            _ => way(chance.next_u64(), role),
        }
    });
}

fn voices(world: &mut World, kind: u8, seed: u64) {
    let chance = SplitMix64::new(seed);
    world.filter_voices(move |voice| {
        let beat = matches!(voice.says, Says::Heartbeat { .. });
        let late = || Fate::Late(i64::try_from(chance.below(20)).expect("small") * MINUTE + 1);
        match kind % 6 {
            0 if beat => Fate::Lost,
            1 if beat => late(),
            2 => Fate::Twice,
            3 if chance.per_mille(300) => Fate::Lost,
            4 if chance.per_mille(400) => late(),
            5 if !beat => late(),
            _ => Fate::Arrives,
        }
    });
}
