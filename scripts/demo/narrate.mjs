// What the demo says, and how: chapters, words explained when they first appear, events as they happen, proofs.

const COLOUR = process.env.NO_COLOR === undefined && (process.stdout.isTTY || process.env.FORCE_COLOR !== undefined);
const paint = (code) => (text) => (COLOUR ? `\x1b[${code}m${text}\x1b[0m` : text);
export const bold = paint("1");
export const dim = paint("2");
export const red = paint("31");
export const green = paint("32");
export const yellow = paint("33");

const WIDTH = 100;
const began = Date.now();

/** Seconds since the demo began. */
export const clock = (at = Date.now()) => `${(Math.max(0, at - began) / 1000).toFixed(1).padStart(5)} s`;

export const line = (text = "") => console.log(text);

let chapters = 0;

export function chapter(title) {
  chapters += 1;
  line();
  line(bold(`${chapters}. ${title}`));
  line();
}

/** A paragraph, wrapped. */
export function say(text) {
  for (const part of wrap(text, WIDTH - 2)) line(`  ${part}`);
}

const explained = new Set();

/** A word and what it means, once. */
export function word(name, meaning) {
  if (explained.has(name)) return;
  explained.add(name);
  const parts = wrap(meaning, WIDTH - 18);
  line(`  ${yellow(name.padEnd(14))}  ${parts[0]}`);
  for (const part of parts.slice(1)) line(`  ${" ".repeat(14)}  ${part}`);
}

/** Something that happened just now, or at `at`. */
export function event(who, what, at = Date.now()) {
  line(`  ${dim(clock(at))}  ${who.padEnd(9)} ${what}`);
}

/** What somebody else said, line by line. */
export function quote(text, { mark = "│", most = Infinity } = {}) {
  const parts = String(text).trimEnd().split("\n");
  for (const part of parts.slice(0, most)) line(`    ${dim(mark)} ${part}`);
  if (parts.length > most) line(`    ${dim(mark)} … and ${parts.length - most} lines more`);
}

/** A name and a text, the text wrapped beneath itself. */
export function field(name, text) {
  const parts = wrap(String(text), WIDTH - 22);
  line(`    ${dim("│")} ${name.padEnd(14)}  ${parts[0] ?? ""}`);
  for (const part of parts.slice(1)) line(`    ${dim("│")} ${" ".repeat(14)}  ${part}`);
}

const proofs = [];

/** A statement that was checked from outside. */
export function proved(text) {
  proofs.push(text);
  const parts = wrap(text, WIDTH - 4);
  line(`  ${green("✔")} ${parts[0]}`);
  for (const part of parts.slice(1)) line(`    ${part}`);
}

export const proofCount = () => proofs.length;

function wrap(text, width) {
  const lines = [];
  let current = "";
  for (const part of text.trim().split(/\s+/)) {
    if (current && current.length + 1 + part.length > width) {
      lines.push(current);
      current = part;
    } else {
      current = current ? `${current} ${part}` : part;
    }
  }
  return [...lines, current];
}
