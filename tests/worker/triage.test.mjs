// Triage, molecules and the container's registry over the wire: what a right request answers, and that a wrong one gets its own
// status and changes nothing.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { planted, secretsIn } from "../support/output.mjs";
import * as shape from "../support/shape.mjs";
import { looksLike } from "../support/shape.mjs";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const uuid = randomUUID();
/** Counters of what requests cost may move whatever a request does. */
const LEDGER = ["cost", "ledger"];

const Molecule = {
  id: "uuid",
  bead_id: "uuid",
  formula: "object",
  current_step: "int",
  status: "string",
  created_at: "time",
  updated_at: "time",
  // the superset of protocol.md 7 #2
  moleculeId: "uuid",
  currentStep: "int",
  totalSteps: "int",
  completed: "bool",
};
const Step = { molecule: Molecule, step: { title: "string", instructions: "string" }, moleculeId: "uuid", currentStep: "int", totalSteps: "int", status: "string" };

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

/** A town whose agent is at work; it speaks with `speaks`. */
async function working() {
  const town = await h.createTown();
  const rig = await town.createRig();
  const at = (path) => `/rigs/${rig.id}${path}`;
  const { bead, agent } = await town.rig(rig.id).sling({ title: "Run" });
  await town.runAlarms();
  const start = fake.starts.findLast((s) => s.agentId === agent.id);
  const speaks = speaker(town, start);
  const container = { token: town.containerToken };
  return { town, rig, at, bead, agent, start, speaks, container };
}
function speaker(town, { agentId, dispatchId }) {
  return { token: town.containerToken, headers: { "X-Gastown-Agent-Id": agentId, "X-Gastown-Dispatch-Id": dispatchId } };
}
/** The start request of a town's triage agent. */
const triageAgent = (town) => [...fake.agents.values()].map((a) => a.startupRequest).find((r) => r.townId === town.id && r.lightweight);
const formula = (n) => ({ steps: Array.from({ length: n }, (_, i) => ({ title: `Step ${i}`, instructions: "Do it." })) });

/** The same, with a question about the agent, as a person may ask it. */
async function asked() {
  const c = await working();
  const metadata = { triage_type: "stuck_agent", agent_bead_id: c.agent.id, hooked_bead_id: c.bead.id, context: "It hangs.", options: ["RESTART"] };
  const request = await c.town.ok("POST", c.at("/beads"), { type: "issue", title: "Stuck", labels: ["gt:triage-request"], metadata });
  const resolve = (change = {}) => ({ triage_request_bead_id: request.id, action: "restart", resolution_notes: "", ...change });
  return { ...c, request, resolve };
}

/** Refused with this status, and nothing has changed. */
async function refused(c, status, method, path, body, options = {}) {
  const before = await c.town.snapshot({ except: LEDGER });
  const answer = await c.town.api(method, path, body, options);
  assert.equal(answer.status, status, answer.text);
  assert.equal(answer.json.success, false);
  assert.ok(answer.error.length > 0);
  assert.deepEqual(await c.town.snapshot({ except: LEDGER }), before);
  return answer;
}

