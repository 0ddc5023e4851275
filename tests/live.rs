//! Live delivery: mail and nudges reach an agent while it lives, each once, and never start a container.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

mod support_host;

use gastown::town::command::Command;
use gastown::town::id::{AgentId, RigId};
use gastown::town::policy::{MESSAGE_BACKOFF_MAX, MESSAGE_BYTES, MESSAGE_TIMEOUT, MESSAGES_AT_ONCE, NUDGE_TTL};
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::json;
use support_host::{attempts, error, polecats, refused, sling_many, text, voice};

/// A town with a polecat at work.
fn at_work(seed: u64) -> (World, RigId, AgentId) {
    let (mut w, rig) = World::founded(seed);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "work");
    w.run_for(SECOND);
    let agent = text(&w.attempts(&bead)[0], "agent_id").into();
    (w, rig, agent)
}

fn write(w: &mut World, to: &AgentId, subject: &str) {
    w.must(Command::SendMail {
        from_agent_id: "maple".to_owned(),
        to_agent_id: to.0.clone(),
        subject: subject.to_owned(),
        body: format!("body of {subject}"),
    });
}

fn nudge(w: &mut World, to: &AgentId, message: &str, mode: &str) -> String {
    let mode = Some(mode.to_owned());
    let data = w.must(Command::Nudge { target: to.clone(), message: message.to_owned(), mode });
    text(&data, "nudge_id").to_owned()
}

fn pending(w: &mut World, agent: &AgentId) -> Vec<String> {
    let list = w.must(Command::PendingNudges { agent_id: agent.clone() });
    list.as_array().unwrap().iter().map(|n| text(n, "message").to_owned()).collect()
}

/// How often a process was really told something with these words.
fn told(w: &World, words: &str) -> usize {
    w.container.told().iter().filter(|t| t.prompt.contains(words)).count()
}

fn undelivered(w: &World) -> i64 {
    w.sql.peek("SELECT count(*) FROM mail WHERE delivered_at IS NULL", &[])[0].int(0).unwrap()
}

#[test]
fn mail_for_an_agent_at_work_arrives_at_once_as_one_prompt() {
    let (mut w, _, toast) = at_work(1);
    for n in 1..=3 {
        write(&mut w, &toast, &format!("letter-{n}"));
    }
    w.run_for(SECOND);
    let prompt = w.container.told().last().unwrap().prompt.clone();
    let wanted =
        "You have new mail: 3.\n\n[MAIL from maple] letter-1\nbody of letter-1\n\n---\n\n[MAIL from maple] letter-2";
    assert!(prompt.starts_with(wanted), "{prompt}");
    assert_eq!((undelivered(&w), told(&w, "letter-3"), w.container.told().len()), (0, 1, 1));
}

#[test]
fn mail_that_comes_while_a_message_is_in_the_air_goes_with_the_next_and_only_what_was_sent_is_delivered() {
    let (mut w, _, toast) = at_work(2);
    w.container.latency = SECOND;
    write(&mut w, &toast, "letter-1");
    w.run_for(SECOND / 2);
    write(&mut w, &toast, "letter-2");
    let me = voice(toast.as_str(), None);
    let read = w.command(&me, Command::ReadMail { agent_id: toast.clone() }).unwrap().data;
    assert_eq!(read.as_array().unwrap().len(), 1, "what is in the air is not handed out twice: {read}");
    assert_eq!(read[0]["subject"], "letter-2");
    write(&mut w, &toast, "letter-3");
    w.run_for(MINUTE);
    assert_eq!((told(&w, "letter-1"), told(&w, "letter-2"), told(&w, "letter-3"), undelivered(&w)), (1, 0, 1, 0));
}

