//! What is printed: tables and texts for people, the server's data for programs.

use serde_json::Value as Json;
use std::io::Write as _;

/// The widest a cell is shown, in characters: ids are 36, titles may be 500 bytes.
const CELL: usize = 64;
/// What is shown of an id in a list: enough to name it by.
const SHORT: usize = 8;

/// What a command found out or did.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As it came.
    pub data: Json,
    /// The same for people.
    pub text: String,
}

impl Answer {
    /// An answer with its text.
    pub fn new(data: Json, text: impl Into<String>) -> Self {
        Self { data, text: text.into() }
    }

    /// An answer whose text is made of its data.
    pub fn of(data: Json, text: impl FnOnce(&Json) -> String) -> Self {
        let text = text(&data);
        Self { data, text }
    }

    /// Prints it.
    pub fn print(&self, json: bool) {
        if json {
            line(&format!("{:#}", self.data));
        } else if !self.text.is_empty() {
            line(&harmless(self.text.trim_end()));
        }
    }
}

/// One line to whoever reads; that nobody reads any more is no error.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// One line beside the output: what went wrong, or how it goes on.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(text));
}

/// Without control characters: a title that an agent wrote must not steer a terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// What stands at a path (`a/b`) of a value, as a word; `-` for nothing.
pub fn word(value: &Json, path: &str) -> String {
    match value.pointer(&format!("/{path}")) {
        None | Some(Json::Null) => "-".to_owned(),
        Some(Json::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The beginning of an id.
pub fn short(value: &Json, path: &str) -> String {
    word(value, path).chars().take(SHORT).collect()
}

/// A time to the second, as people read it.
pub fn time(value: &Json, path: &str) -> String {
    let text = word(value, path);
    match text.split_once('T') {
        Some((day, rest)) => format!("{day} {}", rest.split(['.', 'Z']).next().unwrap_or_default()),
        None => text,
    }
}

/// The items of a list at a path; none if there is no list.
pub fn items<'a>(value: &'a Json, path: &str) -> Vec<&'a Json> {
    let at = if path.is_empty() { Some(value) } else { value.pointer(&format!("/{path}")) };
    at.and_then(Json::as_array).into_iter().flatten().collect()
}

/// A table; `nothing` if it has no rows.
pub fn table(head: &[&str], rows: &[Vec<String>], nothing: &str) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let cell = |text: &str| -> String {
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if flat.chars().count() > CELL { flat.chars().take(CELL - 1).chain(['…']).collect() } else { flat }
    };
    let all: Vec<Vec<String>> = std::iter::once(head.iter().map(|word| (*word).to_owned()).collect())
        .chain(rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()))
        .collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or_default()).collect();
    let lines = all.iter().map(|row| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `name  value` lines, without those that say nothing.
pub fn facts(pairs: &[(&str, String)]) -> String {
    let told: Vec<&(&str, String)> = pairs.iter().filter(|(_, value)| !value.is_empty() && value != "-").collect();
    let width = told.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    told.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_and_long_cells_are_cut_between_characters() {
        let rows = vec![vec!["ä".to_owned(), "x\ny".to_owned()], vec!["abc".to_owned(), "é".repeat(100)]];
        let text = table(&["A", "TITLE"], &rows, "none");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["A    TITLE", "ä    x y"]);
        assert_eq!(lines[2].chars().count(), 5 + CELL);
        assert!(lines[2].ends_with('…'));
        assert_eq!(table(&["A"], &[], "no beads"), "no beads");
    }

    #[test]
    fn nothing_that_an_agent_wrote_steers_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\r\nc\td"), "a\u{fffd}[2Jb\u{fffd}\nc\td");
    }

    #[test]
    fn words_times_and_facts_are_short_and_say_nothing_about_nothing() {
        let value = json!({"a": {"at": "2026-01-02T03:04:05.678Z"}, "n": 3, "none": null, "id": "0b5e1f2a-1c2d"});
        assert_eq!(
            (time(&value, "a/at"), word(&value, "n"), word(&value, "none")),
            ("2026-01-02 03:04:05".into(), "3".into(), "-".into())
        );
        assert_eq!(short(&value, "id"), "0b5e1f2a");
        assert_eq!(
            facts(&[("id", "x".into()), ("closed", "-".into()), ("status", "open".into())]),
            "id      x\nstatus  open"
        );
    }
}
