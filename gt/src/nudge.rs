//! `gt nudge`: a word to an agent that is at work.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input::{self, Body},
    output::Answer,
    resolve,
};
use clap::Args;
use serde_json::Value as Json;

/// `gt nudge`
#[derive(Debug, Args)]
pub struct NudgeArgs {
    /// The agent: its id, the beginning of it, its name, or mayor
    agent: String,
    /// What to tell it; - reads standard input
    message: String,
    /// When: wait-idle (default), immediate or queue
    #[arg(long)]
    mode: Option<String>,
}

/// Nudges.
pub fn nudge(caller: &Caller, body: Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.any_rig_path("nudge")?, body))
}

impl NudgeArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let body = Body::new()
            .with("target_agent_id", Some(resolve::agent_id(caller, &self.agent)?))
            .with("message", Some(input::text(&self.message)?))
            .with("mode", self.mode.clone());
        Ok(Answer::new(nudge(caller, body.json())?, "nudged"))
    }
}
