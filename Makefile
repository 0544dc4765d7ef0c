# Each target sets up what it needs: `make repro` and `make test` are all a new user types.
PYTHON ?= python3
# Runs side by side; run.threads in params.yaml says how many CPU threads each has.
JOBS ?= 2
# A Ray cluster in place of JOBS: auto, ray://HOST:10001 or local. See docs/cluster.md.
CLUSTER ?=
CLUSTER_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: repro help new debug preview experiments dag track test test-all faults fuzz lint format docs results judge bench gpu-check ui lock clean

repro: $(VENV)/.ready      ## build every result that is out of date
	python -m stages.resolve --check
	@! ls mlflow.db.live/*.json > /dev/null 2>&1 || python -m heated.tracking.live_runs
	$(if $(CLUSTER),python -m heated.pipeline.cluster --address $(CLUSTER) $(CLUSTER_OPTIONS),python -m stages $(JOBS))
	@echo 'The report is $(CURDIR)/report/index.html. `make ui` starts MLflow, to compare the runs.'

help:                      ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1|/' | \
		while IFS='|' read -r target text; do printf '%-12s %s\n' "$$target" "$$text"; done

new: $(VENV)/.ready        ## add a data set of your own: make new NAME=my-images IMAGES=../my-images
	python -m heated.pipeline.new_dataset "$(NAME)" "$(IMAGES)"

debug: $(VENV)/.ready      ## try the settings: one method, one seed, two epochs, in a copy
	python -m heated.pipeline.debug_build

preview: $(VENV)/.ready    ## plot alpha, temperature and learning rate of every method, without training
	python -m stages.resolve
	python -m heated.reporting.preview

experiments: $(VENV)/.ready ## list DVC's experiments with the settings and metrics that differ
	@python -m heated.pipeline.dvc_views experiments

dag: $(VENV)/.ready        ## draw the pipeline's stages
	@python -m heated.pipeline.dvc_views dag

track: $(VENV)/.ready      ## upload runs that MLflow lacks, from the files that DVC tracks
	dvc repro --quiet --single-item resolve
	dvc repro --single-item --force track

test: $(VENV)/.ready-dev   ## run the fast tests, in at most 5 minutes on 2 cores
	pytest --numprocesses auto --dist loadgroup -m "not slow and not pipeline and not browser"

test-all: $(VENV)/.ready-dev ## run every test, as CI does, in about 20 minutes on 2 cores
	pytest --numprocesses auto --dist loadgroup

faults: $(VENV)/.ready-dev ## break a small build in 170 ways: each recovers, or says why
	python tests/faults.py --seed $(or $(SEED),0) --jobs $(JOBS)

fuzz: $(VENV)/.ready-dev   ## feed the stages mutated files for MINUTES=10: no traceback, no hang
	python tests/fuzz.py --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0) --jobs $(JOBS)

lint: $(VENV)/.ready-dev   ## check format, lint rules, types and import directions
	ruff format --check
	ruff check
	mypy
	lint-imports

format: $(VENV)/.ready-dev ## format the code and fix what ruff can fix
	ruff format
	ruff check --fix

docs: $(VENV)/.ready-dev   ## build the documentation site in site/; broken links stop it
	python docs/generate_parameters.py
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true mkdocs build --strict --quiet

results: repro             ## write RESULTS.md and results/ from the report
	python -m heated.reporting.release

judge: $(VENV)/.ready      ## repeat the tests of claims.yaml on the released numbers, without training
	python -m stages.resolve
	python -m heated.reporting.judge

bench: $(VENV)/.ready-dev  ## measure time and memory, compared with their limits and other tools
	python benchmarks/run.py

gpu-check: $(VENV)/.ready-dev ## test and measure a GPU in about five minutes; without one, say what would run
	python benchmarks/gpu_check.py

ui: $(VENV)/.ready         ## start MLflow on http://127.0.0.1:5000
	python -m heated.tracking

# One solution for every platform and Python version. Without --upgrade, existing pins stay.
lock: $(VENV)/.uv          ## solve requirements*.txt again from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--no-header --annotation-style line pyproject.toml --extra pipeline --output-file requirements.txt
	printf '%s\n' '-e .[pipeline]' >> requirements.txt
	grep -v '^-e ' requirements.txt > $(VENV)/constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--no-header --annotation-style line --group dev --constraints $(VENV)/constraints.txt \
		--output-file requirements-dev.txt
	sed -i 's/, -c .venv.constraints.txt//; s/-c .venv.constraints.txt/requirements.txt/' requirements-dev.txt

clean:                     ## delete everything that is built: environment, downloads, results
	rm -rf $(VENV) data runs report metrics site preview.html dvc_plots checkpoints downloads .dvc/cache .dvc/tmp mlflow.db mlartifacts

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "heated needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet uv
	@touch $@

# uv installs the set in under a minute, pip in a few. Bytecode is compiled once here, so that the
# first stages need not do it.
install = if [ -x $(BIN)/uv ]; then \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(1); \
	else $(BIN)/python -m pip install --quiet $(1); fi

$(VENV)/.ready: requirements.txt pyproject.toml | $(VENV)/.uv
	$(call install,-r requirements.txt)
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(call install,-r requirements-dev.txt)
	@touch $@
