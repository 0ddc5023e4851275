//! Panics on demand, for `tests/worker/panic.test.mjs`. Without the feature `panic-probe`, which no build that ships
//! has, nothing of it is there.

/// Panics where it is asked to.
///
/// # Panics
/// If `text` asks for a panic at `place`.
pub fn at(place: &str, text: &str) {
    go(place, asked(place, text));
}

/// Whether `text` asks for a panic at `place`.
#[cfg(feature = "panic-probe")]
#[must_use]
pub fn asked(place: &str, text: &str) -> bool {
    text.contains(&format!("panic-probe:{place}"))
}

/// Panics if that was asked for.
///
/// # Panics
/// If `asked`.
#[cfg(feature = "panic-probe")]
pub fn go(place: &str, asked: bool) {
    assert!(!asked, "panic-probe at {place}");
}

/// Never.
#[cfg(not(feature = "panic-probe"))]
#[must_use]
pub const fn asked(_place: &str, _text: &str) -> bool {
    false
}

/// Nothing.
#[cfg(not(feature = "panic-probe"))]
pub const fn go(_place: &str, _asked: bool) {}
