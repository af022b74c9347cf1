# `make demo` shows the main function without a meter, `make test` runs all checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
STAMP := $(VENV)/.up-to-date
OLDEST := .venv-oldest
# Without compiling, because only a part of most packages is ever imported.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable
# More workers than cores are faster, because the tests mostly wait for processes and brokers.
WORKERS ?= 5

.PHONY: setup demo test test-all test-oldest package coverage mutants lint bench walk endurance endurance-processes endurance-network endurance-day soak fuzz screenshots clean

setup: $(STAMP)

$(DEMO): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "iem-dcr needs Python 3.11 or newer; '$(PYTHON)' is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV) with the packages for the demo, which takes some seconds ..."
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "'$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(INSTALL) '.[demo]'
	@touch $@

$(STAMP): $(DEMO)
	@echo "Adding the packages for tests and checks to $(VENV) ..."
	@$(INSTALL) '.[dev]'
	@touch $@

demo: $(DEMO)
	@$(BIN)/iem-dcr demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --numprocesses $(WORKERS)

# The long checks: many examples, 20,000 sessions, 300 kills, the oldest allowed dependencies, the packages.
test-all: lint mutants
	IEM_DCR_TESTS=nightly $(BIN)/pytest --numprocesses $(WORKERS) --timeout=3600
	$(MAKE) endurance SESSIONS=20000
	$(MAKE) endurance-processes RESTARTS=300
	$(MAKE) test-oldest package

# The tests with the oldest versions that pyproject.toml allows, in a separate environment.
test-oldest: $(STAMP)
	$(BIN)/python scripts/oldest.py > .oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint .oldest.txt --editable '.[test]'
	$(OLDEST)/bin/pytest --numprocesses $(WORKERS)

package: $(STAMP)
	@$(INSTALL) '.[dev,release]'
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist

# Coverage of lines and branches, including the processes that the tests start. Decisions without I/O need all of it.
PURE := $(foreach name,transitions receipt_matching receipt_memory ledger entry,src/iem_dcr/driver/$(name).py)
COMMA := ,
coverage: $(STAMP)
	@$(BIN)/coverage erase
	@status=0; $(BIN)/coverage run -m pytest --numprocesses $(WORKERS) || status=$$?; \
		$(BIN)/coverage combine --quiet && $(BIN)/coverage report && \
		$(BIN)/coverage report --include='$(subst $() ,$(COMMA),$(PURE))' --show-missing --fail-under=100 && exit $$status

# Mutation tests: lists the small changes of decisions that no test detects: make mutants MODULES=driver/ledger.py
mutants: $(STAMP)
	@$(BIN)/python scripts/mutants.py $(MODULES)

bench: $(STAMP)
	$(BIN)/python benchmarks/driver.py
	$(BIN)/python benchmarks/everest.py
	$(BIN)/python benchmarks/fleet.py --quick
	$(BIN)/python benchmarks/receipts.py

# Counts calls, functions and files of a start, a stop and a live value: make walk LIST=start
walk: $(STAMP)
	@$(BIN)/python benchmarks/walk.py $(if $(LIST),--list '$(LIST)')

# Random sessions with random faults: make endurance SESSIONS=100000 SEED=1. A failure prints the command to replay it.
endurance: $(STAMP)
	@$(BIN)/python -m endurance --sessions $(or $(SESSIONS),5000) --seed $(or $(SEED),1) --knobs $(or $(KNOBS),all) --keep '$(KEEP)'

# The real programs: killed at random instants, cut off from their meters, and run for hours. docs/reliability.md
endurance-processes: $(STAMP)
	@$(BIN)/python -m endurance.processes.killing --restarts $(or $(RESTARTS),300) --seed $(or $(SEED),1) --slow-disk

endurance-network: $(STAMP)
	@$(BIN)/python -m endurance.processes.network --rounds $(or $(ROUNDS),3)

endurance-day: $(STAMP)
	@$(BIN)/python -m endurance.day --hours $(or $(HOURS),24)

soak: $(STAMP)
	@$(BIN)/python -m endurance.processes.soak --hours $(or $(HOURS),1) --meters $(or $(METERS),50)

# A meter that sends random invalid answers: make fuzz REQUESTS=20000 SEED=7
fuzz: $(STAMP)
	IEM_DCR_FUZZ_REQUESTS=$(or $(REQUESTS),5000) IEM_DCR_FUZZ_SEED=$(or $(SEED),1) \
		$(BIN)/pytest --quiet --capture=no --timeout=0 tests/test_hostile_meter.py

# Regenerates the pictures and tables of the README and the docs.
screenshots: $(STAMP)
	@for script in screenshots terminal_picture docs_tables; do $(BIN)/python scripts/$$script.py || exit 1; done

clean:
	rm -rf $(VENV) $(OLDEST) .oldest.txt .coverage* dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
