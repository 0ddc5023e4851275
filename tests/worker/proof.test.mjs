// What is published stands: the page says what was counted, and what ships is within its bounds.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { ROOT } from "../support/programs.mjs";

test("docs/proof.md says what the committed results say", () => {
  const { status, stderr } = spawnSync(process.execPath, [join(ROOT, "scripts/proof.mjs"), "--check"], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
});

test("what every workload was counted to cost is within its target", async () => {
  const { ours, targets } = JSON.parse(await readFile(join(ROOT, "bench/figures.json"), "utf8"));
  for (const [workload, bounds] of Object.entries(targets)) {
    for (const [figure, most] of Object.entries(bounds)) {
      assert.ok(ours[workload][figure] <= most, `${workload}: ${ours[workload][figure]} ${figure}, at most ${most}`);
    }
  }
});

test("the worker that ships is at most 540 KB, gzipped (docs/decisions/013)", async () => {
  const wasm = await readFile(join(ROOT, "build/index_bg.wasm"));
  const size = gzipSync(wasm, { level: 9 }).length;
  assert.ok(size <= 540 * 1024, `${size} bytes`);
});
