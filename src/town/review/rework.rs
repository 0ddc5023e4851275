//! Rework: beads that a review asks for before its branch may go in. A refinery that wants changes makes one, and so does
//! a pull request with conflicts, failed checks or open comments. Each blocks its merge request and costs a round.

use super::super::Ctx;
use super::super::agent::{self, Role};
use super::super::bead::{self, Bead, Because, Draft, Kind, Status};
use super::super::command::Actor;
use super::super::config::Config;
use super::super::dependency;
use super::super::dispatch::attempt::Outcome;
use super::super::dispatch::finish::{End, finish};
use super::super::dispatch::late;
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::id::{AgentId, BeadId};
use super::super::policy::{BODY_BYTES, RULE_ROWS, TITLE_BYTES};
use super::super::sql::Sql;
use super::super::text;
use super::{MergeRequest, Verdict, end_attempt, request, settle};
use crate::bead_columns;
use crate::town::json::json;
use serde_json::Value as Json;

/// The label of a refinery's request for changes.
pub const REWORK: &str = "gt:rework";

/// What is to be done before the branch may go in.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Bead")]
pub struct Wanted<'a> {
    pub title: String,
    pub body: String,
    pub label: &'static str,
    pub metadata: Json,
    pub by: Option<&'a AgentId>,
}

/// `POST agents/:a/request-changes`: a refinery's verdict. The rework bead, or `None` if the rounds are used up: then
/// source and merge request have failed. The same request again, its answer lost, finds the same bead.
pub fn request_changes(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &AgentId,
    feedback: &str,
    files: &[String],
) -> Result<Option<BeadId>, TownError> {
    if agent::get(sql, id)?.role != Role::Refinery {
        let words = "Only a refinery can request changes; report done, or escalate what stands in your way";
        return Err(TownError::forbidden(words.to_owned()));
    }
    let idle = |state: &str, why: String| {
        let advice = "changes can be requested only while a dispatch reviews one; wait for the next";
        TownError::conflict(state, format!("Agent {id} is not at work on a merge request{why}; {advice}"))
    };
    let attempt = late::speaker(sql, id, actor.dispatch())?.ok_or_else(|| idle("idle", String::new()))?;
    let mr = attempt.bead.as_ref().map(|mr| bead::find(sql, mr)).transpose()?.flatten();
    let mut mr = mr.filter(|b| b.kind == Kind::MergeRequest).ok_or_else(|| idle("idle", String::new()))?;
    if !attempt.is_live() {
        let known = if attempt.outcome == Outcome::Succeeded { open_of(sql, &mr.id)? } else { None };
        let why = format!(": its dispatch {} ended as {}", attempt.id, attempt.outcome.as_str());
        return known.map(Some).ok_or_else(|| idle(mr.status.as_str(), why));
    }
    finish(sql, ctx, &attempt, End::Succeeded)?;
    mr = bead::get(sql, &mr.id)?;
    let asked = request(sql, &mr.id)?;
    let title = bead::find(sql, &asked.source_bead_id)?.map_or_else(|| asked.branch.clone(), |b| b.title);
    let feedback = text::redact(feedback);
    let wanted = Wanted {
        title: format!("Rework: {title}"),
        body: feedback.clone(),
        label: REWORK,
        metadata: json!({"rework_for": asked.source_bead_id, "mr_bead_id": mr.id, "branch": asked.branch,
                         "target_branch": asked.target_branch, "files": files}),
        by: Some(id),
    };
    let Some(rework) = ask(sql, ctx, &mut mr, &asked, wanted)? else { return Ok(None) };
    event::record(
        sql,
        ctx,
        &asked.source_bead_id,
        Happening {
            kind: "rework_requested",
            agent: Some(id),
            new: Some(rework.as_str()),
            metadata: Some(json!({"feedback": text::excerpt(&feedback, 500), "files": files})),
            ..Happening::default()
        },
    )?;
    let because = Because { agent: Some(id), ..Because::of(id.as_str(), "changes requested") };
    bead::transition(sql, ctx, &mut mr, Status::Open, because)?;
    Ok(Some(rework))
}

/// Makes the bead that blocks the merge request, for one round of its source; `None` if that was its last.
pub fn ask(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    mr: &mut Bead,
    asked: &MergeRequest,
    wanted: Wanted<'_>,
) -> Result<Option<BeadId>, TownError> {
    let source = bead::find(sql, &asked.source_bead_id)?;
    let rounds = source.as_ref().map_or(1, |s| s.review_rounds.saturating_add(1));
    if rounds >= Config::load(sql)?.dispatch.max_review_rounds {
        settle(sql, ctx, mr, Verdict::Failed, &format!("{}\n\n{}", wanted.title, wanted.body), None)?;
        return Ok(None);
    }
    let rework = bead::create(
        sql,
        ctx,
        Draft {
            kind: Kind::Issue,
            title: text::cut(&wanted.title, TITLE_BYTES).to_owned(),
            body: Some(text::cut(&wanted.body, BODY_BYTES).to_owned()),
            rig_id: mr.rig_id.clone(),
            parent: Some(mr.id.clone()),
            priority: mr.priority,
            labels: vec![wanted.label.to_owned()],
            metadata: wanted.metadata,
            created_by: Some(wanted.by.map_or_else(|| "system".to_owned(), |a| a.0.clone())),
            depends_on: Vec::new(),
        },
    )?;
    dependency::add(sql, &mr.id, &rework.id, dependency::Kind::Blocks)?;
    dependency::recount(sql, &mr.id)?;
    sql.execute(
        "UPDATE beads SET review_rounds = ?2 WHERE bead_id = ?1",
        &[(&asked.source_bead_id).into(), rounds.into()],
    )?;
    Ok(Some(rework.id))
}

/// Beads that repair the branch of a merge request and are not done yet.
fn under_way(sql: &dyn Sql, mr: &BeadId) -> Result<Vec<Bead>, TownError> {
    let rows = sql.query(
        bead_columns!(
            "INDEXED BY beads_by_parent
             WHERE parent_bead_id = ?1 AND status IN ('open', 'in_progress')
             LIMIT ?2"
        ),
        &[mr.into(), RULE_ROWS.into()],
    )?;
    let all: Vec<Bead> = rows.iter().map(bead::read).collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(Bead::closes_on_done).collect())
}

/// The rework bead that a merge request waits for.
fn open_of(sql: &dyn Sql, mr: &BeadId) -> Result<Option<BeadId>, TownError> {
    Ok(under_way(sql, mr)?.into_iter().find(|b| b.has_label(REWORK)).map(|b| b.id))
}

/// Its merge request was decided otherwise: nobody needs the rest of its rework any more.
pub fn call_off(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &BeadId) -> Result<(), TownError> {
    for Bead { id, .. } in under_way(sql, mr)? {
        let reason = "its merge request was decided";
        end_attempt(sql, ctx, &id, reason)?;
        if let Some(agent) = agent::hooked_to(sql, &id)? {
            agent::unhook(sql, ctx, &agent.id, &id, reason)?;
        }
        let mut rest = bead::get(sql, &id)?;
        bead::transition(sql, ctx, &mut rest, Status::Closed, Because::of("system", reason))?;
    }
    Ok(())
}
