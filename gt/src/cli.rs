//! The commands, with the examples that their `--help` shows.

use crate::{
    agents::AgentsArgs,
    batch::BatchArgs,
    bead::{BeadCommand, ListArgs},
    breaker::BreakerCommand,
    caller::{Caller, Where},
    convoy::ConvoyCommand,
    dispatch::{self, AttemptsArgs, CancelArgs, ExplainArgs, RedriveArgs},
    escalation::{EscalateArgs, EscalationsArgs},
    failure::Failure,
    login::{self, LoginArgs},
    mail::MailCommand,
    mayor::MayorCommand,
    mcp,
    molecule::MolCommand,
    nudge::NudgeArgs,
    output::{self, Answer},
    own::{self, CheckpointArgs, DoneArgs, StatusArgs},
    places::{RigsArgs, TownsArgs},
    review::RequestChangesArgs,
    sling::SlingArgs,
    triage::TriageCommand,
    watch::WatchArgs,
};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use std::process::ExitCode;

/// gt: a town of coding agents, from the command line.
///
/// Agents use it with what their container sets; people log in once.
#[derive(Debug, Parser)]
#[command(
    name = "gt",
    version,
    max_term_width = 110,
    after_help = "Examples:\n  gt login --api https://gastown.example --token - \
                   < token.txt\n  gt sling \"Add a changelog\" --body - < notes.md\n  gt watch --bead 0b5e1f2a\n\nExit codes: \
                   0 done, 1 refused by the server (gt watch: the bead failed), 2 wrong usage,\n3 the server cannot be \
                   reached or has no time: try again."
)]
pub struct Cli {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
enum Command {
    /// For agents: read who you are, your bead, your mail
    #[command(after_help = "Examples:\n  gt prime\n  gt prime --json")]
    Prime,
    /// For agents: hand in your work
    #[command(after_help = "Examples:\n  gt done --summary \"The form validates addresses\"\n  gt done --branch \
                            gt/toast/0b5e1f2a\n  gt done --no-changes --summary \"It was fixed already\"")]
    Done(DoneArgs),
    /// For agents: remember something across sessions
    #[command(after_help = "Examples:\n  gt checkpoint '{\"step\": 3}'\n  gt checkpoint --clear")]
    Checkpoint(CheckpointArgs),
    /// For agents: say what you are doing
    #[command(after_help = "Examples:\n  gt status \"Running the tests\"")]
    Status(StatusArgs),
    /// For refineries: send the work back with what has to change
    #[command(after_help = "Examples:\n  gt request-changes \"The migration has no test\" --file migrations/7.sql")]
    RequestChanges(RequestChangesArgs),
    /// For agents: the steps of a molecule
    #[command(subcommand, after_help = "Examples:\n  gt mol current")]
    Mol(MolCommand),
    /// For triage agents: answer a question about a stuck agent
    #[command(subcommand, after_help = "Examples:\n  gt triage resolve 0b5e1f2a RESTART --notes \"It hangs\"")]
    Triage(TriageCommand),
    /// Read and write mail
    #[command(
        subcommand,
        after_help = "Examples:\n  gt mail check\n  gt mail send mayor --subject Question \"Which branch?\""
    )]
    Mail(MailCommand),
    /// Tell something to an agent at work
    #[command(
        after_help = "Examples:\n  gt nudge Toast \"The build is fixed\"\n  gt nudge Toast \"Stop\" --mode immediate"
    )]
    Nudge(NudgeArgs),
    /// Ask for help
    #[command(
        after_help = "Examples:\n  gt escalate \"No access to the registry\" --priority high --body - < error.log"
    )]
    Escalate(EscalateArgs),
    /// Show, close, list or create beads
    #[command(subcommand, after_help = "Examples:\n  gt bead show 0b5e1f2a")]
    Bead(BeadCommand),

    /// Hand a piece of work to an agent
    #[command(
        after_help = "Examples:\n  gt sling \"Add a changelog\"\n  gt sling \"Fix the log-in\" --body-file bug.md --priority \
                            high\n  gt sling \"Deploy\" --after 0b5e1f2a"
    )]
    Sling(SlingArgs),
    /// Hand out several pieces of work that depend on each other
    #[command(after_help = BATCH)]
    Batch(BatchArgs),
    /// List a rig's beads
    #[command(after_help = "Examples:\n  gt beads --status failed\n  gt beads --assignee Toast")]
    Beads(ListArgs),
    /// List agents
    #[command(after_help = "Examples:\n  gt agents\n  gt agents --status working\n  gt agents reset Toast")]
    Agents(AgentsArgs),
    /// Convoys: work that lands together
    #[command(subcommand, after_help = "Examples:\n  gt convoy list\n  gt convoy show 0b5e1f2a")]
    Convoy(ConvoyCommand),
    /// Why a bead is running, or is not
    #[command(after_help = "Examples:\n  gt explain 0b5e1f2a")]
    Explain(ExplainArgs),
    /// What was tried, and how it ended
    #[command(after_help = "Examples:\n  gt attempts 0b5e1f2a\n  gt attempts --outcome failed --class infra")]
    Attempts(AttemptsArgs),
    /// Bring failed work back
    #[command(
        after_help = "Examples:\n  gt redrive 0b5e1f2a --reason \"The key is renewed\"\n  gt redrive --fingerprint 3f2a \
                            --reason \"The network is back\" --dry-run"
    )]
    Redrive(RedriveArgs),
    /// Stop a bead for good
    #[command(after_help = "Examples:\n  gt cancel 0b5e1f2a --reason \"No longer wanted\"")]
    Cancel(CancelArgs),
    /// Circuit breakers
    #[command(subcommand, after_help = "Examples:\n  gt breaker show\n  gt breaker probe town")]
    Breaker(BreakerCommand),
    /// What the town is doing, and what holds it up
    #[command(after_help = "Examples:\n  gt dispatch\n  gt dispatch --json")]
    Dispatch,
    /// Who asked for help
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  gt escalations --open\n  gt escalations ack \
                                                                    0b5e1f2a"
    )]
    Escalations(EscalationsArgs),
    /// Talk to the mayor
    #[command(
        subcommand,
        after_help = "Examples:\n  gt mayor message \"Split the log-in into beads\"\n  gt mayor status"
    )]
    Mayor(MayorCommand),
    /// Follow a town, or one bead until it is final
    #[command(
        after_help = "Examples:\n  gt watch\n  gt watch --bead 0b5e1f2a && echo merged\n\nWith --json every line is one \
                            object: the frames of the status socket as they come;\nwithout the socket the town's dispatch \
                            when it changes, and its events."
    )]
    Watch(WatchArgs),

    /// List, found or choose towns
    #[command(after_help = "Examples:\n  gt towns\n  gt towns create \"My town\"\n  gt towns use \"My town\"")]
    Towns(TownsArgs),
    /// List, attach or choose rigs
    #[command(
        after_help = "Examples:\n  gt rigs\n  gt rigs create app https://github.com/me/app.git\n  gt rigs use app"
    )]
    Rigs(RigsArgs),
    /// Remember a server and a token
    #[command(
        after_help = "Examples:\n  gt login --api https://gastown.example --token - < token.txt\n  gt login --api \
                            http://127.0.0.1:8787 --token \"$(make -s token USER=me)\" --town \"My town\""
    )]
    Login(LoginArgs),
    /// Forget them
    #[command(after_help = "Examples:\n  gt logout\n  gt logout --profile work")]
    Logout,
    /// Show as whom and where commands act
    #[command(after_help = "Examples:\n  gt whoami")]
    Whoami,
    /// Serve the same as tools for a model (Model Context Protocol over stdio)
    #[command(
        after_help = "Examples:\n  gt mcp\n  claude mcp add gastown -- gt mcp\n\nAn agent gets the tools of its role; a \
                            person who logged in gets the mayor's."
    )]
    Mcp,
    /// Print the completion of a shell
    #[command(
        after_help = "Examples:\n  gt completions bash > ~/.local/share/bash-completion/completions/gt\n  gt completions \
                            zsh > ~/.zfunc/_gt\n  gt completions fish > ~/.config/fish/completions/gt.fish"
    )]
    Completions(CompletionsArgs),
}

