// The whole way, with real parts: a convoy of five beads that wait for each other, done by real shell agents in real git
// worktrees, reviewed, gathered on the convoy's branch and landed on main, with an eviction of the container and a SIGKILL of
// workerd in the middle. It must end merged, with nothing done twice.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { once } from "node:events";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { Harness } from "../support/harness.mjs";
import { until } from "../support/poll.mjs";
import { bareRepository, builtProgram, program } from "../support/programs.mjs";

const run = promisify(execFile);
const runner = builtProgram("gastown-runner");
const PATIENCE = 60_000;

const CONFIG = {
  merge_strategy: "direct",
  refinery: { gates: ["test -s README.md"] },
  dispatch: {
    start_timeout_ms: 10_000,
    heartbeat_timeout_ms: 6_000,
    backoff_ms: [500],
    jitter: 0,
    boot_timeout_ms: 2_000,
    max_starts_in_flight: 4,
  },
  breaker: { probe_ms: [1_000], probe_jitter: 0 },
};

/** What each bead waits for, by index: one first, two at once, one that gathers them, one last. */
const WAITS = [[], [0], [0], [1, 2], [3]];
const NAMES = ["ground", "left", "right", "roof", "flag"];

const cleanUp = [];
after(async () => {
  for (const undo of cleanUp.reverse()) await undo();
});

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** What an agent does: it says that it began, finds the work that its bead waited for, waits for leave if it
 * has to, writes its file, and says that it is done. */
function work(folder, name, { waits = false, needs = [] } = {}) {
  const leave = waits ? `while [ ! -e '${folder}/leave-${name}' ]; do sleep 0.05; done\n` : "";
  const there = needs.map((other) => `test -s ${other}.txt\n`).join("");
  return `Build the ${name}.\n\n\`\`\`sh
set -e
echo ${name} >> '${folder}/begun'
${there}${leave}echo "this is the ${name}" > ${name}.txt
echo ${name} >> '${folder}/done'
\`\`\`\n`;
}

test("a convoy of five is built, evicted, crashed, and landed once", { skip: !runner, timeout: 240_000 }, async () => {
  const repository = await bareRepository();
  cleanUp.push(() => repository.remove());
  const { folder } = repository;
  const lines = async (name) => (await readFile(join(folder, name), "utf8").catch(() => "")).split("\n").filter(Boolean);
  const port = await freePort();

  let lives = 0;
  const container = async () => {
    lives += 1; // an evicted container loses its disk
    const workspace = join(folder, `life-${lives}`);
    await mkdir(workspace, { recursive: true });
    const running = await program(runner, {
      GASTOWN_RUNNER_ADDR: `127.0.0.1:${port}`,
      GASTOWN_DEV: "1",
      GASTOWN_WORKSPACE: workspace,
      GASTOWN_HEARTBEAT_MS: "300",
      GASTOWN_DRAIN_MS: "500",
      GASTOWN_STOP_GRACE_MS: "500",
      GASTOWN_POLECAT_AGENT: "shell",
    });
    cleanUp.push(() => running.stop());
    return running;
  };

  const first = await container();
  const h = await Harness.start({ containerUrl: `http://127.0.0.1:${port}`, clock: "real", vars: { ENVIRONMENT: "development" } });
  cleanUp.push(() => h.stop());
  const town = await h.createTown({ config: CONFIG });
  const rig = await town.createRig({ git_url: repository.url });

  const tasks = NAMES.map((name, i) => ({
    title: `Build the ${name}`,
    body: work(folder, name, { waits: name === "left" || name === "roof", needs: WAITS[i].map((j) => NAMES[j]) }),
    depends_on: WAITS[i],
  }));
  const batch = { rig_id: rig.id, convoy_title: "A house", tasks, merge_mode: "review-then-land", staged: false };
  const slung = await h.ok("POST", `/api/mayor/${town.id}/tools/sling-batch`, batch);
  const ids = slung.beads.map(({ bead }) => bead.bead_id);
  const convoy = () => h.ok("GET", `/api/mayor/${town.id}/tools/convoys/${slung.convoy.id}`);
  const seen = async () => JSON.stringify([await convoy(), await town.attempts()], null, 1);
  const status = async (i) => (await town.rig(rig.id).bead(ids[i])).status;

  // The container is told to go while an agent is in the middle of its work.
  await until("the left side is being built", async () => (await lines("begun")).includes("left"), { within: PATIENCE, seen });
  await until("the right side is done", async () => (await status(2)) === "closed", { within: PATIENCE, seen });
  await first.stop("SIGTERM");
  await writeFile(join(folder, "leave-left"), "");
  await container();

  // workerd dies while the bead that gathers both is at work.
  await until("the roof is being built", async () => (await lines("begun")).includes("roof"), { within: PATIENCE, seen });
  await h.kill9();
  await writeFile(join(folder, "leave-roof"), "");
  await h.restart();

  const landed = await until(
    "the convoy has landed",
    async () => {
      const now = await convoy();
      return now.status === "landed" && now;
    },
    { within: PATIENCE, seen },
  );
  assert.deepEqual([landed.total_beads, landed.closed_beads], [5, 5]);

  // main, from outside: one landing of five merges, with every part.
  const git = async (...args) => (await run("git", ["-C", repository.bare, ...args])).stdout.trim();
  const files = (await git("ls-tree", "--name-only", "main")).split("\n");
  for (const name of NAMES) assert.ok(files.includes(`${name}.txt`), `main lacks ${name}.txt: ${files}`);
  const history = await git("log", "--graph", "--format=%h %s", "main");
  assert.equal((await git("rev-list", "--first-parent", "main")).split("\n").length, 2, `the first commit, one landing\n${history}`);
  assert.equal(await git("rev-list", "--count", "--merges", "main"), "6", `five merges and the landing\n${history}`);

  // Nothing was done twice: every agent finished once, and only the evicted one had to begin again.
  assert.deepEqual((await lines("done")).sort(), [...NAMES].sort());
  const begun = await lines("begun");
  for (const name of NAMES) {
    const times = begun.filter((line) => line === name).length;
    assert.ok(name === "left" ? times === 2 : times === 1, `${name} was begun ${times} times`);
  }
  const attempts = await town.attempts();
  for (const [i, id] of ids.entries()) {
    const own = attempts.filter((a) => a.bead_id === id);
    assert.equal(own.filter((a) => a.outcome === "succeeded").length, 1, await seen());
    assert.deepEqual(own.filter((a) => !["succeeded", "interrupted"].includes(a.outcome)), [], await seen());
    assert.equal(own.length, NAMES[i] === "left" ? 2 : 1, await seen());
    assert.equal(await status(i), "closed");
  }
  const dispatch = await town.dispatch();
  assert.equal(dispatch.invariant_violations, 0);
  assert.equal(dispatch.breakers[0].generation, 0, "no breaker opened");
  await until("the town is quiet", async () => (await town.dispatch()).next_wake === null, { within: PATIENCE, seen });
  await rm(folder, { recursive: true, force: true });
});
