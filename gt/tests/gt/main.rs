//! The real `gt` as a process against a fake worker that remembers what it was asked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod agents;
mod failures;
mod fake_worker;
mod login;
mod mcp;
mod people;
mod plans;
mod shells;
mod watch;
mod world;
