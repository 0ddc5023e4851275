//! The mayor: woken by what people write and by nothing else, through the gate, and told everything exactly once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

mod support_host;

use gastown::town::command::Command;
use gastown::town::effect::Effect;
use gastown::town::id::{AgentId, RigId};
use gastown::town::policy::{BACKOFF_MS, CONTEXTS_KEPT, MESSAGE_BYTES};
use gastown::town::prompts;
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support_host::{attempts, audit, error, every_start, mail_with, refused, text, told, voice};

fn mayor(w: &World) -> AgentId {
    AgentId(w.sql.peek("SELECT mayor_agent_id FROM town", &[])[0].text(0).unwrap())
}

fn say(w: &mut World, message: &str) -> String {
    let data = w.must(Command::MessageMayor { message: message.to_owned(), ui_context: None });
    assert_eq!(data["agentId"], json!(mayor(w)));
    text(&data, "sessionStatus").to_owned()
}

/// How often a mayor's process was really told something with these words.
fn heard(w: &World, words: &str) -> usize {
    w.container.told().iter().filter(|h| h.prompt.contains(words)).count()
}

fn status(w: &mut World) -> Json {
    w.must(Command::MayorStatus)
}

fn agent_status(w: &World) -> String {
    w.sql.peek("SELECT status FROM agents WHERE role = 'mayor'", &[])[0].text(0).unwrap()
}

fn undelivered(w: &World) -> i64 {
    w.sql.peek("SELECT count(*) FROM mail WHERE delivered_at IS NULL", &[])[0].int(0).unwrap()
}

fn waiting(w: &mut World, fired_at: Option<i64>) {
    let agent_id = mayor(w);
    let says = Command::Waiting { agent_id: agent_id.clone(), fired_at };
    assert_eq!(w.command(&voice(agent_id.as_str(), None), says).unwrap().data, json!({"acknowledged": true}));
}

fn mayors_do(w: &mut World, behaviour: Behaviour) {
    w.container.behave(move |start| match start.request.role.as_str() {
        "mayor" => behaviour.clone(),
        role => Behaviour::good(role),
    });
}

// ── a message and a mayor that sleeps ────────────────────────────────────────────────────────────────────────────

#[test]
fn a_message_starts_a_mayor_that_sleeps_and_is_delivered_exactly_once() {
    let (mut w, _) = World::founded(1);
    assert_eq!(say(&mut w, "hello-1"), "starting");
    w.run_for(MINUTE);
    assert_eq!((heard(&w, "hello-1"), undelivered(&w)), (1, 0));
    let booked = attempts(&w);
    assert_eq!(booked.len(), 1);
    assert_eq!(
        (&booked[0]["role"], &booked[0]["bead_id"], &booked[0]["rig_id"]),
        (&json!("mayor"), &Json::Null, &Json::Null)
    );
    w.run_for(6 * HOUR);
    assert_eq!((heard(&w, "hello-1"), attempts(&w).len()), (1, 1), "and it stays where it is");
}

#[test]
fn a_message_written_during_an_outage_of_hours_survives_and_is_delivered_exactly_once_after_it() {
    let (mut w, _) = World::founded(2);
    w.container.kill(w.now());
    assert_eq!(say(&mut w, "hello-1"), "starting");
    w.run_for(30 * MINUTE);
    say(&mut w, "hello-2");
    w.run_for(7 * HOUR);
    let failed = attempts(&w);
    assert!(
        failed.len() < 40 && failed.iter().all(|a| a["outcome"] == "failed" && a["reason"] != ""),
        "{}",
        failed.len()
    );
    assert_eq!(
        undelivered(&w)
            - i64::try_from(told(&w, "breaker.opened").len() + told(&w, "breaker.still_open").len()).unwrap(),
        2
    );
    w.container.restart(w.now());
    w.run_for(HOUR);
    for words in ["hello-1", "hello-2"] {
        assert_eq!(heard(&w, words), 1, "{words}");
    }
    assert_eq!(undelivered(&w), 0, "what the town had to say came with it");
    assert_eq!(w.breaker("town")["state"], "closed");
}

