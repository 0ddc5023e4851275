//! The end of the runner: a drain on SIGTERM, an immediate stop on SIGINT (protocol 4.8).

use crate::{
    journal, registry,
    runner::{Runner, has_work},
    stop::StopCause,
    voice::SHORT_CALL,
};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::timeout};

/// How long the stragglers may take to be stopped and saved, beyond the grace period: a commit, a push and two calls.
const SAVING: Duration = Duration::from_mins(2);

/// How long the last events of the agents may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Takes no more starts, tells the worker, waits for the agents, saves the work of those that do not finish in time.
pub async fn drain(runner: &Arc<Runner>) {
    let live = runner.begin_drain();
    journal::note(&format!("draining, {} agents live", live.len()));
    // Agents may finish while the worker is being told.
    let told = tokio::spawn(tell(Arc::clone(runner)));
    let mut finishing = JoinSet::new();
    for dispatch in live.iter().filter(|dispatch| has_work(dispatch)) {
        let dispatch = Arc::clone(dispatch);
        finishing.spawn(async move { dispatch.over().await });
    }
    let all = async { while finishing.join_next().await.is_some() {} };
    let _ = timeout(runner.config.drain, all).await;
    // The worker must know of the eviction before it hears of evicted agents.
    let _ = told.await;
    let mut stragglers = JoinSet::new();
    for dispatch in runner.live() {
        stragglers.spawn(async move { dispatch.end(StopCause::Evicted).await });
    }
    let all = async { while stragglers.join_next().await.is_some() {} };
    if timeout(runner.config.stop_grace + SAVING, all).await.is_err() {
        journal::note("some agents could not be saved in time");
    }
    runner.processes.kill_all();
    if runner.was_used() {
        registry::tell_of_the_end(runner).await;
    }
    let _ = timeout(LAST_WORDS, runner.events_delivered()).await;
}

async fn tell(runner: Arc<Runner>) {
    if !runner.was_used() {
        return;
    }
    let Some(voice) = runner.own_voice(None) else { return };
    if let Err(error) = voice.call(&voice.town_path("container-eviction"), None, SHORT_CALL).await {
        journal::note(&format!("container-eviction: {error}"));
    }
}
