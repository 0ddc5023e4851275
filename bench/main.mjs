// `make bench-cost`: runs every workload, prints what an hour of it costs beside what the predecessor's costs, and says
// where a target is missed or a figure is not the committed one. UPDATE=1 writes the figures as counted to
// bench/figures.json, unless ONLY is given. STATEMENTS=n shows the n costliest statements of each workload, ONLY=B_1000
// runs that one alone.

import { commit, committed } from "./figures.mjs";
import { PREDECESSOR, TARGETS } from "./predecessor.mjs";
import { WORKLOADS, dollarsMonth, run } from "./workloads.mjs";

const { UPDATE, ONLY, STATEMENTS } = process.env;

const pick = (sizes) =>
  Object.entries(WORKLOADS)
    .flatMap(([name, workload]) => sizes(workload).map((n) => ({ key: `${name}_${n}`, name, n })))
    .filter(({ key }) => !ONLY || key === ONLY);

async function count(list) {
  const counted = {};
  for (const [i, { key, name, n }] of list.entries()) {
    process.stderr.write(`${i + 1}/${list.length} ${key}: ${WORKLOADS[name].title} ...`);
    const began = Date.now();
    const { lines, ...figures } = await run(name, n, { lines: true });
    counted[key] = figures;
    process.stderr.write(` ${((Date.now() - began) / 1000).toFixed(0)} s\n`);
    if (STATEMENTS) costliest(lines, Number(STATEMENTS));
  }
  return counted;
}

function costliest(lines, most) {
  const worth = (line) => line.rows_read + 1000 * line.rows_written; // by price
  const shown = [...lines].sort((a, b) => worth(b) - worth(a)).slice(0, most);
  for (const { calls, rows_read, rows_written, text } of shown) {
    console.log(`  ${pad(calls, 7)} calls ${pad(rows_read, 9)} read ${pad(rows_written, 8)} written  ${text.replace(/\s+/g, " ").trim()}`);
  }
}

const number = new Intl.NumberFormat("en");
const pad = (value, width) => (value === null ? "–" : number.format(value)).padStart(width);

function table(ours) {
  const columns = ["ticks", "statements", "rows_read", "rows_written", "container_calls"];
  const heads = ["ticks", "statements", "rows read", "rows written", "calls"];
  const widths = [6, 11, 13, 13, 8];
  const row = (label, figures) => {
    const hour = columns.map((c, i) => pad(figures[c], widths[i]));
    const tick = columns.slice(1).map((c) => {
      const known = figures.ticks > 0 && figures[c] !== null;
      return pad(known ? Number((figures[c] / figures.ticks).toFixed(1)) : null, 12);
    });
    return `${label.padEnd(20)}${hour.join("")} |${tick.join("")} |${dollarsMonth(figures).toFixed(2).padStart(8)}`;
  };
  console.log(`\nAn alarm that is set is counted as one row written; a month is 720 such hours; – is none, or not known.\n`);
  const hour = heads.map((head, i) => head.padStart(widths[i])).join("");
  const tick = ["statements", "read", "written", "calls"].map((head) => head.padStart(12)).join("");
  console.log(`${"".padEnd(20)}${"per town-hour".padStart(hour.length)} |${"per tick".padStart(tick.length)} |`);
  console.log(`${"".padEnd(20)}${hour} |${tick} | $/month`);
  for (const [key, figures] of Object.entries(ours)) {
    console.log(row(key, figures));
    const theirs = PREDECESSOR[key] ?? PREDECESSOR[key.replace(/^C_(forgets_)?/, "C_single_")];
    if (theirs) console.log(row("  the predecessor", theirs));
  }
  console.log();
}

/** What is wrong, in words. */
function complaints(ours, small, known) {
  const found = [];
  for (const [key, target] of Object.entries(TARGETS)) {
    for (const [what, most] of Object.entries(target)) {
      if (ours[key]?.[what] > most) found.push(`${key}: ${ours[key][what]} ${what}, the target is ${most}`);
    }
  }
  for (const [part, counted] of Object.entries({ ours, small })) {
    for (const [key, figures] of Object.entries(counted)) {
      const [is, was] = [JSON.stringify(figures), JSON.stringify(known?.[part]?.[key])];
      if (!UPDATE && is !== was) found.push(`${key} is ${is}\n    committed: ${was}`);
    }
  }
  return found;
}

const ours = await count(pick((workload) => workload.sizes));
const small = await count(pick(({ small }) => (small ? [small] : [])));
table(ours);
if (UPDATE && !ONLY) {
  await commit(ours, small);
  console.log("bench/figures.json says so now.");
}
const known = await committed().catch(() => null);
const found = complaints(ours, small, known);
if (found.length) {
  console.error(`${found.join("\n")}\nmake bench UPDATE=1 commits the figures as counted.`);
  process.exitCode = 1;
} else {
  console.log("Every target is met, and every figure is the committed one.");
}
