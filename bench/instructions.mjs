// Instructions of each verb on the host, counted by callgrind: the same whatever else the machine is doing, so that a
// regression shows. Compares with bench/instructions.json; `node bench/instructions.mjs write` replaces it.
//
// The counts belong to the compiler and the SQLite that the lock files pin. A change beyond the tolerance is either meant, and
// then the new counts are committed with it, or found.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const FILE = fileURLToPath(new URL("instructions.json", import.meta.url));
const SIZES = [1_000, 10_000, 100_000];
const VERBS = ["tick", "handle", "explain"];
/** The function of bench/speed that is counted. */
const COUNTED = "*gastown_speed*measured*";
/** Hash maps of the standard library are seeded at random, which moves a count by less than this part. */
const TOLERANCE = 0.01;

const run = (program, args, options = {}) => execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], maxBuffer: 1 << 28, ...options });

try {
  run("valgrind", ["--version"]);
} catch {
  console.log("instructions: NOT CHECKED, valgrind is not installed");
  process.exit(0);
}

const built = run("cargo", ["bench", "--quiet", "--package", "gastown-speed", "--bench", "instructions", "--no-run", "--message-format=json"]);
const program = built.split("\n").filter(Boolean).map((line) => JSON.parse(line)).findLast((m) => m.executable)?.executable;
if (!program) throw new Error("cargo built no program");

const folder = mkdtempSync(join(tmpdir(), "gastown-instructions-"));
const counts = {};
try {
  for (const size of SIZES) {
    const town = join(folder, `${size}.sqlite`);
    run(program, ["write", town, String(size)]);
    for (const verb of VERBS) {
      const out = join(folder, "callgrind.out");
      run("valgrind", ["--tool=callgrind", `--toggle-collect=${COUNTED}`, `--callgrind-out-file=${out}`, program, "run", town, verb]);
      const total = Number(readFileSync(out, "utf8").match(/^(?:summary|totals): (\d+)/m)?.[1]);
      if (!(total > 0)) throw new Error(`${verb} at ${size}: callgrind counted nothing`);
      counts[`${verb} ${size}`] = total;
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

if (process.argv[2] === "write") {
  writeFileSync(FILE, `${JSON.stringify(counts, null, 2)}\n`);
  console.log(`instructions: written to ${FILE}`);
  process.exit(0);
}

const committed = JSON.parse(readFileSync(FILE, "utf8"));
let moved = 0;
console.log("instructions              counted    committed    change");
for (const [name, count] of Object.entries(counts)) {
  const change = count / committed[name] - 1;
  const off = !(Math.abs(change) <= TOLERANCE);
  moved += off;
  const figures = [count, committed[name] ?? "none"].map((n) => n.toLocaleString("en").padStart(12)).join(" ");
  console.log(`${name.padEnd(20)} ${figures} ${`${(100 * change).toFixed(2)} %`.padStart(9)}${off ? "  <- moved" : ""}`);
}
if (moved) {
  console.error(`instructions: ${moved} moved by more than ${100 * TOLERANCE} %; if that is meant: node bench/instructions.mjs write`);
  process.exit(1);
}
