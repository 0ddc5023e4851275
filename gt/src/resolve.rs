//! Which one is meant: an id is taken as it is; the beginning of one, or a name, is looked up in a list and must fit one.

use crate::{
    caller::Caller,
    client::{Call, segment},
    failure::Failure,
};
use serde_json::Value as Json;

/// The shortest beginning of an id that is looked up: shorter ones fit too much.
const SHORTEST: usize = 4;
/// How many beads are asked for at once.
const PAGE: usize = 500;
/// How many pages are read: 20,000 beads of a rig, newest first.
const PAGES: usize = 40;
/// How many that fit are named in an error.
const NAMED: usize = 5;

/// Whether this is a whole id: 36 characters of a UUID, or the mayor's pseudo-rig.
pub fn is_id(given: &str) -> bool {
    let hex = given.chars().filter(char::is_ascii_hexdigit).count();
    let dashes = given.chars().filter(|c| *c == '-').count();
    (given.len() == 36 && hex == 32 && dashes == 4) || given.starts_with("mayor-")
}

/// The items of a list.
pub fn listed(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().into_iter().flatten()
}

/// The id of an item: `id`, or `bead_id` where there is no `id`.
pub fn id_of(item: &Json) -> Option<String> {
    item.get("id").or_else(|| item.get("bead_id")).and_then(Json::as_str).map(str::to_owned)
}

fn name_of(item: &Json) -> &str {
    item.get("name").or_else(|| item.get("title")).and_then(Json::as_str).unwrap_or_default()
}

fn fits(item: &Json, given: &str) -> bool {
    name_of(item) == given || (given.len() >= SHORTEST && id_of(item).is_some_and(|id| id.starts_with(given)))
}

/// The one of a list that `given` means: by the beginning of its id or by its name; without it the only one.
pub fn one(list: &Json, noun: &str, given: Option<&str>) -> Result<String, Failure> {
    let fitting: Vec<&Json> = listed(list).filter(|item| given.is_none_or(|given| fits(item, given))).collect();
    match (fitting.as_slice(), given) {
        ([only], _) => id_of(only).ok_or_else(|| Failure::usage(format!("the {noun} has no id"), "")),
        ([], None) => {
            Err(Failure::usage(format!("there is no {noun} yet"), format!("Make one: gt {noun}s --help says how.")))
        }
        ([], Some(given)) => Err(unknown(noun, given)),
        (_, None) => Err(Failure::usage(
            format!("there are several {noun}s: {}", some(&fitting)),
            format!("Say which: --{noun} NAME, or for always: gt {noun}s use NAME."),
        )),
        (_, Some(given)) => Err(several(noun, given, &fitting)),
    }
}

fn unknown(noun: &str, given: &str) -> Failure {
    let next = match noun {
        "town" => "gt towns lists them.",
        "rig" => "gt rigs lists them.",
        "agent" => "gt agents lists them.",
        "convoy" => "gt convoy list has the open ones; a closed one needs its whole id.",
        "escalation" => "gt escalations lists them.",
        _ => "gt beads lists them; --rig looks into another rig.",
    };
    Failure::usage(format!("no {noun} is called or begins with '{given}'"), next)
}

fn several(noun: &str, given: &str, fitting: &[&Json]) -> Failure {
    Failure::usage(format!("'{given}' fits several {noun}s: {}", some(fitting)), "Give more of the id.")
}

