//! Takes secrets out of text: the values it was told, credentials in urls, and what looks like a token.
//!
//! Everything that leaves an attempt (answers, reports, events, log files) passes here first. What becomes a secret while an
//! attempt runs (a renewed token) is learnt in place: whoever holds the redactor masks it from then on.

use serde_json::Value;
use std::sync::{PoisonError, RwLock};

/// What stands where a secret stood.
const MASK: &str = "***";

/// Values shorter than this are not treated as secrets: masking "main" everywhere would hide more than it protects.
const SHORTEST_SECRET: usize = 6;

/// Beginnings that name a token by themselves: GitHub, GitLab, model providers, Slack, and `eyJ` = a JWT's `{"`.
const PREFIXES: [&str; 11] =
    ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "xoxb-", "xoxp-", "eyJ"];

/// A token with such a beginning is at least this long.
const SHORTEST_TOKEN: usize = 16;

/// Words in the name of a variable that say its value is a secret.
const SECRET_WORDS: [&str; 12] = [
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "KEY",
    "PAT",
    "CREDENTIAL",
    "CREDENTIALS",
    "AUTH",
    "JWT",
];

/// The secrets of one attempt.
#[derive(Debug, Default)]
pub struct Redactor {
    /// Longest first, so that a secret that contains another is masked whole.
    secrets: RwLock<Vec<String>>,
}

impl Redactor {
    /// A redactor for the secret ones among these variables.
    #[cfg(test)]
    pub fn new<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let redactor = Self::default();
        redactor.learn(variables);
        redactor
    }

    /// From now on masks the secret ones among these variables, too.
    pub fn learn<'a>(&self, variables: impl IntoIterator<Item = (&'a String, &'a String)>) {
        let found = variables
            .into_iter()
            .filter(|(name, _)| is_secret_name(name))
            // Output is redacted line by line, so a key of many lines is known by each of them.
            .flat_map(|(_, value)| value.lines().map(str::trim).map(str::to_owned))
            .filter(|secret| secret.len() >= SHORTEST_SECRET);
        let mut secrets = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        secrets.extend(found);
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
    }

    /// `text` without secrets.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), MASK);
            }
        }
        mask_tokens(&mask_userinfo(&text))
    }

    /// A value whose texts are without secrets. Names of fields are left: they are the tool's own.
    #[must_use]
    pub fn clean_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.clean(text)),
            Value::Array(items) => items.iter().map(|item| self.clean_value(item)).collect(),
            Value::Object(fields) => {
                let clean = fields.iter().map(|(name, value)| {
                    let secret =
                        is_secret_name(name) && value.as_str().is_some_and(|text| text.len() >= SHORTEST_SECRET);
                    (name.clone(), if secret { Value::String(MASK.to_owned()) } else { self.clean_value(value) })
                });
                Value::Object(clean.collect())
            }
            other => other.clone(),
        }
    }
}

/// Whether a variable of this name holds a secret.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    name.split('_').any(|word| SECRET_WORDS.contains(&word.to_ascii_uppercase().as_str()))
}

/// `https://user:password@host` → `https://***@host`.
fn mask_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || "/?#'\"<>".contains(c)).unwrap_or(after.len());
        let (authority, tail) = after.split_at_checked(end).unwrap_or((after, ""));
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str(MASK);
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Words that begin like a token of a known kind.
fn mask_tokens(text: &str) -> String {
    let in_token = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c| !in_token(c)) {
        let word = piece.trim_end_matches(|c| !in_token(c));
        if word.len() >= SHORTEST_TOKEN && PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            out.push_str(MASK);
            out.push_str(piece.get(word.len()..).unwrap_or_default());
        } else {
            out.push_str(piece);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Redactor, is_secret_name};

    #[test]
    fn named_secrets_urls_and_tokens_are_masked() {
        let variables = [("GIT_TOKEN".to_owned(), "hunter22".to_owned()), ("PATH".to_owned(), "/usr/bin".to_owned())];
        let redactor = Redactor::new(variables.iter().map(|(name, value)| (name, value)));
        assert_eq!(redactor.clean("use hunter22 in /usr/bin"), "use *** in /usr/bin");
        assert_eq!(
            redactor.clean("fatal: 'https://me:pw@host/x.git' https://host/a@b"),
            "fatal: 'https://***@host/x.git' https://host/a@b"
        );
        assert_eq!(redactor.clean("a ghp_0123456789abcdef, and eyJhbGciOiJIUzI1NiJ9.e30.x"), "a ***, and ***");
        assert_eq!(redactor.clean("sk-short stays"), "sk-short stays");
    }

    #[test]
    fn a_path_is_not_a_pat() {
        assert!(is_secret_name("GITHUB_CLI_PAT"));
        assert!(is_secret_name("anthropic_api_key"));
        assert!(!is_secret_name("PATH"));
        assert!(!is_secret_name("GIT_AUTHOR_NAME"));
    }
}
