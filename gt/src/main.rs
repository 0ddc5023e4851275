//! `gt`: the command line of a town, for its agents and its people; and the same as tools for a model (`gt mcp`).
//!
//! ```text
//! cli ──▶ one module per noun ──▶ caller (who, where) ──▶ client (one call, patience) ──▶ worker
//! mcp ──▶ the same functions
//! ```
//!
//! A command is a struct of arguments with `run`; what it does to the town is a function beside it, which the tool of the
//! same name calls, too. Data is the server's JSON as it came; texts for people are made of it at the very end.

#![allow(clippy::doc_markdown, reason = "the words of commands are printed as they stand")]

mod agents;
mod batch;
mod bead;
mod breaker;
mod caller;
mod cli;
mod client;
mod convoy;
mod dispatch;
mod escalation;
mod failure;
mod input;
mod login;
mod mail;
mod mayor;
mod mcp;
mod molecule;
mod nudge;
mod output;
mod own;
mod places;
mod plan;
mod profile;
mod resolve;
mod review;
mod sling;
mod socket;
mod triage;
mod watch;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(failure) => {
            if cli.wants_json() {
                output::note(&failure.json().to_string());
            } else {
                output::note(&format!("gt: {}", failure.explain()));
            }
            failure.exit()
        }
    }
}
