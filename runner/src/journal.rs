//! The runner's own log: one line per event on standard error.

/// The longest line. What an agent printed stands whole in its own log.
const LINE_BYTES: usize = 500;

/// Writes one line. Callers pass text that has been redacted already.
pub fn note(text: &str) {
    let line = text.trim().replace('\n', " | ");
    eprintln!("{} {}", crate::text::now(), crate::text::head(&line, LINE_BYTES));
}