#[test]
fn an_outage_that_only_the_mayor_sees_opens_the_breaker_and_the_mayor_is_its_trial() {
    let (mut w, _) = World::founded(3);
    w.container.kill(w.now());
    say(&mut w, "hello");
    w.run_for(2 * HOUR);
    assert_ne!(w.breaker("town")["state"], "closed");
    assert_eq!(say(&mut w, "more"), "idle", "it is held");
    let codes: Vec<_> = status(&mut w)["holds"].as_array().unwrap().iter().map(|h| h["code"].clone()).collect();
    assert!(codes.contains(&json!("breaker_open")), "{codes:?}");
    w.container.restart(w.now());
    w.run_for(HOUR);
    assert!(attempts(&w).iter().any(|a| a["probe"] == true && a["role"] == "mayor"));
    assert_eq!((w.breaker("town")["state"].clone(), heard(&w, "hello"), heard(&w, "more")), (json!("closed"), 1, 1));
}

/// In a row is what failed with nothing proven in between (`design.md` 5.5), and the mayor's start proves as much as any.
#[test]
fn a_mayor_that_lives_breaks_a_row_of_failures() {
    let (mut w, rig) = World::founded(3);
    every_start(&mut w, 500, &error("the disk is full"));
    for title in ["one", "two"] {
        w.sling(&rig, title);
    }
    w.run_for(4 * MINUTE);
    assert_eq!(w.breaker("town")["in_a_row"], 4, "{}", w.journal());
    w.container.faults.clear(Endpoint::Start);
    mayors_do(&mut w, Behaviour::hangs());
    say(&mut w, "hello");
    w.run_for(2 * MINUTE);
    assert_eq!((heard(&w, "hello"), w.breaker("town")["in_a_row"].clone()), (1, json!(0)), "{}", w.journal());
    every_start(&mut w, 500, &error("the disk is full"));
    w.run_for(4 * MINUTE);
    let town = w.breaker("town");
    assert_eq!((&town["in_a_row"], &town["state"]), (&json!(2), &json!("closed")), "{}", w.journal());
    w.run_for(HOUR);
    assert_ne!(w.breaker("town")["state"], "closed", "{}", w.journal());
}

#[test]
fn a_bead_is_the_trial_before_the_mayor_is() {
    let (mut w, rig) = World::founded(4);
    w.container.kill(w.now());
    say(&mut w, "hello");
    w.sling(&rig, "work");
    w.run_for(3 * HOUR);
    w.container.restart(w.now());
    w.run_for(HOUR);
    let trial = attempts(&w).into_iter().find(|a| a["probe"] == true && a["outcome"] != "failed").unwrap();
    assert_ne!(trial["role"], "mayor");
    assert_eq!(heard(&w, "hello"), 1);
}

#[test]
fn a_mayor_whose_start_fails_backs_off_and_has_no_cap() {
    let (mut w, _) = World::founded(5);
    every_start(&mut w, 500, &support_host::error("no"));
    say(&mut w, "hello");
    w.run_for(10 * HOUR);
    let all = attempts(&w);
    assert!(all.len() > 10, "it is tried again and again: {}", all.len());
    let at = |i: usize| support_host::time(&all[i]["booked_at"]);
    for (i, wait) in BACKOFF_MS.iter().enumerate().take(3) {
        assert!(at(i + 1).since(at(i)) >= *wait, "attempt {}", i + 2);
    }
    assert!(all.len() <= 24, "twice an hour at most, once it has come to that: {}", all.len());
    w.container.faults.clear_all();
    w.run_for(HOUR);
    assert_eq!(heard(&w, "hello"), 1);
}

#[test]
fn town_hold_drain_and_forced_breakers_hold_the_mayor_and_it_starts_when_they_end() {
    let (mut w, _) = World::founded(6);
    w.must(Command::ContainerEviction);
    assert_eq!(say(&mut w, "hello"), "idle");
    assert_eq!(status(&mut w)["holds"][0]["code"], "draining");
    assert_eq!(w.dispatch()["mayor"]["holds"][0]["code"], "draining");
    w.run_for(5 * MINUTE);
    assert_eq!(heard(&w, "hello"), 0);
    w.run_for(5 * MINUTE);
    assert_eq!(heard(&w, "hello"), 1, "a drain that nobody ends is over after seven minutes");
}

#[test]
fn mail_and_notices_start_no_mayor_and_reach_it_when_a_person_wakes_it() {
    let (mut w, _) = World::founded(7);
    w.must(Command::TestNotification);
    w.must(Command::SendMail {
        from_agent_id: "somebody".to_owned(),
        to_agent_id: "mayor".to_owned(),
        subject: "the-letter".to_owned(),
        body: "read me".to_owned(),
    });
    w.run_for(HOUR);
    assert_eq!((attempts(&w).len(), w.alarm()), (0, None), "mail alone wakes nobody");
    say(&mut w, "hello");
    w.run_for(MINUTE);
    assert_eq!((heard(&w, "hello"), heard(&w, "the-letter"), heard(&w, "This is a test")), (1, 1, 1));
    let notice = &w.notifications()[0]["deliveries"];
    assert!(
        notice.as_array().unwrap().iter().any(|d| d["channel"] == "mayor" && d["state"] == "delivered"),
        "{notice}"
    );
}

