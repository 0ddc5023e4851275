// A client of the worker's WebSockets: keeps every frame that comes, and what the socket ended with.

import { once } from "node:events";
import { until } from "./poll.mjs";

export class Watcher {
  frames = [];
  ended = null;

  /** Opens `path` of the worker; rejects with a text if it was refused. */
  static async open(h, path) {
    const watcher = new Watcher();
    const socket = new WebSocket(h.url.replace("http", "ws") + path);
    watcher.socket = socket;
    socket.addEventListener("message", ({ data }) => watcher.frames.push(JSON.parse(data)));
    socket.addEventListener("close", ({ code, reason, wasClean }) => (watcher.ended = { code, reason, wasClean }));
    const refused = once(socket, "error").then(() => Promise.reject(new Error(`${path} was refused`)));
    await Promise.race([once(socket, "open"), refused]);
    refused.catch(() => {});
    return watcher;
  }

  /** The first frame from `from` on that `fits`, waited for. */
  async frame(what, fits, from = 0) {
    await until(what, () => this.frames.slice(from).some(fits));
    return this.frames.slice(from).find(fits);
  }

  /** Waits until so many frames have come, and returns them. */
  async first(n) {
    await until(`${n} frames`, () => this.frames.length >= n);
    return this.frames.slice(0, n);
  }

  /** Closes the socket, or waits until the other side has; returns how it ended. */
  async close(code = 1000) {
    this.socket.close(code);
    return this.gone();
  }

  /** Waits for the other side's word that it closes; the end of the connection itself may take it ten seconds. */
  async closing() {
    await until("the other side closes", () => this.socket.readyState >= WebSocket.CLOSING);
  }

  async gone() {
    return until("the socket is closed", () => this.ended);
  }
}

/** The status of an upgrade that is refused, with its body: a WebSocket client does not tell. */
export async function upgrade(h, path, { token = null } = {}) {
  const { request } = await import("node:http");
  const headers = {
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    ...(token ? { Authorization: `Bearer ${token}` } : {}),
  };
  return new Promise((resolve, reject) => {
    const asked = request(h.url + path, { headers, timeout: 30_000 });
    asked.on("upgrade", (answer, socket) => {
      socket.destroy();
      resolve({ status: answer.statusCode });
    });
    asked.on("response", async (answer) => {
      const text = (await answer.toArray()).join("");
      const json = JSON.parse(text);
      resolve({ status: answer.statusCode, error: json.error, code: json.code, headers: answer.headers });
    });
    asked.on("error", reject);
    asked.end();
  });
}
