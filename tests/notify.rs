//! Telling people: what is said once, how each channel gets on with it, and what it costs when nobody listens.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::Ctx;
use gastown::town::command::Page;
use gastown::town::config::Config;
use gastown::town::effect::{Answer, Effect, PostWebhook};
use gastown::town::error::Cause;
use gastown::town::id::{AgentId, BeadId};
use gastown::town::notify::{self, Notice, NoticeKind};
use gastown::town::sql::Sql;
use gastown::town::state::State;
use gastown::town::time::{DAY, HOUR, MINUTE, Millis, SECOND, Timestamp};
use gastown::town::{escalation, mail};
use gastown_host::ids::SeededIds;
use gastown_host::sqlite::Sqlite;
use serde_json::{Value as Json, json};
use std::cell::Cell;

const START: Timestamp = Timestamp(1_795_168_782_005);
const URL: &str = "https://hooks.example.com/services/T1/B2/very-secret-path";

/// A founded town with nothing in it, a clock, and settings with a signed webhook.
struct Fixture {
    db: Sqlite,
    ids: SeededIds,
    now: Cell<Timestamp>,
    config: Config,
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
        let mut config = Config::default();
        config.notify.webhook_url = Some(URL.to_owned());
        config.notify.webhook_secret = Some("Jefe".to_owned());
        Self { db, ids: SeededIds::new(1), now: Cell::new(START), config }
    }
    fn state(&self) -> State {
        State::load(&self.db).unwrap()
    }
    fn ctx(&self) -> Ctx<'_> {
        Ctx::new(self.now.get(), &self.ids)
    }
    fn pass(&self, ms: Millis) {
        self.now.set(self.now.get().plus(ms));
    }
    fn say(&self, kind: NoticeKind, key: &str) -> bool {
        self.try_say(kind, key, None)
    }
    fn try_say(&self, kind: NoticeKind, key: &str, bead: Option<&str>) -> bool {
        let notice = Notice {
            kind,
            dedupe_key: key.to_owned(),
            severity: "high",
            scope: Some("rig:rig-1".to_owned()),
            bead_id: bead.map(BeadId::from),
            text: format!("{key} happened.\nMore about it."),
            facts: json!({"key": key}),
        };
        notify::notify(&self.db, &self.ctx(), &self.config, notice).unwrap()
    }
    fn fail(&self, bead: &str) {
        notify::bead_failed(&self.db, &self.ctx(), &self.config, &bead.into(), &format!("{bead} failed"), json!({}))
            .unwrap();
    }
    fn flush(&self) {
        notify::flush_rollup(&self.db, &self.ctx(), &self.config, &self.state()).unwrap();
    }
    fn book(&self) -> Vec<PostWebhook> {
        let effects = notify::book_posts(&self.db, &self.ctx(), &self.config).unwrap();
        effects
            .into_iter()
            .map(|e| match e {
                Effect::PostWebhook(p) => p,
                other => panic!("{other:?}"),
            })
            .collect()
    }
    fn settle(&self, delivery: &str, answer: &Answer) {
        notify::settle_post(&self.db, &self.ctx(), &self.config, delivery, answer).unwrap();
    }
    fn deadline(&self) -> Option<Timestamp> {
        notify::next_deadline(&self.db, &self.config, &self.state(), self.now.get()).unwrap()
    }
    /// Delivers every post that is due, after which nothing else is.
    fn deliver_all_posts(&self) {
        for post in self.book() {
            self.settle(&post.delivery_id, &http(200));
        }
        assert_eq!(self.deadline(), None);
    }
    /// Notifications newest first.
    fn all(&self) -> Vec<Json> {
        let page = Page { before: None, limit: Some(500) };
        let list = notify::list(&self.db, &page).unwrap();
        list["notifications"].as_array().unwrap().clone()
    }
    /// The newest notification's delivery through `channel`.
    fn delivery(&self, channel: &str) -> Json {
        delivery(&self.all()[0], channel)
    }
    fn escalations(&self) -> Vec<Json> {
        escalation::list(&self.db, None).unwrap().as_array().unwrap().clone()
    }
    fn mail(&self) -> Vec<Json> {
        mail::list(&self.db, None, &Page::default()).unwrap()["mail"].as_array().unwrap().clone()
    }
}

