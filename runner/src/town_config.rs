//! The town's settings as the worker pushes them: the header `X-Town-Config` (protocol 4.2).
//!
//! A start brings its own variables, which are the town's of that moment; what is pushed later is newer than the start's, and
//! reaches a running agent with its next turn and, for git's credentials, at once.

use serde_json::Value;
use std::collections::BTreeMap;

/// What a town's own variables cannot set (protocol 5.1).
const RESERVED: [&str; 8] = [
    "KILOCODE_TOKEN",
    "GIT_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GITLAB_INSTANCE_URL",
    "GITHUB_CLI_PAT",
    "GH_TOKEN",
    "GASTOWN_",
];

/// What of the settings reaches agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TownConfig {
    /// As a start's `envVars` have them.
    pub variables: BTreeMap<String, String>,
    /// Where the worker is.
    pub api_url: Option<String>,
    /// Which town it is, if the worker says so.
    pub town_id: Option<String>,
}

impl TownConfig {
    /// Reads the header; nothing if it is no JSON object.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(header).ok()?;
        let fields = value.as_object()?;
        let text = |value: Option<&Value>| {
            value.and_then(Value::as_str).filter(|text| !text.is_empty() && !text.contains('\0')).map(str::to_owned)
        };
        let mut variables: BTreeMap<String, String> = fields
            .get("env_vars")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(name, _)| !RESERVED.iter().any(|reserved| name.starts_with(reserved)))
            .filter_map(|(name, value)| Some((name.clone(), text(Some(value))?)))
            .collect();
        let auth = |name: &str| fields.get("git_auth").and_then(|auth| auth.get(name));
        for (name, value) in [
            ("GIT_TOKEN", text(auth("github_token"))),
            ("GITLAB_TOKEN", text(auth("gitlab_token"))),
            ("GITLAB_INSTANCE_URL", text(auth("gitlab_instance_url"))),
            ("GITHUB_CLI_PAT", text(fields.get("github_cli_pat"))),
            ("GASTOWN_GIT_AUTHOR_NAME", text(fields.get("git_author_name"))),
            ("GASTOWN_GIT_AUTHOR_EMAIL", text(fields.get("git_author_email"))),
        ] {
            if let Some(value) = value {
                variables.insert(name.to_owned(), value);
            }
        }
        if fields.get("disable_ai_coauthor").and_then(Value::as_bool) == Some(true) {
            variables.insert("GASTOWN_DISABLE_AI_COAUTHOR".to_owned(), "1".to_owned());
        }
        Some(Self {
            variables,
            api_url: text(fields.get("gastown_api_url")).map(|url| url.trim_end_matches('/').to_owned()),
            town_id: text(fields.get("town_id")).filter(|id| crate::url::is_id(id)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::TownConfig;

    #[test]
    fn settings_become_the_variables_of_a_start_and_reserved_names_stay_the_systems() {
        let header = r#"{"env_vars":{"FLAG":"1","GIT_TOKEN":"theirs","GASTOWN_TOWN_ID":"x","N":3},"git_auth":{"github_token":"g"},
            "github_cli_pat":"p","git_author_name":"Ada","disable_ai_coauthor":true,"gastown_api_url":"https://w/"}"#;
        let config = TownConfig::parse(header).unwrap();
        let shown: Vec<_> = config.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let wanted = [
            "FLAG=1",
            "GASTOWN_DISABLE_AI_COAUTHOR=1",
            "GASTOWN_GIT_AUTHOR_NAME=Ada",
            "GITHUB_CLI_PAT=p",
            "GIT_TOKEN=g",
        ];
        assert_eq!(shown, wanted);
        assert_eq!(config.api_url.as_deref(), Some("https://w"));
        assert_eq!(TownConfig::parse("[1]"), None);
        assert_eq!(TownConfig::parse("{"), None);
    }
}
