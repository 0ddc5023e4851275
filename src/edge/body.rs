//! A request body that is read piece by piece and never kept beyond its limit.

use super::envelope::Refusal;

/// The largest body of most routes: `design.md` 9.
pub const MAX_BODY_BYTES: usize = 1_024 * 1_024;

/// The largest batch of an agent's events: `design.md` 9.
pub const MAX_EVENTS_BYTES: usize = 8 * 1_024 * 1_024;

/// How much is read and thrown away of a body that is refused. The runtime closes the connection when an answer goes out
/// before the body is in (`KJ`: after 64 KiB or a second of grace), and a client that is still sending then sees a broken
/// pipe instead of the answer. Beyond this, a client has to live with that.
pub const MAX_DISCARDED_BYTES: usize = 4 * MAX_BODY_BYTES;

/// A body on its way in.
#[derive(Debug)]
pub struct Bounded {
    kept: Vec<u8>,
    arrived: usize,
    limit: usize,
}

impl Bounded {
    /// Believes `Content-Length` only when it says that the body is too large to be read at all; what arrives is counted
    /// all the same.
    pub fn announced(content_length: Option<&str>, limit: usize) -> Result<Self, Refusal> {
        match content_length.and_then(|v| v.trim().parse::<u64>().ok()) {
            Some(n) if usize::try_from(n).map_or(true, |n| n > limit.saturating_add(MAX_DISCARDED_BYTES)) => {
                Err(Refusal::too_large(limit))
            }
            _ => Ok(Self { kept: Vec::new(), arrived: 0, limit }),
        }
    }
    /// Takes the next piece. Past the limit nothing is kept any more; refuses where reading on is pointless too.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.arrived = self.arrived.saturating_add(piece.len());
        if self.arrived > self.limit.saturating_add(MAX_DISCARDED_BYTES) {
            return Err(Refusal::too_large(self.limit));
        }
        if self.arrived > self.limit {
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(piece);
        }
        Ok(())
    }
    /// What arrived, if it was within the limit.
    pub fn into_bytes(self) -> Result<Vec<u8>, Refusal> {
        if self.arrived > self.limit { Err(Refusal::too_large(self.limit)) } else { Ok(self.kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR_TOO_MUCH: usize = 11 + MAX_DISCARDED_BYTES;

    #[test]
    fn a_body_that_announces_far_too_much_is_refused_unread() {
        let announced = |length: &str| Bounded::announced(Some(length), 10);
        assert_eq!(announced(&FAR_TOO_MUCH.to_string()).unwrap_err().status, 413);
        assert!(announced("99999999999999999999").is_ok(), "unreadable: counted instead");
        assert!(announced("11").is_ok() && Bounded::announced(None, 10).is_ok());
    }

    #[test]
    fn a_body_past_the_limit_is_read_to_its_end_kept_no_longer_and_refused() {
        let mut body = Bounded::announced(Some("1"), 10).unwrap();
        assert!(body.push(&[0; 6]).is_ok() && body.push(&[0; 4]).is_ok());
        assert_eq!(body.kept.len(), 10);
        assert!(body.push(&[0; 1]).is_ok());
        assert_eq!(body.kept.capacity(), 0);
        assert_eq!(body.into_bytes().unwrap_err().status, 413);
    }

    #[test]
    fn a_body_within_the_limit_arrives_whole() {
        let mut body = Bounded::announced(None, 10).unwrap();
        assert!(body.push(b"12345").is_ok() && body.push(b"67890").is_ok());
        assert_eq!(body.into_bytes().unwrap(), b"1234567890");
    }

    #[test]
    fn a_body_without_end_is_refused_where_it_passes_what_may_be_thrown_away() {
        let mut body = Bounded::announced(None, 10).unwrap();
        assert_eq!(body.push(&vec![0; FAR_TOO_MUCH]).unwrap_err().status, 413);
    }
}
