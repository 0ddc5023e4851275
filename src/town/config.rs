//! The settings of a town and of its rigs: one table of what may be set, its range and its default, and the typed view
//! that the engine reads.
//!
//! Guarantees: a setting outside its range is never stored (422 with the field as a dotted path); every key is always
//! there when settings are read; secrets are masked when read, when printed, and kept when their mask is sent back; a
//! stored value that this version would refuse counts as absent, so a town is never stopped by its settings.

use super::error::TownError;
use super::policy;
use super::sql::{Sql, SqlError, first};
use super::text::{is_masked, mask, redact};
use super::time::Millis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::fmt;

// ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a setting may be.
#[derive(Clone, Copy)]
enum Kind {
    /// One line of text; empty clears it.
    Text,
    /// Text of so many characters; empty clears it.
    Prose(usize),
    /// One line of text that is masked on reading; its mask keeps it, empty clears it.
    Secret,
    /// An http(s) URL; empty clears it.
    Url,
    /// True or false.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A whole number in this range.
    Int(i64, i64),
    /// Minutes, or null for never.
    Minutes,
    /// A number from 0 to 1.
    Fraction,
    /// A list of waits in milliseconds.
    Waits,
    /// A list of shell commands.
    Commands,
    /// A map of environment variables; replaced as a whole.
    EnvVars,
    /// Shown, but not a setting.
    ReadOnly,
}

/// The default of a setting; a setting whose default is null may be null.
#[derive(Clone, Copy)]
enum Preset {
    Null,
    Flag(bool),
    Int(i64),
    Fraction(f64),
    Word(&'static str),
    Waits(&'static [Millis]),
    EmptyList,
    EmptyMap,
}

impl Preset {
    fn json(self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Flag(v) => json!(v),
            Self::Int(v) => json!(v),
            Self::Fraction(v) => json!(v),
            Self::Word(v) => json!(v),
            Self::Waits(v) => json!(v),
            Self::EmptyList => json!([]),
            Self::EmptyMap => json!({}),
        }
    }
}

type Field = (&'static str, Kind, Preset);

/// An object among the settings; the one without a name is the document itself.
struct Group {
    name: &'static str,
    /// A patch replaces it as a whole instead of merging per key.
    replaced: bool,
    fields: &'static [Field],
}

const MERGE_MODES: Kind = Kind::OneOf(&["review-then-land", "review-and-merge"]);
const REVIEW_MODES: Kind = Kind::OneOf(&["rework", "comments"]);
const STRATEGIES: Kind = Kind::OneOf(&["direct"]);
const COUNT: Kind = Kind::Int(policy::COUNT_MIN as i64, policy::COUNT_MAX as i64);
const MS: Kind = Kind::Int(policy::MS_MIN, policy::MS_MAX);
const INSTRUCTIONS: Kind = Kind::Prose(policy::INSTRUCTIONS_CHARS);

const fn count(n: u32) -> Preset {
    Preset::Int(n as i64)
}

/// A town's settings (`protocol.md` 2.13, `design.md` 9), with the defaults of a new town.
const TOWN: &[Group] = &[
    Group {
        name: "",
        replaced: false,
        fields: &[
            ("env_vars", Kind::EnvVars, Preset::EmptyMap),
            ("owner_user_id", Kind::ReadOnly, Preset::Null),
            ("owner_type", Kind::ReadOnly, Preset::Word("user")),
            ("owner_id", Kind::ReadOnly, Preset::Null),
            ("created_by_user_id", Kind::ReadOnly, Preset::Null),
            ("organization_id", Kind::ReadOnly, Preset::Null),
            ("default_model", Kind::Text, Preset::Null),
            ("small_model", Kind::Text, Preset::Null),
            ("merge_strategy", STRATEGIES, Preset::Word("direct")),
            ("alarm_interval_active", Kind::Int(5, 600), Preset::Null),
            ("alarm_interval_idle", Kind::Int(30, 3_600), Preset::Null),
            ("staged_convoys_default", Kind::Flag, Preset::Flag(true)),
            ("convoy_merge_mode", MERGE_MODES, Preset::Word("review-then-land")),
            ("github_cli_pat", Kind::Secret, Preset::Null),
            ("git_author_name", Kind::Text, Preset::Null),
            ("git_author_email", Kind::Text, Preset::Null),
            ("disable_ai_coauthor", Kind::Flag, Preset::Flag(false)),
            ("kilocode_token", Kind::Secret, Preset::Null),
        ],
    },
    Group {
        name: "git_auth",
        replaced: false,
        fields: &[
            ("github_token", Kind::Secret, Preset::Null),
            ("gitlab_token", Kind::Secret, Preset::Null),
            ("gitlab_instance_url", Kind::Url, Preset::Null),
            ("platform_integration_id", Kind::Text, Preset::Null),
        ],
    },
    Group {
        name: "role_models",
        replaced: true,
        fields: &[
            ("mayor", Kind::Text, Preset::Null),
            ("refinery", Kind::Text, Preset::Null),
            ("polecat", Kind::Text, Preset::Null),
        ],
    },
    Group {
        name: "refinery",
        replaced: false,
        fields: &[
            ("gates", Kind::Commands, Preset::EmptyList),
            ("auto_merge", Kind::Flag, Preset::Flag(true)),
            ("require_clean_merge", Kind::Flag, Preset::Flag(true)),
            ("code_review", Kind::Flag, Preset::Flag(true)),
            ("review_mode", REVIEW_MODES, Preset::Word("comments")),
            ("auto_resolve_pr_feedback", Kind::Flag, Preset::Flag(true)),
            ("auto_resolve_merge_conflicts", Kind::Flag, Preset::Flag(true)),
            ("auto_merge_delay_minutes", Kind::Minutes, Preset::Int(5)),
        ],
    },
    Group { name: "container", replaced: false, fields: &[("sleep_after_minutes", Kind::Int(5, 120), Preset::Null)] },
    Group {
        name: "custom_instructions",
        replaced: false,
        fields: &[
            ("polecat", INSTRUCTIONS, Preset::Null),
            ("refinery", INSTRUCTIONS, Preset::Null),
            ("mayor", INSTRUCTIONS, Preset::Null),
        ],
    },
    Group {
        name: "dispatch",
        replaced: false,
        fields: &[
            ("max_attempts", COUNT, count(policy::MAX_ATTEMPTS)),
            ("backoff_ms", Kind::Waits, Preset::Waits(&policy::BACKOFF_MS)),
            ("jitter", Kind::Fraction, Preset::Fraction(policy::JITTER)),
            ("start_timeout_ms", MS, Preset::Int(policy::START_TIMEOUT_MS)),
            ("heartbeat_timeout_ms", MS, Preset::Int(policy::HEARTBEAT_TIMEOUT_MS)),
            ("boot_timeout_ms", MS, Preset::Int(policy::BOOT_TIMEOUT_MS)),
            ("max_agents", COUNT, count(policy::MAX_AGENTS)),
            (ALIASED, COUNT, count(policy::MAX_POLECATS_PER_RIG)),
            ("max_starts_in_flight", COUNT, count(policy::MAX_STARTS_IN_FLIGHT)),
            ("max_review_rounds", COUNT, count(policy::MAX_REVIEW_ROUNDS)),
        ],
    },
    Group {
        name: "breaker",
        replaced: false,
        fields: &[
            ("failures", COUNT, count(policy::BREAKER_FAILURES)),
            ("window_ms", MS, Preset::Int(policy::BREAKER_WINDOW_MS)),
            ("consecutive", COUNT, count(policy::BREAKER_CONSECUTIVE)),
            ("rig_consecutive", COUNT, count(policy::BREAKER_RIG_CONSECUTIVE)),
            ("probe_ms", Kind::Waits, Preset::Waits(&policy::PROBE_MS)),
            ("probe_jitter", Kind::Fraction, Preset::Fraction(policy::PROBE_JITTER)),
        ],
    },
    Group {
        name: "notify",
        replaced: false,
        fields: &[
            ("webhook_url", Kind::Url, Preset::Null),
            ("webhook_secret", Kind::Secret, Preset::Null),
            ("still_open_ms", MS, Preset::Int(policy::STILL_OPEN_MS)),
            ("rollup_ms", MS, Preset::Int(policy::ROLLUP_MS)),
        ],
    },
];

/// The key of `dispatch` that also stands at the top of the document (`design.md` 9).
const ALIASED: &str = "max_polecats_per_rig";

/// A rig's overrides (`protocol.md` 2.3); null inherits. `gates` is ours: the rig's own instead of the town's.
const RIG: &[Group] = &[
    Group {
        name: "",
        replaced: false,
        fields: &[
            ("default_model", Kind::Text, Preset::Null),
            ("review_mode", REVIEW_MODES, Preset::Null),
            ("code_review", Kind::Flag, Preset::Null),
            ("auto_resolve_pr_feedback", Kind::Flag, Preset::Null),
            ("auto_resolve_merge_conflicts", Kind::Flag, Preset::Null),
            ("auto_merge_delay_minutes", Kind::Minutes, Preset::Null),
            ("merge_strategy", STRATEGIES, Preset::Null),
            ("convoy_merge_mode", MERGE_MODES, Preset::Null),
            ("git_push_flags", Kind::Text, Preset::Null),
            ("max_concurrent_polecats", COUNT, Preset::Null),
            ("max_dispatch_attempts", COUNT, Preset::Null),
            ("gates", Kind::Commands, Preset::Null),
        ],
    },
    Group {
        name: "role_models",
        replaced: true,
        fields: &[("refinery", Kind::Text, Preset::Null), ("polecat", Kind::Text, Preset::Null)],
    },
    Group {
        name: "custom_instructions",
        replaced: false,
        fields: &[("polecat", INSTRUCTIONS, Preset::Null), ("refinery", INSTRUCTIONS, Preset::Null)],
    },
];

// ── the typed view ───────────────────────────────────────────────────────────────────────────────────────────────

/// How often and how fast to dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DispatchPolicy {
    /// Charged attempts after which a bead fails.
    pub max_attempts: u32,
    /// Waits after the first, second, … failure in a row.
    pub backoff_ms: Vec<Millis>,
    /// The largest part of a wait that is added to it.
    pub jitter: f64,
    /// How long a start may go unanswered.
    pub start_timeout_ms: Millis,
    /// Silence after which an agent is looked at.
    pub heartbeat_timeout_ms: Millis,
    /// How long a health probe waits for the container.
    pub boot_timeout_ms: Millis,
    /// Live polecats per town.
    pub max_agents: u32,
    /// Live polecats per rig.
    pub max_polecats_per_rig: u32,
    /// Starts in flight after the slow start.
    pub max_starts_in_flight: u32,
    /// Reviews that may end otherwise than merged.
    pub max_review_rounds: u32,
}

impl Default for DispatchPolicy {
    fn default() -> Self {
        Self {
            max_attempts: policy::MAX_ATTEMPTS,
            backoff_ms: policy::BACKOFF_MS.to_vec(),
            jitter: policy::JITTER,
            start_timeout_ms: policy::START_TIMEOUT_MS,
            heartbeat_timeout_ms: policy::HEARTBEAT_TIMEOUT_MS,
            boot_timeout_ms: policy::BOOT_TIMEOUT_MS,
            max_agents: policy::MAX_AGENTS,
            max_polecats_per_rig: policy::MAX_POLECATS_PER_RIG,
            max_starts_in_flight: policy::MAX_STARTS_IN_FLIGHT,
            max_review_rounds: policy::MAX_REVIEW_ROUNDS,
        }
    }
}

/// When a breaker opens, and how it probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerPolicy {
    /// More counted failures than this within the window open it.
    pub failures: u32,
    /// The window.
    pub window_ms: Millis,
    /// So many in a row open a town.
    pub consecutive: u32,
    /// So many in a row open a rig.
    pub rig_consecutive: u32,
    /// Waits before the first, second, … probe.
    pub probe_ms: Vec<Millis>,
    /// The largest part of a probe's wait that is added to it.
    pub probe_jitter: f64,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: policy::BREAKER_FAILURES,
            window_ms: policy::BREAKER_WINDOW_MS,
            consecutive: policy::BREAKER_CONSECUTIVE,
            rig_consecutive: policy::BREAKER_RIG_CONSECUTIVE,
            probe_ms: policy::PROBE_MS.to_vec(),
            probe_jitter: policy::PROBE_JITTER,
        }
    }
}

