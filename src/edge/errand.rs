//! What the worker hands to a town's object: who asks, and what, as it came in.
//!
//! The command itself does not travel. The worker reads the request to refuse what is malformed, and the object reads
//! the same text by the same code; so there is one reading of each route and no second encoding of sixty commands, which
//! would be a seventh of the Wasm. The commands that no route stands for travel as they are.

use super::{
    envelope::Refusal,
    fields::{Body, Query},
    request,
    route::{self, Kind, Route},
    words::{Reader, Writer},
};
use crate::town::{
    command::{Actor, Command},
    id::{AgentId, RigId},
};

/// A request on its way to a town.
#[derive(Clone, Debug, PartialEq)]
pub struct Errand {
    /// Who asks; the worker has made sure of it.
    pub actor: Actor,
    /// What.
    pub what: What,
}

/// What is asked of a town.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields as in the commands of the same name")]
pub enum What {
    /// A request at a route.
    Route { method: String, path: String, query: String, body: String },
    /// [`Command::Found`].
    Found { town_id: String, name: String, owner_user_id: String },
    /// [`Command::AddRig`].
    AddRig { rig_id: String, name: String, git_url: String, default_branch: String },
    /// [`Command::RemoveRig`].
    RemoveRig { rig_id: String },
    /// [`Command::KnowsAgent`], asked by the agent's store.
    KnowsAgent { agent_id: String },
    /// [`Command::ListRigs`], asked by the worker itself.
    ListRigs,
    /// [`Command::ContainerExited`], told by the container's object.
    ContainerExited { instance: Option<String>, exit_code: Option<i32>, reason: String },
    /// [`Command::ContainerNeeded`], asked by the container's object.
    ContainerNeeded,
}

/// An errand as the object carries it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Its name in the ledger.
    pub verb: String,
    /// The command.
    pub command: Command,
    /// The route, if one stands for it.
    pub route: Option<Route>,
    /// It is one of the mayor's.
    pub mayors: bool,
    /// Its answer wears no envelope: `/debug` is bare, and `mayor-id` has its fields beside `success`.
    pub bare: bool,
}

impl Errand {
    /// As it travels.
    #[must_use]
    pub fn write(&self) -> String {
        let to = match &self.actor {
            Actor::User { sub } => Writer::new("user").text(sub),
            Actor::Operator { sub } => Writer::new("operator").text(sub),
            Actor::Container { agent_id, dispatch_id } => {
                let agent = agent_id.as_ref().map(AgentId::as_str);
                Writer::new("container").opt(agent).opt(dispatch_id.as_deref())
            }
            Actor::System => Writer::new("system"),
        };
        match &self.what {
            What::Route { method, path, query, body } => to.texts(&["route", method, path, query, body]),
            What::Found { town_id, name, owner_user_id } => to.texts(&["found", town_id, name, owner_user_id]),
            What::AddRig { rig_id, name, git_url, default_branch } => {
                to.texts(&["add_rig", rig_id, name, git_url, default_branch])
            }
            What::RemoveRig { rig_id } => to.texts(&["remove_rig", rig_id]),
            What::KnowsAgent { agent_id } => to.texts(&["knows_agent", agent_id]),
            What::ListRigs => to.text("list_rigs"),
            What::ContainerExited { instance, exit_code, reason } => {
                let code = exit_code.map(|c| c.to_string());
                to.text("container_exited").opt(instance.as_deref()).opt(code.as_deref()).text(reason)
            }
            What::ContainerNeeded => to.text("container_needed"),
        }
        .done()
    }
    /// Reads what [`Self::write`] wrote; `None` if it is something else.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut r = Reader::of(text)?;
        let actor = match r.text()?.as_str() {
            "user" => Actor::User { sub: r.text()? },
            "operator" => Actor::Operator { sub: r.text()? },
            "container" => Actor::Container { agent_id: r.opt()?.map(AgentId), dispatch_id: r.opt()? },
            "system" => Actor::System,
            _ => return None,
        };
        let name = r.text()?;
        let mut next = || r.text();
        let what = match name.as_str() {
            "route" => What::Route { method: next()?, path: next()?, query: next()?, body: next()? },
            "found" => What::Found { town_id: next()?, name: next()?, owner_user_id: next()? },
            "add_rig" => What::AddRig { rig_id: next()?, name: next()?, git_url: next()?, default_branch: next()? },
            "remove_rig" => What::RemoveRig { rig_id: next()? },
            "knows_agent" => What::KnowsAgent { agent_id: next()? },
            "list_rigs" => What::ListRigs,
            "container_exited" => What::ContainerExited {
                instance: r.opt()?,
                exit_code: r.opt()?.map(|code| code.parse()).transpose().ok()?,
                reason: r.text()?,
            },
            "container_needed" => What::ContainerNeeded,
            _ => return None,
        };
        r.ended().then_some(Self { actor, what })
    }
}

