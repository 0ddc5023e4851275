//! Mail, escalations, prime and the audit: what one tells another, and who changed what.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::agent::{self, NewAgent, Role};
use gastown::town::bead::{self, Bead, Draft, Kind, Priority};
use gastown::town::command::{Actor, Page};
use gastown::town::error::{Cause, TownError};
use gastown::town::escalation::{self, Raise};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::sql::Sql;
use gastown::town::time::{DAY, HOUR, Millis, Timestamp};
use gastown::town::{Ctx, audit, mail, prime};
use gastown_host::ids::SeededIds;
use gastown_host::sqlite::Sqlite;
use serde_json::{Value as Json, json};
use std::cell::Cell;

const GROWING: [&str; 8] =
    ["notifications", "deliveries", "mail", "escalations", "beads", "bead_events", "agents", "audit"];

/// A founded town with a mayor, a rig and a polecat on it.
struct Fixture {
    db: Sqlite,
    ids: SeededIds,
    now: Cell<Timestamp>,
    toast: AgentId,
    mayor: AgentId,
}

impl Fixture {
    fn new() -> Self {
        let db = Sqlite::memory();
        gastown::town::migrate::migrate(&db, Timestamp(0)).unwrap();
        db.script(
            "INSERT INTO town (id, town_id, name, owner_user_id, mayor_agent_id, created_at)
             VALUES (1, 'town-1', 'Bedrock', 'fred', 'mayor-1', 0);
             INSERT INTO agents (agent_id, seq, role, name, identity, status, created_at)
             VALUES ('mayor-1', 0, 'mayor', 'mayor', 'mayor-town-1', 'idle', 0);",
        )
        .unwrap();
        let ids = SeededIds::new(1);
        let now = Timestamp(1_795_168_782_005);
        let rig = RigId::from("rig-1");
        let new = NewAgent {
            rig_id: Some(&rig),
            role: Role::Polecat,
            name: "Toast".to_owned(),
            identity: "Toast-polecat-rig-1@town-1".to_owned(),
        };
        let toast = agent::create(&db, &Ctx::new(now, &ids), &new).unwrap().id;
        Self { db, ids, now: Cell::new(now), toast, mayor: AgentId::from("mayor-1") }
    }
    fn ctx(&self) -> Ctx<'_> {
        Ctx::new(self.now.get(), &self.ids)
    }
    fn pass(&self, ms: Millis) {
        self.now.set(self.now.get().plus(ms));
    }
    fn send(&self, to: &AgentId, subject: &str) -> String {
        mail::send(&self.db, &self.ctx(), "maple", to, subject, "body").unwrap()
    }
    fn take(&self, to: &AgentId) -> Vec<String> {
        mail::take(&self.db, &self.ctx(), to).unwrap().into_iter().map(|m| m.subject).collect()
    }
    fn mail(&self) -> Vec<Json> {
        mail::list(&self.db, None, &Page::default()).unwrap()["mail"].as_array().unwrap().clone()
    }
    fn bead(&self, title: &str, rig: Option<&str>) -> Bead {
        let draft = Draft {
            kind: Kind::Issue,
            title: title.to_owned(),
            body: None,
            rig_id: rig.map(RigId::from),
            parent: None,
            priority: Priority::Medium,
            labels: Vec::new(),
            metadata: json!({}),
            created_by: None,
            depends_on: Vec::new(),
        };
        bead::create(&self.db, &self.ctx(), draft).unwrap()
    }
    fn raise(&self, severity: Priority, message: &str) -> Json {
        escalation::raise(&self.db, &self.ctx(), trouble(severity, message)).unwrap()
    }
    fn escalations(&self, acknowledged: Option<bool>) -> Vec<String> {
        let list = escalation::list(&self.db, acknowledged).unwrap();
        list.as_array().unwrap().iter().map(|e| e["message"].as_str().unwrap().to_owned()).collect()
    }
    fn prime(&self, agent: &AgentId) -> Json {
        prime::prime(&self.db, &self.ctx(), agent, false).unwrap()
    }
}

