//! The built-in refinery: merges one branch, runs the gates on the result, pushes, and reports the verdict.
//!
//! A branch with a pull request is merged and tested in the same way, but not pushed: it is reported `done` with the pull
//! request, and the forge merges it. A verdict (`merged`, `failed`, `conflict`) judges the branch. What prevents a verdict
//! (no clone, a push that fails for another reason than a race) is reported as `completed {failed}`, so that the branch is
//! not blamed for it.
//! The scratch worktree is removed however it ends. The rig's lock is not held while gates run: they may take long.

use crate::{
    attempt::{Attempt, Halt, Phase},
    environment,
    git::GitError,
    output::Output,
    process::Job,
    repository::{Repository, tracking},
    request::Review,
    session::last_words,
    text,
    voice::{CallError, is_late},
};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

/// How often a merge is made again because the target moved while the gates ran.
const RACES: usize = 5;

/// How many conflicting files are named.
const NAMED_FILES: usize = 20;

/// What is said about the branch.
enum Verdict {
    Merged {
        commit: String,
        message: String,
    },
    /// It merges and passes its gates; its pull request, with this url, brings it in.
    Good(String),
    Failed(String),
    Conflict(String),
}

/// How one try ended.
enum Try {
    Verdict(Verdict),
    /// Somebody else pushed to the target meanwhile.
    Raced(String),
}

/// Reviews one branch.
pub async fn run(attempt: &mut Attempt) -> Result<String, Halt> {
    let Some(review) = attempt.request.review.clone() else {
        return Err(Halt::run("the built-in refinery needs a review to be named in the start"));
    };
    let lock = attempt.rig_lock().await?;
    let repository = attempt.open_repository().await?;
    drop(lock);
    let output = attempt.open_output()?;
    attempt.started(repository.clone_directory());
    let mut raced = String::new();
    for _ in 0..RACES {
        match attempt_merge(attempt, &repository, &review, &output).await? {
            Try::Verdict(verdict) => return announce(attempt, &review, verdict).await,
            Try::Raced(text) => raced = text,
        }
    }
    let text = format!("{} moved during each of {RACES} tries: {raced}", review.target_branch);
    Err(Halt::Failed(Phase::Repository, text))
}

async fn attempt_merge(
    attempt: &Attempt,
    repository: &Repository,
    review: &Review,
    output: &Arc<Output>,
) -> Result<Try, Halt> {
    let failed = Halt::git(Phase::Repository);
    let lock = attempt.rig_lock().await?;
    repository.fetch().await.map_err(&failed)?;
    if !repository.has(&review.branch).await.map_err(&failed)? {
        let text = format!("the branch {} does not exist in the repository", review.branch);
        return Ok(Try::Verdict(Verdict::Failed(text)));
    }
    // A convoy's feature branch begins with the first merge into it, where the default branch then is. Two that begin it
    // at once race as over any other branch.
    let begins = !repository.has(&review.target_branch).await.map_err(&failed)?;
    let onto = if begins { &attempt.request.default_branch } else { &review.target_branch };
    if !begins && let Some(commit) = merged_already(repository, review).await.map_err(&failed)? {
        let message = format!("{} is part of {} already", review.branch, review.target_branch);
        return Ok(Try::Verdict(Verdict::Merged { commit, message }));
    }
    let name = format!("merge-{}", uuid::Uuid::new_v4());
    let scratch = repository.scratch(&name, &tracking(onto)).await.map_err(&failed)?;
    drop(lock);
    let result = try_in(attempt, repository, review, output, &scratch).await;
    // Not to be stopped: the lock is free soon, git commands have their time limits.
    let lock = attempt.runner.workspace.rig_lock(&attempt.request.rig_id).lock_owned().await;
    repository.remove(&scratch).await;
    drop(lock);
    result
}

/// The commit that brought the branch in, if one did: a refinery whose report was lost finds its own merge here.
async fn merged_already(repository: &Repository, review: &Review) -> Result<Option<String>, GitError> {
    let (branch, target) = (tracking(&review.branch), tracking(&review.target_branch));
    let (git, clone) = (repository.git(), repository.clone_directory());
    if !git.succeeds(clone, &["merge-base", "--is-ancestor", &branch, &target]).await? {
        return Ok(None);
    }
    let tip = repository.commit(&branch).await?;
    let merges = git.run(clone, &["rev-list", "--merges", "--parents", &format!("{branch}..{target}")]).await?;
    let merge = merges.lines().find_map(|line| {
        let mut commits = line.split(' ');
        let merge = commits.next()?;
        commits.any(|parent| parent == tip).then(|| merge.to_owned())
    });
    // Merged without a merge commit: the branch's own tip is in.
    Ok(Some(merge.unwrap_or(tip)))
}

