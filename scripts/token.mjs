// Prints a token (HS256): `make token USER=alice [SCOPE=operator] [TOWN=id]`, or
//
//   node scripts/token.mjs --user alice [--scope user|operator|container] [--town id] [--hours 8]
//
// `--user` is the subject; of a container token it is the town's owner. Naming a town makes a container token of it,
// unless the scope is operator. The secret comes from the environment (GASTOWN_JWT_SECRET), else from `.dev.vars`, and
// is never printed.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const CONTAINER_HOURS = 8;

function fail(text) {
  console.error(text);
  process.exit(1);
}

function secretFromDevVars() {
  let text;
  try {
    text = readFileSync(new URL("../.dev.vars", import.meta.url), "utf8");
  } catch {
    return "";
  }
  const line = text.split("\n").find((l) => /^\s*GASTOWN_JWT_SECRET\s*=/.test(l));
  if (line === undefined) return "";
  const value = line.slice(line.indexOf("=") + 1).trim();
  const quoted = /^"(.*)"$/.exec(value) ?? /^'(.*)'$/.exec(value);
  return quoted ? quoted[1] : value;
}

const flag = { type: "string" };
let given;
try {
  given = parseArgs({ options: { user: flag, scope: flag, town: flag, hours: flag } }).values;
} catch (error) {
  fail(error.message);
}
const user = given.user ?? "";
const asked = given.scope || "user";
const scope = given.town && asked === "user" ? "container" : asked;
const hours = Number(given.hours || CONTAINER_HOURS);
const secret = process.env.GASTOWN_JWT_SECRET || secretFromDevVars();

if (!secret) fail("no secret: `make dev` makes one in .dev.vars; or set GASTOWN_JWT_SECRET");
if (!["user", "operator", "container"].includes(scope)) fail(`the scope must be user, operator or container, not ${scope}`);
if (scope === "container" && !given.town) fail("a container token needs a town");
if (!user) fail("the user is missing");
if (!(hours > 0)) fail("the hours must be a positive number");

const iat = Math.floor(Date.now() / 1000);
const lives = scope === "container" ? Math.min(hours, CONTAINER_HOURS) : hours;
const exp = iat + Math.round(lives * 3600);
const claims =
  scope === "container" ? { townId: given.town, userId: user, scope, iat, exp } : { sub: user, scope, iat, exp };

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
console.log(`${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`);
