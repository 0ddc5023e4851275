//! Reads the fields of a body or a query, one by one, and collects everything that is wrong with them.
//!
//! Guarantee: a value of the wrong type never gets past this file, and a caller learns of all its mistakes at once.
//! Lengths are the town's business (422), except where the wire says otherwise.

use super::envelope::{ISSUES_SHOWN, Issue, Refusal};
use crate::town::{id::is_uuid_v4, policy::LIST_MAX};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json};
use std::num::ParseIntError;

/// A body as it arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Body {
    /// Nothing, or `null`.
    #[default]
    Empty,
    /// Something that is no JSON.
    Malformed,
    /// JSON.
    Json(Json),
}

impl Body {
    /// Reads bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Self::Empty;
        }
        match std::str::from_utf8(bytes).ok().and_then(crate::town::json::read) {
            Some(Json::Null) => Self::Empty,
            Some(json) => Self::Json(json),
            None => Self::Malformed,
        }
    }
    /// The value; `null` if there is none.
    #[must_use]
    pub const fn json(&self) -> &Json {
        match self {
            Self::Json(json) => json,
            Self::Empty | Self::Malformed => &Json::Null,
        }
    }
}

/// A body that is being read.
#[derive(Default)]
pub struct Fields<'a> {
    body: Option<&'a Map<String, Json>>,
    issues: Vec<Issue>,
}

