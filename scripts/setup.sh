#!/usr/bin/env bash
# Brings in what a target needs, each tool pinned and only where it is missing. Usage: scripts/setup.sh PART...
#   toolchain  the pinned Rust with its components and the wasm32 target
#   worker     worker-build and the wasm-bindgen of Cargo.toml, in ~/.cargo/bin
#   deny       cargo-deny, in ~/.cargo/bin
#   mutants    cargo-mutants, in ~/.cargo/bin
#   npm        node_modules as locked
#   name       prints the name of the toolchain to use (the Makefile exports it as RUSTUP_TOOLCHAIN)
#   panics     prints what a panic does in the worker that this machine can build: unwind, or abort without rust-src
set -euo pipefail
cd "$(dirname "$0")/.."

WORKER_BUILD=0.8.7
CARGO_DENY=0.20.2
CARGO_MUTANTS=27.1.0

say() { printf '  setup: %s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null || { say "'$1' is missing: $2"; exit 1; }; }
channel() { sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml; }

# The pinned channel. Where only a `stable` of exactly the same release is installed, that one: a machine that cannot
# reach static.rust-lang.org builds with what it has.
name() {
  local pinned home stable
  pinned=$(channel)
  home=${RUSTUP_HOME:-$HOME/.rustup}
  if ! compgen -G "$home/toolchains/$pinned-*" >/dev/null; then
    stable=$(RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null | cut -d' ' -f2) || true
    [ "$stable" = "$pinned" ] && pinned=stable
  fi
  echo "$pinned"
}

toolchain() {
  need rustup "see https://rustup.rs"
  local installed
  if ! RUSTUP_TOOLCHAIN=$toolchain rustc --version >/dev/null 2>&1; then
    say "installing Rust $toolchain"
    rustup toolchain install "$toolchain" --profile minimal
  fi
  installed=$(rustup component list --toolchain "$toolchain" --installed)
  for component in rustfmt clippy; do
    grep -q "^$component" <<<"$installed" || rustup component add "$component" --toolchain "$toolchain"
  done
  # Without it everything can be developed and tested but what a panic does (docs/decisions/009-panics.md).
  grep -q '^rust-src' <<<"$installed" || rustup component add rust-src --toolchain "$toolchain" ||
    say "rust-src could not be fetched: the worker is built to abort on a panic, and will not be deployed from here"
  grep -q '^rust-std-wasm32-unknown-unknown' <<<"$installed" ||
    rustup target add wasm32-unknown-unknown --toolchain "$toolchain"
}

# GASTOWN_PANICS=abort stands in for a machine without rust-src.
panics() {
  local library
  library=$(RUSTUP_TOOLCHAIN=$toolchain rustc --print sysroot)/lib/rustlib/src/rust/library
  if [ "${GASTOWN_PANICS:-}" != abort ] && [ -e "$library/std/Cargo.toml" ]; then echo unwind; else echo abort; fi
}

# install CRATE VERSION BINARY INSTALLED
install() {
  [ "$4" = "$2" ] && return
  say "installing $1 $2 into ~/.cargo/bin (once per machine, a few minutes; found: ${4:-none})"
  # From the root and without this workspace's settings, so that it is the same program wherever it was started.
  (cd / && env -u CARGO_TARGET_DIR -u RUSTFLAGS RUSTUP_TOOLCHAIN="$toolchain" \
    cargo install --quiet --locked "$1" --version "=$2")
}

worker() {
  local bindgen
  bindgen=$(sed -n 's/^wasm-bindgen = "=\([0-9.]*\)".*/\1/p' Cargo.toml)
  install worker-build "$WORKER_BUILD" worker-build "$(worker-build --version 2>/dev/null | tail -1 | awk '{print $NF}')"
  install wasm-bindgen-cli "$bindgen" wasm-bindgen "$(wasm-bindgen --version 2>/dev/null | awk '{print $NF}')"
}

deny() { install cargo-deny "$CARGO_DENY" cargo-deny "$(cargo-deny --version 2>/dev/null | awk '{print $NF}')"; }

mutants() {
  install cargo-mutants "$CARGO_MUTANTS" cargo-mutants "$(cargo-mutants mutants --version 2>/dev/null | awk '{print $NF}')"
}

npm_() {
  need npm "install Node.js 18 or newer"
  local stamp=node_modules/.gastown-lock
  cmp -s package-lock.json "$stamp" && return
  say "npm ci (Node 22, workerd, wrangler, esbuild, wasm-opt, as locked)"
  npm ci --no-audit --no-fund --loglevel=error >&2
  cp package-lock.json "$stamp"
}

toolchain=$(name)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
for part in "$@"; do
  case $part in
    toolchain | worker | deny | mutants | name | panics) "$part" ;;
    npm) npm_ ;;
    *) say "no such part: $part"; exit 2 ;;
  esac
done
