//! The credentials of an agent's repository: one line in a file that only the runner's user can read.

use crate::url::GitUrl;
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The store's name in an agent's private directory.
pub const FILE: &str = "git-credentials";

/// The line of git's credential store for this repository, if there is a token for it.
///
/// A GitLab host gets `GITLAB_TOKEN`; everything else `GIT_TOKEN` or `GITHUB_TOKEN`. Credentials that stood in the url come
/// last. The line names the repository's host, so that no other host is ever shown the token.
#[must_use]
pub fn line(url: &GitUrl, variables: &BTreeMap<String, String>) -> Option<String> {
    let (scheme, host) = url.origin.as_ref()?;
    let variable = |name: &str| variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let gitlab = host.contains("gitlab")
        || variable("GITLAB_INSTANCE_URL").is_some_and(|instance| {
            let instance = instance.split_once("://").map_or(instance, |(_, rest)| rest);
            instance.split('/').next() == Some(host.as_str())
        });
    let gitlab_token = variable("GITLAB_TOKEN").filter(|_| gitlab);
    let userinfo = match (gitlab_token, variable("GIT_TOKEN").or_else(|| variable("GITHUB_TOKEN"))) {
        (Some(token), _) => format!("oauth2:{}", encode(token)),
        (None, Some(token)) => format!("x-access-token:{}", encode(token)),
        (None, None) => url.userinfo.clone()?,
    };
    Some(format!("{scheme}://{userinfo}@{host}\n"))
}

/// Writes the store; without credentials an empty one, so that an earlier token does not linger.
pub fn write(path: &Path, line: Option<&str>) -> io::Result<()> {
    // A new file each time: the mode applies only to files that are created.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(line.unwrap_or_default().as_bytes())
}

/// Percent-encodes what is not plainly a part of a token.
fn encode(token: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(token.len());
    for byte in token.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::url::GitUrl;
    use std::collections::BTreeMap;

    fn with(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let variables: BTreeMap<_, _> = variables.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        line(&GitUrl::parse(url, false).unwrap(), &variables)
    }

    #[test]
    fn each_host_gets_the_token_that_is_meant_for_it() {
        let both = [("GIT_TOKEN", "g"), ("GITLAB_TOKEN", "l")];
        assert_eq!(with("https://github.com/o/r", &both).unwrap(), "https://x-access-token:g@github.com\n");
        assert_eq!(with("https://gitlab.com/o/r", &both).unwrap(), "https://oauth2:l@gitlab.com\n");
        let instance = [("GITLAB_INSTANCE_URL", "https://git.example:8443/"), ("GITLAB_TOKEN", "l")];
        assert_eq!(with("https://git.example:8443/o/r", &instance).unwrap(), "https://oauth2:l@git.example:8443\n");
        assert_eq!(with("https://me:pw@h/x", &[]).unwrap(), "https://me:pw@h\n");
        assert_eq!(with("https://h/x", &[]), None);
        assert_eq!(with("git@h:x", &both), None);
    }

    #[test]
    fn a_token_cannot_break_out_of_its_line() {
        assert_eq!(
            with("https://h/x", &[("GITHUB_TOKEN", "a/b@c\nd")]).unwrap(),
            "https://x-access-token:a%2Fb%40c%0Ad@h\n"
        );
    }
}
