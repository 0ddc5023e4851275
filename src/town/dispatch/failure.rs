//! The failure classes: one table that says of every way a dispatch can fail what it is called, what it costs and which
//! breaker it counts for, and the functions that read an answer or a report into it. First match wins.
//!
//! Guarantees: every verdict has a code of the table, and a reason that is never empty, holds no credentials and at most
//! [`REASON_BYTES`] of what the other side said. No body, however odd, is an error here.

use crate::town::effect::Answer;
use crate::town::json;
use crate::town::policy::{ANSWER_BYTES, REASON_BYTES};
use crate::town::text;
use crate::town::time::{Millis, in_words};
use serde_json::Value as Json;

/// Whose fault a failure is, and so what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The container or the way to it.
    Infra,
    /// Somebody asks us to slow down.
    Throttle,
    /// The town's settings, key or credit.
    Config,
    /// The rig's repository.
    Rig,
    /// The bead itself.
    Bead,
    /// The agent that worked on it.
    Agent,
    /// Not known: charged, so that it cannot go on for ever.
    Unknown,
    /// Nobody's: the container went away in good order.
    Interrupted,
    /// Nobody's: a person, the mayor or triage stopped it.
    Cancelled,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::Infra,
        Self::Throttle,
        Self::Config,
        Self::Rig,
        Self::Bead,
        Self::Agent,
        Self::Unknown,
        Self::Interrupted,
        Self::Cancelled,
    ];

    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Infra => "infra",
            Self::Throttle => "throttle",
            Self::Config => "config",
            Self::Rig => "rig",
            Self::Bead => "bead",
            Self::Agent => "agent",
            Self::Unknown => "unknown",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Class::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// Which breaker counts a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The town's.
    Town,
    /// The town's, but once per container instance: a death takes all its agents with it.
    TownOncePerInstance,
    /// That of the attempt's rig.
    Rig,
    /// None.
    Nothing,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The code, as in `attempts.code`, on the wire and in notifications.
    pub code: Code,
    /// Its class.
    pub class: Class,
    /// It counts against the bead's cap.
    pub charged: bool,
    /// Which breaker counts it.
    pub counts: Counts,
    /// One is enough to open that breaker: no retry can help.
    pub opens_at_once: bool,
    /// It raises a configuration notice: somebody must change something.
    pub notice: bool,
    /// The code in words; every reason begins with them.
    pub words: &'static str,
    /// What an operator does about it.
    pub advice: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $text:literal {
        $class:ident, charged: $charged:literal, counts: $counts:ident, at_once: $at_once:literal, notice: $notice:literal,
        words: $words:literal, advice: $advice:literal $(,)?
    })*) => {
        /// Every way a dispatch can fail, in the order of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $code,)*
        }

        impl Code {
            /// As stored and as on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $text,)*
                }
            }
        }

        /// What the table says about a code.
        #[must_use]
        pub const fn rule(code: Code) -> &'static Rule {
            match code {
                $(Code::$code => &Rule {
                    code: Code::$code,
                    class: Class::$class,
                    charged: $charged,
                    counts: Counts::$counts,
                    opens_at_once: $at_once,
                    notice: $notice,
                    words: $words,
                    advice: $advice,
                },)*
            }
        }

        /// The table itself, in its order.
        pub const TABLE: &[&Rule] = &[$(rule(Code::$code)),*];
    };
}

