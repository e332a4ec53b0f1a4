# luthier. `make` lists what there is. Everything is installed into .venv and nowhere else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-dev demo real test lint format clean

BIN := .venv/bin
# Name a Python with PYTHON=..., and the number of test processes with WORKERS=...
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3)
WORKERS ?= logical

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## Create .venv and install luthier with its pinned dependencies

setup-dev: .venv/.ready-dev ## The same, and what the tests and checks need

demo: setup ## Build a small aligned model from nothing, measure it and write its report (4 to 6 minutes)
	@$(BIN)/luthier demo

real: setup ## The same road on real data and a real model (needs ../shared/data)
	@$(BIN)/luthier run recipes/real-stories260k.yaml

test: lint ## Check the code, then run every test
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup --durations 10 -rfEs

lint: setup-dev ## Style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup-dev ## Put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove .venv and caches; runs/ is kept
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as old as the last install: it is done again only when one of the two files changed.
.venv/.ready: pyproject.toml constraints.txt
	@$(venv)
	@extras=''; $(install)
	@touch $@

.venv/.ready-dev: pyproject.toml constraints.txt
	@$(venv)
	@extras='[dev]'; $(install)
	@touch .venv/.ready $@

# The first Python that is new enough and can make environments. A .venv that works is kept; one left half made by an
# interruption, or whose Python has gone, is made again.
define venv
if $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exit 0; fi; \
seen=''; \
for python in $(PYTHONS); do \
  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
  seen="$$seen $$python is $$version;"; \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue; \
  if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
    seen="$$seen it has no venv module: on Debian and Ubuntu, apt-get install python$$version-venv;"; continue; fi; \
  echo "Making .venv with $$python ($$version)"; \
  exec $$python -m venv --clear .venv; \
done; \
echo "luthier needs Python 3.11 or newer with the venv module.$${seen:- No Python was found.}" >&2; \
echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
exit 1
endef

# uv is fast and, unlike pip, must be told of PIP_FIND_LINKS and to compile; where it cannot be had, pip does the same.
define install
echo "Installing luthier$$extras and the versions in constraints.txt (PyTorch is large: minutes the first time)"; \
if $(BIN)/python -m pip install -q -c constraints.txt uv 2>/dev/null && \
   UV_FIND_LINKS=$$(echo "$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" | tr ' ' ',') UV_COMPILE_BYTECODE=1 \
   $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -b constraints.txt -e ".$$extras"; \
then exit 0; fi; \
echo "uv could not do it here; trying pip"; \
exec $(BIN)/python -m pip install -c constraints.txt -e ".$$extras"
endef
