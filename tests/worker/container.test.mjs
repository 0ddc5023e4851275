// The town's container: `TownContainerDO` with a platform of the tests (start, readiness, proxy, crash, idle stop, deaths of the
// object), the routes that pass through to the control server, and what a container at work is told.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { fetch as upgradingFetch } from "miniflare";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness, jwt, SECRET } from "../support/harness.mjs";
import { planted } from "../support/output.mjs";
import { until } from "../support/poll.mjs";
import { ROOT } from "../support/programs.mjs";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const claims = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));

describe("TownContainerDO", () => {
  let h;
  let fake;
  let town;
  let rig;
  let object;
  before(async () => {
    fake = await FakeContainer.start({ heartbeatMs: 100 });
    h = await Harness.start({ container: fake, platform: true });
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
  });
  beforeEach(async () => {
    town = await h.createTown();
    rig = await town.createRig();
    object = await h.object("TOWN_CONTAINER", town.id);
  });
  afterEach(() => fake.heal());

  const platform = async () => JSON.parse(await object.tPlatform());
  /** Time passes for this town. */
  const pass = async (ms) => {
    await h.advance(ms, { run: false });
    await town.runAlarms();
  };
  const row = async () => (await object.tSql("SELECT * FROM container")).rows[0];
  /** The object's alarm, if it is due. */
  const ring = () => object.tRunAlarm();
  /** A bead slung and its agent started, in a container that was started for it. */
  const work = async () => {
    const { bead, agent } = await town.rig(rig.id).sling({ title: "Run" });
    await town.runAlarms();
    await until("the agent's heartbeat is heard", async () => (await town.attempts())[0].outcome === "proven");
    return { bead, agent };
  };
  const attempt = async (bead) => (await town.attempts()).find((a) => a.bead_id === bead.id);

  test("a start starts the container, waits until it is ready, and gives it what it needs and no more", async () => {
    const secret = planted("github");
    await town.ok("PATCH", "/config", { git_auth: { github_token: secret }, git_author_name: "Ann", env_vars: { MINE: "1" } });
    assert.deepEqual(await platform(), { running: false, starts: [], signals: [], destroyed: 0 });
    fake.next("health", { answer: { status: 503, body: "still booting" } });
    await work();
    const { running, starts } = await platform();
    assert.deepEqual([running, starts.length, starts[0].enableInternet], [true, 1, true]);
    const { GASTOWN_CONTAINER_TOKEN: token, ...env } = starts[0].env;
    assert.deepEqual(env, {
      GASTOWN_API_URL: h.url,
      GASTOWN_TOWN_ID: town.id,
      GIT_TOKEN: secret,
      GASTOWN_GIT_AUTHOR_NAME: "Ann",
    });
    const { townId, userId, scope, iat, exp } = claims(token);
    assert.deepEqual([townId, userId, scope, exp - iat], [town.id, "alice", "container", 8 * 3600]);
    assert.equal((await town.api("GET", "/dispatch", undefined, { token })).status, 200);
    const arrived = fake.requests.findLast((r) => r.kind === "start");
    assert.equal(arrived.headers["x-gastown-boot"], undefined, "the environment goes no further than the object");
    assert.deepEqual(JSON.parse(arrived.headers["x-town-config"]), { town_id: town.id, gastown_api_url: h.url });
    assert.deepEqual([arrived.body.envVars.GIT_TOKEN, arrived.body.envVars.MINE], [secret, "1"]);
    const { phase, instance, town_id } = await row();
    assert.deepEqual([phase, instance, town_id], ["Ready", fake.instanceId, town.id]);
    assert.doesNotMatch(await object.tSnapshot([]), new RegExp(secret));
  });

  test("each start has a fresh token and the settings as they are by then", async () => {
    await work();
    await object.tExit(1);
    await until("the end was noticed", async () => (await row()).phase === "Stopped");
    await town.ok("PATCH", "/config", { git_author_name: "Bob" });
    await until("it runs again", async () => {
      await pass(MINUTE);
      return (await platform()).running;
    });
    const { starts } = await platform();
    assert.equal(starts.length, 2);
    assert.equal(starts[1].env.GASTOWN_GIT_AUTHOR_NAME, "Bob");
    assert.ok(claims(starts[1].env.GASTOWN_CONTAINER_TOKEN).iat > claims(starts[0].env.GASTOWN_CONTAINER_TOKEN).iat);
  });

  test("a look and a person's request start nothing, and say why there is no answer", async () => {
    const health = await town.api("GET", "/container/health");
    assert.deepEqual([health.status, health.code], [503, "container_down"]);
    assert.match(health.error, /not running/);
    assert.equal((await platform()).starts.length, 0);
    assert.equal(await object.tAlarm(), null, "a container that does not run has no alarm");
  });

  test("requests and WebSockets of a person reach the control server, without the person's token", async () => {
    const { agent } = await work();
    const health = await town.api("GET", "/container/health");
    assert.deepEqual([health.status, health.json.status], [200, "ok"], "unwrapped");
    const status = await town.api("GET", `/container/agents/${agent.id}/status`);
    assert.deepEqual([status.status, status.json.agentId], [200, agent.id]);
    const message = await town.api("POST", `/container/agents/${agent.id}/message`, { prompt: "hello" });
    assert.deepEqual([message.status, message.json], [200, { sent: true }]);
    for (const { headers } of fake.requests.filter((r) => ["message", "status"].includes(r.kind))) {
      assert.equal(headers.authorization, undefined);
    }
    const said = [];
    const socket = await upgrade(`${h.url}/api/towns/${town.id}/container/agents/${agent.id}/pty/pty_1/connect`, town.token);
    socket.addEventListener("message", ({ data }) => said.push(data));
    socket.send("one");
    await until("it is said again", () => said.includes("again: one"));
    const { pathname, headers } = JSON.parse(said[0]);
    assert.equal(pathname, `/agents/${agent.id}/pty/pty_1/connect`);
    assert.ok(!headers.includes("authorization"), headers.join());
    socket.close();
  });

  test("a crash is a fact that the town looks into at once: the bead is queued again, uncharged, and goes on in the next container", async () => {
    const { bead } = await work();
    const first = fake.instanceId;
    fake.restart(); // what runs from now on is another process
    await object.tExit(137, "Container crashed while handling a request, out of memory");
    await until("the crash is told", async () => (await row()).phase === "Stopped");
    assert.match((await row()).ended, /code 137.*out of memory/);
    await until("the town looks", async () => (await town.alarm()) <= h.now);
    await town.runAlarms();
    const ended = await attempt(bead);
    assert.deepEqual([ended.outcome, ended.code, ended.charged], ["failed", "container.lost", false]);
    assert.ok(h.logs.some((line) => line.includes("container.exited") && line.includes("137")));
    await pass(3 * MINUTE);
    await until("it runs again", async () => (await attempt(bead)).outcome === "proven");
    assert.equal((await platform()).starts.length, 2);
    assert.notEqual((await row()).instance, first);
  });

  test("a container that nobody needs is stopped after the town's idle time, and then costs nothing", async () => {
    await town.ok("PATCH", "/config", { container: { sleep_after_minutes: 5 } });
    const { agent } = await work();
    for (let minutes = 0; minutes < 30; minutes += 2) {
      await h.advance(2 * MINUTE, { run: false });
      await fake.heartbeat(agent.id);
      await ring();
      assert.equal((await platform()).running, true, `needed, after ${minutes} minutes`);
    }
    await fake.done(agent.id);
    await town.runAlarms();
    for (const refinery of fake.live.filter((a) => a.townId === town.id)) await fake.speak(refinery.agentId, "POST", `review-queue/${refineryEntry(refinery)}/complete`, { status: "merged", message: "" });
    await town.runAlarms();
    let minutes = 0;
    while ((await platform()).running) {
      await pass(MINUTE);
      await ring();
      minutes += 1;
      assert.ok(minutes < 20, "it runs on");
    }
    assert.ok(minutes >= 5, `stopped after ${minutes} minutes`);
    assert.deepEqual([(await platform()).signals, (await platform()).destroyed], [[15], 0]);
    assert.equal(await object.tAlarm(), null);
    await town.runAlarms();
    assert.equal(await town.alarm(), null);
  });

  test("one that hangs is destroyed, one that the platform refuses is a failure with the platform's words", async () => {
    await work();
    fake.always("health", { answer: { status: 500, body: "stuck" } });
    for (let i = 0; i < 4; i += 1) {
      await h.advance(31_000, { run: false });
      await ring();
    }
    const { running, destroyed } = await platform();
    assert.deepEqual([running, destroyed], [false, 1]);
    assert.match((await row()).ended, /health checks.*stuck/);
    fake.heal();

    const other = await h.createTown();
    const otherRig = await other.createRig();
    await (await h.object("TOWN_CONTAINER", other.id)).tScript({ refuses: true });
    await other.rig(otherRig.id).sling({ title: "nowhere" });
    await other.runAlarms();
    const [failed] = await other.attempts();
    assert.deepEqual([failed.outcome, failed.code, failed.charged], ["failed", "container.unreachable", false]);
    assert.match(failed.reason, /no Container instance available/i);
  });

  test("crash upon crash is bounded: then it stays down and says so, and the breaker holds the town", async () => {
    await town.ok("PATCH", "/config", { dispatch: { boot_timeout_ms: 100 } });
    await object.tScript({ refuses: true });
    for (let n = 0; n < 6; n += 1) await town.rig(rig.id).sling({ title: `bead ${n}` });
    for (let i = 0; i < 30; i += 1) await pass(MINUTE);
    const { phase, falls } = await row();
    assert.ok(["Down", "Stopped"].includes(phase) && falls.split(",").length <= 5, `${phase} ${falls}`);
    const breaker = (await town.ok("GET", "/breakers")).breakers[0];
    assert.notEqual(breaker.state, "closed");
    assert.equal((await town.ok("GET", `/rigs/${rig.id}/beads?status=failed`)).length, 0, "no bead is lost");
    await object.tScript({});
    await until("it recovers by itself", async () => {
      await pass(5 * MINUTE);
      return (await platform()).running;
    });
  });

  test("an object thrown out of memory finds its container running and goes on watching it", async () => {
    const { bead } = await work();
    await object.tAbort().catch(() => {});
    object = await h.object("TOWN_CONTAINER", town.id);
    assert.equal((await town.api("GET", "/container/health")).status, 200);
    assert.equal((await platform()).starts.length, 1);
    await object.tExit(9);
    await until("it is watched", async () => (await row()).phase === "Stopped");
    await town.runAlarms();
    assert.equal((await attempt(bead)).code, "container.lost");
  });

  test("a container that ended while its object was away is noticed by the alarm", async () => {
    await work();
    await object.tAbort().catch(() => {});
    object = await h.object("TOWN_CONTAINER", town.id);
    await object.tExit(137); // the wrapper is there, the object has looked at nothing yet
    await h.advance(MINUTE, { run: false });
    await ring();
    assert.equal((await row()).phase, "Stopped");
    assert.equal(await object.tAlarm(), null);
  });

  test("a town that is deleted takes its container with it", async () => {
    await work();
    await h.ok("DELETE", `/api/users/alice/towns/${town.id}`);
    const { running, destroyed } = await platform();
    assert.deepEqual([running, destroyed], [false, 1]);
    assert.equal(await object.tAlarm(), null);
  });
});

