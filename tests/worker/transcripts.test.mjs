// An agent's store through the worker: events in, events out, the live stream, the snapshot, and the end of all three.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { until } from "../support/poll.mjs";
import { Watcher, upgrade } from "../support/watcher.mjs";

const MB = 1024 * 1024;
/** The numbers of `src/town/policy.rs`: TRANSCRIPT_KEPT, _STEP, _BATCH, _EVENT_BYTES, SOCKETS_MAX. */
const KEPT = 10_000;
const STEP = 250;
const BATCH = 1_000;
const EVENT_BYTES = 256 * 1024;
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

/** A town, its rig, and an agent of it, with what can be asked about it. */
async function agent() {
  const town = await h.createTown();
  const rig = await town.createRig();
  const { id } = await town.ok("POST", `/rigs/${rig.id}/agents/get-or-create`, { role: "polecat" });
  return speaking(town, rig.id, id);
}

function speaking(town, rig, id) {
  const as = { token: town.containerToken, headers: { "X-Gastown-Agent-Id": id, "X-Gastown-Rig-Id": rig } };
  const base = `/rigs/${rig}`;
  return {
    town,
    rig,
    id,
    as,
    snapshotPath: `${base}/agents/${id}/db-snapshot`,
    say: (body, options = as) => town.api("POST", `${base}/agent-events`, body, options),
    events: (query = "", options = as) => town.ok("GET", `${base}/agents/${id}/events${query}`, undefined, options),
    list: (query, options = as) => town.api("GET", `${base}/agents/${id}/events${query}`, undefined, options),
    store: () => h.object("AGENT", `${town.id}/${id}`),
    remove: () => town.ok("DELETE", `${base}/agents/${id}`),
    ticket: () => town.ok("POST", `/container/agents/${id}/stream-ticket`),
  };
}

const numbered = (from, n) => Array.from({ length: n }, (_, i) => ({ event_type: "message.updated", data: { n: from + i } }));

/** Fills the store to `n` events in batches. */
async function fill(a, n) {
  for (let from = 1; from <= n; from += BATCH) {
    const answer = await a.say({ agent_id: a.id, events: numbered(from, Math.min(BATCH, n - from + 1)) });
    assert.equal(answer.status, 201, answer.text);
  }
}

async function metered(a, action) {
  const store = await a.store();
  await store.tMeterReset();
  await action();
  return store.tMeter();
}

