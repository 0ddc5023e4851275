//! What the runner is told by its environment, read once.

use crate::{preset::Preset, request::Role};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// The runner's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `GASTOWN_RUNNER_ADDR`: where the control server listens.
    pub addr: String,
    /// `GASTOWN_WORKSPACE`: clones, worktrees and the agents' private directories.
    pub workspace: PathBuf,
    /// `GASTOWN_DEV=1`: allows repositories of the local disk.
    pub dev: bool,
    /// `GASTOWN_API_URL`: the worker, if a start does not say.
    pub api_url: Option<String>,
    /// `GASTOWN_CONTAINER_TOKEN`: the credential, if a start does not bring one.
    pub token: Option<String>,
    /// `GASTOWN_TOWN_ID`: the town, for calls that no agent makes.
    pub town_id: Option<String>,
    /// `GASTOWN_HEARTBEAT_MS`.
    pub heartbeat: Duration,
    /// `GASTOWN_DRAIN_MS`: how long a drain waits for agents.
    pub drain: Duration,
    /// `GASTOWN_STOP_GRACE_MS`: between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// `GASTOWN_GIT_TIMEOUT_MS`: the longest a single git command may take.
    pub git_timeout: Duration,
    /// `GASTOWN_GATE_TIMEOUT_MS`: the longest a single gate may take.
    pub gate_timeout: Duration,
    /// How long `done` and `completed` are repeated while the worker does not answer.
    pub report_for: Duration,
    /// The longest pause between two such repetitions.
    pub report_pause: Duration,
    /// `AGENT_IDLE_TIMEOUT_MS`: how long a model that has ended its turn is kept for another.
    pub agent_idle: Duration,
    /// `REFINERY_IDLE_TIMEOUT_MS`: the same for a refinery.
    pub refinery_idle: Duration,
    /// `GASTOWN_DRAIN_IDLE_MS`: the same during a drain.
    pub drain_idle: Duration,
    /// `GASTOWN_GT`, else where `gt` lies if it lies beside the runner: the agents' tool.
    pub gt: PathBuf,
    /// `GASTOWN_LOG_BYTES`: what is kept of one attempt's output on disk.
    pub log_bytes: u64,
    /// `GASTOWN_POLECAT_AGENT`.
    pub polecat: Preset,
    /// `GASTOWN_REFINERY_AGENT`.
    pub refinery: Preset,
    /// `GASTOWN_MAYOR_AGENT`.
    pub mayor: Preset,
    /// The runner's whole environment; `environment` decides what of it an agent may see.
    pub own: BTreeMap<String, String>,
}

/// Why the runner does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A duration or size that is not a positive integer.
    #[error("{name} must be a positive integer, not \"{value}\"")]
    Number {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A preset that does not exist for this role.
    #[error("{name}: {problem}")]
    Preset {
        /// The variable.
        name: &'static str,
        /// What is wrong, and what would do.
        problem: String,
    },
}

impl Config {
    /// Reads the configuration from these variables.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let own: BTreeMap<String, String> = vars.into_iter().collect();
        let text = |name: &str| own.get(name).filter(|value| !value.is_empty()).cloned();
        let number = |name: &'static str, default: u64| match text(name) {
            None => Ok(default),
            Some(value) => match value.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(ConfigError::Number { name, value }),
            },
        };
        let millis = |name, default| number(name, default).map(Duration::from_millis);
        let preset = |name: &'static str, role| {
            let value = text(name).unwrap_or_else(|| "builtin".to_owned());
            Preset::parse(role, &value).map_err(|problem| ConfigError::Preset { name, problem })
        };
        Ok(Self {
            addr: text("GASTOWN_RUNNER_ADDR").unwrap_or_else(|| "0.0.0.0:8080".to_owned()),
            workspace: text("GASTOWN_WORKSPACE").unwrap_or_else(|| "/workspace".to_owned()).into(),
            dev: text("GASTOWN_DEV").as_deref() == Some("1"),
            api_url: text("GASTOWN_API_URL"),
            token: text("GASTOWN_CONTAINER_TOKEN"),
            town_id: text("GASTOWN_TOWN_ID"),
            heartbeat: millis("GASTOWN_HEARTBEAT_MS", 30_000)?,
            drain: millis("GASTOWN_DRAIN_MS", 300_000)?,
            stop_grace: millis("GASTOWN_STOP_GRACE_MS", 5_000)?,
            git_timeout: millis("GASTOWN_GIT_TIMEOUT_MS", 600_000)?,
            gate_timeout: millis("GASTOWN_GATE_TIMEOUT_MS", 1_800_000)?,
            report_for: Duration::from_mins(10),
            report_pause: Duration::from_secs(30),
            agent_idle: millis("AGENT_IDLE_TIMEOUT_MS", 120_000)?,
            refinery_idle: millis("REFINERY_IDLE_TIMEOUT_MS", 600_000)?,
            drain_idle: millis("GASTOWN_DRAIN_IDLE_MS", 10_000)?,
            gt: text("GASTOWN_GT").map_or_else(beside_the_runner, PathBuf::from),
            log_bytes: number("GASTOWN_LOG_BYTES", 10_000_000)?,
            polecat: preset("GASTOWN_POLECAT_AGENT", Role::Polecat)?,
            refinery: preset("GASTOWN_REFINERY_AGENT", Role::Refinery)?,
            mayor: preset("GASTOWN_MAYOR_AGENT", Role::Mayor)?,
            own,
        })
    }

    /// The agents' tool, if it is installed.
    #[must_use]
    pub fn gt(&self) -> Option<&Path> {
        self.gt.is_file().then_some(self.gt.as_path())
    }

    /// What runs for a role.
    #[must_use]
    pub const fn preset(&self, role: Role) -> Preset {
        match role {
            Role::Polecat => self.polecat,
            Role::Refinery => self.refinery,
            Role::Mayor => self.mayor,
        }
    }
}

fn beside_the_runner() -> PathBuf {
    std::env::current_exe().map(|path| path.with_file_name("gt")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Config;

    fn read(vars: &[(&str, &str)]) -> Result<Config, super::ConfigError> {
        Config::from_vars(vars.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn defaults_are_those_of_the_container() {
        let config = read(&[]).unwrap();
        assert_eq!(config.addr, "0.0.0.0:8080");
        assert_eq!(config.heartbeat.as_millis(), 30_000);
        assert!(!config.dev);
    }

    #[test]
    fn a_mistake_names_its_variable() {
        assert!(read(&[("GASTOWN_DRAIN_MS", "soon")]).unwrap_err().to_string().contains("GASTOWN_DRAIN_MS"));
        assert!(read(&[("GASTOWN_MAYOR_AGENT", "x")]).unwrap_err().to_string().contains("GASTOWN_MAYOR_AGENT"));
    }
}
