//! Commands that make, read and change beads.

use super::super::Reply;
use super::super::agent;
use super::super::bead::{self, Bead, Draft, Kind, Priority, Status, label};
use super::super::command::{Actor, BeadFilter, BeadPatch, NewBead};
use super::super::dependency;
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::id::{AgentId, BeadId, RigId, is_uuid_v4};
use super::super::policy::{BODY_BYTES, LIST_DEFAULT, METADATA_BYTES, NAME_CHARS, TITLE_BYTES};
use super::super::rig;
use super::super::sql::{Arg, Sql, each};
use super::super::state::State;
use super::super::{Ctx, convoy, id, triage};
use super::{by_hand, capped, filled, known_rig, object, towns};
use crate::bead_columns;
use crate::town::json::json;
use serde_json::Value as Json;

/// Labels a bead may carry.
const LABELS_MAX: usize = 50;
/// Edges a bead may have.
const DEPENDENCIES_MAX: usize = 100;

fn priority(text: Option<&str>) -> Result<Priority, TownError> {
    text.map_or(Ok(Priority::default()), |t| {
        Priority::parse(t)
            .ok_or_else(|| TownError::invalid("priority", "priority must be low, medium, high or critical"))
    })
}

fn labels(labels: &[String]) -> Result<(), TownError> {
    if labels.len() > LABELS_MAX {
        return Err(TownError::invalid("labels", format!("at most {LABELS_MAX} labels")));
    }
    labels.iter().try_for_each(|l| filled("labels", l, NAME_CHARS * 2))
}

/// The beads that a bead shall wait for: they exist, and each is named by a uuid.
pub fn depends_on(sql: &dyn Sql, ids: &[String]) -> Result<Vec<BeadId>, TownError> {
    if ids.len() > DEPENDENCIES_MAX {
        return Err(TownError::invalid("depends_on", format!("at most {DEPENDENCIES_MAX} beads")));
    }
    let mut beads = Vec::new();
    for id in ids {
        if !is_uuid_v4(id) {
            return Err(TownError::invalid(
                "depends_on",
                format!("«{}» is no bead id", super::super::text::cut(id, 64)),
            ));
        }
        let id = id::BeadId(id.clone());
        if bead::find(sql, &id)?.is_none() {
            return Err(TownError::invalid("depends_on", format!("there is no bead {id}")));
        }
        if !beads.contains(&id) {
            beads.push(id);
        }
    }
    Ok(beads)
}

pub fn draft(sql: &dyn Sql, actor: &Actor, rig_id: &RigId, new: NewBead) -> Result<Draft, TownError> {
    let kind = match new.kind.as_deref() {
        None => Kind::Issue,
        Some(text) => Kind::parse(text).filter(|k| *k == Kind::Issue).ok_or_else(|| {
            TownError::invalid("type", "only beads of type issue are made here; escalations have their own route")
        })?,
    };
    filled("title", &new.title, TITLE_BYTES)?;
    capped("body", new.body.as_deref().unwrap_or_default(), BODY_BYTES)?;
    labels(&new.labels)?;
    Ok(Draft {
        kind,
        title: new.title,
        body: new.body,
        rig_id: (!rig::is_mayors(rig_id)).then(|| rig_id.clone()),
        parent: None,
        priority: priority(new.priority.as_deref())?,
        labels: new.labels,
        metadata: object("metadata", new.metadata, METADATA_BYTES)?,
        created_by: Some(actor.label()),
        depends_on: depends_on(sql, &new.depends_on)?,
    })
}

/// Makes a bead. An assignee, if named, must be free; it is hooked.
pub fn create(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, rig_id: &RigId, new: NewBead) -> Result<Reply, TownError> {
    State::load(sql)?;
    known_rig(sql, rig_id)?;
    let assignee = new.assignee_agent_id.clone();
    let draft = draft(sql, actor, rig_id, new)?;
    let made = bead::create(sql, ctx, draft)?;
    if let Some(agent_id) = assignee.map(AgentId) {
        super::agents::hook(sql, ctx, &agent_id, &made.id)?;
    }
    Reply::created(bead::get(sql, &made.id)?)
}

/// Makes an issue and names the polecat that will do it: an idle one of the rig, or a new one. Dispatch itself waits for
/// the tick, so the answer shows `open` and `idle`.
pub fn sling(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, rig_id: &RigId, new: NewBead) -> Result<Reply, TownError> {
    let state = State::load(sql)?;
    rig::get(sql, rig_id)?;
    let assignee = new.assignee_agent_id.clone();
    let draft = draft(sql, actor, rig_id, new)?;
    let made = bead::create(sql, ctx, draft)?;
    if made.triage_request {
        return Err(TownError::invalid("labels", "a triage request is answered, not slung"));
    }
    let polecat = match assignee.map(AgentId) {
        Some(id) => agent::get(sql, &id)?,
        None => match agent::idle_polecat(sql, rig_id)? {
            Some(idle) => idle,
            None => agent::new_polecat(sql, ctx, rig_id, &state.town_id)?,
        },
    };
    super::agents::hook(sql, ctx, &polecat.id, &made.id)?;
    Reply::created(json!({"bead": bead::get(sql, &made.id)?, "agent": agent::get(sql, &polecat.id)?}))
}

