//! The store of an agent against a list in memory: what is appended is listed and replayed as it came, the newest ten
//! thousand of it; and a snapshot is the last one that arrived whole.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::error::TownError;
use gastown::town::policy::{
    SNAPSHOT_BYTES, SNAPSHOT_PART_BYTES, TRANSCRIPT_ANSWER_BYTES, TRANSCRIPT_BATCH, TRANSCRIPT_EVENT_BYTES,
    TRANSCRIPT_KEPT, TRANSCRIPT_REPLAYED, TRANSCRIPT_STEP,
};
use gastown::town::sql::{Sql, atomically};
use gastown::town::time::Timestamp;
use gastown::transcript::read::{Event, read};
use gastown::transcript::snapshot::{self, Upload};
use gastown::transcript::{events, exists, migrate};
use gastown_host::ids::SplitMix64;
use gastown_host::sqlite::Sqlite;
use serde_json::{Value as Json, json};

const NOW: Timestamp = Timestamp(1_795_168_800_000);
const AGENT: &str = "the \"agent\"";

fn store() -> Sqlite {
    let db = Sqlite::memory();
    assert!(!exists(&db).unwrap(), "asking makes none");
    migrate(&db, NOW).unwrap();
    assert!(exists(&db).unwrap());
    db
}

/// The store, and what must be in it.
struct Pair {
    db: Sqlite,
    /// (type, data), from id 1 on.
    all: Vec<(String, Json)>,
    requests: u32,
}

impl Pair {
    fn new() -> Self {
        Self { db: store(), all: Vec::new(), requests: 0 }
    }

    fn append(&mut self, batch: &[(String, Json)]) {
        self.requests += 1;
        let request = format!("request-{}", self.requests);
        let texts: Vec<String> = batch.iter().map(|(_, data)| data.to_string()).collect();
        let events: Vec<_> =
            batch.iter().zip(&texts).map(|((kind, _), data)| Event { kind: kind.clone(), data }).collect();
        let carried = |times: &str| {
            let done = atomically(&self.db, || events::append(&self.db, NOW, &request, &events)).unwrap();
            let frames = done.map(|first| events::frames(AGENT, NOW, first, &events));
            (done, frames, times.to_owned())
        };
        let first = i64::try_from(self.all.len()).unwrap() + 1;
        let (done, frames, _) = carried("once");
        assert_eq!(done, Some(first));
        assert_eq!(carried("again").0, None, "the runtime repeats a request whose answer it has lost");
        self.all.extend_from_slice(batch);
        assert!(frames.unwrap().ends_with(&self.replayed(first - 1)), "what is heard is what is replayed");
    }

    fn replayed(&self, after: i64) -> Vec<String> {
        events::replay(&self.db, AGENT, after).unwrap()
    }

    fn listed(&self, after: i64, limit: usize) -> Vec<Json> {
        serde_json::from_str(&events::list(&self.db, AGENT, after, limit).unwrap()).unwrap()
    }

    /// The oracle: what a list must be, if size is no matter.
    fn expected(&self, after: i64, limit: usize) -> Vec<Json> {
        let newest = i64::try_from(self.all.len()).unwrap();
        let from = after.max(newest - TRANSCRIPT_KEPT).clamp(0, newest);
        let shown = self.all.iter().enumerate().skip(usize::try_from(from).unwrap()).take(limit);
        shown
            .map(|(n, (kind, data))| {
                json!({"id": n + 1, "agent_id": AGENT, "event_type": kind, "data": data, "created_at": NOW})
            })
            .collect()
    }
}

fn numbered(from: usize, n: usize) -> Vec<(String, Json)> {
    (from..from + n).map(|i| (format!("type \"{}\"", i % 3), json!({"n": i, "text": "ü\n\""}))).collect()
}

