# Everything for working on outboxd on a fresh Debian machine with Rust and make. `make help` lists the targets.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help demo demo-relay test deb dist test-deb test-dist test-page test-views test-api test-kubernetes kubernetes-manifests test-systemd test-docker contract test-debian chaos simulate mutations fuzz lint advisories docs docs-reference release bench prerequisites clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# Each program is built by itself, as it is delivered. The test kit finds it built.
BUILD_ALONE = set -e; for program in $(1); do $(CARGO) build --release --locked --package $$program --bin $$program; done

demo: prerequisites ## three services, a gateway and outboxd: both styles of saga, a service that is away, kill -9 (KEEP=1: everything stays up, with a page)
	@$(call BUILD_ALONE,outboxd order-service customer-service order-history api-gateway)
	$(CARGO) build --release --locked --bin demo
	@$(CARGO) run --quiet --release --locked --bin demo

demo-relay: prerequisites ## outboxd alone: rows become messages, kill -9 in mid-stream (KEEP=1: everything stays up)
	@$(call BUILD_ALONE,outboxd)
	$(CARGO) build --release --locked --bin demo-relay
	@$(CARGO) run --quiet --release --locked --bin demo-relay

# A test on real nodes mostly waits, so two tests share a core.
test: prerequisites ## all tests, on private PostgreSQL and RabbitMQ nodes (RUST_TEST_THREADS=n: n at a time)
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} $(CARGO) test --locked

test-page: prerequisites ## the sample shop's page in headless Chromium, which it installs (OUTBOXD_DOCS=write: also makes the picture in docs)
	@tests/install.sh page
	$(CARGO) test --locked --package samples-acceptance --test page -- --ignored

test-views: prerequisites ## the samples' views in FerretDB and OpenSearch, which it builds; installs Go, Java and Maven
	@tests/install.sh views
	samples/acceptance/views/build.sh
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(nproc)} $(CARGO) test --locked --package samples-acceptance --test services -- --ignored views::

test-api: prerequisites ## the services' OpenAPI documents under schemathesis, and their AsyncAPI documents under AsyncAPI's parser; installs both (TIME=n: n seconds for each service, default 300)
	@tests/install.sh api
	@tests/api/install.sh
	$(CARGO) test --locked --package samples-acceptance --test api -- --ignored --nocapture

test-systemd: ## the systemd units in a booted Debian; needs root, and installs debootstrap and systemd-container
	@tests/install.sh systemd
	$(CARGO) test --locked --test systemd -- --ignored --test-threads=2

test-docker: ## images and compose files in a Debian with a Docker of its own, in namespaces; needs root, and installs debootstrap (PARTS="relay": one of image, relay, lasting, measured, shop)
	@tests/install.sh docker
	tests/docker/machine.sh tests/docker/test.sh $(PARTS)

test-kubernetes: ## the Helm chart: rendered, validated against Kubernetes' schemas, refused where it must be; builds helm, needs no cluster
	@tests/install.sh kubernetes
	@tests/kubernetes/install.sh
	$(CARGO) test --locked --test kubernetes -- --include-ignored

kubernetes-manifests: ## writes kubernetes/manifests anew with the chart
	@tests/install.sh kubernetes
	@tests/kubernetes/install.sh
	OUTBOXD_KUBERNETES=write $(CARGO) test --locked --test kubernetes -- --ignored the_kept_manifests_are_made_with_the_chart

contract: ## publishes the services' messages as they are now (BREAKING=yes: also those that break another service)
	OUTBOXD_CONTRACT=write $(CARGO) test --locked --package samples-acceptance --test services -- every_document_is_the_published_one

test-debian: ## demo and tests in a bare Debian; needs root and debootstrap (SUITE=bookworm, default trixie; TARGETS="demo": only the demo)
	tests/debian.sh "$(or $(SUITE),trixie)" $(TARGETS)

