//! Runs git: no prompts, no hooks, a time limit, and errors whose text carries no secret.

use crate::{
    environment::Environment,
    process::{Job, Processes},
    redact::Redactor,
    stop::{Stop, StopCause},
    text,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of git's complaint is passed on.
const COMPLAINT_BYTES: usize = 1500;

/// How much of git's answer is read: the longest asked for is a list of conflicting files.
const ANSWER_BYTES: u64 = 1_000_000;

/// Settings for every command. Hooks and monitors of a clone are files that agents can write; they must not run with the
/// runner's credentials. Signing and background collection would need what a container does not have.
const SETTINGS: [&str; 10] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "commit.gpgSign=false",
    "-c",
    "gc.autoDetach=false",
    "-c",
    "advice.detachedHead=false",
];

/// Why a git command did not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GitError {
    /// The attempt was stopped meanwhile.
    #[error("stopped")]
    Stopped(StopCause),
    /// Git failed, in its own words.
    #[error("{0}")]
    Failed(String),
}

/// Git on behalf of one attempt.
#[derive(Clone, Debug)]
pub struct Git {
    /// Where processes live.
    pub processes: Arc<Processes>,
    /// With the credential store and the author.
    pub environment: Environment,
    /// Cleans what git says.
    pub redactor: Arc<Redactor>,
    /// The longest a command may take.
    pub timeout: Duration,
    /// Ends a running command.
    pub stop: Stop,
}

impl Git {
    /// The same, but not to be stopped: for tidying up.
    #[must_use]
    pub fn unstoppable(&self, timeout: Duration) -> Self {
        Self { stop: Stop::never(), timeout, ..self.clone() }
    }

    /// Runs a command and returns what it said on standard output, trimmed.
    pub async fn run(&self, directory: &Path, args: &[&str]) -> Result<String, GitError> {
        if let Some(cause) = self.stop.cause() {
            return Err(GitError::Stopped(cause));
        }
        let verb = args.first().copied().unwrap_or_default();
        let failed = |what: &str| GitError::Failed(self.redactor.clean(&format!("git {verb}: {what}")));
        let args: Vec<String> = SETTINGS.iter().chain(args).map(|&arg| arg.to_owned()).collect();
        let job = Job { program: "git", args: &args, environment: &self.environment, directory, input: None };
        let mut process = self.processes.spawn_piped(job).map_err(|error| failed(&error.to_string()))?;
        let Some((stdout, stderr)) = process.pipes() else { return Err(failed("has no output")) };
        let talk = async { tokio::join!(read(stdout), read(stderr), process.wait(&self.stop)) };
        let Ok((answer, complaint, ended)) = tokio::time::timeout(self.timeout, talk).await else {
            return Err(failed(&format!("took longer than {} s", self.timeout.as_secs())));
        };
        let ended = ended.map_err(|error| failed(&error.to_string()))?;
        if let Some(cause) = ended.stopped {
            return Err(GitError::Stopped(cause));
        }
        if ended.status.success() {
            return Ok(answer.trim().to_owned());
        }
        let said = if complaint.trim().is_empty() { &answer } else { &complaint };
        Err(failed(&format!("{}: {}", text::ending(ended.status), text::tail(said.trim(), COMPLAINT_BYTES))))
    }

    /// Whether a command succeeds; being stopped is still an error.
    pub async fn succeeds(&self, directory: &Path, args: &[&str]) -> Result<bool, GitError> {
        match self.run(directory, args).await {
            Ok(_) => Ok(true),
            Err(GitError::Failed(_)) => Ok(false),
            Err(stopped @ GitError::Stopped(_)) => Err(stopped),
        }
    }
}

async fn read(source: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let mut source = source.take(ANSWER_BYTES);
    let _ = source.read_to_end(&mut bytes).await;
    // What is beyond is read and dropped, lest git wait for ever for a reader.
    let _ = tokio::io::copy(&mut source.into_inner(), &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
