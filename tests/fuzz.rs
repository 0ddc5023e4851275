//! Poisoned and oversized input, thrown at everything between the raw request and the rows, without a network: the pure
//! edge (`src/edge` but `serve`) and the town behind it, as `src/edge/serve.rs` and `src/objects/town_do.rs` join them.
//!
//! The promise: no panic; no 500; a refusal says what is wrong in a few words and changes nothing; and a town that has
//! swallowed everything that was accepted still ticks. The same corpus goes at the built worker in
//! `tests/worker/fuzz.test.mjs`. `make fuzz SEED=… ROUNDS=…` for more.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

#[path = "fuzz/corpus.rs"]
mod corpus;
#[path = "fuzz/stage.rs"]
mod stage;

use corpus::Dice;
use gastown::edge::auth::{self, Credentials, Policy};
use gastown::edge::body::{Bounded, MAX_BODY_BYTES};
use gastown::edge::envelope::{Answer, Refusal};
use gastown::edge::errand::{Errand, What};
use gastown::edge::fields::{Body, Query};
use gastown::edge::registry::{NewRig, town_name};
use gastown::edge::route::{self, Route, TABLE};
use gastown::edge::{cors, request, token};
use gastown::town::time::{MINUTE, Timestamp};
use gastown::transcript;
use serde_json::{Value as Json, json};
use stage::{Stage, actor};
use std::collections::{BTreeMap, BTreeSet};

/// The longest text of an error. Long enough for a sentence and what it is about, too short to carry a body back.
const ERROR_BYTES: usize = 1_000;
/// The longest refusal as a whole, with its list of issues.
const REFUSAL_BYTES: usize = 16 * 1024;
const SECRET: &str = "pl4nted-jwt-secret-of-the-fuzzer-32b";
const NOW: Timestamp = Timestamp(1_767_225_600_000);

/// A refusal that a caller can read and act on.
fn readable(answer: &Answer, told: &dyn Fn() -> String) {
    let text = answer.body.to_string();
    let error = answer.body["error"].as_str().unwrap_or_default();
    let known = matches!(answer.status, 400 | 401 | 403 | 404 | 409 | 413 | 422 | 429);
    let worded = !error.trim().is_empty() && error.len() <= ERROR_BYTES && !error.contains(|c: char| c.is_control());
    let coded = answer.body["code"].as_str().is_some_and(|c| !c.is_empty()) && answer.body["success"] == json!(false);
    let short = text.len() <= REFUSAL_BYTES;
    assert!(
        known && worded && coded && short,
        "{}: {} … ({} bytes)\n{}",
        answer.status,
        shown(&text),
        text.len(),
        told()
    );
}

fn shown(text: &str) -> String {
    text.chars().take(400).collect()
}

#[test]
fn the_corpus_has_a_request_for_every_route_and_for_no_other() {
    let routes: BTreeSet<String> = TABLE.iter().map(|(.., route)| format!("{route:?}")).collect();
    let requests: BTreeSet<String> = corpus::requests().keys().cloned().collect();
    assert_eq!(routes, requests);
}

