//! Users, their towns and rigs: two places have to agree, the registry and the town, and either may fail in between.
//!
//! The rule: whoever asks again after a failure ends up right. Making writes the registry first for a town (nobody can
//! reach a town that is not registered) and the town first for a rig (the town decides about its name), and takes the
//! first write back if the second was refused. Where nobody knows how the second one ended, because its answer was lost or
//! the worker died, nothing is taken back: such a town can be seen and deleted, such a rig is finished when it is asked
//! for again ([`finish_rig`]). Removing goes to the town first and forgets last, so that what could not be removed can
//! still be found and removed again.

use super::{
    auth::Admitted,
    envelope::{OVERLOADED, Refusal},
    errand::What,
    fields::Body,
    fleet::{FleetAnswer, FleetRequest, RigRow},
    registry::{NewRig, town_name},
    route::Route,
    serve::{Door, Sent, data},
};
use crate::town::json::{self, json};
use crate::{
    platform::{ids::RandomIds, log, stub},
    town::{command::Actor, id::Ids},
};
use serde_json::Value as Json;

/// Answers the routes under `/api/users/:user`.
pub async fn answer(door: Door<'_>, admitted: &Admitted, body: &Body) -> Result<Sent, Refusal> {
    let user = door.matched.param("user");
    let town = door.matched.param("town");
    match door.matched.route {
        Route::CreateTown => create_town(door, user, &town_name(body)?).await,
        Route::ListTowns => match door.fleet(&FleetRequest::ListTowns { user_id: user.to_owned() }).await? {
            FleetAnswer::Towns(rows) => data(200, rows),
            _ => Err(Refusal::internal()),
        },
        Route::GetTown => data(200, door.town_of_user(user, town).await?),
        Route::DeleteTown => delete_town(door, user, town).await,
        Route::ListUserRigs => {
            door.town_of_user(user, town).await?;
            let request = FleetRequest::ListRigs { user_id: user.to_owned(), town_id: town.to_owned() };
            match door.fleet(&request).await? {
                FleetAnswer::Rigs(rows) => data(200, rows),
                _ => Err(Refusal::internal()),
            }
        }
        Route::CreateRig => {
            let rig = NewRig::read(body, door.settings.policy().is_development())?;
            create_rig(door, admitted, user, rig).await
        }
        Route::GetRig => data(200, rig_of_user(door, user, door.matched.param("rig")).await?),
        Route::DeleteRig => delete_rig(door, admitted, user, door.matched.param("rig")).await,
        _ => Err(Refusal::unknown_route()),
    }
}

async fn rig_of_user(door: Door<'_>, user: &str, rig: &str) -> Result<RigRow, Refusal> {
    match door.fleet(&FleetRequest::GetRig { user_id: user.to_owned(), id: rig.to_owned() }).await? {
        FleetAnswer::Rig(row) => Ok(row),
        _ => Err(Refusal::missing("Rig")),
    }
}

async fn create_town(door: Door<'_>, user: &str, name: &str) -> Result<Sent, Refusal> {
    let id = RandomIds.uuid();
    let add = FleetRequest::AddTown { id: id.clone(), name: name.to_owned(), owner_user_id: user.to_owned() };
    let FleetAnswer::Town(row) = door.fleet(&add).await? else { return Err(Refusal::internal()) };
    let found = What::Found { town_id: id.clone(), name: name.to_owned(), owner_user_id: user.to_owned() };
    let founded = door.town(&id, Actor::System, found).await;
    match founded {
        Ok(sent) if sent.status < 300 => data(201, row),
        other => {
            // Without its row nobody can reach the town. If even this fails, the user sees a town and can delete it.
            take_back(door, &id, FleetRequest::RemoveTown { user_id: user.to_owned(), id: id.clone() }).await;
            other
        }
    }
}

async fn create_rig(door: Door<'_>, admitted: &Admitted, user: &str, rig: NewRig) -> Result<Sent, Refusal> {
    door.town_of_user(user, &rig.town_id).await?;
    let (id, town) = (RandomIds.uuid(), rig.town_id.clone());
    let add = What::AddRig {
        rig_id: id.clone(),
        name: rig.name.clone(),
        git_url: rig.git_url.clone(),
        default_branch: rig.default_branch.clone(),
    };
    let remove = || What::RemoveRig { rig_id: id.clone() };
    match door.town(&town, admitted.actor.clone(), add).await {
        Ok(sent) if sent.status == 409 => return finish_rig(door, user, rig, sent).await,
        // The town's own words: a name that is taken, a url it does not like.
        Ok(sent) if sent.status >= 300 => return Ok(sent),
        Ok(_) => {}
        Err(refusal) => {
            // The answer was lost; the rig may be there.
            forget(door, &town, remove()).await;
            return Err(refusal);
        }
    }
    let register = FleetRequest::AddRig {
        id: id.clone(),
        town_id: town.clone(),
        name: rig.name,
        git_url: rig.git_url,
        default_branch: rig.default_branch,
        platform_integration_id: rig.platform_integration_id,
    };
    let registered = match door.fleet(&register).await {
        Err(refusal) if refusal.code == OVERLOADED => {
            // It was sent away, so nothing was written.
            forget(door, &town, remove()).await;
            return Err(refusal);
        }
        // The answer was lost, and the rig may be registered: registering it again is registering it once.
        Err(_) => door.fleet(&register).await,
        answered => answered,
    };
    match registered {
        Ok(FleetAnswer::Rig(row)) => data(201, row),
        Ok(FleetAnswer::NoTown) => {
            // The town was deleted meanwhile.
            forget(door, &town, remove()).await;
            Err(Refusal::missing("Town"))
        }
        // Nobody knows whether it is registered, so it stays in the town: whoever asks again finishes it.
        Ok(_) | Err(_) => Err(Refusal::new(500, "internal", "Failed to configure rig: ask again")),
    }
}

