//! The town's mayor: `gt mayor message | status`.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input,
    output::{Answer, facts, time, word},
};
use clap::Subcommand;
use serde_json::json;

/// `gt mayor …`
#[derive(Debug, Subcommand)]
pub enum MayorCommand {
    /// Tell the mayor something; it is started if it sleeps
    #[command(
        after_help = "Examples:\n  gt mayor message \"Split the login into beads\"\n  gt mayor message - < plan.md"
    )]
    Message {
        /// What to tell; - reads standard input
        message: String,
    },
    /// Show whether the mayor is awake
    #[command(after_help = "Examples:\n  gt mayor status")]
    Status,
}

impl MayorCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        match self {
            Self::Message { message } => {
                let body = json!({ "message": input::text(message)? });
                Ok(Answer::of(caller.call(&Call::post(caller.town_path("mayor/message")?, body))?, |data| match word(
                    data,
                    "sessionStatus",
                )
                .as_str()
                {
                    "active" => "the mayor has it".to_owned(),
                    "starting" => "the mayor is being started and will get it".to_owned(),
                    "idle" => "kept: the mayor gets it when it starts".to_owned(),
                    other => format!("the mayor is {other}"),
                }))
            }
            Self::Status => Ok(Answer::of(caller.call(&Call::get(caller.town_path("mayor/status")?))?, |data| {
                if data.get("session").is_none_or(serde_json::Value::is_null) {
                    return "the mayor sleeps".to_owned();
                }
                facts(&[
                    ("agent", word(data, "session/agentId")),
                    ("status", word(data, "session/status")),
                    ("last seen", time(data, "session/lastActivityAt")),
                ])
            })),
        }
    }
}
