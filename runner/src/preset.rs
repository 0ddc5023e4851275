//! Agent commands: which program an agent of a role runs, and the command line it documents for runs without a terminal.
//!
//! The prompt goes through standard input where the tool reads it from there, else behind `--`: a title that begins with a
//! dash must not become a flag. A system prompt goes through the tool's flag; tools without one get it before the prompt.

use crate::request::Role;

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
    pub variables: &'static [(&'static str, &'static str)],
}

/// What a model's tool is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The bead's title, body and checkpoint.
    pub prompt: &'a str,
    /// The role's instructions.
    pub system_prompt: Option<&'a str>,
    /// `provider/model`.
    pub model: &'a str,
}

impl Task<'_> {
    fn whole(&self) -> String {
        match self.system_prompt {
            Some(system) if !system.trim().is_empty() => format!("{system}\n\n{}", self.prompt),
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
            // permission prompts only when told that it is in a sandbox, which a town's container is.
            Self::Claude => {
                let mut args = words(&["-p", "--dangerously-skip-permissions"]);
                if let Some(model) = task.model_of("anthropic") {
                    args.extend(words(&["--model", model]));
                }
                if let Some(system) = task.system_prompt.filter(|text| !text.trim().is_empty()) {
                    args.extend(words(&["--append-system-prompt", system]));
                }
                let input = Some(task.prompt.to_owned());
                Some(Launch { program: "claude", args, input, variables: &[("IS_SANDBOX", "1")] })
            }
            // `codex exec --help` (0.169): `-` reads the prompt from standard input. Its own sandbox would make the shared
            // clone, where a worktree's commits go, read-only; the container is the sandbox. (`--full-auto` is gone.)
            Self::Codex => {
                let mut args = words(&["exec", "--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check"]);
                if let Some(model) = task.model_of("openai") {
                    args.extend(words(&["--model", model]));
                }
                args.extend(words(&["-"]));
                Some(Launch { program: "codex", args, input: Some(task.whole()), variables: &[] })
            }
            // `opencode run --help` (1.18); Kilo's CLI (7) is a fork of it with the same `run`.
            Self::OpenCode | Self::Kilo => {
                let program = if self == Self::Kilo { "kilo" } else { "opencode" };
                let mut args = words(&["run", "--auto"]);
                if !task.model.is_empty() {
                    args.extend(words(&["--model", task.model]));
                }
                args.push("--".to_owned());
                args.push(task.whole());
                Some(Launch { program, args, input: None, variables: &[] })
            }
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

    #[test]
    fn a_model_of_another_provider_is_left_to_the_tools_default() {
        let task = Task { prompt: "-x", system_prompt: None, model: "openai/gpt-5" };
        assert_eq!(Preset::Claude.launch(&task).unwrap().args, ["-p", "--dangerously-skip-permissions"]);
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
