//! `gt sling`: one piece of work, handed to a polecat at once.

use crate::{
    bead::NewArgs,
    caller::Caller,
    client::Call,
    failure::Failure,
    output::{Answer, word},
};
use clap::Args;
use serde_json::Value as Json;

/// `gt sling`
#[derive(Debug, Args)]
pub struct SlingArgs {
    #[command(flatten)]
    new: NewArgs,
}

/// Slings through the rig's own route.
pub fn sling(caller: &Caller, body: Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.rig_path("sling")?, body))
}

impl SlingArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let body = self.new.body(caller)?;
        Ok(Answer::of(sling(caller, body)?, |made| {
            let bead = word(made, "bead/bead_id");
            format!("{bead} is with {}\nfollow it: gt watch --bead {bead}", word(made, "agent/name"))
        }))
    }
}
