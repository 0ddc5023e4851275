//! A forge, simulated: GitHub's and GitLab's REST as far as a town speaks it, over one set of pull requests.
//!
//! *Guarantees.* Pure in simulated time. A pull request of one branch is opened once: who opens it again is told so. What
//! was merged stands in [`Forge::merges`], whatever the caller was told.

use crate::fault::{Fault, SimAnswer, through};
use gastown::town::time::{Millis, Timestamp};
use serde_json::{Value as Json, json};

/// One pull request.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// From 1 on.
    pub number: u32,
    /// `owner/name`.
    pub repo: String,
    /// What wants in.
    pub branch: String,
    /// Where to.
    pub target: String,
    /// `open`, `closed`, `merged`.
    pub state: &'static str,
    /// It does not merge.
    pub conflict: bool,
    /// `success`, `failed`, `pending`.
    pub checks: &'static str,
    /// A review comment is unresolved.
    pub unresolved: bool,
    /// Rises with each push.
    pub commits: u32,
}

/// Decides per call (time, method, path) what goes wrong, if anything.
pub type ForgeScript = Box<dyn FnMut(Timestamp, &str, &str) -> Option<Fault>>;

/// The forge.
#[derive(Default)]
pub struct Forge {
    /// Its pull requests.
    pub requests: Vec<PullRequest>,
    /// What goes wrong with every call, if anything.
    pub fault: Option<Fault>,
    /// The ways of merging that it refuses.
    pub forbidden: Vec<&'static str>,
    /// Nobody may merge by its API.
    pub protected: bool,
    /// People merge everything before the town asks how it stands.
    pub obliging: bool,
    /// The calls that arrived: when, method, path.
    pub calls: Vec<(Timestamp, String, String)>,
    /// The pull requests that a call merged, and how.
    pub merges: Vec<(u32, String)>,
    script: Option<ForgeScript>,
}

impl Forge {
    /// How long an answer takes.
    const LATENCY: Millis = 50;

    /// Asks `script` about every call from now on.
    pub fn script(&mut self, script: impl FnMut(Timestamp, &str, &str) -> Option<Fault> + 'static) {
        self.script = Some(Box::new(script));
    }
    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        (self.fault, self.script, self.protected) = (None, None, false);
    }
    /// Somebody opens one; its number.
    ///
    /// # Panics
    /// If there are four billion of them.
    pub fn open(&mut self, repo: &str, branch: &str, target: &str) -> u32 {
        let number = u32::try_from(self.requests.len()).expect("few") + 1;
        let (repo, branch, target) = (repo.to_owned(), branch.to_owned(), target.to_owned());
        let (conflict, checks, unresolved) = (false, "success", false);
        let state = "open";
        self.requests.push(PullRequest {
            number,
            repo,
            branch,
            target,
            state,
            conflict,
            checks,
            unresolved,
            commits: 1,
        });
        number
    }
    /// The pull request with this number.
    ///
    /// # Panics
    /// If there is none.
    pub fn request(&mut self, number: u32) -> &mut PullRequest {
        self.requests.iter_mut().find(|r| r.number == number).expect("no such pull request")
    }

    pub(crate) fn call(&mut self, now: Timestamp, github: bool, method: &str, path: &str, body: &str) -> SimAnswer {
        let scripted = self.script.as_mut().and_then(|script| script(now, method, path));
        let fault = scripted.or_else(|| self.fault.clone());
        self.calls.push((now, method.to_owned(), path.to_owned()));
        through(fault, Self::LATENCY, || {
            let body: Json = serde_json::from_str(body).unwrap_or_default();
            let (status, answer) = self.answer(github, method, path, &body);
            SimAnswer::http(Self::LATENCY, status, answer.to_string())
        })
    }

    fn answer(&mut self, github: bool, method: &str, path: &str, body: &Json) -> (u16, Json) {
        let none = || (404, json!({"message": "Not Found"}));
        if path == "/graphql" {
            let number = body["variables"]["n"].as_u64().and_then(|n| u32::try_from(n).ok());
            return self.requests.iter().find(|r| Some(r.number) == number).map_or_else(none, |r| (200, talk(r)));
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        // /repos/o/r/pulls[/n[/merge]] or /projects/o%2Fr/merge_requests[/n[/merge]]
        let (repo, rest) = match parts.as_slice() {
            ["repos", owner, name, "pulls", rest @ ..] if github => (format!("{owner}/{name}"), rest),
            ["projects", project, "merge_requests", rest @ ..] if !github => (decode(project), rest),
            _ => return none(),
        };
        let number = rest.first().and_then(|n| n.parse::<u32>().ok());
        match (method, number, rest.get(1)) {
            ("POST", None, None) => {
                let (branch, target) = if github { ("head", "base") } else { ("source_branch", "target_branch") };
                let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
                let (branch, target) = (text(branch), text(target));
                if self.open_of(&repo, &branch, &target).is_some() {
                    let words = "A pull request already exists";
                    return if github {
                        (422, json!({"message": "Validation Failed", "errors": [{"message": words}]}))
                    } else {
                        (409, json!({"message": [words]}))
                    };
                }
                let number = self.open(&repo, &branch, &target);
                let made = self.request(number).clone();
                (201, shown(github, &made))
            }
            ("GET", None, None) => {
                let value = |key: &str| {
                    let pair = query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
                    decode(pair.unwrap_or_default())
                };
                let (branch, target) = if github {
                    let head = value("head");
                    (head.split_once(':').map_or(String::new(), |(_, b)| b.to_owned()), value("base"))
                } else {
                    (value("source_branch"), value("target_branch"))
                };
                let found = self.open_of(&repo, &branch, &target).map(|r| shown(github, r));
                (200, json!(found.into_iter().collect::<Vec<_>>()))
            }
            ("GET", Some(number), None) => {
                if self.obliging && self.requests.iter().any(|r| r.number == number && r.state == "open") {
                    self.request(number).state = "merged";
                }
                let found = self.requests.iter().find(|r| r.number == number && r.repo == repo);
                found.map_or_else(none, |r| (200, shown(github, r)))
            }
            ("PUT", Some(number), Some(&"merge")) => {
                let way = body["merge_method"].as_str().unwrap_or("merge").to_owned();
                let refused = self.protected || self.forbidden.contains(&way.as_str());
                let Some(request) = self.requests.iter_mut().find(|r| r.number == number && r.repo == repo) else {
                    return none();
                };
                if refused {
                    return (405, json!({"message": format!("{way} is not allowed on this repository")}));
                }
                if body["sha"] != head(request) || request.state != "open" {
                    return (409, json!({"message": "Head branch was modified"}));
                }
                request.state = "merged";
                self.merges.push((number, way));
                let sha = format!("merged{number}");
                (200, json!({"sha": sha, "merged": true, "state": "merged", "merge_commit_sha": sha}))
            }
            _ => none(),
        }
    }

    fn open_of(&self, repo: &str, branch: &str, target: &str) -> Option<&PullRequest> {
        self.requests.iter().find(|r| r.state == "open" && r.repo == repo && r.branch == branch && r.target == target)
    }
}

