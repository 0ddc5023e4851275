//! The town's [`Sql`] over rusqlite, refusing what a Durable Object's SQLite refuses.
//!
//! A statement that passes here passes in workerd: the same limits, the same authorizer (no transactions by text, no
//! `_cf_` names, few pragmas, no temporary objects, an allow-list of functions), the same narrow values. What it cannot
//! do is count rows read; it collects the text of every statement instead, so that a test can demand of each that its
//! plan scans no growing table ([`Sqlite::scans`]).

use crate::plan::{names_of, offends, words, written_by};
use crate::workerd;
use gastown::town::sql::{Arg, Row, Sql, SqlError, Undo, Usage, Value};
use rusqlite::{
    Connection, Statement, fallible_iterator::FallibleIterator, hooks::AuthContext, params_from_iter, types::ValueRef,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The largest whole number that a JavaScript number carries unharmed, which is how workerd hands integers over.
const SAFE: i64 = (1 << 53) - 1;

/// Prepared statements kept; more than the town has, so that none is prepared twice.
const CACHED: usize = 1_000;

/// How an injected failure behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlFault {
    /// One statement fails, as by `SQLITE_TOOBIG`; the next ones work. The caller must cope.
    Once,
    /// It and everything after it fails until [`Sqlite::heal`], and what is not committed is lost: the object died here.
    Broken,
}

