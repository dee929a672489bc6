# Everything here sets itself up in .venv and build/, and nowhere else; only `make lab` installs packages.

PYTHON ?= python3
# The release of ansible-core, such as 2.15; by default the newest that PYTHON can run.
CORE ?=
# What `make test` runs.
TESTS ?= tests/unit tests/integration
VENV := .venv$(if $(CORE),-$(CORE))
READY := $(VENV)/ready
ENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/build/collections" \
       ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false

.PHONY: demo test lint fuzz lab bench collection packages clean help

help: ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(READY) build/collections ## Stage three pretend nodes of three architectures in a scratch folder
	$(ENV) ansible-playbook airgap.k3s.demo

test: $(READY) ## Run all tests that need no root
	$(VENV)/bin/python -m pytest -n auto --dist loadfile $(TESTS)

lint: $(READY) build/collections ## Run ruff, and ansible-lint's production profile
	$(VENV)/bin/python -m pip install --quiet ansible-lint ruff
	$(VENV)/bin/python -m ruff check
	$(ENV) $(VENV)/bin/ansible-lint --offline --profile production

fuzz: $(READY) ## Run the property-based tests for long
	K3S_ARTIFACT_FUZZ_EXAMPLES=$(or $(EXAMPLES),100000) $(VENV)/bin/python -m pytest tests/unit/test_properties.py

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
	$(VENV)/bin/python -m pip install --quiet build
	SOURCE_DATE_EPOCH="$$($(VENV)/bin/python .ci/reproducible.py)" $(VENV)/bin/python -m build --outdir build

$(READY): pyproject.toml
	@echo "Setting up $(VENV): a virtual environment with ansible-core $(CORE) and the test programs. This takes a"
	@echo "minute, once."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade --progress-bar off pip
	$(VENV)/bin/python -m pip install --progress-bar off "ansible-core$(if $(CORE),~=$(CORE).0,>=2.15)" --group test
	@touch $@

build/collections: ## Make this repository visible as the collection airgap.k3s
	@mkdir -p build/collections/ansible_collections/airgap
	@ln -sfn "$(CURDIR)" build/collections/ansible_collections/airgap/k3s

clean:
	rm -rf .venv .venv-* build
