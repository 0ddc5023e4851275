// Reviews in workerd: a refinery that asks for changes, and pull requests at a forge that speaks GitHub's and GitLab's REST.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { FakeForge } from "../support/fake-forge.mjs";
import { Harness } from "../support/harness.mjs";

const MINUTE = 60_000;

let h;
let fake;
let forge;
before(async () => {
  fake = await FakeContainer.start();
  forge = await FakeForge.start();
  h = await Harness.start({ container: fake, vars: { GITHUB_API_URL: forge.url, GITLAB_API_URL: `${forge.url}/` } });
});
after(async () => {
  await h?.stop();
  await fake?.kill();
  await forge?.stop();
});
beforeEach(() => {
  Object.assign(forge, { requests: [], calls: [], merges: [], forbidden: [], answer: null });
});

const speaker = ({ town, rig }, start) => ({
  token: town.containerToken,
  headers: { "X-Gastown-Agent-Id": start.agentId, "X-Gastown-Rig-Id": rig.id, "X-Gastown-Dispatch-Id": start.dispatchId },
});

/** A town with a bead whose branch waits for its review: the refinery runs, unless the forge stands before it. */
async function submitted({ config = {}, git_url, done = {} } = {}) {
  const town = await h.createTown({ config });
  const rig = await town.createRig({ git_url });
  const base = `/rigs/${rig.id}`;
  const { bead, agent } = await town.rig(rig.id).sling({ title: "Do it" });
  await town.runAlarms();
  const c = { town, rig, base, bead };
  const started = fake.starts.findLast((s) => s.agentId === agent.id);
  await town.ok("POST", `${base}/agents/${agent.id}/done`, { branch: "gt/toast/x", summary: "did it", ...done }, speaker(c, started));
  await town.runAlarms();
  return c;
}

const PR = (config = {}) => ({
  merge_strategy: "pr",
  git_auth: { github_token: forge.token, gitlab_token: forge.token },
  refinery: { auto_merge: false, ...config },
});
const GITHUB = "https://github.com/acme/app.git";

/** The newest start of a refinery of this town. */
const refinery = ({ town }) => fake.requests.map(({ body }) => body).findLast((b) => b?.role === "refinery" && b.townId === town.id);
const mr = async ({ town, base }) => (await town.ok("GET", `${base}/beads?type=merge_request`))[0];
const status = async ({ town, base, bead }) => (await town.ok("GET", `${base}/beads/${bead.id}`)).status;
/** The refinery is content with the pull request. */
const content = (c, start = refinery(c)) =>
  c.town.ok("POST", `${c.base}/agents/${start.agentId}/done`, { branch: "gt/toast/x", pr_url: start.review.prUrl }, speaker(c, start));
const polls = () => forge.calls.filter(({ method }) => method === "GET").length;

describe("request-changes", () => {
  const ask = (c, start, body = { feedback: "tests are missing", files: ["a.rs"] }) =>
    c.town.api("POST", `${c.base}/agents/${start.agentId}/request-changes`, body, speaker(c, start));

  test("makes a rework bead that blocks the merge request, whose polecat starts on the branch under review", async () => {
    const c = await submitted();
    const answer = await ask(c, refinery(c));
    assert.equal(answer.status, 201, answer.text);
    const rework = await c.town.ok("GET", `${c.base}/beads/${answer.data.rework_bead_id}`);
    const request = await mr(c);
    assert.deepEqual([rework.title, rework.body, rework.labels, rework.parent_bead_id], ["Rework: Do it", "tests are missing", ["gt:rework"], request.id]);
    assert.deepEqual([await status(c), request.status], ["in_review", "open"]);
    await c.town.ok("POST", `${c.base}/agents/${refinery(c).agentId}/done`, { branch: "x" }, speaker(c, refinery(c)));
    assert.equal((await mr(c)).status, "open", "its later done changes nothing");
    const again = await ask(c, refinery(c));
    assert.deepEqual([again.status, again.data], [201, answer.data]);
    await c.town.runAlarms();
    const polecat = fake.starts.at(-1);
    assert.deepEqual([polecat.role, polecat.branch], ["polecat", "gt/toast/x"]);
    const prime = await c.town.ok("GET", `${c.base}/agents/${polecat.agentId}/prime`, undefined, speaker(c, polecat));
    assert.deepEqual([prime.rework_context.feedback, prime.rework_context.files], ["tests are missing", ["a.rs"]]);
    await c.town.ok("POST", `${c.base}/agents/${polecat.agentId}/done`, { branch: "gt/toast/x" }, speaker(c, polecat));
    await c.town.runAlarms();
    assert.equal((await mr(c)).status, "in_progress", "it is reviewed once more");
  });

  test("is a refinery's at work, with words about what is wrong", async () => {
    const c = await submitted();
    const idle = await c.town.ok("POST", `${c.base}/agents/get-or-create`, { role: "polecat" });
    const other = await ask(c, { agentId: idle.id, dispatchId: "" });
    assert.deepEqual([other.status, /report done/.test(other.error)], [403, true], other.text);
    for (const body of [{}, { feedback: "" }, { feedback: 7 }, { feedback: "x", files: "a" }, { feedback: "x", files: [1] }]) {
      assert.equal((await ask(c, refinery(c), body)).status, 400, JSON.stringify(body));
    }
    assert.equal((await ask(c, refinery(c), { feedback: "x".repeat(70_000) })).status, 422);
    await c.town.ok("POST", `${c.base}/review-queue/${(await mr(c)).id}/complete`, { status: "merged", message: "ok" });
    const late = await ask(c, refinery(c));
    assert.deepEqual([late.status, late.json.state], [409, "closed"], late.text);
  });
});

