// `make audit` never passes in silence: what it could not ask is NOT CHECKED, and it fails.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ROOT } from "../support/programs.mjs";

const NOBODY = "http://127.0.0.1:9";

describe("make audit", () => {
  let folder;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "gastown-audit-"));
  });
  after(() => rm(folder, { recursive: true }));

  const audit = (env = {}) => {
    const { status, stdout, stderr } = spawnSync(join(ROOT, "scripts/audit.sh"), { encoding: "utf8", env: { ...process.env, ...env } });
    return { status, said: stdout + stderr };
  };
  /** `cargo` and `npm` that say this and end like that. */
  const with_ = async ({ crates: [crateCode, crateText], packages: [packageCode, packageText] }) => {
    for (const [name, code, text] of [["cargo", crateCode, crateText], ["npm", packageCode, packageText]]) {
      await writeFile(join(folder, name), `#!/bin/sh\ncat <<'END'\n${text}\nEND\nexit ${code}\n`, { mode: 0o755 });
    }
    return audit({ PATH: `${folder}${delimiter}${process.env.PATH}` });
  };
  const counts = (total) => JSON.stringify({ vulnerabilities: {}, metadata: { vulnerabilities: { total } } });

  test("says NOT CHECKED and fails where nobody answers, with the real cargo-deny and npm", () => {
    const { status, said } = audit({ GASTOWN_ADVISORY_DB: "https://nobody.invalid/advisory-db", npm_config_registry: `${NOBODY}/` });
    assert.equal(status, 1, said);
    // Without cargo-deny (`make lint` brings it in) there is nobody to ask the database.
    assert.match(said, /✘ crates: NOT CHECKED: (the RustSec database or the index of crates\.io could not be asked|cargo deny ended with 101)/);
    assert.match(said, /✘ packages: NOT CHECKED/);
    assert.doesNotMatch(said, /✔/);
  });

  test("says NOT CHECKED when a registry answers something else, or a tool is not there", async () => {
    for (const answer of ['{"message": "405 Method Not Allowed", "statusCode": 405}', "{}", '{"metadata": {}}', "<html>", ""]) {
      const { status, said } = await with_({ crates: [0, "advisories ok"], packages: [0, answer] });
      assert.equal(status, 1, said);
      assert.match(said, /✔ crates/);
      assert.match(said, /✘ packages: NOT CHECKED/);
    }
    for (const [code, text] of [[101, "error: no such command: `deny`"], [0, ""], [0, "warning[index-failure]: unable to check for yanked crates\nadvisories ok"]]) {
      const { status, said } = await with_({ crates: [code, text], packages: [0, counts(0)] });
      assert.equal(status, 1, said);
      assert.match(said, /✘ crates: NOT CHECKED/);
    }
  });

  test("fails on what was found and says what", async () => {
    const found = await with_({ crates: [1, "error[vulnerability]: a hole in x\nadvisories FAILED"], packages: [1, counts(2)] });
    assert.equal(found.status, 1);
    assert.match(found.said, /✘ crates: advisories in RustSec[^]*a hole in x[^]*✘ packages: 2 advisories/);
  });

  test("passes when both were asked and nothing is known", async () => {
    const { status, said } = await with_({ crates: [0, "advisories ok"], packages: [0, counts(0)] });
    assert.equal(status, 0, said);
    assert.doesNotMatch(said, /✘/);
  });
});