fn delivery(notification: &Json, channel: &str) -> Json {
    let all = notification["deliveries"].as_array().unwrap();
    all.iter().find(|d| d["channel"] == channel).unwrap().clone()
}

fn http(status: u16) -> Answer {
    Answer::Http { status, body: "answer".to_owned(), retry_after: None }
}

fn time(json: &Json) -> Timestamp {
    Timestamp::parse(json.as_str().unwrap()).unwrap()
}

#[test]
fn a_notice_is_said_once_per_dedupe_key_and_repeating_it_writes_nothing() {
    let f = Fixture::new();
    assert!(f.say(NoticeKind::BreakerClosed, "breaker:town:1:closed"));
    let before = f.db.dump();
    f.pass(DAY);
    assert!(!f.say(NoticeKind::BreakerClosed, "breaker:town:1:closed"));
    assert_eq!(f.db.dump(), before);
    assert!(f.say(NoticeKind::BreakerClosed, "breaker:town:2:closed"));
    assert_eq!(f.all().len(), 2);
}

#[test]
fn a_notice_is_the_mayors_mail_at_once_waits_for_the_mayor_and_for_the_webhook() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerStillOpen, "k");
    let mut n = f.all().remove(0);
    let id = n["id"].as_str().unwrap().to_owned();
    let now = f.now.get().to_string();
    let deliveries = n.as_object_mut().unwrap().remove("deliveries").unwrap();
    assert_eq!(
        n,
        json!({
            "id": id, "dedupe_key": "k", "kind": "breaker.still_open", "severity": "high", "scope": "rig:rig-1",
            "bead_id": null, "text": "k happened.\nMore about it.", "facts": {"key": "k"}, "created_at": now,
        })
    );
    let entry = |channel: &str, state: &str, attempts: u32, next: Option<&str>, delivered: Option<&str>| {
        json!({"channel": channel, "state": state, "attempts": attempts, "next_attempt_at": next,
               "delivered_at": delivered, "last_error": null})
    };
    assert_eq!(
        deliveries,
        json!([
            entry("mail", "delivered", 1, None, Some(&now)),
            entry("mayor", "pending", 0, None, None),
            entry("webhook", "pending", 0, Some(&now), None),
        ])
    );
    let mail = f.mail();
    assert_eq!(mail.len(), 1);
    assert_eq!(mail[0]["from_agent_id"], "system");
    assert_eq!(mail[0]["to_agent_id"], "mayor-1");
    assert_eq!(mail[0]["subject"], "[breaker.still_open] k happened.");
    assert_eq!(mail[0]["body"], "k happened.\nMore about it.");
    assert_eq!(f.deadline(), Some(f.now.get()));
}

#[test]
fn without_a_webhook_its_delivery_is_skipped_and_nothing_becomes_due() {
    let mut f = Fixture::new();
    f.config.notify.webhook_url = None;
    f.say(NoticeKind::BreakerClosed, "k");
    assert_eq!(f.delivery("webhook")["state"], "skipped");
    assert_eq!(f.deadline(), None);
    assert!(f.book().is_empty());
}

