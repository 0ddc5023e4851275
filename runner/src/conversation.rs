//! A model's session: turns, one process each, in one workspace and one conversation.
//!
//! Guarantees: turns run one after another; a message that was taken becomes a turn; a mayor never idles out, and says that it
//! waits after each turn; another agent that ends its turn with nothing to do takes the first pending nudge, else is kept
//! for a while, else ends. Its end is looked for first: an agent whose work is done, or was never there, waits for nobody.

use crate::{
    attempt::{Attempt, Halt, Phase},
    dispatch::Status,
    memory::Memory,
    output::Output,
    preset::{Gt, Task, mcp_servers},
    request::Role,
    session, setup,
    stop::Stop,
    voice::{Patience, SHORT_CALL, Voice},
};
use serde_json::{Value, json};
use std::{collections::HashSet, fmt::Write as _, fs, path::Path, sync::Arc, time::Duration};
use tokio::time::sleep;

/// How long `waiting` is repeated while the worker does not answer.
const WAITING: Patience = Patience { total: Duration::from_mins(2), pause: Duration::from_secs(10) };

/// One turn.
struct Turn {
    prompt: String,
    /// It goes on with the tool's last session.
    resume: bool,
    /// It is this nudge.
    nudge: Option<String>,
}

/// Lives the conversation. Ends well only if there is nothing more to say.
pub async fn run(attempt: &mut Attempt, directory: &Path, output: &Arc<Output>) -> Result<(), Halt> {
    let mayor = attempt.request.role == Role::Mayor;
    let mut memory = Memory::of(attempt).map_err(|error| Halt::run(error.to_string()))?;
    attempt.dispatch.mailbox.open_turns();
    for rig in attempt.request.rigs.iter().filter(|_| mayor) {
        setup::for_mayor(attempt, rig);
    }
    let resume = mayor && memory.recall(attempt).await;
    let mut turn = Turn { prompt: first_prompt(attempt), resume, nudge: None };
    let mut turns = 0;
    // Nudges that became turns: the worker may not have heard of it yet when it is asked again.
    let mut said = HashSet::new();
    loop {
        turns += 1;
        match take(attempt, directory, output, &turn).await {
            Ok(()) => memory.mark(),
            // The tool does not know its old session any more: the prompt must not be lost with it.
            Err(Halt::Failed(..)) if turns == 1 && turn.resume => {
                memory.forget();
                turn.resume = false;
                take(attempt, directory, output, &turn).await?;
                memory.mark();
            }
            Err(Halt::Stopped(cause)) => {
                if mayor {
                    memory.send(attempt).await;
                }
                return Err(Halt::Stopped(cause));
            }
            Err(failed) => return Err(failed),
        }
        attempt.dispatch.feed.tell("session.idle", json!({}));
        if mayor {
            memory.send_now_and_then(attempt).await;
            say_waiting(attempt);
        }
        match next(attempt, &mut said).await {
            Ok(Some(next)) => turn = next,
            Ok(None) => return Ok(()),
            Err(halt) => {
                if mayor {
                    memory.send(attempt).await;
                }
                return Err(halt);
            }
        }
    }
}

/// What the start asks for; a reviewer is told what the review is, whatever its prompt says.
fn first_prompt(attempt: &Attempt) -> String {
    let mut prompt = attempt.request.prompt.clone();
    if let Some(review) = attempt.request.review.as_ref().filter(|_| attempt.request.role == Role::Refinery) {
        let _ = write!(
            prompt,
            "\n\nThe review:\n- merge request: {}\n- branch under review: {}\n- target branch: {}\n- source bead: {}\n",
            review.entry_id, review.branch, review.target_branch, review.source_bead_id
        );
        if review.gates.is_empty() {
            prompt.push_str("- gates: none are configured\n");
        } else {
            prompt.push_str("- gates, each of which must succeed on the merged result:\n");
        }
        for gate in &review.gates {
            let _ = writeln!(prompt, "    {gate}");
        }
    }
    prompt
}

