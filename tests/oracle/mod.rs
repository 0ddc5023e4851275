//! The oracle: the invariants of `domain.md` 10, recomputed naively after every step of a simulated town.
//!
//! *Guarantees.* It reads raw rows, public answers and the container's own ledger only; nothing of the town's own code
//! decides what is right. What the rows do not remember (when a success or a redrive reset a counter, what was open
//! before this step) it remembers itself, so it must see every step: [`Oracle::check`] after every event and every
//! command. It judges what differs from the step before, and everything that this can have changed.
//!
//! *Reading it.* One function per group of invariants; the numbers in their names and messages are those of `domain.md`.

#![allow(dead_code, reason = "shared by several test programs, each of which uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "test code: a broken promise must stop the test"
)]

mod answers;
mod facts;
mod gate;
pub mod rows;

use answers::{answers, waking};
use facts::{bonds, breakers, convoys, edges, notifications, reasons, statuses, triage};
use gastown::town::sql::Sql as _;
use gastown::town::time::Timestamp;
use gastown_host::ledger::SignOfLife;
use gastown_host::world::World;
use rows::{Attempt, Breaker, Changed, Reader, Rows};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// `design.md` 5.3: code → (class, charged, the kind of scope it counts in).
const LAW: [(&str, &str, bool, &str); 17] = [
    ("agent.evicted", "interrupted", false, ""),
    ("container.lost", "infra", false, "town"),
    ("container.unreachable", "infra", false, "town"),
    ("container.timeout", "infra", false, "town"),
    ("container.draining", "throttle", false, ""),
    ("container.throttled", "throttle", false, ""),
    ("model.throttled", "throttle", false, ""),
    ("model.rejected", "config", false, "town"),
    ("repo.unavailable", "rig", false, "rig"),
    ("container.rejected", "bead", true, "town"),
    ("container.misconfigured", "config", false, "town"),
    ("container.unavailable", "infra", false, "town"),
    ("container.error", "unknown", true, "town"),
    ("agent.lost", "agent", true, "town"),
    ("agent.exited", "agent", true, "town"),
    ("agent.no_progress", "agent", true, "town"),
    ("dispatch.orphaned", "unknown", true, ""),
];

/// What the rows do not remember.
#[derive(Default)]
pub struct Oracle {
    /// Checks so far.
    pub checks: u64,
    /// Every so many checks the public answers are compared, too: they cost more than the rows.
    pub answers_every: u64,
    /// Rows the town has written: without another one, nothing has changed.
    written: u64,
    reader: Option<Box<Reader>>,
    /// Per bead: its charged attempts since its last success or redrive.
    charged: HashMap<String, i64>,
    /// Attempts for which somebody else than their process has spoken: they may be proven without one.
    spoken_for: BTreeSet<String>,
    /// Posts read from the receiver so far; when each notification was sent last.
    posts_seen: usize,
    posted: HashMap<String, Timestamp>,
    /// Real starts read from the ledger so far, and whose they are.
    starts_seen: usize,
    started: HashSet<String>,
    /// The newest attempt seen.
    attempts_seen: i64,
    /// The newest `redriven` event seen.
    redriven_seen: i64,
    /// Attempts known to have succeeded.
    succeeded: BTreeSet<String>,
    /// Attempts that the registry has handed out, and when.
    revived: BTreeMap<String, Option<i64>>,
    /// Attempts known to have ended.
    ended: BTreeSet<String>,
    /// Per bead: attempts up to this seq are before its last success or redrive.
    reset: BTreeMap<String, i64>,
    /// Per bead: when its last redrive was.
    redriven_at: BTreeMap<String, i64>,
    /// Breakers before this step: scope → (state, what was ordered, the trial).
    before: BTreeMap<String, (String, Option<String>, Option<String>)>,
    /// Backoffs before this step.
    due: BTreeMap<String, (Option<i64>, Option<i64>)>,
    /// The container process last heard of, before this step.
    instance: Option<String>,
    /// The town's hold before this step: until when, and why.
    hold: (Option<i64>, Option<String>),
}

impl Oracle {
    #[must_use]
    pub fn new(answers_every: u64) -> Self {
        Self { answers_every, ..Self::default() }
    }

