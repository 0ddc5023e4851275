// What a town must be when its faults are over, read from its raw rows, the fake container's ledger of real processes,
// what the webhook received and what the registry holds. The numbers are those of `domain.md` 10.

const LIVE = (a) => a.finished_at === null;
const OVER = ["closed", "failed"];

/** Everything that is wrong, in words. */
export function broken({ rows, reports, towns, rigs, town, fake, receiver }) {
  return [
    ...bonds(rows),
    ...ends(rows),
    ...charges(rows),
    ...edges(rows),
    ...notices(rows, receiver),
    ...processes(rows, fake),
    ...registry(rows, reports, towns, rigs, town),
  ];
}

/** When something is due at the latest, as far as rows alone tell; null if nothing is. */
export function naive(rows, now) {
  if (rows.town[0].draining_since !== null || rows.town[0].hold_until !== null) return null;
  const busy = new Set(rows.attempts.filter(LIVE).map((a) => a.agent_id));
  const times = [
    ...rows.attempts.filter(LIVE).map((a) => Math.max(a.lease_until, a.look_until ?? 0)),
    ...rows.deliveries.filter((d) => d.state === "pending").map((d) => d.next_attempt_at),
    ...rows.pull_requests.map((p) => p.due_at),
    ...rows.stops.filter((s) => !busy.has(s.agent_id)).map((s) => s.sent_until ?? s.due_at),
    ...rows.departed.map((d) => d.due_at),
    ...rows.breakers.filter((b) => b.state === "open").map((b) => b.health_until),
  ];
  const shut = rows.breakers.some((b) => b.state !== "closed");
  const full = rows.attempts.some((a) => LIVE(a) && a.proven_at === null);
  if (!shut && !full && busy.size === 0) times.push(...rows.beads.filter(waits).map((b) => b.not_before ?? now));
  const due = times.filter((t) => t !== null);
  return due.length ? Math.max(now, Math.min(...due)) : null;
}

const waits = (b) => b.status === "open" && ["issue", "merge_request"].includes(b.type) && !b.held && b.open_blockers === 0;

/** 1, 2, 11: attempts, hooks, assignees and statuses agree. */
export function bonds(rows) {
  const wrong = [];
  const bead = new Map(rows.beads.map((b) => [b.bead_id, b]));
  const agent = new Map(rows.agents.map((a) => [a.agent_id, a]));
  for (const a of rows.attempts.filter(LIVE)) {
    const [b, who] = [bead.get(a.bead_id), agent.get(a.agent_id)];
    if (b?.status !== "in_progress" || b.assignee_agent_bead_id !== a.agent_id) wrong.push(`1: attempt ${a.attempt_id} lives, its bead does not say so`);
    if (who?.status !== "working" || who.current_hook_bead_id !== a.bead_id) wrong.push(`1: attempt ${a.attempt_id} lives, its agent does not say so`);
  }
  for (const a of rows.agents) {
    if (a.current_hook_bead_id && bead.get(a.current_hook_bead_id)?.assignee_agent_bead_id !== a.agent_id) wrong.push(`1: agent ${a.name} is hooked to a bead of another`);
    if (a.role !== "mayor" && (a.status === "working") !== rows.attempts.some((t) => LIVE(t) && t.agent_id === a.agent_id)) wrong.push(`1: agent ${a.name} is ${a.status}, against its attempts`);
  }
  for (const b of rows.beads) {
    if (b.assignee_agent_bead_id && agent.get(b.assignee_agent_bead_id)?.current_hook_bead_id !== b.bead_id) wrong.push(`1: bead ${b.title} is assigned to an agent that is not hooked`);
    const watched = rows.pull_requests.some((p) => p.bead_id === b.bead_id);
    if (b.status === "in_progress" && !watched && !rows.attempts.some((t) => LIVE(t) && t.bead_id === b.bead_id)) wrong.push(`2: bead ${b.title} is in progress by nobody`);
    if (b.status === "in_review" && !rows.merge_requests.some((m) => m.source_bead_id === b.bead_id && bead.get(m.bead_id)?.status !== "closed")) wrong.push(`2: bead ${b.title} is in review by nobody`);
  }
  return wrong;
}

/** Every bead is closed, or failed with its reason; 8: every failure has class, code and reason; 14: nothing is due. */
function ends(rows) {
  const wrong = [];
  for (const b of rows.beads.filter((b) => b.type !== "escalation")) {
    const reason = b.failure_reason && JSON.parse(b.failure_reason);
    if (!OVER.includes(b.status)) wrong.push(`14: bead ${b.title} (${b.type}) ended ${b.status}`);
    if (b.status === "failed" && !(reason?.code && reason.message && reason.source)) wrong.push(`8: bead ${b.title} failed without a reason`);
    if (b.status === "failed" && b.type === "issue" && reason.code !== "cancelled") wrong.push(`14: bead ${b.title} failed: ${b.failure_reason}`);
  }
  for (const a of rows.attempts) {
    if (LIVE(a)) wrong.push(`14: attempt ${a.attempt_id} never ended`);
    if (a.outcome === "failed" && !(a.class && a.code && a.reason)) wrong.push(`8: attempt ${a.attempt_id} failed without class, code and reason`);
  }
  for (const b of rows.breakers.filter((b) => b.state !== "closed")) wrong.push(`14: breaker ${b.scope} is ${b.state}`);
  for (const d of rows.deliveries.filter((d) => d.state === "pending" && d.channel === "webhook")) wrong.push(`14: delivery ${d.delivery_id} is due`);
  for (const d of rows.departed) wrong.push(`14: the store of agent ${d.agent_id} is still to be erased`);
  for (const s of rows.stops) wrong.push(`14: a stop of attempt ${s.attempt_id} is owed`);
  return wrong;
}

