//! What a mayor remembers: its tool's sessions, which lie in the agent's home and travel to the next container as a snapshot
//! (`…/agents/:a/db-snapshot`: one gzipped tar).
//!
//! Guarantees: a snapshot has no credentials in it, is at most 32 MB, and takes at most 10 s; without one, or with one that
//! cannot be read, the session begins afresh. A session is gone on with only by the tool that began it.

use crate::{
    attempt::Attempt,
    preset::Preset,
    process::Job,
    stop::Stop,
    voice::{Body, CallError, SHORT_CALL},
};
use reqwest::Method;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tokio::time::{Instant, timeout};

/// The largest snapshot.
const SNAPSHOT_BYTES: u64 = 32_000_000;

/// A file of the home that says whose session lies there. It is written when a turn has ended well.
const MARK: &str = ".gastown-session";

/// What is no memory: credentials, and what a tool can have again.
const LEFT_OUT: [&str; 8] =
    [".credentials.json", "auth.json", "mcp-auth.json", "log", "logs", "bin", "cache", "node_modules"];

/// An agent's session, as it lies on the disk.
#[derive(Debug)]
pub struct Memory {
    home: PathBuf,
    /// Beside the home: the snapshot while it is packed or unpacked.
    parcel: PathBuf,
    preset: Preset,
    /// When it was last sent.
    sent: Option<Instant>,
}

impl Memory {
    /// The memory of this attempt's agent, with a place for the tool's sessions.
    pub fn of(attempt: &Attempt) -> io::Result<Self> {
        let home = attempt.home();
        fs::create_dir_all(attempt.preset.session_directory(&home))?;
        Ok(Self { parcel: home.with_file_name("snapshot.tar.gz"), home, preset: attempt.preset, sent: None })
    }

    /// Whether there is a session to go on with.
    fn is_there(&self) -> bool {
        fs::read_to_string(self.home.join(MARK)).is_ok_and(|preset| preset == self.preset.name())
    }

    /// A turn has ended well: there is a session now.
    pub fn mark(&self) {
        if let Err(error) = fs::write(self.home.join(MARK), self.preset.name()) {
            crate::journal::note(&format!("{}: {error}", self.home.display()));
        }
    }

    /// The session is of no use.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.home.join(MARK));
    }

    /// Whether there is a session to go on with, here or in the snapshot that another container sent.
    pub async fn recall(&self, attempt: &Attempt) -> bool {
        if self.is_there() {
            return true;
        }
        let voice = &attempt.dispatch.voice;
        match voice.exchange(Method::GET, &path(attempt), Body::Empty, SHORT_CALL).await {
            Ok(bytes) if !bytes.is_empty() => match self.unpack(attempt, &bytes).await {
                Ok(()) => return self.is_there(),
                Err(error) => note(attempt, &format!("cannot be unpacked: {error}")),
            },
            Ok(_) | Err(CallError::Nobody | CallError::Refused { status: 404, .. }) => {}
            Err(error) => note(attempt, &error.to_string()),
        }
        false
    }

    /// Sends what there is to remember.
    pub async fn send(&mut self, attempt: &Attempt) {
        if !self.is_there() {
            return;
        }
        self.sent = Some(Instant::now());
        match timeout(SHORT_CALL, self.pack_and_send(attempt)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => note(attempt, &error),
            Err(_) => note(attempt, "took longer than 10 s"),
        }
        let _ = fs::remove_file(&self.parcel);
    }

    /// Sends it unless that was done within the last five minutes: a container that dies loses no more than that.
    pub async fn send_now_and_then(&mut self, attempt: &Attempt) {
        if self.sent.is_none_or(|sent| sent.elapsed() > std::time::Duration::from_mins(5)) {
            self.send(attempt).await;
        }
    }

    async fn pack_and_send(&self, attempt: &Attempt) -> Result<(), String> {
        let mut args = vec!["-C".to_owned(), self.home.display().to_string()];
        args.extend(LEFT_OUT.iter().map(|name| format!("--exclude={name}")));
        args.extend(["-czf".to_owned(), self.parcel.display().to_string(), ".".to_owned()]);
        self.tar(attempt, &args).await.map_err(|error| error.to_string())?;
        let size = fs::metadata(&self.parcel).map_err(|error| error.to_string())?.len();
        if size > SNAPSHOT_BYTES {
            return Err(format!("has {size} bytes, and {SNAPSHOT_BYTES} is the most"));
        }
        let bytes = fs::read(&self.parcel).map_err(|error| error.to_string())?;
        let said = attempt.dispatch.voice.exchange(Method::POST, &path(attempt), Body::Bytes(&bytes), SHORT_CALL).await;
        said.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn unpack(&self, attempt: &Attempt, bytes: &[u8]) -> io::Result<()> {
        fs::write(&self.parcel, bytes)?;
        // tar itself refuses members outside the directory.
        let args =
            ["-C", &self.home.display().to_string(), "--no-same-owner", "-xzf", &self.parcel.display().to_string()]
                .map(str::to_owned);
        let unpacked = timeout(SHORT_CALL, self.tar(attempt, &args)).await;
        let _ = fs::remove_file(&self.parcel);
        unpacked.unwrap_or_else(|_| Err(io::Error::other("took longer than 10 s")))
    }

    async fn tar(&self, attempt: &Attempt, args: &[String]) -> io::Result<()> {
        let environment = crate::environment::of_gate(attempt.config(), &attempt.request);
        let job = Job { program: "tar", args, environment: &environment, directory: Path::new("/"), input: None };
        // To be done although the attempt has been told to end.
        let ended = attempt.runner.processes.spawn_piped(job)?.wait(&Stop::never()).await?;
        if ended.status.success() { Ok(()) } else { Err(io::Error::other(crate::text::ending(ended.status))) }
    }
}

fn path(attempt: &Attempt) -> String {
    attempt.dispatch.voice.rig_path(&attempt.dispatch.rig, &format!("agents/{}/db-snapshot", attempt.dispatch.agent))
}

fn note(attempt: &Attempt, what: &str) {
    crate::journal::note(&format!("the snapshot of {}: {what}", attempt.dispatch.agent));
}
