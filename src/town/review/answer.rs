//! What a forge says becomes rows: a pull request that is merged, closed, in need of repair, ready to be merged, or in
//! trouble. The other half of [`super::pull_request`], whose guarantees it keeps.

use super::super::Ctx;
use super::super::bead::{self, Bead, Because, FailureReason, Status};
use super::super::config::{self, Config};
use super::super::effect::{Answer, Effect};
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::id::BeadId;
use super::super::notify;
use super::super::policy::{
    FORGE_BACKOFF_MAX, FORGE_MALFORMED_MAX, FORGE_TRANSIENT_MAX, PR_POLL_EVERY, PR_SETTLE, REASON_BYTES,
};
use super::super::sql::{Arg, Sql};
use super::super::text;
use super::super::time::MINUTE;
use super::forge::{self, Place, Said, Seen, Step, Trouble};
use super::pull_request::{
    FORGE, Watch, call, check, enter, find, forget, home, keep_url, note, overrides, place, token,
};
use super::rework::{self, Wanted};
use super::{MergeRequest, Verdict, request};
use crate::town::json::json;

/// Records what a forge said; the effects it returns are booked. Late and repeated outcomes change nothing.
pub fn settle(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    mr: &BeadId,
    calls: u32,
    step: &Step,
    answer: &Answer,
) -> Result<Vec<Effect>, TownError> {
    let heard = sql.execute(
        "UPDATE pull_requests SET sent_until = NULL, due_at = ?3 WHERE bead_id = ?1 AND calls = ?2 AND sent_until IS NOT NULL",
        &[mr.into(), calls.into(), ctx.now.plus(PR_POLL_EVERY).into()],
    )?;
    let Some(watch) = find(sql, mr)?.filter(|_| heard > 0) else { return Ok(Vec::new()) };
    let mut mr = bead::get(sql, mr)?;
    let config = Config::load(sql)?;
    let asked = request(sql, &mr.id)?;
    let place = match place(sql, &config, &mr, &asked, step) {
        Ok(place) => place,
        Err(e) if e.is_storage() => return Err(e),
        // The settings have changed meanwhile; the next call says what is wrong with them.
        Err(_) => return Ok(Vec::new()),
    };
    let said = match forge::read(&place, step, answer) {
        Ok(said) => said,
        Err(t) => {
            // What it means is read from what was said; what is told of it, without the token.
            let clean =
                without_token(&config, &place, answer).and_then(|clean| forge::read(&place, step, &clean).err());
            let t = Trouble { words: clean.map_or(t.words, |c| c.words), ..t };
            return troubled(sql, ctx, &config, &mut mr, &asked, &watch, calls, step, &t);
        }
    };
    let next = match said {
        Said::Opened(url) if check(sql, mr.rig_id.as_ref(), true, &url).is_ok() => {
            opened(sql, ctx, &config, &mut mr, &asked, &url)?;
            None
        }
        Said::Opened(url) => {
            let words = format!("it calls the pull request {}, which is none of the known forms", text::cut(&url, 200));
            let t = Trouble { kind: forge::Kind::Malformed, words, wait: None };
            return troubled(sql, ctx, &config, &mut mr, &asked, &watch, calls, step, &t);
        }
        Said::Exists => Some(Step::Find),
        Said::Open(seen) if place.github && *step == Step::Poll => Some(Step::Talk(seen)),
        Said::Open(seen) => judge(sql, ctx, &config, &mut mr, &asked, &watch, &seen)?,
        Said::Merged(sha) => {
            super::settle(sql, ctx, &mut mr, Verdict::Merged, "its pull request was merged", sha.as_deref())?;
            None
        }
        Said::Closed => {
            let words = format!("its pull request {} was closed without being merged", url_in(&asked));
            super::settle(sql, ctx, &mut mr, Verdict::Failed, &words, None)?;
            None
        }
        Said::Moved => None,
    };
    if let Some(step) = next {
        return Ok(call(sql, ctx, &config, &mut mr, calls, step)?.into_iter().collect());
    }
    // Only now: trouble in a later call of every round is trouble in a row, too.
    sql.execute(
        "UPDATE pull_requests
         SET transient = 0, malformed = 0, last_error = CASE WHEN refused_head IS NULL THEN NULL ELSE last_error END
         WHERE bead_id = ?1 AND (transient > 0 OR malformed > 0 OR (last_error IS NOT NULL AND refused_head IS NULL))",
        &[(&mr.id).into()],
    )?;
    Ok(Vec::new())
}