#[test]
fn opened_and_configuration_also_raise_an_escalation_that_sends_no_mail_of_its_own() {
    let f = Fixture::new();
    for kind in [NoticeKind::BreakerStillOpen, NoticeKind::BreakerClosed, NoticeKind::BeadFailed, NoticeKind::Test] {
        f.say(kind, kind.as_str());
    }
    assert!(f.escalations().is_empty());
    f.say(NoticeKind::BreakerOpened, "opened");
    f.say(NoticeKind::ConfigError, "config");
    let raised = f.escalations();
    assert_eq!(raised.len(), 2);
    assert_eq!(raised[1]["severity"], "high");
    assert_eq!(raised[1]["category"], "breaker.opened");
    assert_eq!(raised[1]["source_rig_id"], "rig-1");
    assert_eq!(raised[1]["message"], "opened happened.\nMore about it.");
    assert_eq!(f.mail().len(), 6, "one mail for each notice");
    let rows = f.db.peek("SELECT by_notification, next_escalation_at FROM escalations", &[]);
    assert!(rows.iter().all(|r| r.flag(0).unwrap() && r.opt_int(1).unwrap().is_none()));
}

#[test]
fn a_post_carries_the_facts_and_a_signature_over_its_raw_body() {
    let mut f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let n = f.all().remove(0);
    let post = f.book().remove(0);
    assert_eq!(post.url, URL);
    assert_eq!(
        serde_json::from_str::<Json>(&post.body).unwrap(),
        json!({
            "id": n["id"], "kind": "breaker.closed", "town_id": "town-1", "text": n["text"], "facts": n["facts"],
            "created_at": n["created_at"],
        })
    );
    assert!(post.signature.unwrap().strip_prefix("sha256=").is_some_and(|s| s.len() == 64));
    f.config.notify.webhook_secret = None;
    f.say(NoticeKind::BreakerClosed, "unsigned");
    assert_eq!(f.book().remove(0).signature, None);
}

#[test]
fn a_booked_post_is_not_booked_again_before_its_lease_ends() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let first = f.book();
    assert_eq!(first.len(), 1);
    assert!(f.book().is_empty());
    let lease = f.deadline().unwrap();
    assert_eq!(lease.since(f.now.get()), 15 * SECOND);
    f.pass(15 * SECOND - 1);
    assert!(f.book().is_empty());
    f.pass(1);
    assert_eq!(f.book(), first);
    assert_eq!(f.delivery("webhook")["attempts"], 2);
}

#[test]
fn six_posts_are_in_the_air_at_most_and_the_others_wait_for_one_of_them() {
    let f = Fixture::new();
    for n in 0..8 {
        f.say(NoticeKind::BreakerClosed, &format!("k{n}"));
    }
    let air = f.book();
    assert_eq!(air.len(), 6);
    f.pass(SECOND);
    assert!(f.book().is_empty());
    assert_eq!(f.deadline(), Some(f.now.get().plus(14 * SECOND)), "not at once: nothing could be booked");
    f.settle(&air[0].delivery_id, &http(200));
    assert_eq!(f.deadline(), Some(START));
    assert_eq!(f.book().len(), 1);
}

#[test]
fn a_2xx_delivers_and_late_and_repeated_outcomes_change_nothing() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let post = f.book().remove(0);
    f.settle(&post.delivery_id, &http(204));
    let now = f.now.get().to_string();
    assert_eq!(
        f.delivery("webhook"),
        json!({"channel": "webhook", "state": "delivered", "attempts": 1, "next_attempt_at": null,
               "delivered_at": now, "last_error": null})
    );
    let before = f.db.dump();
    f.pass(MINUTE);
    for answer in [http(200), http(500), Answer::TimedOut { after: 10 * SECOND }] {
        f.settle(&post.delivery_id, &answer);
        f.settle("no-such-delivery", &answer);
    }
    assert_eq!(f.db.dump(), before);
    assert_eq!(f.deadline(), None);
}

#[test]
fn an_outcome_without_a_booking_changes_nothing() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let post = f.book().remove(0);
    f.settle(&post.delivery_id, &http(500));
    let before = f.db.dump();
    f.settle(&post.delivery_id, &http(200));
    f.settle(&post.delivery_id, &http(500));
    assert_eq!(f.db.dump(), before);
}

