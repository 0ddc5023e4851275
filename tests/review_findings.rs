//! What a review of the whole town found: one test per wrong state, each reached by commands and time alone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::Town;
use gastown::town::agent::{self, Role};
use gastown::town::command::{Actor, BeadPatch, Command, Heartbeat, NewBead};
use gastown::town::effect::{Answer, Outcome};
use gastown::town::error::Cause;
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::reconcile::invariants;
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND, Timestamp};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::{Fate, World};
use gastown_host::{operator, owner};
use serde_json::{Value as Json, json};
use support::*;

fn create(w: &mut World, rig: &RigId, bead: NewBead) -> BeadId {
    let made = w.must(Command::CreateBead { rig_id: rig.clone(), bead });
    text(&made, "bead_id").into()
}

fn issue(title: &str) -> NewBead {
    NewBead { title: title.to_owned(), ..NewBead::default() }
}

fn next_wake(w: &World) -> Option<Timestamp> {
    Town::new(&w.sql).next_wake(&w.ctx()).unwrap()
}

fn count(w: &World, sql: &str) -> i64 {
    w.sql.peek(sql, &[])[0].int(0).unwrap()
}

fn word(w: &World, sql: &str) -> Option<String> {
    w.sql.peek(sql, &[])[0].opt_text(0).unwrap()
}

fn edit(w: &World, sql: &'static str) {
    gastown::town::sql::Sql::execute(&w.sql, sql, &[]).unwrap();
}

fn force(w: &mut World, mode: &str) {
    let within = (mode != "auto").then_some(HOUR);
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: mode.to_owned(),
        reason: Some("a test".to_owned()),
        expires_in_ms: within,
    });
}

fn live(w: &World) -> Json {
    attempts(w)
        .into_iter()
        .find(|a| a["finished_at"].is_null())
        .unwrap_or_else(|| panic!("nothing lives\n{}", w.journal()))
}

// ── a name that a caller took must not stop the town ─────────────────────────────────────────────────────────────

#[test]
fn an_identity_that_somebody_took_stops_neither_a_polecat_nor_a_refinery() {
    let (mut w, rig) = World::founded(1);
    for (name, identity) in [
        ("Impostor", agent::identity("Toast", Role::Polecat, Some(&rig), &w.town_id)),
        ("Second", agent::identity("refinery", Role::Refinery, Some(&rig), &w.town_id)),
    ] {
        let made = w.must(Command::CreateAgent {
            rig_id: rig.clone(),
            role: "polecat".to_owned(),
            name: name.to_owned(),
            identity,
        });
        // Busy elsewhere, so that the town needs agents of its own.
        let held = create(&mut w, &rig, NewBead { labels: vec!["gt:held".to_owned()], ..issue("held") });
        w.must(Command::Hook { rig_id: rig.clone(), agent_id: text(&made, "id").into(), bead_id: held });
    }
    let bead = create(&mut w, &rig, issue("work"));
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "closed", "{}", w.journal());
}

// ── eviction ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_instance_that_announced_its_end_and_lives_on_does_not_dispatch_for_ever() {
    let (mut w, rig) = World::founded(2);
    w.container.behave_all(Behaviour::done(MINUTE));
    let first = w.sling(&rig, "first");
    w.run_for(5 * MINUTE);
    assert_eq!(w.status(&first), "closed");
    // SIGTERM to one of its processes, a deployment that was called off: it says that it goes, and stays.
    w.must(Command::ContainerEviction);
    w.run_for(8 * MINUTE);
    w.container.behave_all(Behaviour::fails(SECOND, "boom"));
    let before = w.starts().len();
    let bead = w.sling(&rig, "second");
    w.run_for(2 * HOUR);
    let starts = w.starts().len() - before;
    assert!(starts <= 6, "{starts} starts of one bead, none of them charged: {:?}", w.bead(&bead));
}

// ── quiet answers that are not ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_heartbeat_that_shortens_a_lease_moves_the_alarm() {
    let (mut w, rig) = World::founded(3);
    w.container.behave_all(Behaviour::hangs().mute().starting_for(10 * MINUTE));
    w.sling(&rig, "a");
    // Booked, not yet answered: its lease is start timeout + heartbeat timeout.
    w.container.faults.set(Endpoint::Start, Fault::HangAfter);
    w.run_for(5 * SECOND);
    let attempt = live(&w);
    w.command(
        &Actor::Container { agent_id: None, dispatch_id: None },
        Command::Heartbeat {
            agent_id: text(&attempt, "agent_id").into(),
            body: Heartbeat { status: Some("starting".to_owned()), ..Heartbeat::default() },
        },
    )
    .unwrap();
    assert_eq!(w.alarm(), next_wake(&w), "the alarm knows of the lease");
}

