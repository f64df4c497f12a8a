# `make repro` and `make test` need only Python 3.11 or newer and the package registry.
SHELL := /bin/bash
PYTHON ?= python3
EXP ?= quickstart
RUN ?=
STUDY ?= tuning
PORT ?= 5000
VENV := $(CURDIR)/.venv
STAMP := $(VENV)/installed
export PATH := $(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install repro test test-all lint ui sync record tables study audit report plots export restore prove register bench profile clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

install: $(STAMP) ## make .venv with the pinned dependencies

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "error: Python 3.11 to 3.13 is needed; set PYTHON=/path/to/it")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check '.[test]'
	touch $@

repro: install ## run the pipeline: the quickstart, or EXP=lenet5 for one of the paper's experiments
	@target=$$(python -m stages.check $(EXP)) && dvc repro $$target
	@python -m stages.report $(EXP) --show

test: install ## the test suite, without the slow tests
	python -m pytest

test-all: install ## the whole test suite
	python -m pytest -m 'slow or not slow'

lint: install ## check style and imports
	ruff check . && ruff format --check .

ui: install ## the MLflow UI on http://127.0.0.1:5000 (PORT=...)
	@python -m stages.ui $(PORT)

sync: install ## send to MLflow what could not be sent before
	@python -m stages.sync

record: install ## write finished runs into the ledger: EXP=lenet5, or RUN=name
	@python -m stages.record $(if $(RUN),$(RUN),$(EXP)) && python -m stages.tables

tables: install ## rewrite the tables in README.md from the ledger
	@python -m stages.tables

study: install ## run the trials of a study on the validation split: EXP=lenet5-methods STUDY=tuning
	@python -m stages.study $(EXP) $(STUDY)

export: install ## write a finished run's network as ONNX and sparse files into exports/: RUN=name
	@python -m stages.export $(RUN)

restore: install ## put the dense networks of a recorded run back, to prune them further without training: RUN=name
	@python -m stages.restore $(RUN)

prove: install ## on the whole test set, compacted and compiled networks answer as the recorded ones: EXP=lenet5, or RUN=name
	@python -m stages.prove $(if $(RUN),$(RUN),$(EXP))

register: install ## export, and put both networks into MLflow's model registry: RUN=name
	@python -m stages.export $(RUN) --register

audit: install ## verdicts on the paper's claims, every record checked against its network, every table against the ledger
	@python -m stages.audit
	@python -m stages.tables --check && python -m stages.page --check
	@echo "README.md and REPORT.md say what the ledger says"

report: install ## write REPORT.md and report.html: verdicts, tables and figures of all recorded runs
	@python -m stages.page

plots: install ## DVC's plots of all runs as one page that loads nothing, dvc_plots/index.html
	@python -m stages.plots

bench: install ## what an ADMM epoch costs beside a plain one, both sides in one run
	@python -m stages.bench_training $(EXP)

profile: install ## where the time of an epoch goes, once the data is prepared: EXP=resnet32
	@python -m stages.profile_training $(EXP)

clean: ## forget what unfinished stages kept (those that run now, and finished results, stay)
	@test ! -d .scratch || python -m stages.clean
