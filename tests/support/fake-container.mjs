// A container that behaves as protocol.md 4 says, warts included, and misbehaves on command.
//
// Two kinds. `predecessor`: a start of an agent that is alive kills it and starts anew, health tells no instance.
// `ours` (default): health lists the feature `dispatch-id` and tells the instance; a repeated `dispatchId` is the same
// start. Both answer a start with the agent's whole environment, tokens included, as the predecessor does.
//
//   const fake = await FakeContainer.start({ heartbeatMs: 50 });
//   fake.next("start", { drop: 20, started: true });            // the agent starts, its answer is lost
//   fake.always("start", { answer: { status: 500, body: { error: "no" } } });
//   fake.starts                                                  // the ledger: every start that really happened
//   await fake.done(agentId, { branch: "gt/toast/abc" });        // the agent speaks
//   fake.restart(); await fake.kill(); await fake.boot();        // new instance; gone; back
//
// A behaviour, for the next request of a kind (`start, status, stop, message, health, refresh-token, sync-config, pty`) or for all of them:
//   delay: ms          wait first
//   started: bool      whether the agent really starts before what follows (default: false, or true with `life`)
//   answer: {status, body, headers}   answer that (an object becomes JSON, a string is sent as it is)
//   hang: true         no answer until release(); then as if nothing had been scripted
//   drop: ms           the connection breaks after that time
//   takes: ms          how long the start lasts: the agent is `starting` meanwhile, and a stop aborts it
//   life: {ms, status, reason}        the agent starts, and after that time ends and reports it

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

const ROLES = ["mayor", "polecat", "refinery", "triage"];
const REQUIRED = ["agentId", "rigId", "townId", "role", "name", "identity", "prompt", "model", "branch", "defaultBranch"];
const LIVE = ["starting", "running"];

export class FakeContainer {
  /** Every request that arrived: {at, kind, method, path, headers, body}. */
  requests = [];
  /**
   * The ledger: every start that really happened: {at, agentId, dispatchId, role, branch, instanceId, killed, ended}.
   * `killed`: an agent that was alive was killed for it; `ended`: when its process ended, null while it lives.
   */
  starts = [];
  /**
   * What processes were really told: {agentId, prompt}, the prompts of mayors' starts and all messages. The predecessor's mayor
   * does not read the prompt of a start that resumes its session.
   */
  told = [];
  /** Every call made to the worker: {at, method, path, status, body}; status 0 = it did not answer. */
  calls = [];
  /**
   * A test's ear: awaited with (kind, moment, {agentId, body}) when a request `arrives`, before anything is done about
   * it, and when it has `happened`, before it is answered. What it answers true to is dropped: its caller is dead.
   */
  tap = null;
  /** Agents of this instance by id. */
  agents = new Map();
  instanceId = randomUUID();
  startedAt = new Date();
  draining = false;

  #server = null;
  #port = 0;
  #sockets = new Set();
  #queues = new Map();
  #standing = new Map();
  #hanging = new Set();
  #turns = new Map(); // starts of one agent are serialised
  #timers = new Set();
  #entries = new WeakMap(); // the ledger's line of each process
  #readySent = false;
  #sessions = new Set(); // mayors whose session the predecessor would resume
  #token = null;
  #town = null;

  constructor({ kind = "ours", heartbeatMs = null, apiUrl = null } = {}) {
    this.kind = kind;
    this.heartbeatMs = heartbeatMs;
    this.apiUrl = apiUrl;
  }