impl What {
    /// Reads the command out of it.
    pub fn read(self, actor: &Actor) -> Result<Order, Refusal> {
        let order =
            |verb: &str, command| Ok(Order { verb: verb.to_owned(), command, route: None, mayors: false, bare: false });
        match self {
            Self::Route { method, path, query, body } => {
                let matched = route::find(&method, &path).ok_or_else(Refusal::unknown_route)?;
                let body = Body::parse(body.as_bytes());
                let command = request::command(&matched, &Query::parse(&query), &body, actor)?;
                let command = command.ok_or_else(Refusal::unknown_route)?;
                let (verb, mayors) = (snake_case(matched.name), matched.kind == Kind::Mayor);
                let bare = matched.pattern.starts_with("/debug/") || matched.route == Route::MayorId;
                Ok(Order { verb, command, route: Some(matched.route), mayors, bare })
            }
            Self::Found { town_id, name, owner_user_id } => {
                order("found", Command::Found { town_id, name, owner_user_id })
            }
            Self::AddRig { rig_id, name, git_url, default_branch } => {
                let (rig_id, default_branch) = (RigId(rig_id), Some(default_branch));
                order("add_rig", Command::AddRig { rig_id, name, git_url, default_branch })
            }
            Self::RemoveRig { rig_id } => order("remove_rig", Command::RemoveRig { rig_id: RigId(rig_id) }),
            Self::KnowsAgent { agent_id } => order("knows_agent", Command::KnowsAgent { agent_id: AgentId(agent_id) }),
            Self::ListRigs => order("list_rigs", Command::ListRigs),
            Self::ContainerExited { instance, exit_code, reason } => {
                order("container_exited", Command::ContainerExited { instance, exit_code, reason })
            }
            Self::ContainerNeeded => order("container_needed", Command::ContainerNeeded),
        }
    }
}

/// `GetDispatch` as `get_dispatch`.
fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len().saturating_add(4));
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person() -> Actor {
        Actor::User { sub: "u".into() }
    }
    fn at(method: &str, path: &str, body: &str) -> What {
        let [method, path, query, body] = [method, path, "limit=7", body].map(str::to_owned);
        What::Route { method, path, query, body }
    }

    #[test]
    fn an_errand_arrives_as_it_was_sent() {
        let errands = [
            at("POST", "/api/towns/t/rigs/r/sling", "{\"title\":\"Ü \\\" \\u0000\"}"),
            What::Found { town_id: "t".into(), name: "n".into(), owner_user_id: "u".into() },
            What::RemoveRig { rig_id: "r".into() },
            What::KnowsAgent { agent_id: "a".into() },
            What::ListRigs,
            What::ContainerExited { instance: Some("i".into()), exit_code: Some(137), reason: "killed".into() },
            What::ContainerNeeded,
        ];
        let actors = [
            person(),
            Actor::Operator { sub: "o".into() },
            Actor::System,
            Actor::Container { agent_id: Some("a".into()), dispatch_id: None },
        ];
        for (what, actor) in errands.into_iter().zip(actors.into_iter().cycle()) {
            let errand = Errand { actor, what };
            assert_eq!(Errand::read(&errand.write()), Some(errand));
        }
        assert_eq!(Errand::read("[\"system\",\"list_rigs\",\"more\"]"), None);
    }

    #[test]
    fn the_object_reads_what_the_worker_read() {
        let order = at("GET", "/api/towns/t/attempts", "").read(&person()).unwrap();
        assert_eq!((order.verb.as_str(), order.route), ("list_attempts", Some(Route::ListAttempts)));
        let Command::ListAttempts { filter } = order.command else { panic!("{:?}", order.command) };
        assert_eq!(filter.limit, Some(7));
        assert_eq!(at("POST", "/api/towns/t/rigs/r/sling", "{").read(&person()).unwrap_err().status, 400);
        assert_eq!(at("GET", "/nowhere", "").read(&person()).unwrap_err().status, 404);
        assert_eq!(at("GET", "/health", "").read(&person()).unwrap_err().status, 404);
    }
}
