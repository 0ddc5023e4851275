// The status socket: who gets in, what is told, and that it outlives the object that serves it.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { Watcher, upgrade } from "../support/watcher.mjs";

/** `SOCKETS_MAX` of `src/town/policy.rs`. */
const SOCKETS_MAX = 32;

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

const held = { type: "issue", title: "Held", labels: ["gt:held"] };
const isSnapshot = (frame) => frame.agents !== undefined;
const isBead = (type) => (frame) => frame.channel === "bead" && frame.type === type;

async function founded() {
  const town = await h.createTown();
  const rig = await town.createRig();
  return { town, rig, at: town.rig(rig.id) };
}

/** The path of the status socket, with a fresh ticket. */
async function ticketed(town, options) {
  const { url, ticket } = await town.ok("POST", "/status/ticket", undefined, options);
  return `${url}?ticket=${ticket}`;
}

async function watch(town) {
  return Watcher.open(h, await ticketed(town));
}

describe("the status socket", () => {
  test("begins with the snapshot, as the debug status shows it", async () => {
    const { town, at } = await founded();
    await at.ok("POST", "/beads", held);
    const watcher = await watch(town);
    const [first] = await watcher.first(1);
    const { alarmStatus } = (await h.api("GET", `/debug/towns/${town.id}/status`)).json;
    assert.equal(first.beads.open, 1);
    assert.deepEqual(first, alarmStatus);
    await watcher.close();
  });

  test("tells of a bead's making, its start and its end, and of the town after each", async () => {
    const { town, rig, at } = await founded();
    const watcher = await watch(town);
    await watcher.first(1);
    const { bead, agent } = await at.sling({ title: "Seen" });
    const made = await watcher.frame("the bead is made", isBead("bead.created"));
    assert.deepEqual({ ...made, ts: null }, { channel: "bead", type: "bead.created", beadId: bead.id, title: "Seen", status: "open", rigId: rig.id, ts: null });
    assert.ok(!Number.isNaN(Date.parse(made.ts)), made.ts);
    await watcher.frame("a snapshot with it", (f) => isSnapshot(f) && f.beads.open === 1, 1);

    await town.runAlarms();
    const started = await watcher.frame("it is started", isBead("bead.status_changed"));
    assert.equal(started.status, "in_progress");
    await watcher.frame("a snapshot with the agent at work", (f) => isSnapshot(f) && f.agents.working === 1 && f.beads.inProgress === 1);

    await town.ok("POST", `/beads/${bead.id}/cancel`, { reason: "not wanted" });
    assert.equal((await watcher.frame("it has failed", isBead("bead.failed"))).status, "failed");
    await watcher.frame("a snapshot without it", (f) => isSnapshot(f) && f.beads.failed === 1 && f.agents.working === 0);

    const other = await at.ok("POST", "/beads", held);
    await at.ok("PATCH", `/beads/${other.id}/status`, { status: "closed", agent_id: "me" });
    await watcher.frame("another is closed", (f) => isBead("bead.closed")(f) && f.beadId === other.id);
    await at.ok("POST", `/agents/${agent.id}/status`, { message: "reading" });
    const said = await watcher.frame("what the agent says", (f) => f.type === "agent_status");
    assert.deepEqual({ ...said, timestamp: null }, { type: "agent_status", agentId: agent.id, message: "reading", timestamp: null });
    await watcher.close();
  });

  test("says nothing when nothing has changed", async () => {
    const { town, at } = await founded();
    await at.ok("POST", "/beads", held);
    const watcher = await watch(town);
    await watcher.first(1);
    for (const path of ["/dispatch", "/config", "/attempts"]) await town.ok("GET", path);
    assert.equal((await at.api("POST", "/beads", { type: "issue" })).status, 400);
    await at.ok("POST", "/beads", { ...held, title: "Another" });
    const frames = await watcher.first(3);
    assert.deepEqual(frames.slice(1).map((f) => f.type ?? "snapshot"), ["bead.created", "snapshot"]);
    await watcher.close();
  });

  test("sets no alarm and wakes nobody: a watched town with nothing to do stays asleep", async () => {
    const { town } = await founded();
    const watcher = await watch(town);
    const [first] = await watcher.first(1);
    assert.equal(first.alarm.nextFireAt, null);
    assert.equal(await town.alarm(), null);
    await watcher.close();
    assert.equal(await town.alarm(), null);
  });

  test("costs a town that nobody watches not one row", async () => {
    const { town, at } = await founded();
    const reads = async () => {
      const { rows_read, statements } = await metered(town, () => at.ok("POST", "/beads", held));
      return { rows_read, statements };
    };
    await reads();
    const before = await reads();
    const watcher = await watch(town);
    await watcher.first(1);
    const watched = await reads();
    assert.ok(watched.rows_read > before.rows_read, "while somebody watches the frames are read");
    await watcher.close();
    assert.deepEqual(await reads(), before);
  });

  test("tells every watcher the same, and goes on for the others when one leaves", async () => {
    const { town, at } = await founded();
    const watchers = await Promise.all([watch(town), watch(town), watch(town)]);
    for (const watcher of watchers) await watcher.first(1);
    await at.ok("POST", "/beads", held);
    for (const watcher of watchers) await watcher.first(3);
    assert.deepEqual(watchers[1].frames, watchers[0].frames);
    await watchers[0].close();
    await at.ok("POST", "/beads", held);
    await watchers[1].first(5);
    assert.equal(watchers[0].frames.length, 3);
    for (const watcher of watchers.slice(1)) await watcher.close();
  });

  test("hears nothing that a client says, and answers its close", async () => {
    const { town, at } = await founded();
    const watcher = await watch(town);
    await watcher.first(1);
    for (const word of ["hello", "{", JSON.stringify({ type: "subscribe", agentId: "x" })]) watcher.socket.send(word);
    watcher.socket.send(new Uint8Array([0, 255]));
    await at.ok("POST", "/beads", held);
    await watcher.first(3);
    const { code, wasClean } = await watcher.close(3001);
    assert.deepEqual({ code, wasClean }, { code: 3001, wasClean: true });
  });

  test("of one town tells nothing of another", async () => {
    const [one, two] = [await founded(), await founded()];
    const watcher = await watch(one.town);
    await watcher.first(1);
    await two.at.ok("POST", "/beads", { ...held, title: "Elsewhere" });
    await one.at.ok("POST", "/beads", { ...held, title: "Here" });
    const frames = await watcher.first(3);
    assert.deepEqual(frames.map((f) => f.title).filter(Boolean), ["Here"]);
    await watcher.close();
  });

  test("ends when its town is deleted", async () => {
    const { town } = await founded();
    const watcher = await watch(town);
    await watcher.first(1);
    await h.ok("DELETE", `/api/users/${town.owner}/towns/${town.id}`, undefined, { token: town.token });
    await watcher.closing();
  });
});

