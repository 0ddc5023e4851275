// The counted figures, as they are committed in `figures.json`: what `make bench-cost` prints and compares, and what the
// budgets' tests compare with what they count.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ROOT } from "../tests/support/programs.mjs";
import { PREDECESSOR, TARGETS } from "./predecessor.mjs";
import { dollarsMonth } from "./workloads.mjs";

const PATH = join(ROOT, "bench/figures.json");

/** {ours, predecessor, targets, small}: each {workload_n: {n, ticks, statements, …}} for one town-hour. */
export async function committed() {
  return JSON.parse(await readFile(PATH, "utf8"));
}

export async function commit(ours, small) {
  const priced = Object.entries(PREDECESSOR).map(([key, hour]) => [key, { ...hour, dollars_month: dollarsMonth(hour) }]);
  const all = { ours, predecessor: Object.fromEntries(priced), targets: TARGETS, small };
  // One line for each workload, so that a change reads as what it is.
  const lines = (part) => Object.entries(part).map(([key, value]) => `    ${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  const parts = Object.entries(all).map(([key, part]) => `  ${JSON.stringify(key)}: {\n${lines(part).join(",\n")}\n  }`);
  await writeFile(PATH, `{\n${parts.join(",\n")}\n}\n`);
}
