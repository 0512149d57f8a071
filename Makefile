# Everything runs in .venv, which `make setup` builds once and rebuilds only when the dependency files change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint docs packages compatibility clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Each stage is skipped when its result is already there: remove runs/digits to train again.
demo: setup
	test -f runs/digits/.trained || { rm -rf runs/digits && $(BIN)/alphaflow train digits --out runs/digits && touch runs/digits/.trained; }
	$(BIN)/alphaflow sample runs/digits --out runs/digits/samples/one-step.png --count 100 --labels balanced
	$(BIN)/alphaflow evaluate runs/digits --nfe 1 2
	$(BIN)/alphaflow report runs/digits

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages and docstrings as a site in site/, which opens from the disk; a link or a name that leads nowhere is an error (--quiet would pass it over).
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What the tests need beside Python: a browser, npm for onnxruntime-web, and Fashion-MNIST. Tests that miss them skip with a
# word where apt-get is not ours to use; in CI they fail.
packages:
	@missing=""; command -v chromium >/dev/null || missing="chromium"; command -v npm >/dev/null || missing="$$missing npm"; \
	test -d /usr/share/datasets/fashion-mnist || missing="$$missing dataset-fashion-mnist"; \
	if [ -n "$$missing" ]; then \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			apt-get -o Acquire::Retries=3 update -qq && apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends $$missing; \
		else \
			echo "some tests need $$missing, and this is no root shell with apt-get: they will be skipped"; \
		fi; \
	fi

# Two workers, so one thread each: what the tests start would otherwise take two, and four on two cores wait for one another.
test: lint docs packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 25 --durations-min 10

# Runs the rows of docs/compatibility.md that the record has not yet, and writes the page, of networks those of ours and of images.
compatibility: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compatibility.py --quick

clean:
	rm -rf $(VENV) runs site