async fn try_in(
    attempt: &Attempt,
    repository: &Repository,
    review: &Review,
    output: &Arc<Output>,
    scratch: &Path,
) -> Result<Try, Halt> {
    let git = repository.git();
    let failed = Halt::git(Phase::Repository);
    let bead = if review.source_bead_id.is_empty() { &review.entry_id } else { &review.source_bead_id };
    let message = format!("Merge branch '{}' into {}\n\nBead: {bead}", review.branch, review.target_branch);
    let merge = ["merge", "--quiet", "--no-ff", "--no-verify", "-m", &message, &tracking(&review.branch)];
    match git.run(scratch, &merge).await {
        Ok(_) => {}
        Err(GitError::Stopped(cause)) => return Err(Halt::Stopped(cause)),
        Err(GitError::Failed(text)) => {
            let files = git.run(scratch, &["diff", "--name-only", "--diff-filter=U"]).await.map_err(&failed)?;
            return Ok(Try::Verdict(if files.is_empty() {
                Verdict::Failed(text)
            } else {
                Verdict::Conflict(conflict(review, &files))
            }));
        }
    }
    let commit = git.run(scratch, &["rev-parse", "HEAD"]).await.map_err(&failed)?;
    for gate in &review.gates {
        if let Some(text) = run_gate(attempt, gate, output, scratch).await? {
            return Ok(Try::Verdict(Verdict::Failed(text)));
        }
    }
    if let Some(url) = &review.pr_url {
        return Ok(Try::Verdict(Verdict::Good(url.clone())));
    }
    // What was merged is pushed, not what a gate may have left as the head.
    let to = format!("{commit}:refs/heads/{}", review.target_branch);
    let _lock = attempt.rig_lock().await?;
    match git.run(scratch, &["push", "--quiet", "origin", &to]).await {
        Ok(_) => {
            let message = format!("merged {} into {}", review.branch, review.target_branch);
            Ok(Try::Verdict(Verdict::Merged { commit, message }))
        }
        Err(GitError::Failed(text)) if is_race(&text) => Ok(Try::Raced(text)),
        Err(error) => Err(failed(error)),
    }
}

/// Runs one gate; the text of its failure, if it failed.
async fn run_gate(attempt: &Attempt, gate: &str, output: &Arc<Output>, scratch: &Path) -> Result<Option<String>, Halt> {
    output.keep(&format!("$ {gate}\n"));
    output.forget();
    let environment = environment::of_gate(attempt.config(), &attempt.request);
    let args = ["-c".to_owned(), gate.to_owned()];
    let job = Job { program: "sh", args: &args, environment: &environment, directory: scratch, input: None };
    let spawned = attempt.runner.processes.spawn(job, output);
    let process = spawned.map_err(|error| Halt::run(format!("the gate could not be started: {error}")))?;
    let limit = attempt.config().gate_timeout;
    // Dropping the process at the limit kills its group.
    let Ok(ended) = tokio::time::timeout(limit, process.wait(&attempt.stop)).await else {
        let said = output.tail();
        return Ok(Some(format!("gate `{gate}` took longer than {} s:\n{said}", limit.as_secs_f64())));
    };
    let ended = ended.map_err(|error| Halt::run(error.to_string()))?;
    match ended.stopped {
        Some(cause) => Err(Halt::Stopped(cause)),
        None if ended.status.success() => Ok(None),
        None => Ok(Some(format!("gate `{}` {}", text::head(gate, 200), last_words(ended.status, output)))),
    }
}

async fn announce(attempt: &Attempt, review: &Review, verdict: Verdict) -> Result<String, Halt> {
    let body: Value = match &verdict {
        Verdict::Merged { commit, message } => {
            json!({ "entry_id": review.entry_id, "status": "merged", "message": message, "commit_sha": commit })
        }
        Verdict::Good(url) => {
            let summary = format!("{} merges into {} and passes its gates", review.branch, review.target_branch);
            json!({ "branch": review.branch, "pr_url": url, "summary": summary })
        }
        Verdict::Failed(text) => {
            json!({ "entry_id": review.entry_id, "status": "failed", "message": attempt.reason(text) })
        }
        Verdict::Conflict(text) => {
            json!({ "entry_id": review.entry_id, "status": "conflict", "message": attempt.reason(text) })
        }
    };
    let path = match verdict {
        Verdict::Good(_) => format!("agents/{}/done", attempt.dispatch.agent),
        _ => format!("review-queue/{}/complete", review.entry_id),
    };
    match attempt.report(&path, &body, &attempt.stop).await {
        Ok(_) | Err(CallError::Nobody) => Ok("completed".to_owned()),
        Err(CallError::Stopped) => Err(attempt.stop.cause().map_or_else(|| Halt::run("stopped"), Halt::Stopped)),
        Err(error) if is_late(&error) => {
            crate::journal::note(&format!("verdict of {}: {error}", attempt.dispatch.agent));
            Ok("completed".to_owned())
        }
        Err(error) => Err(Halt::run(format!("the verdict was not taken: {error}"))),
    }
}

fn conflict(review: &Review, files: &str) -> String {
    let all: Vec<&str> = files.lines().collect();
    let named = all.iter().take(NAMED_FILES).copied().collect::<Vec<_>>().join(", ");
    let more = all.len().saturating_sub(NAMED_FILES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} conflicts with {} in {named}{more}", review.branch, review.target_branch)
}

/// Whether a push was refused because the branch had moved, as git says it.
fn is_race(text: &str) -> bool {
    ["non-fast-forward", "fetch first", "cannot lock ref", "incorrect old value", "failed to update ref"]
        .iter()
        .any(|sign| text.contains(sign))
}