/// A statement's text and the table that it writes, if it does.
type Text = (&'static str, Option<String>);

/// One town's database.
pub struct Sqlite {
    conn: Connection,
    /// The statement being prepared is ours, not a caller's.
    trusted: Arc<AtomicBool>,
    depth: Cell<u32>,
    usage: Cell<Usage>,
    /// Every statement text seen, by address: the texts are static.
    texts: RefCell<HashMap<(usize, usize), Text>>,
    /// How often each table was written; under the empty name, how often by a script.
    versions: RefCell<HashMap<String, u64>>,
    fault: Cell<Option<(u64, SqlFault)>>,
    broken: Cell<bool>,
}

impl Sqlite {
    /// A fresh database that lives as long as this value.
    ///
    /// # Panics
    /// If SQLite cannot be set up.
    #[must_use]
    pub fn memory() -> Self {
        Self::over(Connection::open_in_memory().expect("an in-memory database opens"))
    }

    /// The database in a file, made if missing.
    ///
    /// # Panics
    /// If the file cannot be opened.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let conn = Connection::open(path).expect("the database file opens");
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").expect("the journal can be chosen");
        Self::over(conn)
    }

    fn over(conn: Connection) -> Self {
        conn.execute_batch("PRAGMA foreign_keys = ON").expect("foreign keys can be switched on");
        workerd::limit(&conn).expect("the platform's limits can be set");
        conn.set_prepared_statement_cache_capacity(CACHED);
        let trusted = Arc::new(AtomicBool::new(false));
        let ours = Arc::clone(&trusted);
        conn.authorizer(Some(move |ctx: AuthContext<'_>| {
            if ours.load(Ordering::Relaxed) {
                rusqlite::hooks::Authorization::Allow
            } else {
                workerd::authorize(ctx.action)
            }
        }));
        Self {
            conn,
            trusted,
            depth: Cell::new(0),
            usage: Cell::default(),
            texts: RefCell::default(),
            versions: RefCell::default(),
            fault: Cell::new(None),
            broken: Cell::new(false),
        }
    }

    // ── for tests ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Reads rows behind the town's back: not counted, not recorded, not failed, and any text will do.
    ///
    /// # Panics
    /// If the statement fails.
    #[must_use]
    pub fn peek(&self, sql: &str, args: &[Value]) -> Vec<Row> {
        self.trusting(|| {
            let mut stmt = self.conn.prepare_cached(sql)?;
            drain(&mut stmt, args)
        })
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The same, but shows every row to `wanted` first, with the number of its columns, and decodes those it wants.
    pub(crate) fn peek_each(
        &self,
        sql: &'static str,
        mut wanted: impl FnMut(usize, &rusqlite::Row<'_>) -> rusqlite::Result<bool>,
    ) -> Vec<Row> {
        self.trusting(|| {
            let mut stmt = self.conn.prepare_cached(sql)?;
            let columns = stmt.column_count();
            let mut rows = stmt.raw_query();
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                if wanted(columns, row)? {
                    out.push(decoded(columns, row)?);
                }
            }
            Ok(out)
        })
        .unwrap_or_else(|e: rusqlite::Error| panic!("{sql}: {e}"))
    }

    /// Grows with every statement that changed rows of this table, be it undone or not.
    pub(crate) fn version(&self, table: &str) -> u64 {
        let versions = self.versions.borrow();
        let of = |name: &str| versions.get(name).copied().unwrap_or(0);
        of(table) + of("")
    }

    fn wrote(&self, table: &str) {
        let mut versions = self.versions.borrow_mut();
        match versions.get_mut(table) {
            Some(version) => *version += 1,
            None => drop(versions.insert(table.to_owned(), 1)),
        }
    }

    /// Every row of every table in a fixed order: equal dumps, equal databases.
    ///
    /// # Panics
    /// If a table cannot be read.
    #[must_use]
    pub fn dump(&self) -> String {
        let tables = self.peek("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name", &[]);
        let mut out = String::new();
        for table in tables {
            let table = table.text(0).expect("a table has a name");
            let _ = writeln!(out, "── {table}");
            let mut rows: Vec<String> =
                self.peek(&format!("SELECT * FROM \"{table}\""), &[]).iter().map(|r| format!("{:?}", r.0)).collect();
            rows.sort_unstable();
            for row in rows {
                let _ = writeln!(out, "{row}");
            }
        }
        out
    }

    /// Makes the `nth` statement from now fail (1 is the next one).
    pub fn fail_statement(&self, nth: u64, fault: SqlFault) {
        self.fault.set(Some((nth.max(1), fault)));
    }

    /// Ends every injected failure.
    pub fn heal(&self) {
        self.fault.set(None);
        self.broken.set(false);
    }

    /// Runs `body`, which no injected failure harms: all of them are there again for whoever comes after.
    pub fn unharmed<T>(&self, body: impl FnOnce() -> T) -> T {
        let (armed, broken) = (self.fault.take(), self.broken.take());
        let out = body();
        self.fault.set(armed);
        self.broken.set(broken);
        out
    }

    /// True if it broke and was not healed: the object is as good as dead.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// True if a failure is armed that has not struck yet.
    #[must_use]
    pub fn fault_is_armed(&self) -> bool {
        self.fault.get().is_some()
    }

    /// The text of every statement executed so far (scripts aside), each once, in alphabetical order.
    #[must_use]
    pub fn statements(&self) -> Vec<&'static str> {
        self.texts.borrow().values().map(|(text, _)| *text).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The lines of `EXPLAIN QUERY PLAN`.
    ///
    /// # Panics
    /// If the statement does not compile.
    #[must_use]
    pub fn plan(&self, sql: &str) -> Vec<String> {
        self.trusting(|| {
            let mut stmt = self.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let mut rows = stmt.raw_query();
            let mut details = Vec::new();
            while let Some(row) = rows.next()? {
                details.push(row.get(3)?);
            }
            Ok(details)
        })
        .unwrap_or_else(|e: rusqlite::Error| panic!("{sql}: {e}"))
    }

    /// The statements executed so far that read all of a growing table: (statement, line of its plan).
    ///
    /// A line offends if it scans the table itself, scans it by an index made on the fly, or scans a whole index of it.
    /// A scan of a *partial* index is what a rule is meant to do (the index holds only what is due), and one of a full
    /// index is right under a `LIMIT` (the newest rows first): neither offends.
    #[must_use]
    pub fn scans(&self, growing: &[&str]) -> Vec<(&'static str, String)> {
        let partial = self.partial_indexes();
        let mut offending = Vec::new();
        for sql in self.statements() {
            let words = words(sql);
            let names = names_of(&words, growing);
            let limited = words.iter().any(|w| w.eq_ignore_ascii_case("limit"));
            for line in self.plan(sql) {
                if offends(&line, &names, &partial, limited) {
                    offending.push((sql, line));
                }
            }
        }
        offending
    }

    fn partial_indexes(&self) -> BTreeSet<String> {
        self.peek(
            "SELECT i.name FROM sqlite_schema t, pragma_index_list(t.name) i WHERE t.type = 'table' AND i.partial = 1",
            &[],
        )
        .iter()
        .map(|row| row.text(0).expect("an index has a name").to_ascii_lowercase())
        .collect()
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn trusting<T>(&self, body: impl FnOnce() -> T) -> T {
        let before = self.trusted.swap(true, Ordering::Relaxed);
        let out = body();
        self.trusted.store(before, Ordering::Relaxed);
        out
    }

    fn transaction(&self, text: &'static str) -> Result<(), SqlError> {
        self.trusting(|| self.conn.prepare_cached(text).and_then(|mut s| s.raw_execute().map(|_| ()))).map_err(told)
    }

    /// Counts a statement and lets an armed failure strike.
    fn begin(&self) -> Result<(), SqlError> {
        let mut usage = self.usage.get();
        usage.statements += 1;
        self.usage.set(usage);
        if self.broken.get() {
            return Err(SqlError::new("injected: the object is broken: SQLITE_IOERR"));
        }
        match self.fault.get() {
            None => Ok(()),
            Some((1, fault)) => {
                self.fault.set(None);
                self.broken.set(fault == SqlFault::Broken);
                Err(SqlError::new("injected: disk I/O error: SQLITE_IOERR"))
            }
            Some((n, fault)) => {
                self.fault.set(Some((n - 1, fault)));
                Ok(())
            }
        }
    }

    fn run(&self, sql: &'static str, args: &[Value]) -> Result<(Vec<Row>, u64), SqlError> {
        self.begin()?;
        let at = (sql.as_ptr().addr(), sql.len());
        self.texts.borrow_mut().entry(at).or_insert_with(|| (sql, written_by(sql).map(str::to_owned)));
        if let Some(Value::Int(n)) = args.iter().find(|v| matches!(v, Value::Int(n) if !(-SAFE..=SAFE).contains(n))) {
            return Err(SqlError::new(format!("{n} would not survive the way through a JavaScript number")));
        }
        let before = self.conn.total_changes();
        let mut stmt = self.conn.prepare_cached(sql).map_err(told)?;
        let rows = drain(&mut stmt, args).map_err(told);
        // Counted even if a later row failed: the platform bills it.
        let changed = self.conn.total_changes() - before;
        let mut usage = self.usage.get();
        usage.rows_written += changed;
        self.usage.set(usage);
        if changed > 0 {
            self.wrote(self.texts.borrow().get(&at).and_then(|(_, table)| table.as_deref()).unwrap_or_default());
        }
        Ok((rows?, changed))
    }
}

impl Sql for Sqlite {
    fn query(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, SqlError> {
        self.run(sql, &owned(args)).map(|(rows, _)| rows)
    }

    fn execute(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, SqlError> {
        self.run(sql, &owned(args)).map(|(_, changed)| changed)
    }

    /// One name serves every depth: SQLite means the innermost savepoint of that name.
    fn savepoint(&self, body: &mut dyn FnMut() -> Result<(), Undo>) -> Result<(), SqlError> {
        self.transaction("SAVEPOINT town")?;
        self.depth.set(self.depth.get() + 1);
        let open = Open { sql: self };
        let verdict = body();
        std::mem::forget(open);
        self.depth.set(self.depth.get() - 1);
        let committed = match verdict {
            Ok(()) if self.broken.get() => Err(SqlError::new("injected: the object died before the commit")),
            Ok(()) => self.transaction("RELEASE town"),
            Err(Undo) => return self.undo(),
        };
        if committed.is_err() {
            self.undo()?;
        }
        committed
    }

    fn script(&self, sql: &'static str) -> Result<(), SqlError> {
        let mut batch = rusqlite::Batch::new(&self.conn, sql);
        loop {
            let before = self.conn.total_changes();
            let Some(mut stmt) = batch.next().map_err(told)? else { return Ok(()) };
            self.begin()?;
            drain(&mut stmt, &[]).map_err(told)?;
            self.wrote("");
            let mut usage = self.usage.get();
            usage.rows_written += self.conn.total_changes() - before;
            self.usage.set(usage);
        }
    }

    fn usage(&self) -> Usage {
        self.usage.get()
    }
}

impl Sqlite {
    fn undo(&self) -> Result<(), SqlError> {
        self.transaction("ROLLBACK TO town")?;
        self.transaction("RELEASE town")
    }
}

/// An open savepoint, undone if its body panics: a failed test must not leave another one's rows behind.
struct Open<'a> {
    sql: &'a Sqlite,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.sql.depth.set(self.sql.depth.get() - 1);
        let _ = self.sql.undo();
    }
}

fn told(error: rusqlite::Error) -> SqlError {
    SqlError::new(workerd::in_words(error))
}

/// Runs a statement to its end: `INSERT … RETURNING` finishes only when drained.
fn drain(stmt: &mut Statement<'_>, args: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let columns = stmt.column_count();
    let mut rows = stmt.query(params_from_iter(args.iter().map(Bound)))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decoded(columns, row)?);
    }
    Ok(out)
}

