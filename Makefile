# make audit: audit the phantom, write its card.   make test: the tests.   Each makes what it needs.
# make calibrate: audit the phantoms many times, where every answer is known; --quick is for CI.
# make lock-check: every dependency and its licence; fails where one is not pinned or not allowed.
# make clip-retrieval-env: the real clip-retrieval, for its tests (6.4 GB, Python 3.11 or 3.12).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/phantom
CALIBRATION ?= runs/calibration
CLIP_RETRIEVAL ?= .venv-clip-retrieval

.PHONY: audit calibrate test lint lock-check wheel clean clip-retrieval-env

audit: $(VENV)/.made
	$(BIN)/t2i-audit run phantom --option mode=fast --out $(RUN)
	@echo
	@echo "The card:       $(RUN)/card/card.html"
	@echo "The dashboard:  $(BIN)/t2i-audit view $(RUN)"

calibrate: $(VENV)/.made
	$(BIN)/t2i-audit calibrate --out $(CALIBRATION)

test: $(VENV)/.made-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

clip-retrieval-env: $(CLIP_RETRIEVAL)/.made

lint: $(VENV)/.made-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock-check: $(VENV)/.made-dev
	$(BIN)/python -m tests.supply_chain
	$(BIN)/python -m pip check

wheel: $(VENV)/.made-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "t2i-audit needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.made-dev: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

$(CLIP_RETRIEVAL)/.made: clip-retrieval-constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "clip-retrieval needs Python 3.11 or 3.12: say PYTHON=python3.11")'
	$(PYTHON) -m venv $(CLIP_RETRIEVAL)
	$(CLIP_RETRIEVAL)/bin/python -m pip install --quiet --upgrade pip
	$(CLIP_RETRIEVAL)/bin/python -m pip install --quiet --constraint clip-retrieval-constraints.txt --group clip-retrieval
	touch $@

clean:
	rm -rf $(VENV) dist build
