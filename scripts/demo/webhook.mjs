// The other end of the town's webhook: a server of one's own that believes nothing but the signature.

import { createHmac, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

/** Listens; `received` holds what arrived: {at, verified, message, raw}. */
export async function listen(secret) {
  const received = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const raw = Buffer.concat(chunks);
    const verified = verify(secret, raw, request.headers["x-gastown-signature"] ?? "");
    let message = null;
    try {
      message = JSON.parse(raw.toString());
    } catch {
      // `message` stays null
    }
    received.push({ at: Date.now(), verified, message, raw: raw.toString() });
    response.writeHead(verified ? 204 : 401).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    received,
    url: `http://127.0.0.1:${server.address().port}/gastown`,
    of: (kind) => received.filter((delivery) => delivery.message?.kind === kind),
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Whether `signature` is `sha256=` and the HMAC of exactly these bytes. */
export function verify(secret, raw, signature) {
  const right = Buffer.from(`sha256=${createHmac("sha256", secret).update(raw).digest("hex")}`);
  const given = Buffer.from(signature);
  return given.length === right.length && timingSafeEqual(given, right);
}
