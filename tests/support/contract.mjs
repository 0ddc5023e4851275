// What every container must do (protocol.md 4), as tests. They run against the fake, against our runner and against the
// simulated container, so that a test that passes against one of them says something about the others.
//
//   contract({
//     name: "the fake container",
//     start: async () => ({ baseUrl, request, stop }),
//   })
//
// `request()` returns a StartAgentRequest whose agent stays alive until it is stopped. Optional beside it:
//   heartbeats     true if agents report to `envVars.GASTOWN_API_URL` over HTTP
//   ending()       a StartAgentRequest whose agent ends by itself, soon and well
//   failing()      a StartAgentRequest whose repository step fails

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import { until } from "./poll.mjs";

const STATES = ["starting", "running", "stopping", "exited", "failed"];

/** A StartAgentRequest; what it says beyond `overrides` is valid. */
export function startRequest(overrides = {}) {
  const agentId = overrides.agentId ?? randomUUID();
  return {
    agentId,
    rigId: randomUUID(),
    townId: randomUUID(),
    role: "polecat",
    name: "Toast",
    identity: `Toast-polecat-${agentId.slice(0, 8)}@town`,
    prompt: "Stay alive\n\n```sh\nexec sleep 120\n```",
    model: "anthropic/claude-sonnet-4.6",
    smallModel: "anthropic/claude-haiku-4.5",
    systemPrompt: "You are a polecat.",
    gitUrl: "https://example.invalid/repo.git",
    branch: `gt/toast/${agentId.slice(0, 8)}`,
    defaultBranch: "main",
    envVars: {},
    dispatchId: randomUUID(),
    ...overrides,
  };
}

