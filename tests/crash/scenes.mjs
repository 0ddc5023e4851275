// The scenes of a round: small pieces of a town's history, each with a fault or a deed of its own. In any of them the
// object may die; every request is therefore repeated until it is answered, as its caller would.

import assert from "node:assert/strict";
import { until } from "../support/poll.mjs";

const SECOND = 1000;
/** Short, where real time passes (calls, boots); else as short as keeps the order of things. */
const CONFIG = {
  dispatch: {
    start_timeout_ms: 5 * SECOND,
    heartbeat_timeout_ms: 20 * SECOND,
    backoff_ms: [2 * SECOND, 5 * SECOND],
    jitter: 0,
    boot_timeout_ms: 1450,
  },
  breaker: { consecutive: 3, probe_ms: [4 * SECOND, 8 * SECOND], probe_jitter: 0 },
};
/** Longer than a heartbeat may take. */
const SILENCE = CONFIG.dispatch.heartbeat_timeout_ms + SECOND;
const PAUSE = 6 * SECOND;
/** Of `src/town/policy.rs`: when an erasure that was in the air is made again. */
const ERASE_LEASE = 60 * SECOND;

/** A 502 of the platform: whether the start arrived, nobody knows (`domain.md`, container.unavailable). */
const CRASHED = { status: 502, body: "The container crashed" };

