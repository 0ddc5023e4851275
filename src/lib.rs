//! Gastown: towns of coding agents on Cloudflare. This file is what the runtime calls, and nothing else.

pub mod container;
pub mod edge;
#[cfg(target_arch = "wasm32")]
pub mod objects;
#[cfg(target_arch = "wasm32")]
pub mod platform;
pub mod town;
pub mod transcript;

#[cfg(target_arch = "wasm32")]
mod entry {
    //! What the runtime calls.

    pub use crate::objects::{agent_do::AgentDO, container_do::TownContainerDO, fleet_do::FleetDO, town_do::TownDO};

    /// Once per instance: a panic leaves a trace in the log.
    #[worker::event(start)]
    fn start() {
        crate::platform::panics::log_panics();
    }

    /// Every request.
    #[worker::event(fetch)]
    async fn fetch(req: worker::Request, env: worker::Env, _ctx: worker::Context) -> worker::Result<worker::Response> {
        crate::edge::serve::serve(req, env).await
    }
}

#[cfg(target_arch = "wasm32")]
pub use entry::{AgentDO, FleetDO, TownContainerDO, TownDO};
