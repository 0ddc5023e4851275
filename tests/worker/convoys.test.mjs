// Convoys and the mayor's tools for beads and agents, over HTTP: what each route answers, and that a wrong request gets its
// own status and changes nothing.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import * as shape from "../support/shape.mjs";
import { looksLike } from "../support/shape.mjs";

const LEDGER = ["cost", "ledger"];
const uuid = randomUUID();
const Convoy = {
  id: "uuid",
  title: "string",
  status: "string",
  staged: "bool",
  total_beads: "int",
  closed_beads: "int",
  failed_beads: "int",
  created_by: "string?",
  created_at: "time",
  landed_at: "time?",
  feature_branch: "string?",
  merge_mode: "string",
  progress: "string",
  next_landing_at: "time?",
};
const Detail = {
  ...Convoy,
  beads: [{ bead_id: "uuid", title: "string", status: "string", rig_id: "string?", assignee_agent_name: "string?" }],
  dependency_edges: [{ bead_id: "uuid", depends_on_bead_id: "uuid" }],
};

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

const TASKS = [{ title: "A" }, { title: "B", depends_on: [0] }, { title: "C", depends_on: [0, 1] }];

/** What the container was asked for last, of this town. */
const newestStart = (c) => {
  const requests = [...fake.agents.values()].map((a) => a.startupRequest).filter((s) => s.townId === c.town.id);
  const order = fake.starts.map((s) => s.dispatchId);
  return requests.sort((a, b) => order.indexOf(a.dispatchId) - order.indexOf(b.dispatchId)).at(-1);
};

/** A town with a staged convoy of three, a bead that waits for nobody, and the mayor's container as the caller. */
async function staged() {
  const town = await h.createTown();
  const rig = await town.createRig();
  const tools = `/api/mayor/${town.id}/tools`;
  const as = { token: town.containerToken };
  const c = { town, rig, tools, as, rigTools: `${tools}/rigs/${rig.id}` };
  c.ok = (method, path, body) => h.ok(method, path, body, as);
  c.slung = await c.ok("POST", `${tools}/sling-batch`, { rig_id: rig.id, convoy_title: "Add user auth", tasks: TASKS });
  c.convoy = c.slung.convoy;
  c.tasks = c.slung.beads.map(({ bead }) => bead.bead_id);
  c.path = `${tools}/convoys/${c.convoy.id}`;
  c.bead = await town.ok("POST", `/rigs/${rig.id}/beads`, { type: "issue", title: "Held", labels: ["gt:held"] });
  c.agent = await town.ok("POST", `/rigs/${rig.id}/agents/get-or-create`, { role: "polecat" });
  return c;
}

/** Refused with this status and these words, and no row has changed. */
async function refused(c, method, path, body, status, words, { as = c.as } = {}) {
  const before = await c.town.snapshot({ except: LEDGER });
  const answer = await h.api(method, path, body, as);
  assert.equal(answer.status, status, `${method} ${path}: ${answer.text}`);
  assert.match(answer.error, words);
  assert.deepEqual(await c.town.snapshot({ except: LEDGER }), before);
  return answer;
}

