//! Forges: how GitHub and GitLab are asked about a pull request, and what their answers mean. Pure: no row, no call.
//!
//! Guarantees: only `github.com`, `gitlab.com` and the GitLab of the settings are ever asked, over https; every answer is
//! something that is known, or a [`Trouble`] with words that say what to do; no words hold a token.

use super::super::effect::Answer;
use super::super::policy::REASON_BYTES;
use super::super::text;
use super::super::time::{Millis, in_words};
use crate::town::json::json;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

/// A repository at a forge, or a pull request in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// GitHub, else GitLab.
    pub github: bool,
    /// Where the API is.
    pub base: String,
    /// `owner/name`, or the path of a GitLab project.
    pub repo: String,
    /// The number of the pull request.
    pub number: Option<u32>,
}

/// What a forge is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open a pull request.
    Open,
    /// Which one is open for the branch already?
    Find,
    /// How does it stand?
    Poll,
    /// What do tests and reviewers say? GitHub tells that apart; what it said before goes along.
    Talk(Seen),
    /// Merge it, in the n-th of the forge's ways.
    Merge(usize),
}

/// How an open pull request stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own that the forge answers")]
pub struct Seen {
    /// Its newest commit.
    pub head: String,
    /// It does not merge.
    pub conflict: bool,
    /// Its checks have failed.
    pub failing: bool,
    /// Review comments are unresolved.
    pub unresolved: bool,
    /// The forge would merge it, and no check is under way.
    pub ready: bool,
}

/// What a forge said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The pull request of the branch has this url.
    Opened(String),
    /// One is open already.
    Exists,
    /// It is open.
    Open(Seen),
    /// It is in, by this commit.
    Merged(Option<String>),
    /// Somebody closed it.
    Closed,
    /// It has moved: ask anew.
    Moved,
}

/// Why nothing useful was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble.
    pub kind: Kind,
    /// In words, without secrets.
    pub words: String,
    /// The forge asks to wait so long.
    pub wait: Option<Millis>,
}

/// Kinds of trouble, which decide what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may pass by itself.
    Transient,
    /// The answer cannot be read.
    Malformed,
    /// Token, scope or url are wrong: a person must act.
    Denied,
    /// The forge does not want what it was asked for.
    Rejected,
}

impl Kind {
    /// As stored and as shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Malformed => "malformed",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
        }
    }
}

/// The ways in which GitHub merges, in the order in which they are tried (`protocol.md` 6.3).
const METHODS: [&str; 3] = ["squash", "merge", "rebase"];

/// What GitHub's REST does not tell: which review threads are resolved, and the checks of both kinds in one word.
const TALK: &str = "query($o:String!,$r:String!,$n:Int!){repository(owner:$o,name:$r){pullRequest(number:$n){\
    reviewThreads(last:100){nodes{isResolved}}commits(last:1){nodes{commit{statusCheckRollup{state}}}}}}}";

/// The pull request behind a url; `None` unless it is one of the two forms of `protocol.md` 6.3 on a host that we know.
#[must_use]
pub fn pull_request(url: &str, gitlab: Option<&str>) -> Option<Place> {
    let (place, path) = host(url.strip_prefix("https://")?, gitlab)?;
    let (repo, number) = path.split_once(if place.github { "/pull/" } else { "/-/merge_requests/" })?;
    let digits = (1..=9).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse().ok().filter(|n| digits && *n > 0)?;
    within(Place { number: Some(number), ..place }, repo)
}

/// The repository behind a git url, if it is on a host that we know.
#[must_use]
pub fn repository(git_url: &str, gitlab: Option<&str>) -> Option<Place> {
    // `user@host:path` has no scheme; whatever stands before the host is a user, perhaps with a password.
    let rest = match git_url.split_once("://") {
        Some((_, rest)) => rest.to_owned(),
        None => git_url.replacen(':', "/", 1),
    };
    let rest = rest.rsplit_once('@').map_or(rest.as_str(), |(_, rest)| rest);
    let (place, path) = host(rest, gitlab)?;
    let path = path.trim_end_matches('/');
    within(place, path.strip_suffix(".git").unwrap_or(path))
}