#[test]
fn the_mayor_starts_with_its_words_its_rigs_and_the_pseudo_rig() {
    let (mut w, rig) = World::founded(8);
    w.patch_config(json!({"custom_instructions": {"mayor": "Speak Latin."}}));
    say(&mut w, "hello");
    w.run_for(MINUTE);
    let start = w.effects.iter().find_map(|(_, e)| if let Effect::StartAgent(s) = e { Some(&s.request) } else { None });
    let start = serde_json::to_value(start.unwrap()).unwrap();
    assert_eq!(text(&start, "rigId"), format!("mayor-{}", w.town_id));
    assert_eq!(
        (text(&start, "role"), text(&start, "branch"), text(&start, "prompt")),
        ("mayor", "gt/mayor", prompts::READY)
    );
    assert_eq!(start["rigs"][0]["rigId"], json!(rig));
    assert!(
        text(&start, "systemPrompt").starts_with("You are the mayor")
            && text(&start, "systemPrompt").ends_with("Speak Latin.")
    );
}

// ── a container of ours and the predecessor's ────────────────────────────────────────────────────────────────────

#[test]
fn a_container_that_reads_prompts_gets_the_next_message_with_the_start() {
    let (mut w, _) = World::founded(9);
    mayors_do(&mut w, Behaviour::idles_out(5 * MINUTE));
    say(&mut w, "hello-1");
    w.run_for(HOUR);
    assert_eq!(agent_status(&w), "idle", "its session has ended");
    say(&mut w, "hello-2");
    w.run_for(HOUR);
    assert_eq!((heard(&w, "hello-1"), heard(&w, "hello-2"), undelivered(&w)), (1, 1, 0));
    assert!(w.container.told().iter().any(|h| h.prompt == "hello-2"), "it was the prompt itself");
    let ends: Vec<_> = attempts(&w).iter().map(|a| a["outcome"].clone()).collect();
    assert_eq!(ends, ["succeeded", "succeeded"], "a session that ends when nobody waits is no failure");
}

#[test]
fn a_resumed_session_that_ignores_its_prompt_gets_the_message_all_the_same_once() {
    let (mut w, _) = World::founded(10);
    w.container.replace_by_predecessor(w.now(), false);
    for n in 1..=4 {
        say(&mut w, &format!("hello-{n}"));
        w.run_for(10 * MINUTE);
        assert_eq!((heard(&w, &format!("hello-{n}")), undelivered(&w)), (1, 0));
        w.must(Command::MayorCompleted { status: "completed".to_owned(), reason: None });
        w.run_for(10 * MINUTE);
    }
}

#[test]
fn a_container_that_turns_into_the_predecessors_loses_no_message() {
    let (mut w, _) = World::founded(11);
    mayors_do(&mut w, Behaviour::idles_out(5 * MINUTE));
    w.container.replace_by_predecessor(w.now(), false);
    say(&mut w, "hello-1");
    w.run_for(HOUR);
    w.container.replace_by_ours(w.now());
    say(&mut w, "hello-2");
    w.run_for(HOUR);
    // It is believed to read prompts, and its session is resumed.
    w.container.replace_by_predecessor(w.now(), false);
    say(&mut w, "hello-3");
    w.run_for(HOUR);
    for n in 1..=3 {
        assert_eq!(heard(&w, &format!("hello-{n}")), 1, "hello-{n}");
    }
    assert_eq!(undelivered(&w), 0);
}

#[test]
fn a_mayor_that_dies_before_it_was_ever_heard_of_has_read_nothing() {
    let (mut w, _) = World::founded(12);
    mayors_do(&mut w, Behaviour::idles_out(MINUTE));
    say(&mut w, "hello-1");
    w.run_for(HOUR);
    // It vanishes before its first heartbeat, with the prompt in its hands.
    mayors_do(&mut w, Behaviour::vanishes(10).mute());
    say(&mut w, "hello-2");
    w.run_for(5 * MINUTE);
    assert_eq!(undelivered(&w), 1);
    mayors_do(&mut w, Behaviour::hangs());
    w.run_for(HOUR);
    assert_eq!(undelivered(&w), 0);
    assert!(w.container.told().iter().filter(|h| h.prompt == "hello-2").count() >= 2);
}

