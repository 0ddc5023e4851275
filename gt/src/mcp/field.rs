//! What a tool takes: its fields, the JSON schema that a model reads, and the check of what a model gave.

use crate::{caller::Caller, failure::Failure, resolve};
use serde_json::{Map, Value as Json, json};

/// A tool.
#[derive(Debug)]
pub struct Tool {
    /// As the predecessor called it.
    pub name: &'static str,
    /// What it does and when to use it.
    pub about: &'static str,
    /// What it takes.
    pub fields: &'static [Field],
    /// Changes nothing.
    pub reads: bool,
    /// Takes something away for good.
    pub destroys: bool,
    /// Does it.
    pub run: fn(&Caller, &Arguments) -> Result<Json, Failure>,
}

/// A field of a tool's arguments.
#[derive(Debug)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What it means.
    pub about: &'static str,
}

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text that is not empty.
    Text,
    /// A text or null, which clears.
    Clearable,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number of things.
    Count,
    /// Yes or no.
    Flag,
    /// A list of texts.
    Texts,
    /// A JSON object.
    Object,
    /// The tasks of a batch.
    Tasks,
    /// Anything.
    Any,
}

/// A field that must be there.
pub const fn needs(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, required: true, about }
}

/// A field that may be left away.
pub const fn takes(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, required: false, about }
}

impl Field {
    /// Whether this says nothing: models write null or an empty text for what they leave away.
    fn left_away(&self, value: &Json) -> bool {
        match self.kind {
            Kind::Clearable | Kind::Any => false,
            Kind::Text | Kind::Word(_) if value.as_str().is_some_and(|text| text.trim().is_empty()) => !self.required,
            _ => value.is_null() && !self.required,
        }
    }
}

impl Kind {
    fn schema(self) -> Json {
        match self {
            Self::Text => json!({"type": "string", "minLength": 1}),
            Self::Clearable => json!({"type": ["string", "null"]}),
            Self::Word(words) => json!({"type": "string", "enum": words}),
            Self::Count => json!({"type": "integer", "minimum": 0}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Self::Object => json!({"type": "object"}),
            Self::Tasks => json!({"type": "array", "minItems": 1, "maxItems": 50, "items": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "minLength": 1, "description": "What is to be done, in one line."},
                    "body": {"type": "string", "description": "The whole description: the agent that does it sees nothing else."},
                    "depends_on": {"type": "array", "items": {"type": "integer", "minimum": 0},
                        "description": "Places in this list, from 0, of the tasks that must be closed first."},
                },
                "required": ["title"],
            }}),
            Self::Any => json!({}),
        }
    }

    fn fits(self, value: &Json) -> bool {
        match self {
            Self::Text => value.as_str().is_some_and(|text| !text.trim().is_empty()),
            Self::Clearable => value.is_string() || value.is_null(),
            // Words are the server's to judge: it knows more of them, in any case.
            Self::Word(_) => value.is_string(),
            Self::Count => value.is_u64(),
            Self::Flag => value.is_boolean(),
            Self::Texts => value.as_array().is_some_and(|list| list.iter().all(Json::is_string)),
            Self::Object => value.is_object(),
            Self::Tasks => value.is_array(),
            Self::Any => true,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Clearable => "a text or null".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Count => "a whole number".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Texts => "a list of texts".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::Tasks => "a list of tasks".to_owned(),
            Self::Any => "anything".to_owned(),
        }
    }
}

impl Tool {
    /// The schema of its arguments.
    pub fn schema(&self) -> Map<String, Json> {
        let mut properties = Map::new();
        for field in self.fields {
            let mut schema = field.kind.schema();
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".to_owned(), json!(field.about));
            }
            properties.insert(field.name.to_owned(), schema);
        }
        let required: Vec<&str> = self.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), Json::Object(properties));
        schema.insert("required".to_owned(), json!(required));
        schema
    }

    /// Checks the arguments and runs.
    pub fn call(&self, caller: &Caller, given: &Arguments) -> Result<Json, Failure> {
        let mut wrong = Vec::new();
        for field in self.fields {
            match given.0.get(field.name) {
                None if field.required => wrong.push(format!("{} is missing: {}", field.name, field.kind.words())),
                Some(value) if field.left_away(value) => {}
                Some(value) if !field.kind.fits(value) => {
                    wrong.push(format!("{} must be {}", field.name, field.kind.words()));
                }
                _ => {}
            }
        }
        if wrong.is_empty() {
            return (self.run)(caller, &self.kept(given));
        }
        Err(Failure::usage(
            format!("{}: {}", self.name, wrong.join("; ")),
            "Nothing was sent. Correct it, and call again.",
        ))
    }

    /// What is known of what was given: no key of a model's invention travels on.
    fn kept(&self, given: &Arguments) -> Arguments {
        let known = |field: &&Field| given.0.get(field.name).is_some_and(|value| !field.left_away(value));
        let fields = self.fields.iter().filter(known);
        Arguments(fields.filter_map(|f| Some((f.name.to_owned(), given.0.get(f.name)?.clone()))).collect())
    }
}

/// What a model gave.
#[derive(Clone, Debug, Default)]
pub struct Arguments(pub Map<String, Json>);

impl Arguments {
    /// A text; empty if it is not there, which the check rules out for what is required.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Json::as_str).unwrap_or_default()
    }

    /// A text that may not be there.
    pub fn optional(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(Json::as_str).map(str::to_owned)
    }

    /// A number that may not be there.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Json::as_u64)
    }

    /// Everything but what the path names.
    pub fn body(&self, except: &[&str]) -> Json {
        let left = self.0.iter().filter(|(name, _)| !except.contains(&name.as_str()));
        Json::Object(left.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// The rig that is named, by id or name.
    pub fn rig(&self, caller: &Caller) -> Result<String, Failure> {
        let given = self.text("rig_id");
        if resolve::is_id(given) { Ok(given.to_owned()) } else { resolve::one(&caller.rigs()?, "rig", Some(given)) }
    }
}
