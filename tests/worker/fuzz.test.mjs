// Poisoned and oversized input on every route of the built worker, over raw sockets: no 500, no panic, and what is refused changes
// nothing. The corpus is tests/fuzz; the same goes at the pure edge in tests/fuzz.rs, which is faster and deeper. Here is what only
// the runtime shows: urls and headers as it parses them, bodies as they stream, two objects, and Wasm.
//
//   make fuzz SEED=7 ROUNDS=20

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { BODIES, HEADERS, QUERIES, REQUESTS, ROUTES, SEGMENTS, VALUES, dice, fields, withField } from "../fuzz/corpus.mjs";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness, INTERNAL_SECRET } from "../support/harness.mjs";
import { RawClient } from "../support/raw-http.mjs";

const SEED = Number(process.env.FUZZ_SEED ?? 1);
const ROUNDS = Number(process.env.FUZZ_ROUNDS ?? 1);
const LANES = 3;
const MB = 1024 * 1024;
const ERROR_BYTES = 1_000;
const REFUSAL_BYTES = 16 * 1024;
/** What our edge and town refuse with; the runtime's own words have no envelope. */
const OURS = [400, 401, 403, 404, 409, 413, 422, 426, 429];
const RUNTIMES = [400, 404, 405, 411, 413, 414, 417, 426, 431, 501];

let h;
let fake;
before(async () => {
  fake = await FakeContainer.start();
  h = await Harness.start({ container: fake, notice: true });
});
after(async () => {
  await h?.stop();
  await fake?.kill();
});

/** A town with one of everything that a path or a body can name. */
async function stage() {
  const town = await h.createTown();
  const rig = await town.createRig();
  const at = town.rig(rig.id);
  const review = await at.sling({ title: "To be reviewed" });
  await town.runAlarms();
  const speaks = (agentId) => {
    const start = fake.starts.findLast((s) => s.agentId === agentId);
    return { "X-Gastown-Agent-Id": agentId, "X-Gastown-Rig-Id": rig.id, "X-Gastown-Dispatch-Id": start.dispatchId };
  };
  const done = { token: town.containerToken, headers: speaks(review.agent.id) };
  await town.ok("POST", `/rigs/${rig.id}/agents/${review.agent.id}/done`, { branch: "gt/toast/review" }, done);
  const idle = await at.ok("POST", "/agents", { role: "polecat", name: "Idle", identity: "idle@here" });
  // The idle one gets nothing to do before the bead at work has an agent of its own.
  const work = await at.sling({ title: "At work", assignee_agent_id: review.agent.id });
  await town.runAlarms();
  const make = (title, label = "gt:held") => at.ok("POST", "/beads", { type: "issue", title, labels: [label] });
  const [held, failed] = [await make("Held"), await make("Failed")];
  const request = await make("Stuck", "gt:triage-request");
  const step = (title) => ({ title, instructions: "Do it." });
  await at.ok("POST", "/molecules", { bead_id: work.bead.id, formula: { steps: [step("One"), step("Two")] } });
  await town.ok("POST", `/beads/${failed.id}/cancel`, { reason: "not wanted" });
  const escalation = await at.ok("POST", "/escalations", { title: "Help", priority: "low" });
  const batch = { rig_id: rig.id, convoy_title: "Convoy", tasks: [{ title: "Task" }, { title: "Task" }], parallel: true, staged: true };
  const slung = await h.ok("POST", `/api/mayor/${town.id}/tools/sling-batch`, batch, { token: town.token });
  const [convoy, task] = [slung.convoy.id, slung.beads[0].bead.id];
  const [mr] = await at.ok("GET", "/beads?type=merge_request");
  assert.equal(mr.status, "in_progress");
  const free = idle.id === work.agent.id ? review.agent.id : idle.id;
  const ids = { town: town.id, user: "alice", rig: rig.id, held: held.id, request: request.id, entry: mr.id, escalation: escalation.id, convoy, task, scope: "town" };
  return { town, ids, speaks, work, idle: free, failed };
}

