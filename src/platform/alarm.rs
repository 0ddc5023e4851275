//! The object's one alarm, always at an absolute time.
//!
//! `worker` reads a bare number as an *offset* from now, so that milliseconds since 1970 would be a date in the next
//! century (workers-rs #1011). This is the only place that may call `set_alarm`.

use crate::town::time::Timestamp;
use worker::{Result, ScheduledTime, Storage};

/// When the alarm will ring, if it is set.
pub async fn get(storage: &Storage) -> Result<Option<Timestamp>> {
    Ok(storage.get_alarm().await?.map(Timestamp))
}

/// Sets the alarm, replacing the one that was set. Costs one row written.
pub async fn set(storage: &Storage, at: Timestamp) -> Result<()> {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
    let date = js_sys::Date::new(&(at.0 as f64).into());
    #[allow(clippy::disallowed_methods, reason = "this is the wrapper that the lint points to")]
    storage.set_alarm(ScheduledTime::new(date)).await
}

/// Removes the alarm.
pub async fn clear(storage: &Storage) -> Result<()> {
    storage.delete_alarm().await
}
