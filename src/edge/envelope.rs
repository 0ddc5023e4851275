//! What every answer looks like: the envelope of `protocol.md` 1.2 with the error fields of `api.md`.
//!
//! Guarantee: an error text is written here or by the town for a caller to read; nothing internal (SQL, a stack, a
//! secret) is ever put into one.

use crate::town::json::json;
use crate::town::{
    Reply,
    error::{Cause, TownError},
    time::{Millis, SECOND},
};
use serde_json::{Map, Value as Json};
use std::ops::Deref;

/// One thing that is wrong with a body or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// What kind of wrong: `invalid_type`, `too_small`, `too_big`, `invalid_value`, `invalid_format`.
    pub code: &'static str,
    /// Where: a key, or a key and an index joined by a dot.
    pub path: String,
    /// What would be right.
    pub message: String,
}

/// What a refusal is about, beside its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum About {
    /// Nothing in particular.
    #[default]
    Nothing,
    /// A field: 422.
    Field(String),
    /// A state: 409.
    State(String),
}

/// A request that is not carried out. One word wide, like the town's error: its fields are those of [`Why`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Box<Why>);

/// Everything that a caller may know about why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// The HTTP status.
    pub status: u16,
    /// What a program branches on.
    pub code: &'static str,
    /// What a person or an agent reads.
    pub message: String,
    /// What a 422 or a 409 is about.
    pub about: About,
    /// When to ask again.
    pub retry_after: Option<Millis>,
    /// What a 400 is about.
    pub issues: Vec<Issue>,
}

impl Refusal {
    /// A refusal with a status, a code and a text.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Why { status, code, message: message.into(), ..Why::default() }))
    }
    fn with(mut self, set: impl FnOnce(&mut Why)) -> Self {
        set(&mut self.0);
        self
    }
    /// The same, with when to ask again.
    #[must_use]
    pub fn after(self, wait: Millis) -> Self {
        self.with(|why| why.retry_after = Some(wait))
    }
    /// 400 in the predecessor's words, with the list of what is wrong, [`ISSUES_SHOWN`] at most.
    #[must_use]
    pub fn malformed(mut issues: Vec<Issue>) -> Self {
        issues.truncate(ISSUES_SHOWN);
        Self::new(400, "malformed", "Invalid request body").with(|why| why.issues = issues)
    }
    /// 400 with a text of its own.
    #[must_use]
    pub fn bad_query(message: impl Into<String>) -> Self {
        Self::new(400, "malformed", message)
    }
    /// 422 that names its field.
    #[must_use]
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(422, "invalid", message).with(|why| why.about = About::Field(field.to_owned()))
    }
    /// 401: the caller should get another token.
    #[must_use]
    pub fn unauthorized(code: &'static str, message: &str) -> Self {
        Self::new(401, code, message)
    }
    /// 403: another token would not help.
    #[must_use]
    pub fn forbidden(message: &str) -> Self {
        Self::new(403, "forbidden", message)
    }
    /// 404 in the predecessor's words: `Town not found`.
    #[must_use]
    pub fn missing(noun: &str) -> Self {
        Self::new(404, "not_found", format!("{noun} not found"))
    }
    /// 404 for a path that no route has.
    #[must_use]
    pub fn unknown_route() -> Self {
        Self::new(404, "not_found", "Not found")
    }
    /// 413, with the limit.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "too_large", format!("Request body too large: at most {limit} bytes"))
    }
    /// 503: the object sheds load. Asking again at once would make it worse. `spread` is a random byte: callers that were
    /// sent away together must not come back together.
    #[must_use]
    pub fn overloaded(spread: u8) -> Self {
        Self::new(503, OVERLOADED, "The town is overloaded: ask again later").after(spread_out(OVERLOAD_PAUSE, spread))
    }
    /// 503: the object could not be reached this time, and asking again is safe. `spread` as above.
    #[must_use]
    pub fn unavailable(spread: u8) -> Self {
        Self::new(503, "unavailable", "The town could not be reached: ask again")
            .after(spread_out(UNAVAILABLE_PAUSE, spread))
    }
    /// 500. The cause goes to the log, never to the caller.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(500, "internal", "Internal server error")
    }
    /// As it goes out. `/debug`, whose successes are bare, refuses in the same words: its callers read `error`.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let mut body = Map::new();
        body.insert("success".to_owned(), json!(false));
        body.insert("error".to_owned(), json!(self.message));
        body.insert("code".to_owned(), json!(self.code));
        match &self.about {
            About::Nothing => {}
            About::Field(field) => drop(body.insert("field".to_owned(), json!(field))),
            About::State(state) => drop(body.insert("state".to_owned(), json!(state))),
        }
        if let Some(ms) = self.retry_after {
            body.insert("retry_after_ms".to_owned(), json!(ms));
        }
        if self.status == 400 {
            let issues: Vec<Json> = self
                .issues
                .iter()
                .map(|i| json!({ "code": i.code, "path": i.path.split('.').collect::<Vec<_>>(), "message": i.message }))
                .collect();
            body.insert("issues".to_owned(), Json::Array(issues));
        }
        Answer { status: self.status, body: Json::Object(body), retry_after: self.retry_after }
    }
}

impl Deref for Refusal {
    type Target = Why;
    fn deref(&self) -> &Why {
        &self.0
    }
}

