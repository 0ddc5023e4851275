//! What an agent process does with its life, and what it says to the town while it lives.

use gastown::town::command::{Actor, Command, Heartbeat};
use gastown::town::effect::StartRequest;
use gastown::town::id::AgentId;
use gastown::town::time::{MINUTE, Millis, SECOND, Timestamp};
use serde_json::Value as Json;

/// Between two heartbeats (`protocol.md` 4.7).
pub const HEARTBEAT: Millis = 30 * SECOND;

/// How an agent process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `done` with its branch. A refinery reports `merged` for its entry first, or its pull request if it has one.
    Done,
    /// `done` with its branch and the pull request that it opened.
    OpensPullRequest {
        /// Its url.
        url: String,
    },
    /// A refinery's request for changes, then `done`.
    RequestsChanges {
        /// What is to be changed.
        feedback: String,
    },
    /// `done` without a branch: nothing to change.
    DoneWithoutBranch,
    /// A refinery's verdict (`merged`, `failed`, `conflict`), then `done`.
    Verdict {
        /// The verdict.
        status: String,
        /// Its message.
        message: String,
    },
    /// `completed {completed}`: it ended cleanly without `done`.
    Completed {
        /// Why, if it says.
        reason: Option<String>,
    },
    /// `completed {failed}`.
    Failed {
        /// Why.
        reason: Option<String>,
        /// `repository`, `initial_prompt`, `run`.
        phase: Option<String>,
        /// The model's own status.
        model_status: Option<u16>,
    },
    /// A triage agent: it chooses this for every request that its prompt names, and is done.
    Triaged {
        /// What.
        action: String,
    },
    /// It ends and tells nobody; its status says so to whoever asks.
    Exited {
        /// `exitReason`.
        reason: String,
    },
    /// It is gone without a trace: its status is 404.
    Vanished,
}

/// What an agent process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// After how long the first heartbeat leaves, and every [`HEARTBEAT`] from then on; `None` = never.
    pub first_heartbeat: Option<Millis>,
    /// How long it is `starting` before it is `running`.
    pub starting_for: Millis,
    /// After how long it ends, and how; `None` = it hangs for ever.
    pub ends: Option<(Millis, Ending)>,
    /// How long its heartbeats tell of things done; then nothing happens any more. `None` = they never tell of any.
    pub active_for: Option<Millis>,
    /// It has a tool running all the time.
    pub busy: bool,
}

impl Behaviour {
    /// Just after the start is answered: "at once" as a town sees it.
    const AT_ONCE: Millis = 100;

    /// Heartbeats at once and then regularly; never ends.
    #[must_use]
    pub const fn hangs() -> Self {
        Self { first_heartbeat: Some(Self::AT_ONCE), starting_for: 0, ends: None, active_for: None, busy: false }
    }
    /// Heartbeats, and ends like this after `ms`.
    #[must_use]
    pub fn ends(ms: Millis, ending: Ending) -> Self {
        Self { ends: Some((ms, ending)), ..Self::hangs() }
    }
    /// Heartbeats, and is done after `ms`.
    #[must_use]
    pub fn done(ms: Millis) -> Self {
        Self::ends(ms, Ending::Done)
    }
    /// Heartbeats, and reports its failure after `ms`.
    #[must_use]
    pub fn fails(ms: Millis, reason: &str) -> Self {
        let reason = Some(reason.to_owned());
        Self::ends(ms, Ending::Failed { reason, phase: Some("run".to_owned()), model_status: None })
    }
    /// Heartbeats, and after `ms` reports that it ended without having done anything.
    #[must_use]
    pub fn idles_out(ms: Millis) -> Self {
        Self::ends(ms, Ending::Completed { reason: None })
    }
    /// Heartbeats, and after `ms` ends without a word.
    #[must_use]
    pub fn exits(ms: Millis) -> Self {
        Self::ends(ms, Ending::Exited { reason: "completed".to_owned() })
    }
    /// Heartbeats, and after `ms` is gone without a trace.
    #[must_use]
    pub fn vanishes(ms: Millis) -> Self {
        Self::ends(ms, Ending::Vanished)
    }
    /// The same without any heartbeat.
    #[must_use]
    pub const fn mute(mut self) -> Self {
        self.first_heartbeat = None;
        self
    }
    /// The same, but `starting` for so long.
    #[must_use]
    pub const fn starting_for(mut self, ms: Millis) -> Self {
        self.starting_for = ms;
        self
    }
    /// The same, but it does nothing after `ms`.
    #[must_use]
    pub const fn quiet_after(mut self, ms: Millis) -> Self {
        self.active_for = Some(ms);
        self
    }
    /// The same, with a tool running.
    #[must_use]
    pub const fn busy(mut self) -> Self {
        self.busy = true;
        self
    }
    /// Good agents: a polecat is done after a minute, a refinery merges after half of one, a mayor stays.
    #[must_use]
    pub fn good(role: &str) -> Self {
        match role {
            "mayor" => Self::hangs(),
            "refinery" => Self::done(MINUTE / 2),
            _ => Self::done(MINUTE),
        }
    }
    /// Runs on, unless a line of the prompt says `exit` or `exit after <ms>`.
    #[must_use]
    pub fn as_prompted(prompt: &str) -> Self {
        prompt.lines().find_map(exit_in).map_or_else(Self::hangs, Self::exits)
    }
}

