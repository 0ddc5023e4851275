//! Reading a JSON body field by field, so that every mistake is named at once.

use crate::url::{is_branch, is_id};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The 400 for a body with these issues.
fn invalid(issues: &[Value]) -> Value {
    json!({ "error": "Invalid request body", "issues": issues })
}

/// An object being read, and what is wrong with it so far. Unknown fields are ignored, null counts as absent.
pub struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    prefix: &'a str,
    /// What is wrong so far.
    pub issues: Vec<Value>,
}

impl<'a> Fields<'a> {
    /// Begins to read `value`, whose fields are named below `prefix`.
    #[must_use]
    pub fn of(value: &'a Value, prefix: &'a str) -> Self {
        let mut fields = Self { object: value.as_object(), prefix, issues: Vec::new() };
        if fields.object.is_none() {
            fields.issues.push(json!({ "code": "invalid_type", "path": [], "message": "must be a JSON object" }));
        }
        fields
    }

    /// What was read, if nothing was wrong.
    ///
    /// # Errors
    /// The body of the 400 that answers it.
    pub fn finish<T>(self, read: T) -> Result<T, Value> {
        if self.issues.is_empty() { Ok(read) } else { Err(invalid(&self.issues)) }
    }

    /// A field is wrong.
    pub fn issue(&mut self, name: &str, message: &str) {
        // One issue for the body as a whole is enough when it is no object.
        if self.object.is_some() {
            let path: Vec<&str> = [self.prefix, name].into_iter().filter(|part| !part.is_empty()).collect();
            self.issues
                .push(json!({ "code": "invalid", "path": path, "message": format!("{} {message}", path.join(".")) }));
        }
    }

    /// A field, unless it is absent or null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.and_then(|object| object.get(name)).filter(|value| !value.is_null())
    }

    /// A text that must be there.
    pub fn text(&mut self, name: &str) -> String {
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

    /// A text that may be absent.
    pub fn optional_text(&mut self, name: &str) -> Option<String> {
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

    /// An id that must be there.
    pub fn id(&mut self, name: &str) -> String {
        let before = self.issues.len();
        let id = self.text(name);
        if self.issues.len() == before && !is_id(&id) {
            self.issue(name, "must be 1 to 128 letters, digits, dashes, dots or underscores");
        }
        id
    }

    /// An id that may be absent.
    pub fn optional_id(&mut self, name: &str) -> Option<String> {
        self.get(name)?;
        Some(self.id(name))
    }

    /// The name of a branch that must be there.
    pub fn branch(&mut self, name: &str) -> String {
        let before = self.issues.len();
        let branch = self.text(name);
        if self.issues.len() == before && !is_branch(&branch) {
            self.issue(name, "is not a valid branch name");
        }
        branch
    }

    /// A model's id that must be there, and may be empty.
    pub fn model(&mut self) -> String {
        let model = self.text("model");
        if model.starts_with('-') || model.chars().any(char::is_control) {
            self.issue("model", "is not a model id");
        }
        model
    }

    /// True, false, or absent, which is false.
    pub fn flag(&mut self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.issue(name, "must be true or false");
                false
            }
        }
    }

    /// Variables of a process; absent is none.
    pub fn variables(&mut self, name: &str) -> BTreeMap<String, String> {
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

    /// A list of texts; absent is an empty one.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let texts: Option<Vec<String>> =
            value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        if texts.is_none() {
            self.issue(name, "must be an array of strings");
        }
        texts.unwrap_or_default()
    }
}