  static async start(options) {
    const fake = new FakeContainer(options);
    await fake.boot();
    return fake;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  // ── its life ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Listens, as a new instance that knows no agent; on the port it had before. */
  async boot() {
    if (this.#server) return;
    this.#newInstance();
    const server = createServer((request, response) => this.#serve(request, response));
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    server.listen(this.#port, "127.0.0.1");
    await once(server, "listening");
    this.#server = server;
    this.#port = server.address().port;
  }

  /** SIGKILL: connections break, the port refuses, its agents are gone. */
  async kill() {
    const server = this.#server;
    if (!server) return;
    this.#server = null;
    this.#stopTimers();
    this.release();
    const closed = once(server, "close");
    server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    this.#allEnd();
  }

  /** Another instance on the same address, at once: open requests break, agents are gone. */
  restart() {
    this.#stopTimers();
    for (const socket of this.#sockets) socket.destroy();
    this.#newInstance();
  }

  #newInstance() {
    this.#allEnd();
    this.#turns.clear();
    this.instanceId = randomUUID();
    this.startedAt = new Date();
    this.draining = false;
    this.#readySent = false;
  }

  #allEnd() {
    for (const agent of this.agents.values()) this.#ended(agent);
    this.agents.clear();
  }

  #ended(agent) {
    const entry = this.#entries.get(agent);
    if (entry) entry.ended ??= Date.now();
  }

  #stopTimers() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  // ── its script ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** The next request of `kind` behaves like that; further calls queue up. */
  next(kind, behaviour) {
    this.#queues.set(kind, [...(this.#queues.get(kind) ?? []), behaviour]);
    return this;
  }

  /** Every request of `kind` behaves like that (or as a function of the request's body says), after those queued. */
  always(kind, behaviour) {
    this.#standing.set(kind, behaviour);
    return this;
  }

  /** Forgets the script; what hangs goes on. */
  heal() {
    this.#queues.clear();
    this.#standing.clear();
    this.release();
  }

  /** Lets everything that hangs go on. */
  release() {
    for (const resume of this.#hanging) resume();
    this.#hanging.clear();
  }

  /** How many requests hang now. */
  get hanging() {
    return this.#hanging.size;
  }

  #behaviour(kind, body) {
    const queue = this.#queues.get(kind);
    if (queue?.length) return queue.shift();
    const standing = this.#standing.get(kind);
    return (typeof standing === "function" ? standing(body) : standing) ?? {};
  }

  // ── what its agents do ─────────────────────────────────────────────────────────────────────────────────────────

  agent(agentId) {
    const agent = this.agents.get(agentId);
    if (!agent) throw new Error(`the fake container knows no agent ${agentId}`);
    return agent;
  }

  /** Agents that are starting or running. */
  get live() {
    return [...this.agents.values()].filter((agent) => LIVE.includes(agent.status));
  }

  /** One heartbeat of one agent. */
  async heartbeat(agentId) {
    const agent = this.agent(agentId);
    const answer = await this.#post(agent, `agents/${agentId}/heartbeat`, {
      agentId,
      rigId: agent.rigId,
      townId: agent.townId,
      status: agent.status,
      timestamp: new Date().toISOString(),
      lastEventType: agent.lastEventType,
      lastEventAt: agent.lastEventAt,
      activeTools: agent.activeTools,
      messageCount: agent.messageCount,
      containerInstanceId: this.instanceId,
    });
    await this.#acknowledge(answer.json?.data?.drainNonce, agent.townId);
    return answer;
  }

  /** The plugin's gt_done, then the agent goes idle and exits without a word. */
  async done(agentId, { branch = this.agent(agentId).branch, summary = "done" } = {}) {
    const answer = await this.speak(agentId, "POST", `agents/${agentId}/done`, { branch, summary });
    this.exit(agentId, "exited", "completed");
    return answer;
  }

  /** The agent's process ends and the container reports it. */
  async completed(agentId, { status = "completed", reason, phase, model_status } = {}) {
    const agent = this.agent(agentId);
    this.exit(agentId, status === "failed" ? "failed" : "exited", reason ?? "completed");
    return this.#post(agent, `agents/${agentId}/completed`, { status, reason, agentId, phase, model_status });
  }

  /** The agent's process ends and nobody says so. */
  exit(agentId, status = "exited", reason = "completed") {
    Object.assign(this.agent(agentId), { status, exitReason: reason, activeTools: [] });
    this.#ended(this.agent(agentId));
  }

