//! One attempt while it is being made: its request, private directory, git, worktree, and its words to the worker.

use crate::{
    config::Config,
    credentials,
    dispatch::Dispatch,
    environment::{self, Environment, Places},
    git::{Git, GitError},
    output::Output,
    preset::Preset,
    redact::Redactor,
    repository::{Repository, Worktree},
    request::StartRequest,
    runner::Runner,
    stop::{Stop, StopCause},
    text,
    voice::{CallError, Patience, SHORT_CALL, data_text},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// The longest text of a failure.
const REASON_BYTES: usize = 4096;

/// The longest that each git command of an eviction may take.
const SAVING: Duration = Duration::from_secs(30);

/// Where an attempt failed, as the worker classifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Clone, fetch, worktree, push.
    Repository,
    /// The agent itself.
    Run,
}

impl Phase {
    /// The phase on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Run => "run",
        }
    }
}

/// Why an attempt ends before it succeeds.
#[derive(Debug)]
pub enum Halt {
    /// It was told to.
    Stopped(StopCause),
    /// It failed.
    Failed(Phase, String),
}

impl Halt {
    /// A failure of the agent itself.
    #[must_use]
    pub fn run(reason: impl Into<String>) -> Self {
        Self::Failed(Phase::Run, reason.into())
    }

    /// An error of git in this phase.
    pub fn git(phase: Phase) -> impl Fn(GitError) -> Self {
        move |error| match error {
            GitError::Stopped(cause) => Self::Stopped(cause),
            GitError::Failed(text) => Self::Failed(phase, text),
        }
    }
}

/// An attempt being made.
#[derive(Debug)]
pub struct Attempt {
    /// The runner.
    pub runner: Arc<Runner>,
    /// The record.
    pub dispatch: Arc<Dispatch>,
    /// What was asked for.
    pub request: StartRequest,
    /// What does the work.
    pub preset: Preset,
    /// Ends it early.
    pub stop: Stop,
    /// Cleans what leaves it.
    pub redactor: Arc<Redactor>,
    /// The agent's worktree, once there is one: what an eviction saves.
    pub tree: Option<(Repository, Worktree)>,
    agent_directory: PathBuf,
    /// Its own directory: log, inbox, script.
    pub directory: PathBuf,
}

impl Attempt {
    /// Makes the private directories and the credential store.
    pub fn begin(runner: Arc<Runner>, dispatch: Arc<Dispatch>, request: StartRequest) -> io::Result<Self> {
        let agent_directory = runner.workspace.agent(&dispatch.agent)?;
        let directory = runner.workspace.attempt(&dispatch.agent, &dispatch.attempt)?;
        let attempt = Self {
            preset: runner.config.preset(request.role),
            stop: dispatch.listen(),
            redactor: Arc::clone(&dispatch.redactor),
            tree: None,
            runner,
            dispatch,
            request,
            agent_directory,
            directory,
        };
        attempt.write_credentials()?;
        Ok(attempt)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.runner.config
    }

    fn credentials(&self) -> PathBuf {
        self.agent_directory.join(credentials::FILE)
    }

    /// Writes the credential store and learns what is secret.
    fn write_credentials(&self) -> io::Result<()> {
        let variables = self.variables();
        let line = self.request.git_url.as_ref().and_then(|url| credentials::line(url, &variables));
        let mut secrets: Vec<(String, String)> =
            variables.iter().chain(&self.config().own).map(|(k, v)| (k.clone(), v.clone())).collect();
        if let Some(userinfo) = self.request.git_url.as_ref().and_then(|url| url.userinfo.as_ref()) {
            secrets.extend(userinfo.split(':').map(|part| ("URL_PASSWORD".to_owned(), part.to_owned())));
        }
        self.redactor.learn(secrets.iter().map(|(name, value)| (name, value)));
        credentials::write(&self.credentials(), line.as_deref())
    }

    /// The start's variables, and what the worker has pushed since: its settings and the newest token.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let mut variables = self.request.env_vars.clone();
        if let Some(town) = self.dispatch.settings().town {
            variables.extend(town.variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        if let Some(token) = self.dispatch.voice.tokens.get(&self.dispatch.town) {
            variables.insert("GASTOWN_CONTAINER_TOKEN".to_owned(), token);
        }
        variables
    }

    /// The agent's own home, which outlives the attempt.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.agent_directory.join("home")
    }

