//! The tools of a rig's agents: polecats, refineries, triage agents.

use super::field::{
    Kind::{Any, Flag, Object, Text, Texts, Word},
    Tool, needs, takes,
};
use crate::{bead, escalation, mail, molecule, nudge, own, resolve, review, triage};
use serde_json::Value as Json;

const PRIORITIES: &[&str] = &["low", "medium", "high", "critical"];
const MODES: &[&str] = &["wait-idle", "immediate", "queue"];
const ACTIONS: &[&str] = &[
    "RESTART",
    "RESTART_WITH_BACKOFF",
    "CLOSE_BEAD",
    "ESCALATE_TO_MAYOR",
    "NUDGE",
    "REASSIGN_BEAD",
    "DISCARD",
    "PROVIDE_GUIDANCE",
];

/// Nudging is the mayor's tool, too.
pub const NUDGE: Tool = Tool {
    name: "gt_nudge",
    about: "Tell something to an agent that is at work, now. For what can wait, send mail instead.",
    fields: &[
        needs("target_agent_id", Text, "The agent: its id, its name, or \"mayor\"."),
        needs("message", Text, "What to tell it."),
        takes("mode", Word(MODES), "When it reads it: at its next pause (wait-idle, the default), at once, or queued."),
    ],
    reads: false,
    destroys: false,
    run: |caller, args| {
        let target = resolve::agent_id(caller, args.text("target_agent_id"))?;
        let mut body = args.body(&[]);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("target_agent_id".to_owned(), Json::String(target));
        }
        nudge::nudge(caller, body)
    },
};

/// All of them.
pub const TOOLS: &[Tool] = &[
    Tool {
        name: "gt_prime",
        about: "Read who you are, the bead you work on, your new mail and the rig's open beads. Call it first, and again \
                whenever you have lost the thread. Mail in it counts as delivered.",
        fields: &[],
        reads: true,
        destroys: false,
        run: |caller, _| own::prime(caller),
    },
    Tool {
        name: "gt_done",
        about: "Hand in your finished work. Commit and push your branch first. A polecat's work goes into review, a \
                refinery's done says that it is merged. Your session is over after this: do nothing more.",
        fields: &[
            takes("branch", Text, "The branch you pushed. Left away: the one checked out in the working directory."),
            takes("no_changes", Flag, "True if there is nothing to merge: the bead is closed without a review."),
            takes("pr_url", Text, "The pull request, if you opened one."),
            takes("summary", Text, "What you did and how you checked it, for the reviewer."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| own::done(caller, args.body(&[])),
    },
    Tool {
        name: "gt_request_changes",
        about: "For refineries: send the work under review back. A rework bead is made of your feedback, and the review comes \
                again when that is done. Your session is over after this.",
        fields: &[
            needs("feedback", Text, "What has to change, and why; precise enough to act on without you."),
            takes("files", Texts, "The files that it is about."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| review::request_changes(caller, args.body(&[])),
    },
    Tool {
        name: "gt_checkpoint",
        about: "Remember where you are, so that a later session of yours can go on from there: gt_prime shows it. Overwrites \
                what was remembered before.",
        fields: &[needs("data", Any, "Any JSON value; null forgets.")],
        reads: false,
        destroys: false,
        run: |caller, args| own::checkpoint(caller, args.0.get("data").unwrap_or(&Json::Null)),
    },
    Tool {
        name: "gt_status",
        about: "Say in one sentence what you are doing; people watching the town see it.",
        fields: &[needs("message", Text, "At most 280 characters.")],
        reads: false,
        destroys: false,
        run: |caller, args| own::status(caller, args.text("message")),
    },
    Tool {
        name: "gt_mail_check",
        about: "Read your new mail. What is read does not come again.",
        fields: &[],
        reads: true,
        destroys: false,
        run: |caller, _| mail::check(caller),
    },
    Tool {
        name: "gt_mail_send",
        about: "Write to another agent of the town, or to the mayor. It is read when its recipient next looks.",
        fields: &[
            needs("to_agent_id", Text, "The agent's id or name, or \"mayor\"."),
            needs("subject", Text, "What it is about, in one line."),
            needs("body", Text, "The text."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let to = resolve::agent(caller, args.text("to_agent_id"))?;
            mail::send(caller, &to, args.text("subject"), args.text("body"))
        },
    },
    Tool {
        name: "gt_bead_status",
        about: "Read a bead of your rig: its status, text, labels, assignee.",
        fields: &[needs("bead_id", Text, "The bead's id, or the beginning of it.")],
        reads: true,
        destroys: false,
        run: |caller, args| {
            let id = resolve::bead(caller, args.text("bead_id"))?;
            bead::show(caller, &caller.rig()?, &id)
        },
    },
    Tool {
        name: "gt_bead_close",
        about: "Close a bead without merging anything. For your own finished work use gt_done.",
        fields: &[needs("bead_id", Text, "The bead's id, or the beginning of it.")],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let id = resolve::bead(caller, args.text("bead_id"))?;
            bead::close(caller, &caller.rig()?, &id)
        },
    },
    Tool {
        name: "gt_escalate",
        about: "Ask for help when you cannot go on: a missing right, a question only a person can answer, a broken \
                environment. The mayor and people see it.",
        fields: &[
            needs("title", Text, "What you need, in one line."),
            takes("body", Text, "What you tried, and what happened."),
            takes("priority", Word(PRIORITIES), "How bad it is; medium if left away."),
            takes("metadata", Object, "Anything that helps, as an object."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| escalation::escalate(caller, args.body(&[])),
    },
    NUDGE,
    Tool {
        name: "gt_triage_resolve",
        about: "For triage agents: decide what happens with a triage request. RESTART stops the agent and queues its bead \
                again; RESTART_WITH_BACKOFF the same after a pause; REASSIGN_BEAD gives it to another agent; CLOSE_BEAD cancels \
                the bead; ESCALATE_TO_MAYOR asks the mayor; NUDGE reminds the agent; DISCARD and PROVIDE_GUIDANCE only close \
                the request.",
        fields: &[
            needs("triage_request_bead_id", Text, "The request's bead."),
            needs("action", Word(ACTIONS), "What to do."),
            takes("resolution_notes", Text, "Why; for NUDGE, what the agent is told."),
        ],
        reads: false,
        destroys: false,
        run: |caller, args| {
            let request = resolve::bead(caller, args.text("triage_request_bead_id"))?;
            triage::resolve_request(caller, &request, args.text("action"), args.text("resolution_notes"))
        },
    },
    Tool {
        name: "gt_mol_current",
        about: "Read the step you are at, if your bead has a molecule (a list of ordered steps).",
        fields: &[],
        reads: true,
        destroys: false,
        run: |caller, _| molecule::current(caller),
    },
    Tool {
        name: "gt_mol_advance",
        about: "Close the step you are at and go on to the next.",
        fields: &[needs("summary", Text, "What was done in this step, at most 5000 characters.")],
        reads: false,
        destroys: false,
        run: |caller, args| molecule::advance(caller, args.text("summary")),
    },
];