/// One bead; with a rig, another rig's is 404.
pub fn get(sql: &dyn Sql, rig_id: Option<&RigId>, id: &BeadId) -> Result<Reply, TownError> {
    Reply::quiet(in_rig(sql, rig_id, id)?)
}

/// The bead, if it belongs to the rig of the route (the mayor's pseudo rig sees all).
pub fn in_rig(sql: &dyn Sql, rig_id: Option<&RigId>, id: &BeadId) -> Result<Bead, TownError> {
    let bead = bead::get(sql, id)?;
    match rig_id {
        Some(rig) if !rig::is_mayors(rig) && bead.rig_id.as_ref().is_some_and(|r| r != rig) => {
            Err(TownError::missing("Bead"))
        }
        _ => Ok(bead),
    }
}

/// Beads of a rig, newest first.
pub fn list(sql: &dyn Sql, rig_id: &RigId, filter: &BeadFilter) -> Result<Reply, TownError> {
    known_rig(sql, rig_id)?;
    let wrong = || TownError::malformed("Invalid status or type filter");
    let status = filter.status.as_deref().map(|s| Status::parse(s).ok_or_else(wrong)).transpose()?;
    let kind = match filter.kind.as_deref() {
        // Tables of their own (`design.md` 4): as beads there are none.
        Some("message" | "agent") => return Reply::quiet(Vec::<Bead>::new()),
        Some(text) => Some(Kind::parse(text).ok_or_else(wrong)?),
        None => None,
    };
    let args = [
        rig_id.into(),
        Arg::from(status.map(Status::as_str)),
        Arg::from(kind.map(Kind::as_str)),
        Arg::from(filter.assignee.as_ref()),
        filter.limit.unwrap_or(LIST_DEFAULT).into(),
        filter.offset.unwrap_or(0).into(),
    ];
    let rows = if rig::is_mayors(rig_id) {
        sql.query(
            bead_columns!(
                "WHERE rig_id IS NULL AND ?1 IS NOT NULL
                   AND (?2 IS NULL OR status = ?2)
                   AND (?3 IS NULL OR type = ?3)
                   AND (?4 IS NULL OR assignee_agent_bead_id = ?4)
                 ORDER BY seq DESC
                 LIMIT ?5 OFFSET ?6"
            ),
            &args,
        )?
    } else {
        sql.query(
            bead_columns!(
                "WHERE rig_id = ?1
                   AND (?2 IS NULL OR status = ?2)
                   AND (?3 IS NULL OR type = ?3)
                   AND (?4 IS NULL OR assignee_agent_bead_id = ?4)
                 ORDER BY seq DESC
                 LIMIT ?5 OFFSET ?6"
            ),
            &args,
        )?
    };
    let beads = each(&rows, bead::read)?;
    Reply::quiet(beads)
}

/// Changes a bead: absent keys stay, `null` clears, `status` is a transition by hand.
pub fn update(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    id: &BeadId,
    patch: &BeadPatch,
) -> Result<Reply, TownError> {
    known_rig(sql, rig_id)?;
    let bead = bead::get(sql, id)?;
    if !rig::is_mayors(rig_id) && bead.rig_id.as_ref().is_some_and(|r| r != rig_id) {
        return Err(TownError::forbidden("Bead does not belong to this rig"));
    }
    if *patch == BeadPatch::default() {
        return Err(TownError::malformed("At least one field is required"));
    }
    let mut changed: Vec<&str> = Vec::new();
    let fields = fields(sql, &bead, patch, &mut changed)?;
    if let Some(blockers) = &patch.depends_on {
        let blockers = depends_on(sql, blockers)?;
        dependency::replace(sql, id, &blockers)?;
        changed.push("depends_on");
    }
    if changed.iter().any(|f| *f != "depends_on") {
        write(sql, ctx, id, &fields)?;
        // `metadata.allow_failed_blockers` decides what counts as resolved.
        dependency::recount(sql, id)?;
        if fields.rig_id != bead.rig_id {
            // Its agent stays with the old rig, and the new one may have a lower cap.
            if let Some(agent) = agent::hooked_to(sql, id)? {
                agent::unhook(sql, ctx, &agent.id, id, "it moved to another rig")?;
            }
            towns::note_lowered_caps(sql)?;
        }
    }
    if !changed.is_empty() {
        event::record(
            sql,
            ctx,
            id,
            Happening {
                kind: "fields_updated",
                new: Some(&changed.join(",")),
                metadata: Some(json!({"changed": changed, "actor": actor.label()})),
                ..Happening::default()
            },
        )?;
    }
    if let Some(status) = &patch.status {
        by_hand::set_status(sql, ctx, actor, None, id, status)?;
    }
    Reply::ok(bead::get(sql, id)?)
}

