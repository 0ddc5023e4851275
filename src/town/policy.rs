//! Every number the town decides by, in one table: its unit, and where it comes from.
//!
//! A number never stands in two places: code, tests, API and documents read it here. The first part holds the defaults
//! and ranges of what a town's settings may change (`config.rs`); the rest is fixed. Times are [`Millis`], texts bytes.

use super::time::{DAY, HOUR, MINUTE, Millis, SECOND};

// ── dispatch: defaults of the settings ───────────────────────────────────────────────────────────────────────────

/// Charged attempts after which a bead fails. With [`BACKOFF_MS`] a bead that never works is tried at about 0, 2, 7, 17
/// and 47 minutes: long enough to outlive a deployment, cheap enough to lose.
pub const MAX_ATTEMPTS: u32 = 5;
/// Wait after the n-th failure in a row, the last one for all further ones. Five attempts, so four waits.
pub const BACKOFF_MS: [Millis; 4] = [2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE];
/// Up to this fraction is added to a backoff, hashed: the beads of an outage do not return in one burst.
pub const JITTER: f64 = 0.1;
/// How long a start may go unanswered: what the predecessor's worker waits (`protocol.md` 4.3).
pub const START_TIMEOUT_MS: Millis = 60 * SECOND;
/// Silence after which a running agent is looked at: three of the container's heartbeats, which come every 30 s.
pub const HEARTBEAT_TIMEOUT_MS: Millis = 90 * SECOND;
/// A heartbeat that says nothing new is written into its row only if the row's time is this old; until then the object
/// remembers it. Ten of the container's heartbeats: a hundred agents cost 1,200 rows an hour instead of 12,000. With
/// [`HEARTBEAT_TIMEOUT_MS`] it is also the longest that a silent agent goes unnoticed when the memory is lost.
pub const HEARTBEAT_STORE_EVERY: Millis = 5 * MINUTE;
/// How long a health probe waits for a container to boot: image pull and clone cache, twice what is usual.
pub const BOOT_TIMEOUT_MS: Millis = 2 * MINUTE;
/// Polecats that may live in a town at once: what one container of the usual size carries.
pub const MAX_AGENTS: u32 = 20;
/// Polecats that may live in one rig at once: half a town, so that one rig cannot starve the others.
pub const MAX_POLECATS_PER_RIG: u32 = 10;
/// Starts in flight once the slow start has reached its limit. One start takes seconds to a minute; six at once fill
/// [`MAX_AGENTS`] in a few minutes, and are all a bad container can burn at a time.
pub const MAX_STARTS_IN_FLIGHT: u32 = 6;
/// Starts in flight while the instance is unproven or has just failed; each proven start doubles it.
pub const SLOW_START_FLOOR: u32 = 1;
/// Reviews that may end otherwise than merged before the bead fails with `review.exhausted`.
pub const MAX_REVIEW_ROUNDS: u32 = 5;

// ── breaker: defaults of the settings ────────────────────────────────────────────────────────────────────────────

/// The breaker opens when *more than* this many counted failures finished within [`BREAKER_WINDOW_MS`].
pub const BREAKER_FAILURES: u32 = 20;
/// The window of [`BREAKER_FAILURES`]: one longest backoff, so a town that fails steadily is always seen whole.
pub const BREAKER_WINDOW_MS: Millis = 30 * MINUTE;
/// Counted failures in a row, nothing proven in between, that open a town: small towns never reach
/// [`BREAKER_FAILURES`] and must be protected, too.
pub const BREAKER_CONSECUTIVE: u32 = 5;
/// `repo.unavailable` in a row that open a rig: a repository seldom recovers by itself.
pub const BREAKER_RIG_CONSECUTIVE: u32 = 3;
/// Waits before the first, second, … probe of an episode; the last one for all further ones. An outage of 70 hours
/// costs two probes an hour.
pub const PROBE_MS: [Millis; 5] = [2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 30 * MINUTE];
/// Up to this fraction is added to a probe's wait, hashed: 151 towns do not knock in the same second. The longest wait
/// is thereby 36 minutes.
pub const PROBE_JITTER: f64 = 0.2;

