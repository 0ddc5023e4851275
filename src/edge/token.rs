//! HS256 tokens: signed and verified here and nowhere else, compared in constant time by `Mac::verify_slice`.
//!
//! Guarantee: nothing of a token is believed before its signature is checked, and an algorithm other than HS256 is
//! never tried. Four scopes exist: `user` and `operator` (both need `iat` and `exp`), `container` (`iat` mandatory, at
//! most eight hours old, `exp` obeyed if present; `protocol.md` 5.2), and `ticket`, which opens one socket and is nobody's
//! token. A token without a scope that names an agent is a legacy agent token of the predecessor, under the rules of a
//! container's; none is ever signed here.

use crate::town::json::json;
use crate::town::time::{SECOND, Timestamp};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value as Json};
use sha2::Sha256;

/// How long a container token lives, in seconds: `protocol.md` 5.2.
pub const CONTAINER_TOKEN_SECONDS: i64 = 8 * 3_600;
/// How long after its expiry a container token can still be exchanged for a new one, in seconds: `protocol.md` 1.3.
pub const REFRESH_GRACE_SECONDS: i64 = 24 * 3_600;
/// How long a ticket for a socket can be used, in seconds: as the predecessor's container has it (`protocol.md` 4.3).
pub const TICKET_SECONDS: i64 = 60;
/// How far the clock of the machine that signed may be ahead of ours, in seconds.
const CLOCK_SKEW_SECONDS: i64 = 60;
/// No token of ours comes near this; longer ones are not worth hashing.
const MAX_TOKEN_BYTES: usize = 8 * 1_024;

/// Whom a valid token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claims {
    /// A person who owns towns.
    User {
        /// The person.
        sub: String,
    },
    /// A person who runs the service.
    Operator {
        /// The person.
        sub: String,
    },
    /// A town's container.
    Container(ContainerClaims),
    /// One agent of a rig: a legacy token of the predecessor.
    Agent(AgentClaims),
}

/// Whom a legacy agent token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentClaims {
    /// The agent.
    pub agent_id: String,
    /// The only rig at whose routes it is good.
    pub rig_id: String,
    /// The town, and its owner.
    pub container: ContainerClaims,
}

/// Whom a container token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerClaims {
    /// The town it works for.
    pub town_id: String,
    /// The town's owner.
    pub user_id: String,
}

/// Why a token is refused. The texts are those of `protocol.md` 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not three base64url segments of JSON, or not HS256.
    #[error("Token validation failed")]
    Unreadable,
    /// It was signed with another secret, altered, or (as the predecessor has it) carries no `iat`.
    #[error("Invalid token signature")]
    Signature,
    /// It is too old.
    #[error("Token expired")]
    Expired,
    /// It is signed, but says nothing we understand: an unknown scope, a missing claim.
    #[error("Invalid token payload")]
    Payload,
    /// A token to be refreshed has no `exp`.
    #[error("Token missing exp claim")]
    NoExpiry,
    /// A token to be refreshed is older than the grace period.
    #[error("Token expired beyond refresh grace period")]
    BeyondGrace,
}

impl TokenError {
    /// What a program branches on.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "token_unreadable",
            Self::Signature => "token_signature",
            Self::Expired | Self::BeyondGrace => "token_expired",
            Self::Payload | Self::NoExpiry => "token_payload",
        }
    }
}

/// Verifies a token for use.
pub fn verify(token: &str, secret: &str, now: Timestamp) -> Result<Claims, TokenError> {
    let claims = signed_claims(token, secret)?;
    let now = now.0.div_euclid(SECOND);
    let scope = claims.get("scope").and_then(Json::as_str);
    let agent = name(&claims, "agentId").filter(|_| scope.is_none());
    // The predecessor verifies age with the signature, so a container token without `iat` reads "signature".
    let container = scope == Some("container") || agent.is_some();
    let iat = match seconds(&claims, "iat")? {
        Some(iat) => iat,
        None if container => return Err(TokenError::Signature),
        None => return Err(TokenError::Payload),
    };
    let exp = seconds(&claims, "exp")?;
    if exp.is_some_and(|exp| exp <= now) || (container && now.saturating_sub(iat) > CONTAINER_TOKEN_SECONDS) {
        return Err(TokenError::Expired);
    }
    if iat > now.saturating_add(CLOCK_SKEW_SECONDS) || (exp.is_none() && !container) {
        return Err(TokenError::Payload);
    }
    match scope {
        Some("user") => Ok(Claims::User { sub: name(&claims, "sub").ok_or(TokenError::Payload)? }),
        Some("operator") => Ok(Claims::Operator { sub: name(&claims, "sub").unwrap_or_else(|| "operator".to_owned()) }),
        Some("container") => container_claims(&claims).map(Claims::Container),
        _ => {
            let (agent_id, rig_id) = agent.zip(name(&claims, "rigId")).ok_or(TokenError::Payload)?;
            Ok(Claims::Agent(AgentClaims { agent_id, rig_id, container: container_claims(&claims)? }))
        }
    }
}