#[test]
fn a_webhook_that_refuses_is_tried_for_a_day_ever_more_slowly_and_then_given_up() {
    let f = Fixture::new();
    f.try_say(NoticeKind::BeadFailed, "k", Some("bead-1"));
    let mut tries = Vec::new();
    while let Some(at) = f.deadline() {
        f.now.set(f.now.get().max(at));
        tries.push(f.now.get().since(START));
        for post in f.book() {
            f.settle(&post.delivery_id, &http(503));
            let d = f.delivery("webhook");
            assert_eq!(d["attempts"], tries.len());
            assert_eq!(d["last_error"], "the webhook answered 503: answer");
        }
    }
    let seconds: Vec<Millis> = tries.iter().take(6).map(|t| t / SECOND).collect();
    assert_eq!(seconds, [0, 10, 30, 70, 150, 310]);
    assert!(tries.windows(2).all(|w| w[1] - w[0] <= HOUR));
    assert_eq!(tries.last(), Some(&DAY));
    assert!(tries.len() < 40, "{}", tries.len());
    assert_eq!(f.delivery("webhook")["state"], "failed");
    let events = f.db.peek("SELECT bead_id, metadata FROM bead_events WHERE event_type = 'notification_failed'", &[]);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].text(0).unwrap(), "bead-1");
    let metadata: Json = serde_json::from_str(&events[0].text(1).unwrap()).unwrap();
    assert_eq!(metadata["target"], "webhook");
    assert_eq!(metadata["reason"], "the webhook answered 503: answer");
}

#[test]
fn a_post_that_never_ends_is_given_up_after_a_day_too() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let mut posts = 0;
    while let Some(at) = f.deadline() {
        f.now.set(f.now.get().max(at));
        posts += f.book().len();
        assert!(posts < 6_000);
    }
    let d = f.delivery("webhook");
    assert_eq!((d["state"].as_str(), d["last_error"].as_str()), (Some("failed"), Some("no answer was recorded")));
    assert!(f.now.get().since(START) <= DAY + MINUTE);
}

#[test]
fn a_town_that_slept_for_a_day_still_makes_its_first_try() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    f.pass(3 * DAY);
    let post = f.book().remove(0);
    f.settle(&post.delivery_id, &http(200));
    assert_eq!(f.delivery("webhook")["state"], "delivered");
}

#[test]
fn what_is_kept_of_a_refusal_holds_neither_the_webhooks_address_nor_a_credential() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let post = f.book().remove(0);
    f.settle(&post.delivery_id, &Answer::Unreachable { detail: format!("cannot connect to {URL}: refused") });
    let error = f.delivery("webhook")["last_error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("the webhook could not be reached") && !error.contains("secret-path"), "{error}");
    f.pass(MINUTE);
    let post = f.book().remove(0);
    let body = format!("Authorization: Bearer ghp_{} {}", "x".repeat(36), "ä".repeat(4_000));
    f.settle(&post.delivery_id, &Answer::Http { status: 401, body, retry_after: None });
    let error = f.delivery("webhook")["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("401") && !error.contains("xxxx") && error.len() <= 500, "{error}");
}

#[test]
fn posts_whose_owner_died_are_due_at_once_when_the_object_comes_back() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let lost = f.book();
    f.pass(SECOND);
    notify::resume(&f.db, f.now.get()).unwrap();
    assert_eq!(f.deadline(), Some(f.now.get()));
    assert_eq!(f.book(), lost);
}

#[test]
fn resuming_disturbs_no_backoff() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let post = f.book().remove(0);
    f.settle(&post.delivery_id, &http(500));
    let before = f.db.dump();
    f.pass(SECOND);
    notify::resume(&f.db, f.now.get()).unwrap();
    assert_eq!(f.db.dump(), before);
}