codes! {
    /// Any end of an attempt whose container instance drained.
    AgentEvicted = "agent.evicted" {
        Interrupted, charged: false, counts: Nothing, at_once: false, notice: false,
        words: "the container went away in good order and the agent with it",
        advice: "Nothing: the bead is queued again at once and goes on from its saved branch.",
    }
    /// Heartbeat overdue and the container does not answer, or answers as another instance.
    ContainerLost = "container.lost" {
        Infra, charged: false, counts: TownOncePerInstance, at_once: false, notice: false,
        words: "the container died while the agent was working",
        advice: "Look at the container's log around that time: out of memory, a crash, a deployment without drain. Beads are retried by themselves.",
    }
    /// No answer: refused, lost, DNS.
    ContainerUnreachable = "container.unreachable" {
        Infra, charged: false, counts: Town, at_once: false, notice: false,
        words: "the container could not be reached",
        advice: "Check that the container runs and that CONTAINER_URL or the container binding points to it. Beads are retried by themselves.",
    }
    /// No answer within the start's time limit.
    ContainerTimeout = "container.timeout" {
        Infra, charged: false, counts: Town, at_once: false, notice: false,
        words: "the container did not answer in time",
        advice: "The container is overloaded or hangs: look at its load and log; raise dispatch.start_timeout_ms if its starts are just slow.",
    }
    /// A 503 that says draining.
    ContainerDraining = "container.draining" {
        Throttle, charged: false, counts: Nothing, at_once: false, notice: false,
        words: "the container is going away and starts nothing more",
        advice: "Nothing: dispatch goes on with the next container instance.",
    }
    /// 429, or 503 with `Retry-After`.
    ContainerThrottled = "container.throttled" {
        Throttle, charged: false, counts: Nothing, at_once: false, notice: false,
        words: "the container asked to slow down",
        advice: "Nothing, if it passes; else lower dispatch.max_agents or give the container more room.",
    }
    /// A start refused by the model with 429 or 529.
    ModelThrottled = "model.throttled" {
        Throttle, charged: false, counts: Nothing, at_once: false, notice: false,
        words: "the model's provider is limiting the rate or is overloaded",
        advice: "Nothing, if it passes; else raise the provider's limit, lower dispatch.max_agents, or choose another model.",
    }
    /// A start refused by the model with 401, 402 or 403.
    ModelRejected = "model.rejected" {
        Config, charged: false, counts: Town, at_once: true, notice: true,
        words: "the model's provider refused the key or the account has no credit",
        advice: "Renew the key or the credit. The breaker is open until a probe succeeds; POST /breakers/town/probe asks for one now.",
    }
    /// The container's repository step failed: clone, fetch, authentication.
    RepoUnavailable = "repo.unavailable" {
        Rig, charged: false, counts: Rig, at_once: false, notice: false,
        words: "the rig's repository could not be prepared",
        advice: "Check the rig's git_url, its default branch, and the git token in the town's git_auth.",
    }
    /// 400, 413 or 422 with the control server's JSON.
    ContainerRejected = "container.rejected" {
        Bead, charged: true, counts: Town, at_once: false, notice: false,
        words: "the container refused this start as invalid",
        advice: "Read what it says about the request: the bead's title, body or metadata is the usual cause. Change the bead, then redrive it.",
    }
    /// Any other 4xx.
    ContainerMisconfigured = "container.misconfigured" {
        Config, charged: false, counts: Town, at_once: false, notice: true,
        words: "what answered does not behave like the container's control server",
        advice: "Check CONTAINER_URL, proxies in between, and that worker and container are of matching versions.",
    }
    /// 502, 504, or 500 and 503 in the platform's own words.
    ContainerUnavailable = "container.unavailable" {
        Infra, charged: false, counts: Town, at_once: false, notice: false,
        words: "the platform had no container instance that answers",
        advice: "Look at the platform's instance limit and at the container's start-up log. Beads are retried by themselves.",
    }
    /// Any other answer.
    ContainerError = "container.error" {
        Unknown, charged: true, counts: Town, at_once: false, notice: false,
        words: "the container answered with an error",
        advice: "Read what it says and the container's log; a defect of the container is the usual cause.",
    }
    /// Heartbeat overdue and the same instance says that the agent is gone.
    AgentLost = "agent.lost" {
        Agent, charged: true, counts: Town, at_once: false, notice: false,
        words: "the agent vanished from a container that is well",
        advice: "Look at the agent's transcript and at the container's log: killed for memory is the usual cause.",
    }
    /// Ended badly, or reported as failed.
    AgentExited = "agent.exited" {
        Agent, charged: true, counts: Town, at_once: false, notice: false,
        words: "the agent ended badly",
        advice: "Read the reason and the agent's transcript; a bead that always ends so needs another description.",
    }
    /// Ended cleanly without done, or was stopped for inactivity.
    AgentNoProgress = "agent.no_progress" {
        Agent, charged: true, counts: Town, at_once: false, notice: false,
        words: "the agent ended without finishing its work",
        advice: "Read the agent's transcript: an unclear bead, or nothing to change. Describe the bead better, or close it.",
    }
    /// The safety net found it.
    DispatchOrphaned = "dispatch.orphaned" {
        Unknown, charged: true, counts: Nothing, at_once: false, notice: false,
        words: "the bead was in progress and nobody was working on it",
        advice: "A defect of this program, put right by its safety net: please report it with the town's event list.",
    }
    /// A person, the mayor or triage stopped it.
    DispatchCancelled = "dispatch.cancelled" {
        Cancelled, charged: true, counts: Nothing, at_once: false, notice: false,
        words: "the dispatch was stopped by hand",
        advice: "Nothing: somebody wanted it so; the audit says who.",
    }
}

