//! A town with much behind it, and the three verbs that are measured on it.
//!
//! [`Stored::new`] lives one bead to its end and copies what that left, so that the town has as many closed beads,
//! attempts and events as asked for; ten beads are due. Every measured call is undone, so that the next one finds the same town.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement of something broken must stop"
)]

use gastown::town::{
    Ctx, Town,
    command::{Command, NewBead},
    id::{BeadId, RigId},
    sql::{Sql, Undo, Value},
    time::HOUR,
};
use gastown_host::{owner, world::World};
use std::{hint::black_box, path::Path};

/// How much the measured towns have stored.
pub const SIZES: [u32; 3] = [1_000, 10_000, 100_000];

/// Beads that are due in a measured town.
const DUE: u32 = 10;

/// The tables that grow with every bead, and the column that names one row of each.
const COPIED: [(&str, &str); 3] = [("beads", "bead_id"), ("attempts", "attempt_id"), ("bead_events", "bead_event_id")];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `Town::tick`: books what the slow start lets through of what is due.
    Tick,
    /// `Town::handle`: a sling.
    Handle,
    /// `Town::explain`: a bead that waits behind the slow start.
    Explain,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tick, Self::Handle, Self::Explain];

    /// Its name, in reports and in `bench/instructions.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Handle => "handle",
            Self::Explain => "explain",
        }
    }
}

/// A town with a past.
pub struct Stored {
    world: World,
    rig: RigId,
    waiting: BeadId,
}

impl Stored {
    /// A town with `closed` closed beads, in memory.
    #[must_use]
    pub fn new(closed: u32) -> Self {
        Self::filled(World::new(1), closed)
    }

    /// Writes such a town into a file.
    pub fn write(path: &Path, closed: u32) {
        drop(Self::filled(World::on_file(path, 1), closed));
    }

    /// A town that was written before.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self::found(World::on_file(path, 2))
    }

    fn filled(mut world: World, closed: u32) -> Self {
        world.found_town();
        let rig = world.add_rig("main");
        let first = world.sling(&rig, "lived to its end");
        world.run_for(6 * HOUR);
        assert_eq!(world.status(&first), "closed", "{}", world.journal());
        for (table, key) in COPIED {
            copy(&world, table, key, closed);
        }
        for n in 0..DUE {
            world.sling(&rig, &format!("due {n}"));
        }
        Self::found(world)
    }

    fn found(world: World) -> Self {
        let one = |sql: &str| world.sql.peek(sql, &[])[0].text(0).unwrap();
        let rig = RigId(one("SELECT rig_id FROM rigs"));
        let waiting = one("SELECT bead_id FROM beads WHERE status = 'open' ORDER BY seq DESC LIMIT 1").as_str().into();
        Self { world, rig, waiting }
    }

    /// Runs the verb once and undoes it.
    pub fn run(&self, verb: Verb) {
        self.undone(|| measured(self, verb));
    }

    /// The same uncounted: prepares the statements, as an object that lives has them behind it.
    pub fn warm_up(&self, verb: Verb) {
        self.undone(|| perform(self, verb));
    }

    fn undone(&self, body: impl Fn()) {
        let undone = self.world.sql.savepoint(&mut || {
            body();
            Err(Undo)
        });
        undone.expect("what was measured can be undone");
    }
}

/// What is counted: callgrind collects inside this function alone, so it must stay one.
#[inline(never)]
fn measured(stored: &Stored, verb: Verb) {
    perform(stored, verb);
}

fn perform(stored: &Stored, verb: Verb) {
    let Stored { world, rig, waiting } = stored;
    let (town, ctx) = (Town::new(&world.sql), Ctx::new(world.now(), &world.ids));
    match verb {
        Verb::Tick => {
            let effects = black_box(town.tick(&ctx).unwrap());
            assert!(!effects.is_empty(), "nothing was due");
        }
        Verb::Handle => {
            let bead = NewBead { title: "one more".to_owned(), ..NewBead::default() };
            black_box(town.handle(&ctx, &owner(), Command::Sling { rig_id: rig.clone(), bead }).unwrap());
        }
        Verb::Explain => {
            black_box(town.explain(&ctx, waiting).unwrap());
        }
    }
}

/// Copies the rows of a table behind the town's back, `times` over, each with a key and a `seq` of its own.
fn copy(world: &World, table: &str, key: &str, times: u32) {
    let columns: Vec<String> = world
        .sql
        .peek("SELECT name FROM pragma_table_info(?1)", &[Value::from(table)])
        .iter()
        .map(|row| row.text(0).unwrap())
        .collect();
    let value = |name: &String| match name.as_str() {
        name if name == key => format!("printf('%08x-', n.i) || substr(t.{name}, 10)"),
        // A town counts from 1; what it does next must not collide with what was copied.
        "seq" => "-1000 * n.i - t.seq".to_owned(),
        name => format!("t.{name}"),
    };
    let names = columns.join(", ");
    let values = columns.iter().map(value).collect::<Vec<_>>().join(", ");
    let rows = if table == "beads" { "beads WHERE status = 'closed' AND type = 'issue'" } else { table };
    let text = format!(
        "INSERT INTO {table} ({names})
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {times})
         SELECT {values} FROM n, (SELECT * FROM {rows}) t"
    );
    // The town's statements are constant texts; this one is made once per table and lives as long as the program.
    world.sql.execute(Box::leak(text.into_boxed_str()), &[]).unwrap();
}
