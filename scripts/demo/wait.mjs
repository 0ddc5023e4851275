// Waiting: ask again until it is so, or say what was seen when the time was up. And the failure that ends the demo.

/** Something that the demo promised is not so. The message says what; `details` are shown beneath it. */
export class Broken extends Error {
  constructor(message, details = "") {
    super(message);
    this.details = details;
  }
}

export function demand(condition, message, details) {
  if (!condition) throw new Broken(message, typeof details === "function" ? details() : details);
}

/**
 * Asks `probe` until it returns something truthy. `seen` is asked for details when the time is up. A `Broken` thrown by
 * the probe ends the waiting at once; any other error counts as "not yet".
 */
export async function until(what, within, probe, { every = 100, seen } = {}) {
  const deadline = Date.now() + within;
  let last = null;
  for (;;) {
    try {
      const result = await probe();
      if (result) return result;
      last = null;
    } catch (error) {
      if (error instanceof Broken) throw error;
      last = error;
    }
    if (Date.now() > deadline) {
      const details = [last?.message, await seen?.().catch((error) => error.message)].filter(Boolean).join("\n");
      throw new Broken(`not within ${within / 1000} s: ${what}`, details);
    }
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}
