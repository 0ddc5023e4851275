//! A dispatch from its acceptance to its end.
//!
//! The order matters: the older dispatch of the agent has ended, with all its processes, before this one touches the
//! worktree; the status says `running` until the result is delivered, because a worker that looks and reads `exited` takes
//! the attempt for one that ended without a word; the answer to the start is given exactly once, and a failure that comes
//! when it has been given, or when nobody waits for it any more, is reported by `completed`.

use crate::{
    attempt::{Attempt, Halt, Phase},
    conversation,
    dispatch::{Dispatch, Status},
    journal,
    preset::Preset,
    refinery,
    request::{Role, StartRequest},
    runner::{DRAINING, Runner, aborted},
    session,
    stop::StopCause,
};
use serde_json::json;
use std::sync::Arc;

/// Lives one dispatch.
pub async fn live(
    runner: Arc<Runner>,
    dispatch: Arc<Dispatch>,
    request: StartRequest,
    previous: Option<Arc<Dispatch>>,
) {
    if let Some(previous) = previous {
        previous.end(StopCause::Replaced).await;
    }
    journal::note(&format!("{} {}: starting", dispatch.role.name(), dispatch.agent));
    let told = runner.deliver_events(&dispatch);
    let changes = Arc::clone(&runner);
    let (status, reason) = match Attempt::begin(runner, Arc::clone(&dispatch), request) {
        Ok(attempt) => run(attempt).await,
        Err(error) => {
            let reason = format!("the agent's directory cannot be made: {error}");
            dispatch.answer.give(500, json!({ "error": reason }));
            (Status::Failed, reason)
        }
    };
    journal::note(&format!("{} {}: {}: {reason}", dispatch.role.name(), dispatch.agent, status.name()));
    dispatch.mailbox.close();
    dispatch.feed.tell("agent.exited", json!({ "reason": dispatch.redactor.clean(&reason) }));
    dispatch.finish(status, &reason);
    changes.changed.notify_one();
    dispatch.feed.outbox.close();
    // What it said last still arrives; a drain waits for that, too.
    let _ = told.await;
}

/// Does what the role does and reports how it went.
async fn run(mut attempt: Attempt) -> (Status, String) {
    let result = match (attempt.request.role, attempt.preset) {
        (Role::Mayor, Preset::Builtin) => presence(&attempt).await,
        (Role::Refinery, Preset::Builtin) => refinery::run(&mut attempt).await,
        _ => session::run(&mut attempt).await,
    };
    match result {
        Ok(reason) => (Status::Exited, reason),
        Err(Halt::Stopped(StopCause::Evicted)) => {
            attempt.dispatch.answer.give(503, json!({ "error": DRAINING }));
            attempt.evict().await;
            (Status::Exited, "container eviction".to_owned())
        }
        Err(Halt::Stopped(StopCause::Stopped | StopCause::Replaced)) => {
            attempt.dispatch.answer.give(500, aborted(&attempt.dispatch.agent));
            (Status::Exited, "stopped".to_owned())
        }
        Err(Halt::Failed(phase, reason)) => fail(&attempt, phase, &reason).await,
    }
}

async fn fail(attempt: &Attempt, phase: Phase, reason: &str) -> (Status, String) {
    let reason = attempt.reason(reason);
    if attempt.runner.processes.is_closed() {
        // A step that failed because everything is being killed.
        return std::future::pending().await;
    }
    if !attempt.dispatch.answer.give(500, json!({ "error": reason, "phase": phase.name() })) {
        attempt.completed("failed", Some(phase), &reason, &attempt.stop).await;
    }
    (Status::Failed, reason)
}

/// The built-in mayor: there, with a workspace and an inbox, until it is stopped. It does not converse: a message has been
/// dealt with when it lies in the inbox.
async fn presence(attempt: &Attempt) -> Result<String, Halt> {
    let directory = attempt.plain_workspace("mayor-workspace").await?;
    attempt.open_output()?;
    attempt.started(&directory);
    loop {
        conversation::say_waiting(attempt);
        tokio::select! {
            () = attempt.dispatch.mailbox.rung() => {}
            cause = attempt.stop.fired() => return Err(Halt::Stopped(cause)),
        }
    }
}
