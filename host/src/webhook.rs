//! The receiver of a town's webhook: keeps every post, checks signatures, and fails on demand.

use crate::fault::{Fault, SimAnswer, through};
use gastown::town::time::{Millis, Timestamp};
use hmac::{Hmac, Mac};
use serde_json::Value as Json;
use sha2::Sha256;
use std::fmt::Write as _;

/// One post that really arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    /// When.
    pub at: Timestamp,
    /// When it was sent.
    pub sent: Timestamp,
    /// Where to.
    pub url: String,
    /// The raw body, which the signature covers.
    pub raw: String,
    /// `X-Gastown-Signature`.
    pub signature: Option<String>,
}

impl Post {
    /// The body as JSON; `null` if it is not.
    #[must_use]
    pub fn body(&self) -> Json {
        serde_json::from_str(&self.raw).unwrap_or_default()
    }
    /// True if the signature is the one that `secret` gives.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn signed_by(&self, secret: &str) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(self.raw.as_bytes());
        let mut wanted = "sha256=".to_owned();
        for byte in mac.finalize().into_bytes() {
            let _ = write!(wanted, "{byte:02x}");
        }
        self.signature.as_deref() == Some(wanted.as_str())
    }
}

/// The receiver.
#[derive(Debug, Default)]
pub struct Webhook {
    /// What arrived, oldest first. A fault on the way back does not undo an arrival.
    pub posts: Vec<Post>,
    /// What goes wrong with every post, if anything.
    pub fault: Option<Fault>,
}

impl Webhook {
    /// A post arrives.
    pub fn receive(&mut self, post: Post) -> SimAnswer {
        const LATENCY: Millis = 20;
        let posts = &mut self.posts;
        through(self.fault.clone(), LATENCY, || {
            posts.push(post);
            SimAnswer::http(LATENCY, 200, "ok")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(signature: Option<&str>) -> Post {
        Post {
            at: Timestamp(0),
            sent: Timestamp(0),
            url: "https://example.com/hook".to_owned(),
            raw: "what do ya want for nothing?".to_owned(),
            signature: signature.map(str::to_owned),
        }
    }

    #[test]
    fn a_signature_is_checked_against_rfc_4231() {
        let right = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert!(post(Some(right)).signed_by("Jefe"));
        assert!(!post(Some(right)).signed_by("jefe"));
        assert!(!post(None).signed_by("Jefe"));
    }

    #[test]
    fn a_post_whose_answer_is_lost_has_arrived_all_the_same() {
        let mut hook = Webhook { fault: Some(Fault::DropAfter), ..Webhook::default() };
        assert_eq!(hook.receive(post(None)), SimAnswer::lost(20));
        hook.fault = Some(Fault::DropBefore);
        assert_eq!(hook.receive(post(None)), SimAnswer::lost(20));
        hook.fault = None;
        assert_eq!(hook.receive(post(None)), SimAnswer::http(20, 200, "ok"));
        assert_eq!(hook.posts.len(), 2);
    }
}
