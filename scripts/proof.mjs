// docs/proof.md, from the committed results of `make proof`. `node scripts/proof.mjs` writes the page; with `--check` it
// fails if the page says something else than the results (tests/worker/proof.test.mjs). With `--measure` it measures what
// depends on the machine first (bench/measured.json).

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PAGE = "docs/proof.md";
const MEASURED = "bench/measured.json";
const path = (name) => `${ROOT}${name}`;
const json = (name) => (existsSync(path(name)) ? JSON.parse(readFileSync(path(name), "utf8")) : null);

const n = (value) => (value === null || value === undefined ? "–" : Number(value).toLocaleString("en-US", { maximumFractionDigits: 1 }));
const money = (value) => `$${value.toFixed(2)}`;
const table = (head, rows) => [head, head.map((_, i) => (i === 0 ? "---" : "--:")), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
/** Prose in lines that fit the page, however long its figures are. */
const wrap = (text) => text.replaceAll(/\s+/g, " ").replaceAll(/(.{1,128})(?: |$)/g, "$1\n").trimEnd();
/** Words, with the dashes of an argument's name taken out. */
const plain = (name) => name.replaceAll(/[_-]/g, " ");

function measure() {
  const run = (program, ...args) => execFileSync(program, args, { cwd: ROOT, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
  const measured = {
    machine: `${cpus().length} cores, ${cpus()[0].model}`,
    date: new Date().toISOString().slice(0, 10),
    size: run("scripts/size.sh"),
    start_up: run(process.execPath, "bench/start-up.mjs"),
    throughput: run(process.execPath, "bench/throughput.mjs").split("\n"),
  };
  writeFileSync(path(MEASURED), `${JSON.stringify(measured, null, 2)}\n`);
}

function cost({ ours, predecessor, targets }) {
  const names = {
    A: "A idle, closed beads stored",
    A1: "A1 one healthy agent, closed beads stored",
    B: "B open beads, every start answers 500",
    C: "C healthy agents, batch heartbeats",
    C_forgets: "C, the object made anew after every event",
    C_single: "C, the predecessor's single heartbeats",
  };
  const rows = Object.entries(ours).map(([key, us]) => {
    const name = key.slice(0, key.lastIndexOf("_"));
    // The predecessor has one way to be told of heartbeats, and forgets nothing: it is compared with each of ours.
    const them = predecessor[key] ?? predecessor[`C_single_${us.n}`];
    const pair = (field, show = n) => (them ? `${show(us[field])} (${show(them[field])})` : show(us[field]));
    return [
      `${names[name]}, ${n(us.n)}`,
      ...["ticks", "rows_read", "rows_written", "container_calls"].map((field) => pair(field)),
      pair("dollars_month", money),
    ];
  });
  const bounds = Object.entries(targets).map(([key, bound]) => `${names[key.slice(0, key.lastIndexOf("_"))]}, ${n(key.slice(key.lastIndexOf("_") + 1))}: ${Object.entries(bound).map(([field, most]) => `${plain(field)} ≤ ${n(most)}`).join(", ")}`);
  return `Each workload is one hour of one town in workerd, with the clock moved by hand: counted, not estimated (\`bench/workloads.mjs\`).
\`make bench-cost\` runs them all and fails if one differs from \`bench/figures.json\`; \`ONLY=B_1000\` counts one of them; \`make test\`
counts small ones. The predecessor was measured once, on its own code; nothing here measures it again (\`bench/predecessor.mjs\`).

${table(["per town-hour, ours (the predecessor's)", "ticks", "rows read", "rows written", "container calls", "a month"], rows)}

The last number of a name is how many beads or agents there are. An alarm that is set counts as one row written. A month is 720
such hours, at $0.001 per million rows read and $1 per million written. Targets, all met (\`tests/worker/proof.test.mjs\`):

${bounds.map((bound) => `* ${bound}`).join("\n")}

What was hot and why it is not any more: [decisions/010](decisions/010-fewer-rows.md).`;
}

function speed(counts) {
  const sizes = [...new Set(Object.keys(counts).map((key) => Number(key.split(" ")[1])))];
  const rows = ["tick", "handle", "explain"].map((verb) => [`\`${verb}\``, ...sizes.map((size) => n(counts[`${verb} ${size}`]))]);
  return `Counted by callgrind on the host. Without valgrind the command prints NOT CHECKED and has checked nothing: install valgrind, run
it again. It fails if a count is more than 1 % away from \`bench/instructions.json\`; the counts belong to the pinned compiler and
SQLite. To replace the file: \`node bench/instructions.mjs write\`. Times: \`make bench-speed\`.

${table(["instructions (callgrind)", ...sizes.map((size) => `${n(size)} beads`)], rows)}`;
}

function found({ bugs, clean, hours_each: hours, commit, date }) {
  const rows = bugs.map((bug) => [bug.file.replace(".patch", ""), bug.found, n(bug.seed), n(bug.steps), bug.promise ?? "–"]);
  return `Each is a patch of \`sim/bugs\`; its first line says what is wrong. \`make sim-check ONLY=03\` tries one. Steps are counted over all
seeds from the first that was tried. Names and numbers are left out of the broken promise; its number is that of \`domain.md\` 10.

${table(["seeded bug", "found", "seed", "after steps", "the promise that broke"], rows)}

Commit ${commit}, ${date}. The tree without any bug kept every promise over seeds ${clean.seeds.join(" … ")} of ${hours} h each.`;
}

function covered({ covered: c, commit, date, seeds, seconds, hours_each: hours }) {
  const length = hours % 24 === 0 ? `DAYS=${hours / 24}` : `HOURS=${hours}`;
  const faults = Object.entries(c.happened).sort(([, a], [, b]) => b - a);
  const pairs = new Set(c.state_pairs.map(({ what, from, to }) => `${what} ${from} ${to}`)).size;
  return `${wrap(`${n(c.town_hours / 24)} town-days in ${n(c.runs)} towns (seeds ${seeds.join(" … ")}), ${n(c.steps)} steps, ${n(c.real_starts)} starts of a
simulated process, ${n(c.crashes)} crashes of the object, ${n(c.verbs_with_a_failed_statement)} verbs in which a statement failed, ${n(pairs)} pairs of
states (a bead, an attempt or a breaker went from one to the other); ${n(seconds)} s of one machine. Every promise was kept. Commit ${commit}, ${date}.`)}

\`make sim-long\` draws new towns. The same ones again, at that commit (with \`RUNS=1\` and its own seed, any one of them):

    make sim SEED=${seeds[0]} RUNS=${c.runs} ${length}

${table(["what happened to the towns", "times"], faults.map(([kind, times]) => [plain(kind), n(times)]))}`;
}

function soak(s) {
  return `${wrap(`${n(s.rounds)} rounds from seed ${s.first_seed}: ${n(s.deaths)} deaths of workerd or of the object at ${n(s.points)} of ${n(s.of_points)} points
(an await at which a test can kill: \`tests/crash/points.mjs\`). Nothing was lost, nothing was done twice, every alarm rang. Commit ${s.commit},
${s.date}. Twenty other rounds are in \`make test\`. The same rounds again (with \`ROUNDS=1\` and its own seed, any one of them):`)}

    make soak ROUNDS=${s.rounds} SEED=${s.first_seed}`;
}

function mutants() {
  const text = readFileSync(path("docs/mutants.md"), "utf8");
  const rows = [...text.matchAll(/^\| (?:dispatch|reconcile)\/\S+ \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$/gm)];
  const sum = (column) => rows.reduce((all, row) => all + Number(row[column]), 0);
  return `${n(sum(1))} mutants of \`src/town/dispatch\` and \`src/town/reconcile\`: ${n(sum(2))} caught, ${n(sum(3))} do not compile, ${n(sum(4))} survive, each argued in
[mutants.md](mutants.md), which also says of which commit, and how they were run. All of them take hours, one file minutes:

    make mutants FILE=src/town/dispatch/gate.rs`;
}

function page() {
  const measured = json(MEASURED);
  const parts = [
    `# Proof

The claim: *a town cannot run away, loses nothing, and costs nothing while nothing is due.* Each section names the command that
produces its figures. \`make proof\` runs what takes long, several hours with the mutants, and writes this page. It is generated
from committed results: \`make proof-page\` writes it anew from them, and \`make test\` fails if it says something else. A figure
that belongs to a commit is reproduced at that commit.

\`domain.md\` and \`design.md\` are the papers that the town was built from. They are not in this repository; a number behind them
is a section.

## Numbers to hold: \`make test\`

One file alone: \`cargo test --test figures\`, or \`make test-worker ONLY=budgets\`. The oracle (\`tests/oracle\`) is the judge of the
host's random tests and of the simulator: it checks every promise of \`domain.md\` 10, under the number it has there.

${table(["what", "bound", "asserted by"], [
      ["failed starts in the first hour, 100 waiting beads, dead container", "≤ 12", "`tests/figures.rs`"],
      ["the same per hour later", "≤ 2", "`tests/figures.rs`"],
      ["beads lost by a 70 h outage", "0", "`tests/figures.rs`"],
      ["failures with class, code and reason", "100 %", "`tests/oracle` (promise 8), after every step"],
      ["alarms per hour with nothing due", "0", "`tests/figures.rs`; workload A below"],
      ["rows read per tick, 100,000 beads stored, 10 due", "≤ 300; 150 held", "`tests/worker/budgets.test.mjs`"],
      ["rows written by a heartbeat", "≤ 1, usually 0", "`tests/worker/budgets.test.mjs`, `heartbeats.test.mjs`"],
      ["Wasm, gzipped", "≤ 540 KB (design: 500; `docs/decisions/013`)", "`tests/worker/proof.test.mjs`"],
    ])}`,
    `## Cost: \`make bench-cost\`

${cost(json("bench/figures.json"))}`,
    `## Speed: \`make bench-instructions\`

${speed(json("bench/instructions.json"))}`,
    `## Mutation: \`make mutants\`

${mutants()}`,
    `## The breaker, exhaustively: \`cargo test --test breaker_model\`

A breadth-first search over the \`step\` that ships: from every reachable state it closes again, one trial at a time, and an
override gives way to what is true.`,
  ];
  const section = (title, results, show) => results && parts.push(`## ${title}\n\n${show(results)}`);
  section("Simulation: `make sim-long`", json("sim/long.json"), covered);
  section("Seeded bugs: `make sim-check`", json("sim/bugs/found.json"), found);
  section("Crashes: `make soak`", json("tests/crash/soak.json"), soak);
  section("One machine: `make bench-size bench-throughput`", measured, (m) => `${m.machine}, ${m.date}. These depend on the machine and are not compared by any test.

\`\`\`
${[m.size, m.start_up, ...m.throughput].join("\n")}
\`\`\``);
  parts.push(`## Promises without a figure

| promise | asserted by \`make test\` in | more of it |
| --- | --- | --- |
| an object with too much in hand says 503 and is right afterwards | \`tests/worker/overload.test.mjs\` | \`make soak-load\` |
| poisoned input: no 500, no panic, a refusal changes nothing | \`tests/fuzz.rs\`, \`tests/worker/fuzz.test.mjs\` | \`make fuzz\` |
| a panic ends the request it happened in, nothing else | \`tests/worker/panic.test.mjs\` | [decisions/009](decisions/009-panics.md) |
| no secret in a log | \`tests/worker/secrets.test.mjs\`, \`tests/support/check-output.mjs\` | |
| 10,000 beads due at once all close, none started twice | \`sim/tests/swarm.rs\` (fewer beads) | \`make sim-long\` |
| no known vulnerability in what this is built from | not in \`make test\`: needs a network | \`make audit\` |

Where a command says NOT CHECKED, it has not been proved on that machine: \`README.md\` says what is missing.`);
  return `${parts.join("\n\n")}\n`;
}

const [mode] = process.argv.slice(2);
if (mode === "--measure") measure();
if (mode === "--check") {
  const [is, shouldBe] = [readFileSync(path(PAGE), "utf8"), page()];
  if (is !== shouldBe) {
    console.error(`${PAGE} does not say what the committed results say: node scripts/proof.mjs writes it anew`);
    process.exit(1);
  }
} else {
  writeFileSync(path(PAGE), page());
}
