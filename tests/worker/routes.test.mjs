// Every route: what a right request answers, and that a wrong one gets its own status and changes nothing.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import * as shape from "../support/shape.mjs";
import { looksLike } from "../support/shape.mjs";

let h;
let fake;
before(async () => {
  fake = await FakeContainer.start();
  h = await Harness.start({ container: fake });
});
after(async () => {
  await h?.stop();
  await fake?.kill();
});

/** A town with a rig, an idle polecat and a bead that waits for nobody (`gt:held`). */
async function quiet() {
  const town = await h.createTown();
  const rig = await town.createRig();
  const base = `/rigs/${rig.id}`;
  const bead = await town.ok("POST", `${base}/beads`, { type: "issue", title: "Held", labels: ["gt:held"] });
  const agent = await town.ok("POST", `${base}/agents/get-or-create`, { role: "polecat" });
  return { town, rig, base, bead, agent };
}

/** The same, with a bead that runs: slung, booked, started; its agent speaks with `agent` options. */
async function working() {
  const c = await quiet();
  const { bead, agent } = await c.town.rig(c.rig.id).sling({ title: "Run" });
  await c.town.runAlarms();
  const start = fake.starts.findLast((s) => s.agentId === agent.id);
  assert.ok(start, "the agent was started");
  return { ...c, bead, agent, dispatch: start.dispatchId, speaks: speaker(c, agent.id, start.dispatchId) };
}

/** The same, with the polecat done: the bead in review and the rig's refinery running on its MR. */
async function reviewing() {
  const c = await working();
  await c.town.ok("POST", `${c.base}/agents/${c.agent.id}/done`, { branch: "gt/toast/x" }, c.speaks);
  await c.town.runAlarms();
  const [mr] = await c.town.ok("GET", `${c.base}/beads?type=merge_request`);
  assert.equal(mr.status, "in_progress", JSON.stringify(mr));
  const refinery = fake.starts.findLast((s) => s.role === "refinery");
  return { ...c, mr, refinery, speaks: speaker(c, refinery.agentId, refinery.dispatchId) };
}

/** The same quiet town with a bead that has failed. */
async function failed() {
  const c = await working();
  await c.town.ok("POST", `/beads/${c.bead.id}/cancel`, { reason: "not wanted" });
  return c;
}

/** The same with the town's breaker open: one start was refused by a gateway. */
async function open() {
  const c = await quiet();
  await c.town.ok("PATCH", "/config", { breaker: { consecutive: 1 } });
  fake.next("start", { answer: { status: 502, body: "Bad gateway" } });
  await c.town.rig(c.rig.id).sling({ title: "Fails" });
  await c.town.runAlarms();
  assert.equal((await c.town.ok("GET", "/breakers/town")).state, "open");
  return c;
}

function speaker({ town, rig }, agentId, dispatchId) {
  return {
    token: town.containerToken,
    headers: { "X-Gastown-Agent-Id": agentId, "X-Gastown-Rig-Id": rig.id, "X-Gastown-Dispatch-Id": dispatchId },
  };
}

const container = ({ town }) => ({ token: town.containerToken });
const spoken = (c) => c.speaks;

const BEAD = { type: "issue", title: "Do it" };
const LONG = "x".repeat(501);
const HUGE = "x".repeat(65 * 1024);
const WRONG = [400, 422];
const uuid = randomUUID();