/// The forge of `host/path`, and the path.
fn host<'a>(rest: &'a str, gitlab: Option<&str>) -> Option<(Place, &'a str)> {
    let place = |github, base| Place { github, base, repo: String::new(), number: None };
    if let Some(path) = rest.strip_prefix("github.com/") {
        return Some((place(true, "https://api.github.com".to_owned()), path));
    }
    // Over http a token would be there for everybody to read.
    let own = gitlab.and_then(|url| url.strip_prefix("https://")).map(|own| own.trim_end_matches('/'));
    ["gitlab.com"].into_iter().chain(own.filter(|own| !own.is_empty())).find_map(|name| {
        let path = rest.strip_prefix(name)?.strip_prefix('/')?;
        Some((place(false, format!("https://{name}/api/v4")), path))
    })
}

/// `place` with its repository, if that is a path of a repository and nothing else.
fn within(place: Place, repo: &str) -> Option<Place> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.chars().all(plain);
    let parts = repo.split('/').count();
    let fits = repo.split('/').all(part) && if place.github { parts == 2 } else { (2..=20).contains(&parts) };
    fits.then(|| Place { repo: repo.to_owned(), ..place })
}

/// What stands in a request beside the place.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the words of a pull request")]
pub struct Words<'a> {
    pub branch: &'a str,
    pub target: &'a str,
    pub title: &'a str,
    pub body: &'a str,
    /// The commit to merge, and no other.
    pub head: &'a str,
}

/// Method, path and body of a step.
#[must_use]
pub fn request(place: &Place, step: &Step, words: &Words<'_>) -> (&'static str, String, Option<Json>) {
    let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let (branch, target, title, body, head) = (words.branch, words.target, words.title, words.body, words.head);
    let owner = place.repo.split('/').next().unwrap_or_default();
    let all = if place.github {
        format!("/repos/{}/pulls", place.repo)
    } else {
        format!("/projects/{}/merge_requests", escape(&place.repo))
    };
    let one = || format!("{all}/{}", place.number.unwrap_or(0));
    match (step, place.github) {
        (Step::Open, true) => {
            ("POST", all, Some(json!({"title": title, "head": branch, "base": target, "body": body})))
        }
        (Step::Open, false) => {
            let body = json!({"title": title, "source_branch": branch, "target_branch": target, "description": body});
            ("POST", all, Some(body))
        }
        (Step::Find, true) => {
            let head = escape(&format!("{owner}:{branch}"));
            ("GET", format!("{all}?state=open&head={head}&base={}", escape(target)), None)
        }
        (Step::Find, false) => {
            let (source, target) = (escape(branch), escape(target));
            ("GET", format!("{all}?state=opened&source_branch={source}&target_branch={target}"), None)
        }
        (Step::Poll, _) | (Step::Talk(_), false) => ("GET", one(), None),
        (Step::Talk(_), true) => {
            let name = place.repo.split('/').nth(1).unwrap_or_default();
            let variables = json!({"o": owner, "r": name, "n": place.number});
            ("POST", "/graphql".to_owned(), Some(json!({"query": TALK, "variables": variables})))
        }
        (Step::Merge(way), github) => {
            let mut body = json!({"sha": head});
            if let (true, Some(method), Some(map)) = (github, METHODS.get(*way), body.as_object_mut()) {
                map.insert("merge_method".to_owned(), json!(method));
            }
            ("PUT", format!("{}/merge", one()), Some(body))
        }
    }
}

/// The next way of merging, after the forge said that this one is not allowed.
#[must_use]
pub fn next_way(place: &Place, way: usize) -> Option<Step> {
    let next = way.saturating_add(1);
    (place.github && next < METHODS.len()).then_some(Step::Merge(next))
}

