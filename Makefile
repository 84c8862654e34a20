# Everything a user or contributor does, in one word each. `make help` lists them.
DATASET ?= phantoms
PRESET ?=
NB ?= 00
OUT ?= out
TESTS ?=
LOCKED ?= torch
TORCH ?=
FRESH ?=
EXTRAS ?= notebooks,dev,docs
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif
CORE := $(subst .venv,.core,$(BIN))
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
DEMO := 00 10 11 20 30 31 32 40 41 42 51
ifeq ($(DATASET),phantoms)
DEMO := 00
endif
# One process more than there are cores, since some tests wait for others: a browser, a kernel, a killed process;
# and processes that tests start find compiled modules, which some environments switch off.
pytest = PYTHONDONTWRITEBYTECODE= $(1)/python -m pytest -n $$($(1)/python -c 'import os; print(os.cpu_count() + 1)') --dist loadgroup
quoted = '$(subst ','\'',$(1))'
PAPERMILL := $(BIN)/papermill --log-level WARNING --no-progress-bar --kernel python3
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

.DEFAULT_GOAL := help
.PHONY: help env demo lab test test-lowest test-newest scripts gpu check lint types imports stripped format docs \
  notebooks run bench peers lock hooks clean _execute

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

# PyPI's PyTorch for Linux is the CUDA build, so without a GPU the CPU build comes from PyTorch's own index
define torch
want=$(call quoted,$(TORCH)); \
test -n "$$want" || want=$$(nvidia-smi -L > /dev/null 2>&1 && echo cuda || echo cpu); \
case "$$want" in \
  cpu) echo "PyTorch for CPU: about 2.4 GB of disk in .venv (TORCH=cuda: for an NVIDIA GPU, about 7 GB)";; \
  *) echo "PyTorch for $$want: about 7 GB of disk in .venv (TORCH=cpu: without a GPU, about 2.4 GB)";; \
esac; \
df -Pk . | awk 'NR == 2 {printf "free here: %.1f GB\n", $$4 / 1e6}'; \
if test "$$want" = cuda || test "$$(uname -s)-$$want" = Darwin-cpu; then exit 0; fi; \
echo "1 of 2: PyTorch, the largest download"; \
$(BIN)/python -m pip install --timeout 15 --retries 1 --no-deps --constraint requirements.lock \
  --index-url "$(INDEX)/$$want" torch 2> .venv/torch.log || \
  echo "$(INDEX)/$$want gave no PyTorch (why: .venv/torch.log), so pip's usual index is used; on Linux its build has CUDA, about 7 GB"
endef
INDEX := https://download.pytorch.org/whl
# One line a package that pip collects, then how many it installs
collected = awk '/^(Collecting|Processing) / {sub(/.*\//, "", $$2); sub(/[^A-Za-z0-9_.-].*/, "", $$2); \
  printf "  %3d %s\n", ++found, $$2; fflush()} \
  /^Installing collected/ {print "  installing " NF - 3 " packages: a minute without a line"; fflush()}'

.venv/ready: pyproject.toml requirements.lock
	@echo "fedlab's environment: Python packages in .venv, some minutes, once"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fedlab needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv
	@$(torch)
	@echo "2 of 2: about 190 packages with the versions of requirements.lock"
	@$(BIN)/python -u -m pip install --constraint requirements.lock --editable '.[$(EXTRAS)]' | $(collected)
	@touch $@

env: .venv/ready  ## a virtual environment with pinned versions in .venv; TORCH=cpu, cuda or cu126 chooses PyTorch

demo: env  ## the main job on phantoms; DATASET=pneumoniamnist runs the whole series on real chest X-rays
	@for number in $(DEMO); do \
	  $(MAKE) --no-print-directory _execute NB=$$number TO=$(call quoted,$(OUT)/demo) || exit 1; done
	@echo; echo open $(call quoted,$(OUT)/demo/00-start-here.html) \
	  '(next to it: the executed notebook, figures and run folders)'

lab: env  ## JupyterLab on copies of the notebooks in out/lab, which keep your changes; FRESH=1 copies all again
	@$(BIN)/python fedlab/notebook/copies.py notebooks $(call quoted,$(OUT)/lab) $(if $(FRESH),--fresh)
	$(BIN)/jupyter lab $(call quoted,$(OUT)/lab)

test: env  ## all tests, notebooks included; EVERY=1 runs laws of all methods and settings with each combination
	$(call pytest,$(BIN)) $(if $(EVERY),--every-method)

.lowest/ready: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv --clear .lowest
	$(PYTHON) tests/lowest.py $(LOCKED) > .lowest/constraints.txt
	$(subst .venv,.lowest,$(BIN))/python -m pip install --quiet --constraint .lowest/constraints.txt --editable '.[notebooks,dev]'
	@touch $@

