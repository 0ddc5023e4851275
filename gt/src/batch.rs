//! `gt batch`: several pieces of work at once, as a convoy.

use crate::{
    caller::Caller,
    client::Call,
    failure::Failure,
    input::{self, Body},
    output::{Answer, items, word},
    plan::{self, Plan},
};
use clap::Args;
use serde_json::{Value as Json, json};
use std::path::PathBuf;

/// `gt batch`
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct BatchArgs {
    /// The convoy's title [default: the one in the file]
    title: Option<String>,
    /// Read the plan from a file; - reads standard input
    #[arg(long, short, value_name = "FILE", required_unless_present = "tasks")]
    file: Option<PathBuf>,
    /// A task: "key: Title <- key, key"; may be given again
    #[arg(long = "task", value_name = "TASK", conflicts_with = "file")]
    tasks: Vec<String>,
    /// review-then-land (all on a branch of their own, landed together) or review-and-merge [default: the town's]
    #[arg(long, value_name = "MODE")]
    merge_mode: Option<String>,
    /// Make it, but let it wait for: gt convoy start [default: as the town does]
    #[arg(long)]
    staged: bool,
    /// Start it at once, even where the town stages convoys
    #[arg(long, conflicts_with = "staged")]
    start: bool,
    /// The tasks wait for nothing, and that is meant so
    #[arg(long)]
    parallel: bool,
    /// Check and draw the plan; send nothing
    #[arg(long)]
    dry_run: bool,
}

/// Slings a batch.
pub fn sling_batch(caller: &Caller, body: Json) -> Result<Json, Failure> {
    caller.call(&Call::post(caller.mayor_path("sling-batch")?, body))
}

impl BatchArgs {
    /// Runs it.
    pub fn run(&self, caller: impl FnOnce() -> Result<Caller, Failure>) -> Result<Answer, Failure> {
        let plan = self.plan()?;
        let nodes = plan.checked()?;
        let parallel = self.parallel || plan.parallel;
        if nodes.len() > 1 && !parallel && nodes.iter().all(|node| node.after.is_empty()) {
            return Err(Failure::usage(
                "no task waits for another",
                "If that is meant so, say --parallel; else name what each waits for: \"b: Title <- a\".",
            ));
        }
        let picture = plan::picture(&nodes);
        let tasks = plan.wire(&nodes);
        if self.dry_run {
            return Ok(Answer::new(tasks, picture));
        }
        let title = self.title.clone().or_else(|| plan.title.clone()).ok_or_else(|| {
            Failure::usage(
                "the convoy has no title",
                "Give it one: gt batch \"The title\" …, or \"title\" in the file.",
            )
        })?;
        let caller = caller()?;
        let staged = if self.staged {
            Some(true)
        } else if self.start {
            Some(false)
        } else {
            plan.staged
        };
        let body = Body::new()
            .with("rig_id", Some(caller.rig()?))
            .with("convoy_title", Some(title))
            .with("tasks", Some(tasks))
            .with("merge_mode", self.merge_mode.clone().or_else(|| plan.merge_mode.clone()))
            .with("parallel", parallel.then_some(true))
            .with("staged", staged);
        Ok(Answer::of(sling_batch(&caller, body.json())?, |made| {
            let convoy = word(made, "convoy/id");
            let next = if made.pointer("/convoy/staged") == Some(&json!(true)) {
                format!("it is staged: gt convoy start {convoy}")
            } else {
                format!("follow it: gt convoy show {convoy}")
            };
            format!("convoy {convoy} with {} beads\n{picture}\n{next}", items(made, "beads").len())
        }))
    }

    fn plan(&self) -> Result<Plan, Failure> {
        if let Some(file) = &self.file {
            return plan::read(&input::file(file)?);
        }
        let tasks = self.tasks.iter().enumerate().map(|(index, line)| plan::task(line, index + 1));
        Ok(Plan { tasks: tasks.collect::<Result<_, _>>()?, ..Plan::default() })
    }
}
