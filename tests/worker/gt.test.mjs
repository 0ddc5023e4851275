// The real gt against the real worker: people from login to a closed bead, agents from prime to done, and both as tools of
// the Model Context Protocol. What each command asks in detail is tested in gt/tests, against a fake.

import assert from "node:assert/strict";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { GT, Users, session } from "../support/gt.mjs";
import { Harness } from "../support/harness.mjs";

describe("gt against the worker", { skip: GT === null }, () => {
  let h;
  let fake;
  let users;
  before(async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
    users = new Users(h, fake);
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
    await users?.leave();
  });

  test("a person logs in, founds a town, attaches a rig, slings, and sees why it runs", async () => {
    const me = await users.person("anna");
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
    const me = await users.person("bert");
    const { bead } = await me.data("sling", "Do it", "--body", "All of it");
    const watch = me.start(["watch", "--bead", bead.bead_id, "--poll", "--interval", "0.1"], "");
    await me.town.runAlarms();

    const polecat = users.agent(me);
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
    const refinery = users.agent(me, "refinery");
    assert.equal((await refinery.data("prime")).hooked_bead.metadata.source_bead_id, bead.bead_id);
    await refinery.well(["done", "--branch", "main"]);
    const { code, out } = await watch.ended;
    assert.equal(code, 0, out);
    assert.match(out, /status_changed\s+in_progress -> in_review/);
    assert.match(out, /finished/);
  });

  test("a bead that fails ends the watch with 1, and comes back by redrive", async () => {
    const me = await users.person("cleo");
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
    const me = await users.person("dora");
    await me.data("sling", "Do it");
    await me.town.runAlarms();
    const polecat = users.agent(me);

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
    const me = await users.person("emil");
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
    const late = users.agent(me, "polecat", expired);
    assert.equal((await late.data("prime")).hooked_bead.bead_id, bead.bead_id);
    const denied = await users.agent(me, "polecat", h.containerToken("another-town")).run(["prime"]);
    assert.equal(denied.code, 1);
    assert.match(denied.err, /Cross-town access denied \(HTTP 403\)/);
  });

  test("a model does the same by tools", async () => {
    const me = await users.person("fred");
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
    const model = await session(users.agent(me).env);
    assert.equal((await model.call("gt_prime")).data.hooked_bead.bead_id, made.bead.bead_id);
    assert.deepEqual((await model.call("gt_done", { branch: "gt/toast/x" })).data, { done: true });
    assert.equal((await model.call("gt_bead_status", { bead_id: made.bead.bead_id })).data.status, "in_review");
    await model.close();
  });
});
