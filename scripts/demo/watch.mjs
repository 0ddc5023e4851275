// Tells what happens in the town while it happens, from the public list of events.

import { event, red } from "./narrate.mjs";
import { demand, until } from "./wait.mjs";

export class Watch {
  #town;
  #seen = new Set();
  #titles = new Map(); // of the beads that were slung
  #sources = new Map(); // merge request → the bead whose work it is
  #targets = new Map(); // merge request → where it wants to go
  #agents = new Map();

  /** True while the container is up: no start may fail then. */
  calm = true;

  constructor(town) {
    this.#town = town;
  }

  /** A bead that will be spoken of. */
  know(id, title) {
    this.#titles.set(id, `«${title}»`);
  }

  /** Tells what has happened since the last look. */
  async look() {
    for (const happened of await this.#town.events()) {
      if (this.#seen.has(happened.bead_event_id)) continue;
      this.#seen.add(happened.bead_event_id);
      const told = await this.#tell(happened);
      if (told) event(told[0], told[1], Date.parse(happened.created_at));
      const failed = happened.event_type === "dispatch_failed" && this.calm;
      demand(
        !failed,
        "a start failed although the container is up",
        `${told?.join(" ")}\n${happened.metadata?.reason}`,
      );
    }
  }

  /** Looks until `probe` is content, and once more, so that nothing is left untold. */
  async until(what, within, probe, options) {
    const result = await until(
      what,
      within,
      async () => {
        await this.look();
        return probe();
      },
      options,
    );
    await this.look();
    return result;
  }

  async #tell({ event_type: type, bead_id: id, agent_id: agent, new_value: value, metadata = {} }) {
    if (type === "review_submitted") {
      this.#sources.set(metadata.mr_bead_id, id);
      this.#targets.set(metadata.mr_bead_id, /^convoy\//.test(metadata.target_branch) ? "its convoy" : metadata.target_branch);
    }
    const review = this.#sources.get(id);
    const title = this.#titles.get(review ?? id);
    if (!title) return null;
    const who = agent ? await this.#name(agent) : "refinery";
    switch (type) {
      case "dispatch_booked":
        if (review) return [who, `tries ${title} together with ${this.#targets.get(id)}`];
        return [who, metadata.probe ? `takes ${title}: this is the probe` : `takes ${title}`];
      case "dispatch_failed":
        return [who, red(`could not start on ${title}: ${value}`)];
      case "review_submitted":
        return [who, `has done ${title}, on the branch ${value}`];
      case "review_completed":
        return [who, value === "merged" ? `merges ${title}` : red(`refuses ${title}: ${lastLine(metadata.message)}`)];
      case "status_changed":
        if (value !== "failed" || review) return null;
        return ["the town", red(`gives up ${title}: ${metadata.failure_reason?.code}`)];
      default:
        return null;
    }
  }

  async #name(id) {
    if (!this.#agents.has(id))
      for (const { id: known, name } of await this.#town.agents()) this.#agents.set(known, name);
    return this.#agents.get(id) ?? "somebody";
  }
}

const lastLine = (text = "") =>
  text
    .trim()
    .split("\n")
    .filter((line) => /^FAIL/.test(line))
    .pop() ?? text.trim().split("\n").pop();