/// Runs one turn to its end.
async fn take(attempt: &mut Attempt, directory: &Path, output: &Arc<Output>, turn: &Turn) -> Result<(), Halt> {
    let mayor = attempt.request.role == Role::Mayor;
    let settings = attempt.dispatch.settings();
    if mayor {
        write_instructions(directory, settings.system_prompt.as_deref())
            .map_err(|error| Halt::run(format!("{}: {error}", directory.display())))?;
    }
    let context = if mayor { attempt.runner.pushed.take_context() } else { None };
    let prompt = match context {
        Some(context) => format!("<system-reminder>\n{context}\n</system-reminder>\n\n{}", turn.prompt),
        None => turn.prompt.clone(),
    };
    let home = attempt.home();
    let config = attempt.directory.join("mcp.json");
    let gt = attempt.config().gt().map(Path::to_owned);
    if let Some(gt) = &gt {
        fs::write(&config, mcp_servers(gt)).map_err(|error| Halt::run(format!("{}: {error}", config.display())))?;
    }
    let task = Task {
        prompt: &prompt,
        system_prompt: settings.system_prompt.as_deref(),
        agents_file: mayor,
        model: &settings.model,
        resume: turn.resume,
        home: &home,
        gt: gt.as_deref().map(|program| Gt { program, config: &config }),
    };
    let Some(launch) = attempt.preset.launch(&task) else {
        return Err(Halt::run(format!("the preset {} holds no conversation", attempt.preset.name())));
    };
    attempt.dispatch.feed.begin_turn();
    attempt.dispatch.feed.tell("turn.started", json!({ "prompt": attempt.redactor.clean(&turn.prompt) }));
    let process = session::spawn(attempt, directory, output, launch)?;
    if attempt.dispatch.status() == Status::Starting {
        attempt.started(directory);
    }
    if let Some(nudge) = &turn.nudge {
        nudge_delivered(attempt, nudge);
    }
    let ended = session::end(attempt, process, output).await;
    attempt.dispatch.feed.no_tools();
    match attempt.dispatch.feed.refusal() {
        // Some tools call a turn without an answer a success.
        Some(_) if ended.is_ok() => Err(Halt::run(output.tail())),
        _ => ended,
    }
}

/// The mayor's instructions, where its tool looks for them (protocol 4.4).
pub fn write_instructions(directory: &Path, text: Option<&str>) -> std::io::Result<()> {
    match text {
        Some(text) => fs::write(directory.join("AGENTS.md"), text),
        None => Ok(()),
    }
}

/// What comes after a turn: another one, or the end.
async fn next(attempt: &mut Attempt, said: &mut HashSet<String>) -> Result<Option<Turn>, Halt> {
    let message = |prompt: String| Some(Turn { prompt, resume: true, nudge: None });
    if attempt.request.role == Role::Mayor {
        return tokio::select! {
            prompt = attempt.dispatch.mailbox.next() => Ok(message(prompt)),
            cause = attempt.stop.fired() => Err(Halt::Stopped(cause)),
        };
    }
    loop {
        if let Some(prompt) = attempt.dispatch.mailbox.take() {
            return Ok(message(prompt));
        }
        if let Some(cause) = attempt.stop.cause() {
            return Err(Halt::Stopped(cause));
        }
        if let Some(turn) = pending_nudge(attempt, said).await {
            return Ok(Some(turn));
        }
        if !is_finished(attempt).await? {
            if let Some(prompt) = idle(attempt).await? {
                return Ok(message(prompt));
            }
            if let Some(turn) = pending_nudge(attempt, said).await {
                return Ok(Some(turn));
            }
        }
        if attempt.dispatch.mailbox.close() {
            return Ok(None);
        }
    }
}

