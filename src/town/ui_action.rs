//! What the mayor shows people: one action of the dashboard, checked and told to whoever watches (`protocol.md` 2.12).

use super::Ctx;
use super::error::TownError;
use super::frame;
use super::id::RigId;
use super::json::json;
use super::policy::SETTING_BYTES;
use super::rig;
use super::sql::Sql;
use super::state::State;
use serde_json::{Map, Value as Json};

/// The actions and the ids that each names, its town aside.
const ACTIONS: [(&str, &[&str]); 5] = [
    ("open_bead_drawer", &["beadId", "rigId"]),
    ("open_convoy_drawer", &["convoyId"]),
    ("open_agent_drawer", &["agentId", "rigId"]),
    ("navigate", &["page"]),
    ("highlight_bead", &["beadId", "rigId"]),
];
/// Where `navigate` leads.
const PAGES: [&str; 5] = ["town-overview", "beads", "agents", "rigs", "settings"];

/// Tells whoever watches. What the action does not name is left out, and its town is this one, whatever it says.
///
/// 400 for anything else than the actions of the wire, and for a rig of another town.
pub fn show(sql: &dyn Sql, ctx: &Ctx<'_>, action: &Json) -> Result<Json, TownError> {
    // Names of things: what is none is as if it were missing, so that nothing odd travels on into answers and frames.
    let fits = |t: &&str| (1..=SETTING_BYTES).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic());
    let text = |key: &str| action.get(key).and_then(Json::as_str).filter(fits);
    let kind = text("type").unwrap_or_default();
    let Some((_, keys)) = ACTIONS.iter().find(|(name, _)| *name == kind) else {
        let names = ACTIONS.map(|(name, _)| name).join(", ");
        return Err(TownError::malformed(format!("action.type must be one of {names}")));
    };
    let mut shown = Map::from_iter([("type".to_owned(), json!(kind))]);
    for key in *keys {
        let value = text(key).ok_or_else(|| TownError::malformed(format!("action.{key} is required for {kind}")))?;
        match *key {
            "rigId" if !rig::is_mayors(&RigId::from(value)) && rig::find(sql, &RigId::from(value))?.is_none() => {
                return Err(TownError::malformed(format!("Rig {value} does not belong to this town")));
            }
            "page" if !PAGES.contains(&value) => {
                return Err(TownError::malformed(format!("action.page must be one of {}", PAGES.join(", "))));
            }
            _ => shown.insert((*key).to_owned(), json!(value)),
        };
    }
    if matches!(kind, "open_convoy_drawer" | "open_agent_drawer") {
        shown.insert("townId".to_owned(), json!(State::load(sql)?.town_id));
    }
    frame::ui_action(ctx, &Json::Object(shown));
    Ok(json!({"broadcast": true}))
}