const fn trouble(severity: Priority, message: &str) -> Raise<'_> {
    Raise {
        rig_id: None,
        agent: None,
        severity,
        category: None,
        message,
        body: None,
        metadata: None,
        by_notification: false,
    }
}

fn field(result: Result<impl std::fmt::Debug, TownError>) -> String {
    match result {
        Err(e) => match e.into_cause() {
            Cause::Invalid { field, .. } => field,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn ann() -> Actor {
    Actor::User { sub: "ann".to_owned() }
}

// ── mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn mail_is_handed_over_once_oldest_first_and_only_to_its_recipient() {
    let f = Fixture::new();
    f.send(&f.toast, "one");
    f.send(&f.mayor, "other");
    f.send(&f.toast, "two");
    assert!(mail::waits_for(&f.db, &f.toast).unwrap());
    assert_eq!(f.take(&f.toast), ["one", "two"]);
    assert!(!mail::waits_for(&f.db, &f.toast).unwrap());
    assert!(f.take(&f.toast).is_empty());
    f.send(&f.toast, "three");
    assert_eq!(f.take(&f.toast), ["three"]);
    assert_eq!(f.take(&f.mayor), ["other"]);
}

#[test]
fn the_answer_is_the_snapshot_before_delivery_and_the_list_tells_the_truth() {
    let f = Fixture::new();
    let id = f.send(&f.toast, "one");
    let sent = f.now.get();
    f.pass(HOUR);
    let taken = mail::take(&f.db, &f.ctx(), &f.toast).unwrap();
    let shape = |delivered: bool, at: Option<Timestamp>| {
        json!({"id": id, "from_agent_id": "maple", "to_agent_id": f.toast, "subject": "one", "body": "body",
               "delivered": delivered, "created_at": sent, "delivered_at": at})
    };
    assert_eq!(json!(taken), json!([shape(false, None)]));
    assert_eq!(f.mail(), [shape(true, Some(f.now.get()))]);
}

#[test]
fn reading_hands_over_a_hundred_mails_at_most_and_the_rest_the_next_time() {
    let f = Fixture::new();
    for n in 0..103 {
        f.send(&f.toast, &n.to_string());
    }
    assert_eq!(f.take(&f.toast).len(), 100);
    assert_eq!(f.take(&f.toast), ["100", "101", "102"]);
}

#[test]
fn mail_over_its_cap_is_refused_with_the_field_and_nothing_is_written() {
    let f = Fixture::new();
    let send = |subject: &str, body: &str| mail::send(&f.db, &f.ctx(), "maple", &f.toast, subject, body);
    send(&"x".repeat(500), &"x".repeat(16 * 1024)).unwrap();
    let before = f.db.dump();
    assert_eq!(field(send(&"x".repeat(501), "body")), "subject");
    assert_eq!(field(send("subject", &"x".repeat(16 * 1024 + 1))), "body");
    assert_eq!(f.db.dump(), before);
}

#[test]
fn mail_to_a_working_agent_is_noted_on_its_bead() {
    let f = Fixture::new();
    let bead = f.bead("a", Some("rig-1"));
    f.send(&f.toast, "before");
    agent::hook(&f.db, &f.ctx(), &f.toast, &bead.id).unwrap();
    f.send(&f.toast, "now");
    let events = f.db.peek("SELECT bead_id, metadata FROM bead_events WHERE event_type = 'mail_sent'", &[]);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].text(0).unwrap(), bead.id.0);
    let metadata: Json = serde_json::from_str(&events[0].text(1).unwrap()).unwrap();
    assert_eq!(metadata, json!({"subject": "now", "to": f.toast, "from": "maple"}));
}

#[test]
fn anyone_may_address_the_mayor_by_its_title() {
    let f = Fixture::new();
    assert_eq!(mail::address(&f.db, "mayor").unwrap(), f.mayor);
    assert_eq!(mail::address(&f.db, "someone").unwrap(), AgentId::from("someone"));
}