    /// Checks everything that can be checked now.
    ///
    /// # Panics
    /// If an invariant is broken: with its number, the facts, and what happened last.
    pub fn check(&mut self, w: &World) {
        let written = w.sql.usage().rows_written;
        if written == self.written && self.checks > 0 {
            return;
        }
        self.written = written;
        let mut reader = self.reader.take().unwrap_or_default();
        reader.look(w);
        let mut broken = self.broken(&reader, w);
        if self.checks % self.answers_every == 0 {
            broken.extend(answers(&reader.rows, w));
        }
        if self.checks % self.answers_every.div_ceil(16) == 0 {
            broken.extend(waking(&reader.rows, w));
        }
        self.checks += 1;
        self.reader = Some(reader);
        assert!(broken.is_empty(), "{}\nat {}. Last of all:\n{}", broken.join("\n"), w.now(), w.journal());
    }

    /// From now on this attempt may be proven by others than its process.
    pub fn somebody_speaks_as(&mut self, attempt_id: &str) {
        self.spoken_for.insert(attempt_id.to_owned());
    }

    /// From now on the live attempt of this agent, or of this bead, may be proven by others than its process.
    pub fn somebody_speaks_for(&mut self, w: &World, whom: &str) {
        let live = "SELECT attempt_id FROM attempts WHERE ?1 IN (agent_id, bead_id) AND finished_at IS NULL";
        let live = w.sql.peek(live, &[whom.into()]);
        self.spoken_for.extend(live.iter().filter_map(|r| r.text(0).ok()));
    }

    fn broken(&mut self, reader: &Reader, w: &World) -> Vec<String> {
        let (rows, changed) = (&reader.rows, &reader.changed);
        let (beads, mut broken) = (!changed.beads.is_empty() || changed.gone, Vec::new());
        if beads || changed.fates || changed.agents {
            bonds(rows, &mut broken);
        }
        if beads || changed.fates || changed.requests {
            statuses(rows, &mut broken);
        }
        if beads || changed.fates || changed.agents {
            triage(rows, &mut broken);
        }
        self.revivals(rows, changed, w, &mut broken);
        if beads || changed.convoys || changed.requests {
            convoys(rows, &mut broken);
        }
        self.charges(rows, changed, &mut broken);
        if changed.fates {
            blame(self, rows, changed, &mut broken);
            self.bookings(rows, &mut broken);
        }
        self.proofs(rows, changed, w, &mut broken);
        if changed.breakers || changed.fates || changed.rigs {
            breakers(rows, &mut broken);
        }
        if changed.breakers || changed.fates || changed.rigs || changed.config {
            self.openings(rows, &mut broken);
        }
        if changed.breakers {
            self.closings(rows, &mut broken);
        }
        if changed.town {
            self.instances(rows, &mut broken);
        }
        reasons(rows, changed, &mut broken);
        if changed.notices || changed.deliveries {
            notifications(rows, w, &mut broken);
        }
        self.posts(w, &mut broken);
        if changed.blocks || beads {
            edges(rows, changed, &mut broken);
        }
        if rows.violations > 0 {
            broken.push(format!("the town itself counted {} violations", rows.violations));
        }
        self.remember(rows, changed);
        broken
    }

    /// 3: `dispatch_attempts` is the recount of charged attempts since the last success or redrive.
    fn charges(&mut self, rows: &Rows, changed: &Changed, broken: &mut Vec<String>) {
        let newest = rows.attempts.last().map_or(0, |a| a.seq);
        let seen = self.redriven_seen;
        let mut recount = changed.fates;
        for (seq, bead) in rows.redriven.iter().filter(|(seq, _)| *seq > seen) {
            // What was booked in this very step came after the redrive: a failed bead has no live attempt.
            self.reset.insert(bead.clone(), self.attempts_seen);
            self.redriven_at.insert(bead.clone(), rows.now);
            self.redriven_seen = *seq;
            recount = true;
        }
        for a in changed.attempts.iter().map(|at| &rows.attempts[*at]).filter(|a| a.outcome == "succeeded") {
            if self.succeeded.insert(a.id.clone())
                && let Some(bead) = &a.bead
            {
                self.reset.insert(bead.clone(), newest);
            }
        }
        if recount {
            self.charged.clear();
            for a in rows.attempts.iter().filter(|a| a.charged) {
                let Some(bead) = &a.bead else { continue };
                if a.seq > self.reset.get(bead).copied().unwrap_or(0) {
                    match self.charged.get_mut(bead) {
                        Some(n) => *n += 1,
                        None => drop(self.charged.insert(bead.clone(), 1)),
                    }
                }
            }
        }
        if recount || !changed.beads.is_empty() {
            for bead in rows.beads.values() {
                let (said, charged) = (bead.dispatch_attempts, self.charged.get(&bead.id).copied().unwrap_or(0));
                if said != charged {
                    broken.push(format!("3: bead {} says {said} attempts, a recount says {charged}", bead.id));
                }
            }
        }
    }