export function contract({ name, start }) {
  describe(`the contract of a container: ${name}`, () => {
    let container;
    let features = [];
    let worker;

    const call = async (method, path, body) => {
      const response = await fetch(container.baseUrl + path, {
        method,
        headers: { "Content-Type": "application/json" },
        body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
        signal: AbortSignal.timeout(30_000),
      });
      const text = await response.text();
      return { status: response.status, json: JSON.parse(text), text };
    };
    const request = (overrides = {}) => {
      const made = container.request(overrides);
      return { ...made, envVars: { ...worker.envVars, ...made.envVars } };
    };
    const started = async (overrides) => {
      const body = request(overrides);
      const answer = await call("POST", "/agents/start", body);
      assert.equal(answer.status, 201, answer.text);
      return { ...body, answer: answer.json };
    };
    const stop = (agentId, body = {}) => call("POST", `/agents/${agentId}/stop`, body);
    const status = (agentId) => call("GET", `/agents/${agentId}/status`);
    const needs = (t, feature) => {
      if (features.includes(feature)) return true;
      t.skip(`/health does not list ${feature}`);
      return false;
    };

    before(async () => {
      worker = await workerStub();
      container = await start();
      features = (await call("GET", "/health")).json.features ?? [];
    });
    after(async () => {
      await container?.stop();
      await worker?.stop();
    });

    test("health says ok, since when, and how many agents there are", async () => {
      const { status, json } = await call("GET", "/health");
      assert.equal(status, 200);
      assert.equal(json.status, "ok");
      assert.equal(typeof json.agents, "number");
      assert.equal(typeof json.uptime, "number");
      assert.ok(Date.parse(json.startedAt) <= Date.now() + 1000, json.startedAt);
      assert.ok(!("draining" in json), "draining is there only when it is true");
    });

    test("health tells the same instance every time", async () => {
      const first = (await call("GET", "/health")).json;
      const second = (await call("GET", "/health")).json;
      assert.equal(first.startedAt, second.startedAt);
      assert.equal(first.containerInstanceId, second.containerInstanceId);
      if (features.includes("dispatch-id")) assert.match(first.containerInstanceId, /^[0-9a-f-]{36}$/);
    });

    test("an unknown route is 404 with an error", async () => {
      assert.deepEqual(await call("GET", "/nowhere").then((r) => [r.status, r.json]), [404, { error: "Not found" }]);
    });

    test("an unknown agent is 404 for status, stop and message, and the text names it", async () => {
      const id = randomUUID();
      const expected = [404, { error: `Agent ${id} not found` }];
      assert.deepEqual(await status(id).then((r) => [r.status, r.json]), expected);
      assert.deepEqual(await stop(id).then((r) => [r.status, r.json]), expected);
      const message = await call("POST", `/agents/${id}/message`, { prompt: "hello" });
      assert.deepEqual([message.status, message.json], expected);
    });

    test("a start without a required field is 400 with issues, and starts nothing", async () => {
      const before = (await call("GET", "/health")).json.agents;
      for (const field of ["agentId", "rigId", "townId", "role", "prompt", "gitUrl", "branch", "defaultBranch"]) {
        const { [field]: _, ...body } = request();
        const answer = await call("POST", "/agents/start", body);
        assert.equal(answer.status, 400, `${field}: ${answer.text}`);
        assert.equal(answer.json.error, "Invalid request body", field);
        assert.ok(Array.isArray(answer.json.issues), field);
      }
      assert.equal((await call("GET", "/health")).json.agents, before);
    });

    test("a start with another role, or with no JSON at all, is 400", async () => {
      assert.equal((await call("POST", "/agents/start", request({ role: "witness" }))).status, 400);
      assert.equal((await call("POST", "/agents/start", "{not json")).status, 400);
      assert.equal((await call("POST", "/agents/start", "")).status, 400);
    });

    test("a start is 201 with the agent, whose status then is starting or running", async () => {
      const { agentId, rigId, townId, role, answer } = await started();
      assert.deepEqual(
        { agentId: answer.agentId, rigId: answer.rigId, townId: answer.townId, role: answer.role },
        { agentId, rigId, townId, role },
      );
      const { status: code, json } = await status(agentId);
      assert.equal(code, 200);
      assert.equal(json.agentId, agentId);
      assert.ok(["starting", "running"].includes(json.status), json.status);
      assert.equal(json.exitReason, null);
      assert.ok(Number.isFinite(Date.parse(json.startedAt)), json.startedAt);
      assert.ok(Array.isArray(json.activeTools));
      assert.equal(typeof json.messageCount, "number");
      assert.ok((await call("GET", "/health")).json.agents >= 1);
      await stop(agentId);
    });

    test("an agent's id is understood percent-encoded, too", async () => {
      const { agentId } = await started();
      assert.equal((await status(agentId.replaceAll("-", "%2D"))).json.agentId, agentId);
      assert.equal((await stop(agentId.replaceAll("-", "%2D"))).status, 200);
    });

    test("a stop is 200, also a second time, and leaves an agent that has exited because it was stopped", async () => {
      const { agentId } = await started();
      assert.deepEqual(await stop(agentId).then((r) => [r.status, r.json]), [200, { stopped: true }]);
      const ended = await until("the agent has exited", async () => {
        const { json } = await status(agentId);
        assert.ok(STATES.includes(json.status), json.status);
        return json.status === "exited" && json;
      });
      assert.equal(ended.exitReason, "stopped");
      assert.deepEqual(await stop(agentId).then((r) => [r.status, r.json]), [200, { stopped: true }]);
    });

    test("a message without a prompt is 400, and one to an agent that has ended is 500 and names its state", async () => {
      const { agentId } = await started();
      const wrong = await call("POST", `/agents/${agentId}/message`, { text: "hello" });
      assert.equal(wrong.status, 400);
      assert.equal(typeof wrong.json.error, "string");
      await stop(agentId);
      await until("the agent has exited", async () => (await status(agentId)).json.status === "exited");
      const late = await call("POST", `/agents/${agentId}/message`, { prompt: "hello" });
      assert.equal(late.status, 500);
      assert.equal(late.json.error, `Agent ${agentId} is not running (status: exited)`);
    });

    test("an agent that has ended is started again under its id", async () => {
      const first = await started();
      await stop(first.agentId);
      await until("the agent has exited", async () => (await status(first.agentId)).json.status === "exited");
      await started({ agentId: first.agentId, rigId: first.rigId, townId: first.townId, branch: first.branch });
      assert.ok(["starting", "running"].includes((await status(first.agentId)).json.status));
      await stop(first.agentId);
    });

    test("an agent that ends by itself has exited, with a reason, and can be asked about", async (t) => {
      if (!container.ending) return t.skip("its agents end on command only");
      const body = container.ending();
      const answer = await call("POST", "/agents/start", { ...body, envVars: { ...worker.envVars, ...body.envVars } });
      assert.equal(answer.status, 201, answer.text);
      const ended = await until("the agent has exited", async () => {
        const { json } = await status(body.agentId);
        return json.status === "exited" && json;
      });
      assert.ok(ended.exitReason.length > 0);
    });

    test("a repeated dispatchId is the same start: the agent that runs is not touched", async (t) => {
      if (!needs(t, "dispatch-id")) return;
      const first = await started();
      const before = (await status(first.agentId)).json;
      const { answer: _, ...body } = first;
      const again = await call("POST", "/agents/start", body);
      assert.equal(again.status, 201, again.text);
      const after = (await status(first.agentId)).json;
      assert.deepEqual(
        { startedAt: after.startedAt, sessionId: after.sessionId },
        { startedAt: before.startedAt, sessionId: before.sessionId },
      );
      assert.equal(after.dispatchId, first.dispatchId);
      await stop(first.agentId);
    });

    test("two starts with one dispatchId at the same time are one start", async (t) => {
      if (!needs(t, "dispatch-id")) return;
      const body = request();
      const before = (await call("GET", "/health")).json.agents;
      const answers = await Promise.all([call("POST", "/agents/start", body), call("POST", "/agents/start", body)]);
      assert.deepEqual(answers.map((a) => a.status), [201, 201]);
      assert.equal((await call("GET", "/health")).json.agents, before + 1);
      await stop(body.agentId);
    });

    test("another dispatchId for a live agent ends the old process and starts a new one", async (t) => {
      if (!needs(t, "dispatch-id")) return;
      const first = await started();
      const second = await started({ ...pick(first, ["agentId", "rigId", "townId", "branch"]), dispatchId: randomUUID() });
      const { json } = await status(first.agentId);
      assert.equal(json.dispatchId, second.dispatchId);
      assert.ok(["starting", "running"].includes(json.status), json.status);
      await stop(first.agentId);
    });

    test("a stop that names another dispatch leaves the agent alone", async (t) => {
      if (!needs(t, "dispatch-id")) return;
      const { agentId, dispatchId } = await started();
      assert.equal((await stop(agentId, { dispatchId: randomUUID() })).status, 200);
      assert.ok(["starting", "running"].includes((await status(agentId)).json.status));
      assert.equal((await stop(agentId, { dispatchId })).status, 200);
      await until("the agent has exited", async () => (await status(agentId)).json.status === "exited");
    });

    test("an agent that starts says so at once, with its instance and its attempt", async (t) => {
      if (!container.heartbeats) return t.skip("speaks no HTTP to the worker");
      if (!needs(t, "dispatch-id")) return;
      const { agentId, rigId, townId, dispatchId } = await started();
      const beat = await until("a heartbeat", () => worker.heartbeatOf(agentId));
      const { containerInstanceId } = (await call("GET", "/health")).json;
      assert.equal(beat.containerInstanceId, containerInstanceId);
      assert.equal(beat.dispatchId, dispatchId);
      assert.equal(beat.authorization, "Bearer contract-token");
      assert.ok(beat.path.startsWith(`/api/towns/${townId}/`), beat.path);
      if (beat.path.includes("/rigs/")) assert.ok(beat.path.includes(`/rigs/${rigId}/agents/${agentId}/`), beat.path);
      await stop(agentId);
    });

    test("a repository that cannot be had is 500 with the phase and a reason", async (t) => {
      if (!container.failing) return t.skip("clones nothing");
      const { status: code, json } = await call("POST", "/agents/start", container.failing());
      assert.equal(code, 500);
      assert.equal(json.phase, "repository");
      assert.ok(json.error.length > 0);
    });
  });
}

function pick(object, keys) {
  return Object.fromEntries(keys.map((key) => [key, object[key]]));
}

/** The worker as far as agents notice it: says yes to everything and keeps the heartbeats. */
async function workerStub() {
  const heartbeats = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const seen = {
      path: request.url,
      authorization: request.headers.authorization,
      dispatchId: request.headers["x-gastown-dispatch-id"],
    };
    if (/heartbeats?$/.test(request.url)) {
      const body = JSON.parse(Buffer.concat(chunks).toString() || "{}");
      // One call per agent, or one for all of them.
      for (const agent of body.agents ?? [body]) heartbeats.push({ ...seen, ...agent, containerInstanceId: body.containerInstanceId, dispatchId: agent.dispatchId ?? seen.dispatchId });
    }
    response.writeHead(200, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ success: true, data: {} }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    envVars: {
      GASTOWN_API_URL: `http://127.0.0.1:${server.address().port}`,
      GASTOWN_CONTAINER_TOKEN: "contract-token",
    },
    heartbeatOf: (agentId) => heartbeats.find((beat) => beat.agentId === agentId),
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