describe("agent-events", () => {
  test("takes the predecessor's one event per call, and our batches, in one order", async () => {
    const a = await agent();
    assert.deepEqual(await a.events(), []);
    const one = await a.say({ agent_id: a.id, event_type: "session.idle", data: { a: 1 } });
    assert.deepEqual([one.status, one.data.appended], [201, true]);
    await a.say({ agent_id: a.id, event_type: "bare" });
    await a.say({ agent_id: a.id, events: [{ event_type: "x", data: [1] }, { event_type: "y", data: "ü" }] });
    const events = await a.events();
    assert.deepEqual(
      events.map(({ created_at, ...event }) => (assert.ok(Date.parse(created_at)), event)),
      [
        { id: 1, agent_id: a.id, event_type: "session.idle", data: { a: 1 } },
        { id: 2, agent_id: a.id, event_type: "bare", data: {} },
        { id: 3, agent_id: a.id, event_type: "x", data: { value: [1] } },
        { id: 4, agent_id: a.id, event_type: "y", data: { value: "ü" } },
      ],
    );
    for (const query of ["?after_id=2", "?after=2"]) assert.deepEqual(await a.events(query), events.slice(2));
    assert.deepEqual(await a.events("?after_id=1&limit=2"), events.slice(1, 3));
    for (const query of ["?limit=0", "?limit=1001", "?limit=x", "?after_id=-1", "?after=1.5"]) {
      const answer = await a.list(query);
      assert.deepEqual([answer.status, answer.error], [400, "Invalid query parameters"], query);
    }
  });

  test("refuses what is no event, and what speaks for another, and stores nothing of it", async () => {
    const a = await agent();
    for (const body of ["", "{", "[]", {}, { agent_id: a.id }, { agent_id: a.id, events: [] }, { agent_id: "../x", event_type: "t" }]) {
      const answer = await a.say(body, { token: a.town.containerToken });
      assert.equal(answer.status, 400, JSON.stringify(body));
      assert.ok(answer.error.length > 10, answer.error);
    }
    const wrong = await a.say({ agent_id: "somebody-else", event_type: "t" });
    assert.deepEqual([wrong.status, wrong.error], [403, "agent_id does not match authenticated agent"]);
    assert.equal((await a.say({ agent_id: a.id, event_type: "t" }, { token: null })).status, 401);
    assert.equal((await a.say({ agent_id: a.id, event_type: "t" }, { token: h.token({ sub: "mallory" }) })).status, 403);
    assert.equal((await a.say({ agent_id: a.id, events: numbered(1, BATCH + 1) })).status, 422);
    assert.deepEqual(await a.events(), []);
  });

  test("of an agent that the town does not know makes no store", async () => {
    const a = await agent();
    const stranger = speaking(a.town, a.rig, "11111111-1111-4111-8111-111111111111");
    const answer = await stranger.say({ agent_id: stranger.id, event_type: "t" });
    assert.deepEqual([answer.status, answer.error], [404, "Agent not found"]);
    assert.deepEqual(await stranger.events(), []);
    assert.deepEqual((await (await stranger.store()).tSql("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'")).rows.length, 0);
  });

  test("of the mayor are taken under its pseudo rig", async () => {
    const { town } = await agent();
    const [{ mayor_agent_id: id }] = await town.rows("SELECT mayor_agent_id FROM town");
    const mayor = speaking(town, `mayor-${town.id}`, id);
    assert.equal((await mayor.say({ agent_id: id, event_type: "t" })).status, 201);
    assert.equal((await mayor.events()).length, 1);
  });

  test("of one town are not those of another, whatever its agents are called", async () => {
    const [one, two] = [await agent(), await agent()];
    await one.say({ agent_id: one.id, event_type: "secret" });
    const spy = speaking(two.town, two.rig, one.id);
    assert.deepEqual(await spy.events(), []);
    assert.equal((await spy.say({ agent_id: one.id, event_type: "t" })).status, 404);
    assert.equal((await one.list("", { token: two.town.containerToken })).status, 403);
  });

  test("of three megabytes is stored cut and marked, and never lost", async () => {
    const a = await agent();
    const data = { text: "\u00fc".repeat(1.5 * MB) };
    const answer = await a.say({ agent_id: a.id, event_type: "huge", data });
    assert.equal(answer.status, 201, answer.text);
    const [event] = await a.events();
    const { truncated, original_bytes, sha256, head } = event.data;
    assert.deepEqual([truncated, original_bytes, sha256.length], [true, Buffer.byteLength(JSON.stringify(data)), 64]);
    assert.ok(JSON.stringify(data).startsWith(head) && head.length > 100_000);
    const [{ bytes }] = [...(await (await a.store()).tSql("SELECT length(CAST(data AS BLOB)) AS bytes FROM events")).rows];
    assert.ok(bytes <= EVENT_BYTES, `${bytes}`);
  });

  test("of eight megabytes in one body are taken; beyond that it is 413", async () => {
    const a = await agent();
    const batch = (n) => ({ agent_id: a.id, events: Array.from({ length: n }, () => ({ event_type: "t", data: { text: "x".repeat(100_000) } })) });
    assert.equal((await a.say(batch(79))).status, 201);
    assert.equal((await a.say(batch(90))).status, 413);
    // A list of them ends early, and goes on after the last.
    const [first, more] = [await a.events("?limit=1000"), await a.events("?after_id=70")];
    assert.ok(first.length > 20 && first.length < 79, `${first.length}`);
    assert.equal(more.length, 9);
  });
});

describe("at ten thousand events", () => {
  let a;
  before(async () => {
    a = await agent();
    await fill(a, KEPT + STEP);
  });

  test("the newest ten thousand are shown, and hardly more are stored", async () => {
    const [oldest] = await a.events("?limit=1");
    assert.equal(oldest.id, STEP + 1);
    const count = async () => [...(await (await a.store()).tSql("SELECT count(*) AS n FROM events")).rows][0].n;
    assert.equal(await count(), KEPT);
    await a.say({ agent_id: a.id, event_type: "one.more" });
    assert.deepEqual([(await a.events("?limit=1"))[0].id, await count()], [STEP + 2, KEPT + 1]);
  });

  test("appending one reads at most eight rows, amortised over the steps in which the oldest go", async (t) => {
    const { statements, rows_read, rows_written } = await metered(a, async () => {
      for (let n = 0; n < STEP; n += 1) await a.say({ agent_id: a.id, event_type: "t", data: { n } });
    });
    t.diagnostic(`${STEP} appended: ${statements} statements, ${rows_read} rows read, ${rows_written} written`);
    assert.ok(rows_read <= 8 * STEP, `${rows_read / STEP} rows read for each`);
    assert.deepEqual({ statements, rows_read, rows_written }, { statements: 2 * STEP + 1, rows_read: 4 * STEP + 1, rows_written: 2 * STEP });
  });
});

