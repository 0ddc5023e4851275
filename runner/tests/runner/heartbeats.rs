//! Heartbeats of many agents, and workers that are older, busy or slow.

use crate::{
    bench::{Bench, eventually},
    fake_worker::{Call, RETRY_AFTER},
};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

async fn three(bench: &Bench) {
    for agent in ["a1", "a2", "a3"] {
        bench.started(&bench.polecat(agent, "exec sleep 60")).await;
    }
}

fn all() -> BTreeSet<String> {
    ["a1", "a2", "a3"].map(str::to_owned).into()
}

#[tokio::test]
async fn one_call_an_interval_speaks_for_every_agent_of_the_container() {
    let bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "300")]).await;
    three(&bench).await;
    let whole = |call: &Call| call.agents().into_iter().collect::<BTreeSet<_>>() == all();
    eventually("three rounds", || bench.worker.count(whole) >= 3).await;
    assert_eq!(bench.worker.count(|call| call.path.ends_with("/heartbeat")), 0, "and none by itself");
}

#[tokio::test]
async fn agents_that_start_together_are_told_together_and_at_once() {
    let bench = Bench::new().await;
    let requests = ["a1", "a2", "a3"].map(|agent| bench.polecat(agent, "exec sleep 60"));
    let (first, second, third) =
        tokio::join!(bench.start(&requests[0]), bench.start(&requests[1]), bench.start(&requests[2]));
    assert_eq!((first.0, second.0, third.0), (201, 201, 201));
    // The interval is a minute: what comes now is each agent's first.
    for agent in ["a1", "a2", "a3"] {
        assert_eq!(bench.worker.beat(agent).await["status"], "running");
    }
    let told: Vec<_> = bench.worker.calls().iter().flat_map(Call::agents).collect();
    assert_eq!(told.len(), 3, "each of them once: {told:?}");
}

#[tokio::test]
async fn a_worker_that_does_not_know_the_call_is_told_agent_by_agent() {
    for status in [404, 405] {
        let bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "100")]).await;
        bench.worker.rule(move |call| {
            call.is_heartbeats().then(|| (status, json!({ "success": false, "error": "Not found" })))
        });
        three(&bench).await;
        for agent in ["a1", "a2", "a3"] {
            let beat = bench.worker.verb(agent, "heartbeat").await;
            assert_eq!(beat.body["agentId"], agent);
            assert_eq!(beat.header("x-gastown-dispatch-id"), format!("{agent}-d1"));
            eventually("it goes on", || bench.worker.count(|call| call.is(agent, "heartbeat")) >= 3).await;
        }
        assert_eq!(bench.worker.count(Call::is_heartbeats), 1, "once refused, it is not tried every time");
    }
}

#[tokio::test]
async fn a_busy_worker_is_left_alone_as_long_as_it_asks_and_then_hears_everything_in_one_call() {
    let bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "2000")]).await;
    let mut refusals = 0;
    bench.worker.rule(move |call| {
        let busy = call.is_heartbeats() && refusals == 0;
        refusals += u32::from(busy);
        busy.then(|| (503, json!({ "success": false, "error": "busy", RETRY_AFTER: 1 })))
    });
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    bench.worker.call("the first heartbeat", |call| call.beats("a1")).await;
    let refused = Instant::now();
    bench.started(&bench.polecat("a2", "exec sleep 60")).await;
    let both = bench.worker.call("both", |call| call.beats("a1") && call.beats("a2")).await;
    assert!(refused.elapsed() >= Duration::from_millis(900), "it came after {:?}", refused.elapsed());
    assert_eq!(both.agents().len(), 2);
    let beats: Vec<_> =
        bench.worker.calls().iter().filter(|call| call.is_heartbeats()).map(|call| call.agents().len()).collect();
    assert_eq!(beats[..2], [1, 2], "nothing in between");
}

#[tokio::test]
async fn work_that_a_busy_worker_does_not_take_is_brought_again() {
    let bench = Bench::new().await;
    let mut refusals = 0;
    bench.worker.rule(move |call| {
        let busy = call.is("a1", "done") && refusals < 2;
        refusals += u32::from(busy);
        busy.then(|| (503, json!({ "success": false, "error": "busy", RETRY_AFTER: 1 })))
    });
    bench.started(&bench.polecat("a1", "echo new > new.txt")).await;
    bench.becomes("a1", "exited").await;
    assert_eq!(bench.worker.count(|call| call.is("a1", "done")), 3);
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed")), 0);
}

#[tokio::test]
async fn a_busy_worker_that_names_no_time_is_not_asked_without_a_pause() {
    for path in ["/heartbeats", "/heartbeat"] {
        let bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "1000")]).await;
        bench.worker.rule(move |call| {
            let busy = json!({ "success": false, "error": "busy", RETRY_AFTER: 0 });
            let older = call.is_heartbeats() && path != "/heartbeats";
            let status = if older { 404 } else { 503 };
            (older || call.path.ends_with(path)).then_some((status, busy))
        });
        bench.started(&bench.polecat("a1", "exec sleep 60")).await;
        let calls = || bench.worker.count(|call| call.path.ends_with(path));
        eventually("it is asked again", || calls() >= 3).await;
        assert!(calls() <= 4, "{} calls at once", calls());
    }
}
