# make demo, make test: each does all its own set-up. Variables: PYTHON (3.11 is tested), VENV, DETECTRON2 (a wheel,
# folder or pip URL of a Detectron2 of your own).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-fast lint bench clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready
	@$(BIN)/python -c "from lesionseg._detectron2 import origin; print(origin())"

# Installed again when what is to be installed changes, and only then. The stamp holds DETECTRON2, so that naming one
# later takes effect.
ifneq ($(filter-out $(shell cat $(VENV)/.ready 2>/dev/null),$(DETECTRON2)),)
.PHONY: $(VENV)/.ready
endif
$(VENV)/.ready: setup.py tools/setup_env.sh
	VENV=$(VENV) PYTHON=$(PYTHON) bash tools/setup_env.sh
	@echo '$(DETECTRON2)' > $@

demo: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" bash tools/demo.sh

test: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-fast: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy lesionseg

# What a benchmark misses without the extra, it says itself. BENCH: further options, such as --only peers.
bench: $(VENV)/.ready
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench,export]"
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -W ignore benchmarks/run.py $(BENCH)

clean:
	rm -rf $(VENV) output build dist *.egg-info
