//! What must be true of the rows at any moment, whatever came before.

use super::rows::{Changed, Request, Rows};
use gastown_host::world::World;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// 1: one live attempt per bead and per agent; hook, assignee and attempt agree.
pub fn bonds(rows: &Rows, broken: &mut Vec<String>) {
    let (mut beads, mut agents) = (BTreeSet::new(), BTreeSet::new());
    for a in rows.live() {
        if !agents.insert(&a.agent) || a.bead.as_ref().is_some_and(|b| !beads.insert(b)) {
            broken.push(format!("1: attempt {} is not the only live one", a.id));
        }
        let Some(id) = &a.bead else { continue };
        let bead = rows.beads.get(id);
        if bead.is_none_or(|b| b.assignee.as_ref() != Some(&a.agent) || b.status != "in_progress") {
            broken.push(format!("1: attempt {} is live, but bead {id} does not say so", a.id));
        }
        let agent = rows.agents.get(&a.agent);
        if agent.is_none_or(|x| x.hook.as_ref() != Some(id) || x.status != "working") {
            broken.push(format!("1: attempt {} is live, but agent {} does not say so", a.id, a.agent));
        }
    }
    for agent in rows.agents.values() {
        if let Some(hook) = &agent.hook
            && rows.beads.get(hook).is_none_or(|b| b.assignee.as_ref() != Some(&agent.id))
        {
            broken.push(format!("1: agent {} is hooked to bead {hook}, which is not assigned to it", agent.id));
        }
        if agent.role != "mayor" && (agent.status == "working") != agents.contains(&agent.id) {
            broken.push(format!("1: agent {} is {}, against its attempts", agent.id, agent.status));
        }
    }
    for bead in rows.beads.values() {
        if let Some(agent) = &bead.assignee
            && rows.agents.get(agent).is_none_or(|a| a.hook.as_ref() != Some(&bead.id))
        {
            broken.push(format!("1: bead {} ({}) is assigned to {agent}, which is not hooked", bead.id, bead.status));
        }
    }
}

/// 2 and 11: what a status promises.
pub fn statuses(rows: &Rows, broken: &mut Vec<String>) {
    let mut reviewing: BTreeMap<&str, u32> = BTreeMap::new();
    let prs: HashSet<&str> = rows.watches.iter().map(|m| m.mr.as_str()).collect();
    for mr in &prs {
        if rows.beads.get(*mr).is_none_or(|b| b.kind != "merge_request" || b.status != "in_progress") {
            broken.push(format!("2: the forge is asked about bead {mr}, which is not in progress"));
        }
    }
    let at_work: HashSet<&str> = rows.live().filter_map(|a| a.bead.as_deref()).collect();
    let mut reviews: HashMap<&str, Vec<&str>> = HashMap::new();
    for m in &rows.requests {
        reviews.entry(&m.source).or_default().push(&m.mr);
    }
    for bead in rows.beads.values() {
        let (pr, live) = (prs.contains(bead.id.as_str()), at_work.contains(bead.id.as_str()));
        match bead.status.as_str() {
            "in_progress" if !live && !pr => broken.push(format!("2: bead {} is in progress by nobody", bead.id)),
            "in_review" => {
                let reviewed = reviews.get(bead.id.as_str()).into_iter().flatten().any(|mr| {
                    rows.beads.get(*mr).is_some_and(|mr| match mr.status.as_str() {
                        "open" | "in_progress" => true,
                        "failed" => mr
                            .failure_reason
                            .as_ref()
                            .is_some_and(|f| f["source"] == "dispatch" || f["source"] == "forge"),
                        _ => false,
                    })
                });
                if !reviewed {
                    broken.push(format!("2: bead {} is in review by nobody", bead.id));
                }
            }
            _ => {}
        }
        if pr && live {
            broken.push(format!("2: bead {} is with its forge and with a refinery", bead.id));
        }
        if bead.kind == "merge_request" && bead.status == "in_progress" && !pr {
            *reviewing.entry(bead.rig.as_deref().unwrap_or_default()).or_default() += 1;
        }
        if bead.held != bead.labels.iter().any(|l| l == "gt:held") {
            broken.push(format!("13: bead {}: the label gt:held and the column disagree", bead.id));
        }
    }
    for (rig, n) in reviewing.into_iter().filter(|(_, n)| *n > 1) {
        broken.push(format!("11: {n} merge requests are in progress in rig {rig}"));
    }
}

/// `domain.md` 6 and 7: at most 5 open requests of the town's making, one per agent and cause; one triage batch at a time;
/// whoever is stalled has nothing to do and a term.
pub fn triage(rows: &Rows, broken: &mut Vec<String>) {
    let own: Vec<_> = rows.requests_for_triage().filter(|b| b.created_by.as_deref() == Some("system")).collect();
    if own.len() > 5 {
        broken.push(format!("7: {} triage requests are open", own.len()));
    }
    let mut causes = BTreeSet::new();
    for b in own {
        let cause = (b.metadata["agent_bead_id"].as_str(), b.metadata["triage_type"].as_str());
        if cause.0.is_none() || cause.1.is_none() || !causes.insert(cause) {
            broken.push(format!("7: triage request {} repeats {cause:?}", b.id));
        }
    }
    let batches = rows.batches().count();
    if batches > 1 {
        broken.push(format!("7: {batches} triage batches are unfinished"));
    }
    for agent in rows.agents.values() {
        let stalled = agent.status == "stalled";
        if stalled != agent.stalled_until.is_some() || (stalled && rows.live().any(|a| a.agent == agent.id)) {
            broken.push(format!("6: agent {} is {}, until {:?}", agent.id, agent.status, agent.stalled_until));
        }
    }
}

