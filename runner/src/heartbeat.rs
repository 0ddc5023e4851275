//! Heartbeats: one loop per dispatch, so that a slow answer for one agent delays no other.
//!
//! Guarantees: the first one goes out the moment the process runs; then one every interval, while starting and running; none
//! once the drain has begun or the dispatch is told to end.

use crate::{
    dispatch::Dispatch,
    runner::Runner,
    voice::{SHORT_CALL, data_text},
};
use std::sync::Arc;
use tokio::time::sleep;

/// Sends heartbeats until there is nothing to tell.
pub async fn run(runner: Arc<Runner>, dispatch: Arc<Dispatch>) {
    let path = dispatch.voice.rig_path(&dispatch.rig, &format!("agents/{}/heartbeat", dispatch.agent));
    let mut before = dispatch.status();
    loop {
        tokio::select! {
            () = sleep(runner.config.heartbeat) => {}
            () = dispatch.leaves(before) => {}
            () = runner.drained() => return,
        }
        before = dispatch.status();
        if !before.is_alive() {
            return;
        }
        // A status that changes during the call is told at once, by the loop's next turn.
        beat(&runner, &dispatch, &path).await;
    }
}

async fn beat(runner: &Arc<Runner>, dispatch: &Dispatch, path: &str) {
    let body = dispatch.heartbeat(&runner.instance);
    match dispatch.voice.call(path, Some(&body), SHORT_CALL).await {
        Ok(said) => {
            if let Some(nonce) = data_text(&said, "drainNonce") {
                runner.acknowledge(&dispatch.voice, nonce).await;
            }
        }
        Err(error) => crate::journal::note(&format!("heartbeat of {}: {error}", dispatch.agent)),
    }
}
