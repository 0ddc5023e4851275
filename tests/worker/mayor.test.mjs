// The mayor and live delivery in the built worker: each route, and what reaches the container.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, beforeEach, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness, INTERNAL_SECRET } from "../support/harness.mjs";
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
beforeEach(() => fake.heal());

const Sent = { agentId: "uuid", sessionStatus: "string" };

/** A town with a rig, its mayor's id, and how its container speaks for an agent. */
async function found() {
  const town = await h.createTown();
  const rig = await town.createRig();
  const { json } = await town.api("GET", "/mayor-id");
  const mayor = json.agentId;
  const as = (agent) => ({ token: town.containerToken, headers: { "X-Gastown-Agent-Id": agent } });
  const tools = (method, path, body, options) =>
    h.api(method, `/api/mayor/${town.id}/tools${path}`, body, { token: town.containerToken, headers: { "X-Gastown-Agent-Id": mayor }, ...options });
  const own = `/rigs/mayor-${town.id}/agents/${mayor}`;
  return { town, rig, mayor, as, tools, own };
}

const told = (words) => fake.told.filter(({ prompt }) => prompt.includes(words)).length;

/** Writes to the mayor and lets what follows happen. */
async function say(town, message, more = {}) {
  const sent = await town.ok("POST", "/mayor/message", { message, ...more });
  looksLike(sent, Sent);
  await town.runAlarms();
  return sent.sessionStatus;
}

/** A town whose mayor lives. */
async function awake() {
  const c = await found();
  await say(c.town, `good morning ${c.town.id}`);
  await fake.heartbeat(c.mayor);
  await c.town.runAlarms();
  return c;
}

/** Whatever is wrong with it is refused and changes nothing. */
async function refuses(town, ask, status) {
  const was = await town.snapshot();
  const answer = await ask();
  assert.ok([status].flat().includes(answer.status), `${answer.status} ${answer.text}`);
  assert.equal(typeof answer.error, "string");
  assert.equal(await town.snapshot(), was);
}

describe("a message to the mayor", () => {
  test("wakes one that sleeps and is delivered once", async () => {
    const { town, mayor } = await found();
    assert.equal(await say(town, `hello ${town.id}`, { model: "ignored" }), "starting");
    const start = fake.starts.findLast((s) => s.agentId === mayor);
    assert.equal(start.role, "mayor");
    const request = fake.agent(mayor).startupRequest;
    assert.equal(request.rigId, `mayor-${town.id}`);
    assert.equal(request.rigs.length, 1);
    assert.match(request.systemPrompt, /^You are the mayor/);
    await fake.heartbeat(mayor);
    await town.runAlarms();
    assert.equal(told(`hello ${town.id}`), 1);
    assert.equal(await say(town, `again ${town.id}`), "active");
    assert.equal(told(`again ${town.id}`), 1);
    assert.deepEqual(await town.rows("SELECT id FROM mail WHERE delivered_at IS NULL"), []);
    assert.equal(fake.starts.filter((s) => s.agentId === mayor).length, 1);
  });

  test("travels with the next start of a container of ours, and follows by message at the predecessor's", async () => {
    const { town, mayor } = await awake();
    await fake.completed(mayor);
    await say(town, `second ${town.id}`);
    assert.equal(fake.agent(mayor).startupRequest.prompt, `second ${town.id}`);
    await fake.heartbeat(mayor);
    await town.runAlarms();
    assert.equal(told(`second ${town.id}`), 1);
    fake.kind = "predecessor";
    try {
      await fake.completed(mayor);
      await say(town, `third ${town.id}`);
      await fake.heartbeat(mayor);
      await town.runAlarms();
      assert.equal(told(`third ${town.id}`), 1, "its session was resumed, and did not read the prompt");
    } finally {
      fake.kind = "ours";
    }
  });

  test("is kept while the container is gone, and nobody is told that it was given", async () => {
    const { town, mayor } = await found();
    await fake.kill();
    try {
      assert.equal(await say(town, `lost ${town.id}`), "starting");
      const dispatch = await town.dispatch();
      looksLike(dispatch, { ...shape.Dispatch, mayor: { agent_id: "uuid", status: "string", session: "string", message_waits: "bool", holds: ["object"] } });
      assert.equal(dispatch.mayor.message_waits, true);
      const status = await town.ok("GET", "/mayor/status");
      assert.deepEqual([status.session.status, status.holds[0].code, status.last_attempt.role], ["idle", "backoff", "mayor"]);
      assert.equal(await say(town, `more ${town.id}`), "idle");
    } finally {
      await fake.boot();
    }
    await h.advance(3 * 60_000);
    await fake.heartbeat(mayor);
    await town.runAlarms();
    assert.deepEqual([told(`lost ${town.id}`), told(`more ${town.id}`)], [1, 1]);
  });

  test("brings what people look at", async () => {
    const { town } = await awake();
    assert.deepEqual(await town.ok("POST", "/mayor/dashboard-context", { context: `page one of ${town.id}` }), { stored: true });
    await say(town, `look ${town.id}`, { uiContext: "page two" });
    const { prompt } = fake.told.find((t) => t.prompt.includes(`look ${town.id}`));
    assert.match(prompt, /^<system-reminder>[^]*page one[^]*page two[^]*<\/system-reminder>[^]*look/);
  });

  test("comes from another service with its own secret only", async () => {
    const { town } = await awake();
    const path = `/api/internal/towns/${town.id}/mayor/message`;
    const ask = (headers, token = null) => h.api("POST", path, { message: `inside ${town.id}` }, { token, headers });
    for (const [headers, token] of [[{}], [{ "X-Internal-Secret": "wrong" }], [{}, town.token], [{}, h.token({ scope: "operator" })]]) {
      await refuses(town, () => ask(headers, token), 401);
    }
    const answer = await ask({ "X-Internal-Secret": INTERNAL_SECRET });
    assert.deepEqual([answer.status, answer.data.sessionStatus], [200, "active"]);
    const nowhere = `/api/internal/towns/${randomUUID()}/mayor/message`;
    assert.equal((await h.api("POST", nowhere, { message: "x" }, { token: null, headers: { "X-Internal-Secret": INTERNAL_SECRET } })).status, 404);
    await town.runAlarms();
    assert.equal(told(`inside ${town.id}`), 1);
  });

  test("that is wrong is refused", async () => {
    const { town } = await found();
    const post = (path, body, options) => () => town.api("POST", `/mayor/${path}`, body, options);
    for (const body of [{}, { message: "" }, { message: 7 }, { message: "x", uiContext: "x".repeat(10_001) }]) {
      await refuses(town, post("message", body), 400);
    }
    await refuses(town, post("message", { message: "x".repeat(16 * 1024 + 1) }), 422);
    await refuses(town, post("dashboard-context", { context: "x".repeat(10_001) }), 400);
    await refuses(town, post("completed", { status: "weary" }), 400);
    for (const path of ["message", "ensure", "configure", "destroy", "dashboard-context", "completed", "ui-action"]) {
      const body = { message: "x", context: "x", status: "completed", action: { type: "navigate", page: "beads" } };
      await refuses(town, post(path, body, { token: null }), 401);
      await refuses(town, post(path, body, { token: town.containerToken }), 403);
      await refuses(town, post(path, body, { token: h.token({ sub: "mallory" }) }), 403);
    }
  });
});