/// 5, 6: what an open breaker may and must have.
pub fn breakers(rows: &Rows, broken: &mut Vec<String>) {
    for b in rows.breakers.values() {
        let mut wrong = |what: String| broken.push(format!("{what}: {} is {}", b.scope, b.state));
        match b.state.as_str() {
            "open" if b.next_probe_at.is_none() => wrong("6: no probe is scheduled".to_owned()),
            "open" if b.trial.is_some() => wrong("5: a trial runs".to_owned()),
            "closed" if b.trial.is_some() || b.health_until.is_some() => wrong("5: a probe runs".to_owned()),
            "half_open" if b.health_until.is_some() => wrong("5: a health check runs".to_owned()),
            "open" | "closed" | "half_open" => {}
            other => wrong(format!("unknown state {other}")),
        }
        if let Some(trial) = &b.trial {
            match rows.live().find(|a| a.id == *trial) {
                None => wrong(format!("5: its probe {trial} has ended")),
                Some(a) => {
                    // Its end is a deadline (10), and one look asks at a time: it is settled as soon as it can be.
                    if a.lease_until.is_none() {
                        wrong(format!("5: its probe {trial} has no lease"));
                    }
                    if !a.probe {
                        wrong(format!("5: its probe {trial} does not know"));
                    }
                }
            }
        }
        if b.order.as_ref().is_some_and(|(_, until)| until.is_none()) {
            wrong("6: an override has no expiry".to_owned());
        }
        if b.scope.strip_prefix("rig:").is_some_and(|r| !rows.rigs.contains_key(r)) {
            wrong("a breaker without a rig".to_owned());
        }
    }
}

/// 8: failed ⇒ class, code and a reason that says something.
pub fn reasons(rows: &Rows, changed: &Changed, broken: &mut Vec<String>) {
    let filled = |t: &Option<String>| t.as_ref().is_some_and(|t| !t.trim().is_empty());
    for a in changed.attempts.iter().map(|at| &rows.attempts[*at]) {
        let ends = ["succeeded", "failed", "interrupted", "cancelled"].contains(&a.outcome.as_str());
        if ends == a.live() {
            broken.push(format!("attempt {} is {} and finished at {:?}", a.id, a.outcome, a.finished_at));
        }
        let named = filled(&a.class) && filled(&a.fingerprint);
        if a.outcome == "failed" && !named {
            broken.push(format!("8: attempt {} failed without class or fingerprint", a.id));
        }
        // A cancelled attempt has no class (`design.md` 5.3), but a reason like every other.
        let said = filled(&a.code) && filled(&a.reason);
        if ["failed", "interrupted", "cancelled"].contains(&a.outcome.as_str()) && !said {
            broken.push(format!("8: attempt {} is {} without code or reason", a.id, a.outcome));
        }
    }
    let differ = changed.beads.iter().filter_map(|id| rows.beads.get(id));
    for bead in differ.filter(|b| b.status == "failed") {
        let said = |key: &str| {
            bead.failure_reason.as_ref().and_then(|f| f[key].as_str()).is_some_and(|t| !t.trim().is_empty())
        };
        if !said("code") || !said("message") || !said("source") {
            broken.push(format!("8: bead {} failed without a reason: {:?}", bead.id, bead.failure_reason));
        }
    }
}

/// 12: `open_blockers` is a recount; no cycle in `blocks`; no edge to nowhere.
pub fn edges(rows: &Rows, changed: &Changed, broken: &mut Vec<String>) {
    for bead in rows.beads.values() {
        let (open, failed) = rows.blockers(bead);
        if i64::try_from(open + failed).expect("few") != bead.open_blockers {
            broken.push(format!(
                "12: bead {} says {} blockers, there are {open} + {failed}",
                bead.id, bead.open_blockers
            ));
        }
    }
    if !changed.blocks && !changed.gone {
        return;
    }
    for (bead, on) in &rows.blocks {
        if !rows.beads.contains_key(bead) || !rows.beads.contains_key(on) {
            broken.push(format!("12: an edge from {bead} to {on} leads nowhere"));
        }
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next = vec![on.as_str()];
        while let Some(at) = next.pop() {
            if at == bead {
                broken.push(format!("12: bead {bead} waits for itself"));
                return;
            }
            if reached.insert(at) {
                next.extend(rows.blocks_of(at));
            }
        }
    }
}

