// The demo's proofs, shown what they have to refuse.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { FILES } from "../../scripts/demo/program.mjs";
import { history, program, reasons, slowStart } from "../../scripts/demo/proofs.mjs";
import { Repository } from "../../scripts/demo/repo.mjs";
import { until } from "../../scripts/demo/wait.mjs";
import { verify } from "../../scripts/demo/webhook.mjs";

describe("the slow start", () => {
  const at = (ms) => (ms === null ? null : new Date(1_800_000_000_000 + ms).toISOString());
  const start = (booked, proven, { probe = false, finished = null } = {}) => ({
    booked_at: at(booked),
    proven_at: at(proven),
    finished_at: at(finished),
    probe,
  });
  const probe = start(0, 100, { probe: true });

  it("is one, then two, then four", () => {
    const rows = slowStart(
      [probe, start(100, 300), start(101, 200), start(200, 500), start(201, 500), start(202, 500)],
      4,
    );
    assert.deepEqual(
      rows.map(({ flying, allowed }) => `${flying}/${allowed}`),
      ["1/1", "1/2", "2/2", "2/4", "3/4", "4/4"],
    );
  });

  it("is none if too many start at once", () => {
    assert.throws(
      () => slowStart([probe, start(100, 300), start(101, 300), start(102, 300)], 4),
      /3 starts were in flight/,
    );
  });

  it("begins with the probe, alone", () => {
    assert.throws(() => slowStart([start(0, 100)], 4), /was not the probe/);
    assert.throws(() => slowStart([], 4), /was not the probe/);
    assert.throws(() => slowStart([probe, start(50, 200)], 4), /before the probe had proved itself/);
    assert.throws(() => slowStart([probe, start(100, 200, { probe: true })], 4), /more than one probe/);
  });
});

describe("the history", () => {
  let folder;
  let repository;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "gastown-proofs-"));
    repository = await Repository.create(folder, FILES);
    for (const name of ["one", "two"]) await merge(name);
  });
  after(() => rm(folder, { recursive: true, force: true }));

  // As the refinery does it, with git's plumbing, since the repository is bare.
  async function commit(message, ...parents) {
    const tree = await repository.git("rev-parse", "main^{tree}");
    return repository.git("commit-tree", tree, ...parents.flatMap((parent) => ["-p", parent]), "-m", message);
  }
  async function merge(name) {
    const main = await repository.head();
    const work = await commit(`Add ${name}`, main);
    await repository.git("update-ref", "refs/heads/main", await commit(`Merge\n\nBead: bead-${name}`, main, work));
  }
  const bead = (name, more) => ({ name, id: `bead-${name}`, title: `Add ${name}`, after: [], fails: false, ...more });

  it("has one merge for each bead", async () => {
    await history(repository, [bead("one"), bead("two", { after: ["one"] }), bead("three", { fails: true })]);
  });

  it("has none that is missing, refused, unknown or too early", async () => {
    await assert.rejects(
      history(repository, [bead("one"), bead("two"), bead("three")]),
      /«Add three» was merged 0 times/,
    );
    await assert.rejects(
      history(repository, [bead("one"), bead("two", { fails: true })]),
      /«Add two» was merged 1 times/,
    );
    await assert.rejects(history(repository, [bead("one")]), /2 merges instead of 1/);
    await assert.rejects(history(repository, [bead("one", { after: ["two"] }), bead("two")]), /before «Add two»/);
  });

  it("has nothing but merges", async () => {
    const head = await repository.head();
    await repository.git("update-ref", "refs/heads/main", await commit("straight to main", head));
    await assert.rejects(history(repository, [bead("one"), bead("two")]), /not a merge/);
    await repository.git("update-ref", "refs/heads/main", head);
  });

  it("is not enough: the files have to be there, and the program has to answer", async () => {
    await assert.rejects(program(repository, [bead("one")], {}), /main lacks tests\/one.test/);
    await assert.rejects(program(repository, [], { lines: "4\n" }), /`textkit lines` answers "3\\n" instead of "4\\n"/);
    await program(repository, [], { lines: "3\n" });
  });
});

it("a failure without words is refused", () => {
  reasons([{ outcome: "failed", class: "infra", code: "container.lost", reason: "gone" }, { outcome: "succeeded" }]);
  assert.throws(
    () => reasons([{ outcome: "failed", class: "infra", code: "container.lost", reason: " " }]),
    /lacks its class/,
  );
});

it("a signature is that of these bytes and this secret", () => {
  const sign = (secret, text) => `sha256=${createHmac("sha256", secret).update(text).digest("hex")}`;
  assert.equal(verify("s", Buffer.from("text"), sign("s", "text")), true);
  for (const wrong of [sign("t", "text"), sign("s", "Text"), sign("s", "text").slice(0, -1), "", "sha256="]) {
    assert.equal(verify("s", Buffer.from("text"), wrong), false);
  }
});

it("waiting ends with what was seen last", async () => {
  await assert.rejects(
    until("it rains", 50, () => false, { every: 10, seen: async () => "the sun" }),
    (error) => error.message === "not within 0.05 s: it rains" && error.details === "the sun",
  );
});
