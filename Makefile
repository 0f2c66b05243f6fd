# Needs Python 3.11 or newer and make; everything else comes from pip, into .venv.
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo
BIN    := $(VENV)/bin
PIP    := DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check -c .ci/constraints.txt

export PIP_NO_INPUT := 1

.PHONY: help install demo test test-all check clean

help:
	@echo "make demo      install, then run the whole chain on a small built-in corpus (about ten minutes on two cores)"
	@echo "make test      install, then run the tests that need no GPU and take no minutes each"
	@echo "make test-all  install, then run every test that needs no GPU"
	@echo "make check     install, then ruff and mypy"
	@echo "make install   only install, into $(VENV)"

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/s2v demo $(DEMO)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu and not minutes" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build s2v_ray.egg-info

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
