//! From a checked document to the types of the engine. (Derived readers for the same few shapes were a fortieth of the
//! Wasm: they are made for documents that may hold anything, and these were checked key by key.)

use serde_json::Value as Json;
use std::collections::BTreeMap;

/// What a part of a document can be read as; `None` if it has another shape.
pub(super) trait FromJson: Sized {
    /// Reads it.
    fn from_json(value: &Json) -> Option<Self>;
}

impl FromJson for u32 {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_u64().and_then(|n| Self::try_from(n).ok())
    }
}

impl FromJson for i64 {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_i64()
    }
}

impl FromJson for f64 {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_f64()
    }
}

impl FromJson for bool {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_bool()
    }
}

impl FromJson for String {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl<T: FromJson> FromJson for Option<T> {
    fn from_json(value: &Json) -> Option<Self> {
        Some(T::from_json(value))
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_array()?.iter().map(T::from_json).collect()
    }
}

impl FromJson for BTreeMap<String, String> {
    fn from_json(value: &Json) -> Option<Self> {
        value.as_object()?.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    }
}

/// Reads a struct by the names of its fields; a key that is missing or has another shape keeps its default.
macro_rules! read_by_name {
    ($name:ident { $($field:ident),+ }) => {
        impl $crate::town::config::from_json::FromJson for $name {
            fn from_json(value: &Json) -> Option<Self> {
                let mut read = Self::default();
                $(if let Some(field) = value.get(stringify!($field)).and_then(FromJson::from_json) {
                    read.$field = field;
                })+
                Some(read)
            }
        }
    };
}
pub(super) use read_by_name;
