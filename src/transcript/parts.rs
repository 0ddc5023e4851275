//! Takes a JSON text apart without building it: a batch of megabytes costs no more memory than its own text, where a tree
//! of it would cost twenty times that.

/// True if `text` is one JSON value. To be asked before anything is taken apart.
pub fn valid(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

const BLANK: [char; 4] = [' ', '\t', '\n', '\r'];

/// The parts of an object or an array, one after the other: the key with its quotes (empty in an array), and the value.
/// *Assumption*: the text is [`valid`]; of another one some parts come, or none.
pub struct Parts<'a> {
    rest: &'a str,
    keyed: bool,
}

impl<'a> Parts<'a> {
    /// The parts of `text`; none if it is neither an object nor an array.
    pub fn of(text: &'a str) -> Self {
        let text = text.trim_start_matches(BLANK);
        Self { keyed: text.starts_with('{'), rest: text.strip_prefix(['{', '[']).unwrap_or_default() }
    }
    /// Takes the value that begins here.
    fn value(&mut self) -> Option<&'a str> {
        let (value, rest) = self.rest.split_at_checked(length(self.rest))?;
        self.rest = rest.trim_start_matches(BLANK);
        Some(value)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.trim_start_matches(BLANK);
        self.rest = self.rest.strip_prefix(',').unwrap_or(self.rest).trim_start_matches(BLANK);
        if self.rest.is_empty() || self.rest.starts_with(['}', ']']) {
            return None;
        }
        let mut key = "";
        if self.keyed {
            key = self.value()?;
            self.rest = self.rest.strip_prefix(':')?.trim_start_matches(BLANK);
        }
        Some((key, self.value()?))
    }
}

/// The bytes of the value at the beginning of `text`.
fn length(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if quoted && depth == 0 => return i + 1,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            // The end of this value, or, behind a number or a word, of what it stands in.
            b'}' | b']' if depth <= 1 => return i + depth,
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return i,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    /// The oracle: serde's own tree.
    fn agrees(json: &Json, text: &str) {
        assert!(valid(text));
        let parts: Vec<_> = Parts::of(text).collect();
        let read = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        match json {
            Json::Object(map) => {
                assert_eq!(parts.len(), map.len(), "{text}");
                for (key, value) in parts {
                    let Json::String(key) = read(key) else { panic!("{key}") };
                    assert_eq!(read(value), map[&key], "{text}");
                }
            }
            Json::Array(list) => {
                assert!(parts.iter().all(|(key, _)| key.is_empty()));
                assert_eq!(parts.iter().map(|(_, v)| read(v)).collect::<Vec<_>>(), *list, "{text}");
            }
            _ => assert!(parts.is_empty(), "{text}"),
        }
    }

    #[test]
    fn the_parts_are_those_of_the_tree_whatever_stands_in_the_texts() {
        for json in [
            json!({}),
            json!([]),
            json!("a"),
            json!(7),
            json!({"a": 1, "b": [1, {"c": "}"}], "": null, "k\"}": "{[\"\\", "ü": "𝄞,:"}),
            json!([1, -2.5e3, true, null, "", "]", "\\", "\\\"", [], {}, [[]], {"a": {"b": {}}}]),
            json!([[1, 2], "x,y", {"a": ",", "b": 2}]),
        ] {
            agrees(&json, &json.to_string());
            agrees(&json, &serde_json::to_string_pretty(&json).unwrap());
        }
    }

    #[test]
    fn what_is_no_json_is_told_and_taking_it_apart_all_the_same_does_no_harm() {
        for text in ["", "{", "[1,", "{\"a\"", "{\"a\":", "nul", "{}}", "[1 2]", "\"", "{\"a\":1,}", "[\"\u{1}\"]"] {
            assert!(!valid(text), "{text}");
            assert!(Parts::of(text).count() < 5);
        }
    }
}