/// What an answer to a step says.
pub fn read(place: &Place, step: &Step, answer: &Answer) -> Result<Said, Trouble> {
    let body = match answered(place, answer) {
        Ok(body) => body,
        Err(trouble) => {
            return match (step, answer) {
                (Step::Open, Answer::Http { status: 409, .. }) => Ok(Said::Exists),
                (Step::Open, Answer::Http { status: 422, body, .. }) if body.contains("already exists") => {
                    Ok(Said::Exists)
                }
                // The branch has moved since it was looked at.
                (Step::Merge(_), Answer::Http { status: 409, .. }) => Ok(Said::Moved),
                _ => Err(trouble),
            };
        }
    };
    let said = match step {
        Step::Open => url_of(place, &body).map(Said::Opened),
        Step::Find => body.get(0).and_then(|first| url_of(place, first)).map(Said::Opened),
        Step::Poll | Step::Talk(_) if !place.github => gitlab(&body),
        Step::Poll => github(&body),
        Step::Talk(seen) => talk(&body, seen.clone()).map(Said::Open),
        Step::Merge(_) => match word(&body, "/state") {
            // GitLab may have queued it, or the answer is of another time: the next look will tell.
            "opened" | "locked" => Some(Said::Moved),
            _ => Some(Said::Merged(commit(&body))),
        },
    };
    said.ok_or_else(|| {
        let why = word(&body, "/errors/0/message");
        if why.contains("rate limit") {
            return trouble(Kind::Transient, format!("{} asks to wait: {}", name(place), excerpt(why)), None);
        }
        if word(&body, "/errors/0/type") == "FORBIDDEN" {
            return answered_badly(place, 403, why, None);
        }
        let what = if why.is_empty() { "what it was asked for is not in its answer" } else { why };
        trouble(Kind::Malformed, format!("{} cannot be understood: {}", name(place), excerpt(what)), None)
    })
}

fn github(body: &Json) -> Option<Said> {
    let head = word(body, "/head/sha");
    Some(match word(body, "/state") {
        "closed" if body.get("merged").and_then(Json::as_bool)? => Said::Merged(commit(body)),
        "closed" => Said::Closed,
        "open" if !head.is_empty() => {
            let state = word(body, "/mergeable_state");
            let draft = body.get("draft").and_then(Json::as_bool).unwrap_or(false);
            Said::Open(Seen {
                head: head.to_owned(),
                // `mergeable` is null while GitHub finds out.
                conflict: state == "dirty",
                ready: !draft && matches!(state, "clean" | "has_hooks" | "unstable"),
                ..Seen::default()
            })
        }
        _ => return None,
    })
}

fn talk(body: &Json, mut seen: Seen) -> Option<Seen> {
    let request = body.pointer("/data/repository/pullRequest").filter(|r| r.is_object())?;
    let threads = request.pointer("/reviewThreads/nodes").and_then(Json::as_array)?;
    seen.unresolved = threads.iter().any(|t| t.get("isResolved").and_then(Json::as_bool) == Some(false));
    match word(request, "/commits/nodes/0/commit/statusCheckRollup/state") {
        "FAILURE" | "ERROR" => seen.failing = true,
        "PENDING" | "EXPECTED" => seen.ready = false,
        _ => {}
    }
    Some(seen)
}

fn gitlab(body: &Json) -> Option<Said> {
    let head = word(body, "/sha");
    Some(match word(body, "/state") {
        "merged" => Said::Merged(commit(body)),
        "closed" => Said::Closed,
        "opened" | "locked" if !head.is_empty() => {
            let flag = |key: &str| body.get(key).and_then(Json::as_bool);
            let status = word(body, "/detailed_merge_status");
            let pipeline = word(body, "/head_pipeline/status");
            Said::Open(Seen {
                head: head.to_owned(),
                conflict: flag("has_conflicts").unwrap_or(false),
                failing: pipeline == "failed",
                unresolved: flag("blocking_discussions_resolved") == Some(false),
                ready: status == "mergeable" && matches!(pipeline, "" | "success" | "skipped" | "manual"),
            })
        }
        _ => return None,
    })
}

