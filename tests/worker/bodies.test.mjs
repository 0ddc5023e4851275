// A client that sends its whole body before it reads gets an answer, not a broken pipe, whatever the answer is.

import assert from "node:assert/strict";
import { request } from "node:http";
import { connect } from "node:net";
import { after, before, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { Harness } from "../support/harness.mjs";

const PIECE = Buffer.alloc(64 * 1024, "x");

/** Sends `pieces` of 64 KiB one after another, slower than any grace of the runtime, and reads nothing before the last. */
async function send(h, path, { pieces, token, announced = true }) {
  const { hostname, port } = new URL(h.url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.pause();
  const broken = new Promise((_, reject) => socket.on("error", reject));
  broken.catch(() => {});
  const write = (bytes) => Promise.race([new Promise((done) => socket.write(bytes, done)), broken]);
  await write(
    [
      `POST ${path} HTTP/1.1`,
      `Host: ${hostname}`,
      "Connection: close",
      "Content-Type: application/json",
      announced ? `Content-Length: ${pieces * PIECE.length}` : "Transfer-Encoding: chunked",
      ...(token ? [`Authorization: Bearer ${token}`] : []),
      "\r\n",
    ].join("\r\n"),
  );
  for (let i = 0; i < pieces; i += 1) {
    await write(announced ? PIECE : Buffer.concat([Buffer.from("10000\r\n"), PIECE, Buffer.from("\r\n")]));
    await pause(1_500 / pieces); // in all longer than the second that workerd waits
  }
  if (!announced) await write("0\r\n\r\n");
  const text = Buffer.concat(await Promise.race([socket.toArray(), broken])).toString();
  const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(text) ?? [];
  return { status: Number(status), json: JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1)) };
}

describe("bodies that are refused", { concurrency: true }, () => {
  let h;
  before(async () => {
    h = await Harness.start();
  });
  after(() => h?.stop());

  const cases = [
    ["too large and announced", { path: "/api/users/alice/towns", pieces: 32, status: 413 }],
    ["too large and not announced", { path: "/api/users/alice/towns", pieces: 32, announced: false, status: 413 }],
    ["of a caller without a token", { path: "/api/users/alice/towns", pieces: 12, token: null, status: 401 }],
    ["of an unknown route", { path: "/api/no-such-route", pieces: 12, status: 404 }],
  ];
  for (const [what, { path, status, ...how }] of cases) {
    test(`a body ${what} is answered ${status} after it was sent whole`, async () => {
      const answer = await send(h, path, { token: h.token(), ...how });
      assert.equal(answer.status, status);
      assert.equal(answer.json.success, false);
    });
  }

  test("a body beyond all reason is refused before it is read", async () => {
    const length = 64 * 1024 * 1024;
    const status = await new Promise((resolve, reject) => {
      const headers = { Authorization: `Bearer ${h.token()}`, "Content-Length": length };
      const sent = request(`${h.url}/api/users/alice/towns`, { method: "POST", headers }, (answer) => {
        resolve(answer.statusCode);
        sent.destroy();
      });
      sent.on("error", reject);
      sent.write(PIECE);
    });
    assert.equal(status, 413);
  });
});
