//! The container's registry at the worker: which agents live here, so that the next container can restart them.
//!
//! Guarantees: the list is sent after an agent started or ended, at most once in a moment; it carries no secret; a list that
//! could not be sent is sent again. Assumption: what the next container needs of secrets it has from its own environment,
//! from `refresh-git-token`, or from the worker, which may add to the entries.

use crate::{
    dispatch::Dispatch,
    redact::is_secret_name,
    request::StartRequest,
    runner::Runner,
    voice::{CallError, SHORT_CALL, Voice, jittered},
};
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// How long one change waits for the next.
const GATHER: Duration = Duration::from_millis(500);

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How often a boot asks for the list when the worker does not answer.
const BOOT_TRIES: usize = 3;

/// Tells the worker of every change until the drain begins, which tells it of the end by itself.
pub async fn run(runner: Arc<Runner>) {
    tokio::select! {
        () = runner.drained() => {}
        () = tell_for_ever(&runner) => {}
    }
}

async fn tell_for_ever(runner: &Arc<Runner>) {
    // Every town that was ever told: one without agents is told so, too.
    let mut voices: HashMap<String, Voice> = HashMap::new();
    let mut pause = FIRST_PAUSE;
    loop {
        runner.changed.notified().await;
        sleep(GATHER).await;
        if tell(runner, &mut voices).await {
            pause = FIRST_PAUSE;
            continue;
        }
        runner.changed.notify_one();
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends each town its list; false if one should be sent again.
async fn tell(runner: &Arc<Runner>, voices: &mut HashMap<String, Voice>) -> bool {
    let live = runner.live();
    for dispatch in runner.known() {
        let voice = Voice { headers: Vec::new(), ..dispatch.voice.clone() };
        voices.entry(dispatch.town.clone()).or_insert(voice).api.clone_from(&dispatch.voice.api);
    }
    let mut told = true;
    for (town, voice) in voices {
        let entries: Vec<Value> = live.iter().filter(|d| d.town == *town && d.status().is_alive()).map(entry).collect();
        match voice.call(&voice.town_path("container-registry"), Some(&json!(entries)), SHORT_CALL).await {
            Ok(_) | Err(CallError::Nobody) => {}
            Err(error) => {
                crate::journal::note(&format!("container-registry: {error}"));
                told &= !error.may_pass();
            }
        }
    }
    told
}

/// The end of a drain: nobody lives here any more.
pub async fn tell_of_the_end(runner: &Arc<Runner>) {
    let towns: HashSet<String> = runner.known().iter().map(|dispatch| dispatch.town.clone()).collect();
    for town in towns {
        let Some(voice) = runner.own_voice(Some(&town)) else { continue };
        if let Err(error) = voice.call(&voice.town_path("container-registry"), Some(&json!([])), SHORT_CALL).await {
            crate::journal::note(&format!("container-registry: {error}"));
        }
    }
}

/// One agent: its start without its secrets.
fn entry(dispatch: &Arc<Dispatch>) -> Value {
    let workdir = dispatch.workdir().map(|path| path.display().to_string());
    let env: Map<String, Value> = dispatch
        .request
        .env_vars
        .iter()
        .filter(|(name, value)| !is_secret_name(name) && dispatch.redactor.clean(value) == **value)
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    json!({ "agentId": dispatch.agent, "request": dispatch.request.wire, "workdir": workdir, "env": env })
}

/// What a new container does first: refreshes a token that ends soon, and restarts the agents that the worker lists.
pub async fn resurrect(runner: Arc<Runner>) {
    let (Some(voice), Some(town)) = (runner.own_voice(None), runner.config.town_id.clone()) else { return };
    let Some(token) = runner.tokens.get(&town) else { return };
    if crate::jwt::ends_soon(&token, chrono::Utc::now().timestamp()) {
        voice.refresh().await;
    }
    let voice = Voice { headers: vec![("X-Gastown-Container-Instance-Id", runner.instance.clone())], ..voice };
    let path = format!("{}?containerInstanceId={}", voice.town_path("container-registry"), runner.instance);
    let mut tries = 0;
    let listed = loop {
        tries += 1;
        match voice.get(&path, SHORT_CALL).await {
            Ok(said) => break said,
            Err(error) => {
                crate::journal::note(&format!("container-registry: {error}"));
                if !error.may_pass() || tries == BOOT_TRIES {
                    return;
                }
                sleep(jittered(error.retry_after().unwrap_or(FIRST_PAUSE).min(SHORT_CALL))).await;
            }
        }
    };
    for entry in listed.get("data").and_then(Value::as_array).into_iter().flatten() {
        match read(entry, runner.config.dev) {
            Some(request) => runner.restart(request),
            None => crate::journal::note("an entry of the container registry cannot be read"),
        }
    }
}

/// The start that an entry stands for. Its variables are those that the last container had, and the request's own, which
/// the worker may have made anew.
fn read(entry: &Value, dev: bool) -> Option<StartRequest> {
    let mut request = entry.get("request")?.clone();
    let fields = request.as_object_mut()?;
    let mut variables = entry.get("env").and_then(Value::as_object).cloned().unwrap_or_default();
    variables.extend(fields.get("envVars").and_then(Value::as_object).cloned().unwrap_or_default());
    fields.insert("envVars".to_owned(), Value::Object(variables));
    let request = StartRequest::parse(request.to_string().as_bytes(), dev).ok()?;
    (entry.get("agentId").and_then(Value::as_str) == Some(request.agent_id.as_str())).then_some(request)
}

/// A start's body as the registry keeps it: without variables, which may be secrets, and without credentials in urls.
#[must_use]
pub fn wire(body: &Value, plain_url: Option<&str>) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("envVars");
        if let Some(url) = plain_url {
            fields.insert("gitUrl".to_owned(), json!(url));
        }
    }
    body
}
