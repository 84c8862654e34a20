# Everything a user or contributor does, in one word each. `make help` lists them.
PYTHON ?= python3
DATASET ?= phantoms
PRESET ?=
NB ?= 00
OUT ?= out
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
DEMO := $(if $(filter phantoms,$(DATASET)),00,00 10 11 20 30 31 32 40 41 42 51)
PAPERMILL := $(BIN)/papermill --log-level WARNING --no-progress-bar --kernel python3
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

.DEFAULT_GOAL := help
.PHONY: help env demo lab test gpu check format notebooks run bench peers lock clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fedlab needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

env: .venv/ready  ## a virtual environment with pinned versions in .venv

demo: env  ## the main job on phantoms; DATASET=pneumoniamnist runs the whole series on real chest X-rays
	@mkdir -p $(OUT)/demo
	@for number in $(DEMO); do $(MAKE) --no-print-directory _execute NB=$$number TO=$(OUT)/demo || exit 1; done
	@echo; echo "open $(OUT)/demo/00-start-here.html (executed notebook, figures and run folders lie beside it)"

lab: env  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

test: env  ## all tests, notebooks included
	$(BIN)/python -m pytest -n 2 --dist loadgroup

gpu: env  ## every method, mode and precision on a GPU against the CPU, in four minutes; says so where there is none
	$(BIN)/python tests/gpu.py

check: env  ## lint, format, types, stripped notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify $(NOTEBOOKS)

format: env  ## format code and strip notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout $(NOTEBOOKS)

notebooks: env  ## execute every notebook with its defaults
	@for notebook in $(NOTEBOOKS); do \
	  $(MAKE) --no-print-directory _execute NB=$$(basename $$notebook | cut -c1-2) TO=$(OUT)/notebooks || exit 1; done

run: env  ## one notebook: make run NB=30 PRESET=gpu DATASET=retinamnist
	@$(MAKE) --no-print-directory _execute NB=$(NB) TO=$(OUT)/run

bench: env  ## rounds against the best bare PyTorch loop, memory, waiting, a million cases dealt, the panel redrawn
	$(BIN)/python benchmarks/rounds.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python benchmarks/partitions.py
	$(BIN)/python benchmarks/widgets.py

peers: env  ## the same work by Flower, pfl-research and NVIDIA FLARE, each in an environment of its own
	@for peer in flower pfl_research flare; do \
	  test -x .peers/$$peer/bin/python || $(PYTHON) -m venv .peers/$$peer; \
	  .peers/$$peer/bin/python -m pip install --quiet --requirement benchmarks/peers/$$peer.txt; done
	$(BIN)/python benchmarks/peers.py

lock: env  ## write the installed versions into requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//; /^[^=]+ @ /d' > requirements.lock

clean:  ## remove the environment and all outputs
	rm -rf .venv .peers $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis

_execute:
	@mkdir -p $(TO)
	@name=$$(basename $$(ls notebooks/$(NB)-*.ipynb) .ipynb); echo 'notebook' $$name 'on $(DATASET)'; \
	$(PAPERMILL) notebooks/$$name.ipynb $(TO)/$$name.ipynb -p out $(TO) -p dataset '$(DATASET)' \
	  $(if $(PRESET),-f notebooks/presets/$(PRESET).yaml) 2>&1 | sed '/IPKernelApp. WARNING/d'; \
	$(BIN)/jupyter nbconvert --log-level ERROR --to html $(TO)/$$name.ipynb