chaos: prerequisites ## an hour of random faults on real nodes (CHAOS_MINUTES=n: n minutes; SEED=n: repeats a run's choices; ONLY=word: these faults)
	CHAOS_MINUTES=$${CHAOS_MINUTES:-60} CARGO_PROFILE_DEV_OPT_LEVEL=2 \
		$(CARGO) test --locked --test chaos -- --nocapture every_promise_holds_through_every_fault

simulate: ## 100,000 simulated runs, one for each seed (SEEDS=n: n runs; FIRST_SEED=n: the first seed; SEED=n: one run, with a trace)
	SEEDS=$${SEEDS:-100000} FIRST_SEED=$${FIRST_SEED:-$$(date +%s)000000} CARGO_PROFILE_DEV_OPT_LEVEL=2 \
		$(CARGO) test --locked --test simulation -- --nocapture every_promise_holds_under_every_seed

mutations: ## changes one line of the product at a time, in a copy, and expects a test to fail (over an hour; ONLY=name: one change)
	tests/mutations.sh

fuzz: ## fuzzes decoders, mapping, templates and configuration (TARGET=name: one target; SECONDS=n for each, default 60; MERGE=1: keeps new inputs)
	tests/fuzz/run.sh "$(or $(SECONDS),60)" $(TARGET)

lint: ## formatting, spelling, clippy, links of the API documentation, and the rules of deny.toml; a warning is an error
	$(CARGO) fmt --check
	$(CARGO) test --locked --quiet --test supply_chain
	@if command -v typos >/dev/null; then typos; fi
	@if command -v cargo-deny >/dev/null; then cargo-deny --locked --offline check licenses bans sources; fi
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

advisories: ## known vulnerabilities in outboxd's dependencies (needs the network and cargo-deny: cargo install cargo-deny --locked)
	cargo-deny --locked check advisories

MDBOOK := $(shell command -v mdbook || echo target/tools/bin/mdbook)

docs: $(MDBOOK) ## checks every link and name in the book and builds it in target/book (installs mdBook in target/tools if it is missing)
	$(CARGO) test --locked --test docs
	$(MDBOOK) build docs

docs-reference: ## rewrites the pages of the book that are generated from the code
	OUTBOXD_DOCS=write $(CARGO) test --locked --test docs -- reference_of

target/tools/bin/mdbook:
	$(CARGO) install mdbook --locked --no-default-features --features search --root target/tools

release: ## release files in target/dist/release: binaries without paths of this machine, licences and notices
	CARGO="$(CARGO)" release/build.sh

DEB := $(shell command -v cargo-deb || echo target/tools/bin/cargo-deb)

deb: $(DEB) ## the Debian package in target/dist/deb (installs cargo-deb in target/tools, and dpkg-dev and lintian, if missing)
	@tests/install.sh package
	CARGO="$(CARGO)" release/deb.sh

target/tools/bin/cargo-deb:
	$(CARGO) install cargo-deb --locked --root target/tools

dist: ## the archive for Linux with glibc in target/dist/archive, with checksums and the list of its crates; build it on Debian 12
	CARGO="$(CARGO)" release/dist.sh

test-dist: dist ## unpacks the archive: starts the program, compares checksums, and the list of crates with what Cargo builds
	$(CARGO) test --locked --test package -- --ignored archive::

test-deb: deb ## installs, upgrades and removes the package in a booted Debian while rows are written; needs root, and installs debootstrap and systemd-container
	@tests/install.sh systemd
	lintian --fail-on error target/dist/deb/*.deb
	$(CARGO) test --locked --test package -- --ignored --test-threads=2 life:: states::

bench: prerequisites ## throughput, latency and memory beside the raw limits of the nodes (ONLY=drain: one subject; ROUNDS=n: n rounds; PEERS=all: other relays too)
	$(CARGO) bench --locked --bench relay -- $(or $(ONLY),all) $(if $(ROUNDS),--rounds=$(ROUNDS)) $(if $(PEERS),--peers=$(PEERS)) $(if $(RECORD),--record)

prerequisites: ## installs what is missing: a C linker, PostgreSQL, RabbitMQ (Debian's packages; starts no service)
	@tests/install.sh

clean: ## removes what was built
	$(CARGO) clean
