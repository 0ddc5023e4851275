//! Convoys under everything at once: drawn batches, starts, landings, people who come and go, agents and containers that
//! fail; after every step the oracle recounts. `CONVOY_SEEDS=60 cargo test --test convoy_swarm` lives longer.

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

use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::ids::SplitMix64;
use history::{Op, Play, Wrong};

/// One thing that happens, mostly to convoys.
fn draw(chance: &SplitMix64) -> Op {
    let byte = || u8::try_from(chance.below(256)).expect("a byte");
    match chance.below(40) {
        0..=3 => {
            let plan = (0..=chance.below(4)).map(|_| (0..chance.below(3)).map(|_| byte()).collect()).collect();
            Op::Batch { rig: byte(), plan, staged: chance.per_mille(300), alone: chance.per_mille(250) }
        }
        4..=9 => Op::Convoy { nth: byte(), does: byte(), bead: byte() },
        10 => Op::Cancel(byte()),
        11 | 12 => Op::Redrive(byte()),
        13 => Op::DeleteBead(byte()),
        14 => Op::DeleteMany(byte()),
        15 | 16 => Op::Verdict(byte(), byte()),
        17 => Op::SetStatus(byte(), byte()),
        18 => Op::Sling { rig: byte(), rank: 2, on: Vec::new(), held: false },
        19 => Op::Reassign(byte(), byte()),
        20 => Op::Reset(byte()),
        21 => Op::AgentDone(byte(), chance.per_mille(700)),
        22..=24 => Op::Behave(byte(), chance.next_u64()),
        25 => Op::Standing(0, Wrong::Says(byte())),
        26 => Op::Clear,
        27 => Op::Crash(chance.per_mille(500)),
        28 => Op::AddRig,
        29 if chance.per_mille(200) => Op::RemoveRig(byte()),
        29 => Op::Move(byte(), Some(byte())),
        30..=33 => Op::Wait(i64::try_from(chance.below(90)).expect("small") * SECOND),
        _ => Op::Wait(i64::try_from(chance.below(40)).expect("small") * MINUTE),
    }
}

#[test]
fn convoys_keep_every_promise_whatever_happens_to_them() {
    let seeds = std::env::var("CONVOY_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4_u64);
    let mut ended = [0_u64; 3];
    for seed in 0..seeds {
        let chance = SplitMix64::new(seed ^ 0x00c0_7013);
        let mut play = Play::new(seed, true, 400);
        for _ in 0..100 {
            let op = draw(&chance);
            play.one(&op);
        }
        play.heal_and_demand_everything();
        play.wait(HOUR);
        for (n, status) in ["closed", "failed", "open"].iter().enumerate() {
            let count = "SELECT count(*) FROM beads WHERE type = 'convoy' AND status = ?1";
            let rows = play.world.sql.peek(count, &[(*status).into()]);
            ended[n] += u64::try_from(rows[0].int(0).unwrap()).expect("a count");
        }
    }
    println!("convoys closed, failed, still open: {ended:?}");
    assert!(ended[0] > seeds, "hardly a convoy came to its end: {ended:?}");
}
