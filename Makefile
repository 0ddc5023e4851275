# One place for everything that is done with this repository. `make` alone says what there is.
# Tools are pinned and set up by themselves where they are missing (scripts/setup.sh): a machine needs rustup, a C
# compiler, Node.js 18 or newer with npm, and git.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Everything JavaScript runs with the Node 22 of node_modules, whatever the system has.
export PATH := $(CURDIR)/node_modules/.bin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
export RUSTUP_TOOLCHAIN := $(shell scripts/setup.sh name)
export WRANGLER_SEND_METRICS := false
export WRANGLER_LOG_PATH := $(CURDIR)/target/wrangler
export NO_UPDATE_NOTIFIER := 1

WORKER_SOURCES := $(shell find src migrations prompts -type f 2>/dev/null) \
  $(wildcard scripts/pinned/cargo Cargo.toml Cargo.lock rust-toolchain.toml package-lock.json)

step = @printf '\033[1m==> %s\033[0m\n' "$(1)"

##@ Start here

.PHONY: help
help: ## what there is (this text)
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n\033[1m%s\033[0m\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo

.PHONY: demo
demo: build programs ## a town at work: five beads, an outage, the recovery, a convoy (half a minute after the build)
	@node scripts/demo/main.mjs

.PHONY: dev
dev: build programs ## the worker and the runner, until Ctrl-C [PORT=8787]; state is kept in .gastown/
	@node scripts/dev.mjs

# A variable only as given on this command line: the shell has a USER, and whoever follows the README has a TOWN.
said = $(if $(findstring command,$(origin $1)),$($1))

.PHONY: token
token: node_modules/.gastown-lock ## print a token: USER=alice [SCOPE=operator] [TOWN=id]
	@$(if $(call said,USER),,echo 'usage: make token USER=name [SCOPE=user|operator] [TOWN=id]' >&2; exit 2;) \
	  node scripts/token.mjs --user '$(USER)' --scope '$(or $(call said,SCOPE),user)' $(if $(call said,TOWN),--town '$(TOWN)')

##@ Develop

.PHONY: setup
setup: ## bring in all tools, pinned, where missing (every other target does so by itself)
	@scripts/setup.sh toolchain worker npm deny

.PHONY: build
build: node_modules/.gastown-lock build/index.js ## the worker as it is deployed: build/index.js and build/index_bg.wasm

# What worker-build lets wasm-opt write, and no more: with --all-features it writes what only the newest engines read.
WASM_FEATURES := $(addprefix --enable-,mutable-globals sign-ext nontrapping-float-to-int bulk-memory multivalue \
  reference-types exception-handling)

# Builds the worker into $(1), with $(2) for cargo: std and all with panic=unwind (docs/decisions/009-panics.md), by the one
# pinned toolchain (scripts/pinned). Names serve nobody at run time, and are a ninth of what is deployed. worker-build
# leaves index.js alone if nothing changed, so make is told that it is up to date.
define worker
@export PATH="$(CURDIR)/scripts/pinned:$$PATH" \
  WASM_BINDGEN_BIN="$$(command -v wasm-bindgen)" \
  WASM_OPT_BIN="$(CURDIR)/node_modules/.bin/wasm-opt" \
  ESBUILD_BIN="$(CURDIR)/node_modules/.bin/esbuild"; \
  if [ "$$(scripts/setup.sh panics)" = unwind ]; then \
    worker-build --release --panic-unwind --out-dir $(1) --locked -Zbuild-std-features=panic-unwind,optimize_for_size $(2); \
  else \
    echo '  NOT AS DEPLOYED: without rust-src, this worker aborts on a panic' >&2; \
    worker-build --release --out-dir $(1) --locked $(2); \
  fi
@wasm-opt $(WASM_FEATURES) --strip-debug --strip-producers --strip-target-features $(1)/index_bg.wasm -o $(1)/index_bg.wasm
@touch $(1)/index.js
endef

build/index.js: $(WORKER_SOURCES)
	@scripts/setup.sh toolchain worker npm
	$(call step,worker: cargo build --release for wasm32 - wasm-bindgen - wasm-opt - esbuild (a few minutes when cold))
	$(call worker,build)

# The same with panics on demand, for tests/worker/panic.test.mjs alone. In folders of its own, so that neither build
# undoes the other's.
target/panic-probe/index.js: $(WORKER_SOURCES)
	@scripts/setup.sh toolchain worker npm
	$(call step,worker with panics on demand (as long again))
	$(call worker,target/panic-probe,--features panic-probe --target-dir target/panic-probe/target)

# The runner (the program in the container), gt (the command line) and the simulated container, as the tests and the demo
# start them: target/debug/gastown-runner, target/debug/gt, target/debug/simulated-container.
.PHONY: programs
programs: toolchain
	$(call step,runner - gt - simulated container: cargo build)
	@cargo build --quiet --workspace --bins

.PHONY: test
test: test-host test-worker ## every test: host and runner, then the worker in workerd (under 5 minutes when warm)

.PHONY: test-host
test-host: toolchain ## the tests of the core, the host, the runner and gt (cargo test --workspace)
	$(call step,host - runner - gt: cargo test (compiling takes the longest; then property tests, then real git and processes))
	@cargo test --workspace

.PHONY: test-worker
test-worker: build programs $(if $(filter-out panic,$(ONLY)),,target/panic-probe/index.js) ## the tests of the built worker in workerd (ONLY=name runs one file)
	$(call step,worker: node --test in workerd (crashes and timeouts are real and take the longest))
	@rm -rf target/test-output && mkdir -p target/test-output
	@GASTOWN_PANICS=$$(scripts/setup.sh panics) GASTOWN_TEST_ALL=1 node --test --test-reporter=spec --test-reporter-destination=stdout \
	  --test-reporter=tap --test-reporter-destination=target/test-output/report.tap tests/worker/$(or $(ONLY),*).test.mjs
	@node tests/support/check-output.mjs

.PHONY: test-demo
test-demo: build programs ## the demo's own test: breaks one thing at a time, and the demo must say so
	$(call step,demo: node --test; nine broken demos and three that are interrupted)
	@node --test --test-reporter=spec tests/demo/*.test.mjs

.PHONY: fuzz
fuzz: build programs ## poisoned requests at the edge, the town, the worker, the runner [SEED=n] [ROUNDS=10]
	@export FUZZ_SEED=$(or $(call said,SEED),$$(date +%s)) FUZZ_ROUNDS=$(or $(call said,ROUNDS),10); echo "seed $$FUZZ_SEED, $$FUZZ_ROUNDS rounds"; \
	  cargo test --test fuzz -- --nocapture && cargo test --package gastown-runner --test runner fuzz && \
	  node --test --test-reporter=spec tests/worker/fuzz.test.mjs

simulate = cargo run --quiet $1 --package gastown-sim --bin gastown-sim --

.PHONY: sim
sim: toolchain ## simulated towns against every invariant [SEED=1] [DAYS=1|HOURS=n] [RUNS=1]
	@$(call simulate) --seed $(or $(call said,SEED),1) --runs $(or $(call said,RUNS),1) \
	  $(if $(call said,HOURS),--hours $(HOURS),--days $(or $(call said,DAYS),1))

# With no SEED the seed is the time, here and in soak and fuzz; each says which it took.
.PHONY: sim-long
sim-long: toolchain ## 10,000 beads at once, then new towns for an hour [SEED=n] [SECONDS=3600] [DAYS=2]
	@$(call simulate,--profile sim) --flood 10000
	@seed=$(or $(call said,SEED),$$(date +%s)); echo "from seed $$seed"; \
	  $(call simulate,--profile sim) --seed "$$seed" --runs 1000000 --seconds $(or $(call said,SECONDS),3600) --days $(or $(call said,DAYS),2)

.PHONY: sim-check
sim-check: toolchain ## ten seeded bugs, each of which the simulator must find (15 minutes) [ONLY=07]
	@scripts/sim-check.sh $(call said,ONLY)

# `ROUNDS=1 SEED=n` plays one round again. DEALT=1 deals the rounds as `make test` does, instead of drawing them.
.PHONY: soak
soak: build ## kill workerd at drawn awaits and restart it [ROUNDS=300] [SEED=n] [DEALT=1]
	@nice -n 19 node tests/crash/soak.mjs $(or $(call said,ROUNDS),300) '$(call said,SEED)' '$(call said,DEALT)'

# FILE=src/town/dispatch/gate.rs mutates one file, SHARD=0/16 is one of 16 batches, SLOW=1 adds the slow tests.
.PHONY: mutants
mutants: toolchain ## mutation testing (docs/mutants.md), hours for all [FILE=path] [SHARD=0/16] [SLOW=1]
	@scripts/setup.sh mutants
	@SLOW=$(call said,SLOW) scripts/mutants.sh '$(call said,FILE)' '$(call said,SHARD)'

.PHONY: lint
lint: toolchain ## rustfmt, clippy for host and wasm32, cargo-deny
	@scripts/setup.sh deny
	$(call step,rustfmt)
	@cargo fmt --all --check
	$(call step,clippy: host and all targets)
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(call step,clippy: the worker for wasm32)
	@cargo clippy --quiet --package gastown --lib --target wasm32-unknown-unknown -- -D warnings
	@cargo clippy --quiet --package gastown --lib --target wasm32-unknown-unknown --features panic-probe -- -D warnings
	$(call step,cargo-deny: bans - licences - sources)
	@cargo deny --workspace --all-features check --hide-inclusion-graph bans licenses sources
	@cargo deny --config deny-worker.toml --exclude-dev --target wasm32-unknown-unknown check --hide-inclusion-graph bans

.PHONY: audit
audit: node_modules/.gastown-lock toolchain ## known vulnerabilities of what this is built from; fails if a database is silent
	@scripts/setup.sh deny
	@scripts/audit.sh

.PHONY: ci
ci: ## what CI runs: lint, test, a dry run of the deployment, the demo and its test
	@$(MAKE) lint
	@$(MAKE) test
	@$(MAKE) dry-run
	@$(MAKE) demo
	@$(MAKE) test-demo

.PHONY: bench
bench: bench-size bench-cost bench-speed bench-instructions ## figures: size and start-up of the worker, what a town costs an hour, how fast it is

.PHONY: bench-size
bench-size: build ## size of the worker, against its bound, and its start-up
	@scripts/size.sh
	@node bench/start-up.mjs

# ONLY=B_1000 counts one workload, STATEMENTS=3 shows the three costliest statements of each, UPDATE=1 writes the file anew.
.PHONY: bench-cost
bench-cost: build ## cost of an hour against bench/figures.json [ONLY=B_1000] [STATEMENTS=n] [UPDATE=1]
	@UPDATE='$(call said,UPDATE)' ONLY='$(call said,ONLY)' STATEMENTS='$(call said,STATEMENTS)' node bench/main.mjs

.PHONY: bench-speed
bench-speed: toolchain ## time of a tick, a command, an explanation at 1 k, 10 k and 100 k beads (criterion)
	@cargo bench --quiet --package gastown-speed --bench speed

.PHONY: bench-instructions
bench-instructions: toolchain node_modules/.gastown-lock ## instructions of the same, against bench/instructions.json (needs valgrind)
	@node bench/instructions.mjs

.PHONY: bench-throughput
bench-throughput: build ## what one object serves a second, in workerd (idle machine, half a minute)
	@node bench/throughput.mjs

.PHONY: soak-load
soak-load: build programs ## 10,000 slings against one object, 2,000 at once; some minutes [SLINGS=10000]
	@OVERLOAD_SLINGS=$(or $(call said,SLINGS),10000) GASTOWN_TEST_ALL=1 node --test --test-reporter=spec tests/worker/overload.test.mjs

# SECONDS of simulated towns, ROUNDS of crashes. The mutants take longest; what `make test` asserts is not repeated.
.PHONY: proof
proof: build programs ## run what docs/proof.md tells, and write it; hours [SECONDS=1800] [ROUNDS=300]
	$(call step,simulated towns)
	@$(call simulate,--profile sim) --flood 10000
	@$(call simulate,--profile sim) --seed "$$(date +%s)" --runs 1000000 --seconds $(or $(call said,SECONDS),1800) --days 2 --json sim/long.json
	$(call step,seeded bugs)
	@scripts/sim-check.sh
	$(call step,crashes)
	@RESULT=tests/crash/soak.json nice -n 19 node tests/crash/soak.mjs $(or $(call said,ROUNDS),300)
	$(call step,mutants)
	@$(MAKE) mutants
	$(call step,cost and speed)
	@$(MAKE) bench-cost bench-instructions
	@node scripts/proof.mjs --measure

.PHONY: proof-page
proof-page: node_modules/.gastown-lock ## docs/proof.md from the committed results
	@node scripts/proof.mjs

##@ Ship

.PHONY: dry-run
dry-run: build ## bundle as for a deployment, and send nothing
	$(call step,wrangler deploy --dry-run)
	@wrangler deploy --dry-run --containers-rollout=none --outdir target/dry-run

.PHONY: deploy
deploy: build ## deploy to your Cloudflare account (first: wrangler login; the secret, see README)
	@[ "$$(scripts/setup.sh panics)" = unwind ] || \
	  { echo 'not deployed: a worker that aborts on a panic hangs requests; rustup component add rust-src, then make clean' >&2; exit 1; }
	@wrangler deploy

##@ Clean

.PHONY: clean
clean: ## remove what was built and installed here, and the state of make dev
	@rm -rf target build node_modules .wrangler .gastown

.PHONY: toolchain
toolchain:
	@scripts/setup.sh toolchain

node_modules/.gastown-lock: package-lock.json
	@scripts/setup.sh npm
	@touch $@
