// Many requests at once over kept connections, and what became of each: for the overload tests and the throughput bench.

import { Agent, request } from "node:http";
import { readFileSync } from "node:fs";

/** How many connections are open at once at most; more requests than that wait in this process, not in workerd. */
const CONNECTIONS = 2_500;

/** A client of one worker; `stop` closes its connections. */
export class Client {
  #agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });

  constructor(url) {
    this.url = new URL(url);
  }

  /** One POST: {status, text, retryAfter, ms}. Status 0: the connection broke. */
  post(path, body, headers) {
    const text = JSON.stringify(body);
    const began = performance.now();
    return new Promise((resolve) => {
      const done = (status, answer = "", retryAfter = null) =>
        resolve({ status, text: answer, retryAfter, ms: performance.now() - began });
      const sent = request(
        {
          agent: this.#agent,
          host: this.url.hostname,
          port: this.url.port,
          path,
          method: "POST",
          headers: { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text), ...headers },
        },
        (response) => {
          const chunks = [];
          response.on("data", (chunk) => chunks.push(chunk));
          response.on("end", () => done(response.statusCode, Buffer.concat(chunks).toString(), response.headers["retry-after"] ?? null));
          response.on("error", () => done(0));
        },
      );
      sent.on("error", (error) => done(0, String(error)));
      sent.end(text);
    });
  }

  stop() {
    this.#agent.destroy();
  }
}

/** Runs `one` again and again, `width` at a time, for `ms`: answers a second by status, and latencies. */
export async function closedLoop(one, { width, ms }) {
  const answers = [];
  const began = performance.now();
  const worker = async () => {
    while (performance.now() - began < ms) answers.push(await one());
  };
  await Promise.all(Array.from({ length: width }, worker));
  return { ...summary(answers), perSecond: answers.filter((a) => a.status < 300).length / ((performance.now() - began) / 1000) };
}

/** Starts `one` at a rate, whether it is answered or not, for `ms`. */
export async function openLoop(one, { perSecond, ms }) {
  const answers = [];
  const began = performance.now();
  while (performance.now() - began < ms) {
    const due = Math.floor(((performance.now() - began) / 1000) * perSecond);
    while (answers.length < due) answers.push(one());
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return Promise.all(answers);
}

/** How many answers of each status, and latencies in ms. */
export function summary(answers) {
  const statuses = {};
  for (const { status } of answers) statuses[status] = (statuses[status] ?? 0) + 1;
  const sorted = answers.map((a) => a.ms).sort((a, b) => a - b);
  const at = (q) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0);
  return { statuses, p50: at(0.5), p99: at(0.99), max: at(1) };
}

/** Resident memory of a process, in MB: now, and at its highest. */
export function memory(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const mb = (key) => Math.round(Number(status.match(new RegExp(`${key}:\\s+(\\d+)`))?.[1] ?? 0) / 1024);
  return { now: mb("VmRSS"), peak: mb("VmHWM") };
}
