// The built worker (build/index.js and its Wasm) in workerd, without a cloud account:
//
//   node scripts/serve.mjs --port 8787 --persist .gastown/worker [--var CONTAINER_URL=http://127.0.0.1:8080]…
//
// Objects, vars and the compatibility date are those of wrangler.dev.toml; `--var` adds to the vars or replaces them, and
// GASTOWN_API_URL is this worker's own address unless said otherwise. GASTOWN_JWT_SECRET comes from the environment, else
// from .dev.vars: never from the command line, which everybody on the machine can read. Storage stays in the folder of
// `--persist`. Prints `listening on http://127.0.0.1:PORT`; what the worker logs goes to standard error.

import { Log, LogLevel, Miniflare } from "miniflare";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const CONFIG = "wrangler.dev.toml";

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "8787" },
    persist: { type: "string", default: ".gastown/worker" },
    var: { type: "string", multiple: true, default: [] },
  },
});

const config = readToml(await readFile(join(ROOT, CONFIG), "utf8"));
const url = `http://127.0.0.1:${options.port}`;
const sqlite = new Set(config.migrations.flatMap((migration) => migration.new_sqlite_classes ?? []));
const chosen = options.var.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]);
const vars = { ...config.vars, GASTOWN_API_URL: url, ...Object.fromEntries(chosen) };
const secret = process.env.GASTOWN_JWT_SECRET || (await devVar("GASTOWN_JWT_SECRET"));
if (secret) vars.GASTOWN_JWT_SECRET = secret;
else console.error("GASTOWN_JWT_SECRET is not set: only /health will answer (make dev writes it into .dev.vars)");

const script = async (type, path) => ({ type, path: join(ROOT, path), contents: await built(path) });
const worker = new Miniflare({
  host: "127.0.0.1",
  port: Number(options.port),
  log: new Log(LogLevel.ERROR),
  handleRuntimeStdio(stdout, stderr) {
    stdout.pipe(process.stderr);
    stderr.pipe(process.stderr);
  },
  cf: false, // else it asks the network where it is
  modulesRoot: ROOT,
  modules: [await script("ESModule", "build/index.js"), await script("CompiledWasm", "build/index_bg.wasm")],
  compatibilityDate: config.compatibility_date,
  bindings: vars,
  durableObjects: Object.fromEntries(
    config.durable_objects.bindings.map(({ name, class_name: className }) => [
      name,
      { className, useSQLite: sqlite.has(className) },
    ]),
  ),
  durableObjectsPersist: resolve(options.persist),
  analyticsEngineDatasets: Object.fromEntries(
    (config.analytics_engine_datasets ?? []).map(({ binding, dataset }) => [binding, { dataset }]),
  ),
});

let stopping = false;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, async () => {
    if (stopping) return;
    stopping = true;
    await worker.dispose();
    process.exit(0);
  });
}

try {
  await worker.ready;
  console.log(`listening on ${url}`);
} catch (error) {
  console.error(`the worker did not start: ${error.message}`);
  await worker.dispose().catch(() => {});
  process.exit(1);
}

async function built(path) {
  try {
    return await readFile(join(ROOT, path));
  } catch {
    console.error(`${path} is missing: make build`);
    return process.exit(1);
  }
}

async function devVar(name) {
  const text = await readFile(join(ROOT, ".dev.vars"), "utf8").catch(() => "");
  return text.match(new RegExp(`^\\s*${name}\\s*=\\s*["']?([^"'\\n]*)`, "m"))?.[1];
}

// The part of TOML that wrangler.dev.toml is written in: `key = "text"`, numbers, lists of texts on one line, [table] and
// [[list.of.tables]]. Anything else is refused rather than misread.
function readToml(text) {
  const top = {};
  let table = top;
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    const heading = line.match(/^(\[\[?)([\w.]+)\]\]?$/);
    const pair = line.match(/^(\w+)\s*=\s*("[^"\\]*"|\d+|true|false|\[(?:"[^"\\]*"(?:,\s*)?)*\])\s*(?:#.*)?$/);
    if (heading) {
      const path = heading[2].split(".");
      const last = path.pop();
      const parent = path.reduce((at, key) => (at[key] ??= {}), top);
      table = {};
      if (heading[1] === "[[") (parent[last] ??= []).push(table);
      else parent[last] = table;
    } else if (pair) {
      table[pair[1]] = JSON.parse(pair[2]);
    } else {
      throw new Error(`${CONFIG}:${index + 1}: not understood: ${line}`);
    }
  }
  return top;
}
