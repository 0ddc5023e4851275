//! Dispatch: `gt dispatch | explain | attempts | redrive | cancel`.

use crate::{
    caller::Caller,
    client::{Call, segment},
    failure::Failure,
    input::Body,
    output::{Answer, facts, items, short, table, time, word},
    resolve,
};
use clap::Args;
use serde_json::Value as Json;

/// `gt explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The bead: its id, or the beginning of it
    bead: String,
}

/// `gt attempts`
#[derive(Debug, Args)]
pub struct AttemptsArgs {
    /// Only this bead's: its id, or the beginning of it
    bead: Option<String>,
    /// Only these: pending, accepted, proven, succeeded, failed, interrupted, cancelled
    #[arg(long)]
    outcome: Option<String>,
    /// Only a class: infra, throttle, config, rig, bead, agent, unknown
    #[arg(long)]
    class: Option<String>,
    /// Only a code, such as container.timeout
    #[arg(long)]
    code: Option<String>,
    /// Only one cause (gt dispatch lists the fingerprints)
    #[arg(long)]
    fingerprint: Option<String>,
    /// Only since a time, such as 2026-11-20T16:00:00Z
    #[arg(long)]
    since: Option<String>,
    /// How many, newest first
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

/// `gt redrive`
#[derive(Debug, Args)]
pub struct RedriveArgs {
    /// The bead that failed: its id, or the beginning of it
    #[arg(required_unless_present = "fingerprint")]
    bead: Option<String>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// Every failed bead with this cause instead (gt dispatch lists the fingerprints)
    #[arg(long, conflicts_with = "bead", requires = "reason")]
    fingerprint: Option<String>,
    /// With --fingerprint: how many at most
    #[arg(long, requires = "fingerprint")]
    limit: Option<u32>,
    /// With --fingerprint: only count them
    #[arg(long, requires = "fingerprint")]
    dry_run: bool,
}

/// `gt cancel`
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The bead: its id, or the beginning of it
    bead: String,
    /// Why
    #[arg(long)]
    reason: String,
}

/// Why a bead is, or is not, running.
pub fn explain(caller: &Caller, bead: &str) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.town_path(&format!("beads/{}/explain", segment(bead)))?))
}

/// The town's dispatch.
pub fn dispatch(caller: &Caller) -> Result<Json, Failure> {
    caller.call(&Call::get(caller.town_path("dispatch")?))
}

impl ExplainArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        Ok(Answer::of(explain(caller, &resolve::bead(caller, &self.bead)?)?, explain_text))
    }
}

impl AttemptsArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller, rig: Option<&String>) -> Result<Answer, Failure> {
        let path = match &self.bead {
            Some(bead) => caller.town_path(&format!("beads/{}/attempts", segment(&resolve::bead(caller, bead)?)))?,
            None => caller.town_path("attempts")?,
        };
        // Only a rig that was asked for narrows it: the usual one would hide what is sought.
        let rig = rig.map(|_| caller.rig()).transpose()?;
        let call = Call::get(path)
            .with("outcome", self.outcome.as_ref())
            .with("class", self.class.as_ref())
            .with("code", self.code.as_ref())
            .with("fingerprint", self.fingerprint.as_ref())
            .with("rig_id", rig.as_ref())
            .with("since", self.since.as_ref())
            .with("limit", Some(self.limit));
        Ok(Answer::of(caller.call(&call)?, |data| attempts_text(&items(data, "attempts"))))
    }
}

impl RedriveArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let Some(fingerprint) = &self.fingerprint else {
            let bead = resolve::bead(caller, self.bead.as_deref().unwrap_or_default())?;
            let path = caller.town_path(&format!("beads/{}/redrive", segment(&bead)))?;
            let body = Body::new().with("reason", self.reason.clone());
            return Ok(Answer::of(caller.call(&Call::post(path, body.json()))?, |bead| {
                format!("{} is {} again: {}", short(bead, "bead_id"), word(bead, "status"), word(bead, "title"))
            }));
        };
        let body = Body::new()
            .with("fingerprint", Some(fingerprint.clone()))
            .with("limit", self.limit)
            .with("dry_run", self.dry_run.then_some(true))
            .with("reason", self.reason.clone());
        Ok(Answer::of(caller.call(&Call::post(caller.town_path("redrive")?, body.json()))?, |data| {
            format!(
                "{} failed by this cause, {} redriven, {} remaining",
                word(data, "matched"),
                word(data, "redriven"),
                word(data, "remaining")
            )
        }))
    }
}

