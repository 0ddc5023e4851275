//! The edge: what stands between the internet and a town. It authenticates, routes, reads bodies and words answers.
//!
//! Everything here is pure and runs on the host, except `serve`, which joins the pieces inside the Worker, and the two that
//! answer without a town: `users` and `container`.

pub mod admission;
pub mod auth;
pub mod body;
#[cfg(target_arch = "wasm32")]
mod container;
pub mod cors;
pub mod envelope;
pub mod errand;
pub mod fields;
pub mod fleet;
pub mod registry;
pub mod request;
pub mod route;
#[cfg(target_arch = "wasm32")]
pub mod serve;
#[cfg(target_arch = "wasm32")]
mod sockets;
#[cfg(target_arch = "wasm32")]
mod store;
pub mod token;
#[cfg(target_arch = "wasm32")]
mod users;
pub mod words;
