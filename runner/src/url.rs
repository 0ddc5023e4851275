//! Where a rig's repository is: which urls and names are allowed, and what of a url is a secret.

/// A git url without credentials, and the credentials it carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitUrl {
    /// What git is told.
    pub plain: String,
    /// `user:password` of an http(s) url, as written there (percent-encoded).
    pub userinfo: Option<String>,
    /// Scheme and host of an http(s) url: where credentials apply.
    pub origin: Option<(String, String)>,
}

impl GitUrl {
    /// Reads a url: https, http, ssh and `git@host:path`; `file://` and absolute paths only in development.
    ///
    /// # Errors
    /// What would be accepted.
    pub fn parse(url: &str, dev: bool) -> Result<Self, &'static str> {
        let plain = |text: &str| Self { plain: text.to_owned(), userinfo: None, origin: None };
        if url.chars().any(|c| c.is_control() || c == ' ') {
            return Err("must not contain spaces or control characters");
        }
        for scheme in ["https", "http"] {
            let Some(rest) = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else { continue };
            let (authority, path) = match rest.split_once('/') {
                Some((authority, path)) => (authority, format!("/{path}")),
                None => (rest, String::new()),
            };
            let (userinfo, host) = match authority.rsplit_once('@') {
                Some((userinfo, host)) => (Some(userinfo.to_owned()), host),
                None => (None, authority),
            };
            if host.is_empty() || host.starts_with('-') {
                return Err("must name a host");
            }
            return Ok(Self {
                plain: format!("{scheme}://{host}{path}"),
                userinfo,
                origin: Some((scheme.to_owned(), host.to_owned())),
            });
        }
        if let Some(rest) = url.strip_prefix("ssh://") {
            // A host that begins with a dash would be an option of ssh.
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            return if host.is_empty() || host.starts_with(['-', '/']) {
                Err("must name a host")
            } else {
                Ok(plain(url))
            };
        }
        if let Some((host, path)) = url.strip_prefix("git@").and_then(|rest| rest.split_once(':')) {
            let bad = host.is_empty() || path.is_empty() || host.starts_with('-') || path.starts_with('-');
            return if bad { Err("must be git@host:path") } else { Ok(plain(url)) };
        }
        if dev && (url.starts_with("file:///") || url.starts_with('/')) {
            return Ok(plain(url));
        }
        if dev {
            Err("must be an https, http, ssh or file url, git@host:path, or an absolute path")
        } else {
            Err("must be an https, http or ssh url, or git@host:path")
        }
    }
}

/// Whether a branch (or start point) may be passed to git: git's own rules, and nothing that could be an option.
#[must_use]
pub fn is_branch(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    !name.is_empty()
        && name.len() <= 250
        && name != "@"
        && name != "HEAD"
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.chars().any(forbidden)
        && name.split('/').all(|part| {
            let lock = part.get(part.len().saturating_sub(5)..).is_some_and(|end| end.eq_ignore_ascii_case(".lock"));
            !part.is_empty() && !part.starts_with('.') && !lock
        })
}

/// Whether an id may become a part of a path and of a url.
#[must_use]
pub fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && !id.starts_with(['-', '.'])
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !id.contains("..")
}

#[cfg(test)]
mod tests {
    use super::{GitUrl, is_branch, is_id};

    #[test]
    fn credentials_are_taken_out_of_an_https_url() {
        let url = GitUrl::parse("https://me:pw@example.com/x.git", false).unwrap();
        assert_eq!(url.plain, "https://example.com/x.git");
        assert_eq!(url.userinfo.as_deref(), Some("me:pw"));
    }

    #[test]
    fn local_repositories_are_for_development() {
        assert!(GitUrl::parse("file:///tmp/x", false).is_err());
        assert!(GitUrl::parse("/tmp/x", false).is_err());
        assert!(GitUrl::parse("file:///tmp/x", true).is_ok());
        assert!(GitUrl::parse("/tmp/x", true).is_ok());
    }

    #[test]
    fn urls_that_git_would_take_for_commands_are_refused() {
        for url in ["ext::sh -c x", "-u", "ssh://-oProxyCommand=x/y", "ssh://git@-o/y", "git@-x:y", "fd::3", "", "x"] {
            assert!(GitUrl::parse(url, true).is_err(), "{url}");
        }
        for url in ["git@github.com:o/r.git", "ssh://git@host:22/x", "http://localhost:3000/x"] {
            assert!(GitUrl::parse(url, false).is_ok(), "{url}");
        }
    }

    #[test]
    fn branch_names_follow_gits_rules() {
        for name in ["gt/toast/abc12345", "convoy/a-/a1b2c3d4/head", "origin/main", "my-agent-"] {
            assert!(is_branch(name), "{name}");
        }
        for name in
            ["", "-x", "a b", "a..b", "a~1", "/a", "a/", "a//b", ".a", "a.lock", "a/.b", "a@{1}", "@", "a\n", "HEAD"]
        {
            assert!(!is_branch(name), "{name}");
        }
    }

    #[test]
    fn ids_stay_inside_their_directory() {
        assert!(is_id("mayor-0000") && is_id("a.b"));
        for id in ["", "..", "a/b", ".x", "-x", "a..b", "a b"] {
            assert!(!is_id(id), "{id}");
        }
    }
}