describe("POST triage/resolve", () => {
  test("answers the request as it is then, and the agent is stopped and started anew", async () => {
    const c = await asked();
    const bead = await c.town.ok("POST", c.at("/triage/resolve"), c.resolve());
    looksLike(bead, shape.Bead);
    assert.deepEqual([bead.status, bead.metadata.resolution_action, bead.metadata.resolved_by], ["closed", "RESTART", "user:alice"]);
    const { attempts } = await c.town.ok("GET", `/beads/${c.bead.id}/attempts`);
    assert.equal(attempts[0].code, "dispatch.cancelled");
    await c.town.runAlarms();
    assert.equal((await c.town.ok("GET", `/beads/${c.bead.id}/attempts`)).attempts.length, 2);
    const again = await refused(c, 409, "POST", c.at("/triage/resolve"), c.resolve());
    assert.equal(again.json.state, "closed");
  });

  test("refuses what it does not know, with the list", async () => {
    const c = await asked();
    const unknown = await refused(c, 422, "POST", c.at("/triage/resolve"), c.resolve({ action: "EXPLODE" }));
    assert.equal(unknown.json.field, "action");
    assert.match(unknown.error, /RESTART, RESTART_WITH_BACKOFF, CLOSE_BEAD, CLOSE, ESCALATE_TO_MAYOR, ESCALATE/);
    await refused(c, 404, "POST", c.at("/triage/resolve"), c.resolve({ triage_request_bead_id: uuid }));
    await refused(c, 422, "POST", c.at("/triage/resolve"), c.resolve({ triage_request_bead_id: c.bead.id }));
    await refused(c, 422, "POST", c.at("/triage/resolve"), c.resolve({ resolution_notes: "x".repeat(17 * 1024) }));
    for (const body of ["{no json", "[1]", { action: "RESTART" }, c.resolve({ action: 7 })]) {
      await refused(c, 400, "POST", c.at("/triage/resolve"), body);
    }
  });

  test("is for people, the mayor and triage agents", async () => {
    const c = await asked();
    await refused(c, 401, "POST", c.at("/triage/resolve"), c.resolve(), { token: null });
    await refused(c, 403, "POST", c.at("/triage/resolve"), c.resolve(), { token: h.token({ sub: "mallory" }) });
    const nobody = await refused(c, 403, "POST", c.at("/triage/resolve"), c.resolve(), c.container);
    assert.equal(nobody.error, "Agent authentication required");
    const other = await refused(c, 403, "POST", c.at("/triage/resolve"), c.resolve(), c.speaks);
    assert.equal(other.error, "Only triage agents can resolve triage requests");
    // The town has set a triage agent to it; that one may.
    await c.town.runAlarms();
    await fake.heartbeat(c.agent.id);
    await c.town.runAlarms();
    const triage = triageAgent(c.town);
    assert.equal(triage.role, "polecat");
    assert.match(triage.prompt, new RegExp(c.request.id));
    const bead = await c.town.ok("POST", c.at("/triage/resolve"), c.resolve({ action: "close" }), speaker(c.town, triage));
    assert.deepEqual([bead.status, bead.metadata.resolution_action], ["closed", "CLOSE_BEAD"]);
  });
});

describe("an agent whose heartbeats tell of nothing new", () => {
  test("is nudged after a quarter of an hour and asked about after one", async () => {
    const c = await working();
    const lastEventAt = new Date(h.now).toISOString();
    const beat = (activeTools = []) =>
      c.town.ok("POST", c.at(`/agents/${c.agent.id}/heartbeat`), { agentId: c.agent.id, status: "running", lastEventAt, activeTools }, c.speaks);
    const count = async (table) => (await c.town.rows(`SELECT count(*) AS n FROM ${table}`))[0].n;
    await beat();
    await h.advance(16 * MINUTE, { run: false });
    await beat(["bash"]);
    assert.equal(await count("nudges"), 0, "a tool is running");
    await beat();
    await beat();
    assert.equal(await count("nudges"), 1);
    await h.advance(HOUR - 16 * MINUTE, { run: false });
    await beat();
    const requests = await c.town.rows("SELECT metadata FROM beads WHERE triage_request > 0");
    assert.deepEqual(requests.map((r) => JSON.parse(r.metadata).agent_bead_id), [c.agent.id]);
    await h.advance(HOUR, { run: false });
    await beat();
    assert.equal((await c.town.ok("GET", c.at(`/agents/${c.agent.id}`))).status, "stalled");
    const { attempts } = await c.town.ok("GET", `/beads/${c.bead.id}/attempts`);
    assert.equal(attempts[0].code, "agent.no_progress");
    await c.town.runAlarms();
    const process = fake.starts.find((s) => s.dispatchId === c.start.dispatchId);
    assert.ok(process.ended, "its process was told to stop");
  });
});

describe("molecules", () => {
  test("are attached, shown, gone through and ended", async () => {
    const c = await working();
    const made = await c.town.api("POST", c.at("/molecules"), { bead_id: c.bead.id, formula: formula(2) });
    assert.equal(made.status, 201, made.text);
    looksLike(made.data, Molecule);
    const current = () => c.town.api("GET", c.at(`/agents/${c.agent.id}/molecule/current`), undefined, c.speaks);
    const advance = (summary = "did it") => c.town.api("POST", c.at(`/agents/${c.agent.id}/molecule/advance`), { summary }, c.speaks);
    for (const n of [0, 1]) {
      const now = await current();
      looksLike(now.data, Step);
      assert.deepEqual([now.data.currentStep, now.data.step.title], [n, `Step ${n}`]);
      const next = await advance();
      looksLike(next.data, { ...Molecule, previousStep: "int" });
      assert.deepEqual([next.data.previousStep, next.data.currentStep, next.data.completed], [n, n + 1, n === 1]);
    }
    for (const gone of [await current(), await advance()]) {
      assert.deepEqual([gone.status, gone.error], [404, "No active molecule for this agent"]);
    }
  });

  test("refuse formulas and summaries that are none, and callers that may not", async () => {
    const c = await working();
    const post = (body, status, options) => refused(c, status, "POST", c.at("/molecules"), body, options);
    for (const steps of [[], [{ title: "x" }], "x", formula(51).steps]) {
      const answer = await post({ bead_id: c.bead.id, formula: { steps } }, 422);
      assert.equal(answer.json.field, "formula.steps");
    }
    await post({ bead_id: uuid, formula: formula(1) }, 404);
    await post({ formula: formula(1) }, 400);
    await post("{no json", 400);
    await post({ bead_id: c.bead.id, formula: formula(1) }, 401, { token: null });
    await post({ bead_id: c.bead.id, formula: formula(1) }, 403, { token: h.token({ sub: "mallory" }) });
    await c.town.ok("POST", c.at("/molecules"), { bead_id: c.bead.id, formula: formula(1) });
    await post({ bead_id: c.bead.id, formula: formula(1) }, 409);
    const advance = c.at(`/agents/${c.agent.id}/molecule/advance`);
    for (const body of [{}, { summary: "" }, { summary: "x".repeat(5_001) }]) await refused(c, 400, "POST", advance, body, c.speaks);
    const other = { token: c.town.containerToken, headers: { "X-Gastown-Agent-Id": uuid } };
    await refused(c, 403, "POST", advance, { summary: "x" }, other);
    await refused(c, 403, "GET", c.at(`/agents/${c.agent.id}/molecule/current`), undefined, other);
  });
});

