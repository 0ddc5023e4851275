//! The small bodies of the control API. What is wrong with one is the body of the 400 that answers it.

use crate::{fields::Fields, request::StartRequest};
use serde_json::{Value, json};

/// The longest token.
const TOKEN_BYTES: usize = 8192;

/// Reads the optional `dispatchId` of a stop: nothing if the body is empty or says nothing about it.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_stop(body: &[u8]) -> Result<Option<String>, Value> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let dispatch = fields.optional_id("dispatchId");
    fields.finish(dispatch)
}

/// Reads the prompt of a message.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_message(body: &[u8]) -> Result<String, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let prompt = fields.text("prompt");
    fields.finish(prompt)
}

/// Reads `{token}` of a pushed container token.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_token(body: &[u8]) -> Result<String, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let token = fields.text("token");
    // It becomes a header.
    if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        fields.issue("token", "must be 1 to 8192 visible ASCII characters");
    }
    fields.finish(token)
}

/// Reads `{model}`: what an agent thinks with from its next turn on.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_model(body: &[u8]) -> Result<String, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let model = fields.model();
    if model.is_empty() {
        fields.issue("model", "must not be empty");
    }
    fields.finish(model)
}

/// Reads `{systemPrompt}`.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_system_prompt(body: &[u8]) -> Result<String, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let prompt = fields.text("systemPrompt");
    fields.finish(prompt)
}

/// Reads `{context}`: a text, or any JSON that is shown as it is.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_context(body: &[u8]) -> Result<String, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let context = match fields.get("context") {
        None | Some(Value::String(_)) => fields.text("context"),
        Some(other) => other.to_string(),
    };
    fields.finish(context)
}

/// Reads `{rigId, gitUrl, defaultBranch, envVars?}` as the start of nobody: only its repository is made.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_setup(body: &[u8], town: &str, dev: bool) -> Result<StartRequest, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let rig = fields.id("rigId");
    for name in ["gitUrl", "defaultBranch"] {
        fields.text(name);
    }
    fields.finish(())?;
    let field = |name: &str| value.get(name).cloned().unwrap_or(Value::Null);
    let start = json!({
        "agentId": rig, "rigId": rig, "townId": town, "role": "polecat", "name": "gastown", "identity": "gastown",
        "prompt": "", "model": "", "gitUrl": field("gitUrl"), "branch": field("defaultBranch"),
        "defaultBranch": field("defaultBranch"), "envVars": field("envVars"),
    });
    StartRequest::parse(start.to_string().as_bytes(), dev)
}

#[cfg(test)]
mod tests {
    use super::parse_stop;

    #[test]
    fn a_stop_may_have_no_body() {
        assert_eq!(parse_stop(b""), Ok(None));
        assert_eq!(parse_stop(b"{\"signal\":\"SIGTERM\"}"), Ok(None));
        assert_eq!(parse_stop(b"{\"dispatchId\":\"d\"}"), Ok(Some("d".to_owned())));
        assert!(parse_stop(b"[").is_err());
    }
}
