# Every target sets up what it needs: the machine needs Python from 3.12 on and make, nothing more.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_PYTHON_DOWNLOADS ?= never
export UV_PYTHON_DOWNLOADS
# Networks that inspect TLS have their certificate in the system's store, where pip looks too.
export UV_SYSTEM_CERTS := true
VENV := .venv
BIN := $(VENV)/bin
# Newest first. CI runs 3.12 and 3.13; for 3.14 there are wheels of all that the locks name.
SUPPORTED := 3.14 3.13 3.12
# The newest of these on PATH or of pyenv's; where there is none, a newer one. PYTHON=... names another.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
PYTHON = $(shell \
  fits() { "$$1" -c "import sys, sysconfig; v = sys.version_info; sys.exit(not ($$2) \
    or sys.implementation.name != 'cpython' or bool(sysconfig.get_config_var('Py_GIL_DISABLED')))" \
    >/dev/null 2>&1 && command -v "$$1"; }; \
  for n in $(SUPPORTED); do for p in python$$n python3 python $(PYENV)/$$n.*/bin/python; do \
    fits "$$p" "'%d.%d' % v[:2] == '$$n'" && exit; \
  done; done; \
  for p in $$(compgen -c python3. | sort -Vu) python3 python $(PYENV)/3.*/bin/python; do fits "$$p" "v >= (3, 12)" && exit; done)
NO_PYTHON := make: no Python from 3.12 on is on PATH. Install one (apt-get install python3 python3-venv, \
  brew install python, pyenv install 3.13, or from python.org) and run make again, \
  or let uv fetch one: make UV_PYTHON_DOWNLOADS=automatic
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Tests without a server, another process or Dagster: half a minute on two cores.
FAST := $(addprefix txn_platform_tests/,arrow contract/test_card_numbers.py contract/test_schema.py rows \
  source/test_arrow_text.py source/test_decoding.py repository/test_layers.py \
  repository/test_reliability_page.py test_windows.py)

.PHONY: help setup demo dev cluster check test test-long test-busy coverage mutants bench readers chaos docs \
  site pictures lint deploy-check image-check format lock dist sbom audit clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Install into .venv what the lock names

demo: setup ## Run the main job once: generator, S3 of its own, Dagster, summary
	@$(BIN)/txn demo

dev: setup ## The generator, an S3 and the Dagster UI, until Ctrl-C
	@$(BIN)/txn dev

WORKERS := 2
cluster: setup ## All that several machines would run, on this one, until Ctrl-C; WORKERS=4 has four workers
	@$(BIN)/txn cluster --workers $(WORKERS)

check: lint ## Lint, types and the fast tests (FAST), in under a minute on two cores
	@$(BIN)/python -m pytest -n 2 $(FAST)

test: setup ## The tests, in under ten minutes on two cores
	@$(BIN)/python -m pytest

test-long: setup $(VENV)/.docs ## The tests that take longer: an hour of fuzzing among them
	@$(BIN)/python -m pytest -m 'long or pictures' --timeout 7200

pictures: setup $(VENV)/.docs ## The tests in a browser, which take the pictures of the documentation
	@mkdir -p docs/pictures
	@BROWSER_PICTURES="$(CURDIR)/docs/pictures" $(BIN)/python -m pytest -n 0 -m pictures --timeout 900

test-busy: setup ## The tests ten times on a busy machine, to find what fails once
	@$(BIN)/python benchmarks/repeated.py

coverage: setup ## The tests with branch coverage of both packages, into .coverage-html/
	@rm -rf .coverage .coverage.* .coverage-html
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=html
	@rm -f .coverage.*

mutants: setup ## Put 300 small errors into the core, and count those that no test notices (an hour)
	@$(BIN)/python benchmarks/mutation.py

bench: setup $(UV) ## Measure everything, into docs/performance.md (two hours)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-bench.lock
	@$(BIN)/python benchmarks/lake.py
	@$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/load.py
	@$(BIN)/python benchmarks/scale.py
	@$(BIN)/python benchmarks/generate.py
	@$(BIN)/python benchmarks/fraud_protocol.py

