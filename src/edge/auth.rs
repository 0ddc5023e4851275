//! Who asks, and may they: the kind of the route, the token and the path become an [`Actor`], or a refusal.
//!
//! Guarantee: fails closed. Without a secret nobody gets in; a token is looked at only after its signature; `AUTH=off`
//! counts only together with `ENVIRONMENT=development`; and a route that is a person's is never a container's. What
//! only the registry can tell (does the town exist, whose is it) is returned as an [`Ownership`] still to be checked.

use super::{
    envelope::Refusal,
    fleet::TownRow,
    route::{Kind, Matched},
    token::{self, Claims, ContainerClaims, TokenError},
};
use crate::town::{command::Actor, id::AgentId, time::Timestamp};
use sha2::{Digest, Sha256};

/// The longest header value that can be an agent's or an attempt's id.
const MAX_ID_BYTES: usize = 128;

/// What decides beside the request itself.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// `GASTOWN_JWT_SECRET`; empty counts as missing.
    pub secret: Option<&'a str>,
    /// `ENVIRONMENT`.
    pub environment: &'a str,
    /// `AUTH`.
    pub auth: &'a str,
    /// `INTERNAL_SECRET`; empty counts as missing.
    pub internal_secret: Option<&'a str>,
}

impl Policy<'_> {
    /// True in development.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.environment == "development"
    }
    /// True if no token is checked. `AUTH=off` alone turns nothing off, and neither does the environment alone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_development() && self.auth == "off"
    }
    /// The secret, or 503: what security needs and is missing fails closed.
    pub fn required_secret(&self) -> Result<&str, Refusal> {
        self.secret.filter(|s| !s.trim().is_empty()).ok_or_else(|| {
            Refusal::new(
                503,
                "not_configured",
                "GASTOWN_JWT_SECRET is not set: the service answers nothing but /health until it is",
            )
        })
    }
}

/// The headers that say who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// `X-Gastown-Agent-Id`.
    pub agent_id: Option<&'a str>,
    /// `X-Gastown-Dispatch-Id`.
    pub dispatch_id: Option<&'a str>,
    /// `X-Internal-Secret`.
    pub internal_secret: Option<&'a str>,
}

/// What the registry still has to confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Nothing: a container's token was signed by us for this very town.
    Settled,
    /// The town exists.
    Exists,
    /// The town exists and is this user's.
    OwnedBy(String),
}

impl Ownership {
    /// Compares with what the registry has.
    pub fn check(&self, row: Option<&TownRow>) -> Result<(), Refusal> {
        match (self, row) {
            (Self::Settled, _) | (Self::Exists, Some(_)) => Ok(()),
            (Self::OwnedBy(sub), Some(row)) if row.owner_user_id == *sub => Ok(()),
            (Self::OwnedBy(_), Some(_)) => Err(Refusal::forbidden("Forbidden")),
            (Self::Exists | Self::OwnedBy(_), None) => Err(Refusal::missing("Town")),
        }
    }
}

/// Who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Who acts.
    pub actor: Actor,
    /// What is still to be confirmed.
    pub ownership: Ownership,
}