#[test]
fn what_is_appended_is_listed_as_it_came_from_anywhere_and_the_newest_ten_thousand_of_it() {
    let mut pair = Pair::new();
    let chance = SplitMix64::new(1);
    let below = |n: usize| usize::try_from(chance.next_u64() % u64::try_from(n).unwrap()).unwrap();
    assert!(pair.listed(0, 10).is_empty() && pair.replayed(0).is_empty());
    let kept = usize::try_from(TRANSCRIPT_KEPT).unwrap();
    while pair.all.len() < kept + 3_000 {
        let n = if below(3) == 0 { 1 + below(TRANSCRIPT_BATCH) } else { 1 + below(5) };
        pair.append(&numbered(pair.all.len(), n));
        let newest = pair.all.len();
        for (after, limit) in [(0, 500), (below(newest + 2), 1 + below(1_000)), (newest, 1), (newest - 1, 7)] {
            let after = i64::try_from(after).unwrap();
            assert_eq!(pair.listed(after, limit), pair.expected(after, limit), "after {after}, {limit} of {newest}");
        }
        let stored = pair.db.peek("SELECT count(*), min(id) FROM events", &[]);
        let (stored, oldest) = (stored[0].int(0).unwrap(), stored[0].int(1).unwrap());
        let shown = pair.expected(0, 1)[0]["id"].as_i64().unwrap();
        assert!(oldest <= shown && stored < TRANSCRIPT_KEPT + TRANSCRIPT_STEP, "{stored} stored of {newest}");
    }
    assert_eq!(pair.listed(0, 1)[0]["id"], pair.all.len() + 1 - kept);
}

#[test]
fn paging_by_the_last_id_sees_every_event_once_however_large_they_are() {
    let mut pair = Pair::new();
    let heavy = "x".repeat(TRANSCRIPT_EVENT_BYTES - 100);
    for n in 0..40 {
        pair.append(&[("heavy".to_owned(), json!({"n": n, "text": heavy}))]);
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let text = events::list(&pair.db, AGENT, after, 1_000).unwrap();
        assert!(text.len() < TRANSCRIPT_ANSWER_BYTES + 20 * TRANSCRIPT_EVENT_BYTES);
        let page: Vec<Json> = serde_json::from_str(&text).unwrap();
        let Some(last) = page.last() else { break };
        after = last["id"].as_i64().unwrap();
        seen.extend(page);
    }
    assert_eq!(seen, pair.expected(0, 1_000));
}

#[test]
fn who_has_seen_more_than_there_is_gets_nothing() {
    let pair = Pair::new();
    assert!(pair.listed(i64::MAX, 10).is_empty() && pair.replayed(i64::MAX).is_empty());
}

#[test]
fn a_replay_ends_with_the_newest_event_and_lacks_none_before_it() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        let from = pair.all.len();
        pair.append(&numbered(from, 300));
    }
    for after in [0, 100, 650, 899, 900, 5_000] {
        let frames: Vec<Json> = pair.replayed(after).iter().map(|f| serde_json::from_str(f).unwrap()).collect();
        let from = after.clamp(900 - TRANSCRIPT_REPLAYED, 900);
        let expected: Vec<Json> = pair
            .expected(from, 1_000)
            .into_iter()
            .map(|e| {
                json!({"agentId": AGENT, "event": e["event_type"], "data": e["data"], "timestamp": e["created_at"],
                       "id": e["id"]})
            })
            .collect();
        assert_eq!(frames, expected, "after {after}");
    }
    // Large ones: fewer of them, and still the newest without a gap.
    let heavy = "x".repeat(TRANSCRIPT_EVENT_BYTES - 100);
    for _ in 0..40 {
        pair.append(&[("heavy".to_owned(), json!({"text": heavy}))]);
    }
    let ids: Vec<i64> =
        pair.replayed(0).iter().map(|f| serde_json::from_str::<Json>(f).unwrap()["id"].as_i64().unwrap()).collect();
    assert!(ids.len() < 40 && *ids.last().unwrap() == 940, "{ids:?}");
    assert!(ids.windows(2).all(|w| w[1] == w[0] + 1));
}

#[test]
fn an_event_of_three_megabytes_is_stored_cut_and_marked_and_never_lost() {
    let db = store();
    let body = json!({"agent_id": "a", "event_type": "huge", "data": {"text": "ü".repeat(3 * 512 * 1024)}}).to_string();
    let batch = read(&body).unwrap();
    assert_eq!(events::append(&db, NOW, "r", &batch.events).unwrap(), Some(1));
    let listed: Json = serde_json::from_str(&events::list(&db, "a", 0, 1).unwrap()).unwrap();
    assert_eq!((listed[0]["event_type"].clone(), listed[0]["data"]["truncated"].clone()), (json!("huge"), json!(true)));
    assert_eq!(listed[0]["data"]["original_bytes"], batch.events[0].data.len());
}

