//! Where work is: `gt towns` and `gt rigs`, and which of them is the usual one.

use crate::{
    caller::{Caller, Where, profile_name},
    client::Call,
    failure::Failure,
    output::{Answer, items, table, time, word},
    profile, resolve,
};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

/// `gt towns`
#[derive(Debug, Args)]
pub struct TownsArgs {
    #[command(subcommand)]
    command: Option<TownCommand>,
}

/// `gt towns …`
#[derive(Debug, Subcommand)]
enum TownCommand {
    /// Found a town
    #[command(after_help = "Examples:\n  gt towns create \"My town\"")]
    Create {
        /// Its name
        name: String,
    },
    /// Make a town the usual one of this login
    #[command(after_help = "Examples:\n  gt towns use \"My town\"")]
    Use {
        /// The town: its id, the beginning of it, or its name
        name: String,
    },
}

/// `gt rigs`
#[derive(Debug, Args)]
pub struct RigsArgs {
    #[command(subcommand)]
    command: Option<RigCommand>,
}

/// `gt rigs …`
#[derive(Debug, Subcommand)]
enum RigCommand {
    /// Attach a repository to the town
    #[command(
        visible_alias = "add",
        after_help = "Examples:\n  gt rigs create app https://github.com/me/app.git --branch main"
    )]
    Create {
        /// Its name
        name: String,
        /// The repository's address
        git_url: String,
        /// The branch that work lands on
        #[arg(long, default_value = "main")]
        branch: String,
    },
    /// Make a rig the usual one of this login
    #[command(after_help = "Examples:\n  gt rigs use app")]
    Use {
        /// The rig: its id, the beginning of it, or its name
        name: String,
    },
}

impl TownsArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller, place: &Where) -> Result<Answer, Failure> {
        let towns = || caller.call(&Call::get(caller.user_path("towns")?));
        match &self.command {
            None => Ok(Answer::of(towns()?, |towns| {
                let row = |town: &&Json| vec![word(town, "id"), word(town, "name"), time(town, "created_at")];
                let rows: Vec<Vec<String>> = items(towns, "").iter().map(row).collect();
                table(&["TOWN", "NAME", "CREATED"], &rows, "no towns; found one: gt towns create NAME")
            })),
            Some(TownCommand::Create { name }) => {
                let made = caller.call(&Call::post(caller.user_path("towns")?, json!({ "name": name })))?;
                Ok(Answer::of(made, |town| {
                    format!("founded {}\nmake it the usual one: gt towns use {0}", word(town, "id"))
                }))
            }
            Some(TownCommand::Use { name }) => {
                let id = resolve::one(&towns()?, "town", Some(name))?;
                // A rig of another town is no longer the usual one.
                remember(place, |stored| (stored.town, stored.rig) = (Some(id.clone()), None))?;
                Ok(Answer::new(json!({ "town": id }), format!("the usual town is now {id}")))
            }
        }
    }
}

impl RigsArgs {
    /// Runs it.
    pub fn run(&self, caller: &Caller, place: &Where) -> Result<Answer, Failure> {
        match &self.command {
            None => Ok(Answer::of(caller.rigs()?, |rigs| {
                let row = |rig: &&Json| {
                    vec![word(rig, "id"), word(rig, "name"), word(rig, "default_branch"), word(rig, "git_url")]
                };
                let rows: Vec<Vec<String>> = items(rigs, "").iter().map(row).collect();
                table(&["RIG", "NAME", "BRANCH", "REPOSITORY"], &rows, "no rigs; attach one: gt rigs create NAME URL")
            })),
            Some(RigCommand::Create { name, git_url, branch }) => {
                let body = json!({
                    "town_id": caller.town()?,
                    "name": name,
                    "git_url": git_url,
                    "default_branch": branch,
                });
                let made = caller.call(&Call::post(caller.user_path("rigs")?, body))?;
                Ok(Answer::of(made, |rig| format!("{} is attached as {}", word(rig, "name"), word(rig, "id"))))
            }
            Some(RigCommand::Use { name }) => {
                let id = resolve::one(&caller.rigs()?, "rig", Some(name))?;
                let town = caller.town()?;
                remember(place, |stored| (stored.town, stored.rig) = (Some(town.clone()), Some(id.clone())))?;
                Ok(Answer::new(json!({ "rig": id }), format!("the usual rig is now {id}")))
            }
        }
    }
}

fn remember(place: &Where, change: impl FnOnce(&mut profile::Profile)) -> Result<(), Failure> {
    let path = profile::path(&profile_name(place))?;
    let Some(mut stored) = profile::load(&path)? else {
        return Err(Failure::usage(
            "there is no login to remember it in",
            "Log in first: gt login --api URL --token TOKEN.",
        ));
    };
    change(&mut stored);
    profile::save(&path, &stored)
}
