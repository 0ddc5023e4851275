//! Sockets: their tickets, and the way of an upgrade to the object that serves it.
//!
//! A ticket is signed by us, good for one path (and so for one town) and [`token::TICKET_SECONDS`]; it holds at most one
//! open socket at a time, which the object sees to. Whoever has a token needs no ticket.

use super::{
    auth::{self, Credentials},
    envelope::Refusal,
    errand::What,
    fields::Query,
    route::Route,
    serve::{Door, Sent, data},
    store, token,
};
use crate::town::json::json;
use crate::{
    platform::{clock, http, ids::RandomIds, sockets::TICKET_HEADER, stub},
    town::{
        command::Actor,
        id::Ids,
        time::{SECOND, Timestamp},
    },
};
use worker::Request;

/// `POST …ticket`: `{url, ticket, expires_at}` for the socket that the route is about. 404 for an agent that the town does
/// not know.
pub async fn ticket(door: Door<'_>, actor: Actor) -> Result<Sent, Refusal> {
    let (town, agent_id) = (door.matched.param("town"), door.matched.param("agent").to_owned());
    let mut url = format!("/api/towns/{town}/status/ws");
    if door.matched.route == Route::StreamTicket {
        url = format!("/api/towns/{town}/container/agents/{agent_id}/stream");
        let known = door.town(town, actor, What::KnowsAgent { agent_id }).await?;
        if known.status != 200 {
            return Ok(known);
        }
    }
    let policy = door.settings.policy();
    let (ticket, expires) = token::sign_ticket(&url, &RandomIds.uuid(), policy.required_secret()?, clock::now());
    data(200, json!({ "url": url, "ticket": ticket, "expires_at": Timestamp(expires.saturating_mul(SECOND)) }))
}

/// Hands an upgrade to the object that serves it. What comes back is the object's, socket and all.
pub async fn open(door: Door<'_>, req: &Request, caller: Credentials<'_>) -> Result<Sent, Refusal> {
    let url = req.inner().url();
    let query = Query::parse(Query::of_url(&url));
    let (policy, path) = (door.settings.policy(), req.path());
    let (ticket, ownership) =
        auth::admit_socket(door.matched, caller, query.get("ticket"), &path, policy, clock::now())?;
    door.confirm(&ownership).await?;
    let upgrade = req.headers().get("Upgrade").ok().flatten();
    if !upgrade.is_some_and(|u| u.eq_ignore_ascii_case("websocket")) {
        return Err(Refusal::new(426, "upgrade_required", "This is a WebSocket: ask with Upgrade: websocket"));
    }
    let (town, agent) = (door.matched.param("town"), door.matched.param("agent"));
    let headers = [("Upgrade", "websocket".to_owned()), (TICKET_HEADER, ticket)];
    let ask = |url: &str| http::request("GET", url, &headers, None);
    if door.matched.route == Route::StreamSocket {
        let request = ask(&format!("https://object/stream?after={}", store::after(&query)?));
        return store::pass(door, "AGENT", &stub::agent_name(town, agent), request).await;
    }
    store::pass(door, "TOWN", town, ask("https://object/watch")).await
}
