//! What is said between the worker and the registry (`FleetDO`), and between a town and the registry: one typed
//! request, one typed answer, shared by both sides.

use crate::town::effect::FleetReport;
use serde::{Deserialize, Serialize};

/// A town as the registry knows it, and as it stands on the wire (`protocol.md` 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the wire's own names")]
pub struct TownRow {
    pub id: String,
    pub name: String,
    pub owner_user_id: String,
    pub created_at: String,
    pub updated_at: String,
}

/// A rig as the registry knows it, and as it stands on the wire (`protocol.md` 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the wire's own names")]
pub struct RigRow {
    pub id: String,
    pub town_id: String,
    pub name: String,
    pub git_url: String,
    pub default_branch: String,
    pub platform_integration_id: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// What can be asked of the registry. Every request may be repeated: the runtime retries calls between objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are ids and names")]
pub enum FleetRequest {
    /// Records a town.
    AddTown { id: String, name: String, owner_user_id: String },
    /// A town by id, whoever owns it.
    FindTown { id: String },
    /// A town of this user.
    GetTown { user_id: String, id: String },
    /// The towns of this user, newest first.
    ListTowns { user_id: String },
    /// Forgets a town of this user, its rigs and its report.
    RemoveTown { user_id: String, id: String },
    /// Records a rig.
    AddRig {
        id: String,
        town_id: String,
        name: String,
        git_url: String,
        default_branch: String,
        platform_integration_id: Option<String>,
    },
    /// A rig in a town of this user.
    GetRig { user_id: String, id: String },
    /// The rigs of a town of this user, newest first.
    ListRigs { user_id: String, town_id: String },
    /// Forgets a rig in a town of this user.
    RemoveRig { user_id: String, id: String },
    /// How a town stands; an older report than the one stored changes nothing.
    Report { report: FleetReport },
}

/// What the registry answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum FleetAnswer {
    /// One town.
    Town(TownRow),
    /// Several towns.
    Towns(Vec<TownRow>),
    /// One rig.
    Rig(RigRow),
    /// Several rigs.
    Rigs(Vec<RigRow>),
    /// There is no such town.
    NoTown,
    /// There is no such rig.
    NoRig,
    /// Done.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_read() {
        let requests = [
            FleetRequest::AddTown { id: "t".into(), name: "n".into(), owner_user_id: "u".into() },
            FleetRequest::FindTown { id: "t".into() },
            FleetRequest::AddRig {
                id: "r".into(),
                town_id: "t".into(),
                name: "n".into(),
                git_url: "g".into(),
                default_branch: "main".into(),
                platform_integration_id: None,
            },
        ];
        for request in requests {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<FleetRequest>(&text).unwrap(), request);
        }
        for answer in [FleetAnswer::NoTown, FleetAnswer::Done, FleetAnswer::Rigs(Vec::new())] {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<FleetAnswer>(&text).unwrap(), answer);
        }
    }
}
