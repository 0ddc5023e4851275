// `make soak`: rounds of deaths, each drawn from a seed of its own. Says every round as it goes, and how to play one again.
//
//   soak.mjs ROUNDS [SEED] [DEALT]     from SEED on (default: the time); DEALT: the rounds of the test, 1 … 20, instead
//
// With RESULT=FILE the figures of a soak that found nothing are written there for docs/proof.md.

import { execFileSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { POINTS } from "./points.mjs";
import { dealt, drawn } from "./plan.mjs";
import { Stage } from "./stage.mjs";

/** A workerd that has lived through so many rounds makes place for a new one, with a new disk. */
const ROUNDS_OF_A_STAGE = 50;

const [rounds, seed = "", deal = ""] = process.argv.slice(2);
const first = seed === "" ? Math.floor(Date.now() / 1000) : Number(seed);
const count = Number(rounds);
const plan = deal ? (n) => dealt(20)[(n - 1) % 20] : drawn;
const tally = new Map();
let stage = null;
let deaths = 0;

console.log(`${count} rounds from seed ${first}`);
for (let n = 0; n < count; n += 1) {
  if (n % ROUNDS_OF_A_STAGE === 0) {
    await stage?.close();
    stage = await Stage.open();
  }
  const began = Date.now();
  const before = stage.deaths.length;
  try {
    await stage.play(plan(first + n));
  } catch (error) {
    console.error(`FAILED: ${error.message}\n${error.stack}`);
    console.error(`again: make soak ROUNDS=1 SEED=${first + n}${deal ? " DEALT=1" : ""}`);
    await stage.close();
    process.exit(1);
  }
  const died = stage.deaths.slice(before);
  deaths += died.length;
  for (const { point } of died) tally.set(point, (tally.get(point) ?? 0) + 1);
  const where = died.map(({ point, mode }) => (mode === "kill" ? point : `${point} (abort)`)).join(", ");
  console.log(`${n + 1}/${count} seed ${first + n} ${((Date.now() - began) / 1000).toFixed(1)} s: ${where || "no death"}`);
}
await stage?.close();
const never = Object.keys(POINTS).filter((point) => !tally.has(point));
console.log(`${count} rounds, ${deaths} deaths at ${tally.size} points, nothing lost, nothing twice`);
if (never.length) console.log(`not died at in these rounds: ${never.join(", ")}`);
if (process.env.RESULT) {
  const deathsAt = Object.fromEntries([...tally].sort());
  const git = (...args) => execFileSync("git", args, { encoding: "utf8" }).trim();
  const commit = git("rev-parse", "--short=12", "HEAD");
  const date = new Date().toISOString().slice(0, 10);
  const figures = { commit, date, rounds: count, first_seed: first, deaths, points: tally.size, of_points: Object.keys(POINTS).length, deaths_at: deathsAt };
  await writeFile(process.env.RESULT, `${JSON.stringify(figures, null, 2)}\n`);
}
