// Programs of this repository and the git repositories they work on, for tests.

import { spawn, execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { keep } from "./output.mjs";
import { within } from "./poll.mjs";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

/** The path of a program that `make programs` builds; null with a word if it has not been built (make test insists). */
export function builtProgram(name) {
  const path = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target"), "debug", name);
  if (existsSync(path)) return path;
  if (process.env.GASTOWN_TEST_ALL) throw new Error(`${path} is missing: make programs`);
  console.error(`# ${path} is missing (make programs): its tests do not run`);
  return null;
}

/** Starts a program that prints `listening on http://…` and waits for that line. */
export async function program(path, env, { quiet = true } = {}) {
  const child = spawn(path, [], { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const output = [];
  const exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  const listening = new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        output.push(line);
        keep(path, line);
        if (!quiet) console.error(line);
        const url = line.match(/listening on (http:\/\/\S+)/)?.[1];
        if (url) resolve(url.replace(/\/$/, ""));
      });
    }
    child.once("error", reject);
    exited.then(({ code, signal }) => reject(new Error(`${path} ended (${code ?? signal}):\n${output.join("\n")}`)));
  });
  try {
    const url = await within(20_000, `${path} listens`, listening);
    return {
      url,
      pid: child.pid,
      output,
      exited,
      stop: async (signal = "SIGKILL") => {
        if (child.exitCode === null && child.signalCode === null) child.kill(signal);
        return exited;
      },
    };
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

/** A bare git repository with one commit on `main`, reachable by a file URL. */
export async function bareRepository(files = { "README.md": "# A repository\n" }) {
  const folder = await mkdtemp(join(tmpdir(), "gastown-repo-"));
  const bare = join(folder, "origin.git");
  const seed = join(folder, "seed");
  const git = async (...args) => (await run("git", args, { cwd: existsSync(seed) ? seed : folder })).stdout;
  await git("init", "--quiet", "--bare", "--initial-branch=main", bare);
  await git("clone", "--quiet", bare, seed);
  for (const [name, text] of Object.entries(files)) await writeFile(join(seed, name), text);
  await git("checkout", "--quiet", "-B", "main");
  await git("add", "--all");
  await git("-c", "user.name=Test", "-c", "user.email=test@example.invalid", "commit", "--quiet", "-m", "first");
  await git("push", "--quiet", "origin", "main");
  return { folder, bare, url: `file://${bare}`, git, remove: () => rm(folder, { recursive: true, force: true }) };
}
