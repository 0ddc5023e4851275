// More than one object can serve: what cannot be served soon is told so, and nothing else changes.
//
// `make soak-load` (OVERLOAD_SLINGS=10000) drives the same with ten thousand slings.

import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { Client, closedLoop, memory, openLoop, summary } from "../support/load.mjs";
import { until } from "../support/poll.mjs";

/** `REQUESTS_IN_HAND` and `BYTES_IN_HAND` of policy.rs. */
const IN_HAND = 128;
const BYTES_IN_HAND = 32 * 1024 * 1024;
const AGENTS = 4;
/** Slings that enter in the same moment in the long variant; connections of one client are as many and some more. */
const WAVE = 2_000;
/** What the process may grow by, in MB: Wasm memory of at most 128, buffers of the connections, and V8 before it collects. */
const GROWTH_MB = 700;

let h;
let fake;
let client;
afterEach(async () => {
  client?.stop();
  await h?.stop();
  await fake?.kill();
});

/** A town with its agents at work, the clock real: it lives by its own alarms. */
async function busyTown() {
  fake = await FakeContainer.start();
  h = await Harness.start({ container: fake, clock: "real" });
  client = new Client(h.url);
  const town = await h.createTown({ config: { dispatch: { max_agents: AGENTS, max_polecats_per_rig: AGENTS, max_starts_in_flight: AGENTS } } });
  const rig = await town.createRig();
  for (let i = 0; i < AGENTS; i += 1) await town.rig(rig.id).sling({ title: `First ${i}` });
  await until("its agents work", async () => {
    for (const { agentId } of fake.live) await fake.heartbeat(agentId);
    return fake.live.length === AGENTS;
  }, { within: 20_000, every: 100 });
  const container = { Authorization: `Bearer ${town.containerToken}` };
  const person = { Authorization: `Bearer ${town.token}` };
  const base = `/api/towns/${town.id}/rigs/${rig.id}`;
  const heartbeat = ({ agentId } = fake.live[0]) => {
    const body = { agentId, status: "running", containerInstanceId: fake.instanceId };
    return client.post(`${base}/agents/${agentId}/heartbeat`, body, container);
  };
  const sling = async (title, body) => ({ title, ...(await client.post(`${base}/sling`, { title, body }, person)) });
  return { town, rig, heartbeat, sling };
}

/** Every answer is a success, or 503 with a wait that is worth it. */
function polite(answers) {
  for (const { status, text, retryAfter } of answers) {
    if (status >= 200 && status < 300) continue;
    assert.equal(status, 503, text);
    assert.equal(JSON.parse(text).code, "overloaded", text);
    assert.ok(Number(retryAfter) >= 5 && Number(retryAfter) <= 10, `Retry-After: ${retryAfter}`);
  }
}

/** What was accepted is there once, what was refused is not there. */
async function exactly(town, slings) {
  const accepted = slings.filter((s) => s.status === 201);
  const rows = await town.rows("SELECT bead_id, title FROM beads WHERE type = 'issue' AND title NOT LIKE 'First %'");
  assert.deepEqual(rows.map((r) => r.title).sort(), accepted.map((s) => s.title).sort());
  assert.deepEqual(rows.map((r) => r.bead_id).sort(), accepted.map((s) => JSON.parse(s.text).data.bead.id).sort());
}

/** An agent that is done makes room, and the town fills it by itself. */
async function dispatches(town) {
  const started = fake.starts.length;
  const { agentId } = fake.live[0];
  await until("its work is taken", async () => (await fake.done(agentId, { branch: `gt/toast/${started}` })).status === 200);
  fake.exit(agentId);
  await until("the next one starts", () => fake.starts.length > started, { within: 20_000 });
  assert.equal((await town.dispatch()).invariant_violations, 0);
}

/** Sends requests that all enter the object in the same moment, as if they came from the whole world. */
async function together(town, send) {
  const stub = await town.stub();
  await stub.tShut();
  const answers = send();
  await until("all wait at the door", async () => (await stub.tWaiting()) === answers.length, { within: 120_000, every: 50 });
  await stub.tOpen();
  return Promise.all(answers);
}

