# Every command of the project. `make help` lists them; each sets .venv up first where it needs it.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ARGS ?=
DEVICE ?= auto

ifdef NO_INSTALL
PYTHON ?= python3
export PYTHONPATH := $(if $(WHEELS),$(CURDIR)/build/wheels:)$(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
RUN = '$(PYTHON)'
else
RUN = .venv/bin/python
# A file at a time on each processor; ARGS="-n 0" runs them all in this process.
PARALLEL = -n auto --dist loadfile --no-loadscope-reorder
endif

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'ARGS="..."        is handed on:  make bench ARGS="--profile quick"   make test ARGS="-k cell"'
	@echo 'PYTHON=...        the interpreter that .venv is built on (3.11 or newer)'
	@echo 'NO_INSTALL=1      uses PYTHON as it is and installs nothing (bench, test, gpu-evidence);'
	@echo '                  WHEELS=FOLDER lays the wheels of a folder before it'

.PHONY: setup
setup: ## Make or mend .venv from requirements.lock, and nothing else
	@PYTHON='$(PYTHON)' NO_INSTALL='$(NO_INSTALL)' WHEELS='$(WHEELS)' sh tools/setup.sh

.PHONY: bench
bench: setup ## Measure: the profile gpu where CUDA is there, else quick; resumes what was begun
	@$(RUN) -m cnnbench run $(ARGS)

.PHONY: ui
ui: setup ## Open the MLflow UI on the results
	@$(RUN) -m cnnbench ui $(ARGS)

.PHONY: report
report: setup ## Write the report of the latest sweep
	@$(RUN) -m cnnbench report $(ARGS)

.PHONY: studies
studies: setup ## Put all documented advice to the test (ARGS="--budget 30m"); resumes
	@$(RUN) -m cnnbench study --all $(ARGS)
.PHONY: regress
regress: setup ## Look for regressions: against this machine's baseline, or BASE=<rev> measured beside
	@$(RUN) -m cnnbench regress $(if $(BASE),--base '$(BASE)') $(ARGS)

.PHONY: accept
accept: setup ## Show what `make regress` measured last, and make it this machine's baseline
	@$(RUN) -m cnnbench accept $(ARGS)

.PHONY: test
test: setup ## Run the tests; those that need a GPU are skipped, and counted, where there is none
	@$(RUN) -m pytest $(PARALLEL) $(ARGS)

.PHONY: lint
lint: setup ## Check format, style, types and import layers
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports --no-logo

.PHONY: format
format: setup ## Format the code, and mend what ruff can
	@.venv/bin/python -m ruff check --fix --exit-zero
	@.venv/bin/python -m ruff format

.PHONY: check
check: test lint ## Run the tests, then the lint

.PHONY: bench-harness
bench-harness: setup ## Measure cnnbench itself into results/local/harness.csv
	@$(RUN) -m bench.harness $(ARGS)

.PHONY: bench-peers
bench-peers: setup ## Measure cnnbench beside others into results/local/peers.csv
	@$(RUN) -m bench.peers $(ARGS)

.PHONY: torture
torture: setup ## Kill sweeps and their workers fifty times, and check that nothing is lost (minutes)
	@$(RUN) tests/torture.py $(ARGS)
.PHONY: bench-regress
bench-regress: setup ## Plant regressions and see that the gate finds each (ARGS="--only plants")
	@$(RUN) -m bench.plants $(ARGS)

.PHONY: gpu-evidence
gpu-evidence: setup ## Do all that needs a GPU, in stages, into results/reference/ (DEVICE=cpu rehearses)
	@$(RUN) -m bench.gpu_evidence --device $(DEVICE) $(ARGS)

.PHONY: lock
lock: setup ## Choose anew the exact versions in requirements.lock (ARGS="--upgrade": the newest)
	@.venv/bin/uv pip compile pyproject.toml --extra peers --extra pretrained --group dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --quiet \
		--custom-compile-command 'make lock' --output-file requirements.lock $(ARGS)

.PHONY: clean
clean: ## Remove .venv, build and the caches; results stay
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .benchmarks .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