// ── notices: defaults of the settings ────────────────────────────────────────────────────────────────────────────

/// A breaker open for this long is announced once more.
pub const STILL_OPEN_MS: Millis = HOUR;
/// At most one notice about failed beads in this time, with the count.
pub const ROLLUP_MS: Millis = 10 * MINUTE;

// ── models: defaults of the settings (`protocol.md` 2.13) ────────────────────────────────────────────────────────

/// The model of an agent for which nobody chose one.
pub const DEFAULT_MODEL: &str = "anthropic/claude-sonnet-4.6";
/// The small model of a town that chose none.
pub const DEFAULT_SMALL_MODEL: &str = "anthropic/claude-haiku-4.5";

// ── ranges of the settings: outside them 422 ─────────────────────────────────────────────────────────────────────

/// Shortest time a setting may name: shorter ones would make the alarm spin.
pub const MS_MIN: Millis = 100;
/// Longest time a setting may name: one day.
pub const MS_MAX: Millis = DAY;
/// Least entries of a list of waits.
pub const LIST_ENTRIES_MIN: usize = 1;
/// Most entries of a list of waits.
pub const LIST_ENTRIES_MAX: usize = 20;
/// Least value of a count.
pub const COUNT_MIN: u32 = 1;
/// Greatest value of a count.
pub const COUNT_MAX: u32 = 500;

// ── probes, episodes, overrides ──────────────────────────────────────────────────────────────────────────────────

/// Longest time a probing agent must run before its proof closes a breaker, however long the opening failures took.
pub const PROBE_TRIAL_CAP: Millis = 15 * MINUTE;
/// Beads that one half-open step may try when results are inconclusive.
pub const PROBES_PER_TRIAL: u32 = 3;
/// Re-opening within this time after closing takes the next probe wait, not the first.
pub const REOPEN_WINDOW: Millis = 30 * MINUTE;
/// *Closed* is announced at the latest this long after closing, if there is too little work for a full slow start.
pub const CLOSED_ANNOUNCE: Millis = 30 * MINUTE;
/// Probes brought forward by new container instances, per hour: a container that restarts for ever must not turn each
/// restart into a dispatch.
pub const INSTANCE_PROBES_PER_HOUR: u32 = 3;
/// The window of [`INSTANCE_PROBES_PER_HOUR`].
pub const INSTANCE_PROBES_WINDOW: Millis = HOUR;
/// A probe by hand is accepted at most once in this time; sooner is 429.
pub const MANUAL_PROBE_EVERY: Millis = MINUTE;
/// Longest `forced_closed`: it switches the protection off.
pub const FORCED_CLOSED_MAX: Millis = HOUR;
/// Longest `shadow`: it switches the protection off, but somebody is watching.
pub const SHADOW_MAX: Millis = 7 * DAY;
/// Longest `forced_open`. It is safe, so this only catches slips of the keyboard (the expiry itself is mandatory).
pub const FORCED_OPEN_MAX: Millis = 30 * DAY;
/// `container.rejected` in a row on different beads, nothing accepted in between, that are the container's fault.
pub const REJECTED_IN_A_ROW: u32 = 3;

// ── the container ────────────────────────────────────────────────────────────────────────────────────────────────