#[test]
fn one_odd_heartbeat_does_not_silence_the_other_agents_of_its_container() {
    let (mut w, rig) = World::founded(4);
    w.patch_config(json!({"dispatch": {"max_starts_in_flight": 6}}));
    w.container.behave_all(Behaviour::hangs());
    let (a, b) = (w.sling(&rig, "a"), w.sling(&rig, "b"));
    w.run_for(MINUTE);
    let (a, b) = (last(&w, &a), last(&w, &b));
    let beat = |of: &Json, dispatch: &Json| Heartbeat {
        agent_id: Some(text(of, "agent_id").to_owned()),
        status: Some("running".to_owned()),
        dispatch_id: Some(text(dispatch, "attempt_id").to_owned()),
        ..Heartbeat::default()
    };
    w.run_for(7 * SECOND);
    let told = w.command(
        &Actor::Container { agent_id: None, dispatch_id: None },
        Command::Heartbeats { container_instance_id: None, agents: vec![beat(&a, &b), beat(&b, &b)] },
    );
    assert!(told.is_ok(), "{told:?}");
    let lease = time(&last(&w, &text(&b, "bead_id").into())["lease_until"]);
    assert_eq!(lease.since(w.now()), 90 * SECOND);
}

// ── hook, assignee, status ───────────────────────────────────────────────────────────────────────────────────────

/// Two beads in review, their merge requests held by label.
fn two_reviews(w: &mut World, rig: &RigId) -> [BeadId; 2] {
    ["one", "two"].map(|title| {
        let bead = create(w, rig, NewBead { labels: vec!["gt:held".to_owned()], ..issue(title) });
        submit(w, rig, &bead, title)
    })
}

fn submit(w: &mut World, rig: &RigId, bead: &BeadId, branch: &str) -> BeadId {
    let mayor: AgentId = word(w, "SELECT mayor_agent_id FROM town").unwrap().as_str().into();
    w.must(Command::SubmitReview {
        rig_id: rig.clone(),
        agent_id: mayor,
        bead_id: bead.clone(),
        branch: branch.to_owned(),
        pr_url: None,
        summary: None,
    });
    let mr = w.sql.peek("SELECT bead_id FROM merge_requests WHERE branch = ?1", &[branch.into()])[0].text(0).unwrap();
    mr.as_str().into()
}

#[test]
fn a_refinery_that_was_hooked_by_hand_leaves_no_assignee_behind() {
    let (mut w, rig) = World::founded(5);
    force(&mut w, "forced_open");
    let [_, second] = two_reviews(&mut w, &rig);
    let refinery = w.must(Command::GetOrCreateAgent { rig_id: rig.clone(), role: "refinery".to_owned() });
    w.must(Command::Hook { rig_id: rig.clone(), agent_id: text(&refinery, "id").into(), bead_id: second });
    w.container.behave_all(Behaviour::hangs());
    force(&mut w, "forced_closed");
    w.run_for(MINUTE);
    assert_eq!(w.starts().len(), 1, "{}", w.journal());
    let drifted = count(
        &w,
        "SELECT count(*) FROM beads b LEFT JOIN agents a ON a.current_hook_bead_id = b.bead_id
         WHERE b.assignee_agent_bead_id IS NOT a.agent_id",
    );
    assert_eq!(drifted, 0, "an assignee whose hook is elsewhere");
}

#[test]
fn a_rig_that_goes_takes_no_assignee_of_another_rig_with_it() {
    let (mut w, rig) = World::founded(6);
    let other = w.add_rig("other");
    force(&mut w, "forced_open");
    let bead = w.sling(&rig, "moves");
    w.must(Command::UpdateBead {
        rig_id: rig.clone(),
        bead_id: bead.clone(),
        patch: BeadPatch { rig_id: Some(Some(other.as_str().to_owned())), ..BeadPatch::default() },
    });
    w.must(Command::RemoveRig { rig_id: rig });
    assert_eq!(w.bead(&bead)["assignee_agent_bead_id"], Json::Null, "its agent was deleted with its rig");
}

