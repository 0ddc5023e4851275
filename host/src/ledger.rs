//! What the container really did, whatever it told the caller and whatever the town's rows say.

use gastown::town::time::Timestamp;
use std::collections::BTreeMap;

/// What a process was really told: the prompt of a mayor's start, or a message to any agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub agent_id: String,
    /// What.
    pub prompt: String,
}

/// One process that really started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealStart {
    /// When.
    pub at: Timestamp,
    /// The attempt: `dispatchId` of the request.
    pub attempt_id: String,
    /// The agent.
    pub agent_id: String,
    /// Its role.
    pub role: String,
    /// Its rig.
    pub rig_id: String,
    /// The first eight characters of its bead's id (of the merge request's, for a refinery), read from the branch;
    /// none for a mayor.
    pub bead8: Option<String>,
    /// The container process it ran in.
    pub instance_id: String,
    /// When the process ended; `None` = it lives.
    pub ended_at: Option<Timestamp>,
    /// It was killed by another start of the same agent.
    pub replaced: bool,
    /// The container started it by itself, since the registry had it.
    pub resurrected: bool,
}

/// What the process that was started for an attempt has let the town know of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignOfLife {
    /// When the town last took in something that it said.
    pub heard: Option<Timestamp>,
    /// When a look last found it alive, whether that answer arrived or not.
    pub seen: Option<Timestamp>,
}

/// Whatever was really done twice, in words: one attempt started twice, or two processes of one bead or one agent
/// alive at the same time (a start that replaced a live agent is one of these: its work was thrown away).
#[must_use]
pub fn twice(starts: &[RealStart]) -> Vec<String> {
    let mut found = Vec::new();
    let mut attempts: BTreeMap<&str, &RealStart> = BTreeMap::new();
    let mut beads: BTreeMap<(&str, &str), Vec<&RealStart>> = BTreeMap::new();
    for start in starts {
        if let Some(first) = attempts.insert(&start.attempt_id, start)
            && !start.attempt_id.is_empty()
        {
            found.push(format!("attempt {} started at {} and {}", start.attempt_id, first.at, start.at));
        }
        if start.replaced {
            let (agent, attempt) = (&start.agent_id, &start.attempt_id);
            found.push(format!("agent {agent}: live attempt {attempt} was replaced by another start"));
        }
        let Some(bead) = start.bead8.as_deref() else { continue };
        let earlier = beads.entry((&start.rig_id, bead)).or_default();
        for other in earlier.iter().filter(|o| o.ended_at.is_none_or(|end| end > start.at)) {
            found.push(format!(
                "bead {bead}: attempt {} started at {} while attempt {} (since {}) was alive",
                start.attempt_id, start.at, other.attempt_id, other.at
            ));
        }
        earlier.push(start);
    }
    found
}

/// The bead's first eight characters, which end every branch that belongs to one (`protocol.md` 6.1).
pub(crate) fn bead8(branch: &str) -> Option<String> {
    let last = branch.rsplit('/').next()?;
    (last.len() == 8 && last.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))).then(|| last.to_owned())
}
