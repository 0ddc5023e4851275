// The wire, walked as clients that are not ours walk it: every route of protocol.md 3, in the order in which a person, a
// polecat, a refinery, a mayor, a dashboard and a container ask for it (4.12), with the predecessor's container behind the
// town. Each line of the tables is one real request: before it, nobody and another town's container ask the same and are sent
// away, and whatever `wrong` says is refused; then status and answer are compared with the paper.
//
// A `:name` in a path and a "$name" in a body is what the walk has remembered by then.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { FakeForge } from "../support/fake-forge.mjs";
import { Harness, INTERNAL_SECRET, SECRET, jwt } from "../support/harness.mjs";
import { RawClient } from "../support/raw-http.mjs";
import * as shape from "../support/shape.mjs";
import { looksLike } from "../support/shape.mjs";
import { Watcher } from "../support/watcher.mjs";

const MINUTE = 60_000;
const NOWHERE = randomUUID();
const PAGE = "https://app.example";
const CONTEXT = "x".repeat(10_001);

/** protocol.md 2.4: exactly these, all of them texts. */
const NUDGE = ["message", "mode", "nudge_id", "priority", "source"];
const Convoy = {
  id: "uuid", title: "string", status: "string", staged: "bool", total_beads: "int", closed_beads: "int", created_by: "string?",
  created_at: "time", landed_at: "time?", feature_branch: "string?", merge_mode: "string?",
};
const ConvoyDetail = {
  ...Convoy,
  beads: [{ bead_id: "uuid", title: "string", status: "string", rig_id: "string?", assignee_agent_name: "string?" }],
  dependency_edges: [{ bead_id: "uuid", depends_on_bead_id: "uuid" }],
};
const Slung = { convoy: Convoy, beads: [{ bead: shape.Bead, agent: "object?" }] };
/** 2.8, and what clients expect beside it (7 #2). */
const Molecule = {
  id: "uuid", bead_id: "uuid", formula: "object", current_step: "int", status: "string", created_at: "time", updated_at: "time",
  moleculeId: "uuid", currentStep: "int", totalSteps: "int", completed: "bool",
};
const Step = { molecule: Molecule, step: "object", moleculeId: "uuid", currentStep: "int", totalSteps: "int", status: "string" };
const AgentEvent = { id: "int", agent_id: "string", event_type: "string", data: "object", created_at: "time" };
const MayorSaid = { agentId: "uuid", sessionStatus: "string" };
/** 2.13; what is not set is null. */
const Config = {
  env_vars: "object", git_auth: "object", merge_strategy: "string", staged_convoys_default: "bool", convoy_merge_mode: "string",
  disable_ai_coauthor: "bool", default_model: "string?", small_model: "string?", github_cli_pat: "string?", git_author_name: "string?",
  git_author_email: "string?", owner_user_id: "string", owner_type: "string", max_polecats_per_rig: "int?", alarm_interval_active: "int?",
  alarm_interval_idle: "int?", container: { sleep_after_minutes: "int?" },
  role_models: { mayor: "string?", refinery: "string?", polecat: "string?" },
  custom_instructions: { polecat: "string?", refinery: "string?", mayor: "string?" },
  refinery: {
    gates: ["string"], auto_merge: "bool", require_clean_merge: "bool", code_review: "bool", review_mode: "string",
    auto_resolve_pr_feedback: "bool", auto_resolve_merge_conflicts: "bool", auto_merge_delay_minutes: "int?",
  },
};
/** 2.9: what comes with an event beside old and new. */
const EVENTS = {
  created: { type: "string", title: "string" },
  hooked: {},
  unhooked: { reason: "string" },
  status_changed: {},
  fields_updated: { changed: ["string"], actor: "string" },
  agent_status: { agentId: "uuid", message: "string", agent_name: "string", rig_id: "string?", rig_name: "string?" },
  mail_sent: { subject: "string", to: "string" },
  review_submitted: { branch: "string", target_branch: "string" },
  review_completed: { message: "string", commit_sha: "string?" },
  rework_requested: { feedback: "string", files: ["string"] },
};
/** 2.12. */
const Snapshot = {
  alarm: { nextFireAt: "time?", intervalMs: "int", intervalLabel: "string" },
  agents: { working: "int", waiting: "int", idle: "int", stalled: "int", dead: "int", total: "int" },
  beads: { open: "int", inProgress: "int", inReview: "int", failed: "int", triageRequests: "int" },
  patrol: { guppWarnings: "int", guppEscalations: "int", stalledAgents: "int", orphanedHooks: "int" },
  reconciler: "object?",
  recentEvents: [{ time: "time", type: "string", message: "string" }],
};

let h;
let fake;
let forge;
/** What the walk remembers. */
const c = { nowhere: NOWHERE };
/** Lines of the route table that were walked. */
const walked = new Set();

before(async () => {
  fake = await FakeContainer.start({ kind: "predecessor" });
  forge = await FakeForge.start();
  h = await Harness.start({ container: fake, vars: { GITHUB_API_URL: forge.url, ALLOWED_ORIGINS: PAGE } });
});
after(async () => {
  await h?.stop();
  await fake?.kill();
  await forge?.stop();
});

const TABLE = [...readFileSync(new URL("../../src/edge/route.rs", import.meta.url), "utf8").matchAll(/^ {4}(\w+) "(\w+)" "([^"]+)" => (\w+),$/gm)]
  .map(([, kind, method, pattern, name]) => ({ kind, method, name, pattern, fits: new RegExp(`^${pattern.replace(/:\w+/g, "[^/]+")}$`), params: pattern.split(":").length }));
const routeOf = (method, path) => {
  const [found] = TABLE.filter((r) => r.method === method && r.fits.test(path.split("?")[0])).sort((a, b) => a.params - b.params);
  assert.ok(found, `the route table knows no ${method} ${path}`);
  return found;
};

/** `R` rig base, `A` the acting agent's, `M` the mayor's tools, `O` the mayor's own pseudo rig, `T` the town, `U` its user. */
const BASES = {
  T: "/api/towns/:town", R: "/api/towns/:town/rigs/:rig", A: "/api/towns/:town/rigs/:rig/agents/:agent", M: "/api/mayor/:town/tools",
  O: "/api/towns/:town/rigs/mayor-:town/agents/:mayor", U: "/api/users/:user", D: "/debug/towns/:town",
};
const recall = (name) => {
  assert.ok(name in c, `the walk has no ${name} yet`);
  return c[name];
};
function filled(path) {
  return path.replace(/^([A-Z])(?=\/|$|\?)/, (base) => BASES[base]).replace(/:([a-z]\w*)/gi, (_, name) => recall(name));
}
function bodyOf(body) {
  if (body === undefined || typeof body === "string" || Buffer.isBuffer(body)) return body;
  return JSON.stringify(body).replace(/"\$(\w+)"/g, (_, name) => JSON.stringify(recall(name)));
}

/** Callers. `plugin`: the agent's tools; `runtime`: the container itself, without headers; `owner`: a person. */
const CALLERS = {
  owner: () => ({ token: h.token({ sub: c.user }) }),
  plugin: () => ({ token: h.containerToken(c.town, { userId: c.user }), headers: { "X-Gastown-Agent-Id": c.agent, "X-Gastown-Rig-Id": c.rig } }),
  runtime: () => ({ token: h.containerToken(c.town, { userId: c.user }) }),
  mayor: () => ({ token: h.containerToken(c.town, { userId: c.user }), headers: { "X-Gastown-Agent-Id": c.mayor } }),
  service: () => ({ token: null, headers: { "X-Internal-Secret": INTERNAL_SECRET } }),
  nobody: () => ({ token: null }),
};
const ask = (as, method, path, body, more = {}) => h.api(method, filled(path), bodyOf(body), { ...CALLERS[as](), ...more });

/** What every client of the plugin's kind can read: an object with a boolean `success`. */
function refusedAs(answer, status, text) {
  assert.equal(answer.status, status, answer.text);
  assert.equal(answer.json?.success, false, answer.text);
  assert.ok(typeof answer.error === "string" && answer.error.length > 5, answer.text);
  if (text instanceof RegExp) assert.match(answer.error, text);
  else if (text !== undefined) assert.equal(answer.error, text);
}

/** Nobody, and the container of another town: sent away by every route that is not open to all. */
async function guarded(route, method, path, body) {
  if (route.kind === "Public") return;
  const none = await ask("nobody", method, path, body);
  refusedAs(none, 401, route.kind === "Internal" ? "Unauthorized" : "Authentication required");
  if (route.kind === "Internal") return;
  const other = await h.api(method, filled(path), bodyOf(body), { token: h.containerToken(NOWHERE) });
  const words = { Mayor: "Token townId does not match route", User: /^Forbidden/, Town: /^Forbidden/ }[route.kind] ?? "Cross-town access denied";
  refusedAs(other, 403, words);
}

