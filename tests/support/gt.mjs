// gt as a process: people who log in and agents in a container, with the environment that the runner gives them.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { keep } from "./output.mjs";
import { within } from "./poll.mjs";
import { builtProgram } from "./programs.mjs";

/** The program; null with a word if it has not been built. */
export const GT = builtProgram("gt");

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

/** A client of the Model Context Protocol. */
export async function session(env) {
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

/** A worker's users: people with homes of their own, and the agents that its container started. */
export class Users {
  #homes = [];

  constructor(harness, fake) {
    this.harness = harness;
    this.fake = fake;
  }

  /** A person who logged in with a town and a rig, all made by gt. */
  async person(name) {
    const home = await mkdtemp(join(tmpdir(), "gastown-gt-"));
    this.#homes.push(home);
    const gt = user({ HOME: home });
    await gt.well(["login", "--api", this.harness.url, "--token", "-"], this.harness.token({ sub: name }));
    const { id } = await gt.data("towns", "create", "Home");
    await gt.well(["towns", "use", "Home"]);
    const rig = await gt.data("rigs", "create", "app", "https://example.invalid/repo.git");
    return { ...gt, home, town: this.harness.town(id, name), rig: rig.id };
  }

  /** The agent of the last start of a role, as the runner sets its environment. */
  agent({ town, rig }, role = "polecat", token = town.containerToken) {
    const started = this.fake.starts.findLast((s) => s.role === role);
    assert.ok(started, `no ${role} was started`);
    const gt = user({
      GASTOWN_API_URL: this.harness.url,
      GASTOWN_TOWN_ID: town.id,
      GASTOWN_RIG_ID: rig,
      GASTOWN_AGENT_ID: started.agentId,
      GASTOWN_AGENT_ROLE: role,
      GASTOWN_CONTAINER_TOKEN: token,
      GASTOWN_DISPATCH_ID: started.dispatchId,
    });
    return { ...gt, id: started.agentId };
  }

  /** Forgets every login. */
  async leave() {
    for (const home of this.#homes) await rm(home, { recursive: true });
  }
}
