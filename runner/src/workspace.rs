//! Where things lie on disk, and the tidying after a runner that did not end in order.
//!
//! ```text
//! rigs/<rig>/repo                           clone without checkout, shared
//! rigs/<rig>/worktrees/<branch, / as __>    one per agent branch
//! rigs/<rig>/merge-tmp/merge-<id>           a merge being tried
//! rigs/<rig>/triage-workspace               git init, no remote (lightweight agents)
//! rigs/<rig>/mayor-workspace                git init, no remote
//! agents/<agent>/git-credentials, home/     private to the agent
//! agents/<agent>/attempts/<id>/             output.log, inbox.jsonl, script.sh
//! tokens/<town>                             the newest container token, for the processes of agents
//! runner.lock                               one runner per workspace
//! ```

use crate::{proc_fs, text};
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

/// How many attempts of an agent keep their logs.
const KEPT_ATTEMPTS: usize = 10;

/// The directory tree, and who may work with a rig's clone.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    /// Git work is serialised per rig: two fetches of one clone would fight for its lock files.
    rigs: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held as long as the runner lives.
    _lock: File,
}

impl Workspace {
    /// Takes the workspace for this runner and tidies up after the last one: kills what it left running, removes stale lock
    /// files, half-made clones and scratch worktrees.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = fs::canonicalize(root)?;
        let lock = File::create(root.join("runner.lock"))?;
        if lock.try_lock().is_err() {
            let text = format!("another runner works in {}", root.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        proc_fs::kill_marked(&format!("{}#", root.display()));
        for rig in directories(&root.join("rigs")) {
            let _ = fs::remove_dir_all(rig.join("merge-tmp"));
            for entry in directories(&rig).filter(|path| is_half_clone(path)) {
                let _ = fs::remove_dir_all(entry);
            }
            remove_locks(&rig.join("repo/.git"));
        }
        Ok(Self { root, rigs: Mutex::default(), _lock: lock })
    }

    /// The root, canonical.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Who holds this may use the rig's clone.
    pub fn rig_lock(&self, rig: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(text::lock(&self.rigs).entry(rig.to_owned()).or_default())
    }

    /// A rig's directory.
    #[must_use]
    pub fn rig(&self, rig: &str) -> PathBuf {
        self.root.join("rigs").join(rig)
    }

    /// The directory of the towns' tokens, emptied of those of an earlier container.
    pub fn tokens(&self) -> io::Result<PathBuf> {
        let path = self.root.join("tokens");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private_directory(&path)?;
        Ok(path)
    }

    /// An agent's private directory, made if need be.
    pub fn agent(&self, agent: &str) -> io::Result<PathBuf> {
        let path = self.root.join("agents").join(agent);
        private_directory(&path)?;
        private_directory(&path.join("home"))?;
        Ok(path)
    }

    /// The directory of one attempt; those of much older ones are removed.
    pub fn attempt(&self, agent: &str, attempt: &str) -> io::Result<PathBuf> {
        let all = self.agent(agent)?.join("attempts");
        private_directory(&all)?;
        let mut old: Vec<(SystemTime, PathBuf)> =
            directories(&all).filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path))).collect();
        old.sort();
        let surplus = (old.len() + 1).saturating_sub(KEPT_ATTEMPTS);
        for (_, path) in old.into_iter().take(surplus) {
            let _ = fs::remove_dir_all(path);
        }
        let path = all.join(attempt);
        private_directory(&path)?;
        Ok(path)
    }
}

/// A branch as the name of a directory.
#[must_use]
pub fn branch_directory(branch: &str) -> String {
    branch.replace('/', "__")
}

/// What a clone is called until it is complete.
pub const HALF_CLONE: &str = "repo.new-";

fn is_half_clone(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(HALF_CLONE))
}

fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path).into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_type().ok()?.is_dir().then(|| entry.path())
    })
}

/// Nothing runs in this clone now, so every lock file in it is left over from something that was killed.
fn remove_locks(git_directory: &Path) {
    let entries = fs::read_dir(git_directory).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.file_name() != "objects" => remove_locks(&path),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|end| end == "lock") => {
                let _ = fs::remove_file(path);
            }
            _ => {}
        }
    }
}