  /** A call of the agent's plugin: with the agent's and the rig's header. `path` is relative to the rig base. */
  speak(agentId, method, path, body) {
    const agent = this.agent(agentId);
    return this.#call(method, this.#rigBase(agent) + path, body, agent, {
      "X-Gastown-Agent-Id": agentId,
      "X-Gastown-Rig-Id": agent.rigId,
    });
  }

  // ── its end, the orderly way (4.8) ─────────────────────────────────────────────────────────────────────────────

  /** SIGTERM: heartbeats stop, the worker is told, starts are refused. */
  async sigterm() {
    this.#stopTimers();
    this.draining = true;
    if (!this.#town) return null; // no agent was ever known
    return this.#call("POST", `/api/towns/${this.#town}/container-eviction`, undefined, null, {});
  }

  /** The stragglers' work is saved, they are reported, the process exits. */
  async finishDrain() {
    for (const agent of this.live) {
      if (agent.role === "polecat") {
        await this.#post(agent, `agents/${agent.agentId}/eviction-context`, {
          branch: agent.branch,
          agent_name: agent.name,
          saved_at: new Date().toISOString(),
        });
      }
      if (agent.role !== "mayor" && agent.role !== "triage") {
        await this.completed(agent.agentId, { status: "completed", reason: "container eviction" });
      }
    }
    await this.kill();
  }

  async #acknowledge(nonce, townId) {
    if (!nonce || this.draining || this.#readySent) return;
    this.#readySent = true; // any 2xx is taken as acknowledged, nothing is ever repeated
    await this.#call("POST", `/api/towns/${townId}/container-ready`, { nonce }, null, {});
  }

  // ── calls to the worker ────────────────────────────────────────────────────────────────────────────────────────

  #rigBase(agent) {
    return `/api/towns/${agent.townId}/rigs/${agent.rigId}/`;
  }

  #post(agent, path, body) {
    return this.#call("POST", this.#rigBase(agent) + path, body, agent, {});
  }

  async #call(method, path, body, agent, headers) {
    const base = this.apiUrl ?? agent?.startupEnv.GASTOWN_API_URL;
    if (!base) return { status: 0, json: null };
    const record = { at: Date.now(), method, path, status: 0, body };
    this.calls.push(record);
    try {
      const response = await fetch(base + path, {
        method,
        headers: {
          "Content-Type": "application/json",
          Authorization: `Bearer ${agent?.startupEnv.GASTOWN_CONTAINER_TOKEN ?? this.#token}`,
          ...(this.kind === "ours" && agent?.dispatchId ? { "X-Gastown-Dispatch-Id": agent.dispatchId } : {}),
          ...headers,
        },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(15_000),
      });
      record.status = response.status;
      return { status: response.status, json: await response.json().catch(() => null) };
    } catch (error) {
      return { status: 0, json: null, error };
    }
  }

  #later(ms, action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, ms);
    this.#timers.add(timer);
  }

  #beat(agent, ms) {
    this.#later(ms, async () => {
      if (!this.#server || this.agents.get(agent.agentId) !== agent || !LIVE.includes(agent.status)) return;
      await this.heartbeat(agent.agentId);
      if (this.heartbeatMs !== null && !this.draining) this.#beat(agent, this.heartbeatMs);
    });
  }

  // ── the control server (4.3) ───────────────────────────────────────────────────────────────────────────────────

  async #serve(request, response) {
    const chunks = [];
    try {
      for await (const chunk of request) chunks.push(chunk);
    } catch {
      return; // the caller went away
    }
    let body = null;
    try {
      body = JSON.parse(Buffer.concat(chunks).toString() || "null");
    } catch {
      body = undefined;
    }
    const path = new URL(request.url, "http://container").pathname;
    const [kind, agentId, handle] = this.#route(request.method, path);
    this.requests.push({ at: Date.now(), kind, method: request.method, path, headers: request.headers, body });
    const about = { agentId: agentId ?? body?.agentId, body };
    if (await this.tap?.(kind, "arrives", about)) return;
    const behaviour = this.#behaviour(kind, body);
    const answer = await this.#behave(behaviour, request, () => handle.call(this, body, agentId, request, behaviour));
    if (!answer || (await this.tap?.(kind, "happened", about)) || response.destroyed) return;
    const { status, body: content, headers = {} } = answer;
    const text = typeof content === "string" ? content : JSON.stringify(content ?? {});
    const type = typeof content === "string" ? "text/plain" : "application/json";
    response.writeHead(status, { "Content-Type": type, ...headers });
    response.end(text);
  }

  async #behave(behaviour, request, handle) {
    if (behaviour.delay) await new Promise((resolve) => setTimeout(resolve, behaviour.delay));
    if (behaviour.started) await handle();
    if (behaviour.drop !== undefined) {
      setTimeout(() => request.socket.destroy(), behaviour.drop);
      return null;
    }
    if (behaviour.hang) {
      await new Promise((resume) => {
        this.#hanging.add(resume);
        request.socket.once("close", () => {
          this.#hanging.delete(resume);
        });
      });
      if (behaviour.started) return { status: 201, body: {} };
    }
    if (behaviour.answer) return behaviour.answer;
    const answer = await handle();
    if (behaviour.life && answer.status === 201) {
      const { ms, status = "failed", reason = "the agent failed" } = behaviour.life;
      const agent = this.agents.get(answer.body.agentId);
      this.#later(ms, () => {
        if (this.agents.get(agent.agentId) === agent && LIVE.includes(agent.status)) {
          this.completed(agent.agentId, { status: status === "failed" ? "failed" : "completed", reason });
        }
      });
    }
    return answer;
  }

  #route(method, path) {
    const [, encoded = "", verb] = path.match(/^\/agents\/([^/]+)\/([a-z-]+)$/) ?? [];
    const agentId = decodeURIComponent(encoded);
    if (method === "GET" && path === "/health") return ["health", null, this.#health];
    if (method === "POST" && path === "/agents/start") return ["start", null, this.#start];
    if (method === "POST" && path === "/refresh-token") return ["refresh-token", null, this.#refreshToken];
    if (method === "POST" && path === "/sync-config") return ["sync-config", null, () => ({ status: 200, body: { synced: true } })];
    if (verb === "pty" || /^\/agents\/[^/]+\/pty\/[^/]+$/.test(path)) return ["pty", null, (body) => ({ status: 200, body: { id: "pty_1", status: "running", ...body } })];
    if (method === "GET" && verb === "status") return ["status", agentId, this.#status];
    if (method === "POST" && verb === "stop") return ["stop", agentId, this.#stop];
    if (method === "POST" && verb === "message") return ["message", agentId, this.#message];
    return ["unknown", null, () => ({ status: 404, body: { error: "Not found" } })];
  }

  async #health(_, __, request) {
    const nonce = request.headers["x-drain-nonce"];
    if (nonce && request.headers["x-town-id"]) this.#acknowledge(nonce, request.headers["x-town-id"]);
    return {
      status: 200,
      body: {
        status: "ok",
        agents: this.live.length,
        servers: this.live.length,
        uptime: Date.now() - this.startedAt.getTime(),
        ...(this.draining ? { draining: true } : {}),
        startedAt: this.startedAt.toISOString(),
        ...(this.kind === "ours" ? { containerInstanceId: this.instanceId, features: ["dispatch-id"] } : {}),
      },
    };
  }

  async #start(body, _, __, { takes = 0 }) {
    if (this.draining) return { status: 503, body: { error: "Container is draining, cannot start new agents" } };
    const issues = invalid(body);
    if (issues.length) return { status: 400, body: { error: "Invalid request body", issues } };
    const instance = this.instanceId;
    const before = this.#turns.get(body.agentId) ?? Promise.resolve();
    const turn = before.then(() => this.#startInTurn(body, instance, takes));
    this.#turns.set(body.agentId, turn.catch(() => {}));
    return turn;
  }

  async #startInTurn(body, instance, takes) {
    const old = this.agents.get(body.agentId);
    const aborted = { status: 500, body: { error: `Startup aborted for agent ${body.agentId}` } };
    if (instance !== this.instanceId || !this.#server) return aborted;
    if (this.kind === "ours" && body.dispatchId && old?.dispatchId === body.dispatchId) {
      return { status: 201, body: old };
    }
    const killed = old !== undefined && LIVE.includes(old.status);
    if (killed) this.exit(body.agentId, "exited", "stopped"); // no completion call
    const now = new Date().toISOString();
    const env = { ...body.envVars, GASTOWN_AGENT_ID: body.agentId, GASTOWN_RIG_ID: body.rigId, GASTOWN_TOWN_ID: body.townId };
    const agent = {
      agentId: body.agentId,
      rigId: body.rigId,
      townId: body.townId,
      role: body.role,
      name: body.name,
      branch: body.branch,
      status: takes ? "starting" : "running",
      serverPort: 40_000 + this.starts.length,
      sessionId: randomUUID(),
      workdir: `/workspace/rigs/${body.rigId}/worktrees/${body.branch.replaceAll("/", "__")}`,
      startedAt: now,
      lastActivityAt: now,
      lastEventType: null,
      lastEventAt: null,
      activeTools: [],
      messageCount: 1,
      exitReason: null,
      completionCallbackUrl: null,
      model: body.model,
      organizationId: null,
      startupEnv: env,
      startupRequest: body,
      startupAbortController: null,
      ...(this.kind === "ours" ? { dispatchId: body.dispatchId } : {}),
    };
    this.agents.set(body.agentId, agent);
    this.#town = body.townId;
    this.#token = env.GASTOWN_CONTAINER_TOKEN ?? this.#token;
    this.starts.push({
      at: Date.now(),
      agentId: body.agentId,
      dispatchId: body.dispatchId ?? null,
      role: body.role,
      branch: body.branch,
      instanceId: this.instanceId,
      killed,
      ended: null,
    });
    this.#entries.set(agent, this.starts.at(-1));
    const resumes = this.kind !== "ours" && this.#sessions.has(body.agentId);
    if (body.role === "mayor") {
      this.#sessions.add(body.agentId);
      if (!resumes) this.told.push({ agentId: body.agentId, prompt: body.prompt });
    }
    // Ours says at once that it runs; the predecessor waits for its timer.
    if (this.heartbeatMs !== null) this.#beat(agent, this.kind === "ours" ? 0 : this.heartbeatMs);
    if (takes) {
      await new Promise((resolve) => setTimeout(resolve, takes));
      if (this.agents.get(agent.agentId) !== agent || agent.status !== "starting") return aborted;
      agent.status = "running";
    }
    return { status: 201, body: agent };
  }

  #status(_, agentId) {
    const agent = this.agents.get(agentId);
    if (!agent) return unknown(agentId);
    const { status, serverPort, sessionId, startedAt, lastActivityAt, activeTools, messageCount, exitReason } = agent;
    const known = { agentId, status, serverPort, sessionId, startedAt, lastActivityAt, activeTools, messageCount, exitReason };
    return { status: 200, body: this.kind === "ours" ? { ...known, dispatchId: agent.dispatchId } : known };
  }

  #stop(body, agentId) {
    const agent = this.agents.get(agentId);
    if (!agent) return unknown(agentId);
    const another = this.kind === "ours" && body?.dispatchId && body.dispatchId !== agent.dispatchId;
    if (!another && LIVE.includes(agent.status)) this.exit(agentId, "exited", "stopped");
    return { status: 200, body: { stopped: true } };
  }

  #message(body, agentId) {
    const agent = this.agents.get(agentId);
    if (!agent) return unknown(agentId);
    if (typeof body?.prompt !== "string") {
      return { status: 400, body: { error: "Invalid request body", issues: [issue("prompt")] } };
    }
    if (agent.status !== "running") {
      return { status: 500, body: { error: `Agent ${agentId} is not running (status: ${agent.status})` } };
    }
    agent.messageCount += 1;
    this.told.push({ agentId, prompt: body.prompt });
    return { status: 200, body: { sent: true } };
  }

  // A push of a token restarts the runtime of every running agent: the worker must not do it on a start.
  #refreshToken(body) {
    if (typeof body?.token !== "string") return { status: 400, body: { error: "Invalid request body", issues: [issue("token")] } };
    this.#token = body.token;
    const results = this.live.map(({ agentId }) => ({ agentId, success: true, durationMs: 0 }));
    return { status: 200, body: { refreshed: true, agentsRestarted: results.length, agentsFailed: 0, results } };
  }
}

function invalid(body) {
  if (body === null || typeof body !== "object" || Array.isArray(body)) return [issue("")];
  const issues = REQUIRED.filter((key) => typeof body[key] !== "string" || body[key] === "").map(issue);
  if (typeof body.gitUrl !== "string") issues.push(issue("gitUrl")); // "" for a mayor without rigs
  if (!ROLES.includes(body.role)) issues.push(issue("role"));
  return issues;
}

function issue(key) {
  return { code: "invalid_type", path: key ? [key] : [], message: `Invalid input: ${key || "body"}` };
}

function unknown(agentId) {
  return { status: 404, body: { error: `Agent ${agentId} not found` } };
}
