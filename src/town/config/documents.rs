//! Documents: reading, patching and checking configuration JSON by the table.

use super::super::error::TownError;
use super::super::policy;
use super::super::sql::SqlError;
use super::super::text::{self, is_masked};
use super::from_json::FromJson;
use super::table::{Field, Group, Kind};
use crate::town::json::{self, json};
use serde_json::{Map, Value as Json};

/// A part of a checked document. It has the right shape, so the default is for the types.
pub(super) fn part<T: FromJson + Default>(raw: &Json, pointer: &str) -> T {
    raw.pointer(pointer).and_then(T::from_json).unwrap_or_default()
}

pub(super) fn get<'a>(document: &'a Json, group: &str, key: &str) -> &'a Json {
    let object = if group.is_empty() { Some(document) } else { document.get(group) };
    object.and_then(|object| object.get(key)).unwrap_or(&Json::Null)
}

pub(super) fn put(document: &mut Json, group: &str, key: &str, value: Json) {
    let Json::Object(top) = document else { return };
    if group.is_empty() {
        top.insert(key.to_owned(), value);
    } else if let Json::Object(inner) = top.entry(group).or_insert_with(|| json!({})) {
        inner.insert(key.to_owned(), value);
    }
}

/// The document in which everything has its default.
pub(super) fn presets(table: &[Group]) -> Json {
    let mut out = json!({});
    for group in table {
        for (key, _, preset) in group.fields {
            put(&mut out, group.name, key, preset.json());
        }
    }
    out
}

/// A stored document, completed; what this version would refuse has its default.
pub(super) fn stored(table: &[Group], text: &str) -> Result<Json, TownError> {
    let broken = || TownError::from(SqlError::new("stored settings are not a JSON object"));
    let found = json::read(text).ok_or_else(broken)?;
    if !found.is_object() {
        return Err(broken());
    }
    let mut out = presets(table);
    for group in table {
        for field @ (key, kind, _) in group.fields {
            let value = get(&found, group.name, key);
            let there = if group.name.is_empty() { &found } else { found.get(group.name).unwrap_or(&Json::Null) };
            if there.get(key).is_none() {
                continue;
            }
            let value = match kind {
                Kind::ReadOnly => Some(value.clone()).filter(|v| v.is_string() || v.is_null()),
                _ => check(field, key, value, &Json::Null).ok(),
            };
            if let Some(value) = value {
                put(&mut out, group.name, key, value);
            }
        }
    }
    Ok(out)
}

pub(super) fn object(patch: &Json) -> Result<&Map<String, Json>, TownError> {
    patch.as_object().ok_or_else(|| TownError::malformed("Invalid request body"))
}

/// `current` with `patch` applied.
pub(super) fn merged(table: &[Group], current: &Json, patch: &Map<String, Json>) -> Result<Json, TownError> {
    let mut out = current.clone();
    for group in table {
        let (changes, replaced) = match patch.get(group.name) {
            _ if group.name.is_empty() => (patch, false),
            None => continue,
            Some(Json::Null) => (&Map::new(), true),
            Some(Json::Object(changes)) => (changes, group.replaced),
            Some(_) => return Err(TownError::invalid(group.name, format!("{} must be an object", group.name))),
        };
        for field @ (key, kind, preset) in group.fields {
            let value = match changes.get(*key) {
                _ if matches!(kind, Kind::ReadOnly) => continue,
                None if replaced => preset.json(),
                None => continue,
                Some(value) => {
                    let dotted =
                        if group.name.is_empty() { (*key).to_owned() } else { format!("{}.{key}", group.name) };
                    check(field, &dotted, value, get(current, group.name, key))?
                }
            };
            put(&mut out, group.name, key, value);
        }
    }
    Ok(out)
}

pub(super) fn small_enough(raw: &Json) -> Result<(), TownError> {
    if raw.to_string().len() > policy::CONFIG_BYTES {
        let cap = policy::CONFIG_BYTES / 1024;
        return Err(TownError::invalid("config", format!("the settings together must be at most {cap} KB of JSON")));
    }
    Ok(())
}