/// Lets a caller in at a route, or says why not.
pub fn admit(
    matched: &Matched,
    caller: Credentials<'_>,
    policy: Policy<'_>,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let secret = policy.required_secret()?;
    if matched.kind == Kind::Internal {
        return internal(caller, policy);
    }
    if policy.is_off() {
        return Ok(unchecked(matched, caller));
    }
    let bearer = bearer(caller.authorization)
        .ok_or_else(|| Refusal::unauthorized("token_missing", "Authentication required"))?;
    let claims = token::verify(bearer, secret, now).map_err(|e| refused(matched.kind, e))?;
    match (matched.kind, claims) {
        (Kind::Public, _) => Ok(admitted(system(), Ownership::Settled)),
        (Kind::Internal, _) => internal(caller, policy),
        (Kind::User, Claims::User { sub }) => {
            if sub != matched.param("user") {
                return Err(Refusal::forbidden("Forbidden"));
            }
            // The registry is asked for towns of `:user` only, so there is nothing left to confirm.
            Ok(admitted(Actor::User { sub }, Ownership::Settled))
        }
        (Kind::User, Claims::Operator { sub }) => Ok(admitted(Actor::Operator { sub }, Ownership::Settled)),
        (
            Kind::Town | Kind::Socket | Kind::TownOrContainer | Kind::Rig | Kind::Agent | Kind::Mayor,
            Claims::User { sub },
        ) => Ok(admitted(Actor::User { sub: sub.clone() }, Ownership::OwnedBy(sub))),
        (
            Kind::Town | Kind::Socket | Kind::TownOrContainer | Kind::Rig | Kind::Agent | Kind::Mayor,
            Claims::Operator { sub },
        ) => Ok(admitted(Actor::Operator { sub }, Ownership::Exists)),
        // A valid token of the wrong sort is 403: 401 would make its owner fetch another one just like it.
        (Kind::User | Kind::Town | Kind::Socket, Claims::Container(_) | Claims::Agent(_)) => {
            Err(Refusal::forbidden("Forbidden: this route takes a user's or an operator's token"))
        }
        (Kind::Container | Kind::Refresh, Claims::User { .. } | Claims::Operator { .. }) => {
            Err(Refusal::forbidden("Forbidden: this route takes a container token"))
        }
        (
            Kind::TownOrContainer | Kind::Rig | Kind::Agent | Kind::Mayor | Kind::Container | Kind::Refresh,
            Claims::Container(claims),
        ) => container(matched, caller, &claims, None),
        (Kind::Container | Kind::Refresh, Claims::Agent(_)) => Err(refused(Kind::Container, TokenError::Payload)),
        (Kind::TownOrContainer | Kind::Rig | Kind::Agent | Kind::Mayor, Claims::Agent(claims)) => {
            let rig = matched.param("rig");
            // First of all (`protocol.md` 1.3). The mayor's tools are of no rig, whatever their paths name.
            if matched.kind != Kind::Mayor && !rig.is_empty() && rig != claims.rig_id {
                return Err(Refusal::forbidden("Token rigId does not match route"));
            }
            container(matched, caller, &claims.container, Some(&claims.agent_id))
        }
    }
}

/// Lets a container in that wants a new token (C-exp). Its old one may have expired, nothing else is forgiven.
/// Returns whom the new token is for, and whether the old one had expired.
pub fn admit_refresh(
    matched: &Matched,
    caller: Credentials<'_>,
    policy: Policy<'_>,
    now: Timestamp,
) -> Result<(ContainerClaims, bool), Refusal> {
    let secret = policy.required_secret()?;
    let bearer = bearer(caller.authorization)
        .ok_or_else(|| Refusal::unauthorized("token_missing", "Authentication required"))?;
    let (claims, expired) = token::verify_for_refresh(bearer, secret, now).map_err(|e| refused(matched.kind, e))?;
    if claims.town_id != matched.param("town") {
        return Err(Refusal::forbidden("Cross-town access denied"));
    }
    Ok((claims, expired))
}

/// Lets a client in that wants a socket: by the ticket in its query (browsers cannot set headers), else by its token.
/// Returns the ticket's id, empty if there is none, and what is still to be confirmed.
pub fn admit_socket(
    matched: &Matched,
    caller: Credentials<'_>,
    ticket: Option<&str>,
    path: &str,
    policy: Policy<'_>,
    now: Timestamp,
) -> Result<(String, Ownership), Refusal> {
    match ticket {
        Some(ticket) if !policy.is_off() => {
            let id = token::verify_ticket(ticket, path, policy.required_secret()?, now);
            Ok((id.map_err(|e| refused(matched.kind, e))?, Ownership::Exists))
        }
        _ => Ok((String::new(), admit(matched, caller, policy, now)?.ownership)),
    }
}

/// What a body says about its actor must agree with who asks: a container's agent speaks for itself only. Without an
/// agent id (heartbeats, the runner's own calls) there is nothing to compare.
pub fn speaks_for(actor: &Actor, key: &str, named: &str) -> Result<(), Refusal> {
    match actor.agent() {
        Some(agent) if agent.as_str() != named => {
            Err(Refusal::forbidden(&format!("{key} does not match authenticated agent")))
        }
        _ => Ok(()),
    }
}

/// Lets another service in (I). Where no secret is configured nobody has the right one; development changes nothing.
fn internal(caller: Credentials<'_>, policy: Policy<'_>) -> Result<Admitted, Refusal> {
    let wanted = policy.internal_secret.filter(|s| !s.trim().is_empty());
    match (wanted, caller.internal_secret) {
        (Some(wanted), Some(given)) if same(wanted, given) => {
            Ok(admitted(Actor::Operator { sub: "internal".to_owned() }, Ownership::Exists))
        }
        _ => Err(Refusal::unauthorized("unauthorized", "Unauthorized")),
    }
}

