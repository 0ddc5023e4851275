//! An answer of ours as the runtime's response; what a request says about itself.

use crate::edge::envelope::Answer;
use worker::{Request, Response, Result};

/// Builds the response.
pub fn response(answer: &Answer) -> Result<Response> {
    let mut response = Response::from_json(&answer.body)?.with_status(answer.status);
    if let Some(seconds) = answer.retry_after_seconds() {
        response.headers_mut().set("Retry-After", &seconds.to_string())?;
    }
    Ok(response)
}

/// How large the edge says that the body is; its text always has a length, and what is streamed has none.
pub fn announced(req: &Request) -> usize {
    let length = req.headers().get("Content-Length").ok().flatten();
    length.and_then(|n| n.parse().ok()).unwrap_or(0)
}
