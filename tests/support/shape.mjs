// What answers look like: the JSON of api.md and protocol.md 2, checked key by key.
//
// A type is `string, int, number, bool, time, uuid, object, any`, with `?` if null is allowed; `[type]` is a list; an
// object names its keys. Keys beyond these are tolerated, as clients must; a missing key is an error, null is not.

import assert from "node:assert/strict";

const TYPES = {
  string: (v) => typeof v === "string",
  int: (v) => Number.isInteger(v),
  number: (v) => typeof v === "number",
  bool: (v) => typeof v === "boolean",
  time: (v) => typeof v === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(v) && Number.isFinite(Date.parse(v)),
  uuid: (v) => typeof v === "string" && /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(v),
  object: (v) => typeof v === "object" && v !== null && !Array.isArray(v),
  any: () => true,
};

export function looksLike(value, type, where = "data") {
  if (typeof type === "string") {
    const nullable = type.endsWith("?");
    if (nullable && value === null) return;
    const check = TYPES[nullable ? type.slice(0, -1) : type];
    assert.ok(check !== undefined, `no such type: ${type}`);
    assert.ok(value !== undefined && check(value), `${where} is ${JSON.stringify(value)}, not ${type}`);
  } else if (Array.isArray(type)) {
    assert.ok(Array.isArray(value), `${where} is ${JSON.stringify(value)}, not a list`);
    value.forEach((element, i) => looksLike(element, type[0], `${where}[${i}]`));
  } else {
    looksLike(value, "object", where);
    for (const [key, inner] of Object.entries(type)) {
      assert.ok(key in value, `${where}.${key} is missing in ${JSON.stringify(value)}`);
      looksLike(value[key], inner, `${where}.${key}`);
    }
  }
}

export const Town = { id: "uuid", name: "string", owner_user_id: "string", created_at: "time", updated_at: "time" };

export const Rig = {
  id: "uuid",
  town_id: "uuid",
  name: "string",
  git_url: "string",
  default_branch: "string",
  platform_integration_id: "string?",
  created_at: "time",
  updated_at: "time",
};

export const Bead = {
  id: "uuid",
  bead_id: "uuid",
  type: "string",
  status: "string",
  title: "string",
  body: "string?",
  rig_id: "string?",
  parent_bead_id: "string?",
  assignee_agent_bead_id: "string?",
  priority: "string",
  labels: ["string"],
  metadata: "object",
  dispatch_attempts: "int",
  last_dispatch_attempt_at: "time?",
  created_by: "string?",
  created_at: "time",
  updated_at: "time",
  closed_at: "time?",
};

export const Agent = {
  id: "uuid",
  rig_id: "string?",
  role: "string",
  name: "string",
  identity: "string",
  status: "string",
  current_hook_bead_id: "string?",
  dispatch_attempts: "int",
  last_activity_at: "time?",
  checkpoint: "any",
  created_at: "time",
  agent_status_message: "string?",
  agent_status_updated_at: "time?",
};

export const SlingResult = { bead: Bead, agent: Agent };

export const BeadEvent = {
  bead_event_id: "string",
  bead_id: "string",
  agent_id: "string?",
  event_type: "string",
  old_value: "string?",
  new_value: "string?",
  metadata: "object",
  created_at: "time",
};

export const Mail = {
  id: "string",
  from_agent_id: "string",
  to_agent_id: "string",
  subject: "string",
  body: "string",
  delivered: "bool",
  created_at: "time",
  delivered_at: "time?",
};

export const Escalation = {
  id: "uuid",
  source_rig_id: "string",
  source_agent_id: "string?",
  severity: "string",
  category: "string?",
  message: "string",
  acknowledged: "int",
  re_escalation_count: "int",
  created_at: "time",
  acknowledged_at: "time?",
  // the superset of protocol.md 7.1 #1
  bead_id: "uuid",
  type: "string",
  title: "string",
  status: "string",
  priority: "string",
};

export const Prime = {
  agent: Agent,
  hooked_bead: "object?",
  undelivered_mail: [Mail],
  open_beads: [Bead],
  rework_context: "object?",
  pr_fixup_context: "object?",
  pr_conflict_context: "object?",
};

export const Attempt = {
  attempt_id: "uuid",
  bead_id: "uuid?",
  agent_id: "uuid",
  agent_name: "string",
  rig_id: "string?",
  role: "string",
  outcome: "string",
  class: "string?",
  code: "string?",
  reason: "string?",
  status_code: "int?",
  fingerprint: "string?",
  charged: "bool",
  probe: "bool",
  generation: "int",
  booked_at: "time",
  lease_until: "time?",
  accepted_at: "time?",
  proven_at: "time?",
  finished_at: "time?",
  duration_ms: "int?",
};

export const Hold = { code: "string", text: "string", until: "time?", lifts: "string", ref: "object" };

export const Explanation = {
  bead_id: "uuid",
  status: "string",
  verdict: "string",
  summary: "string",
  holds: [Hold],
  next_eligible_at: "time?",
  attempts: { charged: "int", free: "int", cap: "int" },
  review_rounds: "int",
  live_attempt: "object?",
  last_attempts: [Attempt],
  failure_reason: "any",
};

export const Breaker = {
  scope: "string",
  state: "string",
  effective: "string",
  generation: "int",
  cause: "object?",
  failures_in_window: "int",
  in_a_row: "int",
  threshold: "int",
  window_ms: "int",
  opened_at: "time?",
  next_probe_at: "time?",
  failed_probes: "int",
  probe: "object?",
  closed_at: "time?",
  override: "object?",
};

export const Dispatch = {
  now: "time",
  next_wake: "time?",
  alarm: "time?",
  breakers: [Breaker],
  hold: "object?",
  slow_start: "int",
  ready: "int",
  running: "int",
  in_flight: [Attempt],
  holds: [{ code: "string", beads: "int" }],
  failures: ["object"],
  limits: { max_agents: "int", max_polecats_per_rig: "int", max_starts_in_flight: "int" },
  draining: "bool",
  invariant_violations: "int",
  cost: { since: "time", ticks: "int", container_calls: "int", rows_read: "int", rows_written: "int", verbs: "object" },
};

export const Notification = {
  id: "string",
  dedupe_key: "string",
  kind: "string",
  severity: "string",
  scope: "string?",
  bead_id: "string?",
  text: "string",
  facts: "any",
  created_at: "time",
  deliveries: [
    {
      channel: "string",
      state: "string",
      attempts: "int",
      next_attempt_at: "time?",
      delivered_at: "time?",
      last_error: "string?",
    },
  ],
};

export const AuditEntry = {
  at: "time",
  actor: "string",
  action: "string",
  subject: "any",
  reason: "string?",
  before: "any",
  after: "any",
};
