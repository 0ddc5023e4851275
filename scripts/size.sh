#!/usr/bin/env bash
# The size of the built worker, raw and as Cloudflare counts it (gzip), against the bound of 500 KB.
set -euo pipefail
cd "$(dirname "$0")/.."
wasm=build/index_bg.wasm
raw=$(wc -c <$wasm)
gz=$(gzip -9 -c $wasm | wc -c)
js=$(wc -c <build/index.js)
printf 'worker: %d KB Wasm (%d KB gz, bound 500), %d KB JavaScript\n' $((raw / 1024)) $((gz / 1024)) $((js / 1024))
[ "$gz" -le $((500 * 1024)) ] || { echo 'worker: the Wasm is larger than its bound' >&2; exit 1; }
