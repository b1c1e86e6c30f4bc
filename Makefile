# make demo       sets everything up in .venv and runs L0 on the embedded digits, ledger at the end
# make test       sets everything up and runs the fast tests;  make test-all  also the slow ones
# make lint       flake8 and mypy, options in setup.cfg
# PYTHON=...      the Python to build .venv with, 3.11 or later

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
RUN := $(VENV)/bin/python
# Python compiles what is imported; pip would compile all that is installed, half of its time.
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: demo test test-all test-slurm lint clean

demo: $(VENV)/.installed
	$(RUN) -m experiments.train --config=experiments/configs/digits/l0_mlp.py --workdir=out/demo

test: $(VENV)/.installed-test
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile -m 'not slow'

test-all: $(VENV)/.installed-test
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

# as root, with Debian's slurm-wlm and munge
test-slurm: $(VENV)/.installed-test
	$(RUN) -m pytest -m slow tests/experiments/launchers

lint: $(VENV)/.installed-test
	$(RUN) -m flake8 sparsejax experiments benchmarks tests
	$(RUN) -m mypy sparsejax experiments

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sparsejax needs Python 3.11 or later, " + sys.executable + " is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
