//! What can go wrong in a verb, one variant per thing a caller can do about it. The edge maps each to one HTTP answer
//! (`TownError::status`), and nothing else decides a status.

use super::sql::SqlError;
use super::time::Millis;

/// Why a command was refused. A refused command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TownError {
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
    /// A 422 that names its field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }
    /// A 409 that names the state.
    pub fn conflict(state: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Conflict { state: state.into(), message: message.into() }
    }
    /// A 404 in the predecessor's words: `Bead not found`.
    #[must_use]
    pub fn missing(noun: &str) -> Self {
        Self::NotFound(format!("{noun} not found"))
    }
    /// In the words of the mayor base: there a rig that is not the town's is 403 (`protocol.md` 3.4).
    #[must_use]
    pub fn to_the_mayor(self) -> Self {
        match self {
            Self::NotFound(text) if text == "Rig not found" => Self::Forbidden("Rig not found in this town".to_owned()),
            other => other,
        }
    }
    /// The HTTP status of this error.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Forbidden(_) => 403,
            Self::NotFound(_) => 404,
            Self::Conflict { .. } => 409,
            Self::TooLarge(_) => 413,
            Self::Invalid { .. } => 422,
            Self::TooOften { .. } => 429,
            Self::Storage(_) => 500,
        }
    }
    /// The `code` of the error envelope.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::TooLarge(_) => "too_large",
            Self::Invalid { .. } => "invalid",
            Self::TooOften { .. } => "too_often",
            Self::Storage(_) => "internal",
        }
    }
}

impl From<SqlError> for TownError {
    fn from(e: SqlError) -> Self {
        Self::Storage(e)
    }
}
