//! Who calls and where: an agent by its environment, else a person by `GASTOWN_TOKEN` or a login; and the paths that
//! follow from that.
//!
//! What counts for server, town and rig, first to last: flag, environment, profile; else the only one there is. A stored
//! token goes to the server it was given for and to no other.

use crate::{
    client::{Call, Client, pushed_token, segment},
    failure::Failure,
    profile::{self, Profile},
    resolve,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value as Json;
use std::sync::OnceLock;

/// Where a command is to act, as given on its command line.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Where")]
pub struct Where {
    /// The server [env: GASTOWN_API_URL, else the login]
    #[arg(long, global = true, value_name = "URL")]
    pub api: Option<String>,
    /// The town: its id, the beginning of it, or its name [env: GASTOWN_TOWN_ID, else the login, else the only one]
    #[arg(long, global = true, value_name = "TOWN")]
    pub town: Option<String>,
    /// The rig: its id, the beginning of it, or its name [env: GASTOWN_RIG_ID, else the login, else the only one]
    #[arg(long, global = true, value_name = "RIG")]
    pub rig: Option<String>,
    /// Another login than the usual one [env: GASTOWN_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Print the server's data as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// An agent in the town's container.
    Agent {
        /// Its id.
        id: String,
        /// `polecat`, `refinery`, `mayor`.
        role: String,
    },
    /// A person.
    Person {
        /// The name in the token, or the one that was given.
        user: String,
    },
}

/// A caller and where it acts.
#[derive(Debug)]
pub struct Caller {
    client: Client,
    /// Who it is.
    pub who: Who,
    town_given: Option<String>,
    rig_given: Option<String>,
    town: OnceLock<String>,
    rig: OnceLock<String>,
}

/// A variable that says something.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The name of the profile that counts.
pub fn profile_name(place: &Where) -> String {
    place.profile.clone().or_else(|| variable("GASTOWN_PROFILE")).unwrap_or_else(|| "default".to_owned())
}

/// A base url as calls need it.
pub fn trimmed(url: &str) -> String {
    url.trim().trim_end_matches('/').to_owned()
}

/// Whom a token says it is for, unchecked: the server checks. Empty if it says nothing.
pub fn subject(token: &str) -> String {
    let claims = || {
        let middle = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Json = serde_json::from_slice(&middle).ok()?;
        Some(claims.get("sub").or_else(|| claims.get("userId"))?.as_str()?.to_owned())
    };
    claims().unwrap_or_default()
}

impl Caller {
    /// Whoever the environment, else the login says.
    pub fn open(place: &Where) -> Result<Self, Failure> {
        match variable("GASTOWN_AGENT_ID") {
            Some(id) => Self::agent(place, id),
            None => Self::person(place),
        }
    }

    /// An agent, by the variables of `protocol.md` 5.1.
    fn agent(place: &Where, id: String) -> Result<Self, Failure> {
        let container = variable("GASTOWN_CONTAINER_TOKEN").map(|begun| pushed_token().unwrap_or(begun));
        let token = container.clone().or_else(|| variable("GASTOWN_SESSION_TOKEN"));
        let (api, town) = (variable("GASTOWN_API_URL"), variable("GASTOWN_TOWN_ID"));
        let (Some(token), Some(api), Some(town)) = (token.clone(), api.clone(), town.clone()) else {
            let there = [
                ("GASTOWN_API_URL", api.is_some()),
                ("GASTOWN_TOWN_ID", town.is_some()),
                ("GASTOWN_CONTAINER_TOKEN", token.is_some()),
            ];
            let missing: Vec<&str> = there.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
            return Err(Failure::usage(
                format!("Missing required Gastown environment variables: {}", missing.join(", ")),
                "The town's container sets them for its agents. To act as a person: unset GASTOWN_AGENT_ID, and gt login.",
            ));
        };
        let api = trimmed(&api);
        if place.api.as_ref().is_some_and(|asked| trimmed(asked) != api) {
            return Err(Failure::usage(
                format!("an agent's token is for {api} alone"),
                "Leave --api away. To act as a person: unset GASTOWN_AGENT_ID, and gt login.",
            ));
        }
        let role = variable("GASTOWN_AGENT_ROLE").unwrap_or_else(|| "polecat".to_owned());
        let own_rig = variable("GASTOWN_RIG_ID");
        let mut headers = Vec::new();
        if container.is_some() {
            headers.push(("X-Gastown-Agent-Id", id.clone()));
            // The mayor belongs to no rig.
            headers.extend(own_rig.clone().filter(|_| role != "mayor").map(|rig| ("X-Gastown-Rig-Id", rig)));
            headers.extend(variable("GASTOWN_DISPATCH_ID").map(|dispatch| ("X-Gastown-Dispatch-Id", dispatch)));
        }
        let renews = container.is_some().then(|| town.clone());
        let caller = Self {
            client: Client::of_agent(api, token, headers, renews),
            who: Who::Agent { id, role },
            town_given: Some(place.town.clone().unwrap_or_else(|| town.clone())),
            rig_given: place.rig.clone().or_else(|| own_rig.clone()),
            town: OnceLock::new(),
            rig: OnceLock::new(),
        };
        // What the container says is taken as it is; so is a town that an agent names, since it cannot list towns.
        let _ = caller.town.set(place.town.clone().unwrap_or(town));
        if let (None, Some(rig)) = (&place.rig, own_rig) {
            let _ = caller.rig.set(rig);
        }
        Ok(caller)
    }

    fn person(place: &Where) -> Result<Self, Failure> {
        let stored = profile::load(&profile::path(&profile_name(place))?)?.unwrap_or_default();
        let api = place.api.clone().or_else(|| variable("GASTOWN_API_URL")).unwrap_or_else(|| stored.api.clone());
        let api = trimmed(&api);
        let at_home = api == stored.api;
        let token =
            variable("GASTOWN_TOKEN").or_else(|| Some(stored.token.clone()).filter(|t| at_home && !t.is_empty()));
        let (Some(token), false) = (token, api.is_empty()) else {
            let what = if api.is_empty() || stored.api.is_empty() {
                "nobody is logged in".to_owned()
            } else {
                format!("the login is for {}, not for {api}", stored.api)
            };
            return Err(Failure::usage(what, "Log in first: gt login --api URL --token TOKEN (or set GASTOWN_TOKEN)."));
        };
        let user = Some(subject(&token)).filter(|user| !user.is_empty()).unwrap_or_else(|| stored.user.clone());
        // The usual town and rig are those of the server that they were chosen on.
        let usual = if at_home { stored } else { Profile::default() };
        Ok(Self::of_person(
            api,
            token,
            user,
            place.town.clone().or_else(|| variable("GASTOWN_TOWN_ID")).or(usual.town),
            place.rig.clone().or_else(|| variable("GASTOWN_RIG_ID")).or(usual.rig),
        ))
    }

    /// A person with this token.
    pub fn of_person(api: String, token: String, user: String, town: Option<String>, rig: Option<String>) -> Self {
        Self {
            client: Client::of_person(api, token),
            who: Who::Person { user },
            town_given: town,
            rig_given: rig,
            town: OnceLock::new(),
            rig: OnceLock::new(),
        }
    }

    /// The worker's base url.
    pub fn api(&self) -> &str {
        self.client.api()
    }

    /// The town and the rig as they were given, looked up by nobody.
    pub fn given(&self) -> (Option<&str>, Option<&str>) {
        (self.town_given.as_deref(), self.rig_given.as_deref())
    }

    /// Makes a call.
    pub fn call(&self, call: &Call) -> Result<Json, Failure> {
        self.client.call(call)
    }

    /// What a body says about who speaks.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Agent { id, .. } => id.clone(),
            Who::Person { user } => format!("user:{user}"),
        }
    }

    /// Whether this is the town's mayor.
    pub fn is_mayor(&self) -> bool {
        matches!(&self.who, Who::Agent { role, .. } if role == "mayor")
    }

    /// The town that is meant.
    pub fn town(&self) -> Result<String, Failure> {
        if let Some(town) = self.town.get() {
            return Ok(town.clone());
        }
        let found = match &self.town_given {
            Some(given) if resolve::is_id(given) => given.clone(),
            given => resolve::one(&self.call(&Call::get(self.user_path("towns")?))?, "town", given.as_deref())?,
        };
        Ok(self.town.get_or_init(|| found).clone())
    }

    /// The rig that is meant.
    pub fn rig(&self) -> Result<String, Failure> {
        if let Some(rig) = self.rig.get() {
            return Ok(rig.clone());
        }
        let found = match &self.rig_given {
            Some(given) if resolve::is_id(given) => given.clone(),
            // The mayor's own calls go to a rig that only it has.
            None if self.is_mayor() => format!("mayor-{}", self.town()?),
            given => resolve::one(&self.rigs()?, "rig", given.as_deref())?,
        };
        Ok(self.rig.get_or_init(|| found).clone())
    }

    /// The rigs in which something may be: the one that is meant, else all.
    pub fn rigs_to_search(&self) -> Result<Vec<String>, Failure> {
        if self.rig_given.is_some() && !self.is_mayor() {
            return Ok(vec![self.rig()?]);
        }
        let rigs = self.rigs()?;
        Ok(resolve::listed(&rigs).filter_map(resolve::id_of).collect())
    }

    /// The town's rigs.
    pub fn rigs(&self) -> Result<Json, Failure> {
        self.call(&Call::get(self.mayor_path("rigs")?))
    }

    /// `/api/towns/:t/…`
    pub fn town_path(&self, rest: &str) -> Result<String, Failure> {
        Ok(format!("/api/towns/{}/{rest}", segment(&self.town()?)))
    }

    /// `/api/towns/:t/rigs/:r/…` of the rig that is meant.
    pub fn rig_path(&self, rest: &str) -> Result<String, Failure> {
        self.path_in_rig(&self.rig()?, rest)
    }

    /// The same where the town does not look at the rig: where nobody said which, any will do.
    pub fn any_rig_path(&self, rest: &str) -> Result<String, Failure> {
        let any = match (&self.who, &self.rig_given) {
            (Who::Person { .. }, None) => self.rigs_to_search()?.into_iter().next(),
            _ => None,
        };
        self.path_in_rig(&any.map_or_else(|| self.rig(), Ok)?, rest)
    }

    /// The same of another rig.
    pub fn path_in_rig(&self, rig: &str, rest: &str) -> Result<String, Failure> {
        self.town_path(&format!("rigs/{}/{rest}", segment(rig)))
    }

    /// A list of a rig: by the mayor's tools if the mayor asks, else by the rig's own route. Both have the same.
    pub fn mayor_or_rig_path(&self, rig: &str, rest: &str) -> Result<String, Failure> {
        if self.is_mayor() {
            self.mayor_path(&format!("rigs/{}/{rest}", segment(rig)))
        } else {
            self.path_in_rig(rig, rest)
        }
    }

    /// `/api/mayor/:t/tools/…`
    pub fn mayor_path(&self, rest: &str) -> Result<String, Failure> {
        Ok(format!("/api/mayor/{}/tools/{rest}", segment(&self.town()?)))
    }

    /// `/api/users/:u/…`
    pub fn user_path(&self, rest: &str) -> Result<String, Failure> {
        match &self.who {
            Who::Person { user } if !user.is_empty() => Ok(format!("/api/users/{}/{rest}", segment(user))),
            Who::Person { .. } => Err(Failure::usage(
                "the token does not say whose it is",
                "Log in with the user's name: gt login --user NAME …",
            )),
            Who::Agent { .. } => {
                Err(Failure::usage("this is for people, not for agents", "Ask a person: gt escalate."))
            }
        }
    }

    /// `/api/towns/:t/rigs/:r/agents/:a/…` of the agent that calls.
    pub fn agent_path(&self, rest: &str) -> Result<String, Failure> {
        match &self.who {
            Who::Agent { id, .. } => self.rig_path(&format!("agents/{}/{rest}", segment(id))),
            Who::Person { .. } => Err(Failure::usage(
                "this is for an agent in a town's container: GASTOWN_AGENT_ID is not set",
                "People have other commands: gt --help lists them.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user_and_a_containers_token_the_towns_owner() {
        let token = |claims: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(subject(&token(r#"{"sub":"alice"}"#)), "alice");
        assert_eq!(subject(&token(r#"{"userId":"bob"}"#)), "bob");
        for odd in ["", "a.b", "a.b.c", &token("[]")] {
            assert_eq!(subject(odd), "", "{odd}");
        }
    }
}