impl std::fmt::Debug for Forge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forge").field("requests", &self.requests).finish_non_exhaustive()
    }
}

fn head(r: &PullRequest) -> String {
    format!("{:08x}{:08x}", r.number, r.commits)
}

fn talk(r: &PullRequest) -> Json {
    let rollup = match r.checks {
        "failed" => "FAILURE",
        "pending" => "PENDING",
        _ => "SUCCESS",
    };
    json!({"data": {"repository": {"pullRequest": {
        "reviewThreads": {"nodes": [{"isResolved": !r.unresolved}]},
        "commits": {"nodes": [{"commit": {"statusCheckRollup": {"state": rollup}}}]},
    }}}})
}

fn shown(github: bool, r: &PullRequest) -> Json {
    if github {
        let state = if r.state == "open" { "open" } else { "closed" };
        return json!({
            "number": r.number,
            "html_url": format!("https://github.com/{}/pull/{}", r.repo, r.number),
            "state": state, "merged": r.state == "merged", "draft": false,
            "merge_commit_sha": (r.state == "merged").then(|| format!("merged{}", r.number)),
            "mergeable": !r.conflict, "mergeable_state": if r.conflict { "dirty" } else { "clean" },
            "head": {"sha": head(r)},
        });
    }
    json!({
        "iid": r.number,
        "web_url": format!("https://gitlab.com/{}/-/merge_requests/{}", r.repo, r.number),
        "state": if r.state == "open" { "opened" } else { r.state },
        "merge_commit_sha": (r.state == "merged").then(|| format!("merged{}", r.number)),
        "has_conflicts": r.conflict, "blocking_discussions_resolved": !r.unresolved,
        "detailed_merge_status": if r.conflict { "conflict" } else { "mergeable" },
        "head_pipeline": {"status": r.checks}, "sha": head(r),
    })
}

/// `%2F` and its like.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match b {
            b'%' => bytes.push(hex(rest.next()).unwrap_or(0) * 16 + hex(rest.next()).unwrap_or(0)),
            b => bytes.push(b),
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}