#[test]
fn mail_is_listed_newest_first_in_pages_of_one_recipient_or_of_the_town() {
    let f = Fixture::new();
    for n in 0..3 {
        f.send(&f.toast, &format!("toast {n}"));
        f.send(&f.mayor, &format!("mayor {n}"));
    }
    let page = |to: Option<&AgentId>, before: Option<String>, limit: u32| {
        let list = mail::list(&f.db, to, &Page { before, limit: Some(limit) }).unwrap();
        let mail = list["mail"].as_array().unwrap().clone();
        let subjects: Vec<String> = mail.iter().map(|m| m["subject"].as_str().unwrap().to_owned()).collect();
        (subjects, list["next"].as_str().map(str::to_owned))
    };
    let (first, next) = page(Some(&f.toast), None, 2);
    assert_eq!(first, ["toast 2", "toast 1"]);
    assert_eq!(page(Some(&f.toast), next, 2), (vec!["toast 0".to_owned()], None));
    let (all, next) = page(None, None, 6);
    assert_eq!((all.len(), next), (6, None));
    assert_eq!(all[0], "mayor 2");
    assert_eq!(field(mail::list(&f.db, None, &Page { before: Some("no".to_owned()), limit: None })), "before");
    assert_eq!(f.take(&f.toast).len(), 3, "listing delivers nothing");
}

#[test]
fn mail_is_kept_ninety_days_and_goes_a_hundred_rows_at_a_time() {
    let f = Fixture::new();
    for n in 0..150 {
        f.send(&f.toast, &n.to_string());
    }
    f.pass(91 * DAY);
    f.send(&f.toast, "new");
    let left = || f.db.peek("SELECT count(*) FROM mail", &[])[0].int(0).unwrap();
    mail::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(left(), 51);
    mail::prune(&f.db, f.now.get()).unwrap();
    mail::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(left(), 1);
}

// ── escalations ──────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_escalation_answers_what_readers_of_escalations_and_of_beads_expect() {
    let f = Fixture::new();
    let rig = RigId::from("rig-1");
    let message = "ä".repeat(150);
    let raise = Raise {
        rig_id: Some(&rig),
        agent: Some(&f.toast),
        severity: Priority::Critical,
        category: Some("stuck"),
        message: &message,
        body: Some("what I tried"),
        metadata: Some(json!({"tried": 3})),
        by_notification: false,
    };
    let answer = escalation::raise(&f.db, &f.ctx(), raise).unwrap();
    let id = answer["id"].as_str().unwrap().to_owned();
    let title = format!("Escalation: {}", "ä".repeat(100));
    assert_eq!(
        answer,
        json!({
            "id": id, "source_rig_id": "rig-1", "source_agent_id": f.toast, "severity": "critical",
            "category": "stuck", "message": message, "acknowledged": 0, "re_escalation_count": 0,
            "created_at": f.now.get(), "acknowledged_at": null,
            "bead_id": id, "type": "escalation", "title": title, "status": "open", "priority": "critical",
        })
    );
    let bead = bead::get(&f.db, &BeadId(id)).unwrap();
    assert_eq!(bead.kind, Kind::Escalation);
    assert_eq!(bead.labels, ["gt:escalation", "severity:critical"]);
    assert_eq!(bead.body.as_deref(), Some("what I tried"));
    assert_eq!(bead.metadata, json!({"tried": 3}));
    assert_eq!(bead.rig_id, Some(rig));
    assert_eq!(bead.created_by, Some(f.toast.0.clone()));
    let mail = f.mail().remove(0);
    assert_eq!(mail["from_agent_id"], json!(f.toast));
    assert_eq!(mail["to_agent_id"], json!(f.mayor));
    assert_eq!(mail["subject"], format!("Escalation (critical): {}", "ä".repeat(100)));
    assert_eq!(mail["body"], format!("{message}\n\nwhat I tried"));
}

#[test]
fn the_mayor_is_told_from_medium_up_and_only_what_cannot_wait_keeps_its_urgency() {
    let f = Fixture::new();
    for (severity, priority, mails) in [
        (Priority::Low, "medium", 0),
        (Priority::Medium, "medium", 1),
        (Priority::High, "high", 2),
        (Priority::Critical, "critical", 3),
    ] {
        let raised = f.raise(severity, severity.as_str());
        assert_eq!(raised["severity"], severity.as_str());
        assert_eq!(raised["priority"], priority);
        assert_eq!(f.mail().len(), mails);
        let bead = bead::get(&f.db, &BeadId::from(raised["id"].as_str().unwrap())).unwrap();
        assert_eq!(bead.body.as_deref(), Some(severity.as_str()), "without a body the message is the body");
    }
}

