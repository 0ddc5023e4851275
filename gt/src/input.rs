//! Texts that are too long for a command line: `-` reads standard input, a file is read whole.

use crate::failure::Failure;
use serde_json::{Map, Value as Json};
use std::{fs, io::Read as _, path::Path};

/// A text as given, or standard input for `-`.
pub fn text(given: &str) -> Result<String, Failure> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("standard input: {error}"), "Give the text as an argument."))?;
    Ok(text)
}

/// The same where nothing may be given.
pub fn optional(given: Option<&str>) -> Result<Option<String>, Failure> {
    given.map(text).transpose()
}

/// A file's text, or standard input for `-`.
pub fn file(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") { text("-") } else { fs::read_to_string(path).map_err(|e| Failure::file(path, &e)) }
}

/// A JSON object given as text.
pub fn object(given: &str, what: &str) -> Result<Json, Failure> {
    match serde_json::from_str(given) {
        Ok(value @ Json::Object(_)) => Ok(value),
        Ok(_) => Err(Failure::usage(format!("{what} is not a JSON object"), "For example: '{\"key\": \"value\"}'.")),
        Err(error) => {
            Err(Failure::usage(format!("{what} is no JSON: {error}"), "For example: '{\"key\": \"value\"}'."))
        }
    }
}

/// Milliseconds of `90s`, `30m`, `2h`, `500ms`; a bare number is seconds.
pub fn milliseconds(given: &str) -> Result<u64, String> {
    let digits = given.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = given.split_at_checked(digits).unwrap_or((given, ""));
    let factor = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration looks like 90s, 30m or 2h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a duration looks like 90s, 30m or 2h".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that is too long".to_owned())
}

/// A body of what was given; what was not is not there.
#[derive(Debug, Default)]
pub struct Body(Map<String, Json>);

impl Body {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a value, if there is one.
    pub fn with(mut self, key: &str, value: Option<impl Into<Json>>) -> Self {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
        self
    }

    /// With a list, unless it is empty.
    pub fn with_list(self, key: &str, list: &[String]) -> Self {
        self.with(key, (!list.is_empty()).then(|| list.to_vec()))
    }

    /// As JSON.
    pub fn json(self) -> Json {
        Json::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(milliseconds("90s"), Ok(90_000));
        assert_eq!(milliseconds("30m"), Ok(1_800_000));
        assert_eq!(milliseconds("2h"), Ok(7_200_000));
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("5"), Ok(5_000));
        for odd in ["", "m", "-1s", "1d", "1.5h", "99999999999999999999s", "9999999999999999999h"] {
            assert!(milliseconds(odd).is_err(), "{odd}");
        }
    }
}
