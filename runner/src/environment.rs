//! The environment of a process: built from nothing, so that the runner's own secrets reach nobody by accident.
//!
//! Later entries win, and the system's come last: first the basics and the preset's model keys of the runner, then the
//! variables of the start (a town may bring its own model key), then what the system sets and nobody may override.

use crate::{config::Config, preset::Preset, request::StartRequest};
use std::{collections::BTreeMap, path::Path};

/// Names and values.
pub type Environment = BTreeMap<String, String>;

/// What every process gets from the runner's environment. A start cannot replace these.
const BASICS: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG"];

/// What it gets unless the start says otherwise.
const DEFAULTS: [&str; 4] = ["TERM", "TZ", "LC_ALL", "LC_CTYPE"];

/// What the runner's own git needs to reach a repository from inside a network.
const GIT_ONLY: [&str; 10] = [
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// What the system brings for the agent alone: the tokens of `protocol.md` 5.1. A town's own variables are not among them.
const TOKENS: [&str; 6] = ["GIT_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN", "GITHUB_CLI_PAT", "GH_TOKEN", "KILOCODE_TOKEN"];

/// Where a process finds an attempt's private things.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The agent's own data directory.
    pub home: &'a Path,
    /// The JSON lines of its messages.
    pub inbox: &'a Path,
    /// The credential store.
    pub credentials: &'a Path,
    /// The file of the town's newest token.
    pub token: Option<&'a Path>,
}

/// Who writes commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// Display name.
    pub name: String,
    /// Address.
    pub email: String,
    /// The agent, if somebody else is named as the author.
    pub agent: Option<(String, String)>,
}

impl Author {
    /// The author of an agent's commits: the town's, else the agent itself.
    #[must_use]
    pub fn of(request: &StartRequest) -> Self {
        let variable = |name: &str| request.env_vars.get(name).map(|text| plain(text)).filter(|text| !text.is_empty());
        let agent = plain(&request.name);
        let slug: String =
            agent.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        let (own_name, own_email) = (format!("{agent} (gastown)"), format!("{slug}@gastown.local"));
        let (name, email) = (variable("GASTOWN_GIT_AUTHOR_NAME"), variable("GASTOWN_GIT_AUTHOR_EMAIL"));
        let custom = name.is_some() || email.is_some();
        let silent = variable("GASTOWN_DISABLE_AI_COAUTHOR").as_deref() == Some("1");
        Self {
            name: name.unwrap_or_else(|| own_name.clone()),
            email: email.unwrap_or_else(|| own_email.clone()),
            agent: (custom && !silent).then_some((own_name, own_email)),
        }
    }

    fn write(&self, environment: &mut Environment) {
        for role in ["AUTHOR", "COMMITTER"] {
            environment.insert(format!("GIT_{role}_NAME"), self.name.clone());
            environment.insert(format!("GIT_{role}_EMAIL"), self.email.clone());
        }
    }
}

/// Without what git forbids in a name.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !"<>".contains(*c)).collect::<String>().trim().to_owned()
}

