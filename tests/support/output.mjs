// What the programs under test print, kept in target/test-output/<test file>.log; and the two things that may never be in it:
// a panic, and a secret.
//
// Every secret that the suite uses says so (`planted("git-token")`), so that it is known wherever it turns up. A panic fails the
// test file in whose worker it happened, unless that file said `expectPanics()` before.

import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

export const OUTPUT = fileURLToPath(new URL("../../target/test-output", import.meta.url));

/** A secret of this kind (letters and dashes), the same in every run. */
export const planted = (kind) => `pl4nted-${kind}-0123456789abcdef`;
const PLANTED = /pl4nted[-_]([a-z]+(?:-[a-z]+)*)/g;
/** The same where a program made the secret itself, of bytes that a test gave it (tests/demo/meddle.mjs). */
const PLANTED_BYTES = Buffer.from("pl4nted").toString("hex");
/** A signed token: whoever made it, it opens something. */
const JWT = /\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}/g;
const PANIC = /panicked at|Reinitializing Wasm application|RuntimeError: unreachable/;

const file = join(OUTPUT, `${basename(process.argv[1] ?? "unknown", ".mjs")}.log`);
let opened = false;
let panicsExpected = false;
const panics = [];
const leaks = [];
const tails = new Map();

/** Keeps what a program printed. */
export function keep(source, text) {
  if (!opened) {
    opened = true;
    mkdirSync(OUTPUT, { recursive: true });
    writeFileSync(file, "");
  }
  appendFileSync(file, text.endsWith("\n") ? text : `${text}\n`);
  // A line may arrive in two pieces.
  const seen = (tails.get(source) ?? "") + text;
  tails.set(source, seen.slice(-200).split("\n").at(-1));
  const line = seen.split("\n").find((l) => PANIC.test(l));
  if (line) panics.push(`${source}: ${line.slice(0, 300)}`);
}

/** From here on a panic in a worker of this file is what its tests are about. */
export function expectPanics() {
  panicsExpected = true;
}

/** Secrets were found in rows: the file fails when it ends. (Thrown where a harness is stopped, it would leave servers running.) */
export function accuse(found) {
  leaks.push(...found);
}

process.on("exit", () => {
  if (panics.length > 0 && !panicsExpected) {
    console.error(`\nA worker panicked, and no test expected it (${file}):\n  ${panics.slice(0, 3).join("\n  ")}`);
    process.exitCode = 1;
  }
  if (leaks.length > 0) {
    console.error(`\nSecrets in rows where none belong:\n  ${[...new Set(leaks)].join("\n  ")}`);
    process.exitCode = 1;
  }
});

/** The kinds of secrets in a text. */
export function secretsIn(text) {
  const kinds = [...text.matchAll(PLANTED)].map(([, kind]) => kind.replace(/-0.*$/, ""));
  if (text.includes(PLANTED_BYTES)) kinds.push("made secret");
  if (text.search(JWT) >= 0) kinds.push("signed token");
  return [...new Set(kinds)];
}

/** Every line below `folder` with a secret in it: `file:line: kind`. */
export function secretsBelow(folder) {
  const found = [];
  for (const path of filesBelow(folder)) {
    readFileSync(path, "latin1")
      .split("\n")
      .forEach((line, i) => {
        for (const kind of secretsIn(line)) found.push(`${path}:${i + 1}: ${kind}`);
      });
  }
  return found;
}

/**
 * The columns that hold a secret because that is what they are for: the town's settings (env_vars, git_auth, the webhook's secret;
 * protocol.md 2.13), and a rig's clone URL as its owner gave it, which may name a user and a token.
 */
const SECRETS_BELONG = ["TownDO config.json", "TownDO rigs.git_url", "FleetDO rigs.git_url"];

/** Every row with a secret where none belongs, in the objects that were stored below `folder`: `object table.column: kind`. */
export async function secretsInRows(folder) {
  const found = new Set();
  for (const path of filesBelow(folder).filter((p) => p.endsWith(".sqlite") && !p.endsWith("metadata.sqlite"))) {
    const object = ["FleetDO", "AgentDO"].find((name) => path.includes(name)) ?? "TownDO";
    const wal = `${path}-wal`;
    const raw = [path, wal].filter((p) => statSync(p, { throwIfNoEntry: false })).map((p) => readFileSync(p, "latin1")).join("");
    if (secretsIn(raw).length === 0) continue;
    const { DatabaseSync } = await import("node:sqlite");
    const db = new DatabaseSync(path, { readOnly: true });
    const tables = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\'").all();
    for (const { name } of tables) {
      for (const row of db.prepare(`SELECT * FROM "${name}"`).all()) {
        for (const [column, value] of Object.entries(row)) {
          const place = `${object} ${name}.${column}`;
          if (typeof value !== "string" || SECRETS_BELONG.includes(place)) continue;
          for (const kind of secretsIn(value)) found.add(`${place}: ${kind}`);
        }
      }
    }
    db.close();
  }
  return [...found];
}

function filesBelow(folder) {
  if (!statSync(folder, { throwIfNoEntry: false })) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
