//! Molecules: ordered steps attached to a bead, which the agent that works on the bead goes through one by one.
//!
//! A molecule is a bead with a satellite row; each of its steps is a bead, too, so that it shows wherever beads do. None of
//! them is work by itself: the gate dispatches the bead that they are attached to.
//!
//! *Guarantees.* One active molecule a bead. It ends with its last step, or when its bead is closed or cancelled; a bead that
//! dispatch has failed keeps it, and goes on where it was when it is redriven.

use super::Ctx;
use super::agent;
use super::bead::{self, Bead, Because, Draft, FailureReason, Kind, Priority, Status};
use super::dependency;
use super::error::TownError;
use super::id::{AgentId, BeadId};
use super::json::{self, json};
use super::policy::{MESSAGE_BYTES, METADATA_BYTES, MOLECULE_STEPS, REASON_BYTES, TITLE_BYTES};
use super::sql::{Columns, Row, Sql, SqlError, first};
use super::text;
use super::time::Timestamp;
use serde_json::Value as Json;

/// The satellite row.
struct Molecule {
    id: BeadId,
    subject: BeadId,
    formula: Json,
    step_beads: Vec<String>,
    current: usize,
    status: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Column list of every `SELECT` that [`read`] decodes. A macro, because statement text is constant.
macro_rules! molecule_columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT bead_id, subject_bead_id, formula, step_beads, current_step, status, created_at, updated_at
             FROM molecules ",
            $($rest)*
        )
    };
}

fn read(r: &Row) -> Result<Molecule, SqlError> {
    let c = Columns::of(r);
    let read = Molecule {
        id: BeadId(c.text(0)),
        subject: BeadId(c.text(1)),
        formula: json::read(&c.text(2)).unwrap_or_default(),
        step_beads: json::texts(&c.text(3)).unwrap_or_default(),
        current: usize::try_from(c.count(4)).unwrap_or(usize::MAX),
        status: c.text(5),
        created_at: c.at(6),
        updated_at: c.at(7),
    };
    c.done(read)
}

/// As on the wire: `protocol.md` 2.8, and what its readers expect beside it (section 7, 2).
fn shown(m: &Molecule) -> Json {
    json!({
        "id": m.id,
        "bead_id": m.subject,
        "formula": m.formula,
        "current_step": m.current,
        "status": m.status,
        "created_at": m.created_at,
        "updated_at": m.updated_at,
        "moleculeId": m.id,
        "currentStep": m.current,
        "totalSteps": m.step_beads.len(),
        "completed": m.status == "completed",
    })
}