#[test]
fn a_message_that_is_refused_stays_pending_and_is_sent_ever_more_slowly() {
    let (mut w, _, toast) = at_work(3);
    w.container.faults.set(Endpoint::Message, Fault::answer(500, error("Agent is not running (status: starting)")));
    write(&mut w, &toast, "letter");
    w.run_for(5 * SECOND);
    let tries = |w: &World| w.container.calls.get(&Endpoint::Message).copied().unwrap_or_default();
    assert_eq!((tries(&w), undelivered(&w)), (1, 1));
    w.run_for(6 * HOUR);
    let (before, hour) = (tries(&w), u64::try_from(HOUR / MESSAGE_BACKOFF_MAX).unwrap());
    w.run_for(HOUR);
    assert!((1..=hour).contains(&(tries(&w) - before)), "{}", tries(&w) - before);
    w.container.faults.clear_all();
    w.run_for(MESSAGE_BACKOFF_MAX + MINUTE);
    assert_eq!((told(&w, "letter"), undelivered(&w)), (1, 0));
}

#[test]
fn a_message_answered_by_something_else_than_the_container_was_not_delivered() {
    let (mut w, _, toast) = at_work(3);
    w.container.faults.once(Endpoint::Message, Fault::answer(200, "<html>a proxy is well</html>"));
    write(&mut w, &toast, "letter");
    w.run_for(SECOND);
    assert_eq!((told(&w, "letter"), undelivered(&w)), (0, 1));
    w.run_for(MINUTE);
    assert_eq!((told(&w, "letter"), undelivered(&w)), (1, 0));
}

#[test]
fn a_message_whose_answer_was_lost_is_sent_again() {
    let (mut w, _, toast) = at_work(4);
    w.container.faults.once(Endpoint::Message, Fault::DropAfter);
    write(&mut w, &toast, "letter");
    w.run_for(MINUTE);
    assert_eq!((told(&w, "letter"), undelivered(&w)), (2, 0), "rather twice than never");
}

#[test]
fn a_message_that_was_answered_is_not_sent_again_after_a_crash() {
    let (mut w, _, toast) = at_work(5);
    write(&mut w, &toast, "letter");
    w.run_for(SECOND);
    w.crash();
    w.run_for(HOUR);
    assert_eq!(told(&w, "letter"), 1);
}

#[test]
fn a_crash_between_booking_and_call_loses_no_message() {
    let (mut w, _, toast) = at_work(6);
    write(&mut w, &toast, "letter");
    while w.in_the_air() == 0 {
        assert!(w.step(w.now().plus(MINUTE)));
    }
    w.crash_losing_requests();
    w.run_for(MINUTE);
    assert_eq!((told(&w, "letter"), undelivered(&w)), (1, 0));
}

#[test]
fn mail_for_an_agent_that_does_not_live_starts_nothing_and_waits_without_an_alarm() {
    let (mut w, rig, toast) = at_work(7);
    let bead: gastown::town::id::BeadId = text(&attempts(&w)[0], "bead_id").into();
    w.must(Command::CancelBead { bead_id: bead, reason: "enough".to_owned() });
    w.run_for(MINUTE);
    let starts = w.starts().len();
    write(&mut w, &toast, "letter");
    nudge(&mut w, &toast, "look up", "immediate");
    w.run_for(HOUR);
    assert_eq!((w.starts().len(), told(&w, "letter"), w.alarm()), (starts, 0, None));
    w.sling(&rig, "next");
    w.run_for(MINUTE);
    assert_eq!((told(&w, "letter"), told(&w, "look up")), (1, 1), "it is told as soon as it lives");
}

#[test]
fn nothing_is_sent_for_an_agent_that_died_with_mail_waiting() {
    let (mut w, _, toast) = at_work(8);
    w.container.faults.set(Endpoint::Message, Fault::answer(500, error("no")));
    write(&mut w, &toast, "letter");
    w.run_for(SECOND);
    w.must(Command::Unhook { rig_id: RigId::default(), agent_id: toast.clone() });
    w.must(Command::ContainerEviction);
    let row = w.sql.peek("SELECT due_at FROM lines WHERE agent_id = ?1", &[(&toast).into()]);
    assert_eq!(row[0].opt_int(0).unwrap(), None);
}

