//! The clock. In production it advances only on input and output, so one synchronous section sees one time.

use crate::town::time::Timestamp;

/// Now.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(i64::try_from(worker::Date::now().as_millis()).unwrap_or(i64::MAX))
}