#[test]
fn neither_a_notification_nor_the_mayor_itself_makes_the_mayor_read_it_again() {
    let f = Fixture::new();
    let raise = Raise { by_notification: true, ..trouble(Priority::High, "told already") };
    escalation::raise(&f.db, &f.ctx(), raise).unwrap();
    let raise = Raise { agent: Some(&f.mayor), ..trouble(Priority::High, "for people") };
    escalation::raise(&f.db, &f.ctx(), raise).unwrap();
    assert!(f.mail().is_empty());
    assert_eq!(f.escalations(None).len(), 2);
}

#[test]
fn the_mayors_pseudo_rig_is_told_but_is_no_rig_of_the_bead() {
    let f = Fixture::new();
    let rig = RigId::from("mayor-town-1");
    let raise = Raise { rig_id: Some(&rig), ..trouble(Priority::Low, "m") };
    let raised = escalation::raise(&f.db, &f.ctx(), raise).unwrap();
    assert_eq!(raised["source_rig_id"], "mayor-town-1");
    assert_eq!(bead::get(&f.db, &BeadId::from(raised["id"].as_str().unwrap())).unwrap().rig_id, None);
    assert_eq!(f.raise(Priority::Low, "m")["source_rig_id"], "");
}

#[test]
fn an_escalation_over_a_cap_is_refused_with_the_field() {
    let f = Fixture::new();
    let raise = |r: Raise<'_>| field(escalation::raise(&f.db, &f.ctx(), r));
    let before = f.db.dump();
    assert_eq!(raise(trouble(Priority::Low, &"x".repeat(16 * 1024 + 1))), "title");
    let body = "x".repeat(64 * 1024 + 1);
    assert_eq!(raise(Raise { body: Some(&body), ..trouble(Priority::Low, "m") }), "body");
    assert_eq!(raise(Raise { metadata: Some(json!({"x": body})), ..trouble(Priority::Low, "m") }), "metadata");
    assert_eq!(raise(Raise { metadata: Some(json!([])), ..trouble(Priority::Low, "m") }), "metadata");
    assert_eq!(f.db.dump(), before);
    // The longest that is accepted is told to the mayor as far as a mail holds it.
    let (message, body) = ("ä".repeat(8 * 1024), "x".repeat(64 * 1024));
    let raise = Raise { body: Some(&body), ..trouble(Priority::High, &message) };
    escalation::raise(&f.db, &f.ctx(), raise).unwrap();
    assert_eq!(f.mail().len(), 1);
}

#[test]
fn acknowledging_closes_the_bead_once_and_repeating_it_answers_the_same() {
    let f = Fixture::new();
    let id = BeadId::from(f.raise(Priority::High, "m")["id"].as_str().unwrap());
    f.pass(HOUR);
    let acknowledge = |actor: &Actor| escalation::acknowledge(&f.db, &f.ctx(), actor, &id).unwrap();
    let first = acknowledge(&ann());
    assert_eq!(first["acknowledged"], 1);
    assert_eq!(first["acknowledged_at"], json!(f.now.get()));
    assert_eq!(first["status"], "closed");
    let before = f.db.dump();
    f.pass(HOUR);
    assert_eq!(acknowledge(&Actor::System), first);
    assert_eq!(f.db.dump(), before);
}

#[test]
fn an_escalation_whose_bead_was_closed_by_hand_can_still_be_acknowledged() {
    let f = Fixture::new();
    let id = BeadId::from(f.raise(Priority::High, "m")["id"].as_str().unwrap());
    let mut bead = bead::get(&f.db, &id).unwrap();
    bead::transition(&f.db, &f.ctx(), &mut bead, bead::Status::Closed, bead::Because::of("user:ann", "done")).unwrap();
    assert_eq!(escalation::acknowledge(&f.db, &f.ctx(), &ann(), &id).unwrap()["acknowledged"], 1);
}

