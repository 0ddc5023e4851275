//! Convoys: issues with a plan of who waits for whom, and by default one feature branch that lands when all are done.
//!
//! A convoy is a bead with a satellite row; its tasks track it. *Guarantees*: progress is counted whenever a task ends,
//! comes back, joins or leaves, so it always equals a recount; a convoy lands, or closes, only when every task of it is
//! closed, never over a failed one: that is redriven or removed first; at most one landing is under way, and the next one
//! is a deadline in a column.

mod landing;
mod plan;

pub use landing::{landing_ended, next_deadline, run};
pub use plan::{Edges, cycle};

use super::Ctx;
use super::bead::{self, Bead, Because, Kind, Status};
use super::config::{self, Config};
use super::dependency;
use super::effect::DataPoint;
use super::error::TownError;
use super::event::{self, Happening};
use super::frame;
use super::id::{BeadId, RigId};
use super::json::json;
use super::mail;
use super::policy::{BRANCH_SLUG_BYTES, LIST_MAX, TITLE_BYTES};
use super::review;
use super::rig::Rig;
use super::sql::{Columns, Row, Sql, first};
use super::state::{self, State};
use super::text;
use super::time::Timestamp;
use serde_json::Value as Json;

/// How the tasks of a convoy get into the default branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeMode {
    /// Each into the feature branch, which lands when all are done.
    ReviewThenLand,
    /// Each by itself.
    ReviewAndMerge,
}

impl MergeMode {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReviewThenLand => "review-then-land",
            Self::ReviewAndMerge => "review-and-merge",
        }
    }
    /// Reads a mode; 422 if it is none.
    pub fn parse(text: &str) -> Result<Self, TownError> {
        [Self::ReviewThenLand, Self::ReviewAndMerge]
            .into_iter()
            .find(|m| m.as_str() == text)
            .ok_or_else(|| TownError::invalid("merge_mode", "merge_mode must be review-then-land or review-and-merge"))
    }
    /// The rig's, else the town's.
    pub fn of_rig(config: &Config, rig: &Rig) -> Result<Self, TownError> {
        Self::parse(config::convoy_merge_mode(config, &rig.config))
    }
}

/// A convoy: its bead and its satellite row.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns, documented in migrations/town/0004_convoys.sql")]
pub struct Convoy {
    pub bead: Bead,
    pub rig_id: Option<RigId>,
    pub merge_mode: MergeMode,
    pub feature_branch: Option<String>,
    pub staged: bool,
    pub total: u32,
    pub closed: u32,
    pub failed: u32,
    pub has_work: bool,
    pub landing_mr: Option<BeadId>,
    pub landing_failures: u32,
    pub land_at: Option<Timestamp>,
}

impl Convoy {
    fn read(sql: &dyn Sql, r: &Row) -> Result<Option<Self>, TownError> {
        let Some(bead) = bead::find(sql, &BeadId(r.text(0)?))? else { return Ok(None) };
        let c = Columns::of(r);
        let read = Self {
            bead,
            rig_id: c.opt_text(1).map(RigId),
            merge_mode: c.word(2, |word| MergeMode::parse(word).ok(), MergeMode::ReviewAndMerge),
            feature_branch: c.opt_text(3),
            staged: c.flag(4),
            total: c.count(5),
            closed: c.count(6),
            failed: c.count(7),
            has_work: c.flag(8),
            landing_mr: c.opt_text(9).map(BeadId),
            landing_failures: c.count(10),
            land_at: c.opt_at(11),
        };
        Ok(Some(c.done(read)?))
    }

    /// The branch that its tasks merge into, while it is open and lands as a whole.
    #[must_use]
    pub fn feature(&self) -> Option<&str> {
        let lands = self.merge_mode == MergeMode::ReviewThenLand && self.bead.status == Status::Open;
        self.feature_branch.as_deref().filter(|_| lands)
    }

