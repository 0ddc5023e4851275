//! What the town answers, against the rows: `explain`, `GET /dispatch`, `next_wake` and the alarm.

use super::rows::{Bead, Rows};
use gastown::town::id::BeadId;
use gastown::town::time::Timestamp;
use gastown_host::world::World;
use std::collections::BTreeSet;

/// 7, 13: what the town answers, against the rows.
pub fn answers(rows: &Rows, w: &World) -> Vec<String> {
    let mut broken = Vec::new();
    for bead in rows.beads.values() {
        explained(rows, w, bead, &mut broken);
    }
    let dispatch = w.dispatch();
    for shown in dispatch["breakers"].as_array().into_iter().flatten() {
        let scope = shown["scope"].as_str().unwrap_or_default();
        let b = rows.breakers.get(scope);
        let state = b.map_or("closed", |b| b.state.as_str());
        if shown["state"] != state || shown["effective"] != rows.effective(scope) {
            broken.push(format!("7: {scope} is shown as {shown}"));
        }
        let from = b.and_then(|b| b.closed_at).unwrap_or(0).max(rows.now - rows.setting("/breaker/window_ms"));
        let counted = rows.attempts.iter().filter(|a| a.counts_in.as_deref() == Some(scope));
        let times: Vec<i64> = counted.filter_map(|a| a.finished_at).collect();
        let most = rows.setting("/breaker/failures") + 1;
        let n = |from: i64| i64::try_from(times.iter().filter(|t| **t >= from).count()).expect("few").min(most);
        let said = shown["failures_in_window"].as_i64().unwrap_or(-1);
        if said < n(from + 1) || said > n(from) {
            broken.push(format!("7: {scope} shows {said} failures, a recount says {} … {}", n(from + 1), n(from)));
        }
    }
    broken
}

/// 6, 10: when the town wants to be woken, and when it will be.
pub fn waking(rows: &Rows, w: &World) -> Vec<String> {
    let mut broken = Vec::new();
    let dispatch = w.dispatch();
    let deadlines = rows.deadlines();
    let naive = deadlines.iter().min().cloned();
    let time = |v: &serde_json::Value| v.as_str().and_then(Timestamp::parse).map(|t| t.0);
    let said = time(&dispatch["next_wake"]).map(|t| t.max(rows.now));
    if said != naive.as_ref().map(|n| n.0) {
        let said = said.map(|t| Timestamp(t).to_string());
        let naive = naive.as_ref().map(|(t, what)| format!("{} ({what})", Timestamp(*t)));
        broken.push(format!("10: next_wake is {said:?}, a recount says {naive:?}"));
    }
    if let Some((at, what)) = naive
        && w.alarm_is_sound()
        && w.alarm().is_none_or(|alarm| alarm.0 > at.max(rows.now + 1))
    {
        let alarm = w.alarm().map(|t| t.to_string());
        broken.push(format!("10: {what} is due at {}, the alarm is {alarm:?}", Timestamp(at)));
    }
    broken
}

/// 13: `explain` says what the gate does, and never nothing.
fn explained(rows: &Rows, w: &World, bead: &Bead, broken: &mut Vec<String>) {
    if !["issue", "merge_request"].contains(&bead.kind.as_str()) {
        return;
    }
    let told = w.explain(&BeadId::from(bead.id.as_str()));
    let verdict = match bead.status.as_str() {
        "in_progress" if rows.watched(&bead.id) => "in_review",
        "in_progress" => "running",
        "in_review" => "in_review",
        "closed" => "finished",
        "failed" => "failed",
        _ if rows.holds(bead).is_empty() => "ready",
        _ => "waiting",
    };
    if told["verdict"] != verdict || told["summary"].as_str().is_none_or(|s| s.trim().is_empty()) {
        broken.push(format!("13: bead {} is {verdict}, explain says {told}", bead.id));
    }
    if told["attempts"]["charged"] != bead.dispatch_attempts || told["attempts"]["cap"] != rows.cap(bead) {
        broken.push(format!("13: bead {}: explain counts {}", bead.id, told["attempts"]));
    }
    if bead.status == "failed" && told["failure_reason"]["code"].as_str().is_none_or(str::is_empty) {
        broken.push(format!("13: bead {} failed, and explain does not say why", bead.id));
    }
    if bead.status != "open" {
        return;
    }
    let mut said = BTreeSet::new();
    for hold in told["holds"].as_array().into_iter().flatten() {
        let code = hold["code"].as_str().unwrap_or_default();
        if hold["text"].as_str().is_none_or(str::is_empty) || hold["lifts"].as_str().is_none_or(str::is_empty) {
            broken.push(format!("13: bead {}: a hold without words: {hold}", bead.id));
        }
        said.insert(match hold["ref"]["scope"].as_str() {
            Some(scope) => format!("{code} {scope}"),
            None => code.to_owned(),
        });
    }
    let naive = rows.holds(bead);
    if said != naive {
        broken.push(format!("13: bead {}: explain says {said:?}, the papers say {naive:?}", bead.id));
    }
}