describe("sling-batch", () => {
  test("answers 201 with the convoy and its beads, without agents", async () => {
    const { slung, convoy, rig, tasks, town } = await staged();
    looksLike(slung, { convoy: Convoy, beads: [{ bead: shape.Bead, agent: "object?" }] });
    assert.ok(slung.beads.every(({ agent }) => agent === null));
    assert.deepEqual([convoy.staged, convoy.merge_mode, convoy.total_beads], [true, "review-then-land", 3], "as a new town is set");
    assert.equal(convoy.feature_branch, `convoy/add-user-auth/${convoy.id.slice(0, 8)}/head`);
    const bead = await town.ok("GET", `/rigs/${rig.id}/beads/${tasks[0]}`);
    assert.deepEqual(bead.metadata, { convoy_id: convoy.id, feature_branch: convoy.feature_branch });
  });

  test("refuses what is no plan, with the path of a cycle, and changes nothing", async () => {
    const c = await staged();
    const post = (body, status, words) =>
      refused(c, "POST", `${c.tools}/sling-batch`, { rig_id: c.rig.id, convoy_title: "x", tasks: TASKS, ...body }, status, words);
    await post({ tasks: [] }, 400, /./);
    await post({ tasks: Array(51).fill({ title: "x" }), parallel: true }, 400, /./);
    await post({ tasks: [{ title: "A" }, { title: "B" }] }, 400, /depends_on.*parallel/);
    await post({ convoy_title: "" }, 400, /./);
    await post({ merge_mode: "squash" }, 400, /./);
    await post({ metadata: [] }, 400, /./);
    const { json } = await post({ tasks: [{ title: "A" }, { body: 7, depends_on: [-1] }] }, 400, /./);
    assert.deepEqual(json.issues.map((i) => i.path.join(".")).sort(), ["tasks.1.body", "tasks.1.depends_on", "tasks.1.title"]);
    await post({ tasks: [{ title: "A", depends_on: [0] }] }, 422, /task 0 «A» depends on itself/);
    await post({ tasks: [{ title: "A", depends_on: [9] }] }, 422, /depends on task 9, and there is none/);
    await post({ tasks: [{ title: "A", depends_on: [1] }, { title: "B", depends_on: [0] }] }, 422, /0 «A» → 1 «B» → 0 «A»/);
    await post({ rig_id: uuid }, 403, /^Rig not found in this town$/);
    await refused(c, "POST", `${c.tools}/sling-batch`, "{no json", 400, /./);
  });

  test("takes independent tasks that say so, and one task alone", async () => {
    const c = await staged();
    const sling = (body) => c.ok("POST", `${c.tools}/sling-batch`, { rig_id: c.rig.id, convoy_title: "x", ...body });
    const two = await sling({ tasks: [{ title: "A" }, { title: "B" }], parallel: true, staged: false, merge_mode: "review-and-merge" });
    assert.deepEqual([two.convoy.staged, two.convoy.merge_mode], [false, "review-and-merge"]);
    assert.equal((await sling({ tasks: [{ title: "A" }] })).convoy.total_beads, 1);
  });
});

