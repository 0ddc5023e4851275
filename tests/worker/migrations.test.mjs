// A database that this build does not understand is left alone, with an error that says what is wrong.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FakeContainer } from "../support/fake-container.mjs";
import { Harness } from "../support/harness.mjs";

describe("migrations", () => {
  let h;
  let fake;
  before(async () => {
    fake = await FakeContainer.start();
    h = await Harness.start({ container: fake });
  });
  after(async () => {
    await h?.stop();
    await fake?.kill();
  });

  /** A town with something in it, and the name of its migrations table. */
  async function town() {
    const town = await h.createTown();
    const rig = await town.createRig();
    await town.rig(rig.id).sling({ title: "Precious" });
    const [{ name }] = await town.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%migration%'");
    return { town, rig, table: name };
  }

  async function refuses({ town, rig }, pattern) {
    const before = await town.snapshot();
    const schema = await town.rows("SELECT name, sql FROM sqlite_master ORDER BY name");
    const alarm = await town.alarm();
    await town.evict();
    for (const [method, path, body] of [
      ["GET", "/dispatch"],
      ["POST", `/rigs/${rig.id}/sling`, { title: "x" }],
      ["PATCH", "/config", { dispatch: { max_attempts: 2 } }],
    ]) {
      const answer = await town.api(method, path, body);
      assert.ok(answer.status >= 500, `${method} ${path}: ${answer.status} ${answer.text}`);
      assert.equal(answer.json.success, false);
      assert.match(answer.error, pattern);
    }
    assert.deepEqual(await town.snapshot(), before);
    assert.deepEqual(await town.rows("SELECT name, sql FROM sqlite_master ORDER BY name"), schema);
    assert.equal(await town.alarm(), alarm);
    assert.equal(fake.starts.length, 0);
  }

  test("a migration whose text has changed since it was applied refuses to start and touches nothing", async () => {
    const c = await town();
    await c.town.sql(`UPDATE ${c.table} SET checksum = 'something else'`);
    await refuses(c, /checksum|changed/i);
  });

  test("a newer migration that this build does not know refuses to start and touches nothing", async () => {
    const c = await town();
    const columns = (await c.town.rows(`PRAGMA table_info(${c.table})`)).map((column) => column.name);
    const [last] = await c.town.rows(`SELECT * FROM ${c.table} ORDER BY 1 DESC LIMIT 1`);
    const next = { ...last, [columns[0]]: typeof last[columns[0]] === "number" ? last[columns[0]] + 1 : "9999_from_the_future" };
    if ("name" in next) next.name = "9999_from_the_future";
    await c.town.sql(
      `INSERT INTO ${c.table} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})`,
      ...columns.map((column) => next[column]),
    );
    await refuses(c, /newer|unknown/i);
  });

  test("the same build starts on its own database again, and applies nothing twice", async () => {
    const c = await town();
    const before = await c.town.rows(`SELECT * FROM ${c.table}`);
    await c.town.evict();
    assert.equal((await c.town.api("GET", "/dispatch")).status, 200);
    assert.deepEqual(await c.town.rows(`SELECT * FROM ${c.table}`), before);
    assert.equal((await c.town.ok("GET", `/rigs/${c.rig.id}/beads`)).length, 1);
  });
});