fn active_of(sql: &dyn Sql, subject: &BeadId) -> Result<Option<Molecule>, TownError> {
    let row = first(sql, molecule_columns!("WHERE subject_bead_id = ?1 AND status = 'active'"), &[subject.into()])?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// The molecule of the bead that an agent is hooked to; 404 if there is none.
fn of_agent(sql: &dyn Sql, agent: &AgentId) -> Result<Molecule, TownError> {
    let hook = agent::get(sql, agent)?.hook;
    let found = hook.map(|bead| active_of(sql, &bead)).transpose()?.flatten();
    found.ok_or_else(|| TownError::not_found("No active molecule for this agent"))
}

/// Attaches steps to a bead.
///
/// 422 if `formula.steps` is not a list of 1 … [`MOLECULE_STEPS`] `{title, instructions}`; 409 if the bead has ended or
/// has a molecule already.
pub fn attach(sql: &dyn Sql, ctx: &Ctx<'_>, by: &str, subject: &Bead, formula: &Json) -> Result<Json, TownError> {
    let steps = check(formula)?;
    if subject.status.is_final() || !subject.is_work() {
        let text = format!(
            "Bead {} is {}; steps are attached to work that is not finished",
            subject.id,
            subject.status.as_str()
        );
        return Err(TownError::conflict(subject.status.as_str(), text));
    }
    if active_of(sql, &subject.id)?.is_some() {
        let text = format!("Bead {} has an active molecule already", subject.id);
        return Err(TownError::conflict(subject.status.as_str(), text));
    }
    let draft = |title: &str, body: Option<String>, parent: Option<BeadId>, labels: Vec<String>| Draft {
        kind: Kind::Molecule,
        title: text::cut(title, TITLE_BYTES).to_owned(),
        body,
        rig_id: None,
        parent,
        priority: Priority::Medium,
        labels,
        metadata: json!({"bead_id": subject.id}),
        created_by: Some(by.to_owned()),
        depends_on: Vec::new(),
    };
    let title = format!("Molecule: {}", subject.title);
    let own = bead::create(sql, ctx, draft(&title, None, None, vec!["gt:molecule".to_owned()]))?;
    let mut beads = Vec::with_capacity(steps.len());
    for (n, (title, instructions)) in steps.iter().enumerate() {
        let labels = vec!["gt:molecule-step".to_owned(), format!("step:{n}")];
        let step = draft(title, Some((*instructions).to_owned()), Some(own.id.clone()), labels);
        beads.push(bead::create(sql, ctx, step)?.id.0);
    }
    sql.execute(
        "INSERT INTO molecules (bead_id, subject_bead_id, formula, step_beads, status, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, 'active', ?5, ?5)",
        &[
            (&own.id).into(),
            (&subject.id).into(),
            (&formula.to_string()).into(),
            (&json!(beads).to_string()).into(),
            ctx.now.into(),
        ],
    )?;
    let made = active_of(sql, &subject.id)?.ok_or_else(|| SqlError::new("the molecule is not there"))?;
    Ok(shown(&made))
}

/// Title and instructions of each step.
fn check(formula: &Json) -> Result<Vec<(&str, &str)>, TownError> {
    let wrong = |text: String| TownError::invalid("formula.steps", text);
    let list = formula.get("steps").and_then(Json::as_array).filter(|s| (1..=MOLECULE_STEPS).contains(&s.len()));
    let list = list.ok_or_else(|| wrong(format!("formula.steps must be a list of 1 to {MOLECULE_STEPS} steps")))?;
    if formula.to_string().len() > METADATA_BYTES {
        return Err(wrong(format!("the formula must be at most {METADATA_BYTES} bytes of JSON")));
    }
    let word = |step: &'_ Json, key: &str, cap: usize| {
        step.get(key).and_then(Json::as_str).is_some_and(|t| !t.trim().is_empty() && t.len() <= cap)
    };
    if !list.iter().all(|s| word(s, "title", TITLE_BYTES) && word(s, "instructions", MESSAGE_BYTES)) {
        return Err(wrong(format!(
            "every step must be {{title, instructions}}: texts of 1 to {TITLE_BYTES} and 1 to {MESSAGE_BYTES} bytes"
        )));
    }
    let text = |step, key| Json::get(step, key).and_then(Json::as_str).unwrap_or_default();
    Ok(list.iter().map(|s| (text(s, "title"), text(s, "instructions"))).collect())
}

/// What an agent has to do now: `{molecule, step, moleculeId, currentStep, totalSteps, status}`.
pub fn current(sql: &dyn Sql, agent: &AgentId) -> Result<Json, TownError> {
    let m = of_agent(sql, agent)?;
    let step = m.formula.pointer(&format!("/steps/{}", m.current)).cloned().unwrap_or_else(|| json!({}));
    Ok(json!({
        "molecule": shown(&m),
        "step": step,
        "moleculeId": m.id,
        "currentStep": m.current,
        "totalSteps": m.step_beads.len(),
        "status": m.status,
    }))
}

