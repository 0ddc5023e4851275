// A town as any client sees it: HTTP, a token, public routes.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { ROOT } from "../stack.mjs";
import { Broken } from "./wait.mjs";

/** A user's token, by the program behind `make token`. */
export async function userToken(user, secret) {
  const args = [join(ROOT, "scripts/token.mjs"), "--user", user];
  const { stdout } = await promisify(execFile)(process.execPath, args, {
    env: { ...process.env, GASTOWN_JWT_SECRET: secret },
  });
  return stdout.trim();
}

/** One request: {status, json}. */
export async function request(base, token, method, path, body) {
  const response = await fetch(base + path, {
    method,
    headers: {
      "Content-Type": "application/json",
      ...(token ? { Authorization: `Bearer ${token}` } : {}),
    },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(15_000),
  });
  const text = await response.text();
  try {
    return { status: response.status, json: JSON.parse(text) };
  } catch {
    throw new Broken(
      `${method} ${path} answered ${response.status} with something that is not JSON`,
      text.slice(0, 500),
    );
  }
}

export class Town {
  static async create(base, user, token, name) {
    const town = new Town(base, user, token);
    town.id = (await town.ask("POST", `/api/users/${user}/towns`, { name })).id;
    return town;
  }

  constructor(base, user, token) {
    Object.assign(this, { base, user, token });
  }

  /** The `data` of a request that must succeed. */
  async ask(method, path, body) {
    const { status, json } = await request(this.base, this.token, method, path, body);
    if (status >= 300) throw new Broken(`${method} ${path} answered ${status}`, json.error ?? JSON.stringify(json));
    return json.data;
  }

  get(path) {
    return this.ask("GET", `/api/towns/${this.id}${path}`);
  }

  configure(config) {
    return this.ask("PATCH", `/api/towns/${this.id}/config`, config);
  }

  async attach(name, gitUrl) {
    const rig = { town_id: this.id, name, git_url: gitUrl, default_branch: "main" };
    this.rig = (await this.ask("POST", `/api/users/${this.user}/rigs`, rig)).id;
  }

  /** Slings a bead: {bead, agent}. */
  sling(bead) {
    return this.ask("POST", `/api/towns/${this.id}/rigs/${this.rig}/sling`, bead);
  }

  /** Slings beads as one convoy: {convoy, beads: [{bead}]}. `depends_on` are indices. */
  slingConvoy(title, tasks) {
    const batch = { rig_id: this.rig, convoy_title: title, tasks, merge_mode: "review-then-land", staged: false };
    return this.ask("POST", `/api/mayor/${this.id}/tools/sling-batch`, batch);
  }

  convoy(id) {
    return this.ask("GET", `/api/mayor/${this.id}/tools/convoys/${id}`);
  }

  bead(id) {
    return this.get(`/rigs/${this.rig}/beads/${id}`);
  }

  beads(type) {
    return this.get(`/rigs/${this.rig}/beads?type=${type}&limit=500`);
  }

  agents() {
    return this.get(`/rigs/${this.rig}/agents`);
  }

  /** What happened in the town, oldest first. */
  async events() {
    return (await this.get(`/rigs/${this.rig}/events?limit=500`)).reverse();
  }

  explain(bead) {
    return this.get(`/beads/${bead}/explain`);
  }

  dispatch() {
    return this.get("/dispatch");
  }

  breaker() {
    return this.get("/breakers/town");
  }

  /** All attempts, oldest first. */
  async attempts(query = "") {
    return (await this.get(`/attempts?limit=500${query}`)).attempts.reverse();
  }

  async notifications() {
    return (await this.get("/notifications?limit=500")).notifications.reverse();
  }

  async mayorsMail() {
    return (await this.get("/mail?to=mayor&limit=500")).mail.reverse();
  }
}