/// `exit` → 0, `exit after 300` → 300.
pub(crate) fn exit_in(line: &str) -> Option<Millis> {
    match line.trim().strip_prefix("exit")?.trim() {
        "" => Some(0),
        more => more.strip_prefix("after ")?.trim().parse().ok(),
    }
}

/// A real start, as a behaviour script sees it.
#[derive(Clone, Copy, Debug)]
pub struct Started<'a> {
    /// When.
    pub now: Timestamp,
    /// What was asked for.
    pub request: &'a StartRequest,
    /// How many real starts there were before this one.
    pub nth: usize,
}

/// Decides what each started process does.
pub type BehaviourScript = Box<dyn FnMut(Started<'_>) -> Behaviour>;

/// Something the container, or an agent in it, says to the worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Voice {
    /// When it is said.
    pub at: Timestamp,
    /// The agent that speaks; `None` = the control server itself.
    pub agent_id: Option<AgentId>,
    /// `X-Gastown-Dispatch-Id`; `None` from a container without the feature.
    pub dispatch_id: Option<String>,
    /// The container process it comes from.
    pub instance_id: String,
    /// What.
    pub says: Says,
}

/// What is said.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are the wire's own names, documented in protocol.md 3.1 and 3.2")]
pub enum Says {
    /// `POST agents/:a/heartbeat`.
    Heartbeat { status: String, last_event_at: Option<Timestamp>, active_tools: Vec<String> },
    /// `POST agents/:a/done`.
    Done { branch: Option<String>, pr_url: Option<String>, summary: Option<String> },
    /// `POST agents/:a/request-changes`.
    RequestChanges { feedback: String },
    /// `POST agents/:a/completed`.
    Completed { status: String, reason: Option<String>, phase: Option<String>, model_status: Option<u16> },
    /// `POST review-queue/:id/complete`.
    Verdict { entry_id: String, status: String, message: String, commit_sha: Option<String> },
    /// `POST agents/:a/eviction-context`.
    EvictionContext { branch: String, agent_name: String },
    /// `POST triage/resolve`.
    Resolve { request_id: String, action: String },
    /// `POST container-eviction`.
    Evicting,
    /// `GET container-registry`, by the name of its process if it tells one.
    ReadRegistry { names_itself: bool },
    /// `POST container-registry`.
    WriteRegistry { entries: Vec<Json> },
    /// `POST container-ready`.
    Ready { nonce: String },
}

impl Voice {
    /// Who the edge would say is speaking.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::Container { agent_id: self.agent_id.clone(), dispatch_id: self.dispatch_id.clone() }
    }

    /// What the edge would make of it.
    #[must_use]
    pub fn command(&self) -> Command {
        let agent_id = self.agent_id.clone().unwrap_or_default();
        match self.says.clone() {
            Says::Heartbeat { status, last_event_at, active_tools } => Command::Heartbeat {
                body: Heartbeat {
                    agent_id: Some(agent_id.0.clone()),
                    status: Some(status),
                    last_event_type: None,
                    last_event_at: last_event_at.map(|at| at.to_string()),
                    active_tools: Some(active_tools),
                    container_instance_id: Some(self.instance_id.clone()),
                    dispatch_id: self.dispatch_id.clone(),
                },
                agent_id,
            },
            Says::Done { branch, pr_url, summary } => Command::Done { agent_id, branch, pr_url, summary },
            Says::RequestChanges { feedback } => Command::RequestChanges { agent_id, feedback, files: Vec::new() },
            Says::Completed { status, reason, phase, model_status } => {
                Command::Completed { agent_id, status, reason, phase, model_status }
            }
            Says::Verdict { entry_id, status, message, commit_sha } => {
                Command::CompleteReview { entry_id: entry_id.into(), status, message, commit_sha }
            }
            Says::EvictionContext { branch, agent_name } => {
                Command::EvictionContext { agent_id, branch, agent_name, saved_at: self.at.to_string() }
            }
            Says::Resolve { request_id, action } => {
                Command::ResolveTriage { request_id: request_id.into(), action, notes: "simulated".to_owned() }
            }
            Says::Evicting => Command::ContainerEviction,
            Says::ReadRegistry { names_itself } => {
                Command::ReadRegistry { container_instance_id: names_itself.then(|| self.instance_id.clone()) }
            }
            Says::WriteRegistry { entries } => Command::WriteRegistry { entries },
            Says::Ready { nonce } => Command::ContainerReady { nonce },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_can_ask_for_the_end() {
        assert_eq!(Behaviour::as_prompted("Do it.\nexit after 300\n").ends.map(|e| e.0), Some(300));
        assert_eq!(Behaviour::as_prompted("  exit ").ends.map(|e| e.0), Some(0));
        assert_eq!(Behaviour::as_prompted("exit the building\nexiting").ends, None);
    }
}