/// Whom to tell, and how often.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NotifyPolicy {
    /// Where to post notifications.
    pub webhook_url: Option<String>,
    /// What they are signed with.
    pub webhook_secret: Option<String>,
    /// A breaker open for so long is announced once more.
    pub still_open_ms: Millis,
    /// At most one notice about failed beads in this time.
    pub rollup_ms: Millis,
}

impl Default for NotifyPolicy {
    fn default() -> Self {
        Self {
            webhook_url: None,
            webhook_secret: None,
            still_open_ms: policy::STILL_OPEN_MS,
            rollup_ms: policy::ROLLUP_MS,
        }
    }
}

impl fmt::Debug for NotifyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyPolicy")
            .field("webhook_url", &self.webhook_url.as_deref().map(redact))
            .field("webhook_secret", &self.webhook_secret.as_deref().map(mask))
            .field("still_open_ms", &self.still_open_ms)
            .field("rollup_ms", &self.rollup_ms)
            .finish()
    }
}

/// How reviews are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "the wire's own flags")]
pub struct RefineryPolicy {
    /// Commands that must exit 0 on the merged tree.
    pub gates: Vec<String>,
    /// Merge without asking.
    pub auto_merge: bool,
    /// Refuse merges that need conflict resolution.
    pub require_clean_merge: bool,
    /// Read the change before merging it.
    pub code_review: bool,
    /// `rework` or `comments`.
    pub review_mode: String,
    /// Answer review comments by itself.
    pub auto_resolve_pr_feedback: bool,
    /// Resolve conflicts by itself.
    pub auto_resolve_merge_conflicts: bool,
    /// How long to wait before merging by itself; null: never.
    pub auto_merge_delay_minutes: Option<u32>,
}

/// Credentials for git hosts.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GitAuth {
    /// For GitHub.
    pub github_token: Option<String>,
    /// For GitLab.
    pub gitlab_token: Option<String>,
    /// A GitLab of one's own.
    pub gitlab_instance_url: Option<String>,
    /// The predecessor's own.
    pub platform_integration_id: Option<String>,
}

impl fmt::Debug for GitAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitAuth")
            .field("github_token", &self.github_token.as_deref().map(mask))
            .field("gitlab_token", &self.gitlab_token.as_deref().map(mask))
            .field("gitlab_instance_url", &self.gitlab_instance_url)
            .field("platform_integration_id", &self.platform_integration_id)
            .finish()
    }
}

/// A text per role: a model, or instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PerRole {
    /// The mayor's; a rig has none.
    pub mayor: Option<String>,
    /// The refineries'.
    pub refinery: Option<String>,
    /// The polecats'.
    pub polecat: Option<String>,
}

impl PerRole {
    /// That of a role by its name on the wire.
    #[must_use]
    pub fn of(&self, role: &str) -> Option<&str> {
        match role {
            "mayor" => self.mayor.as_deref(),
            "refinery" => self.refinery.as_deref(),
            "polecat" => self.polecat.as_deref(),
            _ => None,
        }
    }
}

