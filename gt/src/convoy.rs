//! Convoys: `gt convoy list | show | start | close | add | remove`.

use crate::{
    caller::Caller,
    client::{Call, segment},
    failure::Failure,
    input::Body,
    output::{Answer, facts, items, short, table, time, word},
    plan, resolve,
};
use clap::Subcommand;
use serde_json::Value as Json;

/// `gt convoy …`
#[derive(Debug, Subcommand)]
pub enum ConvoyCommand {
    /// List the convoys that are under way
    #[command(after_help = "Examples:\n  gt convoy list")]
    List,
    /// Show a convoy: its beads, in the order of their dependencies
    #[command(after_help = "Examples:\n  gt convoy show 0b5e1f2a\n  gt convoy show \"Log in\"")]
    Show {
        /// The convoy: its id, the beginning of it, or its title
        convoy: String,
    },
    /// Start a staged convoy
    #[command(after_help = "Examples:\n  gt convoy start 0b5e1f2a")]
    Start {
        /// The convoy: its id, the beginning of it, or its title
        convoy: String,
    },
    /// Close a convoy by hand
    #[command(after_help = "Examples:\n  gt convoy close 0b5e1f2a")]
    Close {
        /// The convoy: its id, the beginning of it, or its title
        convoy: String,
    },
    /// Add a bead
    #[command(after_help = "Examples:\n  gt convoy add 0b5e1f2a 77aa01c2 --after 5c0d9e11")]
    Add {
        /// The convoy: its id, the beginning of it, or its title
        convoy: String,
        /// The bead: its id, or the beginning of it
        bead: String,
        /// A bead that must be closed first; may be given again
        #[arg(long = "after", value_name = "BEAD")]
        after: Vec<String>,
    },
    /// Take a bead out; the bead stays
    #[command(after_help = "Examples:\n  gt convoy remove 0b5e1f2a 77aa01c2")]
    Remove {
        /// The convoy: its id, the beginning of it, or its title
        convoy: String,
        /// The bead: its id, or the beginning of it
        bead: String,
    },
}

/// The convoys under way.
pub fn list(caller: &Caller) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.mayor_path("convoys")?))
}

/// One convoy with its beads.
pub fn show(caller: &Caller, id: &str) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.mayor_path(&format!("convoys/{}", segment(id)))?))
}

/// Starts a staged one. Sent once: it makes work.
pub fn start(caller: &Caller, id: &str) -> Result<Json, Failure> {
    let path = caller.mayor_path(&format!("convoys/{}/start", segment(id)))?;
    caller.call(&Call::post(path, Body::new().json()))
}

/// Closes one by hand.
pub fn close(caller: &Caller, id: &str) -> Result<Json, Failure> {
    caller.call(&Call::post_empty(caller.mayor_path(&format!("convoys/{}/close", segment(id)))?))
}

/// Changes its merge mode or its feature branch.
pub fn update(caller: &Caller, id: &str, patch: Json) -> Result<Json, Failure> {
    caller.call(&Call::patch(caller.mayor_path(&format!("convoys/{}", segment(id)))?, patch))
}

/// Adds or takes out a bead: `add-bead`, `remove-bead`.
fn change(caller: &Caller, id: &str, deed: &str, body: Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.mayor_path(&format!("convoys/{}/{deed}", segment(id)))?, body))
}

fn find(caller: &Caller, given: &str) -> Result<String, Failure> {
    if resolve::is_id(given) { Ok(given.to_owned()) } else { resolve::one(&list(caller)?, "convoy", Some(given)) }
}

impl ConvoyCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        match self {
            Self::List => Ok(Answer::of(list(caller)?, list_text)),
            Self::Show { convoy } => Ok(Answer::of(show(caller, &find(caller, convoy)?)?, show_text)),
            Self::Start { convoy } => Ok(Answer::of(start(caller, &find(caller, convoy)?)?, |data| {
                format!("{} has started with {} beads", word(data, "convoy/title"), items(data, "beads").len())
            })),
            Self::Close { convoy } => Ok(Answer::of(close(caller, &find(caller, convoy)?)?, |data| {
                format!("{} is {}", word(data, "title"), word(data, "status"))
            })),
            Self::Add { convoy, bead, after } => {
                let convoy = find(caller, convoy)?;
                let after: Vec<String> = after.iter().map(|b| resolve::bead(caller, b)).collect::<Result<_, _>>()?;
                let bead = resolve::bead(caller, bead)?;
                let body = Body::new().with("bead_id", Some(bead)).with_list("depends_on", &after);
                Ok(Answer::of(change(caller, &convoy, "add-bead", body.json())?, count_text))
            }
            Self::Remove { convoy, bead } => {
                let convoy = find(caller, convoy)?;
                let body = Body::new().with("bead_id", Some(resolve::bead(caller, bead)?));
                Ok(Answer::of(change(caller, &convoy, "remove-bead", body.json())?, count_text))
            }
        }
    }
}

fn count_text(data: &Json) -> String {
    format!("the convoy has {} beads", word(data, "total_beads"))
}

fn progress(convoy: &Json) -> String {
    format!("{}/{}", word(convoy, "closed_beads"), word(convoy, "total_beads"))
}

fn list_text(list: &Json) -> String {
    let rows: Vec<Vec<String>> = items(list, "")
        .iter()
        .map(|c| {
            let state =
                if c.get("staged") == Some(&Json::Bool(true)) { "staged".to_owned() } else { word(c, "status") };
            vec![short(c, "id"), state, progress(c), word(c, "merge_mode"), time(c, "created_at"), word(c, "title")]
        })
        .collect();
    table(&["CONVOY", "STATUS", "CLOSED", "MERGE MODE", "CREATED", "TITLE"], &rows, "no convoys under way")
}

fn show_text(convoy: &Json) -> String {
    let head = facts(&[
        ("convoy", word(convoy, "id")),
        ("title", word(convoy, "title")),
        ("status", word(convoy, "status")),
        ("staged", word(convoy, "staged")),
        ("closed", progress(convoy)),
        ("merge mode", word(convoy, "merge_mode")),
        ("branch", word(convoy, "feature_branch")),
        ("landed", time(convoy, "landed_at")),
    ]);
    let beads = items(convoy, "beads");
    let nodes: Vec<plan::Node> = beads
        .iter()
        .map(|bead| plan::Node {
            key: short(bead, "bead_id"),
            label: format!("{}  {}", word(bead, "status"), word(bead, "title")),
            after: items(convoy, "dependency_edges")
                .iter()
                .filter(|edge| word(edge, "bead_id") == word(bead, "bead_id"))
                .filter_map(|edge| beads.iter().position(|b| word(b, "bead_id") == word(edge, "depends_on_bead_id")))
                .collect(),
        })
        .collect();
    format!("{head}\n\n{}", plan::picture(&nodes))
}
