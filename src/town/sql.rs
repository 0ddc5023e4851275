//! The town's view of its database: four calls, constant text, positional arguments.
//!
//! `src/platform/sql.rs` implements it over a Durable Object's SQLite, the `host` crate over rusqlite with the same
//! limits. Both count rows where their platform counts them, so that budgets can be asserted in workerd.

use super::time::Timestamp;
use std::cell::Cell;
use std::fmt;

/// A value read from a statement.
///
/// There is no boolean and no float on purpose: workerd stores a bound `true` as the text `'true'`, and a bound number
/// in a TEXT column as `'10.0'`. Flags are 0 and 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A whole number within ±(2^53 − 1), which is what workerd passes through unharmed.
    Int(i64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A value to be bound: borrowed, so that binding makes nothing that must be dropped again on every way out of the verb
/// (docs/decisions/013-size.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// SQL NULL.
    Null,
    /// A whole number within ±(2^53 − 1).
    Int(i64),
    /// UTF-8 text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl From<i64> for Arg<'_> {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}
impl From<u32> for Arg<'_> {
    fn from(v: u32) -> Self {
        Self::Int(i64::from(v))
    }
}
impl From<bool> for Arg<'_> {
    fn from(v: bool) -> Self {
        Self::Int(i64::from(v))
    }
}
impl<'a> From<&'a str> for Arg<'a> {
    fn from(v: &'a str) -> Self {
        Self::Text(v)
    }
}
impl<'a> From<&'a String> for Arg<'a> {
    fn from(v: &'a String) -> Self {
        Self::Text(v)
    }
}
impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(v: &'a [u8]) -> Self {
        Self::Blob(v)
    }
}
impl<T: Into<Self>> From<Option<T>> for Arg<'_> {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

impl<'a, T: Into<Arg<'a>>> From<T> for Value {
    fn from(v: T) -> Self {
        match v.into() {
            Arg::Null => Self::Null,
            Arg::Int(v) => Self::Int(v),
            Arg::Text(v) => Self::Text(v.to_owned()),
            Arg::Blob(v) => Self::Blob(v.to_vec()),
        }
    }
}

/// One row, read by position: the columns stand in the order of the `SELECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub Vec<Value>);

impl Row {
    /// Column `i` as a whole number.
    pub fn int(&self, i: usize) -> Result<i64, SqlError> {
        match self.0.get(i) {
            Some(Value::Int(v)) => Ok(*v),
            other => Err(SqlError::shape(i, "an integer", other)),
        }
    }
    /// Column `i` as a whole number or NULL.
    pub fn opt_int(&self, i: usize) -> Result<Option<i64>, SqlError> {
        match self.0.get(i) {
            Some(Value::Null) => Ok(None),
            _ => self.int(i).map(Some),
        }
    }
    /// Column `i` as a count; a negative number is refused.
    pub fn count(&self, i: usize) -> Result<u32, SqlError> {
        u32::try_from(self.int(i)?).map_err(|_| SqlError::shape(i, "a count", self.0.get(i)))
    }
    /// Column `i` as a flag (0 or 1).
    pub fn flag(&self, i: usize) -> Result<bool, SqlError> {
        Ok(self.int(i)? != 0)
    }
    /// Column `i` as text.
    pub fn text(&self, i: usize) -> Result<String, SqlError> {
        match self.0.get(i) {
            Some(Value::Text(v)) => Ok(v.clone()),
            other => Err(SqlError::shape(i, "text", other)),
        }
    }
    /// Column `i` as bytes.
    pub fn bytes(&self, i: usize) -> Result<Vec<u8>, SqlError> {
        match self.0.get(i) {
            Some(Value::Blob(v)) => Ok(v.clone()),
            other => Err(SqlError::shape(i, "bytes", other)),
        }
    }
    /// Column `i` as text or NULL.
    pub fn opt_text(&self, i: usize) -> Result<Option<String>, SqlError> {
        match self.0.get(i) {
            Some(Value::Null) => Ok(None),
            _ => self.text(i).map(Some),
        }
    }
}

/// Reads the columns of a wide row into a struct: the first column of another shape is noted and told at the end, so that
/// building the struct has one way through and not thirty ways out, each of which would have to drop the fields read so
/// far (a fiftieth of the Wasm).
#[allow(missing_debug_implementations, reason = "lives for one row")]
pub struct Columns<'a> {
    row: &'a Row,
    failed: Cell<Option<SqlError>>,
}

