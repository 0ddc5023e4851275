#!/usr/bin/env bash
# The size of the built worker, raw and as Cloudflare counts it (gzip), against the bound of 540 KB (docs/decisions/013-size.md).
set -euo pipefail
cd "$(dirname "$0")/.."
wasm=build/index_bg.wasm
raw=$(wc -c <$wasm)
gz=$(gzip -9 -c $wasm | wc -c)
js=$(wc -c <build/index.js)
printf 'worker: %d KB Wasm (%d KB gz, bound 540), %d KB JavaScript\n' $((raw / 1024)) $((gz / 1024)) $((js / 1024))
[ "$gz" -le $((540 * 1024)) ] || { echo 'worker: the Wasm is larger than its bound' >&2; exit 1; }
