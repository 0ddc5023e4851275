//! The quick tests in one program: `make mutants` builds it anew for every mutant, and linking twenty programs would take
//! longer than running them. Not part of `cargo test` (`test = false` in `Cargo.toml`): there each file is its own.

#![allow(missing_docs, clippy::duplicate_mod, reason = "a list of test files, each of which brings its own support")]

mod answer_edges;
mod beads;
mod booking_edges;
mod breaker;
mod breaker_steps;
mod classes;
mod config;
mod container_life;
mod container_told;
mod ending_edges;
mod gate_edges;
mod lifecycle;
mod limit_edges;
mod look_edges;
mod mail;
mod notify;
mod reconcile_edges;
mod regressions;
mod review_findings;
mod reviews;
mod thin_path;
mod trial_edges;
mod voice_edges;
