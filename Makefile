PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: env app test test-all lint bench bench-credit bench-learning base-model reference

env: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or 3.12, or name yours with PYTHON=..."; exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -c requirements.lock
	touch $(STAMP)

app: env
	$(PY) app.py

# Side by side, one thread each and with patience, one more than there are cores since the browser's wait a good deal; then those that time what they see, one after another.
TIMED := tests/browser/timed
ALONGSIDE := OMP_NUM_THREADS=1 BROWSER_PATIENCE=$${BROWSER_PATIENCE:-3} $(PY) -m pytest tests --ignore $(TIMED) -n $$(($$(nproc) + 1)) --dist loadfile

test: env
	$(ALONGSIDE)
	$(PY) -m pytest $(TIMED)

test-all: env
	$(ALONGSIDE) -m "slow or not slow" --timeout 5400
	$(PY) -m pytest $(TIMED) -m "slow or not slow" --timeout 5400

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: env
	$(PY) -m tests.benchmarks.bench_speed
	$(PY) -m tests.benchmarks.bench_rewards
	$(PY) -m tests.benchmarks.bench_page

bench-credit: env
	$(PY) -m tests.benchmarks.bench_credit

bench-learning: env
	$(PY) -m tests.benchmarks.bench_learning

base-model: env
	$(PY) -m backend base-model train

reference: env
	$(PY) -m backend reference build
