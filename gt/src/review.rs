//! `gt request-changes`: a refinery sends work back.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input::{self, Body},
    output::{Answer, word},
};
use clap::Args;
use serde_json::Value as Json;

/// `gt request-changes`
#[derive(Debug, Args)]
pub struct RequestChangesArgs {
    /// What has to change, and why; - reads standard input
    feedback: String,
    /// A file that it is about; may be given again
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<String>,
}

/// Sends the work back. Sent once: twice would make two rework beads.
pub fn request_changes(caller: &Caller, body: Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.agent_path("request-changes")?, body))
}

impl RequestChangesArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let body = Body::new().with("feedback", Some(input::text(&self.feedback)?)).with_list("files", &self.files);
        Ok(Answer::of(request_changes(caller, body.json())?, |made| {
            format!("changes requested: rework is {}; end your session now", word(made, "rework_bead_id"))
        }))
    }
}