/// Compares two secrets in a time that tells nothing of either: by their hashes, every byte of them.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a.as_bytes()), Sha256::digest(b.as_bytes()));
    a.iter().zip(b.iter()).fold(0, |differs, (x, y)| differs | (x ^ y)) == 0
}

/// The town's container, or an agent of it: `own` is the agent of whom a legacy token speaks. Who has a container's token
/// says by a header which agent it is.
fn container(
    matched: &Matched,
    caller: Credentials<'_>,
    claims: &ContainerClaims,
    own: Option<&str>,
) -> Result<Admitted, Refusal> {
    if claims.town_id != matched.param("town") {
        let text = match matched.kind {
            Kind::Mayor => "Token townId does not match route",
            _ => "Cross-town access denied",
        };
        return Err(Refusal::forbidden(text));
    }
    let header = match own {
        Some(_) => own,
        None => identifier(caller.agent_id, "X-Gastown-Agent-Id")?,
    };
    if matched.kind == Kind::Agent && header.is_some_and(|id| id != matched.param("agent")) {
        return Err(Refusal::forbidden("Token agentId does not match route"));
    }
    let dispatch_id = identifier(caller.dispatch_id, "X-Gastown-Dispatch-Id")?.map(str::to_owned);
    Ok(admitted(Actor::Container { agent_id: speaker(matched, header), dispatch_id }, Ownership::Settled))
}

/// The agent that speaks: the route's, else the header's (`protocol.md` 7, point 35).
fn speaker(matched: &Matched, header: Option<&str>) -> Option<AgentId> {
    match matched.kind {
        Kind::Agent => Some(AgentId::from(matched.param("agent"))),
        _ => header.map(AgentId::from),
    }
}

/// `AUTH=off`: the caller is an operator, the agent the header's (`api.md`).
fn unchecked(matched: &Matched, caller: Credentials<'_>) -> Admitted {
    let header = identifier(caller.agent_id, "").ok().flatten();
    let dispatch_id = identifier(caller.dispatch_id, "").ok().flatten().map(str::to_owned);
    let speaks = header.is_some() || dispatch_id.is_some();
    match matched.kind {
        Kind::Public | Kind::Internal => admitted(system(), Ownership::Settled),
        Kind::User => admitted(Actor::User { sub: matched.param("user").to_owned() }, Ownership::Settled),
        Kind::Container | Kind::Refresh => {
            admitted(Actor::Container { agent_id: header.map(AgentId::from), dispatch_id }, Ownership::Settled)
        }
        Kind::TownOrContainer | Kind::Rig | Kind::Agent | Kind::Mayor if speaks => {
            admitted(Actor::Container { agent_id: speaker(matched, header), dispatch_id }, Ownership::Settled)
        }
        // The owner's routes are never an agent's, whatever the headers say.
        Kind::Town | Kind::Socket | Kind::TownOrContainer | Kind::Rig | Kind::Agent | Kind::Mayor => {
            admitted(Actor::Operator { sub: "development".to_owned() }, Ownership::Exists)
        }
    }
}

fn refused(kind: Kind, e: TokenError) -> Refusal {
    match kind {
        // K has one text for everything; the code still tells why.
        Kind::User | Kind::Town => Refusal::unauthorized(e.code(), "Invalid token"),
        Kind::Container if e == TokenError::Payload => {
            Refusal::unauthorized(e.code(), "Invalid container token payload")
        }
        Kind::Public
        | Kind::TownOrContainer
        | Kind::Rig
        | Kind::Agent
        | Kind::Mayor
        | Kind::Container
        | Kind::Internal
        | Kind::Refresh
        | Kind::Socket => Refusal::unauthorized(e.code(), &e.to_string()),
    }
}

/// The token of `Authorization: Bearer …`; the prefix in any case.
fn bearer(header: Option<&str>) -> Option<&str> {
    let (scheme, token) = header?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A header that names something; empty counts as absent.
fn identifier<'a>(value: Option<&'a str>, header: &str) -> Result<Option<&'a str>, Refusal> {
    match value.map(str::trim).filter(|v| !v.is_empty()) {
        Some(v) if v.len() > MAX_ID_BYTES || !v.bytes().all(|b| b.is_ascii_graphic()) => {
            Err(Refusal::bad_query(format!("{header} is not an id")))
        }
        other => Ok(other),
    }
}

const fn admitted(actor: Actor, ownership: Ownership) -> Admitted {
    Admitted { actor, ownership }
}

const fn system() -> Actor {
    Actor::System
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
