// What things may cost, in the rows that the platform bills: counted, not timed.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { committed } from "../../bench/figures.mjs";
import { WORKLOADS, run } from "../../bench/workloads.mjs";
import { storeClosed } from "../support/bulk.mjs";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";

const CLOSED = 100_000;
/** Rows that any tick, and any other verb of the alarm, may read on the way to ten agents at work. */
const TICK_READS = 150;

describe("budgets", () => {
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

  /** Rows of the verb, apart from what asking for the figures costs. */
  const verb = (cost, name) => {
    const found = cost.verbs[name];
    assert.ok(found, `no verb ${name} among ${Object.keys(cost.verbs)}`);
    return found;
  };

  test("a heartbeat writes at most one row, and reads a handful", async () => {
    const town = await h.createTown();
    const rig = await town.createRig();
    const { agent } = await town.rig(rig.id).sling({ title: "Work" });
    await town.runAlarms();
    await fake.heartbeat(agent.id); // the first proves the attempt and may write more
    for (let i = 0; i < 5; i += 1) {
      await h.advance(30_000, { run: false });
      const cost = await town.cost(() => fake.heartbeat(agent.id));
      const { calls, rows_read, rows_written } = verb(cost, "heartbeat");
      assert.equal(calls, 1);
      assert.ok(rows_written <= 1, `${rows_written} rows written`);
      assert.ok(rows_read <= 20, `${rows_read} rows read`);
    }
  });

  test("a heartbeat soon after another one writes nothing", async () => {
    const town = await h.createTown();
    const rig = await town.createRig();
    const { agent } = await town.rig(rig.id).sling({ title: "Work" });
    await town.runAlarms();
    await fake.heartbeat(agent.id);
    await fake.heartbeat(agent.id);
    const cost = await town.cost(() => fake.heartbeat(agent.id));
    assert.ok(verb(cost, "heartbeat").rows_written <= 1);
  });

  test("an alarm whose lease heartbeats have moved on is set anew, which is one row, and no tick", async () => {
    const town = await h.createTown();
    const rig = await town.createRig();
    const { agent } = await town.rig(rig.id).sling({ title: "Work" });
    await town.runAlarms();
    await fake.heartbeat(agent.id);
    await town.runAlarms();
    const set = await town.alarm();
    for (let i = 0; i < 3; i += 1) {
      await h.advance(29_000, { run: false });
      await fake.heartbeat(agent.id);
    }
    await h.advance(set - h.now + 1, { run: false });
    const stub = await town.stub();
    const cost = await town.cost(async () => {
      await stub.tMeterReset();
      await town.runAlarm();
      const { alarms_set, rows_written } = await stub.tMeter();
      assert.deepEqual([alarms_set, rows_written], [1, 1]);
    });
    assert.equal(cost.ticks, 0);
    assert.ok((await town.alarm()) > set + 60_000);
  });

  test("a request that a healthy town answers sets no alarm and runs no tick", async () => {
    const town = await h.createTown();
    const rig = await town.createRig();
    await town.runAlarms();
    const { ticks } = await town.cost(() => town.ok("GET", `/rigs/${rig.id}/beads`));
    assert.equal(ticks, 0);
    assert.equal(await town.alarm(), null);
  });

  test(`${CLOSED.toLocaleString("en")} closed beads stored and 10 due: a tick reads at most ${TICK_READS} rows, as many as with none stored`, async (t) => {
    const first = async (closed) => {
      const town = await h.createTown();
      const rig = await town.createRig();
      await storeClosed(town, rig.id, closed);
      await town.runAlarms();
      // Slow start lets one through, then two, four: every tick on the way has its budget.
      const started = fake.starts.length;
      for (let i = 0; i < 10; i += 1) await town.rig(rig.id).sling({ title: `Due ${i}` });
      const ticks = [];
      while (fake.starts.length < started + 10) {
        const before = fake.starts.length;
        const cost = await town.cost(() => town.runAlarm());
        assert.ok(fake.starts.length > before, `it went on after ${before - started} starts`);
        for (const [name, { calls, rows_read }] of Object.entries(cost.verbs)) {
          if (calls > 0) assert.ok(rows_read / calls <= TICK_READS, `${name}: ${rows_read} rows read in ${calls} calls`);
        }
        ticks.push(verb(cost, "tick"));
        for (const { agentId } of fake.live) await fake.heartbeat(agentId);
      }
      t.diagnostic(`${closed} stored: ${ticks.map(({ calls, rows_read }) => `${rows_read} rows in ${calls} ticks`).join(", ")}`);
      for (const { agentId } of fake.live) fake.exit(agentId);
      return ticks[0];
    };
    assert.deepEqual(await first(CLOSED), await first(1));
  });
});

describe("what an hour of a town costs is, to the row, what bench/figures.json says", () => {
  for (const [name, { title, small }] of Object.entries(WORKLOADS).filter(([, workload]) => workload.small)) {
    test(`${name}, n = ${small}: ${title}`, async () => {
      const { small: known } = await committed();
      assert.deepEqual(await run(name, small), known[`${name}_${small}`], "make bench UPDATE=1 commits what is counted");
    });
  }

  test("and none of the figures is above its target", async () => {
    const { ours, targets } = await committed();
    for (const [key, target] of Object.entries(targets)) {
      for (const [what, most] of Object.entries(target)) {
        assert.ok(ours[key][what] <= most, `${key}: ${ours[key][what]} ${what}, the target is ${most}`);
      }
    }
  });
});
