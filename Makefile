# Every command of a developer's day; `make` lists them. CONTRIBUTING.md says when to use which.
.DEFAULT_GOAL := help
BIN := .venv/bin
ARGS ?=
# maturin and pip take the environment from here, activated or not.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help: ## List these commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: ## Make .venv with all that a change needs, and the engine in a debug build.
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip maturin
	$(BIN)/maturin develop --quiet --locked --extras demo,test,lint,docs

.PHONY: engine
engine: ## Build the engine anew, after a change of Rust.
	$(BIN)/maturin develop --quiet --locked

.PHONY: unit
unit: ## Run the quick tests: tests/unit and Rust's.
	$(BIN)/python -m pytest -q tests/unit $(ARGS)
	cargo test --quiet --workspace --locked

.PHONY: test
test: ## Run pytest on everything, or on what ARGS says (paths, -k, -x …), in four processes.
	$(BIN)/python -m pytest -n 4 $(ARGS)

.PHONY: servers
servers: ## Fetch servers of other versions for the tests (Debian).
	$(BIN)/python -m tests.servers.fetch

.PHONY: format
format: ## Put Python and Rust into their format.
	$(BIN)/ruff check --quiet --fix --exit-zero .
	$(BIN)/ruff format --quiet .
	cargo fmt --all

.PHONY: lint
lint: lint-python lint-rust lint-packaging ## Run all linters, as CI does.

# stubtest runs in an empty folder, so that the installed module is held to its stub, not the source tree.
.PHONY: lint-python
lint-python: ## Ruff, mypy, the layers of packages, and the engine held to its stub.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@empty=$$(mktemp -d) && cd "$$empty" && "$(VIRTUAL_ENV)/bin/python" -m mypy.stubtest slotferry._core; code=$$?; rm -rf "$$empty"; exit $$code

.PHONY: lint-rust
lint-rust: ## Rustfmt, clippy, and the fuzz targets compiled.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo check --manifest-path rust/core/fuzz/Cargo.toml --target-dir target/fuzz

.PHONY: lint-packaging
lint-packaging: ## The workflows' schema, and the Containerfile where hadolint can be had.
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Containerfile; else echo "no hadolint here: the Containerfile is not looked at"; fi

.PHONY: docs
docs: ## Build the documentation into site/ and check its links.
	$(BIN)/python -m slotferry.cli.common.reference > docs/commands.md
	$(BIN)/zensical build --clean --strict

.PHONY: man
man: ## Write the man pages into target/man/man1.
	$(BIN)/python -m slotferry.cli.common.man_pages target/man/man1

.PHONY: docs-serve
docs-serve: ## Show the documentation at localhost:8000, built anew at each change.
	$(BIN)/python -m slotferry.cli.common.reference > docs/commands.md
	$(BIN)/zensical serve

.PHONY: bench
bench: ## Measure a migration in a release build (minutes; tests/bench has more).
	$(BIN)/maturin develop --quiet --locked --release
	$(BIN)/python tests/bench/throughput.py $(ARGS)

.PHONY: ci
ci: ## Run everything that a change must pass.
	.ci/run
