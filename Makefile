# Everything runs in .venv, made from requirements.lock as needed. Another Python: make PY=python3.12 run
PY ?= python3
ARGS ?=
BIN := .venv/bin
# Every test that starts a process loads a thousand modules, which must not be compiled each time.
unexport PYTHONDONTWRITEBYTECODE
PACKAGES := fl strategies models partitions experiments

# Written last, so it says that .venv is complete; its name holds the folder, since a .venv that was moved does not work.
READY := .venv/.ready-$(shell pwd | cksum | cut -d ' ' -f 1)

.PHONY: help run test lint docs lock venv clean
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

run: venv ## reproduce the main experiment with `flwr run` (ARGS="..." adds options)
	$(BIN)/python -m experiments run main --engine flower --overwrite $(ARGS)

test: venv ## run the tests (ARGS="..." adds options)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: venv ## check style and types
	$(BIN)/ruff check $(PACKAGES) tests
	$(BIN)/ruff format --check $(PACKAGES) tests
	$(BIN)/mypy $(PACKAGES)

docs: venv ## build the documentation site, build/docs/index.html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

lock: ## renew requirements.lock from pyproject.toml (ARGS="--upgrade-package flwr" takes a newer flwr)
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --extra text --extra datasets --extra drift --extra docs \
		--no-header --no-annotate --quiet $(ARGS) --output-file requirements.lock

venv: $(READY) ## make or update .venv

clean: ## delete .venv and caches; results and data stay
	rm -rf .venv .pytest_cache .hypothesis .ruff_cache .mypy_cache build dist *.egg-info
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv whose Python has gone is not ready, whatever its stamp says.
ifneq ($(shell $(BIN)/python -c 'print("fine")' 2>/dev/null),fine)
.PHONY: $(READY)
endif

$(READY): requirements.lock pyproject.toml
	@$(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || \
		{ echo "This needs Python 3.11 to 3.14; $(PY) is: $$($(PY) --version 2>&1). Name another one: make PY=python3.12" >&2; exit 1; }
	@if [ ! -f $@ ] || ! $(BIN)/python -c 0 2>/dev/null; then echo "Making .venv"; $(PY) -m venv --clear .venv; fi
	@echo "Installing requirements.lock (from scratch: several GB, minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@# What `flwr run` needs is installed already. Without this line Flower would install it again for every run.
	@grep -qs FLWR_DISABLE_RUNTIME $(BIN)/activate || \
		echo 'export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1' >> $(BIN)/activate
	@echo "Installing this project"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
