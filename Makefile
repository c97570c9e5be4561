# make run        serve the example VMs on port 13370, in the foreground; STORE=sql from SQLite
# make test       run the quick tests, in four processes: many tests wait
# make test-slow  run the slow tests: load, HAProxy, network namespaces (needs root)
# make e2e        boot Debian machines under QEMU; E2E='-k clone' for one case (docs/e2e.md)
# make e2e-quick  boot the two machines that CI boots
# make check      run ruff, mypy, bandit, and check dependencies and requirements.lock
# make audit      look for known vulnerabilities in requirements.lock (pip-audit, needs the Internet)
# make lock       write requirements.lock; LOCK=--upgrade for newer releases
# make moves      run 50 vMotions and 200 boots a second, for 10 s
# make changes    change 50,000 files and ten layers in every way, while VMs boot; SECONDS=N, FILES=N.
#                 Each answer is checked; then the same with two workers
# make stores     let 3,000 VMs boot from each store, while rows change and its server dies, hangs and
#                 returns; BACKENDS=sqlite,postgresql for some of them
# make netbox     the same with NetBox, which is installed and started: 15 minutes the first time, and 5
#                 later. Needs Redis, PostgreSQL and Python 3.12: NETBOX_PYTHON=…, NETBOX_DIR=…
# make fuzz       send 1,000,000 hostile messages to a real server, and a tenth of them to one with
#                 two workers; MESSAGES=N for another number
# make fuzz-coverage  run atheris on each parser, 60 s each; SECONDS=N for longer, FUZZ=… for options
# make attack     run attacks on the limits of docs/security.md; print which limits hold
# make bench      compare the server with two yardsticks; needs a C compiler. BENCH=--quick: 2 minutes
# make soak       mix boots, moves, resets and junk, for 5 minutes; MINUTES=N for longer

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEEDS := setup.py pyproject.toml bin/vmw-metadata-server bin/vmw-metadata-client
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

STORE ?= file
MESSAGES ?= 1000000
MINUTES ?= 5
FILES ?= 50000
SECONDS ?= 60

.PHONY: run run-file run-sql test test-slow e2e e2e-quick check audit lock moves changes changes-workers \
    stores netbox fuzz fuzz-workers soak attack fuzz-coverage bench clean

run: run-$(STORE)

run-file: $(VENV)/.installed
	@exec $(BIN)/vmw-cloudinit-metadata run --uri my-metadata \
	    --driver-opts '{"directory": "conf/instances"}'

EXAMPLE_DATABASE := sqlite:///$(VENV)/vms.sqlite

run-sql: $(VENV)/.installed
	@$(PIP) --editable '.[sql]'
	@$(BIN)/vmw-cloudinit-metadata sql init --url $(EXAMPLE_DATABASE) --apply
	@$(BIN)/vmw-cloudinit-metadata sql import conf/instances --url $(EXAMPLE_DATABASE)
	@exec $(BIN)/vmw-cloudinit-metadata run --uri my-metadata \
	    --driver sql --driver-opts '{"url": "$(EXAMPLE_DATABASE)"}'

test: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest -m 'not slow' --ignore tests/e2e --numprocesses 4 \
	    --dist loadfile --no-loadscope-reorder $(TESTS)

test-slow: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest -m slow --ignore tests/e2e $(TESTS)

e2e: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest tests/e2e --numprocesses 4 --dist loadfile --verbose $(E2E)

e2e-quick:
	@$(MAKE) e2e E2E='-m e2e_quick'

moves changes stores fuzz soak attack: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.$@ $(LOAD_$@)

netbox: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.stores --backends netbox $(if $(VMS),--vms $(VMS))

fuzz: fuzz-workers

fuzz-workers: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.fuzz --workers 2 --messages $$(($(MESSAGES) / 10))

changes: changes-workers

changes-workers: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.changes $(LOAD_changes) --workers 2

bench: $(VENV)/.installed-for-tests
	$(PIP) --editable '.[bench]'
	$(BIN)/python benchmarks/bench.py $(BENCH)

fuzz-coverage: $(VENV)/.installed-for-tests
	@$(PIP) --only-binary atheris --editable '.[fuzz]' >$(VENV)/atheris.log 2>&1 || true
	$(BIN)/python -m tests.coverage_fuzz --seconds $(SECONDS) $(FUZZ)

LOAD_moves := --seconds 10 --boots 200 --moves 50
LOAD_changes = --files $(FILES) --seconds $(SECONDS)
LOAD_stores = $(if $(BACKENDS),--backends $(BACKENDS))
LOAD_fuzz = --messages $(MESSAGES)
LOAD_soak = --minutes $(MINUTES)

check: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml vmw_cloudinit_metadata
	$(BIN)/python -m pip --disable-pip-version-check check
	$(BIN)/python -m tests.lock

audit: $(VENV)/.installed-for-tests
	$(PIP) --editable '.[audit]'
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip

lock: $(VENV)/.installed-for-tests
	$(PIP) --editable '.[lock]'
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --extra vsphere --extra http --extra sql \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(LOCK) \
	    --output-file requirements.lock pyproject.toml
	$(BIN)/python -m tests.lock

clean:
	rm -rf $(VENV) .netbox build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .fuzz

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
	    { echo "$(PYTHON) is older than 3.11; use a newer one, for example: make PYTHON=python3.12 run"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv: install it first (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
