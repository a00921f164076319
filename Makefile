# Every target does its own set-up. `make` alone lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
ENV := . .local/env

.PHONY: docs sdks schemathesis help services services-stop clean-services toolchain browser build dist demo example screenshots test test-pure test-it chaos faketime promtool pgbouncer sabotage put-back mutants deny sbom bench lint fmt

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

services: ## Start private PostgreSQL, Redis and RabbitMQ; write .local/env
	@scripts/services start

services-stop: ## Stop them
	@scripts/services stop

clean-services: ## Stop them and remove their data
	@scripts/services clean

toolchain:
	@scripts/toolchain

browser:
	@scripts/services install chromium chromium-driver

build: toolchain ## Build the programs, optimised
	cargo build --release --locked --workspace

dist: build ## What is shipped: the program, stripped, and its debug information apart, in target/dist
	@scripts/dist

demo: services build ## See it work: the dashboard, two workers, 50 000 callbacks, 30 % of them copies, an audit (ONCE=1: end by itself)
	@scripts/demo

example: services build ## A shop of three services on the feed, killed again and again; ends with exit code 0 where all is right
	@scripts/example

screenshots: services browser build ## Take the pictures of docs/screenshots from a run like that of `make demo`
	@scripts/screenshots

test: services browser promtool pgbouncer faketime sdks schemathesis lint ## Everything: format, clippy, rustdoc, unit, property and integration tests
	@$(ENV) && scripts/test --workspace

test-pure: toolchain ## Only the tests that need no servers
	@scripts/test -p payonce -p payonce-ledger -p payonce-message -p payonce-postgres --lib --test pure --test rules

test-it: services browser promtool pgbouncer faketime sdks schemathesis toolchain ## Only the integration tests
	@$(ENV) && scripts/test -p payonce --test it

chaos: build faketime pgbouncer ## The long fault tests: every fault by itself, then ten seeds of two minutes, then three with feeds
	@scripts/chaos

sdks: ## Install from npm and PyPI what tests borrow: the providers' own SDKs, and axe-core
	@scripts/sdks

schemathesis: ## Install what checks the api's answers against its description
	@scripts/schemathesis --version >/dev/null

faketime promtool pgbouncer:
	@scripts/services install $@

sabotage: services pgbouncer toolchain ## Make each well-known mistake on purpose, and see that a test catches it (`make mutants` makes those of the rules that nobody thought of)
	@$(ENV) && scripts/sabotage

put-back: services toolchain ## Put faults of another year back, and see which the generators and chaos find that know nothing of them
	@$(ENV) && scripts/sabotage --put-back

mutants: toolchain ## Change the rules one expression at a time, and see that a test notices each change
	@scripts/mutants

deny: toolchain ## Known vulnerabilities, licences, bans and sources of every dependency (reads the advisory database on GitHub)
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny@0.20.2
	cargo deny check

sbom: toolchain ## Bill of materials of the payonce binary, as CycloneDX JSON on standard output
	@scripts/sbom

docs: toolchain ## The documentation as a site with search, in target/docs
	@scripts/docs

bench: toolchain ## Time decode, decide and plan, against the last time
	cargo bench -p payonce --bench pure

lint: toolchain ## Format check, clippy and rustdoc, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet

fmt: toolchain ## Format the sources
	cargo fmt --all
