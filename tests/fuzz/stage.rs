//! A town with one of everything that a path or a body can name.

use gastown::edge::route::{Kind, Matched};
use gastown::town::command::{Actor, Batch, Command, NewBead, Task};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::MINUTE;
use gastown_host::behaviour::Behaviour;
use gastown_host::owner;
use gastown_host::world::World;
use serde_json::{Value as Json, json};

/// The town and the names of what is in it.
pub struct Stage {
    pub world: World,
    /// The rows as they were after the last refusal: dumping them is what costs most.
    pub rows: Option<String>,
    right: Json,
    names: Vec<(&'static str, String)>,
}

impl Stage {
    /// A town as this plan of `requests.json` wants it.
    pub fn new(plan: &Json) -> Self {
        let (mut world, rig) = World::founded(1);
        world.container.behave(|started| {
            let reviewed = started.request.role == "polecat" && started.request.prompt.contains("To be reviewed");
            if reviewed { Behaviour::done(1_000) } else { Behaviour::hangs() }
        });
        // A bead in review whose merge request a refinery is at work on, and one that a polecat is at work on.
        world.sling(&rig, "To be reviewed");
        let bead = world.sling(&rig, "At work");
        world.run_for(5 * MINUTE);
        let failed = world.sling(&rig, "Failed");
        world.must(Command::CancelBead { bead_id: failed.clone(), reason: "not wanted".to_owned() });
        let held = make(&mut world, &rig, "Held", "gt:held");
        let request = make(&mut world, &rig, "Stuck", "gt:triage-request");
        let formula =
            json!({"steps": [{"title": "One", "instructions": "Do it."}, {"title": "Two", "instructions": "Do it."}]});
        world.must(Command::AttachMolecule { rig_id: rig.clone(), bead_id: bead.clone(), formula });
        let convoy = world.must(staged_convoy(&rig));
        let task = text(&convoy["beads"][0]["bead"], "bead_id");
        let escalation = Command::Escalate {
            rig_id: rig.clone(),
            title: "Help".to_owned(),
            body: None,
            priority: Some("low".to_owned()),
            metadata: None,
        };
        let escalation = text(&world.must(escalation), "id");
        let idle = Command::CreateAgent {
            rig_id: rig.clone(),
            role: "polecat".to_owned(),
            name: "Idle".to_owned(),
            identity: "idle@here".to_owned(),
        };
        let idle = text(&world.must(idle), "id");
        let column = |world: &World, sql: &str| {
            let rows = world.sql.peek(sql, &[]);
            rows.first().unwrap_or_else(|| panic!("{sql}\n{}", world.journal())).text(0).unwrap().clone()
        };
        let working =
            format!("SELECT agent_id FROM attempts WHERE bead_id = '{bead}' AND outcome IN ('accepted', 'proven')");
        let dispatch = format!("SELECT attempt_id FROM attempts WHERE bead_id = '{bead}'");
        let agent = match plan["agent"].as_str() {
            Some("idle") => idle,
            _ => column(&world, &working),
        };
        let entry = column(&world, "SELECT bead_id FROM beads WHERE type = 'merge_request' AND status = 'in_progress'");
        let dispatch = column(&world, &dispatch);
        let chosen = match plan["bead"].as_str() {
            Some("failed") => failed,
            Some("held") => held.clone(),
            _ => bead,
        };
        let names = vec![
            ("town", world.town_id.clone()),
            ("user", "owner".to_owned()),
            ("rig", rig.0),
            ("bead", chosen.0),
            ("held", held.0),
            ("request", request.0),
            ("agent", agent),
            ("entry", entry),
            ("escalation", escalation),
            ("convoy", text(&convoy["convoy"], "id")),
            ("task", task),
            ("scope", "town".to_owned()),
            ("pty", "p1".to_owned()),
            ("dispatch", dispatch),
            ("pty", "pty-1".to_owned()),
        ];
        Self { world, rows: None, right: plan.get("body").cloned().unwrap_or(Json::Null), names }
    }

    pub fn name(&self, of: &str) -> &str {
        self.names.iter().find(|(n, _)| *n == of).map_or_else(|| panic!("no {of} on the stage"), |(_, id)| id)
    }

    /// The path of a pattern, its last parameter replaced if there is a segment for it.
    pub fn path(&self, pattern: &str, segment: Option<&str>) -> String {
        let last = pattern.split('/').rfind(|s| s.starts_with(':'));
        let part = |part: &str| match part.strip_prefix(':') {
            None => part.to_owned(),
            Some(_) if segment.is_some() && Some(part) == last => segment.unwrap_or_default().to_owned(),
            Some(name) => self.name(name).to_owned(),
        };
        pattern.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    pub fn right_body(&self) -> Vec<u8> {
        if self.right.is_null() { Vec::new() } else { self.right.to_string().into_bytes() }
    }

    /// `body` with `"$bead"` and the like replaced by what they stand for.
    pub fn fill(&self, body: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(body) else { return body.to_vec() };
        let fill =
            |text: String, (name, id): &(&str, String)| text.replace(&format!("\"${name}\""), &format!("\"{id}\""));
        if text.contains("\"$") { self.names.iter().fold(text.to_owned(), fill).into_bytes() } else { body.to_vec() }
    }
}

/// Whoever may come in there: an agent or the container where they may, else the owner.
pub fn actor(stage: &Stage, matched: &Matched) -> Actor {
    match matched.kind {
        Kind::Public | Kind::Internal => Actor::System,
        Kind::User | Kind::Town | Kind::Socket | Kind::TownOrContainer | Kind::Rig | Kind::Mayor => owner(),
        Kind::Container | Kind::Refresh => Actor::Container { agent_id: None, dispatch_id: None },
        Kind::Agent => {
            let agent = matched.param("agent");
            let dispatch_id = (agent == stage.name("agent")).then(|| stage.name("dispatch").to_owned());
            Actor::Container { agent_id: Some(AgentId::from(agent)), dispatch_id }
        }
    }
}

fn make(world: &mut World, rig: &RigId, title: &str, label: &str) -> BeadId {
    let bead = NewBead { title: title.to_owned(), labels: vec![label.to_owned()], ..NewBead::default() };
    let made = world.must(Command::CreateBead { rig_id: rig.clone(), bead });
    text(&made, "bead_id").into()
}

fn staged_convoy(rig: &RigId) -> Command {
    let task = || Task { bead: NewBead { title: "Task".to_owned(), ..NewBead::default() }, depends_on: Vec::new() };
    let (title, tasks) = ("Convoy".to_owned(), vec![task(), task()]);
    let batch = Batch { title, tasks, staged: Some(true), ..Batch::default() };
    Command::SlingBatch { rig_id: rig.clone(), batch }
}

fn text(data: &Json, key: &str) -> String {
    let found = data.get(key).or_else(|| data.get("bead_id")).or_else(|| data.get("id")).and_then(Json::as_str);
    found.unwrap_or_else(|| panic!("no {key}: {data} ({})", json!(key))).to_owned()
}