/// `value` as it shall be stored, or what is wrong with it. `current` is what is stored now.
pub(super) fn check((_, kind, preset): &Field, path: &str, value: &Json, current: &Json) -> Result<Json, TownError> {
    let wrong = |what: &str| TownError::invalid(path, format!("{path} must be {what}"));
    if value.is_null() {
        let nullable = matches!(kind, Kind::Minutes);
        return Ok(if nullable { Json::Null } else { preset.json() });
    }
    match *kind {
        Kind::ReadOnly => Ok(current.clone()),
        Kind::Text | Kind::Prose(_) | Kind::Secret | Kind::Url => {
            let text = value.as_str().ok_or_else(|| wrong("a text"))?;
            if text.is_empty() {
                return Ok(Json::Null);
            }
            if matches!(kind, Kind::Secret) && is_masked(text) {
                return if current.is_string() { Ok(current.clone()) } else { Err(nothing_under_mask(path)) };
            }
            check_text(*kind, path, text)?;
            Ok(json!(text))
        }
        Kind::Flag => value.as_bool().map(Json::Bool).ok_or_else(|| wrong("true or false")),
        Kind::OneOf(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(json!(word)),
            _ => Err(wrong(&format!("one of {}", words.join(", ")))),
        },
        Kind::Int(min, max) => whole_number(path, value, min, max),
        Kind::Minutes => whole_number(path, value, 0, 525_600), // a year: only an end to the number
        Kind::Fraction => match value.as_f64() {
            Some(n) if (0.0..=1.0).contains(&n) => Ok(json!(n)),
            _ => Err(wrong("a number from 0 to 1")),
        },
        Kind::Waits => {
            let (min, max) = (policy::LIST_ENTRIES_MIN, policy::LIST_ENTRIES_MAX);
            let list = value.as_array().filter(|list| (min..=max).contains(&list.len()));
            let list = list.ok_or_else(|| wrong(&format!("a list of {min} to {max} times in milliseconds")))?;
            let entry = |(i, ms)| whole_number(&format!("{path}[{i}]"), ms, policy::MS_MIN, policy::MS_MAX);
            list.iter().enumerate().map(entry).collect()
        }
        Kind::Commands => {
            let list = value.as_array().filter(|list| list.len() <= policy::GATES_MAX);
            let list = list.ok_or_else(|| wrong(&format!("a list of at most {} commands", policy::GATES_MAX)))?;
            let entry = |(i, command): (usize, &Json)| {
                let command = command.as_str().filter(|c| !c.trim().is_empty() && !c.contains('\0'));
                let command = command.filter(|c| c.len() <= policy::GATE_BYTES).map(|c| json!(c));
                let path = format!("{path}[{i}]");
                let message = format!("{path} must be a command of 1 to {} bytes", policy::GATE_BYTES);
                command.ok_or_else(|| TownError::invalid(&path, message))
            };
            list.iter().enumerate().map(entry).collect()
        }
        Kind::EnvVars => check_env(path, value.as_object().ok_or_else(|| wrong("an object of texts"))?, current),
    }
}

pub(super) fn whole_number(path: &str, value: &Json, min: i64, max: i64) -> Result<Json, TownError> {
    match value.as_i64() {
        Some(n) if (min..=max).contains(&n) => Ok(json!(n)),
        _ => Err(TownError::invalid(path, format!("{path} must be a whole number from {min} to {max}"))),
    }
}

pub(super) fn check_text(kind: Kind, path: &str, text: &str) -> Result<(), TownError> {
    let wrong = |what: String| Err(TownError::invalid(path, format!("{path} must be {what}")));
    match kind {
        Kind::Prose(chars) if text.chars().count() > chars => wrong(format!("at most {chars} characters")),
        Kind::Prose(_) if text.contains('\0') => wrong("without NUL".to_owned()),
        // A token may be longer than a name: a GitLab or app token, a JWT.
        Kind::Url | Kind::Secret if text.len() > policy::URL_BYTES => {
            wrong(format!("at most {} bytes", policy::URL_BYTES))
        }
        Kind::Url if !is_http_url(text) => wrong("a URL that begins with https:// or http://, without user".to_owned()),
        Kind::Text if text.len() > policy::SETTING_BYTES => wrong(format!("at most {} bytes", policy::SETTING_BYTES)),
        Kind::Text | Kind::Secret if text.contains(char::is_control) => wrong("one line".to_owned()),
        _ => Ok(()),
    }
}

/// An absolute http(s) URL with a host. A user part is refused: `fetch` refuses it, and it is a credential in plain view.
pub(super) fn is_http_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
        let port = port.parse::<u16>().is_ok() || port.ends_with(']'); // of an IPv6 address without a port
        if port { host } else { "" }
    });
    (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"))
        && !host.is_empty()
        && !authority.contains(['@', '\\'])
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The whole new map of environment variables.
pub(super) fn check_env(path: &str, vars: &Map<String, Json>, current: &Json) -> Result<Json, TownError> {
    let mut out = Map::new();
    for (key, value) in vars {
        // A name may be as long as a body and hold anything: told briefly, and with what cannot be printed escaped.
        let shown = text::cut(key, 100);
        let first_is_fine = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_is_fine || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let message = format!("Invalid env var key {shown:?}: must be alphanumeric with underscores");
            return Err(TownError::malformed(message));
        }
        if key.starts_with("GASTOWN_") {
            return Err(TownError::malformed(format!("Env var key {shown:?} uses reserved GASTOWN_ prefix")));
        }
        let path = format!("{path}.{shown}");
        let Some(text) = value.as_str().filter(|text| !text.contains('\0')) else {
            return Err(TownError::invalid(&path, format!("{path} must be a text without NUL")));
        };
        let kept = if is_masked(text) { current.get(key) } else { None };
        if kept.is_none() && is_masked(text) && sounds_secret(key) {
            return Err(nothing_under_mask(&path));
        }
        out.insert(key.clone(), kept.cloned().unwrap_or_else(|| json!(text)));
    }
    Ok(Json::Object(out))
}

pub(super) fn nothing_under_mask(path: &str) -> TownError {
    TownError::invalid(
        path,
        format!("{path} is a mask, and nothing is stored that it could stand for: send the secret"),
    )
}

/// Environment variables with such a name are masked when read (`protocol.md` 2.13).
pub(super) fn sounds_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "secret", "password", "key", "auth"].iter().any(|word| key.contains(word))
}
