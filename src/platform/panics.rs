//! What a panic does here: it ends the request or the call that it happened in, and nothing else.
//!
//! The worker is built with `panic=unwind` (`docs/decisions/009-panics.md`). One wasm instance serves the whole
//! isolate: the worker and every object in it. Aborting would take all of them down, and leave the request that
//! panicked without an answer. Unwinding drops what the frame held, borrows and permits included.
//!
//! A panic inside a savepoint does not get here. It leaves the callback of `transactionSync` as a JavaScript error,
//! which rolls the savepoint back, and is a failure of the database to whoever asked ([`super::sql`]).
//!
//! What unwinding cannot help with (memory at its end, a stack overflow, a JavaScript error that no binding catches)
//! ends the instance, and the next call makes a new one: the leases and the dead-man alarm are for that.

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;

/// A panic was caught. It says nothing: the hook has told the log what and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Once per instance: a panic is one line in the log, with its place.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| super::log::error("panic", "", &info.to_string())));
}

/// Awaits `future`; a panic in it ends it. The caller answers for what the future shared with others.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|_| Panicked)
}