/// The commit by which it is in, as either forge calls it.
fn commit(body: &Json) -> Option<String> {
    let keys = ["/merge_commit_sha", "/squash_commit_sha", "/sha"];
    keys.iter().map(|key| word(body, key)).find(|sha| !sha.is_empty()).map(|sha| text::cut(sha, 64).to_owned())
}

/// The url of a pull request in an answer: https, or it could not be recognised again.
fn url_of(place: &Place, body: &Json) -> Option<String> {
    let url = word(body, if place.github { "/html_url" } else { "/web_url" });
    url.starts_with("https://").then(|| url.to_owned())
}

fn word<'a>(body: &'a Json, pointer: &str) -> &'a str {
    body.pointer(pointer).and_then(Json::as_str).unwrap_or_default()
}

const fn name(place: &Place) -> &'static str {
    if place.github { "GitHub" } else { "GitLab" }
}

fn excerpt(said: &str) -> String {
    text::cut(&text::redact(said.trim()), REASON_BYTES / 2).to_owned()
}

fn trouble(kind: Kind, words: String, wait: Option<Millis>) -> Trouble {
    Trouble { kind, words, wait }
}

/// The JSON of a 2xx, or what is wrong and what to do about it.
fn answered(place: &Place, answer: &Answer) -> Result<Json, Trouble> {
    let who = name(place);
    let (status, body, wait) = match answer {
        Answer::Http { status, body, retry_after } => (*status, body, *retry_after),
        Answer::Unreachable { detail } => {
            let words = format!("{who} could not be reached: {}", excerpt(detail));
            return Err(trouble(Kind::Transient, words, None));
        }
        Answer::TimedOut { after } => {
            let words = format!("{who} did not answer within {}", in_words(*after));
            return Err(trouble(Kind::Transient, words, None));
        }
    };
    let json = crate::town::json::read(body);
    if (200..300).contains(&status) {
        let words = || format!("{who} answered {status} with something that is no JSON: {}", excerpt(body));
        return json.ok_or_else(|| trouble(Kind::Malformed, words(), None));
    }
    let message = json.as_ref().map(|j| j.pointer("/message").cloned().unwrap_or_default().to_string());
    Err(answered_badly(place, status, message.as_deref().filter(|m| *m != "null").unwrap_or(body), wait))
}

/// What an error's status means, and what to do about it.
fn answered_badly(place: &Place, status: u16, message: &str, wait: Option<Millis>) -> Trouble {
    let (who, said) = (name(place), excerpt(message));
    // GitHub says 403 also to those who ask too often.
    let busy = status == 403 && (wait.is_some() || said.to_ascii_lowercase().contains("rate limit"));
    let setting = if place.github { "git_auth.github_token" } else { "git_auth.gitlab_token" };
    let (kind, advice) = match status {
        _ if busy => (Kind::Transient, String::new()),
        408 | 425 | 429 | 500.. => (Kind::Transient, String::new()),
        401 => (Kind::Denied, format!("; the token has expired or is wrong: set {setting} anew")),
        403 if place.github => {
            (Kind::Denied, format!("; {setting} needs the scope repo, or write access to contents and pull requests"))
        }
        403 => (Kind::Denied, format!("; {setting} needs the scope api and the role Maintainer")),
        404 => {
            let repo = &place.repo;
            (
                Kind::Denied,
                format!("; {repo} or the pull request is not there, or {setting} may not see it: check both"),
            )
        }
        300..=399 => (Kind::Denied, format!("; {} has moved: give the rig its new git_url", place.repo)),
        _ => (Kind::Rejected, String::new()),
    };
    trouble(kind, format!("{who} answered {status}: {said}{advice}"), wait)
}

#[cfg(test)]
#[path = "forge_tests.rs"]
mod tests;
