//! Beads: `gt bead show | close | list | create`, and `gt beads`.

use crate::{
    caller::{Caller, Who},
    client::{Call, segment},
    failure::Failure,
    input::{self, Body},
    output::{Answer, facts, items, short, table, time, word},
    resolve,
};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

/// `gt bead …`
#[derive(Debug, Subcommand)]
pub enum BeadCommand {
    /// Show a bead
    #[command(after_help = "Examples:\n  gt bead show 0b5e1f2a\n  gt bead show 0b5e1f2a --json")]
    Show {
        /// The bead: its id, or the beginning of it
        bead: String,
    },
    /// Close a bead
    #[command(
        after_help = "Examples:\n  gt bead close 0b5e1f2a\n\nAn agent that closes its own bead is done without a \
                            branch: nothing is merged."
    )]
    Close {
        /// The bead: its id, or the beginning of it
        bead: String,
    },
    /// List the beads of a rig
    #[command(after_help = "Examples:\n  gt bead list --status open\n  gt bead list --type merge_request --limit 20")]
    List(ListArgs),
    /// Create a bead without handing it to anybody
    #[command(
        after_help = "Examples:\n  gt bead create \"Write the docs\" --label gt:held\n  gt bead create \"Fix it\" \
                            --body - < notes.md"
    )]
    Create(NewArgs),
}

/// `gt beads`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only these: open, in_progress, in_review, closed, failed
    #[arg(long)]
    status: Option<String>,
    /// Only these: issue, escalation, merge_request, convoy, molecule
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only an agent's: its id, the beginning of it, or its name
    #[arg(long, value_name = "AGENT")]
    assignee: Option<String>,
    /// How many, newest first
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// How many to pass over
    #[arg(long, default_value_t = 0)]
    offset: u32,
}

/// What a new bead is told with; `gt sling` takes the same.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// What is to be done, in one line
    title: String,
    /// The whole description; - reads standard input
    #[arg(long)]
    body: Option<String>,
    /// Read the description from a file
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    body_file: Option<std::path::PathBuf>,
    /// low, medium, high or critical
    #[arg(long)]
    priority: Option<String>,
    /// A label; may be given again
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// A bead that must be closed first; may be given again
    #[arg(long = "after", value_name = "BEAD")]
    after: Vec<String>,
    /// A JSON object that travels with the bead
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

impl NewArgs {
    /// As a body.
    pub fn body(&self, caller: &Caller) -> Result<Json, Failure> {
        let text = match &self.body_file {
            Some(path) => Some(input::file(path)?),
            None => input::optional(self.body.as_deref())?,
        };
        let metadata = self.metadata.as_deref().map(|given| input::object(given, "--metadata")).transpose()?;
        let after: Vec<String> = self.after.iter().map(|bead| resolve::bead(caller, bead)).collect::<Result<_, _>>()?;
        Ok(Body::new()
            .with("title", Some(self.title.clone()))
            .with("body", text)
            .with("priority", self.priority.clone())
            .with_list("labels", &self.labels)
            .with_list("depends_on", &after)
            .with("metadata", metadata)
            .json())
    }
}

/// Reads a bead.
pub fn show(caller: &Caller, rig: &str, bead: &str) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.path_in_rig(rig, &format!("beads/{}", segment(bead)))?))
}

/// Closes a bead, in the name of who calls.
pub fn close(caller: &Caller, rig: &str, bead: &str) -> Result<Json, Failure> {
    let path = caller.path_in_rig(rig, &format!("beads/{}/close", segment(bead)))?;
    caller.call(&Call::post(path, json!({ "agent_id": caller.name() })).safe())
}

/// Lists a rig's beads.
pub fn list(caller: &Caller, rig: &str, filter: &Filter) -> Result<Json, Failure> {
    caller.call(
        &Call::get(caller.mayor_or_rig_path(rig, "beads")?)
            .with("status", filter.status.as_ref())
            .with("type", filter.kind.as_ref())
            .with("assignee_agent_bead_id", filter.assignee.as_ref())
            .with("limit", filter.limit)
            .with("offset", filter.offset),
    )
}

