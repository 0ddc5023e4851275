// Meddles with the demo from outside: loaded before it (NODE_OPTIONS=--import), it stands between the demo and the worker and
// does what MEDDLE says. The demo and the product know nothing of it.

import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";

// The demo makes its secrets of 32 random bytes; these are not random, so that they are known where they turn up.
if (process.argv[1]?.endsWith("demo/main.mjs")) {
  const { randomBytes } = crypto;
  crypto.randomBytes = (size, ...more) => (size === 32 ? Buffer.from("pl4nted-secret-made-by-the-demo!") : randomBytes(size, ...more));
  syncBuiltinESMExports();
}

const real = globalThis.fetch;
const how = process.env.MEDDLE;

const changes = {
  "gate-passes": (config) => void (config.refinery.gates = ["true"]),
  "gate-fails": (config) => void (config.refinery.gates = ["echo nothing is good enough; false"]),
  "webhook-secret": (config) => void (config.notify.webhook_secret = "not the demo's"),
};

globalThis.fetch = async (url, options = {}) => {
  const path = new URL(url).pathname;
  let { body } = options;
  if (options.method === "PATCH" && path.endsWith("/config") && changes[how]) {
    const config = JSON.parse(body);
    changes[how](config);
    body = JSON.stringify(config);
  }
  const answer = await real(url, { ...options, body });
  if (how === "forced-closed" && options.method === "PATCH" && path.endsWith("/config")) {
    const order = { mode: "forced_closed", reason: "somebody meddles", expires_in_ms: 600_000 };
    const put = new URL(path.replace(/config$/, "breakers/town"), url);
    const ordered = await real(put, { ...options, method: "PUT", body: JSON.stringify(order) });
    if (!ordered.ok) throw new Error(`could not force the breaker closed: ${ordered.status} ${await ordered.text()}`);
  }
  return answer;
};
