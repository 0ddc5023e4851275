//! What Linux's `/proc` knows about processes: who carries an attempt's mark, and which of our children are zombies.
//!
//! Elsewhere there is no `/proc`, every list is empty, and process groups are all the protection there is.

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use std::{collections::HashSet, fs, io};

/// The variable that marks the processes of an attempt: `<workspace>#<instance>#<number>`.
pub const MARK: &str = "GASTOWN_PROCESS_MARK";

/// Kills every process whose mark begins with `prefix`, also those that left their process group. Looks again until none
/// is found, since one may fork while another is being killed.
pub fn kill_marked(prefix: &str) {
    let wanted = format!("{MARK}={prefix}");
    for _ in 0..10 {
        let found: Vec<Pid> = processes().filter(|&pid| carries(pid, wanted.as_bytes())).collect();
        if found.is_empty() {
            return;
        }
        for pid in found {
            // It may have ended by itself in between.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Collects children that are zombies, except `ours`, whose ends somebody waits for. They are what agents left behind: as the
/// container's first process (or as a subreaper) the runner inherits them.
pub fn reap_adopted(ours: &HashSet<i32>) {
    let me = Pid::this().as_raw();
    for pid in processes() {
        if !ours.contains(&pid.as_raw()) && zombie_child_of(pid, me).unwrap_or(false) {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let me = Pid::this().as_raw();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(move |&pid| pid != me)
        .map(Pid::from_raw)
}

/// A zombie has no environment any more, so it is never found here.
fn carries(pid: Pid, wanted: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|variable| variable.starts_with(wanted)))
}

fn zombie_child_of(pid: Pid, parent: i32) -> io::Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // `pid (name) state parent …`: the name may contain anything, so count from its end.
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    Ok(fields.next() == Some("Z") && fields.next().and_then(|text| text.parse().ok()) == Some(parent))
}