    /// 2 and the container's ledger: a process proves the attempt that it was started for, and no other.
    fn proofs(&mut self, rows: &Rows, changed: &Changed, w: &World, broken: &mut Vec<String>) {
        let starts = w.starts();
        self.started.extend(starts[self.starts_seen..].iter().map(|s| s.attempt_id.clone()));
        self.starts_seen = starts.len();
        // A process of the predecessor does not say for which dispatch it speaks.
        if !w.container.always_named_dispatches() {
            return;
        }
        let others = |a: &&Attempt| !self.spoken_for.contains(&a.id);
        for a in changed.attempts.iter().map(|at| &rows.attempts[*at]).filter(others) {
            if a.proven_at.is_some() && !self.started.contains(&a.id) {
                broken.push(format!("5.2: attempt {} is proven, and no process was ever started for it", a.id));
            }
            if !a.live() {
                continue;
            }
            let sign = w.container.sign_of_life(&a.id).unwrap_or_default();
            if a.proven_at.is_some() && sign == SignOfLife::default() {
                broken.push(format!("5.2: attempt {} is proven, and its process was never heard or seen", a.id));
            }
            // What a look saw travels, and the object may freeze meanwhile.
            if a.heartbeat_at == Some(rows.now) && sign.heard != Some(w.now()) && sign.seen.is_none() {
                broken.push(format!("5.2: attempt {} was heard just now, and it was another process that spoke", a.id));
            }
        }
    }

    /// `domain.md` 9: what the registry hands out are live attempts, each once, and none past an open breaker or a drain; and
    /// no process starts by itself but for one of them.
    fn revivals(&mut self, rows: &Rows, changed: &Changed, w: &World, broken: &mut Vec<String>) {
        let handed = changed.attempts.iter().map(|at| &rows.attempts[*at]);
        for a in handed.filter(|a| a.revived_at.is_some()) {
            let before = self.revived.insert(a.id.clone(), a.revived_at);
            if before == Some(a.revived_at) {
                continue;
            }
            if before.is_some() {
                broken.push(format!("9: attempt {} was handed out a second time", a.id));
            }
            let rig = a.rig.as_ref().map_or_else(String::new, |r| format!("rig:{r}"));
            let open = ["town", rig.as_str()].iter().any(|scope| rows.effective(scope) != "closed");
            if !a.live() || open || rows.draining() || rows.town_held() {
                broken.push(format!("9: attempt {} was handed out although it must not go on", a.id));
            }
            if rows.in_flight() > rows.starts_limit() {
                broken.push(format!("9: {} starts in flight after a reading of the registry", rows.in_flight()));
            }
        }
        for start in w.starts()[self.starts_seen..].iter().filter(|s| s.resurrected) {
            if !self.revived.contains_key(&start.attempt_id) {
                broken.push(format!("9: a process of attempt {} started by itself", start.attempt_id));
            }
        }
    }