/// A drain without a word of a new instance ends after this (`protocol.md` 4.8).
pub const DRAIN_LIMIT: Millis = 7 * MINUTE;
/// An agent may say `starting` until this long after its booking: a clone of a large repository and a slow boot.
pub const BOOT_GRACE: Millis = 15 * MINUTE;
/// A bead `in_progress` without a live attempt for this long is an orphan (safety net, rule 3).
pub const ORPHAN_GRACE: Millis = 5 * MINUTE;
/// Shortest town hold that a `Retry-After` can cause.
pub const RETRY_AFTER_MIN: Millis = 5 * SECOND;
/// Longest town hold that a `Retry-After` can cause: the last entry of [`BACKOFF_MS`].
pub const RETRY_AFTER_MAX: Millis = 30 * MINUTE;
/// How long a stop may go unanswered.
pub const STOP_TIMEOUT: Millis = 10 * SECOND;
/// How long a look (health or agent status) may go unanswered.
pub const LOOK_TIMEOUT: Millis = 10 * SECOND;
/// How long a webhook may go unanswered.
pub const WEBHOOK_TIMEOUT: Millis = 10 * SECOND;
/// The tokens of running agents are renewed after this long: two hours before they end after eight (`protocol.md` 5.2).
/// The predecessor's container restarts its agents for it, so not more often than need be.
pub const TOKEN_PUSH_AFTER: Millis = 6 * HOUR;
/// A telling (token, settings) that came to nothing is repeated after this: often enough that a token of two more hours
/// outlives many failures.
pub const TELL_RETRY: Millis = 5 * MINUTE;
/// Bytes of the header that tells the settings: a server that reads headers of 16 KB in all must take it. Longer ones
/// leave the environment variables out, which every start carries in its body.
pub const TOWN_CONFIG_BYTES: usize = 8 * 1024;
/// A heartbeat of an attempt that is over costs its process at most one `StopAgent` in this time.
pub const LATE_STOP_EVERY: Millis = MINUTE;
/// Calls that one alarm loop has in the air: the platform's six simultaneous connections.
pub const CALLS_AT_ONCE: usize = 6;
/// Starts among them: one connection always stays free for a probe, a stop or a webhook.
pub const STARTS_AT_ONCE: usize = 5;
/// Bytes of an answer's body that are read: a control server's error is a few hundred, a proxy's page need not be read
/// to its end.
pub const ANSWER_BYTES: usize = 8_192;

// ── inactivity, triage, escalations, molecules, the container's registry ─────────────────────────────────────────

/// An agent that has done nothing for so long, with no tool running, is nudged (`domain.md` 6, as the next five).
pub const QUIET_NUDGE: Millis = 15 * MINUTE;
/// Such nudges come at most once in this time.
pub const QUIET_NUDGE_EVERY: Millis = HOUR;
/// After so long it is nudged again, and a triage request asks what to do.
pub const QUIET_ASK: Millis = HOUR;
/// After so long its process is stopped.
pub const QUIET_STOP: Millis = 2 * HOUR;
/// A stalled agent is idle again after this, whatever has become of its process.
pub const STALLED_LIMIT: Millis = 30 * MINUTE;
/// Open triage requests that a town makes.
pub const TRIAGE_OPEN: u32 = 5;
/// Requests that one triage agent is given: the town's own, and those that people made beside them.
pub const TRIAGE_SHOWN: u32 = 20;
/// An escalation that nobody acknowledged is raised one step after this (`domain.md` 8) …
pub const ESCALATE_EVERY: Millis = 4 * HOUR;
/// … so many times.
pub const ESCALATE_TIMES: u32 = 3;
/// Steps of a molecule.
pub const MOLECULE_STEPS: usize = 50;
/// A summary with which a step is finished, in characters (`protocol.md` 3.1).
pub const STEP_SUMMARY_CHARS: usize = 5_000;
/// The container's registry as JSON text, without what is not kept of it: a prompt of [`BODY_BYTES`] for each of
/// [`MAX_AGENTS`] would not fit, but prompts are a tenth of that, and a registry that is not kept costs a few restarts.
pub const REGISTRY_BYTES: usize = 512 * 1024;

// ── the container object (`src/container`) ───────────────────────────────────────────────────────────────────────