/// The name is taken (`refused` says so). If the registry knows no such rig, a creation was cut off between the town's
/// write and the registry's, and is finished now: else the name would be taken for ever by a rig that nobody can see.
///
/// Two creations at once end in the same row, whoever writes it. Only who asked for the very rig that is there gets it.
async fn finish_rig(door: Door<'_>, user: &str, asked: NewRig, refused: Sent) -> Result<Sent, Refusal> {
    let known = FleetRequest::ListRigs { user_id: user.to_owned(), town_id: asked.town_id.clone() };
    let FleetAnswer::Rigs(known) = door.fleet(&known).await? else { return Err(Refusal::internal()) };
    if known.iter().any(|row| row.name == asked.name) {
        return Ok(refused);
    }
    let listed = door.town(&asked.town_id, Actor::System, What::ListRigs).await?;
    let Some(there) = TownsRig::find(&listed.body, &asked.name) else { return Ok(refused) };
    let same = there.git_url == asked.git_url && there.default_branch == asked.default_branch;
    let register = FleetRequest::AddRig {
        id: there.id,
        town_id: asked.town_id,
        name: there.name,
        git_url: there.git_url,
        default_branch: there.default_branch,
        platform_integration_id: asked.platform_integration_id.filter(|_| same),
    };
    match door.fleet(&register).await? {
        FleetAnswer::Rig(row) if same => data(201, row),
        FleetAnswer::Rig(_) => Ok(refused),
        _ => Err(Refusal::missing("Town")),
    }
}

/// A rig as its town lists it.
struct TownsRig {
    id: String,
    name: String,
    git_url: String,
    default_branch: String,
}

impl TownsRig {
    /// The one of this name in the town's answer.
    fn find(body: &str, name: &str) -> Option<Self> {
        let listed = json::read(body)?;
        let rig =
            listed.get("data")?.as_array()?.iter().find(|r| r.get("name").and_then(Json::as_str) == Some(name))?;
        let text = |key: &str| Some(rig.get(key)?.as_str()?.to_owned());
        let [id, name, git_url, default_branch] = ["id", "name", "git_url", "default_branch"].map(text);
        Some(Self { id: id?, name: name?, git_url: git_url?, default_branch: default_branch? })
    }
}

async fn delete_rig(door: Door<'_>, admitted: &Admitted, user: &str, rig: &str) -> Result<Sent, Refusal> {
    let row = rig_of_user(door, user, rig).await?;
    let remove = What::RemoveRig { rig_id: row.id.clone() };
    let sent = door.town(&row.town_id, admitted.actor.clone(), remove).await?;
    // 404: the town has removed it before, and the registry was not told.
    if sent.status >= 300 && sent.status != 404 {
        return Ok(sent);
    }
    door.fleet(&FleetRequest::RemoveRig { user_id: user.to_owned(), id: row.id }).await?;
    data(200, json!({ "deleted": true }))
}

async fn delete_town(door: Door<'_>, user: &str, town: &str) -> Result<Sent, Refusal> {
    door.town_of_user(user, town).await?;
    let answered = stub::post(door.env, "TOWN", town, "/delete", "{}").await;
    let sent = answered.map(Sent::from).map_err(|e| stub::refusal(door.matched.pattern, town, &e))?;
    if sent.status >= 300 && sent.status != 404 {
        return Ok(sent);
    }
    door.fleet(&FleetRequest::RemoveTown { user_id: user.to_owned(), id: town.to_owned() }).await?;
    data(200, json!({ "deleted": true }))
}

/// Takes a registry write back, as well as it can be done.
async fn take_back(door: Door<'_>, town: &str, request: FleetRequest) {
    if let Err(refusal) = door.fleet(&request).await {
        log::error("users.take_back", town, &refusal.message);
    }
}

/// Takes a town's write back, as well as it can be done.
async fn forget(door: Door<'_>, town: &str, remove: What) {
    match door.town(town, Actor::System, remove).await {
        Ok(sent) if sent.status < 300 || sent.status == 404 => {}
        Ok(sent) => log::error("users.forget", town, &format!("the town answered {}", sent.status)),
        Err(refusal) => log::error("users.forget", town, &refusal.message),
    }
}
