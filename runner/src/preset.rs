//! Agent commands: which program an agent of a role runs, and the command line it documents for runs without a terminal.
//!
//! The prompt goes through standard input where the tool reads it from there, else behind `--`: a title that begins with a
//! dash must not become a flag. A system prompt goes through the tool's flag; tools without one get it before the first
//! prompt. A later turn continues the tool's last session, of which each agent has its own. The town's tools (`gt mcp`) are
//! named to the tool by its own kind of configuration, which carries no secret.

use crate::{dialect::Dialect, request::Role};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What of its environment a tool must pass on to `gt mcp`, where it does not pass on everything.
const GT_VARIABLES: [&str; 9] = [
    "GASTOWN_API_URL",
    "GASTOWN_CONTAINER_TOKEN",
    "GASTOWN_CONTAINER_TOKEN_FILE",
    "GASTOWN_SESSION_TOKEN",
    "GASTOWN_TOWN_ID",
    "GASTOWN_AGENT_ID",
    "GASTOWN_RIG_ID",
    "GASTOWN_AGENT_ROLE",
    "GASTOWN_DISPATCH_ID",
];

/// What runs for a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The runner itself: `shell` for a polecat, the built-in merge for a refinery, an idle presence for a mayor.
    Builtin,
    /// The first fenced `sh` block of the bead's body. Polecats only.
    Shell,
    /// Anthropic's Claude Code.
    Claude,
    /// `OpenAI`'s Codex.
    Codex,
    /// OpenCode.
    OpenCode,
    /// Kilo Code.
    Kilo,
}

/// A command line, without its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Looked up on `PATH`.
    pub program: &'static str,
    /// Arguments.
    pub args: Vec<String>,
    /// What the program reads from standard input.
    pub input: Option<String>,
    /// Variables the tool needs in a container.
    pub variables: Vec<(&'static str, String)>,
}

/// What a model's tool is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The bead's title, body and checkpoint; or a later turn's message.
    pub prompt: &'a str,
    /// The role's instructions.
    pub system_prompt: Option<&'a str>,
    /// Whether the instructions lie in the workspace as `AGENTS.md`, too.
    pub agents_file: bool,
    /// `provider/model`.
    pub model: &'a str,
    /// Whether the tool goes on with its last session.
    pub resume: bool,
    /// The agent's own home: sessions are kept there.
    pub home: &'a Path,
    /// The town's tools: the program, and a file that names it as the tool `claude` wants it.
    pub gt: Option<Gt<'a>>,
}

/// The town's tools.
#[derive(Clone, Copy, Debug)]
pub struct Gt<'a> {
    /// `gt`.
    pub program: &'a Path,
    /// `{"mcpServers": …}`.
    pub config: &'a Path,
}

/// The content of [`Gt::config`].
#[must_use]
pub fn mcp_servers(gt: &Path) -> String {
    json!({ "mcpServers": { "gt": { "type": "stdio", "command": gt, "args": ["mcp"] } } }).to_string()
}

impl Task<'_> {
    fn whole(&self) -> String {
        match self.system_prompt {
            // A session that goes on has heard them, and a file is read by the tool itself.
            Some(system) if !system.trim().is_empty() && !self.agents_file && !self.resume => {
                format!("{system}\n\n{}", self.prompt)
            }
            _ => self.prompt.to_owned(),
        }
    }

    /// The model's own name if the tool serves this provider only; another provider's model is left to the tool's default.
    fn model_of(&self, provider: &str) -> Option<&str> {
        match self.model.split_once('/') {
            Some((prefix, name)) => (prefix == provider && !name.is_empty()).then_some(name),
            None => (!self.model.is_empty()).then_some(self.model),
        }
    }
}

impl Preset {
    /// The preset of this name for this role.
    ///
    /// # Errors
    /// The names that would do.
    pub fn parse(role: Role, name: &str) -> Result<Self, String> {
        match (role, name) {
            (Role::Polecat, "builtin" | "shell") => Ok(Self::Shell),
            (_, "builtin") => Ok(Self::Builtin),
            (_, "claude") => Ok(Self::Claude),
            (_, "codex") => Ok(Self::Codex),
            (_, "opencode") => Ok(Self::OpenCode),
            (_, "kilo") => Ok(Self::Kilo),
            (Role::Polecat, _) => {
                Err(format!("unknown preset \"{name}\": use builtin, shell, claude, codex, opencode or kilo"))
            }
            (_, _) => Err(format!(
                "unknown preset \"{name}\" for a {}: use builtin, claude, codex, opencode or kilo",
                role.name()
            )),
        }
    }

