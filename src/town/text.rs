//! Text that strangers wrote, made fit to be stored and shown: cut on a character boundary, freed of credentials,
//! reduced to a fingerprint.
//!
//! Everything here is total and takes linear time, whatever it is fed: reasons come from crashed processes, proxies and
//! models. Redaction is a scanner written by hand: the few shapes below do not justify a regex engine in the Wasm, and
//! it errs on the side of removing too much.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::ops::Range;

/// What stands where a credential stood.
pub const REDACTED: &str = "[redacted]";

/// The beginning of `text`, at most `max_bytes` of it, cut on a character boundary.
#[must_use]
pub fn cut(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or(text)
}

/// The end of `text`, at most `max_bytes` of it, cut on a character boundary.
#[must_use]
pub fn cut_tail(text: &str, max_bytes: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(max_bytes));
    text.get(from..).unwrap_or(text)
}

/// A secret as it is shown: `****`, and of a longer one the last four characters (`protocol.md` 2.13).
#[must_use]
pub fn mask(secret: &str) -> String {
    let length = secret.chars().count();
    if length <= 4 {
        return "****".to_owned();
    }
    let tail: String = secret.chars().skip(length - 4).collect();
    format!("****{tail}")
}

/// True if `value` is what [`mask`] makes: sent back, it means "keep what you have".
#[must_use]
pub fn is_masked(value: &str) -> bool {
    value.strip_prefix("****").is_some_and(|tail| tail.chars().count() <= 4)
}

// ── redaction ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Tokens that are known by how they begin, and how many more characters they have at least.
const PREFIXES: [(&str, usize); 26] = [
    ("ghp_", 4),
    ("gho_", 4),
    ("ghu_", 4),
    ("ghs_", 4),
    ("ghr_", 4),
    ("github_pat_", 4),
    ("glpat-", 4),
    ("gldt-", 4),
    ("glrt-", 4),
    ("glcbt-", 4),
    ("glptt-", 4),
    ("xoxb-", 4),
    ("xoxp-", 4),
    ("xoxa-", 4),
    ("xoxr-", 4),
    ("xoxs-", 4),
    ("xoxe-", 4),
    ("xapp-", 4),
    ("npm_", 16),
    ("hf_", 16),
    ("dop_v1_", 4),
    ("sk_live_", 4),
    ("sk_test_", 4),
    ("rk_live_", 4),
    ("AIza", 16),
    ("eyJ", 10), // a JSON Web Token: base64 of `{"`
];

/// A key whose name contains one of these holds a credential.
const SECRET_WORDS: [&str; 14] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "api_key",
    "api-key",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "cookie",
    "bearer",
];
/// A key whose name ends with one of these holds a credential.
const SECRET_ENDINGS: [&str; 8] = ["_key", "-key", "_auth", "_pass", "-pass", "pwd", "jwt", "signature"];
/// Words that announce a credential in front of which they stand: `Authorization: Bearer …`.
const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "digest", "negotiate"];
/// What follows "bearer" in a sentence, rather than in a header.
const PROSE: [&str; 7] = ["token", "auth", "realm", "scheme", "header", "is", "was"];
/// What ends an unquoted value without belonging to it.
const TRAILING: [char; 12] = [',', ';', '.', ':', ')', ']', '}', '>', '\'', '`', '\\', '!'];

/// `text` without credentials: bearer and basic tokens, JSON Web Tokens, tokens with a known prefix, the user part of
/// URLs, private keys, and the values of keys that sound secret. What is removed is replaced by [`REDACTED`].
#[must_use]
pub fn redact(text: &str) -> String {
    let text = &without_private_keys(text);
    let mut out = String::with_capacity(text.len());
    let (mut kept, mut at) = (0, 0);
    while let Some(&byte) = text.as_bytes().get(at) {
        let (found, next) = if is_run(byte) {
            let end = end_of(text, at, is_run);
            (credential_in_run(text, at..end), end)
        } else if byte == b':' && starts_with(text, at, "://") {
            (user_part(text, at + 3), at + 3)
        } else {
            (None, at + 1)
        };
        if let Some(found) = found {
            out.push_str(text.get(kept..found.start).unwrap_or_default());
            out.push_str(REDACTED);
            kept = found.end;
            at = found.end.max(at + 1);
        } else {
            at = next;
        }
    }
    out.push_str(text.get(kept..).unwrap_or_default());
    out
}

