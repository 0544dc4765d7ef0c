# Each target sets up what it needs: `make repro` and `make test` are all a new user types.
PYTHON ?= python3
# Runs side by side; run.threads in params.yaml says how many CPU threads each has.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUTF8 := 1

.PHONY: repro preview experiments track test test-all lint format results judge bench ui lock clean

repro: $(VENV)/.ready      ## rebuild every result that is out of date
	python -m stages.resolve --check
	python -m stages $(JOBS)

preview: $(VENV)/.ready    ## alpha, temperature and lr of every method, drawn before any training
	python -m stages.resolve
	python -m heated.reporting.preview

experiments: $(VENV)/.ready ## DVC's experiments beside each other: what differs, without hashes of files
	@dvc exp show --md --only-changed --drop '^(State|Executor|data|report|runs|src|stages|.*\.yaml$$)'

track: $(VENV)/.ready      ## write what MLflow shows again, from the files that DVC tracks
	dvc repro --quiet --single-item resolve
	dvc repro --single-item --force track

test: $(VENV)/.ready-dev   ## the fast tests: at most 5 minutes on 2 cores
	pytest --numprocesses auto --dist loadgroup -m "not slow and not pipeline and not browser"

test-all: $(VENV)/.ready-dev ## every test, as CI runs them: at most 20 minutes on 2 cores
	pytest --numprocesses auto --dist loadgroup

lint: $(VENV)/.ready-dev   ## what a contributor's change must pass: format, lint, types
	ruff format --check
	ruff check
	mypy
	lint-imports

format: $(VENV)/.ready-dev
	ruff format
	ruff check --fix

results: repro             ## RESULTS.md and results/, with what the report has
	python -m heated.reporting.release

judge: $(VENV)/.ready      ## the verdicts on the released numbers anew, by claims.yaml as it is now
	python -m stages.resolve
	python -m heated.reporting.judge

bench: $(VENV)/.ready-dev  ## what an evaluation costs, beside its limit and others' tools
	mkdir -p benchmarks/results
	python benchmarks/evaluate.py --json benchmarks/results/evaluate.json

ui: $(VENV)/.ready         ## MLflow's pages on http://127.0.0.1:5000
	python -m heated.tracking

# The pinned sets, solved anew from pyproject.toml for every platform and Python.
lock: $(VENV)/.uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--no-header --annotation-style line pyproject.toml --output-file requirements.txt
	printf '%s\n' '-e .' >> requirements.txt
	grep -v '^-e ' requirements.txt > $(VENV)/constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--no-header --annotation-style line --group dev --constraints $(VENV)/constraints.txt \
		--output-file requirements-dev.txt
	sed -i 's/, -c .venv.constraints.txt//; s/-c .venv.constraints.txt/requirements.txt/' requirements-dev.txt

clean:                     ## back to a fresh clone, downloads and results included
	rm -rf $(VENV) data runs report preview.html dvc_plots checkpoints downloads .dvc/cache .dvc/tmp mlflow.db mlartifacts

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "heated needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet uv
	@touch $@

# uv installs the whole set in under a minute; where it cannot be had, pip takes a few. Compiled
# here, once, rather than by the first stages that import it.
install = if [ -x $(BIN)/uv ]; then \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(1); \
	else $(BIN)/python -m pip install --quiet $(1); fi

$(VENV)/.ready: requirements.txt pyproject.toml | $(VENV)/.uv
	$(call install,-r requirements.txt)
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(call install,-r requirements-dev.txt)
	@touch $@
