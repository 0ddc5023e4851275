//! The only code that touches JavaScript: database, alarm, container, webhook, analytics, clock, ids, errors.
//!
//! Each file implements one thing that the core or the objects need, over one thing that the runtime has. Traps of the
//! runtime are dealt with here, and a comment says which.

pub mod alarm;
pub mod analytics;
pub mod clock;
pub mod container;
pub mod errors;
pub mod forge;
pub mod http;
pub mod ids;
pub mod log;
pub mod panic_probe;
pub mod panics;
pub mod settings;
pub mod sockets;
pub mod sql;
pub mod stub;
pub mod town_container;
pub mod webhook;
