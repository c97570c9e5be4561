# make run        serve the example VMs on port 13370, in the foreground; STORE=sql from SQLite
# make run-fleet  show a fleet: three servers, HAProxy, PostgreSQL and VMs, in the foreground. Needs
#                 Debian's postgresql and haproxy
# make test       run the quick tests, in six processes: many tests wait
# make laws       run the quick laws of hypothesis, with 100 cases each; LAW_CASES=N for another number
# make test-slow  run the slow tests: load, HAProxy, network namespaces (needs root)
# make test-packages  build the packages, twice for Debian 13 to compare the bytes, install them in fresh Debian
#                 trees, and follow the quickstart; as root, 10 to 20 minutes
# make e2e        boot Debian machines under QEMU; E2E='-k clone' for one case (docs/e2e.md)
# make e2e-quick  boot the two machines that CI boots
# make check      run ruff, mypy, bandit, and check dependencies and requirements.lock
# make audit      look for known vulnerabilities in requirements.lock (pip-audit, needs the Internet)
# make lock       write requirements.lock; LOCK=--upgrade for newer releases
# make upgrade    upgrade a server with 14,000 lines in place, three times, while VMs boot; LINES=N
# make moves      run 50 vMotions and 200 boots a second, for 10 s
# make fleetmoves move VMs 1,000 times between two servers of a fleet; then while its database is killed
# make changes    change 50,000 files and ten layers in every way, while VMs boot; SECONDS=N, FILES=N.
#                 Each answer is checked; then the same with two workers
# make stores     let 3,000 VMs boot from each store, while rows change and its server dies, hangs and
#                 returns; BACKENDS=sqlite,postgresql for some of them, WORKERS=2 for several workers
# make netbox     the same with NetBox, which is installed and started: 15 minutes the first time, and 5
#                 later. Needs Redis, PostgreSQL and Python 3.12: NETBOX_PYTHON=…, NETBOX_DIR=…
# make fleet      let three servers behind HAProxy, with one PostgreSQL, lose one part after the other
#                 while 10,000 VMs boot and 8,500 stay connected; VMS=N for fewer
# make fuzz       send 1,000,000 hostile messages to a real server, a tenth of them to one with two workers, and
#                 as many hostile reports of boots as messages; MESSAGES=N for another number
# make fuzz-coverage  run atheris on each parser, 60 s each; SECONDS=N for longer, FUZZ=… for options
# make attack     run attacks on the limits of docs/security.md; print which limits hold
# make docs       build the site of the documents into build/site, and check its links
# make pictures   make the pictures of the status page in docs/images anew. Needs chromium
# make packages   build wheel, debs, rpm, SBOM and their sums into dist/ (docs/development.md)
# make image      build the OCI image into dist/
# make release    both, and sign the sums: SIGNING_KEY=FILE, a private key of SSH
# make bench      compare the server with two yardsticks; needs a C compiler. BENCH=--quick: 2 minutes
# make bench-fleet  measure the CPU of a boot with and without --fleet, and of its PostgreSQL; 4 minutes
# make soak       mix boots, moves, resets and junk, for 5 minutes; MINUTES=N for longer

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEEDS := setup.py pyproject.toml bin/vmw-metadata-server bin/vmw-metadata-client
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

STORE ?= file
LAW_CASES ?= 100
MESSAGES ?= 1000000
MINUTES ?= 5
FILES ?= 50000
LINES ?= 14000
SECONDS ?= 60

.PHONY: run run-file run-sql test laws test-slow test-packages e2e e2e-quick check audit lock moves upgrade changes \
    changes-workers stores netbox fleet fuzz fuzz-workers fuzz-reports soak attack fuzz-coverage bench bench-fleet fleetmoves \
    packages image release docs pictures clean

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

.PHONY: run-fleet
run-fleet: $(VENV)/.installed-for-tests
	@exec $(BIN)/python -m tests.load.runfleet

