// One round: a small history of a town drawn from a seed, in which its object dies at chosen awaits; then all faults stop,
// its work is done, and everything that was promised is demanded (demands.mjs). The clock moves, the alarms are the
// runtime's own, and while the town recovers nobody asks it anything: its agents speak, its alarm rings.

import assert from "node:assert/strict";
import { until } from "../support/poll.mjs";
import { broken, naive } from "./demands.mjs";
import { SCENES } from "./scenes.mjs";

const SECOND = 1000;
/** How late a town may wake after a crash: the dead-man alarm of `src/objects/town_loop.rs`. */
const DEAD_MAN = 30 * SECOND;
/** Turns after the faults have stopped within which a town must be done; each is a word of an agent or an alarm. */
const TURNS = 300;

/** A stream of numbers in [0, 1) that a seed fixes (mulberry32). */
export function draw(seed) {
  let a = seed >>> 0;
  const next = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
  const below = (n) => Math.floor(next() * n);
  return {
    next,
    below,
    chance: (p) => next() < p,
    pick: (list) => list[below(list.length)],
    shuffle: (list) => list.map((x) => [next(), x]).sort(([x], [y]) => x - y).map(([, x]) => x),
  };
}

export class Round {
  /** What was accepted: {what, holds: (rows) => bool}. */
  accepted = [];
  rigs = [];
  /** What the scenes and the taps tell each other. */
  mood = { deleting: false, alone: false, beads: 0 };
  /** Points that were armed and not passed. */
  missed = [];
  log = [];

  constructor({ seed, harness, killer, fake, receiver, forge }) {
    Object.assign(this, { seed, harness, killer, fake, receiver, forge, random: draw(seed) });
    this.began = Date.now();
    this.owner = `alice-${seed}`;
    fake.restart(); // whoever lived in the round before
    fake.starts.length = 0;
    fake.requests.length = 0;
    receiver.deliveries.length = 0;
    Object.assign(forge, { requests: [], calls: [], merges: [] });
    fake.tap = (kind, moment, about) => this.#heard(kind, moment, about);
    receiver.tap = (moment) => this.at(`webhook.${moment}`);
    forge.tap = (moment) => this.at(`forge.${moment}`);
  }

  /** Plays `acts`: [{scene, order?, next?}], each order a death in its scene; then demands everything. */
  async play(acts) {
    for (const act of acts.filter(({ scene }) => scene !== "delete")) await this.#act(act);
    await this.#recover();
    await this.demand();
    const last = acts.find(({ scene }) => scene === "delete");
    if (last) await this.#act(last);
  }

