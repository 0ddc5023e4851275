//! No statement reads all of a table that grows: whatever a town stores, a tick reads what is due.
//!
//! The plans are those of the statements that a rich history really executed, by every verb.

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

mod oracle;

#[path = "oracle/history.rs"]
#[allow(dead_code, reason = "shared with properties.rs, which uses all of it")]
mod history;

use gastown::town::command::{AttemptFilter, BeadFilter, Command, Page};
use gastown::town::debug::Look;
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{DAY, HOUR, MINUTE};
use gastown_host::ids::SplitMix64;
use gastown_host::owner;
use gastown_host::world::World;
use history::{Play, ops};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The tables that grow with a town's life.
const GROWING: [&str; 16] = [
    "beads",
    "departed",
    "bead_events",
    "attempts",
    "notifications",
    "deliveries",
    "mail",
    "audit",
    "agents",
    "bead_dependencies",
    "causes",
    "redrive_beads",
    "merge_requests",
    "convoys",
    "escalations",
    "molecules",
];

/// Lines of plans that may be, the statement they belong to, and why.
const EXCEPTIONS: [(&str, &str, &str); 4] = [
    // `seq` is the table's own key: it is read in order from its end, and LIMIT ends it.
    ("SCAN bead_events", "FROM (SELECT * FROM bead_events ORDER BY seq DESC LIMIT ?2)", "newest events"),
    ("SCAN bead_events", "FROM bead_events ORDER BY seq LIMIT", "oldest events, for retention"),
    // People ask for these, no rule does; agents that nobody needs are removed after a day.
    ("SCAN agents", "FROM agents ORDER BY seq LIMIT", "the debug status"),
    ("SCAN agents", "SELECT status, count(*) FROM agents GROUP BY status", "the debug status"),
];

/// Every question that can be asked of a town.
fn ask_everything(world: &mut World, rig_id: &RigId) {
    let page = || Page { before: None, limit: Some(5) };
    let filters = [
        AttemptFilter::default(),
        AttemptFilter { outcome: Some("failed".to_owned()), ..AttemptFilter::default() },
        AttemptFilter { class: Some("infra".to_owned()), ..AttemptFilter::default() },
        AttemptFilter { code: Some("container.error".to_owned()), ..AttemptFilter::default() },
        AttemptFilter { fingerprint: Some("x".to_owned()), ..AttemptFilter::default() },
        AttemptFilter { rig_id: Some(rig_id.0.clone()), ..AttemptFilter::default() },
        AttemptFilter { since: Some("2026-11-20T10:00:00.000Z".to_owned()), ..AttemptFilter::default() },
    ];
    let mayors = RigId(format!("mayor-{}", world.town_id));
    let mut questions = vec![
        Command::GetConfig,
        Command::ListRigs,
        Command::GetRigConfig { rig_id: rig_id.clone() },
        Command::ListEvents { bead_id: None, since: None, limit: None },
        Command::ListEvents { bead_id: None, since: Some("2026-11-20T10:00:00.000Z".to_owned()), limit: Some(5) },
        Command::ListAgents { rig_id: rig_id.clone(), role: None, status: None },
        Command::ListMail { to: None, page: page() },
        Command::ListMail { to: Some("mayor".to_owned()), page: page() },
        Command::ListEscalations { acknowledged: None },
        Command::ListEscalations { acknowledged: Some(false) },
        Command::ListNotifications { page: page() },
        Command::ListConvoys,
        Command::GetDispatch,
        Command::ListBreakers,
        Command::ListAudit { page: page() },
        Command::Snapshot,
        Command::DebugStatus,
        Command::DrainStatus,
        Command::Debug { at: Look::Nudges },
        Command::Debug { at: Look::Rigs },
        Command::Debug { at: Look::Convoys },
    ];
    questions.extend(filters.map(|filter| Command::ListAttempts { filter }));
    for rig_id in [rig_id.clone(), mayors] {
        for status in [None, Some("open"), Some("failed")] {
            let filter = BeadFilter { status: status.map(str::to_owned), limit: Some(5), ..BeadFilter::default() };
            questions.push(Command::ListBeads { rig_id: rig_id.clone(), filter });
        }
    }
    for question in questions {
        let told = format!("{question:?}");
        world.command(&owner(), question).unwrap_or_else(|e| panic!("{told}: {e:?}"));
    }
    for row in world.sql.peek("SELECT bead_id FROM beads LIMIT 5", &[]) {
        let bead_id: BeadId = row.text(0).unwrap().as_str().into();
        world.command(&owner(), Command::Debug { at: Look::Bead(bead_id.clone()) }).unwrap();
        world.command(&owner(), Command::Explain { bead_id }).unwrap();
    }
    for row in world.sql.peek("SELECT bead_id FROM convoys LIMIT 5", &[]) {
        let convoy_id = row.text(0).unwrap().as_str().into();
        world.command(&owner(), Command::GetConvoy { convoy_id }).unwrap();
    }
    for row in world.sql.peek("SELECT agent_id FROM agents LIMIT 5", &[]) {
        let agent_id: AgentId = row.text(0).unwrap().as_str().into();
        world.command(&owner(), Command::KnowsAgent { agent_id: agent_id.clone() }).unwrap();
        world.command(&owner(), Command::Prime { agent_id }).unwrap();
    }
}

#[test]
fn no_statement_of_a_rich_history_scans_a_growing_table() {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut executed = std::collections::BTreeSet::new();
    let chance = SplitMix64::new(7);
    for seed in 0..12_u64 {
        let bytes: Vec<u8> = (0..4).flat_map(|_| chance.next_u64().to_le_bytes()).collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let history = ops(true, 120).new_tree(&mut runner).unwrap().current();
        let mut play = Play::new(seed, true, 1_000_000);
        play.many(10);
        play.all(&history);
        let rig = play.world.sql.peek("SELECT rig_id FROM rigs", &[])[0].text(0).unwrap();
        ask_everything(&mut play.world, &RigId(rig));
        play.heal_and_demand_everything();
        // Retention has its own statements.
        play.wait(HOUR);
        if seed < 2 {
            play.wait(91 * DAY);
            play.many(3);
            play.wait(30 * MINUTE);
        }
        executed.extend(play.world.sql.statements());
        found.extend(play.world.sql.scans(&GROWING));
    }
    found.sort();
    found.dedup();
    let excepted = |sql: &str, line: &str| EXCEPTIONS.iter().any(|(l, s, _)| line.starts_with(l) && sql.contains(s));
    found.retain(|(sql, line)| !excepted(sql, line));
    assert!(executed.len() > 150, "the history is not rich: {} statements", executed.len());
    let told: Vec<String> = found.iter().map(|(sql, line)| format!("{line}\n    {sql}")).collect();
    assert!(found.is_empty(), "{} statements scan a growing table:\n{}", found.len(), told.join("\n"));
}