describe("the live stream", () => {
  const path = async (a) => {
    const { url, ticket } = await a.ticket();
    return `${url}?ticket=${ticket}`;
  };
  const numbers = (watcher) => watcher.frames.map((frame) => frame.data.n);

  test("begins with what is stored and goes on with what is appended, without a gap and without a repetition", async () => {
    const a = await agent();
    await fill(a, 40);
    let n = 40;
    let stop = false;
    const appending = (async () => {
      while (!stop) await a.say({ agent_id: a.id, event_type: "t", data: { n: (n += 1) } });
    })();
    const watchers = [];
    for (let i = 0; i < 5; i += 1) watchers.push(await Watcher.open(h, await path(a)));
    const resumed = await Watcher.open(h, `${await path(a)}&after_id=35`);
    stop = true;
    await appending;
    for (const watcher of watchers) {
      await watcher.first(n);
      assert.deepEqual(numbers(watcher), Array.from({ length: n }, (_, i) => i + 1));
    }
    await resumed.first(n - 35);
    assert.deepEqual(numbers(resumed), Array.from({ length: n - 35 }, (_, i) => i + 36));
    const { timestamp, ...frame } = watchers[0].frames[0];
    assert.deepEqual(frame, { agentId: a.id, event: "message.updated", data: { n: 1 }, id: 1 });
    assert.ok(Date.parse(timestamp));
    for (const watcher of [...watchers, resumed]) assert.equal((await watcher.close()).wasClean, true);
  });

  test("is served on when the object was thrown out of memory", async () => {
    const a = await agent();
    await fill(a, 3);
    const watcher = await Watcher.open(h, await path(a));
    await watcher.first(3);
    await h.hibernate("AgentDO", `${a.town.id}/${a.id}`);
    await a.say({ agent_id: a.id, event_type: "t", data: { n: 4 } });
    await watcher.first(4);
    assert.deepEqual(numbers(watcher), [1, 2, 3, 4]);
    assert.ok((await (await a.store()).tLives()) >= 2);
    await watcher.close();
  });

  test("opens by a ticket for this very agent, once at a time, or by the owner's token", async () => {
    const [a, b] = [await agent(), await agent()];
    const { url, ticket, expires_at } = await a.ticket();
    assert.equal(url, `/api/towns/${a.town.id}/container/agents/${a.id}/stream`);
    assert.ok(Date.parse(expires_at) - h.now <= 60_000);
    assert.equal((await upgrade(h, `/api/towns/${b.town.id}/container/agents/${b.id}/stream?ticket=${ticket}`)).status, 401);
    assert.equal((await upgrade(h, url)).status, 401);
    assert.equal((await upgrade(h, url, { token: a.town.token })).status, 101);
    assert.equal((await upgrade(h, url, { token: b.town.containerToken })).status, 403);
    const watcher = await Watcher.open(h, `${url}?ticket=${ticket}`);
    assert.equal((await upgrade(h, `${url}?ticket=${ticket}`)).code, "ticket_used");
    await watcher.close();
    assert.equal((await a.town.api("GET", url.slice(`/api/towns/${a.town.id}`.length))).status, 426);
    const none = await a.town.api("POST", "/container/agents/11111111-1111-4111-8111-111111111111/stream-ticket");
    assert.deepEqual([none.status, none.error], [404, "Agent not found"]);
    for (const [token, status] of [[null, 401], [h.token({ sub: "mallory" }), 403], [a.town.containerToken, 403]]) {
      assert.equal((await a.town.api("POST", `/container/agents/${a.id}/stream-ticket`, undefined, { token })).status, status);
    }
  });

  test(`refuses a client beyond ${SOCKETS_MAX}`, async () => {
    const a = await agent();
    const watchers = await Promise.all(Array.from({ length: SOCKETS_MAX }, async () => Watcher.open(h, await path(a))));
    assert.equal((await upgrade(h, await path(a))).status, 429);
    for (const watcher of watchers) watcher.socket.close();
  });
});