/// The environment of an agent's process.
#[must_use]
pub fn of_agent(config: &Config, preset: Preset, request: &StartRequest, places: Places<'_>) -> Environment {
    let mut environment = Environment::new();
    take(&mut environment, config, &DEFAULTS);
    take(&mut environment, config, preset.provider_variables());
    add(&mut environment, request, is_name);
    take(&mut environment, config, &BASICS);
    let mut set = |name: &str, value: Option<String>| match value {
        Some(value) => environment.insert(name.to_owned(), value),
        None => environment.remove(name),
    };
    set("GASTOWN_API_URL", api_url(config, request));
    set("GASTOWN_CONTAINER_TOKEN", token(config, request));
    set("GASTOWN_TOWN_ID", Some(request.town_id.clone()));
    set("GASTOWN_AGENT_ID", Some(request.agent_id.clone()));
    set("GASTOWN_RIG_ID", Some(request.rig_id.clone()));
    set("GASTOWN_AGENT_ROLE", Some(request.role.name().to_owned()));
    set("GASTOWN_DISPATCH_ID", request.dispatch_id.clone());
    // A process that outlives its token finds the newest one there.
    set("GASTOWN_CONTAINER_TOKEN_FILE", places.token.map(|path| path.display().to_string()));
    if let Some(directory) = config.gt().and_then(Path::parent) {
        let path = config.own.get("PATH").map(String::as_str).unwrap_or_default();
        set("PATH", Some(format!("{}:{path}", directory.display())));
    }
    set("GASTOWN_INBOX", Some(places.inbox.display().to_string()));
    // Tools keep their sessions here: two agents must not share one database.
    set("KILO_TEST_HOME", Some(places.home.display().to_string()));
    set("XDG_DATA_HOME", Some(places.home.join(".local/share").display().to_string()));
    let variable = |name: &str| request.env_vars.get(name).filter(|value| !value.is_empty()).cloned();
    if let Some(token) =
        variable("GITHUB_CLI_PAT").or_else(|| variable("GIT_TOKEN")).or_else(|| variable("GITHUB_TOKEN"))
    {
        set("GH_TOKEN", Some(token));
    }
    let author = Author::of(request);
    if let Some((name, email)) = &author.agent {
        set("GASTOWN_AI_AGENT_NAME", Some(name.clone()));
        set("GASTOWN_AI_AGENT_EMAIL", Some(email.clone()));
    }
    author.write(&mut environment);
    quiet_git(&mut environment);
    use_credentials(&mut environment, places.credentials);
    environment
}

/// The environment of a gate: it runs code of the branch under review, which needs the town's variables (a registry's
/// token, say) but neither the container's token nor the repository's credentials.
#[must_use]
pub fn of_gate(config: &Config, request: &StartRequest) -> Environment {
    let mut environment = Environment::new();
    take(&mut environment, config, &DEFAULTS);
    add(&mut environment, request, |name| {
        is_name(name) && !TOKENS.contains(&name) && !name.starts_with("GASTOWN_") && !name.starts_with("GIT_CONFIG_")
    });
    take(&mut environment, config, &BASICS);
    Author::of(request).write(&mut environment);
    quiet_git(&mut environment);
    environment
}

/// The environment of the runner's own git commands.
#[must_use]
pub fn of_git(config: &Config, request: &StartRequest, credentials: &Path) -> Environment {
    let mut environment = Environment::new();
    take(&mut environment, config, &GIT_ONLY);
    take(&mut environment, config, &BASICS);
    // Its texts are read: an error of the network is told from a rejected push by words.
    environment.insert("LC_ALL".to_owned(), "C".to_owned());
    // Only what urls may name. An agent's own git is not bound by it: tests of a repository may well clone local ones.
    let protocols = if config.dev { "https:http:ssh:file" } else { "https:http:ssh" };
    environment.insert("GIT_ALLOW_PROTOCOL".to_owned(), protocols.to_owned());
    Author::of(request).write(&mut environment);
    quiet_git(&mut environment);
    use_credentials(&mut environment, credentials);
    if let Some(command) = config.own.get("GIT_SSH_COMMAND") {
        environment.insert("GIT_SSH_COMMAND".to_owned(), command.clone());
    }
    environment
}

/// Where this start's calls go.
#[must_use]
pub fn api_url(config: &Config, request: &StartRequest) -> Option<String> {
    let own = request.env_vars.get("GASTOWN_API_URL").filter(|url| !url.is_empty());
    own.or(config.api_url.as_ref()).map(|url| url.trim_end_matches('/').to_owned())
}

/// The credential of this start's calls.
#[must_use]
pub fn token(config: &Config, request: &StartRequest) -> Option<String> {
    request.env_vars.get("GASTOWN_CONTAINER_TOKEN").filter(|token| !token.is_empty()).or(config.token.as_ref()).cloned()
}

fn add(environment: &mut Environment, request: &StartRequest, wanted: impl Fn(&str) -> bool) {
    let variables = request.env_vars.iter().filter(|(name, _)| wanted(name));
    environment.extend(variables.map(|(name, value)| (name.clone(), value.clone())));
}

fn take(environment: &mut Environment, config: &Config, names: &[&str]) {
    for &name in names {
        if let Some(value) = config.own.get(name) {
            environment.insert(name.to_owned(), value.clone());
        }
    }
}

