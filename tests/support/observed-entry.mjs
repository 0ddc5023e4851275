// The worker of entry.mjs, watched: what it hands to Analytics Engine is printed (`POINT …`), so that it is part of the suite's
// output; and, if the harness asks (`notice: true`), every request that an object refused and that changed its rows all the same is
// remembered, which no look from outside could tell so exactly.

import { env as bindings } from "cloudflare:workers";
import * as entry from "./entry.mjs";

const points = { writeDataPoint: (point) => console.log(`POINT ${JSON.stringify(point)}`) };

const observed = (Base) =>
  class extends Base {
    changed = [];

    constructor(ctx, env) {
      super(ctx, { ...env, GASTOWN_AE: points });
    }

    async fetch(request) {
      if (!bindings.TEST_NOTICE) return super.fetch(request);
      const told = await request.clone().text();
      const before = this.tSnapshot([]);
      const answer = await super.fetch(request);
      if (answer.status >= 300 && this.tSnapshot([]) !== before) this.changed.push(`${answer.status} to ${told.slice(0, 2_000)}`);
      return answer;
    }

    /** What was refused and changed something; `alone` requests only, since others would be blamed on each other. */
    tChanged() {
      return this.changed.splice(0);
    }
  };

export const TownDO = observed(entry.TownDO);
export const AgentDO = observed(entry.AgentDO);
export const FleetDO = observed(entry.FleetDO);
export const TownContainerDO = observed(entry.TownContainerDO);
export default class extends entry.default {
  constructor(ctx, env) {
    super(ctx, { ...env, GASTOWN_AE: points });
  }
}
