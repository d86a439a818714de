# keepline: set-up, tests and checks. Needs make and Python 3.11 or newer with its venv module.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
NAME ?=
WORKERS ?= logical

SHELL := /bin/sh
BIN := $(VENV)/bin
# Modules that happen to lie on the caller's path are not the ones that were locked.
unexport PYTHONPATH PYTHONHOME
# Bytecode is cached in the environment and beside the sources: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test unit soak check format bench docs lock clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1 -- /p' Makefile | awk -F ' -- ' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo '  Variables: ARGS (passed on), PYTHON (the interpreter), VENV (the folder), NAME (a benchmark),'
	@echo '  WORKERS (how many processes test; all processors unless given)'

# Brings the environment up to date; when nothing changed it does and says nothing. What it says
# goes to standard error, so that the output of a target stays that of its command alone.
$(VENV): FORCE
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "keepline needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.11 ..." >&2; \
	  exit 1; }
	@$(PYTHON) tools/set_up.py $(VENV) >&2

demo: $(VENV)  ## run the demonstration; ARGS="--json --seconds 3" are its options
	@$(BIN)/keepline demo $(ARGS)

test: $(VENV)  ## run the whole test suite; ARGS="tests/unit -k merge" narrows it
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

unit: $(VENV)  ## run the tests that need no server
	@$(BIN)/python -m pytest tests/unit $(ARGS)

soak: $(VENV)  ## run the long fault tests
	@$(BIN)/python -m pytest -m soak --timeout=3600 $(ARGS)

check: $(VENV)  ## check format, lint, types and the import rule
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy --strict src
	@$(BIN)/lint-imports --no-logo

format: $(VENV)  ## format, and fix what lint can fix
	@$(BIN)/ruff check --fix-only --exit-zero .
	@$(BIN)/ruff format .

bench: $(VENV)  ## run benchmarks/$(NAME).py, or without NAME all and rewrite docs/benchmarks.md
	@$(if $(NAME),$(BIN)/python benchmarks/$(NAME).py $(ARGS),$(BIN)/python tools/bench.py $(ARGS))

docs: $(VENV)  ## write docs/reference/cli.md anew from the commands' help
	@$(BIN)/python tools/cli_reference.py

lock: $(VENV)  ## lock the dependencies anew; ARGS=--upgrade takes newer releases
	@$(BIN)/python tools/lock.py $(ARGS)

clean:  ## remove the environment, builds and caches
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests tools benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