    /// Every task is closed, and none failed.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.total > 0 && self.closed == self.total && self.failed == 0
    }

    /// How it stands, in words.
    #[must_use]
    pub fn progress(&self) -> String {
        let (total, failed) = (self.total, self.failed);
        match self.bead.status {
            Status::Closed => "it is closed".to_owned(),
            Status::Failed => {
                let why = self.bead.failure_reason.as_ref().map_or("no reason was recorded", |f| f.message.as_str());
                format!("it failed: {why}")
            }
            _ if total == 0 => "it has no tasks: add some, or close it".to_owned(),
            _ if self.staged => format!("it is staged: its {total} tasks wait for its start"),
            _ if self.landing_mr.is_some() => "all its tasks are closed, and it is landing".to_owned(),
            _ if self.land_at.is_some() && self.landing_failures > 0 => {
                let at = self.land_at.unwrap_or_default();
                format!("its landing failed {} times; the next one is due at {at}", self.landing_failures)
            }
            _ if self.land_at.is_some() => "all its tasks are closed, and it lands now".to_owned(),
            _ if failed > 0 => format!(
                "{} of {total} tasks ended, {failed} of them failed: redrive or remove those, it does not land over them",
                self.closed
            ),
            _ => format!("{} of {total} tasks are closed", self.closed),
        }
    }

    /// `protocol.md` 2.6, and how it stands.
    #[must_use]
    pub fn view(&self) -> Json {
        json!({
            "id": self.bead.id,
            "title": self.bead.title,
            "status": if self.bead.status == Status::Closed { "landed" } else { "active" },
            "staged": self.staged,
            "total_beads": self.total,
            "closed_beads": self.closed,
            "failed_beads": self.failed,
            "created_by": self.bead.created_by,
            "created_at": self.bead.created_at,
            "landed_at": self.bead.closed_at,
            "feature_branch": self.feature_branch,
            "merge_mode": self.merge_mode.as_str(),
            "progress": self.progress(),
            "next_landing_at": self.land_at,
        })
    }
}

/// Column list of every `SELECT` that [`Convoy::read`] decodes. A macro, because statement text is constant.
macro_rules! convoy_columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT c.bead_id, c.rig_id, c.merge_mode, c.feature_branch, c.staged, c.total_beads, c.closed_beads,
                    c.failed_beads, c.has_work, c.landing_mr, c.landing_failures, c.land_at
             FROM ",
            $($rest)*
        )
    };
}

fn one(sql: &dyn Sql, query: &'static str, id: &BeadId) -> Result<Option<Convoy>, TownError> {
    first(sql, query, &[id.into()])?.map_or(Ok(None), |r| Convoy::read(sql, &r))
}

/// The convoy, or 404 `Convoy not found`.
pub fn get(sql: &dyn Sql, id: &BeadId) -> Result<Convoy, TownError> {
    one(sql, convoy_columns!("convoys c WHERE c.bead_id = ?1"), id)?.ok_or_else(|| TownError::missing("Convoy"))
}

/// The convoy that a bead is a task of.
pub fn of_task(sql: &dyn Sql, task: &BeadId) -> Result<Option<Convoy>, TownError> {
    one(
        sql,
        convoy_columns!(
            "bead_dependencies d
             JOIN convoys c ON c.bead_id = d.depends_on_bead_id
             WHERE d.bead_id = ?1 AND d.kind = 'tracks'
             LIMIT 1"
        ),
        task,
    )
}

/// Convoys that are not closed, newest first.
pub fn list(sql: &dyn Sql) -> Result<Vec<Json>, TownError> {
    let rows =
        sql.query(convoy_columns!("convoys c WHERE c.landed = 0 ORDER BY c.seq DESC LIMIT ?1"), &[LIST_MAX.into()])?;
    let mut shown = Vec::new();
    for r in &rows {
        shown.extend(Convoy::read(sql, r)?.map(|c| c.view()));
    }
    Ok(shown)
}

/// The tasks of a convoy, oldest first.
pub fn tasks(sql: &dyn Sql, id: &BeadId) -> Result<Vec<BeadId>, TownError> {
    let rows = sql.query(
        "SELECT b.bead_id
         FROM bead_dependencies d
         JOIN beads b ON b.bead_id = d.bead_id
         WHERE d.depends_on_bead_id = ?1 AND d.kind = 'tracks'
         ORDER BY b.seq",
        &[id.into()],
    )?;
    Ok(rows.iter().map(|r| r.text(0).map(BeadId)).collect::<Result<_, _>>()?)
}

