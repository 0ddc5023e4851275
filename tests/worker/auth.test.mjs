// Who may call what (api.md), and that everything security needs fails closed.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness, jwt, SECRET } from "../support/harness.mjs";

const DAY = 86_400;

describe("tokens", () => {
  let h;
  let fake;
  let town;
  let rig;
  before(async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
    town = await h.createTown();
    rig = await town.createRig();
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
  });
  const dispatch = (token, headers = {}) => h.api("GET", `/api/towns/${town.id}/dispatch`, undefined, { token, headers });
  const now = () => Math.floor(h.now / 1000);

  test("the owner and an operator are let in; the prefix Bearer is read in any case", async () => {
    assert.equal((await dispatch(town.token)).status, 200);
    assert.equal((await dispatch(h.token({ sub: "ops", scope: "operator" }))).status, 200);
    assert.equal((await dispatch(null, { Authorization: `bearer ${town.token}` })).status, 200);
  });

  for (const [what, token] of [
    ["no token", () => null],
    ["a token signed with another secret", () => h.token({ secret: "another-secret-another-secret-32b" })],
    ["an expired token", () => h.token({ issued: -2 * DAY, lives: DAY })],
    ["a token without exp", () => jwt({ sub: "alice", scope: "user", iat: now() }, SECRET)],
    ["a token without iat", () => jwt({ sub: "alice", scope: "user", exp: now() + DAY }, SECRET)],
    ["a token without a subject", () => h.token({ sub: null })],
    ["a token with an unknown scope", () => h.token({ scope: "root" })],
    ["a token that says alg none", () => jwt({ sub: "alice", scope: "user", iat: now(), exp: now() + DAY }, SECRET, { alg: "none", typ: "JWT" })],
    ["a token without its signature", () => `${town.token.split(".").slice(0, 2).join(".")}.`],
    ["a token with its claims changed", () => {
      const [head, , sign] = town.token.split(".");
      const claims = Buffer.from(JSON.stringify({ sub: "alice", scope: "operator", iat: now(), exp: now() + DAY })).toString("base64url");
      return `${head}.${claims}.${sign}`;
    }],
    ["a text that is no token", () => "let-me-in"],
    ["an empty token", () => ""],
  ]) {
    test(`${what} is 401`, async () => {
      const answer = await dispatch(token());
      assert.equal(answer.status, 401, answer.text);
      assert.equal(answer.json.success, false);
    });
  }

  test("a container token of more than eight hours is 401, one of another town 403", async () => {
    const beat = (token) =>
      h.api("POST", `/api/towns/${town.id}/rigs/${rig.id}/agents/${randomUUID()}/heartbeat`, {}, { token });
    assert.equal((await beat(h.containerToken(town.id, { issued: -9 * 3600, lives: 2 * DAY }))).status, 401);
    assert.equal((await beat(h.containerToken(randomUUID()))).status, 403);
    assert.equal((await beat(town.containerToken)).status, 200);
  });

  test("a legacy agent token of the predecessor is good for its own agent, rig and town, and for eight hours", async () => {
    const { agent, bead } = await town.rig(rig.id).sling({ title: "legacy" });
    const legacy = (claims = {}) => {
      const iat = now();
      return jwt({ agentId: agent.id, rigId: rig.id, townId: town.id, userId: "alice", iat, exp: iat + 8 * 3600, ...claims }, SECRET);
    };
    const as = (token) => ({ token });
    const prime = (token) => town.api("GET", `/rigs/${rig.id}/agents/${agent.id}/prime`, undefined, as(token));
    const refused = async (claims) => {
      const { status, error } = await prime(legacy(claims));
      return [status, error];
    };
    assert.equal((await prime(legacy())).data.agent.id, agent.id);
    assert.deepEqual(await refused({ rigId: randomUUID() }), [403, "Token rigId does not match route"]);
    assert.deepEqual(await refused({ townId: randomUUID() }), [403, "Cross-town access denied"]);
    assert.deepEqual(await refused({ agentId: randomUUID() }), [403, "Token agentId does not match route"]);
    assert.deepEqual(await refused({ userId: "" }), [401, "Invalid token payload"]);
    assert.deepEqual(await refused({ iat: undefined }), [401, "Invalid token signature"]);
    assert.deepEqual(await refused({ iat: now() - 9 * 3600 }), [401, "Token expired"]);
    assert.deepEqual(await refused({ exp: now() - 1 }), [401, "Token expired"]);
    // It speaks for its agent without any header, and a body that names another one is refused.
    const mail = (from) =>
      town.api("POST", `/rigs/${rig.id}/mail`, { from_agent_id: from, to_agent_id: "mayor", subject: "s", body: "b" }, as(legacy()));
    assert.equal((await mail(agent.id)).status, 201);
    assert.deepEqual([(await mail(randomUUID())).status], [403]);
    assert.equal((await town.api("GET", `/rigs/${rig.id}/beads/${bead.id}`, undefined, as(legacy()))).status, 200);
    // The container's own routes and a person's are not an agent's.
    assert.equal((await town.api("POST", "/container-eviction", undefined, as(legacy()))).status, 401);
    assert.equal((await town.api("GET", "/config", undefined, as(legacy()))).status, 403);
    const rigs = await h.api("GET", `/api/mayor/${town.id}/tools/rigs`, undefined, as(legacy({ rigId: `mayor-${town.id}` })));
    assert.equal(rigs.status, 200, rigs.text);
    const cross = await h.api("GET", `/api/mayor/${town.id}/tools/rigs`, undefined, as(legacy({ townId: randomUUID() })));
    assert.deepEqual([cross.status, cross.error], [403, "Token townId does not match route"]);
  });

  test("a container may explain, list attempts and see dispatch, and nothing else of the town routes", async () => {
    const bead = await town.ok("POST", `/rigs/${rig.id}/beads`, { type: "issue", title: "x", labels: ["gt:held"] });
    const as = { token: town.containerToken };
    for (const path of ["/dispatch", "/attempts", `/beads/${bead.id}/explain`, `/beads/${bead.id}/attempts`]) {
      assert.equal((await town.api("GET", path, undefined, as)).status, 200, path);
    }
    for (const [method, path, body] of [
      ["GET", "/config"],
      ["PATCH", "/config", { dispatch: { max_attempts: 9 } }],
      ["GET", "/audit"],
      ["PUT", "/breakers/town", { mode: "forced_closed", reason: "x", expires_in_ms: 1000 }],
      ["POST", "/redrive", { reason: "x", dry_run: false }],
      ["POST", `/beads/${bead.id}/cancel`, { reason: "x" }],
      ["POST", "/notifications/test"],
    ]) {
      const answer = await town.api(method, path, body, as);
      assert.ok([401, 403].includes(answer.status), `${method} ${path}: ${answer.status} ${answer.text}`);
    }
  });

  test("of agents only the mayor may redrive, and twice per bead; people without limit", async () => {
    const [mayor] = await town.rows("SELECT * FROM agents WHERE role = 'mayor'");
    const mayorId = mayor.agent_id ?? mayor.id;
    const { bead, agent } = await town.rig(rig.id).sling({ title: "redrive me" });
    const fail = () => town.ok("POST", `/beads/${bead.id}/cancel`, { reason: "again" });
    const redrive = (headers, token = town.containerToken) => town.api("POST", `/beads/${bead.id}/redrive`, {}, { token, headers });
    await fail();
    assert.equal((await redrive({ "X-Gastown-Agent-Id": agent.id })).status, 403);
    assert.equal((await redrive({})).status, 403);
    for (let i = 0; i < 2; i += 1) {
      assert.equal((await redrive({ "X-Gastown-Agent-Id": mayorId })).status, 200);
      await fail();
    }
    assert.ok((await redrive({ "X-Gastown-Agent-Id": mayorId })).status >= 400);
    for (let i = 0; i < 3; i += 1) {
      assert.equal((await redrive({}, town.token)).status, 200);
      await fail();
    }
  });

  test("an agent acts as itself: another agent's route, and a body that names another, are 403", async () => {
    const { agent } = await town.rig(rig.id).sling({ title: "act" });
    const me = { token: town.containerToken, headers: { "X-Gastown-Agent-Id": agent.id, "X-Gastown-Rig-Id": rig.id } };
    const other = randomUUID();
    const prime = await town.api("GET", `/rigs/${rig.id}/agents/${other}/prime`, undefined, me);
    assert.equal(prime.status, 403, prime.text);
    const mail = await town.api("POST", `/rigs/${rig.id}/mail`, { from_agent_id: other, to_agent_id: agent.id, subject: "s", body: "b" }, me);
    assert.deepEqual([mail.status, mail.error], [403, "from_agent_id does not match authenticated agent"]);
  });

  test("an override says who did it", async () => {
    await town.ok("PUT", "/breakers/town", { mode: "shadow", reason: "looking", expires_in_ms: 60_000 });
    await town.ok("PUT", "/breakers/town", { mode: "auto", reason: "done", expires_in_ms: 60_000 }, { token: h.token({ sub: "ops", scope: "operator" }) });
    const { entries } = await town.ok("GET", "/audit");
    assert.deepEqual(entries.slice(0, 2).map((e) => e.actor), ["operator:ops", "user:alice"]);
  });

  test("debug is for the owner and operators", async () => {
    const debug = (token) => h.api("GET", `/debug/towns/${town.id}/status`, undefined, { token });
    assert.equal((await debug(town.token)).status, 200);
    assert.equal((await debug(h.token({ sub: "ops", scope: "operator" }))).status, 200);
    assert.equal((await debug(null)).status, 401);
    assert.equal((await debug(h.token({ sub: "mallory" }))).status, 403);
    assert.ok([401, 403].includes((await debug(town.containerToken)).status));
  });
});

