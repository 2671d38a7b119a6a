# Every target sets up what it needs: the machine needs Python 3.12 and make, nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export UV_PYTHON_DOWNLOADS := never
# Networks that inspect TLS have their certificate in the system's store, where pip looks too.
export UV_SYSTEM_CERTS := true
VENV := .venv
BIN := $(VENV)/bin
PYTHON312 := $(shell for p in python3.12 python3 python; do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1 && { echo $$p; break; }; done)
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: help setup demo dev test test-long mutants bench chaos lint format lock clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Install into .venv what the lock names

demo: setup ## Run the main job once: generator, S3 of its own, Dagster, summary
	@$(BIN)/txn demo

dev: setup ## The generator, an S3 and the Dagster UI, until Ctrl-C
	@$(BIN)/txn dev

test: setup ## The tests, in under ten minutes on two cores
	@$(BIN)/python -m pytest

test-long: setup ## The tests that take longer: an hour of fuzzing among them
	@$(BIN)/python -m pytest -m long --timeout 7200

mutants: setup ## Put 300 small errors into the core, and count those that no test notices (two hours)
	@$(BIN)/python benchmarks/mutation.py

bench: setup $(UV) ## Measure everything, into docs/performance.md (two hours)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-bench.lock
	@$(BIN)/python benchmarks/lake.py
	@$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/generate.py
	@$(BIN)/python benchmarks/fraud_protocol.py

readers: setup $(UV) ## Read a window with nine programs, Spark (Java 17) among them, into docs/readers.md
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-readers.lock
	@$(BIN)/python -m txn_platform_tests.lake_readers
	@$(BIN)/python -m pytest -n 0 -m 'readers or not readers' txn_platform_tests/test_readers.py

chaos: setup ## Kill, race and soak for an hour, and judge what is left in the lake
	@for store in directory s3; do for script in kills races soak; do \
	  $(BIN)/python benchmarks/$$script.py --store $$store || exit 1; \
	done; done

lint: setup ## Format check, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright

format: setup ## Format and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(UV) ## Resolve the dependencies anew
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --extra dev --extra s3server pyproject.toml -o requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra bench pyproject.toml -o requirements-bench.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra readers pyproject.toml -o requirements-readers.lock
	@echo uv | $(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  - -o requirements-uv.lock

clean: ## Remove the environments and all local state
	rm -rf $(VENV) .uv .txn .pytest_cache .ruff_cache .hypothesis .tmp_dagster_home_*

# --no-build-isolation: the build backend comes from the lock as well.
$(VENV)/.installed: requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --python 3.12 $(VENV)
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.uv/bin/uv: requirements-uv.lock
	@test -n "$(PYTHON312)" || { echo "make: Python 3.12 is not on PATH. Install it (python.org, apt-get install python3.12, pyenv install 3.12), then run make again." >&2; exit 1; }
	@$(PYTHON312) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@
