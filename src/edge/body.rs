//! A request body that is read piece by piece and never kept beyond its limit.

use super::envelope::Refusal;

/// The largest body of any route so far: `design.md` 9.
pub const MAX_BODY_BYTES: usize = 1_024 * 1_024;

/// A body on its way in.
#[derive(Debug)]
pub struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    /// Believes `Content-Length` only when it says that the body is too large; what arrives is counted all the same.
    pub fn announced(content_length: Option<&str>, limit: usize) -> Result<Self, Refusal> {
        match content_length.and_then(|v| v.trim().parse::<u64>().ok()) {
            Some(n) if usize::try_from(n).map_or(true, |n| n > limit) => Err(Refusal::too_large(limit)),
            _ => Ok(Self { bytes: Vec::new(), limit }),
        }
    }
    /// Takes the next piece, or refuses it before it is stored.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        if self.bytes.len().saturating_add(piece.len()) > self.limit {
            return Err(Refusal::too_large(self.limit));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
    /// What arrived.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_announces_too_much_is_refused_unread() {
        assert_eq!(Bounded::announced(Some("11"), 10).unwrap_err().status, 413);
        assert_eq!(
            Bounded::announced(Some("99999999999999999999"), 10).map(|_| ()),
            Ok(()),
            "unreadable: counted instead"
        );
        assert!(Bounded::announced(Some("10"), 10).is_ok() && Bounded::announced(None, 10).is_ok());
    }

    #[test]
    fn a_body_that_announces_too_little_is_refused_where_it_passes_the_limit() {
        let mut body = Bounded::announced(Some("1"), 10).unwrap();
        assert!(body.push(&[0; 6]).is_ok() && body.push(&[0; 4]).is_ok());
        assert_eq!(body.push(&[0; 1]).unwrap_err().status, 413);
        assert_eq!(body.into_bytes().len(), 10);
    }
}