export const SCENES = {
  /** A town, made until it is there; what was left half-way is deleted. */
  async found(r) {
    const { data } = await r.api("POST", `/api/users/${r.owner}/towns`, { name: "Town" });
    r.town = r.harness.town(data.id, r.owner);
    const list = await r.api("GET", `/api/users/${r.owner}/towns`);
    assert.ok(list.data.some((t) => t.id === data.id), "a town that was answered is listed");
    for (const { id } of list.data.filter((t) => t.id !== data.id)) {
      await r.api("GET", `/api/towns/${id}/dispatch`, undefined, { fine: [404] });
      await r.api("DELETE", `/api/users/${r.owner}/towns/${id}`);
    }
  },

  /** Two rigs. */
  async rig(r) {
    for (const name of ["one", "two"]) {
      const body = { town_id: r.town.id, name, git_url: `https://github.com/acme/${name}.git` };
      const { data } = await r.api("POST", `/api/users/${r.owner}/rigs`, body, {
        keep: (rig) => (rows) => rows.rigs.some((x) => x.rig_id === rig.id),
      });
      r.rigs.push(data.id);
    }
    await r.pass(SILENCE);
  },

  /** In a quiet town settings are changed and a notice is posted: no alarm before, none after. */
  async settings(r) {
    const notify = { webhook_url: r.receiver.url, webhook_secret: r.receiver.secret, rollup_ms: SECOND };
    await r.api("PATCH", `/api/towns/${r.town.id}/config`, { ...CONFIG, notify }, {
      keep: () => (rows) => rows.config[0].json.includes(r.receiver.url),
    });
    await r.quiet();
    await test(r);
    await r.pass(SILENCE);
  },

  /** Beads are slung, done, reviewed. */
  async work(r) {
    const beads = 1 + r.random.below(3);
    for (let n = 0; n < beads; n += 1) {
      await r.sling();
      if (r.random.chance(0.5)) await r.quiet();
    }
    for (let turn = 0; turn < 4; turn += 1) {
      await r.quiet();
      await r.work();
    }
  },

  /** Starts are refused: a backoff, a cap. */
  async refused(r) {
    const times = 1 + r.random.below(3);
    const status = r.random.pick([400, 429, 500, 503]);
    for (let n = 0; n < times; n += 1) r.fake.next("start", { answer: { status, body: { error: "no" } } });
    await r.sling();
    for (let n = 0; n < times; n += 1) await r.pass(PAUSE);
    r.fake.heal();
  },

  /** An answer is lost; the agent runs, or does not. */
  async lost(r) {
    r.fake.next("start", { drop: 0, started: r.random.chance(0.5) });
    await r.sling();
    await r.quiet();
    r.fake.heal();
    await r.work();
  },

  /** Agents fall silent; some have ended without a word. */
  async silent(r) {
    for (let n = 0; n < 2; n += 1) await r.sling();
    await r.quiet();
    for (const agent of r.fake.live) {
      await r.beat(agent);
      if (r.random.chance(0.4)) r.fake.exit(agent.agentId, r.random.pick(["exited", "failed"]), "it ended");
    }
    await r.pass(SILENCE);
  },

  /** The container's health does not answer, so one agent is asked after alone. */
  async alone(r) {
    await r.sling();
    await r.quiet();
    r.mood.alone = true;
    r.fake.always("health", { answer: { status: 500, body: "sick" } });
    await r.pass(SILENCE);
    r.fake.heal();
    r.mood.alone = false;
    await r.pass(PAUSE);
  },

  /** Work is cancelled while it is done: its process is stopped. */
  async cancel(r) {
    const bead = await r.sling();
    await r.quiet();
    for (const agent of r.fake.live.slice(0, 1)) await r.beat(agent);
    await r.api("POST", `/api/towns/${r.town.id}/beads/${bead.id}/cancel`, { reason: "not wanted" }, {
      fine: [409], // asked twice, the first answer lost; or it is closed already
      keep: () => (rows) => rows.beads.some((b) => b.bead_id === bead.id && b.status === "failed" && JSON.parse(b.failure_reason).code === "cancelled"),
    });
    await r.quiet();
  },

  /** An agent at work gets mail, which is sent to its process. */
  async message(r) {
    const bead = await r.sling();
    await r.quiet();
    const [agent] = r.fake.live;
    if (!agent) return;
    await r.beat(agent);
    const letter = { from_agent_id: "a friend", to_agent_id: agent.agentId, subject: "News", body: `of ${bead.id}` };
    await r.api("POST", `/api/towns/${r.town.id}/rigs/${agent.rigId}/mail`, letter);
    await r.quiet();
  },

  /** A start that was answered by the platform and happened all the same: the next one stops its process first. */
  async stop_first(r) {
    r.fake.next("start", { started: true, answer: CRASHED });
    await r.sling();
    await r.pass(PAUSE); // its process says nothing meanwhile: only a stop can end it
  },

  /** A start that never arrived, because the object died: it is sent again. Needs a death of its own. */
  async again(r) {
    await r.killer.arm({ point: "start.arrives" }, r.killer.order);
    await r.sling();
    await r.quiet();
    await r.pass(31 * SECOND);
    await r.work();
  },

  /** A start hangs, and another bead's backoff ends: the loop's own timer. A proof first: two starts may be in flight. */
  async timer(r) {
    await r.sling();
    await r.quiet();
    for (const agent of r.fake.live) await r.beat(agent);
    r.fake.next("start", { answer: { status: 500, body: { error: "no" } } }).next("start", { hang: true });
    await r.sling();
    await r.quiet();
    await r.sling();
    await hangs(r, 1, CONFIG.dispatch.backoff_ms[0] + SECOND);
    r.fake.heal();
    await r.quiet();
  },

  /**
   * A start hangs longer than an alarm may run: the loop, woken by another call's end, ends with something in the air, and
   * the next alarm takes it over.
   */
  async air(r) {
    r.fake.next("start", { hang: true });
    await r.sling();
    await hangs(r, 1, 0);
    r.receiver.hang = true;
    await test(r);
    await comes(() => r.killer.down || r.receiver.hanging === 1);
    const { loops } = (await r.state()) ?? { loops: 0 };
    if (!r.killer.down) await r.jump(11 * 60 * SECOND);
    r.receiver.heal();
    await comes(async () => r.killer.down || (await r.state())?.loops > loops);
    r.fake.heal();
    await r.quiet();
  },

  /** More starts than slots, then more calls than slots. */
  async crowd(r) {
    for (let n = 0; n < 3; n += 1) {
      await r.sling(r.rigs[n % 2]);
      await r.quiet();
      for (const agent of r.fake.live) await r.beat(agent);
    }
    r.receiver.hang = true;
    r.fake.always("start", { hang: true });
    for (let n = 0; n < 6; n += 1) await r.sling(r.rigs[n % 2]);
    const crowded = await waiting(r, "SELECT count(*) AS n FROM attempts WHERE outcome = 'pending'", 6, () => r.fake.hanging === 5);
    if (crowded && !(await r.at("start.waits")) && !r.killer.down) {
      for (let n = 0; n < 2; n += 1) await test(r);
      const full = await waiting(r, "SELECT count(*) AS n FROM deliveries WHERE sent_until IS NOT NULL", 2, () => r.receiver.hanging === 1);
      if (full) await r.at("calls.wait");
    }
    r.fake.heal();
    r.receiver.heal();
    await r.quiet();
    await r.work();
  },

  /** The container is gone for a while: the breaker opens, probes, closes. */
  async outage(r) {
    await r.fake.kill();
    // In both rigs: failures of one alone would open that rig's breaker, and nothing would be reported.
    for (let n = 0; n < 4; n += 1) await r.sling(r.rigs[n % 2]);
    for (let n = 0; n < 4; n += 1) await r.pass(PAUSE);
    await r.fake.boot();
    for (let n = 0; n < 3; n += 1) {
      await r.pass(2 * PAUSE);
      await r.work();
    }
  },

  /** The container drains while something waits, and another comes. */
  async drain(r) {
    await r.sling();
    await r.quiet();
    for (const agent of r.fake.live) await r.beat(agent);
    await r.ask("eviction", async () => (await r.fake.sigterm()) ?? { status: 200 });
    await r.sling();
    await r.pass(16 * SECOND);
    await r.fake.finishDrain();
    await r.alive();
    await r.fake.boot();
    await r.pass(16 * SECOND);
    await r.work();
  },

  /** Settings are changed while somebody lives in the container. */
  async tell(r) {
    await r.sling();
    await r.quiet();
    for (const agent of r.fake.live) await r.beat(agent);
    const name = "The author of the second half";
    await r.api("PATCH", `/api/towns/${r.town.id}/config`, { git_author_name: name }, {
      keep: () => (rows) => rows.config[0].json.includes(name),
    });
    await r.quiet();
    await r.work();
  },

  /** A notice goes to the webhook, which fails at first. */
  async hook(r) {
    r.receiver.status = r.random.pick([200, 500, 503]);
    await test(r);
    await r.quiet();
    r.receiver.heal();
    await r.pass(11 * SECOND);
  },

  /** Finished work goes through a pull request, which the town opens, asks about and merges. */
  async forge(r) {
    const set = (merge_strategy) => {
      const refinery = { code_review: false, auto_merge: true, auto_merge_delay_minutes: 0 };
      const patch = { merge_strategy, git_auth: { github_token: r.forge.token }, refinery };
      return r.api("PATCH", `/api/towns/${r.town.id}/config`, patch);
    };
    await set("pr");
    await r.sling();
    await r.quiet();
    // With a branch, always: without one there is nothing to open.
    for (const agent of r.fake.live) {
      await r.beat(agent);
      await r.done(agent, {});
    }
    await r.quiet();
    await set("direct");
  },

  /** An agent speaks and saves its session; then it is removed, and its store goes with it. */
  async talk(r) {
    const base = `/api/towns/${r.town.id}/rigs/${r.rigs[0]}`;
    const identity = `talker-${r.random.below(1e9)}@here`;
    await r.api("POST", `${base}/agents`, { role: "polecat", name: "Talker", identity }, { fine: [409] }); // asked twice
    const { id } = (await r.api("GET", `${base}/agents`)).data.find((agent) => agent.identity === identity);
    // Whoever hears no answer says it again, so that it may stand there twice; nothing that was answered is lost.
    for (let n = 0; n < 3; n += 1) await r.api("POST", `${base}/agent-events`, { agent_id: id, event_type: "said", data: { n } });
    await r.api("POST", `${base}/agents/${id}/db-snapshot`, "a session");
    const said = async () => [...new Set((await r.api("GET", `${base}/agents/${id}/events`)).data.map((event) => event.data.n))];
    assert.deepEqual(await said(), [0, 1, 2]);
    await r.api("DELETE", `${base}/agents/${id}`, undefined, { fine: [404] });
    await r.quiet();
    await r.pass(ERASE_LEASE + SECOND);
    assert.deepEqual(await said(), []);
  },

  /** The town is deleted while an agent works: asked until it is gone. */
  async delete(r) {
    await r.sling();
    await r.quiet();
    r.mood.deleting = true;
    await r.api("DELETE", `/api/users/${r.owner}/towns/${r.town.id}`, undefined, { fine: [404] });
    await r.alive();
    await r.killer.arm(null);
    const gone = await r.api("GET", `/api/towns/${r.town.id}/dispatch`, undefined, { fine: [403, 404] });
    assert.ok(gone.status >= 400, "a deleted town answers nothing");
    const list = await r.api("GET", `/api/users/${r.owner}/towns`);
    assert.deepEqual(list.data, []);
  },
};

/** A notification for every channel. */
function test(r) {
  return r.api("POST", `/api/towns/${r.town.id}/notifications/test`, undefined, {
    keep: (data) => (rows) => rows.notifications.some((n) => n.kind === "test" && (!data?.id || n.id === data.id)),
  });
}

/** Waits until it is so; false if that does not come to pass, as after a death at another point than was meant. */
function comes(probe) {
  return until("it comes to pass", probe, { within: 6000 }).then(
    () => true,
    () => false,
  );
}

/** Until so many rows say that they wait, and so many of them have reached the other side; or it died. */
function waiting(r, sql, n, reached) {
  return comes(async () => r.killer.down || (reached() && (await r.town.sql(sql).catch(() => null))?.rows[0].n >= n));
}

/** Until `n` requests hang at the container, and then for `ms` more of real time; or until it died. */
async function hangs(r, n, ms) {
  if (!(await comes(() => r.killer.down || r.fake.hanging >= n))) return;
  const since = Date.now();
  await until("its time has passed", () => r.killer.down || Date.now() - since >= ms);
}
