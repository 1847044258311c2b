# `make run` and `make test` each do all of their own set-up; the rest is for those who work on the code.
# VENV names the virtual environment: `make unit VENV=.venv-3.13 PYTHON=python3.13` tests with another Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
KERNEL ?= auto
ROWS ?=

ATTACKS := tests/hostile tests/fidelity tests/fuzz tests/differential tests/public

.PHONY: run test unit coverage attacks stories kernel rest vagrant-test bench bench-peers bench-suites bench-short bench-thin bench-fleet fuzz differential lint clean

run: $(BIN)/.demo
	$(BIN)/python -m samples.quickstart $(ARGS)

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: lint unit attacks stories kernel

# Each module by itself: run it all the time.
unit: $(BIN)/.ready
	$(PYTEST) --ignore tests/stories --ignore tests/kernel --ignore tests/vagrant $(ATTACKS:%=--ignore %) -m "not slow" $(ARGS)

# Which lines the unit tier runs.
coverage: $(BIN)/.ready
	$(MAKE) unit ARGS="--cov --cov-report=term:skip-covered $(ARGS)"

# Hostile archives, legitimate ones from real writers, and generated ones, against the reader, the builder and other programs.
attacks: $(BIN)/.ready
	$(PYTEST) $(ATTACKS) -m "not slow" $(ARGS)

# The installed command, end to end, as users tell it: first runs, drift, failures, SIGKILL at any moment.
stories: $(BIN)/.ready
	$(PYTEST) tests/stories -m "not slow" $(ARGS)

# Thin pools on a real device-mapper, in User-Mode Linux where that is installed; KERNEL=here takes this machine's kernel instead.
kernel: $(BIN)/.ready
	$(PYTEST) tests/kernel -vv -m "not slow" --kernel=$(KERNEL) $(ARGS)

# What these leave out: slow tests and, as root, those that need loop devices and mounts.
rest: $(BIN)/.ready
	$(PYTEST) --ignore tests/vagrant -m "slow or root" $$(test "$$(id -u)" != 0 || echo --root) --kernel=$(KERNEL) $(ARGS)

# A whole virtual machine, from nothing: installed, rebooted, its power cut, uninstalled. Ten minutes without KVM.
vagrant-test: $(BIN)/.ready
	tests/vagrant/requirements.sh
	$(BIN)/python -m pytest tests/vagrant --vagrant -vv --durations=0 $(ARGS)

lint: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Beside other programs, as root: ten minutes, and some more to make the inputs the first time. ROWS=build,commands chooses rows,
# ARGS="--quick" shows in minutes that all of it runs; `python -m benchmarks.report FILE` makes docs/benchmarks.md of a result.
bench: $(BIN)/.ready
	$(BIN)/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(ARGS)

# The programs of Debian that `make bench` compares with; it names those that are missing.
bench-peers: $(BIN)/.ready
	apt-get install -y -q tar libarchive-tools e2fsprogs erofs-utils squashfs-tools-ng umoci skopeo attr curl openssl xfsprogs zstd mmdebstrap
	$(BIN)/python -m benchmarks.peers

# The parts of a build by themselves, and the throughput of files, loop devices and thin snapshots.
bench-suites: $(BIN)/.ready
	$(BIN)/python -m pytest benchmarks/suites --benchmark-only --benchmark-group-by=group $(ARGS)

# All of it with small inputs and without times, so that it can't break unseen.
bench-short: $(BIN)/.ready
	$(BIN)/python -m pytest benchmarks/suites --short --benchmark-disable $(ARGS)
	$(BIN)/python -m benchmarks --quick --rows build-small --json .benchmarks/short.json

# Thin pools, on device-mapper as root, in User-Mode Linux elsewhere: a quarter of an hour.
bench-thin: $(BIN)/.ready
	$(BIN)/python -m benchmarks.thin_snapshots
	$(BIN)/python -m benchmarks.thin_boot
	$(BIN)/python -m benchmarks.thin_sharing
	$(BIN)/python -m benchmarks.thin_devices

# Many hosts, one database: 40 MiB of memory for each agent, and a quiet machine with a core for every ten.
bench-fleet: $(BIN)/.ready
	$(BIN)/python -m benchmarks.fleet --agents 10,30,100 $(ARGS)

# Hostile archives, guided by coverage, for as long as ARGS="--seconds N" says: docs/fuzzing.md.
fuzz: $(BIN)/.ready
	$(BIN)/python -m pip install -q -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.coverage $(ARGS)

# Archives that readers of tar read differently, for as long as ARGS="--seconds N" says: docs/fuzzing.md.
differential: $(BIN)/.ready
	$(BIN)/python -m tests.differential $(ARGS)

# What `make run` needs; the tools of the tests are five times as large.
$(BIN)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m virtualenv -q $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip -q --python $(BIN)/python install pip; } 2>/dev/null \
	  || { rm -rf $(VENV); test "$$(id -u)" = 0 && apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); } \
	  || { rm -rf $(VENV); echo "this Python can't make virtual environments: install your system's python3-venv package and run again" >&2; exit 1; }
	$(BIN)/python -m pip install -q -e '.[demo]'
	@$(BIN)/python -m compileall -q reconciler samples
	@touch $@

$(BIN)/.ready: $(BIN)/.demo
	$(BIN)/python -m pip install -q -e '.[test]'
	@$(BIN)/python -m compileall -q tests benchmarks
	@touch $@

clean:
	rm -rf .venv .venv-* .quickstart build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