#[test]
fn a_mayor_that_ends_at_once_again_and_again_without_reading_is_not_started_in_a_circle() {
    let (mut w, _) = World::founded(13);
    w.container.replace_by_predecessor(w.now(), false);
    w.container.faults.set(Endpoint::Message, Fault::answer(500, "{\"error\":\"no\"}"));
    mayors_do(&mut w, Behaviour::ends(SECOND, Ending::Completed { reason: None }));
    say(&mut w, "hello");
    w.run_for(10 * HOUR);
    assert!(attempts(&w).len() <= 24, "{}", attempts(&w).len());
    w.container.faults.clear_all();
    mayors_do(&mut w, Behaviour::hangs());
    w.run_for(HOUR);
    assert_eq!((heard(&w, "hello"), undelivered(&w)), (1, 0));
}

// ── a mayor that lives ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_mayor_that_lives_is_told_at_once_and_not_started_again() {
    let (mut w, _) = World::founded(14);
    say(&mut w, "hello-1");
    w.run_for(MINUTE);
    assert_eq!(say(&mut w, "hello-2"), "active");
    w.run_for(SECOND);
    assert_eq!((heard(&w, "hello-2"), undelivered(&w), attempts(&w).len()), (1, 0, 1));
}

#[test]
fn the_mayor_waits_between_turns_and_works_when_it_is_told_something() {
    let (mut w, _) = World::founded(15);
    say(&mut w, "hello-1");
    w.run_for(MINUTE);
    assert_eq!(agent_status(&w), "working");
    waiting(&mut w, None);
    assert_eq!(agent_status(&w), "waiting");
    say(&mut w, "hello-2");
    w.run_for(SECOND);
    assert_eq!(agent_status(&w), "working");
    assert_eq!(status(&mut w)["session"]["status"], "active");
}

#[test]
fn an_idle_report_that_is_older_than_the_last_message_is_ignored() {
    let (mut w, _) = World::founded(16);
    say(&mut w, "hello-1");
    w.run_for(MINUTE);
    let turn_ended = w.now().0;
    w.run_for(SECOND);
    say(&mut w, "hello-2");
    w.run_for(SECOND);
    waiting(&mut w, Some(turn_ended));
    assert_eq!(agent_status(&w), "working", "that was the turn before");
    let now = w.now().0;
    waiting(&mut w, Some(now));
    assert_eq!(agent_status(&w), "waiting");
}

#[test]
fn only_a_mayor_that_lives_can_wait() {
    let (mut w, rig) = World::founded(17);
    waiting(&mut w, None);
    assert_eq!(agent_status(&w), "idle");
    let bead = w.sling(&rig, "work");
    w.run_for(SECOND);
    let agent = text(&w.attempts(&bead)[0], "agent_id").to_owned();
    let says = Command::Waiting { agent_id: agent.as_str().into(), fired_at: None };
    w.command(&voice(&agent, None), says).unwrap();
    let row = w.sql.peek("SELECT status FROM agents WHERE agent_id = ?1", &[agent.as_str().into()]);
    assert_eq!(row[0].text(0).unwrap(), "working");
}

#[test]
fn a_mayor_that_waits_for_a_day_costs_no_tick_that_nothing_needs() {
    let (mut w, _) = World::founded(18);
    say(&mut w, "hello");
    w.run_for(10 * MINUTE);
    waiting(&mut w, None);
    w.run_for(HOUR);
    let (ticks, calls) = (w.counts.ticks, w.counts.container_calls);
    w.run_for(24 * HOUR);
    // Its heartbeats are enough; every six hours its container is given a fresh token.
    assert_eq!((w.counts.ticks - ticks, w.counts.container_calls - calls), (4, 4), "four pushes of a token");
    assert_eq!(agent_status(&w), "waiting");
}

