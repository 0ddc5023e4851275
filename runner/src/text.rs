//! Cutting texts to a number of bytes without breaking a character, and the shape of times on the wire.

use std::{
    process::ExitStatus,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The last `max` bytes of `text`, or a little less so as to begin on a character.
#[must_use]
pub fn tail(text: &str, max: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(max));
    text.get(from..).unwrap_or_default()
}

/// The first `max` bytes of `text`, or a little less so as to end on a character.
#[must_use]
pub fn head(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

/// Now, as the wire writes it: RFC 3339 with milliseconds and `Z`.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// How a process ended, in words.
#[must_use]
pub fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("killed by signal {signal} ({name})"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// The guard of a mutex. A panic elsewhere leaves the data usable: every critical section here is a few assignments.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{head, tail};

    #[test]
    fn a_cut_never_breaks_a_character() {
        assert_eq!(tail("aßb", 2), "b");
        assert_eq!(tail("aßb", 3), "ßb");
        assert_eq!(head("aßb", 2), "a");
        assert_eq!(head("aßb", 99), "aßb");
        assert_eq!(tail("", 4), "");
    }
}
