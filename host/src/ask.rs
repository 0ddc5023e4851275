//! What a test tells a town and asks of it, in its own words.

use crate::ledger::RealStart;
use crate::watchdog::cut;
use crate::world::World;
use gastown::town::command::{Actor, AttemptFilter, Command, NewBead, Page};
use gastown::town::effect::DataPoint;
use gastown::town::error::TownError;
use gastown::town::id::{BeadId, Ids, RigId};
use gastown::town::{Reply, Town};
use serde_json::Value as Json;

impl World {
    /// Gives a command, now. Nothing else happens before time passes.
    pub fn command(&mut self, actor: &Actor, command: Command) -> Result<Reply, TownError> {
        self.counts.commands += 1;
        self.watchdog.something();
        let now = self.now();
        self.watchdog.note(now, || cut(format!("{}: {command:?}", actor.label())));
        self.apply(actor, command)
    }

    /// The answer to a command that must not be refused, given by the owner.
    ///
    /// # Panics
    /// If it is refused.
    pub fn must(&mut self, command: Command) -> Json {
        let told = cut(format!("{command:?}"));
        self.command(&owner(), command).unwrap_or_else(|e| panic!("{told}: {e:?}")).data
    }

    /// Founds the town: its name, its owner, its mayor.
    pub fn found_town(&mut self) -> String {
        self.town_id = self.ids.uuid();
        let (town_id, name) = (self.town_id.clone(), "Simtown".to_owned());
        self.must(Command::Found { town_id, name, owner_user_id: OWNER.to_owned() });
        self.town_id.clone()
    }

    /// Adds a rig.
    pub fn add_rig(&mut self, name: &str) -> RigId {
        let rig_id = RigId(self.ids.uuid());
        self.must(Command::AddRig {
            rig_id: rig_id.clone(),
            name: name.to_owned(),
            git_url: format!("https://github.com/acme/{name}.git"),
            default_branch: None,
        });
        rig_id
    }

    /// Slings a bead and tells its id.
    ///
    /// # Panics
    /// If the answer names no bead.
    pub fn sling(&mut self, rig_id: &RigId, title: &str) -> BeadId {
        let bead = NewBead { title: title.to_owned(), ..NewBead::default() };
        let data = self.must(Command::Sling { rig_id: rig_id.clone(), bead });
        data["bead"]["bead_id"].as_str().unwrap_or_else(|| panic!("a sling without a bead: {data}")).into()
    }

    /// Changes the town's config.
    pub fn patch_config(&mut self, patch: Json) -> Json {
        self.must(Command::PatchConfig { patch })
    }

    /// Asks without leaving a trace: no count, no line of the journal, no alarm moved. A test that looks more often
    /// must not see another history.
    fn ask(&self, command: Command) -> Json {
        let told = format!("{command:?}");
        let reply = self.sql.unharmed(|| Town::new(&self.sql).handle(&self.ctx(), &owner(), command));
        reply.unwrap_or_else(|e| panic!("{told}: {e:?}")).data
    }

    /// A bead as on the wire.
    #[must_use]
    pub fn bead(&self, bead_id: &BeadId) -> Json {
        self.ask(Command::GetBead { rig_id: None, bead_id: bead_id.clone() })
    }
    /// A bead's status.
    #[must_use]
    pub fn status(&self, bead_id: &BeadId) -> String {
        self.bead(bead_id)["status"].as_str().unwrap_or_default().to_owned()
    }
    /// All attempts of a bead, **oldest first**.
    #[must_use]
    pub fn attempts(&self, bead_id: &BeadId) -> Vec<Json> {
        self.all_attempts(&AttemptFilter { bead_id: Some(bead_id.0.clone()), ..AttemptFilter::default() })
    }
    /// All attempts that match, oldest first.
    #[must_use]
    pub fn all_attempts(&self, filter: &AttemptFilter) -> Vec<Json> {
        self.pages("attempts", |before| Command::ListAttempts {
            filter: AttemptFilter { before, limit: Some(500), ..filter.clone() },
        })
    }
    /// `GET /dispatch`, with the alarm that the object adds.
    #[must_use]
    pub fn dispatch(&self) -> Json {
        let mut dispatch = self.ask(Command::GetDispatch);
        dispatch["alarm"] = self.wake.map(|at| at.to_string()).into();
        dispatch
    }
    /// `GET …/explain`.
    #[must_use]
    pub fn explain(&self, bead_id: &BeadId) -> Json {
        self.ask(Command::Explain { bead_id: bead_id.clone() })
    }
    /// The codes of the holds that `explain` names.
    #[must_use]
    pub fn holds(&self, bead_id: &BeadId) -> Vec<String> {
        let explained = self.explain(bead_id);
        let holds = explained["holds"].as_array().into_iter().flatten();
        holds.map(|h| h["code"].as_str().unwrap_or_default().to_owned()).collect()
    }
    /// A breaker: `town` or `rig:<id>`.
    #[must_use]
    pub fn breaker(&self, scope: &str) -> Json {
        self.ask(Command::GetBreaker { scope: scope.to_owned() })
    }
    /// All notifications, oldest first.
    #[must_use]
    pub fn notifications(&self) -> Vec<Json> {
        self.pages("notifications", |before| Command::ListNotifications { page: Page { before, limit: Some(500) } })
    }
    /// How many notifications of a kind there are.
    #[must_use]
    pub fn notified(&self, kind: &str) -> usize {
        self.notifications().iter().filter(|n| n["kind"] == kind).count()
    }
    /// All mail of the town, oldest first; delivers nothing.
    #[must_use]
    pub fn mail(&self) -> Vec<Json> {
        self.pages("mail", |before| Command::ListMail { to: None, page: Page { before, limit: Some(500) } })
    }
    /// Every process that really started, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[RealStart] {
        self.container.starts()
    }
    /// The real starts of one bead.
    #[must_use]
    pub fn starts_of(&self, bead_id: &BeadId) -> Vec<&RealStart> {
        self.starts().iter().filter(|s| s.bead8.as_deref() == Some(bead_id.short())).collect()
    }
    /// The data points of one event.
    #[must_use]
    pub fn points_of(&self, event: &str) -> Vec<&DataPoint> {
        self.points.iter().map(|(_, p)| p).filter(|p| p.event == event).collect()
    }
    /// What happened last, in words: for the message of a failing assertion.
    #[must_use]
    pub fn journal(&self) -> String {
        self.watchdog.told()
    }

    /// Reads every page of a list and turns it round.
    fn pages(&self, key: &str, command: impl Fn(Option<String>) -> Command) -> Vec<Json> {
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let mut data = self.ask(command(before));
            if let Json::Array(page) = data[key].take() {
                all.extend(page);
            }
            match data["next"].as_str() {
                Some(next) => before = Some(next.to_owned()),
                None => break,
            }
        }
        all.reverse();
        all
    }
}

/// Who owns the simulated town.
const OWNER: &str = "owner";

/// The town's owner.
#[must_use]
pub fn owner() -> Actor {
    Actor::User { sub: OWNER.to_owned() }
}

/// An operator.
#[must_use]
pub fn operator() -> Actor {
    Actor::Operator { sub: "operator".to_owned() }
}
