# Everything a person does in this repository. `make` alone shows the list.
# PYTHON=/path/to/python chooses the interpreter (3.11 to 3.13); ARGS="..." is handed on.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.SUFFIXES:

BIN := .venv/bin
CHART_BIN := .build/venv-chart/bin
UV_VERSION := 0.13.9
WORKERS ?= 2
ARGS ?=

# Variables of this shell that would change what is tested or built.
unexport PYTHONPATH

.PHONY: help
help: ## Show this list
	@echo "Loyalty Gateway"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  Start with: make run"

.PHONY: run
run: ## Install what is needed and start the sandbox (Ctrl-C stops it)
	@python=$$(sh .ci/preflight $(if $(ARGS),,run)); "$$python" .ci/environment.py run
	@exec $(BIN)/loyalty sandbox $(ARGS)

.PHONY: test
test: environment-dev ## Run the tests (ARGS="-k name" picks some)
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --ignore=tests/chart $(ARGS)

# The tests that reach these rooms in this very process or in one that they start; what is proven
# through a whole gateway is proven elsewhere, and would only make this slower.
COVERED_BY = tests/domain tests/booking tests/journal

.PHONY: coverage
coverage: environment-dev ## Measure what the tests reach of the states, the engine and the journal
	@rm -rf .build/coverage && mkdir -p .build/coverage
	@$(BIN)/python -m coverage run -m pytest --numprocesses=$(WORKERS) --dist=load $(COVERED_BY)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report
	@$(BIN)/python -m coverage json --quiet -o .build/coverage/report.json
	@$(BIN)/python -m tests.branches .build/coverage/report.json 98

.PHONY: conformance
conformance: environment-dev ## Try every adapter against its played vendor (ARGS="-k redeem")
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile tests/conformance $(ARGS)

.PHONY: faults-quick
faults-quick: environment-dev ## Kill, freeze and cut off real gateways, and judge what is left (ARGS="--seed 7")
	@$(BIN)/python -m tests.faults.run --size quick $(ARGS)

.PHONY: faults
faults: environment-dev ## The whole fault plan once (25 minutes)
	@mkdir -p .build; LOYALTY_TEST_CALLS=2000 $(BIN)/python -m pytest --numprocesses=1 \
	    tests/faults/test_ledgers_agree.py >.build/ledgers.log 2>&1 & ledgers=$$!; \
	status=0; $(BIN)/python -m tests.faults.run --size full $(ARGS) || status=1; \
	wait $$ledgers || status=1; tail -n 40 .build/ledgers.log; exit $$status

.PHONY: faults-nightly
faults-nightly: environment-dev ## The whole fault plan again and again (a night)
	@$(BIN)/python -m tests.faults.run --size nightly $(ARGS)

.PHONY: test-chart
test-chart: ## Run the tests of the Helm chart (installs its own engine)
	@python=$$(sh .ci/preflight); "$$python" .ci/environment.py chart
	@$(CHART_BIN)/python -m pytest tests/chart $(ARGS)

.PHONY: check
check: environment-dev ## Check style, types, rooms, contract and generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python proto/generate.py lint
	@$(BIN)/python proto/generate.py check
	@$(BIN)/python proto/generate.py breaking
	@$(BIN)/python docs/generate.py check
	@$(BIN)/python helm/generate.py check
	@echo "Everything checked."

.PHONY: fmt
fmt: environment-dev ## Format the code and mend what can be mended by itself
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

.PHONY: docs
docs: environment-dev ## Write anew what is generated: docs/configuration.md, the chart's README, ...
	@$(BIN)/python docs/generate.py write
	@$(BIN)/python helm/generate.py write

.PHONY: proto
proto: ## Generate the stubs from proto/ (in an environment of their own)
	@python=$$(sh .ci/preflight); "$$python" proto/generate.py generate

.PHONY: tools
tools: environment-dev ## Show which tools are used, and their versions
	@for tool in buf grpcurl; do \
	    path=$$(command -v $$tool || echo $(BIN)/$$tool); \
	    printf '%-12s %-40s %s\n' "$$tool" "$$path" "$$("$$path" --version 2>&1 | tail -1)"; \
	done
	@for tool in ruff mypy pytest; do \
	    printf '%-12s %-40s %s\n' "$$tool" "$(BIN)/$$tool" "$$($(BIN)/$$tool --version 2>&1 | tail -1)"; \
	done

# One universal lock for Python 3.11 to 3.13 on every system, with hashes and without addresses.
# requirements-dev.lock decides; the smaller ones follow it, so that they fit together.
COMPILE = .build/venv-lock/bin/uv pip compile --quiet --universal --generate-hashes \
    --no-emit-index-url --no-annotate --no-header --no-emit-package loyalty-gateway-stubs
SERVER = pyproject.toml --extra sandbox --extra uvloop --extra postgres

.PHONY: lock
lock: ## Resolve the locks anew where pyproject.toml asks for it (ARGS=--upgrade: all newest)
	@python=$$(sh .ci/preflight); test -x .build/venv-lock/bin/uv || "$$python" -m venv .build/venv-lock
	@.build/venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(COMPILE) $(ARGS) $(SERVER) --group dev --output-file requirements-dev.lock
	@$(COMPILE) $(SERVER) --constraint requirements-dev.lock --output-file requirements.lock
	@for group in build tools chart; do \
	    $(COMPILE) --group $$group --constraint requirements-dev.lock \
	        --output-file requirements-$$group.lock; \
	done
	@echo "The locks fit pyproject.toml."

.PHONY: clean
clean: ## Remove the environments and caches (the sandbox's data in .sandbox stays)
	rm -rf .venv .build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: environment-dev
environment-dev:
	@python=$$(sh .ci/preflight); "$$python" .ci/environment.py dev