describe("the mayor by hand", () => {
  test("ensure, status, configure, completed and destroy", async () => {
    const { town, mayor } = await found();
    const Status = { configured: "bool", townId: "uuid", session: "any", message_waits: "bool", holds: ["object"], last_attempt: "any" };
    const asleep = await town.ok("GET", "/mayor/status");
    looksLike(asleep, Status);
    assert.equal(asleep.session, null);
    assert.deepEqual(await town.ok("POST", "/mayor/configure", { anything: true }), { configured: true });
    looksLike(await town.ok("POST", "/mayor/ensure"), Sent);
    await town.runAlarms();
    await fake.heartbeat(mayor);
    await town.runAlarms();
    const { session } = await town.ok("GET", "/mayor/status");
    looksLike(session, { agentId: "uuid", sessionId: "uuid", status: "string", lastActivityAt: "time" });
    assert.equal(session.status, "active");
    assert.equal((await town.ok("POST", "/mayor/ensure")).sessionStatus, "active");
    assert.deepEqual(await town.ok("POST", "/mayor/completed", { status: "completed" }), { acknowledged: true });
    assert.equal((await town.ok("GET", "/mayor/status")).session.status, "idle");
    await say(town, `up again ${town.id}`);
    assert.deepEqual(await town.ok("POST", "/mayor/destroy"), { destroyed: true });
    await town.runAlarms();
    assert.equal(fake.agent(mayor).status, "exited", "its process was stopped");
    assert.equal((await town.ok("GET", "/mayor/status")).session, null);
    assert.equal((await town.ok("GET", "/audit")).entries[0].action, "mayor.destroy");
  });

  test("mayor-id is flat and holds no secret", async () => {
    const { town, mayor } = await found();
    await town.ok("PATCH", "/config", { github_cli_pat: "ghp_not_for_you", small_model: "a/small" });
    const { status, json } = await town.api("GET", "/mayor-id", undefined, { token: town.containerToken });
    assert.deepEqual([status, Object.keys(json).sort(), json.success, json.agentId], [200, ["agentId", "model", "smallModel", "success"], true, mayor]);
    assert.equal(json.smallModel, "a/small");
  });
});

