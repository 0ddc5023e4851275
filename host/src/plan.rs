//! Reads a statement and a line of its plan: does it read all of a growing table?

use std::collections::{BTreeMap, BTreeSet};

/// The identifiers and keywords of a statement, string literals and comments left out.
pub(crate) fn words(sql: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let word = c.is_alphanumeric() || c == '_';
        let len = match c {
            '\'' => rest.match_indices('\'').nth(1).map_or(rest.len(), |(end, _)| end + 1),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if word => rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        if word || matches!(c, ',' | '(' | ')' | '.') {
            out.push(token);
        }
        rest = after;
    }
    out
}

/// The table that a statement writes, if it writes one; none of the town's has a trigger or a cascade.
pub(crate) fn written_by(sql: &str) -> Option<&str> {
    let words = words(sql);
    let verb =
        words.iter().position(|w| ["insert", "replace", "update", "delete"].contains(&&*w.to_ascii_lowercase()))?;
    let fluff = ["or", "replace", "ignore", "into", "from"];
    words.into_iter().skip(verb + 1).find(|w| !fluff.contains(&&*w.to_ascii_lowercase()))
}

/// The names under which a plan may mention the growing tables in this statement: their own and their aliases, which is
/// what SQLite prints. Alias → table.
pub(crate) fn names_of(words: &[&str], growing: &[&str]) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (i, word) in words.iter().enumerate() {
        if !growing.iter().any(|t| t.eq_ignore_ascii_case(word)) {
            continue;
        }
        names.insert(word.to_ascii_lowercase(), word.to_ascii_lowercase());
        let next = |n: usize| words.get(i + n).filter(|w| w.starts_with(|c: char| c.is_alphabetic() || c == '_'));
        let alias = match next(1) {
            Some(w) if w.eq_ignore_ascii_case("as") => next(2),
            // A keyword after a table's name is taken for an alias; no plan mentions it, so that harms nothing.
            other => other,
        };
        if let Some(alias) = alias {
            names.insert(alias.to_ascii_lowercase(), word.to_ascii_lowercase());
        }
    }
    names
}

pub(crate) fn offends(line: &str, names: &BTreeMap<String, String>, partial: &BTreeSet<String>, limited: bool) -> bool {
    let mut parts = line.split_whitespace();
    let (Some(verb), Some(name)) = (parts.next(), parts.next()) else { return false };
    if !names.contains_key(&name.to_ascii_lowercase()) {
        return false;
    }
    let how: Vec<&str> = parts.collect();
    let index = how.iter().position(|w| *w == "INDEX").and_then(|at| how.get(at + 1));
    match verb {
        _ if how.contains(&"AUTOMATIC") => true,
        "SCAN" => index.is_none_or(|i| !limited && !partial.contains(&i.to_ascii_lowercase())),
        _ => false,
    }
}
