# Frontrunner in one word each: make demo | serve | test | soak | check | bench | fuzz | fix | clean.
# The first of them makes .venv with everything inside; nothing is installed outside this folder.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3.11
PROMPT ?= a cup of coffee
NEGATIVE ?=
N ?= 16
OUT ?= demo
SCORERS ?=
DEVICE ?= auto
MODELS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK_TESTS := tests/unit tests/api tests/clients tests/architecture tests/contract
NUMERIC_TESTS := $(addprefix tests/contract/test_,parity.py generator.py scorer.py sharing.py) tests/system/test_pack.py

# Threads that spin at barriers starve each other on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

# Through the environment, so that no character of a prompt is ever read by make's shell.
export DEMO_PROMPT = $(value PROMPT)
export DEMO_NEGATIVE = $(value NEGATIVE)
export DEMO_N = $(value N)
export DEMO_OUT = $(value OUT)

.PHONY: help
help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

.PHONY: demo
demo: $(READY) ## sample, rank and show: PROMPT="..." NEGATIVE="..." N=16 SCORERS="..." OUT=demo
	@$(BIN)/frontrunner generate --negative "$$DEMO_NEGATIVE" --candidates "$$DEMO_N" --out "$$DEMO_OUT" \
	  $(addprefix --scorer=,$(SCORERS)) -- "$$DEMO_PROMPT"

.PHONY: serve
serve: $(READY) ## the service on 127.0.0.1:8000 (FRONTRUNNER_HOST and FRONTRUNNER_PORT move it)
	@$(BIN)/frontrunner serve

.PHONY: check
check: $(READY) ## format, lint, types, import rules and the quick tests, which need no torch
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint quick

.PHONY: lint
lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

.PHONY: quick
quick: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m 'not torch and not slow and not soak' $(QUICK_TESTS)

.PHONY: test
test: $(READY) ## every test but the long ones
	GOMP_SPINCOUNT=0 $(BIN)/pytest -n 2 --dist loadfile -m 'not soak'

.PHONY: soak
soak: $(READY) ## the long tests: replicas killed and rolled, stores that go away, overload, requests by schema
	GOMP_SPINCOUNT=0 $(BIN)/pytest -n 2 --dist load -m soak

.PHONY: numeric
numeric: $(READY) ## the tests that compare numbers, with the kernels of a CPU without AVX
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE GOMP_SPINCOUNT=0 \
		$(BIN)/pytest -n 2 --dist loadfile $(NUMERIC_TESTS)

.PHONY: fuzz
fuzz: $(READY) ## two minutes of mutated uploads, headers and forms; what fails is kept in tests/fuzz/seeds
	$(BIN)/python -m tests.fuzz

.PHONY: bench
bench: $(READY) ## the measurements, printed, stored as JSON and drawn
	env -u OMP_WAIT_POLICY $(BIN)/python -m tests.bench

.PHONY: bench-cluster
bench-cluster: $(READY) ## one race over 1 to 8 simulated devices, at most 10 minutes
	timeout 600 $(BIN)/python -m tests.bench.cluster --keep

.PHONY: bench-control
bench-control: $(READY) ## the control plane with a device that costs nothing, on SQLite and PostgreSQL
	$(BIN)/python -m tests.bench.control --keep

.PHONY: bench-device
bench-device: $(READY) ## real sizes with random weights on a device, at most 10 minutes: DEVICE=cuda MODELS="sdxl"
	env -u OMP_WAIT_POLICY timeout 600 $(BIN)/python -m tests.bench.device --device $(DEVICE) $(if $(MODELS),--models $(MODELS))

.PHONY: evaluate
evaluate: $(READY) ## the embedded pack's figures and sheets, into runs/figures (45 minutes; needs node)
	$(BIN)/python -m models.training.data.dataset icons
	$(BIN)/python -m models.training.evaluation.evaluate --pack models/packs/pictogram --judge tests/bench/judge

.PHONY: studio
studio: ## the page at /, checked and built from app/studio/src; needs node 20
	cd app/studio && npm ci --ignore-scripts --no-audit --no-fund && npm run check && npm run build

.PHONY: docs
docs: $(READY) ## what is generated: tables and figures of the documents, sources of the clients
	$(BIN)/python -m tests.architecture.documents

.PHONY: fix
fix: $(READY) ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## forget the virtual environment and every cache; data/ and demo/ stay
	rm -rf $(VENV) .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -e '.[models,production,mcp,otel]' --group dev
	@touch $@
