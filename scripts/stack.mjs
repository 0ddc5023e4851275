// The worker in workerd and the runner, as programs on this machine: what `make dev` keeps up and `make demo` starts.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { accessSync, appendFileSync, constants, existsSync, mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SECRETS = join(ROOT, ".dev.vars");

/** Where `make programs` leaves the runner. */
export const RUNNER = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target"), "debug/gastown-runner");

export const newSecret = () => randomBytes(32).toString("hex");

/** The secret that signs local tokens; made once and kept in .dev.vars, where `make token` finds it. */
export function localSecret() {
  const known =
    existsSync(SECRETS) && readFileSync(SECRETS, "utf8").match(/^GASTOWN_JWT_SECRET\s*=\s*"?([^"\n]+)/m)?.[1];
  if (known) return known;
  const secret = newSecret();
  appendFileSync(SECRETS, `GASTOWN_JWT_SECRET=${secret}\n`, { mode: 0o600 });
  return secret;
}

/**
 * A port nobody listens on, below those that the system gives to outgoing connections: a connection to a program that is
 * down could get its port, and be connected to itself.
 */
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const server = createServer();
    const free = await new Promise((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!free) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

/** The worker on `port`; resolves when it listens. */
export function startWorker({ port, persist, secret, vars = {}, log }) {
  const flags = Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}=${value}`]);
  const args = [join(ROOT, "scripts/serve.mjs"), "--port", String(port), "--persist", persist, ...flags];
  return start("the worker", process.execPath, args, { GASTOWN_JWT_SECRET: secret }, log);
}

/** The runner on `port`, as in development: it takes repositories of the local disk. */
export async function startRunner({ port, workspace, path = RUNNER, env = {}, log }) {
  try {
    accessSync(path, constants.X_OK);
  } catch {
    throw new Error(`the runner ${path} is missing: make programs`);
  }
  mkdirSync(workspace, { recursive: true });
  const settings = { GASTOWN_RUNNER_ADDR: `127.0.0.1:${port}`, GASTOWN_WORKSPACE: workspace, GASTOWN_DEV: "1", ...env };
  return start("the runner", path, [], settings, log);
}

// Starts a program that prints `listening on http://…`, in a process group of its own, so that stopping it stops what it
// started. If this process ends in any way, SIGKILL included, a watchdog at the other end of a pipe kills the group.
async function start(what, path, args, env, log = () => {}) {
  const child = spawn(path, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const watchdog = spawn("sh", ["-c", 'cat; kill -KILL "-$0"', String(child.pid ?? 0)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.on("error", () => {});
  const signal = (name) => {
    try {
      if (child.pid) process.kill(-child.pid, name);
    } catch {
      // the group has ended
    }
  };
  const exited = new Promise((resolve) => {
    child.once("exit", (code, by) => resolve({ code, signal: by }));
    child.once("error", (error) => resolve({ code: error.message, signal: null }));
  }).then((end) => {
    signal("SIGKILL"); // what it may have left behind
    watchdog.kill("SIGKILL");
    return end;
  });
  const stop = async (name = "SIGTERM", patience = 10_000) => {
    signal(name);
    const timer = setTimeout(() => signal("SIGKILL"), patience);
    const end = await exited;
    clearTimeout(timer);
    return end;
  };
  const last = [];
  const listening = new Promise((resolve) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        last.push(line);
        if (last.length > 40) last.shift();
        log(line);
        const url = line.match(/^listening on (http:\/\/\S+)/)?.[1];
        if (url) resolve(url);
      });
    }
  });
  const silent = once(child, "close"); // after its last lines were read
  const died = exited.then(async ({ code, signal: by }) => {
    await silent;
    throw new Error(
      `${what} ended instead of listening (${by ?? `exit ${code}`}, ${path})${last.length ? `:\n${last.join("\n")}` : ""}`,
    );
  });
  const tooLong = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`${what} does not listen after 60 s:\n${last.join("\n")}`)), 60_000).unref();
  });
  for (const promise of [silent, died, tooLong]) promise.catch(() => {});
  try {
    return { url: await Promise.race([listening, died, tooLong]), pid: child.pid, exited, stop };
  } catch (error) {
    await stop("SIGKILL");
    throw error;
  }
}
