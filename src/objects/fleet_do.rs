//! `FleetDO`: the registry of towns and rigs. One object for all towns is enough now; its requests are typed
//! ([`FleetRequest`]) so that it can be split without its callers noticing.
//!
//! Guarantee: each request is one synchronous section over SQL, so it is atomic and requests cannot interleave; and
//! each may be repeated, since the runtime repeats calls that it lost.

use crate::{
    edge::fleet::{FleetAnswer, FleetRequest, RigRow, TownRow},
    platform::{clock, log, sql::ObjectSql},
    town::{
        sql::{Arg, Columns, Row, Sql, SqlError, atomically, first},
        time::Timestamp,
    },
};
use std::panic::RefUnwindSafe;
use worker::{DurableObject, Env, Request, Response, Result, State, durable_object};

const MIGRATIONS: &[(i64, &str)] = &[(1, crate::town::migrate::plain!("../../migrations/fleet/0001_registry.sql"))];

/// The registry's object.
#[durable_object(fetch)]
#[derive(Debug)]
pub struct FleetDO {
    sql: ObjectSql,
    migrated: std::result::Result<(), SqlError>,
}

/// Its one cell counts what statements cost; the rest is rows, which a savepoint keeps whole.
impl RefUnwindSafe for FleetDO {}

impl DurableObject for FleetDO {
    fn new(state: State, _env: Env) -> Self {
        let sql = ObjectSql::new(state.storage());
        // `new` cannot fail, so what went wrong is kept and told by every request.
        let migrated = migrate(&sql, clock::now());
        Self { sql, migrated }
    }

    async fn fetch(&self, mut req: Request) -> Result<Response> {
        // Reading the request is the only await, and it comes before anything is decided.
        let text = req.text().await?;
        let answer = self.migrated.clone().and_then(|()| {
            let request = FleetRequest::read(&text).ok_or_else(|| SqlError::new("unreadable request"))?;
            atomically(&self.sql, || apply(&self.sql, clock::now(), request))
        });
        match answer {
            Ok(answer) => Response::ok(answer.write()),
            Err(e) => {
                log::error("fleet", "", &e.message);
                Response::error("the registry failed; see the log", 500)
            }
        }
    }
}

fn migrate(sql: &dyn Sql, now: Timestamp) -> std::result::Result<(), SqlError> {
    sql.execute(
        "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
        &[],
    )?;
    let done = first(sql, "SELECT COALESCE(MAX(version), 0) FROM migrations", &[])?;
    let done = done.map_or(Ok(0), |r| r.int(0))?;
    if MIGRATIONS.last().is_some_and(|(newest, _)| done > *newest) {
        return Err(SqlError::new(format!("the registry is at version {done}, newer than this build")));
    }
    for (version, text) in MIGRATIONS.iter().filter(|(version, _)| *version > done) {
        atomically(sql, || {
            sql.script(text)?;
            sql.execute(
                "INSERT INTO migrations (version, applied_at) VALUES (?1, ?2)",
                &[Arg::Int(*version), now.into()],
            )
        })?;
    }
    Ok(())
}

