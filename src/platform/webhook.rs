//! The town's webhook (`design.md` 6): one POST of a body that the town has written and signed.

use super::http::{self, Outgoing, Via};
use crate::town::{
    effect::{Answer, PostWebhook},
    policy::WEBHOOK_TIMEOUT,
};

/// Posts it. The signature is over exactly these bytes, so the body is sent as it is.
pub async fn post(hook: PostWebhook) -> Answer {
    let headers = hook.signature.into_iter().map(|s| ("X-Gastown-Signature", s)).collect();
    let (url, body) = (hook.url, Some(hook.body));
    http::call(Outgoing { method: "POST", url, headers, body, timeout: WEBHOOK_TIMEOUT }, &Via::Internet).await
}