/// Which beads.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of a status.
    pub status: Option<String>,
    /// Of a type.
    pub kind: Option<String>,
    /// Of an agent, by id.
    pub assignee: Option<String>,
    /// How many.
    pub limit: Option<u64>,
    /// After how many.
    pub offset: Option<u64>,
}

impl BeadCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        match self {
            Self::Show { bead } => {
                let (rig, bead) = resolve::bead_in_rig(caller, bead)?;
                Ok(Answer::of(show(caller, &rig, &bead)?, bead_text))
            }
            Self::Close { bead } => {
                // Which rig does not matter to the server; an agent names its own.
                let (rig, bead) = match (&caller.who, resolve::is_id(bead)) {
                    (Who::Agent { .. }, true) => (caller.rig()?, bead.clone()),
                    _ => resolve::bead_in_rig(caller, bead)?,
                };
                Ok(Answer::of(close(caller, &rig, &bead)?, |bead| {
                    format!("{} is {}: {}", short(bead, "bead_id"), word(bead, "status"), word(bead, "title"))
                }))
            }
            Self::List(args) => args.run(caller),
            Self::Create(args) => {
                let mut body = args.body(caller)?;
                if let Some(fields) = body.as_object_mut() {
                    fields.insert("type".to_owned(), json!("issue"));
                }
                let made = caller.call(&Call::post(caller.rig_path("beads")?, body))?;
                Ok(Answer::of(made, |bead| format!("created {}: {}", word(bead, "bead_id"), word(bead, "title"))))
            }
        }
    }
}

impl ListArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let assignee = self.assignee.as_deref().map(|agent| resolve::agent(caller, agent)).transpose()?;
        let filter = Filter {
            status: self.status.clone(),
            kind: self.kind.clone(),
            assignee,
            limit: Some(self.limit.into()),
            offset: Some(self.offset.into()),
        };
        Ok(Answer::of(list(caller, &caller.rig()?, &filter)?, beads_text))
    }
}

/// A list of beads.
pub fn beads_text(beads: &Json) -> String {
    let rows: Vec<Vec<String>> = items(beads, "")
        .iter()
        .map(|bead| {
            vec![
                short(bead, "bead_id"),
                word(bead, "status"),
                word(bead, "type"),
                word(bead, "priority"),
                time(bead, "created_at"),
                word(bead, "title"),
            ]
        })
        .collect();
    table(&["BEAD", "STATUS", "TYPE", "PRIORITY", "CREATED", "TITLE"], &rows, "no beads")
}

/// One bead, in full.
pub fn bead_text(bead: &Json) -> String {
    let labels: Vec<String> = items(bead, "labels").iter().filter_map(|l| l.as_str()).map(str::to_owned).collect();
    let failure = bead.pointer("/metadata/failure_reason").or_else(|| bead.get("failure_reason"));
    let failure = failure.filter(|reason| reason.is_object());
    let failure = failure.map_or(String::new(), |r| format!("{}: {}", word(r, "code"), word(r, "message")));
    let head = facts(&[
        ("bead", word(bead, "bead_id")),
        ("title", word(bead, "title")),
        ("status", word(bead, "status")),
        ("failure", failure),
        ("type", word(bead, "type")),
        ("priority", word(bead, "priority")),
        ("labels", labels.join(", ")),
        ("rig", word(bead, "rig_id")),
        ("parent", word(bead, "parent_bead_id")),
        ("assignee", word(bead, "assignee_agent_bead_id")),
        ("attempts", word(bead, "dispatch_attempts")),
        ("created", time(bead, "created_at")),
        ("updated", time(bead, "updated_at")),
        ("closed", time(bead, "closed_at")),
    ]);
    match bead.get("body").and_then(Json::as_str) {
        Some(body) if !body.is_empty() => format!("{head}\n\n{body}"),
        _ => head,
    }
}
