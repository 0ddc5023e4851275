// The alarm: none when nothing can become due, never lost, and safe to run twice.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { until } from "../support/poll.mjs";
import { WebhookReceiver } from "../support/webhook-receiver.mjs";

const MINUTE = 60_000;
let h;
let fake;

async function up(options = {}) {
  fake = await FakeContainer.start(options.fake);
  h = await Harness.start({ container: fake, ...options });
}
afterEach(async () => {
  await h?.stop();
  await fake?.kill();
});

/** A town with a rig and one slung bead. */
async function slung(config) {
  const town = await h.createTown({ config });
  const rig = await town.createRig();
  const { bead, agent } = await town.rig(rig.id).sling({ title: "Work" });
  return { town, rig, bead, agent, base: `/rigs/${rig.id}` };
}

describe("driven by hand", () => {
  beforeEach(() => up());

  test("a town with nothing due has no alarm at all: new, with a rig, with a bead that is held", async () => {
    const town = await h.createTown();
    await town.runAlarms();
    assert.equal(await town.alarm(), null);
    const rig = await town.createRig();
    await town.ok("POST", `/rigs/${rig.id}/beads`, { type: "issue", title: "x", labels: ["gt:held"] });
    await town.runAlarms();
    assert.equal(await town.alarm(), null);
    const { next_wake, alarm } = await town.dispatch();
    assert.deepEqual({ next_wake, alarm }, { next_wake: null, alarm: null });
  });

  test("a fresh sling is due at once, and booked in the tick, not in the answer", async () => {
    const { town, bead, agent } = await slung();
    assert.deepEqual([bead.status, agent.status], ["open", "idle"]);
    assert.ok((await town.alarm()) <= h.now);
    await town.runAlarms();
    assert.equal(fake.starts.length, 1);
    assert.equal(fake.starts[0].agentId, agent.id);
    const [attempt] = await town.attempts();
    assert.equal(attempt.attempt_id, fake.starts[0].dispatchId);
    assert.equal(attempt.outcome, "accepted");
  });

  test("while an agent runs the alarm is its lease; when its work is closed there is none", async () => {
    const { town, rig, bead, agent, base } = await slung();
    await town.runAlarms();
    const [attempt] = await town.attempts();
    assert.equal(await town.alarm(), Date.parse(attempt.lease_until));
    await fake.heartbeat(agent.id);
    const as = town.rig(rig.id, { agent: agent.id, dispatch: attempt.attempt_id });
    await as.ok("POST", `/beads/${bead.id}/close`, { agent_id: agent.id });
    assert.equal((await town.ok("GET", `${base}/beads/${bead.id}`)).status, "closed");
    // The alarm is only ever moved earlier by a command; the lease that is no more costs one empty run.
    await h.advance(2 * MINUTE);
    assert.equal(await town.alarm(), null);
    assert.equal(fake.requests.filter((r) => r.kind === "status").length, 0);
  });

  test("heartbeats move the deadline without a run of the alarm", async () => {
    const { town, agent } = await slung();
    await town.runAlarms();
    await h.advance(30_000, { run: false });
    await fake.heartbeat(agent.id);
    await h.advance(75_000, { run: false });
    await fake.heartbeat(agent.id);
    assert.equal((await town.attempts())[0].outcome, "proven");
    await town.runAlarms();
    assert.equal((await town.attempts())[0].outcome, "proven");
    assert.equal(fake.requests.filter((r) => r.kind === "status").length, 0, "no look at an agent that is heard");
  });

  test("an overdue heartbeat causes a look, and what runs goes on", async () => {
    const { town, agent } = await slung();
    await town.runAlarms();
    await fake.heartbeat(agent.id);
    await h.advance(2 * MINUTE);
    assert.ok(fake.requests.some((r) => r.kind === "health") && fake.requests.some((r) => r.kind === "status"));
    const [attempt] = await town.attempts();
    assert.equal(attempt.outcome, "proven");
    assert.ok(Date.parse(attempt.lease_until) > h.now);
    assert.equal(fake.starts.length, 1);
  });

  test("a dead-man alarm is set while the handler works, so that a crash below cannot stop the town", async () => {
    fake.always("start", { hang: true });
    const { town } = await slung({ dispatch: { start_timeout_ms: 60_000 } });
    const handler = town.runAlarm();
    await until("the start hangs", () => fake.hanging === 1);
    const deadMan = await town.alarm();
    assert.notEqual(deadMan, null);
    assert.ok(deadMan > h.now, "in the future");
    fake.heal();
    await handler;
  });

  test("an object that dies in the middle of a start looks before it repeats anything", async () => {
    fake.always("start", { hang: true, started: true });
    const { town } = await slung();
    const handler = town.runAlarm().catch(() => "died");
    await until("the start hangs", () => fake.hanging === 1);
    await town.evict();
    assert.equal(await handler, "died");
    fake.heal();
    await town.dispatch();
    await h.advance(1000);
    const [attempt, ...more] = await town.attempts();
    assert.deepEqual(more, []);
    assert.ok(["accepted", "proven"].includes(attempt.outcome), attempt.outcome);
    assert.equal(fake.starts.length, 1);
  });

  test("an alarm that runs twice repeats nothing", async () => {
    const { town } = await slung();
    await town.runAlarm();
    const before = await town.attempts();
    await town.runAlarm();
    await town.runAlarm({ retryCount: 1 });
    assert.deepEqual(await town.attempts(), before);
    assert.equal(fake.starts.length, 1);
  });

  test("a missing alarm is repaired by the next request", async () => {
    const { town } = await slung();
    const set = await town.alarm();
    await town.setAlarm(null);
    await town.dispatch();
    assert.ok(Math.abs((await town.alarm()) - set) < 5000);
  });

  test("an alarm stuck in the past is repaired by the next request", async () => {
    const { town } = await slung();
    await town.setAlarm(h.now - 10 * MINUTE);
    await town.dispatch();
    assert.ok((await town.alarm()) > h.now - 5000);
    await town.runAlarms();
    assert.equal(fake.starts.length, 1);
  });

  test("a town that was slowed down because its ticks failed is as quick as ever once nothing is due", async () => {
    const { town, rig } = await slung({ dispatch: { heartbeat_timeout_ms: 3_600_000 } });
    await town.runAlarms();
    await fake.heartbeat(fake.live[0].agentId);
    await town.runAlarms();

    await town.sql("CREATE TRIGGER no_attempts BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'no more rows'); END");
    const { bead } = await town.rig(rig.id).sling({ title: "cannot be booked" });
    while ((await town.alarm()) - h.now < 10_000) await town.runNextAlarm();
    await town.sql("DROP TRIGGER no_attempts");
    await town.ok("POST", `/beads/${bead.bead_id}/cancel`, { reason: "not needed" });
    await town.runNextAlarm();
    assert.ok((await town.alarm()) - h.now > 60_000, "nothing is due but the lease");

    await town.rig(rig.id).sling({ title: "fresh" });
    assert.ok((await town.alarm()) - h.now < 1_000, `it waits for ${(await town.alarm()) - h.now} ms`);
  });

  test("beads behind an open breaker add no alarm: the probe stands for all of them", async () => {
    const town = await h.createTown();
    const rig = await town.createRig();
    await town.ok("PUT", "/breakers/town", { mode: "forced_open", reason: "test", expires_in_ms: 3_600_000 });
    for (let i = 0; i < 5; i += 1) await town.rig(rig.id).sling({ title: `bead ${i}` });
    await town.runAlarms();
    assert.equal(fake.starts.length, 0);
    const at = await town.alarm();
    assert.ok(at > h.now + MINUTE, `the next thing is the end of the override, not ${at - h.now} ms away`);
  });

  test("a webhook is signed over its raw body, and one that fails is repeated", async () => {
    const receiver = await WebhookReceiver.start("s3cret");
    receiver.status = 500;
    const town = await h.createTown({ config: { notify: { webhook_url: receiver.url, webhook_secret: "s3cret" } } });
    await town.ok("POST", "/notifications/test");
    await town.runAlarms();
    assert.equal(receiver.deliveries.length, 1);
    receiver.status = 200;
    await h.advance(MINUTE);
    assert.equal(receiver.deliveries.length, 2);
    assert.ok(receiver.deliveries.every((d) => d.verified), JSON.stringify(receiver.deliveries));
    assert.deepEqual(receiver.deliveries[0].json.id, receiver.deliveries[1].json.id);
    const { notifications } = await town.ok("GET", "/notifications");
    const hook = notifications[0].deliveries.find((d) => d.channel === "webhook");
    assert.deepEqual([hook.state, hook.attempts], ["delivered", 2]);
    await receiver.stop();
  });

  test("a hanging start delays neither another town's work nor a fresh sling of its own", async () => {
    fake.next("start", { answer: { status: 201, body: {} }, started: true });
    const { town, rig, agent } = await slung({ dispatch: { start_timeout_ms: 60_000 } });
    await town.runAlarms();
    await fake.heartbeat(agent.id); // the instance is proven: more than one start may be in flight
    fake.next("start", { hang: true });
    await town.rig(rig.id).sling({ title: "hangs" });
    const handler = town.runAlarm();
    await until("the start hangs", () => fake.hanging === 1);
    await town.rig(rig.id).sling({ title: "fresh" });
    await until("the fresh one is started", () => fake.starts.length === 2);
    assert.equal(fake.hanging, 1);
    fake.heal();
    await handler;
  });
});

