//! The settings of a town and of its rigs: one table of what may be set, its range and its default, and the typed view
//! that the engine reads.
//!
//! Guarantees: a setting outside its range is never stored (422 with the field as a dotted path); every key is always
//! there when settings are read; secrets are masked when read, when printed, and kept when their mask is sent back; a
//! stored value that this version would refuse counts as absent, so a town is never stopped by its settings.

mod documents;
mod from_json;
mod table;
#[cfg(test)]
mod tests;

use documents::{check, get, merged, object, part, presets, put, small_enough, sounds_secret, stored};
use from_json::{FromJson, read_by_name};
use table::{ALIASED, COUNT, Kind, RIG, TOWN, count};

use super::error::TownError;
use super::policy;
use super::sql::{Sql, first};
use super::text::{mask, redact};
use super::time::Millis;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt;

// ── the typed view ───────────────────────────────────────────────────────────────────────────────────────────────

/// How often and how fast to dispatch.
#[derive(Clone, Debug, PartialEq)]
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
read_by_name!(DispatchPolicy {
    max_attempts,
    backoff_ms,
    jitter,
    start_timeout_ms,
    heartbeat_timeout_ms,
    boot_timeout_ms,
    max_agents,
    max_polecats_per_rig,
    max_starts_in_flight,
    max_review_rounds
});

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
#[derive(Clone, Debug, PartialEq)]
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
read_by_name!(BreakerPolicy { failures, window_ms, consecutive, rig_consecutive, probe_ms, probe_jitter });

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
#[derive(Clone, PartialEq, Eq)]
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
read_by_name!(NotifyPolicy { webhook_url, webhook_secret, still_open_ms, rollup_ms });

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
read_by_name!(RefineryPolicy {
    gates,
    auto_merge,
    require_clean_merge,
    code_review,
    review_mode,
    auto_resolve_pr_feedback,
    auto_resolve_merge_conflicts,
    auto_merge_delay_minutes
});

/// Credentials for git hosts.
#[derive(Clone, Default, PartialEq, Eq)]
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
read_by_name!(GitAuth { github_token, gitlab_token, gitlab_instance_url, platform_integration_id });

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerRole {
    /// The mayor's; a rig has none.
    pub mayor: Option<String>,
    /// The refineries'.
    pub refinery: Option<String>,
    /// The polecats'.
    pub polecat: Option<String>,
}
read_by_name!(PerRole { mayor, refinery, polecat });

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeStrategy {
    /// The refinery merges and pushes.
    #[default]
    Direct,
    /// Through a pull request on GitHub or GitLab, which is watched until it is merged or closed.
    Pr,
}

impl FromJson for MergeStrategy {
    fn from_json(value: &Json) -> Option<Self> {
        match value.as_str()? {
            "direct" => Some(Self::Direct),
            "pr" => Some(Self::Pr),
            _ => None,
        }
    }
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
    /// How long a container that nobody needs runs on.
    pub sleep_after_minutes: Option<u32>,
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
            sleep_after_minutes: part(&raw, "/container/sleep_after_minutes"),
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
            &[(&self.raw.to_string()).into()],
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

    /// What the container is told of these settings (`protocol.md` 4.2), secrets included; what is not set is not there.
    #[must_use]
    pub fn for_container(&self) -> Json {
        const KEYS: [&str; 9] = [
            "default_model",
            "small_model",
            "git_auth",
            "kilocode_token",
            "github_cli_pat",
            "git_author_name",
            "git_author_email",
            "disable_ai_coauthor",
            "organization_id",
        ];
        let mut told = json!({ "env_vars": self.user_env() });
        for key in KEYS {
            match get(&self.raw, "", key) {
                Json::Null => {}
                Json::Object(map) => {
                    let set = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
                    put(&mut told, "", key, Json::Object(set));
                }
                value => put(&mut told, "", key, value.clone()),
            }
        }
        told
    }

    /// The user's environment variables without the names that only the system sets (`protocol.md` 5.1).
    #[must_use]
    pub fn user_env(&self) -> BTreeMap<String, String> {
        let own = |key: &str| !RESERVED_ENV.contains(&key) && !key.starts_with("GASTOWN_");
        self.env_vars.iter().filter(|(key, _)| own(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// True for a variable that is not kept with the container's registry: its name says that it is a secret.
#[must_use]
pub fn is_secret_name(key: &str) -> bool {
    sounds_secret(key) || key.ends_with("_PAT")
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
    /// Overrides the town's.
    pub convoy_merge_mode: Option<String>,
    /// Overrides `refinery.code_review`.
    pub code_review: Option<bool>,
    /// Overrides `refinery.auto_resolve_pr_feedback`.
    pub auto_resolve_pr_feedback: Option<bool>,
    /// Overrides `refinery.auto_resolve_merge_conflicts`.
    pub auto_resolve_merge_conflicts: Option<bool>,
    /// Overrides `refinery.auto_merge_delay_minutes`.
    pub auto_merge_delay_minutes: Option<u32>,
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
            convoy_merge_mode: part(&raw, "/convoy_merge_mode"),
            code_review: part(&raw, "/code_review"),
            auto_resolve_pr_feedback: part(&raw, "/auto_resolve_pr_feedback"),
            auto_resolve_merge_conflicts: part(&raw, "/auto_resolve_merge_conflicts"),
            auto_merge_delay_minutes: part(&raw, "/auto_merge_delay_minutes"),
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

/// How the rig's convoys get into its default branch, as it is stored.
#[must_use]
pub fn convoy_merge_mode<'a>(town: &'a Config, rig: &'a RigConfig) -> &'a str {
    rig.convoy_merge_mode.as_deref().unwrap_or(&town.convoy_merge_mode)
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
