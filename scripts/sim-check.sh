#!/usr/bin/env bash
# Does the simulator find bugs? Each patch of sim/bugs is one plausible mistake. One after another they are applied to a
# copy of the tree, the simulator is built there, and a bounded swarm must break an invariant: it begins at the seed that
# the patch names, somewhat before the one that found it last, and goes on to the last. First of all the copy as it is
# must keep every promise over all of these seeds. If all were asked for, the table is kept in sim/bugs/found.json.
#   scripts/sim-check.sh [NAME...]   all of them, or those of this number or name (07, 07-infra-charged); LAST=80 HOURS=8 bound each swarm
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
work=$here/target/sim-check
tree=$work/tree
last=${LAST:-80}
hours=${HOURS:-8}
export CARGO_TARGET_DIR=$work/target

# One tree and one target directory of its own: copies that share a target directory get each other's stale libraries.
# Cargo believes in times of change. They are kept, so that what did not change is not compiled again; but whatever a
# patch may have touched in an earlier run is touched again, or that run's library would pass for fresh.
mkdir -p "$tree"
cd "$here"
commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . ':!sim/bugs/found.json' || commit="$commit with changes"
git ls-files -z --cached --others --exclude-standard -- Cargo.toml Cargo.lock rust-toolchain.toml clippy.toml src \
  migrations prompts host runner gt sim bench/speed tests/oracle | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done >"$work/files"
(cd "$tree" && find . -type f -printf '%P\0' | sort -z) |
  comm -z -23 - <(sort -z "$work/files") | (cd "$tree" && xargs -0 -r rm -f)
xargs -0 cp --parents --preserve=timestamps -t "$tree" <"$work/files"
find "$tree/src" -name '*.rs' -exec touch {} +
# What the registry's crates have been compiled to here need not be compiled again.
if [ ! -e "$CARGO_TARGET_DIR" ] && [ -d "$here/target/debug" ]; then
  mkdir -p "$CARGO_TARGET_DIR/debug"
  for part in deps build .fingerprint; do cp -al "$here/target/debug/$part" "$CARGO_TARGET_DIR/debug/$part"; done
fi

cd "$tree"
built=
build() { # and the program must not be the one before
  cargo build --quiet --package gastown-sim --bin gastown-sim || return 1
  local now
  now=$(sha256sum "$CARGO_TARGET_DIR/debug/gastown-sim" | cut -d' ' -f1)
  if [ "$now" = "$built" ]; then echo "the change is not in the build" >&2; return 1; fi
  built=$now
}
swarm() { # FIRST LOG
  "$CARGO_TARGET_DIR/debug/gastown-sim" --seed "$1" --runs $((last - $1 + 1)) --hours "$hours" --shrink "${SHRINK:-20}" \
    >"$2" 2>/dev/null
}

build
clean_from=$SECONDS
if ! swarm 1 "$work/none.log"; then
  echo "without any bug a promise is broken, so nothing can be said about bugs:" >&2
  tail -n 40 "$work/none.log" >&2
  exit 1
fi
clean=$((SECONDS - clean_from))
echo "without any bug: seeds 1 to $last kept every promise, in $clean s"
row() { printf '%-26s %-9s %5s %9s %8s %7s  %s\n' "$@"; }
row bug found seed steps seconds deeds "broken promise"
missed=0
: >"$work/rows.tsv"
for patch in "$here"/sim/bugs/*.patch; do
  name=$(basename "$patch" .patch)
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx "${name%%-*}\|$name"; then continue; fi
  log=$work/$name.log
  first=$(sed -n 's/^Seed: //p' "$patch")
  files=$(sed -n 's|^+++ b/||p' "$patch")
  result=no
  # Seen from inside, the copy belongs to no repository.
  if ! GIT_CEILING_DIRECTORIES=$work git apply "$patch" 2>"$log"; then
    result="no patch"
  else
    touch $files
    if ! build 2>"$log"; then
      result="no build"
    elif ! swarm "$first" "$log"; then
      # A broken promise begins with its number; anything else is a panic elsewhere.
      if grep -qE '^found after .* left: [0-9]+(\.[0-9]+)?: ' "$log"; then result=yes; else result=panic; fi
    fi
  fi
  found=$(sed -nE 's/^found after ([0-9]+) steps, ([0-9.]+) s; ([0-9]+) deeds of ([0-9]+) left: (.*)$/\1 \2 \3\/\4 \5/p' "$log")
  seed=$(sed -nE 's/^again: make sim SEED=([0-9]+).*/\1/p' "$log")
  read -r steps seconds deeds promise <<<"${found:-- - - -}"
  row "$name" "$result" "${seed:--}" "$steps" "$seconds" "$deeds" "$promise"
  printf '%s\t' "$name" "$result" "$first" "${seed:-}" "$steps" "$seconds" "$deeds" "$promise" >>"$work/rows.tsv"
  printf '%s\n' "$(head -n 1 "$patch")" >>"$work/rows.tsv"
  [ "$result" = yes ] || missed=$((missed + 1))
  for file in $files; do cp "$here/$file" "$file"; done
done
cd "$here"
if [ $# -eq 0 ]; then
  node scripts/sim-found.mjs "$work/rows.tsv" "$commit" "$hours" "$last" "$clean" >sim/bugs/found.json
fi
if [ "$missed" -gt 0 ]; then
  echo "$missed not found: see $work/*.log" >&2
  exit 1
fi
