# Everything a fresh Debian machine with Rust and make needs for working on outboxd. `make help` lists it.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help demo demo-relay test test-debian chaos simulate mutations fuzz lint advisories release bench prerequisites clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# Each program by itself, as it is delivered; the test kit finds it built.
BUILD_ALONE = set -e; for program in $(1); do $(CARGO) build --release --locked --package $$program --bin $$program; done

demo: prerequisites ## three services and outboxd between them: follow orders, stop a service, kill -9 (KEEP=1: stays up)
	@$(call BUILD_ALONE,outboxd order-service customer-service order-history)
	$(CARGO) build --release --locked --bin demo
	@$(CARGO) run --quiet --release --locked --bin demo

demo-relay: prerequisites ## outboxd alone: rows become messages, kill -9 in mid-stream (KEEP=1: stays up)
	@$(call BUILD_ALONE,outboxd)
	$(CARGO) build --release --locked --bin demo-relay
	@$(CARGO) run --quiet --release --locked --bin demo-relay

# A test on real nodes mostly waits for them, so two of them share a core.
test: prerequisites ## all tests, against private PostgreSQL and RabbitMQ nodes (RUST_TEST_THREADS=n: so many at once)
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} $(CARGO) test --locked

test-debian: ## demo and tests in a bare Debian, as root: needs debootstrap (SUITE=bookworm or trixie, the default; TARGETS="demo": only that)
	tests/debian.sh "$(or $(SUITE),trixie)" $(TARGETS)

chaos: prerequisites ## an hour of faults on real nodes, drawn from a seed (CHAOS_MINUTES=n: so long; SEED=n: the same choices; ONLY=word: such faults)
	CHAOS_MINUTES=$${CHAOS_MINUTES:-60} CARGO_PROFILE_DEV_OPT_LEVEL=2 \
		$(CARGO) test --locked --test chaos -- --nocapture every_promise_holds_through_every_fault

simulate: ## 100,000 simulated runs, each from one seed (SEEDS=n: so many; FIRST_SEED=n: from there; SEED=n: one, with a trace)
	SEEDS=$${SEEDS:-100000} FIRST_SEED=$${FIRST_SEED:-$$(date +%s)000000} CARGO_PROFILE_DEV_OPT_LEVEL=2 \
		$(CARGO) test --locked --test simulation -- --nocapture every_promise_holds_under_every_seed

mutations: ## changes one line of the product at a time, in a copy, and expects a test to notice (37 builds: more than an hour; ONLY=name: one)
	tests/mutations.sh

fuzz: ## ever new bytes for decoder, mapping, templates and configuration (TARGET=one; SECONDS=each, 60; MERGE=1: keeps the finds)
	tests/fuzz/run.sh "$(or $(SECONDS),60)" $(TARGET)

lint: ## formatting, spelling, clippy, the documentation's links and the rules of deny.toml, warnings being errors
	$(CARGO) fmt --check
	$(CARGO) test --locked --quiet --test supply_chain
	@if command -v typos >/dev/null; then typos; fi
	@if command -v cargo-deny >/dev/null; then cargo-deny --locked --offline check licenses bans sources; fi
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

advisories: ## known vulnerabilities of what outboxd is built from (takes the network and cargo-deny: cargo install cargo-deny --locked)
	cargo-deny --locked check advisories

release: ## what is delivered, in target/dist/release: binaries without paths of this machine, licences and notices
	CARGO="$(CARGO)" release/build.sh

bench: prerequisites ## how fast it is beside the raw ceilings, on private nodes (ONLY=drain: one subject; ROUNDS=n: so often; PEERS=all: others too)
	$(CARGO) bench --locked --bench relay -- $(or $(ONLY),all) $(if $(ROUNDS),--rounds=$(ROUNDS)) $(if $(PEERS),--peers=$(PEERS)) $(if $(RECORD),--record)

prerequisites: ## install what is missing: a C linker, PostgreSQL, RabbitMQ (Debian's packages; starts no service)
	@tests/install.sh

clean: ## remove what was built
	$(CARGO) clean