// name: [method, path, body, what it answers]; `given` makes the town, `as` the caller (default: the owner).
// `refuses`: [why, status, {body, path, as}] beyond what every route refuses.
const RIG_BASE = [
  {
    route: ["POST", (c) => `${c.base}/beads`, () => BEAD],
    answers: [201, shape.Bead],
    refuses: [
      ["without a title", WRONG, { body: { type: "issue" } }],
      ["with an empty title", WRONG, { body: { type: "issue", title: "" } }],
      ["with a title of 501 bytes", 422, { body: { ...BEAD, title: LONG } }],
      ["with a body over 64 KB", 422, { body: { ...BEAD, body: HUGE } }],
      ["with an unknown type", WRONG, { body: { ...BEAD, type: "epic" } }],
      ["with an unknown priority", WRONG, { body: { ...BEAD, priority: "urgent" } }],
      ["with a title that is a number", 400, { body: { ...BEAD, title: 7 } }],
      ["with a dependency that does not exist", [404, 422], { body: { ...BEAD, depends_on: [uuid] } }],
      ["with a dependency that is no uuid", WRONG, { body: { ...BEAD, depends_on: ["x"] } }],
    ],
  },
  {
    route: ["GET", (c) => `${c.base}/beads`],
    answers: [200, [shape.Bead]],
    refuses: [
      ["with an unknown status", 400, { path: (c) => `${c.base}/beads?status=done` }],
      ["with a negative limit", 400, { path: (c) => `${c.base}/beads?limit=-1` }],
      ["with an offset that is no number", 400, { path: (c) => `${c.base}/beads?offset=x` }],
    ],
  },
  {
    route: ["GET", (c) => `${c.base}/beads/${c.bead.id}`],
    answers: [200, shape.Bead],
    refuses: [["for an unknown bead", 404, { path: (c) => `${c.base}/beads/${uuid}` }]],
  },
  {
    route: ["PATCH", (c) => `${c.base}/beads/${c.bead.id}/status`, () => ({ status: "closed", agent_id: "me" })],
    answers: [200, shape.Bead],
    refuses: [
      ["to in_progress, which only dispatch may set", 422, { body: { status: "in_progress", agent_id: "me" } }],
      ["to a status that does not exist", WRONG, { body: { status: "done", agent_id: "me" } }],
      ["for an unknown bead", 404, { path: (c) => `${c.base}/beads/${uuid}/status` }],
    ],
  },
  {
    route: ["POST", (c) => `${c.base}/beads/${c.bead.id}/close`, (c) => ({ agent_id: c.agent.id })],
    answers: [200, shape.Bead],
    refuses: [
      ["without an agent", WRONG, { body: {} }],
      ["for an unknown bead", 404, { path: (c) => `${c.base}/beads/${uuid}/close` }],
    ],
  },
  {
    route: ["DELETE", (c) => `${c.base}/beads/${c.bead.id}`],
    answers: [200, { deleted: "bool" }],
    refuses: [["for an unknown bead", 404, { path: (c) => `${c.base}/beads/${uuid}` }]],
  },
  {
    route: ["POST", (c) => `${c.base}/sling`, () => ({ title: "Do it" })],
    answers: [201, shape.SlingResult],
    refuses: [
      ["without a title", WRONG, { body: {} }],
      ["with a title of 501 bytes", 422, { body: { title: LONG } }],
      ["with metadata that is a list", WRONG, { body: { title: "x", metadata: [] } }],
    ],
  },
  {
    route: ["POST", (c) => `${c.base}/agents`, () => ({ role: "polecat", name: "Max", identity: "max@here" })],
    answers: [201, shape.Agent],
    refuses: [
      ["without an identity", WRONG, { body: { role: "polecat", name: "Max" } }],
      ["with an unknown role", WRONG, { body: { role: "boss", name: "Max", identity: "max@here" } }],
      ["with an identity that is taken", 409, { body: (c) => ({ role: "polecat", name: "Max", identity: c.agent.identity }) }],
    ],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/get-or-create`, () => ({ role: "refinery" })],
    answers: [200, shape.Agent],
    refuses: [["with an unknown role", WRONG, { body: { role: "boss" } }]],
  },
  {
    route: ["GET", (c) => `${c.base}/agents`],
    answers: [200, [shape.Agent]],
    refuses: [["with an unknown role", 400, { path: (c) => `${c.base}/agents?role=boss` }]],
  },
  {
    route: ["GET", (c) => `${c.base}/agents/${c.agent.id}`],
    answers: [200, shape.Agent],
    refuses: [["for an unknown agent", 404, { path: (c) => `${c.base}/agents/${uuid}` }]],
  },
  {
    route: ["DELETE", (c) => `${c.base}/agents/${c.agent.id}`],
    answers: [200, { deleted: "bool" }],
    refuses: [["for an unknown agent", 404, { path: (c) => `${c.base}/agents/${uuid}` }]],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/hook`, (c) => ({ bead_id: c.bead.id })],
    answers: [200, { hooked: "bool" }],
    refuses: [
      ["without a bead", WRONG, { body: {} }],
      ["to an unknown bead", 404, { body: { bead_id: uuid } }],
    ],
  },
  { route: ["DELETE", (c) => `${c.base}/agents/${c.agent.id}/hook`], answers: [200, { unhooked: "bool" }] },
  {
    route: ["GET", (c) => `${c.base}/agents/${c.agent.id}/prime`],
    given: working,
    as: spoken,
    answers: [200, shape.Prime],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/done`, () => ({ branch: "gt/toast/x", summary: "done" })],
    given: working,
    as: spoken,
    answers: [200, { done: "bool" }],
    refuses: [["for an unknown agent", 404, { path: (c) => `${c.base}/agents/${uuid}/done`, as: (c) => speaker(c, uuid, uuid) }]],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/completed`, () => ({ status: "failed", reason: "broke" })],
    given: working,
    as: spoken,
    answers: [200, { completed: "bool" }],
    refuses: [["with an unknown status", WRONG, { body: { status: "maybe" } }]],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/heartbeat`, (c) => ({ agentId: c.agent.id, status: "running" })],
    given: working,
    as: spoken,
    answers: [200, { heartbeat: "bool" }],
    tolerates: "anything in its body",
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/checkpoint`, () => ({ data: { step: 3 } })],
    given: working,
    as: spoken,
    answers: [200, { written: "bool" }],
    refuses: [["over 64 KB", [413, 422], { body: { data: HUGE } }]],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/status`, () => ({ message: "reading" })],
    given: working,
    as: spoken,
    answers: [200, { ok: "bool" }],
    refuses: [
      ["with nothing but blanks", WRONG, { body: { message: "  " } }],
      ["with 281 characters", WRONG, { body: { message: "x".repeat(281) } }],
    ],
  },
  {
    route: ["POST", (c) => `${c.base}/agents/${c.agent.id}/eviction-context`, () => ({ branch: "b", agent_name: "Toast", saved_at: "2026-01-01T00:00:00.000Z" })],
    given: working,
    as: spoken,
    answers: [200, { written: "bool" }],
    refuses: [["without a branch", WRONG, { body: { agent_name: "Toast" } }]],
  },
  {
    route: ["GET", (c) => `${c.base}/agents/${c.agent.id}/mail`],
    given: working,
    as: spoken,
    answers: [200, [shape.Mail]],
  },
  {
    route: ["POST", (c) => `${c.base}/mail`, (c) => ({ from_agent_id: c.agent.id, to_agent_id: c.agent.id, subject: "s", body: "b" })],
    given: working,
    as: spoken,
    answers: [201, { sent: "bool" }],
    refuses: [
      ["without a subject", WRONG, { body: (c) => ({ from_agent_id: c.agent.id, to_agent_id: c.agent.id, body: "b" }) }],
      ["in the name of another agent", 403, { body: (c) => ({ from_agent_id: uuid, to_agent_id: c.agent.id, subject: "s", body: "b" }) }],
      ["over 16 KB", 422, { body: (c) => ({ from_agent_id: c.agent.id, to_agent_id: c.agent.id, subject: "s", body: "x".repeat(17 * 1024) }) }],
    ],
  },
  {
    route: ["POST", (c) => `${c.base}/escalations`, () => ({ title: "Help", body: "It is on fire", priority: "high" })],
    answers: [201, shape.Escalation],
    refuses: [["without a title", WRONG, { body: {} }]],
  },
  {
    route: ["POST", (c) => `${c.base}/review-queue`, (c) => ({ agent_id: c.agent.id, bead_id: c.bead.id, branch: "gt/toast/x" })],
    given: working,
    as: spoken,
    answers: [201, { submitted: "bool" }],
    refuses: [["without a branch", WRONG, { body: (c) => ({ agent_id: c.agent.id, bead_id: c.bead.id }) }]],
  },
  {
    route: ["POST", (c) => `${c.base}/review-queue/${c.mr.id}/complete`, () => ({ status: "merged", message: "ok", commit_sha: "abc" })],
    given: reviewing,
    as: spoken,
    answers: [200, { completed: "bool" }],
    refuses: [
      ["with an unknown status", WRONG, { body: { status: "maybe", message: "" } }],
      ["for an unknown entry", 404, { path: (c) => `${c.base}/review-queue/${uuid}/complete` }],
    ],
  },
  { route: ["GET", (c) => `${c.base}/events`], answers: [200, [shape.BeadEvent]] },
];

const MAYOR_BASE = [
  {
    route: ["POST", (c) => `/api/mayor/${c.town.id}/tools/sling`, (c) => ({ rig_id: c.rig.id, title: "Do it" })],
    answers: [201, shape.SlingResult],
    refuses: [
      ["without a title", WRONG, { body: (c) => ({ rig_id: c.rig.id }) }],
      ["for a rig of nobody's", [403, 404], { body: { rig_id: uuid, title: "x" } }],
    ],
  },
  {
    route: ["PATCH", (c) => `/api/mayor/${c.town.id}/tools/rigs/${c.rig.id}/beads/${c.bead.id}`, () => ({ title: "Better" })],
    answers: [200, shape.Bead],
    refuses: [
      ["with a title of 501 bytes", 422, { body: { title: LONG } }],
      ["with a status that only dispatch may set", 422, { body: { status: "in_progress" } }],
      ["for an unknown bead", 404, { path: (c) => `/api/mayor/${c.town.id}/tools/rigs/${c.rig.id}/beads/${uuid}` }],
      ["that makes the bead wait for itself", [409, 422], { body: (c) => ({ depends_on: [c.bead.id] }) }],
    ],
  },
];

const TOWN = [
  { route: ["GET", () => "/dispatch"], given: working, answers: [200, shape.Dispatch] },
  {
    route: ["GET", (c) => `/beads/${c.bead.id}/explain`],
    answers: [200, shape.Explanation],
    refuses: [["for an unknown bead", 404, { path: () => `/beads/${uuid}/explain` }]],
  },
  {
    route: ["GET", (c) => `/beads/${c.bead.id}/attempts`],
    given: working,
    answers: [200, { attempts: [shape.Attempt], next: "string?" }],
    refuses: [["for an unknown bead", 404, { path: () => `/beads/${uuid}/attempts` }]],
  },
  {
    route: ["GET", () => "/attempts"],
    given: working,
    answers: [200, { attempts: [shape.Attempt], next: "string?" }],
    refuses: [
      ["with limit 0", WRONG, { path: () => "/attempts?limit=0" }],
      ["with limit 501", WRONG, { path: () => "/attempts?limit=501" }],
    ],
  },
  {
    route: ["POST", (c) => `/beads/${c.bead.id}/redrive`, () => ({ reason: "again" })],
    given: failed,
    answers: [200, shape.Bead],
    refuses: [["for an unknown bead", 404, { path: () => `/beads/${uuid}/redrive` }]],
  },
  {
    route: ["POST", () => "/redrive", () => ({ dry_run: true, reason: "look", limit: 10 })],
    given: failed,
    answers: [200, { matched: "int", redriven: "int", dry_run: "bool", bead_ids: ["string"], remaining: "int" }],
    refuses: [
      ["without a reason", WRONG, { body: { dry_run: false } }],
      ["with limit 5001", WRONG, { body: { dry_run: true, reason: "x", limit: 5001 } }],
    ],
  },
  {
    route: ["POST", (c) => `/beads/${c.bead.id}/cancel`, () => ({ reason: "not wanted" })],
    answers: [200, shape.Bead],
    refuses: [
      ["without a reason", WRONG, { body: {} }],
      ["for an unknown bead", 404, { path: () => `/beads/${uuid}/cancel` }],
    ],
  },
  { route: ["GET", () => "/breakers"], answers: [200, { breakers: [shape.Breaker] }] },
  {
    route: ["GET", () => "/breakers/town"],
    answers: [200, shape.Breaker],
    refuses: [["for an unknown scope", [400, 404, 422], { path: () => "/breakers/nowhere" }]],
  },
  {
    route: ["PUT", () => "/breakers/town", () => ({ mode: "forced_open", reason: "maintenance", expires_in_ms: 60_000 })],
    answers: [200, shape.Breaker],
    refuses: [
      ["with an unknown mode", WRONG, { body: { mode: "ajar", reason: "x", expires_in_ms: 60_000 } }],
      ["without a reason", WRONG, { body: { mode: "forced_open", expires_in_ms: 60_000 } }],
      ["without an expiry", WRONG, { body: { mode: "forced_open", reason: "x" } }],
      ["forced closed for more than an hour", 422, { body: { mode: "forced_closed", reason: "x", expires_in_ms: 3_600_001 } }],
      ["in shadow for more than seven days", 422, { body: { mode: "shadow", reason: "x", expires_in_ms: 604_800_001 } }],
    ],
  },
  { route: ["POST", () => "/breakers/town/probe"], given: open, answers: [202, shape.Breaker] },
  {
    route: ["POST", () => "/notifications/test"],
    answers: [[200, 201, 202], "any"],
  },
  {
    route: ["GET", () => "/notifications"],
    given: async () => {
      const c = await quiet();
      await c.town.ok("POST", "/notifications/test");
      return c;
    },
    answers: [200, { notifications: [shape.Notification], next: "string?" }],
  },
  { route: ["GET", () => "/mail?to=mayor"], answers: [200, { mail: [shape.Mail], next: "string?" }] },
  {
    route: ["GET", () => "/escalations"],
    given: escalated,
    answers: [200, [shape.Escalation]],
  },
  {
    route: ["POST", (c) => `/escalations/${c.escalation.id}/acknowledge`],
    given: escalated,
    answers: [200, shape.Escalation],
    refuses: [["for an unknown escalation", 404, { path: () => `/escalations/${uuid}/acknowledge` }]],
  },
  {
    route: ["POST", () => "/heartbeats", (c) => ({ containerInstanceId: uuid, agents: [{ agentId: c.agent.id, rigId: c.rig.id, status: "running", dispatchId: c.dispatch }] })],
    given: working,
    as: container,
    answers: [200, { heartbeat: "bool" }],
    refuses: [["with 501 agents", [413, 422], { body: (c) => ({ containerInstanceId: uuid, agents: Array(501).fill({ agentId: c.agent.id, status: "running" }) }) }]],
  },
  {
    route: ["GET", () => "/audit"],
    given: failed,
    answers: [200, { entries: [shape.AuditEntry], next: "any" }],
  },
  { route: ["GET", () => "/config"], answers: [200, "object"] },
  {
    route: ["PATCH", () => "/config", () => ({ dispatch: { max_attempts: 3 } })],
    answers: [200, "object"],
    refuses: [
      ["with an interval of 99 ms", 422, { body: { dispatch: { start_timeout_ms: 99 } } }],
      ["with no attempts at all", 422, { body: { dispatch: { max_attempts: 0 } } }],
      ["with jitter above 1", 422, { body: { dispatch: { jitter: 1.5 } } }],
      ["with a backoff of 21 entries", 422, { body: { dispatch: { backoff_ms: Array(21).fill(1000) } } }],
      ["with a breaker that is a word", WRONG, { body: { breaker: "off" } }],
      ["with a merge strategy that nobody knows", 422, { body: { merge_strategy: "squash" } }],
      ["with a variable of our own name", WRONG, { body: { env_vars: { GASTOWN_X: "1" } } }],
      ["with a variable that is no name", WRONG, { body: { env_vars: { "A-B": "1" } } }],
    ],
  },
  { route: ["GET", (c) => `/rigs/${c.rig.id}/config`], answers: [200, "object"] },
  {
    route: ["PATCH", (c) => `/rigs/${c.rig.id}/config`, () => ({ max_concurrent_polecats: 2 })],
    answers: [200, "object"],
    refuses: [
      ["with no polecats at all", 422, { body: { max_concurrent_polecats: 0 } }],
      ["for an unknown rig", 404, { path: () => `/rigs/${uuid}/config` }],
    ],
  },
  {
    route: ["POST", () => "/container-eviction"],
    as: container,
    answers: [200, { acknowledged: "bool", drainNonce: "string" }],
  },
  {
    route: ["POST", () => "/container-ready", () => ({ nonce: "n" })],
    as: container,
    answers: [200, { cleared: "bool" }],
    refuses: [["without a nonce", 400, { body: {} }]],
  },
  { route: ["GET", () => "/drain-status"], as: container, answers: [200, { draining: "bool", drainNonce: "string?" }] },
];

async function escalated() {
  const c = await quiet();
  const escalation = await c.town.ok("POST", `${c.base}/escalations`, { title: "Help" });
  return { ...c, escalation };
}

const inTown = (c, path) => (path.startsWith("/api/") ? path : `/api/towns/${c.town.id}${path}`);

function check({ route: [method, path, body], given = quiet, as = () => ({}), answers: [status, type], refuses = [], tolerates }) {
  const shown = path({ base: "/rigs/:r", town: { id: ":t" }, rig: { id: ":r" }, bead: { id: ":b" }, agent: { id: ":a" }, mr: { id: ":e" }, escalation: { id: ":e" } });

  describe(`${method} ${shown}`, () => {
    const call = (c, { path: other = path, body: text = body?.(c), as: caller = as } = {}) =>
      h.api(method, inTown(c, other(c)), typeof text === "function" ? text(c) : text, { token: c.town.token, ...caller(c) });

    test(`answers ${[].concat(status).join(" or ")}`, async () => {
      const answer = await call(await given());
      assert.ok([].concat(status).includes(answer.status), answer.text);
      assert.equal(answer.json.success, true, answer.text);
      looksLike(answer.data, type);
    });

    const refused = (why, expected, make) =>
      test(`refuses ${why}: ${[].concat(expected).join(" or ")}, and nothing changes`, async () => {
        const c = await given();
        const before = await c.town.snapshot({ except: LEDGER });
        const answer = await make(c);
        assert.ok([].concat(expected).includes(answer.status), `${answer.status} ${answer.text}`);
        looksLike(answer.json, { success: "bool", error: "string" });
        assert.equal(answer.json.success, false);
        assert.ok(answer.error.length > 0);
        if (answer.status !== 401 && answer.status !== 403) looksLike(answer.json, { code: "string" }, "error");
        if (answer.status === 422) looksLike(answer.json, { field: "string" }, "error");
        if (answer.status === 409) looksLike(answer.json, { state: "string" }, "error");
        assert.deepEqual(await c.town.snapshot({ except: LEDGER }), before);
      });

    refused("a caller without a token", 401, (c) => call(c, { as: () => ({ token: null }) }));
    refused("another user", 403, (c) => call(c, { as: () => ({ token: h.token({ sub: "mallory" }) }) }));
    refused("the container of another town", 403, (c) => call(c, { as: () => ({ token: h.containerToken(uuid) }) }));
    if (body && !tolerates) {
      refused("a body that is no JSON", 400, (c) => call(c, { body: "{not json" }));
      refused("a body that is no object", 400, (c) => call(c, { body: "[1]" }));
      refused("a body over 1 MB", 413, (c) => call(c, { body: JSON.stringify({ title: "x".repeat(1024 * 1024 + 1) }) }));
    }
    for (const [why, expected, change] of refuses) refused(why, expected, (c) => call(c, change));
  });
}

// Counters of what requests cost may move whatever a request does.
const LEDGER = ["cost", "ledger"];

describe("the rig base", () => RIG_BASE.forEach(check));
describe("the mayor base", () => MAYOR_BASE.forEach(check));
describe("the town routes", () => TOWN.forEach(check));

describe("users, their towns and rigs", () => {
  const user = () => `user-${randomUUID().slice(0, 8)}`;
  const as = (sub) => ({ token: h.token({ sub }) });

  test("a town is made, listed newest first, read and deleted", async () => {
    const u = user();
    const first = await h.api("POST", `/api/users/${u}/towns`, { name: "First" }, as(u));
    assert.equal(first.status, 201, first.text);
    looksLike(first.data, shape.Town);
    assert.equal(first.data.owner_user_id, u);
    const second = await h.ok("POST", `/api/users/${u}/towns`, { name: "Second" }, as(u));
    const list = await h.ok("GET", `/api/users/${u}/towns`, undefined, as(u));
    looksLike(list, [shape.Town]);
    assert.deepEqual(list.map((t) => t.id).sort(), [first.data.id, second.id].sort());
    assert.deepEqual(await h.ok("GET", `/api/users/${u}/towns/${second.id}`, undefined, as(u)), second);
    assert.deepEqual(await h.ok("DELETE", `/api/users/${u}/towns/${second.id}`, undefined, as(u)), { deleted: true });
    assert.equal((await h.api("GET", `/api/users/${u}/towns/${second.id}`, undefined, as(u))).status, 404);
    assert.equal((await h.api("GET", `/api/towns/${second.id}/dispatch`, undefined, as(u))).status, 404);
  });

  test("a town needs a name of 1 to 64 characters", async () => {
    const u = user();
    for (const body of [{}, { name: "" }, { name: "x".repeat(65) }, { name: 7 }, "{no json"]) {
      const answer = await h.api("POST", `/api/users/${u}/towns`, body, as(u));
      assert.ok(WRONG.includes(answer.status), `${JSON.stringify(body)}: ${answer.status} ${answer.text}`);
    }
    assert.deepEqual(await h.ok("GET", `/api/users/${u}/towns`, undefined, as(u)), []);
  });

  test("a rig is made, listed, read and deleted", async () => {
    const u = user();
    const town = await h.createTown({ owner: u });
    const rig = await town.createRig({ name: "api", default_branch: "trunk" });
    looksLike(rig, shape.Rig);
    assert.equal(rig.default_branch, "trunk");
    assert.deepEqual(await h.ok("GET", `/api/users/${u}/towns/${town.id}/rigs`, undefined, as(u)), [rig]);
    assert.deepEqual(await h.ok("GET", `/api/users/${u}/rigs/${rig.id}`, undefined, as(u)), rig);
    assert.deepEqual(await h.ok("DELETE", `/api/users/${u}/rigs/${rig.id}`, undefined, as(u)), { deleted: true });
    assert.equal((await h.api("GET", `/api/users/${u}/rigs/${rig.id}`, undefined, as(u))).status, 404);
  });

  test("a rig needs a town of the user's, a name and a git URL", async () => {
    const u = user();
    const town = await h.createTown({ owner: u });
    const right = { town_id: town.id, name: "api", git_url: "https://example.invalid/r.git" };
    const refused = async (body, statuses, owner = u) => {
      const answer = await h.api("POST", `/api/users/${owner}/rigs`, body, as(owner));
      assert.ok(statuses.includes(answer.status), `${JSON.stringify(body)}: ${answer.status} ${answer.text}`);
    };
    await refused({ ...right, name: "" }, WRONG);
    await refused({ ...right, name: "x".repeat(65) }, WRONG);
    await refused({ ...right, git_url: "not a url" }, WRONG);
    await refused({ ...right, git_url: undefined }, WRONG);
    await refused({ ...right, town_id: uuid }, [404]);
    await refused(right, [403, 404], user());
    assert.deepEqual(await h.ok("GET", `/api/users/${u}/towns/${town.id}/rigs`, undefined, as(u)), []);
  });

  test("nobody sees another user's towns or rigs", async () => {
    const u = user();
    const town = await h.createTown({ owner: u });
    const rig = await town.createRig();
    for (const path of [`towns`, `towns/${town.id}`, `towns/${town.id}/rigs`, `rigs/${rig.id}`]) {
      const answer = await h.api("GET", `/api/users/${u}/${path}`, undefined, as("mallory"));
      assert.equal(answer.status, 403, `${path}: ${answer.text}`);
    }
  });

  test("the events of a town are its owner's to read", async () => {
    const u = user();
    const town = await h.createTown({ owner: u });
    const rig = await town.createRig();
    await town.ok("POST", `/rigs/${rig.id}/beads`, { type: "issue", title: "x", labels: ["gt:held"] });
    const events = await h.ok("GET", `/api/users/${u}/towns/${town.id}/events`, undefined, as(u));
    looksLike(events, [shape.BeadEvent]);
    assert.ok(events.some((e) => e.event_type === "created"));
  });
});

describe("what belongs to no town", () => {
  test("the root and health answer without a token and without an envelope", async () => {
    assert.deepEqual((await h.api("GET", "/", undefined, { token: null })).json, { service: "gastown", status: "ok" });
    assert.deepEqual((await h.api("GET", "/health", undefined, { token: null })).json, { status: "ok" });
  });

  test("an unknown route is 404, with the envelope", async () => {
    const answer = await h.api("GET", "/api/nowhere");
    assert.equal(answer.status, 404);
    assert.deepEqual([answer.json.success, answer.error], [false, "Not found"]);
  });

  test("a town that was never made is 404 for its operator, too", async () => {
    const answer = await h.api("GET", `/api/towns/${uuid}/dispatch`, undefined, { token: h.token({ scope: "operator" }) });
    assert.equal(answer.status, 404, answer.text);
  });

  test("the debug status is bare JSON", async () => {
    const { town } = await working();
    const answer = await h.api("GET", `/debug/towns/${town.id}/status`, undefined, { token: town.token });
    assert.equal(answer.status, 200, answer.text);
    looksLike(answer.json, {
      alarmStatus: "object",
      agentMeta: [{ bead_id: "string", role: "string", status: "string", current_hook_bead_id: "string?", dispatch_attempts: "int" }],
      beadSummary: ["object"],
      dispatch: shape.Dispatch,
      agents: [{ agent_id: "string", name: "string", role: "string", status: "string", bead_id: "string?", last_heartbeat_at: "time?", last_attempt: "object?" }],
    });
  });
});

describe("states that forbid a request", () => {
  test("a redrive of a bead that has not failed is 409 and names its state", async () => {
    const { town, bead } = await quiet();
    const answer = await town.api("POST", `/beads/${bead.id}/redrive`, {});
    assert.deepEqual([answer.status, answer.json.state], [409, "open"], answer.text);
  });

  test("a closed bead cannot be reopened by hand, and a failed one wants a redrive", async () => {
    const { town, base, bead } = await quiet();
    await town.ok("PATCH", `${base}/beads/${bead.id}/status`, { status: "closed", agent_id: "me" });
    const closed = await town.api("PATCH", `${base}/beads/${bead.id}/status`, { status: "open", agent_id: "me" });
    assert.equal(closed.status, 409, closed.text);

    const c = await failed();
    const answer = await c.town.api("PATCH", `${c.base}/beads/${c.bead.id}/status`, { status: "open", agent_id: "me" });
    assert.equal(answer.status, 409, answer.text);
    assert.match(answer.error, /redrive/);
  });

  test("the same status again is 200 and writes no event", async () => {
    const { town, base, bead } = await quiet();
    const before = await town.ok("GET", `${base}/events?bead_id=${bead.id}`);
    await town.ok("PATCH", `${base}/beads/${bead.id}/status`, { status: "open", agent_id: "me" });
    assert.deepEqual(await town.ok("GET", `${base}/events?bead_id=${bead.id}`), before);
  });

  test("a probe of a closed breaker is 409, a second one within a minute is 429 with Retry-After", async () => {
    const { town } = await quiet();
    assert.equal((await town.api("POST", "/breakers/town/probe")).status, 409);
    const c = await open();
    assert.equal((await c.town.api("POST", "/breakers/town/probe")).status, 202);
    const again = await c.town.api("POST", "/breakers/town/probe");
    assert.equal(again.status, 429, again.text);
    assert.ok(Number(again.headers.get("retry-after")) > 0);
    looksLike(again.json, { retry_after_ms: "int" }, "error");
  });

  test("an agent cannot be hooked to a second bead", async () => {
    const { town, base, bead, agent } = await quiet();
    const other = await town.ok("POST", `${base}/beads`, { type: "issue", title: "Other", labels: ["gt:held"] });
    await town.ok("POST", `${base}/agents/${agent.id}/hook`, { bead_id: bead.id });
    await town.ok("POST", `${base}/agents/${agent.id}/hook`, { bead_id: bead.id });
    const answer = await town.api("POST", `${base}/agents/${agent.id}/hook`, { bead_id: other.id });
    assert.equal(answer.status, 409, answer.text);
  });

  test("a repeated done and a repeated close are 200 and change nothing", async () => {
    const c = await working();
    const done = () => c.town.ok("POST", `${c.base}/agents/${c.agent.id}/done`, { branch: "gt/toast/x" }, c.speaks);
    await done();
    const before = await c.town.snapshot({ except: LEDGER });
    await done();
    assert.deepEqual(await c.town.snapshot({ except: LEDGER }), before);
  });
});