readers: setup $(UV) ## Read a window with nine programs, Spark (Java 17) among them, into docs/readers.md
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-readers.lock
	@$(BIN)/python -m txn_platform_tests.support.lake_readers
	@$(BIN)/python -m pytest -n 0 -m 'readers or not readers' txn_platform_tests/lake/test_readers.py

chaos: setup ## Kill, race and soak for an hour, and check the lake
	@for store in directory s3; do for script in kills races soak; do \
	  $(BIN)/python benchmarks/$$script.py --store $$store || exit 1; \
	done; done
	@$(BIN)/python benchmarks/outages.py

# The other tables are measured: `make bench` writes docs/performance.md, `make readers` docs/readers.md.
docs: setup ## Write the pages and tables of docs/ that are made from the code
	@$(BIN)/python -m txn_platform.contract.page > docs/contract.md.new
	@mv docs/contract.md.new docs/contract.md
	@$(BIN)/python -m txn_platform_tests.support.reliability_page
	@$(BIN)/python -m txn_platform_tests.support.settings_page
	@$(BIN)/python -m txn_platform_tests.support.cli_page
	@$(BIN)/python -m txn_platform_tests.support.scale_page
	@$(BIN)/python -m txn_platform_tests.support.examples

# A warning fails, and so does a page that fetches something from another host.
# BUILDER=mkdocs builds the same site with Material for MkDocs.
BUILDER := zensical
site: setup $(VENV)/.docs ## Build the pages of docs/ as a site, into .site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/$(BUILDER) build --clean --strict
	@! grep -rnoE '<(script|link|img|iframe)[^>]*(src|href)="?https?:' .site --include=*.html

lint: setup ## Format check, lint, types, unsafe code and workflows, the words of the glossary
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
# It warns of each other string beside a suppressed one.
	@$(BIN)/bandit --quiet --recursive txn_platform generator_service 2> >(grep -v 'no failed test' >&2)
	@$(BIN)/zizmor --quiet --offline --pedantic .github
	@$(BIN)/python -m txn_platform_tests.support.glossary

# The manifests are those that kustomization.yaml lists.
deploy-check: setup .venv-deploy/.installed ## Check the files of deploy/ that no test can run
	@$(BIN)/hadolint deploy/Dockerfile
	@$(BIN)/cfn-lint deploy/ecs/template.yaml
	@$(BIN)/kubernetes-validate --quiet --strict \
	  $$(sed -n 's#^  - \(.*\.yaml\)$$#deploy/kubernetes/\1#p' deploy/kubernetes/kustomization.yaml)
	@.venv-deploy/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
	@.venv-deploy/bin/checkov --config-file deploy/.checkov.yaml --directory deploy

image-check: setup ## Make the image without an engine, and start what it starts (as root, on Debian)
	@$(BIN)/python -m pytest -n 0 -m image --timeout 1200 txn_platform_tests/test_image.py

