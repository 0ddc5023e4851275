// The real gt against the whole town: convoys, molecules, reviews, the mayor, the status socket.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { GT, Users, session } from "../support/gt.mjs";
import { Harness } from "../support/harness.mjs";
import { until } from "../support/poll.mjs";

describe("gt against the whole town", { skip: GT === null }, () => {
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

  test("a plan becomes a convoy that is looked at, started, changed and closed", async () => {
    const me = await users.person("gina");
    const plan = "a: First\n  All of it.\nb: Second <- a\n";
    const made = JSON.parse(await me.well(["batch", "Log in", "--file", "-", "--staged", "--json"], plan));
    assert.deepEqual([made.convoy.staged, made.beads.length], [true, 2]);
    const convoy = made.convoy.id;
    assert.match(await me.well(["convoy", "list"]), /staged\s+0\/2/);
    assert.match(await me.well(["convoy", "show", "Log in"]), /open {2}First\n {2}\w{8} {2}open {2}Second {2}<- \w{8}/);
    await me.well(["convoy", "start", convoy.slice(0, 8)]);
    const again = await me.run(["convoy", "start", convoy]);
    assert.equal(again.code, 1);
    assert.match(again.err, /not staged \(HTTP 404\)/);
    const bead = await me.data("bead", "create", "Third", "--label", "gt:held");
    const { total_beads } = await me.data("convoy", "add", convoy, bead.bead_id, "--after", made.beads[1].bead.bead_id);
    assert.equal(total_beads, 3);
    assert.equal((await me.data("convoy", "remove", convoy, bead.bead_id)).total_beads, 2);
    const circle = await me.run(["convoy", "add", convoy, made.beads[0].bead.bead_id, "--after", made.beads[1].bead.bead_id]);
    assert.equal(circle.code, 1, circle.out);
    await me.well(["convoy", "close", convoy]);
    assert.deepEqual(await me.data("convoy", "list"), []);
  });

  test("a model does the rest of the mayor's work by tools", async () => {
    const me = await users.person("hugo");
    const mayor = await session(me.env);
    const tasks = [{ title: "a" }, { title: "b", depends_on: [0] }];
    const { data: made } = await mayor.call("gt_sling_batch", { rig_id: "app", convoy_title: "C", tasks, staged: true });
    const { data: shown } = await mayor.call("gt_convoy_status", { convoy_id: made.convoy.id });
    assert.equal(shown.dependency_edges.length, 1);
    const update = await mayor.call("gt_convoy_update", { convoy_id: made.convoy.id, merge_mode: "review-and-merge" });
    assert.equal(update.data.merge_mode, "review-and-merge");
    assert.equal((await mayor.call("gt_convoy_start", { convoy_id: made.convoy.id })).error, undefined);
    assert.equal((await mayor.call("gt_list_convoys")).data.length, 1);
    const held = await me.data("bead", "create", "Held", "--label", "gt:held");
    const deleted = await mayor.call("gt_bead_delete", { rig_id: me.rig, bead_ids: [held.bead_id] });
    assert.deepEqual(deleted.data, { deleted: 1 });
    await me.town.runAlarms();
    const [working] = (await mayor.call("gt_list_agents", { rig_id: "app" })).data.filter((a) => a.status === "working");
    assert.deepEqual((await mayor.call("gt_agent_reset", { rig_id: "app", agent_id: working.id })).data, { reset: true });
    await mayor.close();
  });

  test("an agent goes through the steps of its molecule", async () => {
    const me = await users.person("jane");
    const { bead } = await me.data("sling", "Do it");
    const formula = { steps: [{ title: "First", instructions: "Look." }, { title: "Second", instructions: "Do." }] };
    await me.town.ok("POST", `/rigs/${me.rig}/molecules`, { bead_id: bead.bead_id, formula });
    await me.town.runAlarms();
    const polecat = users.agent(me);
    assert.match(await polecat.well(["mol", "current"]), /closed\s+0 of 2\nstep\s+First\nto do\s+Look\./);
    assert.match(await polecat.well(["mol", "advance", "Looked"]), /active, at step 1/);
    assert.match(await polecat.well(["mol", "current"]), /step\s+Second/);
    assert.match(await polecat.well(["mol", "advance", "Did"]), /completed/);
    const none = await polecat.run(["mol", "current"]);
    assert.equal(none.code, 1);
    assert.match(none.err, /No active molecule for this agent \(HTTP 404\)/);
  });

  test("only a triage agent resolves a triage request", async () => {
    const me = await users.person("kate");
    const { bead } = await me.data("sling", "Do it");
    await me.town.runAlarms();
    const refused = await users.agent(me).run(["triage", "resolve", bead.bead_id, "RESTART"]);
    assert.equal(refused.code, 1);
    assert.match(refused.err, /\(HTTP 403\)/);
  });

  test("a refinery sends work back", async () => {
    const me = await users.person("lena");
    const { bead } = await me.data("sling", "Do it");
    await me.town.runAlarms();
    await users.agent(me).well(["done", "--branch", "gt/toast/x"]);
    await me.town.runAlarms();
    const { rework_bead_id } = await users.agent(me, "refinery").data("request-changes", "No test", "--file", "a.rs");
    assert.deepEqual((await me.data("bead", "show", rework_bead_id)).labels, ["gt:rework"]);
    assert.equal((await me.data("bead", "show", bead.bead_id)).status, "in_review");
  });

  test("the mayor is told something, nudged, and acts by its tools", async () => {
    const me = await users.person("mona");
    assert.match(await me.well(["mayor", "status"]), /sleeps/);
    const told = await me.data("mayor", "message", "Split the log-in");
    assert.ok(["starting", "idle"].includes(told.sessionStatus), told.sessionStatus);
    await me.town.runAlarms();
    const { agentId } = fake.starts.findLast((s) => s.role === "mayor");
    assert.equal((await me.data("mayor", "status")).session.agentId, agentId);
    await me.well(["nudge", "mayor", "Look at this"]);
    await me.well(["mail", "send", "mayor", "--subject", "Plan", "Read it"]);
    const env = { ...users.agent(me, "mayor").env };
    delete env.GASTOWN_RIG_ID;
    const mayor = await session(env);
    const { data: made } = await mayor.call("gt_sling", { rig_id: "app", title: "Do it" });
    const mail = { rig_id: "app", to_agent_id: made.agent.id, subject: "Hello", body: "Read" };
    assert.deepEqual((await mayor.call("gt_mail_send", mail)).data, { sent: true });
    assert.match((await mayor.call("gt_nudge", { target_agent_id: made.agent.name, message: "Hurry" })).data.nudge_id, /-/);
    const action = { type: "navigate", page: "beads" };
    assert.deepEqual((await mayor.call("gt_ui_action", { action })).data, { broadcast: true });
    assert.match((await mayor.call("gt_escalation_acknowledge", { escalation_id: made.bead.bead_id })).error, /HTTP 404/);
    await mayor.close();
  });

  test("a watch with the status socket tells frames, and ends with the bead", async () => {
    const me = await users.person("iris");
    const { bead } = await me.data("sling", "Do it", "--label", "gt:held");
    const whole = me.start(["watch", "--json"], "");
    const one = me.start(["watch", "--bead", bead.bead_id], "");
    await until("the socket says the town's state", () => whole.said.out.includes("\n"));
    await until("the bead is watched", () => one.said.out.includes("\n"));
    await me.well(["cancel", bead.bead_id, "--reason", "not wanted"]);
    const { code, out, err } = await one.ended;
    assert.equal(code, 1, out);
    assert.doesNotMatch(err, /asking instead/);
    await until("the frame comes", () => whole.said.out.includes("bead.failed"));
    whole.child.kill();
    const frames = whole.said.out.trim().split("\n").map((line) => JSON.parse(line));
    assert.ok(frames[0].beads, "the snapshot first");
    assert.ok(frames.some((f) => f.channel === "bead" && f.beadId === bead.bead_id && f.type === "bead.failed"));
  });
});
