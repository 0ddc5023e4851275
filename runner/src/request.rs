//! The body of `POST /agents/start`, read field by field so that every mistake is named at once.

use crate::url::{GitUrl, is_branch, is_id};
use serde_json::{Map, Value, json};
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
    /// What a built-in refinery merges.
    pub review: Option<Review>,
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
        let model = fields.text("model");
        if model.starts_with('-') || model.chars().any(char::is_control) {
            fields.issue("model", "is not a model id");
        }
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
            review: fields.review("review"),
        };
        fields.finish(request)
    }
}

/// Reads the optional `dispatchId` of a stop: nothing if the body is empty or says nothing about it.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_stop(body: &[u8]) -> Result<Option<String>, Value> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let dispatch = fields.optional_id("dispatchId");
    fields.finish(dispatch)
}

/// Reads the prompt of a message.
///
/// # Errors
/// The body of the 400 that answers it.
pub fn parse_message(body: &[u8]) -> Result<String, Value> {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut fields = Fields::of(&value, "");
    let prompt = fields.text("prompt");
    fields.finish(prompt)
}

/// The 400 for a body with these issues.
fn invalid(issues: &[Value]) -> Value {
    json!({ "error": "Invalid request body", "issues": issues })
}

/// An object being read, and what is wrong with it so far. Unknown fields are ignored, null counts as absent.
struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    prefix: &'a str,
    issues: Vec<Value>,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, prefix: &'a str) -> Self {
        let mut fields = Self { object: value.as_object(), prefix, issues: Vec::new() };
        if fields.object.is_none() {
            fields.issues.push(json!({ "code": "invalid_type", "path": [], "message": "must be a JSON object" }));
        }
        fields
    }

    fn finish<T>(self, read: T) -> Result<T, Value> {
        if self.issues.is_empty() { Ok(read) } else { Err(invalid(&self.issues)) }
    }

    fn issue(&mut self, name: &str, message: &str) {
        // One issue for the body as a whole is enough when it is no object.
        if self.object.is_some() {
            let path: Vec<&str> = [self.prefix, name].into_iter().filter(|part| !part.is_empty()).collect();
            self.issues
                .push(json!({ "code": "invalid", "path": path, "message": format!("{} {message}", path.join(".")) }));
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.and_then(|object| object.get(name)).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> String {
        match self.get(name) {
            Some(Value::String(text)) => self.checked(name, text),
            Some(_) => {
                self.issue(name, "must be a string");
                String::new()
            }
            None => {
                self.issue(name, "is required");
                String::new()
            }
        }
    }

    fn optional_text(&mut self, name: &str) -> Option<String> {
        self.get(name)?;
        Some(self.text(name))
    }

    fn checked(&mut self, name: &str, text: &str) -> String {
        // A NUL can stand neither in an argument nor in a variable.
        if text.contains('\0') {
            self.issue(name, "must not contain NUL");
        }
        text.to_owned()
    }

    fn id(&mut self, name: &str) -> String {
        let before = self.issues.len();
        let id = self.text(name);
        if self.issues.len() == before && !is_id(&id) {
            self.issue(name, "must be 1 to 128 letters, digits, dashes, dots or underscores");
        }
        id
    }

    fn optional_id(&mut self, name: &str) -> Option<String> {
        self.get(name)?;
        Some(self.id(name))
    }

    fn branch(&mut self, name: &str) -> String {
        let before = self.issues.len();
        let branch = self.text(name);
        if self.issues.len() == before && !is_branch(&branch) {
            self.issue(name, "is not a valid branch name");
        }
        branch
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.issue(name, "must be true or false");
                false
            }
        }
    }

    fn variables(&mut self, name: &str) -> BTreeMap<String, String> {
        let Some(value) = self.get(name) else { return BTreeMap::new() };
        let Some(object) = value.as_object() else {
            self.issue(name, "must be an object of strings");
            return BTreeMap::new();
        };
        let mut variables = BTreeMap::new();
        for (key, value) in object {
            match value {
                Value::String(text) if !text.contains('\0') => {
                    variables.insert(key.clone(), text.clone());
                }
                Value::String(_) => self.issue(name, "must not contain NUL"),
                _ => self.issue(name, "must be an object of strings"),
            }
        }
        variables
    }

    fn review(&mut self, name: &str) -> Option<Review> {
        let value = self.get(name)?;
        let mut inner = Fields::of(value, name);
        let review = Review {
            entry_id: inner.id("entryId"),
            branch: inner.branch("branch"),
            target_branch: inner.branch("targetBranch"),
            source_bead_id: inner.optional_text("sourceBeadId").unwrap_or_default(),
            gates: inner.texts("gates"),
        };
        let read = inner.issues.is_empty();
        self.issues.append(&mut inner.issues);
        read.then_some(review)
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let texts: Option<Vec<String>> =
            value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        if texts.is_none() {
            self.issue(name, "must be an array of strings");
        }
        texts.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{StartRequest, parse_stop};
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

    #[test]
    fn a_stop_may_have_no_body() {
        assert_eq!(parse_stop(b""), Ok(None));
        assert_eq!(parse_stop(b"{\"signal\":\"SIGTERM\"}"), Ok(None));
        assert_eq!(parse_stop(b"{\"dispatchId\":\"d\"}"), Ok(Some("d".to_owned())));
        assert!(parse_stop(b"[").is_err());
    }
}
