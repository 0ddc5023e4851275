// The real gt against the real worker: people from login to a closed bead, agents from prime to done, and both as tools of
// the Model Context Protocol. What each command asks in detail is tested in gt/tests, against a fake.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";
import { keep } from "../support/output.mjs";
import { within } from "../support/poll.mjs";
import { builtProgram } from "../support/programs.mjs";

const GT = builtProgram("gt");

let h;
let fake;
const homes = [];

/** Starts gt: its child, and how it ends. */
function start(args, env, input = "") {
  const child = spawn(GT, args, { env: { PATH: process.env.PATH, ...env }, stdio: ["pipe", "pipe", "pipe"] });
  const said = { out: "", err: "" };
  for (const [name, stream] of [["out", child.stdout], ["err", child.stderr]]) {
    stream.setEncoding("utf8").on("data", (text) => {
      said[name] += text;
      keep("gt", text);
    });
  }
  child.stdin.on("error", (error) => assert.equal(error.code, "EPIPE", "a command that reads nothing may have ended"));
  if (input !== null) child.stdin.end(input);
  const ended = new Promise((resolve) => child.once("close", (code) => resolve({ code, ...said })));
  return { child, said, ended: within(30_000, `gt ${args.join(" ")} ends`, ended) };
}

/** Somebody who uses gt: what must go well, its data, and what may go wrong. */
function user(env) {
  const run = (args, input) => start(args, env, input).ended;
  const well = async (args, input) => {
    const end = await run(args, input);
    assert.equal(end.code, 0, `gt ${args.join(" ")}: ${end.err}`);
    return end.out;
  };
  const data = async (...args) => JSON.parse(await well([...args, "--json"]));
  return { env, run, well, data, start: (args, input) => start(args, env, input) };
}

/** A person who logged in with a town and a rig, all made by gt. */
async function person(name) {
  const home = await mkdtemp(join(tmpdir(), "gastown-gt-"));
  homes.push(home);
  const gt = user({ HOME: home });
  await gt.well(["login", "--api", h.url, "--token", "-"], h.token({ sub: name }));
  const { id } = await gt.data("towns", "create", "Home");
  await gt.well(["towns", "use", "Home"]);
  const rig = await gt.data("rigs", "create", "app", "https://example.invalid/repo.git");
  return { ...gt, home, town: h.town(id, name), rig: rig.id };
}

/** The agent of the last start of a role, as the runner sets its environment. */
function agent({ town, rig }, role = "polecat", token = town.containerToken) {
  const started = fake.starts.findLast((s) => s.role === role);
  assert.ok(started, `no ${role} was started`);
  const gt = user({
    GASTOWN_API_URL: h.url,
    GASTOWN_TOWN_ID: town.id,
    GASTOWN_RIG_ID: rig,
    GASTOWN_AGENT_ID: started.agentId,
    GASTOWN_AGENT_ROLE: role,
    GASTOWN_CONTAINER_TOKEN: token,
    GASTOWN_DISPATCH_ID: started.dispatchId,
  });
  return { ...gt, id: started.agentId };
}

/** A client of the Model Context Protocol. */
async function session(env) {
  const { child, ended } = start(["mcp"], env, null);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  let id = 0;
  const say = (message) => child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  const ask = async (method, params) => {
    say({ id: ++id, method, params });
    const { value } = await within(20_000, `the answer to ${method}`, lines.next());
    const answer = JSON.parse(value);
    assert.equal(answer.id, id);
    return answer.result;
  };
  await ask("initialize", { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "test", version: "1" } });
  say({ method: "notifications/initialized" });
  return {
    call: async (name, args = {}) => {
      const { content, isError } = await ask("tools/call", { name, arguments: args });
      return isError ? { error: content[0].text } : { data: JSON.parse(content[0].text) };
    },
    close: async () => {
      child.stdin.end();
      assert.equal((await ended).code, 0);
    },
  };
}