impl CancelArgs {
    /// Runs it. A second cancel finds the bead cancelled and changes nothing.
    pub fn run(&self, caller: &Caller) -> Result<Answer, Failure> {
        let bead = resolve::bead(caller, &self.bead)?;
        let path = caller.town_path(&format!("beads/{}/cancel", segment(&bead)))?;
        let body = Body::new().with("reason", Some(self.reason.clone()));
        Ok(Answer::of(caller.call(&Call::post(path, body.json()).safe())?, |bead| {
            format!("{} is cancelled: {}", short(bead, "bead_id"), word(bead, "title"))
        }))
    }
}

/// `gt dispatch`
pub fn run(caller: &Caller) -> Result<Answer, Failure> {
    Ok(Answer::of(dispatch(caller)?, dispatch_text))
}

fn explain_text(data: &Json) -> String {
    let tries = format!(
        "{} of {} count, {} free",
        word(data, "attempts/charged"),
        word(data, "attempts/cap"),
        word(data, "attempts/free")
    );
    let mut parts = vec![facts(&[
        ("bead", word(data, "bead_id")),
        ("verdict", word(data, "verdict")),
        ("summary", word(data, "summary")),
        ("next", time(data, "next_eligible_at")),
        ("attempts", tries),
        ("reviews", word(data, "review_rounds")),
        ("failure", word(data, "failure_reason/message")),
    ])];
    let holds: Vec<Vec<String>> = items(data, "holds")
        .iter()
        .map(|hold| vec![word(hold, "code"), time(hold, "until"), word(hold, "text"), word(hold, "lifts")])
        .collect();
    if !holds.is_empty() {
        parts.push(table(&["HOLD", "UNTIL", "WHY", "LIFTED BY"], &holds, ""));
    }
    let attempts = items(data, "last_attempts");
    if !attempts.is_empty() {
        parts.push(attempts_text(&attempts));
    }
    parts.join("\n\n")
}

fn attempts_text(attempts: &[&Json]) -> String {
    let rows: Vec<Vec<String>> = attempts
        .iter()
        .map(|a| {
            vec![
                short(a, "attempt_id"),
                short(a, "bead_id"),
                word(a, "agent_name"),
                word(a, "outcome"),
                word(a, "code"),
                time(a, "booked_at"),
                word(a, "reason"),
            ]
        })
        .collect();
    table(&["ATTEMPT", "BEAD", "AGENT", "OUTCOME", "CODE", "BOOKED", "REASON"], &rows, "no attempts")
}

fn dispatch_text(data: &Json) -> String {
    let breakers: Vec<String> = items(data, "breakers")
        .iter()
        .map(|b| match word(b, "effective") {
            effective if effective == word(b, "state") => format!("{} {effective}", word(b, "scope")),
            effective => format!("{} {} (obeyed: {effective})", word(b, "scope"), word(b, "state")),
        })
        .collect();
    let mut parts = vec![facts(&[
        ("ready", word(data, "ready")),
        ("running", word(data, "running")),
        ("breakers", breakers.join(", ")),
        ("hold", word(data, "hold/cause")),
        ("until", time(data, "hold/until")),
        ("draining", word(data, "draining").replace("false", "")),
        ("slow start", word(data, "slow_start")),
        ("next alarm", time(data, "alarm")),
    ])];
    let holds: Vec<Vec<String>> =
        items(data, "holds").iter().map(|hold| vec![word(hold, "beads"), word(hold, "code")]).collect();
    if !holds.is_empty() {
        parts.push(table(&["BEADS", "HELD BY"], &holds, ""));
    }
    let flight = items(data, "in_flight");
    if !flight.is_empty() {
        parts.push(attempts_text(&flight));
    }
    let failures: Vec<Vec<String>> = items(data, "failures")
        .iter()
        .map(|f| {
            vec![
                word(f, "fingerprint"),
                word(f, "code"),
                word(f, "count"),
                word(f, "beads"),
                time(f, "last_seen"),
                word(f, "sample"),
            ]
        })
        .collect();
    if !failures.is_empty() {
        parts.push(table(&["FINGERPRINT", "CODE", "COUNT", "BEADS", "LAST SEEN", "SAMPLE"], &failures, ""));
    }
    parts.join("\n\n")
}
