//! What a JavaScript error says about itself beside its text.

use js_sys::Reflect;
use worker::Error;

/// What to do about a failed call to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It sheds load (`.overloaded`): leave it alone.
    Overloaded,
    /// The platform says that asking again is fine (`.retryable`).
    Retryable,
    /// Anything else.
    Other,
}

/// Reads the flags that `worker` does not bind.
#[must_use]
pub fn fault(error: &Error) -> Fault {
    let flag = |name: &str| match error {
        Error::UnknownJsError { original, .. } => Reflect::get(original, &name.into()).is_ok_and(|v| v.is_truthy()),
        _ => false,
    };
    if flag("overloaded") {
        Fault::Overloaded
    } else if flag("retryable") {
        Fault::Retryable
    } else {
        Fault::Other
    }
}

/// True if the call was given up by its `AbortSignal.timeout`.
#[must_use]
pub fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::UnknownJsError { name: Some(name), .. } if name == "TimeoutError" || name == "AbortError")
}

/// The error's own words, never empty.
#[must_use]
pub fn words(error: &Error) -> String {
    let text = match error {
        Error::UnknownJsError { message, .. } => message.clone(),
        other => other.to_string(),
    };
    if text.trim().is_empty() { "no reason given".to_owned() } else { text }
}
