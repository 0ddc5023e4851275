// The fakes must misbehave exactly as told, or the tests that use them prove nothing.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { once } from "node:events";
import { afterEach, beforeEach, describe, test } from "node:test";
import { startRequest } from "../support/contract.mjs";
import { FakeContainer } from "../support/fake-container.mjs";
import { until } from "../support/poll.mjs";
import { WebhookReceiver } from "../support/webhook-receiver.mjs";

describe("the fake container", () => {
  let fake;
  const post = (path, body, signal) =>
    fetch(fake.url + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  const start = (body, signal) => post("/agents/start", body, signal);
  beforeEach(async () => {
    fake = await FakeContainer.start({ kind: "predecessor" });
  });
  afterEach(() => fake.kill());

  test("a start of a live agent kills it, answers 201 with the whole environment, and both starts are in the ledger", async () => {
    const body = startRequest({ envVars: { GASTOWN_CONTAINER_TOKEN: "secret" } });
    assert.equal((await start(body)).status, 201);
    const second = await start(body);
    assert.equal(second.status, 201);
    assert.equal((await second.json()).startupEnv.GASTOWN_CONTAINER_TOKEN, "secret");
    assert.deepEqual(fake.starts.map((s) => [s.dispatchId, s.killed]), [[body.dispatchId, false], [body.dispatchId, true]]);
  });

  test("of our kind, a repeated dispatchId is one start in the ledger", async () => {
    await fake.kill();
    fake = await FakeContainer.start({ kind: "ours" });
    const body = startRequest();
    await start(body);
    await start(body);
    assert.equal(fake.starts.length, 1);
  });

  test("an answer is given as scripted, once, and nothing is started", async () => {
    fake.next("start", { answer: { status: 429, body: { error: "slow down" }, headers: { "Retry-After": "7" } } });
    const refused = await start(startRequest());
    assert.deepEqual([refused.status, refused.headers.get("retry-after"), await refused.json()], [429, "7", { error: "slow down" }]);
    assert.equal(fake.starts.length, 0);
    assert.equal((await start(startRequest())).status, 201);
  });

  test("a connection drops before the agent has started, or after it has", async () => {
    fake.next("start", { drop: 5, started: false }).next("start", { drop: 5, started: true });
    await assert.rejects(start(startRequest()));
    assert.equal(fake.starts.length, 0);
    const body = startRequest();
    await assert.rejects(start(body));
    assert.equal(fake.starts.length, 1);
    assert.equal((await (await fetch(`${fake.url}/agents/${body.agentId}/status`)).json()).status, "running");
  });

  test("a start that hangs goes on when it is released, and starts nothing if its caller has left", async () => {
    fake.always("start", { hang: true });
    const patient = start(startRequest());
    const leaving = new AbortController();
    const impatient = start(startRequest(), leaving.signal);
    await until("both hang", () => fake.hanging === 2);
    leaving.abort();
    await assert.rejects(impatient);
    await until("one is left", () => fake.hanging === 1);
    fake.release();
    assert.equal((await patient).status, 201);
    assert.equal(fake.starts.length, 1);
  });

  test("a stop aborts a start that lasts, which then answers 500", async () => {
    const body = startRequest();
    fake.next("start", { takes: 200 });
    const starting = start(body);
    await until("it is starting", () => fake.agents.get(body.agentId)?.status === "starting");
    assert.equal((await post(`/agents/${body.agentId}/stop`, {})).status, 200);
    const answer = await starting;
    assert.deepEqual([answer.status, await answer.json()], [500, { error: `Startup aborted for agent ${body.agentId}` }]);
  });

  test("a standing script may depend on the request and ends with heal()", async () => {
    fake.always("start", (body) => (body.role === "refinery" ? { answer: { status: 500, body: "no refinery" } } : {}));
    assert.equal((await start(startRequest({ role: "refinery" }))).status, 500);
    assert.equal((await start(startRequest())).status, 201);
    fake.heal();
    assert.equal((await start(startRequest({ role: "refinery" }))).status, 201);
  });

  test("killed it refuses connections; booted it is another instance on the same address", async () => {
    const { url, instanceId } = fake;
    await start(startRequest());
    await fake.kill();
    await assert.rejects(fetch(`${url}/health`));
    await fake.boot();
    assert.equal(fake.url, url);
    assert.notEqual(fake.instanceId, instanceId);
    assert.equal((await (await fetch(`${url}/health`)).json()).agents, 0);
  });

  test("a restart breaks open requests and forgets the agents, and the address stays", async () => {
    fake.next("start", { hang: true });
    const broken = start(startRequest());
    await until("it hangs", () => fake.hanging === 1);
    fake.restart();
    await assert.rejects(broken);
    assert.equal((await fetch(`${fake.url}/health`)).status, 200);
    assert.equal(fake.starts.length, 0);
  });

  test("its agents beat, speak and end over HTTP, with token and headers of their kind", async () => {
    const seen = [];
    const worker = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      seen.push({ path: request.url, headers: request.headers, body: JSON.parse(Buffer.concat(chunks).toString() || "null") });
      response.writeHead(200, { "Content-Type": "application/json" }).end('{"success":true,"data":{}}');
    });
    worker.listen(0, "127.0.0.1");
    await once(worker, "listening");
    await fake.kill();
    fake = await FakeContainer.start({ heartbeatMs: 20 });
    const api = `http://127.0.0.1:${worker.address().port}`;
    const body = startRequest({ envVars: { GASTOWN_API_URL: api, GASTOWN_CONTAINER_TOKEN: "t" } });
    await start(body);
    const base = `/api/towns/${body.townId}/rigs/${body.rigId}/agents/${body.agentId}`;
    await until("two heartbeats", () => seen.filter((s) => s.path === `${base}/heartbeat`).length >= 2);
    assert.equal(seen[0].headers.authorization, "Bearer t");
    assert.equal(seen[0].headers["x-gastown-dispatch-id"], body.dispatchId);
    assert.equal(seen[0].body.containerInstanceId, fake.instanceId);
    await fake.done(body.agentId);
    const done = seen.find((s) => s.path === `${base}/done`);
    assert.equal(done.headers["x-gastown-agent-id"], body.agentId);
    assert.equal(done.body.branch, body.branch);
    assert.equal(fake.agent(body.agentId).status, "exited");

    const short = startRequest({ ...body, agentId: randomUUID(), dispatchId: randomUUID() });
    fake.next("start", { life: { ms: 10, status: "failed", reason: "out of credit" } });
    await start(short);
    const ended = await until("it reports its end", () => seen.find((s) => s.path.endsWith(`${short.agentId}/completed`)));
    assert.deepEqual([ended.body.status, ended.body.reason], ["failed", "out of credit"]);
    worker.closeAllConnections();
    worker.close();
  });

  test("draining it refuses starts, says so in health, and reports its agents as evicted", async () => {
    const seen = [];
    const worker = createServer((request, response) => {
      seen.push(request.url);
      request.resume();
      response.writeHead(200, { "Content-Type": "application/json" }).end('{"success":true,"data":{}}');
    });
    worker.listen(0, "127.0.0.1");
    await once(worker, "listening");
    const api = `http://127.0.0.1:${worker.address().port}`;
    const body = startRequest({ envVars: { GASTOWN_API_URL: api, GASTOWN_CONTAINER_TOKEN: "t" } });
    fake.apiUrl = api;
    await start(body);
    assert.equal((await fake.sigterm()).status, 200);
    assert.equal((await start(startRequest())).status, 503);
    assert.equal((await (await fetch(`${fake.url}/health`)).json()).draining, true);
    await fake.finishDrain();
    const base = `/api/towns/${body.townId}/rigs/${body.rigId}/agents/${body.agentId}`;
    assert.deepEqual(seen, [`/api/towns/${body.townId}/container-eviction`, `${base}/eviction-context`, `${base}/completed`]);
    worker.closeAllConnections();
    worker.close();
  });

  test("a new instance acknowledges a drain once, by the nonce of a health call", async () => {
    const seen = [];
    const worker = createServer((request, response) => {
      seen.push(request.url);
      request.resume();
      response.writeHead(200, { "Content-Type": "application/json" }).end("{}");
    });
    worker.listen(0, "127.0.0.1");
    await once(worker, "listening");
    fake.apiUrl = `http://127.0.0.1:${worker.address().port}`;
    const headers = { "X-Drain-Nonce": "n", "X-Town-Id": "t" };
    await fetch(`${fake.url}/health`, { headers });
    await fetch(`${fake.url}/health`, { headers });
    await until("it acknowledged", () => seen.length > 0);
    assert.deepEqual(seen, ["/api/towns/t/container-ready"]);
    worker.closeAllConnections();
    worker.close();
  });
});

