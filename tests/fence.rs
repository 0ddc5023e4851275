//! Fences: what the layers of `src/` may name. The core (`src/town`, `src/container`, `src/transcript`) is sans-IO, so it must not be able to reach
//! JavaScript, a clock, a random source or a console; the traps of the platform are handled in one place.
//!
//! The sources are read as text, without comments and strings, and cut into words.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Words that nothing of the core may use: JavaScript and the platform; clocks, random sources and all that is
/// asynchronous.
const OUTSIDE: &str = "
    worker worker_sys js_sys wasm_bindgen web_sys
    SystemTime Instant Local getrandom rand fastrand thread_rng tokio futures_util async await tracing";

/// Macros that nothing under `src/town` may use: it has no console.
const CONSOLES: &str = "println eprintln print eprint dbg console_log console_error";

/// Modules of `std` that nothing under `src/town` may use.
const OUTSIDE_STD: &str = "env fs io net os process thread";

/// Words that only `src/platform` may use: the crates that touch JavaScript, and the calls that are traps there.
const PLATFORM_ONLY: &str = "js_sys wasm_bindgen web_sys worker_sys SqlCursor SqlStorage set_alarm to_array";

/// Where the crate `worker` may be named.
const SHELL: &[&str] = &["lib.rs", "edge/", "objects/", "platform/"];

/// A file of `src/` beyond this holds two nouns.
const LINES: usize = 700;

#[test]
fn the_core_names_no_platform_no_clock_no_random_source_and_no_console() {
    report(&violations(|path, words| {
        if !path.starts_with("town/") && !path.starts_with("container/") && !path.starts_with("transcript/") {
            return Vec::new();
        }
        [named(words, OUTSIDE), macros(words, CONSOLES), modules_of_std(words)].concat()
    }));
}

#[test]
fn javascript_and_the_traps_of_the_platform_are_named_in_one_place() {
    report(&violations(
        |path, words| {
            if path.starts_with("platform/") { Vec::new() } else { named(words, PLATFORM_ONLY) }
        },
    ));
}

#[test]
fn the_worker_crate_is_named_in_the_shell_only() {
    report(&violations(
        |path, words| {
            if SHELL.iter().any(|p| path.starts_with(p)) { Vec::new() } else { named(words, "worker") }
        },
    ));
}

#[test]
fn no_source_file_is_longer_than_seven_hundred_lines() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(path, lines)| format!("src/{path}: {lines} lines"))
        .collect();
    report(&long);
}

#[test]
fn the_fence_sees_what_is_used_and_not_what_is_written_about() {
    let quiet = words(
        r##"//! never names the `worker` crate
            /* SystemTime /* nested Instant */ println! */
            const A: &str = "worker::Date"; const B: &str = r#"std::env "rand" "#; const C: char = '"'; // rand
            fn f<'worker_life>(x: &'worker_life str) -> u8 { b'"' }"##,
    );
    assert!(named(&quiet, OUTSIDE).is_empty(), "{quiet:?}");

    let loud =
        words("use worker::Date; fn f() { let now = std::time::SystemTime::now(); println!(\"{now:?}\"); print(x) }");
    assert_eq!(named(&loud, OUTSIDE), ["worker", "SystemTime"]);
    assert_eq!(macros(&loud, CONSOLES), ["println"]);
    let std = words("use std::{collections::BTreeMap, env}; fn f() { std::fs::read(x); std::fmt::Error; }");
    assert_eq!(modules_of_std(&std), ["std::env", "std::fs"]);
}

/// `path: word` for everything `rule` finds in a file of `src/`; paths are relative to `src/`.
fn violations(rule: impl Fn(&str, &[String]) -> Vec<String>) -> Vec<String> {
    sources()
        .iter()
        .flat_map(|(path, text)| {
            rule(path, &words(text)).into_iter().map(|word| format!("src/{path}: {word}")).collect::<Vec<_>>()
        })
        .collect()
}

