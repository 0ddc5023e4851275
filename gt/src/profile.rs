//! What `gt login` remembers: one small file per profile, which nobody but its owner can read.

use crate::failure::Failure;
use serde_json::{Value as Json, json};
use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

/// A server, a token for it, and what to work on when nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The worker's base url.
    pub api: String,
    /// The token.
    pub token: String,
    /// The user whose towns these are.
    pub user: String,
    /// The town, if there is a usual one.
    pub town: Option<String>,
    /// The rig, likewise.
    pub rig: Option<String>,
}

/// Where a profile lies: `$XDG_CONFIG_HOME/gastown/NAME.json`, else under `~/.config`.
pub fn path(name: &str) -> Result<PathBuf, Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(Failure::usage(
            format!("'{name}' cannot name a profile"),
            "Use letters, digits, - and _ only, for example: --profile work.",
        ));
    }
    let filled = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base =
        filled("XDG_CONFIG_HOME").or_else(|| filled("HOME").map(|home| home.join(".config"))).ok_or_else(|| {
            Failure::usage("neither XDG_CONFIG_HOME nor HOME is set", "Set one of them: the login is kept there.")
        })?;
    Ok(base.join("gastown").join(format!("{name}.json")))
}

/// Reads a profile; `None` if nobody logged in.
pub fn load(path: &Path) -> Result<Option<Profile>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file(path, &error)),
    };
    let body: Json = serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("{} is damaged: {error}", path.display()), "Log in again: gt login --api URL --token T.")
    })?;
    let word = |key: &str| body.get(key).and_then(Json::as_str).filter(|word| !word.is_empty()).map(str::to_owned);
    Ok(Some(Profile {
        api: word("api").unwrap_or_default(),
        token: word("token").unwrap_or_default(),
        user: word("user").unwrap_or_default(),
        town: word("town"),
        rig: word("rig"),
    }))
}

/// Writes a profile. It is written beside and moved into place: a token is never in a file that others may read, and
/// a full disk does not cost the login that was there.
pub fn save(path: &Path, profile: &Profile) -> Result<(), Failure> {
    let body = json!({
        "api": profile.api,
        "token": profile.token,
        "user": profile.user,
        "town": profile.town,
        "rig": profile.rig,
    });
    let beside = path.with_extension("json.new");
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        writeln!(options.open(&beside)?, "{body:#}")?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| Failure::file(path, &error))
}

/// Forgets a profile; false if there was none.
pub fn remove(path: &Path) -> Result<bool, Failure> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::file(path, &error)),
    }
}