describe("a convoy", () => {
  test("is listed and shown with its beads and edges, to the mayor and to people", async () => {
    const c = await staged();
    for (const as of [c.as, { token: c.town.token }]) {
      const list = await h.ok("GET", `${c.tools}/convoys`, undefined, as);
      looksLike(list, [Convoy]);
      assert.deepEqual(list.map(({ id }) => id), [c.convoy.id]);
      const detail = await h.ok("GET", c.path, undefined, as);
      looksLike(detail, Detail);
      assert.deepEqual(detail.beads.map(({ title }) => title), ["A", "B", "C"]);
      const [a, b, d] = c.tasks;
      const edges = detail.dependency_edges.map((e) => [e.bead_id, e.depends_on_bead_id]);
      assert.deepEqual(edges.sort(), [[b, a], [d, a], [d, b]].sort());
    }
    await refused(c, "GET", `${c.tools}/convoys/${uuid}`, undefined, 404, /^Convoy not found$/);
    await refused(c, "GET", `${c.tools}/convoys/${c.bead.id}`, undefined, 404, /^Convoy not found$/);
  });

  test("is nobody else's to see", async () => {
    const c = await staged();
    for (const as of [{ token: h.token({ sub: "mallory" }) }, { token: h.containerToken(uuid) }]) {
      await refused(c, "GET", c.path, undefined, 403, /./, { as });
    }
    await refused(c, "GET", c.path, undefined, 401, /./, { as: { token: null } });
  });

  test("starts once, and then its first task is dispatched to a branch beside its own", async () => {
    const c = await staged();
    await c.town.runAlarms();
    assert.equal(newestStart(c), undefined, "staged");
    const explained = await c.town.ok("GET", `/beads/${c.tasks[0]}/explain`);
    assert.deepEqual(explained.holds.map(({ code }) => code), ["convoy_staged"]);
    const started = await c.ok("POST", `${c.path}/start`, {});
    looksLike(started, { convoy: Convoy, beads: [{ bead: shape.Bead, agent: "object?" }] });
    assert.deepEqual([started.convoy.staged, started.beads.length], [false, 3]);
    await c.town.runAlarms();
    const start = newestStart(c);
    const stem = c.convoy.feature_branch.slice(0, -"/head".length);
    assert.ok(start.branch.startsWith(`${stem}/gt/`) && start.branch.endsWith(`/${c.tasks[0].slice(0, 8)}`), start.branch);
    assert.deepEqual([start.startPoint, start.defaultBranch], [`origin/${c.convoy.feature_branch}`, c.rig.default_branch]);
    await refused(c, "POST", `${c.path}/start`, {}, 404, /^Convoy not found or not staged$/);
    await refused(c, "POST", `${c.tools}/convoys/${uuid}/start`, {}, 404, /^Convoy not found or not staged$/);
  });

  test("takes and gives away tasks, and tells how many it has", async () => {
    const c = await staged();
    const add = (body) => c.ok("POST", `${c.path}/add-bead`, body);
    assert.deepEqual(await add({ bead_id: c.bead.id, depends_on: [c.tasks[2]] }), { total_beads: 4 });
    await refused(c, "POST", `${c.path}/add-bead`, { bead_id: c.tasks[0], depends_on: [c.bead.id] }, 422, /cycle/);
    await refused(c, "POST", `${c.path}/add-bead`, { bead_id: "x" }, 400, /./);
    await refused(c, "POST", `${c.path}/add-bead`, { bead_id: uuid }, 404, /^Bead not found$/);
    await refused(c, "POST", `${c.tools}/convoys/${uuid}/add-bead`, { bead_id: c.bead.id }, 404, /^Convoy not found$/);
    assert.deepEqual(await c.ok("POST", `${c.path}/remove-bead`, { bead_id: c.bead.id }), { total_beads: 3 });
    await refused(c, "POST", `${c.path}/remove-bead`, { bead_id: c.bead.id }, 404, /no task of this convoy/);
    await refused(c, "POST", `${c.path}/remove-bead`, {}, 400, /./);
  });

  test("changes its merge mode and branch", async () => {
    const c = await staged();
    const patched = await c.ok("PATCH", c.path, { merge_mode: "review-and-merge", feature_branch: "feature/x" });
    looksLike(patched, Convoy);
    assert.deepEqual([patched.merge_mode, patched.feature_branch], ["review-and-merge", "feature/x"]);
    await refused(c, "PATCH", c.path, {}, 400, /./);
    await refused(c, "PATCH", c.path, { merge_mode: "squash" }, 400, /./);
    await refused(c, "PATCH", c.path, { feature_branch: "a b" }, 422, /branch name/);
    await refused(c, "PATCH", `${c.tools}/convoys/${uuid}`, { feature_branch: "x" }, 404, /^Convoy not found$/);
  });

  test("is closed with what it still has, and again without a word; no body is needed", async () => {
    const c = await staged();
    const closed = await c.ok("POST", `${c.path}/close`);
    looksLike(closed, Convoy);
    assert.equal(closed.status, "landed");
    await c.ok("POST", `${c.path}/close`);
    assert.deepEqual((await c.ok("GET", c.path)).beads.map(({ status }) => status), ["closed", "closed", "closed"]);
    assert.deepEqual(await c.ok("GET", `${c.tools}/convoys`), [], "closed ones are left out");
    await refused(c, "POST", `${c.tools}/convoys/${uuid}/close`, undefined, 404, /^Convoy not found$/);
  });

  test("is made by people of beads that are there, without a feature branch", async () => {
    const c = await staged();
    const path = `/api/towns/${c.town.id}/convoys`;
    const as = { token: c.town.token };
    const beads = [{ bead_id: c.bead.id, rig_id: c.rig.id }];
    const made = await h.api("POST", path, { title: "Mine", beads }, as);
    assert.equal(made.status, 201, made.text);
    looksLike(made.data, Convoy);
    assert.deepEqual([made.data.feature_branch, made.data.staged, made.data.total_beads], [null, false, 1]);
    const told = await h.ok("POST", `${path}/bead-closed`, { convoy_id: made.data.id, bead_id: c.bead.id }, as);
    assert.deepEqual([told.id, told.closed_beads], [made.data.id, 0]);
    await refused(c, "POST", path, { title: "Mine", beads }, 409, /task of convoy/, { as });
    await refused(c, "POST", path, { title: "Mine", beads: [] }, 400, /./, { as });
    await refused(c, "POST", path, { title: "Mine", beads: [{ bead_id: uuid, rig_id: c.rig.id }] }, 422, /no bead/, { as });
    await refused(c, "POST", path, { title: "", beads }, 400, /./, { as });
    await refused(c, "POST", path, { title: "Mine", beads }, 403, /./);
    await refused(c, "POST", `${path}/bead-closed`, { convoy_id: uuid, bead_id: c.bead.id }, 404, /^Convoy not found$/, { as });
    await refused(c, "POST", `${path}/bead-closed`, { convoy_id: c.convoy.id, bead_id: c.bead.id }, 404, /no task/, { as });
    await refused(c, "POST", `${path}/bead-closed`, {}, 400, /./, { as });
  });

  test("lands through the refinery when all its tasks are merged", async () => {
    const c = await staged();
    const one = await c.ok("POST", `${c.tools}/sling-batch`, { rig_id: c.rig.id, convoy_title: "Short", tasks: [{ title: "A" }], staged: false });
    const speaks = () => {
      const start = newestStart(c);
      const headers = { "X-Gastown-Agent-Id": start.agentId, "X-Gastown-Rig-Id": c.rig.id, "X-Gastown-Dispatch-Id": start.dispatchId };
      return [start, { token: c.town.containerToken, headers }];
    };
    const merged = async () => {
      await c.town.runAlarms();
      const [start, as] = speaks();
      assert.equal(start.role, "refinery");
      await c.town.ok("POST", `/rigs/${c.rig.id}/review-queue/${start.review.entryId}/complete`, { status: "merged", message: "in" }, as);
      return start.review;
    };
    await c.town.runAlarms();
    const [polecat, as] = speaks();
    await c.town.ok("POST", `/rigs/${c.rig.id}/agents/${polecat.agentId}/done`, { branch: polecat.branch }, as);
    const task = await merged();
    assert.deepEqual([task.branch, task.targetBranch], [polecat.branch, one.convoy.feature_branch]);
    const landing = await merged();
    assert.deepEqual([landing.branch, landing.targetBranch], [one.convoy.feature_branch, c.rig.default_branch]);
    const landed = await c.ok("GET", `${c.tools}/convoys/${one.convoy.id}`);
    assert.deepEqual([landed.status, landed.closed_beads], ["landed", 1]);
  });
});