struct Fields {
    title: String,
    body: Option<String>,
    priority: Priority,
    rank: u32,
    labels: Vec<String>,
    metadata: Json,
    rig_id: Option<RigId>,
    parent: Option<BeadId>,
}

/// New metadata, and what the town itself wrote into the old and goes by: whom a question is about, which branch is to be
/// repaired, where work was saved. Who replaces metadata (`protocol.md` 3.4) means his own.
fn with_ours(bead: &Bead, new: &Json) -> Json {
    const EVERYWHERE: [&str; 3] = ["convoy_id", "feature_branch", "resume_branch"];
    let made_by_us = bead.triage_request || bead.closes_on_done() || bead.kind != Kind::Issue;
    let mut new = new.clone();
    if let (Some(new), Some(old)) = (new.as_object_mut(), bead.metadata.as_object()) {
        for (key, value) in old {
            let key = key.as_str();
            let ours = made_by_us || EVERYWHERE.contains(&key);
            let fixed = bead.triage_request && triage::QUESTION.contains(&key);
            if fixed || (ours && !new.contains_key(key)) {
                new.insert(key.to_owned(), value.clone());
            }
        }
    }
    new
}

fn fields(sql: &dyn Sql, bead: &Bead, patch: &BeadPatch, changed: &mut Vec<&str>) -> Result<Fields, TownError> {
    let mut f = Fields {
        title: bead.title.clone(),
        body: bead.body.clone(),
        priority: bead.priority,
        rank: if bead.kind == Kind::MergeRequest { 0 } else { bead.priority.rank() },
        labels: bead.labels.clone(),
        metadata: bead.metadata.clone(),
        rig_id: bead.rig_id.clone(),
        parent: bead.parent.clone(),
    };
    if let Some(title) = &patch.title {
        filled("title", title, TITLE_BYTES)?;
        f.title.clone_from(title);
        changed.push("title");
    }
    if let Some(body) = &patch.body {
        capped("body", body.as_deref().unwrap_or_default(), BODY_BYTES)?;
        f.body.clone_from(body);
        changed.push("body");
    }
    if let Some(text) = &patch.priority {
        f.priority = priority(Some(text))?;
        if bead.kind != Kind::MergeRequest {
            f.rank = f.priority.rank();
        }
        changed.push("priority");
    }
    if let Some(new) = &patch.labels {
        labels(new)?;
        f.labels.clone_from(new);
        changed.push("labels");
    }
    if let Some(metadata) = &patch.metadata {
        f.metadata = object("metadata", Some(with_ours(bead, metadata)), METADATA_BYTES)?;
        changed.push("metadata");
    }
    if let Some(rig_id) = &patch.rig_id {
        if bead.status == Status::InProgress || bead.status == Status::InReview {
            return Err(TownError::conflict(
                bead.status.as_str(),
                format!(
                    "Bead {} is {}; it can change its rig only while nobody works on it",
                    bead.id,
                    bead.status.as_str()
                ),
            ));
        }
        if let Some(rig_id) = rig_id
            && rig::find(sql, &RigId::from(rig_id.as_str()))?.is_none()
        {
            return Err(TownError::invalid("rig_id", "there is no such rig in this town"));
        }
        if bead.kind == Kind::MergeRequest {
            return Err(TownError::invalid("rig_id", "a merge request stays in the rig of its source"));
        }
        if bead.rig_id.as_ref().map(RigId::as_str) != rig_id.as_deref() {
            convoy::may_move(sql, bead)?;
        }
        f.rig_id = rig_id.clone().map(RigId);
        changed.push("rig_id");
    }
    if let Some(parent) = &patch.parent_bead_id {
        if let Some(parent) = parent
            && (parent == bead.id.as_str() || bead::find(sql, &BeadId::from(parent.as_str()))?.is_none())
        {
            return Err(TownError::invalid("parent_bead_id", "there is no such other bead"));
        }
        f.parent = parent.clone().map(BeadId);
        changed.push("parent_bead_id");
    }
    Ok(f)
}

fn write(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId, f: &Fields) -> Result<(), TownError> {
    sql.execute(
        "UPDATE beads
         SET title = ?2, body = ?3, priority = ?4, rank = ?5, labels = ?6, metadata = ?7, rig_id = ?8,
             parent_bead_id = ?9, held = ?10,
             triage_request = CASE ?11 WHEN 0 THEN 0 ELSE max(triage_request, 1) END, updated_at = ?12
         WHERE bead_id = ?1",
        &[
            id.into(),
            (&f.title).into(),
            Arg::from(f.body.as_ref()),
            f.priority.as_str().into(),
            f.rank.into(),
            (&json!(f.labels).to_string()).into(),
            (&f.metadata.to_string()).into(),
            f.rig_id.as_ref().into(),
            f.parent.as_ref().into(),
            f.labels.iter().any(|l| l == label::HELD).into(),
            f.labels.iter().any(|l| l == label::TRIAGE_REQUEST).into(),
            ctx.now.into(),
        ],
    )?;
    Ok(())
}
