//! The gate and the deadlines, once more and naively: every bead against every reason, every time that a rule compares
//! with *now*. Written from `design.md` 5–8 and `domain.md` 2; no index, no queue, no shortcut.

use super::rows::{Attempt, Bead, Breaker, Rows, Stop};
use std::collections::BTreeSet;

/// `domain.md` 9: a drain without a word of a new instance.
const DRAIN_LIMIT: i64 = 7 * 60_000;
/// `design.md` 5.5: *closed* is announced at the latest so long after closing.
const ANNOUNCE: i64 = 30 * 60_000;
/// `design.md` 8, rule 3.
const ORPHAN_GRACE: i64 = 5 * 60_000;
/// `docs/decisions/008`: the row of a healthy agent is so far behind at most.
const STORE_EVERY: i64 = 5 * 60_000;

impl Rows {
    pub fn dispatchable(bead: &Bead) -> bool {
        matches!(bead.kind.as_str(), "issue" | "merge_request") && !bead.labels.iter().any(|l| l == "gt:triage-request")
    }

    pub fn draining(&self) -> bool {
        self.draining_since.is_some_and(|t| self.now - t < DRAIN_LIMIT)
    }

    /// The end of a lease (`docs/decisions/008`): of an agent that gave a sign of life, what the object remembers; if it
    /// remembers nothing, the row's, or one heartbeat timeout from the object's birth if the row may be behind.
    fn lease(&self, a: &Attempt) -> Option<i64> {
        let row = a.lease_until?;
        if a.proven_at.is_none() || a.reviving || a.looks > 0 || a.look_until.is_some() {
            return Some(row);
        }
        match (self.heard.get(&a.agent), a.heartbeat_at) {
            (Some((attempt, until)), _) if *attempt == a.id => Some(*until),
            (_, Some(at)) => {
                let timeout = self.setting("/dispatch/heartbeat_timeout_ms");
                Some(row.max((self.born + timeout).min(at + STORE_EVERY + timeout)))
            }
            _ => Some(row),
        }
    }

    pub fn town_held(&self) -> bool {
        self.hold_until.is_some_and(|t| t > self.now)
    }

    pub fn in_flight(&self) -> i64 {
        let unheard = |a: &&Attempt| a.proven_at.is_none() || a.reviving;
        let flying = self.live().filter(unheard).filter(|a| a.lease_until.is_some_and(|t| t > self.now));
        i64::try_from(flying.count()).expect("few")
    }

    pub fn starts_limit(&self) -> i64 {
        self.slow_start.min(self.setting("/dispatch/max_starts_in_flight")).max(1)
    }

    pub fn polecats(&self, rig: Option<&str>) -> i64 {
        let live = self.live().filter(|a| a.role == "polecat" && rig.is_none_or(|r| a.rig.as_deref() == Some(r)));
        i64::try_from(live.count()).expect("few")
    }

    /// A stop on its way to the rig's refinery could reach the next process, so the refinery counts as busy.
    pub fn refinery_busy(&self, rig: &str) -> bool {
        let of_rig = |a: &&Attempt| a.role == "refinery" && a.rig.as_deref() == Some(rig);
        let once_of_rig = |id: &str| self.attempts.iter().filter(of_rig).any(|a| a.agent == id);
        let sent = |s: &&Stop| s.sent_until.is_some() && self.agents.contains_key(&s.agent);
        self.live().any(|a| of_rig(&a))
            || self.live().any(|a| a.role == "refinery" && once_of_rig(&a.agent))
            || self.stops.iter().filter(sent).any(|s| once_of_rig(&s.agent))
            || self.agents.values().any(|a| a.status == "stalled" && a.role == "refinery" && once_of_rig(&a.id))
    }

    /// Open questions about stuck agents.
    pub fn requests_for_triage(&self) -> impl Iterator<Item = &Bead> {
        let asks = |b: &&Bead| b.status == "open" && b.labels.iter().any(|l| l == "gt:triage-request");
        self.beads.values().filter(asks)
    }

