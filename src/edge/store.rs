//! Routes that end at an agent's store: its transcript and its snapshot. They pass the town by, which has other things to do
//! than to read along; the store asks it once whether there is such an agent.

use super::{
    auth::speaks_for,
    body::{Bounded, MAX_EVENTS_BYTES},
    envelope::Refusal,
    fields::{INVALID_QUERY, Query},
    route::{self, Route},
    serve::{self, Door, Sent},
};
use crate::{
    platform::{
        http::{self, REQUEST_HEADER},
        ids::RandomIds,
        stub,
    },
    town::{
        command::Actor,
        id::Ids,
        policy::{SNAPSHOT_BYTES, TRANSCRIPT_LIST_MAX},
    },
    transcript::read,
};
use worker::{Request, Result};

/// Where an agent's store serves its events, its live stream and its snapshot.
const EVENTS: &str = "https://object/events";
const SNAPSHOT: &str = "https://object/snapshot";

/// True for the routes that end here.
pub const fn serves(route: Route) -> bool {
    matches!(
        route,
        Route::AppendEvents | Route::AgentEvents | Route::GetSnapshot | Route::PutSnapshot | Route::DeleteSnapshot
    )
}

/// Answers such a route. The caller was let in, and owns the town.
pub async fn answer(
    door: Door<'_>,
    req: &mut Request,
    actor: &Actor,
    length: Option<&str>,
) -> std::result::Result<Sent, Refusal> {
    let (town, agent) = (door.matched.param("town"), door.matched.param("agent").to_owned());
    let (agent, request) = match door.matched.route {
        Route::AppendEvents => {
            let bytes = serve::read(req, length, MAX_EVENTS_BYTES).await?;
            let body = std::str::from_utf8(&bytes).map_err(|_| Refusal::bad_query("the body is not UTF-8"))?;
            let agent = read::read(body)?.agent;
            if !route::is_identifier(&agent) {
                return Err(Refusal::bad_query("agent_id is not an id"));
            }
            speaks_for(actor, "agent_id", &agent)?;
            // The runtime repeats a call whose answer it has lost: by this the store tells.
            (agent, http::request("POST", EVENTS, &[(REQUEST_HEADER, RandomIds.uuid())], Some(body)))
        }
        Route::AgentEvents => (agent, list(&Query::parse(Query::of_url(&req.inner().url())))?),
        Route::GetSnapshot => (agent, http::request("GET", SNAPSHOT, &[], None)),
        Route::PutSnapshot => {
            Bounded::announced(length, SNAPSHOT_BYTES)?;
            (agent, http::handed_on("POST", SNAPSHOT, req))
        }
        Route::DeleteSnapshot => (agent, http::request("DELETE", SNAPSHOT, &[], None)),
        _ => return Err(Refusal::unknown_route()),
    };
    pass(door, "AGENT", &stub::agent_name(town, &agent), request).await
}

/// Hands a request to an object, and its answer back unread.
pub async fn pass(
    door: Door<'_>,
    binding: &str,
    name: &str,
    request: Result<Request>,
) -> std::result::Result<Sent, Refusal> {
    let passed = match request {
        Ok(request) => stub::pass(door.env, binding, name, request).await,
        Err(e) => Err(e),
    };
    passed.map(Sent::passed).map_err(|e| stub::refusal(door.matched.pattern, door.matched.param("town"), &e))
}

/// The id after which events are asked for: `after_id` is the worker's name, `after` the container's (`protocol.md` 7,
/// point 33).
pub fn after(query: &Query) -> std::result::Result<i64, Refusal> {
    Ok(query.number("after_id")?.or(query.number("after")?).unwrap_or(0))
}

fn list(query: &Query) -> std::result::Result<Result<Request>, Refusal> {
    let after = after(query)?;
    let limit = match query.number("limit")? {
        Some(n) if n < 1 || usize::try_from(n).map_or(true, |n| n > TRANSCRIPT_LIST_MAX) => {
            return Err(Refusal::bad_query(INVALID_QUERY));
        }
        Some(n) => format!("&limit={n}"),
        None => String::new(),
    };
    Ok(http::request("GET", &format!("{EVENTS}?after={after}{limit}"), &[], None))
}
