//! Escalations: `gt escalate` asks for help, `gt escalations` shows who asked and acknowledges.

use crate::{
    caller::{Caller, Who},
    client::{Call, segment},
    failure::Failure,
    input::{self, Body},
    output::{Answer, items, short, table, time, word},
    resolve,
};
use clap::{Args, Subcommand};
use serde_json::Value as Json;

/// `gt escalate`
#[derive(Debug, Args)]
pub struct EscalateArgs {
    /// What you need, in one line
    title: String,
    /// What you tried, and what happened; - reads standard input
    #[arg(long)]
    body: Option<String>,
    /// low, medium (default), high or critical
    #[arg(long)]
    priority: Option<String>,
    /// A JSON object that travels with it
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

/// `gt escalations`
#[derive(Debug, Args)]
pub struct EscalationsArgs {
    #[command(subcommand)]
    command: Option<EscalationCommand>,
    /// Only those that nobody acknowledged
    #[arg(long)]
    open: bool,
}

/// `gt escalations …`
#[derive(Debug, Subcommand)]
enum EscalationCommand {
    /// Say that somebody takes care: it is raised no more
    #[command(visible_alias = "acknowledge", after_help = "Examples:\n  gt escalations ack 0b5e1f2a")]
    Ack {
        /// The escalation: its id, or the beginning of it
        escalation: String,
    },
}

/// Asks for help.
pub fn escalate(caller: &Caller, body: Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.rig_path("escalations")?, body))
}

/// Acknowledges: a person by the town's route, the mayor by its own.
pub fn acknowledge(caller: &Caller, id: &str) -> Result<Json, Failure> {
    let rest = format!("escalations/{}/acknowledge", segment(id));
    let path = match caller.who {
        Who::Person { .. } => caller.town_path(&rest)?,
        Who::Agent { .. } => caller.mayor_path(&rest)?,
    };
    caller.call(&Call::post_empty(path).safe())
}

impl EscalateArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let metadata = self.metadata.as_deref().map(|given| input::object(given, "--metadata")).transpose()?;
        let body = Body::new()
            .with("title", Some(self.title.clone()))
            .with("body", input::optional(self.body.as_deref())?)
            .with("priority", self.priority.clone())
            .with("metadata", metadata);
        Ok(Answer::of(escalate(caller, body.json())?, |made| {
            format!("escalated as {} ({})", word(made, "id"), word(made, "severity"))
        }))
    }
}

impl EscalationsArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let Some(EscalationCommand::Ack { escalation }) = &self.command else {
            return Ok(Answer::of(list(caller, self.open)?, list_text));
        };
        let id = if resolve::is_id(escalation) {
            escalation.clone()
        } else {
            resolve::one(&list(caller, false)?, "escalation", Some(escalation))?
        };
        Ok(Answer::of(acknowledge(caller, &id)?, |e| format!("acknowledged: {}", word(e, "message"))))
    }
}

fn list(caller: &Caller, open: bool) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.town_path("escalations")?).with("acknowledged", open.then_some("false")))
}

fn list_text(list: &Json) -> String {
    let rows: Vec<Vec<String>> = items(list, "")
        .iter()
        .map(|e| {
            let open = matches!(word(e, "acknowledged").as_str(), "0" | "false" | "-");
            vec![
                short(e, "id"),
                word(e, "severity"),
                if open { "open" } else { "acknowledged" }.to_owned(),
                time(e, "created_at"),
                word(e, "message"),
            ]
        })
        .collect();
    table(&["ESCALATION", "SEVERITY", "STATE", "CREATED", "MESSAGE"], &rows, "no escalations")
}
