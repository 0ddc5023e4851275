// Who kills, when, and how often it was done. It hears every point that is passed (points.mjs): those in workerd by a
// word that workerd prints, those of the container and the webhook by their taps.

export class Killer {
  /** workerd is dead and waits to be started again. */
  down = false;
  /** Which life of the object this is: one more with each death. */
  life = 0;
  /** It is being made to die. */
  dying = false;
  /** When it died last: of a death in workerd we hear some moments before or after it. */
  diedAt = 0;
  #order = null;
  #next = null;
  #said = "";

  /** `deaths` gets every death: {point, mode}. */
  constructor(harness, deaths = []) {
    this.harness = harness;
    this.deaths = deaths;
    harness.onLog = (text) => this.#hear(text);
  }

  /** What is armed: {point, nth, mode}. */
  get order() {
    return this.#order;
  }

  /** The point that is armed. */
  get point() {
    return this.#order?.point ?? null;
  }

  /**
   * Die at `point` when it is passed for the nth time; `next`, if given, is armed with the restart, so that it may hit the
   * recovery. Null disarms.
   */
  async arm(order, next = null) {
    this.#order = order && { nth: 1, mode: "kill", ...order };
    this.#next = next;
    const fleet = await this.harness.object("FLEET", "fleet");
    await fleet.tArm(this.#order);
  }

  /** The word that workerd prints at a point of its own. */
  #hear(text) {
    this.#said = (this.#said + text).slice(-4000);
    const word = this.#said.match(/@@(kill|abort) (\S+)@@/);
    if (!word) return;
    this.#said = this.#said.slice(word.index + word[0].length);
    const [, mode, point] = word;
    if (mode === "kill") this.harness.strike();
    this.#died(point, mode);
  }

  /** A point outside workerd was passed. True if the object is dead now. */
  async pass(point, abort) {
    if (this.down) return true; // a call of the process that died
    if (this.#order?.point !== point) return false;
    this.#order.nth -= 1;
    if (this.#order.nth > 0) return false;
    const { mode } = this.#order;
    if (mode === "kill") {
      this.harness.strike();
    } else {
      // It has died when it is gone, not when that was asked for: until then nobody passes here twice.
      this.#order = null;
      this.dying = true;
      await abort();
      this.dying = false;
    }
    this.#died(point, mode);
    return true;
  }

  #died(point, mode) {
    this.deaths.push({ point, mode });
    this.diedAt = Date.now();
    this.life += 1;
    this.#order = this.#next;
    this.#next = null;
    if (mode === "kill") this.down = true;
    if (mode === "abort" && this.#order) this.arm(this.#order).catch(() => {});
  }

  /** workerd again, on the same storage, with the next order armed from its first moment. */
  async revive() {
    await this.harness.kill9();
    await this.harness.restart({ vars: { TEST_KILL: this.#order && JSON.stringify(this.#order) } });
    this.down = false;
  }
}