#[test]
fn a_merge_ends_the_attempt_that_works_on_its_source_again() {
    let (mut w, rig) = World::founded(7);
    w.container.behave_all(Behaviour::hangs());
    force(&mut w, "forced_open");
    let source = create(&mut w, &rig, issue("source"));
    let (one, two) = (submit(&mut w, &rig, &source, "b-one"), submit(&mut w, &rig, &source, "b-two"));
    for mr in [&one, &two] {
        let patch = BeadPatch { labels: Some(vec!["gt:held".to_owned()]), ..BeadPatch::default() };
        w.must(Command::UpdateBead { rig_id: rig.clone(), bead_id: mr.clone(), patch });
    }
    let verdict = |entry: &BeadId, status: &str| Command::CompleteReview {
        entry_id: entry.clone(),
        status: status.to_owned(),
        message: "a verdict".to_owned(),
        commit_sha: None,
    };
    w.must(verdict(&one, "failed"));
    force(&mut w, "forced_closed");
    w.run_for(5 * MINUTE);
    assert_eq!(w.status(&source), "in_progress", "{}", w.journal());
    w.must(verdict(&two, "merged"));
    assert_eq!(w.status(&source), "closed");
    assert_eq!(invariants::check(&w.sql).unwrap(), Vec::<String>::new());
    assert_eq!(w.bead(&source)["assignee_agent_bead_id"], Json::Null);
}

#[test]
fn only_work_can_be_submitted_for_review() {
    let (mut w, rig) = World::founded(8);
    force(&mut w, "forced_open");
    let bead = create(&mut w, &rig, issue("a"));
    let mr = submit(&mut w, &rig, &bead, "b");
    let mayor: AgentId = word(&w, "SELECT mayor_agent_id FROM town").unwrap().as_str().into();
    let again = w.command(
        &owner(),
        Command::SubmitReview {
            rig_id: rig.clone(),
            agent_id: mayor,
            bead_id: mr.clone(),
            branch: "c".to_owned(),
            pr_url: None,
            summary: None,
        },
    );
    assert!(
        again.as_ref().is_err_and(|e| matches!(e.cause(), Cause::Conflict { .. })),
        "a review of a review: {again:?}"
    );
    assert_eq!(w.status(&mr), "open");
}

#[test]
fn an_escalation_whose_bead_is_closed_is_acknowledged() {
    let (mut w, rig) = World::founded(9);
    let raised = w.must(Command::Escalate {
        rig_id: rig.clone(),
        title: "help".to_owned(),
        body: None,
        priority: None,
        metadata: None,
    });
    let id: BeadId = text(&raised, "id").into();
    w.must(Command::SetBeadStatus { rig_id: rig, bead_id: id, status: "closed".to_owned() });
    let open = w.must(Command::ListEscalations { acknowledged: Some(false) });
    assert_eq!(open, json!([]));
}

// ── counters and columns ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_failed_bead_waits_for_nothing() {
    let (mut w, rig) = World::founded(10);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    w.container.behave_all(Behaviour::fails(SECOND, "boom"));
    let bead = w.sling(&rig, "a");
    w.run_for(10 * SECOND);
    assert_eq!(w.status(&bead), "failed", "{}", w.journal());
    assert_eq!(w.bead(&bead)["next_dispatch_at"], Json::Null);
    assert_eq!(w.dispatch()["holds"], json!([]), "a failed bead is not in backoff");
}

#[test]
fn a_cap_that_was_lowered_under_a_running_attempt_holds_although_its_end_is_not_charged() {
    let (mut w, rig) = World::founded(11);
    w.container.behave_all(Behaviour::fails(SECOND, "boom"));
    let bead = w.sling(&rig, "a");
    assert!(w.run_while_not(HOUR, |w| w.bead(&bead)["dispatch_attempts"] == 3), "{}", w.journal());
    w.container.behave_all(Behaviour::hangs());
    assert!(w.run_while_not(HOUR, |w| w.container.running().len() == 1), "{}", w.journal());
    w.run_for(SECOND);
    w.patch_config(json!({"dispatch": {"max_attempts": 2}}));
    let now = w.now();
    w.container.kill(now);
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "failed", "it stands at {} of 2: {}", w.bead(&bead)["dispatch_attempts"], w.journal());
}

