# Everything here sets itself up in .venv and build/, and nowhere else; only `make lab` installs packages.

PYTHON ?= python3
# What `make test` and `make matrix` run.
TESTS ?= tests/unit tests/integration
VENV := .venv
READY := $(VENV)/ready
NOX := $(VENV)/bin/python -m nox
ENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/build/collections" \
       ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false

.PHONY: demo test lint matrix sanity units fuzz lab bench docs collection packages release clean help

help: ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(READY) build/collections ## Stage three pretend nodes of three architectures in a scratch folder
	$(ENV) ansible-playbook airgap.k3s.demo

test: $(READY) ## Run all tests that need no root, with the newest ansible-core that PYTHON can run
	$(VENV)/bin/python -m pytest -n auto --dist loadfile $(TESTS)

lint: $(READY) build/collections ## Run ruff, mypy, antsibull-changelog's lint and ansible-lint's production profile
	$(NOX) -s lint

matrix: $(READY) ## Run the tests with each supported ansible-core, on its oldest and newest Python, and print a table
	rm -rf build/matrix
	$(NOX) -s tests table -- $(TESTS)

sanity: $(READY) ## Run ansible-test sanity with each supported ansible-core
	$(NOX) -s sanity

units: $(READY) ## Run ansible-test units with each supported ansible-core
	$(NOX) -s units

fuzz: $(READY) ## Run the property-based tests for long
	K3S_ARTIFACT_FUZZ_EXAMPLES=$(or $(EXAMPLES),100000) $(VENV)/bin/python -m pytest \
		tests/unit/test_properties.py tests/unit/test_hostile_node.py

lab: $(READY) ## (root, Debian) Run the tests on real SSH nodes: amd64, arm64, armhf
	$(VENV)/bin/python tests/integration/lab/lab.py run

bench: $(READY) ## (root, Debian) Measure against copy, synchronize and scp
	$(VENV)/bin/python benchmarks/bench.py
	$(VENV)/bin/python benchmarks/fleets.py

collection: $(READY) ## Build the tarball of the collection into build/
	rm -f build/airgap-k3s-*.tar.gz
	$(ENV) ansible-galaxy collection build --force --output-path build
	$(VENV)/bin/python .ci/reproducible.py build/airgap-k3s-*.tar.gz

packages: collection ## Build the collection, the wheel and the source distribution into build/, the same bytes wherever
	rm -f build/k3s_artifact-*
	SOURCE_DATE_EPOCH="$$($(VENV)/bin/python .ci/reproducible.py)" $(VENV)/bin/python -m build --outdir build

release: $(READY) ## Make the release VERSION: changelog, packages, checksums, and a trial of each without network
	$(ENV) .ci/release "$(VERSION)"

$(READY): pyproject.toml
	@echo "Setting up $(VENV): a virtual environment with ansible-core and the test programs. This takes a minute, once."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade --progress-bar off pip
	$(VENV)/bin/python -m pip install --progress-bar off ansible-core --group dev
	@touch $@

build/collections: ## Make this repository visible as the collection airgap.k3s
	@mkdir -p build/collections/ansible_collections/airgap
	@ln -sfn "$(CURDIR)" build/collections/ansible_collections/airgap/k3s

clean:
	rm -rf .venv .venv-* build

docs: build/docs-venv/ready ## Build the documentation as a site into build/docs/html
	build/docs-venv/bin/python docs/build.py

build/docs-venv/ready: docs/requirements.txt
	$(PYTHON) -m venv build/docs-venv
	build/docs-venv/bin/python -m pip install --quiet --progress-bar off --requirement docs/requirements.txt
	@touch $@
