//! An agent's session as it was saved last: bytes in parts, since no row may be as large as a whole one.
//!
//! *Guarantees*: a reader sees one upload, whole, or none. An upload is written part by part beside the snapshot that counts,
//! and takes its place in one savepoint; what ended half-way is dropped when the next one begins. Nothing but one part is
//! ever in memory.

use crate::town::{
    error::TownError,
    policy::{SNAPSHOT_BYTES, SNAPSHOT_PART_BYTES},
    sql::{Arg, Sql, SqlError, first},
    time::Timestamp,
};

/// Places of one upload: a power of two above the parts that the largest has.
const PLACES: i64 = 64;

/// What a snapshot that counts consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Which upload it was.
    pub upload: i64,
    /// Its parts, counted from 0.
    pub parts: i64,
}

/// The snapshot that counts.
pub fn whole(sql: &dyn Sql) -> Result<Option<Whole>, SqlError> {
    let row = first(sql, "SELECT upload, parts FROM snapshot WHERE id = 1", &[])?;
    row.map(|r| Ok(Whole { upload: r.int(0)?, parts: r.int(1)? })).transpose()
}

/// One part of an upload; `None` if another upload has taken its place meanwhile.
pub fn part(sql: &dyn Sql, upload: i64, part: i64) -> Result<Option<Vec<u8>>, SqlError> {
    let row = first(sql, "SELECT bytes FROM snapshot_parts WHERE place = ?1", &[(upload * PLACES + part).into()])?;
    row.map(|r| r.bytes(0)).transpose()
}

/// An upload on its way.
#[derive(Debug)]
pub struct Upload {
    id: i64,
    parts: i64,
    bytes: usize,
    pending: Vec<u8>,
}

impl Upload {
    /// Begins one, and drops whatever another one left. `last` is the id of the last that began, as far as is remembered.
    pub fn begin(sql: &dyn Sql, last: i64) -> Result<Self, TownError> {
        let counts = sweep(sql)?;
        Ok(Self { id: counts.max(last) + 1, parts: 0, bytes: 0, pending: Vec::new() })
    }
    /// Which upload this is: one more than any before.
    #[must_use]
    pub const fn id(&self) -> i64 {
        self.id
    }
    /// Takes the next bytes; 413 beyond [`SNAPSHOT_BYTES`].
    pub fn push(&mut self, sql: &dyn Sql, bytes: &[u8]) -> Result<(), TownError> {
        self.bytes += bytes.len();
        if self.bytes > SNAPSHOT_BYTES {
            return Err(TownError::too_large(format!("Request body too large: at most {SNAPSHOT_BYTES} bytes")));
        }
        for piece in bytes.chunks(SNAPSHOT_PART_BYTES) {
            let room = SNAPSHOT_PART_BYTES.saturating_sub(self.pending.len()).min(piece.len());
            let (now, then) = piece.split_at_checked(room).unwrap_or((piece, &[]));
            self.pending.extend_from_slice(now);
            if self.pending.len() >= SNAPSHOT_PART_BYTES {
                self.flush(sql)?;
            }
            self.pending.extend_from_slice(then);
        }
        Ok(())
    }
    fn flush(&mut self, sql: &dyn Sql) -> Result<(), SqlError> {
        let bytes = std::mem::take(&mut self.pending);
        sql.execute(
            "INSERT INTO snapshot_parts (place, bytes) VALUES (?1, ?2)",
            &[(self.id * PLACES + self.parts).into(), Arg::Blob(&bytes)],
        )?;
        self.parts += 1;
        Ok(())
    }
    /// Makes it the snapshot that counts; an empty one is a snapshot of no bytes. To be run in a savepoint.
    pub fn finish(mut self, sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
        if !self.pending.is_empty() {
            self.flush(sql)?;
        }
        sql.execute(
            "INSERT INTO snapshot (id, upload, parts, stored_at)
             VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE
             SET upload = excluded.upload, parts = excluded.parts, stored_at = excluded.stored_at",
            &[self.id.into(), self.parts.into(), now.into()],
        )?;
        drop_others(sql, self.id)
    }
}

/// Drops the snapshot, and every upload on its way. To be run in a savepoint.
pub fn remove(sql: &dyn Sql) -> Result<(), TownError> {
    sql.execute("DELETE FROM snapshot WHERE id = 1", &[])?;
    drop_others(sql, 0)
}

/// Drops what uploads have left that ended half-way; returns the one that counts, 0 if none does.
pub fn sweep(sql: &dyn Sql) -> Result<i64, TownError> {
    let counts = whole(sql)?.map_or(0, |w| w.upload);
    drop_others(sql, counts)?;
    Ok(counts)
}

/// Drops every part that is not of `upload`; 0 is none.
fn drop_others(sql: &dyn Sql, upload: i64) -> Result<(), TownError> {
    sql.execute(
        "DELETE FROM snapshot_parts WHERE place < ?1 OR place >= ?2",
        &[(upload * PLACES).into(), ((upload + 1) * PLACES).into()],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_snapshot_has_a_place_for_every_part() {
        let parts = SNAPSHOT_BYTES.div_ceil(SNAPSHOT_PART_BYTES);
        assert!(i64::try_from(parts).unwrap() <= PLACES, "{parts}");
    }
}
