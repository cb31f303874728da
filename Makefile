# The only door: needs Python 3.11 or newer with venv, and nothing else. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
BIN := .venv/bin
UV := UV_PYTHON_DOWNLOADS=never $(BIN)/uv
# Stamps tell which dependencies are in the environment, so that a second run starts at once.
RUN_DEPS := .venv/.deps-run
DEV_DEPS := .venv/.deps-dev
# Test files that run at the same time, each with engines of its own. Three make time run out in tests on 2 cores.
LANES := 2

.PHONY: up
up: setup ## Start the embedded mesh with a small world and print what to try (ARGS="--data DIR --detach")
	@exec $(BIN)/feedmesh up $(ARGS)

.PHONY: setup
setup: $(RUN_DEPS) ## Install what running needs into .venv, from the lock file (EXTRA=cluster or postgresql)
ifdef EXTRA
	$(UV) sync --locked --inexact --no-dev --compile-bytecode --extra $(EXTRA)
endif

.PHONY: test
test: $(DEV_DEPS) ## Install what the tests need and run all of them in two lanes (ARGS="-k name", LANES=0 for none)
	$(BIN)/python -m pytest -n $(LANES) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: mutants
mutants: $(DEV_DEPS) ## Plant the bugs that matter and show which test catches each (ARGS="word of a name")
	$(BIN)/python tools/mutants.py $(ARGS)

.PHONY: nemesis
nemesis: $(DEV_DEPS) ## Kill, hang, overload and mislead a cluster under load and check every feed (about 15 minutes)
	$(BIN)/python -m pytest -m nemesis tests/nemesis tests/system $(ARGS)

.PHONY: check
check: gen-check static mutants test ## Everything that CI runs

# What reads the tree and changes nothing goes on side by side.
.PHONY: static
static: $(DEV_DEPS)
	@$(MAKE) --jobs 2 --output-sync --keep-going --no-print-directory lint types imports breaking

.PHONY: lint
lint: $(DEV_DEPS) ## Style of the code and of the contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path proto/feedmesh

.PHONY: fmt
fmt: $(DEV_DEPS) ## Format code and contracts
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write --path proto/feedmesh

.PHONY: types
types: $(DEV_DEPS) ## mypy --strict
	$(BIN)/mypy

.PHONY: imports
imports: $(DEV_DEPS) ## Who may import whom
	$(BIN)/lint-imports

.PHONY: gen
gen: $(DEV_DEPS) ## Generate gen/ and envoy/feedmesh.binpb from proto/
	$(BIN)/python tools/generate.py

.PHONY: gen-check
gen-check: gen ## Fail when what is generated differs from what is committed
	git diff --exit-code --stat -- gen envoy/feedmesh.binpb
	@test -z "$$(git ls-files --others --exclude-standard gen)" || { echo "gen/ has new files: commit them" >&2; exit 1; }

.PHONY: breaking
breaking: $(DEV_DEPS) ## Fail on a change of the contracts that breaks callers of main
	@if git rev-parse --quiet --verify main >/dev/null; then $(BIN)/buf breaking --against '.git#branch=main'; \
	else echo "no branch main to compare the contracts with"; fi

.PHONY: bench
bench: $(DEV_DEPS) ## Measure (NAME=feed)
	$(BIN)/feedmesh bench $(NAME) $(ARGS)

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  %-10s %s\n' "$$name" "$$text"; done

# The newest Python that is 3.11 or more and can make an environment; a name on the PATH alone may be a shim of nothing.
$(BIN)/uv:
	@for python in python3.13 python3.12 python3.11 python3; do \
	  if "$$python" -c 'import ensurepip, sys, venv; assert sys.version_info >= (3, 11)' >/dev/null 2>&1; then \
	    echo "making .venv with $$(command -v $$python)"; \
	    "$$python" -m venv .venv; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	    exit 0; \
	  fi; \
	done; \
	echo "error: no Python 3.11 or newer with venv was found" >&2; \
	echo "  next  install one, for instance: apt-get install python3 python3-venv" >&2; \
	exit 1

$(RUN_DEPS): $(BIN)/uv pyproject.toml uv.lock
	$(UV) sync --locked --inexact --no-dev --compile-bytecode
	@touch $@

$(DEV_DEPS): $(BIN)/uv pyproject.toml uv.lock
	$(UV) sync --locked --inexact --all-extras --compile-bytecode
	@touch $(RUN_DEPS) $@
