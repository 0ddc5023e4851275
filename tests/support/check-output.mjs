// The last step of `make test-worker`: no secret in anything that the suite or a program under test has printed or logged.
//
//   node tests/support/check-output.mjs [folder…]      default: target/test-output and target/wrangler

import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { OUTPUT, secretsBelow } from "./output.mjs";

const WRANGLER = fileURLToPath(new URL("../../target/wrangler", import.meta.url));
const given = process.argv.slice(2);
const folders = given.length > 0 ? given : [OUTPUT, WRANGLER];

const kept = folders.filter(existsSync).flatMap((folder) => readdirSync(folder, { recursive: true }));
if (kept.length === 0) {
  console.error(`✘ nothing was kept in ${folders.join(", ")}: NOT CHECKED for secrets`);
  process.exit(1);
}
const found = folders.flatMap(secretsBelow);
if (found.length > 0) {
  console.error(`✘ secrets in the suite's output:\n  ${found.join("\n  ")}`);
  process.exit(1);
}
console.log(`✔ no secret in the suite's output (${kept.length} files)`);