describe("db-snapshot", () => {
  const send = (a, bytes) => a.town.api("POST", a.snapshotPath, bytes, { ...a.as, headers: { ...a.as.headers, "Content-Type": "application/octet-stream" } });
  const load = async (a) => {
    const answer = await fetch(`${h.url}/api/towns/${a.town.id}${a.snapshotPath}`, { headers: { Authorization: `Bearer ${a.town.containerToken}` } });
    return { status: answer.status, type: answer.headers.get("content-type"), bytes: Buffer.from(await answer.arrayBuffer()) };
  };

  test("comes back byte by byte, is replaced, and is gone when it was deleted", async () => {
    const a = await agent();
    const none = await a.town.api("GET", a.snapshotPath, undefined, a.as);
    assert.deepEqual([none.status, none.error], [404, "Snapshot not found"]);
    for (const size of [0, 1, 3 * MB + 7, 700]) {
      const bytes = randomBytes(size);
      const answer = await send(a, bytes);
      assert.deepEqual([answer.status, answer.json], [200, { success: true }], answer.text);
      const { status, type, bytes: back } = await load(a);
      assert.deepEqual([status, type], [200, "application/octet-stream"]);
      assert.ok(back.equals(bytes), `${size} bytes`);
    }
    assert.deepEqual((await a.town.api("DELETE", a.snapshotPath, undefined, a.as)).json, { success: true });
    assert.equal((await load(a)).status, 404);
    assert.deepEqual((await a.town.api("DELETE", a.snapshotPath, undefined, a.as)).json, { success: true });
  });

  test("of 32 MB is taken, a byte more is 413 and changes nothing", async () => {
    const a = await agent();
    const most = randomBytes(32 * MB);
    assert.equal((await send(a, most)).status, 200);
    assert.equal((await send(a, Buffer.concat([most, Buffer.from("x")]))).status, 413);
    assert.ok((await load(a)).bytes.equals(most));
    const stored = await (await a.store()).tSql("SELECT count(*) AS n FROM snapshot_parts");
    assert.equal([...stored.rows][0].n, 32, "nothing of the refused one is left");
  });

  test("of which half arrives is never seen", async () => {
    const a = await agent();
    const old = randomBytes(2 * MB);
    await send(a, old);
    const aborted = new AbortController();
    let pulls = 0;
    const body = new ReadableStream({
      pull(controller) {
        pulls += 1;
        if (pulls <= 5) controller.enqueue(randomBytes(MB));
      },
    });
    const broken = fetch(`${h.url}/api/towns/${a.town.id}${a.snapshotPath}`, {
      method: "POST",
      body,
      duplex: "half",
      headers: { Authorization: `Bearer ${a.town.containerToken}` },
      signal: aborted.signal,
    }).catch(() => "broken");
    const parts = async () => [...(await (await a.store()).tSql("SELECT count(*) AS n FROM snapshot_parts")).rows][0].n;
    await until("half of it is there", async () => (await parts()) > 3);
    assert.ok((await load(a)).bytes.equals(old), "while it is on its way");
    aborted.abort();
    assert.equal(await broken, "broken");
    assert.ok((await load(a)).bytes.equals(old), "after it broke off");
    const next = randomBytes(100);
    assert.equal((await send(a, next)).status, 200);
    assert.ok((await load(a)).bytes.equals(next));
    assert.equal(await parts(), 1);
  });

  test("of the mayor is kept under its pseudo rig, and only an agent's own is its", async () => {
    const a = await agent();
    const [{ mayor_agent_id: id }] = await a.town.rows("SELECT mayor_agent_id FROM town");
    const mayor = speaking(a.town, `mayor-${a.town.id}`, id);
    assert.equal((await send(mayor, randomBytes(10))).status, 200);
    assert.equal((await load(mayor)).bytes.length, 10);
    const other = await a.town.api("GET", mayor.snapshotPath, undefined, a.as);
    assert.equal(other.status, 403);
    const stranger = speaking(a.town, a.rig, "11111111-1111-4111-8111-111111111111");
    assert.equal((await send(stranger, randomBytes(3 * MB))).status, 404);
  });
});

describe("the store of an agent", () => {
  const tables = async (a) => [...(await (await a.store()).tSql("SELECT name FROM sqlite_master WHERE name = 'events'")).rows].length;

  test("goes with the agent, its listeners are told, and late events do not bring it back", async () => {
    const a = await agent();
    await fill(a, 3);
    const { url, ticket } = await a.ticket();
    const watcher = await Watcher.open(h, `${url}?ticket=${ticket}`);
    await watcher.first(3);
    await a.remove();
    await a.town.runAlarms();
    await watcher.closing();
    assert.equal(await tables(a), 0);
    assert.equal(await a.town.alarm(), null);
    assert.equal((await a.say({ agent_id: a.id, event_type: "late" })).status, 404);
    assert.equal(await tables(a), 0);
  });

  test("goes with the town, of agents that were removed as well", async () => {
    const a = await agent();
    const b = speaking(a.town, a.rig, (await a.town.ok("POST", `/rigs/${a.rig}/agents`, { role: "polecat", name: "B", identity: "b@here" })).id);
    const [{ mayor_agent_id: id }] = await a.town.rows("SELECT mayor_agent_id FROM town");
    const mayor = speaking(a.town, `mayor-${a.town.id}`, id);
    for (const one of [a, b, mayor]) assert.equal((await one.say({ agent_id: one.id, event_type: "t" })).status, 201);
    await b.remove(); // and no alarm has run
    await h.ok("DELETE", `/api/users/${a.town.owner}/towns/${a.town.id}`, undefined, { token: a.town.token });
    assert.deepEqual([await tables(a), await tables(b), await tables(mayor)], [0, 0, 0]);
    const late = await a.say({ agent_id: a.id, event_type: "late" });
    assert.equal(late.status, 404);
  });
});