/** 3: what a bead was charged is the recount since its last success or redrive. */
function charges(rows) {
  const wrong = [];
  for (const b of rows.beads) {
    const own = rows.attempts.filter((a) => a.bead_id === b.bead_id);
    const success = Math.max(0, ...own.filter((a) => a.outcome === "succeeded").map((a) => a.finished_at));
    const redriven = Math.max(0, ...rows.bead_events.filter((e) => e.bead_id === b.bead_id && e.event_type === "redriven").map((e) => e.created_at));
    const counted = own.filter((a) => a.charged && a.outcome !== "succeeded" && a.booked_at >= Math.max(success, redriven)).length;
    // A success that came in late undoes what was booked after it, too: then the bead says 0.
    if (b.dispatch_attempts !== counted && b.dispatch_attempts !== 0) wrong.push(`3: bead ${b.title} says ${b.dispatch_attempts} attempts, a recount ${counted}`);
  }
  return wrong;
}

/** 12: open blockers are those of a recount. */
function edges(rows) {
  const status = new Map(rows.beads.map((b) => [b.bead_id, b.status]));
  return rows.beads
    .filter((b) => b.open_blockers !== rows.bead_dependencies.filter((d) => d.kind === "blocks" && d.bead_id === b.bead_id && status.get(d.depends_on_bead_id) !== "closed").length)
    .map((b) => `12: bead ${b.title} says ${b.open_blockers} open blockers`);
}

/** 9: one notice per key, opened is followed by closed; each webhook arrived, and every repetition was the same. */
function notices(rows, receiver) {
  const wrong = [];
  const keys = rows.notifications.map((n) => n.dedupe_key);
  if (new Set(keys).size !== keys.length) wrong.push("9: two notifications have one key");
  for (const key of keys.filter((k) => k.endsWith(":opened"))) {
    if (!keys.includes(key.replace(":opened", ":closed"))) wrong.push(`9: ${key} was never followed by closed`);
  }
  const bodies = new Map();
  for (const d of receiver.deliveries) {
    if (!d.verified) wrong.push("a webhook with a wrong signature arrived");
    if ((bodies.get(d.json.id) ?? d.raw) !== d.raw) wrong.push(`webhook ${d.json.id} was repeated with another body`);
    bodies.set(d.json.id, d.raw);
  }
  for (const d of rows.deliveries.filter((d) => d.channel === "webhook")) {
    if (d.state !== "delivered") wrong.push(`a webhook is ${d.state}`);
    if (!bodies.has(d.notification_id)) wrong.push(`webhook ${d.notification_id} is said to be delivered and never arrived`);
  }
  return wrong;
}

/**
 * Nothing twice: by the container's own ledger no bead had two processes at a time, and no start killed a process but one
 * whose work was done and which had not left yet.
 */
function processes(rows, fake) {
  const wrong = [];
  const bead = new Map(rows.attempts.map((a) => [a.attempt_id, a.bead_id]));
  const outcome = new Map(rows.attempts.map((a) => [a.attempt_id, a.outcome]));
  const last = new Map();
  const of = new Map();
  for (const start of fake.starts) {
    const id = bead.get(start.dispatchId);
    if (!id) wrong.push(`a process was started for dispatch ${start.dispatchId}, of which the rows know nothing`);
    const old = of.get(start.agentId)?.dispatchId;
    if (start.killed && outcome.get(old) !== "succeeded") wrong.push(`the start ${start.dispatchId} killed ${old}, which was alive (${outcome.get(old)})`);
    of.set(start.agentId, start);
    const before = last.get(id);
    if (before && (before.ended === null || before.ended > start.at)) wrong.push(`bead ${id} was started (${start.dispatchId}) while it ran (${before.dispatchId})`);
    last.set(id, start);
  }
  const sent = new Map();
  for (const r of fake.requests.filter((r) => r.kind === "start")) sent.set(r.body.dispatchId, (sent.get(r.body.dispatchId) ?? 0) + 1);
  // Decision 005: a start that a look did not find is sent once more.
  for (const [id, times] of sent) if (times > 2) wrong.push(`the start ${id} was sent ${times} times`);
  return wrong;
}

/** The registry and the town agree: on the town, its rigs, and the breaker that the registry was told of. */
function registry(rows, reports, towns, rigs, town) {
  const wrong = [];
  const same = (a, b) => JSON.stringify([...a].sort()) === JSON.stringify([...b].sort());
  if (!same(towns.map((t) => t.id), [town])) wrong.push(`the registry lists ${towns.length} towns`);
  if (!same(rigs.map((r) => r.id), rows.rigs.map((r) => r.rig_id))) wrong.push("the registry and the town disagree on the rigs");
  const told = rows.counters.find((c) => c.name === "fleet_told");
  const breaker = rows.breakers.find((b) => b.scope === "town")?.state ?? "closed";
  if (told && reports[0]?.breaker !== breaker) wrong.push(`the registry believes the breaker ${reports[0]?.breaker}, it is ${breaker}`);
  return wrong;
}
