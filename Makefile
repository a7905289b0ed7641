# Every target makes .venv by itself when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=
ENGINE ?= sglang
CONNECTOR ?=
SOAK ?= 5m
SEED ?=

.DEFAULT_GOAL := help
.PHONY: help install run demo test lint fmt types imports check bench bench-many bench-peers bench-routing \
        bench-recorded bench-sweep soak soak-brain soak-streams bench-overload bench-scheduling test-engines pages \
        pictures protos clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

install: $(INSTALLED) ## Make .venv with the pinned versions

run: $(INSTALLED) ## Run the gateway: make run ARGS="--prefill URL PORT --decode URL"
	$(BIN)/python -m app $(ARGS)

demo: $(INSTALLED) ## Gateway on port 30000 with a simulated pair; ENGINE=vllm CONNECTOR=nixl|mooncake
	@$(BIN)/python -m app demo --engine $(ENGINE) $(if $(CONNECTOR),--connector $(CONNECTOR)) $(ARGS)

test: $(INSTALLED) ## All tests that need no real engine
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

imports: $(INSTALLED) ## The direction of imports
	$(BIN)/lint-imports

check: lint types imports test ## Everything that must pass: lint types imports test

bench: $(INSTALLED) ## CPU, latency and memory; SMG=python of smg's environment compares with SMG
	SMG="$(SMG)" $(BIN)/python tests/bench/run.py $(ARGS)

bench-peers: $(INSTALLED) ## The section of docs/performance.md beside SMG=python, VLLM_ROUTER=python, nginx and a plain proxy
	@SMG="$(SMG)" VLLM_ROUTER="$(VLLM_ROUTER)" $(BIN)/python tests/bench/compare.py $(ARGS)

bench-many: $(INSTALLED) ## CPU of a request in two processes beside one, in turns; ARGS="--workers 4"
	$(BIN)/python tests/bench/many.py $(ARGS)

bench-routing: $(INSTALLED) ## Time to first token by router, in real time: make bench-routing TRACE=FILE SMG=python
	SMG="$(SMG)" PYTHONPATH=. $(BIN)/python tests/bench/routing.py $(TRACE) $(ARGS)

bench-sweep: $(INSTALLED) ## The prefill queue against early binding in virtual time: make bench-sweep TRACE=FILE
	PYTHONPATH=. $(BIN)/python tests/bench/sweep.py $(TRACE) $(ARGS)

bench-recorded: $(INSTALLED) ## The replay of a recorded run against the run: make bench-recorded TRACE=FILE
	PYTHONPATH=. $(BIN)/python tests/bench/recorded.py $(TRACE) $(ARGS)

bench-scheduling: $(INSTALLED) ## What the prefill queue itself costs: grants, the prefix index, polling
	PYTHONPATH=. $(BIN)/python tests/bench/scheduling_costs.py $(ARGS)
	PYTHONPATH=. $(BIN)/python tests/bench/load_polling.py

soak: $(INSTALLED) ## Faults, deaths and drains under load; SOAK=5m (or 2h), SEED=n
	$(BIN)/python -m tests.soak.run --time $(SOAK) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak-brain: $(INSTALLED) ## kill -9 of the deciding process every 10 s under load; SOAK=5m
	$(BIN)/python -m tests.soak.brain --time $(SOAK) $(ARGS)

soak-streams: $(INSTALLED) ## 500 streams of 20 events/s for a minute
	$(BIN)/python tests/bench/streams.py $(ARGS)

bench-overload: $(INSTALLED) ## A step of five times the load: goodput, refusals, probes; ARGS="--step-s 20"
	$(BIN)/python tests/bench/overload.py $(ARGS)

test-engines: $(INSTALLED) ## End-to-end tests on real SGLang and vLLM workers, see docs/testing.md
	tests/engines/run.sh $(ARGS)

pages: $(INSTALLED) ## Write the pages that are made from code: settings, failures, API, flags of SMG
	$(BIN)/python -m app.settings_pages env > .env.example
	$(BIN)/python -m app.settings_pages markdown > docs/configuration.md
	$(BIN)/python -m tests.flow.matrix_page > docs/fault-matrix.md
	$(BIN)/python -m tests.pages.api_page > docs/api.md
	$(BIN)/python -m tests.pages.smg_page > docs/migration-from-smg.md

pictures: $(INSTALLED) ## Take the pictures of the dashboard anew; needs Chromium
	$(BIN)/python -m tests.pages.dashboard_shots docs/images $(ARGS)

protos: $(INSTALLED) ## Write app/upstream/generated anew from protos/
	$(BIN)/python protos/generate.py app/upstream/generated

clean: ## Remove .venv and everything that was made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