/// How finished work gets into its target branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MergeStrategy {
    /// The refinery merges and pushes.
    #[default]
    Direct,
    /// Through a pull request. Cannot be set yet.
    Pr,
}

/// A town's settings. The fields are a view of the document: [`Config::patched`] is the only way to change it.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// How often and how fast to dispatch.
    pub dispatch: DispatchPolicy,
    /// When breakers open.
    pub breaker: BreakerPolicy,
    /// Whom to tell.
    pub notify: NotifyPolicy,
    /// Environment variables for agents, as the user set them; see [`Config::user_env`].
    pub env_vars: BTreeMap<String, String>,
    /// How reviews are done.
    pub refinery: RefineryPolicy,
    /// How finished work gets into its target branch.
    pub merge_strategy: MergeStrategy,
    /// `review-then-land` or `review-and-merge`.
    pub convoy_merge_mode: String,
    /// New convoys wait for their start.
    pub staged_convoys_default: bool,
    /// Credentials for git hosts.
    pub git_auth: GitAuth,
    /// What `gh` uses in the container.
    pub github_cli_pat: Option<String>,
    /// Author of commits, if not the agent.
    pub git_author_name: Option<String>,
    /// Its address.
    pub git_author_email: Option<String>,
    /// Leaves the agent out of commit trailers.
    pub disable_ai_coauthor: bool,
    /// The model of roles without one of their own.
    pub default_model: Option<String>,
    /// The small model.
    pub small_model: Option<String>,
    /// Models by role.
    pub role_models: PerRole,
    /// What is added to system prompts.
    pub custom_instructions: PerRole,
    raw: Json,
}

/// Secrets stay out of logs: what is printed is what [`Config::masked`] shows.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Config").field(&self.masked()).finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::defaults()
    }
}

impl Config {
    /// The settings of a new town.
    #[must_use]
    pub fn defaults() -> Self {
        Self::of(presets(TOWN))
    }

    /// Reads a stored document; keys it lacks have their defaults.
    pub fn from_json(text: &str) -> Result<Self, TownError> {
        Ok(Self::of(stored(TOWN, text)?))
    }

    /// A document all of whose keys are there and in range.
    fn of(raw: Json) -> Self {
        Self {
            dispatch: part(&raw, "/dispatch"),
            breaker: part(&raw, "/breaker"),
            notify: part(&raw, "/notify"),
            env_vars: part(&raw, "/env_vars"),
            refinery: part(&raw, "/refinery"),
            merge_strategy: part(&raw, "/merge_strategy"),
            convoy_merge_mode: part(&raw, "/convoy_merge_mode"),
            staged_convoys_default: part(&raw, "/staged_convoys_default"),
            git_auth: part(&raw, "/git_auth"),
            github_cli_pat: part(&raw, "/github_cli_pat"),
            git_author_name: part(&raw, "/git_author_name"),
            git_author_email: part(&raw, "/git_author_email"),
            disable_ai_coauthor: part(&raw, "/disable_ai_coauthor"),
            default_model: part(&raw, "/default_model"),
            small_model: part(&raw, "/small_model"),
            role_models: part(&raw, "/role_models"),
            custom_instructions: part(&raw, "/custom_instructions"),
            raw,
        }
    }

    /// The town's settings; those of a new town if none are stored.
    pub fn load(sql: &dyn Sql) -> Result<Self, TownError> {
        match first(sql, "SELECT json FROM config WHERE id = 1", &[])? {
            Some(row) => Self::from_json(&row.text(0)?),
            None => Ok(Self::defaults()),
        }
    }

    /// Stores them.
    pub fn store(&self, sql: &dyn Sql) -> Result<(), TownError> {
        sql.execute(
            "INSERT INTO config (id, json)
             VALUES (1, ?1)
             ON CONFLICT (id) DO UPDATE SET json = excluded.json",
            &[self.raw.to_string().into()],
        )?;
        Ok(())
    }

    /// These settings for a town of this user: who owns a town is shown among its settings, but is not one.
    #[must_use]
    pub fn owned_by(&self, user_id: &str) -> Self {
        let mut raw = self.raw.clone();
        put(&mut raw, "", "owner_user_id", json!(user_id));
        put(&mut raw, "", "created_by_user_id", json!(user_id));
        Self::of(raw)
    }

    /// These settings with `patch` applied, or the first thing that is wrong with it.
    ///
    /// Absent keys stay, unknown ones are ignored, null resets to the default. `refinery`, `git_auth`, `container`,
    /// `custom_instructions`, `dispatch`, `breaker` and `notify` merge per key, other objects are replaced; a masked
    /// secret stays what it is.
    pub fn patched(&self, patch: &Json) -> Result<Self, TownError> {
        let patch = object(patch)?;
        let mut raw = merged(TOWN, &self.raw, patch)?;
        if let Some(value) = patch.get(ALIASED) {
            let wanted = check(&(ALIASED, COUNT, count(policy::MAX_POLECATS_PER_RIG)), ALIASED, value, &Json::Null)?;
            let now = json!(self.dispatch.max_polecats_per_rig);
            // A document read, changed in one place and sent back whole says both: what differs from now was meant.
            if get(&raw, "dispatch", ALIASED) == &now || patch.get("dispatch").is_none_or(Json::is_null) {
                put(&mut raw, "dispatch", ALIASED, wanted);
            }
        }
        small_enough(&raw)?;
        Ok(Self::of(raw))
    }

    /// As it is shown: every key, secrets masked, the alias of `dispatch.max_polecats_per_rig` beside it.
    #[must_use]
    pub fn masked(&self) -> Json {
        let mut shown = self.raw.clone();
        for group in TOWN {
            for (key, kind, _) in group.fields {
                if let (Kind::Secret, Json::String(secret)) = (kind, get(&self.raw, group.name, key)) {
                    put(&mut shown, group.name, key, json!(mask(secret)));
                }
            }
        }
        let shown_value = |(key, value): (&String, &String)| {
            let value = if sounds_secret(key) { mask(value) } else { value.clone() };
            (key.clone(), Json::String(value))
        };
        put(&mut shown, "", "env_vars", Json::Object(self.env_vars.iter().map(shown_value).collect()));
        put(&mut shown, "", ALIASED, json!(self.dispatch.max_polecats_per_rig));
        shown
    }

