//! What random histories found, each once more in its smallest form.

#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::manual_is_multiple_of,
    clippy::unused_self,
    clippy::enum_variant_names,
    clippy::single_match_else,
    reason = "an oracle reads like the paper it was written from"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

use gastown::town::command::Command;
use gastown::town::time::{MINUTE, SECOND};
use gastown_host::behaviour::Says;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::{Fate, World};

/// A late `done` undoes the failure that the silence was taken for. Were it remembered, the next infra failure would be
/// charged although nothing speaks against the bead (`domain.md` 10, 4).
#[test]
fn a_failure_undone_by_a_late_done_is_no_evidence_against_its_bead() {
    let (mut w, rig) = World::founded(1);
    w.filter_voices(|voice| match voice.says {
        // Its process has ended, and the word that it was done is still on its way.
        Says::Done { .. } => Fate::Late(3 * MINUTE),
        _ => Fate::Arrives,
    });
    let bead = w.sling(&rig, "Late");
    assert!(w.run_while_not(10 * MINUTE, |w| w.status(&bead) == "in_review"), "{}", w.journal());
    w.unfilter_voices();
    // Another bead is proven, and the first one is refused by its review.
    w.container.behave_all(gastown_host::behaviour::Behaviour::hangs());
    w.sling(&rig, "Other");
    w.run_for(SECOND);
    let mr = w.sql.peek("SELECT bead_id FROM beads WHERE type = 'merge_request'", &[])[0].text(0).unwrap();
    w.must(Command::CompleteReview {
        entry_id: mr.as_str().into(),
        status: "failed".to_owned(),
        message: "a gate said no".to_owned(),
        commit_sha: None,
    });
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    w.run_for(4 * MINUTE);
    let last = w.attempts(&bead).pop().unwrap();
    assert_eq!(last["code"], "container.unreachable", "{}", w.journal());
    assert_eq!(last["charged"], false, "it has never failed: {}", w.journal());
}

/// `GET …/events?since=` reads as many rows as it may answer, not the whole history.
#[test]
fn events_since_a_moment_are_the_newest_ones_after_it() {
    let (mut w, rig) = World::founded(1);
    w.sling(&rig, "First");
    w.run_for(10 * MINUTE);
    let since = Some(w.now().to_string());
    w.run_for(MINUTE);
    w.sling(&rig, "Second");
    w.run_for(10 * MINUTE);
    let all = w.must(Command::ListEvents { bead_id: None, since: None, limit: Some(500) });
    let after = w.must(Command::ListEvents { bead_id: None, since: since.clone(), limit: Some(500) });
    let later: Vec<_> =
        all.as_array().unwrap().iter().filter(|e| e["created_at"].as_str() > since.as_deref()).collect();
    assert_eq!(after.as_array().unwrap().iter().collect::<Vec<_>>(), later);
    assert!(!later.is_empty() && later.len() < all.as_array().unwrap().len());
    let few = w.must(Command::ListEvents { bead_id: None, since, limit: Some(3) });
    assert_eq!(few.as_array().unwrap()[..], after.as_array().unwrap()[..3]);
}
