//! What a user says when making a town or a rig (`protocol.md` 3.5).

use super::{
    envelope::Refusal,
    fields::{Body, Fields},
};
use crate::town::policy::{NAME_CHARS, URL_BYTES};

/// The longest branch name, in characters: git's own limit for a ref, less `refs/heads/`.
const MAX_BRANCH: usize = 240;

/// `POST /api/users/:u/towns`.
pub fn town_name(body: &Body) -> Result<String, Refusal> {
    let mut f = Fields::required(body);
    let name = f.short_text("name", NAME_CHARS);
    f.done(name)
}

/// `POST /api/users/:u/rigs`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the wire's own names")]
pub struct NewRig {
    pub town_id: String,
    pub name: String,
    pub git_url: String,
    pub default_branch: String,
    pub platform_integration_id: Option<String>,
}

impl NewRig {
    /// Reads the body. Repositories on the machine itself (`file://`, a path) exist in development only.
    pub fn read(body: &Body, development: bool) -> Result<Self, Refusal> {
        let mut f = Fields::required(body);
        let rig = Self {
            town_id: f.text("town_id"),
            name: f.short_text("name", NAME_CHARS),
            git_url: f.short_text("git_url", URL_BYTES),
            default_branch: f.opt_filled("default_branch").unwrap_or_else(|| "main".to_owned()),
            platform_integration_id: f.opt_text("platform_integration_id"),
        };
        if !rig.git_url.is_empty() && !is_repository(&rig.git_url, development) {
            let text = "expected an https, ssh or git@ url of a repository, without control characters or spaces";
            f.wrong("invalid_format", "git_url", text);
        }
        if !is_branch(&rig.default_branch) {
            f.wrong("invalid_format", "default_branch", "expected a branch name");
        }
        f.done(rig)
    }
}

/// What the container may be told to clone (`protocol.md` 6.2). A leading `-` would be an option to git, not a url.
fn is_repository(url: &str, development: bool) -> bool {
    let plain = url.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let remote = ["https://", "http://", "ssh://", "git@"].iter().any(|p| url.len() > p.len() && url.starts_with(p));
    let local = url.starts_with("file:///") || url.starts_with('/');
    plain && (remote || (development && local))
}

/// Branch names of `protocol.md` 6.2: no control characters, no space, none of `~^:?*[\`, no leading `-`, no `..`.
fn is_branch(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"~^:?*[\\".contains(c);
    (1..=MAX_BRANCH).contains(&name.chars().count())
        && name.chars().all(plain)
        && !name.starts_with(['-', '/'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rig(git_url: &str, default_branch: &str, development: bool) -> Result<NewRig, Refusal> {
        let body = json!({"town_id": "t", "name": "n", "git_url": git_url, "default_branch": default_branch});
        NewRig::read(&Body::Json(body), development)
    }

    #[test]
    fn a_repository_is_remote_except_in_development() {
        for url in ["https://github.com/a/b.git", "git@github.com:a/b.git", "ssh://git@h/a"] {
            assert!(rig(url, "main", false).is_ok(), "{url}");
        }
        for url in ["file:///srv/a.git", "/srv/a.git"] {
            assert!(rig(url, "main", true).is_ok() && rig(url, "main", false).is_err(), "{url}");
        }
        for url in ["", "https://", "--upload-pack=x", "ftp://h/a", "https://h/a b", "ext::sh -c x", "a/b"] {
            assert!(rig(url, "main", true).is_err(), "{url}");
        }
    }

    #[test]
    fn a_branch_name_is_one_that_git_takes() {
        for name in ["main", "release/1.2", "ünï"] {
            assert!(rig("https://h/a", name, false).is_ok(), "{name}");
        }
        for name in ["", "-x", "a b", "a..b", "a~1", "a:b", "/a", "a/", "a\nb"] {
            assert!(rig("https://h/a", name, false).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_has_one_to_64_characters() {
        assert!(town_name(&Body::Json(json!({"name": "ü".repeat(64)}))).is_ok());
        for name in [json!(""), json!("x".repeat(65)), json!(1), json!(null)] {
            assert_eq!(town_name(&Body::Json(json!({ "name": name }))).unwrap_err().status, 400);
        }
    }
}