    /// The user's environment variables without the names that only the system sets (`protocol.md` 5.1).
    #[must_use]
    pub fn user_env(&self) -> BTreeMap<String, String> {
        let own = |key: &str| !RESERVED_ENV.contains(&key) && !key.starts_with("GASTOWN_");
        self.env_vars.iter().filter(|(key, _)| own(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// A rig's overrides; `None` inherits the town's. The fields are a view of the document, as in [`Config`].
#[derive(Clone, Debug, PartialEq)]
pub struct RigConfig {
    /// Overrides `dispatch.max_attempts`.
    pub max_dispatch_attempts: Option<u32>,
    /// Overrides `dispatch.max_polecats_per_rig`.
    pub max_concurrent_polecats: Option<u32>,
    /// Overrides the town's.
    pub merge_strategy: Option<MergeStrategy>,
    /// Overrides `refinery.code_review`.
    pub code_review: Option<bool>,
    /// Overrides `refinery.gates`.
    pub gates: Option<Vec<String>>,
    /// Overrides the town's, but not its models by role.
    pub default_model: Option<String>,
    /// Overrides the town's, role by role.
    pub role_models: PerRole,
    /// Overrides the town's, role by role.
    pub custom_instructions: PerRole,
    raw: Json,
}

impl Default for RigConfig {
    fn default() -> Self {
        Self::defaults()
    }
}

impl RigConfig {
    /// Those of a new rig: everything is inherited.
    #[must_use]
    pub fn defaults() -> Self {
        Self::of(presets(RIG))
    }

    /// Reads a stored document; keys it lacks are inherited.
    pub fn from_json(text: &str) -> Result<Self, TownError> {
        Ok(Self::of(stored(RIG, text)?))
    }

    fn of(raw: Json) -> Self {
        Self {
            max_dispatch_attempts: part(&raw, "/max_dispatch_attempts"),
            max_concurrent_polecats: part(&raw, "/max_concurrent_polecats"),
            merge_strategy: part(&raw, "/merge_strategy"),
            code_review: part(&raw, "/code_review"),
            gates: part(&raw, "/gates"),
            default_model: part(&raw, "/default_model"),
            role_models: part(&raw, "/role_models"),
            custom_instructions: part(&raw, "/custom_instructions"),
            raw,
        }
    }

    /// The document to store.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.raw.to_string()
    }

    /// As it is shown: every key. There are no secrets in it.
    #[must_use]
    pub fn shown(&self) -> Json {
        self.raw.clone()
    }

    /// These overrides with `patch` applied, by the rules of [`Config::patched`]; null inherits.
    pub fn patched(&self, patch: &Json) -> Result<Self, TownError> {
        let raw = merged(RIG, &self.raw, object(patch)?)?;
        small_enough(&raw)?;
        Ok(Self::of(raw))
    }
}

// ── what rules: the rig's, else the town's ───────────────────────────────────────────────────────────────────────

/// Charged attempts after which a bead of the rig fails.
#[must_use]
pub fn effective_max_attempts(town: &Config, rig: &RigConfig) -> u32 {
    rig.max_dispatch_attempts.unwrap_or(town.dispatch.max_attempts)
}

/// Polecats that may live in the rig at once.
#[must_use]
pub fn effective_max_polecats(town: &Config, rig: &RigConfig) -> u32 {
    rig.max_concurrent_polecats.unwrap_or(town.dispatch.max_polecats_per_rig)
}

/// Commands that must exit 0 on the merged tree.
#[must_use]
pub fn gates(town: &Config, rig: &RigConfig) -> Vec<String> {
    rig.gates.clone().unwrap_or_else(|| town.refinery.gates.clone())
}

/// Whether the refinery reads a change before merging it.
#[must_use]
pub fn code_review(town: &Config, rig: &RigConfig) -> bool {
    rig.code_review.unwrap_or(town.refinery.code_review)
}

/// How the rig's finished work gets into its target branch.
#[must_use]
pub fn merge_strategy(town: &Config, rig: &RigConfig) -> MergeStrategy {
    rig.merge_strategy.unwrap_or(town.merge_strategy)
}

/// The model of a role: rig's for the role, town's for the role, rig's default, town's default, ours. A mayor belongs to
/// no rig.
#[must_use]
pub fn resolve_model(role: &str, town: &Config, rig: &RigConfig) -> String {
    let of_rig = |model| if role == "mayor" { None } else { model };
    of_rig(rig.role_models.of(role))
        .or(town.role_models.of(role))
        .or(of_rig(rig.default_model.as_deref()))
        .or(town.default_model.as_deref())
        .unwrap_or(policy::DEFAULT_MODEL)
        .to_owned()
}

/// The small model.
#[must_use]
pub fn small_model(town: &Config) -> String {
    town.small_model.clone().unwrap_or_else(|| policy::DEFAULT_SMALL_MODEL.to_owned())
}

/// What is added to a role's system prompt.
#[must_use]
pub fn custom_instructions(role: &str, town: &Config, rig: &RigConfig) -> Option<String> {
    let of_rig = if role == "mayor" { None } else { rig.custom_instructions.of(role) };
    of_rig.or(town.custom_instructions.of(role)).map(str::to_owned)
}

/// Names that a town's `env_vars` cannot set in the container (`protocol.md` 5.1), those with `GASTOWN_` apart.
const RESERVED_ENV: [&str; 7] = [
    "KILOCODE_TOKEN",
    "GIT_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GITLAB_INSTANCE_URL",
    "GITHUB_CLI_PAT",
    "GH_TOKEN",
];

/// The variables that an agent gets because of the town's settings (`protocol.md` 5.1).
#[must_use]
pub fn system_env(town: &Config) -> BTreeMap<String, String> {
    let coauthor = town.disable_ai_coauthor.then(|| "1".to_owned());
    [
        ("GIT_TOKEN", &town.git_auth.github_token),
        ("GITLAB_TOKEN", &town.git_auth.gitlab_token),
        ("GITLAB_INSTANCE_URL", &town.git_auth.gitlab_instance_url),
        ("GITHUB_CLI_PAT", &town.github_cli_pat),
        ("GASTOWN_GIT_AUTHOR_NAME", &town.git_author_name),
        ("GASTOWN_GIT_AUTHOR_EMAIL", &town.git_author_email),
        ("GASTOWN_DISABLE_AI_COAUTHOR", &coauthor),
    ]
    .into_iter()
    .filter_map(|(key, value)| value.clone().map(|value| (key.to_owned(), value)))
    .collect()
}

// ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────

/// A part of a checked document. It has the right shape, so the default is for the types.
fn part<T: DeserializeOwned + Default>(raw: &Json, pointer: &str) -> T {
    raw.pointer(pointer).and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

fn get<'a>(document: &'a Json, group: &str, key: &str) -> &'a Json {
    let object = if group.is_empty() { Some(document) } else { document.get(group) };
    object.and_then(|object| object.get(key)).unwrap_or(&Json::Null)
}

fn put(document: &mut Json, group: &str, key: &str, value: Json) {
    let Json::Object(top) = document else { return };
    if group.is_empty() {
        top.insert(key.to_owned(), value);
    } else if let Json::Object(inner) = top.entry(group).or_insert_with(|| json!({})) {
        inner.insert(key.to_owned(), value);
    }
}

/// The document in which everything has its default.
fn presets(table: &[Group]) -> Json {
    let mut out = json!({});
    for group in table {
        for (key, _, preset) in group.fields {
            put(&mut out, group.name, key, preset.json());
        }
    }
    out
}

/// A stored document, completed; what this version would refuse has its default.
fn stored(table: &[Group], text: &str) -> Result<Json, TownError> {
    let broken = || TownError::Storage(SqlError::new("stored settings are not a JSON object"));
    let found: Json = serde_json::from_str(text).map_err(|_| broken())?;
    if !found.is_object() {
        return Err(broken());
    }
    let mut out = presets(table);
    for group in table {
        for field @ (key, kind, _) in group.fields {
            let value = get(&found, group.name, key);
            let there = if group.name.is_empty() { &found } else { found.get(group.name).unwrap_or(&Json::Null) };
            if there.get(key).is_none() {
                continue;
            }
            let value = match kind {
                Kind::ReadOnly => Some(value.clone()).filter(|v| v.is_string() || v.is_null()),
                _ => check(field, key, value, &Json::Null).ok(),
            };
            if let Some(value) = value {
                put(&mut out, group.name, key, value);
            }
        }
    }
    Ok(out)
}

fn object(patch: &Json) -> Result<&Map<String, Json>, TownError> {
    patch.as_object().ok_or_else(|| TownError::Malformed("Invalid request body".to_owned()))
}

/// `current` with `patch` applied.
fn merged(table: &[Group], current: &Json, patch: &Map<String, Json>) -> Result<Json, TownError> {
    let mut out = current.clone();
    for group in table {
        let (changes, replaced) = match patch.get(group.name) {
            _ if group.name.is_empty() => (patch, false),
            None => continue,
            Some(Json::Null) => (&Map::new(), true),
            Some(Json::Object(changes)) => (changes, group.replaced),
            Some(_) => return Err(TownError::invalid(group.name, format!("{} must be an object", group.name))),
        };
        for field @ (key, kind, preset) in group.fields {
            let value = match changes.get(*key) {
                _ if matches!(kind, Kind::ReadOnly) => continue,
                None if replaced => preset.json(),
                None => continue,
                Some(value) => {
                    let dotted =
                        if group.name.is_empty() { (*key).to_owned() } else { format!("{}.{key}", group.name) };
                    check(field, &dotted, value, get(current, group.name, key))?
                }
            };
            put(&mut out, group.name, key, value);
        }
    }
    Ok(out)
}

fn small_enough(raw: &Json) -> Result<(), TownError> {
    if raw.to_string().len() > policy::CONFIG_BYTES {
        let cap = policy::CONFIG_BYTES / 1024;
        return Err(TownError::invalid("config", format!("the settings together must be at most {cap} KB of JSON")));
    }
    Ok(())
}

/// `value` as it shall be stored, or what is wrong with it. `current` is what is stored now.
fn check((_, kind, preset): &Field, path: &str, value: &Json, current: &Json) -> Result<Json, TownError> {
    let wrong = |what: &str| TownError::invalid(path, format!("{path} must be {what}"));
    if value.is_null() {
        let nullable = matches!(kind, Kind::Minutes);
        return Ok(if nullable { Json::Null } else { preset.json() });
    }
    match *kind {
        Kind::ReadOnly => Ok(current.clone()),
        Kind::Text | Kind::Prose(_) | Kind::Secret | Kind::Url => {
            let text = value.as_str().ok_or_else(|| wrong("a text"))?;
            if text.is_empty() {
                return Ok(Json::Null);
            }
            if matches!(kind, Kind::Secret) && is_masked(text) {
                return if current.is_string() { Ok(current.clone()) } else { Err(nothing_under_mask(path)) };
            }
            check_text(*kind, path, text)?;
            Ok(json!(text))
        }
        Kind::Flag => value.as_bool().map(Json::Bool).ok_or_else(|| wrong("true or false")),
        Kind::OneOf(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(json!(word)),
            Some("pr") if words == ["direct"] => Err(TownError::invalid(
                path,
                format!("{path}: `pr` is not available until reviews through pull requests are; use `direct`"),
            )),
            _ => Err(wrong(&format!("one of {}", words.join(", ")))),
        },
        Kind::Int(min, max) => whole_number(path, value, min, max),
        Kind::Minutes => whole_number(path, value, 0, 525_600), // a year: only an end to the number
        Kind::Fraction => match value.as_f64() {
            Some(n) if (0.0..=1.0).contains(&n) => Ok(json!(n)),
            _ => Err(wrong("a number from 0 to 1")),
        },
        Kind::Waits => {
            let (min, max) = (policy::LIST_ENTRIES_MIN, policy::LIST_ENTRIES_MAX);
            let list = value.as_array().filter(|list| (min..=max).contains(&list.len()));
            let list = list.ok_or_else(|| wrong(&format!("a list of {min} to {max} times in milliseconds")))?;
            let entry = |(i, ms)| whole_number(&format!("{path}[{i}]"), ms, policy::MS_MIN, policy::MS_MAX);
            list.iter().enumerate().map(entry).collect()
        }
        Kind::Commands => {
            let list = value.as_array().filter(|list| list.len() <= policy::GATES_MAX);
            let list = list.ok_or_else(|| wrong(&format!("a list of at most {} commands", policy::GATES_MAX)))?;
            let entry = |(i, command): (usize, &Json)| {
                let command = command.as_str().filter(|c| !c.trim().is_empty() && !c.contains('\0'));
                let command = command.filter(|c| c.len() <= policy::GATE_BYTES).map(|c| json!(c));
                let path = format!("{path}[{i}]");
                let message = format!("{path} must be a command of 1 to {} bytes", policy::GATE_BYTES);
                command.ok_or_else(|| TownError::invalid(path, message))
            };
            list.iter().enumerate().map(entry).collect()
        }
        Kind::EnvVars => check_env(path, value.as_object().ok_or_else(|| wrong("an object of texts"))?, current),
    }
}

fn whole_number(path: &str, value: &Json, min: i64, max: i64) -> Result<Json, TownError> {
    match value.as_i64() {
        Some(n) if (min..=max).contains(&n) => Ok(json!(n)),
        _ => Err(TownError::invalid(path, format!("{path} must be a whole number from {min} to {max}"))),
    }
}

fn check_text(kind: Kind, path: &str, text: &str) -> Result<(), TownError> {
    let wrong = |what: String| Err(TownError::invalid(path, format!("{path} must be {what}")));
    match kind {
        Kind::Prose(chars) if text.chars().count() > chars => wrong(format!("at most {chars} characters")),
        Kind::Prose(_) if text.contains('\0') => wrong("without NUL".to_owned()),
        // A token may be longer than a name: a GitLab or app token, a JWT.
        Kind::Url | Kind::Secret if text.len() > policy::URL_BYTES => {
            wrong(format!("at most {} bytes", policy::URL_BYTES))
        }
        Kind::Url if !is_http_url(text) => wrong("a URL that begins with https:// or http://, without user".to_owned()),
        Kind::Text if text.len() > policy::SETTING_BYTES => wrong(format!("at most {} bytes", policy::SETTING_BYTES)),
        Kind::Text | Kind::Secret if text.contains(char::is_control) => wrong("one line".to_owned()),
        _ => Ok(()),
    }
}

/// An absolute http(s) URL with a host. A user part is refused: `fetch` refuses it, and it is a credential in plain view.
fn is_http_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
        let port = port.parse::<u16>().is_ok() || port.ends_with(']'); // of an IPv6 address without a port
        if port { host } else { "" }
    });
    (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"))
        && !host.is_empty()
        && !authority.contains(['@', '\\'])
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The whole new map of environment variables.
fn check_env(path: &str, vars: &Map<String, Json>, current: &Json) -> Result<Json, TownError> {
    let mut out = Map::new();
    for (key, value) in vars {
        let shown = super::text::cut(key, 100);
        let first_is_fine = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_is_fine || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let message = format!("Invalid env var key \"{shown}\": must be alphanumeric with underscores");
            return Err(TownError::Malformed(message));
        }
        if key.starts_with("GASTOWN_") {
            return Err(TownError::Malformed(format!("Env var key \"{shown}\" uses reserved GASTOWN_ prefix")));
        }
        let path = format!("{path}.{key}");
        let Some(text) = value.as_str().filter(|text| !text.contains('\0')) else {
            return Err(TownError::invalid(path.clone(), format!("{path} must be a text without NUL")));
        };
        let kept = if is_masked(text) { current.get(key) } else { None };
        if kept.is_none() && is_masked(text) && sounds_secret(key) {
            return Err(nothing_under_mask(&path));
        }
        out.insert(key.clone(), kept.cloned().unwrap_or_else(|| json!(text)));
    }
    Ok(Json::Object(out))
}

