# make run   serve the example VMs on port 13370, in the foreground
# make test  the quick tests
# make check ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEEDS := setup.py pyproject.toml bin/vmw-metadata-server
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check clean

run: $(VENV)/.installed
	@exec $(BIN)/vmw-cloudinit-metadata run --uri my-metadata \
	    --driver-opts '{"directory": "conf/instances"}'

test: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest $(TESTS)

check: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.installed: $(NEEDS) | $(BIN)/python
	@echo "installing the server into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-for-tests: $(NEEDS) | $(BIN)/python
	@echo "installing the server and its tests into $(VENV)"
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than 3.11: name a newer one, as in: make PYTHON=python3.12 run"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv: install it first (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
