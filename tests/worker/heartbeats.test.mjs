// Heartbeats in bulk: what they cost in the rows that the platform bills, and our own runner's against the real worker.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { until } from "../support/poll.mjs";
import { bareRepository, builtProgram, program } from "../support/programs.mjs";

const AGENTS = 100;
const MINUTE = 60_000;
/** `HEARTBEAT_STORE_EVERY` of policy.rs. */
const STORE_EVERY = 5 * MINUTE;

describe("a hundred agents that are well", () => {
  let h;
  let fake;
  let town;
  let rig;
  before(async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
    town = await h.createTown({ config: { dispatch: { max_agents: 500, max_polecats_per_rig: 500, max_starts_in_flight: 100 } } });
    rig = await town.createRig();
    for (let i = 0; i < AGENTS; i += 1) await town.rig(rig.id).sling({ title: `Work ${i}` });
    while (fake.live.length < AGENTS) {
      await town.runAlarms();
      await batch();
    }
    await batch();
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
  });

  const said = (agent) => ({ agentId: agent.agentId, dispatchId: agent.dispatchId, status: "running" });
  const batch = (agents = fake.live.map(said)) =>
    town.ok("POST", "/heartbeats", { containerInstanceId: fake.instanceId, agents }, { token: town.containerToken });

  /** Rows of the verb while `action` runs. */
  const rows = async (name, action) => {
    const { calls, rows_read, rows_written } = (await town.cost(action)).verbs[name];
    return { calls, rows_read, rows_written };
  };

  test("one call for all of them costs no row, and moves no alarm", async () => {
    const alarm = await town.alarm();
    assert.deepEqual(await rows("heartbeats", batch), { calls: 1, rows_read: 0, rows_written: 0 });
    assert.equal(await town.alarm(), alarm);
  });

  test("a hundred calls, as the predecessor's container makes them, cost no row either", async () => {
    const each = async () => {
      for (const { agentId } of fake.live) await fake.heartbeat(agentId);
    };
    assert.deepEqual(await rows("heartbeat", each), { calls: AGENTS, rows_read: 0, rows_written: 0 });
  });

  test("a strange agent, one that has ended and one without a name spoil none of the others", async () => {
    const before = await town.rows("SELECT count(*) AS n FROM attempts");
    const strange = [{ agentId: "nobody", status: "running" }, { agentId: fake.live[0].agentId, dispatchId: "of-yesterday", status: "running" }];
    await batch([...strange, ...fake.live.slice(1).map(said)]);
    assert.deepEqual(await town.rows("SELECT count(*) AS n FROM attempts"), before);
    const nameless = await town.api("POST", "/heartbeats", { agents: [{ status: "running" }] }, { token: town.containerToken });
    assert.deepEqual([nameless.status, nameless.json.field], [422, "agents"]);
  });

  test("a row of each is written once in five minutes, and nothing of what is shown is older for it", async () => {
    await batch();
    let written = 0;
    const long = 15 * MINUTE;
    for (let passed = 0; passed < long; passed += 30_000) {
      await h.advance(30_000, { run: false });
      const cost = await rows("heartbeats", batch);
      written += cost.rows_written;
      assert.ok([0, AGENTS].includes(cost.rows_written), `${cost.rows_written} rows in one batch`);
      await town.runAlarms();
    }
    assert.equal(written, AGENTS * (long / STORE_EVERY));
    const agents = await town.ok("GET", `/rigs/${rig.id}/agents`);
    const working = agents.filter((a) => a.status === "working");
    assert.equal(working.length, AGENTS);
    for (const agent of working) assert.ok(h.now - Date.parse(agent.last_activity_at) < 10_000, agent.last_activity_at);
    assert.equal(fake.requests.filter((r) => r.kind === "status").length, 0, "nobody was looked at");
  });

  test("an object that was evicted knows nothing, reads each row once, writes none, and looks at nobody", async () => {
    await batch();
    await h.advance(MINUTE, { run: false });
    await town.evict();
    const cost = await rows("heartbeats", batch);
    assert.equal(cost.rows_written, 0);
    assert.ok(cost.rows_read <= 3 * AGENTS, `${cost.rows_read} rows read`);
    await town.runAlarms();
    assert.equal(fake.requests.filter((r) => r.kind === "status").length, 0);
    assert.deepEqual(await rows("heartbeats", batch), { calls: 1, rows_read: 0, rows_written: 0 });
  });

  test("the one of them that falls silent is found, and no other is asked", async () => {
    const silent = fake.live[0];
    for (let passed = 0; passed < 2 * MINUTE; passed += 30_000) {
      await h.advance(30_000, { run: false });
      await batch(fake.live.filter((a) => a.agentId !== silent.agentId).map(said));
      await town.runAlarms();
    }
    const asked = fake.requests.filter((r) => r.kind === "status").map((r) => r.path);
    assert.deepEqual([...new Set(asked)], [`/agents/${silent.agentId}/status`]);
    assert.equal((await town.dispatch()).in_flight.length, 0);
  });
});

const runner = builtProgram("gastown-runner");
describe("our runner and the worker", { skip: runner ? false : "the runner is not built" }, () => {
  let h;
  let container;
  let repository;
  before(async () => {
    repository = await bareRepository();
    container = await program(runner, {
      GASTOWN_RUNNER_ADDR: "127.0.0.1:0",
      GASTOWN_DEV: "1",
      GASTOWN_WORKSPACE: `${repository.folder}/workspace`,
      GASTOWN_HEARTBEAT_MS: "300",
    });
    h = await Harness.start({ containerUrl: container.url, clock: "real", vars: { ENVIRONMENT: "development" } });
  });
  after(async () => {
    await container?.stop();
    await h?.stop();
    await repository?.remove();
  });

  test("three agents are proven at once and kept alive by one call an interval, which costs nothing", async () => {
    const town = await h.createTown({ config: { dispatch: { max_starts_in_flight: 3, heartbeat_timeout_ms: 2_000 } } });
    const rig = await town.createRig({ git_url: repository.url });
    const beads = [];
    for (let i = 0; i < 3; i += 1) {
      const made = await town.rig(rig.id).sling({ title: `Wait ${i}`, body: "```sh\nsleep 300\n```" });
      beads.push(made.bead.id);
    }
    await until("all three are proven", async () => {
      const attempts = await town.attempts();
      return attempts.filter((a) => a.outcome === "proven").length === 3;
    }, { within: 30_000, every: 50 });
    const lease = async () => Math.min(...(await town.attempts()).map((a) => Date.parse(a.lease_until)));
    const first = await lease();
    let cost;
    await until("several heartbeats", async () => {
      cost = await town.cost(() => until("another one", async () => (await lease()) > first + 2_000, { within: 20_000, every: 50 }));
      return true;
    }, { within: 30_000 });
    assert.equal(cost.verbs.heartbeat?.calls ?? 0, 0, "none for a single agent");
    assert.ok(cost.verbs.heartbeats.calls >= 3, `${cost.verbs.heartbeats.calls} calls`);
    assert.equal(cost.verbs.heartbeats.rows_written, 0);
    const attempts = await town.attempts();
    assert.deepEqual(attempts.map((a) => a.outcome), ["proven", "proven", "proven"]);
    assert.deepEqual(attempts.map((a) => a.bead_id).sort(), beads.sort());
  });
});