describe("the mayor's own calls", () => {
  test("its pseudo rig is accepted, and its turn's end is believed unless it is older than the last message", async () => {
    const { town, mayor, as, own } = await awake();
    const status = async () => (await town.ok("GET", `/rigs/mayor-${town.id}/agents`))[0].status;
    const late = h.now;
    await say(town, `hello ${town.id}`);
    assert.deepEqual(await town.ok("POST", `${own}/waiting`, { agentId: mayor, firedAt: late - 60_000 }, as(mayor)), { acknowledged: true });
    assert.equal(await status(), "working");
    await town.ok("POST", `${own}/waiting`, { firedAt: h.now + 1_000 }, as(mayor));
    assert.equal(await status(), "waiting");
    await say(town, `and ${town.id}`);
    assert.equal(await status(), "working");
    assert.deepEqual(await town.ok("POST", `${own}/waiting`, "", as(mayor)), { acknowledged: true }, "both fields are optional");
    for (const [method, path, body] of [
      ["GET", "/prime"], ["GET", "/mail"], ["GET", "/pending-nudges"], ["POST", "/status", { message: "thinking" }], ["POST", "/checkpoint", { data: {} }],
    ]) {
      assert.equal((await town.api(method, own + path, body, as(mayor))).status, 200, path);
    }
    await refuses(town, () => town.api("POST", `${own}/waiting`, {}, as(randomUUID())), 403);
  });

  test("mail of the mayor base is answered 200 and reaches an agent at work", async () => {
    const { town, rig, mayor, tools } = await awake();
    const { agent } = await town.rig(rig.id).sling({ title: "Work" });
    await town.runAlarms();
    await fake.heartbeat(agent.id);
    const letter = { rig_id: rig.id, from_agent_id: mayor, to_agent_id: agent.id, subject: "News", body: `of ${town.id}` };
    const sent = await tools("POST", "/mail", letter);
    assert.deepEqual([sent.status, sent.data], [200, { sent: true }]);
    await town.runAlarms();
    const { prompt } = fake.told.find((t) => t.agentId === agent.id);
    assert.match(prompt, new RegExp(`^You have new mail: 1\\.\\n\\n\\[MAIL from ${mayor}\\] News\\nof ${town.id}`));
    await refuses(town, () => tools("POST", "/mail", { ...letter, from_agent_id: agent.id }), 403);
    await refuses(town, () => tools("POST", "/mail", { ...letter, subject: "" }), 400);
    await refuses(town, () => tools("POST", "/mail", letter, { token: null }), 401);
  });

  test("it acknowledges escalations and shows people things", async () => {
    const { town, rig, tools } = await found();
    const raised = await town.ok("POST", `/rigs/${rig.id}/escalations`, { title: "Help", priority: "high" });
    const acknowledged = await tools("POST", `/escalations/${raised.id}/acknowledge`);
    assert.deepEqual([acknowledged.status, acknowledged.data.acknowledged], [200, 1]);
    await refuses(town, () => tools("POST", `/escalations/${randomUUID()}/acknowledge`), 404);
    const action = { type: "highlight_bead", beadId: "b", rigId: rig.id };
    assert.deepEqual((await tools("POST", "/ui-action", { action })).data, { broadcast: true });
    assert.deepEqual(await town.ok("POST", "/mayor/ui-action", { action: { type: "navigate", page: "rigs" } }), { broadcast: true });
    const another = await tools("POST", "/ui-action", { action: { ...action, rigId: "r9" } });
    assert.deepEqual([another.status, another.error], [400, "Rig r9 does not belong to this town"]);
    await refuses(town, () => tools("POST", "/ui-action", { action: { type: "explode" } }), 400);
  });
});

describe("nudges", () => {
  test("wait to be fetched, with the five texts of the wire, and are marked once", async () => {
    const { town, rig, mayor, as, tools } = await found();
    const { id } = await town.ok("POST", `/rigs/${rig.id}/agents/get-or-create`, { role: "polecat" });
    const base = `/rigs/${rig.id}`;
    const nudge = await town.ok("POST", `${base}/nudge`, { target_agent_id: id, message: "look up" }, as(mayor));
    looksLike(nudge, { nudge_id: "uuid" });
    const pending = await town.ok("GET", `${base}/agents/${id}/pending-nudges`, undefined, as(id));
    assert.deepEqual(pending, [{ nudge_id: nudge.nudge_id, message: "look up", mode: "wait-idle", priority: "normal", source: "agent" }]);
    assert.deepEqual((await tools("GET", `/rigs/${rig.id}/agents/${id}/pending-nudges`)).data, pending);
    const marked = () => town.ok("POST", `${base}/agents/${id}/nudge-delivered`, nudge, as(id));
    assert.deepEqual([await marked(), await marked()], [{ marked: true }, { marked: true }]);
    assert.deepEqual(await town.ok("GET", `${base}/agents/${id}/pending-nudges`, undefined, as(id)), []);
    const ask = (body) => () => town.api("POST", `${base}/nudge`, body);
    await refuses(town, ask({ target_agent_id: randomUUID(), message: "x" }), 404);
    await refuses(town, ask({ target_agent_id: id, message: "x", mode: "loud" }), 400);
    await refuses(town, ask({ target_agent_id: id }), 400);
    await refuses(town, () => town.api("GET", `${base}/agents/${id}/pending-nudges`, undefined, as(mayor)), 403);
  });

  test("an immediate one is sent at once", async () => {
    const { town, rig, mayor, as } = await awake();
    await town.ok("POST", `/rigs/${rig.id}/nudge`, { target_agent_id: mayor, message: `up ${town.id}`, mode: "immediate" }, as(mayor));
    await town.runAlarms();
    assert.equal(told(`up ${town.id}`), 1);
  });
});