impl From<TownError> for Refusal {
    fn from(e: TownError) -> Self {
        let plain = Self::new(e.status(), e.code(), e.to_string());
        match e.into_cause() {
            Cause::Conflict { state, .. } => plain.with(|why| why.about = About::State(state)),
            Cause::Invalid { field, .. } => plain.with(|why| why.about = About::Field(field)),
            Cause::TooOften { retry_after, .. } => plain.after(retry_after),
            // SQLite's own words stay in the log.
            Cause::Storage(_) => Self::internal(),
            Cause::Malformed(_) | Cause::Forbidden(_) | Cause::NotFound(_) | Cause::TooLarge(_) => plain,
        }
    }
}

/// How many issues a 400 lists. A body of 1 MB has room for 350,000 wrong list entries, whose issues would be an answer of
/// 30 MB; whoever mends the first fifty learns of the rest.
pub const ISSUES_SHOWN: usize = 50;

/// The code of a request that was sent away before anything of it was done.
pub const OVERLOADED: &str = "overloaded";

/// How long an overloaded object is left alone at least: several times what it takes to work off all it has in hand.
const OVERLOAD_PAUSE: Millis = 5 * SECOND;

/// How long an object that could not be reached is left alone at least.
const UNAVAILABLE_PAUSE: Millis = SECOND;

/// `pause` to twice `pause`.
fn spread_out(pause: Millis, spread: u8) -> Millis {
    pause + pause * Millis::from(spread) / Millis::from(u8::MAX)
}

/// Whether a success wears the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `{success, data}`.
    Enveloped,
    /// `/debug`, `/` and `/health`: the value itself.
    Bare,
}

/// An answer ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body.
    pub body: Json,
    /// Becomes the `Retry-After` header.
    pub retry_after: Option<Millis>,
}

impl Answer {
    /// A success with data, dressed by `style`.
    #[must_use]
    pub fn data(status: u16, data: Json, style: Style) -> Self {
        let body = match style {
            Style::Enveloped => json!({ "success": true, "data": data }),
            Style::Bare => data,
        };
        Self { status, body, retry_after: None }
    }
    /// The town's answer to a command.
    #[must_use]
    pub fn reply(reply: Reply, style: Style) -> Self {
        Self::data(reply.status, reply.data, style)
    }
    /// The value of `Retry-After`: whole seconds, rounded up, at least 1.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<i64> {
        self.retry_after.map(|ms| ms.saturating_add(SECOND - 1).div_euclid(SECOND).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::town::sql::SqlError;

    #[test]
    fn a_success_wears_the_envelope_and_a_debug_answer_does_not() {
        assert_eq!(
            Answer::data(201, json!({"a": 1}), Style::Enveloped).body,
            json!({"success": true, "data": {"a": 1}})
        );
        assert_eq!(Answer::data(200, json!({"a": 1}), Style::Bare).body, json!({"a": 1}));
        assert_eq!(
            Refusal::missing("Town").answer().body,
            json!({"success": false, "error": "Town not found", "code": "not_found"})
        );
    }

    #[test]
    fn a_conflict_names_the_state_and_a_422_names_the_field() {
        let conflict = Refusal::from(TownError::conflict("failed", "use redrive")).answer();
        assert_eq!(conflict.status, 409);
        assert_eq!(
            conflict.body,
            json!({"success": false, "error": "use redrive", "code": "conflict", "state": "failed"})
        );
        let invalid = Refusal::from(TownError::invalid("title", "too long")).answer();
        assert_eq!(invalid.status, 422);
        assert_eq!(invalid.body["field"], "title");
    }

    #[test]
    fn asking_too_often_says_when_to_ask_again_in_both_units() {
        let e = Cause::TooOften { message: "one a minute".into(), retry_after: 1_001 };
        let answer = Refusal::from(TownError::from(e)).answer();
        assert_eq!((answer.status, answer.body["retry_after_ms"].clone()), (429, json!(1_001)));
        assert_eq!(answer.retry_after_seconds(), Some(2));
    }

    #[test]
    fn callers_that_are_sent_away_together_come_back_spread_out() {
        let seconds = |spread| Refusal::overloaded(spread).answer().retry_after_seconds();
        assert_eq!((seconds(0), seconds(128), seconds(255)), (Some(5), Some(8), Some(10)));
        let answer = Refusal::overloaded(0).answer();
        assert_eq!((answer.status, answer.body["code"].clone()), (503, json!("overloaded")));
        assert_eq!(Refusal::unavailable(255).answer().retry_after_seconds(), Some(2));
    }

    #[test]
    fn sqlites_own_words_never_leave() {
        let e = TownError::from(SqlError::new("UNIQUE constraint failed: towns.secret"));
        let answer = Refusal::from(e).answer();
        assert_eq!(answer.status, 500);
        assert!(!answer.body.to_string().contains("UNIQUE"));
        assert_eq!(answer.body["error"], "Internal server error");
    }

    #[test]
    fn a_400_lists_its_issues_with_paths_as_arrays() {
        let issue = Issue { code: "invalid_type", path: "tasks.0".into(), message: "expected an object".into() };
        let answer = Refusal::malformed(vec![issue]).answer();
        assert_eq!(answer.body["error"], "Invalid request body");
        assert_eq!(
            answer.body["issues"],
            json!([{"code": "invalid_type", "path": ["tasks", "0"], "message": "expected an object"}])
        );
    }
}
