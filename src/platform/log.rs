//! One JSON line per thing that went wrong. Secrets, bodies and tokens never get here: callers pass texts they wrote.

use crate::town::json::json;

/// Logs an error: where, which town (may be empty), what.
pub fn error(at: &str, town: &str, message: &str) {
    worker::console_error!("{}", json!({ "level": "error", "at": at, "town": town, "message": message }));
}