IN_SIX := --ignore tests/e2e --numprocesses 6 --dist loadfile --no-loadscope-reorder
COMPILED := $(VENV)/.tests-compiled

test: $(VENV)/.installed-for-tests | $(COMPILED)
	$(BIN)/python -m pytest -m 'not slow' $(IN_SIX) $(TESTS)

laws: $(VENV)/.installed-for-tests | $(COMPILED)
	LAW_CASES=$(LAW_CASES) $(BIN)/python -m pytest -m 'hypothesis and not slow' $(IN_SIX) $(TESTS)

# Each of the six would compile all modules of a new checkout.
$(COMPILED): | $(VENV)/.installed-for-tests
	@$(BIN)/python -m pytest --collect-only -qq --ignore tests/e2e >/dev/null || true
	@touch $@

test-slow: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest -m slow --ignore tests/e2e --ignore tests/packages $(TESTS)

test-packages: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest -m slow tests/packages --verbose $(TESTS)

e2e: $(VENV)/.installed-for-tests
	$(BIN)/python -m pytest tests/e2e --numprocesses 4 --dist loadfile --verbose $(E2E)

e2e-quick:
	@$(MAKE) e2e E2E='-m e2e_quick'

moves upgrade changes stores fleet fuzz soak attack: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.$@ $(LOAD_$@)

fleetmoves: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.fleetmoves
	$(BIN)/python -m tests.load.fleetmoves --kill
	$(BIN)/python -m tests.load.fleetmoves --moves 400 --workers 2

netbox: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.stores --backends netbox $(if $(VMS),--vms $(VMS))

fuzz: fuzz-workers fuzz-reports

fuzz-reports: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.reports --reports $(MESSAGES)

fuzz-workers: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.fuzz --workers 2 --messages $$(($(MESSAGES) / 10))

changes: changes-workers

changes-workers: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.load.changes $(LOAD_changes) --workers 2

docs: $(VENV)/.installed-for-tests
	@$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

pictures: $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.pictures

packages: $(VENV)/.installed-for-tests
	rm -rf dist
	$(BIN)/python -m packages.build

image: $(VENV)/.installed-for-tests
	$(BIN)/python -m packages.image

release: $(VENV)/.installed-for-tests
	@test -r '$(SIGNING_KEY)' || { echo 'set SIGNING_KEY= to the file of a private SSH key'; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo 'commit or remove first what git status shows'; exit 1; }
	rm -rf dist
	$(BIN)/python -m packages.build
	$(BIN)/python -m packages.image
	ssh-keygen -q -Y sign -f '$(SIGNING_KEY)' -n vmw-cloudinit-metadata dist/SHA256SUMS

bench: $(VENV)/.installed-for-tests
	$(PIP) --editable '.[bench]'
	$(BIN)/python benchmarks/bench.py $(BENCH)

bench-fleet: $(VENV)/.installed-for-tests
	$(BIN)/python benchmarks/fleet_cost.py

fuzz-coverage: $(VENV)/.installed-for-tests
	@$(PIP) --only-binary atheris --editable '.[fuzz]' >$(VENV)/atheris.log 2>&1 || true
	$(BIN)/python -m tests.coverage_fuzz --seconds $(SECONDS) $(FUZZ)

LOAD_upgrade = --lines $(LINES) --boots 100 --upgrades 3
LOAD_moves := --seconds 10 --boots 200 --moves 50
LOAD_changes = --files $(FILES) --seconds $(SECONDS)
LOAD_stores = $(if $(BACKENDS),--backends $(BACKENDS)) $(if $(WORKERS),--workers $(WORKERS))
LOAD_fleet = $(if $(VMS),--vms $(VMS))
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
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --extra vsphere --extra http --extra sql --extra fleet \
	    --extra identity \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(LOCK) \
	    --output-file requirements.lock pyproject.toml
	$(BIN)/python -m tests.lock

clean:
	rm -rf $(VENV) .netbox build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .fuzz

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
