//! What can go wrong in a verb, one variant per thing a caller can do about it. The edge maps each to one HTTP answer
//! (`TownError::status`), and nothing else decides a status.

use super::sql::SqlError;
use super::time::Millis;
use std::fmt;

/// Why a command was refused. A refused command changed nothing.
///
/// One word wide: two thousand `?` hand it on, and each would move its texts (docs/decisions/013-size.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TownError(Box<Cause>);

/// What kind of thing went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// 400: the request is malformed.
    #[error("{0}")]
    Malformed(String),
    /// 403: the caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// 404: there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// 409: the thing is in a state that forbids this; `state` says which.
    #[error("{message}")]
    Conflict {
        /// What the caller can do about it.
        message: String,
        /// The state it is in.
        state: String,
    },
    /// 413: too large to be stored.
    #[error("{0}")]
    TooLarge(String),
    /// 422: understood, but semantically wrong; `field` says where.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it and what would be right.
        message: String,
        /// The field.
        field: String,
    },
    /// 429: asked too often.
    #[error("{message}")]
    TooOften {
        /// What was asked too often.
        message: String,
        /// When to ask again.
        retry_after: Millis,
    },
    /// 500: the database failed, or a row is not what the code that wrote it promises. Never the caller's fault.
    #[error("internal error")]
    Storage(SqlError),
}

impl TownError {
    /// A 400.
    #[inline(never)]
    pub fn malformed(message: impl Into<String>) -> Self {
        Cause::Malformed(message.into()).into()
    }
    /// A 403.
    #[inline(never)]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Cause::Forbidden(message.into()).into()
    }
    /// A 404.
    #[inline(never)]
    pub fn not_found(message: impl Into<String>) -> Self {
        Cause::NotFound(message.into()).into()
    }
    /// A 404 in the predecessor's words: `Bead not found`.
    #[must_use]
    pub fn missing(noun: &str) -> Self {
        Self::not_found(format!("{noun} not found"))
    }
    /// A 409 that names the state.
    #[inline(never)]
    pub fn conflict(state: &str, message: impl Into<String>) -> Self {
        Cause::Conflict { state: state.to_owned(), message: message.into() }.into()
    }
    /// A 413.
    #[inline(never)]
    pub fn too_large(message: impl Into<String>) -> Self {
        Cause::TooLarge(message.into()).into()
    }
    /// A 422 that names its field.
    #[inline(never)]
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Cause::Invalid { field: field.to_owned(), message: message.into() }.into()
    }
    /// What kind of thing went wrong.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0
    }
    /// True if the database failed.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        matches!(self.cause(), Cause::Storage(_))
    }
    /// The same, taken out.
    #[must_use]
    pub fn into_cause(self) -> Cause {
        *self.0
    }
    /// In the words of the mayor base: there a rig that is not the town's is 403 (`protocol.md` 3.4).
    #[must_use]
    pub fn to_the_mayor(self) -> Self {
        match self.cause() {
            Cause::NotFound(text) if text == "Rig not found" => Self::forbidden("Rig not found in this town"),
            _ => self,
        }
    }
    /// The HTTP status of this error.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.cause() {
            Cause::Malformed(_) => 400,
            Cause::Forbidden(_) => 403,
            Cause::NotFound(_) => 404,
            Cause::Conflict { .. } => 409,
            Cause::TooLarge(_) => 413,
            Cause::Invalid { .. } => 422,
            Cause::TooOften { .. } => 429,
            Cause::Storage(_) => 500,
        }
    }
    /// The `code` of the error envelope.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.cause() {
            Cause::Malformed(_) => "malformed",
            Cause::Forbidden(_) => "forbidden",
            Cause::NotFound(_) => "not_found",
            Cause::Conflict { .. } => "conflict",
            Cause::TooLarge(_) => "too_large",
            Cause::Invalid { .. } => "invalid",
            Cause::TooOften { .. } => "too_often",
            Cause::Storage(_) => "internal",
        }
    }
}

impl fmt::Display for TownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl std::error::Error for TownError {}

impl From<Cause> for TownError {
    fn from(cause: Cause) -> Self {
        Self(Box::new(cause))
    }
}
impl From<SqlError> for TownError {
    #[cold]
    #[inline(never)]
    fn from(e: SqlError) -> Self {
        Cause::Storage(e).into()
    }
}