    /// 3, 5 and the limits, for what was booked in this step: nothing but a probe while a scope is open; no bead that
    /// anything holds; no more at once than the limits allow.
    fn bookings(&self, rows: &Rows, broken: &mut Vec<String>) {
        let booked: Vec<&Attempt> = rows.attempts.iter().filter(|a| a.seq > self.attempts_seen).collect();
        if booked.is_empty() {
            return;
        }
        let limit = rows.starts_limit();
        if rows.in_flight() > limit {
            broken.push(format!("5.6: {} starts in flight, {limit} may be", rows.in_flight()));
        }
        let (town, most) = (rows.polecats(None), rows.setting("/dispatch/max_agents"));
        if booked.iter().any(|a| a.role == "polecat") && town > most {
            broken.push(format!("5.6: {town} polecats in the town, {most} may be"));
        }
        for a in booked {
            if !a.charged {
                broken.push(format!("5.1: attempt {} was booked and not charged", a.id));
            }
            let rig = a.rig.clone().unwrap_or_default();
            if a.role == "polecat" && rows.polecats(Some(&rig)) > rows.polecats_per_rig(&rig) {
                broken.push(format!("5.6: too many polecats in rig {rig}"));
            }
            for scope in ["town".to_owned(), format!("rig:{rig}")] {
                let now = rows.effective(&scope);
                if now == "closed" {
                    continue;
                }
                let named = rows.breakers.get(&scope).is_some_and(|b| b.trial.as_ref() == Some(&a.id));
                if !a.probe || !named {
                    broken.push(format!("5: attempt {} was booked while {scope} is {now}, and is not its probe", a.id));
                }
            }
            if rows.town_held() || rows.draining() {
                broken.push(format!("5.6: attempt {} was booked in a town hold or a drain", a.id));
            }
            let Some(bead) = a.bead.as_ref().and_then(|b| rows.beads.get(b)) else {
                // The mayor alone has no bead: a person's message is what it is started for.
                if a.role != "mayor" || a.agent != rows.mayor || rows.letters.is_empty() {
                    broken.push(format!("attempt {} was booked for no bead and no message", a.id));
                }
                continue;
            };
            if bead.dispatch_attempts > rows.cap(bead) {
                broken.push(format!("3: bead {} was booked above its cap", bead.id));
            }
            let own = ["not_open", "held_label", "blocked", "blocker_failed", "convoy_staged", "no_rig_config"];
            for hold in rows.holds(bead).iter().filter(|h| own.contains(&h.as_str())) {
                broken.push(format!("13: bead {} was booked although {hold} holds it", bead.id));
            }
            // A closing breaker or a redrive in this very step makes beads due.
            let freed = self.redriven_at.get(&bead.id) == Some(&rows.now)
                || self.before.iter().any(|(scope, was)| {
                    was.0 != "closed" && rows.breakers.get(scope).is_some_and(|b| b.state == "closed")
                });
            let (next, review) = self.due.get(&bead.id).copied().unwrap_or_default();
            if review.is_some_and(|t| t > rows.now) || (!a.probe && !freed && next.is_some_and(|t| t > rows.now)) {
                broken.push(format!("13: bead {} was booked in its backoff", bead.id));
            }
        }
    }

    /// 7: an open breaker has crossed a threshold, a closed one has not, by a recount of the attempts.
    fn openings(&self, rows: &Rows, broken: &mut Vec<String>) {
        let scopes: BTreeSet<String> =
            rows.rigs.keys().map(|r| format!("rig:{r}")).chain(["town".to_owned()]).collect();
        for scope in scopes {
            let was = self.before.get(&scope).map_or("closed", |b| b.0.as_str());
            let b = rows.breakers.get(&scope);
            let is = b.map_or("closed", |b| b.state.as_str());
            let trips = trips(rows, &scope, b);
            if is == "closed" && trips.surely {
                broken.push(format!("5.5: {scope} is closed although {}", trips.why));
            }
            let cause = b.and_then(|b| b.cause.as_deref()).unwrap_or_default();
            let at_once = ["by_hand", "model.rejected", "container.rejected"].contains(&cause);
            // Leaving `forced_open` goes through half-open; before *closed* was announced it continues the episode.
            let at_once = at_once || self.before.get(&scope).is_some_and(|b| b.1.as_deref() == Some("forced_open"));
            if was == "closed" && is != "closed" && !at_once && !trips.perhaps {
                broken
                    .push(format!("5.5: {scope} opened ({cause}) although nothing crossed a threshold: {}", trips.why));
            }
        }
    }

    /// 9: what is on its way to the webhook is not sent once more, unless the object forgot about it.
    fn posts(&mut self, w: &World, broken: &mut Vec<String>) {
        for post in &w.webhook.posts[self.posts_seen..] {
            let id = post.body()["id"].as_str().unwrap_or_default().to_owned();
            let before = self.posted.insert(id, post.sent);
            // A post's lease is 15 s (`policy.rs`); one that was booked before a jolt may have outlived it.
            let calm = w.jolted_at.is_none_or(|at| post.sent.since(at) > 20_000);
            if calm && before.is_some_and(|sent| post.sent.since(sent) < 1_000) {
                broken.push(format!("9: sent twice within a second: {}", post.raw));
            }
        }
        self.posts_seen = w.webhook.posts.len();
    }

