//! What the tests of the town's behaviour share: reading answers, and a few ways of making things go wrong.

#![allow(dead_code, reason = "each test file is a crate of its own and uses what it needs")]

use gastown::town::command::{Actor, AttemptFilter, Command, NewBead};
use gastown::town::error::Cause;
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{MINUTE, Millis, Timestamp};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::owner;
use gastown_host::world::World;
use serde_json::{Value as Json, json};

/// A time on the wire.
pub fn time(value: &Json) -> Timestamp {
    Timestamp::parse(value.as_str().unwrap_or_else(|| panic!("no time: {value}"))).unwrap()
}

/// A time on the wire, in minutes since `from`.
pub fn minutes(value: &Json, from: Timestamp) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a few days of milliseconds")]
    let ms = time(value).since(from) as f64;
    ms / 60_000.0
}

/// A text on the wire; empty if it is none.
pub fn text<'a>(value: &'a Json, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// All attempts of the town, oldest first.
pub fn attempts(w: &World) -> Vec<Json> {
    w.all_attempts(&AttemptFilter::default())
}

/// The attempts of the town that failed with this code.
pub fn failures(w: &World, code: &str) -> Vec<Json> {
    w.all_attempts(&AttemptFilter {
        outcome: Some("failed".to_owned()),
        code: Some(code.to_owned()),
        ..AttemptFilter::default()
    })
}

/// The last attempt of a bead.
pub fn last(w: &World, bead: &BeadId) -> Json {
    w.attempts(bead).pop().unwrap_or_else(|| panic!("{bead} was never attempted\n{}", w.journal()))
}

/// How many of these attempts were booked in the `n`-th hour since `from`, counted from 0.
pub fn booked_in_hour(attempts: &[Json], from: Timestamp, n: i64) -> usize {
    let hour = |a: &&Json| time(&a["booked_at"]).since(from).div_euclid(60 * MINUTE) == n;
    attempts.iter().filter(hour).count()
}

/// The bead's own row: what the gate compares, beyond what the wire shows.
pub fn row(w: &World, bead: &BeadId, column: &str) -> Option<i64> {
    let sql = format!("SELECT {column} FROM beads WHERE bead_id = ?1");
    let rows = w.sql.peek(&sql, &[bead.into()]);
    rows.first().unwrap_or_else(|| panic!("no bead {bead}")).opt_int(0).unwrap()
}

/// Charged attempts since the last success or redrive.
pub fn charged(w: &World, bead: &BeadId) -> i64 {
    row(w, bead, "dispatch_attempts").unwrap()
}

/// Failed attempts in a row.
pub fn streak(w: &World, bead: &BeadId) -> i64 {
    row(w, bead, "failure_streak").unwrap()
}

/// When the bead is due again, in milliseconds from now.
pub fn due_in(w: &World, bead: &BeadId) -> Option<Millis> {
    row(w, bead, "next_dispatch_at").map(|at| Timestamp(at).since(w.now()))
}

/// Slings `n` beads at once.
pub fn sling_many(w: &mut World, rig: &RigId, n: usize) -> Vec<BeadId> {
    (0..n).map(|i| w.sling(rig, &format!("bead {i}"))).collect()
}

/// Slings a bead with more than a title.
pub fn sling_with(w: &mut World, rig: &RigId, bead: NewBead) -> BeadId {
    let data = w.must(Command::Sling { rig_id: rig.clone(), bead });
    text(&data["bead"], "bead_id").into()
}

/// Every start is answered like this.
pub fn every_start(w: &mut World, status: u16, body: &str) {
    w.container.faults.set(Endpoint::Start, Fault::answer(status, body));
}

/// A control server's error.
pub fn error(words: &str) -> String {
    json!({ "error": words }).to_string()
}

/// The error of a command that must be refused, given by the owner: (status, code, field or state, message).
pub fn refused(w: &mut World, command: Command) -> (u16, String, String) {
    refused_by(w, &owner(), command)
}

/// The same, given by somebody.
pub fn refused_by(w: &mut World, actor: &Actor, command: Command) -> (u16, String, String) {
    let told = format!("{command:?}");
    let before = w.sql.dump();
    let error = match w.command(actor, command) {
        Ok(reply) => panic!("{told} was not refused: {}", reply.data),
        Err(error) => error,
    };
    assert_eq!(w.sql.dump(), before, "a refused command changed something: {told}");
    let detail = match error.cause() {
        Cause::Conflict { state, .. } => state.clone(),
        Cause::Invalid { field, .. } => field.clone(),
        _ => String::new(),
    };
    (error.status(), detail, error.to_string())
}

/// The voice of an agent, in the name of an attempt or of none.
pub fn voice(agent: &str, attempt: Option<&str>) -> Actor {
    Actor::Container { agent_id: Some(AgentId::from(agent)), dispatch_id: attempt.map(str::to_owned) }
}

/// Polecats do this; refineries merge, mayors stay.
pub fn polecats(w: &mut World, behaviour: Behaviour) {
    w.container.behave(move |start| match start.request.role.as_str() {
        "polecat" => behaviour.clone(),
        role => Behaviour::good(role),
    });
}

/// Refineries do this; polecats are good.
pub fn refineries(w: &mut World, behaviour: Behaviour) {
    w.container.behave(move |start| match start.request.role.as_str() {
        "refinery" => behaviour.clone(),
        role => Behaviour::good(role),
    });
}

/// A polecat that is done without anything to review.
pub fn quick(ms: Millis) -> Behaviour {
    Behaviour::ends(ms, Ending::DoneWithoutBranch)
}

/// The mail that the mayor got whose subject or body holds `words`.
pub fn mail_with(w: &World, words: &str) -> usize {
    let holds = |m: &&Json| text(m, "subject").contains(words) || text(m, "body").contains(words);
    w.mail().iter().filter(holds).count()
}

/// The notifications of one kind.
pub fn told(w: &World, kind: &str) -> Vec<Json> {
    w.notifications().into_iter().filter(|n| n["kind"] == kind).collect()
}

/// The entries of the audit, newest first.
pub fn audit(w: &mut World) -> Vec<Json> {
    let page = gastown::town::command::Page { before: None, limit: Some(500) };
    let data = w.must(Command::ListAudit { page });
    data["entries"].as_array().cloned().unwrap_or_default()
}
