//! What a container token says about itself. The signature is the worker's business: here the claims only decide when to ask
//! for a new token, and which town one is for.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// A token with less than this left is refreshed when the runner boots, in seconds (protocol 4.8, step 5).
const SOON_SECONDS: i64 = 30 * 60;

fn claim(token: &str, name: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get(name).cloned()
}

/// Whether the token ends within half an hour of `now` (seconds since 1970). One that does not say when it ends does not.
#[must_use]
pub fn ends_soon(token: &str, now: i64) -> bool {
    claim(token, "exp").and_then(|end| end.as_i64()).is_some_and(|end| end.saturating_sub(now) < SOON_SECONDS)
}

/// The town it is for.
#[must_use]
pub fn town(token: &str) -> Option<String> {
    claim(token, "townId")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{ends_soon, town};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    #[test]
    fn the_claims_are_read_and_what_is_no_token_says_nothing() {
        let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(r#"{"exp":10000,"townId":"t1"}"#));
        assert!(ends_soon(&token, 10_000 - 1799) && ends_soon(&token, 20_000));
        assert!(!ends_soon(&token, 10_000 - 1800));
        assert_eq!(town(&token).as_deref(), Some("t1"));
        for odd in ["", "a.b", "a.!!.c", "e30.e30.x"] {
            assert!(!ends_soon(odd, 0) && town(odd).is_none(), "{odd}");
        }
    }
}