/// `domain.md` 5: progress is a recount; a convoy that has landed has closed all its tasks; one landing at a time, and one
/// that is whole lands or is closed.
pub fn convoys(rows: &Rows, broken: &mut Vec<String>) {
    let mut tasks: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut staged: HashSet<&str> = HashSet::new();
    for (task, convoy) in &rows.tracks {
        let Some(bead) = rows.beads.get(task) else {
            broken.push(format!("convoys: {convoy} has a task {task} that does not exist"));
            continue;
        };
        if tasks.values().any(|of| of.contains(&task.as_str())) {
            broken.push(format!("convoys: bead {task} is a task of two"));
        }
        tasks.entry(convoy).or_default().push(task);
        if bead.staged {
            staged.insert(task);
        }
    }
    for bead in rows.beads.values().filter(|b| b.staged && !staged.contains(b.id.as_str())) {
        broken.push(format!("convoys: bead {} is staged by none", bead.id));
    }
    for c in &rows.convoys {
        let mut wrong = |what: &str| broken.push(format!("convoys: {} {what}", c.id));
        let Some(status) = rows.beads.get(&c.id).map(|b| b.status.as_str()) else {
            wrong("has no bead");
            continue;
        };
        let mine = tasks.remove(c.id.as_str()).unwrap_or_default();
        let n = |in_: &[&str]| {
            i64::try_from(mine.iter().filter(|t| in_.contains(&rows.beads[**t].status.as_str())).count()).expect("few")
        };
        let all = i64::try_from(mine.len()).expect("few");
        let recount = (all, n(&["closed", "failed"]), n(&["failed"]));
        if c.counted != recount {
            wrong(&format!("counts {:?}, a recount says {recount:?}", c.counted));
        }
        if mine.iter().any(|t| staged.contains(t) != c.staged) {
            wrong("and its tasks disagree whether they are staged");
        }
        let of = |r: &&Request| r.source == c.id;
        let at_work =
            |r: &&Request| rows.beads.get(&r.mr).is_some_and(|b| ["open", "in_progress"].contains(&b.status.as_str()));
        let landings: Vec<&str> = rows.requests.iter().filter(of).filter(at_work).map(|r| r.mr.as_str()).collect();
        if landings != c.landing.iter().map(String::as_str).collect::<Vec<_>>() {
            wrong(&format!("is landing by {:?}, the open requests are {landings:?}", c.landing));
        }
        let whole = all > 0 && n(&["closed"]) == all;
        let landed = rows.requests.iter().filter(of).any(|r| r.verdict.as_deref() == Some("merged"));
        // Tasks of a landed convoy may be deleted like any bead.
        if landed && (n(&["closed"]) != all || status != "closed") {
            wrong("was landed before all its tasks were closed");
        }
        let due = c.land_at.is_some() || c.landing.is_some();
        if due && (status != "open" || !c.lands || (c.land_at.is_some() && (!whole || c.landing.is_some()))) {
            wrong("must not land");
        }
        if status == "open" && whole && (!due || !c.has_work) {
            wrong("is whole, and neither landing nor closed");
        }
        // One, and five more; then it has failed.
        if c.failures > if status == "open" { 5 } else { 6 } {
            wrong(&format!("failed to land {} times", c.failures));
        }
    }
}

/// 9: one notification per key, and one of a kind per episode; *closed* after *opened*; what was delivered is not posted
/// again.
pub fn notifications(rows: &Rows, w: &World, broken: &mut Vec<String>) {
    let keys: BTreeSet<&str> = rows.notices.iter().map(|n| n.key.as_str()).collect();
    if keys.len() != rows.notices.len() {
        broken.push("9: two notifications have one key".to_owned());
    }
    let mut told = BTreeSet::new();
    for n in rows.notices.iter().filter(|n| n.kind.starts_with("breaker.")) {
        let (scope, generation) = (n.scope.as_deref().unwrap_or_default(), n.facts["generation"].as_i64());
        if !told.insert((n.kind.as_str(), scope, generation)) {
            broken.push(format!("9: {} of {scope} was told twice in episode {generation:?}", n.kind));
        }
    }
    let mut failed: Vec<i64> = rows.notices.iter().filter(|n| n.kind == "bead.failed").map(|n| n.created_at).collect();
    failed.sort_unstable();
    if failed.windows(2).any(|pair| pair[1] - pair[0] + rows.slop < rows.setting("/notify/rollup_ms")) {
        broken.push("9: failed beads were told of twice within one roll-up".to_owned());
    }
    for n in rows.notices.iter().filter(|n| n.kind == "breaker.closed") {
        let opened = n.key.replace(":closed", ":opened");
        if !keys.contains(opened.as_str()) {
            broken.push(format!("9: {} without {opened}", n.key));
        }
    }
    // Times of the receiver and of the town are one clock only while that has never stepped.
    if w.town_now() == w.now() && rows.slop == 0 {
        for post in w.webhook.posts.iter().rev().take(20) {
            let delivered = rows
                .deliveries
                .iter()
                .filter(|d| d.channel == "webhook" && Some(d.notice.as_str()) == post.body()["id"].as_str())
                .find_map(|d| d.delivered_at);
            if delivered.is_some_and(|t| t + 1_000 < post.sent.0) {
                broken.push(format!("9: posted again after it was delivered: {}", post.raw));
            }
        }
    }
}
