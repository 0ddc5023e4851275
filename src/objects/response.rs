//! An answer of ours as the runtime's response.

use crate::edge::envelope::Answer;
use worker::{Response, Result};

/// Builds the response.
pub fn response(answer: &Answer) -> Result<Response> {
    let mut response = Response::from_json(&answer.body)?.with_status(answer.status);
    if let Some(seconds) = answer.retry_after_seconds() {
        response.headers_mut().set("Retry-After", &seconds.to_string())?;
    }
    Ok(response)
}
