//! An agent that is a process: a script or a model's tool in a worktree, and the delivery of what it made.

use crate::{
    attempt::{Attempt, Halt, Phase},
    conversation,
    output::Output,
    preset::{Launch, Preset},
    process::{Job, Process},
    repository::{Repository, Worktree},
    request::Role,
    script, text,
    voice::{CallError, is_late},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
};

/// The longest commit message.
const TITLE_BYTES: usize = 500;

/// How much of the last output becomes the summary of a merge request.
const SUMMARY_BYTES: usize = 2000;

/// Runs the session to its end.
pub async fn run(attempt: &mut Attempt) -> Result<String, Halt> {
    let directory = open_workspace(attempt).await?;
    let output = attempt.open_output()?;
    if let Some(start) = attempt.tree.as_ref().and_then(|(_, tree)| tree.missed.as_ref()) {
        let (own, default) = (&attempt.request.branch, &attempt.request.default_branch);
        output.keep(&format!("the start point {start} is not there (yet): {own} begins at {default}, if it is new\n"));
        // For the log; the agent's own last words are the summary of its work.
        output.forget();
    }
    if attempt.preset == Preset::Shell {
        run_script(attempt, &directory, &output).await?;
    } else {
        conversation::run(attempt, &directory, &output).await?;
    }
    match attempt.tree.take() {
        Some((repository, tree)) if attempt.request.role == Role::Polecat => {
            let delivered = deliver(attempt, &repository, &tree, &output).await;
            attempt.tree = Some((repository, tree));
            delivered
        }
        tree => {
            attempt.completed("completed", None, "ended its turn and has nothing more to do", &attempt.stop).await;
            if let (Some((repository, tree)), Ok(_lock)) = (tree, attempt.rig_lock().await) {
                // A reviewer's verdict is at the origin, or there is none.
                repository.remove(&tree.directory).await;
            }
            Ok("completed".to_owned())
        }
    }
}

/// Runs the bead's script. A script has one turn: its exit is its end.
async fn run_script(attempt: &mut Attempt, directory: &Path, output: &Arc<Output>) -> Result<(), Halt> {
    let Some(script) = script::first_sh_block(&attempt.request.prompt) else {
        attempt.started(directory);
        return Err(Halt::run("no fenced sh block in the bead's body"));
    };
    // A file, so that the script may read standard input and appears in no list of processes.
    let path = attempt.directory.join("script.sh");
    fs::write(&path, script).map_err(|error| Halt::run(format!("{}: {error}", path.display())))?;
    let args = vec!["-e".to_owned(), path.display().to_string()];
    let launch = Launch { program: "sh", args, input: None, variables: Vec::new() };
    let process = spawn(attempt, directory, output, launch)?;
    attempt.started(directory);
    let ended = end(attempt, process, output).await;
    attempt.dispatch.mailbox.close();
    ended
}

/// Starts a process of the agent.
pub fn spawn(attempt: &Attempt, directory: &Path, output: &Arc<Output>, launch: Launch) -> Result<Process, Halt> {
    let mut environment = attempt.environment();
    environment.extend(launch.variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let job =
        Job { program: launch.program, args: &launch.args, environment: &environment, directory, input: launch.input };
    let spawned = attempt.runner.processes.spawn(job, output);
    spawned.map_err(|error| Halt::run(format!("{} could not be started: {error}", launch.program)))
}

/// Waits for a process to end well.
pub async fn end(attempt: &Attempt, process: Process, output: &Output) -> Result<(), Halt> {
    let ended = process.wait(&attempt.stop).await.map_err(|error| Halt::run(error.to_string()))?;
    match ended.stopped {
        Some(cause) => Err(Halt::Stopped(cause)),
        None if ended.status.success() => Ok(()),
        None => Err(Halt::run(last_words(ended.status, output))),
    }
}

async fn open_workspace(attempt: &mut Attempt) -> Result<PathBuf, Halt> {
    if !attempt.request.needs_repository() {
        let mayor = attempt.request.role == Role::Mayor;
        return attempt.plain_workspace(if mayor { "mayor-workspace" } else { "triage-workspace" }).await;
    }
    let _lock = attempt.rig_lock().await?;
    let repository = attempt.open_repository().await?;
    let request = &attempt.request;
    let tree = repository
        .worktree(&request.branch, request.start_point.as_deref(), request.target_branch(), &request.default_branch)
        .await
        .map_err(Halt::git(Phase::Repository))?;
    let directory = tree.directory.clone();
    attempt.tree = Some((repository, tree));
    Ok(directory)
}

/// Commits what changed; pushes and says `done` if that is ahead of the target, else says that nothing came of it.
async fn deliver(
    attempt: &mut Attempt,
    repository: &Repository,
    tree: &Worktree,
    output: &Arc<Output>,
) -> Result<String, Halt> {
    let title = title(attempt);
    let git = repository.git();
    let lock = attempt.rig_lock().await?;
    tree.commit_changes(git, &title).await.map_err(Halt::git(Phase::Run))?;
    if tree.ahead(git).await.map_err(Halt::git(Phase::Run))? == 0 {
        drop(lock);
        attempt.completed("completed", None, "exited with status 0, without a change", &attempt.stop).await;
        return Ok("completed".to_owned());
    }
    attempt.push(git, tree).await.map_err(Halt::git(Phase::Repository))?;
    drop(lock);
    let said = output.summary();
    let summary = if said.is_empty() { title.as_str() } else { text::tail(&said, SUMMARY_BYTES) };
    let body = json!({ "branch": tree.branch, "summary": attempt.redactor.clean(summary) });
    let path = format!("agents/{}/done", attempt.dispatch.agent);
    match attempt.report(&path, &body, &attempt.stop).await {
        // Nobody to tell is no failure of the work.
        Ok(_) | Err(CallError::Nobody) => {}
        Err(CallError::Stopped) => {
            return Err(attempt.stop.cause().map_or_else(|| Halt::run("stopped"), Halt::Stopped));
        }
        // The attempt was settled otherwise meanwhile; the branch is pushed, which is all that can be done.
        Err(error) if is_late(&error) => crate::journal::note(&format!("done of {}: {error}", attempt.dispatch.agent)),
        Err(error) => return Err(Halt::run(format!("the work is pushed to {}, but {error}", tree.branch))),
    }
    // The work is at the origin: what is left here would only fill the disk.
    if let Ok(_lock) = attempt.rig_lock().await {
        repository.remove(&tree.directory).await;
    }
    Ok("completed".to_owned())
}

/// The bead's title, else the branch; with the agent as co-author if somebody else is the author.
fn title(attempt: &Attempt) -> String {
    let first = attempt.request.prompt.lines().map(str::trim).find(|line| !line.is_empty());
    let title = first.unwrap_or(&attempt.request.branch);
    let title = attempt.redactor.clean(text::head(title, TITLE_BYTES));
    match crate::environment::Author::of(&attempt.request).agent {
        Some((name, email)) => format!("{title}\n\nCo-authored-by: {name} <{email}>"),
        None => title,
    }
}

/// How it ended, and the last it said.
#[must_use]
pub fn last_words(status: ExitStatus, output: &Output) -> String {
    let ending = text::ending(status);
    let said = output.tail();
    if said.is_empty() {
        return format!("{ending} and printed nothing");
    }
    // The ending comes first, so the tail gives way.
    let room = crate::output::TAIL_BYTES.saturating_sub(ending.len() + 2);
    format!("{ending}:\n{}", text::tail(&said, room))
}
