//! The machine's one row.

use super::{Machine, Phase};
use crate::town::{
    migrate::{Migration, plain},
    sql::{Columns, Row, Sql, SqlError, first},
    time::Timestamp,
};

/// The object's schema.
pub const MIGRATIONS: &[Migration] =
    &[Migration { id: 1, name: "0001_container", sql: plain!("../../migrations/container/0001_container.sql") }];

const PHASES: [(Phase, &str); 5] = [
    (Phase::Stopped, "Stopped"),
    (Phase::Starting, "Starting"),
    (Phase::Ready, "Ready"),
    (Phase::Stopping, "Stopping"),
    (Phase::Down, "Down"),
];

/// The machine and whose it is; `None` if it was never saved.
pub fn load(sql: &dyn Sql) -> Result<Option<(String, Machine)>, SqlError> {
    let row = first(
        sql,
        "SELECT town_id, phase, since, instance, check_at, misses, ask_at, needed_at, falls, ended
         FROM container
         WHERE id = 1",
        &[],
    )?;
    row.map(|r| Ok((r.text(0)?, read(&r)?))).transpose()
}

fn read(r: &Row) -> Result<Machine, SqlError> {
    let c = Columns::of(r);
    let phase = |name: &str| PHASES.iter().find(|(_, n)| *n == name).map(|(phase, _)| *phase);
    let read = Machine {
        phase: c.word(1, phase, Phase::Stopped),
        since: c.at(2),
        instance: c.opt_text(3),
        check_at: c.at(4),
        misses: c.count(5),
        ask_at: c.at(6),
        needed_at: c.at(7),
        falls: c.text(8).split(',').filter_map(|at| at.parse().ok()).map(Timestamp).collect(),
        ended: c.text(9),
    };
    c.done(read)
}

/// Saves it; one row.
pub fn save(sql: &dyn Sql, town_id: &str, m: &Machine) -> Result<(), SqlError> {
    let phase = PHASES.iter().find(|(phase, _)| *phase == m.phase).map_or("", |(_, name)| *name);
    let falls: Vec<String> = m.falls.iter().map(|at| at.0.to_string()).collect();
    sql.execute(
        "INSERT OR REPLACE INTO container
           (id, town_id, phase, since, instance, check_at, misses, ask_at, needed_at, falls, ended)
         VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        &[
            town_id.into(),
            phase.into(),
            m.since.into(),
            m.instance.as_ref().into(),
            m.check_at.into(),
            m.misses.into(),
            m.ask_at.into(),
            m.needed_at.into(),
            (&falls.join(",")).into(),
            (&m.ended).into(),
        ],
    )?;
    Ok(())
}
