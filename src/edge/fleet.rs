//! What is said between the worker and the registry (`FleetDO`), and between a town and the registry: one typed
//! request, one typed answer, shared by both sides.

use super::words::{Reader, Writer};
use crate::town::{effect::FleetReport, time::Timestamp};
use serde::Serialize;

/// A town as the registry knows it, and as it stands on the wire (`protocol.md` 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the wire's own names")]
pub struct TownRow {
    pub id: String,
    pub name: String,
    pub owner_user_id: String,
    pub created_at: String,
    pub updated_at: String,
}

/// A rig as the registry knows it, and as it stands on the wire (`protocol.md` 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl TownRow {
    fn write(&self, to: Writer) -> Writer {
        to.texts(&[&self.id, &self.name, &self.owner_user_id, &self.created_at, &self.updated_at])
    }
    fn read(r: &mut Reader) -> Option<Self> {
        Some(Self {
            id: r.text()?,
            name: r.text()?,
            owner_user_id: r.text()?,
            created_at: r.text()?,
            updated_at: r.text()?,
        })
    }
}

impl RigRow {
    fn write(&self, to: Writer) -> Writer {
        let to = to.texts(&[&self.id, &self.town_id, &self.name, &self.git_url, &self.default_branch]);
        to.opt(self.platform_integration_id.as_deref()).texts(&[&self.created_at, &self.updated_at])
    }
    fn read(r: &mut Reader) -> Option<Self> {
        Some(Self {
            id: r.text()?,
            town_id: r.text()?,
            name: r.text()?,
            git_url: r.text()?,
            default_branch: r.text()?,
            platform_integration_id: r.opt()?,
            created_at: r.text()?,
            updated_at: r.text()?,
        })
    }
}

impl FleetRequest {
    /// As it travels.
    #[must_use]
    pub fn write(&self) -> String {
        let w = Writer::new;
        match self {
            Self::AddTown { id, name, owner_user_id } => w("add_town").texts(&[id, name, owner_user_id]),
            Self::FindTown { id } => w("find_town").text(id),
            Self::GetTown { user_id, id } => w("get_town").texts(&[user_id, id]),
            Self::ListTowns { user_id } => w("list_towns").text(user_id),
            Self::RemoveTown { user_id, id } => w("remove_town").texts(&[user_id, id]),
            Self::AddRig { id, town_id, name, git_url, default_branch, platform_integration_id } => {
                let rig = w("add_rig").texts(&[id, town_id, name, git_url, default_branch]);
                rig.opt(platform_integration_id.as_deref())
            }
            Self::GetRig { user_id, id } => w("get_rig").texts(&[user_id, id]),
            Self::ListRigs { user_id, town_id } => w("list_rigs").texts(&[user_id, town_id]),
            Self::RemoveRig { user_id, id } => w("remove_rig").texts(&[user_id, id]),
            Self::Report { report } => {
                let to = w("report").texts(&[&report.town_id, &report.breaker]).moment(report.next_wake);
                to.text(&report.open_work.to_string()).moment(Some(report.at))
            }
        }
        .done()
    }
    /// Reads what [`Self::write`] wrote; `None` if it is something else.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut r = Reader::of(text)?;
        let name = r.text()?;
        let mut next = || r.text();
        let request = match name.as_str() {
            "add_town" => Self::AddTown { id: next()?, name: next()?, owner_user_id: next()? },
            "find_town" => Self::FindTown { id: next()? },
            "get_town" => Self::GetTown { user_id: next()?, id: next()? },
            "list_towns" => Self::ListTowns { user_id: next()? },
            "remove_town" => Self::RemoveTown { user_id: next()?, id: next()? },
            "add_rig" => Self::AddRig {
                id: next()?,
                town_id: next()?,
                name: next()?,
                git_url: next()?,
                default_branch: next()?,
                platform_integration_id: r.opt()?,
            },
            "get_rig" => Self::GetRig { user_id: next()?, id: next()? },
            "list_rigs" => Self::ListRigs { user_id: next()?, town_id: next()? },
            "remove_rig" => Self::RemoveRig { user_id: next()?, id: next()? },
            "report" => {
                let (town_id, breaker, next_wake) = (next()?, next()?, r.moment()?);
                let (open_work, at) = (u32::try_from(r.int()?).ok()?, Timestamp(r.int()?));
                Self::Report { report: FleetReport { town_id, breaker, next_wake, open_work, at } }
            }
            _ => return None,
        };
        r.ended().then_some(request)
    }
}

