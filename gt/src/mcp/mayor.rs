//! The mayor's tools, which a person who logged in gets as well.

use super::{
    field::{
        Field,
        Kind::{Clearable, Count, Flag, Object, Tasks, Text, Texts, Word},
        Tool, needs, takes,
    },
    rig::NUDGE,
};
use crate::{
    agents, batch, bead,
    client::{Call, segment},
    convoy, escalation,
    failure::Failure,
    resolve,
};
use serde_json::{Value as Json, json};

const PRIORITIES: &[&str] = &["low", "medium", "high", "critical"];
const STATUSES: &[&str] = &["open", "in_progress", "in_review", "closed", "failed"];
const TYPES: &[&str] = &["issue", "escalation", "merge_request", "convoy", "molecule"];
const MERGE_MODES: &[&str] = &["review-then-land", "review-and-merge"];

const RIG: Field = needs("rig_id", Text, "The rig: its id, or its name.");
const BEAD: Field = needs("bead_id", Text, "The bead's id.");
const CONVOY: Field = needs("convoy_id", Text, "The convoy's id.");

/// With the rig's id in place of its name.
fn in_rig(mut body: Json, rig: &str) -> Json {
    if let Some(fields) = body.as_object_mut() {
        fields.insert("rig_id".to_owned(), json!(rig));
    }
    body
}

