//! The town's database over the object's SQLite.
//!
//! Two traps are walled off here. First, `one`, `next` and `toArray` of a cursor throw through wasm frames and take
//! the whole isolate down; only `exec` and `raw` catch. Second, a cursor is a live view: it is drained before the call
//! returns, always, which is also what makes `RETURNING` finish and the row counts final.

use super::panic_probe;
use crate::town::sql::{Arg, Row, Sql, SqlError, Undo, Usage, Value};
use std::{cell::Cell, panic::AssertUnwindSafe};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use worker::{SqlStorage, SqlStorageValue, Storage};

#[wasm_bindgen]
extern "C" {
    type RawStorage;
    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    fn transaction_sync(
        this: &RawStorage,
        callback: &mut dyn FnMut() -> Result<JsValue, JsValue>,
    ) -> Result<JsValue, JsValue>;
}

/// The largest whole number that survives the way through JavaScript.
const MAX_SAFE: i64 = (1 << 53) - 1;

/// A town's database, with a count of what it costs.
#[derive(Debug)]
pub struct ObjectSql {
    storage: Storage,
    sql: SqlStorage,
    usage: Cell<Usage>,
}

impl ObjectSql {
    /// The database of an object.
    #[must_use]
    pub fn new(storage: Storage) -> Self {
        let sql = storage.sql();
        Self { storage, sql, usage: Cell::default() }
    }

    /// Runs `text` and drains it: its rows, and how many rows it wrote.
    fn run(&self, text: &str, args: &[Arg<'_>]) -> Result<(Vec<Row>, u64), SqlError> {
        let bound = args.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let cursor = self.sql.exec(text, bound).map_err(|e| sql_error(&e))?;
        let mut rows = Vec::new();
        for row in cursor.raw() {
            // The first error ends the loop; a cursor that has thrown is not asked again.
            let row = row.map_err(|e| sql_error(&e))?;
            rows.push(Row(row.into_iter().map(read).collect::<Result<Vec<_>, _>>()?));
        }
        for arg in args {
            if let Arg::Text(text) = arg {
                panic_probe::at("row", text);
            }
        }
        // The counts are final only now.
        let (read, written) = (cursor.rows_read() as u64, cursor.rows_written() as u64);
        let usage = self.usage.get();
        self.usage.set(Usage {
            rows_read: usage.rows_read.saturating_add(read),
            rows_written: usage.rows_written.saturating_add(written),
            statements: usage.statements.saturating_add(1),
        });
        Ok((rows, written))
    }
}

impl Sql for ObjectSql {
    fn query(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, SqlError> {
        self.run(sql, args).map(|(rows, _)| rows)
    }

    fn execute(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, SqlError> {
        self.run(sql, args).map(|(_, written)| written)
    }

    /// `transactionSync` is a savepoint: it nests, and it rolls back when its callback throws. `worker` does not bind
    /// it. The callback runs synchronously inside the call, so nothing can come between its statements. A panic in it is
    /// caught by its binding and thrown on as a JavaScript error, so that it rolls back like any other.
    fn savepoint(&self, body: &mut dyn FnMut() -> Result<(), Undo>) -> Result<(), SqlError> {
        let raw: &RawStorage = AsRef::<JsValue>::as_ref(self.storage.as_raw()).unchecked_ref();
        let undone = Cell::new(false);
        // A panic leaves `undone` as it was, and the body is not called again.
        let mut section = AssertUnwindSafe((body, &undone));
        let thrown = raw.transaction_sync(&mut move || {
            let (body, undone) = &mut *section;
            undone.set(body().is_err());
            if undone.get() { Err(JsValue::from_str("undone")) } else { Ok(JsValue::UNDEFINED) }
        });
        match thrown {
            Ok(_) => Ok(()),
            Err(_) if undone.get() => Err(SqlError::new("the savepoint was undone")),
            Err(e) => Err(sql_error(&worker::Error::from(e))),
        }
    }

    fn script(&self, sql: &'static str) -> Result<(), SqlError> {
        self.run(sql, &[]).map(|_| ())
    }

    fn usage(&self) -> Usage {
        self.usage.get()
    }
}

fn bind(value: &Arg<'_>) -> Result<SqlStorageValue, SqlError> {
    match value {
        Arg::Null => Ok(SqlStorageValue::Null),
        Arg::Int(n) if (-MAX_SAFE..=MAX_SAFE).contains(n) => Ok(SqlStorageValue::Integer(*n)),
        Arg::Int(_) => Err(SqlError::new("a number to be bound is beyond 2^53")),
        Arg::Text(text) => Ok(SqlStorageValue::String((*text).to_owned())),
        Arg::Blob(bytes) => Ok(SqlStorageValue::Blob(bytes.to_vec())),
    }
}

fn read(value: SqlStorageValue) -> Result<Value, SqlError> {
    match value {
        SqlStorageValue::Null => Ok(Value::Null),
        SqlStorageValue::Integer(n) => Ok(Value::Int(n)),
        SqlStorageValue::String(text) => Ok(Value::Text(text)),
        SqlStorageValue::Boolean(flag) => Ok(Value::Int(i64::from(flag))),
        SqlStorageValue::Blob(bytes) => Ok(Value::Blob(bytes)),
        // The schema has none; a function in a query might.
        SqlStorageValue::Float(_) => Err(SqlError::new("a column holds a fraction")),
    }
}

fn sql_error(error: &worker::Error) -> SqlError {
    SqlError::new(super::errors::words(error))
}
