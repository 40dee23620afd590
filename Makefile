PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PORT ?= 7860

.PHONY: run test check soak plans clean

run: $(VENV)/.run
	$(BIN)/python app.py serve --port $(PORT)

# Two workers with one thread each: two with two each would wait for one another. Each file of browser tests has a server
# and a browser of its own. What is timed runs alone.
# Compiled files are kept also where the environment forbids it: dozens of processes import the same.
test: export PYTHONDONTWRITEBYTECODE =
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not alone and not browser"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "browser and not alone"
	$(BIN)/python -m pytest -m alone

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Long runs, by hand; results go to docs/benchmarks.
soak: $(VENV)/.test
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.load

# The checked-in plans of every model on every named host, written anew.
plans: $(VENV)/.test
	$(BIN)/python -m tests.plan_tables

$(VENV)/.run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# Chromium drives the page in the tests; Debian's is used because it comes with the system's package manager.
$(VENV)/.test: requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis out
