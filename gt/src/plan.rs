//! A plan: tasks and what each waits for, from flags, a text or JSON; checked before anything is sent, and drawn.
//!
//! The text, one task per line, its description indented below it:
//!
//! ```text
//! # comment
//! schema: Add the users table
//!   With an index on the address.
//! form: Build the form <- schema
//! test: Test both <- schema, form
//! ```

use crate::failure::Failure;
use serde_json::{Map, Value as Json, json};

/// A task of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// What other tasks call it.
    pub key: String,
    /// Its title.
    pub title: String,
    /// Its description.
    pub body: Option<String>,
    /// What it waits for: keys, until [`Plan::checked`] has looked them up.
    pub after: Vec<String>,
}

/// What a file may say beside its tasks; flags win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The convoy's title.
    pub title: Option<String>,
    /// `review-then-land` or `review-and-merge`.
    pub merge_mode: Option<String>,
    /// Whether it waits for its start.
    pub staged: Option<bool>,
    /// Whether tasks that wait for nothing are meant so.
    pub parallel: bool,
    /// The tasks.
    pub tasks: Vec<Task>,
}

fn wrong(what: impl Into<String>) -> Failure {
    Failure::usage(what, "Nothing was sent. gt batch --help shows how a plan looks.")
}

/// Reads a file: JSON if it begins like it, else the text form.
pub fn read(text: &str) -> Result<Plan, Failure> {
    if text.trim_start().starts_with(['{', '[']) { of_json(text) } else { of_text(text) }
}

/// A task as on one line: `key: Title <- key, key`. Without a key its number is its key.
pub fn task(line: &str, number: usize) -> Result<Task, Failure> {
    let (head, after) = line.rsplit_once("<-").map_or((line, ""), |(head, after)| (head, after));
    let is_key = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let (key, title) = match head.split_once(':') {
        Some((key, title)) if is_key(key.trim()) => (key.trim().to_owned(), title.trim()),
        _ => (number.to_string(), head.trim()),
    };
    if title.is_empty() {
        return Err(wrong(format!("'{}' has no title", line.trim())));
    }
    let after = after.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
    Ok(Task { key, title: title.to_owned(), body: None, after })
}

fn of_text(text: &str) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with([' ', '\t']) && !line.trim().is_empty() {
            let Some(task) = plan.tasks.last_mut() else {
                return Err(wrong(format!("line {}: a description without a task above it", index + 1)));
            };
            let body = task.body.get_or_insert_default();
            if !body.is_empty() {
                body.push('\n');
            }
            body.push_str(unindented(line));
        } else if line.trim().is_empty() {
            // Inside a description an empty line is one; between tasks it is nothing.
            if let Some(body) = plan.tasks.last_mut().and_then(|task| task.body.as_mut()) {
                body.push('\n');
            }
        } else if !line.starts_with('#') {
            let number = plan.tasks.len() + 1;
            plan.tasks.push(task(line, number).map_err(|error| wrong(format!("line {}: {error}", index + 1)))?);
        }
    }
    for task in &mut plan.tasks {
        task.body = task.body.take().map(|body| body.trim_end().to_owned());
    }
    Ok(plan)
}

/// Two spaces or a tab are the indent; more belongs to the description.
fn unindented(line: &str) -> &str {
    line.strip_prefix("  ").or_else(|| line.strip_prefix('\t')).unwrap_or_else(|| line.trim_start())
}

fn of_json(text: &str) -> Result<Plan, Failure> {
    let value: Json = serde_json::from_str(text).map_err(|error| wrong(format!("the plan is no JSON: {error}")))?;
    let (fields, tasks) = match &value {
        Json::Array(tasks) => (None, tasks),
        Json::Object(fields) => match fields.get("tasks") {
            Some(Json::Array(tasks)) => (Some(fields), tasks),
            _ => return Err(wrong("the plan has no list \"tasks\"")),
        },
        _ => return Err(wrong("the plan is neither an object nor a list of tasks")),
    };
    let word = |key: &str| fields.and_then(|f| f.get(key)).and_then(Json::as_str).map(str::to_owned);
    let flag = |key: &str| fields.and_then(|f| f.get(key)).and_then(Json::as_bool);
    Ok(Plan {
        title: word("title").or_else(|| word("convoy_title")),
        merge_mode: word("merge_mode"),
        staged: flag("staged"),
        parallel: flag("parallel").unwrap_or_default(),
        tasks: tasks.iter().enumerate().map(|(index, task)| json_task(task, index)).collect::<Result<_, _>>()?,
    })
}