impl<'a> Columns<'a> {
    /// The columns of a row.
    #[must_use]
    pub const fn of(row: &'a Row) -> Self {
        Self { row, failed: Cell::new(None) }
    }
    fn keep<T: Default>(&self, read: Result<T, SqlError>) -> T {
        read.unwrap_or_else(|e| {
            self.fail(e);
            T::default()
        })
    }
    #[cold]
    #[inline(never)]
    fn fail(&self, e: SqlError) {
        let first = self.failed.take().unwrap_or(e);
        self.failed.set(Some(first));
    }
    /// [`Row::int`].
    #[inline(never)]
    pub fn int(&self, i: usize) -> i64 {
        self.keep(self.row.int(i))
    }
    /// [`Row::opt_int`].
    #[inline(never)]
    pub fn opt_int(&self, i: usize) -> Option<i64> {
        self.keep(self.row.opt_int(i))
    }
    /// [`Row::count`].
    #[inline(never)]
    pub fn count(&self, i: usize) -> u32 {
        self.keep(self.row.count(i))
    }
    /// [`Row::flag`].
    pub fn flag(&self, i: usize) -> bool {
        self.int(i) != 0
    }
    /// [`Row::text`].
    #[inline(never)]
    pub fn text(&self, i: usize) -> String {
        self.keep(self.row.text(i))
    }
    /// [`Row::opt_text`].
    #[inline(never)]
    pub fn opt_text(&self, i: usize) -> Option<String> {
        self.keep(self.row.opt_text(i))
    }
    /// A moment.
    pub fn at(&self, i: usize) -> Timestamp {
        Timestamp(self.int(i))
    }
    /// A moment or NULL.
    pub fn opt_at(&self, i: usize) -> Option<Timestamp> {
        self.opt_int(i).map(Timestamp)
    }
    /// A word that `parse` knows; `otherwise` stands in for one that it does not, which is an error.
    pub fn word<T>(&self, i: usize, parse: impl Fn(&str) -> Option<T>, otherwise: T) -> T {
        parse(&self.text(i)).unwrap_or_else(|| {
            self.fail(SqlError::shape(i, "a known word", self.row.0.get(i)));
            otherwise
        })
    }
    /// What was read, unless a column had another shape.
    pub fn done<T>(self, read: T) -> Result<T, SqlError> {
        match self.failed.into_inner() {
            Some(e) => Err(e),
            None => Ok(read),
        }
    }
}

/// What went wrong in the database. Never the caller's fault: the edge answers 500 and logs the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// SQLite's own words. (Boxed, so that the error is one word wide: a thousand `?` hand it on.)
    #[allow(clippy::box_collection, reason = "see above")]
    pub message: Box<String>,
}

impl SqlError {
    /// An error with SQLite's own words.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: Box::new(message.into()) }
    }
    fn shape(column: usize, wanted: &str, got: Option<&Value>) -> Self {
        // The value itself stays out of the text: it may be a user's.
        let got = match got {
            None => "nothing",
            Some(Value::Null) => "NULL",
            Some(Value::Int(_)) => "an integer",
            Some(Value::Text(_)) => "text",
            Some(Value::Blob(_)) => "bytes",
        };
        Self::new(format!("column {column}: expected {wanted}, found {got}"))
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for SqlError {}

/// Rows read and written since the object started, as the platform bills them, and statements run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Rows read (workerd's count; the host leaves it 0).
    pub rows_read: u64,
    /// Rows written, index rows included (workerd's count; on the host rows changed).
    pub rows_written: u64,
    /// Statements executed.
    pub statements: u64,
}

/// The town's database. Calls are synchronous and never leave a cursor open.
///
/// Statement text is `&'static str`: constant text is what the platform's statement cache is keyed by, and what keeps
/// values out of SQL.
pub trait Sql {
    /// Runs one statement and reads every row it yields.
    fn query(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, SqlError>;

    /// Runs one statement for its effect. The answer is 0 exactly when nothing matched; otherwise the platform's count
    /// of written rows, which may include index rows.
    fn execute(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, SqlError>;

    /// Runs `body` in a savepoint; `Err` undoes every write it made. Nests.
    fn savepoint(&self, body: &mut dyn FnMut() -> Result<(), Undo>) -> Result<(), SqlError>;

    /// Runs several statements without arguments (migrations only; the text comes from `migrations/`).
    fn script(&self, sql: &'static str) -> Result<(), SqlError>;

    /// What has been read and written so far.
    fn usage(&self) -> Usage;
}

/// The body of a savepoint says that its writes shall be undone.
#[derive(Clone, Copy, Debug)]
pub struct Undo;

/// Runs `body` in a savepoint and hands its answer out: `Err` undoes every write that it made.
pub fn atomically<T, E: From<SqlError>>(sql: &dyn Sql, body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let mut body = Some(body);
    let mut out: Option<Result<T, E>> = None;
    let ran = sql.savepoint(&mut || {
        let Some(body) = body.take() else { return Err(Undo) };
        let result = body();
        let verdict = if result.is_ok() { Ok(()) } else { Err(Undo) };
        out = Some(result);
        verdict
    });
    match (ran, out) {
        (_, Some(Err(e))) => Err(e),
        (Ok(()), Some(Ok(v))) => Ok(v),
        (Err(e), _) => Err(e.into()),
        (Ok(()), None) => Err(SqlError::new("the savepoint's body never ran").into()),
    }
}

/// True if the query yields a row. To be asked before an `UPDATE` or `DELETE` that seldom finds anything: finding nothing
/// costs it three rows read, and this one at most.
pub fn any(sql: &dyn Sql, text: &'static str, args: &[Arg<'_>]) -> Result<bool, SqlError> {
    Ok(!sql.query(text, args)?.is_empty())
}

/// The first row of a query that yields at most one.
pub fn first(sql: &dyn Sql, text: &'static str, args: &[Arg<'_>]) -> Result<Option<Row>, SqlError> {
    Ok(sql.query(text, args)?.into_iter().next())
}

/// What `read` makes of each row. One loop for all kinds of rows: an iterator chain for each would hold `read` once more.
pub fn each<T>(rows: &[Row], read: fn(&Row) -> Result<T, SqlError>) -> Result<Vec<T>, SqlError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        all.push(read(row)?);
    }
    Ok(all)
}
