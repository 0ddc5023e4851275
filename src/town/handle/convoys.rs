//! Commands about convoys: making, starting and closing them, and who belongs to one.

use super::super::Ctx;
use super::super::Reply;
use super::super::bead::{self, Bead, Draft, Kind, Priority, Status, label};
use super::super::command::{Actor, Batch};
use super::super::config::Config;
use super::super::convoy::{self, Convoy, MergeMode, cycle};
use super::super::dependency;
use super::super::error::{Cause, TownError};
use super::super::event::{self, Happening};
use super::super::id::{BeadId, RigId};
use super::super::policy::{CONVOY_TASKS, CYCLE_TITLE_BYTES, METADATA_BYTES, TITLE_BYTES};
use super::super::rig;
use super::super::sorted::Sorted;
use super::super::sql::Sql;
use super::super::text;
use super::{beads, by_hand, filled, object, towns};
use crate::town::json::json;
use serde_json::Value as Json;

/// Makes a convoy of new beads that wait for each other as the batch says.
pub fn sling_batch(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    batch: Batch,
) -> Result<Reply, TownError> {
    let rig = rig::get(sql, rig_id)?;
    let config = Config::load(sql)?;
    let titles: Vec<String> = batch.tasks.iter().map(|t| t.bead.title.clone()).collect();
    check_plan(&titles, &batch.tasks.iter().map(|t| t.depends_on.clone()).collect::<Vec<_>>())?;
    let merge_mode = match &batch.merge_mode {
        Some(mode) => MergeMode::parse(mode)?,
        None => MergeMode::of_rig(&config, &rig)?,
    };
    let made = make(sql, ctx, actor, &batch.title, batch.metadata)?;
    let new = convoy::Draft {
        rig_id: Some(rig.id),
        merge_mode,
        feature_branch: Some(convoy::feature_branch(&batch.title, &made.id)),
        staged: batch.staged.unwrap_or(config.staged_convoys_default),
    };
    convoy::create(sql, &made.id, &new)?;
    let c = convoy::get(sql, &made.id)?;
    let mut ids = Vec::new();
    let mut waits = Vec::new();
    for task in batch.tasks {
        let draft = beads::draft(sql, actor, rig_id, task.bead)?;
        let task_bead = bead::create(sql, ctx, draft)?;
        if task_bead.triage_request {
            return Err(TownError::invalid("labels", "a triage request is answered, not slung"));
        }
        convoy::join(sql, &c, &task_bead.id)?;
        ids.push(task_bead.id);
        waits.push(task.depends_on);
    }
    for (task, on) in ids.iter().zip(&waits) {
        for blocker in on.iter().filter_map(|at| ids.get(*at)) {
            dependency::add(sql, task, blocker, dependency::Kind::Blocks)?;
        }
        if !on.is_empty() {
            dependency::recount(sql, task)?;
        }
    }
    convoy::recount(sql, ctx, &made.id)?;
    Reply::created(with_beads(sql, &made.id)?)
}

/// 422 with what is wrong, in words: a place that does not exist, a task that waits for itself, a cycle.
fn check_plan(titles: &[String], edges: &[Vec<usize>]) -> Result<(), TownError> {
    let name = |at: usize| {
        let title: String = titles.get(at).map_or("", String::as_str).chars().filter(|c| !c.is_control()).collect();
        format!("{at} «{}»", text::cut(&title, CYCLE_TITLE_BYTES))
    };
    for (at, on) in edges.iter().enumerate() {
        if let Some(unknown) = on.iter().find(|on| **on >= titles.len()) {
            let text = format!("task {} depends on task {unknown}, and there is none (the first is 0)", name(at));
            return Err(TownError::invalid("tasks", text));
        }
        if on.contains(&at) {
            return Err(TownError::invalid("tasks", format!("task {} depends on itself", name(at))));
        }
    }
    if let Some(path) = cycle(edges) {
        let path = dependency::told(path.into_iter().map(name).collect());
        let text = format!("these tasks wait for each other, so none could ever start: {path}");
        return Err(TownError::invalid("tasks", text));
    }
    Ok(())
}

