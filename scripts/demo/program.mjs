// The program that the demo's agents work on, `textkit`: a POSIX shell script with one file per command and one test per
// command, so it runs wherever git does. And the work on it: each bead's body says in prose what is wanted, and its `sh`
// block is what the built-in agent runs (a coding agent would read the prose instead).

const fence = "```";

const RUN_TESTS = `#!/bin/sh
# Runs every test and says which ones failed.
cd "$(dirname "$0")/.." || exit 1
failed=0
for test in tests/*.test; do
  if said=$(sh "$test" 2>&1); then echo "ok    $test"; else echo "FAIL  $test: $said"; failed=1; fi
done
exit $failed
`;

const TEXTKIT = `#!/bin/sh
# textkit: small tools for text.    sh textkit COMMAND < some.txt
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -f "$here/commands/\${1:-}.sh" ]; then
  echo "textkit: no such command: \${1:-(none)}" >&2
  exit 2
fi
exec sh "$here/commands/$1.sh"
`;

/** A test: what goes in, and what has to come out. */
const test = (command, input, output) => `got=$(printf '${input}' | sh textkit ${command})
[ "$got" = '${output}' ] || { echo "expected '${output}', got '$got'"; exit 1; }
`;

/** The repository before the town has touched it. */
export const FILES = {
  "README.md": "# textkit\n\nSmall tools for text.\n",
  textkit: TEXTKIT,
  "commands/lines.sh": "# the number of lines\nwc -l | tr -d ' '\n",
  "tests/lines.test": test("lines", "one\\ntwo\\n", "2"),
  "tests/run.sh": RUN_TESTS,
};

/** What every change has to pass before it is merged. */
export const GATE = "sh tests/run.sh";

/** A bead that adds a command with its test. */
function command(name, wish, script, [input, output], { after = [], fails = false } = {}) {
  const work = heredoc(`commands/${name}.sh`, script) + heredoc(`tests/${name}.test`, test(name, input, output));
  return bead(name, `Add \`${name}\``, `\`sh textkit ${name}\` prints ${wish}. It comes with a test.`, work, {
    after,
    fails,
  });
}

function bead(name, title, wish, work, { after = [], fails = false } = {}) {
  return { name, title, after, fails, body: `${wish}\n\n${fence}sh\n${work}${fence}\n` };
}

const heredoc = (path, text) => `cat > ${path} <<'END'\n${text}END\n`;

/** The first five: two wait for others, and one can never pass. */
export const FIRST = [
  command("words", "how many words a text has", "# the number of words\nwc -w | tr -d ' '\n", [
    "one two\\nthree\\n",
    "3",
  ]),
  command(
    "longest",
    "the longest word of a text",
    "# the longest word\ntr -cs '[:alpha:]' '\\n' | awk '{ if (length($0) > length(w)) w = $0 } END { print w }'\n",
    ["a town of beads\\n", "beads"],
  ),
  command(
    "shout",
    "the text in capitals, with an exclamation mark",
    "# the text in capitals\ntr '[:lower:]' '[:upper:]'\n", // the exclamation mark was forgotten: its test finds out
    ["hello\\n", "HELLO!"],
    { fails: true },
  ),
  command(
    "report",
    "lines, words and the longest word in one line",
    `# lines, words and the longest word
text=$(cat; echo .)
text=\${text%.}
of() { printf '%s' "$text" | sh "$(dirname "$0")/$1.sh"; }
echo "$(of lines) lines, $(of words) words, longest: $(of longest)"
`,
    ["a town of beads\\n", "1 lines, 4 words, longest: beads"],
    { after: ["words", "longest"] },
  ),
  bead(
    "manual",
    "List the commands in README.md",
    "Every command with its first line. It comes with a test.",
    `{
  printf '# textkit\\n\\nSmall tools for text.\\n\\n'
  for file in commands/*.sh; do echo "- $(basename "$file" .sh): $(sed -n '1s/^# //p' "$file")"; done
} > README.md
${heredoc(
  "tests/manual.test",
  `for name in lines words longest report; do
  grep -q "^- $name: " README.md || { echo "README.md lacks $name"; exit 1; }
done
`,
)}`,
    { after: ["report"] },
  ),
];

/** Slung while the container is dead. The last one waits for two others. */
export const DURING_THE_OUTAGE = [
  command("first", "the first line of a text", "# the first line\nsed -n 1p\n", ["one\\ntwo\\n", "one"]),
  command("last", "the last line of a text", "# the last line\nsed -n '$p'\n", ["one\\ntwo\\n", "two"]),
  command("sorted", "the lines in order", "# the lines in order\nsort\n", ["b\\na\\n", "a\nb"]),
  command(
    "ends",
    "the first and the last line",
    `# the first and the last line
text=$(cat)
for part in first last; do printf '%s\\n' "$text" | sh "$(dirname "$0")/$part.sh"; done
`,
    ["one\\ntwo\\nthree\\n", "one\nthree"],
    { after: ["first", "last"] },
  ),
];

/** Slung as one convoy, after the outage: they gather on a branch of their own and come to main together. */
export const AS_A_CONVOY = [
  command("unique", "every line once, in order", "# every line once\nsort -u\n", ["b\\na\\nb\\n", "a\nb"]),
  command(
    "backwards",
    "each line from its end to its beginning",
    `# each line backwards
awk '{ s = ""; for (i = length($0); i > 0; i--) s = s substr($0, i, 1); print s }'
`,
    ["abc\\nxy\\n", "cba\nyx"],
  ),
  command(
    "mirror",
    "every line once, backwards",
    `# every line once, backwards
sh "$(dirname "$0")/unique.sh" | sh "$(dirname "$0")/backwards.sh"
`,
    ["ab\\nab\\n", "ba"],
    { after: ["unique", "backwards"] },
  ),
];

/** What the finished program does with a text: asked of a fresh checkout. */
export const SAMPLE = "the quick brown fox\njumps over\nthe lazy dog\n";
export const ANSWERS = {
  lines: "3\n",
  words: "9\n",
  longest: "quick\n",
  report: "3 lines, 9 words, longest: quick\n",
};
export const ANSWERS_OF_THE_CONVOY = {
  unique: "jumps over\nthe lazy dog\nthe quick brown fox\n",
  backwards: "xof nworb kciuq eht\nrevo spmuj\ngod yzal eht\n",
  mirror: "revo spmuj\ngod yzal eht\nxof nworb kciuq eht\n",
};
export const ANSWERS_AFTER_THE_OUTAGE = {
  first: "the quick brown fox\n",
  last: "the lazy dog\n",
  sorted: "jumps over\nthe lazy dog\nthe quick brown fox\n",
  ends: "the quick brown fox\nthe lazy dog\n",
};
