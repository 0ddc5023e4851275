// A webhook's other end: keeps what arrived, and whether its signature is right over the raw body.

import { createHmac, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { planted } from "./output.mjs";

export class WebhookReceiver {
  /** Every delivery: {at, raw, json, signature, verified}. */
  deliveries = [];
  /** What to answer; change it to make deliveries fail. */
  status = 200;
  /** No delivery is answered before heal(). */
  hang = false;
  #hanging = new Set();
  /** A test's ear: awaited with (moment, json) when a delivery `arrives` and when it has `happened`; true drops it. */
  tap = null;
  #server;

  constructor(secret) {
    this.secret = secret;
  }

  static async start(secret = planted("webhook-secret")) {
    const receiver = new WebhookReceiver(secret);
    receiver.#server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const raw = Buffer.concat(chunks);
      const signature = request.headers["x-gastown-signature"] ?? null;
      let json = null;
      try {
        json = JSON.parse(raw.toString());
      } catch {
        // kept as raw
      }
      if (await receiver.tap?.("arrives", json)) return;
      receiver.deliveries.push({ at: Date.now(), raw: raw.toString(), json, signature, verified: receiver.verify(raw, signature) });
      if (receiver.hang) await new Promise((resume) => receiver.#hanging.add(resume));
      const { status } = receiver;
      if (await receiver.tap?.("happened", json)) return;
      response.writeHead(status).end();
    });
    receiver.#server.listen(0, "127.0.0.1");
    await once(receiver.#server, "listening");
    return receiver;
  }

  /** How many deliveries hang now. */
  get hanging() {
    return this.#hanging.size;
  }

  /** Everything is accepted again; what hangs goes on. */
  heal() {
    this.status = 200;
    this.hang = false;
    for (const resume of this.#hanging) resume();
    this.#hanging.clear();
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}/hook`;
  }

  verify(raw, signature) {
    const right = Buffer.from(`sha256=${createHmac("sha256", this.secret).update(raw).digest("hex")}`);
    const given = Buffer.from(signature ?? "");
    return given.length === right.length && timingSafeEqual(given, right);
  }

  async stop() {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}
