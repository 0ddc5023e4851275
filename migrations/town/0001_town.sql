-- The rows of a town. Times are integer milliseconds, flags 0 or 1, ids lower-case UUID v4 text. Order comes from `seq`,
-- a per-town counter. Every list that a rule reads is an index, partial where the rule wants only a few rows.

CREATE TABLE town (
  id                     INTEGER PRIMARY KEY CHECK (id = 1),
  town_id                TEXT NOT NULL,
  name                   TEXT NOT NULL,
  owner_user_id          TEXT NOT NULL,
  mayor_agent_id         TEXT NOT NULL,
  created_at             INTEGER NOT NULL,
  -- slow start: how many starts may be in flight
  slow_start             INTEGER NOT NULL DEFAULT 1,
  -- town hold (throttle)
  hold_until             INTEGER,
  hold_cause             TEXT,
  hold_streak            INTEGER NOT NULL DEFAULT 0,
  -- drain
  draining_since         INTEGER,
  drain_nonce            TEXT,
  drain_instance         TEXT,
  -- when the container was last asked whether it is another one by now
  drain_asked_at         INTEGER,
  -- the container process last heard of, and the one whose drain ended last
  instance_id            TEXT,
  drained_instance       TEXT,
  -- the last proof, and the last proof of another bead than that: decides who is to blame for an infra failure
  last_proven_at         INTEGER,
  last_proven_bead       TEXT,
  other_proven_at        INTEGER,
  -- the last proof of the mayor, who has no bead: it breaks a row of failures like any other, and blames nobody
  mayor_proven_at        INTEGER,
  -- when the tokens in the container are to be renewed, and when it is to be told of changed settings: both count only
  -- while an attempt lives
  push_at                INTEGER,
  sync_at                INTEGER,
  -- open beads may stand above a cap that was lowered
  caps_lowered           INTEGER NOT NULL DEFAULT 0,
  -- bead.failed roll-up: when the last notice went out, and how many beads failed since
  rollup_last_at         INTEGER,
  rollup_count           INTEGER NOT NULL DEFAULT 0,
  rollup_beads           TEXT NOT NULL DEFAULT '[]',
  invariant_violations   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE counters (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
INSERT INTO counters (name, value) VALUES ('seq', 0);

CREATE TABLE config (
  id   INTEGER PRIMARY KEY CHECK (id = 1),
  json TEXT NOT NULL
) STRICT;

CREATE TABLE rigs (
  rig_id         TEXT PRIMARY KEY,
  seq            INTEGER NOT NULL,
  name           TEXT NOT NULL,
  git_url        TEXT NOT NULL,
  default_branch TEXT NOT NULL,
  config         TEXT NOT NULL DEFAULT '{}',
  created_at     INTEGER NOT NULL,
  last_proven_at INTEGER
) WITHOUT ROWID, STRICT;
CREATE UNIQUE INDEX rigs_by_name ON rigs (name);

CREATE TABLE beads (
  bead_id                  TEXT PRIMARY KEY,
  seq                      INTEGER NOT NULL,
  type                     TEXT NOT NULL,
  status                   TEXT NOT NULL,
  title                    TEXT NOT NULL,
  body                     TEXT,
  rig_id                   TEXT,
  parent_bead_id           TEXT,
  assignee_agent_bead_id   TEXT,
  priority                 TEXT NOT NULL,
  -- order within its rig: 0 critical … 3 low; 0 for every MR, which are served oldest first
  rank                     INTEGER NOT NULL,
  labels                   TEXT NOT NULL DEFAULT '[]',
  metadata                 TEXT NOT NULL DEFAULT '{}',
  -- what labels and edges mean for dispatch, kept on write: 1 = gt:held, a staged convoy, a triage request; a triage
  -- request that was given to a triage agent is 2
  held                     INTEGER NOT NULL DEFAULT 0,
  staged                   INTEGER NOT NULL DEFAULT 0,
  triage_request           INTEGER NOT NULL DEFAULT 0,
  open_blockers            INTEGER NOT NULL DEFAULT 0,
  -- charged attempts since the last success or redrive; failed attempts in a row, charged or not
  dispatch_attempts        INTEGER NOT NULL DEFAULT 0,
  failure_streak           INTEGER NOT NULL DEFAULT 0,
  last_dispatch_attempt_at INTEGER,
  last_failed_at           INTEGER,
  last_failure_charged     INTEGER NOT NULL DEFAULT 0,
  next_dispatch_at         INTEGER,
  review_rounds            INTEGER NOT NULL DEFAULT 0,
  review_not_before        INTEGER,
  -- the later of the two above while it is ahead; NULL once a tick has seen it pass
  not_before               INTEGER,
  -- health-checked trials of this bead in the breaker's present episode
  probes                   INTEGER NOT NULL DEFAULT 0,
  -- redrives by the mayor (people have no limit)
  agent_redrives           INTEGER NOT NULL DEFAULT 0,
  failure_reason           TEXT,
  failed_fingerprint       TEXT,
  -- when an in_progress bead was first seen without a live attempt
  orphaned_at              INTEGER,
  created_by               TEXT,
  created_at               INTEGER NOT NULL,
  updated_at               INTEGER NOT NULL,
  closed_at                INTEGER
) WITHOUT ROWID, STRICT;
CREATE INDEX beads_by_rig ON beads (rig_id, seq);
CREATE INDEX beads_by_parent ON beads (parent_bead_id) WHERE parent_bead_id IS NOT NULL;
-- the gate's queue: what may be dispatched as far as the bead itself is concerned
CREATE INDEX beads_ready ON beads (rig_id, type, rank, seq)
  WHERE status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0 AND open_blockers = 0 AND not_before IS NULL
    AND type IN ('issue', 'merge_request');
-- the same beads while a backoff is ahead of them
CREATE INDEX beads_waiting ON beads (rig_id, type, not_before)
  WHERE status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0 AND open_blockers = 0
    AND not_before IS NOT NULL AND type IN ('issue', 'merge_request');
CREATE INDEX beads_not_before ON beads (not_before) WHERE not_before IS NOT NULL;
-- for counting what waits, and for what
CREATE INDEX beads_held ON beads (bead_id) WHERE status = 'open' AND held = 1;
CREATE INDEX beads_blocked ON beads (bead_id) WHERE status = 'open' AND open_blockers > 0;
CREATE INDEX beads_staged ON beads (bead_id) WHERE status = 'open' AND staged = 1;
-- open triage requests, and the batch that a triage agent does: a few, or none
CREATE INDEX beads_triage ON beads (seq) WHERE triage_request > 0 AND status = 'open';
CREATE INDEX beads_batch ON beads (seq) WHERE created_by = 'patrol' AND status IN ('open', 'in_progress', 'in_review');
CREATE INDEX beads_unfinished ON beads (seq) WHERE status IN ('open', 'in_progress', 'in_review');
CREATE INDEX beads_in_progress ON beads (bead_id) WHERE status = 'in_progress';
CREATE INDEX beads_failed ON beads (seq) WHERE status = 'failed';
CREATE INDEX beads_probed ON beads (rig_id) WHERE probes > 0;
-- beads that a closing breaker sets free
CREATE INDEX beads_failing ON beads (rig_id) WHERE status = 'open' AND failure_streak > 0;
CREATE INDEX beads_charged ON beads (dispatch_attempts) WHERE status = 'open' AND dispatch_attempts > 0;

CREATE TABLE bead_dependencies (
  bead_id            TEXT NOT NULL,
  depends_on_bead_id TEXT NOT NULL,
  kind               TEXT NOT NULL,
  PRIMARY KEY (bead_id, kind, depends_on_bead_id)
) WITHOUT ROWID, STRICT;
CREATE INDEX dependants ON bead_dependencies (depends_on_bead_id, kind);

CREATE TABLE bead_events (
  seq           INTEGER PRIMARY KEY,
  bead_event_id TEXT NOT NULL,
  bead_id       TEXT NOT NULL,
  agent_id      TEXT,
  event_type    TEXT NOT NULL,
  old_value     TEXT,
  new_value     TEXT,
  metadata      TEXT NOT NULL DEFAULT '{}',
  created_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX bead_events_by_bead ON bead_events (bead_id, seq);

-- satellite of a merge_request bead
CREATE TABLE merge_requests (
  bead_id         TEXT PRIMARY KEY,
  source_bead_id  TEXT NOT NULL,
  source_agent_id TEXT,
  branch          TEXT NOT NULL,
  target_branch   TEXT NOT NULL,
  pr_url          TEXT,
  summary         TEXT,
  verdict         TEXT,
  message         TEXT,
  commit_sha      TEXT
) WITHOUT ROWID, STRICT;
CREATE INDEX merge_requests_by_source ON merge_requests (source_bead_id);

-- satellite of an escalation bead
CREATE TABLE escalations (
  bead_id             TEXT PRIMARY KEY,
  seq                 INTEGER NOT NULL,
  source_rig_id       TEXT NOT NULL,
  source_agent_id     TEXT,
  severity            TEXT NOT NULL,
  category            TEXT,
  message             TEXT NOT NULL,
  -- 1 = raised by a notification: sends no mail of its own and is not raised again
  by_notification     INTEGER NOT NULL DEFAULT 0,
  re_escalation_count INTEGER NOT NULL DEFAULT 0,
  next_escalation_at  INTEGER,
  created_at          INTEGER NOT NULL,
  acknowledged_at     INTEGER
) WITHOUT ROWID, STRICT;
CREATE INDEX escalations_by_seq ON escalations (seq);
CREATE INDEX escalations_open ON escalations (seq) WHERE acknowledged_at IS NULL;
CREATE INDEX escalations_due ON escalations (next_escalation_at) WHERE next_escalation_at IS NOT NULL;

CREATE TABLE agents (
  agent_id              TEXT PRIMARY KEY,
  seq                   INTEGER NOT NULL,
  rig_id                TEXT,
  role                  TEXT NOT NULL,
  name                  TEXT NOT NULL,
  identity              TEXT NOT NULL,
  status                TEXT NOT NULL,
  current_hook_bead_id  TEXT,
  -- the mayor's own, since its attempts have no bead
  dispatch_attempts     INTEGER NOT NULL DEFAULT 0,
  failure_streak        INTEGER NOT NULL DEFAULT 0,
  next_dispatch_at      INTEGER,
  last_activity_at      INTEGER,
  -- while it is stalled: when it is idle again at the latest
  stalled_until         INTEGER,
  checkpoint            TEXT,
  status_message        TEXT,
  status_updated_at     INTEGER,
  created_at            INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE UNIQUE INDEX agents_by_identity ON agents (identity);
CREATE UNIQUE INDEX agents_by_hook ON agents (current_hook_bead_id) WHERE current_hook_bead_id IS NOT NULL;
CREATE INDEX agents_by_rig ON agents (rig_id, role, seq);
-- polecats that could take a bead now
CREATE INDEX agents_free ON agents (rig_id, role, seq) WHERE status = 'idle' AND current_hook_bead_id IS NULL;
CREATE INDEX agents_by_name ON agents (name, role);
CREATE INDEX agents_stalled ON agents (stalled_until) WHERE stalled_until IS NOT NULL;
-- agents that nobody needs, longest idle first
CREATE INDEX agents_free_since ON agents (coalesce(last_activity_at, created_at))
  WHERE status = 'idle' AND current_hook_bead_id IS NULL AND role <> 'mayor';

CREATE TABLE attempts (
  attempt_id      TEXT PRIMARY KEY,
  seq             INTEGER NOT NULL,
  bead_id         TEXT,
  agent_id        TEXT NOT NULL,
  agent_name      TEXT NOT NULL,
  rig_id          TEXT,
  role            TEXT NOT NULL,
  booked_at       INTEGER NOT NULL,
  lease_until     INTEGER,
  accepted_at     INTEGER,
  proven_at       INTEGER,
  finished_at     INTEGER,
  outcome         TEXT NOT NULL,
  class           TEXT,
  code            TEXT,
  reason          TEXT,
  status_code     INTEGER,
  fingerprint     TEXT,
  charged         INTEGER NOT NULL,
  probe           INTEGER NOT NULL DEFAULT 0,
  generation      INTEGER NOT NULL DEFAULT 0,
  instance_id     TEXT,
  duration_ms     INTEGER,
  -- the breaker scope in which a failure of this attempt counts; NULL = in none
  counts_in       TEXT,
  -- the answer of the start was lost: what to report if the look finds nothing
  lost_code       TEXT,
  lost_reason     TEXT,
  -- the start was sent again because a look found that it had never arrived
  repeated        INTEGER NOT NULL DEFAULT 0,
  -- looks that found nothing clear, in a row
  looks           INTEGER NOT NULL DEFAULT 0,
  -- a look is under way until then (its lease)
  look_until      INTEGER,
  -- when its process was last told to stop because of a late voice
  late_stop_at    INTEGER,
  last_heartbeat_at INTEGER,
  -- the last thing that its agent did, as its heartbeats tell; NULL = never told
  last_event_at   INTEGER,
  -- inactivity: the last thing done when the town last took a step, which step that was, and its last nudge
  quiet_since     INTEGER,
  quiet_step      INTEGER NOT NULL DEFAULT 0,
  nudged_at       INTEGER,
  -- when the registry handed it to another container to go on with, and 1 until that was heard of
  revived_at      INTEGER,
  reviving        INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;
CREATE INDEX attempts_by_seq ON attempts (seq);
CREATE INDEX attempts_by_bead ON attempts (bead_id, seq);
CREATE INDEX attempts_by_agent ON attempts (agent_id, seq);
-- a bead and an agent have at most one live attempt: the schema holds it, too
CREATE UNIQUE INDEX attempts_live ON attempts (agent_id) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX attempts_live_bead ON attempts (bead_id) WHERE finished_at IS NULL AND bead_id IS NOT NULL;
CREATE INDEX attempts_counted ON attempts (counts_in, finished_at) WHERE counts_in IS NOT NULL;
CREATE INDEX attempts_failed ON attempts (finished_at) WHERE outcome = 'failed';
CREATE INDEX attempts_by_cause ON attempts (fingerprint, bead_id) WHERE fingerprint IS NOT NULL;

-- failures by cause, kept on write, so that a thousand failures can be told in a few lines
CREATE TABLE causes (
  fingerprint TEXT PRIMARY KEY,
  code        TEXT NOT NULL,
  class       TEXT NOT NULL,
  failures    INTEGER NOT NULL,
  beads       INTEGER NOT NULL,
  first_seen  INTEGER NOT NULL,
  last_seen   INTEGER NOT NULL,
  sample      TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX causes_recent ON causes (last_seen);

-- processes that must not go on running; `due_at` NULL = wait until the container answers again
CREATE TABLE stops (
  stop_id    TEXT PRIMARY KEY,
  attempt_id TEXT NOT NULL,
  agent_id   TEXT NOT NULL,
  bead_id    TEXT,
  instance_id TEXT,
  booked_at  INTEGER NOT NULL,
  due_at     INTEGER,
  -- a stop is under way until then (its lease)
  sent_until INTEGER,
  tries      INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;
CREATE INDEX stops_due ON stops (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX stops_sent ON stops (sent_until) WHERE sent_until IS NOT NULL;
CREATE INDEX stops_parked ON stops (booked_at) WHERE due_at IS NULL;
CREATE INDEX stops_by_agent ON stops (agent_id);
CREATE UNIQUE INDEX stops_by_attempt ON stops (attempt_id);
CREATE INDEX stops_by_bead ON stops (bead_id) WHERE bead_id IS NOT NULL;

CREATE TABLE breakers (
  scope             TEXT PRIMARY KEY,
  state             TEXT NOT NULL,
  generation        INTEGER NOT NULL DEFAULT 0,
  -- what opened the present or last episode
  opened_at         INTEGER,
  cause_code        TEXT,
  cause_text        TEXT,
  blamed_role       TEXT,
  blamed_rig        TEXT,
  trial_ms          INTEGER NOT NULL DEFAULT 0,
  -- the episode was told to people
  told              INTEGER NOT NULL DEFAULT 0,
  still_open_told   INTEGER NOT NULL DEFAULT 0,
  -- probing
  next_probe_at     INTEGER,
  delay_step        INTEGER NOT NULL DEFAULT 0,
  failed_probes     INTEGER NOT NULL DEFAULT 0,
  health_until      INTEGER,
  probe_attempt_id  TEXT,
  probe_bead_id     TEXT,
  probe_booked_at   INTEGER,
  probe_proven      INTEGER NOT NULL DEFAULT 0,
  probe_lease_until INTEGER,
  trials            INTEGER NOT NULL DEFAULT 0,
  -- a probe may be brought forward once per scheduled one, and three times an hour
  forwarded         INTEGER NOT NULL DEFAULT 0,
  forwards          TEXT NOT NULL DEFAULT '[]',
  asked_at          INTEGER,
  -- closing
  closed_at         INTEGER,
  settled           INTEGER NOT NULL DEFAULT 1,
  -- by hand
  override_mode     TEXT,
  override_actor    TEXT,
  override_reason   TEXT,
  override_until    INTEGER
) WITHOUT ROWID, STRICT;

CREATE TABLE notifications (
  id         TEXT PRIMARY KEY,
  seq        INTEGER NOT NULL,
  dedupe_key TEXT NOT NULL,
  kind       TEXT NOT NULL,
  severity   TEXT NOT NULL,
  scope      TEXT,
  bead_id    TEXT,
  text       TEXT NOT NULL,
  facts      TEXT NOT NULL,
  mail_id    TEXT,
  created_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE UNIQUE INDEX notifications_once ON notifications (dedupe_key);
CREATE INDEX notifications_by_seq ON notifications (seq);

CREATE TABLE deliveries (
  delivery_id     TEXT PRIMARY KEY,
  notification_id TEXT NOT NULL,
  channel         TEXT NOT NULL,
  state           TEXT NOT NULL,
  attempts        INTEGER NOT NULL DEFAULT 0,
  next_attempt_at INTEGER,
  -- a post is under way until then (its lease)
  sent_until      INTEGER,
  delivered_at    INTEGER,
  last_error      TEXT
) WITHOUT ROWID, STRICT;
CREATE INDEX deliveries_of ON deliveries (notification_id);
CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE state = 'pending' AND next_attempt_at IS NOT NULL;

CREATE TABLE mail (
  id            TEXT PRIMARY KEY,
  seq           INTEGER NOT NULL,
  from_agent_id TEXT NOT NULL,
  to_agent_id   TEXT NOT NULL,
  subject       TEXT NOT NULL,
  body          TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  delivered_at  INTEGER,
  -- 1 = a person's message to the mayor: the mayor is started for it
  wakes         INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;
CREATE INDEX mail_wakes ON mail (seq) WHERE wakes = 1 AND delivered_at IS NULL;
CREATE INDEX mail_by_seq ON mail (seq);
CREATE INDEX mail_to ON mail (to_agent_id, seq);
CREATE INDEX mail_undelivered ON mail (to_agent_id, seq) WHERE delivered_at IS NULL;

-- a paced redrive of many beads, and the beads still to come
CREATE TABLE redrives (
  redrive_id  TEXT PRIMARY KEY,
  seq         INTEGER NOT NULL,
  actor       TEXT NOT NULL,
  reason      TEXT NOT NULL,
  fingerprint TEXT,
  state       TEXT NOT NULL,
  next_at     INTEGER,
  -- one of its beads was proven: the pace may rise
  proven      INTEGER NOT NULL DEFAULT 0,
  created_at  INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX redrives_due ON redrives (next_at) WHERE state = 'running';
CREATE INDEX redrives_ended ON redrives (created_at) WHERE state <> 'running';
CREATE TABLE redrive_beads (
  redrive_id TEXT NOT NULL,
  position   INTEGER NOT NULL,
  bead_id    TEXT NOT NULL,
  -- waiting, redriven, proven, failed, skipped
  state      TEXT NOT NULL,
  -- with what it failed again
  fingerprint TEXT,
  PRIMARY KEY (redrive_id, position)
) WITHOUT ROWID, STRICT;
CREATE INDEX redrive_beads_of ON redrive_beads (bead_id) WHERE state IN ('redriven', 'proven');
CREATE INDEX redrive_beads_waiting ON redrive_beads (redrive_id, position) WHERE state = 'waiting';

CREATE TABLE audit (
  audit_id TEXT PRIMARY KEY,
  seq      INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  actor    TEXT NOT NULL,
  action   TEXT NOT NULL,
  subject  TEXT NOT NULL,
  reason   TEXT NOT NULL,
  before   TEXT,
  after    TEXT
) WITHOUT ROWID, STRICT;
CREATE INDEX audit_by_seq ON audit (seq);
