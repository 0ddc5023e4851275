//! Ten thousand beads due at once: work per tick is bounded, and all get their turn.

use gastown::town::command::{Command, NewBead};
use gastown::town::id::RigId;
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, Millis, SECOND};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::owner;
use gastown_host::world::World;
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;

/// What a flood came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// Beads that were due at once.
    pub beads: usize,
    /// Most statements between two things that happened: a command, a tick with the question when to wake, an outcome.
    pub most_statements: u64,
    /// Most rows changed in one of these.
    pub most_rows: u64,
    /// Ticks until the last bead was closed.
    pub ticks: u64,
    /// How long that took.
    pub lasted: Millis,
    /// Most processes alive at once.
    pub most_alive: usize,
    /// Beads that were started before an older one of their rig.
    pub out_of_turn: usize,
}

/// Lets so many beads become due at once in a town of four rigs, behind a container that was away meanwhile, and sees
/// them through.
///
/// # Panics
/// If one of them is not closed, or was started twice.
#[must_use]
pub fn flood(beads: usize) -> Flood {
    let (mut world, first) = World::founded(10_000);
    world.keep_history = false;
    let rigs: Vec<RigId> = std::iter::once(first).chain((2..=4).map(|n| world.add_rig(&format!("rig-{n}")))).collect();
    world.container.behave_all(Behaviour::ends(2 * SECOND, Ending::DoneWithoutBranch));
    // Held by a drain, as they are slung: nothing is booked until a new process reports.
    let now = world.now();
    world.container.drain(now, HOUR);
    world
        .command(
            &gastown::town::command::Actor::Container { agent_id: None, dispatch_id: None },
            Command::ContainerEviction,
        )
        .expect("told");
    world.patch_config(json!({"dispatch": {"max_agents": 40, "max_polecats_per_rig": 10}}));
    for nth in 0..beads {
        let bead = NewBead { title: format!("Drop {nth}"), ..NewBead::default() };
        let rig_id = rigs[nth % rigs.len()].clone();
        world.command(&owner(), Command::CreateBead { rig_id, bead }).expect("a bead");
    }
    let now = world.now();
    world.container.restart(now);
    let begun = world.now();
    let most: Rc<Cell<Flood>> = Rc::new(Cell::new(Flood { beads, ..Flood::default() }));
    let (seen, before) = (Rc::clone(&most), Cell::new(world.sql.usage()));
    world.watch(move |w| {
        let (usage, mut flood) = (w.sql.usage(), seen.get());
        flood.most_statements = flood.most_statements.max(usage.statements - before.get().statements);
        flood.most_rows = flood.most_rows.max(usage.rows_written - before.get().rows_written);
        flood.most_alive = flood.most_alive.max(w.container.running().len());
        seen.set(flood);
        before.set(usage);
    });
    let ticks = world.counts.ticks;
    let all = i64::try_from(beads).expect("few");
    let mut left = all;
    while left > 0 {
        assert!(world.now() < begun.plus(HOUR + all * 10 * SECOND), "{left} beads wait still\n{}", world.journal());
        world.run_for(60 * SECOND);
        left = world.sql.peek("SELECT count(*) FROM beads WHERE type = 'issue' AND status <> 'closed'", &[])[0]
            .int(0)
            .expect("a count");
    }
    let twice = world.container.twice();
    assert!(twice.is_empty(), "{}", twice.join("\n"));
    let turns = "SELECT count(*)
                 FROM (SELECT seq, max(seq) OVER (PARTITION BY rig_id ORDER BY booked_at, turn) AS newest
                       FROM (SELECT b.seq, b.rig_id, min(a.booked_at) AS booked_at, min(a.seq) AS turn
                             FROM attempts a JOIN beads b ON b.bead_id = a.bead_id
                             GROUP BY b.bead_id))
                 WHERE seq < newest";
    let out_of_turn = world.sql.peek(turns, &[])[0].int(0).expect("a count");
    Flood {
        ticks: world.counts.ticks - ticks,
        lasted: world.now().since(begun),
        out_of_turn: usize::try_from(out_of_turn).expect("a count"),
        ..most.get()
    }
}
