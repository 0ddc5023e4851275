//! Random ids from `WebCrypto`.

use crate::town::id::Ids;
use std::fmt::Write as _;

/// The source of ids in production.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

/// A random byte: spreads out in time what would otherwise happen together.
#[must_use]
pub fn byte() -> u8 {
    let mut bytes = [0_u8];
    // Without random numbers nothing is spread out, and nothing else is wrong.
    let _ = getrandom::fill(&mut bytes);
    let [byte] = bytes;
    byte
}

impl Ids for RandomIds {
    fn uuid(&self) -> String {
        let mut bytes = [0_u8; 16];
        // `getRandomValues` cannot fail in workerd. If it ever did, zeros would collide and the first insert would be
        // refused by its primary key: an error, not a mix-up.
        if let Err(e) = getrandom::fill(&mut bytes) {
            super::log::error("ids", "", &format!("no random numbers: {e}"));
        }
        // Version 4, variant 10 (RFC 9562).
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
        *version = (*version & 0x0f) | 0x40;
        *variant = (*variant & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (i, byte) in bytes.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}
