#!/usr/bin/env bash
# Mutation testing of src/town/dispatch and src/town/reconcile with cargo-mutants (settings: .cargo/mutants.toml).
# Usage: scripts/mutants.sh [FILE] [K/N]     one file; the K-th (from 0) of N shards. SLOW=1 runs the slow tests, too.
# Fails if a mutant survives that docs/mutants.md does not argue. What it found stays in target/mutants/mutants.out.
set -euo pipefail
cd "$(dirname "$0")/.."

file=${1:-} shard=${2:-}
out=target/mutants
mkdir -p "$out"

args=(--no-shuffle --jobs 1 --output "$out" --colors never)
if [ -n "$file" ]; then args+=(--file "$file"); else args+=(--file 'src/town/dispatch/**' --file 'src/town/reconcile/**'); fi
[ -n "$shard" ] && args+=(--shard "$shard" --sharding round-robin)
[ -n "${SLOW:-}" ] && args+=(--cargo-arg=--test=breaker_model --cargo-arg=--test=figures
  --cargo-arg=--test=plans --cargo-arg=--test=properties)

# Its own target directory: the crates of the registry are compiled once, not once per run.
code=0
CARGO_TARGET_DIR=$PWD/$out/target nice -n 10 cargo mutants "${args[@]}" || code=$?
# 2: some were missed; 3: some ran into the time limit, which a test would notice, too. Everything else is no verdict.
case $code in 0 | 2 | 3) ;; *) exit "$code" ;; esac

# Names without line and column, which move; one that occurs twice must be argued twice.
missed=$(sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /' "$out/mutants.out/missed.txt" | sort)
argued=$(sed -nE 's/^- `(src\/[^`]+)`.*/\1/p' docs/mutants.md | sort)
left=$(comm -23 <(echo "$missed") <(echo "$argued") | sed '/^$/d')
if [ -n "$left" ]; then
  echo "these mutants survive, and docs/mutants.md does not argue why:" >&2
  echo "$left" >&2
  exit 1
fi
echo "no mutant survives but those argued in docs/mutants.md"
