// The fuzz corpus, and the routes it is thrown at: as corpus.rs, for JavaScript.

import { readFileSync } from "node:fs";

const read = (name) => readFileSync(new URL(name, import.meta.url), "utf8");
const lines = (name) => {
  const all = read(`corpus/${name}.txt`).split("\n").slice(0, -1);
  return all.filter((line) => !line.startsWith("# ")).map((line) => spell(Buffer.from(line)));
};

/** `\xNN`, `\\` and `«text*N»` spelt out. */
function spell(line) {
  const [open, close] = [Buffer.from("«"), Buffer.from("»")];
  const out = [];
  for (let at = 0; at < line.length; ) {
    if (line[at] === 0x5c && line[at + 1] === 0x5c) {
      out.push(Buffer.from("\\"));
      at += 2;
    } else if (line[at] === 0x5c && line[at + 1] === 0x78) {
      out.push(Buffer.from(line.subarray(at + 2, at + 4).toString(), "hex"));
      at += 4;
    } else if (line.subarray(at, at + 2).equals(open)) {
      const end = line.indexOf(close, at);
      const star = line.lastIndexOf("*", end);
      const text = spell(line.subarray(at + 2, star));
      out.push(Buffer.alloc(text.length * Number(line.subarray(star + 1, end).toString()), text));
      at = end + 2;
    } else {
      out.push(line.subarray(at, at + 1));
      at += 1;
    }
  }
  return Buffer.concat(out);
}

export const VALUES = lines("values");
export const BODIES = lines("bodies");
export const SEGMENTS = lines("segments");
export const QUERIES = lines("queries");
export const HEADERS = lines("headers");
export const REQUESTS = JSON.parse(read("requests.json"));

/** The worker's own table: {kind, method, pattern, route}. */
export const ROUTES = [...read("../../src/edge/route.rs").matchAll(/^ {4}(\w+) "([A-Z]+)" "([^"]+)" => (\w+),$/gm)].map(
  ([, kind, method, pattern, route]) => ({ kind, method, pattern, route }),
);

/** The path of every value in a body. */
export function fields(value, path = []) {
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([key, inner]) => [[...path, key], ...fields(inner, [...path, key])]);
}

/** `body` as bytes, with the value at `path` replaced by `raw`, which need not be JSON. */
export function withField(body, path, raw) {
  if (path.length === 0) return raw;
  const [key, ...rest] = path;
  const list = Array.isArray(body);
  const parts = Object.entries(body).flatMap(([name, value], i) => [
    Buffer.from(`${i ? "," : ""}${list ? "" : `${JSON.stringify(name)}:`}`),
    name === key ? withField(value, rest, raw) : Buffer.from(JSON.stringify(value)),
  ]);
  return Buffer.concat([Buffer.from(list ? "[" : "{"), ...parts, Buffer.from(list ? "]" : "}")]);
}

/** A small generator: the seed is the whole of its state. */
export function dice(seed) {
  let state = (BigInt(seed) * 0x9e3779b97f4a7c15n & 0xffffffffffffffffn) | 1n;
  const next = () => {
    state ^= state >> 12n;
    state = (state ^ (state << 25n)) & 0xffffffffffffffffn;
    state ^= state >> 27n;
    return Number(((state * 0x2545f4914f6cdd1dn) & 0xffffffffffffffffn) >> 32n);
  };
  const below = (n) => next() % n;
  const one = (list) => list[below(list.length)];
  /** Bytes with a few of them changed, taken out, doubled or put in. */
  const bent = (bytes) => {
    let out = Buffer.from(bytes);
    for (let n = below(4); n >= 0; n -= 1) {
      const at = below(out.length + 1);
      const [head, tail] = [out.subarray(0, at), out.subarray(at)];
      const ways = [
        () => Buffer.concat([head, tail.subarray(1)]),
        () => head,
        () => Buffer.concat([out, tail.subarray(0, 64)]),
        () => Buffer.concat([head, Buffer.from([below(256), below(256)]), tail]),
        () => Buffer.concat([head, Buffer.from([below(256)]), tail.subarray(1)]),
      ];
      out = one(ways)();
    }
    return out;
  };
  return { below, one, bent };
}
