# make demo: the whole main job on the embedded teacher.   make test: lint and the test suite.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
TESTS  := $(VENV)/.tests

.PHONY: demo test docs compilers lint format clean

# What runs need is a gigabyte; what tests need beside it (PyTorch with CUDA), several.
$(RUNS): setup.py requirements.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $(RUNS)

$(TESTS): $(RUNS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	touch $(TESTS)

demo: $(RUNS)
	$(BIN)/python -m experiments.pipeline --flagfile=experiments/recipes/demo.flags

lint: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(TESTS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two processes: compilation, which is most of it, uses one core each, and a sixth less of it where
# jemalloc is installed (libjemalloc2). Files in the order of conftest.py.
test: lint
	LD_PRELOAD='$(firstword $(wildcard /usr/lib/*/libjemalloc.so.2))' \
	  $(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

# The documentation as a site, in site/; a warning is an error.
docs: $(TESTS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The TPU compiler that the installed jax pins, for `experiments.plan`; it needs no TPU.
compilers: $(RUNS)
	test -d .compilers/libtpu || $(BIN)/python -m pip install --quiet --no-deps --target .compilers \
	  $$($(BIN)/python -c 'from cdjax.planning.targets import *; print(*compiler_packages(parse_target("v5e:4x4")))')

clean:
	rm -rf $(VENV) .compilers site build dist *.egg-info
