#!/usr/bin/env bash
# Known vulnerabilities of what this is built from: the crates of Cargo.lock against RustSec, the packages of package-lock.json
# against npm's advisories. What could not be asked is NOT CHECKED, and that is a failure: silence would look like safety.
#   GASTOWN_ADVISORY_DB   another RustSec database than that of deny.toml, by its git url
#   npm_config_registry   another registry than npm's
set -uo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
verdict() { # NAME ok|found|unasked TEXT
  case $2 in
    ok) printf '  ✔ %s: %s\n' "$1" "$3" ;;
    found) failed=1; printf '  ✘ %s: %s\n' "$1" "$3" ;;
    *) failed=1; printf '  ✘ %s: NOT CHECKED: %s\n' "$1" "$3" ;;
  esac
}
quote() { sed 's/^/      /' | tail -n "${1:-40}"; }

config=deny.toml
if [ -n "${GASTOWN_ADVISORY_DB:-}" ]; then
  config=$work/deny.toml
  sed "s|^db-urls = .*|db-urls = [\"$GASTOWN_ADVISORY_DB\"]|; /^\[advisories\]/a db-path = \"$work/db\"" deny.toml >"$config"
fi
cargo deny --workspace --all-features --config "$config" check --hide-inclusion-graph advisories >"$work/rust" 2>&1
code=$?
# A database that is there but cannot be renewed, and an index that cannot be asked for what was yanked, count as unasked.
if grep -qiE 'failed to (fetch|clone|open|load|query)|unable to (access|check|update)|index-failure' "$work/rust"; then
  verdict crates unasked 'the RustSec database or the index of crates.io could not be asked'
  quote 6 <"$work/rust"
elif [ $code -eq 0 ] && grep -q 'advisories ok' "$work/rust"; then
  verdict crates ok 'no advisory in RustSec'
elif grep -qE '^error\[(vulnerability|unmaintained|unsound|yanked|notice)\]' "$work/rust"; then
  verdict crates found 'advisories in RustSec'
  quote <"$work/rust"
else
  verdict crates unasked "cargo deny ended with $code"
  quote 6 <"$work/rust"
fi

npm audit --json --fetch-retries=0 --fetch-timeout=30000 >"$work/npm" 2>"$work/npm-errors"
# Only an answer that counts vulnerabilities is one: an error is JSON, too.
total=$(node -e '
  const { metadata } = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
  if (!Number.isInteger(metadata.vulnerabilities.total)) throw new Error("no count");
  console.log(metadata.vulnerabilities.total);
' "$work/npm" 2>/dev/null) || total=
if [ -z "$total" ]; then
  verdict packages unasked 'the registry did not answer with a count of vulnerabilities'
  cat "$work/npm" "$work/npm-errors" | grep -v '^ *$' | head -n 6 | quote
elif [ "$total" -eq 0 ]; then
  verdict packages ok 'no advisory in npm'
else
  verdict packages found "$total advisories in npm"
  npm audit --fetch-retries=0 2>&1 | quote
fi
exit $failed
