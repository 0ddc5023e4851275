//! Pull requests: merge requests that a forge decides. The town opens one if the polecat did not, asks at most once a
//! minute how it stands, has its troubles repaired, merges it if it may, and carries what became of it into the rows.
//!
//! # Guarantees
//! * A row of `pull_requests` exists while the merge request is `in_progress` without a refinery, and only then. Its
//!   `due_at` is the one deadline; while nothing is open nothing is asked.
//! * Every call is booked with a lease before it is made. Only the outcome of the last booked call counts, once; an object
//!   that dies in between asks again, which is harmless: the same pull request is found, not opened twice, and merged once.
//! * Trouble ends: ten passing ones in a row, three answers that cannot be read, or one refusal. Then the merge request
//!   fails with words that say what to do, its source stays `in_review`, and a redrive goes on where it was given up.

use super::super::Ctx;
use super::super::bead::{self, Bead, Because, Kind, Status};
use super::super::config::{self, Config, MergeStrategy, RigConfig};
use super::super::effect::{CallForge, Effect, Token};
use super::super::error::TownError;
use super::super::id::{BeadId, RigId};
use super::super::policy::{FORGE_AT_ONCE, FORGE_LEASE, TITLE_BYTES, URL_BYTES};
use super::super::rig;
use super::super::sql::{Row, Sql, SqlError, any, first};
use super::super::text;
use super::super::time::Timestamp;
use super::answer::give_up;
use super::forge::{self, Place, Step, Trouble, Words};
use super::{MergeRequest, request};
use crate::town::json::json;
use serde_json::Value as Json;

/// `failure_reason.source` of a merge request that was given up because of its forge.
pub const FORGE: &str = "forge";

/// How far it is: columns, documented in `migrations/town/0003_reviews.sql`.
pub(super) struct Watch {
    pub head: Option<String>,
    pub green_since: Option<Timestamp>,
    pub refused_head: Option<String>,
    pub transient: u32,
    pub malformed: u32,
    pub fixup: Option<BeadId>,
}

// ── beginning and ending ─────────────────────────────────────────────────────────────────────────────────────────

/// Checks what an agent calls its pull request; 422 that says what would do.
pub fn check(sql: &dyn Sql, rig: Option<&RigId>, known: bool, url: &str) -> Result<(), TownError> {
    let config = Config::load(sql)?;
    let gitlab = config.git_auth.gitlab_instance_url.as_deref();
    if url.len() > URL_BYTES || forge::pull_request(url, gitlab).is_none() {
        return Err(TownError::invalid(
            "pr_url",
            "pr_url must be https://github.com/<owner>/<name>/pull/<number> or https://<host>/<path>/-/merge_requests/<number>, \
             the host gitlab.com or that of git_auth.gitlab_instance_url",
        ));
    }
    if !known && config::merge_strategy(&config, &overrides(sql, rig)?) == MergeStrategy::Direct {
        return Err(TownError::invalid(
            "pr_url",
            "this rig's merge_strategy is direct: push the branch and report it without pr_url, or set merge_strategy to pr",
        ));
    }
    Ok(())
}

pub(super) fn overrides(sql: &dyn Sql, rig: Option<&RigId>) -> Result<RigConfig, TownError> {
    let rig = rig.map(|id| rig::find(sql, id)).transpose()?.flatten();
    Ok(rig.map_or_else(RigConfig::defaults, |r| r.config))
}

/// A merge request was made, with strategy `pr` perhaps: then its pull request is opened before anybody reviews it, and
/// watched at once if nobody is to read it.
pub fn begin(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &mut Bead, url: Option<&str>) -> Result<(), TownError> {
    let config = Config::load(sql)?;
    let rig = overrides(sql, mr.rig_id.as_ref())?;
    match url {
        Some(url) if config::code_review(&config, &rig) => keep_url(sql, mr, url),
        Some(url) => watch(sql, ctx, mr, Some(url)),
        None if config::merge_strategy(&config, &rig) == MergeStrategy::Pr && is_for_default(sql, mr)? => {
            enter(sql, ctx, mr, "open")
        }
        None => Ok(()),
    }
}