fn apply(sql: &dyn Sql, now: Timestamp, request: FleetRequest) -> std::result::Result<FleetAnswer, SqlError> {
    match request {
        FleetRequest::AddTown { id, name, owner_user_id } => {
            sql.execute(
                "INSERT INTO towns (id, name, owner_user_id, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?4)
                 ON CONFLICT (id) DO NOTHING",
                &[Arg::from(&id), Arg::from(&name), Arg::from(&owner_user_id), now.into()],
            )?;
            town(sql, &id)
        }
        FleetRequest::FindTown { id } => town(sql, &id),
        FleetRequest::GetTown { user_id, id } => match town(sql, &id)? {
            FleetAnswer::Town(row) if row.owner_user_id == user_id => Ok(FleetAnswer::Town(row)),
            _ => Ok(FleetAnswer::NoTown),
        },
        FleetRequest::ListTowns { user_id } => {
            let rows = sql.query(
                "SELECT id, name, owner_user_id, created_at, updated_at
                 FROM towns
                 WHERE owner_user_id = ?1
                 ORDER BY seq DESC",
                &[Arg::from(&user_id)],
            )?;
            Ok(FleetAnswer::Towns(rows.iter().map(town_row).collect::<std::result::Result<_, _>>()?))
        }
        FleetRequest::RemoveTown { user_id, id } => {
            // Its rigs and its report go with it, by their foreign keys.
            sql.execute(
                "DELETE FROM towns WHERE id = ?1 AND owner_user_id = ?2",
                &[Arg::from(&id), Arg::from(&user_id)],
            )?;
            Ok(FleetAnswer::Done)
        }
        FleetRequest::AddRig { id, town_id, name, git_url, default_branch, platform_integration_id } => {
            if matches!(town(sql, &town_id)?, FleetAnswer::NoTown) {
                return Ok(FleetAnswer::NoTown);
            }
            sql.execute(
                "INSERT INTO rigs
                   (id, town_id, name, git_url, default_branch, platform_integration_id, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
                 ON CONFLICT (id) DO NOTHING",
                &[
                    Arg::from(&id),
                    Arg::from(&town_id),
                    Arg::from(&name),
                    Arg::from(&git_url),
                    Arg::from(&default_branch),
                    Arg::from(platform_integration_id.as_deref()),
                    now.into(),
                ],
            )?;
            rig(sql, &id)
        }
        FleetRequest::GetRig { user_id, id } => rig_of(sql, &user_id, &id),
        FleetRequest::ListRigs { user_id, town_id } => {
            let rows = sql.query(
                "SELECT r.id, r.town_id, r.name, r.git_url, r.default_branch, r.platform_integration_id,
                        r.created_at, r.updated_at
                 FROM rigs r
                 JOIN towns t ON t.id = r.town_id
                 WHERE r.town_id = ?1 AND t.owner_user_id = ?2
                 ORDER BY r.seq DESC",
                &[Arg::from(&town_id), Arg::from(&user_id)],
            )?;
            Ok(FleetAnswer::Rigs(rows.iter().map(rig_row).collect::<std::result::Result<_, _>>()?))
        }
        FleetRequest::RemoveRig { user_id, id } => {
            if matches!(rig_of(sql, &user_id, &id)?, FleetAnswer::Rig(_)) {
                sql.execute("DELETE FROM rigs WHERE id = ?1", &[Arg::from(&id)])?;
            }
            Ok(FleetAnswer::Done)
        }
        FleetRequest::Report { report } => {
            // A report of a town that was deleted meanwhile has no row to refer to, and is dropped.
            if matches!(town(sql, &report.town_id)?, FleetAnswer::Town(_)) {
                sql.execute(
                    "INSERT INTO reports (town_id, breaker, next_wake, open_work, reported_at)
                     VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (town_id) DO UPDATE
                     SET breaker = excluded.breaker, next_wake = excluded.next_wake,
                         open_work = excluded.open_work, reported_at = excluded.reported_at
                     WHERE excluded.reported_at >= reports.reported_at",
                    &[
                        Arg::from(&report.town_id),
                        Arg::from(&report.breaker),
                        report.next_wake.into(),
                        report.open_work.into(),
                        report.at.into(),
                    ],
                )?;
            }
            Ok(FleetAnswer::Done)
        }
    }
}

fn town(sql: &dyn Sql, id: &str) -> std::result::Result<FleetAnswer, SqlError> {
    let row = first(
        sql,
        "SELECT id, name, owner_user_id, created_at, updated_at FROM towns WHERE id = ?1",
        &[Arg::from(id)],
    )?;
    row.map_or(Ok(FleetAnswer::NoTown), |r| Ok(FleetAnswer::Town(town_row(&r)?)))
}

fn rig(sql: &dyn Sql, id: &str) -> std::result::Result<FleetAnswer, SqlError> {
    let row = first(
        sql,
        "SELECT id, town_id, name, git_url, default_branch, platform_integration_id, created_at, updated_at
         FROM rigs
         WHERE id = ?1",
        &[Arg::from(id)],
    )?;
    row.map_or(Ok(FleetAnswer::NoRig), |r| Ok(FleetAnswer::Rig(rig_row(&r)?)))
}

fn rig_of(sql: &dyn Sql, user_id: &str, id: &str) -> std::result::Result<FleetAnswer, SqlError> {
    let found = rig(sql, id)?;
    if let FleetAnswer::Rig(row) = &found
        && let FleetAnswer::Town(town) = town(sql, &row.town_id)?
        && town.owner_user_id == user_id
    {
        return Ok(found);
    }
    Ok(FleetAnswer::NoRig)
}

fn town_row(r: &Row) -> std::result::Result<TownRow, SqlError> {
    Ok(TownRow {
        id: r.text(0)?,
        name: r.text(1)?,
        owner_user_id: r.text(2)?,
        created_at: Timestamp(r.int(3)?).to_string(),
        updated_at: Timestamp(r.int(4)?).to_string(),
    })
}

fn rig_row(r: &Row) -> std::result::Result<RigRow, SqlError> {
    let c = Columns::of(r);
    let read = RigRow {
        id: c.text(0),
        town_id: c.text(1),
        name: c.text(2),
        git_url: c.text(3),
        default_branch: c.text(4),
        platform_integration_id: c.opt_text(5),
        created_at: c.at(6).to_string(),
        updated_at: c.at(7).to_string(),
    };
    c.done(read)
}