  async #act({ scene, order = null, next = null }) {
    this.note(`scene ${scene}${order ? `, to die at ${order.point} (${order.mode ?? "kill"}, ${order.nth ?? 1})` : ""}`);
    if (scene !== "found") await this.alive();
    const before = this.killer.deaths.length;
    await this.killer.arm(order, next);
    await SCENES[scene](this);
    // What the crash left is taken up now, before another scene makes new work.
    if (scene !== "delete" && this.town && this.killer.deaths.length > before) await this.pass(DEAD_MAN + SECOND);
    if (scene !== "delete") await this.quiet();
    await this.alive();
    if (order && this.killer.point === order.point) this.missed.push(order.point);
    await this.killer.arm(null);
  }

  /** What happened, with the seconds since the round began. */
  note(text) {
    this.log.push(`${((Date.now() - this.began) / 1000).toFixed(3)} ${text}`);
  }

  // ── deaths ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Starts workerd again if it is dead, and looks at once whether everything accepted is there. */
  async alive() {
    while (this.killer.down) {
      const { point, mode } = this.killer.deaths.at(-1);
      this.note(`died at ${point} (${mode})`);
      await this.killer.revive();
      if (this.town && !this.mood.deleting) await this.#whole();
    }
  }

  async #whole() {
    try {
      const rows = await this.rows();
      for (const { what, holds } of this.accepted) assert.ok(holds(rows), `lost in the crash: ${what}`);
    } catch (error) {
      if (!this.killer.down) throw error;
    }
  }

  /** A point outside workerd is passed. True if the object is dead. */
  at(point) {
    return this.killer.pass(point, () => this.town.evict());
  }

  /** A request at the container: which await is it? Asked of the rows only where a name alone does not tell. */
  async #heard(kind, moment, about) {
    const { life } = this.killer;
    try {
      return await this.#passed(kind, moment, about);
    } catch (error) {
      // Whoever was to be asked has died meanwhile, and so has the call.
      if (this.killer.down || this.killer.dying || this.killer.life !== life) return true;
      throw error;
    }
  }

  async #passed(kind, moment, { body, agentId }) {
    let point = `${kind}.${moment}`;
    if (kind === "start") {
      const again = this.fake.requests.filter((r) => r.kind === "start" && r.body?.dispatchId === body?.dispatchId).length > 1;
      if (again) point = `start.again.${moment}`;
    }
    if (kind === "stop") point = await this.#stop(moment, body);
    if (kind === "status") point = this.mood.alone ? `look.alone.${moment}` : `look.status.${moment}`;
    if (kind === "sync-config") point = `tell.${moment}`;
    if (kind === "health") point = `${await this.#asker()}.health.${moment}`;
    this.note(`  ${point} ${(agentId ?? "").slice(0, 4)} ${(body?.dispatchId ?? "").slice(0, 4)}`);
    return this.at(point);
  }

  async #stop(moment, body) {
    if (this.mood.deleting) return `delete.stop.${moment}`;
    if (!this.killer.point?.startsWith("stop")) return `stop.${moment}`;
    const { rows } = await this.town.sql(
      `SELECT 1 FROM stops s JOIN attempts t ON t.bead_id = s.bead_id OR t.agent_id = s.agent_id
       WHERE s.attempt_id = ? AND t.outcome = 'pending'`,
      body?.dispatchId,
    );
    return rows.length ? `stop_first.${moment}` : `stop.${moment}`;
  }

  async #asker() {
    if (!this.killer.point?.includes(".health.")) return "any";
    const { rows } = await this.town.sql(
      `SELECT (SELECT count(*) FROM breakers WHERE health_until IS NOT NULL) AS probing,
              (SELECT draining_since FROM town) AS draining`,
    );
    if (rows[0].probing) return "probe";
    return rows[0].draining === null ? "look" : "drain";
  }

  // ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Waits until no alarm runs and none is due. */
  async quiet() {
    let state;
    const asked = async () => {
      await this.alive();
      state = await this.state();
      return state && state.running === 0 && (state.at === null || state.at > this.harness.now + 15);
    };
    try {
      await until("the town is quiet", asked, { within: 25_000, every: 4 });
    } catch (error) {
      throw new Error(`${error.message}: ${JSON.stringify(state)} at ${this.harness.now}`);
    }
    return state;
  }

  /** What the object is at (watch.mjs); null if it died while it was asked. */
  async state() {
    try {
      return await (await this.town.stub()).tState();
    } catch {
      return null;
    }
  }

  /** Lets `ms` of the town's time pass, then what became due. */
  async pass(ms) {
    await this.quiet();
    await this.jump(ms);
    await this.quiet();
  }

  async jump(ms) {
    this.harness.offset += Math.ceil(ms);
    try {
      await (await this.town.stub()).tMove(this.harness.offset);
    } catch (error) {
      // The alarm that was moved has rung already, and the object died in it.
      await until("somebody died", () => this.killer.deaths.length > 0);
    }
  }

  // ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * One request, repeated while the object dies under it. `call` makes it; `keep(data)`, if given, says what a 2xx promises:
   * it is looked for after every crash and at the end.
   */
  async ask(what, call, { fine = [], keep = null } = {}) {
    for (let tries = 0; tries < 10; tries += 1) {
      await this.alive();
      const before = this.killer.deaths.length;
      const began = Date.now();
      const answer = await call().catch((error) => ({ status: 0, text: String(error) }));
      if (answer.status >= 200 && answer.status < 300) {
        if (keep) this.accepted.push({ what, holds: keep(answer.data ?? answer.json?.data) });
        return answer;
      }
      if (fine.includes(answer.status)) return answer;
      const excused = answer.status === 0 || answer.status >= 500;
      assert.ok(excused, `${what}: ${answer.status} ${answer.text ?? JSON.stringify(answer.json)}`);
      const died = () => this.killer.deaths.length > before || began - this.killer.diedAt < 100;
      await until(`${what} was answered ${answer.status} because the object died`, died, { within: 2000 });
      this.note(`  asked again: ${what}`);
    }
    throw new Error(`${what}: never answered`);
  }

  /** A request of the town's owner. */
  api(method, path, body, options) {
    const token = this.harness.token({ sub: this.owner });
    return this.ask(`${method} ${path}`, () => this.harness.api(method, path, body, { token }), options);
  }

  /** A bead slung into a rig; what is answered is there for good. */
  async sling(rig = this.random.pick(this.rigs), more = {}) {
    this.mood.beads += 1;
    const title = `bead ${this.mood.beads} of seed ${this.seed}`;
    const { data } = await this.api("POST", `/api/towns/${this.town.id}/rigs/${rig}/sling`, { title, ...more }, {
      keep: ({ bead }) => (rows) => rows.beads.some((b) => b.bead_id === bead.id && b.title === title),
    });
    return data.bead;
  }

  // ── agents ─────────────────────────────────────────────────────────────────────────────────────────────────────

  beat(agent) {
    return this.ask(`heartbeat of ${agent.name}`, async () => {
      if (!this.fake.agents.has(agent.agentId)) return { status: 200 };
      return this.fake.heartbeat(agent.agentId);
    });
  }

  /** The agent's work is done: told until it is heard, then its process ends. */
  async done(agent, more = {}) {
    const { agentId, dispatchId, role, branch } = agent;
    const body = { summary: "done", ...(role === "polecat" ? { branch } : {}), ...more };
    const answer = await this.ask(
      `done of ${agent.name}`,
      async () => (this.fake.agents.get(agentId) === agent ? this.fake.speak(agentId, "POST", `agents/${agentId}/done`, body) : { status: 410 }),
      {
        fine: [409, 410],
        keep: () => (rows) => rows.attempts.some((a) => a.attempt_id === dispatchId && a.outcome === "succeeded"),
      },
    );
    if (this.fake.agents.get(agentId) === agent) this.fake.exit(agentId);
    return answer;
  }

  /** Each agent that lives does a piece of its work, as the seed says. True if there was one. */
  async work({ honest = false } = {}) {
    const agents = this.fake.live;
    for (const agent of agents) {
      const { random } = this;
      if (honest || random.chance(0.7)) await this.beat(agent);
      if (honest || random.chance(0.6)) await this.done(agent, random.chance(0.3) && agent.role === "polecat" ? { branch: undefined } : {});
      else if (random.chance(0.2)) this.fake.exit(agent.agentId, "failed", "it gave up");
    }
    return agents.length > 0;
  }

  // ── rows ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Every row of the town, behind its back: {table: [row]}. */
  async rows() {
    return Object.fromEntries(JSON.parse(await this.town.snapshot()));
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Faults stop; agents work; nobody else asks anything. Ends when nothing is left to do and there is no alarm. */
  async #recover() {
    this.note("faults stop");
    await this.killer.arm(null);
    this.mood.alone = false;
    this.fake.heal();
    await this.fake.boot();
    this.receiver.heal();
    for (let turn = 0; turn < TURNS; turn += 1) {
      const { at } = await this.quiet();
      const rows = await this.rows();
      const wake = naive(rows, this.harness.now);
      // After a crash in an alarm it is the dead-man alarm that rings, however soon something else is due.
      assert.ok(wake === null || (at !== null && at <= wake + DEAD_MAN), `something is due at ${wake}, the alarm is set for ${at}`);
      if (await this.work({ honest: true })) continue;
      const failed = rows.beads.filter((b) => b.status === "failed" && JSON.parse(b.failure_reason).code !== "cancelled");
      const redrive = failed.filter((b) => b.type === "issue" || JSON.parse(b.failure_reason).source === "dispatch");
      for (const bead of redrive) await this.redrive(bead.bead_id);
      if (redrive.length) continue;
      if (at === null) return;
      await this.jump(Math.max(0, at - this.harness.now) + 1);
    }
    throw new Error(`after ${TURNS} turns without faults the town is not done`);
  }

  redrive(bead) {
    return this.api("POST", `/api/towns/${this.town.id}/beads/${bead}/redrive`, { reason: "again" }, {
      fine: [409], // asked twice, the first answer lost
      keep: () => (rows) => rows.bead_events.some((e) => e.bead_id === bead && e.event_type === "redriven"),
    });
  }

  async demand() {
    const rows = await this.rows();
    const fleet = await this.harness.object("FLEET", "fleet");
    const reports = (await fleet.tSql("SELECT * FROM reports WHERE town_id = ?", this.town.id)).rows;
    const towns = (await fleet.tSql("SELECT id FROM towns WHERE owner_user_id = ?", this.owner)).rows;
    const rigs = (await fleet.tSql("SELECT id FROM rigs WHERE town_id = ?", this.town.id)).rows;
    const wrong = broken({ rows, reports, towns, rigs, town: this.town.id, fake: this.fake, receiver: this.receiver });
    for (const { what, holds } of this.accepted) if (!holds(rows)) wrong.push(`accepted and lost: ${what}`);
    const { data } = await this.api("GET", `/api/towns/${this.town.id}/dispatch`);
    if (data.invariant_violations) wrong.push(`the town counted ${data.invariant_violations} violations`);
    assert.deepEqual(wrong, []);
  }
}