/// A convoy's bead.
fn make(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, title: &str, metadata: Option<Json>) -> Result<Bead, TownError> {
    filled("convoy_title", title, TITLE_BYTES)?;
    let draft = Draft {
        kind: Kind::Convoy,
        title: title.to_owned(),
        body: None,
        rig_id: None,
        parent: None,
        priority: Priority::default(),
        labels: vec![label::CONVOY.to_owned()],
        metadata: object("metadata", metadata, METADATA_BYTES)?,
        created_by: Some(actor.label()),
        depends_on: Vec::new(),
    };
    bead::create(sql, ctx, draft)
}

/// `{convoy, beads: [{bead, agent: null}]}`: who does a task is decided when it starts.
fn with_beads(sql: &dyn Sql, id: &BeadId) -> Result<Json, TownError> {
    let mut beads = Vec::new();
    for task in convoy::tasks(sql, id)? {
        beads.push(json!({"bead": bead::get(sql, &task)?, "agent": null}));
    }
    Ok(json!({"convoy": convoy::get(sql, id)?.view(), "beads": beads}))
}

/// Makes a convoy of beads that are there, of any rigs. It has no feature branch: each lands by itself.
pub fn create(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    title: &str,
    tasks: &[(BeadId, RigId)],
) -> Result<Reply, TownError> {
    let made = make(sql, ctx, actor, title, None)?;
    let merge_mode = MergeMode::ReviewAndMerge;
    let new = convoy::Draft { rig_id: None, merge_mode, feature_branch: None, staged: false };
    convoy::create(sql, &made.id, &new)?;
    let c = convoy::get(sql, &made.id)?;
    let mut joined = Sorted::new();
    for (task, rig_id) in tasks {
        let bead = bead::find(sql, task)?.filter(|b| b.rig_id.as_ref() == Some(rig_id));
        let missing =
            || TownError::invalid("beads", format!("there is no bead {task} in the rig that is named with it"));
        let bead = bead.ok_or_else(missing)?;
        if joined.add(task) {
            may_join(sql, &c, &bead)?;
            convoy::join(sql, &c, task)?;
        }
    }
    convoy::recount(sql, ctx, &made.id)?;
    Reply::created(convoy::get(sql, &made.id)?.view())
}

/// 409 or 422 if a bead cannot become a task of this convoy.
fn may_join(sql: &dyn Sql, c: &Convoy, bead: &Bead) -> Result<(), TownError> {
    if bead.kind != Kind::Issue || bead.triage_request {
        let text = format!("bead {} is a {}; the tasks of a convoy are issues", bead.id, bead.kind.as_str());
        return Err(TownError::invalid("bead_id", text));
    }
    if let Some(other) = convoy::of_task(sql, &bead.id)? {
        let text = format!("Bead {} is a task of convoy {}; remove it from there first", bead.id, other.bead.id);
        return Err(TownError::conflict("taken", text));
    }
    if c.rig_id.is_some() && bead.rig_id != c.rig_id {
        let text = format!("bead {} is of another rig than the convoy, whose feature branch is in one rig", bead.id);
        return Err(TownError::invalid("bead_id", text));
    }
    Ok(())
}

/// 409 unless tasks may come and go: the convoy is open and is not landing.
fn may_change(c: &Convoy) -> Result<(), TownError> {
    if c.bead.status == Status::Open && c.landing_mr.is_none() {
        return Ok(());
    }
    let (id, state) = (&c.bead.id, c.bead.status.as_str());
    let is = if c.bead.status == Status::Open { "landing" } else { state };
    Err(TownError::conflict(state, format!("Convoy {id} is {is} and takes no changes")))
}