/// `convoy/<slug>/<id8>/head` (`protocol.md` 6.1).
#[must_use]
pub fn feature_branch(title: &str, id: &BeadId) -> String {
    let mut slug = String::new();
    for c in title.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
        if c != '-' || !slug.ends_with('-') {
            slug.push(c);
        }
    }
    let slug = text::cut(slug.trim_matches('-'), BRANCH_SLUG_BYTES);
    format!("convoy/{}/{}/head", if slug.is_empty() { "convoy" } else { slug }, id.short())
}

/// Branch and start point of a task's agent, whose own branch would be `own`: beside the feature branch, cut from it.
#[must_use]
pub fn branch_of_task(feature: &str, own: &str) -> (String, String) {
    // Below a branch that is not called `head` git has no room for another.
    let branch = feature.strip_suffix("/head").map_or_else(|| own.to_owned(), |stem| format!("{stem}/{own}"));
    (branch, format!("origin/{feature}"))
}

/// What a new convoy is made of, beside its bead.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Convoy")]
pub struct Draft {
    pub rig_id: Option<RigId>,
    pub merge_mode: MergeMode,
    pub feature_branch: Option<String>,
    pub staged: bool,
}

/// Writes the satellite row of a new convoy bead.
pub fn create(sql: &dyn Sql, bead: &BeadId, new: &Draft) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO convoys (bead_id, seq, rig_id, merge_mode, feature_branch, staged)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &[
            bead.into(),
            state::next_seq(sql)?.into(),
            new.rig_id.as_ref().into(),
            new.merge_mode.as_str().into(),
            new.feature_branch.as_ref().into(),
            new.staged.into(),
        ],
    )?;
    Ok(())
}

/// Makes a bead a task. The caller recounts.
pub fn join(sql: &dyn Sql, convoy: &Convoy, task: &BeadId) -> Result<(), TownError> {
    dependency::add(sql, task, &convoy.bead.id, dependency::Kind::Tracks)?;
    sql.execute(
        "UPDATE beads
         SET staged = ?3, metadata = json_set(metadata, '$.convoy_id', ?2, '$.feature_branch', ?4)
         WHERE bead_id = ?1",
        &[task.into(), (&convoy.bead.id).into(), convoy.staged.into(), convoy.feature_branch.as_ref().into()],
    )?;
    Ok(())
}

/// Counts the tasks anew, tells if that changed anything, and closes or lands what is whole.
pub fn recount(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId) -> Result<(), TownError> {
    let mut c = get(sql, id)?;
    let row = first(
        sql,
        "SELECT count(*), coalesce(sum(b.status IN ('closed', 'failed')), 0), coalesce(sum(b.status = 'failed'), 0)
         FROM bead_dependencies d
         JOIN beads b ON b.bead_id = d.bead_id
         WHERE d.depends_on_bead_id = ?1 AND d.kind = 'tracks'",
        &[id.into()],
    )?;
    let Some(row) = row else { return Ok(()) };
    let now = (row.count(0)?, row.count(1)?, row.count(2)?);
    if now != (c.total, c.closed, c.failed) {
        (c.total, c.closed, c.failed) = now;
        sql.execute(
            "UPDATE convoys SET total_beads = ?2, closed_beads = ?3, failed_beads = ?4 WHERE bead_id = ?1",
            &[id.into(), c.total.into(), c.closed.into(), c.failed.into()],
        )?;
        let metadata = json!({"changed": ["progress"], "actor": mail::SYSTEM, "total_beads": c.total,
                              "closed_beads": c.closed, "failed_beads": c.failed});
        let what = Happening {
            kind: "fields_updated",
            new: Some("progress"),
            metadata: Some(metadata),
            ..Happening::default()
        };
        event::record(sql, ctx, id, what)?;
        emit(ctx, "convoy.progress", &c);
        frame::convoy(ctx, id, c.total, c.closed);
    }
    landing::decide(sql, ctx, c)
}