#[test]
fn a_lowered_cap_finds_its_beads_behind_a_hundred_others() {
    let (mut w, rig) = World::founded(12);
    let other = w.add_rig("other");
    force(&mut w, "forced_open");
    for n in 0..110 {
        create(&mut w, &rig, issue(&format!("many {n}")));
    }
    let bead = create(&mut w, &other, issue("one"));
    edit(&w, "UPDATE beads SET dispatch_attempts = 3 WHERE title LIKE 'many%'");
    edit(&w, "UPDATE beads SET dispatch_attempts = 2 WHERE title = 'one'");
    w.must(Command::PatchRigConfig { rig_id: other, patch: json!({"max_dispatch_attempts": 1}) });
    w.run_for(MINUTE);
    assert_eq!(w.status(&bead), "failed");
}

#[test]
fn an_eviction_does_not_make_a_charged_failure_forgivable() {
    let (mut w, rig) = World::founded(13);
    w.container.behave_all(Behaviour::fails(SECOND, "boom"));
    let bead = w.sling(&rig, "a");
    assert!(w.run_while_not(HOUR, |w| w.bead(&bead)["dispatch_attempts"] == 2), "{}", w.journal());
    w.container.behave_all(Behaviour::hangs());
    assert!(w.run_while_not(HOUR, |w| w.container.running().len() == 1), "{}", w.journal());
    let agent: AgentId = text(&live(&w), "agent_id").into();
    w.must(Command::Unhook { rig_id: rig, agent_id: agent });
    assert_eq!(row(&w, &bead, "last_failure_charged"), Some(1), "its last failure was charged; a cancellation is none");
}

#[test]
fn beads_without_a_rig_are_not_ready() {
    let (mut w, _) = World::founded(14);
    create(&mut w, &"mayor-x".into(), issue("nowhere"));
    assert_eq!(w.dispatch()["ready"], 0);
    assert_eq!(w.dispatch()["holds"], json!([{"code": "no_rig_config", "beads": 1}]));
}

// ── redrive ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_refused_merge_request_cannot_be_redriven_while_another_one_stands_for_its_source() {
    let (mut w, rig) = World::founded(15);
    force(&mut w, "forced_open");
    let source = create(&mut w, &rig, issue("source"));
    let one = submit(&mut w, &rig, &source, "b-one");
    w.must(Command::CompleteReview {
        entry_id: one.clone(),
        status: "failed".to_owned(),
        message: "no".to_owned(),
        commit_sha: None,
    });
    submit(&mut w, &rig, &source, "b-two");
    let again = w.command(&owner(), Command::RedriveBead { bead_id: one.clone(), reason: None });
    assert!(
        again.as_ref().is_err_and(|e| matches!(e.cause(), Cause::Conflict { .. })),
        "its verdict stands: {again:?}"
    );
    let many = w.must(Command::Redrive {
        fingerprint: None,
        rig_id: None,
        limit: None,
        dry_run: true,
        reason: "all".to_owned(),
    });
    assert_eq!(many["matched"], 0, "{many}");
}

#[test]
fn evictions_do_not_stop_a_redrive() {
    let (mut w, rig) = World::founded(16);
    w.patch_config(
        json!({"dispatch": {"max_attempts": 1, "max_starts_in_flight": 6}, "breaker": {"consecutive": 500}}),
    );
    w.container.behave_all(Behaviour::fails(SECOND, "boom"));
    let beads: Vec<_> = (0..5).map(|n| w.sling(&rig, &format!("b{n}"))).collect();
    w.run_for(10 * MINUTE);
    assert!(beads.iter().all(|b| w.status(b) == "failed"), "{}", w.journal());
    w.container.behave_all(Behaviour::hangs());
    let many = |w: &mut World| {
        w.must(Command::Redrive {
            fingerprint: None,
            rig_id: None,
            limit: None,
            dry_run: false,
            reason: "fixed".to_owned(),
        })
    };
    many(&mut w);
    w.run_for(3 * MINUTE);
    assert!(w.container.running().len() >= 3, "{}", w.journal());
    let now = w.now();
    w.container.drain(now, SECOND);
    w.run_for(10 * SECOND);
    let failed = count(&w, "SELECT count(*) FROM redrive_beads WHERE state = 'failed'");
    assert_eq!(failed, 0, "an eviction is nobody's failure: {}", w.journal());
}

