# Every target does the set-up it needs; quick when that is done already.
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup images demo test test-polyglot soak check bench fmt lock clean

help:            ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:           ## .venv with locked dependencies, and a Docker Engine that answers
	@scripts/setup.sh

images: setup    ## Build the sandbox images that are missing or stale
	@$(BIN)/sandbox-server images build

test-polyglot: setup ## The languages of the image polyglot, which is built first (2 minutes, 1.9 GB)
	@$(BIN)/sandbox-server images build polyglot
	@$(BIN)/python -m pytest tests/polyglot $(ARGS)

demo: images     ## A small real job through the official MCP client, and hostile code contained
	@$(BIN)/python -m demo $(ARGS)

test: images     ## The whole suite against the real engine; ARGS="tests/images -k hash" for less
	@scripts/test.sh $(ARGS)

soak: images     ## 10,000 runs and 500 sessions leave nothing behind; half an hour
	@SANDBOX_TEST_SOAK=full $(BIN)/python -m pytest -m soak -s tests/e2e/test_soak.py

check:           ## ruff, mypy --strict, import contracts
	@scripts/setup.sh venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: images    ## The table of performance figures
	@$(BIN)/python -m bench $(ARGS)

fmt:             ## Format the code and mend what ruff can
	@scripts/setup.sh venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:            ## Write the locks anew (needs uv); ARGS=--upgrade for newer versions
	@scripts/lock.sh $(ARGS)

clean:           ## Remove .venv, caches and what was built; images stay (sandbox-server images prune)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist demo-output
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