#[test]
fn one_message_holds_what_fits_and_the_rest_follows() {
    let (mut w, _, toast) = at_work(9);
    for n in 1..=7 {
        let body = format!("{n}{}", "x".repeat(MESSAGE_BYTES - 1));
        let (from_agent_id, subject) = ("maple".to_owned(), format!("letter-{n}"));
        w.must(Command::SendMail { from_agent_id, to_agent_id: toast.0.clone(), subject, body });
    }
    w.run_for(MINUTE);
    assert_eq!(undelivered(&w), 0);
    assert!((1..=7).all(|n| told(&w, &format!("letter-{n}")) == 1) && w.container.told().len() == 3);
}

#[test]
fn many_messages_at_once_take_turns_and_no_alarm_spins() {
    let (mut w, rig) = World::founded(10);
    polecats(&mut w, Behaviour::hangs());
    w.patch_config(json!({"dispatch": {"max_polecats_per_rig": 15}}));
    sling_many(&mut w, &rig, 15);
    w.run_for(10 * MINUTE);
    let agents: Vec<String> = attempts(&w).iter().map(|a| text(a, "agent_id").to_owned()).collect();
    assert_eq!(agents.len(), 15);
    w.container.faults.set(Endpoint::Message, Fault::HangBefore);
    for agent in &agents {
        write(&mut w, &agent.as_str().into(), &format!("to-{agent}"));
    }
    let ticks = w.counts.ticks;
    w.run_for(MESSAGE_TIMEOUT);
    assert!(w.counts.ticks - ticks < 20, "{}", w.counts.ticks - ticks);
    assert!(w.counts.most_calls <= MESSAGES_AT_ONCE as usize);
    w.container.faults.clear_all();
    w.run_for(HOUR);
    assert_eq!(undelivered(&w), 0);
}

// ── nudges ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_immediate_nudge_is_sent_at_once_and_is_not_pending_any_more() {
    let (mut w, _, toast) = at_work(11);
    nudge(&mut w, &toast, "look up", "immediate");
    w.run_for(SECOND);
    assert_eq!((told(&w, "look up"), pending(&mut w, &toast).len()), (1, 0));
}

#[test]
fn other_nudges_are_fetched_by_the_container_and_marked_by_it() {
    let (mut w, _, toast) = at_work(12);
    let first = nudge(&mut w, &toast, "one", "wait-idle");
    nudge(&mut w, &toast, "two", "queue");
    w.run_for(MINUTE);
    assert_eq!(w.container.told().len(), 0);
    assert_eq!(pending(&mut w, &toast), ["one", "two"]);
    for _ in 0..2 {
        let marked = w.must(Command::NudgeDelivered { agent_id: toast.clone(), nudge_id: first.clone() });
        assert_eq!(marked, json!({"marked": true}));
    }
    assert_eq!(pending(&mut w, &toast), ["two"]);
    w.run_for(NUDGE_TTL);
    assert!(pending(&mut w, &toast).is_empty(), "they expire");
}

#[test]
fn an_immediate_nudge_that_cannot_be_sent_can_be_fetched_between_the_tries() {
    let (mut w, _, toast) = at_work(13);
    w.container.faults.set(Endpoint::Message, Fault::answer(500, error("no")));
    w.container.latency = SECOND;
    let id = nudge(&mut w, &toast, "look up", "immediate");
    w.run_for(SECOND / 2);
    assert!(pending(&mut w, &toast).is_empty(), "it is in the air");
    w.run_for(SECOND);
    assert_eq!(pending(&mut w, &toast), ["look up"]);
    w.must(Command::NudgeDelivered { agent_id: toast, nudge_id: id });
    w.container.faults.clear_all();
    w.run_for(HOUR);
    assert_eq!(told(&w, "look up"), 0, "it was delivered another way");
}

#[test]
fn a_nudge_for_nobody_is_refused() {
    let (mut w, _) = World::founded(14);
    let to_nobody = Command::Nudge { target: "nobody".into(), message: "hello".to_owned(), mode: None };
    assert_eq!(refused(&mut w, to_nobody).0, 404);
}
