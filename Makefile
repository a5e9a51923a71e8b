# What one types here. Needs make and Python >= 3.11, nothing else; each target does all it needs.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests run on all cores; those of one xdist group stay together. `make test ARGS=tests/rules` runs a part.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadgroup
ARGS ?=
SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help run test check fuzz format map spec-status lock clean

help:
	@echo "make run               two homeservers on this machine talk to each other (comity demo);"
	@echo "                       ARGS=--once ends when all has been shown"
	@echo "make test              the tests; ARGS=... goes to pytest"
	@echo "make check             formatting, lint, types, tests: what must pass before a commit"
	@echo "make fuzz              broken input to every parser of foreign bytes; SECONDS=... is how long (60)"
	@echo "make format            put the source into the house's format"
	@echo "make map               bring docs/map.md up to date with the modules and their docstrings"
	@echo "make spec-status       bring docs/spec-status.md up to date with the routes; ARGS=FILE: with the tests"
	@echo "                       that were recorded by COMITY_RECORD_SERVED=FILE make test"
	@echo "make lock              pin the newest versions that pyproject.toml allows"
	@echo "make clean             remove what make made"

# Made anew when what it is made from changes, and when the environment does not work (a moved folder).
$(READY): pyproject.toml requirements/development.lock requirements/environment.sh
	@sh requirements/environment.sh $(VENV)
	@touch $@

run: $(READY)
	@$(BIN)/python -m comity demo $(ARGS)

test: $(READY)
	@$(PYTEST) $(ARGS)

check: $(READY)
	@echo "comity: ruff check" && $(BIN)/ruff check
	@echo "comity: ruff format" && $(BIN)/ruff format --check
	@echo "comity: mypy --strict" && $(BIN)/mypy --strict
	@echo "comity: pytest" && $(PYTEST) $(ARGS)

# With what CPython and platform allow: requirements/fuzz.sh. ARGS=... goes to python -m fuzz.
fuzz: $(READY)
	@sh requirements/fuzz.sh $(VENV) $(SECONDS)
	@$(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)

format: $(READY)
	@$(BIN)/ruff check --select I --fix --quiet && $(BIN)/ruff format

map: $(READY)
	@$(BIN)/python docs/make_map.py

spec-status: $(READY)
	@$(BIN)/python docs/make_spec_status.py $(ARGS)

# uv writes one lock for all versions of Python and all platforms, with hashes.
lock: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile pyproject.toml --group development --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
		--quiet --output-file requirements/development.lock
	@$(BIN)/uv pip compile requirements/fuzz.in --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
		--quiet --output-file requirements/fuzz.lock
	@echo "comity: requirements/*.lock are new; run make check"

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