describe("the mayor's other tools", () => {
  test("list beads with their filters, and agents", async () => {
    const c = await staged();
    const beads = await c.ok("GET", `${c.rigTools}/beads?status=open&limit=2`);
    looksLike(beads, [shape.Bead]);
    assert.equal(beads.length, 2);
    assert.deepEqual(await c.ok("GET", `${c.rigTools}/beads?type=agent`), []);
    looksLike(await c.ok("GET", `${c.rigTools}/agents`), [shape.Agent]);
    await refused(c, "GET", `${c.rigTools}/beads?status=done`, undefined, 400, /^Invalid status or type filter$/);
    await refused(c, "GET", `${c.tools}/rigs/${uuid}/beads`, undefined, 403, /^Rig not found in this town$/);
    await refused(c, "GET", `${c.tools}/rigs/${uuid}/agents`, undefined, 403, /^Rig not found in this town$/);
  });

  test("sling with labels", async () => {
    const c = await staged();
    const { bead } = await c.ok("POST", `${c.tools}/sling`, { rig_id: c.rig.id, title: "Labelled", labels: ["gt:held", "docs"] });
    assert.deepEqual(bead.labels, ["gt:held", "docs"]);
    await refused(c, "POST", `${c.tools}/sling`, { rig_id: uuid, title: "x" }, 403, /^Rig not found in this town$/);
  });

  test("reassign a bead", async () => {
    const c = await staged();
    const path = `${c.rigTools}/beads/${c.bead.id}/reassign`;
    const bead = await c.ok("POST", path, { agent_id: c.agent.id });
    looksLike(bead, shape.Bead);
    assert.equal(bead.assignee_agent_bead_id, c.agent.id);
    await refused(c, "POST", path, {}, 400, /./);
    await refused(c, "POST", path, { agent_id: uuid }, 404, /^Target agent not found$/);
    await refused(c, "POST", `${c.rigTools}/beads/${uuid}/reassign`, { agent_id: c.agent.id }, 404, /^Bead not found$/);
    await refused(c, "POST", `${c.rigTools}/beads/${c.tasks[0]}/reassign`, { agent_id: c.agent.id }, 409, /is busy/);
    const other = await c.town.createRig({ name: "other" });
    await refused(c, "POST", `${c.tools}/rigs/${other.id}/beads/${c.bead.id}/reassign`, { agent_id: c.agent.id }, 403, /^Bead does not belong to this rig$/);
  });

  test("delete one bead, many, or all in a status", async () => {
    const c = await staged();
    assert.deepEqual(await c.ok("DELETE", `${c.rigTools}/beads/${c.bead.id}`), { deleted: true });
    await refused(c, "DELETE", `${c.rigTools}/beads/${c.bead.id}`, undefined, 404, /^Bead not found$/);
    await refused(c, "DELETE", `${c.rigTools}/beads/${c.convoy.id}`, undefined, 409, /close it/);
    const other = await c.town.createRig({ name: "other" });
    await refused(c, "DELETE", `${c.tools}/rigs/${other.id}/beads/${c.tasks[0]}`, undefined, 403, /^Bead does not belong to this rig$/);
    const many = `${c.rigTools}/beads/bulk-delete`;
    for (const bead_ids of [undefined, [], ["x"], Array(5001).fill(uuid)]) {
      const { json } = await refused(c, "POST", many, { bead_ids }, 400, /^Invalid request body: /);
      assert.ok(!json.issues?.length, "in one sentence");
    }
    assert.deepEqual(await c.ok("POST", many, { bead_ids: [c.tasks[0], uuid] }), { deleted: 1 });
    assert.equal((await c.ok("GET", c.path)).total_beads, 2);
    assert.deepEqual(await c.ok("POST", `${c.rigTools}/beads/delete-by-status`, { status: "open", type: "issue" }), { deleted: 2, remaining: false });
    await refused(c, "POST", `${c.rigTools}/beads/delete-by-status`, { status: "done" }, 400, /./);
    await refused(c, "POST", `${c.tools}/rigs/${uuid}/beads/delete-by-status`, { status: "open" }, 403, /^Rig not found in this town$/);
  });

  test("reset an agent; no body is needed", async () => {
    const c = await staged();
    assert.deepEqual(await c.ok("POST", `${c.rigTools}/agents/${c.agent.id}/reset`), { reset: true });
    await refused(c, "POST", `${c.rigTools}/agents/${uuid}/reset`, undefined, 404, /^Agent not found$/);
    const other = await c.town.createRig({ name: "other" });
    await refused(c, "POST", `${c.tools}/rigs/${other.id}/agents/${c.agent.id}/reset`, undefined, 403, /^Agent does not belong to this rig$/);
  });
});