/// Verifies a container token that wants to be exchanged: its age does not count, its expiry up to the grace period
/// only. The flag says whether it had expired.
pub fn verify_for_refresh(token: &str, secret: &str, now: Timestamp) -> Result<(ContainerClaims, bool), TokenError> {
    let claims = signed_claims(token, secret)?;
    if claims.get("scope").and_then(Json::as_str) != Some("container") {
        return Err(TokenError::Payload);
    }
    let now = now.0.div_euclid(SECOND);
    let exp = seconds(&claims, "exp")?.ok_or(TokenError::NoExpiry)?;
    if now.saturating_sub(exp) > REFRESH_GRACE_SECONDS {
        return Err(TokenError::BeyondGrace);
    }
    Ok((container_claims(&claims)?, exp <= now))
}

/// Signs a container token that lives eight hours.
#[must_use]
pub fn sign_container(claims: &ContainerClaims, secret: &str, now: Timestamp) -> String {
    let iat = now.0.div_euclid(SECOND);
    let exp = iat.saturating_add(CONTAINER_TOKEN_SECONDS);
    sign(
        &json!({
            "townId": claims.town_id,
            "userId": claims.user_id,
            "scope": "container",
            "iat": iat,
            "exp": exp,
        }),
        secret,
    )
}

/// Signs a ticket with an id of its own for the socket at `path`; also returns when it expires, in seconds since 1970.
#[must_use]
pub fn sign_ticket(path: &str, id: &str, secret: &str, now: Timestamp) -> (String, i64) {
    let iat = now.0.div_euclid(SECOND);
    let exp = iat.saturating_add(TICKET_SECONDS);
    (sign(&json!({ "scope": "ticket", "path": path, "jti": id, "iat": iat, "exp": exp }), secret), exp)
}

/// The id of a ticket, if it is one for the socket at `path`. The path names the town.
pub fn verify_ticket(ticket: &str, path: &str, secret: &str, now: Timestamp) -> Result<String, TokenError> {
    let claims = signed_claims(ticket, secret)?;
    let says = |key: &str, value: &str| claims.get(key).and_then(Json::as_str) == Some(value);
    if !says("scope", "ticket") || !says("path", path) {
        return Err(TokenError::Payload);
    }
    match seconds(&claims, "exp")? {
        Some(exp) if exp > now.0.div_euclid(SECOND) => name(&claims, "jti").ok_or(TokenError::Payload),
        _ => Err(TokenError::Expired),
    }
}

/// Signs any claims.
#[must_use]
pub fn sign(claims: &Json, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    let signed = format!("{header}.{payload}");
    let signature =
        mac(secret, &signed).map_or_else(String::new, |m| URL_SAFE_NO_PAD.encode(m.finalize().into_bytes()));
    format!("{signed}.{signature}")
}

fn mac(secret: &str, signed: &str) -> Option<Hmac<Sha256>> {
    // HMAC takes a key of any length; an empty one would let anybody sign, so it is refused.
    if secret.is_empty() {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(signed.as_bytes());
    Some(mac)
}

fn signed_claims(token: &str, secret: &str) -> Result<Map<String, Json>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Unreadable);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Unreadable);
    };
    let head = object(header)?;
    // `crit` names extensions that a verifier must understand; we understand none.
    if head.get("alg").and_then(Json::as_str) != Some("HS256") || head.contains_key("crit") {
        return Err(TokenError::Unreadable);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Unreadable)?;
    mac(secret, &format!("{header}.{payload}"))
        .and_then(|m| m.verify_slice(&signature).ok())
        .ok_or(TokenError::Signature)?;
    object(payload)
}

fn object(segment: &str) -> Result<Map<String, Json>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).map_err(|_| TokenError::Unreadable)?;
    match std::str::from_utf8(&bytes).ok().and_then(crate::town::json::read) {
        Some(Json::Object(claims)) => Ok(claims),
        _ => Err(TokenError::Unreadable),
    }
}

/// A `NumericDate`: whole seconds, or a fraction that is cut. Anything else under that key is refused.
fn seconds(claims: &Map<String, Json>, key: &str) -> Result<Option<i64>, TokenError> {
    match claims.get(key) {
        None => Ok(None),
        #[allow(clippy::cast_possible_truncation, reason = "bounded: about 280,000 years")]
        Some(v) => match v.as_i64().or_else(|| v.as_f64().filter(|f| f.abs() < 9e12).map(|f| f.floor() as i64)) {
            Some(n) => Ok(Some(n)),
            None => Err(TokenError::Payload),
        },
    }
}