fn named(words: &[String], forbidden: &str) -> Vec<String> {
    words.iter().filter(|w| forbidden.split_whitespace().any(|f| f == w.as_str())).cloned().collect()
}

fn macros(words: &[String], forbidden: &str) -> Vec<String> {
    let calls: Vec<String> = words.windows(2).filter(|pair| pair[1] == "!").map(|pair| pair[0].clone()).collect();
    named(&calls, forbidden)
}

/// What is taken of `std` although it is outside: `std::env`, or `env` in `std::{…}`.
fn modules_of_std(words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (i, word) in words.iter().enumerate() {
        if word == "std" && words[i + 1..].starts_with(&[":".to_owned(), ":".to_owned()]) {
            let names = &words[i + 3..];
            let length = match names.first().map(String::as_str) {
                Some("{") => names.iter().position(|w| w == ";").unwrap_or(names.len()),
                _ => 1.min(names.len()),
            };
            found.extend(named(&names[..length], OUTSIDE_STD).into_iter().map(|name| format!("std::{name}")));
        }
    }
    found
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "beyond the fence:\n  {}", found.join("\n  "));
}

/// Every Rust file of `src/`, with its path from there.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 5, "the fence looks in the wrong place: {}", root.display());
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/"), text)
        })
        .collect()
}

/// The words and signs of a Rust text, without comments, strings and characters.
fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut i = 0;
    while let Some(&c) = chars.get(i) {
        let rest = &chars[i..];
        if rest.starts_with(&['/', '/']) {
            i += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if rest.starts_with(&['/', '*']) {
            i += block_comment(rest);
        } else if let Some(length) = string(rest) {
            i += length;
        } else if c.is_alphanumeric() || c == '_' {
            let length = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
            out.push(rest[..length].iter().collect());
            i += length;
        } else if c.is_whitespace() {
            i += 1;
        } else {
            out.push(c.to_string());
            i += 1;
        }
    }
    out
}

/// Length of the (nested) block comment that begins here.
fn block_comment(chars: &[char]) -> usize {
    let (mut depth, mut i) = (0_usize, 0);
    while i < chars.len() {
        if chars[i..].starts_with(&['/', '*']) {
            depth += 1;
            i += 2;
        } else if chars[i..].starts_with(&['*', '/']) {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    chars.len()
}

/// Length of the string, raw string or character that begins here; a lifetime's `'` counts as a string of one sign.
fn string(chars: &[char]) -> Option<usize> {
    let prefix = chars.iter().position(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|n| *n <= 2)?;
    let raw = chars[..prefix].contains(&'r');
    let hashes = if raw { chars[prefix..].iter().take_while(|c| **c == '#').count() } else { 0 };
    let open = prefix + hashes;
    match chars.get(open)? {
        '"' if raw => {
            let mut close = vec!['"'];
            close.resize(1 + hashes, '#');
            let body = &chars[open + 1..];
            let end = (0..body.len()).find(|n| body[*n..].starts_with(&close))?;
            Some(open + 1 + end + close.len())
        }
        '"' => escaped(chars, open, '"'),
        '\'' if prefix == 0 || chars[..prefix] == ['b'] => match (chars.get(open + 1), chars.get(open + 2)) {
            (Some('\\'), _) => escaped(chars, open, '\''),
            (Some(_), Some('\'')) => Some(open + 3),
            _ => {
                let name = &chars[open + 1..];
                Some(open + 1 + name.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(name.len()))
            }
        },
        _ => None,
    }
}

/// Length up to and with the first `close` after `open` that is not escaped.
fn escaped(chars: &[char], open: usize, close: char) -> Option<usize> {
    let mut i = open + 1;
    while let Some(c) = chars.get(i) {
        match c {
            '\\' => i += 2,
            c if *c == close => return Some(i + 1),
            _ => i += 1,
        }
    }
    None
}