/// Whether there is nothing left to wait for: there is work to deliver, or the worker says that the agent's is settled.
async fn is_finished(attempt: &Attempt) -> Result<bool, Halt> {
    if let Some((repository, tree)) = attempt.tree.as_ref().filter(|_| attempt.request.role == Role::Polecat) {
        let git = repository.git();
        let failed = Halt::git(Phase::Run);
        if tree.ahead(git).await.map_err(&failed)? > 0
            || !git.run(&tree.directory, &["status", "--porcelain"]).await.map_err(&failed)?.is_empty()
        {
            return Ok(true);
        }
    }
    let dispatch = &attempt.dispatch;
    let path = dispatch.voice.rig_path(&dispatch.rig, &format!("agents/{}", dispatch.agent));
    // Without an answer the agent is kept for as long as any other.
    let answer = dispatch.voice.get(&path, SHORT_CALL).await.unwrap_or_default();
    Ok(answer.get("data").and_then(|agent| agent.get("current_hook_bead_id")).is_some_and(Value::is_null))
}

/// Waits for a message, as long as an agent is kept.
async fn idle(attempt: &Attempt) -> Result<Option<String>, Halt> {
    let config = attempt.config();
    let limit = if attempt.request.role == Role::Refinery { config.refinery_idle } else { config.agent_idle };
    let cut = async {
        attempt.runner.drained().await;
        sleep(limit.min(config.drain_idle)).await;
    };
    tokio::select! {
        prompt = attempt.dispatch.mailbox.next() => Ok(Some(prompt)),
        () = sleep(limit) => Ok(None),
        () = cut => Ok(None),
        cause = attempt.stop.fired() => Err(Halt::Stopped(cause)),
    }
}

/// The first pending nudge as a turn. Any failure is no nudge; during a drain none is asked for (protocol 4.8, step 3).
async fn pending_nudge(attempt: &Attempt, said: &mut HashSet<String>) -> Option<Turn> {
    if attempt.runner.is_draining() {
        return None;
    }
    let dispatch = &attempt.dispatch;
    let path = dispatch.voice.rig_path(&dispatch.rig, &format!("agents/{}/pending-nudges", dispatch.agent));
    let answer = dispatch.voice.get(&path, SHORT_CALL).await.ok()?;
    let text = |nudge: &Value, name: &str| nudge.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let nudges = answer.get("data")?.as_array()?.iter();
    let mut known = nudges.filter_map(|nudge| Some((text(nudge, "nudge_id")?, text(nudge, "message")?)));
    let (id, prompt) = known.find(|(id, _)| !said.contains(id))?;
    said.insert(id.clone());
    Some(Turn { prompt, resume: true, nudge: Some(id) })
}

/// Tells the worker that a nudge has become a turn. It is repeated: a nudge that stays pending would be said twice.
fn nudge_delivered(attempt: &Attempt, nudge: &str) {
    let path = format!("agents/{}/nudge-delivered", attempt.dispatch.agent);
    tell(attempt, &path, json!({ "nudge_id": nudge }));
}

/// Tells the worker that the mayor waits for a message. A report that comes late is known by its `firedAt`.
pub fn say_waiting(attempt: &Attempt) {
    let path = format!("agents/{}/waiting", attempt.dispatch.agent);
    let fired = chrono::Utc::now().timestamp_millis();
    tell(attempt, &path, json!({ "agentId": attempt.dispatch.agent, "firedAt": fired }));
}

/// Says something beside the conversation, which goes on meanwhile.
fn tell(attempt: &Attempt, path: &str, body: Value) {
    let voice: Voice = attempt.dispatch.voice.clone();
    let path = voice.rig_path(&attempt.dispatch.rig, path);
    let stop: Stop = attempt.stop.clone();
    tokio::spawn(async move {
        if let Err(error) = voice.insist(&path, &body, WAITING, &stop).await {
            crate::journal::note(&format!("{path}: {error}"));
        }
    });
}