/// A container that does not answer `/health` this long after its start never will: as a probe waits.
pub const CONTAINER_BOOT_LIMIT: Millis = BOOT_TIMEOUT_MS;
/// While it boots it is asked this often; each question is a call inside one machine.
pub const CONTAINER_READY_EVERY: Millis = SECOND / 2;
/// While it runs its health is checked this often, as often as its agents send heartbeats.
pub const CONTAINER_WATCH_EVERY: Millis = 30 * SECOND;
/// Checks in a row without an answer after which it hangs and is destroyed: no later than its agents' heartbeats are missed
/// ([`HEARTBEAT_TIMEOUT_MS`]).
pub const CONTAINER_MISSES: u32 = 3;
/// Falls (crashes, hangs, boots that failed) within [`CONTAINER_FALLS_WINDOW`] after which it stays down.
pub const CONTAINER_FALLS: usize = 5;
/// The window of [`CONTAINER_FALLS`], and so the longest that it stays down. With the breaker's waits a town whose
/// container cannot live starts it some ten times an hour at most.
pub const CONTAINER_FALLS_WINDOW: Millis = 30 * MINUTE;
/// From SIGTERM to the end by force. Nothing lives then but a waiting mayor, whose work is saved in seconds.
pub const CONTAINER_STOP_GRACE: Millis = 2 * MINUTE;
/// How often the town is asked whether it needs its container: one row or two, while it costs by the second.
pub const CONTAINER_ASK_EVERY: Millis = 5 * MINUTE;
/// A container that nobody needed for so long is stopped, unless the town's `container.sleep_after_minutes` says otherwise.
pub const CONTAINER_SLEEP_AFTER: Millis = 15 * MINUTE;

// ── delivery ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Wait after the first failed webhook; doubles each time.
pub const WEBHOOK_BACKOFF_MIN: Millis = 10 * SECOND;
/// The doubling of [`WEBHOOK_BACKOFF_MIN`] ends here.
pub const WEBHOOK_BACKOFF_MAX: Millis = HOUR;
/// A webhook is given up this long after its notification.
pub const WEBHOOK_GIVE_UP: Millis = DAY;
/// A post that was not settled by then has lost its owner and is made again: [`WEBHOOK_TIMEOUT`] and some room for the
/// object to write the outcome down.
pub const WEBHOOK_LEASE: Millis = WEBHOOK_TIMEOUT + 5 * SECOND;
/// Posts of one town in the air: more would only wait for a connection while their lease runs ([`CALLS_AT_ONCE`]).
pub const POSTS_AT_ONCE: u32 = 6;

/// How long a message to an agent may go unanswered.
pub const MESSAGE_TIMEOUT: Millis = 10 * SECOND;
/// A message that was not settled by then has lost its owner. It may have to wait for a look at its agent
/// ([`LOOK_LEASE`]) and for a free connection before it leaves, and then takes [`MESSAGE_TIMEOUT`].
pub const MESSAGE_LEASE: Millis = 3 * MINUTE;
/// Wait after the first failed message; doubles each time.
pub const MESSAGE_BACKOFF_MIN: Millis = 10 * SECOND;
/// The doubling of [`MESSAGE_BACKOFF_MIN`] ends here: an agent that lives and takes no message is asked six times an hour.
pub const MESSAGE_BACKOFF_MAX: Millis = 10 * MINUTE;
/// Messages of one town in the air ([`CALLS_AT_ONCE`]).
pub const MESSAGES_AT_ONCE: u32 = 6;
/// Bytes of mail in one message: four of the longest. What is left follows with the next.
pub const PROMPT_BYTES: usize = 4 * MESSAGE_BYTES;
/// Views of the dashboard that are kept for the mayor (`protocol.md` 5.1).
pub const CONTEXTS_KEPT: u32 = 5;
/// One of them, in characters, as what people look at while they write (`protocol.md` 3.5).
pub const CONTEXT_CHARS: usize = 10_000;
/// A nudge that nobody took is forgotten after this: by then the agent that it was meant for has been stopped as inactive
/// (`domain.md` 6).
pub const NUDGE_TTL: Millis = 2 * HOUR;
/// Nudges that one reading lists; what is left comes with the next.
pub const NUDGES_AT_ONCE: u32 = 100;

