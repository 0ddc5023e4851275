//! What of an event is stored: an object of at most [`TRANSCRIPT_EVENT_BYTES`].
//!
//! *Guarantees*: what comes out is a JSON object within the limit. An event that was cut says so, how large it was and what
//! it hashed to, so that whoever has the whole of it can tell that it is the same; no event is ever refused for its size.

use crate::town::json::json;
use crate::town::{policy::TRANSCRIPT_EVENT_BYTES, text::hex};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// What the marks of a cut event take, beside the head of it; see the test.
const MARKS: usize = 200;

/// The data of an event as it is stored. `data` is valid JSON; what is no object is wrapped in one.
#[must_use]
pub fn stored(data: &str) -> Cow<'_, str> {
    let whole = if data.starts_with('{') { Cow::Borrowed(data) } else { Cow::Owned(format!("{{\"value\":{data}}}")) };
    if whole.len() <= TRANSCRIPT_EVENT_BYTES {
        return whole;
    }
    let cut = json!({
        "truncated": true,
        "original_bytes": data.len(),
        "sha256": hex(&Sha256::digest(data.as_bytes())),
        "head": head(data, TRANSCRIPT_EVENT_BYTES - MARKS),
    });
    Cow::Owned(cut.to_string())
}

/// The beginning of `text` that takes at most `most` bytes as a JSON string, cut on a character boundary.
fn head(text: &str, most: usize) -> &str {
    let mut left = most;
    for (at, c) in text.char_indices() {
        let takes = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            // Valid JSON has no other control characters but in escapes.
            c => c.len_utf8(),
        };
        if takes > left {
            return text.get(..at).unwrap_or_default();
        }
        left -= takes;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    fn read(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_object_within_the_limit_is_stored_as_it_came() {
        for data in ["{}", "{ \"a\" : 1 }"] {
            assert_eq!(stored(data), data);
        }
        let full = format!("{{\"a\":\"{}\"}}", "x".repeat(TRANSCRIPT_EVENT_BYTES - 8));
        assert_eq!(full.len(), TRANSCRIPT_EVENT_BYTES);
        assert!(matches!(stored(&full), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_object_is_wrapped_in_one() {
        for (data, wrapped) in
            [("[1]", json!({"value": [1]})), ("\"a\"", json!({"value": "a"})), ("7", json!({"value": 7}))]
        {
            assert_eq!(read(&stored(data)), wrapped);
        }
    }

    #[test]
    fn what_is_too_large_is_cut_inside_no_character_and_says_what_it_was() {
        let awkward = ["x", "\\\"", "ü", "𝄞", "\\u0000", "\\n", "\\\\"];
        for filling in awkward {
            for excess in [1, 7, 3 * 1024 * 1024] {
                let times = (TRANSCRIPT_EVENT_BYTES + excess) / filling.len();
                let data = format!("{{\"a\":\"{}\"}}", filling.repeat(times));
                let kept = stored(&data);
                assert!(kept.len() <= TRANSCRIPT_EVENT_BYTES, "{filling}: {}", kept.len());
                assert!(kept.len() > TRANSCRIPT_EVENT_BYTES - MARKS - 8, "{filling}: {} of it kept", kept.len());
                let cut = read(&kept);
                assert_eq!((cut["truncated"].clone(), cut["original_bytes"].clone()), (json!(true), json!(data.len())));
                assert_eq!(cut["sha256"], json!(hex(&Sha256::digest(data.as_bytes()))));
                assert!(data.starts_with(cut["head"].as_str().unwrap()), "{filling}");
            }
        }
        let list = format!("[\n\t{}]", "1,\n\t".repeat(TRANSCRIPT_EVENT_BYTES));
        assert!(stored(&list).len() <= TRANSCRIPT_EVENT_BYTES);
    }
}
