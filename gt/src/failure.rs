//! What can go wrong, what a person or an agent is told about it, and the exit code a script branches on.

use serde_json::{Value as Json, json};
use std::{fmt::Write as _, io, path::Path, process::ExitCode, time::Duration};

/// Done.
pub const OK: u8 = 0;
/// The server refused.
pub const REFUSED: u8 = 1;
/// Wrong arguments, nobody logged in, a file that cannot be read: nothing was sent.
pub const USAGE: u8 = 2;
/// The server could not be reached or has no time, also after repeating: the same command may succeed later.
pub const UNREACHABLE: u8 = 3;

/// Why a command did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The command cannot be carried out as it was given. Nothing was sent that changes anything.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        next: String,
    },
    /// The server's refusal.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No answer, or none of a Gastown worker.
    #[error("{what}")]
    Unreachable {
        /// What happened.
        what: String,
        /// What to do.
        next: String,
    },
}

/// The server's refusal, as `{success: false, …}` says it.
#[derive(Clone, Debug, Default, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What a program branches on; may be empty.
    pub code: String,
    /// The server's text.
    pub message: String,
    /// When to ask again.
    pub retry_after: Option<Duration>,
    /// The whole answer.
    pub body: Json,
    /// Whether an agent asked: it cannot log in again.
    pub of_agent: bool,
}

impl Refusal {
    /// What to do about it.
    fn next(&self) -> &'static str {
        let agent = self.of_agent;
        match self.status {
            400 | 413 | 422 => "Correct what the server names, and try again.",
            401 if agent => {
                "The container's token is no longer valid and could not be renewed: nothing an agent can mend. Stop here."
            }
            401 => "Log in again: gt login --api URL --token TOKEN.",
            403 if agent => "An agent may not do this. Ask with: gt escalate.",
            403 => "Another token of yours will not help; see who you are with: gt whoami.",
            404 => "Check the id: gt beads, gt agents, gt convoy list, gt rigs and gt towns list what there is.",
            409 if self.message.contains("redrive") => "Bring it back with: gt redrive BEAD.",
            409 => "It is in another state than this needs; look first: gt bead show ID, gt explain BEAD.",
            429 => "Wait as long as it says, then try again.",
            503 if self.code == "not_configured" => "The server lacks its secret: its operator has to set it.",
            503 => "The town is busy: try again in a minute.",
            _ => "Try once more; if it stays, the server's log tells why.",
        }
    }

    /// What is wrong with which part of the request, one line each.
    fn issues(&self) -> Vec<String> {
        let listed = self.body.get("issues").and_then(Json::as_array);
        let mut lines: Vec<String> = listed.into_iter().flatten().map(issue).collect();
        if let Some(field) = self.body.get("field").and_then(Json::as_str) {
            lines.push(format!("field: {field}"));
        }
        if let Some(state) = self.body.get("state").and_then(Json::as_str) {
            lines.push(format!("state: {state}"));
        }
        lines
    }
}

fn issue(issue: &Json) -> String {
    let path: Vec<&str> =
        issue.get("path").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let message = issue.get("message").and_then(Json::as_str).unwrap_or("invalid");
    if path.is_empty() { message.to_owned() } else { format!("{}: {message}", path.join(".")) }
}

impl Failure {
    /// The command cannot be carried out as it was given.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), next: next.into() }
    }

    /// A file that is in the way.
    pub fn file(path: &Path, error: &io::Error) -> Self {
        Self::usage(format!("{}: {error}", path.display()), "Check the path and its permissions.")
    }

    /// What the process exits with.
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// The same as a number. A 503 is counted with the unreachable: both pass by themselves.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } => USAGE,
            Self::Refused(refusal) if refusal.status == 503 => UNREACHABLE,
            Self::Refused(_) => REFUSED,
            Self::Unreachable { .. } => UNREACHABLE,
        }
    }

    /// For people and models: what happened, the details, what to do next.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let next = match self {
            Self::Usage { next, .. } | Self::Unreachable { next, .. } => next.as_str(),
            Self::Refused(refusal) => {
                let _ = write!(text, " (HTTP {})", refusal.status);
                for line in refusal.issues() {
                    let _ = write!(text, "\n  {line}");
                }
                refusal.next()
            }
        };
        if next.is_empty() { text } else { format!("{text}\n  {next}") }
    }

    /// For programs (`--json`): the server's own answer with its status, or the same shape.
    pub fn json(&self) -> Json {
        match self {
            Self::Refused(refusal) if refusal.body.is_object() => {
                let mut body = refusal.body.clone();
                if let Some(object) = body.as_object_mut() {
                    object.insert("status".to_owned(), json!(refusal.status));
                }
                body
            }
            Self::Refused(refusal) => {
                json!({"success": false, "error": refusal.message, "code": refusal.code, "status": refusal.status})
            }
            Self::Usage { what, .. } => json!({"success": false, "error": what, "code": "usage"}),
            Self::Unreachable { what, .. } => json!({"success": false, "error": what, "code": "unreachable"}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str, body: Json) -> Failure {
        Failure::Refused(Box::new(Refusal { status, message: message.to_owned(), body, ..Refusal::default() }))
    }

    #[test]
    fn a_refusal_names_every_issue_and_what_to_do() {
        let body = json!({"issues": [{"path": ["tasks", "0"], "message": "must not be empty"}], "field": "title"});
        let text = refused(400, "Invalid request body", body).explain();
        assert_eq!(
            text,
            "Invalid request body (HTTP 400)\n  tasks.0: must not be empty\n  field: title\n  \
             Correct what the server names, and try again."
        );
    }

    #[test]
    fn only_what_passes_by_itself_exits_with_three() {
        let code = |status| refused(status, "no", Json::Null).code();
        assert_eq!((code(404), code(500), code(503)), (REFUSED, REFUSED, UNREACHABLE));
        assert_eq!(Failure::usage("x", "y").code(), USAGE);
    }

    #[test]
    fn a_failed_bead_leads_to_redrive() {
        assert!(refused(409, "Bead b is failed; use redrive", Json::Null).explain().contains("gt redrive BEAD"));
    }
}