/// Characters of keys and tokens.
const fn is_run(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')
}

fn byte(text: &str, at: usize) -> Option<u8> {
    text.as_bytes().get(at).copied()
}

fn starts_with(text: &str, at: usize, what: &str) -> bool {
    text.as_bytes().get(at..).is_some_and(|rest| rest.starts_with(what.as_bytes()))
}

/// The first position from `at` on whose byte is not `wanted`.
fn end_of(text: &str, at: usize, wanted: impl Fn(u8) -> bool) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len())
}

const fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// The credential that a run of key characters is, contains or announces.
fn credential_in_run(text: &str, run: Range<usize>) -> Option<Range<usize>> {
    if let Some(start) = known_shape(text, &run) {
        return Some(start..run.end);
    }
    // A key is short; a longer run is not one, and lower-casing it would be work for nothing.
    let key = text.get(run.clone()).filter(|key| key.len() <= 128)?.to_ascii_lowercase();
    if let Some(found) = after_scheme(text, &key, run.end) {
        return Some(found);
    }
    let own_word = key.rsplit('.').next().unwrap_or_default();
    if !sounds_secret(&key) {
        return None;
    }
    let value = value_of_key(text, &run)?;
    let first = byte(text, value)?;
    let location = first.is_ascii_digit() && key.contains('.') && own_word.len() <= 4 && !sounds_secret(own_word);
    let directory = first == b'/' && own_word.ends_with("pwd");
    let number = end_of(text, value, |b| b.is_ascii_digit());
    let budget = key.contains("tokens") && number > value && byte(text, number).is_none_or(|b| !is_run(b));
    if location || directory || budget {
        return None; // `token.rs:12:5`, `PWD=/work`, `max_tokens: 4096`
    }
    let in_query = run.start.checked_sub(1).and_then(|i| byte(text, i)).is_some_and(|b| matches!(b, b'?' | b'&'));
    let whole_line = key.contains("cookie");
    value_range(text, value, |b| match b {
        b'"' | b'\n' | b'\r' => true,
        b'&' | b'#' => in_query,
        b'\'' => whole_line,
        _ => b.is_ascii_whitespace() && !whole_line,
    })
}

/// Where a token begins that is known by its shape.
fn known_shape(text: &str, run: &Range<usize>) -> Option<usize> {
    let bytes = text.as_bytes().get(run.clone())?;
    let mut fresh = true;
    for (i, b) in bytes.iter().enumerate() {
        if std::mem::replace(&mut fresh, !b.is_ascii_alphanumeric()) {
            let rest = bytes.get(i..).unwrap_or_default();
            let prefixed =
                PREFIXES.iter().any(|(p, more)| rest.len() >= p.len() + more && rest.starts_with(p.as_bytes()));
            // `sk-` begins words as well; a key has a digit or a capital soon, or is long.
            let key = rest.strip_prefix(b"sk-").is_some_and(|key| {
                let near = key.get(..key.len().min(32)).unwrap_or_default();
                key.len() >= 6 && (key.len() >= 20 || near.iter().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase()))
            });
            let aws = [&b"AKIA"[..], b"ASIA"].iter().any(|p| {
                let id = rest.strip_prefix(*p).and_then(|id| id.get(..12));
                id.is_some_and(|id| id.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()))
            });
            if prefixed || key || aws {
                return Some(run.start + i);
            }
        }
    }
    None
}

/// `Bearer abc`, `Basic abc`: the `abc`.
fn after_scheme(text: &str, word: &str, end: usize) -> Option<Range<usize>> {
    let bearer = word == "bearer";
    if !bearer && word != "basic" {
        return None;
    }
    let value = end_of(text, end, is_blank);
    if value == end {
        return None;
    }
    let found = value_range(text, value, |b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\''))?;
    let said = text.get(found.clone())?;
    let prose = |w: &&str| said.get(..w.len()).is_some_and(|s| s.eq_ignore_ascii_case(w)) && said.len() <= w.len() + 12;
    let is_credential = if bearer {
        !PROSE.iter().any(prose)
    } else {
        // Base64 has capitals or digits; "basic understanding" has neither.
        said.len() >= 6 && said.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase() || b == b'=')
    };
    is_credential.then_some(found)
}

