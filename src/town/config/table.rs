//! The table: every key of a town's and a rig's configuration, what it accepts, and what a new town has.

use super::super::policy;
use super::super::time::Millis;
use crate::town::json::json;
use serde_json::Value as Json;

/// What a setting may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
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
pub(super) enum Preset {
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
    pub(super) fn json(self) -> Json {
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

pub(super) type Field = (&'static str, Kind, Preset);

/// An object among the settings; the one without a name is the document itself.
pub(super) struct Group {
    pub(super) name: &'static str,
    /// A patch replaces it as a whole instead of merging per key.
    pub(super) replaced: bool,
    pub(super) fields: &'static [Field],
}

pub(super) const MERGE_MODES: Kind = Kind::OneOf(&["review-then-land", "review-and-merge"]);
pub(super) const REVIEW_MODES: Kind = Kind::OneOf(&["rework", "comments"]);
pub(super) const STRATEGIES: Kind = Kind::OneOf(&["direct", "pr"]);
pub(super) const COUNT: Kind = Kind::Int(policy::COUNT_MIN as i64, policy::COUNT_MAX as i64);
pub(super) const MS: Kind = Kind::Int(policy::MS_MIN, policy::MS_MAX);
pub(super) const INSTRUCTIONS: Kind = Kind::Prose(policy::INSTRUCTIONS_CHARS);

pub(super) const fn count(n: u32) -> Preset {
    Preset::Int(n as i64)
}

/// A town's settings (`protocol.md` 2.13, `design.md` 9), with the defaults of a new town.
pub(super) const TOWN: &[Group] = &[
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
pub(super) const ALIASED: &str = "max_polecats_per_rig";

/// A rig's overrides (`protocol.md` 2.3); null inherits. `gates` is ours: the rig's own instead of the town's.
pub(super) const RIG: &[Group] = &[
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