/// True unless it is for a convoy's feature branch. That is the town's own: no forge has it before the first merge into it,
/// so none would open a pull request for it. What is in it gets further by the pull request of the convoy's landing.
fn is_for_default(sql: &dyn Sql, mr: &Bead) -> Result<bool, TownError> {
    let rig = mr.rig_id.as_ref().map(|id| rig::find(sql, id)).transpose()?.flatten();
    let (Some(rig), Some(asked)) = (rig, super::find(sql, &mr.id)?) else { return Ok(true) };
    Ok(asked.target_branch == rig.default_branch)
}

/// The refinery is content: from now on the forge decides. `None` = the url that is known already.
pub fn watch(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &mut Bead, url: Option<&str>) -> Result<(), TownError> {
    if let Some(url) = url {
        keep_url(sql, mr, url)?;
    }
    enter(sql, ctx, mr, "poll")
}

/// Redriven, or re-opened by hand: one that was given up because of its forge goes on there (`again`), and with strategy
/// `pr` none is merged without a pull request.
pub fn resumed(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &mut Bead, again: bool) -> Result<(), TownError> {
    if mr.kind != Kind::MergeRequest {
        return Ok(());
    }
    forget(sql, &mr.id)?;
    note(sql, &mr.id, &[("failureReason", Json::Null), ("failureKind", Json::Null), ("failureMessage", Json::Null)])?;
    match super::find(sql, &mr.id)?.and_then(|asked| asked.pr_url) {
        Some(_) if again => enter(sql, ctx, mr, "poll"),
        Some(_) => Ok(()),
        None => begin(sql, ctx, mr, None),
    }
}

pub(super) fn enter(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &mut Bead, step: &str) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO pull_requests (bead_id, step, due_at)
         VALUES (?1, ?2, ?3)
         ON CONFLICT (bead_id) DO UPDATE SET step = excluded.step, due_at = excluded.due_at, sent_until = NULL",
        &[(&mr.id).into(), step.into(), ctx.now.into()],
    )?;
    if mr.status != Status::InProgress {
        bead::transition(sql, ctx, mr, Status::InProgress, Because::of("system", "its pull request decides"))?;
    }
    Ok(())
}

/// Nothing is asked about it any more.
pub fn forget(sql: &dyn Sql, mr: &BeadId) -> Result<(), TownError> {
    sql.execute("DELETE FROM pull_requests WHERE bead_id = ?1", &[mr.into()])?;
    Ok(())
}

pub(super) fn keep_url(sql: &dyn Sql, mr: &Bead, url: &str) -> Result<(), TownError> {
    sql.execute("UPDATE merge_requests SET pr_url = ?2 WHERE bead_id = ?1", &[(&mr.id).into(), url.into()])?;
    note(sql, &mr.id, &[("pr_url", json!(url))])
}

/// Writes into the metadata of a merge request (`protocol.md` 2.1); null removes.
pub(super) fn note(sql: &dyn Sql, mr: &BeadId, words: &[(&str, Json)]) -> Result<(), TownError> {
    let mut metadata = bead::get(sql, mr)?.metadata;
    let before = metadata.clone();
    if let Some(map) = metadata.as_object_mut() {
        for (key, value) in words {
            map.remove(*key);
            if !value.is_null() {
                map.insert((*key).to_owned(), value.clone());
            }
        }
    }
    if metadata != before {
        let metadata = metadata.to_string();
        sql.execute("UPDATE beads SET metadata = ?2 WHERE bead_id = ?1", &[mr.into(), (&metadata).into()])?;
    }
    Ok(())
}

// ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Books the calls that are due.
///
/// *Guarantees*: at most [`FORGE_AT_ONCE`] are in the air; a booked one is not booked again before its lease ends.
/// *Assumptions*: each effect's outcome is given to [`super::answer::settle`], or [`resume`] is called, or the lease ends.
pub fn book(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config) -> Result<Vec<Effect>, TownError> {
    let due = sql.query(
        "SELECT bead_id, step, calls
         FROM pull_requests
         WHERE due_at <= ?1
         ORDER BY due_at
         LIMIT ?2",
        &[ctx.now.into(), FORGE_AT_ONCE.into()],
    )?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let free = FORGE_AT_ONCE.saturating_sub(in_the_air(sql, ctx.now)?.0);
    let mut effects = Vec::new();
    for r in due.iter().take(usize::try_from(free).unwrap_or(0)) {
        let step = if r.text(1)? == "open" { Step::Open } else { Step::Poll };
        let id = BeadId(r.text(0)?);
        let Some(mut mr) = bead::find(sql, &id)?.filter(|b| b.status == Status::InProgress) else {
            forget(sql, &id)?;
            continue;
        };
        effects.extend(call(sql, ctx, config, &mut mr, r.count(2)?, step)?);
    }
    Ok(effects)
}

/// Books one call; what cannot even be asked is given up with the reason.
pub(super) fn call(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    mr: &mut Bead,
    calls: u32,
    step: Step,
) -> Result<Option<Effect>, TownError> {
    let asked = request(sql, &mr.id)?;
    let found = place(sql, config, mr, &asked, &step).and_then(|place| Ok((token(config, &place)?, place)));
    let (token, place) = match found {
        Ok(found) => found,
        Err(e) if e.is_storage() => return Err(e),
        Err(e) => {
            let trouble = Trouble { kind: forge::Kind::Denied, words: e.to_string(), wait: None };
            give_up(sql, ctx, mr, &asked, &step, &trouble)?;
            return Ok(None);
        }
    };
    let calls = calls.saturating_add(1);
    let lease = ctx.now.plus(FORGE_LEASE);
    sql.execute(
        "UPDATE pull_requests SET calls = ?2, sent_until = ?3, due_at = ?3 WHERE bead_id = ?1",
        &[(&mr.id).into(), calls.into(), lease.into()],
    )?;
    let source = bead::find(sql, &asked.source_bead_id)?;
    let title = source.as_ref().map_or(asked.branch.as_str(), |s| s.title.as_str());
    let body = format!("{}\n\nBead: {}", mr.body.as_deref().unwrap_or_default(), asked.source_bead_id);
    let head = find(sql, &mr.id)?.and_then(|w| w.head).unwrap_or_default();
    let words = Words {
        branch: &asked.branch,
        target: &asked.target_branch,
        title: text::cut(title, TITLE_BYTES / 2),
        body: body.trim(),
        head: &head,
    };
    let (method, path, body) = forge::request(&place, &step, &words);
    Ok(Some(Effect::CallForge(Box::new(CallForge {
        bead_id: mr.id.clone(),
        call: calls,
        step,
        github: place.github,
        base: place.base,
        method,
        path,
        body: body.map(|b| b.to_string()),
        token,
    }))))
}

/// Whom to ask: the pull request's forge, or the rig's if there is none yet.
pub(super) fn place(
    sql: &dyn Sql,
    config: &Config,
    mr: &Bead,
    asked: &MergeRequest,
    step: &Step,
) -> Result<Place, TownError> {
    let gitlab = config.git_auth.gitlab_instance_url.as_deref();
    let place = match (&asked.pr_url, step) {
        (Some(url), Step::Poll | Step::Talk(_) | Step::Merge(_)) => forge::pull_request(url, gitlab),
        _ => home(sql, config, mr)?,
    };
    place.ok_or_else(|| {
        let words = "no pull request can be opened there: the repository is neither on github.com nor on gitlab.com nor at \
                     git_auth.gitlab_instance_url; set that, or merge_strategy direct, and redrive the merge request";
        TownError::invalid("git_url", words)
    })
}

/// The rig's own repository, if it is at a forge.
pub(super) fn home(sql: &dyn Sql, config: &Config, mr: &Bead) -> Result<Option<Place>, TownError> {
    let rig = mr.rig_id.as_ref().map(|id| rig::find(sql, id)).transpose()?.flatten();
    Ok(rig.and_then(|r| forge::repository(&r.git_url, config.git_auth.gitlab_instance_url.as_deref())))
}