fn sounds_secret(key: &str) -> bool {
    SECRET_WORDS.iter().any(|w| key.contains(w)) || SECRET_ENDINGS.iter().any(|w| key.ends_with(w))
}

/// Where the value of the key begins: after `=`, `:`, `=>`, `:=`, and after the blank of `--key value`.
fn value_of_key(text: &str, key: &Range<usize>) -> Option<usize> {
    let mut at = key.end;
    // The quote that closes a quoted key, in JSON within JSON with backslashes before it; `env["KEY"]`.
    let quote = end_of(text, at, |b| b == b'\\');
    if matches!(byte(text, quote), Some(b'"' | b'\'')) {
        at = quote + 1;
        if byte(text, at) == Some(b']') {
            at += 1;
        }
    }
    let blanks = end_of(text, at, is_blank);
    let value = match byte(text, blanks) {
        Some(b':') if starts_with(text, blanks, "::") || starts_with(text, blanks, "://") => return None,
        Some(b':' | b'=') => end_of(text, blanks, |b| matches!(b, b':' | b'=' | b'>')),
        _ if starts_with(text, key.start, "--") && blanks > at && byte(text, blanks) != Some(b'-') => blanks,
        _ => return None,
    };
    Some(end_of(text, value, is_blank))
}

/// The value that begins at `at`: quoted up to its closing quote, else up to what `ends` it. `None` if it is empty or
/// has been redacted already.
fn value_range(text: &str, at: usize, ends: impl Fn(u8) -> bool) -> Option<Range<usize>> {
    if starts_with(text, at, REDACTED) {
        return None;
    }
    let quote = end_of(text, at, |b| b == b'\\');
    if let Some(mark @ (b'"' | b'\'')) = byte(text, quote) {
        let from = quote + 1;
        let found = from..closing_quote(text, from, mark, quote - at);
        return (!found.is_empty() && !starts_with(text, from, REDACTED)).then_some(found);
    }
    let mut to = end_of(text, at, |b| !ends(b));
    let word = text.get(at..to)?;
    if SCHEMES.iter().any(|s| word.eq_ignore_ascii_case(s)) {
        let next = end_of(text, to, is_blank);
        if starts_with(text, next, REDACTED) {
            return None;
        }
        to = end_of(text, next, |b| !ends(b));
    }
    let found = at..at + text.get(at..to)?.trim_end().trim_end_matches(TRAILING).len();
    (!found.is_empty()).then_some(found)
}

/// The position of the quote that closes one opened with `escapes` backslashes before it, or the end of the text.
fn closing_quote(text: &str, from: usize, mark: u8, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (i, b) in text.bytes().enumerate().skip(from) {
        let closes = if escapes == 0 { backslashes % 2 == 0 } else { backslashes <= escapes };
        if b == mark && closes {
            return i - backslashes.min(escapes);
        }
        backslashes = if b == b'\\' { backslashes + 1 } else { 0 };
    }
    text.len()
}

/// The user part of the URL whose authority begins at `at`, unless it is the `git` of an ssh address.
fn user_part(text: &str, at: usize) -> Option<Range<usize>> {
    let end = end_of(text, at, |b| {
        !b.is_ascii_whitespace() && !matches!(b, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'\\')
    });
    let user = text.get(at..end)?.rfind('@')?;
    let user = at..at + user;
    let known = matches!(text.get(user.clone())?, "" | "git" | REDACTED);
    (!known).then_some(user)
}

/// `text` with every private key in PEM form replaced; one without an end reaches to the end of the text.
fn without_private_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, key)) = rest.split_once("-----BEGIN ") {
        out.push_str(before);
        if cut(key, 48).contains("PRIVATE KEY") {
            out.push_str(REDACTED);
            let end = key.split_once("-----END ").map_or("", |(_, end)| end);
            rest = end.split_once("-----").map_or("", |(_, after)| after);
        } else {
            out.push_str("-----BEGIN ");
            rest = key;
        }
    }
    out.push_str(rest);
    out
}

