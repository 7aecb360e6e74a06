# make demo: the whole main job on the embedded teacher.   make test: lint and the test suite.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test docs compilers lint format clean

$(STAMP): setup.py requirements.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m experiments.pipeline --flagfile=experiments/recipes/demo.flags

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two processes: compilation, which is most of it, uses one core each. Files in the order of conftest.py.
test: lint
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

# The documentation as a site, in site/; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The TPU compiler that the installed jax pins, for `experiments.plan`; it needs no TPU.
compilers: $(STAMP)
	test -d .compilers/libtpu || $(BIN)/python -m pip install --quiet --no-deps --target .compilers \
	  $$($(BIN)/python -c 'from cdjax.planning.targets import *; print(*compiler_packages(parse_target("v5e:4x4")))')

clean:
	rm -rf $(VENV) .compilers site build dist *.egg-info
