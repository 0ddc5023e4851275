// Waiting without sleeping: ask until it is so, or say what was seen when the time was up.

/** Asks `probe` until it returns something truthy; throws with what it last returned or threw, and what `seen` tells. */
export async function until(what, probe, { within = 10_000, every = 15, seen = null } = {}) {
  const deadline = Date.now() + within;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) {
      const told = last instanceof Error ? last.message : JSON.stringify(last);
      throw new Error(`not within ${within} ms: ${what}; last seen: ${told}${seen ? `\n${await seen()}` : ""}`);
    }
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}

/** `promise`, or an error that says what did not happen in time. */
export function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
