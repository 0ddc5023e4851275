//! The status socket: a ticket, a WebSocket, and its frames (`protocol.md` 3.5).

use crate::{
    caller::Caller,
    client::{Call, segment, trust},
    failure::Failure,
    output::word,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use rustls_platform_verifier::ConfigVerifierExt as _;
use serde_json::Value as Json;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};
use tungstenite::{Message, WebSocket, http::Uri};

/// The longest that connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a silent socket is listened to before its caller gets a word in.
pub const SILENCE: Duration = Duration::from_secs(15);

/// A connection, with or without TLS.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// An open status socket.
pub struct Socket(WebSocket<Box<dyn Stream>>);

/// What came.
pub enum Came {
    /// A frame.
    Frame(Json),
    /// Nothing for [`SILENCE`]; the socket is still there.
    Silence,
    /// The socket is closed.
    Closed,
}

fn refused(what: impl Into<String>) -> Failure {
    Failure::Unreachable { what: what.into(), next: String::new() }
}

impl Socket {
    /// Asks for a ticket and goes in with it.
    pub fn open(caller: &Caller) -> Result<Self, Failure> {
        let ticket = caller.call(&Call::post_empty(caller.town_path("status/ticket")?))?;
        let url = address(caller.api(), &word(&ticket, "url"), &word(&ticket, "ticket"));
        let uri: Uri = url.parse().map_err(|_| refused("the ticket names no address"))?;
        let stream = connect(&uri).map_err(|error| refused(error.to_string()))?;
        match tungstenite::client(uri, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Waits for the next frame.
    pub fn next(&mut self) -> Came {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => {
                    // What is no JSON is no frame of ours.
                    if let Ok(frame) = serde_json::from_str(text.as_str()) {
                        return Came::Frame(frame);
                    }
                }
                Ok(Message::Close(_)) => return Came::Closed,
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    // A connection that died in silence is found out by this.
                    return match self.0.send(Message::Ping(Vec::new().into())) {
                        Ok(()) => Came::Silence,
                        Err(_) => Came::Closed,
                    };
                }
                Err(_) => return Came::Closed,
            }
        }
    }
}

/// The socket's address: the ticket's, which may be a path on the worker, with the ticket in its query.
fn address(api: &str, url: &str, ticket: &str) -> String {
    let whole = if url.starts_with('/') { format!("{api}{url}") } else { url.to_owned() };
    let whole = match whole.strip_prefix("http") {
        Some(rest) => format!("ws{rest}"),
        None => whole,
    };
    if whole.contains("ticket=") {
        return whole;
    }
    let joint = if whole.contains('?') { '&' } else { '?' };
    format!("{whole}{joint}ticket={}", segment(ticket))
}

fn connect(uri: &Uri) -> io::Result<Box<dyn Stream>> {
    let secure = uri.scheme_str() == Some("wss");
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let mut last = io::Error::new(ErrorKind::NotFound, format!("{host} has no address"));
    for place in (host.as_str(), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, CONNECT) {
            Ok(tcp) => {
                tcp.set_read_timeout(Some(SILENCE))?;
                tcp.set_write_timeout(Some(CONNECT))?;
                return if secure { encrypted(host, tcp) } else { Ok(Box::new(tcp)) };
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn encrypted(host: String, tcp: TcpStream) -> io::Result<Box<dyn Stream>> {
    trust();
    let config = ClientConfig::with_platform_verifier().map_err(io::Error::other)?;
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(Box::new(StreamOwned::new(connection, tcp)))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_ticket_names_a_path_or_a_whole_address() {
        assert_eq!(address("https://h", "/api/x", "t/1"), "wss://h/api/x?ticket=t%2F1");
        assert_eq!(address("http://h:1", "/api/x?a=b", "t"), "ws://h:1/api/x?a=b&ticket=t");
        assert_eq!(address("http://h", "wss://other/x?ticket=t", "t"), "wss://other/x?ticket=t");
    }
}
