//! Rigs: git repositories attached to a town.

use super::Ctx;
use super::config::RigConfig;
use super::error::TownError;
use super::id::RigId;
use super::sql::{Columns, Row, Sql, SqlError, first};
use super::state;
use super::time::Timestamp;
use serde::Serialize;

/// One rig. Its name is unique in the town.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns, documented in migrations/town/0001_town.sql")]
pub struct Rig {
    pub id: RigId,
    pub name: String,
    pub git_url: String,
    pub default_branch: String,
    pub config: RigConfig,
    pub created_at: Timestamp,
    pub last_proven_at: Option<Timestamp>,
}

/// A rig as the town's own list shows it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "protocol.md 2.3")]
pub struct RigView {
    pub id: RigId,
    pub town_id: String,
    pub name: String,
    pub git_url: String,
    pub default_branch: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

fn read(r: &Row) -> Result<Rig, TownError> {
    let c = Columns::of(r);
    let read = Rig {
        id: RigId(c.text(0)),
        name: c.text(1),
        git_url: c.text(2),
        default_branch: c.text(3),
        config: RigConfig::from_json(&c.text(4))?,
        created_at: c.at(5),
        last_proven_at: c.opt_at(6),
    };
    Ok(c.done(read)?)
}

/// All rigs, oldest first. Sorted here: the database would read each row a second time for it.
pub fn all(sql: &dyn Sql) -> Result<Vec<Rig>, TownError> {
    let rows = sql.query(
        "SELECT rig_id, name, git_url, default_branch, config, created_at, last_proven_at, seq
         FROM rigs",
        &[],
    )?;
    let mut rigs = rows.iter().map(|r| Ok((r.int(7)?, read(r)?))).collect::<Result<Vec<_>, TownError>>()?;
    rigs.sort_by_key(|(seq, _)| *seq);
    Ok(rigs.into_iter().map(|(_, rig)| rig).collect())
}

/// The rig, if the town has it.
pub fn find(sql: &dyn Sql, id: &RigId) -> Result<Option<Rig>, TownError> {
    first(
        sql,
        "SELECT rig_id, name, git_url, default_branch, config, created_at, last_proven_at
         FROM rigs
         WHERE rig_id = ?1",
        &[id.into()],
    )?
    .as_ref()
    .map(read)
    .transpose()
}

/// The rig, or 404 `Rig not found`.
pub fn get(sql: &dyn Sql, id: &RigId) -> Result<Rig, TownError> {
    find(sql, id)?.ok_or_else(|| TownError::missing("Rig"))
}

/// True for the mayor's pseudo rig, which the rig routes accept without its existing.
#[must_use]
pub fn is_mayors(id: &RigId) -> bool {
    id.0.starts_with("mayor-")
}

/// Attaches a repository. The same id again is the same rig; a taken name is 409.
pub fn add(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    id: &RigId,
    name: &str,
    git_url: &str,
    default_branch: &str,
) -> Result<Rig, TownError> {
    if let Some(rig) = find(sql, id)? {
        return Ok(rig);
    }
    if first(sql, "SELECT rig_id FROM rigs WHERE name = ?1", &[name.into()])?.is_some() {
        return Err(TownError::conflict("taken", format!("A rig named {name} exists already in this town")));
    }
    sql.execute(
        "INSERT INTO rigs (rig_id, seq, name, git_url, default_branch, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &[id.into(), state::next_seq(sql)?.into(), name.into(), git_url.into(), default_branch.into(), ctx.now.into()],
    )?;
    get(sql, id)
}

/// Stores a rig's overrides.
pub fn configure(sql: &dyn Sql, id: &RigId, config: &RigConfig) -> Result<(), TownError> {
    sql.execute("UPDATE rigs SET config = ?2 WHERE rig_id = ?1", &[id.into(), (&config.to_json()).into()])?;
    Ok(())
}

/// Notes that an agent of this rig was proven.
pub fn note_proof(sql: &dyn Sql, id: &RigId, now: Timestamp) -> Result<(), SqlError> {
    sql.execute("UPDATE rigs SET last_proven_at = ?2 WHERE rig_id = ?1", &[id.into(), now.into()])?;
    Ok(())
}

/// Detaches the repository: the row only.
pub fn remove(sql: &dyn Sql, id: &RigId) -> Result<(), TownError> {
    sql.execute("DELETE FROM rigs WHERE rig_id = ?1", &[id.into()])?;
    Ok(())
}

impl Rig {
    /// As the town's own list shows it.
    #[must_use]
    pub fn view(&self, town_id: &str) -> RigView {
        RigView {
            id: self.id.clone(),
            town_id: town_id.to_owned(),
            name: self.name.clone(),
            git_url: self.git_url.clone(),
            default_branch: self.default_branch.clone(),
            created_at: self.created_at,
            updated_at: self.created_at,
        }
    }
}
