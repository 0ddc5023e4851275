// `make demo`: a town at work, an outage, the recovery. It uses the same worker, the same runner and public routes only; no
// flag, route or sleep exists for it. Exit 0: everything it says was proved; 1: it says what is not so.
//
//   GASTOWN_DEMO_RUNNER   another runner than target/debug/gastown-runner
//   NO_COLOR              plain text
//
// Everything lies in .gastown/demo-XXXX, which is removed at the end and kept, with the logs, if something failed.

import { createWriteStream, writeFileSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { ROOT, RUNNER, freePort, newSecret, startRunner, startWorker } from "../stack.mjs";
import { bold, clock, green, line, proofCount, quote, red } from "./narrate.mjs";
import { Story } from "./story.mjs";
import { Broken } from "./wait.mjs";
import { listen } from "./webhook.mjs";

const LIMIT = 180_000;

await mkdir(join(ROOT, ".gastown"), { recursive: true });
const folder = await mkdtemp(join(ROOT, ".gastown/demo-"));
const secret = newSecret();
const webhookSecret = newSecret();
const logs = {};
const running = new Map();
let webhook = null;
let over = false;

const programs = {
  ports: { runner: await freePort(), worker: await freePort() },

  /** The runner, the second time on the address and the workspace that it had. Its home is empty: no settings of yours. */
  async startRunner() {
    await mkdir(join(folder, "home"), { recursive: true });
    running.set(
      "runner",
      await startRunner({
        port: this.ports.runner,
        workspace: join(folder, "workspace"),
        path: process.env.GASTOWN_DEMO_RUNNER || RUNNER,
        env: { HOME: join(folder, "home"), GASTOWN_HEARTBEAT_MS: "500" },
        log: log("runner"),
      }),
    );
  },

  async killRunner() {
    const runner = running.get("runner");
    process.kill(runner.pid, "SIGKILL");
    await runner.exited;
  },

  async startWorker() {
    const worker = await startWorker({
      port: this.ports.worker,
      persist: join(folder, "worker"),
      secret,
      vars: { CONTAINER_URL: `http://127.0.0.1:${this.ports.runner}` },
      log: log("worker"),
    });
    running.set("worker", worker);
    return worker.url;
  },
};

function log(name) {
  logs[name] ??= createWriteStream(join(folder, `${name}.log`), { flags: "a" });
  return (text) => logs[name].write(`${text}\n`);
}

async function end(code) {
  if (over) return;
  over = true;
  webhook?.close();
  await Promise.all([...running.values()].map((program) => program.stop("SIGINT", 5_000)));
  if (code !== 1) await rm(folder, { recursive: true, force: true });
  process.exit(code);
}

function fail(error) {
  if (over) return;
  line();
  line(`${red(bold("✘"))} ${bold(error instanceof Broken ? error.message : (error.stack ?? String(error)))}`);
  if (error.details) {
    quote(error.details, { most: 30 });
    writeFileSync(join(folder, "failure.txt"), `${error.message}\n\n${error.details}\n`);
  }
  line();
  line(`  The demo has failed after ${clock().trim()}. Its repository, the town's database and the logs are kept in`);
  line(`  ${folder}`);
  line();
  end(1);
}

for (const [signal, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
])
  process.on(signal, () => end(code));
process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);
setTimeout(() => fail(new Broken(`the demo is not over after ${LIMIT / 1000} s`)), LIMIT).unref();

try {
  webhook = await listen(webhookSecret);
  await new Story({ folder, secret, programs, webhook, webhookSecret }).tell();
  line();
  line(
    `  ${green(bold(`✔ ${proofCount()} statements proved in ${clock().trim()}`))}. \`make dev\` keeps a town up for you; the README goes on from there.`,
  );
  line();
  await end(0);
} catch (error) {
  fail(error);
}
