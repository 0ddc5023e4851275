//! The forges (GitHub, GitLab): one call, as the town has written it, with the headers that they ask for.

use super::{
    http::{self, Outgoing},
    settings::Settings,
};
use crate::town::{
    effect::{Answer, CallForge},
    policy::{FORGE_ANSWER_BYTES, FORGE_TIMEOUT},
};

/// Makes the call. Where the API is, the deployment's settings may say otherwise (a proxy, a test's forge).
pub async fn call(call: CallForge, settings: &Settings) -> Answer {
    let elsewhere = if call.github { &settings.github_api_url } else { &settings.gitlab_api_url };
    let base = elsewhere.as_ref().unwrap_or(&call.base);
    let headers = vec![
        // GitLab takes its tokens this way, too; GitHub refuses who does not name himself.
        ("Authorization", format!("Bearer {}", call.token.0)),
        ("Accept", "application/json".to_owned()),
        ("User-Agent", "gastown".to_owned()),
    ];
    let url = format!("{base}{}", call.path);
    let outgoing = Outgoing { method: call.method, url, headers, body: call.body, timeout: FORGE_TIMEOUT };
    http::call_for(outgoing, &http::Via::Internet, FORGE_ANSWER_BYTES).await
}