impl FleetAnswer {
    /// As it travels.
    #[must_use]
    pub fn write(&self) -> String {
        match self {
            Self::Town(row) => row.write(Writer::new("town")),
            Self::Towns(rows) => rows.iter().fold(Writer::new("towns"), |to, row| row.write(to)),
            Self::Rig(row) => row.write(Writer::new("rig")),
            Self::Rigs(rows) => rows.iter().fold(Writer::new("rigs"), |to, row| row.write(to)),
            Self::NoTown => Writer::new("no_town"),
            Self::NoRig => Writer::new("no_rig"),
            Self::Done => Writer::new("done"),
        }
        .done()
    }
    /// Reads what [`Self::write`] wrote; `None` if it is something else.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut r = Reader::of(text)?;
        let answer = match r.text()?.as_str() {
            "town" => Self::Town(TownRow::read(&mut r)?),
            "towns" => {
                let mut rows = Vec::new();
                while !r.ended() {
                    rows.push(TownRow::read(&mut r)?);
                }
                Self::Towns(rows)
            }
            "rig" => Self::Rig(RigRow::read(&mut r)?),
            "rigs" => {
                let mut rows = Vec::new();
                while !r.ended() {
                    rows.push(RigRow::read(&mut r)?);
                }
                Self::Rigs(rows)
            }
            "no_town" => Self::NoTown,
            "no_rig" => Self::NoRig,
            "done" => Self::Done,
            _ => return None,
        };
        r.ended().then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_read() {
        let two = |user: &str, id: &str| (user.to_owned(), id.to_owned());
        let (user_id, id) = two("u", "ü\"\u{0}");
        let requests = [
            FleetRequest::AddTown { id: "t".into(), name: "n".into(), owner_user_id: "u".into() },
            FleetRequest::FindTown { id: id.clone() },
            FleetRequest::GetTown { user_id: user_id.clone(), id: id.clone() },
            FleetRequest::ListTowns { user_id: user_id.clone() },
            FleetRequest::RemoveTown { user_id: user_id.clone(), id: id.clone() },
            FleetRequest::AddRig {
                id: "r".into(),
                town_id: "t".into(),
                name: "n".into(),
                git_url: "g".into(),
                default_branch: "main".into(),
                platform_integration_id: None,
            },
            FleetRequest::GetRig { user_id: user_id.clone(), id: id.clone() },
            FleetRequest::ListRigs { user_id: user_id.clone(), town_id: id.clone() },
            FleetRequest::RemoveRig { user_id, id },
            FleetRequest::Report {
                report: FleetReport {
                    town_id: "t".into(),
                    breaker: "open".into(),
                    next_wake: None,
                    open_work: 7,
                    at: Timestamp(1),
                },
            },
        ];
        for request in requests {
            assert_eq!(FleetRequest::read(&request.write()), Some(request));
        }
        let town = TownRow {
            id: "t".into(),
            name: "n".into(),
            owner_user_id: "u".into(),
            created_at: "c".into(),
            updated_at: "d".into(),
        };
        let rig = RigRow {
            id: "r".into(),
            town_id: "t".into(),
            name: "n".into(),
            git_url: "g".into(),
            default_branch: "main".into(),
            platform_integration_id: Some("p".into()),
            created_at: "c".into(),
            updated_at: "d".into(),
        };
        for answer in [
            FleetAnswer::NoTown,
            FleetAnswer::NoRig,
            FleetAnswer::Done,
            FleetAnswer::Rigs(Vec::new()),
            FleetAnswer::Rigs(vec![rig.clone(), rig.clone()]),
            FleetAnswer::Rig(rig),
            FleetAnswer::Towns(vec![town.clone()]),
            FleetAnswer::Town(town),
        ] {
            assert_eq!(FleetAnswer::read(&answer.write()), Some(answer));
        }
    }

    #[test]
    fn anything_else_is_not_read() {
        for text in
            ["", "{}", "[]", "[1]", "[\"find_town\"]", "[\"find_town\",null]", "[\"find_town\",\"t\",\"u\"]", "[\"x\"]"]
        {
            assert_eq!(FleetRequest::read(text), None, "{text}");
            assert_eq!(FleetAnswer::read(text), None, "{text}");
        }
    }
}