/**
 * A line: [caller, method, path, body, status, what]. `what`: `like` (a shape), `is` (the value), `json` (the whole answer),
 * `keep` (remembers `data.<path>` by names), `then` (looks closer), `wrong`: [[{body, path, as}, status, text]].
 */
function walk(title, lines) {
  test(title, async () => {
    for (const [as, method, path, body, status, what = {}] of lines) {
      if (typeof as === "function") {
        await as();
        continue;
      }
      try {
        const route = routeOf(method, filled(path));
        await guarded(route, method, path, body);
        for (const [other, refusal, text] of what.wrong ?? []) {
          refusedAs(await ask(other.as ?? as, method, other.path ?? path, "body" in other ? other.body : body), refusal, text);
        }
        const answer = await ask(as, method, path, body);
        assert.equal(answer.status, status, answer.text);
        const { data } = answer;
        if (what.json) looksLike(answer.json, what.json, "answer");
        else assert.equal(answer.json?.success, true, answer.text);
        if (what.like) looksLike(data, what.like);
        if ("is" in what) assert.deepEqual(data, what.is);
        for (const [name, at] of Object.entries(what.keep ?? {})) c[name] = at.split(".").reduce((v, key) => v[key], data);
        await what.then?.(data, answer);
        walked.add(route.name);
      } catch (error) {
        throw new Error(`${as}: ${method} ${path}: ${error.message}`, { cause: error });
      }
    }
  });
}

const town = () => h.town(c.town, c.user);
const alarms = async () => town().runAlarms();
/** The newest start request of a role. */
const startOf = (role) => fake.requests.findLast((r) => r.kind === "start" && r.body.role === role && r.body.townId === c.town)?.body;
/** From now on this agent acts. */
const becomes = (role) => async () => {
  await alarms();
  const start = startOf(role);
  assert.ok(start, `a ${role} was started`);
  c.agent = start.agentId;
  c.start = start;
  await fake.heartbeat(c.agent);
};
const events = (type) => (data) => assert.ok(data.some((e) => e.event_type === type), `${type} among ${data.map((e) => e.event_type)}`);
const newestFirst = (list) => assert.deepEqual(list.map((x) => x.created_at), list.map((x) => x.created_at).sort().reverse());

const NOT_JSON = [{ body: "{no json" }, 400, "Invalid request body"];
const NO_BEAD = [{ path: "R/beads/:nowhere" }, 404, "Bead not found"];

