// The built worker in workerd, with a real HTTP address, real storage on disk and a clock that tests own.
//
//   const h = await Harness.start({ container: fake });          // alarms are driven by hand: the clock is a year ahead
//   const town = await h.createTown({ config: { dispatch: { start_timeout_ms: 300 } } });
//   const rig = await town.createRig();
//   await town.rig(rig.id).sling({ title: "do it" });            // public routes only
//   await town.runAlarms();                                      // until nothing is due
//   await h.advance(120_000);                                    // and what became due in every known town
//   await h.kill9(); await h.restart();                          // a crash, the same storage
//
// `clock: "real"` leaves the clock and the alarms alone. `clock: "stands"` moves by `advance` only; with a `seed` for the
// ids as well, a run that asks one thing at a time is the same every time, to the row. With `vars: { TEST_WATCH: "1" }` the
// clock can be moved and alarms ring by themselves all the same, and an object can be made to die at any await (watch.mjs).
// `platform: true` puts the fake container behind `TownContainerDO` and a platform of the tests (fake-platform.mjs) instead
// of giving the worker its url. What the worker prints is kept; a panic in it, or a secret in a row where none belongs, fails the test file (output.mjs).

import { Log, LogLevel, Miniflare } from "miniflare";
import { execFileSync } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accuse, keep, planted, secretsInRows } from "./output.mjs";
import { until } from "./poll.mjs";
import { ROOT } from "./programs.mjs";

export const SECRET = planted("jwt-secret");
/** What another service shows at the internal routes. */
export const INTERNAL_SECRET = planted("internal-secret");
const YEAR = 365 * 86_400_000;
/** Where a clock stands that stands still: far enough ahead that no alarm fires by itself. */
const NEW_YEAR = Date.UTC(2100, 0, 1);
const HOUR = 3600;

export class Harness {
  #mf = null;
  #workerd = null;
  #towns = new Map();

  /** What workerd printed. */
  logs = [];

  constructor({ container = null, containerUrl = container?.url, clock = "driven", seed = null, notice = false, platform = false, vars = {}, persist = null, build = join(ROOT, "build") }) {
    this.container = container;
    // With a platform, the container is behind its object, and no url of it is known.
    this.platform = platform;
    this.containerUrl = platform ? null : containerUrl;
    this.offset = clock === "driven" ? YEAR : 0;
    this.stands = clock === "stands" ? NEW_YEAR : null;
    const clockwork = { TEST_CLOCK_STANDS: this.stands?.toString() ?? null, TEST_SEED: seed?.toString() ?? null };
    this.vars = { ...clockwork, ...(notice ? { TEST_NOTICE: "1" } : {}), ...vars };
    this.persist = persist;
    this.build = build;
  }

  static async start(options = {}) {
    const harness = new Harness(options);
    if (!existsSync(join(harness.build, "index.js"))) throw new Error("build/index.js is missing: make build");
    harness.owned = harness.persist === null;
    harness.persist ??= await mkdtemp(join(tmpdir(), "gastown-state-"));
    harness.port = await freePort();
    await harness.#up();
    return harness;
  }

