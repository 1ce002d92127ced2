# make demo: install once, then move an object in a bundled picture. make test: every check. make help: the rest.
#
# Only Python 3.11 or newer and make are needed. Another Python: make PYTHON=/path/to/python demo

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && command -v $$p && break; done)
# Files are tested side by side, each worker on one thread: torch with as many threads as cores in each would crawl.
WORKERS ?= 2
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help setup demo test browser lint format lab bench notebooks docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install into .venv, once

# Done once, and again whenever the list of dependencies or the tested set changes.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "dragonkit needs Python 3.11 or newer: install it, or name it with make PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV) with $(PYTHON): once, some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks,test,docs,browser]'
	@touch $@

demo: $(READY) ## move an object in a bundled picture; writes out/demo/
	@$(BIN)/python -m dragonkit edit data/edits/demo/edit.json --out out/demo

test: lint browser ## ruff, mypy, every test, every notebook, every widget in a browser
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitize.cfg tests notebooks

# The system's Chromium if there is one; else Debian's, where one may install; else the one that playwright brings.
browser: $(READY)
	@command -v chromium chromium-browser google-chrome >/dev/null \
	  || { command -v apt-get >/dev/null && test "$$(id -u)" = 0 && apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	  || $(BIN)/python -m playwright install chromium

lint: $(READY) ## ruff and mypy
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

format: $(READY) ## let ruff mend what it can
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

lab: $(READY) ## open the notebooks
	@$(BIN)/python -m dragonkit lab

bench: $(READY) ## score the move edit on 32 test scenes; writes out/bench/move.json
	@$(BIN)/python -m dragonkit bench edits --kinds move --n 32 --seed 0 --json out/bench/move.json

notebooks: $(READY) ## run the notebooks again and store their outputs, cleaned
	@$(BIN)/python tests/notebooks/execute.py $(NOTEBOOKS)

docs: $(READY) ## the book, from the notebooks and the docstrings; writes out/book/index.html
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -c notebooks/book . out/book
	@cp notebooks/book/redirect.html out/book/index.html

clean: ## remove what the tools left behind; keeps .venv and out/
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find dragonkit widgets tests -name __pycache__ -type d -prune -exec rm -rf {} +