pub(super) fn token(config: &Config, place: &Place) -> Result<Token, TownError> {
    let auth = &config.git_auth;
    let (token, setting) = if place.github {
        (auth.github_token.as_ref().or(config.github_cli_pat.as_ref()), "git_auth.github_token")
    } else {
        (auth.gitlab_token.as_ref(), "git_auth.gitlab_token")
    };
    let words = || format!("the town has no token for its forge: set {setting}, then redrive the merge request");
    token.map(|t| Token(t.clone())).ok_or_else(|| TownError::invalid("git_auth", words()))
}

/// Calls in the air, and when the first of their leases ends.
fn in_the_air(sql: &dyn Sql, now: Timestamp) -> Result<(u32, Option<Timestamp>), TownError> {
    let row = first(
        sql,
        "SELECT count(*), min(sent_until)
         FROM pull_requests INDEXED BY pull_requests_sent
         WHERE sent_until IS NOT NULL AND sent_until > ?1",
        &[now.into()],
    )?;
    let Some(r) = row else { return Ok((0, None)) };
    Ok((r.count(0)?, r.opt_int(1)?.map(Timestamp)))
}

/// When a forge is to be asked, or the lease of a call ends.
pub fn next_deadline(sql: &dyn Sql, now: Timestamp) -> Result<Option<Timestamp>, TownError> {
    let row = first(sql, "SELECT due_at FROM pull_requests ORDER BY due_at LIMIT 1", &[])?;
    let Some(due) = row.map(|r| r.int(0)).transpose()?.map(Timestamp) else { return Ok(None) };
    // With as many in the air as may be, even what is due has to wait for the first of them.
    let (count, ends) = in_the_air(sql, now)?;
    Ok(Some(if count >= FORGE_AT_ONCE { ends.unwrap_or(due).max(due) } else { due }))
}

/// The object was made anew: calls that were in the air have lost their owner and are due again.
pub fn resume(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    if any(sql, "SELECT 1 FROM pull_requests WHERE sent_until IS NOT NULL LIMIT 1", &[])? {
        sql.execute(
            "UPDATE pull_requests SET due_at = ?1, sent_until = NULL WHERE sent_until IS NOT NULL",
            &[now.into()],
        )?;
    }
    Ok(())
}

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// The row of a merge request that waits for its pull request.
pub(super) fn find(sql: &dyn Sql, mr: &BeadId) -> Result<Option<Watch>, TownError> {
    let row = first(
        sql,
        "SELECT head, green_since, refused_head, transient, malformed, fixup_bead_id
         FROM pull_requests
         WHERE bead_id = ?1",
        &[mr.into()],
    )?;
    let read = |r: Row| -> Result<Watch, SqlError> {
        Ok(Watch {
            head: r.opt_text(0)?,
            green_since: r.opt_int(1)?.map(Timestamp),
            refused_head: r.opt_text(2)?,
            transient: r.count(3)?,
            malformed: r.count(4)?,
            fixup: r.opt_text(5)?.map(BeadId),
        })
    };
    Ok(row.map(read).transpose()?)
}

/// How a merge request stands with its forge, in one sentence; `None` if the forge has no part in it.
pub fn told(sql: &dyn Sql, mr: &BeadId) -> Result<Option<String>, TownError> {
    let row = first(
        sql,
        "SELECT p.step, m.pr_url, p.due_at, p.last_error
         FROM pull_requests p
         JOIN merge_requests m ON m.bead_id = p.bead_id
         WHERE p.bead_id = ?1",
        &[mr.into()],
    )?;
    let Some(r) = row else { return Ok(None) };
    let what = if r.text(0)? == "open" {
        "Its pull request is being opened".to_owned()
    } else {
        format!("Its pull request {} decides", r.opt_text(1)?.unwrap_or_default())
    };
    let error = r.opt_text(3)?.map(|e| format!("; the last answer was trouble: {e}")).unwrap_or_default();
    Ok(Some(format!("{what}; the forge is asked again at {}{error}.", Timestamp(r.int(2)?))))
}