// ── pull requests ────────────────────────────────────────────────────────────────────────────────────────────────

/// An open pull request is asked about once in this time: sixty times an hour, of the 5,000 calls that GitHub allows.
pub const PR_POLL_EVERY: Millis = MINUTE;
/// After a fix-up was handed in, the forge has this long to test the branch again before the next one is made.
pub const PR_SETTLE: Millis = 10 * MINUTE;
/// How long a call to a forge may go unanswered.
pub const FORGE_TIMEOUT: Millis = 10 * SECOND;
/// Lease of such a call: [`FORGE_TIMEOUT`], and room to wait for one of [`CALLS_AT_ONCE`] places.
pub const FORGE_LEASE: Millis = 30 * SECOND;
/// Calls to forges that one town has in the air: agents' starts and looks come first.
pub const FORGE_AT_ONCE: u32 = 2;
/// Calls in a row that were not answered, or answered with a passing trouble, after which a pull request is given up.
pub const FORGE_TRANSIENT_MAX: u32 = 10;
/// The wait between such calls doubles from [`PR_POLL_EVERY`] up to this: ten of them outlast an outage of three hours.
pub const FORGE_BACKOFF_MAX: Millis = 30 * MINUTE;
/// Answers in a row that could not be read, after which a pull request is given up.
pub const FORGE_MALFORMED_MAX: u32 = 3;
/// Bytes of a forge's answer that are read: GitHub tells some 20 KB about a pull request.
pub const FORGE_ANSWER_BYTES: usize = 256 * 1024;
/// Files that a request for changes may name.
pub const REWORK_FILES_MAX: usize = 500;

// ── redrive ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// One step of a paced redrive.
pub const REDRIVE_EVERY: Millis = MINUTE;
/// Beads per [`REDRIVE_EVERY`] until one of them is proven.
pub const REDRIVE_FIRST: u32 = 1;
/// Beads per [`REDRIVE_EVERY`] from then on.
pub const REDRIVE_THEN: u32 = 20;
/// The first so many beads of a paced redrive are its trial.
pub const REDRIVE_TRIAL: u32 = 10;
/// So many failures of the trial with one fingerprint stop the redrive.
pub const REDRIVE_STOP_AFTER: u32 = 3;
/// Most beads of one redrive, and its default.
pub const REDRIVE_LIMIT: u32 = 5_000;
/// Bead ids that the answer to a redrive lists.
pub const REDRIVE_IDS_SHOWN: u32 = 100;
/// Times a mayor may redrive one bead; people have no limit.
pub const MAYOR_REDRIVES: u32 = 2;

// ── convoys (`domain.md` 5) ──────────────────────────────────────────────────────────────────────────────────────

/// Tasks of a convoy.
pub const CONVOY_TASKS: usize = 50;
/// Tasks of a cycle that its refusal names; of a longer one the beginning and the end.
pub const CYCLE_SHOWN: usize = 10;
/// Bytes of a task's title in such a refusal.
pub const CYCLE_TITLE_BYTES: usize = 40;
/// Bytes of a convoy's title that its feature branch shows (`protocol.md` 6.1).
pub const BRANCH_SLUG_BYTES: usize = 40;
/// After the n-th failed landing the next one is due after 2ⁿ times this, so after 1, 2, 4, 8 and 16 minutes.
pub const LANDING_BACKOFF_MIN: Millis = 30 * SECOND;
/// The doubling of [`LANDING_BACKOFF_MIN`] ends here.
pub const LANDING_BACKOFF_MAX: Millis = 30 * MINUTE;
/// Landings after the first one; when they have failed, too, the convoy has.
pub const LANDING_RETRIES: u32 = 5;

// ── text caps, in bytes unless they say characters ───────────────────────────────────────────────────────────────