describe("an object that is thrown out of memory", () => {
  test("is made anew for the next change, and the socket that it left is served on", async () => {
    const { town, at } = await founded();
    const watcher = await watch(town);
    await watcher.first(1);
    await h.hibernate("TownDO", town.id);
    await at.ok("POST", "/beads", { ...held, title: "After sleep" });
    await watcher.frame("the bead made after the sleep", (f) => f.title === "After sleep");
    await watcher.frame("the snapshot after it", isSnapshot, 1);
    assert.equal(await (await town.stub()).tLives(), 2);
    assert.equal((await watcher.close()).wasClean, true);
  });
});

describe("a ticket", () => {
  test("is for the owner and the operator; others get none", async () => {
    const { town } = await founded();
    const ticket = await town.ok("POST", "/status/ticket");
    assert.deepEqual(Object.keys(ticket).sort(), ["expires_at", "ticket", "url"]);
    assert.equal(ticket.url, `/api/towns/${town.id}/status/ws`);
    const left = Date.parse(ticket.expires_at) - h.now;
    assert.ok(left > 55_000 && left <= 60_000, ticket.expires_at);
    await town.ok("POST", "/status/ticket", undefined, { token: h.token({ scope: "operator" }) });
    for (const [token, status] of [[null, 401], ["rubbish", 401], [h.token({ sub: "mallory" }), 403], [town.containerToken, 403]]) {
      assert.equal((await town.api("POST", "/status/ticket", undefined, { token })).status, status);
    }
    assert.equal((await h.api("POST", "/api/towns/nowhere/status/ticket")).status, 404);
  });

  test("is needed, unless a token comes in the header", async () => {
    const { town } = await founded();
    const path = `/api/towns/${town.id}/status/ws`;
    const statuses = async (list) => Promise.all(list.map(async ([token, query = ""]) => (await upgrade(h, path + query, { token })).status));
    assert.deepEqual(
      await statuses([[null], [null, "?ticket="], [null, "?ticket=rubbish"], [h.token({ sub: "mallory" })], [town.containerToken], [town.token]]),
      [401, 401, 401, 403, 403, 101],
    );
    const { ticket } = await town.ok("POST", "/status/ticket");
    assert.equal((await town.api("GET", "/config", undefined, { token: ticket })).status, 401, "and is no token");
  });

  test("opens the socket of its own town only, for a minute, one at a time", async () => {
    const [one, two] = [await founded(), await founded()];
    const { url, ticket } = await one.town.ok("POST", "/status/ticket");
    assert.equal((await upgrade(h, `/api/towns/${two.town.id}/status/ws?ticket=${ticket}`)).status, 401);
    const [head, payload] = ticket.split(".");
    assert.equal((await upgrade(h, `${url}?ticket=${head}.${payload}.AAAA`)).status, 401);

    const watcher = await Watcher.open(h, `${url}?ticket=${ticket}`);
    const again = await upgrade(h, `${url}?ticket=${ticket}`);
    assert.deepEqual([again.status, again.code], [401, "ticket_used"]);
    await watcher.close();
    // Its owner may come back with it while it lasts.
    await (await Watcher.open(h, `${url}?ticket=${ticket}`)).close();
    await h.advance(61_000, { run: false });
    const late = await upgrade(h, `${url}?ticket=${ticket}`);
    assert.deepEqual([late.status, late.code], [401, "token_expired"]);
  });

  test("for a town that was deleted meanwhile opens nothing", async () => {
    const { town } = await founded();
    const path = await ticketed(town);
    await h.ok("DELETE", `/api/users/${town.owner}/towns/${town.id}`, undefined, { token: town.token });
    assert.equal((await upgrade(h, path)).status, 404);
  });
});

test("a request that is no upgrade is told so", async () => {
  const { town } = await founded();
  const answer = await town.api("GET", "/status/ws");
  assert.deepEqual([answer.status, answer.code], [426, "upgrade_required"]);
});

test(`beyond ${SOCKETS_MAX} sockets a client is told to come back later, and the others are served`, async () => {
  const { town, at } = await founded();
  const watchers = [];
  for (let n = 0; n < SOCKETS_MAX; n += 1) watchers.push(await watch(town));
  const refused = await upgrade(h, await ticketed(town));
  assert.deepEqual([refused.status, refused.code], [429, "too_many_sockets"]);
  assert.ok(Number(refused.headers["retry-after"]) > 0);
  await at.ok("POST", "/beads", held);
  for (const watcher of watchers) await watcher.first(3);
  await watchers.pop().close();
  watchers.push(await watch(town));
  for (const watcher of watchers) await watcher.close();
});

async function metered(town, action) {
  const stub = await town.stub();
  await stub.tMeterReset();
  await action();
  return stub.tMeter();
}