describe("protocol.md 3, in the order of its callers", () => {
  walk("anybody: health", [
    ["nobody", "GET", "/", undefined, 200, { json: { service: "string", status: "string" } }],
    ["nobody", "GET", "/health", undefined, 200, { json: { status: "string" } }],
  ]);

  test("a page of a listed origin may ask, and no other", async () => {
    const preflight = async (origin) => {
      const { status, headers } = await fetch(`${h.url}/api/users/carol/towns`, { method: "OPTIONS", headers: { Origin: origin, "Access-Control-Request-Method": "PATCH" } });
      return [status, ...["origin", "credentials"].map((name) => headers.get(`access-control-allow-${name}`)), headers.get("access-control-max-age"), headers.get("access-control-allow-methods"), headers.get("access-control-allow-headers")];
    };
    const always = ["3600", "GET, POST, PUT, PATCH, DELETE, OPTIONS", "Content-Type, Authorization"];
    assert.deepEqual(await preflight(PAGE), [204, PAGE, "true", ...always]);
    for (const origin of ["https://evil.example", "http://localhost:3000"]) assert.deepEqual(await preflight(origin), [204, null, null, ...always]);
  });

  walk("a person makes a town and a rig, and sets them up", [
    [() => { c.user = "carol"; c.town = NOWHERE; }],
    ["owner", "POST", "U/towns", { name: "First" }, 201, { like: shape.Town, keep: { first: "id" }, wrong: [NOT_JSON, [{ body: { name: "" } }, 400], [{ body: { name: "x".repeat(65) } }, 400]] }],
    ["owner", "POST", "U/towns", { name: "Town" }, 201, { like: shape.Town, keep: { town: "id" } }],
    ["owner", "GET", "U/towns", undefined, 200, { like: [shape.Town], then: (towns) => assert.deepEqual(towns.map((t) => t.id), [c.town, c.first], "newest first") }],
    ["owner", "GET", "U/towns/:town", undefined, 200, { like: shape.Town, wrong: [[{ path: "U/towns/:nowhere" }, 404, "Town not found"], [{ path: "/api/users/bob/towns/:town" }, 403, "Forbidden"]] }],
    ["owner", "POST", "U/rigs", { town_id: "$town", name: "rig", git_url: "https://github.com/acme/app.git", default_branch: "trunk" }, 201, {
      like: shape.Rig, keep: { rig: "id" },
      wrong: [NOT_JSON, [{ body: { town_id: "$town", name: "", git_url: "https://h/a" } }, 400], [{ body: { town_id: "$town", name: "r", git_url: "nonsense" } }, 400], [{ body: { town_id: "$nowhere", name: "r", git_url: "https://h/a" } }, 404, "Town not found"]],
    }],
    ["owner", "POST", "U/rigs", { town_id: "$town", name: "second", git_url: "git@h:a/b" }, 201, { like: shape.Rig, keep: { rig2: "id" }, then: (rig) => assert.equal(rig.default_branch, "main") }],
    ["owner", "GET", "U/rigs/:rig", undefined, 200, { like: shape.Rig, wrong: [[{ path: "U/rigs/:nowhere" }, 404, "Rig not found"]] }],
    ["owner", "GET", "U/towns/:town/rigs", undefined, 200, { like: [shape.Rig], then: (rigs) => assert.deepEqual(rigs.map((r) => r.id), [c.rig2, c.rig], "newest first") }],
    ["owner", "GET", "T/config", undefined, 200, { like: Config, wrong: [[{ path: "/api/towns/:nowhere/config" }, 404, "Town not found"]] }],
    ["owner", "PATCH", "T/config", { git_auth: { github_token: "ghp_0123456789" }, github_cli_pat: "pat_abcdef", env_vars: { MY_TOKEN: "verysecret", PIN_CODE: "1", API_KEY: "abc" } }, 200, {
      like: Config,
      wrong: [NOT_JSON, [{ body: { env_vars: { "A-B": "1" } } }, 400, 'Invalid env var key "A-B": must be alphanumeric with underscores'], [{ body: { env_vars: { GASTOWN_X: "1" } } }, 400, 'Env var key "GASTOWN_X" uses reserved GASTOWN_ prefix']],
      then: (config) => assert.deepEqual(
        [config.git_auth.github_token, config.github_cli_pat, config.env_vars],
        ["****6789", "****cdef", { MY_TOKEN: "****cret", PIN_CODE: "1", API_KEY: "****" }],
      ),
    }],
    ["owner", "PATCH", "T/config", { env_vars: { MY_TOKEN: "****cret", NEW: "2" }, git_auth: { github_token: "****6789" } }, 200, { then: (config) => assert.deepEqual([config.env_vars, config.git_auth.github_token], [{ MY_TOKEN: "****cret", NEW: "2" }, "****6789"]) }],
    ["owner", "GET", "T/rigs/:rig/config", undefined, 200, { like: "object" }],
    ["owner", "PATCH", "T/rigs/:rig/config", { max_concurrent_polecats: 3 }, 200, { like: "object" }],
  ]);

  walk("a polecat, from its start to its end", [
    ["owner", "POST", "R/sling", { title: "Do it", body: "words", metadata: { a: 1 } }, 201, {
      like: shape.SlingResult, keep: { bead: "bead.bead_id", agent: "agent.id" }, wrong: [NOT_JSON, [{ body: {} }, 400, "Invalid request body"]],
      then: ({ bead, agent }) => {
        assert.deepEqual([bead.status, bead.assignee_agent_bead_id, agent.status, agent.current_hook_bead_id], ["open", agent.id, "idle", bead.bead_id]);
        assert.deepEqual([bead.type, bead.priority, bead.rig_id, bead.metadata], ["issue", "medium", c.rig, { a: 1 }]);
        assert.deepEqual([agent.name, agent.identity], ["Toast", `Toast-polecat-${c.rig.slice(0, 8)}@${c.town.slice(0, 8)}`]);
      },
    }],
    [becomes("polecat")],
    [() => {
      const texts = Object.fromEntries(["agentId", "rigId", "townId", "name", "identity", "prompt", "model", "smallModel", "systemPrompt", "gitUrl", "branch", "defaultBranch"].map((k) => [k, "string"]));
      looksLike(c.start, { ...texts, envVars: { GASTOWN_API_URL: "string", GASTOWN_TOWN_ID: "string", GASTOWN_AGENT_ID: "string", GASTOWN_RIG_ID: "string", GASTOWN_AGENT_ROLE: "string", GASTOWN_CONTAINER_TOKEN: "string", GIT_TOKEN: "string" } }, "start");
      assert.deepEqual([c.start.branch, c.start.defaultBranch, c.start.prompt.startsWith("Do it\n\nwords")], [`gt/toast/${c.bead.slice(0, 8)}`, "trunk", true]);
      const header = JSON.parse(fake.requests.findLast((r) => r.kind === "start").headers["x-town-config"]);
      assert.equal(typeof header, "object");
    }],
    // The runtime starts it.
    ["runtime", "GET", "A/db-snapshot", undefined, 404, { json: { success: "bool", error: "string" }, then: (_, { error }) => assert.equal(error, "Snapshot not found") }],
    ["runtime", "POST", "R/agent-events", { agent_id: "$agent", event_type: "message.part.updated", data: { part: 1 } }, 201, { like: { appended: "bool" }, wrong: [[{ body: { agent_id: "$agent" } }, 400], [{ as: "plugin", body: { agent_id: "$nowhere", event_type: "x", data: {} } }, 403, "agent_id does not match authenticated agent"]] }],
    ["plugin", "POST", "R/agent-events", { agent_id: "$agent", event_type: "session.idle" }, 201, { like: { appended: "bool" } }],
    ["runtime", "GET", "A/events?after_id=1&limit=1", undefined, 200, { like: [AgentEvent], then: (list) => assert.deepEqual([list.length, list[0].id, list[0].data], [1, 2, {}]), wrong: [[{ path: "A/events?limit=1001" }, 400, "Invalid query parameters"]] }],
    ["runtime", "GET", "A/events?after=0", undefined, 200, { then: (list) => assert.deepEqual(list.map((e) => e.id), [1, 2], "ascending") }],
    ["runtime", "POST", "T/container-registry", [{ agentId: "$agent", request: "$start", workdir: "/w", env: {} }, { what: "odd" }], 200, { wrong: [[{ body: "{no json" }, 400], [{ body: { agents: [] } }, 400]] }],
    ["runtime", "POST", "T/container-events", { event: "boot", townId: "$town", durationMs: 5 }, 200, { json: { success: "bool" }, wrong: [[{ body: {} }, 400, "Missing event name"], [{ body: "{no json" }, 400]] }],
    ["runtime", "POST", "A/heartbeat", { agentId: "$agent", rigId: "$rig", townId: "$town", status: "running", timestamp: "2026-01-01T00:00:00Z", lastEventType: null, lastEventAt: null, activeTools: ["bash"], messageCount: 3 }, 200, { is: { heartbeat: true } }],
    ["runtime", "POST", "A/heartbeat", "{odd", 200, { is: { heartbeat: true } }],
    ["runtime", "POST", "R/agents/:nowhere/heartbeat", {}, 200, { is: { heartbeat: true } }],
    ["runtime", "POST", "R/refresh-git-token", undefined, 200, { is: { token: "ghp_0123456789" } }],
    // Its plugin.
    ["plugin", "GET", "A/prime", undefined, 200, {
      like: shape.Prime, wrong: [[{ path: "R/agents/:nowhere/prime" }, 403, "Token agentId does not match route"], [{ path: "R/agents/:nowhere/prime", as: "owner" }, 404, "Agent not found"]],
      then: (prime) => {
        assert.deepEqual([prime.agent.id, prime.agent.status, prime.hooked_bead.bead_id, prime.hooked_bead.status], [c.agent, "working", c.bead, "in_progress"]);
        assert.deepEqual([prime.rework_context, prime.pr_fixup_context, prime.pr_conflict_context], [null, null, null]);
      },
    }],
    ["plugin", "POST", "A/status", { message: "  reading  " }, 200, { is: { ok: true }, wrong: [NOT_JSON, [{ body: { message: "  " } }, 400], [{ body: { message: "x".repeat(281) } }, 400]] }],
    ["plugin", "POST", "A/checkpoint", { data: { step: 1 } }, 200, { is: { written: true }, wrong: [NOT_JSON] }],
    ["plugin", "POST", "R/mail", { from_agent_id: "$agent", to_agent_id: "$agent", subject: "s", body: "first" }, 201, { is: { sent: true }, wrong: [NOT_JSON, [{ body: { from_agent_id: "$agent", to_agent_id: "$agent", subject: "", body: "b" } }, 400], [{ body: { from_agent_id: "$nowhere", to_agent_id: "$agent", subject: "s", body: "b" } }, 403, "from_agent_id does not match authenticated agent"]] }],
    ["plugin", "POST", "R/mail", { from_agent_id: "$agent", to_agent_id: "$agent", subject: "s", body: "second" }, 201, {}],
    ["plugin", "GET", "A/mail", undefined, 200, { like: [shape.Mail], then: (mail) => assert.deepEqual(mail.map((m) => [m.body, m.delivered, m.delivered_at]), [["first", false, null], ["second", false, null]], "oldest first, as before the delivery") }],
    ["plugin", "GET", "A/mail", undefined, 200, { is: [] }],
    ["plugin", "GET", "R/beads/:bead", undefined, 200, { like: shape.Bead, wrong: [NO_BEAD, [{ path: "T/rigs/:rig2/beads/:bead" }, 404, "Bead not found"]] }],
    ["plugin", "POST", "R/escalations", { title: "It burns", body: "all of it", priority: "high", metadata: { where: "here" } }, 201, {
      like: shape.Escalation, keep: { escalation: "id" }, wrong: [NOT_JSON, [{ body: {} }, 400], [{ body: { title: "x", priority: "urgent" } }, 400]],
      then: (e) => assert.deepEqual(
        [e.bead_id, e.type, e.title, e.status, e.priority, e.severity, e.message, e.acknowledged, e.source_rig_id, e.source_agent_id],
        [e.id, "escalation", "Escalation: It burns", "open", "high", "high", "It burns", 0, c.rig, c.agent],
      ),
    }],
    ["plugin", "GET", "R/beads/:escalation", undefined, 200, { then: (bead) => assert.deepEqual([bead.body, bead.metadata.where, bead.labels], ["all of it", "here", ["gt:escalation", "severity:high"]]) }],
    ["plugin", "POST", "R/nudge", { target_agent_id: "$agent", message: "look" }, 200, { like: { nudge_id: "uuid" }, keep: { nudge: "nudge_id" }, wrong: [NOT_JSON, [{ body: { target_agent_id: "$agent", message: "x", mode: "loud" } }, 400]] }],
    ["runtime", "GET", "A/pending-nudges", undefined, 200, { then: ([nudge, ...more]) => { assert.deepEqual([Object.keys(nudge).sort(), more], [NUDGE, []]); for (const key of NUDGE) assert.equal(typeof nudge[key], "string"); } }],
    ["mayor", "GET", "M/rigs/:rig/agents/:agent/pending-nudges", undefined, 200, { then: (list) => assert.equal(list.length, 1) }],
    ["runtime", "POST", "A/nudge-delivered", { nudge_id: "$nudge" }, 200, { is: { marked: true }, wrong: [NOT_JSON] }],
    ["runtime", "GET", "A/pending-nudges", undefined, 200, { is: [] }],
    ["plugin", "GET", "A/molecule/current", undefined, 404, { json: { success: "bool", error: "string" }, then: (_, { error }) => assert.equal(error, "No active molecule for this agent") }],
    ["owner", "POST", "R/molecules", { bead_id: "$bead", formula: { steps: [{ title: "one", instructions: "do one" }, { title: "two", instructions: "do two" }] } }, 201, { like: Molecule, keep: { molecule: "id" }, wrong: [NOT_JSON, [{ body: { bead_id: "$bead", formula: { steps: [] } } }, 422], [{ body: { bead_id: "$bead" } }, 422]] }],
    ["plugin", "GET", "A/molecule/current", undefined, 200, { like: Step, then: (at) => assert.deepEqual([at.step, at.currentStep, at.totalSteps, at.molecule.status], [{ title: "one", instructions: "do one" }, 0, 2, "active"]) }],
    ["plugin", "POST", "A/molecule/advance", { summary: "did one" }, 200, { like: { ...Molecule, previousStep: "int" }, wrong: [NOT_JSON, [{ body: { summary: "" } }, 400], [{ body: { summary: "x".repeat(5_001) } }, 400]], then: (m) => assert.deepEqual([m.previousStep, m.currentStep, m.completed], [0, 1, false]) }],
    ["plugin", "POST", "A/molecule/advance", { summary: "did two" }, 200, { then: (m) => assert.deepEqual([m.status, m.completed, m.current_step], ["completed", true, 2]) }],
    ["runtime", "POST", "A/eviction-context", { branch: "gt/toast/x", agent_name: "Toast", saved_at: "2026-01-01T00:00:00.000Z" }, 200, { is: { written: true }, wrong: [NOT_JSON] }],
    ["plugin", "POST", "A/done", { branch: "gt/toast/one", summary: "it is done" }, 200, { is: { done: true }, wrong: [NOT_JSON, [{ body: { branch: "" } }, 400]] }],
    ["plugin", "POST", "A/done", { branch: "gt/toast/one", summary: "it is done" }, 200, { is: { done: true } }],
    ["plugin", "GET", "R/beads/:bead", undefined, 200, { then: (bead) => assert.deepEqual([bead.status, bead.body.includes("gt/toast/x")], ["in_review", true]) }],
    ["runtime", "GET", "A/pending-nudges", undefined, 200, { is: [] }],
    [() => fake.exit(c.agent)],
    ["runtime", "POST", "A/completed", { status: "completed", agentId: "$agent" }, 200, { is: { completed: true }, wrong: [NOT_JSON, [{ body: { status: "maybe" } }, 400]] }],
    ["runtime", "POST", "A/db-snapshot", Buffer.from([0, 1, 255]), 200, { json: { success: "bool" } }],
    ["runtime", "GET", "A/db-snapshot", undefined, 200, { json: "any", then: (_, { headers }) => assert.equal(headers.get("content-type"), "application/octet-stream") }],
    ["runtime", "DELETE", "A/db-snapshot", undefined, 200, { json: { success: "bool" } }],
    ["runtime", "POST", "T/container-registry", [], 200, {}],
  ]);

  walk("a refinery asks for changes, a polecat makes them, the refinery merges", [
    [becomes("refinery")],
    ["plugin", "GET", "A/prime", undefined, 200, {
      like: shape.Prime, keep: { mr: "hooked_bead.bead_id" },
      then: ({ agent, hooked_bead: mr }) => {
        assert.deepEqual([agent.role, agent.name, mr.type, mr.status, mr.title], ["refinery", "refinery", "merge_request", "in_progress", "Review: gt/toast/one"]);
        assert.deepEqual([mr.metadata.source_bead_id, mr.labels.includes("gt:merge-request"), mr.body], [c.bead, true, "it is done"]);
        looksLike(mr.metadata, { source_bead_id: "uuid", source_agent_id: "uuid" }, "metadata");
      },
    }],
    ["plugin", "POST", "A/request-changes", { feedback: "tests are missing", files: ["a.rs"] }, 201, { like: { rework_bead_id: "uuid" }, keep: { rework: "rework_bead_id" }, wrong: [NOT_JSON, [{ body: { feedback: "" } }, 400]] }],
    ["plugin", "GET", "R/beads/:rework", undefined, 200, {
      then: (bead) => {
        assert.deepEqual([bead.type, bead.title, bead.labels, bead.parent_bead_id], ["issue", "Rework: Do it", ["gt:rework"], c.mr]);
        const { rework_for, mr_bead_id, branch, target_branch, files } = bead.metadata;
        assert.deepEqual([rework_for, mr_bead_id, branch, target_branch, files], [c.bead, c.mr, "gt/toast/one", "trunk", ["a.rs"]]);
      },
    }],
    ["plugin", "POST", "A/done", { branch: "x" }, 200, { is: { done: true } }],
    [becomes("polecat")],
    ["plugin", "GET", "A/prime", undefined, 200, { then: (prime) => assert.deepEqual(prime.rework_context, { feedback: "tests are missing", branch: "gt/toast/one", target_branch: "trunk", files: ["a.rs"], original_bead_title: "Do it", mr_bead_id: c.mr }) }],
    ["plugin", "POST", "A/done", { branch: "gt/toast/one" }, 200, {}],
    ["plugin", "GET", "R/beads/:rework", undefined, 200, { then: (bead) => assert.equal(bead.status, "closed", "without a review of its own") }],
    [becomes("refinery")],
    ["plugin", "POST", "A/done", { branch: "gt/toast/one" }, 200, { is: { done: true } }],
    ["plugin", "GET", "R/beads/:mr", undefined, 200, { then: (bead) => assert.equal(bead.status, "closed") }],
    ["plugin", "GET", "R/beads/:bead", undefined, 200, { like: shape.Bead, then: (bead) => assert.equal(typeof bead.closed_at, "string") }],
    ["owner", "GET", "R/events?bead_id=:bead", undefined, 200, { like: [shape.BeadEvent], then: (list) => ["created", "hooked", "unhooked", "status_changed", "agent_status", "review_submitted"].forEach((type) => events(type)(list)) }],
    ["owner", "GET", "R/events?limit=nonsense&bead_id=:bead", undefined, 200, { then: (list) => { events("rework_requested")(list); events("review_completed")(list); newestFirst(list); } }],
  ]);

  walk("the deterministic merge calls back, also with a conflict", [
    ["owner", "POST", "R/sling", { title: "Second" }, 201, { keep: { bead: "bead.bead_id" } }],
    [becomes("polecat")],
    ["plugin", "POST", "R/review-queue", { agent_id: "$agent", bead_id: "$bead", branch: "gt/toast/two", summary: "s" }, 201, { is: { submitted: true }, wrong: [NOT_JSON, [{ body: { agent_id: "$nowhere", bead_id: "$bead", branch: "b" } }, 403, "agent_id does not match authenticated agent"], [{ body: { agent_id: "$agent", bead_id: "$bead" } }, 400]] }],
    [becomes("refinery")],
    ["plugin", "GET", "A/prime", undefined, 200, { keep: { mr: "hooked_bead.bead_id" } }],
    ["owner", "GET", "D/beads/:mr", undefined, 200, {
      json: { bead: shape.Bead, reviewMetadata: "object", dependencies: [{ bead_id: "uuid", depends_on_bead_id: "uuid", dependency_type: "string" }] },
      wrong: [[{ path: "D/beads/:nowhere" }, 404, "Bead not found"]],
      then: (_, { json }) => assert.deepEqual([json.reviewMetadata.branch, json.reviewMetadata.target_branch], ["gt/toast/two", "trunk"], "the rig's default branch, not main"),
    }],
    ["runtime", "POST", "R/review-queue/:mr/complete", { entry_id: "$mr", status: "conflict", message: "does not merge" }, 200, { is: { completed: true }, wrong: [NOT_JSON, [{ body: { status: "maybe", message: "" } }, 400], [{ path: "R/review-queue/:nowhere/complete" }, 404]] }],
    ["plugin", "GET", "R/beads/:mr", undefined, 200, { then: (bead) => assert.equal(bead.status, "failed") }],
    ["owner", "GET", "T/escalations?acknowledged=false", undefined, 200, { like: [shape.Escalation], then: (list) => newestFirst(list) }],
    ["plugin", "POST", "R/beads/:bead/close", { agent_id: "$agent" }, 200, { like: shape.Bead, wrong: [NOT_JSON, [{ body: { agent_id: "$nowhere" } }, 403, "agent_id does not match authenticated agent"], [{ path: "R/beads/:nowhere/close" }, 404]] }],
  ]);

  walk("the mayor, from a person's message on", [
    ["runtime", "GET", "T/mayor-id", undefined, 200, { json: { success: "bool", agentId: "uuid", model: "string", smallModel: "string" }, then: (_, { json }) => { c.mayor = json.agentId; } }],
    ["owner", "GET", "T/mayor/status", undefined, 200, { like: { configured: "bool", townId: "uuid", session: "object?" } }],
    ["owner", "POST", "T/mayor/dashboard-context", { context: "beads" }, 200, { is: { stored: true }, wrong: [NOT_JSON, [{ body: { context: CONTEXT } }, 400]] }],
    ["owner", "POST", "T/mayor/message", { message: "Good morning", model: "ignored", uiContext: "rigs" }, 200, { like: MayorSaid, wrong: [NOT_JSON, [{ body: { message: "" } }, 400], [{ body: { message: "x", uiContext: CONTEXT } }, 400]], then: (said) => assert.deepEqual(said, { agentId: c.mayor, sessionStatus: "starting" }) }],
    [becomes("mayor")],
    [() => assert.deepEqual([c.start.rigId, c.start.role, c.start.rigs.map((r) => r.rigId).sort()], [`mayor-${c.town}`, "mayor", [c.rig, c.rig2].sort()])],
    ["owner", "GET", "T/mayor/status", undefined, 200, { then: ({ session }) => { looksLike(session, { agentId: "uuid", sessionId: "uuid", status: "string", lastActivityAt: "time" }); assert.deepEqual([session.agentId, session.sessionId, session.status], [c.mayor, c.mayor, "active"]); } }],
    ["owner", "POST", "T/mayor/ensure", undefined, 200, { then: (said) => assert.deepEqual(said, { agentId: c.mayor, sessionStatus: "active" }) }],
    ["owner", "POST", "T/mayor/configure", { anything: 1 }, 200, { is: { configured: true } }],
    ["service", "POST", "/api/internal/towns/:town/mayor/message", { message: "From a service" }, 200, { like: MayorSaid, wrong: [NOT_JSON] }],
    // Its pseudo rig, which no registry knows.
    ["mayor", "GET", "O/prime", undefined, 200, { like: shape.Prime, then: ({ agent }) => assert.deepEqual([agent.role, agent.rig_id, agent.identity], ["mayor", null, `mayor-${c.town.slice(0, 8)}`]) }],
    ["runtime", "POST", "O/heartbeat", { agentId: "$mayor" }, 200, { like: { heartbeat: "bool" } }],
    ["runtime", "POST", "T/rigs/mayor-:town/agent-events", { agent_id: "$mayor", event_type: "session.idle", data: {} }, 201, {}],
    ["runtime", "POST", "O/db-snapshot", Buffer.from("sqlite"), 200, {}],
    ["runtime", "POST", "O/waiting", { agentId: "$mayor", firedAt: 4_102_444_800_000 }, 200, { is: { acknowledged: true } }],
    ["owner", "GET", "T/mayor/status", undefined, 200, { then: ({ session }) => assert.equal(session.status, "active", "waiting is active") }],
    // Its tools.
    ["mayor", "GET", "M/rigs", undefined, 200, { like: [{ id: "uuid", town_id: "uuid", name: "string", git_url: "string", default_branch: "string", created_at: "time", updated_at: "time" }], then: (rigs) => assert.deepEqual(rigs.map((r) => r.id), [c.rig2, c.rig], "newest first") }],
    ["mayor", "POST", "M/sling", { rig_id: "$rig", title: "From the mayor", labels: ["gt:held"] }, 201, { like: shape.SlingResult, keep: { bead: "bead.bead_id", agent: "agent.id" }, wrong: [NOT_JSON, [{ body: { rig_id: "$nowhere", title: "x" } }, 403, "Rig not found in this town"]] }],
    ["mayor", "GET", "M/rigs/:rig/beads?limit=1", undefined, 200, { like: [shape.Bead], wrong: [[{ path: "M/rigs/:rig/beads?limit=-1" }, 400, "limit and offset must be non-negative integers"], [{ path: "M/rigs/:rig/beads?status=done" }, 400, "Invalid status or type filter"], [{ path: "M/rigs/:nowhere/beads" }, 403, "Rig not found in this town"]], then: ([bead]) => assert.equal(bead.bead_id, c.bead, "newest first") }],
    ["mayor", "GET", "M/rigs/:rig/agents", undefined, 200, { like: [shape.Agent], wrong: [[{ path: "M/rigs/:nowhere/agents" }, 403, "Rig not found in this town"]] }],
    ["mayor", "PATCH", "M/rigs/:rig/beads/:bead", { title: "Better", body: null, priority: "critical", labels: ["gt:held", "mine"], metadata: { k: 1 } }, 200, {
      like: shape.Bead, wrong: [NOT_JSON, [{ body: {} }, 400], [{ body: { priority: "urgent" } }, 400], [{ body: { depends_on: ["x"] } }, 400], [{ path: "M/rigs/:rig/beads/:nowhere" }, 404, "Bead not found"], [{ path: "M/rigs/:rig2/beads/:bead" }, 403, "Bead does not belong to this rig"]],
      then: (b) => assert.deepEqual([b.title, b.body, b.priority, b.labels, b.metadata], ["Better", null, "critical", ["gt:held", "mine"], { k: 1 }]),
    }],
    ["owner", "POST", "R/agents", { role: "polecat", name: "Max", identity: "Max-at-home" }, 201, { like: shape.Agent, keep: { max: "id" }, wrong: [NOT_JSON, [{ body: { role: "boss", name: "M", identity: "M" } }, 400]] }],
    ["mayor", "POST", "M/rigs/:rig/beads/:bead/reassign", { agent_id: "$max" }, 200, { like: shape.Bead, wrong: [NOT_JSON, [{ body: { agent_id: "$nowhere" } }, 404, "Target agent not found"], [{ path: "M/rigs/:rig/beads/:nowhere/reassign" }, 404, "Bead not found"]], then: (b) => assert.equal(b.assignee_agent_bead_id, c.max) }],
    ["mayor", "POST", "M/rigs/:rig/agents/:max/reset", undefined, 200, { is: { reset: true }, wrong: [[{ path: "M/rigs/:rig/agents/:nowhere/reset" }, 404], [{ path: "M/rigs/:rig2/agents/:max/reset" }, 403]] }],
    ["mayor", "POST", "M/sling-batch", { rig_id: "$rig", convoy_title: "My Convoy!", tasks: [{ title: "A" }, { title: "B", depends_on: [0] }] }, 201, {
      like: Slung, keep: { convoy: "convoy.id", taskA: "beads.0.bead.bead_id", taskB: "beads.1.bead.bead_id" },
      wrong: [NOT_JSON, [{ body: { rig_id: "$rig", convoy_title: "x", tasks: [{ title: "A" }, { title: "B" }] } }, 400], [{ body: { rig_id: "$rig", convoy_title: "x", tasks: [] } }, 400], [{ body: { rig_id: "$rig", convoy_title: "x", tasks: [{ title: "A", depends_on: [1] }, { title: "B", depends_on: [0] }] } }, 422]],
      then: ({ convoy, beads }) => {
        assert.deepEqual([convoy.status, convoy.staged, convoy.total_beads, convoy.closed_beads, convoy.merge_mode], ["active", true, 2, 0, "review-then-land"], "as a new town is set");
        assert.equal(convoy.feature_branch, `convoy/my-convoy/${convoy.id.slice(0, 8)}/head`);
        assert.deepEqual(beads.map((b) => [b.agent, b.bead.metadata.convoy_id, b.bead.metadata.feature_branch]), [0, 1].map(() => [null, convoy.id, convoy.feature_branch]));
      },
    }],
    ["mayor", "GET", "M/convoys", undefined, 200, { like: [Convoy], then: (list) => assert.deepEqual(list.map((x) => x.id), [c.convoy]) }],
    ["mayor", "GET", "M/convoys/:convoy", undefined, 200, { like: ConvoyDetail, wrong: [[{ path: "M/convoys/:nowhere" }, 404, "Convoy not found"]], then: (detail) => assert.deepEqual([detail.beads.map((b) => b.title), detail.dependency_edges], [["A", "B"], [{ bead_id: c.taskB, depends_on_bead_id: c.taskA }]]) }],
    ["mayor", "PATCH", "M/convoys/:convoy", { merge_mode: "review-and-merge" }, 200, { like: Convoy, wrong: [NOT_JSON, [{ body: {} }, 400], [{ path: "M/convoys/:nowhere" }, 404, "Convoy not found"]] }],
    ["mayor", "POST", "M/convoys/:convoy/add-bead", { bead_id: "$bead", depends_on: ["$taskA"] }, 200, { is: { total_beads: 3 }, wrong: [NOT_JSON, [{ body: { bead_id: "x" } }, 400], [{ path: "M/convoys/:nowhere/add-bead" }, 404]] }],
    ["mayor", "POST", "M/convoys/:convoy/remove-bead", { bead_id: "$bead" }, 200, { is: { total_beads: 2 }, wrong: [NOT_JSON] }],
    ["mayor", "POST", "M/convoys/:convoy/start", {}, 200, { like: Slung, wrong: [[{ path: "M/convoys/:nowhere/start" }, 404, "Convoy not found or not staged"]], then: ({ convoy }) => assert.equal(convoy.staged, false) }],
    ["mayor", "POST", "M/convoys/:convoy/start", {}, 404, { json: { success: "bool" }, then: (_, { error }) => assert.equal(error, "Convoy not found or not staged") }],
    ["mayor", "POST", "M/convoys/:convoy/close", undefined, 200, { like: Convoy, wrong: [[{ path: "M/convoys/:nowhere/close" }, 404, "Convoy not found"]], then: (convoy) => assert.deepEqual([convoy.status, typeof convoy.landed_at], ["landed", "string"]) }],
    ["mayor", "GET", "M/convoys", undefined, 200, { is: [] }],
    ["mayor", "POST", "M/mail", { rig_id: "$rig", from_agent_id: "$mayor", to_agent_id: "$max", subject: "s", body: "b" }, 200, { is: { sent: true }, wrong: [NOT_JSON, [{ body: { rig_id: "$rig", from_agent_id: "$max", to_agent_id: "$max", subject: "s", body: "b" } }, 403, "from_agent_id does not match authenticated agent"]] }],
    ["mayor", "POST", "R/nudge", { target_agent_id: "$max", message: "hurry", mode: "queue" }, 200, { like: { nudge_id: "uuid" } }],
    ["mayor", "POST", "M/escalations/:escalation/acknowledge", undefined, 200, { like: shape.Escalation, wrong: [[{ path: "M/escalations/:nowhere/acknowledge" }, 404, "Escalation not found"]], then: (e) => assert.deepEqual([e.acknowledged, e.status, typeof e.acknowledged_at], [1, "closed", "string"]) }],
    ["mayor", "POST", "M/ui-action", { action: { type: "open_agent_drawer", agentId: "$max", rigId: "$rig", townId: "elsewhere" } }, 200, { is: { broadcast: true }, wrong: [NOT_JSON, [{ body: { action: { type: "open_bead_drawer", beadId: "b", rigId: "$nowhere" } } }, 400, new RegExp(`^Rig ${NOWHERE} does not belong to this town$`)]] }],
    ["mayor", "DELETE", "M/rigs/:rig/beads/:taskB", undefined, 200, { is: { deleted: true }, wrong: [[{ path: "M/rigs/:rig/beads/:nowhere" }, 404, "Bead not found"], [{ path: "M/rigs/:rig2/beads/:taskB" }, 403]] }],
    ["mayor", "POST", "M/rigs/:rig/beads/bulk-delete", { bead_ids: ["$taskA", "$nowhere"] }, 200, { is: { deleted: 1 }, wrong: [[{ body: { bead_ids: [] } }, 400, /^Invalid request body: /], [{ body: { bead_ids: ["x"] } }, 400, /^Invalid request body: /]] }],
    ["mayor", "POST", "M/rigs/:rig/beads/delete-by-status", { status: "open", type: "issue" }, 200, { like: { deleted: "int" }, wrong: [NOT_JSON, [{ body: { status: "done" } }, 400]] }],
    ["owner", "POST", "T/mayor/ui-action", { action: { type: "navigate", page: "beads" } }, 200, { is: { broadcast: true }, wrong: [NOT_JSON, [{ body: { action: { type: "explode" } } }, 400]] }],
    ["owner", "POST", "T/mayor/completed", { status: "completed", agentId: "$mayor" }, 200, { is: { acknowledged: true }, wrong: [NOT_JSON, [{ body: { status: "weary" } }, 400]] }],
    ["owner", "POST", "T/mayor/destroy", undefined, 200, { is: { destroyed: true } }],
  ]);

  walk("scripts and dashboards", [
    ["owner", "POST", "R/beads", { type: "issue", title: "Held", body: "b", priority: "low", labels: ["gt:held"], metadata: { m: [1] }, assignee_agent_id: "$max" }, 201, { like: shape.Bead, keep: { bead: "bead_id" }, wrong: [NOT_JSON, [{ body: { type: "epic", title: "x" } }, 400], [{ body: { type: "issue" } }, 400]], then: (b) => assert.deepEqual([b.id, b.priority, b.labels, b.metadata, b.assignee_agent_bead_id], [b.bead_id, "low", ["gt:held"], { m: [1] }, c.max]) }],
    ["owner", "POST", "R/beads", { type: "issue", title: "Newer", labels: ["gt:held"] }, 201, { keep: { newer: "bead_id" } }],
    ["owner", "GET", "R/beads?status=open&type=issue&offset=0&limit=2", undefined, 200, { like: [shape.Bead], wrong: [[{ path: "R/beads?offset=x" }, 400, "limit and offset must be non-negative integers"], [{ path: "R/beads?type=epic" }, 400, "Invalid status or type filter"]], then: (list) => assert.deepEqual(list.map((b) => b.bead_id), [c.newer, c.bead], "newest first") }],
    ["owner", "GET", "R/beads?limit=0", undefined, 200, { is: [] }],
    ["owner", "GET", "R/beads?offset=1&limit=1&status=open", undefined, 200, { then: (list) => assert.deepEqual(list.map((b) => b.bead_id), [c.bead]) }],
    ["owner", "GET", "R/beads?assignee_agent_id=:max", undefined, 200, { then: (list) => assert.deepEqual(list.map((b) => b.bead_id), [c.bead]) }],
    ["owner", "GET", "R/agents?role=polecat", undefined, 200, { like: [shape.Agent], wrong: [[{ path: "R/agents?status=asleep" }, 400, "Invalid role or status filter"]], then: (list) => assert.deepEqual(list.map((a) => a.created_at), list.map((a) => a.created_at).sort(), "oldest first") }],
    ["owner", "POST", "R/agents", { role: "polecat", name: "Again", identity: "Max-at-home-2" }, 201, { keep: { other: "id" }, wrong: [[{ body: { role: "polecat", name: "Again", identity: "Max-at-home" } }, 409]] }],
    ["owner", "POST", "R/agents/get-or-create", { role: "refinery" }, 200, { like: shape.Agent, wrong: [NOT_JSON, [{ body: {} }, 400]] }],
    ["owner", "GET", "R/agents/:max", undefined, 200, { like: shape.Agent, wrong: [[{ path: "R/agents/:nowhere" }, 404, "Agent not found"], [{ path: "R/agents/:mayor" }, 404, "Agent not found"], [{ path: "T/rigs/:rig2/agents/:max" }, 404, "Agent not found"]] }],
    [() => { c.agent = c.other; }],
    ["plugin", "POST", "A/hook", { bead_id: "$newer" }, 200, { is: { hooked: true }, wrong: [NOT_JSON, [{ body: { bead_id: "$nowhere" } }, 404], [{ path: "R/agents/:max/hook" }, 403, "Token agentId does not match route"]] }],
    ["plugin", "POST", "A/hook", { bead_id: "$newer" }, 200, { is: { hooked: true }, wrong: [[{ body: { bead_id: "$bead" } }, 409]] }],
    ["owner", "GET", "R/beads/:newer", undefined, 200, { then: (b) => assert.equal(b.status, "open") }],
    ["plugin", "DELETE", "A/hook", undefined, 200, { is: { unhooked: true } }],
    ["owner", "PATCH", "R/beads/:newer/status", { status: "closed", agent_id: "me" }, 200, { like: shape.Bead, wrong: [NOT_JSON, [{ body: { status: "done", agent_id: "me" } }, 400], [{ path: "R/beads/:nowhere/status" }, 404], [{ as: "plugin", body: { status: "closed", agent_id: "$max" } }, 403, "agent_id does not match authenticated agent"]], then: (b) => assert.deepEqual([b.status, typeof b.closed_at], ["closed", "string"]) }],
    ["owner", "DELETE", "R/beads/:newer", undefined, 200, { is: { deleted: true }, wrong: [NO_BEAD] }],
    ["owner", "DELETE", "R/agents/:other", undefined, 200, { is: { deleted: true }, wrong: [[{ path: "R/agents/:nowhere" }, 404, "Agent not found"]] }],
    ["owner", "POST", "T/convoys", { title: "By hand", beads: [{ bead_id: "$bead", rig_id: "$rig" }], created_by: "me" }, 201, { like: Convoy, keep: { convoy: "id" }, wrong: [NOT_JSON, [{ body: { title: "x", beads: [] } }, 400]], then: (x) => assert.equal(x.feature_branch, null) }],
    ["owner", "POST", "T/convoys/bead-closed", { convoy_id: "$convoy", bead_id: "$bead" }, 200, { like: Convoy, wrong: [NOT_JSON, [{ body: { convoy_id: "$nowhere", bead_id: "$bead" } }, 404, "Convoy not found"]] }],
    ["plugin", "POST", "R/escalations", { title: "Once more" }, 201, { keep: { escalation: "id" }, then: (e) => assert.deepEqual([e.severity, e.priority], ["medium", "medium"]) }],
    ["owner", "GET", "T/escalations", undefined, 200, { like: [shape.Escalation], then: newestFirst }],
    ["owner", "POST", "T/escalations/:escalation/acknowledge", undefined, 200, { like: shape.Escalation, wrong: [[{ path: "T/escalations/:nowhere/acknowledge" }, 404, "Escalation not found"]] }],
    ["owner", "GET", "T/escalations?acknowledged=true", undefined, 200, { then: (list) => assert.ok(list.some((e) => e.id === c.escalation) && list.every((e) => e.acknowledged === 1)) }],
    ["owner", "GET", "U/towns/:town/events?limit=3", undefined, 200, { like: [shape.BeadEvent], then: (list) => { assert.equal(list.length, 3); newestFirst(list); c.since = list.at(-1).created_at; } }],
    ["owner", "GET", "U/towns/:town/events?limit=500", undefined, 200, {
      then: (list) => {
        for (const [type, metadata] of Object.entries(EVENTS)) {
          const all = list.filter((e) => e.event_type === type);
          assert.ok(all.length > 0, `no ${type} was written`);
          for (const event of all) looksLike(event.metadata, metadata, type);
        }
        const of = (type) => list.findLast((e) => e.event_type === type);
        assert.deepEqual([of("created").old_value, of("created").new_value], [null, "open"]);
        assert.deepEqual([of("hooked").new_value, of("unhooked").old_value].map((v) => v?.length), [36, 36], "the agent");
        const failed = list.find((e) => e.event_type === "status_changed" && e.new_value === "failed");
        looksLike(failed.metadata, { failure_reason: { code: "string", message: "string", source: "string" } }, "failed");
      },
    }],
    ["owner", "GET", "R/events?since=:since", undefined, 200, { then: (list) => assert.ok(list.every((e) => e.created_at > c.since), "strictly later") }],
    ["owner", "GET", "T/dispatch", undefined, 200, { like: shape.Dispatch }],
    ["owner", "GET", "D/status", undefined, 200, { json: { alarmStatus: Snapshot, agentMeta: [{ bead_id: "uuid", role: "string", status: "string", current_hook_bead_id: "string?", dispatch_attempts: "int", last_activity_at: "time?" }], beadSummary: [{ bead_id: "uuid", labels: "string", metadata: "string" }] } }],
    ["owner", "GET", "D/drain-status", undefined, 200, { json: { draining: "bool", drainNonce: "string?" } }],
    ["owner", "GET", "D/nudges", undefined, 200, { json: { nudges: [{ nudge_id: "uuid", message: "string", mode: "string", priority: "string", source: "string", created_at: "string", expires_at: "string", delivered_at: "string?" }] }, then: (_, { json }) => assert.ok(json.nudges.length >= 2 && json.nudges.every((n) => /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$/.test(n.created_at)), "UTC, without a zone") }],
    ["owner", "GET", "D/config", undefined, 200, { json: Config, then: (_, { json }) => assert.equal(json.git_auth.github_token, "****6789", "masked, here too") }],
    ["owner", "GET", "D/rigs", undefined, 200, { json: { rigs: [{ id: "uuid", name: "string", git_url: "string", default_branch: "string", config: "object", created_at: "time" }] } }],
    ["owner", "GET", "D/convoys", undefined, 200, { json: { convoys: [Convoy] } }],
  ]);

  walk("a triage request is resolved by CLOSE, too", [
    ["owner", "POST", "R/beads", { type: "issue", title: "Stuck", labels: ["gt:triage-request"], metadata: { triage_type: "stuck_agent", agent_bead_id: "$max", hooked_bead_id: "$bead", context: "It hangs.", options: ["RESTART", "CLOSE", "ESCALATE"] } }, 201, { keep: { request: "bead_id" } }],
    [() => { c.agent = c.max; }],
    ["mayor", "POST", "R/triage/resolve", { triage_request_bead_id: "$request", action: "close", resolution_notes: "" }, 200, {
      like: shape.Bead,
      wrong: [NOT_JSON, [{ as: "runtime" }, 403, "Agent authentication required"], [{ as: "plugin" }, 403, "Only triage agents can resolve triage requests"], [{ body: { triage_request_bead_id: "$request", action: "EXPLODE", resolution_notes: "" } }, 422], [{ body: { triage_request_bead_id: "$nowhere", action: "CLOSE", resolution_notes: "" } }, 404]],
      then: (b) => assert.deepEqual([b.status, b.metadata.resolution_action, b.metadata.resolution_notes, b.metadata.resolved_by], ["closed", "CLOSE_BEAD", "", c.mayor]),
    }],
    ["mayor", "POST", "R/triage/resolve", { triage_request_bead_id: "$request", action: "CLOSE", resolution_notes: "" }, 409, { json: { success: "bool" } }],
  ]);

  test("repair beads of a pull request bring their context to prime", async () => {
    const { data: ann } = await ask("owner", "POST", "R/agents", { role: "polecat", name: "Ann", identity: "Ann-at-home" });
    for (const [label, metadata, key, context] of [
      ["gt:pr-fixup", { pr_url: "https://github.com/a/b/pull/1", branch: "b", target_branch: "main" }, "pr_fixup_context", { pr_url: "https://github.com/a/b/pull/1", branch: "b", target_branch: "main" }],
      ["gt:pr-conflict", { pr_url: "https://github.com/a/b/pull/1", branch: "b", target_branch: "main", has_feedback: true }, "pr_conflict_context", { pr_url: "https://github.com/a/b/pull/1", branch: "b", target_branch: "main", has_feedback: true }],
      ["gt:pr-feedback", { pr_url: "https://github.com/a/b/pull/1", branch: "b", has_conflicts: true, conflict_target_branch: "main" }, "pr_conflict_context", { pr_url: "https://github.com/a/b/pull/1", branch: "b", target_branch: "main", has_feedback: true }],
    ]) {
      const { data: bead } = await ask("owner", "POST", "R/beads", { type: "issue", title: label, labels: [label, "gt:held"], metadata });
      await ask("owner", "POST", `R/agents/${ann.id}/hook`, { bead_id: bead.id });
      const { data: prime } = await ask("owner", "GET", `R/agents/${ann.id}/prime`);
      assert.deepEqual(prime[key], context, label);
      await ask("owner", "DELETE", `R/agents/${ann.id}/hook`);
    }
  });

  test("a pull request with a conflict and with comments gets beads as the paper describes them", async () => {
    for (const [trouble, label, meta] of [
      [{ conflict: true }, "gt:pr-conflict", { pr_url: "string", branch: "string", target_branch: "string", mr_bead_id: "uuid", source_bead_id: "uuid" }],
      [{ unresolved: true }, "gt:pr-feedback", { pr_feedback_for: "uuid", pr_url: "string", branch: "string" }],
      [{ checks: "failed" }, "gt:pr-fixup", { pr_url: "string", branch: "string", target_branch: "string" }],
    ]) {
      forge.requests = [];
      const own = await h.createTown({ config: { merge_strategy: "pr", git_auth: { github_token: forge.token }, refinery: { auto_merge: false, auto_resolve_pr_feedback: true } } });
      const rig = await own.createRig({ git_url: "https://github.com/acme/app.git" });
      const { agent } = await own.rig(rig.id).sling({ title: "Do it" });
      await own.runAlarms();
      const url = () => `https://github.com/acme/app/pull/${forge.requests[0].number}`;
      // The predecessor's polecat opens the pull request itself.
      Object.assign(forge.open("acme/app", "gt/toast/x"), trouble);
      await own.rig(rig.id, { agent: agent.id }).ok("POST", `/agents/${agent.id}/done`, { branch: "gt/toast/x", pr_url: url() });
      await own.runAlarms();
      const refinery = fake.requests.findLast((r) => r.body?.role === "refinery" && r.body.townId === own.id).body.agentId;
      await own.rig(rig.id, { agent: refinery }).ok("POST", `/agents/${refinery}/done`, { branch: "gt/toast/x", pr_url: url() });
      const [mr] = await own.rig(rig.id).ok("GET", "/beads?type=merge_request");
      assert.deepEqual([mr.status, mr.metadata.pr_url], ["in_progress", url()], "it is polled");
      let repair;
      for (let minute = 0; minute < 3 && !repair; minute += 1) {
        await h.advance(MINUTE + 1000, { run: false });
        await own.runAlarms();
        repair = (await own.rig(rig.id).ok("GET", "/beads?type=issue")).find((b) => b.labels.includes(label));
      }
      assert.ok(repair, label);
      looksLike(repair.metadata, meta, `${label} metadata`);
      assert.equal(repair.parent_bead_id, mr.bead_id);
    }
  });

  walk("the control server in the container, passed through", [
    ["owner", "POST", "R/sling", { title: "Third" }, 201, { keep: { bead: "bead.bead_id" } }],
    [becomes("polecat")],
    ["owner", "GET", "T/container/health", undefined, 200, { json: { status: "string", agents: "int", uptime: "int", startedAt: "string" } }],
    [async () => {
      // A question with a body, which fetch cannot ask.
      const client = new RawClient(h.url);
      const answer = await client.send({ method: "GET", target: filled("T/container/health"), lines: [`Authorization: Bearer ${CALLERS.owner().token}`].map(Buffer.from), body: Buffer.from("{}") });
      client.close();
      assert.equal(answer.status, 200, answer.text);
    }],
    ["owner", "GET", "T/container/agents/:agent/status", undefined, 200, { json: { agentId: "uuid", status: "string", serverPort: "int", sessionId: "string", activeTools: ["string"], messageCount: "int", exitReason: "string?" } }],
    ["owner", "POST", "T/container/agents/:agent/message", { prompt: "hello" }, 200, { json: { sent: "bool" } }],
    ["owner", "POST", "T/container/agents/:agent/stream-ticket", undefined, 200, { like: { url: "string", ticket: "string" }, then: ({ url }) => assert.equal(url, filled("T/container/agents/:agent/stream")) }],
    ["owner", "POST", "T/container/agents/:agent/pty", {}, 200, { json: { id: "string", status: "string" } }],
    ["owner", "GET", "T/container/agents/:agent/pty", undefined, 200, { json: "any" }],
    ["owner", "GET", "T/container/agents/:agent/pty/pty_1", undefined, 200, { json: "any" }],
    ["owner", "PUT", "T/container/agents/:agent/pty/pty_1", { size: { cols: 80, rows: 24 } }, 200, { json: "any" }],
    ["owner", "DELETE", "T/container/agents/:agent/pty/pty_1", undefined, 200, { json: "any" }],
    ["owner", "POST", "T/container/agents/start", { agentId: "$agent" }, 409, { json: { success: "bool" }, wrong: [[{ body: "" }, 400, "Invalid JSON body"]] }],
    ["owner", "POST", "T/container/agents/:agent/stop", {}, 200, { json: { stopped: "bool" } }],
  ]);

  test("the status socket speaks in the frames of the paper", async () => {
    const { data: ticket } = await ask("owner", "POST", "T/status/ticket");
    const watcher = await Watcher.open(h, `${ticket.url}?ticket=${ticket.ticket}`);
    const [first] = await watcher.first(1);
    looksLike(first, Snapshot, "snapshot");
    assert.ok(!("channel" in first) && !("type" in first), "it has no discriminator");
    const { data: bead } = await ask("owner", "POST", "R/beads", { type: "issue", title: "Seen", labels: ["gt:held"] });
    const { data: convoy } = await ask("owner", "POST", "T/convoys", { title: "Seen", beads: [{ bead_id: bead.id, rig_id: c.rig }] });
    await ask("plugin", "POST", "A/status", { message: "reading" });
    await ask("owner", "POST", "T/mayor/ui-action", { action: { type: "open_convoy_drawer", convoyId: convoy.id, townId: NOWHERE } });
    await ask("owner", "PATCH", `R/beads/${bead.id}/status`, { status: "closed", agent_id: "me" });
    const Frame = { channel: "string", ts: "time" };
    const created = await watcher.frame("a bead was made", (f) => f.type === "bead.created");
    looksLike(created, { ...Frame, beadId: "uuid", title: "string", rigId: "string" }, "frame");
    const status = await watcher.frame("an agent said something", (f) => f.type === "agent_status");
    looksLike(status, { agentId: "uuid", message: "string", timestamp: "time" }, "frame");
    const action = await watcher.frame("an action", (f) => f.channel === "ui_action");
    assert.deepEqual(action.action, { type: "open_convoy_drawer", convoyId: convoy.id, townId: c.town }, "the town is the route's");
    const closed = await watcher.frame("the bead was closed", (f) => f.type === "bead.closed");
    looksLike(closed, { ...Frame, beadId: "uuid", status: "string", convoyId: "uuid" }, "frame");
    looksLike(await watcher.frame("the convoy went on", (f) => f.channel === "convoy"), { ...Frame, convoyId: "uuid", totalBeads: "int", closedBeads: "int" }, "frame");
    await watcher.close();
    walked.add("StatusTicket").add("StatusSocket");
  });

  walk("a container goes, and the next one comes", [
    ["owner", "POST", "R/sling", { title: "Fourth" }, 201, {}],
    [becomes("polecat")],
    ["runtime", "POST", "T/container-registry", [{ agentId: "$agent", request: "$start", workdir: "/w", env: { A: "1" } }], 200, {}],
    ["runtime", "POST", "T/container-eviction", undefined, 200, { like: { acknowledged: "bool", drainNonce: "string" }, keep: { nonce: "drainNonce" } }],
    ["runtime", "GET", "T/drain-status", undefined, 200, { like: { draining: "bool", drainNonce: "string" }, then: (d) => assert.deepEqual([d.draining, d.drainNonce], [true, c.nonce]) }],
    ["runtime", "POST", "A/heartbeat", { agentId: "$agent", containerInstanceId: "$nowhere" }, 200, { like: { heartbeat: "bool" } }],
    ["runtime", "POST", "T/container-ready", { nonce: "another" }, 200, { like: { cleared: "bool" }, wrong: [[{ body: {} }, 400, "Missing required field: nonce"], [{ body: "{no json" }, 400]] }],
    ["runtime", "POST", "T/container-ready", { nonce: "$nonce" }, 200, { is: { cleared: true } }],
    ["runtime", "GET", "T/drain-status", undefined, 200, { then: (d) => assert.deepEqual([d.draining, d.drainNonce], [false, null]) }],
    ["runtime", "POST", "T/refresh-container-token", {}, 200, { like: { token: "string", expiredInbound: "bool" }, then: (d) => assert.equal(d.expiredInbound, false) }],
    ["runtime", "GET", "T/container-registry", undefined, 200, { like: [{ agentId: "uuid", request: "object", workdir: "string", env: "object" }], then: (list) => assert.deepEqual(list.map((e) => e.agentId), [c.agent]) }],
    ["runtime", "POST", "T/heartbeats", { containerInstanceId: "$nowhere", agents: [] }, 200, { like: { heartbeat: "bool" }, wrong: [NOT_JSON] }],
  ]);

  test("tokens are refused in the words of the paper", async () => {
    const path = filled("R/beads");
    const now = Math.floor(h.now / 1000);
    const claims = { townId: c.town, userId: c.user, scope: "container", iat: now, exp: now + 60 };
    const given = async (token, at = path) => {
      const { status, error } = await h.api("GET", at, undefined, { token });
      return [status, error];
    };
    assert.deepEqual(await given("nonsense"), [401, "Token validation failed"]);
    assert.deepEqual(await given(jwt(claims, "another secret")), [401, "Invalid token signature"]);
    assert.deepEqual(await given(jwt({ ...claims, exp: now - 1 }, SECRET)), [401, "Token expired"]);
    assert.deepEqual(await given(jwt({ ...claims, iat: now - 8 * 3600 - 60, exp: undefined }, SECRET)), [401, "Token expired"], "too old");
    assert.deepEqual(await given(jwt({ ...claims, townId: undefined }, SECRET)), [401, "Invalid token payload"]);
    assert.equal((await h.api("GET", path, undefined, { token: null, headers: { Authorization: `bEaReR ${jwt(claims, SECRET)}` } })).status, 200);
    // Refreshed for a day after their end, and no longer.
    const refresh = async (change) => {
      const { status, error, data } = await h.api("POST", filled("T/refresh-container-token"), {}, { token: jwt({ ...claims, ...change }, SECRET) });
      return [status, error ?? data.expiredInbound];
    };
    assert.deepEqual(await refresh({ exp: now - 3600 }), [200, true]);
    assert.deepEqual(await refresh({ exp: now - 25 * 3600 }), [401, "Token expired beyond refresh grace period"]);
    assert.deepEqual(await refresh({ exp: undefined }), [401, "Token missing exp claim"]);
    // The predecessor's agent tokens.
    const legacy = { agentId: c.max, rigId: c.rig, townId: c.town, userId: c.user, iat: now, exp: now + 60 };
    assert.equal((await given(jwt(legacy, SECRET)))[0], 200);
    assert.deepEqual(await given(jwt(legacy, SECRET), filled("T/rigs/:rig2/beads")), [403, "Token rigId does not match route"]);
    assert.deepEqual(await given(jwt(legacy, SECRET), filled("R/agents/:agent/prime")), [403, "Token agentId does not match route"]);
    const unknown = await h.api("GET", "/api/towns/x/nowhere", undefined, { token: null });
    refusedAs(unknown, 404, "Not found");
  });

  walk("a person takes the rig and the town down again", [
    ["owner", "DELETE", "U/rigs/:rig2", undefined, 200, { is: { deleted: true }, wrong: [[{ path: "U/rigs/:nowhere" }, 404, "Rig not found"]] }],
    ["owner", "DELETE", "U/towns/:first", undefined, 200, { is: { deleted: true }, wrong: [[{ path: "U/towns/:nowhere" }, 404, "Town not found"]] }],
  ]);

  test("docs/api.md lists every route, with who may come in, and none that is not there", () => {
    const who = {
      anybody: "Public", user: "User", owner: "Town", "owner, container": "TownOrContainer", rig: "Rig", agent: "Agent", mayor: "Mayor",
      container: "Container", refresh: "Refresh", socket: "Socket", service: "Internal",
    };
    const listed = [];
    let base = "";
    for (const line of readFileSync(new URL("../../docs/api.md", import.meta.url), "utf8").split("\n")) {
      if (line.startsWith("## ")) base = line.match(/`(.+)`/)?.[1] ?? "";
      const [, method, path, kind] = line.match(/^\| `([A-Z]+) (\/\S*)` \| ([a-z, ]+) \|/) ?? [];
      if (method) listed.push(`${who[kind]} ${method} ${base}${path}`);
    }
    assert.deepEqual(listed.sort(), TABLE.map((r) => `${r.kind} ${r.method} ${r.pattern}`).sort());
  });

  test("no route of the paper was left out", () => {
    // What api.md adds has its tests in routes.test.mjs; two sockets to agents have theirs in transcripts and container.
    const OURS = [
      "Explain", "BeadAttempts", "ListAttempts", "RedriveBead", "Redrive", "CancelBead", "ListBreakers", "GetBreaker", "OverrideBreaker",
      "ProbeBreaker", "ListNotifications", "TestNotification", "ListMail", "ListAudit", "StreamSocket", "ConnectPty",
    ];
    const missing = TABLE.map((r) => r.name).filter((name) => !walked.has(name) && !OURS.includes(name));
    assert.deepEqual(missing, []);
  });
});