#[test]
fn removing_the_webhook_skips_what_waits_for_it_and_lets_a_post_in_the_air_end() {
    let mut f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "in the air");
    let air = f.book().remove(0);
    f.say(NoticeKind::BreakerClosed, "waiting");
    f.config.notify.webhook_url = None;
    assert!(f.book().is_empty());
    let states = |f: &Fixture| -> Vec<String> {
        f.all().iter().map(|n| delivery(n, "webhook")["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&f), ["skipped", "pending"]);
    f.settle(&air.delivery_id, &http(500));
    assert_eq!(states(&f), ["skipped", "skipped"]);
    assert_eq!(f.deadline(), None);
}

#[test]
fn the_mayor_is_told_when_it_has_read_the_mail_and_only_of_what_it_has_read() {
    let f = Fixture::new();
    f.say(NoticeKind::BreakerClosed, "k");
    let mayor = AgentId::from("mayor-1");
    f.pass(HOUR);
    assert_eq!(mail::take(&f.db, &f.ctx(), &mayor).unwrap().len(), 1);
    let d = f.delivery("mayor");
    assert_eq!((d["state"].as_str(), d["attempts"].as_i64()), (Some("delivered"), Some(1)));
    assert_eq!(time(&d["delivered_at"]), f.now.get());
    f.say(NoticeKind::BreakerClosed, "later");
    assert_eq!(f.delivery("mayor")["state"], "pending");
    assert_eq!(delivery(&f.all()[1], "webhook")["state"], "pending");
}

#[test]
fn the_first_failed_bead_is_told_at_once_and_the_others_together_when_the_window_ends() {
    let f = Fixture::new();
    f.fail("one");
    assert_eq!(f.all().len(), 1);
    assert_eq!(f.all()[0]["text"], "one failed");
    assert_eq!(f.all()[0]["bead_id"], "one");
    f.deliver_all_posts();
    for n in 0..30 {
        f.pass(SECOND);
        f.fail(&format!("bead-{n}"));
        f.flush();
    }
    assert_eq!(f.all().len(), 1);
    assert_eq!(f.deadline(), Some(START.plus(10 * MINUTE)));
    f.now.set(START.plus(10 * MINUTE - 1));
    f.flush();
    assert_eq!(f.all().len(), 1);
    f.pass(1);
    f.flush();
    f.flush();
    let all = f.all();
    assert_eq!(all.len(), 2);
    let text = all[0]["text"].as_str().unwrap();
    assert!(text.starts_with("30 more beads failed within 10 min:\n• bead-0 failed\n"), "{text}");
    assert!(text.ends_with("\n… and 10 more"), "{text}");
    assert_eq!(all[0]["facts"]["count"], 30);
    assert_eq!(all[0]["facts"]["beads"][0], json!({"bead_id": "bead-0", "text": "bead-0 failed"}));
    assert_eq!(f.deadline(), Some(f.now.get()), "the posts only");
}

#[test]
fn in_any_hour_at_most_one_notice_of_failed_beads_goes_out_in_ten_minutes_and_none_is_lost() {
    let f = Fixture::new();
    let mut failed = 0;
    for second in 0..3_600 {
        f.pass(SECOND);
        if second % 7 == 0 {
            f.fail(&format!("bead-{second}"));
            failed += 1;
        }
        f.flush();
    }
    f.pass(10 * MINUTE);
    f.flush();
    let all = f.all();
    assert_eq!(all.len(), 7);
    for pair in all.windows(2) {
        assert!(time(&pair[0]["created_at"]).since(time(&pair[1]["created_at"])) >= 10 * MINUTE);
    }
    let told: u64 = all.iter().map(|n| n["facts"]["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(told, failed);
}

#[test]
fn a_single_failure_within_a_window_is_told_in_its_own_words() {
    let f = Fixture::new();
    f.fail("one");
    f.pass(MINUTE);
    f.fail("two");
    f.pass(9 * MINUTE);
    f.flush();
    assert_eq!(f.all()[0]["text"], "two failed");
    assert_eq!(f.all()[0]["bead_id"], "two");
    f.pass(10 * MINUTE);
    f.fail("three");
    assert_eq!(f.all()[0]["text"], "three failed", "the window is over: told at once");
}

#[test]
fn a_bead_that_fails_again_after_a_redrive_is_news() {
    let f = Fixture::new();
    f.fail("one");
    f.pass(HOUR);
    f.fail("one");
    assert_eq!(f.all().len(), 2);
}

#[test]
fn notifications_are_listed_newest_first_in_pages() {
    let f = Fixture::new();
    for n in 0..5 {
        f.say(NoticeKind::BreakerClosed, &format!("k{n}"));
    }
    let mut seen = Vec::new();
    let mut page = Page { before: None, limit: Some(2) };
    loop {
        let list = notify::list(&f.db, &page).unwrap();
        let part = list["notifications"].as_array().unwrap();
        assert!(part.iter().all(|n| n["deliveries"].as_array().unwrap().len() == 3));
        seen.extend(part.iter().map(|n| n["dedupe_key"].as_str().unwrap().to_owned()));
        let Some(next) = list["next"].as_str() else { break };
        page.before = Some(next.to_owned());
    }
    assert_eq!(seen, ["k4", "k3", "k2", "k1", "k0"]);
}

#[test]
fn a_page_without_sense_is_refused_with_its_field() {
    let f = Fixture::new();
    for (before, limit, wrong) in
        [(None, Some(0), "limit"), (None, Some(501), "limit"), (Some("nobody".to_owned()), None, "before")]
    {
        match notify::list(&f.db, &Page { before, limit }) {
            Err(e) => assert!(matches!(e.cause(), Cause::Invalid { field, .. } if field == wrong), "{e:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_test_is_a_new_notification_of_its_own() {
    let f = Fixture::new();
    let one = notify::test(&f.db, &f.ctx(), &f.config).unwrap();
    let two = notify::test(&f.db, &f.ctx(), &f.config).unwrap();
    assert_eq!(one["notifications"][0]["kind"], "test");
    assert_eq!(one["notifications"][0]["deliveries"].as_array().unwrap().len(), 3);
    assert_eq!(one["next"], Json::Null);
    assert_ne!(one["notifications"][0]["id"], two["notifications"][0]["id"]);
    assert_eq!((f.all().len(), f.book().len(), f.escalations().len()), (2, 2, 0));
}

#[test]
fn notifications_past_ninety_days_go_with_their_deliveries_a_few_at_a_time() {
    let f = Fixture::new();
    for n in 0..30 {
        f.say(NoticeKind::BreakerClosed, &format!("old{n}"));
    }
    f.pass(91 * DAY);
    f.say(NoticeKind::BreakerClosed, "new");
    let count = |table: &str| f.db.peek(&format!("SELECT count(*) FROM {table}"), &[])[0].int(0).unwrap();
    notify::prune(&f.db, f.now.get()).unwrap();
    assert_eq!((count("notifications"), count("deliveries")), (6, 18));
    notify::prune(&f.db, f.now.get()).unwrap();
    let before = f.db.dump();
    assert_eq!((count("notifications"), count("deliveries")), (1, 3));
    notify::prune(&f.db, f.now.get()).unwrap();
    assert_eq!(f.db.dump(), before);
}

#[test]
fn no_statement_reads_all_of_a_table_that_grows() {
    let mut f = Fixture::new();
    f.say(NoticeKind::BreakerOpened, "k");
    f.fail("one");
    f.fail("two");
    f.pass(HOUR);
    f.flush();
    let posts = f.book();
    f.settle(&posts[0].delivery_id, &http(200));
    f.settle(&posts[1].delivery_id, &http(500));
    let _ = (f.deadline(), f.all());
    mail::take(&f.db, &f.ctx(), &AgentId::from("mayor-1")).unwrap();
    notify::resume(&f.db, f.now.get()).unwrap();
    f.config.notify.webhook_url = None;
    f.book();
    f.pass(100 * DAY);
    notify::prune(&f.db, f.now.get()).unwrap();
    let growing =
        ["notifications", "deliveries", "mail", "escalations", "beads", "bead_events", "agents", "attempts", "audit"];
    assert_eq!(f.db.scans(&growing), []);
}