impl Code {
    /// Reads what [`Code::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        TABLE.iter().map(|rule| rule.code).find(|code| code.as_str() == text)
    }
    /// What the table says about it.
    #[must_use]
    pub const fn rule(self) -> &'static Rule {
        rule(self)
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The row of the table.
    pub code: Code,
    /// For people; never empty.
    pub reason: String,
    /// The status of the answer, or the model's.
    pub status_code: Option<u16>,
    /// How long the other side asked us to wait.
    pub retry_after: Option<Millis>,
}

impl Failure {
    /// A failure whose reason is the code in words, the status, and what the other side said.
    #[must_use]
    pub fn new(code: Code, status_code: Option<u16>, said: &str) -> Self {
        Self { code, reason: reason(code, status_code, said), status_code, retry_after: None }
    }
    /// What failures with this cause have in common.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // A reason that was cut begins or ends anywhere, so only the part that was certainly whole is compared.
        let text = text::normalise(&self.reason);
        let part = if says_why_at_the_end(self.code) {
            text::cut_tail(&text, REASON_BYTES / 3)
        } else {
            text::cut(&text, REASON_BYTES / 3)
        };
        text::fingerprint(self.code.as_str(), part)
    }
    /// The table's row.
    #[must_use]
    pub const fn rule(&self) -> &'static Rule {
        self.code.rule()
    }
}

/// Output of a process and of git explains itself at its end, an answer at its beginning.
const fn says_why_at_the_end(code: Code) -> bool {
    matches!(code.rule().class, Class::Agent | Class::Rig)
}

/// The code in words, the status, and up to [`REASON_BYTES`] of what the other side said, without credentials.
#[must_use]
pub fn reason(code: Code, status: Option<u16>, said: &str) -> String {
    let words = code.rule().words;
    let mut out = status.map_or_else(|| words.to_owned(), |status| format!("{words} (status {status})"));
    // Redacted before it is cut, or half a token could survive at the edge.
    let said = text::redact(said.trim());
    let said = said.replace(|c: char| c.is_control() && c != '\n', " ");
    let cut =
        if says_why_at_the_end(code) { text::cut_tail(&said, REASON_BYTES) } else { text::cut(&said, REASON_BYTES) };
    let cut = cut.trim();
    if !cut.is_empty() {
        out.push_str(": ");
        out.push_str(cut);
    }
    out
}

// ── the answer to a start ────────────────────────────────────────────────────────────────────────────────────────

/// How a start was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartVerdict {
    /// The agent runs, or is starting.
    Accepted,
    /// It does not; without an answer it may, and the caller looks before it believes this.
    Failed(Failure),
}

/// Reads the answer to `POST /agents/start`.
#[must_use]
pub fn classify_start(answer: &Answer) -> StartVerdict {
    match answer {
        Answer::Unreachable { detail } => StartVerdict::Failed(Failure::new(Code::ContainerUnreachable, None, detail)),
        Answer::TimedOut { after } => {
            let said = format!("no answer in {}", in_words(*after));
            StartVerdict::Failed(Failure::new(Code::ContainerTimeout, None, &said))
        }
        Answer::Http { status: 200..=299, .. } => StartVerdict::Accepted,
        Answer::Http { status: 500, body, .. } if contains(body, "already running") => StartVerdict::Accepted,
        Answer::Http { status, body, retry_after } => {
            let said = Said::read(body);
            let (code, shown) = start_code(*status, retry_after.is_some(), body, &said);
            let failure = Failure::new(code, Some(shown), &said.text);
            StartVerdict::Failed(Failure { retry_after: *retry_after, ..failure })
        }
    }
}