fn name(claims: &Map<String, Json>, key: &str) -> Option<String> {
    claims.get(key).and_then(Json::as_str).filter(|s| !s.is_empty() && s.len() <= 256).map(str::to_owned)
}

fn container_claims(claims: &Map<String, Json>) -> Result<ContainerClaims, TokenError> {
    match (name(claims, "townId"), name(claims, "userId")) {
        (Some(town_id), Some(user_id)) => Ok(ContainerClaims { town_id, user_id }),
        _ => Err(TokenError::Payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-secret-of-tests";
    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const S: i64 = 1_800_000_000;

    #[allow(clippy::needless_pass_by_value, reason = "reads better at the call")]
    fn user(claims: Json) -> Result<Claims, TokenError> {
        verify(&sign(&claims, SECRET), SECRET, NOW)
    }

    #[test]
    fn a_user_token_needs_sub_iat_and_exp() {
        let full = json!({"sub": "u1", "scope": "user", "iat": S - 1, "exp": S + 1});
        assert_eq!(user(full.clone()), Ok(Claims::User { sub: "u1".into() }));
        for key in ["sub", "iat", "exp", "scope"] {
            let mut less = full.clone();
            less.as_object_mut().unwrap().remove(key);
            assert_eq!(user(less), Err(TokenError::Payload), "without {key}");
        }
        assert_eq!(user(json!({"sub": "", "scope": "user", "iat": S, "exp": S + 1})), Err(TokenError::Payload));
        assert_eq!(user(json!({"sub": "u", "scope": "user", "iat": "x", "exp": S + 1})), Err(TokenError::Payload));
    }

    #[test]
    fn a_token_expires_at_its_exp_to_the_second() {
        assert_eq!(user(json!({"sub": "u", "scope": "user", "iat": S - 9, "exp": S})), Err(TokenError::Expired));
        assert!(user(json!({"sub": "u", "scope": "user", "iat": S - 9, "exp": S + 1})).is_ok());
    }

    #[test]
    fn a_token_from_the_future_is_refused_beyond_a_minute_of_skew() {
        assert!(user(json!({"sub": "u", "scope": "user", "iat": S + 60, "exp": S + 999})).is_ok());
        assert_eq!(user(json!({"sub": "u", "scope": "user", "iat": S + 61, "exp": S + 999})), Err(TokenError::Payload));
    }

    #[test]
    fn an_operator_without_a_name_is_still_an_operator() {
        assert_eq!(
            user(json!({"scope": "operator", "iat": S, "exp": S + 1})),
            Ok(Claims::Operator { sub: "operator".into() })
        );
    }

    #[test]
    fn a_container_token_is_good_for_eight_hours_even_without_exp() {
        let at = |iat: i64| user(json!({"townId": "t", "userId": "u", "scope": "container", "iat": iat}));
        assert!(matches!(at(S - CONTAINER_TOKEN_SECONDS), Ok(Claims::Container(_))));
        assert_eq!(at(S - CONTAINER_TOKEN_SECONDS - 1), Err(TokenError::Expired));
        assert_eq!(
            user(json!({"townId": "t", "userId": "u", "scope": "container", "exp": S + 5})),
            Err(TokenError::Signature)
        );
        assert_eq!(
            user(json!({"townId": "t", "userId": "", "scope": "container", "iat": S, "exp": S + 5})),
            Err(TokenError::Payload)
        );
    }

    #[test]
    fn what_is_signed_here_is_verified_here() {
        let claims = ContainerClaims { town_id: "t".into(), user_id: "u".into() };
        let token = sign_container(&claims, SECRET, NOW);
        assert_eq!(verify(&token, SECRET, NOW), Ok(Claims::Container(claims)));
    }

    #[test]
    fn another_secret_another_payload_or_a_cut_signature_is_a_bad_signature() {
        let token = sign(&json!({"sub": "u", "scope": "user", "iat": S, "exp": S + 1}), SECRET);
        assert_eq!(verify(&token, "another", NOW), Err(TokenError::Signature));
        let other = sign(&json!({"sub": "root", "scope": "operator", "iat": S, "exp": S + 1}), "another");
        let forged = format!(
            "{}.{}.{}",
            token.split('.').next().unwrap(),
            other.split('.').nth(1).unwrap(),
            token.split('.').nth(2).unwrap()
        );
        assert_eq!(verify(&forged, SECRET, NOW), Err(TokenError::Signature));
        let cut = token.rsplit_once('.').unwrap().0.to_owned() + ".";
        assert_eq!(verify(&cut, SECRET, NOW), Err(TokenError::Signature));
    }

    #[test]
    fn an_empty_secret_signs_and_verifies_nothing() {
        let token = sign(&json!({"scope": "operator", "iat": S, "exp": S + 1}), "");
        assert!(token.ends_with('.'));
        assert_eq!(verify(&token, "", NOW), Err(TokenError::Signature));
    }

    #[test]
    fn only_hs256_is_ever_tried() {
        let payload = URL_SAFE_NO_PAD.encode(json!({"scope": "operator", "iat": S, "exp": S + 1}).to_string());
        for alg in ["none", "HS384", "RS256", "hs256"] {
            let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg }).to_string());
            assert_eq!(verify(&format!("{header}.{payload}."), SECRET, NOW), Err(TokenError::Unreadable), "{alg}");
        }
        for garbage in ["", ".", "..", "a.b", "a.b.c.d", "ä.ö.ü", "e30.e30.e30"] {
            assert_eq!(verify(garbage, SECRET, NOW), Err(TokenError::Unreadable), "{garbage}");
        }
    }

    #[test]
    fn a_ticket_opens_the_socket_at_its_path_for_a_minute_and_nothing_else() {
        let (ticket, exp) = sign_ticket("/api/towns/t/status/ws", "j", SECRET, NOW);
        assert_eq!(exp, S + TICKET_SECONDS);
        let at = |path: &str, secret: &str, after: i64| verify_ticket(&ticket, path, secret, NOW.plus(after * SECOND));
        assert_eq!(at("/api/towns/t/status/ws", SECRET, 59), Ok("j".to_owned()));
        assert_eq!(at("/api/towns/t/status/ws", SECRET, 60), Err(TokenError::Expired));
        assert_eq!(at("/api/towns/u/status/ws", SECRET, 0), Err(TokenError::Payload));
        assert_eq!(at("/api/towns/t/status/ws", "another", 0), Err(TokenError::Signature));
        assert_eq!(verify(&ticket, SECRET, NOW), Err(TokenError::Payload), "it is nobody's token");
        let person = sign(&json!({"sub": "u", "scope": "user", "iat": S, "exp": S + 9, "path": "/p"}), SECRET);
        assert_eq!(verify_ticket(&person, "/p", SECRET, NOW), Err(TokenError::Payload), "and a token is no ticket");
    }

    #[test]
    fn a_legacy_agent_token_needs_all_its_claims_and_is_good_for_eight_hours() {
        let full = json!({"agentId": "a", "rigId": "r", "townId": "t", "userId": "u", "iat": S, "exp": S + 9});
        let with = |key: &str, value: Json| {
            let mut claims = full.clone();
            claims[key] = value;
            user(claims)
        };
        let container = ContainerClaims { town_id: "t".into(), user_id: "u".into() };
        let understood = Claims::Agent(AgentClaims { agent_id: "a".into(), rig_id: "r".into(), container });
        assert_eq!(user(full.clone()), Ok(understood.clone()));
        for key in ["agentId", "rigId", "townId", "userId"] {
            assert_eq!(with(key, json!("")), Err(TokenError::Payload), "without {key}");
        }
        let mut endless = full.clone();
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(user(endless.clone()), Ok(understood), "exp is obeyed if it is there");
        endless.as_object_mut().unwrap().remove("iat");
        assert_eq!(user(endless), Err(TokenError::Signature), "iat is not optional");
        assert!(with("iat", json!(S - CONTAINER_TOKEN_SECONDS)).is_ok());
        assert_eq!(with("iat", json!(S - CONTAINER_TOKEN_SECONDS - 1)), Err(TokenError::Expired));
        assert_eq!(with("exp", json!(S)), Err(TokenError::Expired));
        // A scope makes it something else: nobody becomes an agent by adding a claim to another token.
        assert_eq!(with("scope", json!("agent")), Err(TokenError::Payload));
    }

    #[test]
    fn a_container_token_can_be_refreshed_for_a_day_after_it_expired() {
        let refresh =
            |claims: Json| verify_for_refresh(&sign(&claims, SECRET), SECRET, NOW).map(|(_, expired)| expired);
        let with = |exp: i64| json!({"townId": "t", "userId": "u", "scope": "container", "iat": 1, "exp": exp});
        assert_eq!(refresh(with(S + 1)), Ok(false));
        assert_eq!(refresh(with(S)), Ok(true));
        assert_eq!(refresh(with(S - REFRESH_GRACE_SECONDS)), Ok(true));
        assert_eq!(refresh(with(S - REFRESH_GRACE_SECONDS - 1)), Err(TokenError::BeyondGrace));
        let mut no_exp = with(S);
        no_exp.as_object_mut().unwrap().remove("exp");
        assert_eq!(refresh(no_exp), Err(TokenError::NoExpiry));
        assert_eq!(refresh(json!({"sub": "u", "scope": "user", "iat": S, "exp": S + 9})), Err(TokenError::Payload));
    }
}
