//! The guard: a tiny process that kills the agents' process groups when the runner is gone, however it went.
//!
//! It reads group ids from a pipe whose other end only the runner holds. When the runner dies, even by SIGKILL, the pipe
//! ends, and the guard kills what was still listed.

use nix::unistd::Pid;
use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
};

/// `kill` is the shell's own, so nothing needs to be found when it matters.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
alive=' '
while read -r op group; do
    case $op in
        add) alive="$alive$group " ;;
        del) case $alive in *" $group "*) alive="${alive%%" $group "*} ${alive#*" $group "}" ;; esac ;;
    esac
done
for group in $alive; do kill -KILL "-$group" 2>/dev/null; done
"#;

/// The runner's end of the guard.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts the guard in a group of its own, so that a Ctrl-C meant for the runner does not reach it.
    pub fn start() -> io::Result<Self> {
        let mut process = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// The guard's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap_or_default()
    }

    /// Lists a group.
    pub fn add(&mut self, group: Pid) {
        self.tell("add", group);
    }

    /// Takes a group off the list, before its id can be given to somebody else.
    pub fn remove(&mut self, group: Pid) {
        self.tell("del", group);
    }

    fn tell(&mut self, op: &str, group: Pid) {
        // Without a guard everything works, only a SIGKILL of the runner is no longer covered.
        if let Some(pipe) = &mut self.pipe
            && pipe.write_all(format!("{op} {group}\n").as_bytes()).is_err()
        {
            self.pipe = None;
            crate::journal::note("the guard process is gone: a SIGKILL of the runner would leave its agents running");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Ends the guard's loop: it kills what is still listed and exits.
        drop(self.pipe.take());
        let _ = self.process.wait();
    }
}
