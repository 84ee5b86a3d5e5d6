# Two commands matter: `make demo` and `make test`. Both need Python 3.11+ and the package registries, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-matrix fuzz night check bench clean

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[embedded]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/parlant-shard demo

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal -rfEs

test-matrix: $(VENV)/.dev
	PYTHON=$(abspath $(BIN)/python) sh tests/matrix.sh

# A hundred thousand hostile statements, and as many that must equal an unsharded database.
fuzz: $(VENV)/.dev
	PYTHON=$(abspath $(BIN)/python) sh tests/night.sh fuzz

# The server tests with other clocks, everything in full counts, and `fuzz`.
night: $(VENV)/.dev
	PYTHON=$(abspath $(BIN)/python) sh tests/night.sh

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .matrix .parlant-shard
