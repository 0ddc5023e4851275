// A webhook's other end: keeps what arrived, and whether its signature is right over the raw body.

import { createHmac, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

export class WebhookReceiver {
  /** Every delivery: {at, raw, json, signature, verified}. */
  deliveries = [];
  /** What to answer; change it to make deliveries fail. */
  status = 200;
  #server;

  constructor(secret) {
    this.secret = secret;
  }

  static async start(secret = "webhook-secret") {
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
      receiver.deliveries.push({ at: Date.now(), raw: raw.toString(), json, signature, verified: receiver.verify(raw, signature) });
      response.writeHead(receiver.status).end();
    });
    receiver.#server.listen(0, "127.0.0.1");
    await once(receiver.#server, "listening");
    return receiver;
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