impl<'a> Fields<'a> {
    /// A body that must be an object.
    #[must_use]
    pub fn required(body: &'a Body) -> Self {
        let mut fields = Self::default();
        fields.require(body);
        fields
    }
    /// Begins to read a body that must be an object.
    pub fn require(&mut self, body: &'a Body) {
        self.body = body.json().as_object();
        if self.body.is_none() {
            let text =
                if matches!(body, Body::Malformed) { "the body is not valid JSON" } else { "expected a JSON object" };
            self.wrong("invalid_type", "", text);
        }
    }
    /// Begins to read a body that may be missing; if there is one, it must be an object.
    pub fn accept(&mut self, body: &'a Body) {
        if !matches!(body, Body::Empty) {
            self.require(body);
        }
    }
    /// An object within the body, to be read by itself; see [`Self::took`].
    #[must_use]
    pub fn of(object: &'a Json) -> Self {
        Self { body: object.as_object(), issues: Vec::new() }
    }
    /// What was wrong with an object within the body is wrong with the body.
    pub fn took(&mut self, path: &str, part: Fields<'_>) {
        for issue in part.issues {
            self.wrong(issue.code, &format!("{path}.{}", issue.path), &issue.message);
        }
    }
    /// Ends the reading: the value, or everything that was wrong.
    pub fn done<T>(self, value: T) -> Result<T, Refusal> {
        if self.issues.is_empty() { Ok(value) } else { Err(Refusal::malformed(self.issues)) }
    }
    /// Notes something that is wrong, unless there is enough to tell already.
    pub fn wrong(&mut self, code: &'static str, path: &str, message: &str) {
        if self.issues.len() >= ISSUES_SHOWN {
            return;
        }
        self.issues.push(Issue { code, path: path.to_owned(), message: message.to_owned() });
    }
    /// True if the key is there, `null` included.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.body.is_some_and(|b| b.contains_key(key))
    }
    /// The value under a key; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&'a Json> {
        self.body.and_then(|b| b.get(key)).filter(|v| !v.is_null())
    }
    fn typed<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&'a Json) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.wrong("invalid_type", key, &format!("expected {wanted}"));
        }
        read
    }

    /// A text that must be there and not be empty.
    pub fn text(&mut self, key: &str) -> String {
        match self.typed(key, "a string", Json::as_str) {
            Some("") => self.wrong("too_small", key, "must not be empty"),
            Some(text) => return text.to_owned(),
            None if self.get(key).is_none() => self.wrong("invalid_type", key, "required: a string"),
            None => {}
        }
        String::new()
    }
    /// A text that may be missing.
    pub fn opt_text(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a string", Json::as_str).map(str::to_owned)
    }
    /// A text that may be missing but not empty.
    pub fn opt_filled(&mut self, key: &str) -> Option<String> {
        let text = self.opt_text(key)?;
        if text.is_empty() {
            self.wrong("too_small", key, "must not be empty");
        }
        Some(text)
    }
    /// A text of at most `max` characters that must be there.
    pub fn short_text(&mut self, key: &str, max: usize) -> String {
        let text = self.text(key);
        if text.chars().count() > max {
            self.wrong("too_big", key, &format!("at most {max} characters"));
        }
        text
    }
    /// One of several words, or nothing.
    pub fn opt_word(&mut self, key: &str, words: &[&str]) -> Option<String> {
        let text = self.opt_text(key)?;
        if !words.contains(&text.as_str()) {
            self.wrong("invalid_value", key, &format!("expected one of {}", words.join(", ")));
        }
        Some(text)
    }
    /// One of several words.
    pub fn word(&mut self, key: &str, words: &[&str]) -> String {
        let text = self.text(key);
        if !text.is_empty() && !words.contains(&text.as_str()) {
            self.wrong("invalid_value", key, &format!("expected one of {}", words.join(", ")));
        }
        text
    }
    /// A list of texts; absent is empty.
    pub fn texts(&mut self, key: &str) -> Vec<String> {
        self.opt_texts(key).unwrap_or_default()
    }
    /// A list of texts, or nothing.
    pub fn opt_texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.typed(key, "an array of strings", |v| {
            v.as_array()?.iter().map(|t| t.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        })
    }
    /// A list of UUIDs, or nothing.
    pub fn opt_uuids(&mut self, key: &str) -> Option<Vec<String>> {
        let list = self.opt_texts(key)?;
        for (i, text) in list.iter().enumerate() {
            if !is_uuid_v4(text) {
                self.wrong("invalid_format", &format!("{key}.{i}"), "expected a lower-case UUID v4");
            }
        }
        Some(list)
    }
    /// A UUID that must be there.
    pub fn uuid(&mut self, key: &str) -> String {
        let text = self.text(key);
        if !text.is_empty() && !is_uuid_v4(&text) {
            self.wrong("invalid_format", key, "expected a lower-case UUID v4");
        }
        text
    }
    /// A JSON object, or nothing.
    pub fn opt_object(&mut self, key: &str) -> Option<Json> {
        self.typed(key, "an object", |v| v.is_object().then(|| v.clone()))
    }
    /// A list of objects; absent is an issue.
    pub fn objects(&mut self, key: &str) -> Vec<&'a Json> {
        let list = self.typed(key, "an array of objects", |v| {
            let list = v.as_array()?;
            list.iter().all(Json::is_object).then(|| list.iter().collect::<Vec<_>>())
        });
        if list.is_none() && self.get(key).is_none() {
            self.wrong("invalid_type", key, "required: an array of objects");
        }
        list.unwrap_or_default()
    }
    /// Any JSON; absent and `null` are the same.
    #[must_use]
    pub fn any(&self, key: &str) -> Json {
        self.get(key).cloned().unwrap_or(Json::Null)
    }
    /// A flag; absent is false.
    pub fn flag(&mut self, key: &str) -> bool {
        self.opt_flag(key).unwrap_or(false)
    }
    /// A flag, or nothing.
    pub fn opt_flag(&mut self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", Json::as_bool)
    }
    /// A list of places in another list; absent is empty.
    pub fn places(&mut self, key: &str) -> Vec<usize> {
        let places = self.typed(key, "an array of whole numbers that are not negative", |v| {
            v.as_array()?.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect::<Option<Vec<_>>>()
        });
        places.unwrap_or_default()
    }
    /// A whole number that is not negative, or nothing.
    pub fn opt_count(&mut self, key: &str) -> Option<u32> {
        self.typed(key, "a whole number that is not negative", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }
    /// A whole number, or nothing.
    pub fn opt_int(&mut self, key: &str) -> Option<i64> {
        self.typed(key, "a whole number", Json::as_i64)
    }
    /// `null` to clear, a text to set, absent to leave.
    #[allow(clippy::option_option, reason = "absent, null and a value are three different wishes")]
    pub fn clearable(&mut self, key: &str) -> Option<Option<String>> {
        if self.has(key) { Some(self.opt_text(key)) } else { None }
    }
}

/// The predecessor's words (`protocol.md` 3.3).
pub const INVALID_QUERY: &str = "Invalid query parameters";