    /// 5: only its probe closes a half-open breaker: by success, or proven and longer alive than failures took.
    fn closings(&self, rows: &Rows, broken: &mut Vec<String>) {
        for b in rows.breakers.values().filter(|b| b.state == "closed") {
            let Some((was, _, trial)) = self.before.get(&b.scope) else { continue };
            if was == "closed" {
                continue;
            }
            let trial = trial.as_ref().and_then(|id| rows.attempts.iter().find(|a| a.id == *id));
            let closes = trial.is_some_and(|a| {
                let ran = rows.now + rows.slop - a.booked_at;
                a.outcome == "succeeded" || (a.live() && a.proven_at.is_some() && ran > b.trial_ms)
            });
            if !closes {
                broken.push(format!("5: {} closed, from {was}, and not by its probe", b.scope));
            }
        }
        for b in rows.breakers.values().filter(|b| b.state == "open") {
            let trial = self.before.get(&b.scope).and_then(|(_, _, trial)| trial.as_ref());
            if let Some(trial) = trial.filter(|id| rows.live().any(|a| a.id == **id)) {
                broken.push(format!("5: {} is open again, and its probe {trial} is alive still", b.scope));
            }
        }
    }

    /// `domain.md` 9: a new instance ends the drain of the old one, and the hold that came with it.
    fn instances(&self, rows: &Rows, broken: &mut Vec<String>) {
        if rows.instance.is_none() || rows.instance == self.instance {
            return;
        }
        if rows.draining_since.is_some() && rows.drain_instance.is_some() && rows.drain_instance == self.instance {
            broken.push("9: a new instance reported, and the drain of the old one goes on".to_owned());
        }
        let (until, cause) = &self.hold;
        let draining = Some("container.draining");
        if rows.town_held() && cause.as_deref() == draining && rows.hold_until == *until {
            broken.push("9: a new instance reported, and the hold of the old one's drain stays".to_owned());
        }
    }

    fn remember(&mut self, rows: &Rows, changed: &Changed) {
        self.attempts_seen = rows.attempts.last().map_or(0, |a| a.seq).max(self.attempts_seen);
        self.ended
            .extend(changed.attempts.iter().map(|at| &rows.attempts[*at]).filter(|a| !a.live()).map(|a| a.id.clone()));
        if changed.breakers {
            self.before = rows
                .breakers
                .values()
                .map(|b| (b.scope.clone(), (b.state.clone(), b.order.as_ref().map(|o| o.0.clone()), b.trial.clone())))
                .collect();
        }
        for bead in changed.beads.iter().filter_map(|id| rows.beads.get(id)) {
            self.due.insert(bead.id.clone(), (bead.next_dispatch_at, bead.review_not_before));
        }
        if changed.town {
            self.instance.clone_from(&rows.instance);
            self.hold = (rows.hold_until, rows.hold_cause.clone());
        }
    }
}

/// 4: an infra failure leaves the bead's charge, unless another bead was proven since this bead's previous failure; any
/// other class is charged as the table says.
fn blame(oracle: &Oracle, rows: &Rows, changed: &Changed, broken: &mut Vec<String>) {
    let differ = changed.attempts.iter().map(|at| &rows.attempts[*at]);
    for a in differ.filter(|a| !a.live() && !oracle.ended.contains(&a.id)) {
        let Some(code) = a.code.as_deref() else { continue };
        let Some((_, class, charged, scope)) = LAW.iter().find(|l| l.0 == code) else {
            if code != "dispatch.cancelled" || !a.charged {
                broken.push(format!("4: attempt {} ended as {code}, charged {}", a.id, a.charged));
            }
            continue;
        };
        if a.class.as_deref() != Some(class) {
            broken.push(format!("8: attempt {} is {code} of class {:?}", a.id, a.class));
        }
        let expected = match scope.is_empty() {
            true => None,
            false if *scope == "rig" => a.rig.as_ref().map(|r| format!("rig:{r}")),
            false => Some("town".to_owned()),
        };
        let again = code == "container.lost"
            && rows.attempts.iter().any(|o| o.id != a.id && o.code == a.code && o.instance == a.instance);
        let moved = a.rig.as_ref().map(|r| format!("rig:{r}"));
        if a.counts_in != expected && !(again && a.counts_in.is_none()) && a.counts_in != moved {
            broken.push(format!("7: attempt {} ({code}) counts in {:?}, not {expected:?}", a.id, a.counts_in));
        }
        let Some(bead) = &a.bead else { continue };
        if *class != "infra" {
            if a.charged != *charged {
                broken.push(format!("4: attempt {} ended as {code}, charged {}", a.id, a.charged));
            }
            continue;
        }
        let before = rows.attempts.iter().filter(|o| o.bead.as_ref() == Some(bead) && o.seq < a.seq);
        let last = before.filter(|o| o.outcome == "failed").filter_map(|o| o.finished_at).max();
        let redriven = oracle.redriven_at.get(bead).copied();
        // A redrive makes a new beginning; failures before it are nobody's evidence any more.
        let last = last.filter(|t| redriven.is_none_or(|r| *t > r));
        let proof = |from: i64, strictly: bool| {
            rows.attempts
                .iter()
                .filter(|o| o.bead.is_some() && o.bead.as_ref() != Some(bead))
                .filter_map(|o| o.proven_at)
                .any(|p| {
                    p <= rows.now + rows.slop && if strictly { p > from + rows.slop } else { p >= from - rows.slop }
                })
        };
        let (surely, perhaps) = last.map_or((false, false), |t| (proof(t, true), proof(t, false)));
        if (surely && !a.charged) || (!perhaps && a.charged) {
            broken.push(format!("4: {code} of attempt {} charged {}; blame says {surely}", a.id, a.charged));
        }
    }
}

