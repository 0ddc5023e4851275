// The table of scripts/sim-check.sh for programs: node scripts/sim-found.mjs ROWS COMMIT HOURS LAST SECONDS
import { readFileSync } from "node:fs";

const [rows, commit, hours, last, seconds] = process.argv.slice(2);
const number = (text) => (/^[0-9.]+$/.test(text) ? Number(text) : null);

const bugs = readFileSync(rows, "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => {
    const [file, result, first, seed, steps, time, deeds, promise, name] = line.split("\t");
    const [left = "", all = ""] = deeds.split("/");
    return {
      bug: file.slice(0, 2),
      file: `${file}.patch`,
      name,
      found: result,
      first_seed: number(first),
      seed: number(seed),
      steps: number(steps),
      seconds: number(time),
      promise: promise === "-" ? null : promise,
      deeds_left: number(left),
      deeds: number(all),
    };
  });
const table = {
  commit,
  date: new Date().toISOString().slice(0, 10),
  hours_each: Number(hours),
  clean: { seeds: [1, Number(last)], seconds: Number(seconds) },
  bugs,
};
process.stdout.write(`${JSON.stringify(table, null, 2)}\n`);
