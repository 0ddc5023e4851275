// kill -9 at each await of the objects, the same storage, a restart: nothing is dispatched twice, nothing is lost, the
// alarm is alive. Twenty rounds share out the points of `tests/crash/points.mjs`; `make soak` draws hundreds more.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { dealt, drawn } from "../crash/plan.mjs";
import { AWAITS, POINTS, SPARE } from "../crash/points.mjs";
import { Stage } from "../crash/stage.mjs";
import { ROOT } from "../support/programs.mjs";

const ROUNDS = 20;
/** Seeds at which `make soak` once found something, and what. */
const FOUND = [[5038, "a rig that the registry wrote down, of which the answer was lost, was taken back from the town alone"]];

describe("an object that dies", () => {
  let stage;
  before(async () => {
    stage = await Stage.open();
  });
  after(() => stage?.close());

  for (const { seed, acts } of dealt(ROUNDS)) {
    const points = acts.filter(({ order }) => order).map(({ order }) => (order.mode === "kill" ? order.point : `${order.point} (abort)`));
    test(`at ${points.join(", ")}: nothing lost, nothing twice`, () => stage.play({ seed, acts }));
  }

  for (const [seed, what] of FOUND) test(`from seed ${seed}, not again: ${what}`, () => stage.play(drawn(seed)));

  test("died at every point of the table by kill -9", () => {
    const reached = new Set(stage.deaths.filter(({ mode }) => mode === "kill").map(({ point }) => point));
    assert.deepEqual(Object.keys(POINTS).filter((point) => !SPARE.includes(point) && !reached.has(point)), []);
  });
});

test("the table names every await of the objects, and each await has its points", async () => {
  const inSources = [];
  for (const file of ["town_do.rs", "town_loop.rs", "watch.rs", "perform.rs", "fleet_do.rs", "agent_do.rs"]) {
    const text = await readFile(join(ROOT, "src/objects", file), "utf8");
    for (const line of text.split("\n").filter((l) => !l.trim().startsWith("//") && l.includes(".await"))) {
      inSources.push(`${file}: ${line.trim()}`);
    }
  }
  const fits = (line, [file, awaited]) => {
    const parts = awaited.split("..").map((part) => line.indexOf(part));
    return line.startsWith(`${file}: `) && parts.every((at, n) => at >= 0 && (n === 0 || at >= parts[n - 1]));
  };
  assert.deepEqual(inSources.filter((line) => !AWAITS.some((entry) => fits(line, entry))), [], "awaits that the table lacks");
  assert.deepEqual(AWAITS.filter((entry) => !inSources.some((line) => fits(line, entry))), [], "lines of the table that name no await");
  for (const [file, awaited, points] of AWAITS) {
    assert.ok(points.every((point) => point in POINTS), `${file}: ${awaited} has an unknown point`);
    assert.ok(points.some((point) => !SPARE.includes(point)), `${file}: ${awaited} has no point`);
  }
});
