// SIGKILL for workerd in the middle of a dispatch, then the same storage: nothing is started twice, nothing is lost.

import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { until } from "../support/poll.mjs";

let h;
let fake;
afterEach(async () => {
  await h?.stop();
  await fake?.kill();
});

// Real clock and real alarms: after the restart the town must come back by itself.
const CONFIG = { dispatch: { start_timeout_ms: 2_000, heartbeat_timeout_ms: 1_000, backoff_ms: [200], jitter: 0, boot_timeout_ms: 1_000 } };

for (const kind of ["ours", "predecessor"]) {
  describe(`a crash during a start, with a container like ${kind === "ours" ? "ours" : "the predecessor's"}`, () => {
    const setUp = async () => {
      fake = await FakeContainer.start({ kind });
      h = await Harness.start({ container: fake, clock: "real" });
      const town = await h.createTown({ config: CONFIG });
      const rig = await town.createRig();
      return { town, rig };
    };

    test("the agent had started: it is found alive, not started again, and finishes its work", async () => {
      const { town, rig } = await setUp();
      fake.next("start", { hang: true, started: true });
      const { bead, agent } = await town.rig(rig.id).sling({ title: "Survive" });
      await until("the start hangs", () => fake.hanging === 1);
      assert.equal(fake.starts.length, 1);

      await h.kill9();
      await h.restart();

      await until("the attempt is known to live", async () => {
        if (fake.live.length) await fake.heartbeat(agent.id);
        return ["accepted", "proven"].includes((await town.attempts())[0].outcome);
      });
      assert.equal(fake.starts.length, 1, JSON.stringify(fake.starts));
      assert.equal((await town.attempts()).length, 1);
      assert.equal((await fake.done(agent.id, { branch: "gt/toast/x" })).status, 200);
      assert.equal((await town.rig(rig.id).bead(bead.id)).status, "in_review");
    });

    test("the agent had not started: its bead is started again, and no start is of a live agent", async () => {
      const { town, rig } = await setUp();
      fake.next("start", { hang: true, started: false });
      const { bead } = await town.rig(rig.id).sling({ title: "Again" });
      await until("the start hangs", () => fake.hanging === 1);
      assert.equal(fake.starts.length, 0);

      await h.kill9();
      await h.restart();

      await until("the bead's agent runs", async () => {
        await town.dispatch(); // any request wakes the object; without one its dead-man alarm does (below)
        return fake.live.length === 1;
      });
      assert.ok(fake.starts.every((s) => !s.killed), JSON.stringify(fake.starts));
      const started = fake.starts.length;
      await until("the town knows", async () => {
        for (const agent of fake.live) await fake.heartbeat(agent.agentId);
        return (await town.attempts())[0].outcome === "proven";
      });
      assert.equal(fake.starts.length, started);
      assert.equal((await town.rig(rig.id).bead(bead.id)).status, "in_progress");
    });

    test("ten beads, killed three times: every bead is there, and no live agent was ever started over", async () => {
      const { town, rig } = await setUp();
      const beads = [];
      for (let i = 0; i < 10; i += 1) beads.push((await town.rig(rig.id).sling({ title: `bead ${i}` })).bead.id);
      for (let round = 0; round < 3; round += 1) {
        fake.next("start", { hang: true, started: round % 2 === 0 });
        await until("a start hangs or all run", async () => {
          for (const agent of fake.live) await fake.heartbeat(agent.agentId);
          return fake.hanging === 1 || fake.live.length === 10;
        });
        await h.kill9();
        await h.restart();
      }
      fake.heal();
      await until("all ten run", async () => {
        for (const agent of fake.live) await fake.heartbeat(agent.agentId);
        return fake.live.length === 10;
      }, { within: 30_000, every: 100 });
      assert.ok(fake.starts.every((s) => !s.killed), JSON.stringify(fake.starts.filter((s) => s.killed)));
      const rows = await town.rows("SELECT bead_id, status FROM beads WHERE type = 'issue'");
      assert.deepEqual(rows.map((r) => r.bead_id).sort(), beads.sort());
      assert.equal((await town.dispatch()).invariant_violations, 0);
    });
  });
}

describe("a crash between two requests", () => {
  test("what was answered is there", async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
    const town = await h.createTown();
    const rig = await town.createRig();
    const made = [];
    for (let i = 0; i < 20; i += 1) {
      made.push((await town.ok("POST", `/rigs/${rig.id}/beads`, { type: "issue", title: `bead ${i}`, labels: ["gt:held"] })).id);
    }
    await h.kill9();
    await h.restart();
    const beads = await town.ok("GET", `/rigs/${rig.id}/beads`);
    assert.deepEqual(beads.map((b) => b.id).sort(), made.sort());
  });

  test("with nobody calling, the dead-man alarm of the handler that died brings the town back", async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
    const town = await h.createTown({ config: CONFIG });
    const rig = await town.createRig();
    fake.next("start", { hang: true, started: false });
    await town.rig(rig.id).sling({ title: "Come back" });
    const handler = town.runAlarm().catch(() => "died");
    await until("the start hangs", () => fake.hanging === 1);
    await h.kill9();
    assert.equal(await handler, "died");
    await h.restart();
    const deadMan = await town.alarm();
    assert.ok(deadMan > h.now && deadMan < h.now + 15 * 60_000, `it is set for ${deadMan - h.now} ms from now`);
    await until("its agent runs", async () => {
      await town.runNextAlarm();
      return fake.live.length === 1;
    });
    assert.equal(fake.starts.length, 1);
  });

  test("an alarm that was set before the crash fires after it", async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake, clock: "real" });
    const town = await h.createTown({ config: CONFIG });
    const rig = await town.createRig();
    fake.next("start", { answer: { status: 500, body: { error: "no" } } });
    await town.ok("PATCH", "/config", { dispatch: { backoff_ms: [1_000] } });
    await town.rig(rig.id).sling({ title: "Later" });
    await until("the first start failed", async () => (await town.attempts())[0]?.outcome === "failed");
    await h.kill9();
    await h.restart();
    // No request wakes the object: its alarm does.
    await until("the second start", () => fake.starts.length === 1, { within: 10_000 });
  });
});