describe("gt against the worker", { skip: GT === null }, () => {
  before(async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
    for (const home of homes) await rm(home, { recursive: true });
  });

  test("a person logs in, founds a town, attaches a rig, slings, and sees why it runs", async () => {
    const me = await person("anna");
    assert.equal((await stat(join(me.home, ".config/gastown/default.json"))).mode & 0o777, 0o600);

    const { bead, agent: polecat } = await me.data("sling", "Do it", "--body", "All of it", "--priority", "high");
    assert.equal(bead.priority, "high");
    assert.match(await me.well(["beads"]), new RegExp(`${bead.bead_id.slice(0, 8)}  open`));
    await me.town.runAlarms();

    const explained = await me.data("explain", bead.bead_id.slice(0, 8));
    assert.equal(explained.verdict, "running");
    assert.match(await me.well(["explain", bead.bead_id]), /verdict\s+running/);
    const { attempts } = await me.data("attempts", bead.bead_id);
    assert.equal(attempts.length, 1);
    assert.equal((await me.data("attempts")).attempts[0].attempt_id, attempts[0].attempt_id);
    assert.equal((await me.data("dispatch")).running, 1);
    assert.match(await me.well(["dispatch"]), /running\s+1/);
    assert.equal((await me.data("agents", "--status", "working"))[0].id, polecat.id);
    assert.match(await me.well(["agents", "show", polecat.name]), /working/);
    assert.equal((await me.data("bead", "show", bead.bead_id.slice(0, 8))).title, "Do it");
    assert.equal((await me.data("rigs"))[0].id, me.rig);
    assert.equal((await me.data("towns"))[0].id, me.town.id);
  });

  test("a bead is worked on, reviewed and closed by agents with gt, while a person watches", async () => {
    const me = await person("bert");
    const { bead } = await me.data("sling", "Do it", "--body", "All of it");
    const watch = me.start(["watch", "--bead", bead.bead_id, "--poll", "--interval", "0.1"], "");
    await me.town.runAlarms();

    const polecat = agent(me);
    assert.equal((await polecat.data("prime")).hooked_bead.bead_id, bead.bead_id);
    assert.match(await polecat.well(["prime"]), /All of it/);
    await polecat.well(["status", "Reading"]);
    await polecat.well(["checkpoint", '{"step": 1}']);
    assert.deepEqual((await polecat.data("prime")).agent.checkpoint, { step: 1 });
    assert.equal((await me.data("agents"))[0].agent_status_message, "Reading");
    assert.equal((await polecat.data("bead", "show", bead.bead_id)).status, "in_progress");
    assert.deepEqual(await polecat.data("done", "--branch", "gt/toast/x", "--summary", "Did it"), { done: true });
    assert.equal((await me.data("bead", "show", bead.bead_id)).status, "in_review");

    await me.town.runAlarms();
    const refinery = agent(me, "refinery");
    assert.equal((await refinery.data("prime")).hooked_bead.metadata.source_bead_id, bead.bead_id);
    await refinery.well(["done", "--branch", "main"]);
    const { code, out } = await watch.ended;
    assert.equal(code, 0, out);
    assert.match(out, /status_changed\s+in_progress -> in_review/);
    assert.match(out, /finished/);
  });

  test("a bead that fails ends the watch with 1, and comes back by redrive", async () => {
    const me = await person("cleo");
    const { bead } = await me.data("sling", "Do it", "--label", "gt:held");
    const watch = me.start(["watch", "--bead", bead.bead_id, "--interval", "0.1"], "");
    const cancelled = await me.data("cancel", bead.bead_id, "--reason", "not wanted");
    assert.equal(cancelled.status, "failed");
    assert.equal((await watch.ended).code, 1);

    const again = await me.run(["cancel", bead.bead_id, "--reason", "twice"]);
    assert.equal(again.code, 0, "a cancelled bead is cancelled");
    const closed = await me.run(["bead", "close", bead.bead_id]);
    assert.equal(closed.code, 1);
    assert.match(closed.err, /use redrive.*\(HTTP 409\)\n.*gt redrive BEAD/s);
    assert.equal((await me.data("redrive", bead.bead_id, "--reason", "wanted after all")).status, "open");
    const many = await me.data("redrive", "--fingerprint", "none", "--reason", "r", "--dry-run");
    assert.deepEqual([many.matched, many.redriven, many.dry_run], [0, 0, true]);
    assert.equal((await me.data("bead", "close", bead.bead_id)).status, "closed");
  });

  test("mail, escalations and breakers are people's and agents'", async () => {
    const me = await person("dora");
    await me.data("sling", "Do it");
    await me.town.runAlarms();
    const polecat = agent(me);

    await me.well(["mail", "send", polecat.id.slice(0, 8), "--subject", "Hello", "Read this"]);
    assert.match(await polecat.well(["mail", "check"]), /from user:dora.*Hello\nRead this/s);
    assert.equal(await polecat.well(["mail", "check"]), "no new mail\n");
    await polecat.well(["mail", "send", "mayor", "--subject", "Question", "-"], "Which branch?");
    const { mail } = await me.data("mail", "list", "--to", "mayor");
    assert.deepEqual([mail[0].subject, mail[0].body, mail[0].from_agent_id], ["Question", "Which branch?", polecat.id]);

    await polecat.well(["escalate", "No access", "--priority", "high", "--body", "401"]);
    const [open] = await me.data("escalations", "--open");
    assert.equal(open.severity, "high");
    await me.well(["escalations", "ack", open.id.slice(0, 8)]);
    assert.deepEqual(await me.data("escalations", "--open"), []);

    assert.equal((await me.data("breaker", "show", "town")).state, "closed");
    const early = await me.run(["breaker", "probe"]);
    assert.equal(early.code, 1, "a closed breaker is not probed");
    assert.match(early.err, /HTTP 409/);
    const endless = await me.run(["breaker", "override", "town", "forced_open", "--reason", "deploying"]);
    assert.equal(endless.code, 1, "an override needs an end");
    assert.match(endless.err, /expires_in_ms/);
    const forced = await me.data("breaker", "override", "town", "forced_open", "--reason", "deploying", "--for", "30m");
    assert.equal(forced.override.mode, "forced_open");
    assert.match(await me.well(["breaker", "show"]), /town\s+closed\s+open|town\s+closed\s+forced_open/);
    assert.match(await me.well(["dispatch"]), /obeyed/);
    await me.well(["breaker", "override", "town", "auto", "--reason", "deployed"]);
    assert.match(await me.well(["breaker", "probe"]), /a probe is asked for/);
  });

  test("what the worker refuses exits with 1 and says why; an expired container token is renewed", async () => {
    const me = await person("emil");
    const { bead } = await me.data("sling", "Do it");
    await me.town.runAlarms();
    const unknown = await me.run(["explain", "00000000-0000-4000-8000-000000000000"]);
    assert.equal(unknown.code, 1);
    assert.match(unknown.err, /Bead .*not found.*\(HTTP 404\)/s);
    const bad = await me.run(["beads", "--status", "lost", "--json"]);
    assert.equal(bad.code, 1);
    assert.equal(JSON.parse(bad.err).error, "Invalid status or type filter");
    const wrong = await me.run(["login", "--profile", "x", "--api", h.url, "--token", h.token({ secret: "another" })]);
    assert.equal(wrong.code, 1);
    assert.match(wrong.err, /\(HTTP 401\)/);

    const expired = h.containerToken(me.town.id, { userId: "emil", issued: -3600, lives: 60 });
    const late = agent(me, "polecat", expired);
    assert.equal((await late.data("prime")).hooked_bead.bead_id, bead.bead_id);
    const denied = await agent(me, "polecat", h.containerToken("another-town")).run(["prime"]);
    assert.equal(denied.code, 1);
    assert.match(denied.err, /Cross-town access denied \(HTTP 403\)/);
  });

  test("a model does the same by tools", async () => {
    const me = await person("fred");
    const mayor = await session(me.env);
    const { data: made } = await mayor.call("gt_sling", { rig_id: "app", title: "Do it", body: "All of it" });
    const { data: beads } = await mayor.call("gt_list_beads", { rig_id: me.rig, status: "open" });
    assert.deepEqual(beads.map((b) => b.bead_id), [made.bead.bead_id]);
    const update = { rig_id: me.rig, bead_id: made.bead.bead_id, priority: "critical", body: null };
    const { data: changed } = await mayor.call("gt_bead_update", update);
    assert.deepEqual([changed.priority, changed.body], ["critical", null]);
    assert.match((await mayor.call("gt_bead_update", { ...update, priority: "soon" })).error, /Invalid request body \(HTTP 400\)/);
    await mayor.close();

    await me.town.runAlarms();
    const model = await session(agent(me).env);
    assert.equal((await model.call("gt_prime")).data.hooked_bead.bead_id, made.bead.bead_id);
    assert.deepEqual((await model.call("gt_done", { branch: "gt/toast/x" })).data, { done: true });
    assert.equal((await model.call("gt_bead_status", { bead_id: made.bead.bead_id })).data.status, "in_review");
    await model.close();
  });
});
