//! Circuit breakers: `gt breaker show | override | probe`.

use crate::{
    caller::Caller,
    client::{Call, segment},
    failure::Failure,
    input::{Body, milliseconds},
    output::{Answer, facts, items, table, time, word},
};
use clap::Subcommand;
use serde_json::{Value as Json, json};

/// `gt breaker …`
#[derive(Debug, Subcommand)]
pub enum BreakerCommand {
    /// Show all breakers, or one
    #[command(after_help = "Examples:\n  gt breaker show\n  gt breaker show town")]
    Show {
        /// town, or rig:ID
        scope: Option<String>,
    },
    /// Take a breaker into your own hands for a while
    #[command(
        after_help = "Examples:\n  gt breaker override town forced_open --reason \"deploying\" --for 30m\n  gt breaker \
                            override town auto --reason \"deployed\"\n\nModes: forced_open stops dispatch, forced_closed \
                            lets it run, shadow only\nwatches, auto ends the override."
    )]
    Override {
        /// town, or rig:ID
        scope: String,
        /// auto, forced_open, forced_closed or shadow
        mode: String,
        /// Why; it is kept in the audit
        #[arg(long)]
        reason: String,
        /// For how long: 90s, 30m, 2h; every mode but auto needs an end
        #[arg(long = "for", value_name = "TIME", value_parser = milliseconds)]
        expires: Option<u64>,
    },
    /// Ask for a probe now instead of waiting for the next
    #[command(after_help = "Examples:\n  gt breaker probe town")]
    Probe {
        /// town, or rig:ID
        #[arg(default_value = "town")]
        scope: String,
    },
}

impl BreakerCommand {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let path = |scope: &str, rest: &str| caller.town_path(&format!("breakers/{}{rest}", segment(scope)));
        match self {
            Self::Show { scope: None } => {
                Ok(Answer::of(caller.call(&Call::get(caller.town_path("breakers")?))?, list_text))
            }
            Self::Show { scope: Some(scope) } => {
                Ok(Answer::of(caller.call(&Call::get(path(scope, "")?))?, breaker_text))
            }
            Self::Override { scope, mode, reason, expires } => {
                let body = Body::new()
                    .with("mode", Some(mode.clone()))
                    .with("reason", Some(reason.clone()))
                    .with("expires_in_ms", expires.map(|ms| json!(ms)));
                Ok(Answer::of(caller.call(&Call::put(path(scope, "")?, body.json()))?, breaker_text))
            }
            Self::Probe { scope } => {
                Ok(Answer::of(caller.call(&Call::post_empty(path(scope, "/probe")?))?, |breaker| {
                    format!("a probe is asked for\n{}", breaker_text(breaker))
                }))
            }
        }
    }
}

fn list_text(data: &Json) -> String {
    let rows: Vec<Vec<String>> = items(data, "breakers")
        .iter()
        .map(|b| {
            vec![
                word(b, "scope"),
                word(b, "state"),
                word(b, "effective"),
                format!("{} of {}", word(b, "failures_in_window"), word(b, "threshold")),
                time(b, "next_probe_at"),
                word(b, "cause/text"),
            ]
        })
        .collect();
    table(&["SCOPE", "STATE", "OBEYED", "FAILURES", "NEXT PROBE", "CAUSE"], &rows, "no breakers")
}

fn breaker_text(breaker: &Json) -> String {
    facts(&[
        ("scope", word(breaker, "scope")),
        ("state", word(breaker, "state")),
        ("obeyed", word(breaker, "effective")),
        ("cause", word(breaker, "cause/text")),
        (
            "failures",
            format!("{} of {} in the window", word(breaker, "failures_in_window"), word(breaker, "threshold")),
        ),
        ("in a row", word(breaker, "in_a_row")),
        ("opened", time(breaker, "opened_at")),
        ("next probe", time(breaker, "next_probe_at")),
        ("override", word(breaker, "override/mode")),
        ("reason", word(breaker, "override/reason")),
        ("by", word(breaker, "override/actor")),
        ("until", time(breaker, "override/expires_at")),
    ])
}
