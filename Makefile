# Needs Python 3.11 or newer and make; everything else comes from pip, into .venv.
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo
# Processes of the tests. Most of their time is waiting for Ray, and a Ray instance takes about a core.
WORKERS ?= 2
BIN    := $(VENV)/bin
PIP    := DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check -c .ci/constraints.txt

export PIP_NO_INPUT := 1

.PHONY: help install demo test test-all check docs wheel-test clean

help:
	@echo "make demo      install, then run the whole chain on a small built-in corpus (about ten minutes on two cores)"
	@echo "make test      install, then run the tests that need no GPU and take no minutes each"
	@echo "make test-all  install, then run every test that needs no GPU"
	@echo "make check     install, then ruff and mypy"
	@echo "make docs      install, then build the documentation site into site/"
	@echo "make wheel-test  build the wheel, install it alone into a fresh environment, and run the demo with recipe debug"
	@echo "make install   only install, into $(VENV)"

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/s2v demo $(DEMO)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not gpu and not minutes" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/render.py --check
	$(BIN)/mkdocs build --strict

# Outside the checkout, so that the demo cannot import it from here.
wheel-test: $(BIN)/python
	rm -rf build/wheel-test && mkdir -p build/wheel-test
	DS_BUILD_OPS=0 $(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w build/wheel-test .
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder/venv" && \
	  DS_BUILD_OPS=0 "$$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
	    -c .ci/constraints.txt build/wheel-test/*.whl && \
	  cd "$$folder" && venv/bin/s2v demo demo --recipe debug && test -s demo/video.mp4

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build site s2v_ray.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "s2v_ray needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# A stamp a set of packages, so that a second call installs nothing.
$(VENV)/.installed: $(BIN)/python pyproject.toml .ci/constraints.txt
	@echo "installing into $(VENV): about a gigabyte, some minutes"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	@touch $@