/** What a path and a body name for this route. */
function cast(scene, plan) {
  const bead = { failed: scene.failed.id, held: scene.ids.held }[plan.bead] ?? scene.work.bead.id;
  const agent = plan.agent === "idle" ? scene.idle : scene.work.agent.id;
  const speaker = scene.speaks(scene.work.agent.id);
  return { ...scene.ids, bead, agent, dispatch: speaker["X-Gastown-Dispatch-Id"], speaker };
}

/** The right request of a route, as its right caller sends it. */
function right({ kind, method, pattern }, plan, scene) {
  const names = cast(scene, plan);
  const target = pattern.replace(/:(\w+)/g, (_, name) => names[name]);
  const token = ["Agent", "Container", "Refresh"].includes(kind) ? scene.town.containerToken : scene.town.token;
  const spoken = kind === "Agent" && names.agent === scene.work.agent.id ? names.speaker : {};
  const inside = kind === "Internal" ? { "X-Internal-Secret": INTERNAL_SECRET } : {};
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}`, ...spoken, ...inside };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  const fill = (text) => Object.entries(names).reduce((t, [name, id]) => (typeof id === "string" ? t.replaceAll(`"$${name}"`, `"${id}"`) : t), text);
  const body = plan.body ? fill(JSON.stringify(plan.body)) : "";
  return { method, target, lines, body, shape: plan.body ? JSON.parse(body) : null };
}

/** Ways to spoil it: `{what, wire, …}`; `wire` if the runtime itself may refuse it before our code is asked. */
function* spoilt(route, plan, d) {
  if (plan.body) {
    const some = fields(plan.body);
    for (const path of some) for (let n = 0; n < (ROUNDS > 1 ? 4 : 1); n += 1) yield { what: `field ${path.join(".")}`, field: path, raw: d.one(VALUES) };
    for (let n = 0; n < 2; n += 1) yield { what: "a bent body", bend: true };
  }
  for (let n = 0; n < 3; n += 1) yield { what: "a body", body: d.one(BODIES) };
  for (let n = 0; n < 3; n += 1) yield { what: "a query", wire: true, query: d.one(QUERIES) };
  for (let n = 0; n < 3; n += 1) yield { what: "a header", wire: true, header: d.one(HEADERS) };
  const params = route.pattern.split("/").filter((part) => part.startsWith(":"));
  if (params.length > 0) {
    for (let n = 0; n < 3; n += 1) yield { what: "a segment", wire: true, segment: d.one(SEGMENTS), at: d.below(params.length) };
  }
}

function spoil(request, way, d, pattern) {
  const { method, target, lines, body, shape } = request;
  const sent = { method, target, lines, body };
  if (way.field) sent.body = withField(shape, way.field, way.raw);
  if (way.bend) sent.body = d.bent(Buffer.from(body));
  if (way.body) sent.body = way.body;
  if (way.query) sent.target = Buffer.concat([Buffer.from(`${target}?`), way.query]);
  if (way.header) {
    const name = way.header.toString("latin1").split(":", 1)[0].toLowerCase();
    sent.lines = [...lines.filter((line) => line.split(":", 1)[0].toLowerCase() !== name), way.header];
  }
  if (way.segment) {
    let param = -1;
    const has = target.split("/");
    const parts = pattern.split("/").map((part, i) => {
      if (part.startsWith(":")) param += 1;
      return part.startsWith(":") && param === way.at ? way.segment : Buffer.from(has[i]);
    });
    sent.target = Buffer.concat(parts.flatMap((part, i) => (i ? [Buffer.from("/"), part] : [part])));
  }
  return sent;
}

/** That an answer is one: in an envelope, with words of a length that can be read; or the runtime's own, where it may be. */
function wellFormed(answer, told, { wire = false, passed = false } = {}) {
  const said = () => `${told()}\n  ${answer.closed ? `closed: ${answer.why}` : `${answer.status} ${answer.text.slice(0, 600)}`}`;
  assert.ok(!answer.closed, said());
  if (answer.status < 300) {
    assert.ok(answer.json !== null, said());
    return;
  }
  if (wire && answer.headers["content-type"] !== "application/json") {
    assert.ok(RUNTIMES.includes(answer.status) && answer.text.length < ERROR_BYTES, said());
    return;
  }
  assert.ok(OURS.includes(answer.status), said());
  const { success, error, code } = answer.json ?? {};
  // What the container says comes through as it is: it has no envelope (protocol.md 3.5).
  if (passed && success === undefined) return assert.equal(typeof error, "string", said());
  assert.ok(success === false && typeof error === "string" && error.trim() !== "" && typeof code === "string", said());
  // eslint-disable-next-line no-control-regex
  assert.ok(Buffer.byteLength(error) <= ERROR_BYTES && !/[\u0000-\u001f\u007f]/.test(error), said());
  assert.ok(answer.text.length <= REFUSAL_BYTES, said());
}

const visited = new Set();
const statuses = new Map();

/** Throws the right request and everything that is wrong with it at a route. */
async function visit(route, scene, d) {
  const plan = REQUESTS[route.route];
  assert.ok(plan, `${route.route} is missing in tests/fuzz/requests.json`);
  const client = new RawClient(h.url);
  const guarded = route.kind === "User" ? await h.object("FLEET", "fleet") : null;
  let stages = 0;
  const throwOne = async (way) => {
    const request = spoil(right(route, plan, scene), way, d, route.pattern);
    const told = () => `seed ${SEED}: ${route.method} ${route.pattern}, ${way.what}: ${shown(request)}`;
    const before = await guarded?.tSnapshot([]);
    const answer = await client.send(request);
    wellFormed(answer, told, { ...way, passed: route.pattern.includes("/:town/container/") });
    if (guarded && answer.status >= 300) assert.ok((await guarded.tSnapshot([])) === before, `refused, and the registry changed: ${told()}`);
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
    return answer;
  };
  const first = await throwOne({ what: "as it should be" });
  assert.equal(first.status, plan.status ?? 200, `the right request of ${route.route}: ${first.text}`);
  visited.add(route.route);
  const after2xx = async (answer) => {
    if (!(answer.status < 300 && plan.ends) || stages >= 2) return;
    await unchanged(scene);
    scene = await stage();
    stages += 1;
  };
  await after2xx(first);
  for (const way of spoilt(route, plan, d)) await after2xx(await throwOne(way));
  client.close();
  await unchanged(scene);
  return plan.ends ? stage() : scene;
}

/** The object itself has watched: nothing that it refused has changed a row. */
async function unchanged({ town }) {
  if (await town.api("GET", "/dispatch").then((a) => a.status === 404)) return;
  assert.deepEqual(await (await town.stub()).tChanged(), [], "refused, and the rows changed");
}

const shown = ({ target, lines, body }) =>
  `${Buffer.from(target).toString("latin1").slice(0, 200)} ${lines.filter((l) => !/^Authorization: Bearer eyJ/.test(l)).map((l) => l.toString("latin1").slice(0, 80))} ${Buffer.from(body).toString("latin1").slice(0, 300)}`;

describe("poisoned requests", () => {
  for (let round = 0; round < ROUNDS; round += 1) {
    test(`are answered on every route, without a 500, and what is refused changes nothing (round ${round + 1})`, async () => {
      const people = ROUTES.filter(({ kind }) => kind === "User");
      const rest = ROUTES.filter(({ kind }) => kind !== "User");
      const walk = async (routes, lane) => {
        const d = dice(SEED + round * 1000 + lane);
        let scene = await stage();
        for (const route of routes) scene = await visit(route, scene, d);
        // Whatever was accepted: the rules find their way through it.
        await scene.town.runAlarms();
        await scene.town.ok("GET", "/dispatch");
      };
      await Promise.all(Array.from({ length: LANES }, (_, lane) => walk(rest.filter((_, i) => i % LANES === lane), lane)));
      // The registry is one for all, so its routes have it for themselves.
      await walk(people, LANES);
      assert.deepEqual([...visited].sort(), ROUTES.map(({ route }) => route).sort());
    });
  }

  test("were many, of all sorts", (t) => {
    t.diagnostic(`answers by status: ${[...statuses].sort().map(([status, n]) => `${status}: ${n}`).join(", ")}`);
    for (const status of [200, 201, 400, 401, 404, 422]) assert.ok(statuses.get(status) > 10, `hardly any ${status}`);
  });

  test("the table has as many routes as were read out of it", async () => {
    const { readFile } = await import("node:fs/promises");
    const source = await readFile(new URL("../../src/edge/route.rs", import.meta.url), "utf8");
    const table = source.slice(source.indexOf("\nroutes! {"), source.indexOf("\n}\n", source.indexOf("\nroutes! {")));
    assert.equal(ROUTES.length, table.match(/=>/g).length);
  });
});

describe("bodies at the limit", () => {
  test("of exactly 1 MB are read; one byte more is 413, or the connection is closed before it was sent", async () => {
    const { town, ids } = await stage();
    const client = new RawClient(h.url);
    // A setting that nobody knows is passed over, whatever its size; a title is not.
    for (const [method, path, read] of [["POST", `/rigs/${ids.rig}/sling`, 422], ["PATCH", "/config", 200]]) {
      const lines = ["Content-Type: application/json", `Authorization: Bearer ${town.token}`];
      const body = (size) => `{"title":"${"x".repeat(size - 12)}"}`;
      const full = await client.send({ method, target: `/api/towns/${town.id}${path}`, lines, body: body(MB) });
      assert.equal(full.status, read, full.text);
      wellFormed(full, () => path);
      const over = await client.send({ method, target: `/api/towns/${town.id}${path}`, lines, body: body(MB + 1) });
      assert.ok(over.closed || over.status === 413, over.text);
      client.close();
    }
    await unchanged({ town });
  });
});

describe("a Content-Length that lies", () => {
  const sling = async (lines, body) => {
    const { town, ids } = scene;
    const all = ["Content-Type: application/json", `Authorization: Bearer ${town.token}`, ...lines];
    return new RawClient(h.url).send({ method: "POST", target: `/api/towns/${town.id}/rigs/${ids.rig}/sling`, lines: all, body, framed: false, within: 500 });
  };
  let scene;
  before(async () => {
    scene = await stage();
  });
  for (const [what, lines, body] of [
    ["too short: the rest is no request", ["Content-Length: 5"], '{"title":"x"}'],
    ["zero", ["Content-Length: 0"], '{"title":"x"}'],
    ["negative", ["Content-Length: -1"], '{"title":"x"}'],
    ["no number", ["Content-Length: lots"], '{"title":"x"}'],
    ["beyond every integer", ["Content-Length: 99999999999999999999999999"], '{"title":"x"}'],
    ["over the limit, with hardly a body", ["Content-Length: 1048577"], '{"title":"x"}'],
    ["said twice, differently", ["Content-Length: 5", "Content-Length: 13"], '{"title":"x"}'],
    ["instead of chunks that are none", ["Transfer-Encoding: chunked"], "zz\r\n{}\r\n"],
    ["chunks without an end", ["Transfer-Encoding: chunked"], "ffffffffffffffff\r\n{"],
  ]) {
    test(`${what}: an answer or a closed connection, never a 500, and nothing changes`, async () => {
      const before = await scene.town.snapshot({ except: ["cost", "ledger"] });
      const answer = await sling(lines, body);
      assert.ok(answer.closed || (answer.status >= 400 && answer.status < 500) || answer.status === 501, `${answer.status} ${answer.text}`);
      assert.equal(await scene.town.snapshot({ except: ["cost", "ledger"] }), before);
    });
  }

  test("too long: the worker waits for the rest, and its end is no request of ours", async () => {
    const before = await scene.town.snapshot({ except: ["cost", "ledger"] });
    const answer = await sling(["Content-Length: 500"], '{"title":"x"}');
    assert.ok(answer.closed, answer.text);
    assert.equal(await scene.town.snapshot({ except: ["cost", "ledger"] }), before);
    // The worker is none the worse for it.
    await scene.town.ok("GET", "/dispatch");
  });
});