/// The row for an HTTP answer, and the status to show: the model's if the model refused.
fn start_code(status: u16, retry_after: bool, body: &str, said: &Said) -> (Code, u16) {
    let phase = said.phase.as_deref();
    if status == 503 && contains(body, "draining") {
        return (Code::ContainerDraining, status);
    }
    if status == 429 || status == 503 && retry_after {
        return (Code::ContainerThrottled, status);
    }
    if phase == Some("initial_prompt") {
        let refused = said.status.unwrap_or(status);
        if let Some(code) = model_refusal(refused) {
            return (code, refused);
        }
    }
    let spoken = said.control || status == 500; // not a proxy's error page
    if phase == Some("repository") || phase.is_none() && spoken && has_gits_fatal(&said.text) {
        return (Code::RepoUnavailable, status);
    }
    let code = match status {
        400 | 413 | 422 if said.control => Code::ContainerRejected,
        400..=499 => Code::ContainerMisconfigured,
        502 | 504 => Code::ContainerUnavailable,
        500 | 503 if !said.control && is_platforms_text(body) => Code::ContainerUnavailable,
        _ => Code::ContainerError,
    };
    (code, status)
}

/// What a status of the model's provider means, if it refused.
const fn model_refusal(status: u16) -> Option<Code> {
    match status {
        429 | 529 => Some(Code::ModelThrottled),
        401..=403 => Some(Code::ModelRejected),
        _ => None,
    }
}

/// The platform's own words for a container that is not there. A control server would have answered in JSON.
const PLATFORMS_WORDS: [&str; 16] = [
    "no container instance",
    "no instance",
    "not listening",
    "failed to start",
    "not running",
    "crashed",
    "exited",
    "suddenly disconnected",
    "connection lost",
    "connection refused",
    "container is starting",
    "error proxying request to container",
    "max concurrent instance count",
    "provisioning the container",
    "unable to connect to the container",
    "container port not found",
];

fn is_platforms_text(body: &str) -> bool {
    PLATFORMS_WORDS.iter().any(|words| contains(body, words))
}

/// Case-insensitive `contains`; `words` are small letters.
fn contains(body: &str, words: &str) -> bool {
    body.as_bytes().windows(words.len()).any(|w| w.eq_ignore_ascii_case(words.as_bytes()))
}

/// Git's own `fatal:`, as opposed to somebody's `non-fatal:`.
fn has_gits_fatal(text: &str) -> bool {
    text.match_indices("fatal:").any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let glued = before.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        !glued || before.ends_with("\\n") || before.ends_with("\\r") || before.ends_with("\\t")
    })
}

/// What a body says, as far as it can be read.
#[derive(Debug, Default)]
struct Said {
    /// It is the control server's `{"error": "…"}`.
    control: bool,
    /// The step that failed.
    phase: Option<String>,
    /// The status of the model's provider.
    status: Option<u16>,
    /// For people: the error, else the whole body.
    text: String,
}

impl Said {
    fn read(body: &str) -> Self {
        let Some(Json::Object(said)) = json::read(body) else {
            return Self::read_cut_off(body).unwrap_or_else(|| Self { text: body.to_owned(), ..Self::default() });
        };
        let field = |key: &str| said.get(key).and_then(Json::as_str);
        let mut text = match field("error") {
            Some(error) => error.to_owned(),
            None => body.to_owned(),
        };
        if field("error").is_some() {
            if let Some(kind) = field("error_type") {
                text = format!("{kind}: {text}");
            }
            if let Some(issues) = said.get("issues") {
                text = format!("{text}: {issues}");
            }
        }
        let status = match said.get("status") {
            Some(Json::Number(n)) => n.as_u64().and_then(|n| u16::try_from(n).ok()),
            Some(Json::String(s)) => s.trim().parse().ok(),
            _ => None,
        };
        Self { control: field("error").is_some(), phase: field("phase").map(str::to_owned), status, text }
    }

