//! The body of `POST /agents/start`.

use crate::{
    fields::Fields,
    url::{GitUrl, is_branch},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Works on one bead.
    Polecat,
    /// Reviews and merges.
    Refinery,
    /// Converses.
    Mayor,
}

impl Role {
    /// The role on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Polecat => "polecat",
            Self::Refinery => "refinery",
            Self::Mayor => "mayor",
        }
    }
}

/// The merge a refinery is asked for.
#[derive(Clone, Debug)]
pub struct Review {
    /// The merge request's id: where the verdict goes.
    pub entry_id: String,
    /// The branch that wants in.
    pub branch: String,
    /// Where it wants to go.
    pub target_branch: String,
    /// The bead whose work it is.
    pub source_bead_id: String,
    /// Commands that must succeed on the merged result.
    pub gates: Vec<String>,
    /// The pull request that stands for the branch: the forge merges it, not the refinery.
    pub pr_url: Option<String>,
}

/// A start, checked.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The agent.
    pub agent_id: String,
    /// Its rig; `mayor-<town>` for a mayor.
    pub rig_id: String,
    /// Its town.
    pub town_id: String,
    /// The attempt this start belongs to. A repeated one is the same start.
    pub dispatch_id: Option<String>,
    /// What the agent does. `triage` arrives here as a lightweight polecat.
    pub role: Role,
    /// Display name.
    pub name: String,
    /// The bead's title, body and checkpoint.
    pub prompt: String,
    /// `provider/model`.
    pub model: String,
    /// The role's instructions.
    pub system_prompt: Option<String>,
    /// The rig's repository; none for lightweight agents and mayors.
    pub git_url: Option<GitUrl>,
    /// The agent's own branch.
    pub branch: String,
    /// The rig's default branch.
    pub default_branch: String,
    /// Where the branch is cut, if not from the default branch.
    pub start_point: Option<String>,
    /// A workspace without a clone.
    pub lightweight: bool,
    /// Variables for the agent's process, tokens among them.
    pub env_vars: BTreeMap<String, String>,
    /// What a refinery merges.
    pub review: Option<Review>,
    /// The rigs whose repositories a mayor may look into.
    pub rigs: Vec<Value>,
    /// The body as it came, without variables and credentials: what the registry keeps.
    pub wire: Value,
}

impl StartRequest {
    /// Whether the agent works in a worktree of the rig's clone.
    #[must_use]
    pub const fn needs_repository(&self) -> bool {
        !self.lightweight && !matches!(self.role, Role::Mayor)
    }

    /// The branch the work will be merged into.
    #[must_use]
    pub fn target_branch(&self) -> &str {
        let start = self.start_point.as_deref().map(|start| start.strip_prefix("origin/").unwrap_or(start));
        match start {
            // A re-queued bead continues on its own branch, which is not where it wants to go.
            Some(start) if start != self.branch => start,
            _ => &self.default_branch,
        }
    }

    /// Reads a start.
    ///
    /// # Errors
    /// The body of the 400 that answers it.
    pub fn parse(body: &[u8], dev: bool) -> Result<Self, Value> {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let mut fields = Fields::of(&value, "");
        let role_name = fields.text("role");
        let role = match role_name.as_str() {
            "polecat" | "triage" => Role::Polecat,
            "refinery" => Role::Refinery,
            "mayor" => Role::Mayor,
            _ => {
                fields.issue("role", "must be mayor, polecat, refinery or triage");
                Role::Polecat
            }
        };
        let lightweight = fields.flag("lightweight") || role_name == "triage";
        let repository = !lightweight && role != Role::Mayor;
        let git_url_text = fields.text("gitUrl");
        let mut git_url = None;
        if repository {
            match GitUrl::parse(&git_url_text, dev) {
                Ok(url) => git_url = Some(url),
                Err(problem) => fields.issue("gitUrl", problem),
            }
        }
        let branch = fields.branch("branch");
        let default_branch = if repository { fields.branch("defaultBranch") } else { fields.text("defaultBranch") };
        let start_point = fields.optional_text("startPoint").filter(|text| !text.is_empty());
        if start_point.as_deref().is_some_and(|start| !is_branch(start)) {
            fields.issue("startPoint", "is not a valid branch name");
        }
        let model = fields.model();
        fields.text("identity");
        let request = Self {
            agent_id: fields.id("agentId"),
            rig_id: fields.id("rigId"),
            town_id: fields.id("townId"),
            dispatch_id: fields.optional_id("dispatchId"),
            role,
            name: fields.text("name"),
            prompt: fields.text("prompt"),
            model,
            system_prompt: fields.optional_text("systemPrompt"),
            git_url,
            branch,
            default_branch,
            start_point,
            lightweight,
            env_vars: fields.variables("envVars"),
            review: review(&mut fields),
            rigs: fields.get("rigs").and_then(Value::as_array).cloned().unwrap_or_default(),
            wire: Value::Null,
        };
        let wire = crate::registry::wire(&value, request.git_url.as_ref().map(|url| url.plain.as_str()));
        fields.finish(Self { wire, ..request })
    }
}

fn review(fields: &mut Fields<'_>) -> Option<Review> {
    let mut inner = Fields::of(fields.get("review")?, "review");
    let review = Review {
        entry_id: inner.id("entryId"),
        branch: inner.branch("branch"),
        target_branch: inner.branch("targetBranch"),
        source_bead_id: inner.optional_text("sourceBeadId").unwrap_or_default(),
        gates: inner.texts("gates"),
        pr_url: inner.optional_text("prUrl"),
    };
    let read = inner.issues.is_empty();
    fields.issues.append(&mut inner.issues);
    read.then_some(review)
}

#[cfg(test)]
mod tests {
    use super::StartRequest;
    use serde_json::{Value, json};

    fn body() -> Value {
        json!({ "agentId": "a", "rigId": "r", "townId": "t", "role": "polecat", "name": "Toast", "identity": "i",
                "prompt": "p", "model": "m/x", "gitUrl": "https://h/x", "branch": "gt/toast/1", "defaultBranch": "main" })
    }

    fn parse(body: &Value) -> Result<StartRequest, Value> {
        StartRequest::parse(body.to_string().as_bytes(), false)
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let mut bad = body();
        bad["agentId"] = json!("../x");
        bad["branch"] = json!("-x");
        bad["role"] = json!("witness");
        bad["review"] = json!({ "entryId": 1 });
        let issues = parse(&bad).unwrap_err()["issues"].to_string();
        for name in ["agentId", "branch", "role", "review.entryId", "review.targetBranch"] {
            assert!(issues.contains(name), "{name} in {issues}");
        }
    }

    #[test]
    fn the_target_is_the_start_points_branch_unless_that_is_the_agents_own() {
        let mut request = body();
        assert_eq!(parse(&request).unwrap().target_branch(), "main");
        request["startPoint"] = json!("origin/convoy/x/head");
        assert_eq!(parse(&request).unwrap().target_branch(), "convoy/x/head");
        request["startPoint"] = json!("origin/gt/toast/1");
        assert_eq!(parse(&request).unwrap().target_branch(), "main");
    }
}