    /// Beads of triage agents that are not finished.
    pub fn batches(&self) -> impl Iterator<Item = &Bead> {
        let unfinished = |b: &&Bead| ["open", "in_progress", "in_review"].contains(&b.status.as_str());
        self.beads.values().filter(|b| b.created_by.as_deref() == Some("patrol")).filter(unfinished)
    }

    /// What a bead waits for.
    pub fn blocks_of<'a>(&'a self, bead: &str) -> impl Iterator<Item = &'a str> {
        let from = (bead.to_owned(), String::new());
        let of = bead.to_owned();
        self.blocks.range(from..).take_while(move |(b, _)| *b == of).map(|(_, on)| on.as_str())
    }

    /// Why the blockers of a bead hold it, by `domain.md` 2.
    pub fn blockers(&self, bead: &Bead) -> (usize, usize) {
        let lenient = bead.metadata["allow_failed_blockers"] == true;
        let statuses = self.blocks_of(&bead.id).filter_map(|on| self.beads.get(on));
        let (mut open, mut failed) = (0, 0);
        for on in statuses {
            match on.status.as_str() {
                "closed" => {}
                "failed" if lenient => {}
                "failed" => failed += 1,
                _ => open += 1,
            }
        }
        (open, failed)
    }

    /// Every hold of an open bead, by code; breaker holds with their scope.
    pub fn holds(&self, bead: &Bead) -> BTreeSet<String> {
        let mut holds = BTreeSet::new();
        let mut add = |code: &str| {
            holds.insert(code.to_owned());
        };
        if !Self::dispatchable(bead) {
            add("not_open");
        }
        if bead.labels.iter().any(|l| l == "gt:held") {
            add("held_label");
        }
        let (open, failed) = self.blockers(bead);
        if open > 0 {
            add("blocked");
        }
        if failed > 0 {
            add("blocker_failed");
        }
        if bead.staged {
            add("convoy_staged");
        }
        if bead.next_dispatch_at.is_some_and(|t| t > self.now) {
            add("backoff");
        }
        if bead.review_not_before.is_some_and(|t| t > self.now) {
            add("review_backoff");
        }
        let rig = bead.rig.as_deref().filter(|r| self.rigs.contains_key(*r));
        if rig.is_none() {
            add("no_rig_config");
        }
        for scope in std::iter::once("town".to_owned()).chain(bead.rig.as_ref().map(|r| format!("rig:{r}"))) {
            match self.effective(&scope) {
                "closed" => {}
                "open" => add(&format!("breaker_open {scope}")),
                _ => add(&format!("probe_running {scope}")),
            }
        }
        if self.town_held() {
            add("town_hold");
        }
        if self.draining() {
            add("draining");
        }
        if bead.kind == "issue" {
            if self.polecats(None) >= self.setting("/dispatch/max_agents") {
                add("town_agents");
            }
            if rig.is_some_and(|r| self.polecats(Some(r)) >= self.polecats_per_rig(r)) {
                add("rig_polecats");
            }
        }
        if bead.kind == "merge_request" && rig.is_some_and(|r| self.refinery_busy(r)) {
            add("rig_refinery_busy");
        }
        if self.in_flight() >= self.starts_limit() {
            add("starts_in_flight");
        }
        holds
    }

    /// A person's message waits for a mayor that sleeps, and is neither in the air nor with a start.
    pub fn mayor_wanted(&self) -> bool {
        let travels = |id: &String| self.lines.iter().any(|(_, _, ids)| ids.contains(id.as_str()));
        !self.live().any(|a| a.role == "mayor") && self.letters.iter().any(|id| !travels(id))
    }

    /// Nothing of the town itself, its breaker aside, stands against a start.
    fn town_may_start(&self) -> bool {
        !self.town_held() && !self.draining() && self.in_flight() < self.starts_limit()
    }

    /// When the first bead passes every hold but backoff and the breakers in question (`design.md` 5.5, *Open*): now, or
    /// at the end of its review's backoff, which no probe passes.
    pub fn probe_ready_at(&self, b: &Breaker) -> Option<i64> {
        let ready_at = |bead: &Bead| {
            let rig_scope = bead.rig.as_ref().map(|r| format!("rig:{r}")).unwrap_or_default();
            if b.scope != "town" && b.scope != rig_scope {
                return None;
            }
            let rig = self.breakers.get(&rig_scope);
            let rig_may = rig.is_none_or(|r| r.ordered(self.now) != Some("forced_open") && r.trial.is_none());
            let passes = self.holds(bead).iter().all(|hold| match hold.split_once(' ') {
                // A bead of an open rig tries both scopes, unless the rig is nobody's to try.
                Some((_, scope)) => *scope == b.scope || (b.scope == "town" && *scope == rig_scope && rig_may),
                None => hold == "backoff" || hold == "review_backoff",
            });
            passes.then(|| bead.review_not_before.unwrap_or(self.now).max(self.now))
        };
        let mayor = b.scope == "town" && self.mayor_wanted() && self.town_may_start();
        let beads = self.beads.values().filter(|bead| bead.status == "open").filter_map(ready_at).min();
        if mayor { Some(self.now) } else { beads }
    }

    /// Is there a bead that a probe could try now?
    pub fn probe_ready(&self, b: &Breaker) -> bool {
        self.probe_ready_at(b).is_some_and(|at| at <= self.now)
    }

    /// Could this bead be dispatched but for time, the town and its breakers?
    fn waits(&self, bead: &Bead) -> bool {
        let own = ["not_open", "held_label", "blocked", "blocker_failed", "convoy_staged", "no_rig_config"];
        bead.status == "open" && !self.holds(bead).iter().any(|h| own.contains(&h.as_str()))
    }

    /// Every deadline of `design.md` 7, with its name. Times that have passed are due now.
    pub fn deadlines(&self) -> Vec<(i64, String)> {
        let mut due: Vec<(i64, String)> = Vec::new();
        let mut add = |at: Option<i64>, what: &str| due.extend(at.map(|at| (at.max(self.now), what.to_owned())));
        // Leases and heartbeats: suspended while draining; one look at a time.
        let look = self.live().filter_map(|a| a.look_until).filter(|t| *t > self.now).max();
        if !self.draining() {
            match look {
                Some(until) => add(Some(until), "look"),
                None => add(self.live().filter_map(|a| self.lease(a)).min(), "lease"),
            }
        }
        for s in &self.stops {
            match s.sent_until {
                Some(until) => add(Some(until), "stop under way"),
                None if self.live().any(|a| a.agent == s.agent) => {}
                None => add(s.due_at, "stop"),
            }
        }
        for bead in self.beads.values().filter(|b| b.status == "in_progress") {
            if !self.watched(&bead.id) && !self.live().any(|a| a.bead.as_ref() == Some(&bead.id)) {
                add(Some(bead.orphaned_at.map_or(self.now, |t| t + ORPHAN_GRACE)), "orphan");
            }
        }
        if self.caps_lowered {
            add(Some(self.now), "lowered cap");
        }
        // `design.md` 6: the fleet is told of every transition, whatever verb made it.
        let town = self.breakers.get("town").map_or("closed", |b| b.state.as_str());
        if ["closed", "open", "half_open"].iter().position(|s| *s == town) != usize::try_from(self.fleet_told).ok() {
            add(Some(self.now), "fleet");
        }
        for at in self.convoys.iter().filter_map(|c| c.land_at) {
            add(Some(at), "landing");
        }
        for at in &self.redrives {
            add(Some(*at), "redrive");
        }
        // Rule 7: stalled agents, the triage batch, escalations that nobody acknowledged.
        for a in self.agents.values().filter(|a| a.status == "stalled") {
            let owed = self.stops.iter().any(|s| s.agent == a.id);
            add(if owed { a.stalled_until } else { Some(self.now) }, "stalled agent");
        }
        let mut asked = self.requests_for_triage().peekable();
        match self.batches().next() {
            Some(batch) if batch.status == "open" && asked.peek().is_none() => {
                add(Some(self.now), "batch without a question");
            }
            None if asked.any(|b| b.triage_request == 1) && !self.rigs.is_empty() => add(Some(self.now), "batch"),
            _ => {}
        }
        for at in &self.escalations {
            add(Some(*at), "escalation");
        }
        for at in &self.departed {
            add(Some(*at), "a departed agent's store");
        }
        for b in self.breakers.values() {
            add(b.order.as_ref().and_then(|(_, until)| *until), "override");
            add(b.health_until, "health");
            if b.state == "half_open" && b.trial_proven {
                add(b.trial_booked_at.map(|t| t + b.trial_ms + 1), "trial");
            }
            if b.state != "closed" && b.told && !b.still_open_told {
                add(b.opened_at.map(|t| t + self.setting("/notify/still_open_ms")), "still open");
            }
            if b.state == "closed" && !b.settled {
                add(b.closed_at.map(|t| t + ANNOUNCE), "announce");
            }
            if b.ordered(self.now).is_some() {
                continue;
            }
            if b.state == "open" && b.health_until.is_none() {
                add(self.probe_ready_at(b).map(|at| at.max(b.next_probe_at.unwrap_or(at))), "probe");
            }
            if b.state == "half_open" && b.trial.is_none() {
                add(Some(self.now), "permit");
            }
        }
        // The mayor is a candidate like any other; it belongs to no rig.
        let mut waits = self.mayor_wanted();
        if waits && self.town_may_start() && self.effective("town") == "closed" {
            add(Some(self.mayor_backoff.unwrap_or(self.now)), "mayor");
        }
        // `live.rs`: what is due waits for a place if six messages are in the air.
        let flying = self.lines.iter().filter(|l| l.1).filter_map(|l| l.0).filter(|t| *t > self.now);
        let full = flying.clone().count() >= 6;
        let due_now = self.lines.iter().filter_map(|l| l.0).any(|t| t <= self.now);
        if full && due_now {
            add(flying.min(), "a place for a message");
        } else {
            add(self.lines.iter().filter_map(|l| l.0).min(), "message");
        }
        for bead in self.beads.values().filter(|b| b.status == "open") {
            waits |= self.waits(bead);
            let holds = self.holds(bead);
            if holds.iter().all(|h| h == "backoff" || h == "review_backoff") {
                let at = bead.next_dispatch_at.max(bead.review_not_before).unwrap_or(self.now);
                add(Some(at), "candidate");
            }
        }
        if waits && self.town_held() {
            add(self.hold_until, "town hold");
        }
        if waits || self.live().next().is_some() {
            add(self.draining_since.map(|t| t + DRAIN_LIMIT), "drain");
        }
        // A container is told something only while somebody lives in it who could need it.
        if self.live().next().is_some() && !self.draining() {
            for at in self.tellings {
                add(at, "telling");
            }
        }
        if waits && self.draining() {
            add(self.drain_look, "drain look");
        }
        // At most six posts are in the air: what is due then waits for the first of them to end.
        let posts = || self.deliveries.iter().filter(|d| d.state == "pending" && d.channel == "webhook");
        let flying = || posts().filter_map(|d| d.sent_until).filter(|t| *t > self.now);
        let free = if flying().count() >= 6 { flying().min() } else { None };
        for d in posts() {
            add(d.next_attempt_at.max(free.filter(|_| d.next_attempt_at.is_some())), "delivery");
        }
        // At most two calls to forges are in the air: what is due then waits for the first of them to end.
        let air: Vec<i64> = self.watches.iter().filter_map(|p| p.sent_until).filter(|t| *t > self.now).collect();
        for p in &self.watches {
            let free = if air.len() >= 2 { air.iter().min().copied() } else { None };
            add(Some(free.unwrap_or(p.due_at).max(p.due_at)), "forge");
        }
        if self.rollup.1 > 0 {
            add(Some(self.rollup.0.map_or(self.now, |t| t + self.setting("/notify/rollup_ms"))), "roll-up");
        }
        due
    }
}