# PyTorch stays at the version of requirements.lock, since each other one is gigabytes: LOCKED= to test its bounds too
test-lowest: .lowest/ready  ## the tests with the lowest versions that pyproject.toml allows; TESTS="tests/core -x" for some
	$(call pytest,$(subst .venv,.lowest,$(BIN))) $(TESTS)

test-newest:  ## the tests with the newest versions that pyproject.toml allows, in a new environment each time
	$(PYTHON) -m venv --clear .newest
	sed -nE '$(patsubst %,/^%==/p;,$(LOCKED))' requirements.lock > .newest/constraints.txt
	$(subst .venv,.newest,$(BIN))/python -m pip install --quiet --constraint .newest/constraints.txt --editable '.[notebooks,dev]'
	$(call pytest,$(subst .venv,.newest,$(BIN))) $(TESTS)

gpu: env  ## every method, mode and precision on a GPU against the CPU, in four minutes; says so where there is none
	$(BIN)/python tests/gpu.py

scripts:  ## the core without JupyterLab: installed in a separate environment, .core, where docs/example.py runs
	@rm -rf .core build
	$(PYTHON) -m venv .core
	$(CORE)/python -m pip install --quiet --constraint requirements.lock .
	@rm -rf build
	! $(CORE)/python -c 'import IPython' 2>/dev/null
	mkdir -p $(call quoted,$(OUT)/scripts)
	cd $(call quoted,$(OUT)/scripts) && $(call quoted,$(CURDIR)/$(CORE)/python) $(call quoted,$(CURDIR)/docs/example.py)

check: lint types imports stripped  ## lint, format, types, imports that point down, stripped notebooks

lint: env  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env  ## mypy
	$(BIN)/mypy

imports: env  ## import-linter: the contracts in .importlinter
	$(BIN)/lint-imports

stripped: env  ## notebooks are stored without outputs
	$(BIN)/nbstripout --verify $(NOTEBOOKS)

format: env  ## format code and strip notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout $(NOTEBOOKS)

docs: env  ## the documentation as a website in out/site, with figures drawn by fedlab
	$(BIN)/python docs/figures.py
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict
	@echo "open out/site/index.html"

notebooks: env  ## execute every notebook with its defaults
	@for notebook in $(NOTEBOOKS); do \
	  $(MAKE) --no-print-directory _execute NB="$$(basename "$$notebook" | cut -c1-2)" \
	    TO=$(call quoted,$(OUT)/notebooks) || exit 1; done

run: env  ## one notebook: make run NB=30 PRESET=gpu DATASET=retinamnist
	@$(MAKE) --no-print-directory _execute NB=$(call quoted,$(NB)) TO=$(call quoted,$(OUT)/run)

bench: env  ## rounds against the best bare PyTorch loop, memory, start-up, a million cases partitioned, the panel redrawn
	$(BIN)/python benchmarks/rounds.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python benchmarks/partitions.py
	$(BIN)/python benchmarks/widgets.py

peers: env  ## the same work by Flower, pfl-research and NVIDIA FLARE, each in a separate environment
	@for peer in flower pfl_research flare; do \
	  test -x .peers/$$peer/bin/python || $(PYTHON) -m venv .peers/$$peer; \
	  .peers/$$peer/bin/python -m pip install --quiet --requirement benchmarks/peers/$$peer.txt; done
	$(BIN)/python benchmarks/peers.py

hooks: env  ## run the checks of `make check` before each commit
	$(BIN)/pre-commit install

lock: env  ## write the installed versions into requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//; /^[^=]+ @ /d' > requirements.lock

clean:  ## remove the environment and all outputs
	rm -rf .venv .core .peers .lowest .newest $(call quoted,$(OUT)) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

_execute:
	@mkdir -p $(call quoted,$(TO))
	@name="$$(basename "$$(ls notebooks/$(call quoted,$(NB))-*.ipynb)" .ipynb)"; \
	echo notebook "$$name" on $(call quoted,$(DATASET)); \
	$(PAPERMILL) "notebooks/$$name.ipynb" $(call quoted,$(TO))/"$$name.ipynb" \
	  -r out $(call quoted,$(TO)) -r dataset $(call quoted,$(DATASET)) \
	  $(if $(PRESET),-f notebooks/presets/$(call quoted,$(PRESET)).yaml) 2>&1 | sed '/IPKernelApp. WARNING/d'; \
	$(BIN)/jupyter nbconvert --log-level ERROR --to html --template fedlab \
	  --TemplateExporter.extra_template_basedirs=docs/templates $(call quoted,$(TO))/"$$name.ipynb"
