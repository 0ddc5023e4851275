//! An agent's own commands: `prime`, `done`, `checkpoint`, `status`.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input::{self, Body},
    output::{Answer, facts, items, short, time, word},
};
use clap::Args;
use serde_json::{Value as Json, json};
use std::{path::PathBuf, process::Command};

/// `gt done`
#[derive(Debug, Args)]
pub struct DoneArgs {
    /// The branch that holds the work [default: the branch checked out here]
    #[arg(long, conflicts_with = "no_changes")]
    branch: Option<String>,
    /// There is nothing to merge: the bead is closed without a review
    #[arg(long)]
    no_changes: bool,
    /// The pull request, if there is one
    #[arg(long, value_name = "URL")]
    pr_url: Option<String>,
    /// What was done, for the reviewer; - reads standard input
    #[arg(long)]
    summary: Option<String>,
}

/// `gt checkpoint`
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// What to remember: JSON, or any text; - reads standard input
    #[arg(required_unless_present_any = ["file", "clear"])]
    data: Option<String>,
    /// Read it from a file
    #[arg(long, conflicts_with = "data")]
    file: Option<PathBuf>,
    /// Forget what was remembered
    #[arg(long, conflicts_with_all = ["data", "file"])]
    clear: bool,
}

/// `gt status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// What you are doing, at most 280 characters
    message: String,
}

/// Reads what an agent starts with. It delivers the mail in it, so it is asked for once.
pub fn prime(caller: &Caller) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.agent_path("prime")?).once())
}

/// Reports the work as finished. Without a branch it takes the one checked out here, unless `no_changes` says that there
/// is nothing to merge: a forgotten argument must not close a bead and leave its work behind.
pub fn done(caller: &Caller, mut body: Json) -> Result<Json, Failure> {
    let path = caller.agent_path("done")?;
    if let Some(fields) = body.as_object_mut() {
        let nothing = fields.remove("no_changes") == Some(Json::Bool(true));
        if nothing {
            fields.remove("branch");
        } else if fields.get("branch").and_then(Json::as_str).is_none_or(str::is_empty) {
            fields.insert("branch".to_owned(), json!(checked_out()?));
        }
    }
    caller.call(&Call::post(path, body).safe())
}

/// The branch checked out in the current directory.
fn checked_out() -> Result<String, Failure> {
    let said = Command::new("git").args(["symbolic-ref", "--quiet", "--short", "HEAD"]).output();
    let branch = said.ok().filter(|said| said.status.success());
    let branch = branch.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default();
    if branch.is_empty() {
        return Err(Failure::usage(
            "no branch is named, and none is checked out here",
            "Name the branch that you pushed (branch), or say that there is nothing to merge (no_changes).",
        ));
    }
    Ok(branch)
}

/// Writes the checkpoint.
pub fn checkpoint(caller: &Caller, data: &Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.agent_path("checkpoint")?, json!({ "data": data })).safe())
}

/// Says what the agent is doing.
pub fn status(caller: &Caller, message: &str) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.agent_path("status")?, json!({ "message": message })).safe())
}

/// `gt prime`
pub fn run_prime(caller: &Caller) -> Result<Answer, Failure> {
    Ok(Answer::of(prime(caller)?, primed))
}

/// The context as an agent reads it.
fn primed(data: &Json) -> String {
    let mut parts = vec![facts(&[
        ("agent", format!("{} ({})", word(data, "agent/name"), word(data, "agent/role"))),
        ("id", word(data, "agent/id")),
        ("bead", word(data, "hooked_bead/bead_id")),
        ("title", word(data, "hooked_bead/title")),
    ])];
    if let Some(body) = data.pointer("/hooked_bead/body").and_then(Json::as_str) {
        parts.push(body.to_owned());
    }
    for key in ["rework_context", "pr_fixup_context", "pr_conflict_context"] {
        if let Some(context) = data.get(key).filter(|context| !context.is_null()) {
            parts.push(format!("{key}:\n{context:#}"));
        }
    }
    for mail in items(data, "undelivered_mail") {
        let head = format!("mail from {}: {}", word(mail, "from_agent_id"), word(mail, "subject"));
        parts.push(format!("{head}\n{}", word(mail, "body")));
    }
    if let Some(checkpoint) = data.pointer("/agent/checkpoint").filter(|checkpoint| !checkpoint.is_null()) {
        parts.push(format!("checkpoint:\n{checkpoint:#}"));
    }
    let open: Vec<String> = items(data, "open_beads")
        .iter()
        .map(|bead| format!("  {}  {}  {}", short(bead, "bead_id"), word(bead, "status"), word(bead, "title")))
        .collect();
    if !open.is_empty() {
        parts.push(format!("open beads:\n{}", open.join("\n")));
    }
    parts.join("\n\n")
}

impl DoneArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let body = Body::new()
            .with("branch", self.branch.clone())
            .with("no_changes", self.no_changes.then_some(true))
            .with("pr_url", self.pr_url.clone())
            .with("summary", input::optional(self.summary.as_deref())?);
        Ok(Answer::new(done(caller, body.json())?, "done: your work is handed in; end your session now"))
    }
}

impl CheckpointArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let text = match (&self.data, &self.file) {
            (Some(data), _) => Some(input::text(data)?),
            (None, Some(file)) => Some(input::file(file)?),
            (None, None) => None,
        };
        let data = text.map_or(Json::Null, |text| serde_json::from_str(&text).unwrap_or(Json::String(text)));
        let said = if data.is_null() { "checkpoint cleared" } else { "checkpoint written" };
        Ok(Answer::new(checkpoint(caller, &data)?, said))
    }
}

impl StatusArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        Ok(Answer::new(status(caller, &self.message)?, "status set"))
    }
}

/// One agent, in full.
pub fn agent_text(agent: &Json) -> String {
    facts(&[
        ("id", word(agent, "id")),
        ("name", word(agent, "name")),
        ("role", word(agent, "role")),
        ("identity", word(agent, "identity")),
        ("status", word(agent, "status")),
        ("bead", word(agent, "current_hook_bead_id")),
        ("says", word(agent, "agent_status_message")),
        ("last seen", time(agent, "last_activity_at")),
    ])
}