/// One convoy with its tasks and their edges (`protocol.md` 2.6).
pub fn get(sql: &dyn Sql, id: &BeadId) -> Result<Reply, TownError> {
    let mut view = convoy::get(sql, id)?.view();
    let rows = sql.query(
        "SELECT b.bead_id, b.title, b.status, b.rig_id, a.name
         FROM bead_dependencies d
         JOIN beads b ON b.bead_id = d.bead_id
         LEFT JOIN agents a ON a.agent_id = b.assignee_agent_bead_id
         WHERE d.depends_on_bead_id = ?1 AND d.kind = 'tracks'
         ORDER BY b.seq",
        &[id.into()],
    )?;
    let mut beads = Vec::new();
    for r in &rows {
        beads.push(json!({"bead_id": r.text(0)?, "title": r.text(1)?, "status": r.text(2)?, "rig_id": r.opt_text(3)?,
                          "assignee_agent_name": r.opt_text(4)?}));
    }
    let rows = sql.query(
        "SELECT e.bead_id, e.depends_on_bead_id
         FROM bead_dependencies d
         JOIN bead_dependencies e ON e.bead_id = d.bead_id AND e.kind = 'blocks'
         JOIN bead_dependencies t
           ON t.bead_id = e.depends_on_bead_id AND t.kind = 'tracks' AND t.depends_on_bead_id = d.depends_on_bead_id
         WHERE d.depends_on_bead_id = ?1 AND d.kind = 'tracks'",
        &[id.into()],
    )?;
    let mut edges = Vec::new();
    for r in &rows {
        edges.push(json!({"bead_id": r.text(0)?, "depends_on_bead_id": r.text(1)?}));
    }
    if let Some(view) = view.as_object_mut() {
        view.insert("beads".to_owned(), beads.into());
        view.insert("dependency_edges".to_owned(), edges.into());
    }
    Reply::quiet(view)
}

/// Starts a staged convoy.
pub fn start(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId) -> Result<Reply, TownError> {
    let found = match convoy::get(sql, id) {
        Err(e) if matches!(e.cause(), Cause::NotFound(_)) => None,
        other => Some(other?),
    };
    if !found.is_some_and(|c| c.staged && c.bead.status == Status::Open) {
        return Err(TownError::not_found("Convoy not found or not staged"));
    }
    sql.execute("UPDATE convoys SET staged = 0 WHERE bead_id = ?1", &[id.into()])?;
    convoy::unstage(sql, id)?;
    changed(sql, ctx, actor, id, "staged")?;
    Reply::ok(with_beads(sql, id)?)
}

fn changed(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId, what: &str) -> Result<(), TownError> {
    let metadata = Some(json!({"changed": [what], "actor": actor.label()}));
    event::record(sql, ctx, id, Happening { kind: "fields_updated", new: Some(what), metadata, ..Happening::default() })
}

/// Closes a convoy, and with it those of its tasks that have not ended. Closing it again changes nothing.
pub fn close(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId) -> Result<Reply, TownError> {
    let c = convoy::get(sql, id)?;
    match c.bead.status {
        Status::Closed => {}
        Status::Failed => {
            return Err(TownError::conflict("failed", format!("Convoy {id} has failed; redrive it, or delete it")));
        }
        _ => by_hand::end(sql, ctx, actor, &c.bead, Status::Closed, "closed by hand")?,
    }
    Reply::ok(convoy::get(sql, id)?.view())
}

