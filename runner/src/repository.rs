//! A rig's clone and its worktrees: where an agent's branch begins, and how it gets back to the origin.

use crate::{
    git::{Git, GitError},
    text,
    url::GitUrl,
    workspace::{HALF_CLONE, branch_directory},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest that removing a worktree may take.
const TIDY: Duration = Duration::from_mins(1);

/// A rig's clone. Its methods are called by whoever holds the rig's lock.
#[derive(Debug)]
pub struct Repository {
    git: Git,
    /// `rigs/<rig>`.
    directory: PathBuf,
    /// `rigs/<rig>/repo`.
    clone: PathBuf,
}

/// An agent's worktree.
#[derive(Debug)]
pub struct Worktree {
    /// Where it is.
    pub directory: PathBuf,
    /// Its branch.
    pub branch: String,
    /// Where the branch is cut from, or will be merged into: what "ahead" is measured against.
    pub target: String,
    /// The start point that was asked for and is not there, so that it begins elsewhere.
    pub missed: Option<String>,
    /// What the origin's branch was when it was cut anew from elsewhere: a push may replace exactly this.
    replaces: Option<String>,
}

impl Repository {
    /// The rig's clone, made if need be and fetched, with a default branch even if the origin was empty.
    pub async fn open(git: Git, directory: &Path, url: &GitUrl, default_branch: &str) -> Result<Self, GitError> {
        fs::create_dir_all(directory).map_err(|error| disk(directory, &error))?;
        let repository = Self { git, directory: directory.to_owned(), clone: directory.join("repo") };
        let git = &repository.git;
        let usable = repository.clone.is_dir() && git.succeeds(&repository.clone, &["rev-parse", "--git-dir"]).await?;
        if usable {
            git.run(&repository.clone, &["remote", "set-url", "origin", &url.plain]).await?;
        } else {
            repository.clone_anew(url).await?;
        }
        repository.fetch().await?;
        if !repository.has(default_branch).await? {
            repository.begin(default_branch).await?;
        }
        Ok(repository)
    }

    /// Clones under another name first: a clone that was interrupted must not be taken for a whole one.
    async fn clone_anew(&self, url: &GitUrl) -> Result<(), GitError> {
        let name = format!("{HALF_CLONE}{}", uuid::Uuid::new_v4());
        let half = self.directory.join(&name);
        let made = self.git.run(&self.directory, &["clone", "--no-checkout", "--quiet", "--", &url.plain, &name]).await;
        let moved = made.and_then(|_| {
            match fs::remove_dir_all(&self.clone) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(&self.clone, &error)),
                _ => {}
            }
            fs::rename(&half, &self.clone).map_err(|error| disk(&self.clone, &error))
        });
        if moved.is_err() {
            let _ = fs::remove_dir_all(&half);
        }
        moved
    }

    /// Brings the origin's branches up to date.
    pub async fn fetch(&self) -> Result<(), GitError> {
        let refs = "+refs/heads/*:refs/remotes/origin/*";
        self.git.run(&self.clone, &["fetch", "--quiet", "--prune", "--no-tags", "origin", refs]).await.map(|_| ())
    }

    /// An empty origin gets an empty first commit. An origin that has branches, but not this one, is a mistake to report.
    async fn begin(&self, default_branch: &str) -> Result<(), GitError> {
        if !self.git.run(&self.clone, &["for-each-ref", "--count=1", "refs/remotes/origin"]).await?.is_empty() {
            let text = format!("the default branch {default_branch} does not exist in the repository");
            return Err(GitError::Failed(text));
        }
        let tree = self.git.run(&self.clone, &["hash-object", "-t", "tree", "-w", "/dev/null"]).await?;
        let commit = self.git.run(&self.clone, &["commit-tree", &tree, "-m", "Initial commit"]).await?;
        let to = format!("{commit}:refs/heads/{default_branch}");
        let pushed = self.git.run(&self.clone, &["push", "--quiet", "origin", &to]).await;
        self.fetch().await?;
        // Somebody else may have been first, which is as good.
        if self.has(default_branch).await? { Ok(()) } else { pushed.map(|_| ()) }
    }

    /// Whether the origin has this branch.
    pub async fn has(&self, branch: &str) -> Result<bool, GitError> {
        self.git.succeeds(&self.clone, &["rev-parse", "--verify", "--quiet", &tracking(branch)]).await
    }

    /// The commit that a branch of the origin, or anything else git can resolve, stands for.
    pub async fn commit(&self, name: &str) -> Result<String, GitError> {
        self.git.run(&self.clone, &["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]).await
    }

    /// The agent's worktree on its branch: the one that is there, else a new one from the start point, else from the
    /// origin's branch of that name, else from the default branch.
    ///
    /// A start point that is not there counts as none: a convoy's feature branch is made by its first merge, and until
    /// then what would be cut from it is cut from the default branch, as that merge will be.
    pub async fn worktree(
        &self,
        branch: &str,
        start: Option<&str>,
        target: &str,
        default_branch: &str,
    ) -> Result<Worktree, GitError> {
        let directory = self.directory.join("worktrees").join(branch_directory(branch));
        let (mut from, mut missed) = (None, None);
        if let Some(start) = start {
            from = self.resolve(start).await?;
            missed = from.is_none().then(|| start.to_owned());
        }
        let start = from;
        let target = self.resolve(target).await?.unwrap_or_else(|| tracking(default_branch));
        let pushed = if self.has(branch).await? { Some(self.commit(&tracking(branch)).await?) } else { None };
        let mut tree = Worktree { directory, branch: branch.to_owned(), target, missed, replaces: None };
        if self.resume(&tree, pushed.is_some()).await? {
            return Ok(tree);
        }
        self.remove(&tree.directory).await;
        if let Some(parent) = tree.directory.parent() {
            fs::create_dir_all(parent).map_err(|error| disk(parent, &error))?;
        }
        let from = start.or_else(|| pushed.clone()).unwrap_or_else(|| tree.target.clone());
        let path = tree.directory.display().to_string();
        self.git.run(&self.clone, &["worktree", "add", "--quiet", "--no-track", "-B", branch, &path, &from]).await?;
        if let Some(pushed) = pushed {
            let kept = self.git.succeeds(&self.clone, &["merge-base", "--is-ancestor", &pushed, &from]).await?;
            tree.replaces = (!kept).then_some(pushed);
        }
        Ok(tree)
    }

    /// What a start point stands for; nothing if it is not there.
    async fn resolve(&self, start: &str) -> Result<Option<String>, GitError> {
        let branch = start.strip_prefix("origin/").unwrap_or(start);
        if self.has(branch).await? {
            return Ok(Some(tracking(branch)));
        }
        match self.commit(start).await {
            Ok(commit) => Ok(Some(commit)),
            Err(GitError::Failed(_)) => Ok(None),
            Err(stopped) => Err(stopped),
        }
    }

    /// Goes on in a worktree that is there, with whatever the last attempt left in it.
    async fn resume(&self, tree: &Worktree, pushed: bool) -> Result<bool, GitError> {
        let directory = tree.directory.as_path();
        if !directory.join(".git").is_file() {
            return Ok(false);
        }
        let Ok(own) = self.git.run(directory, &["rev-parse", "--absolute-git-dir"]).await else { return Ok(false) };
        // No process of this branch lives any more: a lock in here was left by one that was killed.
        let _ = fs::remove_file(Path::new(&own).join("index.lock"));
        if !self.git.succeeds(directory, &["checkout", "--quiet", &tree.branch, "--"]).await? {
            return Ok(false);
        }
        if pushed {
            let pull = ["pull", "--quiet", "--rebase", "--autostash", "--no-tags", "origin", &tree.branch];
            if !self.git.succeeds(directory, &pull).await? {
                self.git.succeeds(directory, &["rebase", "--abort"]).await?;
            }
        }
        Ok(true)
    }

    /// A worktree without a branch at a commit, for a merge that may be thrown away.
    pub async fn scratch(&self, name: &str, at: &str) -> Result<PathBuf, GitError> {
        let parent = self.directory.join("merge-tmp");
        fs::create_dir_all(&parent).map_err(|error| disk(&parent, &error))?;
        let directory = parent.join(name);
        let path = directory.display().to_string();
        match self.git.run(&self.clone, &["worktree", "add", "--quiet", "--detach", &path, at]).await {
            Ok(_) => Ok(directory),
            Err(error) => {
                self.remove(&directory).await;
                Err(error)
            }
        }
    }

    /// Removes a worktree, whatever state it and the attempt are in.
    pub async fn remove(&self, directory: &Path) {
        let git = self.git.unstoppable(TIDY);
        if directory.exists() {
            let path = directory.display().to_string();
            let removed = git.run(&self.clone, &["worktree", "remove", "--force", "--force", &path]).await;
            if removed.is_err() && directory.exists() {
                let _ = fs::remove_dir_all(directory);
            }
        }
        let _ = git.run(&self.clone, &["worktree", "prune"]).await;
    }

    /// Git in this repository.
    #[must_use]
    pub const fn git(&self) -> &Git {
        &self.git
    }

    /// The clone's directory.
    #[must_use]
    pub fn clone_directory(&self) -> &Path {
        &self.clone
    }
}

impl Worktree {
    /// Commits whatever changed; returns whether anything had.
    pub async fn commit_changes(&self, git: &Git, message: &str) -> Result<bool, GitError> {
        git.run(&self.directory, &["add", "-A"]).await?;
        if git.succeeds(&self.directory, &["diff", "--cached", "--quiet"]).await? {
            return Ok(false);
        }
        git.run(&self.directory, &["commit", "--quiet", "--no-verify", "-m", message]).await?;
        Ok(true)
    }

    /// How many commits the worktree is ahead of its target.
    pub async fn ahead(&self, git: &Git) -> Result<u64, GitError> {
        let range = format!("{}..HEAD", self.target);
        let count = git.run(&self.directory, &["rev-list", "--count", &range]).await?;
        count
            .parse()
            .map_err(|_| GitError::Failed(format!("git rev-list: \"{}\" is no number", text::head(&count, 40))))
    }

    /// Pushes the worktree's head to the agent's branch. A branch that was cut anew replaces what the origin had when it was
    /// cut, and nothing newer.
    pub async fn push(&self, git: &Git) -> Result<(), GitError> {
        let to = format!("refs/heads/{}", self.branch);
        let head = git.run(&self.directory, &["rev-parse", "HEAD"]).await?;
        let Some(old) = &self.replaces else {
            return git.run(&self.directory, &["push", "--quiet", "origin", &format!("HEAD:{to}")]).await.map(|_| ());
        };
        // The agent may have pushed by itself.
        let there = git.run(&self.directory, &["ls-remote", "origin", &to]).await?;
        if there.split_whitespace().next() == Some(head.as_str()) {
            return Ok(());
        }
        let lease = format!("--force-with-lease={to}:{old}");
        git.run(&self.directory, &["push", "--quiet", &lease, "origin", &format!("HEAD:{to}")]).await.map(|_| ())
    }
}

/// The name under which the clone knows a branch of the origin.
#[must_use]
pub fn tracking(branch: &str) -> String {
    format!("refs/remotes/origin/{branch}")
}

fn disk(path: &Path, error: &io::Error) -> GitError {
    GitError::Failed(format!("{}: {error}", path.display()))
}
