//! Sockets that an object may sleep over: the runtime holds them while the object is out of memory, and makes it anew
//! for the next event. Nothing about a socket is kept by us beside what its tags say.
//!
//! What a client says is dropped: the runtime has no handler to give it to. Its close is answered, so that it ends cleanly on both
//! sides. `worker` would export four handlers for that, each a future of its own and 4 KB of Wasm; this is one plain function.

use crate::objects::{agent_do::AgentDO, town_do::TownDO};
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{Response, Result, State, WebSocket, WebSocketPair};

/// The header in which the worker tells an object the id of the ticket that a client came with; empty if it had none.
pub const TICKET_HEADER: &str = "X-Gastown-Ticket";

/// A close that names no code, or one that may not be sent, is answered with this.
const NORMAL: u16 = 1000;
/// The other side goes away (RFC 6455, 7.4.1).
const GOING_AWAY: u16 = 1001;

/// Takes a client's socket: our end of it, and the answer that hands the client its own. `ticket` becomes its tag.
pub fn accept(state: &State, ticket: &str) -> Result<(WebSocket, Response)> {
    let WebSocketPair { client, server } = WebSocketPair::new()?;
    let tag = [ticket];
    state.accept_websocket_with_tags(&server, if ticket.is_empty() { &[] } else { &tag });
    Ok((server, Response::from_websocket(client)?))
}

/// How many are open.
#[must_use]
pub fn open(state: &State) -> usize {
    state.get_websockets().len()
}

/// True if the ticket holds an open socket.
#[must_use]
pub fn holds(state: &State, ticket: &str) -> bool {
    !ticket.is_empty() && !state.get_websockets_with_tag(ticket).is_empty()
}

/// Sends a frame to every socket. One that is closing takes nothing, which is nobody's loss.
pub fn send_all(state: &State, frame: &str) {
    for socket in state.get_websockets() {
        let _ = socket.send_with_str(frame);
    }
}

/// Answers a client's close; only codes of an application may be sent back.
fn answer_close(socket: &web_sys::WebSocket, code: u16) {
    let code = if (3000..5000).contains(&code) { code } else { NORMAL };
    let _ = socket.close_with_code(code);
}

#[wasm_bindgen]
#[allow(missing_docs, clippy::needless_pass_by_value, reason = "what the runtime calls, and as it calls it")]
impl TownDO {
    #[wasm_bindgen(js_name = webSocketClose)]
    pub fn web_socket_close(&self, socket: web_sys::WebSocket, code: u16) {
        answer_close(&socket, code);
    }
}

#[wasm_bindgen]
#[allow(missing_docs, clippy::needless_pass_by_value, reason = "what the runtime calls, and as it calls it")]
impl AgentDO {
    #[wasm_bindgen(js_name = webSocketClose)]
    pub fn web_socket_close(&self, socket: web_sys::WebSocket, code: u16) {
        answer_close(&socket, code);
    }
}

/// Closes every socket and says why.
pub fn close_all(state: &State, why: &str) {
    for socket in state.get_websockets() {
        let _ = socket.close(Some(GOING_AWAY), Some(why));
    }
}