#[test]
fn what_is_no_escalation_cannot_be_acknowledged() {
    let f = Fixture::new();
    let issue = f.bead("a", Some("rig-1")).id;
    for id in [BeadId::from("nobody"), issue] {
        let refused = escalation::acknowledge(&f.db, &f.ctx(), &ann(), &id);
        assert_eq!(refused, Err(TownError::not_found("Escalation not found")));
    }
}

#[test]
fn escalations_are_listed_newest_first_a_hundred_at_most_and_by_their_state() {
    let f = Fixture::new();
    for n in 0..120 {
        let raised = f.raise(Priority::Low, &n.to_string());
        if n % 2 == 0 {
            let id = BeadId::from(raised["id"].as_str().unwrap());
            escalation::acknowledge(&f.db, &f.ctx(), &ann(), &id).unwrap();
        }
    }
    let all = f.escalations(None);
    assert_eq!((all.len(), all[0].as_str(), all[99].as_str()), (100, "119", "20"));
    let open = f.escalations(Some(false));
    assert_eq!((open.len(), open[0].as_str()), (60, "119"));
    let seen = f.escalations(Some(true));
    assert_eq!((seen.len(), seen[0].as_str()), (60, "118"));
}

// ── prime ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn prime_brings_agent_bead_mail_and_open_beads_and_every_key() {
    let f = Fixture::new();
    let hook = f.bead("mine", Some("rig-1"));
    let other = f.bead("another", Some("rig-1"));
    f.bead("elsewhere", Some("rig-2"));
    let town = f.bead("of the town", None);
    let mut done = f.bead("done", Some("rig-1"));
    bead::transition(&f.db, &f.ctx(), &mut done, bead::Status::Closed, bead::Because::of("system", "done")).unwrap();
    agent::hook(&f.db, &f.ctx(), &f.toast, &hook.id).unwrap();
    f.send(&f.toast, "one");
    let primed = f.prime(&f.toast);
    let keys: Vec<&str> = primed.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted = [
        "agent",
        "hooked_bead",
        "undelivered_mail",
        "open_beads",
        "rework_context",
        "pr_fixup_context",
        "pr_conflict_context",
    ];
    wanted.sort_unstable();
    assert_eq!(keys, wanted);
    assert_eq!(primed["agent"]["current_hook_bead_id"], json!(hook.id));
    assert_eq!(primed["hooked_bead"]["title"], "mine");
    assert_eq!(primed["undelivered_mail"][0]["subject"], "one");
    let open: Vec<Json> = primed["open_beads"].as_array().unwrap().iter().map(|b| b["bead_id"].clone()).collect();
    assert_eq!(open, [json!(town.id), json!(other.id), json!(hook.id)]);
    assert_eq!(f.prime(&f.toast)["undelivered_mail"], json!([]), "reading delivered it");
    assert_eq!(f.mail()[0]["delivered"], true);
}

#[test]
fn prime_shows_the_twenty_newest_and_the_mayor_sees_those_of_the_town() {
    let f = Fixture::new();
    for n in 0..25 {
        f.bead(&format!("rig {n}"), Some("rig-1"));
        f.bead(&format!("town {n}"), None);
    }
    let titles = |agent: &AgentId| -> Vec<String> {
        let primed = f.prime(agent);
        primed["open_beads"].as_array().unwrap().iter().map(|b| b["title"].as_str().unwrap().to_owned()).collect()
    };
    let toast = titles(&f.toast);
    assert_eq!((toast.len(), toast[0].as_str(), toast[19].as_str()), (20, "town 24", "rig 15"));
    let mayor = titles(&f.mayor);
    assert_eq!((mayor.len(), mayor[19].as_str()), (20, "town 5"));
}

