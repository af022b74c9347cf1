# One command each: `make demo` shows the main job without a meter, `make test` is all checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
STAMP := $(VENV)/.up-to-date
# Not compiled: of most packages only a part is ever imported.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable
# The tests wait for processes and brokers more than they compute: more workers than cores shorten them.
WORKERS ?= 5

.PHONY: setup demo test lint bench walk endurance endurance-processes endurance-network endurance-day soak fuzz screenshots clean

setup: $(STAMP)

$(DEMO): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "iem-dcr needs Python 3.11 or newer; '$(PYTHON)' is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making $(VENV), with the packages that the demo needs: some seconds ..."
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "'$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(INSTALL) '.[demo]'
	@touch $@

$(STAMP): $(DEMO)
	@echo "Adding to $(VENV) what tests and checks need ..."
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

bench: $(STAMP)
	$(BIN)/python benchmarks/driver.py
	$(BIN)/python benchmarks/everest.py
	$(BIN)/python benchmarks/fleet.py --quick
	$(BIN)/python benchmarks/receipts.py

# How many calls, functions and files a start, a stop and a live value walk through: make walk LIST=start
walk: $(STAMP)
	@$(BIN)/python benchmarks/walk.py $(if $(LIST),--list '$(LIST)')

# Random sessions in which anything can happen: make endurance SESSIONS=100000 SEED=1; a failure prints how it is replayed.
endurance: $(STAMP)
	@$(BIN)/python -m endurance --sessions $(or $(SESSIONS),5000) --seed $(or $(SEED),1) --knobs $(or $(KNOBS),all) --keep '$(KEEP)'

# The real programs: killed at random instants, cut off from their meters, and left to run. docs/reliability.md
endurance-processes: $(STAMP)
	@$(BIN)/python -m endurance.processes.killing --restarts $(or $(RESTARTS),300) --seed $(or $(SEED),1) --slow-disk

endurance-network: $(STAMP)
	@$(BIN)/python -m endurance.processes.network --rounds $(or $(ROUNDS),3)

endurance-day: $(STAMP)
	@$(BIN)/python -m endurance.day --hours $(or $(HOURS),24)

soak: $(STAMP)
	@$(BIN)/python -m endurance.processes.soak --hours $(or $(HOURS),1) --meters $(or $(METERS),50)

# The meter that answers as nothing should, for longer: make fuzz REQUESTS=20000 SEED=7
fuzz: $(STAMP)
	IEM_DCR_FUZZ_REQUESTS=$(or $(REQUESTS),5000) IEM_DCR_FUZZ_SEED=$(or $(SEED),1) \
		$(BIN)/pytest --quiet --capture=no --timeout=0 tests/test_hostile_meter.py

# The pictures and tables of the README and the docs, made anew.
screenshots: $(STAMP)
	@for script in scripts/*.py; do $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
