//! The real runner as a process, with real git, real agents' processes and a recording fake of the worker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod api;
mod bench;
mod conversations;
mod dispatch;
mod events;
mod fake_worker;
mod fuzz;
mod heartbeats;
mod http_git;
mod presets;
mod pushes;
mod refinery;
mod registry;
mod sessions;
mod signals;
