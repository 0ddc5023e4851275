//! What the worker pushes to a container whose agents run: a token, settings, a model, instructions, what a user looks at.
//!
//! Nothing is restarted for it. A running process finds the newest token in its file and git's credentials in their store;
//! everything else holds from the agent's next turn on, and for a script from its next attempt.

use crate::{
    conversation, credentials, jwt,
    request::Role,
    runner::{Reply, Runner},
    text,
    town_config::TownConfig,
    url::is_id,
};
use serde_json::json;
use std::sync::{Arc, Mutex};

/// What was pushed last.
#[derive(Debug, Default)]
pub struct Pushed {
    town: Mutex<Arc<TownConfig>>,
    /// What the mayor's user looks at, until a turn of the mayor has taken it.
    context: Mutex<Option<String>>,
}

impl Pushed {
    /// The town's settings.
    #[must_use]
    pub fn town(&self) -> Arc<TownConfig> {
        Arc::clone(&text::lock(&self.town))
    }

    /// Remembers settings that came with a call.
    pub fn remember(&self, town: TownConfig) -> Arc<TownConfig> {
        let town = Arc::new(town);
        *text::lock(&self.town) = Arc::clone(&town);
        town
    }

    /// What the mayor's user looks at: its next turn is told.
    pub fn put_context(&self, context: String) {
        *text::lock(&self.context) = Some(context);
    }

    /// What the mayor has not been told yet.
    pub fn take_context(&self) -> Option<String> {
        text::lock(&self.context).take()
    }
}

impl Runner {
    /// Swaps the town's token in place.
    #[must_use]
    pub fn refresh_token(&self, token: String) -> Reply {
        let Some(town) = jwt::town(&token).filter(|town| is_id(town)).or_else(|| self.own_town()) else {
            let error = "whose token this is cannot be known: it names no town, and no agent was started yet";
            return (400, json!({ "error": error }));
        };
        self.tokens.put(&town, token);
        (200, json!({ "refreshed": true, "agentsRestarted": 0, "agentsFailed": 0, "results": [] }))
    }

    /// Gives running agents the settings.
    pub fn sync(&self, town: TownConfig) {
        let town = self.pushed.remember(town);
        for dispatch in self.live() {
            dispatch.redactor.learn(&town.variables);
            dispatch.set(|settings| settings.town = Some(Arc::clone(&town)));
            let Some(url) = &dispatch.request.git_url else { continue };
            let mut variables = dispatch.request.env_vars.clone();
            variables.extend(town.variables.iter().map(|(name, value)| (name.clone(), value.clone())));
            let written = self.workspace.agent(&dispatch.agent).and_then(|directory| {
                let line = credentials::line(url, &variables);
                credentials::write(&directory.join(credentials::FILE), line.as_deref())
            });
            if let Err(error) = written {
                crate::journal::note(&format!("the credentials of {}: {error}", dispatch.agent));
            }
        }
    }

    /// What an agent thinks with from its next turn on.
    #[must_use]
    pub fn set_model(&self, agent: &str, model: String) -> Reply {
        match self.find(agent) {
            Ok(dispatch) => {
                dispatch.set(|settings| settings.model = model);
                (200, json!({ "updated": true }))
            }
            Err(reply) => reply,
        }
    }

    /// What an agent is told from its next turn on. A mayor's workspace has it as `AGENTS.md`; a rig's worktree has not: there
    /// it would be committed with the work.
    #[must_use]
    pub fn set_system_prompt(&self, agent: &str, prompt: &str) -> Reply {
        let dispatch = match self.find(agent) {
            Ok(dispatch) => dispatch,
            Err(reply) => return reply,
        };
        dispatch.set(|settings| settings.system_prompt = Some(prompt.to_owned()));
        if let Some(directory) = dispatch.workdir().filter(|_| dispatch.role == Role::Mayor)
            && let Err(error) = conversation::write_instructions(&directory, Some(prompt))
        {
            return (500, json!({ "error": format!("AGENTS.md could not be written: {error}") }));
        }
        (200, json!({ "updated": true }))
    }
}
