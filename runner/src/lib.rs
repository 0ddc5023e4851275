//! The program inside a town's container: a control server that runs coding agents as processes in git worktrees and
//! tells the town's worker how each of them ended.
//!
//! ```text
//! worker ──start, stop, message, settings──▶ server ──▶ runner ──▶ lifecycle ──▶ session (a script, or a conversation's turns)
//! worker ◀──heartbeat, done, completed, waiting── voice ◀────────────┘     └────▶ refinery (a merge)
//! worker ◀──agent-events── outbox ◀── transcript ◀── output, dialect ◀── process
//! worker ◀──container-registry── registry          sockets ◀─┘
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
mod bodies;
mod conversation;
mod credentials;
mod dialect;
mod dispatch;
mod environment;
mod fields;
mod git;
mod guard;
mod heartbeat;
mod jwt;
mod lifecycle;
mod mailbox;
mod memory;
mod outbox;
mod output;
mod preset;
mod proc_fs;
mod process;
mod push;
mod redact;
mod refinery;
mod registry;
mod repository;
mod request;
mod script;
mod session;
mod setup;
mod sockets;
mod stop;
mod text;
mod tickets;
mod town_config;
mod town_routes;
mod transcript;
mod url;
mod voice;
mod workspace;