/// A title.
pub const TITLE_BYTES: usize = 500;
/// A body.
pub const BODY_BYTES: usize = 64 * 1024;
/// A bead's metadata as JSON text.
pub const METADATA_BYTES: usize = 64 * 1024;
/// A mail's body, a message, a nudge, a checkpoint's summary.
pub const MESSAGE_BYTES: usize = 16 * 1024;
/// What the other side said, within a reason; also the reason a person gives.
pub const REASON_BYTES: usize = 500;
/// A town's or a rig's settings as JSON text.
pub const CONFIG_BYTES: usize = 64 * 1024;
/// A URL among the settings.
pub const URL_BYTES: usize = 2_048;
/// A short text among the settings: a model's name, an author, an id.
pub const SETTING_BYTES: usize = 500;
/// A role's custom instructions, in characters (`protocol.md` 2.13).
pub const INSTRUCTIONS_CHARS: usize = 2_000;
/// A name of a town or rig, in characters (`protocol.md` 2.3).
pub const NAME_CHARS: usize = 64;
/// An agent's status message, in characters (`protocol.md` 3.1).
pub const STATUS_MESSAGE_CHARS: usize = 280;
/// While a drain holds work back, the container is asked this often whether it is another instance by now: a new one
/// without agents sends no heartbeat that could say so. At most 28 times a drain.
pub const DRAIN_LOOK_EVERY: Millis = 15 * SECOND;
/// An instance id, as a container tells it; a longer one is no id.
pub const INSTANCE_BYTES: usize = 128;
/// A gate's command.
pub const GATE_BYTES: usize = 4 * 1024;
/// Gates of a town or rig.
pub const GATES_MAX: usize = 50;
/// A value in the audit, as JSON text: it says what changed, it is no backup.
pub const AUDIT_VALUE_BYTES: usize = 4 * 1024;
/// The facts of a notification as JSON text.
pub const FACTS_BYTES: usize = 16 * 1024;
/// The beginning of a text that stands for it in a title or subject, in characters (`protocol.md` 2.7).
pub const EXCERPT_CHARS: usize = 100;
/// One failure within a roll-up.
pub const ROLLUP_TEXT_BYTES: usize = 300;

// ── lists and work per tick ──────────────────────────────────────────────────────────────────────────────────────

/// Rows that one rule handles in one tick; what is left is due at once again. Keeps a tick flat whatever is stored.
pub const RULE_ROWS: u32 = 100;
/// Entries of a list that names no limit.
pub const LIST_DEFAULT: u32 = 100;
/// Most entries of a list.
pub const LIST_MAX: u32 = 500;
/// Groups of failures that the dispatch overview shows.
pub const FAILURES_SHOWN: u32 = 50;
/// Attempts that an explanation shows.
pub const ATTEMPTS_SHOWN: u32 = 5;
/// Open beads that a town counts for the fleet: each costs a row, and beyond this a town has simply much to do.
pub const OPEN_WORK_TOLD: u32 = 100;
/// Blockers that an explanation names one by one: more would say no more.
pub const BLOCKERS_SHOWN: usize = 20;
/// Beads that one call may delete, those that hang on them apart (`protocol.md` 3.4).
pub const DELETED_AT_ONCE: usize = 5_000;
/// Heartbeats that one call may carry.
pub const HEARTBEATS_MAX: usize = 500;
/// Mails that one reading hands over; what is left comes with the next.
pub const MAIL_AT_ONCE: u32 = 100;
/// Escalations that the list shows (`protocol.md` 1.4).
pub const ESCALATIONS_SHOWN: u32 = 100;
/// Failed beads that a roll-up names; the rest it counts. With [`ROLLUP_TEXT_BYTES`] this fits into a mail.
pub const ROLLUP_SHOWN: usize = 20;
/// Open beads that prime shows (`protocol.md` 2.11).
pub const PRIME_BEADS: u32 = 20;
/// Newest beads of a rig among which prime looks for open ones, so that it reads the same whatever is stored.
pub const PRIME_LOOKBACK: u32 = 200;

