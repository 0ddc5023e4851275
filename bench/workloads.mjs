// The workloads of the baseline, each an hour of one town in workerd: real storage, a container that is a fake, a clock
// that stands still between events. Every alarm is run, every heartbeat is sent; nothing is estimated. What is counted
// is all that happens in the hour: ticks, settling, wake-ups, heartbeats, and what the town causes in the fleet's
// object. Founding the town and filling it is not.

import { storeClosed } from "../tests/support/bulk.mjs";
import { FakeContainer } from "../tests/support/fake-container.mjs";
import { Harness } from "../tests/support/harness.mjs";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
/** How often a container's heartbeats come. */
const HEARTBEAT = 30 * SECOND;
/** Events of an hour after which something is wrong: an alarm that rings again and again. */
const MANY = 20_000;
/** Events appended in the hour of workload E: some steps in which the oldest go. */
const APPENDED = 1_000;

/** Dollars per row, as the platform bills them. */
const PRICE = { read: 0.001 / 1e6, written: 1.0 / 1e6 };
const HOURS_A_MONTH = 30 * 24;

/** What rows cost if every hour of a month is like this one. */
export const dollarsMonth = ({ rows_read, rows_written }) =>
  Number(((rows_read * PRICE.read + rows_written * PRICE.written) * HOURS_A_MONTH).toFixed(4));

/** The workloads; `n` is what grows in the baseline's tables, `small` an n that a test can run, if one can. */
export const WORKLOADS = {
  A: { title: "idle, n closed beads stored", sizes: [10_000], small: 200, prepare: idle },
  A1: { title: "one healthy agent, n closed beads stored", sizes: [10_000], small: 200, prepare: oneAgent },
  B: { title: "n open beads, every start answers 500", sizes: [10, 100, 1_000], small: 20, prepare: failing },
  C: { title: "n healthy agents, our runner's batch heartbeat", sizes: [1, 10, 100], small: 4, prepare: healthy },
  C_forgets: { title: "the same, the object made anew after every event", sizes: [100], small: null, prepare: healthy, forgets: true },
  C_single: { title: "n healthy agents, the predecessor's single heartbeats", sizes: [100], small: 2, prepare: healthySingle },
  E: { title: `${APPENDED} events, each appended alone to an agent's store of n`, sizes: [10_000], small: null, prepare: talking },
};

/** Runs one workload and returns its figures for the hour. */
export async function run(name, n, { lines = false } = {}) {
  const container = await FakeContainer.start();
  const h = await Harness.start({ container, clock: "stands", seed: n + 1 });
  try {
    const { prepare, forgets = false } = WORKLOADS[name];
    const { town, beat = null, deed = null } = await prepare(h, container, n);
    return await measured(h, container, town, { beat, forgets, deed }, n, lines);
  } finally {
    await h.stop();
    await container.kill();
  }
}

/** An hour, counted. */
async function measured(h, container, town, life, n, lines) {
  const asked = container.requests.length;
  await (await town.stub()).tMeterReset();
  await life.deed?.();
  const { alarms, ticks } = await pass(h, town, HOUR, life);
  const meter = await (await town.stub()).tMeter();
  const figures = {
    n,
    alarms,
    ticks,
    statements: meter.statements,
    rows_read: meter.rows_read,
    rows_written: meter.rows_written,
    container_calls: container.requests.length - asked,
  };
  figures.dollars_month = dollarsMonth(figures);
  // RPC hands out proxies of arrays; what leaves here is plain.
  if (lines) figures.lines = meter.lines.map((line) => ({ ...line }));
  return figures;
}

/**
 * Lets time pass: every heartbeat is sent and every alarm is run when it is due. Returns how many alarms rang, and how
 * many ticks they took. `forgets`: after each event the object is thrown out of memory, as the platform does with one
 * that nobody calls for ten seconds.
 */
async function pass(h, town, time, { beat = null, forgets = false } = {}) {
  let stub = await town.stub();
  const end = h.now + time;
  let next = beat ? h.now + HEARTBEAT : Infinity;
  let alarms = 0;
  let ticks = -(await ticksOf(town));
  for (let events = 0; ; events += 1) {
    if (events > MANY) throw new Error(`more than ${MANY} events in ${time / MINUTE} minutes`);
    const alarm = (await stub.tAlarm()) ?? Infinity;
    const at = Math.min(alarm, next);
    if (at > end) break;
    if (at > h.now) await h.advance(at - h.now, { run: false });
    if (at === next) {
      await beat();
      next += HEARTBEAT;
    } else {
      await stub.tRunAlarm({ force: true });
      alarms += 1;
    }
    if (forgets) {
      ticks += await ticksOf(town);
      await town.evict();
      stub = await town.stub();
    }
  }
  await h.advance(end - h.now, { run: false });
  return { alarms, ticks: ticks + (await ticksOf(town)) };
}

