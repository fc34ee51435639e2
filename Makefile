# Two commands for newcomers: make run, make test. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
PORT ?= 7600
# The real data sets, where they are at hand; without them the demo makes its own shoppers.
ifndef PROFILEGRID_DATA
ifneq ($(wildcard ../shared/data/online_retail_2010_2011.csv.gz),)
export PROFILEGRID_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: setup run test lint long protos clean

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "profilegrid needs Python 3.11 or newer; name one with: make PYTHON=python3.12 run"; exit 1; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e client -e .
	@echo "compiling kernels (once per version)"
	@$(BIN)/python -m grid.warming || { echo "once more, from where it stopped"; $(BIN)/python -m grid.warming; }
	@touch $@

run: setup
	@$(BIN)/python -m examples.demo --data $(DATA) --port $(PORT)

test: setup
	@$(BIN)/python -m pytest -m "not long"

long: setup
	@$(BIN)/python -m pytest -m long

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@protos/generate.sh --check

protos: setup
	@protos/generate.sh

clean:
	@rm -rf $(VENV) build client/build *.egg-info client/*.egg-info

.PHONY: load soak torture
USERS ?= 64
TIME ?= 60s
# Headless locust against the local grid, or one of its own; `make load TIME=10m USERS=200`.
load: peers
	@$(BIN)/python -m loadtests.load --port $(PORT) --users $(USERS) --time $(TIME)

# Ten minutes of the same against a grid of its own; memory and p99 by the minute.
soak: peers
	@$(BIN)/python -m loadtests.soak

torture: setup
	@FUZZ_EXAMPLES=20 $(BIN)/python -m pytest tests/fuzz -q
	@$(BIN)/python -m tests.crash.torture --kills 300 $(if $(SEED),--seed $(SEED))

.PHONY: faults
# Every fault alone, then some together, on three nodes: `make faults SEED=7 TIMES=3`; SHORT=1 is one of each sort. About 12 minutes, and 2.
faults: setup
	@$(BIN)/python -m tests.faults $(if $(SHORT),--short) $(if $(TIMES),--times $(TIMES)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

.PHONY: simulate
SEEDS ?= 2000
# The protocol of replicas over seeds, then its mutants; `make simulate SEEDS=100000 STATE=simulated.json` goes on where it was stopped.
simulate: setup
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --mutants $(if $(STATE),--state $(STATE))

.PHONY: bench bench-check peers
peers: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check -r loadtests/requirements.txt || echo "peers from PyPI are missing; their rows are skipped"

bench: peers
	@$(BIN)/profilegrid bench $(if $(ONLY),--only $(ONLY))

bench-check: peers
	@$(BIN)/profilegrid bench --check $(if $(ONLY),--only $(ONLY))