format: setup ## Format, and fix what lint can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(UV) ## Resolve the dependencies again
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --extra dev --extra s3server --extra cluster --extra clusterserver pyproject.toml -o requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra bench pyproject.toml -o requirements-bench.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra readers pyproject.toml -o requirements-readers.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra docs pyproject.toml -o requirements-docs.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra supply pyproject.toml -o requirements-supply.lock
	@$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  --constraint requirements.lock --extra delta --extra alerts --extra cluster --extra kubernetes pyproject.toml \
	  -o requirements-image.lock
	@echo uv | $(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --upgrade \
	  - -o requirements-uv.lock
	@printf 'checkov>=3.2\ncheck-jsonschema>=0.39\n' | $(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes \
	  --no-emit-index-url --upgrade - -o requirements-deploy.lock

dist: setup ## Build the wheel and the source distribution, into dist/
	@$(BIN)/python -m hatchling build --clean --directory dist

# Of what a user installs with all extras, in the versions of the lock, on this Python and system.
sbom: dist .venv-supply/.installed ## The release's bill of materials (CycloneDX), into dist/
	@rm -rf .venv-release
	@$(UV) venv --quiet --python $(BIN)/python .venv-release
	@$(UV) pip compile --quiet --python .venv-release/bin/python --generate-hashes --no-emit-index-url \
	  --constraint requirements.lock --extra s3server --extra delta --extra alerts --extra cluster --extra clusterserver --extra kubernetes pyproject.toml \
	  -o .venv-release/requirements.txt
	@$(UV) pip install --quiet --python .venv-release/bin/python --require-hashes -r .venv-release/requirements.txt
	@$(UV) pip install --quiet --python .venv-release/bin/python --no-deps dist/*.whl
	@for wheel in dist/*.whl; do .venv-supply/bin/cyclonedx-py environment .venv-release \
	  --pyproject pyproject.toml --mc-type application --spec-version 1.6 --output-reproducible --validate \
	  --output-file "$${wheel%%-py3-*}.cdx.json"; done
	@rm -rf .venv-release

# Each lock as it is, without resolving it again. --strict: what the index does not know fails too.
audit: .venv-supply/.installed ## Known vulnerabilities in what the locks name, by PyPI's index
	@failed=; for lock in requirements*.lock; do echo "$$lock:"; \
	  .venv-supply/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r "$$lock" || failed=yes; \
	done; [ -z "$$failed" ] || { echo "make audit: see above what is known against a package, or which one the" \
	  "index does not know; that one was not audited" >&2; exit 1; }

clean: ## Remove the environments and all local state
# A Postgres that root has started keeps its data there.
	@folder="$$(cat .txn/cluster/postgres/folder 2>/dev/null)"; \
	  case "$$folder" in /var/lib/txn-platform/postgres-*) rm -rf "$$folder" ;; esac
	rm -rf $(VENV) .venv-* .uv .txn .site .pytest_cache .ruff_cache .hypothesis .coverage* .tmp_dagster_home_* dist

# The extra `docs`: what builds the site, drives the browser and runs the notebook.
$(VENV)/.docs: requirements-docs.lock | setup
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-docs.lock
	@touch $@

.venv-deploy/.installed: requirements-deploy.lock | setup
	@$(UV) venv --quiet --clear --python $(BIN)/python .venv-deploy
	@$(UV) pip install --quiet --python .venv-deploy/bin/python --require-hashes -r requirements-deploy.lock
	@touch $@

.venv-supply/.installed: requirements-supply.lock | setup
	@$(UV) venv --quiet --clear --python $(BIN)/python .venv-supply
	@$(UV) pip install --quiet --python .venv-supply/bin/python --require-hashes -r requirements-supply.lock
	@touch $@

# Prints what uv says as it says it, with the seconds since the start, without the list of packages.
SAY := while IFS= read -r line; do case "$$line" in " "[+~-]*|"") ;; \
  *) printf '%4d s  %s\n' "$$SECONDS" "$$line" ;; esac; case "$$line" in "Installed "*) \
  printf '%4d s  %s\n' "$$SECONDS" "Compiling them, so that commands start fast" ;; esac; done

# Depends on pyproject.toml too: its entry points take effect only when the package is installed.
# --no-build-isolation: the build backend comes from the lock as well.
$(VENV)/.installed: requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || { python="$(PYTHON)"; any='>=3.12,<3.15'; \
	  if [ -z "$$python" ] && [ "$$UV_PYTHON_DOWNLOADS" = never ] && ! $(UV) python find "$$any" >/dev/null 2>&1; \
	  then echo "$(NO_PYTHON)" >&2; exit 1; fi; \
	  echo "Making $(VENV) with $${python:-a Python that uv fetches}"; \
	  $(UV) venv --quiet --python "$${python:-$$any}" $(VENV); }
	@echo "Installing the packages of requirements.lock into $(VENV): a minute or two the first time"
	@set -o pipefail; $(UV) pip install --compile-bytecode --python $(BIN)/python --require-hashes \
	  -r requirements.lock 2>&1 | { $(SAY); }
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.uv/bin/uv: requirements-uv.lock
	@python="$(PYTHON)"; [ "$$UV_PYTHON_DOWNLOADS" = never ] || : "$${python:=$$(command -v python3)}"; \
	  if [ -z "$$python" ]; then echo "$(NO_PYTHON) (with uv or an older Python on PATH)" >&2; exit 1; fi; \
	  echo "Installing uv, which installs the packages, into .uv"; \
	  "$$python" -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@
