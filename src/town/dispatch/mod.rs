//! Dispatch: the one gate, the booking, the settling, and the circuit breaker that stands over them.

pub mod attempt;
pub mod backoff;
pub mod breaker;
pub mod candidates;
pub mod failure;
pub mod finish;
pub mod gate;
pub mod instance;
pub mod late;
pub mod look;
pub mod mayor;
pub mod proof;
pub mod settle;
pub mod start;
pub mod stops;
