//! Ids: lower-case UUID v4 text. Their first eight characters go into branch names, so they must be random; order comes
//! from `created_at` and `seq`, never from an id.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where new ids come from: `WebCrypto` in production, a seeded generator on the host.
pub trait Ids {
    /// A fresh lower-case UUID v4.
    fn uuid(&self) -> String;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The first eight characters, as branches and identities use them.
            #[must_use]
            pub fn short(&self) -> &str {
                self.0.get(..8).unwrap_or(&self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $name {
            fn from(v: &str) -> Self {
                Self(v.to_owned())
            }
        }
        impl From<String> for $name {
            fn from(v: String) -> Self {
                Self(v)
            }
        }
        impl<'a> From<&'a $name> for super::sql::Arg<'a> {
            fn from(v: &'a $name) -> Self {
                Self::Text(&v.0)
            }
        }
    };
}

id!(
    /// A bead's id.
    BeadId
);
id!(
    /// An agent's id.
    AgentId
);
id!(
    /// A rig's id; the mayor's pseudo rig is `mayor-<town id>`.
    RigId
);
id!(
    /// An attempt's id: the idempotency key of one dispatch, sent to the container as `dispatchId`.
    AttemptId
);

/// True for a lower-case UUID v4 with the right variant bits: what bodies that name beads must carry.
#[must_use]
pub fn is_uuid_v4(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() == 36
        && b.iter().enumerate().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => *c == b'-',
            14 => *c == b'4',
            19 => matches!(c, b'8' | b'9' | b'a' | b'b'),
            _ => matches!(c, b'0'..=b'9' | b'a'..=b'f'),
        })
}
