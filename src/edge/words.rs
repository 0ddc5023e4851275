//! How the worker and its objects speak to each other: a JSON array of texts, `null` where there is nothing.
//!
//! Both ends are this very build, so the message needs neither names nor types on the wire. One reader and one writer for
//! all of them is a tenth of the Wasm that a derived one for each would take (docs/decisions/013-size.md).

use crate::town::time::Timestamp;

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Writer(Vec<Option<String>>);

impl Writer {
    /// A message that begins with its name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(vec![Some(name.to_owned())])
    }
    /// Adds a text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.opt(Some(text))
    }
    /// Adds a text, or nothing.
    #[must_use]
    pub fn opt(mut self, text: Option<&str>) -> Self {
        self.0.push(text.map(str::to_owned));
        self
    }
    /// Adds texts.
    #[must_use]
    pub fn texts(self, texts: &[&str]) -> Self {
        texts.iter().fold(self, |w, t| w.text(t))
    }
    /// Adds a moment, in milliseconds.
    #[must_use]
    pub fn moment(self, at: Option<Timestamp>) -> Self {
        self.opt(at.map(|t| t.0.to_string()).as_deref())
    }
    /// The message.
    #[must_use]
    pub fn done(self) -> String {
        serde_json::Value::from_iter(self.0).to_string()
    }
}

/// A message that is being read. Reading beyond its end, or a nothing where a text must be, gives `None`.
#[derive(Debug)]
pub struct Reader(std::vec::IntoIter<serde_json::Value>);

impl Reader {
    /// The message in a text, if it is one.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        match crate::town::json::read(text) {
            Some(serde_json::Value::Array(words)) => Some(Self(words.into_iter())),
            _ => None,
        }
    }
    /// A text.
    pub fn text(&mut self) -> Option<String> {
        self.opt()?
    }
    /// A text, or nothing.
    #[allow(clippy::option_option, reason = "the end of the message is not a nothing in it")]
    pub fn opt(&mut self) -> Option<Option<String>> {
        match self.0.next()? {
            serde_json::Value::Null => Some(None),
            serde_json::Value::String(text) => Some(Some(text)),
            _ => None,
        }
    }
    /// A whole number.
    pub fn int(&mut self) -> Option<i64> {
        self.text()?.parse().ok()
    }
    /// A moment, or nothing.
    #[allow(clippy::option_option, reason = "as `opt`")]
    pub fn moment(&mut self) -> Option<Option<Timestamp>> {
        self.opt()?.map_or(Some(None), |t| t.parse().ok().map(|ms| Some(Timestamp(ms))))
    }
    /// True if everything was read.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}