struct Trips {
    /// No tie can talk it away.
    surely: bool,
    /// If every tie counts.
    perhaps: bool,
    why: String,
}

/// The two trip rules of `design.md` 5.5, recounted. Events of one millisecond have no order in the rows, so ties are
/// counted once for and once against.
fn trips(rows: &Rows, scope: &str, b: Option<&Breaker>) -> Trips {
    let closed = b.and_then(|b| b.closed_at).unwrap_or(0);
    let window = rows.now - rows.setting("/breaker/window_ms");
    let counted = |scope: &str| -> Vec<&Attempt> {
        rows.attempts.iter().filter(|a| a.counts_in.as_deref() == Some(scope)).collect()
    };
    let rig = scope.strip_prefix("rig:");
    let proven = rows
        .attempts
        .iter()
        .filter(|a| rig.is_none_or(|r| a.rig.as_deref() == Some(r)))
        .filter_map(|a| a.proven_at)
        .max()
        .unwrap_or(0);
    let at = |a: &&Attempt| a.finished_at.unwrap_or(0);
    // When the town's failures turned out to be one rig's, they were moved: the rig was judged by the town's.
    let failures = counted(scope);
    let strict = |from: i64| failures.iter().filter(|a| at(a) > from + rows.slop).copied().collect::<Vec<_>>();
    let loose = |from: i64| failures.iter().filter(|a| at(a) >= from - rows.slop).copied().collect::<Vec<_>>();
    let many = rows.setting("/breaker/failures");
    let row = rows.setting(if rig.is_some() { "/breaker/rig_consecutive" } else { "/breaker/consecutive" });
    let in_a_row = |mut streak: Vec<&Attempt>, possibly: bool| {
        streak.sort_by_key(at);
        let n = usize::try_from(row).expect("small");
        if streak.len() < n {
            return false;
        }
        // After a step back nobody knows which were the last.
        if rows.slop > 0 {
            return possibly;
        }
        let last = &streak[streak.len() - n..];
        let beads: BTreeSet<&str> = last.iter().map(|a| a.who()).collect();
        let infra = last.iter().all(|a| a.class.as_deref() == Some("infra"));
        match rig {
            Some(_) => last.iter().all(|a| a.code.as_deref() == Some("repo.unavailable")),
            None => infra || beads.len() >= 2,
        }
    };
    let len = |v: &[&Attempt]| i64::try_from(v.len()).expect("few");
    let (certain, possible) = (strict(closed.max(window)), loose(closed.max(window)));
    let (row_certain, row_possible) = (strict(closed.max(proven)), loose(closed.max(proven)));
    // A rig may open on the town's account.
    let moved = rig.is_some() && failures.iter().any(|a| a.code.as_deref() != Some("repo.unavailable"));
    Trips {
        surely: len(&certain) > many || in_a_row(row_certain.clone(), false),
        perhaps: len(&possible) > many || in_a_row(row_possible, true) || moved,
        why: format!("{} failures in the window, {} in a row", certain.len(), row_certain.len()),
    }
}