/// Git never asks, and never fetches large files on checkout.
fn quiet_git(environment: &mut Environment) {
    for (name, value) in [
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new"),
    ] {
        environment.insert(name.to_owned(), value.to_owned());
    }
}

/// Credentials by file: neither urls nor arguments carry them. The empty helper forgets those of the machine.
fn use_credentials(environment: &mut Environment, file: &Path) {
    let helper = format!("store --file='{}'", file.display().to_string().replace('\'', "'\\''"));
    for (index, value) in [String::new(), helper].into_iter().enumerate() {
        environment.insert(format!("GIT_CONFIG_KEY_{index}"), "credential.helper".to_owned());
        environment.insert(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    environment.insert("GIT_CONFIG_COUNT".to_owned(), "2".to_owned());
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::{Places, of_agent, of_gate};
    use crate::{config::Config, preset::Preset, request::StartRequest};
    use serde_json::json;
    use std::path::Path;

    fn config() -> Config {
        // Whether `gt` lies beside the tests is no matter of theirs.
        let own = [
            ("GASTOWN_GT", "/nowhere/gt"),
            ("PATH", "/bin"),
            ("HOME", "/h"),
            ("AWS_SECRET", "s"),
            ("ANTHROPIC_API_KEY", "runner's"),
            ("TERM", "t"),
        ];
        Config::from_vars(own.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap()
    }

    fn request() -> StartRequest {
        let body = json!({
            "agentId": "a", "rigId": "r", "townId": "t", "role": "polecat", "name": "Toast", "identity": "i", "prompt": "",
            "model": "", "gitUrl": "https://h/x", "branch": "b", "defaultBranch": "main",
            "envVars": { "PATH": "/evil", "GASTOWN_AGENT_ID": "other", "MY_FLAG": "1", "GIT_TOKEN": "g", "TERM": "mine",
                         "GASTOWN_CONTAINER_TOKEN": "c", "a b": "x", "GIT_CONFIG_COUNT": "9", "GIT_AUTHOR_NAME": "x" },
        });
        StartRequest::parse(body.to_string().as_bytes(), false).unwrap()
    }

    fn places() -> Places<'static> {
        let home = Path::new("/p/home");
        Places { home, inbox: Path::new("/p/in"), credentials: Path::new("/p/it's"), token: Some(Path::new("/p/t")) }
    }

    #[test]
    fn a_start_adds_variables_but_overrides_none_of_the_systems() {
        let environment = of_agent(&config(), Preset::Shell, &request(), places());
        assert_eq!(environment["PATH"], "/bin");
        assert_eq!(environment["TERM"], "mine");
        assert_eq!(environment["MY_FLAG"], "1");
        assert_eq!(environment["GASTOWN_AGENT_ID"], "a");
        assert_eq!(environment["GIT_AUTHOR_NAME"], "Toast (gastown)");
        assert_eq!(environment["GIT_CONFIG_COUNT"], "2");
        assert_eq!(environment["GIT_CONFIG_VALUE_1"], "store --file='/p/it'\\''s'");
        assert_eq!(environment["GH_TOKEN"], "g");
        assert_eq!(environment["GASTOWN_CONTAINER_TOKEN_FILE"], "/p/t");
        assert!(!environment.contains_key("a b"));
    }

    #[test]
    fn the_runners_secrets_stay_with_the_runner_but_for_the_presets_model_key() {
        let shell = of_agent(&config(), Preset::Shell, &request(), places());
        assert!(!shell.contains_key("AWS_SECRET") && !shell.contains_key("ANTHROPIC_API_KEY"));
        let claude = of_agent(&config(), Preset::Claude, &request(), places());
        assert_eq!(claude["ANTHROPIC_API_KEY"], "runner's");
    }

    #[test]
    fn a_gate_gets_no_token() {
        let gate = of_gate(&config(), &request());
        assert_eq!(gate["MY_FLAG"], "1");
        for name in ["GIT_TOKEN", "GASTOWN_CONTAINER_TOKEN", "GH_TOKEN", "GIT_CONFIG_COUNT", "AWS_SECRET"] {
            assert!(!gate.contains_key(name), "{name}");
        }
    }
}