fn json_task(value: &Json, index: usize) -> Result<Task, Failure> {
    if let Some(title) = value.as_str() {
        return task(title, index + 1);
    }
    let word = |key: &str| value.get(key).and_then(Json::as_str).filter(|w| !w.trim().is_empty()).map(str::to_owned);
    let title = word("title").ok_or_else(|| wrong(format!("task {} has no title", index + 1)))?;
    let mut after = Vec::new();
    for dependency in value.get("depends_on").and_then(Json::as_array).into_iter().flatten() {
        after.push(match dependency {
            Json::String(key) => key.clone(),
            // Numbers are the protocol's: places in the list, from 0. Our keys count from 1.
            Json::Number(n) if n.as_u64().is_some() => (n.as_u64().unwrap_or_default() + 1).to_string(),
            other => return Err(wrong(format!("task {} depends on {other}: give keys, or places from 0", index + 1))),
        });
    }
    let key = word("key").unwrap_or_else(|| (index + 1).to_string());
    Ok(Task { key, title, body: word("body"), after })
}

/// A node of a picture.
#[derive(Clone, Debug)]
pub struct Node {
    /// What names it.
    pub key: String,
    /// What is said about it.
    pub label: String,
    /// The places of those it waits for.
    pub after: Vec<usize>,
}

impl Plan {
    /// The tasks with their dependencies looked up, or the first thing that is wrong: a key that stands twice, one that
    /// nobody has, a circle with its path.
    pub fn checked(&self) -> Result<Vec<Node>, Failure> {
        if self.tasks.is_empty() {
            return Err(wrong("the plan has no tasks"));
        }
        let place = |key: &str| {
            // A number means a place even if the task there has a key of its own.
            let named = self.tasks.iter().position(|task| task.key == key);
            named.or_else(|| key.parse::<usize>().ok()?.checked_sub(1).filter(|place| *place < self.tasks.len()))
        };
        let mut nodes = Vec::new();
        for (index, task) in self.tasks.iter().enumerate() {
            if self.tasks.iter().take(index).any(|other| other.key == task.key) {
                return Err(wrong(format!("two tasks are called '{}'", task.key)));
            }
            let mut after = Vec::new();
            for key in &task.after {
                let place =
                    place(key).ok_or_else(|| wrong(format!("'{}' waits for '{key}', which is no task", task.key)))?;
                if !after.contains(&place) {
                    after.push(place);
                }
            }
            nodes.push(Node { key: task.key.clone(), label: task.title.clone(), after });
        }
        match circle(&nodes) {
            Some(path) => Err(wrong(format!("the tasks wait for each other in a circle: {}", path.join(" <- ")))),
            None => Ok(nodes),
        }
    }

    /// The tasks as the worker wants them.
    pub fn wire(&self, nodes: &[Node]) -> Json {
        let tasks = self.tasks.iter().zip(nodes).map(|(task, node)| {
            let mut fields = Map::new();
            fields.insert("title".to_owned(), json!(task.title));
            if let Some(body) = &task.body {
                fields.insert("body".to_owned(), json!(body));
            }
            if !node.after.is_empty() {
                fields.insert("depends_on".to_owned(), json!(node.after));
            }
            Json::Object(fields)
        });
        tasks.collect()
    }
}

/// The stage of each node: 0 waits for nothing, else one more than the latest it waits for. `None` in a circle.
fn stages(nodes: &[Node]) -> Vec<Option<usize>> {
    let mut stages: Vec<Option<usize>> = vec![None; nodes.len()];
    // Every round settles at least one node, or what is left is a circle or waits for one.
    for _ in nodes {
        for (index, node) in nodes.iter().enumerate() {
            let before: Option<Vec<usize>> =
                node.after.iter().map(|place| stages.get(*place).copied().flatten()).collect();
            let stage = before.map(|before| before.into_iter().max().map_or(0, |latest| latest + 1));
            if let Some(slot) = stages.get_mut(index) {
                *slot = stage;
            }
        }
    }
    stages
}

/// A circle, as keys, the first one again at the end.
fn circle(nodes: &[Node]) -> Option<Vec<String>> {
    let stages = stages(nodes);
    let unsettled = |place: &usize| stages.get(*place).copied().flatten().is_none();
    let mut path = vec![(0..nodes.len()).find(unsettled)?];
    loop {
        // Each unsettled node waits for an unsettled one, so this walk comes back to where it was.
        let next = nodes.get(*path.last()?)?.after.iter().copied().find(unsettled)?;
        if let Some(start) = path.iter().position(|seen| *seen == next) {
            path.push(next);
            return Some(path.into_iter().skip(start).filter_map(|p| Some(nodes.get(p)?.key.clone())).collect());
        }
        path.push(next);
    }
}