describe("an object that has too much in hand", () => {
  test("a burst of slings: as many as it may hold are served, the others told to wait; agents get through", async (t) => {
    const { town, heartbeat, sling } = await busyTown();
    const before = memory(h.pid);
    const [{ agentId }] = fake.live;
    const all = await together(town, () => [
      fake.done(agentId, { branch: "gt/toast/burst" }),
      ...Array.from({ length: 300 }, (_, i) => sling(`Burst ${i}`)),
      ...Array.from({ length: 100 }, () => heartbeat(fake.live[1])),
    ]);
    const [done, slung, beaten] = [all[0], all.slice(1, 301), all.slice(301)];
    assert.equal(done.status, 200, "work that is done is taken");
    assert.deepEqual([...new Set(beaten.map((b) => b.status))], [200], "a burst of slings takes no heartbeat's place");
    polite(slung);
    assert.equal(slung.filter((s) => s.status === 201).length, IN_HAND);
    const after = memory(h.pid);
    t.diagnostic(`slings ${JSON.stringify(summary(slung))}, heartbeats ${JSON.stringify(summary(beaten))}`);
    t.diagnostic(`workerd held ${before.now} MB before, ${after.peak} at its highest, ${after.now} after`);
    await exactly(town, slung);
    await dispatches(town);

    // Whoever was sent away asks again, and no bead is made twice.
    const refused = slung.filter((s) => s.status === 503).slice(0, 20);
    const again = await Promise.all(refused.map((s) => sling(s.title)));
    assert.deepEqual([...new Set(again.map((s) => s.status))], [201]);
    await exactly(town, [...slung.filter((s) => s.status === 201), ...again]);
  });

  test("twice the heartbeats that it can serve: each is answered, none with an error, and the town goes on", async (t) => {
    const { town, heartbeat, sling } = await busyTown();
    const { perSecond } = await closedLoop(heartbeat, { width: 16, ms: 1_000 });
    const [beaten, slung] = await Promise.all([
      openLoop(heartbeat, { perSecond: 2 * perSecond, ms: 2_000 }),
      Promise.all(Array.from({ length: 20 }, (_, i) => sling(`Beside ${i}`))),
    ]);
    t.diagnostic(`${perSecond.toFixed(0)} heartbeats a second are served; of twice that: ${JSON.stringify(summary(beaten))}`);
    polite([...beaten, ...slung]);
    assert.ok(beaten.some((b) => b.status === 200));
    await exactly(town, slung);
    await dispatches(town);
  });

  test("large bodies fill it sooner: what it holds at once is bounded in bytes, too", async (t) => {
    const { town, sling } = await busyTown();
    const before = memory(h.pid);
    const large = "x".repeat(900_000);
    const answers = await together(town, () => Array.from({ length: 60 }, (_, i) => sling(`Large ${i}`, large)));
    const after = memory(h.pid);
    t.diagnostic(`${JSON.stringify(summary(answers))}; workerd held ${before.now} MB before, ${after.peak} at its highest`);
    // 422: read, and refused for the size of its text.
    polite(answers.filter((a) => a.status !== 422));
    assert.equal(answers.filter((a) => a.status === 422).length, Math.floor(BYTES_IN_HAND / 900_000), "by the bytes that were announced");
    await dispatches(town);
  });

  // Real workerd reads its sockets in the thread that serves: from one machine a burst waits in the kernel, not in the
  // object. So these too enter together, two thousand at a time, as they would from edges all over the world.
  const burst = Number(process.env.OVERLOAD_SLINGS ?? 0);
  test(`${burst} slings, two thousand at once`, { skip: burst === 0 && "on demand: make soak-load" }, async (t) => {
    const { town, heartbeat, sling } = await busyTown();
    const before = memory(h.pid);
    const [slung, beaten, held] = [[], [], []];
    for (let from = 0; from < burst; from += WAVE) {
      const slings = Math.min(WAVE, burst - from);
      const answers = await together(town, () => [
        ...Array.from({ length: slings }, (_, i) => sling(`Burst ${from + i}`)),
        ...Array.from({ length: 100 }, (_, i) => heartbeat(fake.live[i % fake.live.length])),
      ]);
      slung.push(...answers.slice(0, slings));
      beaten.push(...answers.slice(slings));
      held.push(memory(h.pid).now);
    }
    const after = memory(h.pid);
    t.diagnostic(`slings ${JSON.stringify(summary(slung))}, heartbeats ${JSON.stringify(summary(beaten))}`);
    t.diagnostic(`workerd held ${before.now} MB before, ${after.peak} at its highest, ${after.now} after`);
    polite(slung);
    assert.equal(slung.filter((s) => s.status === 201).length, IN_HAND * Math.ceil(burst / WAVE));
    assert.deepEqual([...new Set(beaten.map((b) => b.status))], [200]);
    assert.ok(after.peak - before.now < 2 * GROWTH_MB, `it grew by ${after.peak - before.now} MB`);
    t.diagnostic(`after each wave ${held.join(", ")} MB`);
    await exactly(town, slung);
    await dispatches(town);
  });
});

describe("a call to an object that fails", () => {
  const asked = async (fault) => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
    const town = await h.createTown();
    const headers = { "X-Test-Stub-Fault": fault };
    const answer = await town.api("GET", "/dispatch", undefined, { headers });
    return { status: answer.status, code: answer.code, retryAfter: Number(answer.headers.get("Retry-After")), tries: answer.headers.get("X-Test-Stub-Tries") };
  };

  test("because it is overloaded is not tried again: 503, with a wait that is not the same for everybody", async () => {
    const { status, code, retryAfter, tries } = await asked("overloaded");
    assert.deepEqual({ status, code, tries }, { status: 503, code: "overloaded", tries: "1" });
    assert.ok(retryAfter >= 5 && retryAfter <= 10, `Retry-After: ${retryAfter}`);
    const waits = new Set();
    const town = await h.createTown();
    for (let i = 0; i < 20; i += 1) {
      const { json } = await town.api("GET", "/dispatch", undefined, { headers: { "X-Test-Stub-Fault": "overloaded" } });
      waits.add(json.retry_after_ms);
    }
    assert.ok(waits.size > 5, [...waits].join(", "));
  });

  test("in a way that may pass is the caller's to try again: 503, and one try", async () => {
    const { status, code, retryAfter, tries } = await asked("retryable");
    assert.deepEqual({ status, code, tries }, { status: 503, code: "unavailable", tries: "1" });
    assert.ok(retryAfter >= 1 && retryAfter <= 2, `Retry-After: ${retryAfter}`);
  });

  test("for any other reason is our fault: 500, one try, and nothing of the reason", async () => {
    const { status, code, tries } = await asked("other");
    assert.deepEqual({ status, code, tries }, { status: 500, code: "internal", tries: "1" });
  });
});
