//! `gt triage resolve`: the answer to a question about a stuck agent.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    output::{Answer, word},
    resolve,
};
use clap::Subcommand;
use serde_json::{Value as Json, json};

/// `gt triage …`
#[derive(Debug, Subcommand)]
pub enum TriageCommand {
    /// Decide what happens with a triage request
    #[command(
        after_help = "Examples:\n  gt triage resolve 0b5e1f2a RESTART --notes \"It hangs in npm install\"\n\nActions: \
                            RESTART, RESTART_WITH_BACKOFF, CLOSE_BEAD, ESCALATE_TO_MAYOR, NUDGE, REASSIGN_BEAD,\nDISCARD, \
                            PROVIDE_GUIDANCE."
    )]
    Resolve {
        /// The triage request: its bead's id, or the beginning of it
        request: String,
        /// What to do
        action: String,
        /// Why
        #[arg(long, default_value = "")]
        notes: String,
    },
}

/// Resolves a request.
pub fn resolve_request(caller: &Caller, request: &str, action: &str, notes: &str) -> Result<Json, Failure> {
    let body = json!({ "triage_request_bead_id": request, "action": action, "resolution_notes": notes });
    caller.call(&Call::post(caller.any_rig_path("triage/resolve")?, body))
}

impl TriageCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let Self::Resolve { request, action, notes } = self;
        let request = resolve::bead(caller, request)?;
        Ok(Answer::of(resolve_request(caller, &request, action, notes)?, |bead| {
            format!("resolved: {}", word(bead, "title"))
        }))
    }
}
