// An HTTP/1.1 client that sends exactly the bytes it is given and can tell an answer from a connection that was closed without one.

import { once } from "node:events";
import { connect } from "node:net";

/** What came back: `{status, headers, text, json}`, or `{closed: true, why}` if the connection ended first. */
export class RawClient {
  #port;
  #socket = null;
  #received = Buffer.alloc(0);
  #wake = null;
  #ended = null;

  constructor(url) {
    this.#port = Number(new URL(url).port);
  }

  /**
   * One request. `target`, header lines and `body` are bytes or text; Content-Length is added unless `framed` is false: then the
   * lines say how long the body is, rightly or not, and the connection is not used again.
   */
  async send({ method, target, lines = [], body = "", framed = true, within = 15_000 }) {
    const bytes = (part) => (Buffer.isBuffer(part) ? part : Buffer.from(part));
    const content = bytes(body);
    const length = framed && (content.length > 0 || !["GET", "DELETE"].includes(method)) ? [`Content-Length: ${content.length}`] : [];
    const head = [`Host: 127.0.0.1:${this.#port}`, ...lines, ...length].flatMap((line) => [bytes(line), Buffer.from("\r\n")]);
    const request = Buffer.concat([Buffer.from(`${method} `), bytes(target), Buffer.from(" HTTP/1.1\r\n"), ...head, Buffer.from("\r\n"), content]);
    if (!this.#socket || this.#ended) await this.#open();
    this.#socket.write(request);
    const answer = await this.#answer(within);
    if (!framed || answer.closed || /close/i.test(answer.headers.connection ?? "")) this.close();
    return answer;
  }

  close() {
    this.#socket?.destroy();
    this.#socket = null;
  }

  async #open() {
    this.close();
    this.#received = Buffer.alloc(0);
    this.#ended = null;
    const socket = connect(this.#port, "127.0.0.1");
    socket.on("data", (data) => {
      this.#received = Buffer.concat([this.#received, data]);
      this.#wake?.();
    });
    // What has arrived before the end still counts as an answer.
    const end = (why) => () => {
      if (this.#socket !== socket) return;
      this.#ended ??= why;
      this.#wake?.();
    };
    socket.on("error", (error) => end(error.code)());
    socket.on("end", end("end"));
    socket.on("close", end("close"));
    this.#socket = socket;
    await once(socket, "connect");
  }

  async #more(deadline) {
    if (this.#ended) return false;
    const left = deadline - Date.now();
    if (left <= 0) return false;
    let timer;
    await new Promise((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, left);
    });
    clearTimeout(timer);
    this.#wake = null;
    return true;
  }

  async #answer(within) {
    const deadline = Date.now() + within;
    let end = -1;
    while ((end = this.#received.indexOf("\r\n\r\n")) < 0) {
      if (!(await this.#more(deadline))) return { closed: true, why: this.#ended ?? `no answer within ${within} ms` };
    }
    const [first, ...lines] = this.#received.subarray(0, end).toString("latin1").split("\r\n");
    const headers = Object.fromEntries(lines.map((line) => [line.split(":", 1)[0].toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]));
    this.#received = this.#received.subarray(end + 4);
    const status = Number(first.split(" ")[1]);
    const parts = [];
    const take = async (n) => {
      while (this.#received.length < n) if (!(await this.#more(deadline))) return null;
      const part = this.#received.subarray(0, n);
      this.#received = this.#received.subarray(n);
      return part;
    };
    if (/chunked/i.test(headers["transfer-encoding"] ?? "")) {
      for (;;) {
        let at;
        while ((at = this.#received.indexOf("\r\n")) < 0) if (!(await this.#more(deadline))) return { closed: true, why: "within a chunk" };
        const size = Number.parseInt((await take(at + 2)).toString("latin1"), 16);
        const part = await take(size + 2);
        if (part === null) return { closed: true, why: "within a chunk" };
        if (size === 0) break;
        parts.push(part.subarray(0, size));
      }
    } else if (status !== 204 && status !== 304) {
      const part = await take(Number(headers["content-length"] ?? 0));
      if (part === null) return { closed: true, why: "within a body" };
      parts.push(part);
    }
    const text = Buffer.concat(parts).toString("utf8");
    let json = null;
    try {
      json = JSON.parse(text);
    } catch {
      // not ours
    }
    return { status, headers, text, json };
  }
}