    /// The command line of a model's tool; nothing for what the runner does itself.
    #[must_use]
    pub fn launch(self, task: &Task<'_>) -> Option<Launch> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        match self {
            Self::Builtin | Self::Shell => None,
            // `claude --help` (2.1): -p prints and exits, reading the prompt from standard input. As root it skips the
            // permission prompts only when told that it is in a sandbox, which a town's container is. Its stream needs
            // --verbose.
            Self::Claude => {
                let mut args = words(&["-p", "--dangerously-skip-permissions", "--output-format", "stream-json"]);
                args.extend(words(&["--verbose"]));
                if task.resume {
                    args.extend(words(&["--continue"]));
                }
                if let Some(gt) = task.gt {
                    args.extend(words(&["--mcp-config", &gt.config.display().to_string()]));
                }
                if let Some(model) = task.model_of("anthropic") {
                    args.extend(words(&["--model", model]));
                }
                if let Some(system) = task.system_prompt.filter(|text| !text.trim().is_empty()) {
                    args.extend(words(&["--append-system-prompt", system]));
                }
                let variables = vec![("IS_SANDBOX", "1".to_owned()), ("CLAUDE_CONFIG_DIR", self.sessions(task.home))];
                Some(Launch { program: "claude", args, input: Some(task.prompt.to_owned()), variables })
            }
            // `codex exec --help` (0.169): `-` reads the prompt from standard input. Its own sandbox would make the shared
            // clone, where a worktree's commits go, read-only; the container is the sandbox. (`--full-auto` is gone.)
            // It passes only named variables on to MCP servers.
            Self::Codex => {
                let mut args = words(&["exec", "--json", "--dangerously-bypass-approvals-and-sandbox"]);
                args.extend(words(&["--skip-git-repo-check"]));
                if let Some(gt) = task.gt {
                    for (key, value) in
                        [("command", json!(gt.program)), ("args", json!(["mcp"])), ("env_vars", json!(GT_VARIABLES))]
                    {
                        args.extend(words(&["-c", &format!("mcp_servers.gt.{key}={value}")]));
                    }
                }
                if let Some(model) = task.model_of("openai") {
                    args.extend(words(&["--model", model]));
                }
                if task.resume {
                    args.extend(words(&["resume", "--last"]));
                }
                args.extend(words(&["-"]));
                let variables = vec![("CODEX_HOME", self.sessions(task.home))];
                Some(Launch { program: "codex", args, input: Some(task.whole()), variables })
            }
            // `opencode run --help` (1.18); Kilo's CLI (7) is a fork of it with the same `run`. Sessions lie under
            // XDG_DATA_HOME, which every agent has for itself.
            Self::OpenCode | Self::Kilo => {
                let (program, config) = match self {
                    Self::Kilo => ("kilo", "KILO_CONFIG_CONTENT"),
                    _ => ("opencode", "OPENCODE_CONFIG_CONTENT"),
                };
                let mut args = words(&["run", "--auto", "--format", "json"]);
                if task.resume {
                    args.extend(words(&["--continue"]));
                }
                if !task.model.is_empty() {
                    args.extend(words(&["--model", task.model]));
                }
                args.push("--".to_owned());
                args.push(task.whole());
                let server = |gt: Gt<'_>| json!({ "type": "local", "command": [gt.program, "mcp"], "enabled": true });
                let content = task.gt.map(|gt| (config, json!({ "mcp": { "gt": server(gt) } }).to_string()));
                Some(Launch { program, args, input: None, variables: content.into_iter().collect() })
            }
        }
    }

    /// How its output is read.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Builtin | Self::Shell => Dialect::Plain,
            Self::Claude => Dialect::Claude,
            Self::Codex => Dialect::Codex,
            Self::OpenCode | Self::Kilo => Dialect::OpenCode,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Shell => "shell",
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::OpenCode => "opencode",
            Self::Kilo => "kilo",
        }
    }

    /// Where the tool keeps its sessions in an agent's home.
    fn sessions(self, home: &Path) -> String {
        self.session_directory(home).display().to_string()
    }

    /// Where the tool keeps its sessions in an agent's home. It must exist.
    #[must_use]
    pub fn session_directory(self, home: &Path) -> PathBuf {
        match self {
            Self::Claude => home.join(".claude"),
            Self::Codex => home.join(".codex"),
            Self::Builtin | Self::Shell | Self::OpenCode | Self::Kilo => home.join(".local/share"),
        }
    }

    /// The keys of model providers that this tool documents: the only secrets of the runner that its process inherits.
    #[must_use]
    pub const fn provider_variables(self) -> &'static [&'static str] {
        match self {
            Self::Builtin | Self::Shell => &[],
            Self::Claude => {
                &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN"]
            }
            Self::Codex => &["OPENAI_API_KEY", "CODEX_API_KEY", "OPENAI_BASE_URL"],
            Self::OpenCode => &[
                "ANTHROPIC_API_KEY",
                "OPENAI_API_KEY",
                "OPENROUTER_API_KEY",
                "GEMINI_API_KEY",
                "GOOGLE_GENERATIVE_AI_API_KEY",
                "OPENCODE_API_KEY",
            ],
            Self::Kilo => &[
                "ANTHROPIC_API_KEY",
                "OPENAI_API_KEY",
                "OPENROUTER_API_KEY",
                "GEMINI_API_KEY",
                "GOOGLE_GENERATIVE_AI_API_KEY",
                "KILO_API_KEY",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Preset, Task};
    use crate::request::Role;
    use std::path::Path;

    #[test]
    fn a_model_of_another_provider_is_left_to_the_tools_default() {
        let task = Task {
            prompt: "-x",
            system_prompt: None,
            agents_file: false,
            model: "openai/gpt-5",
            resume: false,
            home: Path::new("/h"),
            gt: None,
        };
        assert!(!Preset::Claude.launch(&task).unwrap().args.contains(&"--model".to_owned()));
        assert!(Preset::Codex.launch(&task).unwrap().args.contains(&"gpt-5".to_owned()));
    }

    #[test]
    fn an_unknown_preset_names_the_known_ones() {
        let error = Preset::parse(Role::Polecat, "gpt").unwrap_err();
        assert!(error.contains("\"gpt\"") && error.contains("kilo"), "{error}");
        assert!(Preset::parse(Role::Refinery, "shell").is_err(), "a refinery has no script");
        assert_eq!(Preset::parse(Role::Polecat, "builtin"), Ok(Preset::Shell));
    }
}