#[test]
fn what_people_look_at_goes_before_what_they_write_the_last_five_and_once() {
    let (mut w, _) = World::founded(19);
    for n in 1..=7 {
        w.must(Command::DashboardContext { context: format!("page-{n}.") });
    }
    w.must(Command::MessageMayor { message: "hello-1".to_owned(), ui_context: Some("page-8.".to_owned()) });
    w.run_for(MINUTE);
    say(&mut w, "hello-2");
    w.run_for(MINUTE);
    let with = |words: &str| w.container.told().iter().find(|h| h.prompt.contains(words)).unwrap().prompt.clone();
    let first = with("hello-1");
    assert!(first.starts_with("<system-reminder>") && first.ends_with("hello-1"), "{first}");
    let shown: Vec<_> = (1..=8).filter(|n| first.contains(&format!("page-{n}."))).collect();
    assert_eq!((shown.len(), shown[0]), (CONTEXTS_KEPT as usize, 4));
    assert_eq!(with("hello-2"), "hello-2", "they were told");
}

// ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn ensure_wakes_a_mayor_that_sleeps_and_leaves_one_that_lives_alone() {
    let (mut w, _) = World::founded(20);
    assert_eq!(status(&mut w)["session"], Json::Null);
    assert_eq!(w.must(Command::EnsureMayor)["sessionStatus"], "starting");
    w.must(Command::EnsureMayor);
    w.run_for(MINUTE);
    assert_eq!(heard(&w, prompts::REPORT), 1);
    assert_eq!(w.must(Command::EnsureMayor)["sessionStatus"], "active");
    w.run_for(HOUR);
    assert_eq!((heard(&w, prompts::REPORT), attempts(&w).len()), (1, 1));
}

#[test]
fn destroy_stops_the_process_and_what_waits_wakes_nobody_until_somebody_writes_again() {
    let (mut w, _) = World::founded(21);
    say(&mut w, "hello-1");
    w.run_for(MINUTE);
    w.container.faults.set(Endpoint::Message, Fault::answer(500, "{\"error\":\"no\"}"));
    say(&mut w, "hello-2");
    w.run_for(SECOND);
    w.container.faults.clear_all();
    w.must(Command::DestroyMayor);
    w.run_for(HOUR);
    assert!(w.container.running().is_empty());
    assert_eq!(
        (attempts(&w).len(), agent_status(&w), status(&mut w)["session"].clone()),
        (1, "idle".to_owned(), Json::Null)
    );
    assert_eq!((w.alarm(), heard(&w, "hello-2")), (None, 0));
    assert_eq!(audit(&mut w)[0]["action"], "mayor.destroy");
    say(&mut w, "hello-3");
    w.run_for(MINUTE);
    assert_eq!((heard(&w, "hello-2"), heard(&w, "hello-3")), (1, 1), "kept as mail until then");
}

#[test]
fn a_message_that_says_nothing_or_too_much_is_refused_and_changes_nothing() {
    let (mut w, _) = World::founded(22);
    for message in [" ".to_owned(), "x".repeat(MESSAGE_BYTES + 1)] {
        let (code, field, _) = refused(&mut w, Command::MessageMayor { message, ui_context: None });
        assert_eq!((code, field.as_str()), (422, "message"));
    }
    assert_eq!(mail_with(&w, ""), 0);
}

#[test]
fn the_pseudo_rig_is_known_wherever_an_agent_speaks() {
    let (mut w, _) = World::founded(23);
    let (rig, id) = (RigId(format!("mayor-{}", w.town_id)), mayor(&w));
    let listed = w.must(Command::ListAgents { rig_id: rig.clone(), role: None, status: None });
    assert_eq!(listed[0]["id"], json!(id));
    say(&mut w, "hello");
    w.run_for(MINUTE);
    let me = voice(id.as_str(), None);
    w.command(&me, Command::StatusMessage { agent_id: id.clone(), message: "thinking".to_owned() }).unwrap();
    w.command(&me, Command::Checkpoint { agent_id: id.clone(), data: json!({"n": 1}) }).unwrap();
    let ask = Command::Escalate { rig_id: rig, title: "help".to_owned(), body: None, priority: None, metadata: None };
    assert_eq!(w.command(&me, ask).unwrap().status, 201);
    assert_eq!(w.command(&me, Command::Prime { agent_id: id }).unwrap().data["agent"]["role"], "mayor");
}

#[test]
fn mayor_id_tells_what_a_booting_container_needs_and_no_secret() {
    let (mut w, _) = World::founded(24);
    w.patch_config(json!({"git_auth": {"github_token": "ghp_verysecret"}, "role_models": {"mayor": "a/b"}}));
    let told = w.must(Command::MayorId);
    assert_eq!((told["agentId"].clone(), told["model"].clone()), (json!(mayor(&w)), json!("a/b")));
    assert!(told["success"] == true && !told.to_string().contains("ghp_"), "{told}");
}
