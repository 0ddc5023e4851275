//! Nudges: urgent ones first, each delivered once, none after its time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::Ctx;
use gastown::town::error::Cause;
use gastown::town::id::AgentId;
use gastown::town::migrate::migrate;
use gastown::town::nudge::{self, Mode, Source, Urgency};
use gastown::town::policy::{MESSAGE_BYTES, NUDGE_TTL};
use gastown::town::time::Timestamp;
use gastown_host::ids::SeededIds;
use gastown_host::sqlite::Sqlite;

const NOW: Timestamp = Timestamp(1_795_168_800_000);

struct Fixture {
    db: Sqlite,
    ids: SeededIds,
    toast: AgentId,
}

impl Fixture {
    fn new() -> Self {
        let db = Sqlite::memory();
        migrate(&db, NOW).unwrap();
        Self { db, ids: SeededIds::new(1), toast: AgentId::from("toast") }
    }
    fn nudge(&self, message: &str, urgency: Urgency) -> String {
        let ctx = Ctx::new(NOW, &self.ids);
        nudge::create(&self.db, &ctx, &self.toast, message, Mode::WaitIdle, urgency, Source::Agent).unwrap()
    }
    fn pending(&self, at: Timestamp) -> Vec<String> {
        nudge::pending(&self.db, at, &self.toast).unwrap().into_iter().map(|n| n.message).collect()
    }
    fn delivered(&self, agent: &str, id: &str) -> bool {
        nudge::delivered(&self.db, &Ctx::new(NOW, &self.ids), &AgentId::from(agent), id).unwrap()
    }
}

#[test]
fn urgent_nudges_come_first_and_then_the_oldest() {
    let f = Fixture::new();
    for (message, urgency) in
        [("one", Urgency::Normal), ("two", Urgency::Urgent), ("three", Urgency::Normal), ("four", Urgency::Urgent)]
    {
        f.nudge(message, urgency);
    }
    assert_eq!(f.pending(NOW), ["two", "four", "one", "three"]);
    assert_eq!(f.pending(NOW), ["two", "four", "one", "three"], "reading delivers nothing");
}

#[test]
fn a_nudge_on_the_wire_has_the_five_texts_that_the_container_asks_for_and_no_more() {
    let f = Fixture::new();
    let id = f.nudge("one", Urgency::Urgent);
    let pending = serde_json::to_value(nudge::pending(&f.db, NOW, &f.toast).unwrap()).unwrap();
    let wanted = serde_json::json!([
        {"nudge_id": id, "message": "one", "mode": "wait-idle", "priority": "urgent", "source": "agent"}
    ]);
    assert_eq!(pending, wanted);
}

#[test]
fn a_nudge_is_delivered_once_and_only_by_the_agent_it_is_for() {
    let f = Fixture::new();
    let id = f.nudge("one", Urgency::Normal);
    assert!(!f.delivered("maple", &id) && !f.delivered("toast", "no such nudge"));
    assert_eq!(f.pending(NOW), ["one"]);
    assert!(f.delivered("toast", &id));
    assert!(f.pending(NOW).is_empty());
    assert!(!f.delivered("toast", &id), "the second time it is no news");
}

#[test]
fn a_nudge_that_nobody_took_in_time_is_not_delivered_any_more() {
    let f = Fixture::new();
    f.nudge("one", Urgency::Normal);
    assert_eq!(f.pending(NOW.plus(NUDGE_TTL - 1)), ["one"]);
    assert!(f.pending(NOW.plus(NUDGE_TTL)).is_empty());
}

#[test]
fn nudges_past_their_time_are_dropped_and_younger_ones_stay() {
    let f = Fixture::new();
    f.nudge("one", Urgency::Normal);
    let rows = |at: Timestamp| {
        nudge::prune(&f.db, at).unwrap();
        f.db.peek("SELECT count(*) FROM nudges", &[])[0].int(0).unwrap()
    };
    assert_eq!((rows(NOW.plus(NUDGE_TTL)), rows(NOW.plus(NUDGE_TTL + 1))), (1, 0));
}

#[test]
fn a_nudge_that_says_nothing_or_too_much_is_refused_by_its_field() {
    let f = Fixture::new();
    let ctx = Ctx::new(NOW, &f.ids);
    for message in [" \n", &"ä".repeat(MESSAGE_BYTES)] {
        let refused =
            nudge::create(&f.db, &ctx, &f.toast, message, Mode::Queue, Urgency::Normal, Source::System).unwrap_err();
        assert!(matches!(refused.cause(), Cause::Invalid { field, .. } if field == "message"), "{refused}");
    }
    assert!(f.pending(NOW).is_empty());
}
