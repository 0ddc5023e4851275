//! A home of its own for each test, the real `gt` in it, and a fake worker.

use crate::fake_worker::FakeWorker;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

pub const TOWN: &str = "11111111-1111-4111-8111-111111111111";
pub const RIG: &str = "22222222-2222-4222-8222-222222222222";
pub const AGENT: &str = "33333333-3333-4333-8333-333333333333";
pub const BEAD: &str = "44444444-4444-4444-8444-444444444444";
pub const OTHER: &str = "55555555-5555-4555-8555-555555555555";
pub const DISPATCH: &str = "66666666-6666-4666-8666-666666666666";
/// `{"sub":"alice"}` between two dots; the fake checks no signature.
pub const TOKEN: &str = "x.eyJzdWIiOiJhbGljZSJ9.y";

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    /// It must have gone well.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
    /// It must have ended with this code.
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// A test's world.
pub struct World {
    pub worker: FakeWorker,
    pub home: tempfile::TempDir,
    variables: BTreeMap<String, String>,
}

impl World {
    fn bare() -> Self {
        let home = tempfile::tempdir().unwrap();
        let variables = [("HOME", home.path().display().to_string()), ("PATH", std::env::var("PATH").unwrap())];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { worker: FakeWorker::start(), home, variables }
    }

    /// Nobody is logged in.
    pub fn stranger() -> Self {
        Self::bare()
    }

    /// A person who has logged in: one town, one rig.
    pub fn person() -> Self {
        let world = Self::bare();
        world.worker.gives("GET /api/users/alice/towns", &json!([{"id": TOWN, "name": "Home"}]));
        world.worker.gives(&format!("GET /api/mayor/{TOWN}/tools/rigs"), &json!([{"id": RIG, "name": "app"}]));
        world.run(&["login", "--api", &world.worker.url, "--token", TOKEN]).ok();
        world
    }

    /// An agent in a container, as the runner starts it.
    pub fn agent(role: &str) -> Self {
        let mut world = Self::bare();
        let url = world.worker.url.clone();
        for (name, value) in [
            ("GASTOWN_API_URL", url.as_str()),
            ("GASTOWN_TOWN_ID", TOWN),
            ("GASTOWN_RIG_ID", RIG),
            ("GASTOWN_AGENT_ID", AGENT),
            ("GASTOWN_AGENT_ROLE", role),
            ("GASTOWN_CONTAINER_TOKEN", "old-token"),
            ("GASTOWN_DISPATCH_ID", DISPATCH),
        ] {
            world.set(name, value);
        }
        world
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.remove(name);
        self
    }

    /// Where a profile is stored.
    pub fn profile(&self, name: &str) -> PathBuf {
        self.home.path().join(".config/gastown").join(format!("{name}.json"))
    }

    /// The program, ready to start in this world.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gt"));
        command.args(arguments).env_clear().envs(&self.variables).current_dir(self.home.path());
        command
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, "")
    }

    /// Runs it with something on its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
