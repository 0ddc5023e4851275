//! What a Durable Object's SQLite refuses, as tables (`platform.md` 4.1, workerd's `sqlite.c++`).

use rusqlite::{
    Connection,
    ffi::{self, Error as SqliteCode},
    hooks::{AuthAction, Authorization},
    limits::Limit,
};
use std::collections::HashSet;
use std::sync::LazyLock;

/// The limits that workerd sets on every connection.
const LIMITS: [(Limit, i32); 11] = [
    (Limit::SQLITE_LIMIT_LENGTH, 2_200_000),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
    (Limit::SQLITE_LIMIT_COLUMN, 100),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 5),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
    (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
];

/// Pragmas that take an argument or none.
const PRAGMAS: [&str; 17] = [
    "case_sensitive_like",
    "defer_foreign_keys",
    "foreign_key_check",
    "foreign_key_list",
    "foreign_keys",
    "ignore_check_constraints",
    "index_info",
    "index_list",
    "index_xinfo",
    "legacy_alter_table",
    "optimize",
    "quick_check",
    "recursive_triggers",
    "reverse_unordered_selects",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Pragmas that may be read only.
const READ_PRAGMAS: [&str; 2] = ["data_version", "page_size"];

/// Virtual table modules that may be used.
const MODULES: [&str; 3] = ["fts5", "fts5vocab", "rtree"];

/// Functions that may be called: core, date, aggregate, window, math, JSON, full text, and what `ALTER TABLE` uses.
static FUNCTIONS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    "abs changes char coalesce concat concat_ws format glob hex ifnull if iif instr last_insert_rowid length like \
     likelihood likely lower ltrim max min nullif octet_length printf quote random randomblob replace round rtrim sign \
     substr substring total_changes trim typeof unhex unicode unlikely upper zeroblob \
     date time datetime julianday unixepoch strftime timediff current_date current_time current_timestamp \
     avg count group_concat string_agg sum total median percentile percentile_cont percentile_disc \
     row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value \
     acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power \
     radians sin sinh sqrt tan tanh trunc \
     json jsonb json_array jsonb_array json_array_length json_extract jsonb_extract -> ->> json_insert jsonb_insert \
     json_object jsonb_object json_patch jsonb_patch json_remove jsonb_remove json_replace jsonb_replace json_set \
     jsonb_set json_type json_valid json_quote json_group_array jsonb_group_array json_group_object \
     jsonb_group_object json_each json_tree \
     highlight bm25 snippet match \
     sqlite_rename_column sqlite_rename_table sqlite_rename_test sqlite_rename_quotefix sqlite_drop_column"
        .split_whitespace()
        .collect()
});

/// Sets the platform's limits.
pub(crate) fn limit(conn: &Connection) -> rusqlite::Result<()> {
    for (limit, value) in LIMITS {
        conn.set_limit(limit, value)?;
    }
    Ok(())
}

/// What workerd's authorizer says to an action of a caller's statement.
pub(crate) fn authorize(action: AuthAction<'_>) -> Authorization {
    let allowed = match action {
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::Unknown { .. } => false,
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let name = pragma_name.to_ascii_lowercase();
            PRAGMAS.contains(&name.as_str()) || (READ_PRAGMAS.contains(&name.as_str()) && pragma_value.is_none())
        }
        AuthAction::Function { function_name } => FUNCTIONS.contains(function_name.to_ascii_lowercase().as_str()),
        AuthAction::CreateVtable { table_name, module_name } | AuthAction::DropVtable { table_name, module_name } => {
            MODULES.contains(&module_name.to_ascii_lowercase().as_str()) && free(table_name)
        }
        AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Read { table_name, .. }
        | AuthAction::Update { table_name, .. }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::Analyze { table_name } => free(table_name),
        AuthAction::CreateIndex { index_name, table_name } | AuthAction::DropIndex { index_name, table_name } => {
            free(index_name) && free(table_name)
        }
        AuthAction::CreateTrigger { trigger_name, table_name }
        | AuthAction::DropTrigger { trigger_name, table_name } => free(trigger_name) && free(table_name),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => free(view_name),
        // Selecting, recursion, reindexing and the dropping of what could not be made.
        _ => true,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// False for the runtime's own names.
fn free(name: &str) -> bool {
    !name.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("_cf_"))
}

/// SQLite's error in workerd's words: `UNIQUE constraint failed: u.id: SQLITE_CONSTRAINT (extended: …)`.
pub(crate) fn in_words(error: rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            let text = text.unwrap_or_else(|| ffi::code_to_str(code.extended_code).to_owned());
            format!("{text}: {}", name(code))
        }
        rusqlite::Error::SqlInputError { error, msg, offset, .. } => {
            if offset < 0 {
                format!("{msg}: {}", name(error))
            } else {
                format!("{msg} at offset {offset}: {}", name(error))
            }
        }
        rusqlite::Error::InvalidParameterCount(..) => "Wrong number of parameter bindings for SQL query.".to_owned(),
        rusqlite::Error::MultipleStatement => "one statement at a time; migrations go through `script`".to_owned(),
        other => other.to_string(),
    }
}

fn name(code: SqliteCode) -> String {
    let primary = match code.extended_code & 0xff {
        ffi::SQLITE_ERROR => "SQLITE_ERROR",
        ffi::SQLITE_BUSY => "SQLITE_BUSY",
        ffi::SQLITE_LOCKED => "SQLITE_LOCKED",
        ffi::SQLITE_READONLY => "SQLITE_READONLY",
        ffi::SQLITE_IOERR => "SQLITE_IOERR",
        ffi::SQLITE_CORRUPT => "SQLITE_CORRUPT",
        ffi::SQLITE_FULL => "SQLITE_FULL",
        ffi::SQLITE_TOOBIG => "SQLITE_TOOBIG",
        ffi::SQLITE_CONSTRAINT => "SQLITE_CONSTRAINT",
        ffi::SQLITE_MISMATCH => "SQLITE_MISMATCH",
        ffi::SQLITE_AUTH => "SQLITE_AUTH",
        ffi::SQLITE_RANGE => "SQLITE_RANGE",
        other => return format!("SQLITE_{other}"),
    };
    let extended = match code.extended_code {
        ffi::SQLITE_CONSTRAINT_CHECK => "CHECK",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "FOREIGNKEY",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "NOTNULL",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "PRIMARYKEY",
        ffi::SQLITE_CONSTRAINT_TRIGGER => "TRIGGER",
        ffi::SQLITE_CONSTRAINT_UNIQUE => "UNIQUE",
        ffi::SQLITE_CONSTRAINT_ROWID => "ROWID",
        ffi::SQLITE_CONSTRAINT_DATATYPE => "DATATYPE",
        _ => return primary.to_owned(),
    };
    format!("{primary} (extended: SQLITE_CONSTRAINT_{extended})")
}