#[test]
fn arbitrary_bytes_never_panic_the_pure_edge() {
    let (seed, rounds) = corpus::asked();
    let mut dice = Dice::new(seed);
    let (bodies, queries, segments, headers) =
        (corpus::bodies(), corpus::queries(), corpus::segments(), corpus::headers());
    let right = token::sign(&json!({"sub": "u", "scope": "user", "iat": 1, "exp": 9_999_999_999_i64}), SECRET);
    for _ in 0..20_000 * rounds {
        let bytes = match dice.below(6) {
            0 => dice.bytes(64),
            1 => {
                let line = dice.one(&bodies);
                dice.bent(&line[..line.len().min(4_096)])
            }
            2 => {
                let line = dice.one(&queries);
                dice.bent(&line)
            }
            3 => {
                let line = dice.one(&segments);
                dice.bent(&line)
            }
            4 => {
                let line = dice.one(&headers).1;
                dice.bent(&line)
            }
            _ => dice.bent(right.as_bytes()),
        };
        let text = String::from_utf8_lossy(&bytes);
        let (_, method, pattern, _) = dice.one(TABLE);
        let path = pattern.replace(":town", &text).replace(":rig", &text).replace(":bead", &text);
        let _ = route::find(method, &path);
        let _ = route::find(&text, pattern);
        let _ = Query::parse(Query::of_url(&text)).limit();
        let body = Body::parse(&bytes);
        let _ = (town_name(&body), NewRig::read(&body, true), NewRig::read(&body, false));
        let _ = cors::headers(&text, Some(&text), &text, true);
        let _ = Bounded::announced(Some(&text), MAX_BODY_BYTES);
        let _ = Errand::read(&text);
        assert!(token::verify(&text, SECRET, NOW).is_err() || text == right, "{text} is a token");
        let _ = token::verify_for_refresh(&text, SECRET, NOW);
        let Some(matched) = route::find("GET", "/api/towns/t/attempts") else { panic!("a route") };
        let policy = Policy { secret: Some(SECRET), environment: "production", auth: &text, internal_secret: None };
        let caller = Credentials {
            authorization: Some(&text),
            agent_id: Some(&text),
            dispatch_id: Some(&text),
            internal_secret: Some(&text),
        };
        if let Err(refusal) = auth::admit(&matched, caller, policy, NOW) {
            readable(&refusal.answer(), &|| format!("seed {seed}: {text}"));
        }
        let _ = auth::admit(&matched, caller, Policy { environment: "development", auth: "off", ..policy }, NOW);
    }
}

/// How often a route gets a new town when a request has ended what its path names; making one costs most.
const STAGES: u32 = 5;

/// A request on its way: what is different from the right one.
#[derive(Default)]
struct Bent {
    /// In place of the last parameter of the path.
    segment: Option<String>,
    query: String,
    body: Option<Vec<u8>>,
}

#[test]
fn poisoned_requests_are_answered_without_a_500_and_a_refused_one_changes_nothing() {
    let (seed, rounds) = corpus::asked();
    let mut dice = Dice::new(seed);
    let requests = corpus::requests();
    let mut answered: BTreeMap<u16, u32> = BTreeMap::new();
    for round in 0..rounds {
        for (_, method, pattern, route) in TABLE {
            let plan = &requests[&format!("{route:?}")];
            let mut stage = Stage::new(plan);
            let mut stages = 1;
            for (n, bent) in bends(plan, pattern, &mut dice).into_iter().enumerate() {
                let told = || {
                    let body = bent.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                    let segment = bent.segment.as_deref().unwrap_or_default();
                    shown(&format!("seed {seed}, round {round}: {method} {pattern} «{segment}» ?{} {body}", bent.query))
                };
                let status = throw(&mut stage, (method, pattern, *route), &bent, &told);
                *answered.entry(status).or_default() += 1;
                // Without this a route would be visited without ever being entered.
                assert!(
                    n > 0 || u64::from(status) == plan["status"].as_u64().unwrap_or(200),
                    "the right request is answered {status}: {}",
                    told()
                );
                // What is gone cannot be poisoned any further.
                if status < 300 && plan["ends"] == json!(true) && stages < STAGES {
                    stage = Stage::new(plan);
                    stages += 1;
                }
            }
            // Whatever was accepted: the rules find their way through it, and no row is a stumbling block.
            if *method != "GET" {
                stage.world.run_for(20 * MINUTE);
            }
        }
    }
    println!("seed {seed}: {answered:?}");
    assert!(answered.get(&200).is_some_and(|n| *n > 500), "hardly anything was accepted: {answered:?}");
    assert!(answered.get(&400).is_some_and(|n| *n > 500), "hardly anything was refused: {answered:?}");
}