describe("kill -9 of everything while", () => {
  // With workerd the platform of the tests dies, too, as if the whole machine had; the storage stays.
  const scenes = [
    ["the container boots", async (c) => { await c.object.tScript({ silent: true }); await c.sling(); c.town.runAlarm().catch(() => {}); await until("it boots", async () => JSON.parse(await c.object.tPlatform()).running); }],
    ["the start is at the container", async (c) => { c.fake.next("start", { hang: true }); await c.sling(); c.town.runAlarm().catch(() => {}); await until("it hangs", () => c.fake.hanging > 0); }],
    ["the agent works", async (c) => { await c.sling(); await c.town.runAlarms(); }],
    ["its health is checked", async (c) => { await c.sling(); await c.town.runAlarms(); await c.h.advance(MINUTE, { run: false }); c.fake.next("health", { hang: true }); c.object.tRunAlarm().catch(() => {}); await until("it hangs", () => c.fake.hanging > 0); }],
  ];
  for (const [what, scene] of scenes) {
    test(`${what}: the bead runs in the next container, once`, async () => {
      const fake = await FakeContainer.start({ heartbeatMs: 100 });
      const h = await Harness.start({ container: fake, platform: true });
      try {
        const town = await h.createTown();
        const rig = await town.createRig();
        const object = await h.object("TOWN_CONTAINER", town.id);
        const sling = () => town.rig(rig.id).sling({ title: "Survive" });
        await scene({ h, fake, town, object, sling });
        await h.kill9();
        fake.heal();
        fake.restart();
        await h.restart();
        await until("its agent works again", async () => {
          await h.advance(20_000, { run: false });
          await town.runAlarms();
          const again = await h.object("TOWN_CONTAINER", town.id);
          await again.tRunAlarm();
          return fake.live.length === 1 && (await town.attempts())[0].outcome === "proven";
        }, { within: 20_000 });
        const [{ instanceId }] = fake.starts.slice(-1);
        assert.equal(fake.starts.filter((s) => s.instanceId === instanceId).length, 1);
        assert.equal(JSON.parse(await (await h.object("TOWN_CONTAINER", town.id)).tPlatform()).starts.length, 1);
      } finally {
        await h.stop();
        await fake.kill();
      }
    });
  }

  test("every await of the container's object is one of these moments", async () => {
    const text = await readFile(join(ROOT, "src/objects/container_do.rs"), "utf8");
    const awaits = text.split("\n").map((l) => l.trim()).filter((l) => l.includes(".await") && !l.startsWith("//"));
    // Where an object that dies there is tested: killed above, thrown out of memory, or rung by its alarm.
    const moments = [
      [/platform::(pass|health)|self\.take\(|self\.boot\(|pause\(|Delay::from|self\.act\(|look_around|self\.0\.(ring|answer)/, "killed"],
      [/platform::ended|watched\.await|room\.take/, "ended while its object was away"],
      [/self\.arm\(|alarm::(set|clear)/, "noticed by the alarm"],
      [/ask_town|tell_town|stub::post/, "idle, and crash"],
      [/destroy\(|delete/, "hangs, and deleted"],
    ];
    assert.deepEqual(awaits.filter((line) => !moments.some(([pattern]) => pattern.test(line))), []);
  });
});

describe("with the container at a url", () => {
  let h;
  let fake;
  let town;
  let rig;
  before(async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
  });
  beforeEach(async () => {
    town = await h.createTown();
    rig = await town.createRig();
  });
  afterEach(() => fake.heal());
  const kinds = (kind) => fake.requests.filter((r) => r.kind === kind);

  test("a start past the gate is refused and says what to do; nothing of it reaches the container", async () => {
    const before = fake.requests.length;
    const start = { agentId: randomUUID(), rigId: rig.id, townId: town.id, role: "polecat", prompt: "go" };
    const refused = await town.api("POST", "/container/agents/start", start);
    assert.deepEqual([refused.status, refused.code], [409, "past_the_gate"]);
    assert.match(refused.error, /[Ss]ling/);
    for (const body of ["", "{", "[]", "null"]) {
      const answer = await town.api("POST", "/container/agents/start", body);
      assert.deepEqual([answer.status, answer.error], [400, "Invalid JSON body"], body);
    }
    assert.equal(fake.requests.length, before);
  });

  test("the rest is passed on and back as it is, errors included", async () => {
    const { agent } = await town.rig(rig.id).sling({ title: "Run" });
    await town.runAlarms();
    const at = `/container/agents/${agent.id}`;
    for (const [method, path, body, expect] of [
      ["GET", "/container/health", undefined, { status: "ok" }],
      ["GET", `${at}/status`, undefined, { agentId: agent.id }],
      ["POST", `${at}/message`, { prompt: "hello" }, { sent: true }],
      ["POST", `${at}/pty`, {}, { id: "pty_1" }],
      ["GET", `${at}/pty`, undefined, { id: "pty_1" }],
      ["GET", `${at}/pty/pty_1`, undefined, { id: "pty_1" }],
      ["PUT", `${at}/pty/pty_1`, { size: { cols: 80, rows: 25 } }, { size: { cols: 80, rows: 25 } }],
      ["DELETE", `${at}/pty/pty_1`, undefined, { id: "pty_1" }],
      ["POST", `${at}/stop`, {}, { stopped: true }],
    ]) {
      const answer = await town.api(method, path, body);
      assert.equal(answer.status, 200, `${method} ${path}: ${answer.text}`);
      for (const [key, value] of Object.entries(expect)) assert.deepEqual(answer.json[key], value, path);
      assert.equal(answer.json.success, undefined, "unwrapped");
      assert.equal(fake.requests.at(-1).method, method);
      assert.equal(fake.requests.at(-1).headers.authorization, undefined);
    }
    const nobody = await town.api("GET", `/container/agents/${randomUUID()}/status`);
    assert.deepEqual([nobody.status, Object.keys(nobody.json)], [404, ["error"]]);
  });

  test("it is the owner's, and of a container that is gone it is told that it is", async () => {
    const path = `/api/towns/${town.id}/container/health`;
    assert.equal((await h.api("GET", path, undefined, { token: null })).status, 401);
    assert.equal((await h.api("GET", path, undefined, { token: h.token({ sub: "mallory" }) })).status, 403);
    assert.equal((await h.api("GET", path, undefined, { token: town.containerToken })).status, 403);
    assert.equal((await h.api("GET", `/api/towns/${randomUUID()}/container/health`)).status, 404);
    await fake.kill();
    try {
      const gone = await h.api("GET", path);
      assert.deepEqual([gone.status, gone.code], [502, "container_unreachable"]);
    } finally {
      await fake.boot();
    }
  });

  test("the container hears of changed settings while somebody lives in it, secrets in the header and nowhere else", async () => {
    const before = kinds("sync-config").length;
    await town.ok("PATCH", "/config", { git_author_name: "Early" });
    await town.runAlarms();
    assert.equal(kinds("sync-config").length, before, "nothing lives");
    await town.rig(rig.id).sling({ title: "Run" });
    await town.runAlarms();
    const secret = planted("gitlab");
    const name = "Zoë \u{1f980}";
    await town.ok("PATCH", "/config", { git_auth: { gitlab_token: secret }, git_author_name: name });
    await town.runAlarms();
    const [told] = kinds("sync-config").slice(before);
    const config = JSON.parse(told.headers["x-town-config"]);
    assert.deepEqual([config.git_auth.gitlab_token, config.git_author_name, config.town_id], [secret, name, town.id]);
    assert.ok(!JSON.stringify(told.body).includes(secret));
    // Long variables are left out of the header: each start carries them in its body.
    await town.ok("PATCH", "/config", { env_vars: { LONG: "x".repeat(20_000) } });
    await town.runAlarms();
    const last = kinds("sync-config").at(-1);
    assert.ok(last !== told && last.headers["x-town-config"].length < 8_192);
    assert.equal(JSON.parse(last.headers["x-town-config"]).env_vars, undefined);
    assert.equal(JSON.parse(last.headers["x-town-config"]).git_author_name, name);
    const looked = kinds("health").at(-1);
    assert.equal(looked?.headers["x-town-config"] ?? undefined, undefined, "a look tells nothing");
  });

  test("an agent of many hours is given a fresh token before its own ends", async () => {
    const { agent } = await town.rig(rig.id).sling({ title: "Long" });
    await town.runAlarms();
    await fake.heartbeat(agent.id);
    const pushed = () => kinds("refresh-token").filter((r) => claims(r.body.token).townId === town.id);
    for (let hours = 0; hours < 7; hours += 0.5) {
      await h.advance(HOUR / 2, { run: false });
      await fake.heartbeat(agent.id);
      await town.runAlarms();
    }
    assert.equal(pushed().length, 1);
    const [{ body }] = pushed();
    const { scope, userId, exp } = claims(body.token);
    assert.deepEqual([scope, userId], ["container", "alice"]);
    assert.ok(exp * 1000 > h.now + 6 * HOUR);
    assert.equal((await town.api("GET", "/dispatch", undefined, { token: body.token })).status, 200);
  });

  test("git asks for the rig's token, and nobody but the container gets it", async () => {
    const path = `/rigs/${rig.id}/refresh-git-token`;
    const as = { token: town.containerToken };
    const none = await town.api("POST", path, undefined, as);
    assert.deepEqual([none.status, none.error], [404, "No git token available for this rig"]);
    const secret = planted("git");
    await town.ok("PATCH", "/config", { git_auth: { github_token: secret }, github_cli_pat: planted("pat") });
    assert.deepEqual((await town.api("POST", path, undefined, as)).data, { token: secret });
    assert.equal((await town.api("POST", path)).status, 403, "not even the owner: settings are shown masked");
    const legacy = jwt({ agentId: "a", rigId: rig.id, townId: town.id, userId: "alice", iat: Math.floor(h.now / 1000) }, SECRET);
    const agents = await town.api("POST", path, undefined, { token: legacy });
    assert.deepEqual([agents.status, agents.error], [401, "Invalid container token payload"]);
    const shown = await town.ok("GET", "/config");
    assert.match(shown.github_cli_pat, /^\*{4}.{4}$/);
    assert.match(shown.git_auth.github_token, /^\*{4}.{4}$/);
    // What is shown can be sent back and stays what it was.
    await town.ok("PATCH", "/config", { git_auth: { github_token: shown.git_auth.github_token }, github_cli_pat: shown.github_cli_pat });
    assert.deepEqual((await town.api("POST", path, undefined, as)).data, { token: secret });
  });

  test("a container's events become data points", async () => {
    const say = (body) => town.api("POST", "/container-events", body, { token: town.containerToken });
    const event = `cold_start_${randomUUID().slice(0, 8)}`;
    const said = await say({ event, townId: town.id, agentId: "a1", role: "mayor", label: "why", durationMs: 12.5, phaseMs: 3 });
    assert.deepEqual([said.status, said.json], [200, { success: true }]);
    const points = () => h.logs.join("").split("\n").filter((l) => l.includes("POINT") && l.includes(event));
    await until("it is written", () => points().length === 1);
    const { indexes, blobs, doubles } = JSON.parse(points()[0].slice(points()[0].indexOf("{")));
    assert.deepEqual([indexes[0], blobs[5], blobs[7], blobs[9], blobs[11], blobs[13]], ["container.event", town.id, "a1", event, "mayor", "why"]);
    assert.deepEqual(doubles.slice(0, 4), [12.5, 0, 3, 0]);
    for (const body of [{}, { event: "" }, { event: 7 }]) {
      const answer = await say(body);
      assert.deepEqual([answer.status, answer.error], [400, "Missing event name"]);
    }
    assert.equal((await say("{")).status, 400);
    assert.equal((await town.api("POST", "/container-events", { event }, { token: null })).status, 401);
  });
});

/** The merge request that a refinery was started for. */
function refineryEntry(agent) {
  return agent.startupRequest.review.entryId;
}

/** A WebSocket with a token in its handshake, which the global client cannot send. */
async function upgrade(url, token) {
  const response = await upgradingFetch(url, { headers: { Upgrade: "websocket", Authorization: `Bearer ${token}` } });
  assert.equal(response.status, 101);
  response.webSocket.accept();
  return response.webSocket;
}
