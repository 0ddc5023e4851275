// Counts what an object does to its storage, statement by statement, from outside: the object is given its storage
// through a proxy. For tests and benchmarks; production has no such hook.

/** A meter that an object's context can be read through. */
export class Meter {
  #lines = new Map(); // by the statement's text
  #open = null; // the cursor that is being read
  #alarms = 0;

  /** While it is true nothing is counted. */
  paused = false;

  /** The same context, with every statement and every alarm counted. */
  around(ctx) {
    const { storage } = ctx;
    const exec = (text, ...args) => {
      this.#close();
      const cursor = storage.sql.exec(text, ...args);
      this.#open = this.paused ? null : { text, cursor };
      return cursor;
    };
    const setAlarm = (...args) => {
      this.#alarms += this.paused ? 0 : 1;
      return storage.setAlarm(...args);
    };
    const sql = over(storage.sql, { exec });
    return over(ctx, { storage: over(storage, { sql, setAlarm }) });
  }

  /** What was counted so far; an alarm that is set is billed as one row written, and counted as one. */
  read() {
    this.#close();
    const lines = [...this.#lines.values()];
    const sum = (key) => lines.reduce((total, line) => total + line[key], 0);
    return {
      statements: sum("calls"),
      rows_read: sum("rows_read"),
      rows_written: sum("rows_written") + this.#alarms,
      alarms_set: this.#alarms,
      lines,
    };
  }

  reset() {
    this.#close();
    this.#lines.clear();
    this.#alarms = 0;
  }

  // A cursor's counts are final when it has been drained. Objects drain theirs before they run the next statement.
  #close() {
    if (!this.#open) return;
    const { text, cursor } = this.#open;
    this.#open = null;
    const line = this.#lines.get(text) ?? { text, calls: 0, rows_read: 0, rows_written: 0 };
    line.calls += 1;
    line.rows_read += cursor.rowsRead;
    line.rows_written += cursor.rowsWritten;
    this.#lines.set(text, line);
  }
}

/** `target` with some properties of its own; methods of the runtime keep their `this`. */
function over(target, own) {
  return new Proxy(target, {
    get(of, key) {
      if (Object.hasOwn(own, key)) return own[key];
      const value = of[key];
      return typeof value === "function" ? value.bind(of) : value;
    },
  });
}
