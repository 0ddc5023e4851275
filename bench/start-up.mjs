// Start-up of the built worker in workerd: how long its module takes to compile and run, and the first request. Bound of the
// paper: 20 ms (design.md 10). Reported, not asserted: it is a time.

import { Harness } from "../tests/support/harness.mjs";

const ROUNDS = 9;
const median = (times) => times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)];

const first = [];
const later = [];
for (let round = 0; round < ROUNDS; round += 1) {
  const h = await Harness.start();
  try {
    // workerd compiles and starts an isolate with its first request, which here asks nothing of any object.
    for (const times of [first, later]) {
      const began = performance.now();
      await h.api("GET", "/health", undefined, { token: null });
      times.push(performance.now() - began);
    }
  } finally {
    await h.stop();
  }
}
const ms = (times) => `${median(times).toFixed(1)} ms`;
console.log(`worker: first request ${ms(first)}, second ${ms(later)} (medians of ${ROUNDS} fresh processes)`);
