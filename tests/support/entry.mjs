// The worker as built, with a door for tests: each Durable Object in a wrapper that a test can call (RPC) to read rows,
// move the clock and drive the alarm. Main module in tests only; production runs build/index.js itself.
//
// Rust reads the clock by `new Date()` in the glue, so the override below reaches it. The runtime's own scheduler keeps
// the real clock: with a clock far ahead no alarm ever fires by itself, and a test drives every one of them. A clock that
// stands still (`TEST_CLOCK_STANDS`) and random numbers from a seed (`TEST_SEED`) make a run the same every time.

import { DurableObject, WorkerEntrypoint, env as bindings } from "cloudflare:workers";
import * as app from "../../build/index.js";
import { platformOf } from "./fake-platform.mjs";
import { Meter } from "./meter.mjs";
import { arm, Eye, watchClock, watching } from "./watch.mjs";

let offset = Number(bindings.TEST_CLOCK_OFFSET ?? 0);
const stands = bindings.TEST_CLOCK_STANDS === undefined ? null : Number(bindings.TEST_CLOCK_STANDS);
const RealDate = Date;
const now = () => (stands ?? RealDate.now()) + offset;
globalThis.Date = class Date extends RealDate {
  constructor(...given) {
    if (given.length) super(...given);
    else super(now());
  }
  static now() {
    return now();
  }
};

watchClock(() => offset);

if (bindings.TEST_SEED !== undefined) {
  let state = Number(bindings.TEST_SEED) >>> 0;
  // Mulberry32: small, and good enough for ids that must differ.
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 24;
  };
  crypto.getRandomValues = (array) => {
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength).forEach((_, i, bytes) => (bytes[i] = next()));
    return array;
  };
}

/** By the id of an object: how often it was made. */
const lives = new Map();

// One for all objects: what a town causes elsewhere is its cost, too.
const meter = new Meter();

/** `given`: what the object is given in place of its context. */
const wrap = (name, given = (ctx) => ctx) =>
  class extends DurableObject {
    constructor(ctx, env) {
      super(ctx, env);
      lives.set(String(ctx.id), (lives.get(String(ctx.id)) ?? 0) + 1);
      this.eye = watching ? new Eye(ctx, name) : null;
      this.inner = new app[name](meter.around(given(this.eye?.ctx ?? ctx, env)), env);
    }

    async fetch(request) {
      if (this.gate) {
        this.gate.waiting += 1;
        await this.gate.opened;
      }
      return this.eye ? this.eye.fetch(request, (r) => this.inner.fetch(r)) : this.inner.fetch(request);
    }

    webSocketClose(...given) {
      return this.inner.webSocketClose(...given);
    }

    alarm(info) {
      return this.eye ? this.eye.alarm(() => this.inner.alarm(info)) : this.inner.alarm(info);
    }

    /** Where to die next (watch.mjs). */
    tArm(order) {
      arm(order);
    }

    /** What the watched object is at (watch.mjs). */
    tState() {
      return this.eye.state();
    }

    /** Moves the clock of the whole isolate, and this object's alarm with it. */
    async tMove(ms) {
      const by = ms - offset;
      offset = ms;
      await this.eye.moveAlarm(by);
    }

    /** Runs one statement; what it read and wrote is what the platform would bill. */
    tSql(text, ...args) {
      const cursor = this.ctx.storage.sql.exec(text, ...args);
      const rows = cursor.toArray();
      return { rows, read: cursor.rowsRead, written: cursor.rowsWritten };
    }

    /** Every row of every table but `except`, as text: to prove that something changed nothing. */
    tSnapshot(except) {
      const sql = this.ctx.storage.sql;
      const tables = sql.exec("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").toArray();
      const own = tables.map(({ name }) => name).filter((name) => !/^(_cf_|sqlite_)/.test(name) && !except.includes(name));
      return JSON.stringify(own.map((name) => [name, sql.exec(`SELECT * FROM "${name}"`).toArray()]), null, 1);
    }

    /** How often this object was made. */
    tLives() {
      return lives.get(String(this.ctx.id));
    }

    /** When the alarm is set for, in this object's clock; null if it is not. */
    tAlarm() {
      return this.ctx.storage.getAlarm();
    }

    tSetAlarm(at) {
      return at === null ? this.ctx.storage.deleteAlarm() : this.ctx.storage.setAlarm(at);
    }

    /** Runs the alarm as the runtime would (inside the handler there is none), if it is set and, unless forced, due. */
    async tRunAlarm({ force = false, retryCount = 0 } = {}) {
      const scheduledTime = await this.ctx.storage.getAlarm();
      if (scheduledTime === null || (!force && scheduledTime > Date.now())) return false;
      await this.ctx.storage.deleteAlarm();
      try {
        await this.inner.alarm({ scheduledTime, retryCount, isRetry: retryCount > 0 });
      } catch (error) {
        // The runtime would try again, unless the handler has set another alarm.
        if ((await this.ctx.storage.getAlarm()) === null) await this.ctx.storage.setAlarm(scheduledTime);
        throw error;
      }
      return true;
    }

    /** Moves the clock of the whole isolate. */
    tClock(ms) {
      offset = ms;
      return Date.now();
    }

    /** From now on requests wait at the object's door, until `tOpen` lets them in together. */
    tShut() {
      const gate = { waiting: 0 };
      gate.opened = new Promise((resolve) => {
        gate.open = resolve;
      });
      this.gate = gate;
    }

    tWaiting() {
      return this.gate.waiting;
    }

    tOpen() {
      const { open } = this.gate;
      this.gate = null;
      open();
    }

    /** What all objects together did to their storage since the last reset: see `Meter.read`. */
    tMeter() {
      return meter.read();
    }

    tMeterReset() {
      meter.reset();
    }

    tMeterPause(paused) {
      meter.paused = paused;
    }

    /** The object is thrown out of memory; the next call makes it anew. */
    tAbort() {
      this.ctx.abort("test abort");
    }
  };

