// The awaits of an object, seen from outside: runs in workerd, around what the built worker is given. Where a test has
// armed a point, the object dies there. Off unless the binding TEST_WATCH is set; production has none of it.
//
// Two deaths. `kill`: the thread stops where it is (a loop without end, after a word to the test, which sends SIGKILL).
// Nothing that was written since the last turn of the event loop is on disk, and nothing that was about to leave has
// left: the hardest moment. `abort`: the object alone is thrown out of memory, the process lives.
//
// Alarms are the runtime's own, also under a clock that a test moves: the object speaks of moved time, the runtime is
// told real time, and moving the clock moves the alarm. So after a crash it is the runtime that must ring.

import { env as bindings } from "cloudflare:workers";

export const watching = Boolean(bindings.TEST_WATCH);
const RealDate = Date;
/** The dead-man alarm of `src/objects/town_loop.rs`. */
const DEAD_MAN = 30_000;
/** The pauses of a probe in `src/objects/perform.rs`; a loop's wait is never exactly one of them in these tests. */
const PROBE_PAUSES = [500, 1000, 2000, 4000, 8000];
/** How long a town that is being deleted waits for its agents (`src/objects/town_do.rs`). */
const FAREWELL = 15_000;
/** Longer than it takes a busy machine to hear the word and kill. */
const SPIN = 20_000;

let armed = null;
let clock = () => 0;
const eyes = new Set();
let calls = 0;

export function watchClock(offset) {
  clock = offset;
}

/** {point, nth, mode}: die when `point` is passed for the nth time. Null: live. */
export function arm(order) {
  armed = order && { ...order };
}
if (watching) arm(JSON.parse(bindings.TEST_KILL ?? "null"));

/** A point was passed. True if the object is about to be thrown out: whoever awaits something there waits for ever. */
function pass(point, ctx) {
  if (!armed || armed.point !== point) return false;
  armed.nth -= 1;
  if (armed.nth > 0) return false;
  const { mode } = armed;
  armed = null;
  console.log(`@@${mode} ${point}@@`);
  if (mode === "abort") {
    // Not from within: abort() ends what runs, and the glue's own queue of tasks would be lost with it for every object.
    later(() => ctx.abort("test abort"), 0);
    return true;
  }
  const end = RealDate.now() + SPIN;
  while (RealDate.now() < end);
  throw new Error(`the process should have died at ${point}`);
}

const later = globalThis.setTimeout;
const never = () => new Promise(() => {});

/** What is known of one object: its name, its alarm handlers and whether it is being deleted. */
export class Eye {
  alarms = 0;
  loops = 0;
  deleting = false;
  waits = 0;
  deadMan = false;

  constructor(ctx, name) {
    this.raw = ctx;
    this.name = name;
    eyes.add(this);
  }

  /** For whoever can wait. */
  async pass(point) {
    if (pass(point, this.raw)) await never();
  }

  /** The context as the object gets it. */
  get ctx() {
    const storage = new Proxy(this.raw.storage, { get: (target, key) => this.#method(target, key) });
    return new Proxy(this.raw, {
      get: (target, key) => (key === "storage" ? storage : bound(target, key)),
    });
  }

  #method(storage, key) {
    if (this.name !== "TownDO") return bound(storage, key);
    switch (key) {
      case "getAlarm":
        return () => this.#through("command.alarm.get", async () => this.#moved(await storage.getAlarm()));
      case "setAlarm":
        return (at) => {
          const time = new RealDate(at).getTime();
          return this.#through(this.#setting(time), () => storage.setAlarm(time - clock()));
        };
      case "deleteAlarm":
        return () => this.#through(this.#clearing(), () => storage.deleteAlarm());
      case "deleteAll":
        return () => this.#through("delete.rows", () => storage.deleteAll());
      default:
        return bound(storage, key);
    }
  }

  async #through(point, operation) {
    await this.pass(point);
    const result = await operation();
    await this.pass(`${point}.done`);
    return result;
  }

