//! The simulated container over HTTP, in real time, for the contract suite: prints `listening on http://127.0.0.1:<port>`
//! and serves until it is killed. Its agents run on, or exit when a line of their prompt, or of a message, says `exit`
//! or `exit after <ms>`. They talk to nobody.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test infrastructure: a broken promise must stop the test"
)]

use gastown::town::time::Timestamp;
use gastown_host::behaviour::Behaviour;
use gastown_host::container::Container;
use gastown_host::fault::SimAnswer;
use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tiny_http::{Header, Request, Response, Server};

/// Bodies beyond this are cut, and then refused as malformed.
const BODY: u64 = 1024 * 1024;

#[allow(clippy::disallowed_methods, reason = "this program serves in real time, on the host only")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(i64::try_from(since.as_millis()).expect("the time fits"))
}

fn main() {
    let server = Server::http("127.0.0.1:0").expect("a free port");
    println!("listening on http://{}", server.server_addr());
    std::io::stdout().flush().expect("somebody listens");

    let mut container = Container::new(now().0.unsigned_abs(), now());
    container.obeys_messages = true;
    container.behave(|start| Behaviour::as_prompted(&start.request.prompt));
    for mut request in server.incoming_requests() {
        let mut body = String::new();
        let read = request.as_reader().take(BODY).read_to_string(&mut body);
        let at = now();
        container.run_until(at);
        let answer = match read {
            Ok(_) => {
                let path = percent_encoding::percent_decode_str(request.url()).decode_utf8_lossy().into_owned();
                container.call(at, request.method().as_str(), &path, &body)
            }
            Err(_) => SimAnswer::http(0, 400, r#"{"error":"Invalid request body"}"#),
        };
        reply(request, answer);
    }
}

/// A caller that has gone away is no reason to stop.
fn reply(request: Request, answer: SimAnswer) {
    let SimAnswer::Http { said, .. } = answer else { return };
    let json = Header::from_bytes("Content-Type", "application/json").expect("a header");
    let _ = request.respond(Response::from_string(said.body).with_status_code(said.status).with_header(json));
}