// ── overload: what one object has in hand at once (`docs/decisions/008`) ─────────────────────────────────────────

/// Requests in hand beyond which slings, lists and the like are answered 503. At some 100 slings a second, which two
/// cores serve (`bench/throughput.mjs`), the last of them waits a good second; nobody's patience (10 s for the shortest
/// call) is near.
pub const REQUESTS_IN_HAND: usize = 128;
/// Places of their own for heartbeats, finished work and drains: all the agents that a container of the
/// predecessor's kind may hold ([`COUNT_MAX`] at most, 20 by default) speak in the same moment, one call each. Derived,
/// not measured, as are the bytes below.
pub const REQUESTS_RESERVED: usize = 512;
/// Bytes of bodies in hand. A quarter of the 128 MB that the objects and workers of one isolate share, since a text is
/// held as it came and as it was read.
pub const BYTES_IN_HAND: usize = 32 * 1024 * 1024;
/// Bytes of their own for [`REQUESTS_RESERVED`]: 16 KB each, where a heartbeat has some 300 bytes and a summary of finished
/// work seldom more than a few thousand. With [`BYTES_IN_HAND`], held twice, it leaves a third of the isolate's memory.
pub const BYTES_RESERVED: usize = 8 * 1024 * 1024;

// ── removed agents ───────────────────────────────────────────────────────────────────────────────────────────────

/// Stores of removed agents that one tick has erased.
pub const ERASES_AT_ONCE: u32 = 6;
/// An erasure that was not settled by then has lost its owner and is made again; one takes some milliseconds.
pub const ERASE_LEASE: Millis = MINUTE;
/// Wait after the first erasure that failed; doubles each time.
pub const ERASE_RETRY: Millis = MINUTE;
/// The doubling of [`ERASE_RETRY`] ends here.
pub const ERASE_RETRY_MAX: Millis = HOUR;
/// An erasure is given up this long after its agent was removed: a platform that fails for a week has other troubles than
/// our storage.
pub const ERASE_GIVE_UP: Millis = 7 * DAY;

// ── sockets ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Sockets that one object keeps open: a few people with a few windows each. Every frame is sent to every one.
pub const SOCKETS_MAX: usize = 32;
/// When a client that was refused a socket may ask again: somebody may have closed a window by then.
pub const SOCKETS_RETRY: Millis = 30 * SECOND;

// ── transcripts and snapshots of agents (`domain.md` 11) ─────────────────────────────────────────────────────────

/// Events of an agent that are kept, and shown: the newest.
pub const TRANSCRIPT_KEPT: i64 = 10_000;
/// Older ones are dropped so many at a time: one statement in a hundred appends and more, and hardly more rows stored.
pub const TRANSCRIPT_STEP: i64 = 250;
/// An event's data as JSON text; of a larger one the beginning is kept.
pub const TRANSCRIPT_EVENT_BYTES: usize = 256 * 1024;
/// Events of one batch: what a busy agent says in some seconds, and a bound to the statements of one request.
pub const TRANSCRIPT_BATCH: usize = 1_000;
/// Events of a list that names no limit (`protocol.md` 1.4).
pub const TRANSCRIPT_LIST: usize = 500;
/// Most events of a list (`protocol.md` 1.4).
pub const TRANSCRIPT_LIST_MAX: usize = 1_000;
/// A list or a replay ends when it has grown to this: a thousand events of the largest size would be a quarter of a
/// gigabyte, and the isolate has 128 MB.
pub const TRANSCRIPT_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Events that are read at once: of the largest size they weigh 4 MB.
pub const TRANSCRIPT_PAGE: usize = 16;
/// Events that a new client of the live stream is shown: enough for its screen; the list has the rest.
pub const TRANSCRIPT_REPLAYED: i64 = 500;
/// A snapshot (`design.md` 9).
pub const SNAPSHOT_BYTES: usize = 32 * 1024 * 1024;
/// One row of a snapshot: half of what the platform allows (2 MB).
pub const SNAPSHOT_PART_BYTES: usize = 1024 * 1024;