fn emit(ctx: &Ctx<'_>, event: &'static str, c: &Convoy) {
    ctx.emit(DataPoint {
        event,
        bead_id: c.bead.id.0.clone(),
        bead_type: Kind::Convoy.as_str().to_owned(),
        rig_id: c.rig_id.as_ref().map(|r| r.0.clone()).unwrap_or_default(),
        label: c.merge_mode.as_str().to_owned(),
        value: f64::from(c.closed),
        own: [f64::from(c.total), f64::from(c.failed), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ..DataPoint::default()
    });
}

/// A bead has ended, or come back: what that means for the convoy it is a task of, for the one it lands, or for itself.
pub fn bead_moved(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &Bead) -> Result<(), TownError> {
    match bead.kind {
        Kind::Issue => {
            let Some(c) = of_task(sql, &bead.id)? else { return Ok(()) };
            if bead.status == Status::Closed && merged_into(sql, &bead.id, c.feature())? {
                sql.execute("UPDATE convoys SET has_work = 1 WHERE bead_id = ?1", &[(&c.bead.id).into()])?;
            }
            recount(sql, ctx, &c.bead.id)
        }
        Kind::MergeRequest if bead.status.is_final() => landing_ended(sql, ctx, bead),
        Kind::Convoy if bead.status.is_final() => ended(sql, ctx, &bead.id),
        Kind::Convoy => {
            sql.execute("UPDATE convoys SET landing_failures = 0 WHERE bead_id = ?1", &[(&bead.id).into()])?;
            recount(sql, ctx, &bead.id)
        }
        Kind::MergeRequest | Kind::Escalation | Kind::Molecule => Ok(()),
    }
}

fn merged_into(sql: &dyn Sql, task: &BeadId, feature: Option<&str>) -> Result<bool, TownError> {
    let merged = |mr: &review::MergeRequest| {
        mr.verdict.as_deref() == Some(review::Verdict::Merged.as_str()) && Some(mr.target_branch.as_str()) == feature
    };
    Ok(review::of_source(sql, task)?.iter().any(merged))
}

/// A convoy is over: nothing of it is due any more, and the mayor hears of one that got where it was going.
fn ended(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId) -> Result<(), TownError> {
    let c = get(sql, id)?;
    let closed = c.bead.status == Status::Closed;
    sql.execute(
        "UPDATE convoys SET landed = ?2, staged = 0, land_at = NULL, landing_mr = NULL WHERE bead_id = ?1",
        &[id.into(), closed.into()],
    )?;
    unstage(sql, id)?;
    emit(ctx, if closed { "convoy.landed" } else { "convoy.failed" }, &c);
    let merged = match &c.landing_mr {
        Some(mr) => review::find(sql, mr)?.is_some_and(|m| m.verdict.as_deref() == Some("merged")),
        None => c.merge_mode == MergeMode::ReviewAndMerge || !c.has_work,
    };
    if closed && merged && c.is_whole() {
        let subject = format!("Convoy landed: {}", c.bead.title);
        let words = format!("All {} tasks of convoy {id} «{}» are closed and in.", c.total, c.bead.title);
        let mayor = State::load(sql)?.mayor;
        mail::send(sql, ctx, mail::SYSTEM, &mayor, text::cut(&subject, TITLE_BYTES), &words)?;
    }
    Ok(())
}

/// 409 if a bead may not change its rig: a feature branch lives in one repository, and a convoy in none.
pub fn may_move(sql: &dyn Sql, bead: &Bead) -> Result<(), TownError> {
    let tied = match bead.kind {
        Kind::Convoy => true,
        _ => of_task(sql, &bead.id)?.is_some_and(|c| c.rig_id.is_some()),
    };
    if tied {
        let text = format!("Bead {} belongs to a convoy of one rig; remove it from the convoy first", bead.id);
        return Err(TownError::conflict(bead.status.as_str(), text));
    }
    Ok(())
}

/// Its tasks no longer wait for its start.
pub fn unstage(sql: &dyn Sql, id: &BeadId) -> Result<(), TownError> {
    sql.execute(
        "UPDATE beads SET staged = 0
         WHERE staged = 1
           AND bead_id IN (SELECT bead_id FROM bead_dependencies WHERE depends_on_bead_id = ?1 AND kind = 'tracks')",
        &[id.into()],
    )?;
    Ok(())
}

/// The convoy is being ended by hand: its landing, which ends with it, is no failed landing.
pub fn let_go(sql: &dyn Sql, id: &BeadId) -> Result<(), TownError> {
    sql.execute("UPDATE convoys SET landing_mr = NULL, land_at = NULL WHERE bead_id = ?1", &[id.into()])?;
    Ok(())
}

/// A task leaves its convoy, with the edges of the plan that went with it.
pub fn leave(sql: &dyn Sql, ctx: &Ctx<'_>, convoy: &BeadId, task: &BeadId) -> Result<(), TownError> {
    let waiting = dependency::dependants(sql, task)?;
    for id in tasks(sql, convoy)? {
        sql.execute(
            "DELETE FROM bead_dependencies
             WHERE kind = 'blocks'
               AND ((bead_id = ?1 AND depends_on_bead_id = ?2) OR (bead_id = ?2 AND depends_on_bead_id = ?1))",
            &[task.into(), (&id).into()],
        )?;
    }
    sql.execute(
        "DELETE FROM bead_dependencies WHERE bead_id = ?1 AND depends_on_bead_id = ?2 AND kind = 'tracks'",
        &[task.into(), convoy.into()],
    )?;
    sql.execute(
        "UPDATE beads SET staged = 0, metadata = json_remove(metadata, '$.convoy_id', '$.feature_branch')
         WHERE bead_id = ?1",
        &[task.into()],
    )?;
    for id in waiting.iter().chain([task]) {
        dependency::recount(sql, id)?;
    }
    recount(sql, ctx, convoy)
}

/// A bead is about to be erased.
pub fn forget(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &Bead) -> Result<(), TownError> {
    match bead.kind {
        Kind::Issue => match of_task(sql, &bead.id)? {
            Some(c) => leave(sql, ctx, &c.bead.id, &bead.id),
            None => Ok(()),
        },
        Kind::MergeRequest => landing_ended(sql, ctx, bead),
        Kind::Convoy => {
            sql.execute("DELETE FROM convoys WHERE bead_id = ?1", &[(&bead.id).into()])?;
            Ok(())
        }
        Kind::Escalation | Kind::Molecule => Ok(()),
    }
}

/// Convoys whose feature branch is in this rig.
pub fn of_rig(sql: &dyn Sql, rig: &RigId) -> Result<Vec<BeadId>, TownError> {
    let rows = sql.query("SELECT bead_id FROM convoys WHERE rig_id = ?1", &[rig.into()])?;
    Ok(rows.iter().map(|r| r.text(0).map(BeadId)).collect::<Result<_, _>>()?)
}

/// Closes a convoy of which nothing is left to do.
fn close(sql: &dyn Sql, ctx: &Ctx<'_>, mut c: Convoy, why: &str) -> Result<(), TownError> {
    bead::transition(sql, ctx, &mut c.bead, Status::Closed, Because::of("system", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_branch_is_named_after_the_title_and_the_id() {
        let id = BeadId::from("a1b2c3d4-0000-4000-8000-000000000000");
        for (title, slug) in [
            ("Add user auth", "add-user-auth"),
            ("  Ünï — code!  ", "n-code"),
            ("", "convoy"),
            ("!!!", "convoy"),
            ("A sentence that is a good deal longer than forty characters", "a-sentence-that-is-a-good-deal-longer-th"),
            ("123456789 123456789 123456789 123456789 x", "123456789-123456789-123456789-123456789-"),
        ] {
            assert_eq!(feature_branch(title, &id), format!("convoy/{slug}/a1b2c3d4/head"), "{title}");
        }
    }

    #[test]
    fn a_tasks_branch_lies_beside_the_feature_branch_where_git_has_room() {
        let own = "gt/toast/bead5678";
        assert_eq!(
            branch_of_task("convoy/x/a1b2c3d4/head", own),
            ("convoy/x/a1b2c3d4/gt/toast/bead5678".to_owned(), "origin/convoy/x/a1b2c3d4/head".to_owned())
        );
        assert_eq!(branch_of_task("release", own), (own.to_owned(), "origin/release".to_owned()));
    }
}
