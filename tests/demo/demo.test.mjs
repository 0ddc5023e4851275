// Breaks one thing at a time and demands that the demo says so: a demo that cannot fail proves nothing. Everything is done from
// outside: another runner, another PATH, or a word put in between the demo and the worker (meddle.mjs).

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { RUNNER } from "../../scripts/stack.mjs";
import { secretsIn, secretsInRows } from "../support/output.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const MEDDLE = new URL("meddle.mjs", import.meta.url).href;

let folder;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "gastown-demo-test-"));
});
after(() => rm(folder, { recursive: true, force: true }));

/** The demo, started: its output so far, and its end {code, signal, output}. */
function start(env) {
  const child = spawn(process.execPath, [join(ROOT, "scripts/demo/main.mjs")], {
    env: { ...process.env, NO_COLOR: "1", NODE_OPTIONS: `--import=${MEDDLE}`, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const demo = { child, output: "" };
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text) => (demo.output += text));
  demo.ended = once(child, "close").then(([code, signal]) => ({ code, signal, output: demo.output }));
  demo.says = async (text) => {
    while (!demo.output.includes(text)) {
      assert.equal(child.exitCode, null, `the demo ended before it said «${text}»:\n${demo.output}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  return demo;
}

/** Runs the demo, which has to fail and to say why; what it kept is removed, and nothing of it may still run. */
async function fails(env, message) {
  const { code, output } = await start(env).ended;
  assert.equal(code, 1, output);
  const said = output.match(/^✘ .*$/m)?.[0];
  assert.ok(said, output);
  assert.match(output.slice(output.indexOf(said)), message);
  const kept = output.match(/are kept in\n\s+(\S+)/)?.[1];
  assert.ok(kept && existsSync(kept), `what it worked on should be kept:\n${output}`);
  assert.deepEqual(processes(kept), []);
  await tellsNoSecret(kept, output);
  await rm(kept, { recursive: true });
}

/** Neither what the demo said nor the logs that it kept have a secret in them; its worker's rows do, where they belong. */
async function tellsNoSecret(kept, output) {
  const logs = readdirSync(kept).filter((name) => /\.(log|txt)$/.test(name));
  for (const name of logs) assert.deepEqual(secretsIn(readFileSync(join(kept, name), "latin1")), [], name);
  assert.deepEqual(secretsIn(output), []);
  assert.deepEqual(await secretsInRows(join(kept, "worker")), []);
}

/** Processes whose command line names this path. */
function processes(path) {
  const lines = execFileSync("ps", ["-eo", "pid,args"], { encoding: "utf8" }).split("\n");
  return lines.filter((line) => line.includes(path));
}

/** A runner under a name of its own, so that its processes can be told from others. */
async function runner(name, script) {
  const path = join(folder, name);
  if (script) await writeFile(path, script).then(() => chmod(path, 0o755));
  else await symlink(RUNNER, path);
  return path;
}

async function gone(path) {
  const deadline = Date.now() + 5_000;
  while (processes(path).length > 0) {
    assert.ok(Date.now() < deadline, processes(path).join("\n"));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describe("the demo fails, and says why,", { concurrency: 2, timeout: 180_000 }, () => {
  it("without a runner", () =>
    fails({ GASTOWN_DEMO_RUNNER: join(folder, "nothing") }, /the runner .*nothing is missing: make programs/));

  it("with a runner that ends at once", () =>
    fails({ GASTOWN_DEMO_RUNNER: "/bin/false" }, /the runner ended instead of listening \(exit 1/));

  it("with a runner that listens and cannot start an agent", async () => {
    const server = `import { createServer } from "node:http";
      const [host, port] = process.env.GASTOWN_RUNNER_ADDR.split(":");
      createServer((request, response) => response.writeHead(500).end('{"error":"no agents today"}'))
        .listen(port, host, () => console.log("listening on http://" + process.env.GASTOWN_RUNNER_ADDR));`;
    const path = await runner(
      "useless",
      `#!/bin/sh\nexec '${process.execPath}' --input-type=module -e '${server.replaceAll("'", `'\\''`)}'\n`,
    );
    await fails({ GASTOWN_DEMO_RUNNER: path }, /a start failed although the container is up[^]*no agents today/);
  });

  it("with a runner that does not come back", async () => {
    const once = join(folder, "started-once");
    const path = await runner(
      "mortal",
      `#!/bin/sh\n[ -e ${once} ] && { echo 'never again' >&2; exit 3; }\n: > ${once}\nexec ${RUNNER}\n`,
    );
    await fails({ GASTOWN_DEMO_RUNNER: path }, /the runner ended instead of listening \(exit 3[^]*never again/);
  });

  it("without git", async () => {
    const bin = join(folder, "bin");
    await mkdir(bin);
    for (const name of ["sh", "cat"]) {
      const found = process.env.PATH.split(delimiter)
        .map((place) => join(place, name))
        .find(existsSync);
      await symlink(found, join(bin, name));
    }
    await fails({ PATH: `${bin}${delimiter}${dirname(process.execPath)}-without-git` }, /git is not installed/);
  });

  const meddle = (how, message) => fails({ MEDDLE: how }, message);

  it("with a gate that always passes", () =>
    meddle("gate-passes", /«Add `shout`» was merged, although its test cannot pass/));

  it("with a gate that always fails", () =>
    meddle(
      "gate-fails",
      /«Add `(words|longest)`» failed, although nothing is wrong with it[^]*nothing is good enough/,
    ));

  it("with a breaker that is forced closed", () =>
    meddle(
      "forced-closed",
      /the breaker has tripped, but it holds nothing: somebody set it to forced_closed \(user:you: somebody meddles\)/,
    ));

  it("with a webhook signed with another secret", () =>
    meddle("webhook-secret", /the webhook received something that was not signed with its secret/));
});

/** Where a running demo works, as its worker's command line says. */
function placeOf(demo) {
  const children = execFileSync("ps", ["-eo", "ppid,args"], { encoding: "utf8" }).split("\n");
  const worker = children.find((line) => line.trim().startsWith(`${demo.child.pid} `) && line.includes("--persist"));
  return dirname(worker.match(/--persist (\S+)/)[1]);
}

describe("the demo leaves no process behind", { concurrency: 2, timeout: 120_000 }, () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"]) {
    it(`when it is ended by ${signal}`, async () => {
      const path = await runner(`runner-${signal}`);
      const demo = start({ GASTOWN_DEMO_RUNNER: path });
      await demo.says("takes «Add `words`»");
      const place = placeOf(demo);
      assert.ok(existsSync(place) && processes(place).length > 0 && processes(path).length > 0);
      demo.child.kill(signal);
      const end = await demo.ended;
      await gone(path);
      await gone(place);
      if (signal === "SIGKILL") return rm(place, { recursive: true });
      assert.equal(end.code, signal === "SIGINT" ? 130 : 143);
      assert.equal(existsSync(place), false, "an interrupted demo removes what it worked on");
    });
  }
});