fn nothing_under_mask(path: &str) -> TownError {
    TownError::invalid(
        path,
        format!("{path} is a mask, and nothing is stored that it could stand for: send the secret"),
    )
}

/// Environment variables with such a name are masked when read (`protocol.md` 2.13).
fn sounds_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "secret", "password", "key", "auth"].iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::super::sql::{Row, Undo, Usage, Value};
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// A database that has only the table `config`.
    #[derive(Default)]
    struct ConfigTable(RefCell<Option<String>>);

    impl Sql for ConfigTable {
        fn query(&self, sql: &'static str, args: &[Value]) -> Result<Vec<Row>, SqlError> {
            assert!(sql.starts_with("SELECT json FROM config WHERE id = 1") && args.is_empty());
            Ok(self.0.borrow().iter().map(|json| Row(vec![Value::Text(json.clone())])).collect())
        }
        fn execute(&self, sql: &'static str, args: &[Value]) -> Result<u64, SqlError> {
            assert!(sql.starts_with("INSERT INTO config") && sql.contains("ON CONFLICT (id) DO UPDATE"));
            let [Value::Text(json)] = args else { panic!("{args:?}") };
            *self.0.borrow_mut() = Some(json.clone());
            Ok(1)
        }
        fn savepoint(&self, _: &mut dyn FnMut() -> Result<(), Undo>) -> Result<(), SqlError> {
            Ok(())
        }
        fn script(&self, _: &'static str) -> Result<(), SqlError> {
            Ok(())
        }
        fn usage(&self) -> Usage {
            Usage::default()
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that tests can write json!(…)")]
    fn patched(patch: Json) -> Result<Config, TownError> {
        Config::defaults().patched(&patch)
    }

    fn refused(patch: Json) -> (u16, String) {
        match patched(patch).unwrap_err() {
            TownError::Invalid { field, message } => {
                assert!(message.starts_with(&field) || field == "config", "{message}");
                (422, field)
            }
            TownError::Malformed(message) => (400, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_town_has_the_seeded_settings_and_the_defaults_of_the_policy_table() {
        let c = Config::defaults();
        assert_eq!(c.dispatch, DispatchPolicy::default());
        assert_eq!(c.breaker, BreakerPolicy::default());
        assert_eq!(c.notify, NotifyPolicy::default());
        assert_eq!(c.merge_strategy, MergeStrategy::Direct);
        assert_eq!(c.refinery.review_mode, "comments");
        assert!(c.refinery.code_review && c.refinery.auto_resolve_pr_feedback && c.staged_convoys_default);
        assert_eq!(c.refinery.auto_merge_delay_minutes, Some(5));
        assert_eq!(c.convoy_merge_mode, "review-then-land");
        assert_eq!(c, Config::default());
        assert_eq!(c, Config::from_json("{}").unwrap());
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let shown = Config::defaults().masked();
        assert_eq!(
            shown["dispatch"],
            json!({"max_attempts": 5, "backoff_ms": [120_000, 300_000, 600_000, 1_800_000], "jitter": 0.1,
                "start_timeout_ms": 60_000, "heartbeat_timeout_ms": 90_000, "boot_timeout_ms": 120_000, "max_agents": 20,
                "max_polecats_per_rig": 10, "max_starts_in_flight": 6, "max_review_rounds": 5})
        );
        assert_eq!(
            shown["breaker"],
            json!({"failures": 20, "window_ms": 1_800_000, "consecutive": 5, "rig_consecutive": 3,
                "probe_ms": [120_000, 300_000, 600_000, 1_200_000, 1_800_000], "probe_jitter": 0.2})
        );
        assert_eq!(
            shown["notify"],
            json!({"webhook_url": null, "webhook_secret": null, "still_open_ms": 3_600_000, "rollup_ms": 600_000})
        );
        assert_eq!(shown["max_polecats_per_rig"], 10);
    }

    #[test]
    fn settings_survive_the_database_and_none_stored_means_defaults() {
        let sql = ConfigTable::default();
        assert_eq!(Config::load(&sql).unwrap(), Config::defaults());
        let c = patched(json!({"env_vars": {"A_TOKEN": "abcdefgh"}, "dispatch": {"jitter": 0}})).unwrap();
        c.store(&sql).unwrap();
        assert_eq!(Config::load(&sql).unwrap(), c);
    }

    #[test]
    fn a_stored_value_that_this_version_refuses_counts_as_absent() {
        let c = Config::from_json(
            r#"{"dispatch": {"max_attempts": 0, "max_agents": 7, "gone": 1}, "breaker": 5, "merge_strategy": "pr"}"#,
        )
        .unwrap();
        assert_eq!((c.dispatch.max_attempts, c.dispatch.max_agents), (5, 7));
        assert_eq!(c.breaker, BreakerPolicy::default());
        assert_eq!(c.merge_strategy, MergeStrategy::Direct);
        for broken in ["", "[]", "null", "{"] {
            assert_eq!(Config::from_json(broken).unwrap_err().status(), 500);
            assert_eq!(RigConfig::from_json(broken).unwrap_err().status(), 500);
        }
    }

    #[test]
    fn a_patch_merges_the_grouped_keys_and_replaces_other_objects() {
        let c = patched(json!({
            "env_vars": {"A": "1", "B": "2"}, "role_models": {"mayor": "m", "polecat": "p"},
            "refinery": {"gates": ["make test"]}, "custom_instructions": {"mayor": "be brief\nand kind"},
            "dispatch": {"max_agents": 3}, "git_auth": {"github_token": "ghp_abcdef"},
        }))
        .unwrap();
        let c = c
            .patched(&json!({
                "env_vars": {"B": "3"}, "role_models": {"polecat": "q"}, "refinery": {"code_review": false},
                "custom_instructions": {"polecat": "x"}, "dispatch": {"max_attempts": 2},
                "git_auth": {"gitlab_token": "glpat-x"}, "no_such_key": {"a": 1}, "container": {},
            }))
            .unwrap();
        assert_eq!(c.env_vars, BTreeMap::from([("B".to_owned(), "3".to_owned())]));
        assert_eq!(c.role_models, PerRole { polecat: Some("q".to_owned()), ..PerRole::default() });
        assert_eq!((c.refinery.gates.len(), c.refinery.code_review), (1, false));
        assert_eq!(c.custom_instructions.of("mayor"), Some("be brief\nand kind"));
        assert_eq!(c.custom_instructions.of("polecat"), Some("x"));
        assert_eq!((c.dispatch.max_agents, c.dispatch.max_attempts), (3, 2));
        assert_eq!(c.git_auth.github_token.as_deref(), Some("ghp_abcdef"));
        assert!(c.masked().get("no_such_key").is_none());
    }

    #[test]
    fn null_resets_a_key_or_a_whole_group_and_an_empty_model_clears_it() {
        let c = patched(json!({
            "dispatch": {"max_agents": 3, "backoff_ms": [100]}, "breaker": {"failures": 1}, "default_model": "m",
            "notify": {"webhook_url": "https://h/x"}, "refinery": {"auto_merge_delay_minutes": null, "gates": ["x"]},
        }))
        .unwrap();
        assert_eq!(c.refinery.auto_merge_delay_minutes, None);
        assert_eq!(c.default_model.as_deref(), Some("m"));
        let c = c
            .patched(&json!({
                "dispatch": {"max_agents": null}, "breaker": null, "default_model": "", "notify": {"webhook_url": null},
                "refinery": {"gates": null},
            }))
            .unwrap();
        assert_eq!((c.dispatch.max_agents, c.dispatch.backoff_ms.as_slice()), (20, &[100][..]));
        assert_eq!(c.breaker, BreakerPolicy::default());
        assert_eq!((c.default_model, c.notify.webhook_url), (None, None));
        assert!(c.refinery.gates.is_empty());
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_path_of_its_field() {
        for (patch, field) in [
            (json!({"dispatch": {"max_attempts": 0}}), "dispatch.max_attempts"),
            (json!({"dispatch": {"max_attempts": 501}}), "dispatch.max_attempts"),
            (json!({"dispatch": {"max_attempts": 1.5}}), "dispatch.max_attempts"),
            (json!({"dispatch": {"max_attempts": "5"}}), "dispatch.max_attempts"),
            (json!({"dispatch": {"backoff_ms": [100, 99]}}), "dispatch.backoff_ms[1]"),
            (json!({"dispatch": {"backoff_ms": [100, null]}}), "dispatch.backoff_ms[1]"),
            (json!({"dispatch": {"backoff_ms": []}}), "dispatch.backoff_ms"),
            (json!({"dispatch": {"backoff_ms": vec![100; 21]}}), "dispatch.backoff_ms"),
            (json!({"dispatch": {"jitter": 1.01}}), "dispatch.jitter"),
            (json!({"dispatch": {"jitter": -0.1}}), "dispatch.jitter"),
            (json!({"dispatch": {"start_timeout_ms": 86_400_001}}), "dispatch.start_timeout_ms"),
            (json!({"dispatch": []}), "dispatch"),
            (json!({"max_polecats_per_rig": 0}), "max_polecats_per_rig"),
            (json!({"breaker": {"probe_ms": [86_400_001]}}), "breaker.probe_ms[0]"),
            (json!({"breaker": {"rig_consecutive": 0}}), "breaker.rig_consecutive"),
            (json!({"notify": {"rollup_ms": 99}}), "notify.rollup_ms"),
            (json!({"notify": {"webhook_url": "ftp://h/x"}}), "notify.webhook_url"),
            (json!({"notify": {"webhook_url": "https://"}}), "notify.webhook_url"),
            (json!({"notify": {"webhook_url": "https://u:p@h/"}}), "notify.webhook_url"),
            (json!({"notify": {"webhook_url": "https://h/a b"}}), "notify.webhook_url"),
            (json!({"notify": {"webhook_url": "https://:80/"}}), "notify.webhook_url"),
            (json!({"notify": {"webhook_url": format!("https://h/{}", "x".repeat(2_048))}}), "notify.webhook_url"),
            (json!({"notify": {"webhook_secret": 5}}), "notify.webhook_secret"),
            (json!({"notify": {"webhook_secret": "****abcd"}}), "notify.webhook_secret"),
            (json!({"merge_strategy": "pr"}), "merge_strategy"),
            (json!({"merge_strategy": "squash"}), "merge_strategy"),
            (json!({"convoy_merge_mode": true}), "convoy_merge_mode"),
            (json!({"custom_instructions": {"mayor": "ü".repeat(2_001)}}), "custom_instructions.mayor"),
            (json!({"refinery": {"gates": ["ok", " "]}}), "refinery.gates[1]"),
            (json!({"refinery": {"auto_merge_delay_minutes": -1}}), "refinery.auto_merge_delay_minutes"),
            (json!({"container": {"sleep_after_minutes": 4}}), "container.sleep_after_minutes"),
            (json!({"alarm_interval_active": 601}), "alarm_interval_active"),
            (json!({"default_model": "a\nb"}), "default_model"),
            (json!({"env_vars": {"A": 1}}), "env_vars.A"),
            (json!({"env_vars": {"API_KEY": "****abcd"}}), "env_vars.API_KEY"),
            (json!({"env_vars": []}), "env_vars"),
            (json!({"env_vars": {"A": "x".repeat(65_536)}}), "config"),
        ] {
            assert_eq!(refused(patch.clone()), (422, field.to_owned()), "{patch}");
        }
    }

    #[test]
    fn the_ends_of_every_range_are_accepted() {
        let c = patched(json!({
            "dispatch": {"max_attempts": 500, "backoff_ms": vec![100; 20], "jitter": 1, "start_timeout_ms": 100,
                "heartbeat_timeout_ms": 86_400_000, "max_starts_in_flight": 1},
            "breaker": {"probe_jitter": 0, "probe_ms": [86_400_000]},
            "notify": {"webhook_url": "HTTP://127.0.0.1:8099/hook?x=1", "webhook_secret": "s"},
            "custom_instructions": {"mayor": "ü".repeat(2_000)},
            "git_auth": {"gitlab_instance_url": "https://[::1]/"},
        }))
        .unwrap();
        assert_eq!((c.dispatch.max_attempts, c.dispatch.backoff_ms.len()), (500, 20));
        assert!((c.dispatch.jitter - 1.0).abs() < f64::EPSILON);
        assert_eq!(c.breaker.probe_ms, [86_400_000]);
        assert_eq!(c.notify.webhook_secret.as_deref(), Some("s"));
    }

    #[test]
    fn the_text_about_pull_requests_says_until_when() {
        for error in [
            patched(json!({"merge_strategy": "pr"})).unwrap_err(),
            RigConfig::defaults().patched(&json!({"merge_strategy": "pr"})).unwrap_err(),
        ] {
            assert!(error.to_string().contains("until reviews"), "{error}");
        }
    }

    #[test]
    fn names_of_environment_variables_are_checked_in_the_predecessors_words() {
        for key in ["1A", "A-B", "", "Ä"] {
            let message = format!("Invalid env var key \"{key}\": must be alphanumeric with underscores");
            assert_eq!(refused(json!({"env_vars": {key: "x"}})), (400, message));
        }
        let message = "Env var key \"GASTOWN_X\" uses reserved GASTOWN_ prefix".to_owned();
        assert_eq!(refused(json!({"env_vars": {"GASTOWN_X": "x"}})), (400, message));
        assert_eq!(refused(json!([])), (400, "Invalid request body".to_owned()));
        assert_eq!(refused(Json::Null), (400, "Invalid request body".to_owned()));
    }

    #[test]
    fn the_alias_and_its_original_are_both_shown_and_the_last_one_written_wins() {
        let shown = |c: &Config| (c.masked()["max_polecats_per_rig"].clone(), c.dispatch.max_polecats_per_rig);
        let c = patched(json!({"max_polecats_per_rig": 3})).unwrap();
        assert_eq!(shown(&c), (json!(3), 3));
        let c = c.patched(&json!({"dispatch": {"max_polecats_per_rig": 4}})).unwrap();
        assert_eq!(shown(&c), (json!(4), 4));
        for key in ["/max_polecats_per_rig", "/dispatch/max_polecats_per_rig"] {
            let mut whole = c.masked();
            *whole.pointer_mut(key).unwrap() = json!(9);
            assert_eq!(shown(&c.patched(&whole).unwrap()), (json!(9), 9), "{key}");
        }
        let c = c.patched(&json!({"dispatch": null, "max_polecats_per_rig": 6})).unwrap();
        assert_eq!(shown(&c), (json!(6), 6));
        assert_eq!(shown(&c.patched(&json!({"max_polecats_per_rig": null})).unwrap()), (json!(10), 10));
    }

    fn with_secrets() -> Config {
        patched(json!({
            "env_vars": {"DB_PASSWORD": "hunter2hunter2", "PIN_KEY": "1234", "PLAIN": "visible"},
            "git_auth": {"github_token": "ghp_0123456789", "gitlab_token": "glpat-9876543210"},
            "github_cli_pat": "github_pat_zyxwvu9", "kilocode_token": "kilo-token-value",
            "notify": {"webhook_secret": "whsec-abcdefgh", "webhook_url": "https://hooks.example/T/B"},
        }))
        .unwrap()
    }

    #[test]
    fn secrets_are_masked_when_read_the_cli_token_too() {
        let shown = with_secrets().masked();
        for (pointer, value) in [
            ("/env_vars/DB_PASSWORD", "****ter2"),
            ("/env_vars/PIN_KEY", "****"),
            ("/env_vars/PLAIN", "visible"),
            ("/git_auth/github_token", "****6789"),
            ("/git_auth/gitlab_token", "****3210"),
            ("/github_cli_pat", "****wvu9"),
            ("/kilocode_token", "****alue"),
            ("/notify/webhook_secret", "****efgh"),
            ("/notify/webhook_url", "https://hooks.example/T/B"),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&json!(value)), "{pointer}");
        }
    }

    #[test]
    fn settings_that_were_read_can_be_sent_back_whole_and_change_nothing() {
        for c in [Config::defaults(), with_secrets(), with_secrets().owned_by("user-1")] {
            assert_eq!(c.patched(&c.masked()).unwrap(), c);
            assert_eq!(c.patched(&json!({})).unwrap(), c);
        }
    }

    #[test]
    fn every_key_is_always_there_when_settings_are_read() {
        let shown = Config::defaults().masked();
        for group in TOWN {
            let object = if group.name.is_empty() { &shown } else { &shown[group.name] };
            for (key, _, _) in group.fields {
                assert!(object.get(key).is_some(), "{}.{key}", group.name);
            }
        }
        assert_eq!(shown["role_models"], json!({"mayor": null, "refinery": null, "polecat": null}));
        assert!(RigConfig::defaults().shown()["max_dispatch_attempts"].is_null());
    }

    #[test]
    fn who_owns_a_town_is_shown_but_cannot_be_set() {
        let c = Config::defaults().owned_by("u1");
        assert_eq!(c.masked()["owner_user_id"], "u1");
        assert_eq!(c.patched(&json!({"owner_user_id": "u2", "owner_type": "org"})).unwrap(), c);
        let sql = ConfigTable::default();
        c.store(&sql).unwrap();
        assert_eq!(Config::load(&sql).unwrap(), c);
    }

    #[test]
    fn what_is_printed_for_debugging_holds_no_secret() {
        let c = with_secrets();
        let printed = format!("{c:?} {:?} {:?}", c.notify, c.git_auth);
        for secret in ["hunter2", "ghp_0123", "glpat-98", "github_pat_z", "kilo-token", "whsec", "1234\""] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }

    #[test]
    fn a_rig_overrides_its_town_and_null_inherits_again() {
        let town = patched(json!({
            "role_models": {"polecat": "town-polecat", "mayor": "town-mayor"}, "default_model": "town-default",
            "refinery": {"gates": ["town"]}, "custom_instructions": {"polecat": "town", "mayor": "mayor"},
        }))
        .unwrap();
        let none = RigConfig::defaults();
        assert_eq!((effective_max_attempts(&town, &none), effective_max_polecats(&town, &none)), (5, 10));
        assert!(code_review(&town, &none));
        assert_eq!(merge_strategy(&town, &none), MergeStrategy::Direct);
        assert_eq!(gates(&town, &none), ["town"]);
        assert_eq!(custom_instructions("polecat", &town, &none).as_deref(), Some("town"));

        let rig = none
            .patched(&json!({
                "max_dispatch_attempts": 2, "max_concurrent_polecats": 1, "code_review": false, "gates": [],
                "role_models": {"polecat": "rig-polecat"}, "default_model": "rig-default",
                "custom_instructions": {"polecat": "rig"}, "unknown": 1, "merge_strategy": "direct",
            }))
            .unwrap();
        assert_eq!((effective_max_attempts(&town, &rig), effective_max_polecats(&town, &rig)), (2, 1));
        assert!(!code_review(&town, &rig));
        assert!(gates(&town, &rig).is_empty());
        assert_eq!(custom_instructions("polecat", &town, &rig).as_deref(), Some("rig"));
        assert_eq!(custom_instructions("mayor", &town, &rig).as_deref(), Some("mayor"));
        assert_eq!(custom_instructions("refinery", &town, &rig), None);
        assert_eq!(RigConfig::from_json(&rig.to_json()).unwrap(), rig);
        assert_eq!(rig.patched(&rig.shown()).unwrap(), rig);
        let again = rig.patched(&json!({"gates": null, "max_dispatch_attempts": null})).unwrap();
        assert_eq!((gates(&town, &again).len(), effective_max_attempts(&town, &again)), (1, 5));
        assert_eq!(RigConfig::from_json("{}").unwrap(), RigConfig::default());
        let refused = rig.patched(&json!({"max_concurrent_polecats": 0})).unwrap_err();
        assert!(matches!(refused, TownError::Invalid { field, .. } if field == "max_concurrent_polecats"));
    }

    #[test]
    fn models_are_resolved_from_rig_role_to_town_role_to_rig_to_town_to_ours() {
        let nothing = (Config::defaults(), RigConfig::defaults());
        assert_eq!(resolve_model("polecat", &nothing.0, &nothing.1), "anthropic/claude-sonnet-4.6");
        assert_eq!(small_model(&nothing.0), "anthropic/claude-haiku-4.5");
        let town =
            patched(json!({"default_model": "t", "role_models": {"refinery": "tr"}, "small_model": "s"})).unwrap();
        let rig =
            RigConfig::defaults().patched(&json!({"default_model": "r", "role_models": {"polecat": "rp"}})).unwrap();
        assert_eq!(resolve_model("polecat", &town, &rig), "rp");
        assert_eq!(resolve_model("refinery", &town, &rig), "tr");
        assert_eq!(resolve_model("mayor", &town, &rig), "t");
        assert_eq!(
            resolve_model("polecat", &Config::defaults(), &nothing.1.patched(&json!({"default_model": "r"})).unwrap()),
            "r"
        );
        assert_eq!(small_model(&town), "s");
    }

    #[test]
    fn agents_get_the_towns_credentials_and_users_cannot_shadow_them() {
        let c = with_secrets().patched(&json!({"disable_ai_coauthor": true, "git_author_name": "Jo"})).unwrap();
        let env = system_env(&c);
        assert_eq!(env.get("GIT_TOKEN").map(String::as_str), Some("ghp_0123456789"));
        assert_eq!(env.get("GASTOWN_DISABLE_AI_COAUTHOR").map(String::as_str), Some("1"));
        assert_eq!(env.get("GASTOWN_GIT_AUTHOR_NAME").map(String::as_str), Some("Jo"));
        assert!(!env.contains_key("GASTOWN_GIT_AUTHOR_EMAIL"));
        assert!(system_env(&Config::defaults()).is_empty());
        let c = patched(json!({"env_vars": {"GH_TOKEN": "x", "MINE": "y"}})).unwrap();
        assert_eq!(c.user_env().into_keys().collect::<Vec<_>>(), ["MINE"]);
    }

    proptest! {
        #[test]
        fn any_patch_is_applied_or_refused_and_leaves_settings_that_read_back(
            group in proptest::sample::select(vec!["dispatch", "breaker", "notify", "refinery", "env_vars", "git_auth", "role_models"]),
            key in proptest::sample::select(vec!["max_attempts", "backoff_ms", "jitter", "failures", "probe_ms", "gates", "webhook_url", "A", "github_token"]),
            value in proptest::sample::select(vec![
                json!(null), json!(0), json!(1), json!(500), json!(1e300), json!(-1), json!("x"), json!(""), json!("****abcd"),
                json!([100]), json!([]), json!({}), json!(true), json!("https://h/"), json!(u64::MAX),
            ]),
        ) {
            for patch in [json!({group: {key: value.clone()}}), json!({group: value.clone()}), json!({key: value.clone()})] {
                if let Ok(c) = patched(patch.clone()) {
                    prop_assert_eq!(&Config::from_json(&c.raw.to_string()).unwrap(), &c);
                    prop_assert_eq!(&c.patched(&c.masked()).unwrap(), &c);
                }
                if let Ok(c) = RigConfig::defaults().patched(&patch) {
                    prop_assert_eq!(&RigConfig::from_json(&c.to_json()).unwrap(), &c);
                }
            }
        }
    }
}