describe("a pull request", () => {
  test("on GitHub is opened by the town, read by the refinery, watched and merged", async () => {
    const c = await submitted({ git_url: GITHUB, config: PR({ auto_merge: true, auto_merge_delay_minutes: 5 }) });
    const [opened] = forge.requests;
    assert.deepEqual([opened.repo, opened.branch, opened.target, opened.title], ["acme/app", "gt/toast/x", "main", "Do it"]);
    assert.match(opened.body, /did it/);
    const start = refinery(c);
    assert.equal(start.review.prUrl, "https://github.com/acme/app/pull/1");
    await content(c);
    assert.equal((await mr(c)).status, "in_progress");
    await c.town.runAlarms();
    const explained = await c.town.ok("GET", `/beads/${c.bead.id}/explain`);
    assert.match(explained.summary, /pull\/1 decides/);
    for (let minute = 0; minute < 7 && forge.merges.length === 0; minute += 1) await h.advance(MINUTE);
    assert.deepEqual(forge.merges, [{ number: 1, method: "squash" }]);
    assert.equal(await status(c), "closed");
    assert.ok(forge.calls.every((call) => call.agent === "gastown" && call.authorized));
    assert.equal(await c.town.alarm(), null, "a town with nothing open has no alarm");
  });

  test("on GitLab is asked in GitLab's words", async () => {
    const c = await submitted({ git_url: "https://gitlab.com/acme/sub/app.git", config: PR() });
    await content(c);
    await c.town.runAlarms();
    assert.equal((await mr(c)).metadata.pr_url, "https://gitlab.com/acme/sub/app/-/merge_requests/1");
    forge.requests[0].state = "merged";
    await h.advance(MINUTE + 1000);
    assert.equal(await status(c), "closed");
  });

  test("is asked about once a minute at most, also after a crash in the middle", async () => {
    const c = await submitted({ git_url: GITHUB, config: PR() });
    await content(c);
    await c.town.runAlarms();
    const before = polls();
    for (let step = 0; step < 10; step += 1) await h.advance(30_000);
    assert.ok(polls() - before <= 5, `${polls() - before} times in five minutes`);
    await h.kill9();
    await h.restart();
    forge.requests[0].state = "merged";
    await h.advance(MINUTE + 1000);
    assert.deepEqual([await status(c), forge.requests.length], ["closed", 1]);
  });

  test("with conflicts, failed checks or open comments gets one bead that repairs it", async () => {
    for (const [trouble, label] of [[{ conflict: true }, "gt:pr-conflict"], [{ checks: "failed" }, "gt:pr-fixup"], [{ unresolved: true }, "gt:pr-feedback"]]) {
      Object.assign(forge, { requests: [], merges: [] });
      const c = await submitted({ git_url: GITHUB, config: PR() });
      await content(c);
      Object.assign(forge.requests[0], trouble);
      for (let minute = 0; minute < 3; minute += 1) await h.advance(MINUTE + 1000);
      const repairs = (await c.town.ok("GET", `${c.base}/beads?type=issue`)).filter((b) => b.labels.includes(label));
      assert.equal(repairs.length, 1, label);
      assert.equal(repairs[0].parent_bead_id, (await mr(c)).id);
      await c.town.ok("POST", `/beads/${c.bead.id}/cancel`, { reason: "enough" });
      assert.equal((await c.town.ok("GET", `${c.base}/beads/${repairs[0].id}`)).status, "closed");
    }
  });

  test("is given up with words that say what to do, and goes on after a redrive", async () => {
    const c = await submitted({ git_url: GITHUB, config: PR() });
    await content(c);
    forge.answer = { status: 401, body: { message: "Bad credentials" } };
    await c.town.runAlarms();
    await h.advance(MINUTE + 1000);
    const request = await mr(c);
    assert.deepEqual([request.status, request.metadata.failureReason, request.metadata.failureKind], ["failed", "forge.denied", "denied"]);
    assert.match(request.metadata.failureMessage, /GitHub answered 401.*set git_auth.github_token anew/);
    assert.equal(await status(c), "in_review");
    forge.answer = null;
    forge.requests[0].state = "merged";
    await c.town.ok("POST", `/beads/${request.id}/redrive`, { reason: "a new token" });
    await c.town.runAlarms();
    assert.equal(await status(c), "closed");
  });

  test("that a polecat names is one of a known host, or 422 and nothing changes", async () => {
    const town = await h.createTown({ config: PR() });
    const rig = await town.createRig({ git_url: GITHUB });
    const { agent } = await town.rig(rig.id).sling({ title: "Do it" });
    await town.runAlarms();
    const c = { town, rig };
    const start = fake.starts.findLast((s) => s.agentId === agent.id);
    const done = (pr_url) => town.api("POST", `/rigs/${rig.id}/agents/${agent.id}/done`, { branch: "gt/toast/x", pr_url }, speaker(c, start));
    for (const url of ["http://github.com/a/b/pull/1", "https://evil.example/a/b/pull/1", "https://github.com/a/b", "x"]) {
      const answer = await done(url);
      assert.deepEqual([answer.status, answer.json.field], [422, "pr_url"], answer.text);
    }
    assert.equal((await done("https://github.com/acme/app/pull/3")).status, 200);
    assert.equal(forge.calls.length, 0);
  });

  test("leaves its token in no row and in no line of the log", async () => {
    const c = await submitted({ git_url: GITHUB, config: PR() });
    forge.answer = { status: 403, body: { message: `not with ${forge.token}` } };
    await content(c);
    await c.town.runAlarms();
    await h.advance(MINUTE + 1000);
    assert.equal((await mr(c)).status, "failed");
    const rows = JSON.stringify(await c.town.snapshot({ except: ["config"] }));
    assert.ok(!rows.includes(forge.token) && !h.logs.join("").includes(forge.token));
  });
});
