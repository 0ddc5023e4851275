//! Repositories that are made before anybody works in them: `POST /repos/setup`, and the rigs that a mayor may look into.
//!
//! Nobody is told how it went: a clone that failed is made by the first agent that needs it, whose failure is reported.

use crate::{
    attempt::{Attempt, Halt},
    bodies::parse_setup,
    dispatch::Dispatch,
    journal,
    repository::{Repository, tracking},
    request::StartRequest,
    runner::Runner,
};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

/// Makes the rig's clone, and a worktree of its default branch to look into (`rigs/<rig>/browse`), in the background.
pub fn begin(runner: &Arc<Runner>, request: StartRequest) {
    let runner = Arc::clone(runner);
    tokio::spawn(async move {
        let rig = request.rig_id.clone();
        if let Err(reason) = make(runner, request).await {
            journal::note(&format!("the repository of rig {rig} is not prepared: {reason}"));
        }
    });
}

/// Prepares a rig that the mayor's start names: `{rigId, gitUrl, defaultBranch}`.
pub fn for_mayor(attempt: &Attempt, rig: &Value) {
    let mut body = rig.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.insert("envVars".to_owned(), json!(attempt.variables()));
    }
    match parse_setup(body.to_string().as_bytes(), &attempt.dispatch.town, attempt.config().dev) {
        Ok(request) => begin(&attempt.runner, request),
        Err(_) => journal::note("a rig of the mayor's start cannot be read"),
    }
}

async fn make(runner: Arc<Runner>, request: StartRequest) -> Result<(), String> {
    let dispatch = Dispatch::new(&request, runner.voice_of(&request), &runner.transcripts);
    let directory = runner.workspace.rig(&request.rig_id).join("browse");
    let mut attempt = Attempt::begin(runner, dispatch, request).map_err(|error| error.to_string())?;
    let redactor = Arc::clone(&attempt.redactor);
    let made = async {
        let _lock = attempt.rig_lock().await?;
        let repository = attempt.open_repository().await?;
        browse(&repository, &directory, &attempt.request.default_branch).await
    };
    match made.await {
        Ok(()) => Ok(()),
        Err(Halt::Stopped(_)) => Err("it was stopped".to_owned()),
        Err(Halt::Failed(_, reason)) => Err(redactor.clean(&reason)),
    }
}

async fn browse(repository: &Repository, directory: &Path, branch: &str) -> Result<(), Halt> {
    let (git, at) = (repository.git(), tracking(branch));
    let failed = Halt::git(crate::attempt::Phase::Repository);
    if directory.join(".git").is_file() {
        git.run(directory, &["checkout", "--quiet", "--detach", "--force", &at]).await.map_err(failed)?;
    } else {
        let path = directory.display().to_string();
        repository.remove(directory).await;
        let add = ["worktree", "add", "--quiet", "--detach", &path, &at];
        git.run(repository.clone_directory(), &add).await.map_err(failed)?;
    }
    Ok(())
}