describe("with the real clock", () => {
  test("a sling reaches the container by itself, within a second or two", async () => {
    await up({ clock: "real" });
    const { agent } = await slung();
    await until("the agent is started", () => fake.starts.some((s) => s.agentId === agent.id), { within: 5_000 });
  });

  test("a failed start is tried again by itself after its backoff", async () => {
    await up({ clock: "real" });
    fake.next("start", { answer: { status: 500, body: { error: "no" } } });
    const { town } = await slung({ dispatch: { backoff_ms: [300], jitter: 0 } });
    await until("the second start", () => fake.starts.length === 1, { within: 10_000 });
    assert.equal((await town.attempts()).length, 2);
  });

  test("when everything is done the town sleeps: no alarm, and no tick after that", async () => {
    await up({ clock: "real", fake: { heartbeatMs: 100 } });
    const { town, rig, bead, agent } = await slung({ dispatch: { heartbeat_timeout_ms: 1_000 } });
    await until("the agent runs", async () => (await town.attempts())[0]?.outcome === "proven");
    const as = town.rig(rig.id, { agent: agent.id, dispatch: fake.starts[0].dispatchId });
    await as.ok("POST", `/beads/${bead.id}/close`, { agent_id: agent.id });
    fake.exit(agent.id);
    await until("there is no alarm", async () => (await town.alarm()) === null);
    const { ticks } = (await town.dispatch()).cost;
    await new Promise((resolve) => setTimeout(resolve, 500)); // the time in which nothing may happen
    assert.equal((await town.dispatch()).cost.ticks, ticks);
  });
});