const BATCH: &str = "Examples:
  gt batch \"Log in\" --task \"schema: Add the table\" --task \"form: Build the form <- schema\"
  gt batch \"Log in\" --file plan.txt --dry-run
  gt batch --file plan.json --staged

A plan as text has one task per line, what it waits for behind <-, its description
indented below it:

  schema: Add the users table
    With an index on the address.
  form: Build the form <- schema
  test: Test both <- schema, form

The same as JSON: {\"title\": \"Log in\", \"tasks\": [{\"key\": \"schema\", \"title\": \"…\", \"body\": \"…\"},
{\"title\": \"…\", \"depends_on\": [\"schema\"]}]}; numbers in depends_on are places, from 0.";

/// `gt completions`
#[derive(Debug, Args)]
struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

impl Cli {
    /// Whether the caller wants JSON.
    pub fn wants_json(&self) -> bool {
        self.place.json
    }

    /// Runs the command and prints what came of it.
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let place = &self.place;
        let caller = || Caller::open(place);
        let answer: Answer = match &self.command {
            Command::Prime => own::run_prime(&caller()?)?,
            Command::Done(args) => args.run(&caller()?)?,
            Command::Checkpoint(args) => args.run(&caller()?)?,
            Command::Status(args) => args.run(&caller()?)?,
            Command::RequestChanges(args) => args.run(&caller()?)?,
            Command::Mol(command) => command.run(&caller()?)?,
            Command::Triage(command) => command.run(&caller()?)?,
            Command::Mail(command) => command.run(&caller()?)?,
            Command::Nudge(args) => args.run(&caller()?)?,
            Command::Escalate(args) => args.run(&caller()?)?,
            Command::Bead(command) => command.run(&caller()?)?,
            Command::Sling(args) => args.run(&caller()?)?,
            Command::Batch(args) => args.run(caller)?,
            Command::Beads(args) => args.run(&caller()?)?,
            Command::Agents(args) => args.run(&caller()?)?,
            Command::Convoy(command) => command.run(&caller()?)?,
            Command::Explain(args) => args.run(&caller()?)?,
            Command::Attempts(args) => args.run(&caller()?, place.rig.as_ref())?,
            Command::Redrive(args) => args.run(&caller()?)?,
            Command::Cancel(args) => args.run(&caller()?)?,
            Command::Breaker(command) => command.run(&caller()?)?,
            Command::Dispatch => dispatch::run(&caller()?)?,
            Command::Escalations(args) => args.run(&caller()?)?,
            Command::Mayor(command) => command.run(&caller()?)?,
            Command::Watch(args) => return args.run(&caller()?, place.json),
            Command::Towns(args) => args.run(&caller()?, place)?,
            Command::Rigs(args) => args.run(&caller()?, place)?,
            Command::Login(args) => args.run(place)?,
            Command::Logout => login::logout(place)?,
            Command::Whoami => login::whoami(place)?,
            Command::Mcp => return mcp::run(caller()?),
            Command::Completions(CompletionsArgs { shell }) => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Self::command(), "gt", &mut script);
                output::line(String::from_utf8_lossy(&script).trim_end());
                return Ok(ExitCode::SUCCESS);
            }
        };
        answer.print(place.json);
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command as Shape;

    fn visit(command: &Shape, path: &str, see: &mut dyn FnMut(&Shape, &str)) {
        see(command, path);
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            visit(sub, &format!("{path} {}", sub.get_name()), see);
        }
    }

    #[test]
    fn every_command_says_what_it_is_and_shows_examples_that_parse() {
        let mut command = Cli::command();
        command.build();
        visit(&command, "gt", &mut |command, path| {
            assert!(command.get_about().is_some(), "{path} says nothing about itself");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{path} has no examples");
            for example in help.lines().map(str::trim).filter(|line| line.starts_with("gt ")) {
                let line = example.split([';', '<', '>', '&']).next().unwrap();
                let line = if example.contains("--task") { example } else { line };
                let words = words(line);
                // `gt watch --help` and the like parse to their help.
                match Cli::try_parse_from(&words) {
                    Ok(_) => {}
                    Err(error) => panic!("{path}: {example}: {words:?}: {error}"),
                }
            }
        });
    }

    /// As a shell splits a line, without its substitutions.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for c in line.chars() {
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(q), c) if q == c => quote = None,
                (None, ' ') => words.push(std::mem::take(&mut word)),
                _ => word.push(c),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
