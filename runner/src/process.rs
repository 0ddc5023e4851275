//! Child processes, each leading a process group of its own.
//!
//! Guarantees: whatever ends a process (its own exit, a stop, the runner's end, a panic of its task) ends its whole group; what
//! left the group is found by its mark; nothing stays a zombie. The lock around spawning keeps the reaper of adopted
//! children from collecting one of ours before it is listed.

use crate::{
    environment::Environment,
    guard::Guard,
    output::Output,
    proc_fs,
    stop::{Stop, StopCause},
    text,
};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::HashSet,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How often a dying group is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long output is awaited after the last process of a group has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// All child processes of the runner.
#[derive(Debug)]
pub struct Processes {
    /// Process ids that somebody waits for.
    ours: Mutex<HashSet<i32>>,
    guard: Mutex<Option<Guard>>,
    grace: Duration,
    /// What every mark of this runner begins with.
    mark: String,
    count: AtomicU64,
    /// Set when everything was killed.
    closed: AtomicBool,
}

/// A command to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// Looked up on the `PATH` of its own environment.
    pub program: &'a str,
    /// Arguments.
    pub args: &'a [String],
    /// The whole environment; nothing is inherited.
    pub environment: &'a Environment,
    /// Where it runs.
    pub directory: &'a Path,
    /// What it reads from standard input; nothing = an empty one.
    pub input: Option<String>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Why it was stopped, if it was.
    pub stopped: Option<StopCause>,
}

/// A running process and its group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    mark: String,
    home: Arc<Processes>,
    /// Tasks that copy input and output.
    copies: Vec<JoinHandle<()>>,
    over: bool,
}

impl Processes {
    /// Nothing yet. `workspace` begins every mark, so that the next runner on it can find what this one left.
    pub fn new(workspace: &Path, instance: &str, grace: Duration) -> io::Result<Arc<Self>> {
        let guard = Guard::start()?;
        let ours = HashSet::from([guard.pid()]);
        Ok(Arc::new(Self {
            ours: Mutex::new(ours),
            guard: Mutex::new(Some(guard)),
            grace,
            mark: format!("{}#{instance}#", workspace.display()),
            count: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    /// Starts a process whose output goes to `output`: both streams through one pipe, so that the order of what was said
    /// survives and the last words are the last.
    pub fn spawn(self: &Arc<Self>, job: Job<'_>, output: &Arc<Output>) -> io::Result<Process> {
        let (reader, writer) = io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let mut process = self.spawn_to(job, writer.try_clone()?.into(), writer.into())?;
        process.copies.push(tokio::spawn(Arc::clone(output).follow(reader)));
        Ok(process)
    }

    /// Starts a process whose output the caller reads.
    pub fn spawn_piped(self: &Arc<Self>, job: Job<'_>) -> io::Result<Process> {
        self.spawn_to(job, Stdio::piped(), Stdio::piped())
    }

    fn spawn_to(self: &Arc<Self>, job: Job<'_>, stdout: Stdio, stderr: Stdio) -> io::Result<Process> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}{number};", self.mark);
        let mut command = Command::new(job.program);
        command
            .args(job.args)
            .env_clear()
            .envs(job.environment.iter())
            .env(proc_fs::MARK, &mark)
            .current_dir(job.directory)
            .stdin(if job.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        let mut ours = text::lock(&self.ours);
        if self.is_closed() {
            return Err(io::Error::other("the runner is exiting"));
        }
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw).ok_or(Errno::ESRCH)?;
        ours.insert(group.as_raw());
        drop(ours);
        if let Some(guard) = text::lock(&self.guard).as_mut() {
            guard.add(group);
        }
        let mut copies = Vec::new();
        if let (Some(input), Some(mut pipe)) = (job.input, child.stdin.take()) {
            // A program that does not read its input closes it; that is its own affair.
            copies.push(tokio::spawn(async move {
                let _ = pipe.write_all(input.as_bytes()).await;
            }));
        }
        Ok(Process { child, group, mark, home: Arc::clone(self), copies, over: false })
    }

    /// How many processes run.
    #[must_use]
    pub fn count(&self) -> usize {
        // The guard is no agent.
        text::lock(&self.ours).len().saturating_sub(1)
    }

    /// Whether the runner is exiting: how its processes end is its own doing now, and nothing to report about them.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Kills everything at once: the runner is about to exit.
    pub fn kill_all(&self) {
        let ours = text::lock(&self.ours);
        self.closed.store(true, Ordering::SeqCst);
        let guard = text::lock(&self.guard).as_ref().map(Guard::pid);
        for &pid in ours.iter().filter(|&&pid| Some(pid) != guard) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        proc_fs::kill_marked(&self.mark);
    }

    /// Collects zombies that agents left to us.
    pub fn reap_adopted(&self) {
        proc_fs::reap_adopted(&text::lock(&self.ours));
    }
}

impl Process {
    /// Waits until the process ends by itself or `stop` is given, and until nothing of its group is left.
    pub async fn wait(mut self, stop: &Stop) -> io::Result<Ended> {
        let ended = tokio::select! {
            status = self.child.wait() => Ended { status: status?, stopped: None },
            cause = stop.fired() => Ended { status: self.terminate().await?, stopped: Some(cause) },
        };
        if self.home.is_closed() {
            return std::future::pending().await;
        }
        self.clear().await;
        // Whoever escaped group and mark may hold the pipe open: what it says is not waited for.
        for copy in std::mem::take(&mut self.copies) {
            let abort = copy.abort_handle();
            if timeout(LAST_WORDS, copy).await.is_err() {
                abort.abort();
            }
        }
        Ok(ended)
    }

    /// The process's output pipes, once.
    pub fn pipes(&mut self) -> Option<(tokio::process::ChildStdout, tokio::process::ChildStderr)> {
        self.child.stdout.take().zip(self.child.stderr.take())
    }

    /// SIGTERM to the group, SIGKILL to what is left of it when the grace period ends.
    async fn terminate(&mut self) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + self.home.grace;
        let _ = killpg(self.group, Signal::SIGTERM);
        let status = timeout(self.home.grace, self.child.wait()).await;
        while status.is_ok() && Instant::now() < deadline && self.others_alive() {
            sleep(LOOK).await;
        }
        let _ = killpg(self.group, Signal::SIGKILL);
        match status {
            Ok(status) => status,
            Err(_) => self.child.wait().await,
        }
    }

    /// After the leader's end: kills and collects the rest.
    async fn clear(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        let _ = killpg(self.group, Signal::SIGKILL);
        while self.others_alive() && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        proc_fs::kill_marked(&self.mark);
        self.forget();
    }

    /// Whether the group has members besides its leader, who has been waited for. Those that became our own children are
    /// collected on the way: a zombie would count as a member for ever.
    fn others_alive(&self) -> bool {
        while matches!(
            waitpid(Pid::from_raw(-self.group.as_raw()), Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
        ) {}
        killpg(self.group, None).is_ok()
    }

    fn forget(&mut self) {
        if !self.over {
            self.over = true;
            if let Some(guard) = text::lock(&self.home.guard).as_mut() {
                guard.remove(self.group);
            }
            text::lock(&self.home.ours).remove(&self.group.as_raw());
        }
    }
}

impl Drop for Process {
    /// A net for tasks that are dropped half-way: the runtime shutting down, a panic.
    fn drop(&mut self) {
        if !self.over {
            let _ = killpg(self.group, Signal::SIGKILL);
            proc_fs::kill_marked(&self.mark);
            self.forget();
        }
    }
}