/// The nodes by stage, each with what it waits for. Those in a circle come last.
pub fn picture(nodes: &[Node]) -> String {
    let stages = stages(nodes);
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|place| stages.get(*place).copied().flatten().unwrap_or(usize::MAX));
    let width = nodes.iter().map(|node| node.key.chars().count()).max().unwrap_or_default();
    let lines = order.into_iter().filter_map(|place| {
        let node = nodes.get(place)?;
        let stage = stages.get(place).copied().flatten().unwrap_or_default();
        let after: Vec<&str> = node.after.iter().filter_map(|p| Some(nodes.get(*p)?.key.as_str())).collect();
        let waits = if after.is_empty() { String::new() } else { format!("  <- {}", after.join(", ")) };
        Some(format!("{}{:<width$}  {}{waits}", "  ".repeat(stage), node.key, node.label))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# The log-in\nschema: Add the users table\n  With an index.\n\n    indented\n\nform: Build: the form <- schema\n\
                        Write the docs\ntest: Test both <- schema, form, 3\n";

    #[test]
    fn a_text_is_read_with_keys_bodies_and_dependencies() {
        let plan = read(TEXT).unwrap();
        let titles: Vec<_> = plan.tasks.iter().map(|t| (t.key.as_str(), t.title.as_str())).collect();
        let expected = [
            ("schema", "Add the users table"),
            ("form", "Build: the form"),
            ("3", "Write the docs"),
            ("test", "Test both"),
        ];
        assert_eq!(titles, expected);
        assert_eq!(plan.tasks[0].body.as_deref(), Some("With an index.\n\n  indented"));
        let nodes = plan.checked().unwrap();
        assert_eq!(
            plan.wire(&nodes),
            json!([
                {"title": "Add the users table", "body": "With an index.\n\n  indented"},
                {"title": "Build: the form", "depends_on": [0]},
                {"title": "Write the docs"},
                {"title": "Test both", "depends_on": [0, 1, 2]},
            ])
        );
    }

    #[test]
    fn json_counts_places_from_zero_or_names_keys() {
        let text = r#"{"title": "T", "merge_mode": "review-and-merge", "staged": true, "tasks":
            [{"title": "a"}, {"title": "b", "depends_on": [0]}, {"key": "z", "title": "c", "depends_on": ["2"]}, "d <- z"]}"#;
        let plan = read(text).unwrap();
        assert_eq!((plan.title.as_deref(), plan.staged), (Some("T"), Some(true)));
        let after: Vec<_> = plan.checked().unwrap().into_iter().map(|node| node.after).collect();
        assert_eq!(after, [vec![], vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn a_circle_is_refused_with_its_path() {
        let circle = |text: &str| read(text).unwrap().checked().unwrap_err().to_string();
        assert!(circle("x: X\na: A <- x, c\nb: B <- a\nc: C <- b").ends_with("circle: a <- c <- b <- a"));
        assert!(circle("a: A <- a").ends_with("circle: a <- a"));
        assert!(
            circle("s: S <- a\na: A <- b\nb: B <- a").ends_with("circle: a <- b <- a"),
            "the circle, not the way to it"
        );
    }

    #[test]
    fn what_is_unknown_doubled_or_empty_is_refused() {
        let error = |text: &str| read(text).and_then(|plan| plan.checked()).unwrap_err().to_string();
        assert_eq!(error("a: A <- b"), "'a' waits for 'b', which is no task");
        assert_eq!(error("a: A\na: B"), "two tasks are called 'a'");
        assert_eq!(error("a: A\nb: <- a"), "line 2: 'b: <- a' has no title");
        assert_eq!(error("# nothing"), "the plan has no tasks");
        assert_eq!(error("  body"), "line 1: a description without a task above it");
        assert_eq!(error(r#"{"tasks": [{"title": "a", "depends_on": [7]}]}"#), "'1' waits for '8', which is no task");
        assert!(error("{").starts_with("the plan is no JSON"));
    }

    #[test]
    fn a_picture_puts_each_task_below_what_it_waits_for() {
        let nodes = read("test: T <- form\nform: F <- schema\nschema: S").unwrap().checked().unwrap();
        assert_eq!(picture(&nodes), "schema  S\n  form    F  <- schema\n    test    T  <- form");
    }
}