/// The current step is done: its bead is closed; with the last one, the molecule.
pub fn advance(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, summary: &str) -> Result<Json, TownError> {
    let m = of_agent(sql, agent)?;
    let summary = text::redact(summary);
    let reason = text::cut(&summary, REASON_BYTES);
    let because = || Because { agent: Some(agent), ..Because::of(agent.as_str(), reason) };
    if let Some(step) = m.step_beads.get(m.current) {
        // People may have closed or deleted it.
        if let Some(mut step) = bead::find(sql, &step.as_str().into())?.filter(|b| !b.status.is_final()) {
            let body = step.body.clone().unwrap_or_default();
            sql.execute(
                "UPDATE beads SET body = ?2 WHERE bead_id = ?1",
                &[(&step.id).into(), (&format!("{body}\n\n---\n{summary}")).into()],
            )?;
            bead::transition(sql, ctx, &mut step, Status::Closed, because())?;
        }
    }
    sql.execute(
        "UPDATE molecules SET current_step = current_step + 1, updated_at = ?2 WHERE bead_id = ?1",
        &[(&m.id).into(), ctx.now.into()],
    )?;
    if m.current.saturating_add(1) >= m.step_beads.len() {
        end(sql, ctx, &m, Status::Closed, "its last step is done")?;
    }
    let row = first(sql, molecule_columns!("WHERE bead_id = ?1"), &[(&m.id).into()])?;
    let mut answer = row.as_ref().map(read).transpose()?.map_or(Json::Null, |m| shown(&m));
    if let Some(map) = answer.as_object_mut() {
        map.insert("previousStep".to_owned(), json!(m.current));
    }
    Ok(answer)
}

/// Ends an active molecule, its bead, and the beads of the steps that are left.
fn end(sql: &dyn Sql, ctx: &Ctx<'_>, m: &Molecule, to: Status, reason: &str) -> Result<(), TownError> {
    let status = if to == Status::Closed { "completed" } else { "failed" };
    let changed = sql.execute(
        "UPDATE molecules SET status = ?2, updated_at = ?3 WHERE bead_id = ?1 AND status = 'active'",
        &[(&m.id).into(), status.into(), ctx.now.into()],
    )?;
    if changed == 0 {
        return Ok(());
    }
    for id in m.step_beads.iter().map(String::as_str).chain([m.id.as_str()]) {
        let Some(mut bead) = bead::find(sql, &id.into())?.filter(|b| !b.status.is_final()) else { continue };
        let failure = (to == Status::Failed).then(|| FailureReason {
            code: "cancelled".to_owned(),
            message: reason.to_owned(),
            source: "system".to_owned(),
        });
        bead::transition(sql, ctx, &mut bead, to, Because { failure, ..Because::of("system", reason) })?;
    }
    Ok(())
}

/// A bead has ended for good: its molecule ends with it; and if it is a molecule, so do its steps.
pub fn bead_ended(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &Bead) -> Result<(), TownError> {
    let failed_by_dispatch = bead.failure_reason.as_ref().is_some_and(|f| f.code != "cancelled");
    let found = match bead.kind {
        Kind::Molecule => {
            let row = first(sql, molecule_columns!("WHERE bead_id = ?1 AND status = 'active'"), &[(&bead.id).into()])?;
            row.as_ref().map(read).transpose()?
        }
        Kind::Issue | Kind::MergeRequest if !failed_by_dispatch => active_of(sql, &bead.id)?,
        Kind::Issue | Kind::MergeRequest | Kind::Escalation | Kind::Convoy => None,
    };
    let Some(m) = found else { return Ok(()) };
    let reason = format!("its bead was {}", bead.status.as_str());
    end(sql, ctx, &m, bead.status, &reason)
}

/// A bead was deleted: its molecules go with it; a molecule's steps go with it.
pub fn forget(sql: &dyn Sql, bead: &BeadId) -> Result<(), TownError> {
    let rows = sql.query(molecule_columns!("WHERE subject_bead_id = ?1 OR bead_id = ?1"), &[bead.into()])?;
    for r in &rows {
        let m = read(r)?;
        for id in m.step_beads.iter().map(String::as_str).chain([m.id.as_str()]) {
            sql.execute("DELETE FROM beads WHERE bead_id = ?1", &[id.into()])?;
            dependency::forget(sql, &id.into())?;
        }
        sql.execute("DELETE FROM molecules WHERE bead_id = ?1", &[(&m.id).into()])?;
    }
    Ok(())
}