// ── fingerprints ─────────────────────────────────────────────────────────────────────────────────────────────────

/// `text` without what differs from one occurrence to the next: digits, UUIDs and hex become `#`, paths and URLs
/// `<path>`, quoted names with a digit `<id>`, white space one blank, letters small.
#[must_use]
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.trim();
    while let Some(c) = rest.chars().next() {
        let (word, after) = split(rest, |c| !c.is_whitespace() && !is_separator(c));
        if !word.is_empty() {
            let quoted = matches!(before, '"' | '\'' | '`') && after.starts_with(before);
            push_word(&mut out, word, quoted);
            rest = after;
            before = ' ';
        } else if c.is_whitespace() {
            out.push(' ');
            rest = rest.trim_start();
            before = ' ';
        } else {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            before = c;
        }
    }
    out
}

/// At most `max_chars` characters of one line; what is longer ends after a whole word, and says so.
#[must_use]
pub fn excerpt(line: &str, max_chars: usize) -> String {
    if line.chars().count() <= max_chars {
        return line.to_owned();
    }
    let head: String = line.chars().take(max_chars).collect();
    let whole = head.rsplit_once(' ').map_or(head.as_str(), |(words, _)| words);
    format!("{whole} …")
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}"); // writing into a String cannot fail
        out
    })
}

/// Twelve hex digits that are equal for failures with one cause: a hash of the code and the normalised text.
#[must_use]
pub fn fingerprint(code: &str, text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(code.as_bytes());
    hash.update([0]);
    hash.update(normalise(text).as_bytes());
    cut(&hex(&hash.finalize()), 12).to_owned()
}

/// Punctuation that separates words: of sentences, of JSON, of `key=value`.
const fn is_separator(c: char) -> bool {
    matches!(c, '"' | '\'' | '`' | '=' | ',' | ';' | '(' | ')' | '{' | '}' | '[' | ']' | '<' | '>' | '|')
}

/// The longest beginning of `text` that is all `wanted`, and the rest.
fn split(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at_checked(text.find(|c| !wanted(c)).unwrap_or(text.len())).unwrap_or((text, ""))
}

/// Appends one word without what is accidental in it.
fn push_word(out: &mut String, word: &str, quoted: bool) {
    let core = word.trim_end_matches(['.', ':', '!', '?', '…']);
    if core.contains(['/', '\\']) {
        out.push_str("<path>");
    } else if quoted && core.bytes().any(|b| b.is_ascii_digit()) {
        out.push_str("<id>");
    } else {
        push_without_ids(out, core);
    }
    out.push_str(word.strip_prefix(core).unwrap_or_default());
}

/// Appends `word` with every id and number as one `#`.
fn push_without_ids(out: &mut String, word: &str) {
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = after_uuid(rest) {
            push_number(out);
            rest = after;
            continue;
        }
        let (run, after) = split(rest, |c| c.is_ascii_alphanumeric());
        if run.is_empty() {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            continue;
        }
        let digits = run.bytes().any(|b| b.is_ascii_digit());
        let hex = run.len() >= 7 && run.bytes().all(|b| b.is_ascii_hexdigit());
        if digits && (hex || run.len() >= 16) {
            push_number(out);
        } else {
            for c in run.chars() {
                if c.is_ascii_digit() { push_number(out) } else { out.push(c.to_ascii_lowercase()) }
            }
        }
        rest = after;
    }
}

/// Appends `#`, unless it continues a number: `1.5`, `10.0.0.1:8080` and `2026-11-20` are one.
fn push_number(out: &mut String) {
    if out.ends_with('#') {
        return;
    }
    if ["#.", "#:", "#-"].iter().any(|end| out.ends_with(end)) {
        out.pop();
    } else {
        out.push('#');
    }
}

