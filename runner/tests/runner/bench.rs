//! One test's world: a bare repository with a first commit, a fake worker, and the real runner as a process.

use crate::fake_worker::{FakeWorker, PATIENCE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::Instant,
};

/// The container token that starts carry.
pub const TOKEN: &str = "container-token-of-the-test";

pub const HEARTBEAT: &str = "60000";

pub struct Bench {
    pub directory: TempDir,
    pub worker: FakeWorker,
    pub http: reqwest::Client,
    pub url: String,
    pub variables: Vec<(String, String)>,
    process: Option<Child>,
    said: Arc<Mutex<String>>,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these variables in the runner's environment.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        for name in ["home", "bin", "out"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let mut bench = Self {
            directory,
            worker: FakeWorker::start().await,
            http: reqwest::Client::new(),
            url: String::new(),
            variables: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            process: None,
            said: Arc::default(),
        };
        bench.git(bench.path(""), &["init", "--quiet", "--bare", "--initial-branch=main", "origin.git"]);
        bench.commit("main", "README.md", "hello\n");
        bench.boot().await;
        bench
    }

    /// Starts the runner, again after it was killed.
    pub async fn boot(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gastown-runner"));
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("GASTOWN_RUNNER_ADDR", "127.0.0.1:0")
            .env("GASTOWN_WORKSPACE", self.path("workspace"))
            .env("GASTOWN_DEV", "1")
            // Whether a `gt` was built beside the runner is no matter of a test's.
            .env("GASTOWN_GT", self.path("bin/gt"))
            .env("GASTOWN_STOP_GRACE_MS", "2000")
            .env("GASTOWN_HEARTBEAT_MS", HEARTBEAT)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut stderr = process.stderr.take().unwrap();
        let said = Arc::clone(&self.said);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
                said.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("{}", self.said()));
        line.strip_prefix("listening on ").unwrap().clone_into(&mut self.url);
        self.process = Some(process);
    }

    /// What the runner logged.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn origin(&self) -> String {
        format!("file://{}", self.path("origin.git").display())
    }

    pub fn git(&self, directory: impl AsRef<Path>, args: &[&str]) -> String {
        git(&self.path("home"), directory.as_ref(), args)
    }

    /// Git in the bare repository.
    pub fn in_origin(&self, args: &[&str]) -> String {
        self.git(self.path("origin.git"), args)
    }

    /// Commits a file to a branch of the origin, which is cut from main if it is new.
    pub fn commit(&self, branch: &str, file: &str, text: &str) {
        commit(&self.path("home"), self.directory.path(), branch, file, text);
    }

    /// An executable on the runner's path.
    pub fn program(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A polecat's start whose bead has this script.
    pub fn polecat(&self, agent: &str, script: &str) -> Value {
        json!({
            "agentId": agent, "rigId": "rig-1", "townId": "town-1", "dispatchId": format!("{agent}-d1"), "role": "polecat",
            "name": "Toast", "identity": "Toast-polecat-rig@town", "prompt": format!("Fix it\n\n```sh\n{script}\n```\n"),
            "model": "anthropic/claude-x", "gitUrl": self.origin(), "branch": format!("gt/toast/{agent}"),
            "defaultBranch": "main", "envVars": { "GASTOWN_API_URL": format!("{}/", self.worker.url), "GASTOWN_CONTAINER_TOKEN": TOKEN },
        })
    }

    /// A refinery's start for this branch.
    pub fn refinery(&self, branch: &str, gates: &[&str]) -> Value {
        let mut request = self.polecat("ref", "");
        request["role"] = json!("refinery");
        request["prompt"] = json!("Review it");
        request["review"] = json!({
            "entryId": "entry-1", "branch": branch, "targetBranch": "main", "sourceBeadId": "bead-1", "gates": gates,
        });
        request
    }

    /// A mayor's start.
    pub fn mayor(&self, prompt: &str) -> Value {
        let mut request = self.polecat("m1", "");
        request["role"] = json!("mayor");
        request["rigId"] = json!("mayor-town-1");
        request["gitUrl"] = json!("");
        request["branch"] = json!("gt/mayor");
        request["prompt"] = json!(prompt);
        request
    }

    /// A file in the bench's `out`, once it is there.
    pub async fn out(&self, name: &str) -> String {
        self.file(&format!("out/{name}")).await.trim_end().to_owned()
    }

    pub async fn send(&self, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
        read(self.http.request(method, format!("{}{path}", self.url)).json(body)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        read(self.http.get(format!("{}{path}", self.url))).await
    }

    pub async fn start(&self, request: &Value) -> (u16, Value) {
        self.post("/agents/start", request).await
    }

    /// Starts and demands success.
    pub async fn started(&self, request: &Value) -> Value {
        let (status, body) = self.start(request).await;
        assert_eq!(status, 201, "{body}\n{}", self.said());
        body
    }

    pub async fn status(&self, agent: &str) -> Value {
        self.get(&format!("/agents/{agent}/status")).await.1
    }

    /// The agent's record, once it has this status.
    pub async fn becomes(&self, agent: &str, status: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = self.status(agent).await;
            if record["status"] == status {
                return record;
            }
            assert!(Instant::now() < deadline, "{agent} does not become {status}: {record}\n{}", self.said());
            pause().await;
        }
    }

    /// A file of the bench, once it has a whole line.
    pub async fn file(&self, name: &str) -> String {
        let path = self.path(name);
        let mut text = String::new();
        eventually(&format!("file {name}"), || {
            text = fs::read_to_string(&path).unwrap_or_default();
            text.ends_with('\n')
        })
        .await;
        text
    }

    /// A process id that an agent wrote.
    pub async fn pid(&self, name: &str) -> Pid {
        Pid::from_raw(self.file(name).await.trim().parse().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().unwrap().id().unwrap();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// Waits until the runner has exited.
    pub async fn exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        tokio::time::timeout(PATIENCE, process.wait()).await.expect("the runner exits").unwrap()
    }
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        pause().await;
    }
}

/// Whether a process runs; a zombie does not.
pub fn alive(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Whether a process is a child of nobody who waits for it.
pub fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub fn git(home: &Path, directory: &Path, args: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(args)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", home)
        .envs([
            ("GIT_AUTHOR_NAME", "t"),
            ("GIT_AUTHOR_EMAIL", "t@t"),
            ("GIT_COMMITTER_NAME", "t"),
            ("GIT_COMMITTER_EMAIL", "t@t"),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn commit(home: &Path, directory: &Path, branch: &str, file: &str, text: &str) {
    let clone = tempfile::tempdir_in(directory).unwrap();
    let git = |args: &[&str]| git(home, clone.path(), args);
    let origin = directory.join("origin.git");
    git(&["clone", "--quiet", origin.to_str().unwrap(), "."]);
    if git(&["branch", "--remotes", "--list", &format!("origin/{branch}")]).is_empty() {
        git(&["checkout", "--quiet", "-B", branch]);
    } else {
        git(&["checkout", "--quiet", branch]);
    }
    fs::write(clone.path().join(file), text).unwrap();
    git(&["add", "-A"]);
    git(&["commit", "--quiet", "-m", &format!("change {file}")]);
    git(&["push", "--quiet", "origin", branch]);
}
