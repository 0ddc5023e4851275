//! Sockets: their tickets, and the way of an upgrade to the object that serves it.
//!
//! A ticket is signed by us, good for one path (and so for one town) and [`token::TICKET_SECONDS`]; it holds at most one
//! open socket at a time, which the object sees to. Whoever has a token needs no ticket.

use super::{
    auth::{self, Credentials},
    envelope::Refusal,
    fields::Query,
    serve::{Door, Sent, data},
    token,
};
use crate::{
    platform::{clock, http, ids::RandomIds, sockets::TICKET_HEADER, stub},
    town::{
        id::Ids,
        time::{SECOND, Timestamp},
    },
};
use serde_json::json;
use worker::Request;

/// `POST …/ticket`: `{url, ticket, expires_at}` for the socket that stands beside this route.
pub fn ticket(door: Door<'_>) -> Result<Sent, Refusal> {
    let town = door.matched.param("town");
    let url = format!("/api/towns/{town}/status/ws");
    let policy = door.settings.policy();
    let secret = policy.required_secret()?;
    let (ticket, expires) = token::sign_ticket(&url, &RandomIds.uuid(), secret, clock::now());
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
    let town = door.matched.param("town");
    let headers = [("Upgrade", "websocket".to_owned()), (TICKET_HEADER, ticket)];
    let passed = match http::request("GET", "https://object/watch", &headers, None) {
        Ok(request) => stub::pass(door.env, "TOWN", town, request).await,
        Err(e) => Err(e),
    };
    passed.map(Sent::passed).map_err(|e| stub::refusal(door.matched.pattern, town, &e))
}