/// Changes merge mode and feature branch, while no work of a task lies anywhere that the old ones say.
pub fn patch(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &BeadId,
    merge_mode: Option<&str>,
    feature_branch: Option<&str>,
) -> Result<Reply, TownError> {
    let mut c = convoy::get(sql, id)?;
    let mode = merge_mode.map(MergeMode::parse).transpose()?.unwrap_or(c.merge_mode);
    let branch = feature_branch.map(str::to_owned).or_else(|| c.feature_branch.clone());
    if let Some(branch) = feature_branch {
        towns::check_branch("feature_branch", branch)?;
    }
    if (mode, &branch) == (c.merge_mode, &c.feature_branch) {
        return Reply::quiet(c.view());
    }
    may_change(&c)?;
    let mut rigs = Sorted::new();
    let tasks = convoy::tasks(sql, id)?;
    for task in &tasks {
        let task = bead::get(sql, task)?;
        if c.has_work || matches!(task.status, Status::InProgress | Status::InReview) {
            let text = format!("Work of convoy {id} is under way by its present merge mode and branch");
            return Err(TownError::conflict(task.status.as_str(), text));
        }
        rigs.add(task.rig_id);
    }
    let together = mode == MergeMode::ReviewThenLand;
    if together && c.rig_id.is_none() {
        let mut rigs = rigs.into_iter();
        c.rig_id = rigs.next().and_then(|(rig, ())| rig);
        if c.rig_id.is_none() || rigs.next().is_some() {
            let text = "the tasks of this convoy are not of one rig, so they cannot land together";
            return Err(TownError::invalid("merge_mode", text));
        }
    }
    let branch = if together { branch.or_else(|| Some(convoy::feature_branch(&c.bead.title, id))) } else { branch };
    if let (Some(rig_id), Some(name)) = (&c.rig_id, &branch)
        && rig::find(sql, rig_id)?.is_some_and(|r| r.default_branch == *name)
    {
        return Err(TownError::invalid("feature_branch", "the feature branch must not be the rig's default branch"));
    }
    sql.execute(
        "UPDATE convoys SET rig_id = ?2, merge_mode = ?3, feature_branch = ?4 WHERE bead_id = ?1",
        &[id.into(), c.rig_id.as_ref().into(), mode.as_str().into(), branch.as_ref().into()],
    )?;
    let c = convoy::get(sql, id)?;
    for task in &tasks {
        convoy::join(sql, &c, task)?;
    }
    changed(sql, ctx, actor, id, "merge_mode,feature_branch")?;
    convoy::recount(sql, ctx, id)?;
    Reply::ok(convoy::get(sql, id)?.view())
}

/// Adds a bead; `depends_on` is added to what it waits for.
pub fn add(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    id: &BeadId,
    task: &BeadId,
    depends_on: &[String],
) -> Result<Reply, TownError> {
    let c = convoy::get(sql, id)?;
    let bead = bead::get(sql, task)?;
    let member = convoy::of_task(sql, task)?.is_some_and(|o| o.bead.id == *id);
    let mut blockers = beads::depends_on(sql, depends_on)?;
    if !member {
        may_change(&c)?;
        may_join(sql, &c, &bead)?;
        if c.total as usize >= CONVOY_TASKS {
            return Err(TownError::invalid("bead_id", format!("a convoy has at most {CONVOY_TASKS} tasks")));
        }
        convoy::join(sql, &c, task)?;
    }
    if !blockers.is_empty() {
        for known in dependency::blockers(sql, task)? {
            if !blockers.contains(&known) {
                blockers.push(known);
            }
        }
        dependency::replace(sql, task, &blockers)?;
    }
    convoy::recount(sql, ctx, id)?;
    Reply::ok(json!({"total_beads": convoy::get(sql, id)?.total}))
}

/// Removes a task, with the edges between it and the others. Work of it on the feature branch stays there.
pub fn remove(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId, task: &BeadId) -> Result<Reply, TownError> {
    let c = task_of(sql, id, task)?;
    may_change(&c)?;
    let bead = bead::get(sql, task)?;
    if c.feature().is_some() && matches!(bead.status, Status::InProgress | Status::InReview) {
        let text = format!(
            "Bead {task} is {} on the convoy's feature branch; wait for it, or cancel it",
            bead.status.as_str()
        );
        return Err(TownError::conflict(bead.status.as_str(), text));
    }
    convoy::leave(sql, ctx, id, task)?;
    Reply::ok(json!({"total_beads": convoy::get(sql, id)?.total}))
}

/// Somebody says that a task is closed. The convoy knows; it counts once more and tells how it stands.
pub fn bead_closed(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId, task: &BeadId) -> Result<Reply, TownError> {
    task_of(sql, id, task)?;
    convoy::recount(sql, ctx, id)?;
    Reply::ok(convoy::get(sql, id)?.view())
}

/// The convoy, if the bead is a task of it.
fn task_of(sql: &dyn Sql, id: &BeadId, task: &BeadId) -> Result<Convoy, TownError> {
    let c = convoy::get(sql, id)?;
    match convoy::of_task(sql, task)? {
        Some(of) if of.bead.id == c.bead.id => Ok(c),
        _ => Err(TownError::not_found("The bead is no task of this convoy")),
    }
}
