//! Migrations: plain SQL from `migrations/town`, applied in order, one savepoint each, recorded with a checksum.
//!
//! A database whose recorded migration differs from ours, or that knows one we do not, is refused and not touched: it was
//! written by other code than this.

use super::sql::{Sql, SqlError, any, atomically};
use super::time::Timestamp;
use sha2::{Digest, Sha256};

/// A migration's text as the worker carries it: without comments, and with one space or line end where there were more.
/// (The comments of the schema are 3 KB of the Wasm after gzip. No text in quotes holds two dashes or two spaces: each
/// migration is applied in this form wherever it is applied, tests included.)
macro_rules! plain {
    ($path:literal) => {{
        const TEXT: &[u8] = include_bytes!($path);
        const PLAIN: [u8; $crate::town::migrate::squeezed_len(TEXT)] = $crate::town::migrate::squeeze(TEXT);
        const SQL: &str = match std::str::from_utf8(&PLAIN) {
            Ok(sql) => sql,
            Err(_) => "not UTF-8",
        };
        SQL
    }};
}
pub(crate) use plain;

/// How long a text is once it is squeezed.
pub(crate) const fn squeezed_len(text: &[u8]) -> usize {
    let (mut len, mut rest, mut last) = (0, text, b'\n');
    while let Some((byte, more)) = next(rest, last) {
        (len, rest, last) = (len + 1, more, byte);
    }
    len
}

/// A text without its comments and its second spaces; `N` is its [`squeezed_len`].
pub(crate) const fn squeeze<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut out = [b' '; N];
    let (mut room, mut rest, mut last): (&mut [u8], _, _) = (&mut out, text, b'\n');
    while let (Some((byte, more)), [slot, left @ ..]) = (next(rest, last), room) {
        *slot = byte;
        (room, rest, last) = (left, more, byte);
    }
    out
}

/// The next byte to keep after `last`, and what comes after it.
const fn next(mut text: &[u8], last: u8) -> Option<(u8, &[u8])> {
    loop {
        match text {
            [b'-', b'-', ..] => {
                while let [byte, rest @ ..] = text
                    && *byte != b'\n'
                {
                    text = rest;
                }
            }
            [b' ' | b'\n', rest @ ..] if matches!(last, b' ' | b'\n') => text = rest,
            [byte, rest @ ..] => return Some((*byte, rest)),
            [] => return None,
        }
    }
}

/// Our migrations, oldest first.
pub const MIGRATIONS: &[Migration] = &[
    Migration { id: 1, name: "0001_town", sql: plain!("../../migrations/town/0001_town.sql") },
    Migration { id: 2, name: "0002_nudges", sql: plain!("../../migrations/town/0002_nudges.sql") },
    Migration { id: 3, name: "0003_lines", sql: plain!("../../migrations/town/0003_lines.sql") },
    Migration { id: 4, name: "0004_convoys", sql: plain!("../../migrations/town/0004_convoys.sql") },
    Migration { id: 5, name: "0005_molecules", sql: plain!("../../migrations/town/0005_molecules.sql") },
    Migration { id: 6, name: "0006_reviews", sql: plain!("../../migrations/town/0006_reviews.sql") },
    Migration { id: 7, name: "0007_departed", sql: plain!("../../migrations/town/0007_departed.sql") },
];

/// One step of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number: 1, 2, 3, ….
    pub id: i64,
    /// Its file's name.
    pub name: &'static str,
    /// Its text.
    pub sql: &'static str,
}

impl Migration {
    /// SHA-256 of the text, in hex.
    #[must_use]
    pub fn checksum(&self) -> String {
        super::text::hex(&Sha256::digest(self.sql.as_bytes()))
    }
}

/// Why a town refuses to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// An applied migration has another text than ours.
    #[error(
        "migration {name} was applied with checksum {applied}, but this build has {ours}; deploy the build that wrote it, or add a new migration instead of changing this one"
    )]
    Changed {
        /// The migration.
        name: String,
        /// What the database recorded.
        applied: String,
        /// What we have.
        ours: String,
    },
    /// The database is ahead of us.
    #[error("the database has migration {name}, which this build does not know; deploy a newer build")]
    Unknown {
        /// The migration.
        name: String,
    },
    /// The database failed.
    #[error("migrating failed: {0}")]
    Sql(#[from] SqlError),
}

/// Brings a town's database up to date, or refuses and touches nothing.
pub fn migrate(sql: &dyn Sql, now: Timestamp) -> Result<(), MigrateError> {
    migrate_with(sql, now, MIGRATIONS, &RECORDED)
}

/// The statements over one migrations table.
pub struct Ledger {
    /// Creates the table.
    pub create: &'static str,
    /// Lists `id, name, checksum`.
    pub list: &'static str,
    /// Records one.
    pub record: &'static str,
}

/// The table in which towns, their containers and agents' stores record theirs.
pub const RECORDED: Ledger = Ledger {
    create: "CREATE TABLE IF NOT EXISTS migrations (
               id         INTEGER PRIMARY KEY,
               name       TEXT NOT NULL,
               checksum   TEXT NOT NULL,
               applied_at INTEGER NOT NULL
             ) STRICT",
    list: "SELECT id, name, checksum FROM migrations ORDER BY id",
    record: "INSERT INTO migrations (id, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
};

/// As [`migrate`], with other steps: those of an agent's store, and of tests.
pub fn migrate_with(sql: &dyn Sql, now: Timestamp, ours: &[Migration], ledger: &Ledger) -> Result<(), MigrateError> {
    // It is the first table that is made: with the limit this reads a row or two, not the whole schema.
    let exists = any(sql, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations' LIMIT 1", &[])?;
    let applied = if exists { sql.query(ledger.list, &[])? } else { Vec::new() };
    for row in &applied {
        let (id, name, checksum) = (row.int(0)?, row.text(1)?, row.text(2)?);
        match ours.iter().find(|m| m.id == id) {
            None => return Err(MigrateError::Unknown { name }),
            Some(m) if m.checksum() != checksum => {
                return Err(MigrateError::Changed { name, applied: checksum, ours: m.checksum() });
            }
            Some(_) => {}
        }
    }
    let last = applied.last().map_or(Ok(0), |r| r.int(0))?;
    for m in ours.iter().filter(|m| m.id > last) {
        atomically::<(), SqlError>(sql, || {
            sql.execute(ledger.create, &[])?;
            sql.script(m.sql)?;
            sql.execute(ledger.record, &[m.id.into(), m.name.into(), (&m.checksum()).into(), now.into()])?;
            Ok(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_carried_without_its_comments() {
        const TEXT: &[u8] = b"-- why\n\nCREATE TABLE a (\n  b TEXT, -- what\n  -- more\n  c  INTEGER - 1\n);\n-- end";
        let plain: [u8; squeezed_len(TEXT)] = squeeze(TEXT);
        assert_eq!(std::str::from_utf8(&plain).unwrap(), "CREATE TABLE a (\nb TEXT, c INTEGER - 1\n);\n");
    }
}