describe("without the secret", () => {
  test("everything but health is 503", async () => {
    const h = await Harness.start({ vars: { GASTOWN_JWT_SECRET: null } });
    try {
      assert.equal((await h.api("GET", "/health", undefined, { token: null })).status, 200);
      for (const path of ["/api/users/alice/towns", `/api/towns/${randomUUID()}/dispatch`, `/debug/towns/${randomUUID()}/status`]) {
        const answer = await h.api("GET", path);
        assert.equal(answer.status, 503, `${path}: ${answer.text}`);
        assert.ok(answer.error.length > 0);
        if (!path.startsWith("/debug")) assert.equal(answer.json.success, false);
      }
    } finally {
      await h.stop();
    }
  });
});

describe("AUTH=off", () => {
  const withVars = async (vars, check) => {
    const h = await Harness.start({ vars });
    try {
      await check(h);
    } finally {
      await h.stop();
    }
  };

  test("with ENVIRONMENT=development nobody needs a token, and the path says who the user is", async () => {
    await withVars({ AUTH: "off", ENVIRONMENT: "development" }, async (h) => {
      const made = await h.api("POST", "/api/users/bob/towns", { name: "Bob's" }, { token: null });
      assert.deepEqual([made.status, made.data?.owner_user_id], [201, "bob"], made.text);
      assert.equal((await h.api("GET", `/api/towns/${made.data.id}/dispatch`, undefined, { token: null })).status, 200);
    });
  });

  test("with any other ENVIRONMENT it does nothing", async () => {
    for (const ENVIRONMENT of ["production", "", null]) {
      await withVars({ AUTH: "off", ENVIRONMENT }, async (h) => {
        assert.equal((await h.api("GET", "/api/users/bob/towns", undefined, { token: null })).status, 401);
      });
    }
  });

  test("ENVIRONMENT=development alone turns nothing off", async () => {
    await withVars({ ENVIRONMENT: "development" }, async (h) => {
      assert.equal((await h.api("GET", "/api/users/bob/towns", undefined, { token: null })).status, 401);
    });
  });
});