/** Ticks since the object was made, by its own ledger; asking is not counted. */
async function ticksOf(town) {
  const stub = await town.stub();
  await stub.tMeterPause(true);
  const { cost } = await town.dispatch();
  await stub.tMeterPause(false);
  return cost.ticks;
}

// ── the workloads ────────────────────────────────────────────────────────────────────────────────────────────────

async function founded(h, { dispatch = {} } = {}) {
  const town = await h.createTown({ config: { dispatch } });
  return { town, rig: await town.createRig() };
}

/** A: nothing to do. */
async function idle(h, _, n) {
  const { town, rig } = await founded(h);
  await storeClosed(town, rig.id, n);
  await pass(h, town, MINUTE);
  return { town };
}

/** A1: one agent at work in a town with a past. */
async function oneAgent(h, container, n) {
  const made = await healthy(h, container, 1);
  await storeClosed(made.town, made.rig.id, n);
  return made;
}

/** B: an outage, from its first minute. */
async function failing(h, container, n) {
  container.always("start", { answer: { status: 500, body: { error: "the disk is full" } } });
  const { town, rig } = await founded(h);
  await sling(town, rig, n);
  return { town };
}

/** C: all agents at work, for a while already. */
async function healthy(h, container, n, { single = false } = {}) {
  const { town, rig } = await founded(h, { dispatch: { max_agents: n, max_polecats_per_rig: n } });
  await sling(town, rig, n);
  const beat = () => (single ? one : batch)(h, container, town);
  while (container.live.length < n) {
    const live = container.live.length;
    await h.advance(SECOND); // what is due rings in the next millisecond, which comes only if it is let
    if (container.live.length === live) throw new Error(`only ${live} of ${n} agents were started`);
    await beat();
  }
  await pass(h, town, 10 * MINUTE, { beat });
  return { town, rig, beat };
}

function healthySingle(h, container, n) {
  return healthy(h, container, n, { single: true });
}

/** E: an agent with a past says something, event by event, as the predecessor's container sends them. */
async function talking(h, _, n) {
  const { town, rig } = await founded(h);
  const agent = await town.ok("POST", `/rigs/${rig.id}/agents/get-or-create`, { role: "polecat" });
  const say = (body) => town.ok("POST", `/rigs/${rig.id}/agent-events`, { agent_id: agent.id, ...body }, { token: town.containerToken });
  const event = (i) => ({ event_type: "message.part.updated", data: { i, text: "x".repeat(200) } });
  for (let i = 0; i < n; i += APPENDED) await say({ events: Array.from({ length: APPENDED }, (_, j) => event(i + j)) });
  await pass(h, town, MINUTE);
  const deed = async () => {
    for (let i = 0; i < APPENDED; i += 1) await say(event(i));
  };
  return { town, deed };
}

async function sling(town, rig, n) {
  for (let i = 0; i < n; i += 1) await town.rig(rig.id).sling({ title: `Work ${i}` });
}

// ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────────

/** What a container says of an agent that works: its last event and its tools are others each time. */
function sign(h, agent) {
  const step = Math.floor(h.now / HEARTBEAT);
  return {
    agentId: agent.agentId,
    rigId: agent.rigId,
    townId: agent.townId,
    status: agent.status,
    timestamp: new Date(h.now).toISOString(),
    lastEventType: step % 2 ? "message.updated" : "message.part.updated",
    lastEventAt: new Date(h.now - SECOND).toISOString(),
    activeTools: step % 2 ? ["bash"] : ["edit"],
    messageCount: step % 1000,
  };
}

async function batch(h, container, town) {
  const agents = container.live.map((agent) => ({ ...sign(h, agent), dispatchId: agent.dispatchId }));
  const body = { containerInstanceId: container.instanceId, agents };
  await town.ok("POST", "/heartbeats", body, { token: town.containerToken });
}

/** One request for each agent, one after the other, as the predecessor's container sends them. */
async function one(h, container, town) {
  for (const agent of container.live) {
    const body = { ...sign(h, agent), containerInstanceId: container.instanceId };
    await town.ok("POST", `/rigs/${agent.rigId}/agents/${agent.agentId}/heartbeat`, body, { token: town.containerToken });
  }
}
