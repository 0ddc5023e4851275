//! Time as the town sees it: milliseconds since 1970, handed in by the shell, never read from a clock.

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A moment: milliseconds since 1970-01-01T00:00:00Z in the database, RFC 3339 with milliseconds and `Z` on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A length of time in milliseconds.
pub type Millis = i64;

/// One second, in milliseconds.
pub const SECOND: Millis = 1_000;
/// One minute, in milliseconds.
pub const MINUTE: Millis = 60 * SECOND;
/// One hour, in milliseconds.
pub const HOUR: Millis = 60 * MINUTE;
/// One day, in milliseconds.
pub const DAY: Millis = 24 * HOUR;

impl Timestamp {
    /// This moment moved by `ms`; saturates.
    #[must_use]
    pub const fn plus(self, ms: Millis) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// Milliseconds from `earlier` to this moment (negative if it is later).
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        self.0.saturating_sub(earlier.0)
    }
    /// Reads RFC 3339; `None` if it is not.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|t| Self(t.timestamp_millis()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = DateTime::from_timestamp_millis(self.0).unwrap_or_default();
        f.write_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

impl From<Timestamp> for super::sql::Arg<'_> {
    fn from(t: Timestamp) -> Self {
        Self::Int(t.0)
    }
}

/// `n` milliseconds in words that a person reads at 3 a.m.: `45 s`, `12 min`, `3 h`.
#[must_use]
pub fn in_words(ms: Millis) -> String {
    match ms {
        i64::MIN..SECOND => format!("{} ms", ms.max(0)),
        SECOND..MINUTE => format!("{} s", ms / SECOND),
        MINUTE..HOUR => format!("{} min", ms / MINUTE),
        _ => format!("{} h {} min", ms / HOUR, (ms % HOUR) / MINUTE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_what_it_writes_with_milliseconds_and_z() {
        let t = Timestamp(1_795_168_782_005);
        assert_eq!(t.to_string(), "2026-11-20T09:59:42.005Z");
        assert_eq!(Timestamp::parse("2026-11-20T09:59:42.005Z"), Some(t));
    }
}