    /// A control server's error of which only the first [`ANSWER_BYTES`] were read is still one.
    fn read_cut_off(body: &str) -> Option<Self> {
        let error = body.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"error\"")?.trim_start();
        let error = error.strip_prefix(':')?.trim_start();
        let long = body.len() + 4 > ANSWER_BYTES; // a cut on a character boundary may lose three bytes
        let text = match serde_json::Deserializer::from_str(error).into_iter::<String>().next() {
            Some(Ok(text)) => text,
            _ => error.strip_prefix('"')?.to_owned(),
        };
        long.then(|| Self { control: true, text, ..Self::default() })
    }
}

// ── the end of a process ─────────────────────────────────────────────────────────────────────────────────────────

/// Reads the report of a process that ended (`POST …/completed`), or a status answer that says so.
///
/// `status` is `completed` or `failed`, `phase` where it ended, `model_status` what the model's provider last answered,
/// `drained` whether its container instance has drained.
#[must_use]
pub fn classify_completed(
    status: &str,
    said: Option<&str>,
    phase: Option<&str>,
    model_status: Option<u16>,
    drained: bool,
) -> Failure {
    let said = said.unwrap_or_default();
    let refused = model_status.and_then(model_refusal);
    let code = if drained {
        Code::AgentEvicted
    } else if status == "completed" {
        Code::AgentNoProgress
    } else if phase == Some("repository") {
        Code::RepoUnavailable
    } else if let Some(code) = refused {
        code
    } else if phase.is_none() && has_gits_fatal(said) {
        Code::RepoUnavailable
    } else {
        Code::AgentExited
    };
    Failure::new(code, model_status, said)
}

// ── the answer to a look ─────────────────────────────────────────────────────────────────────────────────────────

/// What `GET /agents/:id/status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusVerdict {
    /// It works.
    Running,
    /// It is about to.
    Starting,
    /// It ended by itself; with its reason, if it told one.
    Exited(Option<String>),
    /// It ended badly; with its reason, if it told one.
    Failed(Option<String>),
    /// The container does not know it.
    Gone,
    /// No answer, or only the platform's word that there is no container.
    NoAnswer,
    /// Anything else, `stopping` included: ask again later.
    Unclear,
}

/// Reads the answer to `GET /agents/:id/status`.
#[must_use]
pub fn classify_status(answer: &Answer) -> StatusVerdict {
    match answer {
        Answer::Unreachable { .. } | Answer::TimedOut { .. } | Answer::Http { status: 502 | 504, .. } => {
            StatusVerdict::NoAnswer
        }
        Answer::Http { status: 404, .. } => StatusVerdict::Gone,
        Answer::Http { status: 500 | 503, body, .. } if !Said::read(body).control && is_platforms_text(body) => {
            StatusVerdict::NoAnswer
        }
        Answer::Http { status: 200..=299, body, .. } => {
            let Some(said) = json::read(body) else { return StatusVerdict::Unclear };
            let field = |key: &str| said.get(key).and_then(Json::as_str);
            let why = || field("exitReason").filter(|why| !why.trim().is_empty()).map(str::to_owned);
            match field("status") {
                Some("running") => StatusVerdict::Running,
                Some("starting") => StatusVerdict::Starting,
                Some("exited") => StatusVerdict::Exited(why()),
                Some("failed") => StatusVerdict::Failed(why()),
                _ => StatusVerdict::Unclear,
            }
        }
        Answer::Http { .. } => StatusVerdict::Unclear,
    }
}

/// The dispatch that a status answer speaks of, if it tells one (our runner does).
#[must_use]
pub fn status_dispatch_id(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Http { status: 200..=299, body, .. } => {
            let said = json::read(body)?;
            said.get("dispatchId")?.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
        }
        Answer::Http { .. } | Answer::Unreachable { .. } | Answer::TimedOut { .. } => None,
    }
}

#[cfg(test)]
mod tests;