  #setting(time) {
    if (!this.alarms) return "command.alarm.set";
    const ahead = time - (RealDate.now() + clock());
    const first = !this.deadMan;
    this.deadMan = true;
    if (first || (ahead > DEAD_MAN - 200 && ahead <= DEAD_MAN)) return "loop.dead_man";
    return calls > 0 && ahead < 200 ? "loop.arm.in_the_air" : "loop.arm.set";
  }

  #clearing() {
    if (this.deleting) return "delete.alarm";
    return this.alarms ? "loop.arm.clear" : "command.alarm.clear";
  }

  #moved(at) {
    return at === null ? null : at + clock();
  }

  // ── what the wrapper calls ─────────────────────────────────────────────────────────────────────────────────────

  async fetch(request, go) {
    const path = new URL(request.url).pathname;
    const what = path === "/registry" || path === "/command" ? subject(await request.clone().text()) : path.slice(1);
    const name = { FleetDO: `fleet.${what}`, AgentDO: `agent.${what}` }[this.name] ?? what;
    if (path === "/delete") this.deleting = true;
    await this.pass(`${name}.arrives`);
    const read = request.text.bind(request);
    request.text = async () => {
      const text = await read();
      await this.pass(`${name}.read`);
      return text;
    };
    try {
      const answer = await go(request);
      await this.pass(`${name}.answers`);
      return answer;
    } finally {
      this.deleting = false;
    }
  }

  async alarm(go) {
    this.alarms += 1;
    this.loops += 1;
    this.waits = 0;
    this.deadMan = false;
    try {
      return await go();
    } finally {
      this.alarms -= 1;
    }
  }

  /** {at: when the alarm rings, in moved time; running: alarm handlers; loops: all there ever were}. */
  async state() {
    return { at: this.#moved(await this.raw.storage.getAlarm()), running: this.alarms, loops: this.loops };
  }

  /** The clock goes from one offset to another: what was to ring then rings that much earlier. */
  async moveAlarm(by) {
    const at = await this.raw.storage.getAlarm();
    if (at !== null) await this.raw.storage.setAlarm(at - by);
  }
}

/** Whether a request is a founding, a rig's, or a command of a route; or the registry's verb. */
function subject(text) {
  const words = JSON.parse(text); // src/edge/words.rs: the actor's name and words come first, if there is one
  const after = { user: 2, operator: 2, container: 3, system: 1 }[words[0]];
  if (after === undefined) return words[0];
  return ["found", "add_rig", "remove_rig", "knows_agent"].includes(words[after]) ? words[after] : "command";
}

function bound(target, key) {
  const value = Reflect.get(target, key, target);
  return typeof value === "function" ? value.bind(target) : value;
}

// ── what the object calls by name: fetch and setTimeout ──────────────────────────────────────────────────────────────

if (watching) {
  const loop = () => [...eyes].findLast((eye) => eye.alarms > 0 || eye.deleting);

  const send = globalThis.fetch;
  globalThis.fetch = async (request, init) => {
    const path = new URL(request.url).pathname;
    const kind = { "/agents/start": "start", "/health": "health", "/hook": "webhook" }[path] ?? path.match(/(status|stop|message)$/)?.[1];
    const ctx = loop()?.raw;
    if (pass(`${kind}.leaves`, ctx)) await never();
    calls += 1;
    try {
      const answer = await send(request, init);
      if (pass(`${kind}.answered`, ctx)) await never();
      return answer;
    } finally {
      calls -= 1;
    }
  };

  globalThis.setTimeout = (action, ms, ...rest) => {
    const eye = loop();
    if (!eye) return later(action, ms, ...rest);
    let point = "loop.wait";
    if (eye.deleting && ms === FAREWELL) point = "delete.wait";
    else if (PROBE_PAUSES.includes(ms)) point = "probe.pause";
    else if ((eye.waits += 1) > 1) point = "loop.wait.again";
    pass(point, eye.raw);
    return later(() => {
      pass(`${point === "loop.wait.again" ? "loop.wait" : point}.over`, eye.raw);
      action();
    }, ms, ...rest);
  };
}
