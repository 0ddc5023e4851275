//! What changed in a table since it was last read, for whoever reads all of it after every step.
//!
//! *Guarantees.* A [`Mirror`] misses nothing that a whole reading would show: every row is read and compared, by a hash
//! of all its columns; only rows that differ are decoded. A table that no statement has written is not read at all.

use crate::sqlite::Sqlite;
use gastown::town::sql::Row;
use rusqlite::types::ValueRef;
use std::collections::HashMap;

/// A table as it was when it was last read.
#[derive(Debug)]
pub struct Mirror {
    table: &'static str,
    sql: &'static str,
    version: Option<u64>,
    seen: HashMap<Box<[u8]>, (u64, u64)>,
    readings: u64,
}

/// What changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Rows that are new, or differ in some column.
    pub changed: Vec<Row>,
    /// The keys of rows that are gone.
    pub gone: Vec<String>,
}

impl Changes {
    /// True if nothing did.
    #[must_use]
    pub const fn none(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }
}

impl Mirror {
    /// A mirror of what `sql` reads from `table` alone; its first column is a text that names the row.
    #[must_use]
    pub fn new(table: &'static str, sql: &'static str) -> Self {
        Self { table, sql, version: None, seen: HashMap::new(), readings: 0 }
    }

    /// What changed since the last call; everything at the first.
    ///
    /// # Panics
    /// If the statement fails or its first column is no text.
    pub fn changes(&mut self, db: &Sqlite) -> Changes {
        let version = db.version(self.table);
        let mut changes = Changes::default();
        if self.version.replace(version) == Some(version) {
            return changes;
        }
        self.readings += 1;
        let (seen, reading) = (&mut self.seen, self.readings);
        let mut rows = 0;
        db.peek_each(self.sql, |columns, row| {
            rows += 1;
            let mut hash = 0;
            for i in 0..columns {
                hash = mix(hash, row.get_ref(i)?);
            }
            let ValueRef::Text(key) = row.get_ref(0)? else { panic!("{}: its first column is no text", self.sql) };
            match seen.get_mut(key) {
                Some(known) if known.0 == hash => {
                    known.1 = reading;
                    return Ok(false);
                }
                Some(known) => *known = (hash, reading),
                None => drop(seen.insert(key.into(), (hash, reading))),
            }
            Ok(true)
        })
        .into_iter()
        .for_each(|row| changes.changed.push(row));
        if seen.len() > rows {
            seen.retain(|key, known| {
                if known.1 != reading {
                    changes.gone.push(String::from_utf8_lossy(key).into_owned());
                }
                known.1 == reading
            });
            changes.gone.sort_unstable();
        }
        changes
    }
}

const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

fn word(hash: u64, word: u64) -> u64 {
    let folded = u128::from((hash ^ word).rotate_left(23)) * u128::from(PRIME);
    #[allow(clippy::cast_possible_truncation, reason = "both halves are used")]
    let (low, high) = (folded as u64, (folded >> 64) as u64);
    low ^ high
}

fn mix(hash: u64, value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Null => word(hash, 1),
        ValueRef::Integer(n) => word(word(hash, 2), n.cast_unsigned()),
        ValueRef::Real(n) => word(word(hash, 3), n.to_bits()),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            let mut hash = word(hash, 4 + text.len() as u64);
            for chunk in text.chunks(8) {
                let mut bytes = [0; 8];
                bytes[..chunk.len()].copy_from_slice(chunk);
                hash = word(hash, u64::from_le_bytes(bytes));
            }
            hash
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gastown::town::sql::Sql as _;

    fn table() -> (Sqlite, Mirror) {
        let db = Sqlite::memory();
        db.script("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER, words TEXT) STRICT, WITHOUT ROWID;").unwrap();
        db.script("CREATE TABLE other (k TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;").unwrap();
        for k in ["'a'", "'b'", "'c'"] {
            let sql: &'static str = format!("INSERT INTO t (k, n, words) VALUES ({k}, 1, 'one')").leak();
            db.execute(sql, &[]).unwrap();
        }
        (db, Mirror::new("t", "SELECT k, n, words FROM t"))
    }

    fn keys(changes: &Changes) -> Vec<String> {
        changes.changed.iter().map(|r| r.text(0).unwrap()).collect()
    }

    #[test]
    fn the_first_reading_shows_everything_and_the_second_nothing() {
        let (db, mut mirror) = table();
        assert_eq!(keys(&mirror.changes(&db)), ["a", "b", "c"]);
        assert!(mirror.changes(&db).none());
        db.execute("INSERT INTO other (k) VALUES ('x')", &[]).unwrap();
        assert!(mirror.changes(&db).none());
    }

    #[test]
    fn every_kind_of_change_shows_and_nothing_else() {
        let (db, mut mirror) = table();
        drop(mirror.changes(&db));
        db.execute("UPDATE t SET n = 2 WHERE k = 'a'", &[]).unwrap();
        db.execute("UPDATE t SET words = NULL WHERE k = 'b'", &[]).unwrap();
        assert_eq!(keys(&mirror.changes(&db)), ["a", "b"]);
        db.execute("DELETE FROM t WHERE k = 'a'", &[]).unwrap();
        db.execute("INSERT OR REPLACE INTO t (k, n, words) VALUES ('d', 1, 'four')", &[]).unwrap();
        let changes = mirror.changes(&db);
        assert_eq!((keys(&changes), changes.gone), (vec!["d".to_owned()], vec!["a".to_owned()]));
        // Written, but as it was.
        db.execute("UPDATE t SET n = n", &[]).unwrap();
        assert!(mirror.changes(&db).none());
    }

    #[test]
    fn what_was_rolled_back_never_shows() {
        let (db, mut mirror) = table();
        drop(mirror.changes(&db));
        let undone = db.savepoint(&mut || {
            db.execute("UPDATE t SET n = 9", &[]).unwrap();
            Err(gastown::town::sql::Undo)
        });
        assert!(undone.is_ok());
        assert!(mirror.changes(&db).none());
    }
}
