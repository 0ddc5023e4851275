//! Molecules: `gt mol current | advance`.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input,
    output::{Answer, facts, word},
};
use clap::Subcommand;
use serde_json::{Value as Json, json};

/// `gt mol …`
#[derive(Debug, Subcommand)]
pub enum MolCommand {
    /// Show the step you are at
    #[command(after_help = "Examples:\n  gt mol current")]
    Current,
    /// Close the step you are at and go on to the next
    #[command(after_help = "Examples:\n  gt mol advance \"The schema is migrated\"")]
    Advance {
        /// What was done, at most 5000 characters; - reads standard input
        summary: String,
    },
}

/// The current step.
pub fn current(caller: &Caller) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.agent_path("molecule/current")?))
}

/// Goes on to the next step. Sent once: twice would pass over a step.
pub fn advance(caller: &Caller, summary: &str) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.agent_path("molecule/advance")?, json!({ "summary": summary })))
}

impl MolCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        match self {
            Self::Current => Ok(Answer::of(current(caller)?, |data| {
                facts(&[
                    ("molecule", word(data, "molecule/id")),
                    ("status", word(data, "molecule/status")),
                    // Counted from 0: as many are closed.
                    ("closed", format!("{} of {}", word(data, "currentStep"), word(data, "totalSteps"))),
                    ("step", word(data, "step/title")),
                    ("to do", word(data, "step/instructions")),
                ])
            })),
            Self::Advance { summary } => Ok(Answer::of(advance(caller, &input::text(summary)?)?, |data| {
                format!("the molecule is {}, at step {}", word(data, "status"), word(data, "current_step"))
            })),
        }
    }
}