/// The answer without the token, if the forge repeated it: its form alone need not give it away.
fn without_token(config: &Config, place: &Place, answer: &Answer) -> Option<Answer> {
    let (Answer::Http { status, body, retry_after }, Ok(token)) = (answer, token(config, place)) else { return None };
    let body = body.contains(&token.0).then(|| body.replace(&token.0, text::REDACTED))?;
    Some(Answer::Http { status: *status, body, retry_after: *retry_after })
}

fn url_in(asked: &MergeRequest) -> &str {
    asked.pr_url.as_deref().unwrap_or_default()
}

/// The town has opened it: now the refinery reads the change, or the forge decides at once.
fn opened(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    mr: &mut Bead,
    asked: &MergeRequest,
    url: &str,
) -> Result<(), TownError> {
    keep_url(sql, mr, url)?;
    let what = Happening { kind: "pr_created", new: Some(url), ..Happening::default() };
    event::record(sql, ctx, &asked.source_bead_id, what)?;
    if config::code_review(config, &overrides(sql, mr.rig_id.as_ref())?) {
        forget(sql, &mr.id)?;
        return bead::transition(sql, ctx, mr, Status::Open, Because::of("system", "its pull request is open"));
    }
    enter(sql, ctx, mr, "poll")
}

/// An open pull request: repairs what can be repaired, merges what may be merged.
fn judge(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    mr: &mut Bead,
    asked: &MergeRequest,
    watch: &Watch,
    seen: &Seen,
) -> Result<Option<Step>, TownError> {
    let rig = overrides(sql, mr.rig_id.as_ref())?;
    let (town, url) = (&config.refinery, url_in(asked));
    let last = watch.fixup.as_ref().map(|id| bead::find(sql, id)).transpose()?.flatten();
    let settling = last.and_then(|b| b.closed_at).is_some_and(|at| ctx.now.since(at) < PR_SETTLE);
    let conflicts = seen.conflict && rig.auto_resolve_merge_conflicts.unwrap_or(town.auto_resolve_merge_conflicts);
    let feedback = rig.auto_resolve_pr_feedback.unwrap_or(town.auto_resolve_pr_feedback);
    let (branch, target) = (&asked.branch, &asked.target_branch);
    // One at a time: while it is at work, or has failed for good, another would only be in its way.
    let repair = if mr.open_blockers > 0 || settling {
        None
    } else if conflicts {
        Some((
            "gt:pr-conflict",
            "Resolve conflicts",
            format!("{url} does not merge. Merge {target} into {branch}, resolve the conflicts, and push {branch}."),
            json!({"pr_url": url, "branch": branch, "target_branch": target, "mr_bead_id": mr.id,
                   "source_bead_id": asked.source_bead_id, "has_feedback": seen.unresolved || seen.failing}),
        ))
    } else if feedback && seen.unresolved {
        Some((
            "gt:pr-feedback",
            "Answer review comments",
            format!("{url} has open review comments. Do what they ask on {branch}, push it, answer and resolve each."),
            json!({"pr_feedback_for": mr.id, "pr_url": url, "branch": branch, "has_conflicts": seen.conflict,
                   "conflict_target_branch": target}),
        ))
    } else if feedback && seen.failing {
        Some((
            "gt:pr-fixup",
            "Repair failed checks",
            format!("Checks of {url} have failed. Find out why, repair it on {branch}, and push {branch}."),
            json!({"pr_url": url, "branch": branch, "target_branch": target, "mr_bead_id": mr.id}),
        ))
    } else {
        None
    };
    if let Some((label, title, body, metadata)) = repair {
        let wanted = Wanted { title: format!("{title}: {branch}"), body, label, metadata, by: None };
        if let Some(fixup) = rework::ask(sql, ctx, mr, asked, wanted)? {
            sql.execute(
                "UPDATE pull_requests SET fixup_bead_id = ?2, head = ?3, green_since = NULL WHERE bead_id = ?1",
                &[(&mr.id).into(), (&fixup).into(), (&seen.head).into()],
            )?;
        }
        return Ok(None);
    }
    let clear = seen.ready && !seen.conflict && !seen.failing && !seen.unresolved && mr.open_blockers == 0;
    let since = watch.green_since.filter(|_| watch.head.as_ref() == Some(&seen.head));
    let green = clear.then(|| since.unwrap_or(ctx.now));
    if green != watch.green_since || watch.head.as_ref() != Some(&seen.head) {
        sql.execute(
            "UPDATE pull_requests
             SET head = ?2, green_since = ?3, refused_head = CASE WHEN refused_head = ?2 THEN refused_head END
             WHERE bead_id = ?1",
            &[(&mr.id).into(), (&seen.head).into(), green.into()],
        )?;
    }
    let delay = rig.auto_merge_delay_minutes.or(town.auto_merge_delay_minutes).filter(|_| town.auto_merge);
    let (Some(green), Some(delay)) = (green, delay) else { return Ok(None) };
    let ripe = ctx.now.since(green) >= i64::from(delay).saturating_mul(MINUTE);
    let refused = watch.refused_head.as_ref() == Some(&seen.head);
    // The town's token merges in the rig's own repository only: which other one an agent names is not its to decide.
    let own = home(sql, config, mr)?;
    let ours = forge::pull_request(url, config.git_auth.gitlab_instance_url.as_deref())
        .is_some_and(|p| own.is_none_or(|o| o.base == p.base && o.repo.eq_ignore_ascii_case(&p.repo)));
    Ok((ripe && !refused && ours).then_some(Step::Merge(0)))
}

// ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[allow(clippy::too_many_arguments, reason = "one answer, one story; splitting it would hide the order")]
fn troubled(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    mr: &mut Bead,
    asked: &MergeRequest,
    watch: &Watch,
    calls: u32,
    step: &Step,
    t: &Trouble,
) -> Result<Vec<Effect>, TownError> {
    let (mut transient, mut malformed, mut refused) = (watch.transient, watch.malformed, watch.refused_head.clone());
    let (count, most) = match (t.kind, step) {
        (forge::Kind::Transient, _) => (&mut transient, FORGE_TRANSIENT_MAX),
        (forge::Kind::Malformed, _) => (&mut malformed, FORGE_MALFORMED_MAX),
        (_, Step::Merge(way)) => {
            let place = place(sql, config, mr, asked, step)?;
            if t.kind == forge::Kind::Rejected
                && t.words.contains(" answered 405")
                && let Some(next) = forge::next_way(&place, *way)
            {
                return Ok(call(sql, ctx, config, mr, calls, next)?.into_iter().collect());
            }
            // It is not the town that may merge it, at least not as it stands; people still can, and are waited for.
            refused.clone_from(&watch.head);
            (&mut 0, u32::MAX)
        }
        _ => return give_up(sql, ctx, mr, asked, step, t).map(|()| Vec::new()),
    };
    *count = count.saturating_add(1);
    if *count >= most {
        let words = format!("{} ({most} times in a row)", t.words);
        let t = Trouble { words, ..t.clone() };
        return give_up(sql, ctx, mr, asked, step, &t).map(|()| Vec::new());
    }
    let doublings = transient.saturating_sub(1).min(10);
    let wait = PR_POLL_EVERY.saturating_mul(1 << doublings).max(t.wait.unwrap_or(0)).min(FORGE_BACKOFF_MAX);
    sql.execute(
        "UPDATE pull_requests
         SET transient = ?2, malformed = ?3, refused_head = ?4, last_error = ?5, due_at = ?6
         WHERE bead_id = ?1",
        &[
            (&mr.id).into(),
            transient.into(),
            malformed.into(),
            Arg::from(refused.as_deref()),
            text::cut(&t.words, REASON_BYTES).into(),
            ctx.now.plus(wait).into(),
        ],
    )?;
    Ok(Vec::new())
}

/// The merge request fails with words that say what to do; the source stays in review, the mayor is told.
pub(super) fn give_up(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    mr: &mut Bead,
    asked: &MergeRequest,
    step: &Step,
    t: &Trouble,
) -> Result<(), TownError> {
    forget(sql, &mr.id)?;
    let (code, kind) = (format!("forge.{}", t.kind.as_str()), t.kind.as_str());
    let words = text::cut(&t.words, REASON_BYTES * 2);
    note(
        sql,
        &mr.id,
        &[("failureReason", json!(code)), ("failureKind", json!(kind)), ("failureMessage", json!(words))],
    )?;
    if matches!(step, Step::Open | Step::Find) {
        let metadata = Some(json!({"reason": words}));
        let what = Happening { kind: "pr_creation_failed", metadata, ..Happening::default() };
        event::record(sql, ctx, &asked.source_bead_id, what)?;
    }
    let failure = FailureReason { code: code.clone(), message: words.to_owned(), source: FORGE.to_owned() };
    let because = Because { failure: Some(failure), ..Because::of("system", words) };
    bead::transition(sql, ctx, mr, Status::Failed, because)?;
    let text = format!("The pull request of «{}» was given up and waits for a redrive: {words}", asked.branch);
    let facts = json!({"bead_id": mr.id, "title": mr.title, "code": code, "reason": words});
    notify::bead_failed(sql, ctx, &Config::load(sql)?, &mr.id, &text, facts)
}
