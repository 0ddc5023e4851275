//! `json!`: writes JSON in its own notation, as `serde_json::json!` does, in less Wasm (docs/decisions/013-size.md).
//!
//! That one makes each key and each value in the place where it stands, with a panic for a value that cannot be written and
//! a way out for each that stands before it. Here a key and its value are one call, and what cannot be written is `null`:
//! a map whose keys are no texts, which nothing of ours holds.

use serde::Serialize;
use serde_json::{Map, Value as Json};

/// Makes a [`Json`] of `null`, `[…]`, `{…}` or an expression that can be serialized.
macro_rules! json {
    (@object $map:ident) => {};
    (@object $map:ident $key:tt: null $(, $($rest:tt)*)?) => {
        $crate::town::json::put(&mut $map, $key, serde_json::Value::Null);
        $crate::town::json::json!(@object $map $($($rest)*)?);
    };
    (@object $map:ident $key:tt: {$($inner:tt)*} $(, $($rest:tt)*)?) => {
        $crate::town::json::put(&mut $map, $key, $crate::town::json::json!({$($inner)*}));
        $crate::town::json::json!(@object $map $($($rest)*)?);
    };
    (@object $map:ident $key:tt: [$($inner:tt)*] $(, $($rest:tt)*)?) => {
        $crate::town::json::put(&mut $map, $key, $crate::town::json::json!([$($inner)*]));
        $crate::town::json::json!(@object $map $($($rest)*)?);
    };
    (@object $map:ident $key:tt: $value:expr $(, $($rest:tt)*)?) => {
        $crate::town::json::set(&mut $map, $key, &$value);
        $crate::town::json::json!(@object $map $($($rest)*)?);
    };
    (@list $list:ident) => {};
    (@list $list:ident null $(, $($rest:tt)*)?) => {
        $crate::town::json::add(&mut $list, serde_json::Value::Null);
        $crate::town::json::json!(@list $list $($($rest)*)?);
    };
    (@list $list:ident [$($inner:tt)*] $(, $($rest:tt)*)?) => {
        $crate::town::json::add(&mut $list, $crate::town::json::json!([$($inner)*]));
        $crate::town::json::json!(@list $list $($($rest)*)?);
    };
    (@list $list:ident {$($inner:tt)*} $(, $($rest:tt)*)?) => {
        $crate::town::json::add(&mut $list, $crate::town::json::json!({$($inner)*}));
        $crate::town::json::json!(@list $list $($($rest)*)?);
    };
    (@list $list:ident $value:expr $(, $($rest:tt)*)?) => {
        $crate::town::json::add(&mut $list, $crate::town::json::value(&$value));
        $crate::town::json::json!(@list $list $($($rest)*)?);
    };
    (null) => { serde_json::Value::Null };
    ([]) => { serde_json::Value::Array(Vec::new()) };
    ([$($items:tt)+]) => {{
        let mut list = Vec::new();
        $crate::town::json::json!(@list list $($items)+);
        serde_json::Value::Array(list)
    }};
    ({}) => { serde_json::Value::Object(serde_json::Map::new()) };
    ({$($fields:tt)+}) => {{
        let mut map = serde_json::Map::new();
        $crate::town::json::json!(@object map $($fields)+);
        serde_json::Value::Object(map)
    }};
    ($value:expr) => { $crate::town::json::value(&$value) };
}
pub(crate) use json;

/// What a value is as JSON.
#[inline(never)]
pub(crate) fn value<T: Serialize + ?Sized>(value: &T) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

/// Puts a value into an object.
#[inline(never)]
pub(crate) fn set<T: Serialize + ?Sized>(map: &mut Map<String, Json>, key: &str, value: &T) {
    put(map, key, serde_json::to_value(value).unwrap_or_default());
}

/// Adds JSON to a list.
#[inline(never)]
pub(crate) fn add(list: &mut Vec<Json>, value: Json) {
    list.push(value);
}

/// Puts JSON into an object.
#[inline(never)]
pub(crate) fn put(map: &mut Map<String, Json>, key: &str, value: Json) {
    map.insert(key.to_owned(), value);
}

/// What a text holds, if it is JSON.
///
/// Everything is read as [`Json`]: one reader. A text that may be any `T` would bring a reader of its own for each `T`.
#[inline(never)]
pub(crate) fn read(text: &str) -> Option<Json> {
    serde_json::from_str(text).ok()
}

/// The texts of a list that a text holds; `None` if it holds anything else.
pub(crate) fn texts(text: &str) -> Option<Vec<String>> {
    let Some(Json::Array(list)) = read(text) else { return None };
    let mut texts = Vec::with_capacity(list.len());
    for item in list {
        let Json::String(text) = item else { return None };
        texts.push(text);
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_texts_holds_nothing_else() {
        assert_eq!(texts(r#"["a", "b"]"#), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((texts(r#"["a", 1]"#), texts(r#"{"a": "b"}"#), texts("[")), (None, None, None));
    }

    #[test]
    fn writes_what_the_macro_of_serde_json_writes() {
        let (name, none) = ("Ada", None::<i64>);
        let list = serde_json::json!([1, {"c": name}, [none, null]]);
        assert_eq!(json!([1, {"c": name}, [none, null],]), list);
        assert_eq!(
            json!({"a": null, "b": [], "d": {"e": {}, "f": [1]}, "g": list[1], name: name.len()}),
            serde_json::json!({"a": null, "b": [], "d": {"e": {}, "f": [1]}, "g": list[1], name: name.len()}),
        );
        assert_eq!(json!({"a": [1, 2].len()}).to_string(), r#"{"a":2}"#);
        assert_eq!(
            (json!(null), json!([]), json!({})),
            (Json::Null, Json::from([(); 0].map(|()| 0)), Json::Object(Map::new()))
        );
    }
}
