# Needs Python 3.11 or newer and make; everything else comes from pip, into .venv.
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo
# Processes of the tests. Most of their time is waiting for Ray, and a Ray instance takes about a core. They take files in
# the order of tests/conftest.py.
WORKERS ?= 2
BIN    := $(VENV)/bin
TOOLS  := $(VENV)-tools
CHECKOV := $(VENV)-checkov
PIP    := DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check -c .ci/constraints.txt

export PIP_NO_INPUT := 1

.PHONY: help install demo test test-all test-containers notebooks lint-manifests check docs wheel-test audit clean wheel

help:
	@echo "make demo      install, then run the whole chain on a small built-in corpus (about ten minutes on two cores)"
	@echo "make test      install, then run the tests that need no GPU and take no minutes each"
	@echo "make test-all  install, then run every test that needs no GPU"
	@echo "make test-containers  as root, with podman, openssh-server, rsync, sudo and iproute2: build the image, and start"
	@echo "               a cluster of containers with ray up (about 15 minutes)"
	@echo "make notebooks install, then run the notebooks of docs/notebooks from top to bottom"
	@echo "make lint-manifests  rules of checkov for the pods and other objects of cluster/kuberay"
	@echo "make check     install, then ruff and mypy"
	@echo "make docs      install, then build the documentation site into site/"
	@echo "make wheel-test  build the wheel twice (equal bytes), install it alone into a fresh environment, list what it"
	@echo "               brings in build/sbom.json (CycloneDX), and run the demo with recipe debug"
	@echo "make audit     known vulnerabilities of the pinned versions"
	@echo "make install   only install, into $(VENV)"

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/s2v demo $(DEMO)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not gpu and not minutes and not containers" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu and not containers" $(ARGS)

# BUILD builds the image: another command where the registries are not reached.
BUILD ?= podman build
test-containers: $(VENV)/.installed-dev
	$(BUILD) -f cluster/Dockerfile --target cpu \
	  -t "localhost/s2v_ray:$$($(BIN)/python -c 'from s2v_ray.cluster.launcher import TAG; print(TAG)')-cpu" .
	$(BIN)/python -m pytest -m containers -s $(ARGS)

notebooks: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/integration/test_notebooks.py $(ARGS)

# In an environment of its own, because it pins versions of what we use.
lint-manifests: $(VENV)/.installed-dev
	test -x $(CHECKOV)/bin/checkov || { $(PYTHON) -m venv $(CHECKOV) && \
	  $(CHECKOV)/bin/python -m pip install -q --disable-pip-version-check "checkov>=3.3,<4"; }
	mkdir -p build && $(BIN)/python -m tests.cluster.pods build/pods.yaml
	$(CHECKOV)/bin/checkov -f build/pods.yaml --framework kubernetes --compact --quiet --skip-download \
	  --config-file tests/cluster/checkov.yaml

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/render.py --check
	$(BIN)/mkdocs build --strict

# The same commit gives the same bytes: archives have the time of the commit.
wheel: $(BIN)/python
	rm -rf build/wheel && mkdir -p build/wheel
	for copy in first second; do rm -rf build/lib build/bdist.*; \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) DS_BUILD_OPS=0 $(BIN)/python -m pip wheel -q \
	    --disable-pip-version-check --no-deps -w build/wheel/$$copy . || exit 1; done
	cmp build/wheel/first/*.whl build/wheel/second/*.whl

# Outside the checkout, so that the demo cannot import it from here.
wheel-test: wheel $(TOOLS)/.installed
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder/venv" && \
	  DS_BUILD_OPS=0 "$$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
	    -c .ci/constraints.txt build/wheel/first/*.whl && \
	  $(TOOLS)/bin/cyclonedx-py environment "$$folder/venv/bin/python" --output-reproducible -o build/sbom.json && \
	  cd "$$folder" && venv/bin/s2v demo demo --recipe debug && test -s demo/video.mp4

# Known vulnerabilities of the pinned versions; needs PyPI.
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit -r .ci/constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) $(TOOLS) $(CHECKOV) .mypy_cache .ruff_cache .pytest_cache build site s2v_ray.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "s2v_ray needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# In an environment of their own: cyclonedx-bom brings rfc3987-syntax, which jsonschema imports where it finds it. That
# takes two seconds in every process of Ray.
$(TOOLS)/.installed: .ci/constraints.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q --disable-pip-version-check -c .ci/constraints.txt cyclonedx-bom pip-audit
	@touch $@

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