describe("the webhook receiver", () => {
  test("it tells a right signature from a wrong one and from none", async () => {
    const receiver = await WebhookReceiver.start("s3cret");
    const raw = '{"kind":"test"}';
    const right = `sha256=${createHmac("sha256", "s3cret").update(raw).digest("hex")}`;
    const wrong = `sha256=${createHmac("sha256", "other").update(raw).digest("hex")}`;
    for (const signature of [right, wrong, undefined]) {
      await fetch(receiver.url, { method: "POST", body: raw, headers: signature ? { "X-Gastown-Signature": signature } : {} });
    }
    assert.deepEqual(receiver.deliveries.map((d) => d.verified), [true, false, false]);
    assert.deepEqual(receiver.deliveries[0].json, { kind: "test" });
    await receiver.stop();
  });
});

describe("a panic in a worker", () => {
  const output = new URL("../support/output.mjs", import.meta.url).href;
  const file = (script) =>
    spawnSync(process.execPath, ["--input-type=module", "-e", `import { accuse, expectPanics, keep } from "${output}";\n${script}`], { encoding: "utf8" });

  test("fails the test file it happened in, although every test in it may pass", () => {
    for (const said of [
      'keep("workerd", "fine\\npanicked at src/x.rs:1:2:\\noh\\n")',
      'keep("workerd", "pani"); keep("workerd", "cked at src/x.rs:1:2\\n")',
      'keep("workerd", "Reinitializing Wasm application\\n")',
      'keep("workerd", "Critical RuntimeError: unreachable\\n")',
    ]) {
      const { status, stderr } = file(said);
      assert.equal(status, 1, said);
      assert.match(stderr, /A worker panicked, and no test expected it/);
    }
  });

  test("and so does a secret in a row, also where a panic is expected", () => {
    const { status, stderr } = file('expectPanics(); accuse(["TownDO agents.name: git-token"])');
    assert.equal(status, 1);
    assert.match(stderr, /Secrets in rows where none belong:\n  TownDO agents.name: git-token/);
  });

  test("does not where a test expects it, nor does a word that only looks like one", () => {
    assert.equal(file('expectPanics(); keep("workerd", "panicked at src/x.rs:1:2\\n")').status, 0);
    assert.equal(file('keep("workerd", "nobody panicked\\nat all\\n")').status, 0);
  });
});