export const TownDO = wrap("TownDO");
export const AgentDO = wrap("AgentDO");
export const FleetDO = wrap("FleetDO");

/** The container's object, with a platform of the tests (fake-platform.mjs). */
export class TownContainerDO extends wrap("TownContainerDO", withContainer) {
  get platform() {
    return platformOf(this.ctx.id.toString(), this.env.TEST_PLATFORM);
  }

  /** What the platform was asked, and whether a process runs, as JSON. */
  tPlatform() {
    const { running, starts, signals, destroyed } = this.platform;
    return JSON.stringify({ running, starts, signals, destroyed });
  }

  /** What the platform does from now on. */
  tScript(script) {
    this.platform.script = script;
  }

  /** The process ends. */
  tExit(code, message) {
    this.platform.exit(code, message);
  }
}

function withContainer(ctx, env) {
  return new Proxy(ctx, {
    get(of, key) {
      if (key === "container") return platformOf(of.id.toString(), env.TEST_PLATFORM);
      const value = of[key];
      return typeof value === "function" ? value.bind(of) : value;
    },
  });
}

// A call to a town's object that fails as the platform makes it fail: a request asks for it by this header, and is told
// how often the worker tried.
const FAULT = "X-Test-Stub-Fault";
const TRIES = "X-Test-Stub-Tries";

/** The worker, with calls to its objects that fail on demand and the harness's door to the objects (harness.mjs). */
export default class extends WorkerEntrypoint {
  async fetch(request) {
    if (watching && new URL(request.url).pathname === "/test-door") return this.#door(request);
    const fault = request.headers.get(FAULT);
    return fault ? this.#failing(fault, request) : new app.default(this.ctx, this.env).fetch(request);
  }

  async #door(request) {
    const { binding, name, method, args } = await request.json();
    try {
      const stub = this.env[binding].get(this.env[binding].idFromName(name));
      return Response.json({ result: (await stub[method](...args)) ?? null });
    } catch (error) {
      return Response.json({ error: String(error) });
    }
  }

  async #failing(fault, request) {
    let tries = 0;
    const fail = async () => {
      tries += 1;
      // The flags that the platform sets on its own errors: "overloaded", "retryable".
      throw Object.assign(new Error("Durable Object is overloaded. Too many requests queued."), { remote: false, [fault]: true });
    };
    // `worker` knows a binding by the name of its class.
    class DurableObjectNamespace {
      idFromName(name) {
        return { name, toString: () => name };
      }
      get() {
        return { fetch: fail };
      }
    }
    const response = await new app.default(this.ctx, { ...this.env, TOWN: new DurableObjectNamespace() }).fetch(request);
    const headers = new Headers(response.headers);
    headers.set(TRIES, String(tries));
    return new Response(response.body, { status: response.status, headers });
  }
}