#[test]
fn a_rework_bead_is_primed_with_the_title_of_what_it_reworks() {
    let f = Fixture::new();
    let original = f.bead("the original", Some("rig-1"));
    let rework = bead::create(
        &f.db,
        &f.ctx(),
        Draft {
            kind: Kind::Issue,
            title: "Rework: the original".to_owned(),
            body: Some("add tests".to_owned()),
            rig_id: Some(RigId::from("rig-1")),
            parent: None,
            priority: Priority::High,
            labels: vec!["gt:rework".to_owned()],
            metadata: json!({"rework_for": original.id, "branch": "gt/toast/1", "target_branch": "main"}),
            created_by: None,
            depends_on: Vec::new(),
        },
    )
    .unwrap();
    agent::hook(&f.db, &f.ctx(), &f.toast, &rework.id).unwrap();
    assert_eq!(
        f.prime(&f.toast)["rework_context"],
        json!({"feedback": "add tests", "branch": "gt/toast/1", "target_branch": "main", "files": [],
               "original_bead_title": "the original", "mr_bead_id": null})
    );
}

#[test]
fn an_unknown_agent_cannot_be_primed() {
    let f = Fixture::new();
    let refused = prime::prime(&f.db, &f.ctx(), &AgentId::from("nobody"), false);
    assert_eq!(refused, Err(TownError::not_found("Agent not found")));
}

// ── the audit ────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_audit_says_who_changed_what_and_why_newest_first() {
    let f = Fixture::new();
    let record = |action: &str, before: Option<&Json>, after: Option<&Json>| {
        audit::record(&f.db, &f.ctx(), &ann(), action, "breaker:town", "a try", before, after).unwrap();
    };
    record("override", None, Some(&json!({"mode": "forced_open"})));
    f.pass(HOUR);
    record("override", Some(&json!({"mode": "forced_open"})), None);
    let list = audit::list(&f.db, &Page { before: None, limit: Some(1) }).unwrap();
    assert_eq!(
        list["entries"],
        json!([{"at": f.now.get(), "actor": "user:ann", "action": "override", "subject": "breaker:town",
                "reason": "a try", "before": {"mode": "forced_open"}, "after": null}])
    );
    let next = list["next"].as_str().map(str::to_owned);
    let list = audit::list(&f.db, &Page { before: next, limit: None }).unwrap();
    assert_eq!(list["entries"].as_array().unwrap().len(), 1);
    assert_eq!(list["entries"][0]["after"], json!({"mode": "forced_open"}));
    assert_eq!(list["next"], Json::Null);
}

#[test]
fn the_audit_is_kept_a_year_and_goes_a_hundred_rows_at_a_time() {
    let f = Fixture::new();
    for _ in 0..130 {
        audit::record(&f.db, &f.ctx(), &Actor::System, "redrive", "bead", "why", None, None).unwrap();
    }
    let left = || f.db.peek("SELECT count(*) FROM audit", &[])[0].int(0).unwrap();
    f.pass(365 * DAY);
    audit::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(left(), 130);
    f.pass(1);
    audit::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(left(), 30);
    audit::prune(&f.db, f.now.get()).unwrap();
    audit::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(left(), 0);
}

#[test]
fn no_statement_reads_all_of_a_table_that_grows() {
    let f = Fixture::new();
    let hook = f.bead("mine", Some("rig-1"));
    agent::hook(&f.db, &f.ctx(), &f.toast, &hook.id).unwrap();
    f.send(&f.toast, "one");
    f.prime(&f.toast);
    let id = BeadId::from(f.raise(Priority::High, "m")["id"].as_str().unwrap());
    escalation::acknowledge(&f.db, &f.ctx(), &ann(), &id).unwrap();
    for acknowledged in [None, Some(true), Some(false)] {
        f.escalations(acknowledged);
    }
    for to in [None, Some(&f.toast)] {
        let list = mail::list(&f.db, to, &Page { before: None, limit: Some(1) }).unwrap();
        let before = list["next"].as_str().map(str::to_owned);
        mail::list(&f.db, to, &Page { before, limit: None }).unwrap();
    }
    assert!(!mail::waits_for(&f.db, &f.toast).unwrap());
    audit::record(&f.db, &f.ctx(), &ann(), "a", "b", "c", None, None).unwrap();
    audit::list(&f.db, &Page::default()).unwrap();
    f.pass(400 * DAY);
    audit::prune(&f.db, f.now.get()).unwrap();
    mail::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(f.db.scans(&GROWING), []);
}
