//! The program inside a town's container: a control server that runs coding agents as processes in git worktrees and
//! tells the town's worker how each of them ended.
//!
//! ```text
//! worker ──start, stop, status, message──▶ server ──▶ runner ──▶ lifecycle ──▶ session (a process) or refinery (a merge)
//! worker ◀──heartbeat, done, completed, verdict── voice ◀───────────┘               │
//!                                                                      repository, process, output
//! ```
//!
//! What it guarantees: a dispatch id runs at most once; an agent has at most one process; no process outlives its
//! attempt, its stop or the runner; no answer and no log line carries a token.

pub mod config;
pub mod drain;
pub mod journal;
pub mod runner;
pub mod server;

mod attempt;
mod credentials;
mod dispatch;
mod environment;
mod git;
mod guard;
mod heartbeat;
mod lifecycle;
mod output;
mod preset;
mod proc_fs;
mod process;
mod redact;
mod refinery;
mod repository;
mod request;
mod script;
mod session;
mod stop;
mod text;
mod url;
mod voice;
mod workspace;