fn some(items: &[&Json]) -> String {
    let named: Vec<String> = items
        .iter()
        .take(NAMED)
        .map(|item| format!("{} ({})", id_of(item).unwrap_or_default(), name_of(item)))
        .collect();
    let more = if items.len() > NAMED { format!(" and {} more", items.len() - NAMED) } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// The bead that is meant.
pub fn bead(caller: &Caller, given: &str) -> Result<String, Failure> {
    if is_id(given) { Ok(given.to_owned()) } else { search(caller, given).map(|(_, bead)| bead) }
}

/// The bead that is meant, with its rig.
pub fn bead_in_rig(caller: &Caller, given: &str) -> Result<(String, String), Failure> {
    if !is_id(given) {
        return search(caller, given);
    }
    let rigs = caller.rigs_to_search()?;
    if let [only] = rigs.as_slice() {
        return Ok((only.clone(), given.to_owned()));
    }
    for rig in rigs {
        let path = caller.path_in_rig(&rig, &format!("beads/{}", segment(given)))?;
        match caller.call(&Call::get(path)) {
            Ok(_) => return Ok((rig, given.to_owned())),
            Err(Failure::Refused(refusal)) if refusal.status == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(unknown("bead", given))
}

fn search(caller: &Caller, given: &str) -> Result<(String, String), Failure> {
    if given.len() < SHORTEST || !given.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Err(Failure::usage(
            format!("'{given}' is no bead's id"),
            format!("Give the id, or at least its first {SHORTEST} characters; gt beads lists them."),
        ));
    }
    let mut fitting = Vec::new();
    for rig in caller.rigs_to_search()? {
        for page in 0..PAGES {
            let path = caller.path_in_rig(&rig, "beads")?;
            let beads = caller.call(&Call::get(path).with("limit", Some(PAGE)).with("offset", Some(page * PAGE)))?;
            fitting.extend(listed(&beads).filter(|bead| fits(bead, given)).map(|bead| (rig.clone(), bead.clone())));
            if listed(&beads).count() < PAGE {
                break;
            }
        }
    }
    match fitting.as_slice() {
        [] => Err(unknown("bead", given)),
        [(rig, bead)] => Ok((rig.clone(), id_of(bead).unwrap_or_default())),
        several_fit => {
            let beads: Vec<&Json> = several_fit.iter().map(|(_, bead)| bead).collect();
            Err(several("bead", given, &beads))
        }
    }
}

/// The agent that is meant where only an id will do: the mayor is asked for.
pub fn agent_id(caller: &Caller, given: &str) -> Result<String, Failure> {
    if given != "mayor" {
        return agent(caller, given);
    }
    let told = caller.call(&Call::get(caller.town_path("mayor-id")?))?;
    told.get("agentId").and_then(Json::as_str).map(str::to_owned).ok_or_else(|| {
        Failure::usage("the town has no mayor yet", "A mail to the mayor waits for it: gt mail send mayor …")
    })
}

/// The agent that is meant, by id or name. `mayor` stands for itself: in mail the town knows who that is.
pub fn agent(caller: &Caller, given: &str) -> Result<String, Failure> {
    if is_id(given) || given == "mayor" {
        return Ok(given.to_owned());
    }
    let mut agents = Vec::new();
    for rig in caller.rigs_to_search()? {
        let list = caller.call(&Call::get(caller.path_in_rig(&rig, "agents")?))?;
        agents.extend(listed(&list).cloned());
    }
    one(&Json::Array(agents), "agent", Some(given))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list() -> Json {
        json!([{"id": "abcd1234-0", "name": "app"}, {"id": "abcd5678-0", "name": "site"}, {"id": "ffff0000-0", "name": "x"}])
    }

    #[test]
    fn a_name_or_an_unambiguous_beginning_is_enough() {
        assert_eq!(one(&list(), "rig", Some("site")).unwrap(), "abcd5678-0");
        assert_eq!(one(&list(), "rig", Some("abcd1")).unwrap(), "abcd1234-0");
        assert_eq!(one(&json!([{"id": "a", "name": "x"}]), "rig", None).unwrap(), "a");
    }

    #[test]
    fn what_fits_several_or_none_is_refused_with_what_there_is() {
        let text = |given| one(&list(), "rig", given).unwrap_err().explain();
        assert!(text(Some("abcd")).contains("abcd1234-0 (app), abcd5678-0 (site)"), "{}", text(Some("abcd")));
        assert!(text(Some("abc")).contains("gt rigs lists them"), "three characters are too few");
        assert!(text(None).contains("gt rigs use NAME"));
        assert!(one(&json!([]), "town", None).unwrap_err().explain().contains("there is no town yet"));
    }

    #[test]
    fn a_whole_id_is_known_by_its_shape() {
        assert!(is_id("0b5e1f2a-1c2d-4e3f-8a9b-0c1d2e3f4a5b") && is_id("mayor-x"));
        assert!(!is_id("0b5e1f2a") && !is_id("Toast") && !is_id(""));
    }
}