/// All of them.
pub const TOOLS: &[Tool] = &[
    Tool {
        name: "gt_sling",
        about: "Hand one piece of work to an agent of a rig. It starts by itself as soon as dispatch allows.",
        fields: &[
            RIG,
            needs("title", Text, "What is to be done, in one line."),
            takes("body", Text, "The whole description: the agent that does it sees nothing else."),
            takes("priority", Word(PRIORITIES), "medium if left away."),
            takes("labels", Texts, "Labels; gt:held keeps it from starting."),
            takes("depends_on", Texts, "Ids of beads that must be closed first."),
            takes("metadata", Object, "Anything that travels with the bead."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let rig = args.rig(caller)?;
            caller.call(&Call::post(caller.mayor_path("sling")?, in_rig(args.body(&[]), &rig)))
        },
    },
    Tool {
        name: "gt_sling_batch",
        about: "Hand out several pieces of work as a convoy. Say what depends on what, or parallel if nothing does. Whether it \
                starts at once stands in the answer's convoy.staged: a staged one waits for gt_convoy_start.",
        fields: &[
            RIG,
            needs("convoy_title", Text, "What the convoy is for, in one line."),
            needs("tasks", Tasks, "The tasks, at most 50."),
            takes(
                "merge_mode",
                Word(MERGE_MODES),
                "review-then-land: all on a branch of their own that lands at the end; review-and-merge: each by itself. The \
                 town's if left away.",
            ),
            takes("parallel", Flag, "True if no task waits for another, and that is meant so."),
            takes("staged", Flag, "True: it waits for gt_convoy_start. The town's habit if left away."),
            takes("metadata", Object, "Anything that travels with the convoy."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let rig = args.rig(caller)?;
            batch::sling_batch(caller, in_rig(args.body(&[]), &rig))
        },
    },
    Tool {
        name: "gt_list_rigs",
        about: "List the town's rigs: their ids, names and repositories.",
        fields: &[],
        reads: true,
        destroys: false,
        run: |caller, _| caller.rigs(),
    },
    Tool {
        name: "gt_list_beads",
        about: "List a rig's beads, newest first.",
        fields: &[
            RIG,
            takes("status", Word(STATUSES), "Only these."),
            takes("type", Word(TYPES), "Only these."),
            takes("assignee_agent_id", Text, "Only an agent's: its id."),
            takes("limit", Count, "How many; 100 if left away."),
            takes("offset", Count, "How many to pass over."),
        ],
        reads: true,
        destroys: false,
        run: |caller, args| {
            let filter = bead::Filter {
                status: args.optional("status"),
                kind: args.optional("type"),
                assignee: args.optional("assignee_agent_id"),
                limit: args.count("limit"),
                offset: args.count("offset"),
            };
            bead::list(caller, &args.rig(caller)?, &filter)
        },
    },
    Tool {
        name: "gt_list_agents",
        about: "List a rig's agents: what each is doing, and on which bead.",
        fields: &[RIG],
        reads: true,
        destroys: false,
        run: |caller, args| agents::list(caller, &args.rig(caller)?),
    },
    Tool {
        name: "gt_list_convoys",
        about: "List the convoys that are under way, with their progress.",
        fields: &[],
        reads: true,
        destroys: false,
        run: |caller, _| convoy::list(caller),
    },
    Tool {
        name: "gt_convoy_status",
        about: "Read a convoy: its beads, their states and dependencies.",
        fields: &[CONVOY],
        reads: true,
        destroys: false,
        run: |caller, args| convoy::show(caller, args.text("convoy_id")),
    },
    Tool {
        name: "gt_convoy_start",
        about: "Start a staged convoy.",
        fields: &[CONVOY],
        reads: false,
        destroys: false,
        run: |caller, args| convoy::start(caller, args.text("convoy_id")),
    },
    Tool {
        name: "gt_convoy_close",
        about: "Close a convoy by hand, finished or not.",
        fields: &[CONVOY],
        reads: false,
        destroys: true,
        run: |caller, args| convoy::close(caller, args.text("convoy_id")),
    },
    Tool {
        name: "gt_convoy_update",
        about: "Change how a convoy merges. Give at least one of the two.",
        fields: &[
            CONVOY,
            takes("merge_mode", Word(MERGE_MODES), "As in gt_sling_batch."),
            takes("feature_branch", Text, "The branch that its beads merge into."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| convoy::update(caller, args.text("convoy_id"), args.body(&["convoy_id"])),
    },
    Tool {
        name: "gt_mail_send",
        about: "Write to an agent of a rig. It is read when its recipient next looks.",
        fields: &[
            RIG,
            needs("to_agent_id", Text, "The agent's id, or its name."),
            needs("subject", Text, "What it is about, in one line."),
            needs("body", Text, "The text."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let to = resolve::agent(caller, args.text("to_agent_id"))?;
            let mail = json!({
                "rig_id": args.rig(caller)?,
                "to_agent_id": to,
                "subject": args.text("subject"),
                "body": args.text("body"),
                "from_agent_id": caller.name(),
            });
            caller.call(&Call::post(caller.mayor_path("mail")?, mail))
        },
    },
    Tool {
        name: "gt_bead_update",
        about: "Change a bead. Give what is to change, and only that.",
        fields: &[
            RIG,
            BEAD,
            takes("title", Text, "What is to be done, in one line."),
            takes("body", Clearable, "The description; null clears it."),
            takes("priority", Word(PRIORITIES), "How urgent it is."),
            takes("labels", Texts, "All its labels: they replace those it has."),
            takes("status", Word(STATUSES), "Its status; only open, closed and failed can be set by hand."),
            takes("metadata", Object, "All its metadata: it replaces what it has."),
            takes("new_rig_id", Clearable, "Another rig for it, by id; null takes it out of its rig."),
            takes("parent_bead_id", Clearable, "Its parent; null takes it away."),
            takes("depends_on", Texts, "Ids of all beads that must be closed first: they replace those it has."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let mut patch = args.body(&["rig_id", "bead_id", "new_rig_id"]);
            if let (Some(fields), Some(rig)) = (patch.as_object_mut(), args.0.get("new_rig_id")) {
                fields.insert("rig_id".to_owned(), rig.clone());
            }
            let path = format!("rigs/{}/beads/{}", segment(&args.rig(caller)?), segment(args.text("bead_id")));
            caller.call(&Call::patch(caller.mayor_path(&path)?, patch))
        },
    },
    Tool {
        name: "gt_bead_reassign",
        about: "Give a bead to another agent, which must be idle.",
        fields: &[RIG, BEAD, needs("agent_id", Text, "The agent: its id, or its name.")],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let agent = resolve::agent(caller, args.text("agent_id"))?;
            let path = format!("rigs/{}/beads/{}/reassign", segment(&args.rig(caller)?), segment(args.text("bead_id")));
            caller.call(&Call::post(caller.mayor_path(&path)?, json!({ "agent_id": agent })))
        },
    },
    Tool {
        name: "gt_bead_delete",
        about: "Delete beads for good: one by bead_id, or many with all that belongs to them by bead_ids.",
        fields: &[RIG, takes("bead_id", Text, "One bead."), takes("bead_ids", Texts, "Many beads, at most 5000.")],
        reads: false,
        destroys: true,
        run: |caller, args| {
            let base = format!("rigs/{}/beads", segment(&args.rig(caller)?));
            match (args.0.get("bead_ids"), args.text("bead_id")) {
                (Some(ids), "") => {
                    let path = caller.mayor_path(&format!("{base}/bulk-delete"))?;
                    caller.call(&Call::post(path, json!({ "bead_ids": ids })))
                }
                (None, id) if !id.is_empty() => {
                    caller.call(&Call::delete(caller.mayor_path(&format!("{base}/{}", segment(id)))?))
                }
                _ => Err(Failure::usage(
                    "gt_bead_delete: give bead_id or bead_ids, and not both",
                    "Nothing was sent. Correct it, and call again.",
                )),
            }
        },
    },
    Tool {
        name: "gt_agent_reset",
        about: "Stop an agent and put it back to idle; its bead is queued again.",
        fields: &[RIG, needs("agent_id", Text, "The agent: its id, or its name.")],
        reads: false,
        destroys: true,
        run: |caller, args| {
            let agent = resolve::agent(caller, args.text("agent_id"))?;
            agents::reset(caller, &args.rig(caller)?, &agent)
        },
    },
    Tool {
        name: "gt_escalation_acknowledge",
        about: "Say that you take care of an escalation: it is raised no more, and closed.",
        fields: &[needs("escalation_id", Text, "The escalation's id.")],
        reads: false,
        destroys: false,
        run: |caller, args| escalation::acknowledge(caller, args.text("escalation_id")),
    },
    Tool {
        name: "gt_ui_action",
        about: "Show something in the dashboard of the people who watch. The action is an object with a type: open_bead_drawer \
                {beadId, rigId}, open_convoy_drawer {convoyId}, open_agent_drawer {agentId, rigId}, navigate {page: \
                town-overview, beads, agents, rigs or settings}, highlight_bead {beadId, rigId}.",
        fields: &[needs("action", Object, "The action, for example {\"type\": \"navigate\", \"page\": \"beads\"}.")],
        reads: false,
        destroys: false,
        run: |caller, args| caller.call(&Call::post(caller.mayor_path("ui-action")?, args.body(&[])).safe()),
    },
    NUDGE,
];