  async #up() {
    const module = async (type, name, path) => ({ type, path: join(ROOT, name), contents: await readFile(path) });
    const wasm = join(this.build, "index_bg.wasm");
    const before = workerds();
    this.#mf = new Miniflare({
      host: "127.0.0.1",
      port: this.port,
      log: new Log(LogLevel.ERROR),
      handleRuntimeStdio: (...streams) => {
        for (const stream of streams) {
          stream.on("data", (chunk) => {
            this.logs.push(String(chunk));
            this.onLog?.(String(chunk));
            keep("workerd", String(chunk));
          });
        }
      },
      modulesRoot: ROOT,
      modules: [
        await module("ESModule", "tests/support/observed-entry.mjs", join(ROOT, "tests/support/observed-entry.mjs")),
        await module("ESModule", "tests/support/entry.mjs", join(ROOT, "tests/support/entry.mjs")),
        await module("ESModule", "tests/support/fake-platform.mjs", join(ROOT, "tests/support/fake-platform.mjs")),
        await module("ESModule", "tests/support/watch.mjs", join(ROOT, "tests/support/watch.mjs")),
        await module("ESModule", "tests/support/meter.mjs", join(ROOT, "tests/support/meter.mjs")),
        await module("ESModule", "build/index.js", join(this.build, "index.js")),
        ...(existsSync(wasm) ? [await module("CompiledWasm", "build/index_bg.wasm", wasm)] : []),
      ],
      compatibilityDate: await compatibilityDate(),
      durableObjects: {
        TOWN: { className: "TownDO", useSQLite: true },
        AGENT: { className: "AgentDO", useSQLite: true },
        FLEET: { className: "FleetDO", useSQLite: true },
        ...(this.platform ? { TOWN_CONTAINER: { className: "TownContainerDO", useSQLite: true } } : {}),
      },
      durableObjectsPersist: this.persist,
      analyticsEngineDatasets: { GASTOWN_AE: { dataset: "gastown" } },
      bindings: this.#bindings(),
    });
    await this.#mf.ready;
    this.#workerd = workerds().find((pid) => !before.includes(pid));
  }

  // A variable that a test sets to null is not there at all.
  #bindings() {
    const all = {
      ENVIRONMENT: "test",
      GASTOWN_JWT_SECRET: SECRET,
      INTERNAL_SECRET,
      GASTOWN_API_URL: this.url,
      CONTAINER_URL: this.containerUrl ?? null,
      TEST_PLATFORM: this.platform ? this.container?.url : null,
      TEST_CLOCK_OFFSET: String(this.offset),
      ...this.vars,
    };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
  }

  /** The process id of workerd. */
  get pid() {
    return this.#workerd;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Now, in the worker's clock. */
  get now() {
    return (this.stands ?? Date.now()) + this.offset;
  }

  async stop() {
    await this.#mf?.dispose();
    this.#mf = null;
    accuse(await secretsInRows(this.persist));
    if (this.owned) await rm(this.persist, { recursive: true, force: true });
  }

  /** SIGKILL for workerd, at once; kill9() cleans up after it. */
  strike() {
    try {
      process.kill(this.#workerd, "SIGKILL");
    } catch (error) {
      if (error.code !== "ESRCH") throw error; // it is gone
    }
  }

  /** SIGKILL for workerd: what was not yet on disk is lost, open requests break. */
  async kill9() {
    this.strike();
    await until("workerd is gone", () => !workerds().includes(this.#workerd));
    await this.#mf.dispose().catch(() => {});
    this.#mf = null;
  }

  /** Up again on the same storage and address; variables may change. */
  async restart({ vars } = {}) {
    if (vars) this.vars = { ...this.vars, ...vars };
    await this.#mf?.dispose();
    await this.#up();
  }

  // ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** A token as `make token` would print it, valid in the worker's clock. */
  token({ sub = "alice", scope = "user", issued = 0, lives = HOUR, secret = SECRET, ...claims } = {}) {
    const iat = Math.floor(this.now / 1000) + issued;
    return jwt({ ...(sub === null ? {} : { sub }), scope, iat, exp: iat + lives, ...claims }, secret);
  }

  /** A container's token for a town. */
  containerToken(townId, { userId = "alice", ...rest } = {}) {
    return this.token({ sub: null, scope: "container", townId, userId, lives: 8 * HOUR, ...rest });
  }

  /**
   * One request: {status, json, data, error, headers, text}. `token`: a string, null for none, default: the user alice.
   * `body`: an object becomes JSON, a string is sent as it is.
   */
  async api(method, path, body, { token = this.token(), headers = {}, timeout = 30_000 } = {}) {
    const response = await fetch(this.url + path, {
      method,
      headers: {
        "Content-Type": "application/json",
        ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
        ...headers,
      },
      body: body === undefined || typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body),
      signal: AbortSignal.timeout(timeout),
    });
    const text = await response.text();
    let json = null;
    try {
      json = JSON.parse(text);
    } catch {
      // the caller sees text
    }
    return { status: response.status, json, data: json?.data, error: json?.error, code: json?.code, headers: response.headers, text };
  }

  /** The `data` of a request that must succeed. */
  async ok(method, path, body, options) {
    const answer = await this.api(method, path, body, options);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
    return answer.data;
  }

  // ── towns ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A town through the public routes. */
  async createTown({ owner = "alice", name = "Town", config = null } = {}) {
    const made = await this.ok("POST", `/api/users/${owner}/towns`, { name }, { token: this.token({ sub: owner }) });
    const town = this.town(made.id, owner);
    if (config) await town.ok("PATCH", "/config", config);
    return town;
  }

  town(id, owner = "alice") {
    if (!this.#towns.has(id)) this.#towns.set(id, new Town(this, id, owner));
    return this.#towns.get(id);
  }

  /** The wrapper around an object: `TOWN` by the town's id, `AGENT` by `town/agent`, `FLEET` by its name. */
  async object(binding, name) {
    if (this.vars.TEST_WATCH) return this.#door(binding, name);
    const namespace = await this.#mf.getDurableObjectNamespace(binding);
    return namespace.get(namespace.idFromName(name));
  }

  /** Puts an object to sleep as the platform does: it is thrown out of memory, and its sockets stay open. */
  hibernate(className, name) {
    return this.#mf.unsafeEvictDurableObject("", className, { name, webSockets: "hibernate" });
  }

  /**
   * The same through a door of the test's main module (entry.mjs): miniflare's own stubs block this whole process until
   * workerd answers, which a workerd that waits to be killed never does.
   */
  #door(binding, name) {
    const call = async (method, args) => {
      const response = await fetch(`${this.url}/test-door`, {
        method: "POST",
        body: JSON.stringify({ binding, name, method, args }),
        signal: AbortSignal.timeout(30_000),
      });
      const { result, error } = await response.json();
      if (error) throw new Error(error);
      return result;
    };
    // Asked whether it is a promise, it is none.
    return new Proxy({}, { get: (_, method) => (method === "then" ? undefined : (...args) => call(method, args)) });
  }

  /** Moves the clock and runs what became due in the towns this harness knows. */
  async advance(ms, { run = true } = {}) {
    this.offset += ms;
    const towns = [...this.#towns.values()];
    const stub = await this.object("TOWN", towns[0]?.id ?? randomUUID());
    await stub.tClock(this.offset);
    if (run) for (const town of towns) await town.runAlarms();
  }
}

/** One town: its routes, its rows, its alarm. */
export class Town {
  constructor(harness, id, owner) {
    this.harness = harness;
    this.id = id;
    this.owner = owner;
  }

  get token() {
    return this.harness.token({ sub: this.owner });
  }

  get containerToken() {
    return this.harness.containerToken(this.id, { userId: this.owner });
  }

  api(method, path, body, options = {}) {
    return this.harness.api(method, `/api/towns/${this.id}${path}`, body, { token: this.token, ...options });
  }

  ok(method, path, body, options = {}) {
    return this.harness.ok(method, `/api/towns/${this.id}${path}`, body, { token: this.token, ...options });
  }

  /** A rig through the public routes. */
  async createRig({ name = "rig", git_url = "https://example.invalid/repo.git", ...rest } = {}) {
    return this.harness.ok(
      "POST",
      `/api/users/${this.owner}/rigs`,
      { town_id: this.id, name, git_url, ...rest },
      { token: this.token },
    );
  }

  /** The rig base, as a person or (with `agent`) as an agent in the container. */
  rig(rigId, { agent = null, dispatch = null } = {}) {
    const base = `/rigs/${rigId}`;
    const options = agent
      ? {
          token: this.containerToken,
          headers: {
            "X-Gastown-Agent-Id": agent,
            "X-Gastown-Rig-Id": rigId,
            ...(dispatch ? { "X-Gastown-Dispatch-Id": dispatch } : {}),
          },
        }
      : {};
    return {
      api: (method, path, body, more = {}) => this.api(method, base + path, body, { ...options, ...more }),
      ok: (method, path, body, more = {}) => this.ok(method, base + path, body, { ...options, ...more }),
      sling: (bead) => this.ok("POST", `${base}/sling`, bead, options),
      bead: (id) => this.ok("GET", `${base}/beads/${id}`, undefined, options),
    };
  }

  bead(id) {
    return this.rows("SELECT * FROM beads WHERE bead_id = ?", id).then(([row]) => row);
  }

  dispatch() {
    return this.ok("GET", "/dispatch");
  }

  attempts(query = "") {
    return this.ok("GET", `/attempts${query}`).then((data) => data.attempts);
  }

  /** What `action` cost, from the town's own ledger: {ticks, container_calls, rows_read, rows_written, verbs}. */
  async cost(action) {
    const before = (await this.dispatch()).cost;
    await action();
    const after = (await this.dispatch()).cost;
    const less = (a, b = {}) =>
      Object.fromEntries(
        Object.entries(a)
          .filter(([, value]) => typeof value === "number" || typeof value === "object")
          .map(([key, value]) => [key, typeof value === "number" ? value - (b[key] ?? 0) : less(value ?? {}, b[key])]),
      );
    return less(after, before);
  }

  // ── behind the routes ──────────────────────────────────────────────────────────────────────────────────────────

  stub() {
    return this.harness.object("TOWN", this.id);
  }

  async sql(text, ...args) {
    const stub = await this.stub();
    const result = await stub.tSql(text, ...args);
    return { rows: [...result.rows].map((row) => ({ ...row })), read: result.read, written: result.written };
  }

  async rows(text, ...args) {
    return (await this.sql(text, ...args)).rows;
  }

  async alarm() {
    return (await this.stub()).tAlarm();
  }

  async setAlarm(at) {
    return (await this.stub()).tSetAlarm(at);
  }

  /** One run of the alarm, due or not; resolves when the handler has ended. */
  async runAlarm(options = {}) {
    return (await this.stub()).tRunAlarm({ force: true, ...options });
  }

  /** Runs the alarm while it is due; returns how often it ran. */
  async runAlarms({ max = 50 } = {}) {
    const stub = await this.stub();
    for (let ran = 0; ran < max; ran += 1) {
      if (!(await stub.tRunAlarm())) return ran;
    }
    throw new Error(`the alarm of town ${this.id} was still due after ${max} runs`);
  }

  /** Moves the clock to the alarm and runs it; returns the time it was set for, null if there was none. */
  async runNextAlarm() {
    const at = await this.alarm();
    if (at === null) return null;
    await this.harness.advance(Math.max(0, at - this.harness.now) + 1, { run: false });
    await this.runAlarms();
    return at;
  }

  /** Throws the object out of memory. */
  async evict() {
    await (await this.stub()).tAbort().catch(() => {});
  }

  /** Every row, as text, to prove that an error changed nothing. */
  async snapshot({ except = [] } = {}) {
    return (await this.stub()).tSnapshot(except);
  }
}

/** An HS256 JSON Web Token. */
export function jwt(claims, secret, header = { alg: "HS256", typ: "JWT" }) {
  const part = (object) => Buffer.from(JSON.stringify(object)).toString("base64url");
  const text = `${part(header)}.${part(claims)}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

async function compatibilityDate() {
  const text = await readFile(join(ROOT, "wrangler.toml"), "utf8").catch(() => "");
  return text.match(/^compatibility_date\s*=\s*"([^"]+)"/m)?.[1] ?? "2026-04-01";
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** The workerd processes of this process. */
function workerds() {
  try {
    return execFileSync("pgrep", ["-P", String(process.pid), "-f", "workerd"]).toString().trim().split("\n").map(Number);
  } catch {
    return [];
  }
}
