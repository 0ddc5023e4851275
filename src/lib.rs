//! Gastown: towns of coding agents on Cloudflare. This file is what the runtime calls, and nothing else.

pub mod edge;
#[cfg(target_arch = "wasm32")]
pub mod objects;
#[cfg(target_arch = "wasm32")]
pub mod platform;
pub mod town;

#[cfg(target_arch = "wasm32")]
mod entry {
    //! What the runtime calls.

    pub use crate::objects::{fleet_do::FleetDO, town_do::TownDO};

    /// Once per isolate: a panic that slips through leaves a trace in the log.
    #[worker::event(start)]
    fn start() {
        console_error_panic_hook::set_once();
    }

    /// Every request.
    #[worker::event(fetch)]
    async fn fetch(req: worker::Request, env: worker::Env, _ctx: worker::Context) -> worker::Result<worker::Response> {
        crate::edge::serve::serve(req, env).await
    }
}

#[cfg(target_arch = "wasm32")]
pub use entry::{FleetDO, TownDO};
