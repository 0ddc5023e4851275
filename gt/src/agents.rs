//! `gt agents`: who there is, and putting one back to idle.

use crate::{
    caller::Caller,
    client::{Call, segment},
    failure::Failure,
    output::{Answer, items, short, table, time, word},
    own::agent_text,
    resolve,
};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

/// `gt agents`
#[derive(Debug, Args)]
pub struct AgentsArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// Only these: polecat, refinery, mayor
    #[arg(long)]
    role: Option<String>,
    /// Only these: idle, working, waiting, stalled, dead
    #[arg(long)]
    status: Option<String>,
}

/// `gt agents …`
#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Show an agent
    #[command(after_help = "Examples:\n  gt agents show Toast")]
    Show {
        /// The agent: its id, the beginning of it, or its name
        agent: String,
    },
    /// Stop an agent and put it back to idle; its bead is queued again
    #[command(after_help = "Examples:\n  gt agents reset Toast")]
    Reset {
        /// The agent: its id, the beginning of it, or its name
        agent: String,
    },
}

/// A rig's agents.
pub fn list(caller: &Caller, rig: &str) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.mayor_or_rig_path(rig, "agents")?))
}

/// Puts an agent back.
pub fn reset(caller: &Caller, rig: &str, agent: &str) -> Result<Json, Failure> {
    let path = caller.mayor_path(&format!("rigs/{}/agents/{}/reset", segment(rig), segment(agent)))?;
    caller.call(&Call::post_empty(path).safe())
}

impl AgentsArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        match &self.command {
            Some(AgentCommand::Show { agent }) => {
                let agent = resolve::agent(caller, agent)?;
                Ok(Answer::of(find(caller, &agent)?, agent_text))
            }
            Some(AgentCommand::Reset { agent }) => {
                let agent = find(caller, &resolve::agent(caller, agent)?)?;
                let rig =
                    agent.get("rig_id").and_then(Json::as_str).map_or_else(|| caller.rig(), |r| Ok(r.to_owned()))?;
                let done = reset(caller, &rig, &word(&agent, "id"))?;
                Ok(Answer::new(done, format!("{} is reset", word(&agent, "name"))))
            }
            None => {
                let mut all = Vec::new();
                for rig in caller.rigs_to_search()? {
                    let call = Call::get(caller.path_in_rig(&rig, "agents")?);
                    let list =
                        caller.call(&call.with("role", self.role.as_ref()).with("status", self.status.as_ref()))?;
                    all.extend(list.as_array().cloned().unwrap_or_default());
                }
                Ok(Answer::of(json!(all), agents_text))
            }
        }
    }
}

fn find(caller: &Caller, id: &str) -> Result<Json, Failure> {
    for rig in caller.rigs_to_search()? {
        if let Some(agent) = resolve::listed(&list(caller, &rig)?).find(|agent| word(agent, "id") == id) {
            return Ok(agent.clone());
        }
    }
    Err(Failure::usage(format!("no agent has the id {id}"), "gt agents lists them; --rig looks into another rig."))
}

fn agents_text(agents: &Json) -> String {
    let rows: Vec<Vec<String>> = items(agents, "")
        .iter()
        .map(|agent| {
            vec![
                short(agent, "id"),
                word(agent, "name"),
                word(agent, "role"),
                word(agent, "status"),
                short(agent, "current_hook_bead_id"),
                time(agent, "last_activity_at"),
                word(agent, "agent_status_message"),
            ]
        })
        .collect();
    table(&["AGENT", "NAME", "ROLE", "STATUS", "BEAD", "LAST SEEN", "SAYS"], &rows, "no agents")
}
