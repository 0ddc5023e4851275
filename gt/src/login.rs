//! `gt login | logout | whoami`.

use crate::{
    caller::{self, Caller, Where, Who, profile_name, trimmed, variable},
    client::Call,
    failure::Failure,
    input,
    output::{Answer, facts, items, word},
    profile::{self, Profile},
    resolve,
};
use clap::Args;
use serde_json::{Value as Json, json};

/// `gt login`
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The token; - reads standard input [env: GASTOWN_TOKEN]. A command line can be seen by others on the machine
    #[arg(long)]
    token: Option<String>,
    /// The user whose towns these are [default: the token's]
    #[arg(long)]
    user: Option<String>,
}

impl LoginArgs {
    /// Runs it: nothing is stored that the server does not accept.
    pub fn run(&self, place: &Where) -> Result<Answer, Failure> {
        let path = profile::path(&profile_name(place))?;
        let api = place.api.clone().or_else(|| variable("GASTOWN_API_URL"));
        let api = api.or(profile::load(&path).ok().flatten().map(|stored| stored.api)).map(|api| trimmed(&api));
        let Some(api) = api.filter(|api| api.starts_with("http://") || api.starts_with("https://")) else {
            return Err(Failure::usage("the server is missing", "Name it: gt login --api https://gastown.example …"));
        };
        let token = match self.token.as_deref() {
            Some(given) => input::text(given)?,
            None => match variable("GASTOWN_TOKEN") {
                Some(token) => token,
                None => input::text("-")?,
            },
        };
        let token = token.trim().to_owned();
        if token.is_empty() {
            return Err(Failure::usage("the token is empty", "Give it by --token, GASTOWN_TOKEN or standard input."));
        }
        let user = self.user.clone().unwrap_or_else(|| caller::subject(&token));
        let caller = Caller::of_person(api.clone(), token.clone(), user.clone(), None, None);
        let towns = caller.call(&Call::get(caller.user_path("towns")?))?;
        let town = match &place.town {
            Some(given) => Some(resolve::one(&towns, "town", Some(given))?),
            None => resolve::one(&towns, "town", None).ok(),
        };
        let stored = Profile { api, token, user, town, rig: None };
        profile::save(&path, &stored)?;
        let text = facts(&[
            ("user", stored.user.clone()),
            ("server", stored.api.clone()),
            ("town", stored.town.clone().unwrap_or_else(|| usual(&towns))),
            ("stored in", path.display().to_string()),
        ]);
        Ok(Answer::new(json!({ "api": stored.api, "user": stored.user, "town": stored.town }), text))
    }
}

/// What to do about the usual town.
fn usual(towns: &Json) -> String {
    match items(towns, "").len() {
        0 => "none yet: gt towns create NAME".to_owned(),
        several => format!("none of {several} yet: gt towns use NAME"),
    }
}

/// `gt logout`
pub fn logout(place: &Where) -> Result<Answer, Failure> {
    let path = profile::path(&profile_name(place))?;
    let removed = profile::remove(&path)?;
    let text = if removed { "logged out" } else { "nobody was logged in" };
    Ok(Answer::new(json!({ "logged_out": removed }), text))
}

/// `gt whoami`: says what other commands would take, without asking the server.
pub fn whoami(place: &Where) -> Result<Answer, Failure> {
    let caller = Caller::open(place)?;
    let (kind, name) = match &caller.who {
        Who::Agent { id, role } => (role.clone(), id.clone()),
        Who::Person { user } => ("person".to_owned(), user.clone()),
    };
    let (town, rig) = caller.given();
    let data = json!({ "who": name, "as": kind, "api": caller.api(), "town": town, "rig": rig });
    Ok(Answer::of(data, |data| {
        facts(&[
            ("who", word(data, "who")),
            ("as", word(data, "as")),
            ("server", word(data, "api")),
            ("town", word(data, "town")),
            ("rig", word(data, "rig")),
        ])
    }))
}