/// The parameters of a query string; of a repeated one the first counts, as the predecessor has it.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// What stands after the `?` of a url that the runtime has normalised. (A url parser would bring the tables of
    /// internationalised host names along: 60 KB for nothing.)
    #[must_use]
    pub fn of_url(url: &str) -> &str {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        query.split_once('#').map_or(query, |(query, _)| query)
    }
    /// Reads what stands after the `?`.
    #[must_use]
    pub fn parse(raw: &str) -> Self {
        let decode = |s: &str| percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pair = |p: &str| {
            let (key, value) = p.split_once('=').unwrap_or((p, ""));
            (decode(key), decode(value))
        };
        Self(raw.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }
    /// The value of a parameter; an empty one counts as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
    /// The same, owned.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(str::to_owned)
    }
    /// A whole number that is not negative; `Err` if it is something else.
    pub fn count(&self, key: &str) -> Result<Option<u32>, ParseIntError> {
        self.get(key).map(str::parse).transpose()
    }
    /// A whole number that is not negative, of the routes that have one word for everything that is wrong with a query.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let wrong = || Refusal::bad_query(INVALID_QUERY);
        self.get(key).map(|v| v.parse().ok().filter(|n| *n >= 0).ok_or_else(wrong)).transpose()
    }
    /// `limit` of our own lists (`api.md`).
    pub fn limit(&self) -> Result<Option<u32>, Refusal> {
        match self.count("limit") {
            Ok(None) => Ok(None),
            Ok(Some(n)) if (1..=LIST_MAX).contains(&n) => Ok(Some(n)),
            Ok(Some(_)) | Err(_) => Err(Refusal::bad_query(format!("limit must be 1 to {LIST_MAX}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn accepted(body: &Body) -> Fields<'_> {
        let mut fields = Fields::default();
        fields.accept(body);
        fields
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let body = Body::Json(
            json!({"title": 7, "labels": ["a", 1], "depends_on": ["x"], "dry_run": "yes", "priority": "urgent"}),
        );
        let mut f = Fields::required(&body);
        f.text("title");
        f.text("reason");
        f.texts("labels");
        f.opt_uuids("depends_on");
        f.flag("dry_run");
        f.opt_word("priority", &["low", "high"]);
        let refusal = f.done(()).unwrap_err();
        let paths: Vec<_> = refusal.issues.iter().map(|i| (i.code, i.path.as_str())).collect();
        assert_eq!(
            paths,
            [
                ("invalid_type", "title"),
                ("invalid_type", "reason"),
                ("invalid_type", "labels"),
                ("invalid_format", "depends_on.0"),
                ("invalid_type", "dry_run"),
                ("invalid_value", "priority"),
            ]
        );
        assert_eq!(refusal.status, 400);
    }

    #[test]
    fn a_body_that_is_wrong_all_over_is_told_so_in_few_words() {
        let body = Body::Json(json!({ "depends_on": vec![""; 100_000] }));
        let mut f = Fields::required(&body);
        f.opt_uuids("depends_on");
        assert_eq!(f.done(()).unwrap_err().issues.len(), ISSUES_SHOWN);
    }

    #[test]
    fn a_body_may_be_missing_where_it_is_optional_and_must_be_an_object_where_there_is_one() {
        for (bytes, may_be_missing) in
            [(&b""[..], true), (b" \n", true), (b"null", true), (b"[]", false), (b"{", false), (b"\xff", false)]
        {
            let body = Body::parse(bytes);
            assert!(Fields::required(&body).done(()).is_err(), "{body:?}");
            assert_eq!(accepted(&body).done(()).is_ok(), may_be_missing, "{body:?}");
        }
        assert!(Fields::required(&Body::parse(b"{}")).done(()).is_ok());
    }

    #[test]
    fn absent_null_and_a_value_are_three_wishes() {
        let body = Body::Json(json!({"a": null, "b": "x"}));
        let mut f = Fields::required(&body);
        assert_eq!((f.clearable("a"), f.clearable("b"), f.clearable("c")), (Some(None), Some(Some("x".into())), None));
    }

    #[test]
    fn the_query_of_a_url_stands_between_question_mark_and_hash() {
        assert_eq!(Query::of_url("https://h/p?a=1?&b=%3F#c?d"), "a=1?&b=%3F");
        assert_eq!((Query::of_url("https://h/p"), Query::of_url("https://h/p?")), ("", ""));
    }

    #[test]
    fn a_query_is_decoded_and_its_first_value_counts() {
        let q = Query::parse("a=1&a=2&b=x%20y+z&c=&d&limit=500");
        assert_eq!((q.get("a"), q.get("b"), q.get("c"), q.get("d")), (Some("1"), Some("x y z"), None, None));
        assert_eq!(q.limit(), Ok(Some(500)));
        for bad in ["limit=0", "limit=501", "limit=-1", "limit=x", "limit=1.5"] {
            assert_eq!(Query::parse(bad).limit().unwrap_err().status, 400, "{bad}");
        }
    }
}