describe("the container's registry", () => {
  const path = "/container-registry";
  const entry = (c, change = {}) => ({
    agentId: c.agent.id,
    request: { ...fake.agents.get(c.agent.id).startupRequest, envVars: { GASTOWN_CONTAINER_TOKEN: c.town.containerToken, GIT_TOKEN: planted("git-token"), COLOUR: "blue" } },
    workdir: "/work",
    env: { ANTHROPIC_API_KEY: planted("env-api-key"), GITHUB_CLI_PAT: planted("git-token"), PLAIN: "yes" },
    ...change,
  });

  test("hands a booting container its live agents, each with its dispatch and a fresh token, and no other secret", async () => {
    const c = await working();
    await fake.heartbeat(c.agent.id);
    await c.town.ok("POST", path, [entry(c), { agentId: uuid }, 7], c.container);
    // What the rows hold is searched for planted secrets when the harness stops.
    const [kept] = await c.town.rows("SELECT entries FROM container_registry");
    assert.deepEqual(secretsIn(kept.entries), []);
    assert.doesNotMatch(kept.entries, /eyJ/);
    const answer = await c.town.ok("GET", `${path}?containerInstanceId=${randomUUID()}`, undefined, c.container);
    assert.equal(answer.length, 1);
    const [{ agentId, request, workdir, env }] = answer;
    assert.deepEqual([agentId, request.agentId, workdir, env.PLAIN], [c.agent.id, c.agent.id, "/work", "yes"]);
    assert.equal(request.dispatchId, c.start.dispatchId);
    for (const given of [env, request.envVars]) {
      const token = given.GASTOWN_CONTAINER_TOKEN;
      assert.ok(token.length > 0);
      await c.town.ok("GET", "/drain-status", undefined, { token });
    }
    assert.deepEqual(secretsIn(JSON.stringify(answer).replaceAll(env.GASTOWN_CONTAINER_TOKEN, "")), []);
    assert.deepEqual(await c.town.ok("GET", path, undefined, c.container), [], "once");
    assert.equal((await c.town.ok("GET", `/beads/${c.bead.id}/attempts`)).attempts.length, 1, "nothing was booked");
  });

  test("is empty for a town that never had one, and while the town's breaker is open", async () => {
    const c = await working();
    assert.deepEqual(await c.town.ok("GET", path, undefined, c.container), []);
    await fake.heartbeat(c.agent.id);
    await c.town.ok("POST", path, [entry(c)], c.container);
    await c.town.ok("PUT", "/breakers/town", { mode: "forced_open", reason: "maintenance", expires_in_ms: MINUTE });
    assert.deepEqual(await c.town.ok("GET", path, undefined, c.container), []);
  });

  test("takes a list and nothing else, from the town's container and nobody else", async () => {
    const c = await working();
    for (const body of ["{no json", { agents: [] }, '"x"', ""]) await refused(c, 400, "POST", path, body, c.container);
    await refused(c, 413, "POST", path, [{ agentId: c.agent.id, workdir: "x".repeat(600 * 1024) }], c.container);
    for (const [status, options] of [
      [401, { token: null }],
      [403, {}],
      [403, { token: h.containerToken(uuid) }],
    ]) {
      await refused(c, status, "POST", path, [], options);
      await refused(c, status, "GET", path, undefined, options);
    }
  });
});