#[test]
fn appending_uses_keys_alone_and_no_statement_scans_the_events() {
    let mut pair = Pair::new();
    for _ in 0..12 {
        let from = pair.all.len();
        pair.append(&numbered(from, 1_000));
    }
    pair.listed(3, 20);
    let scans = pair.db.scans(&["events", "snapshot_parts"]);
    // The newest by their key: a walk that ends with its limit.
    assert!(scans.iter().all(|(sql, _)| sql.contains("LIMIT")), "{scans:?}");
}

#[test]
fn a_body_is_one_event_or_a_batch_of_one_agent() {
    let one = read(r#" {"agent_id":"a","event_type":"t","data":{"x":[1,"}"]}} "#).unwrap();
    assert_eq!((one.agent.as_str(), one.events.len()), ("a", 1));
    assert_eq!((one.events[0].kind.as_str(), one.events[0].data), ("t", r#"{"x":[1,"}"]}"#));
    // `data` may be missing; keys may be escaped, and of two the last counts.
    let bare = read(r#"{"agent_id":"x","event_type":"t","data":null,"\u0061gent_id":"a\n"}"#).unwrap();
    assert_eq!((bare.agent.as_str(), bare.events[0].data), ("a\n", "{}"));
    let batch =
        read(r#"{"events":[{"event_type":"1","agent_id":"a"},{"event_type":"2","data":7}],"agent_id":"a"}"#).unwrap();
    assert_eq!(batch.events.iter().map(|e| (e.kind.as_str(), e.data)).collect::<Vec<_>>(), [("1", "{}"), ("2", "7")]);
    let named = read(r#"{"events":[{"event_type":"1","agent_id":"b"}]}"#).unwrap();
    assert_eq!(named.agent, "b");
}

#[test]
fn what_is_wrong_with_a_body_is_told_with_its_place() {
    let long = format!(r#"{{"agent_id":"a","event_type":"{}"}}"#, "t".repeat(501));
    let many = json!({"agent_id": "a", "events": vec![json!({"event_type": "t"}); TRANSCRIPT_BATCH + 1]}).to_string();
    for (body, status, word) in [
        ("", 400, "JSON"),
        ("{", 400, "JSON"),
        ("[]", 400, "agent_id"),
        ("null", 400, "agent_id"),
        ("7", 400, "agent_id"),
        (r#"{"event_type":"t"}"#, 400, "agent_id"),
        (r#"{"agent_id":"","event_type":"t"}"#, 400, "agent_id"),
        (r#"{"agent_id":7,"event_type":"t"}"#, 400, "agent_id"),
        (r#"{"agent_id":"a"}"#, 400, "event_type"),
        (r#"{"agent_id":"a","event_type":["t"]}"#, 400, "event_type"),
        (r#"{"agent_id":"a","events":{}}"#, 400, "events"),
        (r#"{"agent_id":"a","events":[]}"#, 400, "events"),
        (r#"{"agent_id":"a","events":[7]}"#, 400, "events.0.event_type"),
        (r#"{"agent_id":"a","events":[{"event_type":"t"},{}]}"#, 400, "events.1.event_type"),
        (r#"{"events":[{"event_type":"t"}]}"#, 400, "agent_id"),
        (r#"{"agent_id":"a","events":[{"event_type":"t","agent_id":"b"}]}"#, 422, "one agent"),
        (r#"{"agent_id":7,"events":[{"event_type":"t","agent_id":"b"}]}"#, 400, "agent_id"),
        (long.as_str(), 422, "501"),
        (many.as_str(), 422, "1000"),
    ] {
        let e = read(body).unwrap_err();
        assert_eq!(e.status(), status, "{body}: {e}");
        assert!(e.to_string().contains(word), "{body}: {e}");
    }
}

// ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn saved(db: &Sqlite) -> Option<Vec<u8>> {
    let whole = snapshot::whole(db).unwrap()?;
    let parts = (0..whole.parts).map(|n| snapshot::part(db, whole.upload, n).unwrap().unwrap());
    Some(parts.collect::<Vec<_>>().concat())
}

fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let chance = SplitMix64::new(seed);
    (0..n.div_ceil(8)).flat_map(|_| chance.next_u64().to_le_bytes()).take(n).collect()
}

/// Uploads in pieces as a network would deliver them.
fn upload(db: &Sqlite, last: i64, all: &[u8], piece: usize) -> Upload {
    let mut upload = Upload::begin(db, last).unwrap();
    for piece in all.chunks(piece) {
        upload.push(db, piece).unwrap();
    }
    upload
}

fn finish(db: &Sqlite, upload: Upload) -> i64 {
    let id = upload.id();
    atomically::<(), TownError>(db, || upload.finish(db, NOW)).unwrap();
    id
}

#[test]
fn a_snapshot_comes_back_as_it_was_sent_in_whatever_pieces_it_came() {
    let db = store();
    assert_eq!(saved(&db), None);
    let mut last = 0_i64;
    for (n, piece) in [
        (0, 1),
        (1, 1),
        (SNAPSHOT_PART_BYTES, 4_096),
        (SNAPSHOT_PART_BYTES + 1, 65_537),
        (3 * SNAPSHOT_PART_BYTES + 17, SNAPSHOT_PART_BYTES * 2),
        (5_000_000, 999_983),
    ] {
        let sent = bytes(last.unsigned_abs(), n);
        last = finish(&db, upload(&db, last, &sent, piece));
        assert!(saved(&db).unwrap() == sent, "{n} bytes in pieces of {piece}");
    }
    let parts = db.peek("SELECT count(*), max(length(bytes)) FROM snapshot_parts", &[]);
    assert_eq!((parts[0].int(0).unwrap(), parts[0].int(1).unwrap()), (5, 1_048_576));
    atomically::<(), TownError>(&db, || snapshot::remove(&db)).unwrap();
    assert_eq!(saved(&db), None);
    assert_eq!(db.peek("SELECT count(*) FROM snapshot_parts", &[])[0].int(0).unwrap(), 0);
}

#[test]
fn an_upload_that_ends_half_way_is_never_seen_and_dropped_when_the_next_begins() {
    let db = store();
    let old = bytes(1, 2 * SNAPSHOT_PART_BYTES + 5);
    finish(&db, upload(&db, 0, &old, 70_000));
    let half = upload(&db, 1, &bytes(2, 5 * SNAPSHOT_PART_BYTES), 70_000);
    assert!(saved(&db).unwrap() == old);
    drop(half);
    let next = Upload::begin(&db, 2).unwrap();
    assert_eq!(db.peek("SELECT count(*) FROM snapshot_parts", &[])[0].int(0).unwrap(), 3);
    assert!(next.id() > 2 && saved(&db).unwrap() == old);
}

#[test]
fn taking_the_place_of_the_old_snapshot_is_one_step_that_happens_or_does_not() {
    let db = store();
    let old = bytes(1, SNAPSHOT_PART_BYTES + 5);
    finish(&db, upload(&db, 0, &old, 70_000));
    let new = bytes(2, SNAPSHOT_PART_BYTES / 2);
    for nth in 1..=3 {
        let upload = upload(&db, 1, &new, 70_000);
        db.fail_statement(nth, gastown_host::sqlite::SqlFault::Once);
        atomically::<(), TownError>(&db, || upload.finish(&db, NOW)).unwrap_err();
        db.heal();
        assert!(saved(&db).unwrap() == old, "statement {nth} failed");
    }
    finish(&db, upload(&db, 1, &new, 70_000));
    assert!(saved(&db).unwrap() == new);
}

#[test]
fn a_snapshot_beyond_its_limit_is_413_and_leaves_the_old_one_alone() {
    let db = store();
    let old = bytes(1, 100);
    finish(&db, upload(&db, 0, &old, 70_000));
    let part = vec![7_u8; SNAPSHOT_PART_BYTES];
    let mut upload = Upload::begin(&db, 1).unwrap();
    for _ in 0..SNAPSHOT_BYTES / SNAPSHOT_PART_BYTES {
        upload.push(&db, &part).unwrap();
    }
    assert_eq!(upload.push(&db, &[1]).unwrap_err().status(), 413);
    assert!(saved(&db).unwrap() == old);
}

#[test]
fn a_store_that_other_code_wrote_is_refused_and_not_touched() {
    let db = store();
    db.execute("UPDATE migrations SET checksum = 'of another text' WHERE id = 1", &[]).unwrap();
    let before = db.dump();
    migrate(&db, NOW).unwrap_err();
    assert_eq!(db.dump(), before);
}