// ── retention: nothing that is appended to grows for ever ────────────────────────────────────────────────────────

/// Attempts are kept this long.
pub const ATTEMPT_RETENTION: Millis = 90 * DAY;
/// Notifications and their deliveries are kept this long.
pub const NOTIFICATION_RETENTION: Millis = 90 * DAY;
/// The audit is kept this long.
pub const AUDIT_RETENTION: Millis = 365 * DAY;
/// Bead events are kept this long …
pub const EVENT_RETENTION: Millis = 90 * DAY;
/// … and at most so many of them.
pub const EVENTS_KEPT: u32 = 50_000;
/// An idle polecat or refinery without a hook is removed after this.
pub const IDLE_AGENT_RETENTION: Millis = DAY;

// ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Polecats are called this, in this order, each name once per town; then `Polecat-<n>`. One ASCII word each: the name
/// becomes part of a branch.
pub const POLECAT_NAMES: [&str; 20] = [
    "Toast", "Maple", "Birch", "Piston", "Gasket", "Ember", "Rivet", "Clutch", "Juniper", "Sprocket", "Cinder",
    "Flint", "Diesel", "Chrome", "Shale", "Axle", "Torque", "Dune", "Wick", "Rusty",
];

// ── work per tick: looks, stops and their leases ─────────────────────────────────────────────────────────────────

/// Lease of a look at agents: `/health` (5 s) and six calls of [`LOOK_TIMEOUT`] in sequence, with room to spare.
pub const LOOK_LEASE: Millis = 90 * SECOND;

/// How many agents one look asks about: as many as calls may run at once.
pub const LOOKS_AT_ONCE: usize = 6;

/// Lease of a stop: [`STOP_TIMEOUT`] and room to spare.
pub const STOP_LEASE: Millis = 15 * SECOND;

/// How many stops one tick sends.
pub const STOPS_AT_ONCE: u32 = 6;

/// A stop that was answered with an error is sent again after this long, doubled each time.
pub const STOP_RETRY: Millis = 30 * SECOND;

/// A stop that was never answered is forgotten after a day: its process has long gone with its container.
pub const STOP_RETENTION: Millis = DAY;

/// Room to spare beyond `boot_timeout_ms` in the lease of a health check.
pub const HEALTH_SLACK: Millis = 30 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn polecat_names_are_twenty_distinct_words_that_fit_into_a_branch() {
        let slugs: BTreeSet<String> = POLECAT_NAMES.iter().map(|n| n.to_ascii_lowercase()).collect();
        assert_eq!(slugs.len(), 20);
        assert_eq!(POLECAT_NAMES[0], "Toast");
        assert!(slugs.iter().all(|s| s.bytes().all(|b| b.is_ascii_lowercase())));
    }

    #[test]
    fn waits_never_shrink_and_lie_within_the_ranges_of_the_settings() {
        for list in [&BACKOFF_MS[..], &PROBE_MS[..]] {
            assert!(list.windows(2).all(|w| w[0] <= w[1]));
            assert!(list.iter().all(|ms| (MS_MIN..=MS_MAX).contains(ms)));
            assert!((LIST_ENTRIES_MIN..=LIST_ENTRIES_MAX).contains(&list.len()));
        }
    }

    #[test]
    fn a_bead_that_never_works_is_tried_at_0_2_7_17_and_47_minutes() {
        let mut at = 0;
        let mut tries = vec![0];
        for n in 1..MAX_ATTEMPTS as usize {
            at += BACKOFF_MS[(n - 1).min(BACKOFF_MS.len() - 1)];
            tries.push(at / MINUTE);
        }
        assert_eq!(tries, [0, 2, 7, 17, 47]);
    }

    #[test]
    fn one_call_always_stays_free_beside_the_starts() {
        const { assert!(STARTS_AT_ONCE < CALLS_AT_ONCE) }
    }
}
