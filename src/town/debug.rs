//! What scripts look at (`protocol.md` 3.6): rows as they are. It decides nothing, and no rule reads it.

use super::bead;
use super::convoy;
use super::error::TownError;
use super::id::BeadId;
use super::json::json;
use super::policy::LIST_MAX;
use super::rig;
use super::sql::{Arg, Sql, SqlError};
use serde_json::Value as Json;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A bead, with its review's row and the edges that it begins; 404 if there is none.
    Bead(BeadId),
    /// The newest nudges, delivered ones too. Their times are UTC without a zone, as the predecessor stored them.
    Nudges,
    /// The town's own rows of its rigs, newest first.
    Rigs,
    /// Convoys that are not closed, newest first.
    Convoys,
}

/// The answer, in the predecessor's shape.
pub fn look(sql: &dyn Sql, at: &Look) -> Result<Json, TownError> {
    Ok(match at {
        Look::Bead(id) => {
            let review = objects(
                sql,
                "SELECT json_object('bead_id', bead_id, 'source_bead_id', source_bead_id, 'source_agent_id',
                                    source_agent_id, 'branch', branch, 'target_branch', target_branch, 'pr_url', pr_url,
                                    'summary', summary, 'verdict', verdict, 'message', message, 'commit_sha', commit_sha)
                 FROM merge_requests
                 WHERE bead_id = ?1",
                &[id.into()],
            )?;
            let edges = objects(
                sql,
                "SELECT json_object('bead_id', bead_id, 'depends_on_bead_id', depends_on_bead_id, 'dependency_type', kind)
                 FROM bead_dependencies
                 WHERE bead_id = ?1
                 LIMIT ?2",
                &[id.into(), LIST_MAX.into()],
            )?;
            json!({"bead": bead::get(sql, id)?, "reviewMetadata": review.first(), "dependencies": edges})
        }
        Look::Nudges => {
            let nudges = objects(
                sql,
                "SELECT json_object('nudge_id', nudge_id, 'agent_bead_id', agent_id, 'message', message, 'mode', mode,
                                    'priority', iif(rank = 0, 'urgent', 'normal'), 'source', source,
                                    'created_at', strftime('%Y-%m-%d %H:%M:%f', created_at / 1000.0, 'unixepoch'),
                                    'expires_at', strftime('%Y-%m-%d %H:%M:%f', expires_at / 1000.0, 'unixepoch'),
                                    'delivered_at', strftime('%Y-%m-%d %H:%M:%f', delivered_at / 1000.0, 'unixepoch'))
                 FROM nudges INDEXED BY nudges_by_seq
                 ORDER BY seq DESC
                 LIMIT ?1",
                &[LIST_MAX.into()],
            )?;
            json!({"nudges": nudges})
        }
        Look::Rigs => {
            let mut rigs = Vec::new();
            for r in rig::all(sql)?.iter().rev() {
                rigs.push(json!({
                    "id": r.id, "name": r.name, "git_url": r.git_url, "default_branch": r.default_branch,
                    "config": r.config.shown(), "created_at": r.created_at,
                }));
            }
            json!({"rigs": rigs})
        }
        Look::Convoys => json!({"convoys": convoy::list(sql)?}),
    })
}

/// The objects that a statement makes in its first column.
fn objects(sql: &dyn Sql, text: &'static str, args: &[Arg<'_>]) -> Result<Vec<Json>, SqlError> {
    let rows = sql.query(text, args)?;
    rows.iter().map(|r| serde_json::from_str(&r.text(0)?).map_err(|e| SqlError::new(e.to_string()))).collect()
}