fn decoded(columns: usize, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    (0..columns).map(|i| read(i, row.get_ref(i)?)).collect::<rusqlite::Result<Vec<Value>>>().map(Row)
}

fn owned(args: &[Arg<'_>]) -> Vec<Value> {
    args.iter().map(|a| Value::from(*a)).collect()
}

struct Bound<'a>(&'a Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => rusqlite::types::Null.into(),
            Value::Int(v) => (*v).into(),
            Value::Text(v) => v.as_str().into(),
            Value::Blob(v) => v.as_slice().into(),
        })
    }
}

/// A value as workerd hands it over: a whole REAL reads as an integer, anything the town has no type for is refused.
fn read(column: usize, value: ValueRef<'_>) -> rusqlite::Result<Value> {
    let refused = |what: &str| rusqlite::Error::ToSqlConversionFailure(format!("column {column}: {what}").into());
    match value {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(v) if (-SAFE..=SAFE).contains(&v) => Ok(Value::Int(v)),
        ValueRef::Integer(_) => Err(refused("an integer that a JavaScript number would round")),
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "whole and within 2^53")]
        ValueRef::Real(v) if v.fract() == 0.0 && v.abs() <= SAFE as f64 => Ok(Value::Int(v as i64)),
        ValueRef::Real(_) => Err(refused("a fraction, which the town has no type for")),
        ValueRef::Text(v) => {
            Ok(Value::Text(std::str::from_utf8(v).map_err(|_| refused("text that is not UTF-8"))?.to_owned()))
        }
        ValueRef::Blob(v) => Ok(Value::Blob(v.to_vec())),
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