/// The right request, each of its fields spoilt in a few ways, whole bodies, queries and segments of the corpus.
fn bends(plan: &Json, pattern: &str, dice: &mut Dice) -> Vec<Bent> {
    let (values, bodies, queries, segments) =
        (corpus::values(), corpus::bodies(), corpus::queries(), corpus::segments());
    let right = plan.get("body");
    let mut bents = vec![Bent::default()];
    if let Some(right) = right {
        for path in corpus::fields(right) {
            for _ in 0..6 {
                let body = corpus::with_field(right, &path, &dice.one(&values));
                bents.push(Bent { body: Some(body), ..Bent::default() });
            }
        }
        let text = right.to_string().into_bytes();
        bents.extend((0..10).map(|_| Bent { body: Some(dice.bent(&text)), ..Bent::default() }));
    }
    for _ in 0..8 {
        bents.push(Bent { body: Some(dice.one(&bodies)), ..Bent::default() });
        bents.push(Bent { query: String::from_utf8_lossy(&dice.one(&queries)).into_owned(), ..Bent::default() });
        if pattern.contains(':') {
            let segment = String::from_utf8_lossy(&dice.one(&segments)).into_owned();
            bents.push(Bent { segment: Some(segment), ..Bent::default() });
        }
    }
    bents
}

/// Throws one request at the stage's town, as the worker and the object would take it. Returns the status.
fn throw(
    stage: &mut Stage,
    (method, pattern, route): (&str, &str, Route),
    bent: &Bent,
    told: &dyn Fn() -> String,
) -> u16 {
    let path = stage.path(pattern, bent.segment.as_deref());
    let body = bent.body.clone().unwrap_or_else(|| stage.right_body());
    let body = stage.fill(&body);
    let refused = |refusal: Refusal| {
        let answer = refusal.answer();
        readable(&answer, told);
        answer.status
    };
    let Some(matched) = route::find(method, &path) else {
        assert!(bent.segment.is_some(), "no route: {}", told());
        return refused(Refusal::unknown_route());
    };
    // A literal segment may have made it another route: then that one is visited.
    let actor = actor(stage, &matched);
    let parsed = Body::parse(&body);
    match request::command(&matched, &Query::parse(&bent.query), &parsed, &actor) {
        Err(refusal) => return refused(refusal),
        Ok(None) => {
            let read = match matched.route {
                Route::CreateTown => town_name(&parsed).map(|_| 201),
                Route::CreateRig => NewRig::read(&parsed, false).map(|_| 201),
                // What the store and the sockets answer, they answer in workerd; their bodies are read by a pure reader.
                Route::AppendEvents => {
                    transcript::read::read(&String::from_utf8_lossy(&body)).map(|_| 201).map_err(Refusal::from)
                }
                Route::GetSnapshot | Route::ConnectPty => Ok(404),
                // What the container answers is its own; that only the town starts agents, the worker says.
                Route::StartInContainer => Ok(409),
                Route::StatusSocket | Route::StreamSocket => Ok(426),
                _ => Ok(200),
            };
            return read.unwrap_or_else(refused);
        }
        Ok(Some(_)) => {}
    }
    let what = What::Route {
        method: method.to_owned(),
        path,
        query: bent.query.clone(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    // It travels as text and is read again at the other end: the same command, or decision 006 is wrong.
    let text = Errand { actor: actor.clone(), what }.write();
    let errand = Errand::read(&text).unwrap_or_else(|| panic!("unreadable errand\n{}", told()));
    let order =
        errand.what.read(&errand.actor).unwrap_or_else(|e| panic!("read once, refused later: {e:?}\n{}", told()));
    assert!(order.route == Some(route) || bent.segment.is_some(), "{}", told());
    let before = stage.rows.take().unwrap_or_else(|| stage.world.sql.dump());
    match stage.world.command(&actor, order.command) {
        Ok(reply) => {
            assert!((200..300).contains(&reply.status), "{}", told());
            reply.status
        }
        Err(error) => {
            assert!(error.status() < 500, "{error:?}\n{}", told());
            let after = stage.world.sql.dump();
            assert!(after == before, "a refused request changed something: {error}\n{}", told());
            stage.rows = Some(after);
            refused(Refusal::from(error))
        }
    }
}