// ── breaker, fleet ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_was_told_to_be_open_is_told_to_be_closed_whatever_was_ordered_in_between() {
    let (mut w, rig) = World::founded(17);
    w.patch_config(json!({"dispatch": {"max_starts_in_flight": 500}}));
    let now = w.now();
    w.container.kill(now);
    for n in 0..8 {
        w.sling(&rig, &format!("b{n}"));
    }
    assert!(w.run_while_not(HOUR, |w| w.notified("breaker.opened") == 1), "{}", w.journal());
    let now = w.now();
    w.container.restart(now);
    assert!(w.run_while_not(2 * HOUR, |w| text(&w.breaker("town"), "state") == "closed"), "{}", w.journal());
    assert_eq!(w.notified("breaker.closed"), 0, "the slow start has not reached its limit");
    force(&mut w, "forced_open");
    w.run_for(SECOND);
    force(&mut w, "auto");
    w.run_for(5 * HOUR);
    assert_eq!(text(&w.breaker("town"), "state"), "closed", "{}", w.journal());
    assert_eq!((w.notified("breaker.opened"), w.notified("breaker.closed")), (1, 1));
}

#[test]
fn the_fleet_hears_of_every_transition() {
    let (mut w, rig) = World::founded(18);
    let now = w.now();
    w.container.kill(now);
    for n in 0..8 {
        w.sling(&rig, &format!("b{n}"));
    }
    assert!(w.run_while_not(HOUR, |w| text(&w.breaker("town"), "state") == "open"), "{}", w.journal());
    w.run_for(SECOND);
    assert_eq!(w.reports.last().map(|(_, r)| r.breaker.clone()).as_deref(), Some("open"));
    let now = w.now();
    w.container.restart(now);
    assert!(w.run_while_not(2 * HOUR, |w| text(&w.breaker("town"), "state") == "closed"), "{}", w.journal());
    w.run_for(SECOND);
    assert_eq!(w.reports.last().map(|(_, r)| r.breaker.clone()).as_deref(), Some("closed"));
}

/// Found by kill -9 in workerd: the report of the last transition was in the air, and the registry believed the breaker
/// half-open for ever.
#[test]
fn a_report_that_was_lost_with_its_object_is_made_again_and_one_that_arrived_is_not() {
    let (mut w, rig) = World::founded(21);
    let now = w.now();
    w.container.kill(now);
    for n in 0..8 {
        w.sling(&rig, &format!("b{n}"));
    }
    assert!(w.run_while_not(HOUR, |w| text(&w.breaker("town"), "state") == "open"), "{}", w.journal());
    let now = w.now();
    w.container.restart(now);
    w.deaf_fleet = true;
    assert!(w.run_while_not(2 * HOUR, |w| text(&w.breaker("town"), "state") == "closed"), "{}", w.journal());
    w.run_for(SECOND);
    w.deaf_fleet = false;
    let lost = w.reports.len();
    w.crash();
    w.run_for(SECOND);
    let again: Vec<_> = w.reports.iter().skip(lost).map(|(_, r)| r.breaker.clone()).collect();
    assert_eq!(again, ["closed"], "{}", w.journal());
    w.crash();
    w.run_for(SECOND);
    assert_eq!(w.reports.len(), lost + 1, "{}", w.journal());
}

// ── who proves what ──────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn nobody_but_the_agent_proves_that_it_lives() {
    let (mut w, rig) = World::founded(19);
    w.container.behave_all(Behaviour::hangs().mute());
    let bead = w.sling(&rig, "a");
    w.run_for(10 * SECOND);
    let attempt = last(&w, &bead);
    assert_eq!(text(&attempt, "outcome"), "accepted");
    w.must(Command::SendMail {
        from_agent_id: text(&attempt, "agent_id").to_owned(),
        to_agent_id: "mayor".to_owned(),
        subject: "s".to_owned(),
        body: "b".to_owned(),
    });
    assert_eq!(text(&last(&w, &bead), "outcome"), "accepted", "a person's mail is no sign of life");
}

#[test]
fn a_gateways_timeout_after_the_first_heartbeat_ends_nothing() {
    let (mut w, rig) = World::founded(20);
    w.container.behave_all(Behaviour::hangs());
    w.container.faults.set(Endpoint::Start, Fault::HangAfter);
    let bead = w.sling(&rig, "a");
    w.run_for(5 * SECOND);
    let attempt = last(&w, &bead);
    assert_eq!(text(&attempt, "outcome"), "proven", "its heartbeat has overtaken the answer");
    let answer = Answer::Http { status: 504, body: "upstream request timeout".to_owned(), retry_after: None };
    let started = Outcome::Started { attempt_id: text(&attempt, "attempt_id").into(), answer, stops: Vec::new() };
    Town::new(&w.sql).settle(&w.ctx(), started).unwrap();
    assert_eq!(text(&last(&w, &bead), "outcome"), "proven");
    assert_eq!(w.status(&bead), "in_progress");
}

// ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn whoever_stops_a_dispatch_by_hand_is_in_the_audit() {
    let (mut w, rig) = World::founded(21);
    w.container.behave_all(Behaviour::hangs());
    for delete in [false, true] {
        let bead = w.sling(&rig, "a");
        w.run_for(MINUTE);
        let agent_id: AgentId = text(&last(&w, &bead), "agent_id").into();
        let before = count(&w, "SELECT count(*) FROM audit");
        if delete {
            w.command(&operator(), Command::DeleteAgent { rig_id: rig.clone(), agent_id }).unwrap();
        } else {
            w.command(&operator(), Command::Unhook { rig_id: rig.clone(), agent_id }).unwrap();
        }
        assert_eq!(count(&w, "SELECT count(*) FROM audit"), before + 1);
    }
}

#[test]
fn names_of_agents_in_bodies_have_a_cap() {
    let (mut w, rig) = World::founded(22);
    let long = "x".repeat(100_000);
    let mail = w.command(
        &owner(),
        Command::SendMail {
            from_agent_id: long.clone(),
            to_agent_id: long.clone(),
            subject: "s".to_owned(),
            body: "b".to_owned(),
        },
    );
    assert!(
        mail.as_ref().is_err_and(|e| matches!(e.cause(), Cause::Invalid { .. })),
        "a mail of {} bytes of addresses",
        2 * long.len()
    );
    let bead = create(&mut w, &rig, issue("a"));
    let closed = w.command(&owner(), Command::CloseBead { rig_id: rig, bead_id: bead, agent_id: long });
    assert!(closed.is_err(), "closed by 100 KB");
}

// ── a quiet town ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_stop_that_always_fails_is_forgotten_after_a_day() {
    let (mut w, rig) = World::founded(23);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "a");
    w.run_for(MINUTE);
    w.filter_voices(|_| Fate::Lost);
    w.container.faults.set_all(&Fault::answer(500, "{\"error\":\"no such session\"}"));
    w.must(Command::CancelBead { bead_id: bead, reason: "no longer wanted".to_owned() });
    w.run_for(2 * DAY);
    assert_eq!(w.alarm(), None, "a town with nothing to do is quiet: {}", w.journal());
}

#[test]
fn a_new_container_without_agents_ends_the_drain_by_answering_its_health() {
    let (mut w, rig) = World::founded(907);
    let first = w.sling(&rig, "work for the first container");
    w.run_for(10 * 60_000);
    assert_eq!(w.status(&first), "closed");
    w.must(Command::ContainerEviction);
    let waiting = w.sling(&rig, "work for the next one");
    w.run_for(20_000);
    assert!(w.attempts(&waiting).is_empty(), "the same container answers: the drain goes on");
    w.container.restart(w.now());
    w.run_for(40_000);
    assert_eq!(w.attempts(&waiting).len(), 1, "another instance answered: {}", w.journal());
}

#[test]
fn a_bead_in_review_is_explained_by_what_holds_its_merge_request() {
    let (mut w, rig) = World::founded(908);
    let bead = w.sling(&rig, "done, and then the town is stopped");
    w.run_while_not(10 * 60_000, |w| w.status(&bead) == "in_progress");
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: "forced_open".to_owned(),
        reason: Some("maintenance".to_owned()),
        expires_in_ms: Some(3_600_000),
    });
    w.run_for(10 * 60_000);
    let said = w.explain(&bead);
    assert_eq!(said["verdict"], "in_review");
    assert_eq!(said["holds"][0]["code"], "breaker_open", "{said}");
}

#[test]
fn a_start_that_the_platform_answered_with_502_is_stopped_before_the_bead_starts_again() {
    use gastown_host::behaviour::Behaviour;
    use gastown_host::fault::{Endpoint, Fault};
    let (mut w, rig) = World::founded(909);
    // It runs, says nothing, and nobody knows of it.
    w.container.behave_all(Behaviour::hangs().mute());
    w.container.faults.once(Endpoint::Start, Fault::answer_after(502, "bad gateway"));
    let bead = w.sling(&rig, "answered by the platform");
    w.run_for(5 * 60_000);
    let attempts = w.attempts(&bead);
    assert_eq!(attempts[0]["code"], "container.unavailable", "{}", w.journal());
    assert!(attempts.len() > 1, "it is tried again");
    let starts = w.starts_of(&bead);
    assert!(starts[0].ended_at.is_some_and(|end| end < starts[1].at), "the first process is gone by then: {starts:?}");
}