/// What follows the UUID with which `text` begins.
fn after_uuid(text: &str) -> Option<&str> {
    let (id, after) = text.split_at_checked(36)?;
    let uuid = id.bytes().enumerate().all(|(i, b)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    });
    uuid.then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_cut_on_a_character_boundary_from_either_end() {
        assert_eq!(cut("grün", 3), "gr");
        assert_eq!(cut("grün", 4), "grü");
        assert_eq!(cut("grün", 99), "grün");
        assert_eq!(cut_tail("grün", 2), "n");
        assert_eq!(cut_tail("grün", 3), "ün");
        assert_eq!(cut_tail("grün", 99), "grün");
        assert_eq!((cut("ü", 0), cut_tail("ü", 0)), ("", ""));
    }

    #[test]
    fn a_mask_shows_the_last_four_characters_of_long_secrets_only() {
        assert_eq!(mask(""), "****");
        assert_eq!(mask("abcd"), "****");
        assert_eq!(mask("abcde"), "****bcde");
        assert_eq!(mask("pässwörd"), "****wörd");
        for secret in ["", "abcd", "abcde", "a long secret"] {
            assert!(is_masked(&mask(secret)));
        }
        assert!(!is_masked("****12345"));
        assert!(!is_masked("***"));
    }

    #[test]
    fn credentials_are_removed_in_every_shape_they_are_met_in() {
        for (text, clean) in [
            ("Authorization: Bearer abc.def-123", "Authorization: [redacted]"),
            ("sent bearer s3cr3tvalue, got 401", "sent bearer [redacted], got 401"),
            ("Basic dXNlcjpwYXNz failed", "Basic [redacted] failed"),
            ("curl -H 'Authorization: token hunter2hunter2' x", "curl -H 'Authorization: [redacted]' x"),
            ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln.", "jwt [redacted]"),
            ("clone with ghp_0123456789abcdef failed", "clone with [redacted] failed"),
            ("github_pat_11ABCDEFG_xyz", "[redacted]"),
            ("glpat-abcdefghij0123", "[redacted]"),
            ("key sk-ant-api03-AbCdEf is invalid", "key [redacted] is invalid"),
            ("xoxb-1234-abcd", "[redacted]"),
            ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
            ("https://x-access-token:ghp_abcdefgh@github.com/o/r.git", "https://[redacted]@github.com/o/r.git"),
            ("postgres://u:p@ss@db:5432/x", "postgres://[redacted]@db:5432/x"),
            ("password=hunter2 user=bob", "password=[redacted] user=bob"),
            ("PASSWORD: hunter2", "PASSWORD: [redacted]"),
            (r#"{"api_key": "abc def", "n": 1}"#, r#"{"api_key": "[redacted]", "n": 1}"#),
            (r#"{\"token\":\"abc\",\"n\":1}"#, r#"{\"token\":\"[redacted]\",\"n\":1}"#),
            (r#"{"secret":"a\"b\\","n":1}"#, r#"{"secret":"[redacted]","n":1}"#),
            ("AWS_SECRET_ACCESS_KEY='x/y+z='", "AWS_SECRET_ACCESS_KEY='[redacted]'"),
            ("OPENAI_KEY=abc", "OPENAI_KEY=[redacted]"),
            ("GET /?access_token=abc&page=2", "GET /?access_token=[redacted]&page=2"),
            ("run --token abc --verbose", "run --token [redacted] --verbose"),
            ("process.env[\"TOKEN\"] = \"abc\"", "process.env[\"TOKEN\"] = \"[redacted]\""),
            ("Set-Cookie: a=b; c=d\nnext", "Set-Cookie: [redacted]\nnext"),
            ("DB_PASS=x", "DB_PASS=[redacted]"),
            ("unclosed token=\"abc def", "unclosed token=\"[redacted]"),
            ("x\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\ny", "x\n[redacted]\ny"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", "[redacted]"),
            ("(password: grüße!)", "(password: [redacted]!)"),
        ] {
            assert_eq!(redact(text), clean, "{text}");
        }
    }

    #[test]
    fn what_explains_a_failure_is_left_alone() {
        for text in [
            "",
            "fatal: repository 'https://github.com/o/r.git/' not found",
            "fatal: could not read from git@github.com:o/r.git, ssh://git@host/x",
            "src/auth/token.rs:12:5: error[E0308]: mismatched types",
            "bearer token expired",
            "a basic understanding of task-runner and risk-averse desk-work",
            "max_tokens: 8192 is more than the model allows",
            "PWD=/workspace/rigs/x",
            "author: Jane, key pressed, monkey = 3",
            "secrets::load failed",
            "Unexpected token: }",
            "token=[redacted], then https://[redacted]@host and Bearer [redacted]",
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn redaction_of_a_megabyte_of_trouble_takes_linear_time() {
        for hostile in
            ["sk-", "://", "token", "token=", "token ", "pwd=/", "tokens=1", "\\\"", "bearer ", "-----BEGIN "]
        {
            let _ = redact(&hostile.repeat(1_000_000 / hostile.len()));
            let _ = normalise(&hostile.repeat(1_000_000 / hostile.len()));
        }
    }

    #[test]
    fn failures_with_one_cause_have_one_fingerprint() {
        let same = [
            (
                "Agent 550e8400-e29b-41d4-a716-446655440000 failed after 12 ms",
                "Agent 6ba7b810-9dad-41d1-80b4-00c04fd430c8 failed  after\n1.5 ms",
            ),
            ("cannot open /workspace/rigs/a/repo: denied", "cannot open /workspace/rigs/bcd/repo: denied"),
            ("branch 'toast-7' is gone", "branch 'maple-12' is gone"),
            ("commit deadbee1 and a1b2c3d4e5f6", "commit 0123456 and 99"),
            ("10.0.0.1:8080 refused at 2026-11-20T09:59:42.005Z", "10.0.12.31:80 refused at 2027-01-02T00:00:00.1Z"),
            ("Error: X", "error:   x"),
        ];
        for (a, b) in same {
            assert_eq!(normalise(a), normalise(b));
            assert_eq!(fingerprint("agent.exited", a), fingerprint("agent.exited", b));
        }
    }

    #[test]
    fn different_causes_and_different_codes_have_different_fingerprints() {
        let texts = ["could not resolve host", "no space left on device", "permission denied", ""];
        let codes = ["agent.exited", "repo.unavailable"];
        let mut seen = std::collections::BTreeSet::new();
        for code in codes {
            for text in texts {
                let print = fingerprint(code, text);
                assert_eq!(print.len(), 12);
                assert!(seen.insert(print));
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_any_of_this_panic_or_grow_without_bound(text in any::<String>(), n in 0usize..64) {
            prop_assert!(cut(&text, n).len() <= n);
            prop_assert!(cut_tail(&text, n).len() <= n);
            prop_assert!(redact(&text).len() <= text.len() * 11 + 10);
            prop_assert!(normalise(&text).len() <= text.len() * 6);
            let _ = mask(&text);
        }

        #[test]
        fn a_planted_secret_never_survives(
            before in "[ -~\n]{0,40}",
            shape in 0usize..6,
            secret in "[A-Za-z0-9]{20,40}",
            after in "[ -~\n]{0,40}",
        ) {
            let planted = match shape {
                0 => format!("Authorization: Bearer {secret}"),
                1 => format!("ghp_{secret}"),
                2 => format!("https://user:{secret}@example.org/x"),
                3 => format!("api_key={secret}"),
                4 => format!("\"password\": \"{secret}\""),
                _ => format!("eyJ{secret}.{secret}.{secret}"),
            };
            let clean = redact(&format!("{before} {planted} {after}"));
            prop_assert!(!clean.contains(&secret), "{clean}");
        }

        #[test]
        fn garbage_made_of_the_scanners_own_words_is_survived(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "token", "=", ":", " ", "\"", "'", "\\", "Bearer", "://", "@", "ghp_", "ü", "[redacted]", "--", "key",
                    "-----BEGIN ", "PRIVATE KEY", "-----END ", "-----", "&", "?", "\n", "a1", ".", "cookie", "pwd", "/",
                ]),
                0..30,
            )
        ) {
            let text: String = parts.concat();
            let _ = redact(&text);
            let _ = normalise(&text);
        }
    }
}
