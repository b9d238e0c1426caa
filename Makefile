# make run    builds the release server and runs it on http://localhost:8008, its data in ./data
# make test   does all set-up, then everything that must pass before a change lands
#
# The stages of `make test` one by one: setup, check, unit, e2e, federation, crash. Beyond it: sytest, bench, fuzz, deny.
# A stage's number is its deadline in seconds: far above what it takes on two cores with nothing built.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Node.js that .ci/setup fetched, where the machine's own is too old.
export PATH := $(CURDIR)/target/node/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto

DATA ?= $(CURDIR)/data
STAGE := .ci/stage

# The binary under test, as the unit tests build it: one set of features and one profile, so that dependencies and RocksDB's C++
# are compiled once.
export HEARTH_BIN ?= $(CURDIR)/target/debug/hearth

.PHONY: run test setup check unit binary e2e crash federation sytest bench fuzz deny

run:
	@.ci/setup build
	cargo build --release --locked -p hearth
	@exec .ci/serve target/release/hearth "$(DATA)"

test: setup check unit e2e federation crash
	@echo; echo "make test: all stages passed"

setup:
	@$(STAGE) setup 600 .ci/setup test

check:
	@$(STAGE) format 60 cargo fmt --all --check
	@$(STAGE) format-fuzz 60 cargo fmt --manifest-path src/fuzz/Cargo.toml --check
	@$(STAGE) clippy 3000 cargo clippy --workspace --all-targets --locked -- -D warnings

unit:
	@$(STAGE) unit 2700 cargo test --workspace --locked --no-fail-fast

binary:
	@$(STAGE) binary 1500 cargo test --workspace --locked --no-run

e2e: binary
	@$(STAGE) e2e 480 npm --prefix src/e2e test

crash: binary
	@$(STAGE) crash 300 npm --prefix src/e2e run crash

# Rooms shared with a stock Synapse.
federation: binary
	@$(STAGE) synapse 420 .ci/setup synapse
	@$(STAGE) federation 900 npm --prefix src/e2e run federation

# SYTEST_DIR is a checkout of https://github.com/matrix-org/sytest; TESTS names files of it (all that we should pass
# without it).
sytest: binary
	@.ci/setup sytest
	src/e2e/sytest-core $(TESTS)

bench:
	cargo bench -p hearth-bench --locked

# Random bodies, headers and events against what must hold of them: SECONDS each of TARGET (all of src/fuzz/targets without it).
fuzz: SECONDS := $(or $(SECONDS),60)
fuzz:
	@src/fuzz/run $(SECONDS) $(TARGET)

# Licences, advisories and duplicates of the dependencies; needs cargo-deny.
deny:
	cargo deny check