    /// Git for this attempt.
    #[must_use]
    pub fn git(&self) -> Git {
        Git {
            processes: Arc::clone(&self.runner.processes),
            environment: environment::of_git(self.config(), &self.request, &self.credentials()),
            redactor: Arc::clone(&self.redactor),
            timeout: self.config().git_timeout,
            stop: self.stop.clone(),
        }
    }

    /// The environment of the agent's process.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let (home, inbox, credentials) = (self.home(), self.inbox(), self.credentials());
        let token = self.dispatch.voice.tokens.file(&self.dispatch.town).filter(|file| file.is_file());
        let places = Places { home: &home, inbox: &inbox, credentials: &credentials, token: token.as_deref() };
        let variables = self.variables();
        self.redactor.learn(&variables);
        let request = StartRequest { env_vars: variables, ..self.request.clone() };
        environment::of_agent(self.config(), self.preset, &request, places)
    }

    fn inbox(&self) -> PathBuf {
        self.directory.join("inbox.jsonl")
    }

    /// Opens log and inbox and connects them to the record.
    pub fn open_output(&self) -> Result<Arc<Output>, Halt> {
        let failed = |error: io::Error| Halt::run(format!("{}: {error}", self.directory.display()));
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.inbox()).map_err(failed)?;
        let log = self.directory.join("output.log");
        let (redactor, feed) = (Arc::clone(&self.redactor), Arc::clone(&self.dispatch.feed));
        let output = Output::create(redactor, self.preset.dialect(), feed, &log, self.config().log_bytes);
        self.dispatch.mailbox.open_inbox(self.inbox());
        output.map(Arc::new).map_err(failed)
    }

    /// The right to work with the rig's clone.
    pub async fn rig_lock(&self) -> Result<tokio::sync::OwnedMutexGuard<()>, Halt> {
        let lock = self.runner.workspace.rig_lock(&self.request.rig_id);
        tokio::select! {
            held = lock.lock_owned() => Ok(held),
            cause = self.stop.fired() => Err(Halt::Stopped(cause)),
        }
    }

    /// The rig's clone, up to date. The caller holds the rig's lock. A git token that expired is renewed once.
    pub async fn open_repository(&mut self) -> Result<Repository, Halt> {
        let Some(url) = self.request.git_url.clone() else {
            return Err(Halt::Failed(Phase::Repository, "the rig has no git url".to_owned()));
        };
        let rig = self.runner.workspace.rig(&self.request.rig_id);
        let branch = self.request.default_branch.clone();
        match Repository::open(self.git(), &rig, &url, &branch).await {
            Err(GitError::Failed(text)) if is_refusal(&text) && self.renew_git_token().await => {
                Repository::open(self.git(), &rig, &url, &branch).await
            }
            opened => opened,
        }
        .map_err(Halt::git(Phase::Repository))
    }

    /// Pushes the worktree's head. A git token that expired is renewed once.
    pub async fn push(&mut self, git: &Git, tree: &Worktree) -> Result<(), GitError> {
        match tree.push(git).await {
            Err(GitError::Failed(text)) if is_refusal(&text) && self.renew_git_token().await => tree.push(git).await,
            pushed => pushed,
        }
    }

    async fn renew_git_token(&mut self) -> bool {
        if self.request.git_url.as_ref().is_none_or(|url| url.origin.is_none()) {
            return false;
        }
        let voice = &self.dispatch.voice;
        let path = voice.rig_path(&self.dispatch.rig, "refresh-git-token");
        let Ok(said) = voice.call(&path, None, SHORT_CALL).await else { return false };
        let Some(token) = data_text(&said, "token") else { return false };
        if let Some(gitlab) = self.request.env_vars.get_mut("GITLAB_TOKEN") {
            gitlab.clone_from(&token);
        }
        self.request.env_vars.insert("GIT_TOKEN".to_owned(), token);
        self.write_credentials().is_ok()
    }

    /// A workspace without a clone: `git init`, one empty commit, no remote.
    pub async fn plain_workspace(&self, name: &str) -> Result<PathBuf, Halt> {
        let directory = self.runner.workspace.rig(&self.request.rig_id).join(name);
        let _lock = self.rig_lock().await?;
        std::fs::create_dir_all(&directory)
            .map_err(|error| Halt::Failed(Phase::Repository, format!("{}: {error}", directory.display())))?;
        let git = self.git();
        let failed = Halt::git(Phase::Repository);
        if !directory.join(".git").exists() {
            git.run(&directory, &["init", "--quiet"]).await.map_err(&failed)?;
            let commit = ["commit", "--quiet", "--allow-empty", "-m", "Initial commit"];
            git.run(&directory, &commit).await.map_err(&failed)?;
        }
        Ok(directory)
    }

    /// The process runs: says so to whoever asked for the start.
    pub fn started(&self, workdir: &Path) {
        self.dispatch.run_in(workdir.to_owned());
        self.dispatch.feed.tell("agent.started", json!({ "role": self.dispatch.role.name() }));
        self.runner.changed.notify_one();
        self.runner.due.now(Arc::clone(&self.dispatch));
        let port = self.runner.port.load(Ordering::Relaxed);
        self.dispatch.answer.give(201, self.dispatch.record(port));
    }

    /// Reports how the process ended. The worker ignores it for an attempt that has succeeded, so an agent that called `done`
    /// by itself loses nothing by it.
    pub async fn completed(&self, status: &str, phase: Option<Phase>, reason: &str, stop: &Stop) {
        let mut body = json!({
            "status": status,
            "reason": self.reason(reason),
            "agentId": self.dispatch.agent,
        });
        if let (Some(phase), Some(fields)) = (phase, body.as_object_mut()) {
            fields.insert("phase".to_owned(), json!(phase.name()));
            // A refusal of the model is not the bead's fault, which the worker knows by the status.
            if let (Phase::Run, Some(status)) = (phase, self.dispatch.feed.refusal()) {
                fields.insert("model_status".to_owned(), json!(status));
            }
        }
        let path = format!("agents/{}/completed", self.dispatch.agent);
        if let Err(error) = self.report(&path, &body, stop).await {
            crate::journal::note(&format!("completed of {}: {error}", self.dispatch.agent));
        }
    }

    /// A text for the worker: clean, bounded, never empty.
    #[must_use]
    pub fn reason(&self, reason: &str) -> String {
        let clean = self.redactor.clean(reason);
        let cut = text::head(clean.trim(), REASON_BYTES);
        if cut.is_empty() { "failed without saying why".to_owned() } else { cut.to_owned() }
    }

    /// A call of the rig that must arrive.
    pub async fn report(&self, path: &str, body: &Value, stop: &Stop) -> Result<Value, CallError> {
        let voice = &self.dispatch.voice;
        let patience = Patience { total: self.config().report_for, pause: self.config().report_pause };
        voice.insist(&voice.rig_path(&self.dispatch.rig, path), body, patience, stop).await
    }

    /// Saves the work of an attempt that the drain ends, and says so (protocol 4.8, step 4).
    pub async fn evict(&mut self) {
        // Whoever is told of a branch goes on from there, so it must be there: without one the work begins where it began.
        let mut saved = false;
        if let Some((repository, tree)) = self.tree.take() {
            let git = repository.git().unstoppable(SAVING);
            match self.save(&git, &repository, &tree).await {
                Ok(kept) => saved = kept,
                Err(error) => {
                    crate::journal::note(&format!("the work of {} could not be saved: {error}", self.dispatch.agent));
                }
            }
        }
        let voice = &self.dispatch.voice;
        if saved && self.dispatch.role == crate::request::Role::Polecat {
            let body = json!({
                "branch": self.dispatch.branch, "agent_name": self.dispatch.name, "saved_at": text::now(),
            });
            let path = voice.rig_path(&self.dispatch.rig, &format!("agents/{}/eviction-context", self.dispatch.agent));
            if let Err(error) = voice.call(&path, Some(&body), Duration::from_secs(5)).await {
                crate::journal::note(&format!("eviction-context of {}: {error}", self.dispatch.agent));
            }
        }
        let body = json!({ "status": "completed", "reason": "container eviction", "agentId": self.dispatch.agent });
        let path = voice.rig_path(&self.dispatch.rig, &format!("agents/{}/completed", self.dispatch.agent));
        if let Err(error) = voice.call(&path, Some(&body), SHORT_CALL).await {
            crate::journal::note(&format!("completed of {}: {error}", self.dispatch.agent));
        }
    }

    /// Commits and pushes what there is; true if the origin has the branch.
    async fn save(&mut self, git: &Git, repository: &Repository, tree: &Worktree) -> Result<bool, GitError> {
        tree.commit_changes(git, "WIP: container eviction save").await?;
        if tree.ahead(git).await? > 0 {
            self.push(git, tree).await?;
            return Ok(true);
        }
        repository.has(&tree.branch).await
    }
}

/// Whether git was refused for its credentials (protocol 6.2).
fn is_refusal(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["authentication failed", "could not read username", "could not read password", "error: 401", "error: 403"]
        .iter()
        .any(|sign| text.contains(sign))
}
