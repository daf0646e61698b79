# make demo: train on generated pictures, report in runs/demo.   make test: all checks.
# make bench: the layer's speed on this CPU, table and plot in docs/layer_speed.
PYTHON ?= python3
BIN := .venv/bin
BUILD_FILES := pyproject.toml setup.py requirements.txt CMakeLists.txt $(wildcard csrc/*.* csrc/*/*)

.PHONY: demo test bench
demo: .venv/installed
	$(BIN)/invcap train --data shapes --output runs/demo --cache runs/cache --overwrite

bench: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/layer_speed.py

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.* csrc/*/*)
	$(BIN)/python -m pytest

.venv/installed: $(BUILD_FILES)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install "torch>=2.11,<2.15" "setuptools>=77" cmake ninja pybind11
	$(BIN)/pip install --no-build-isolation --editable ".[test]"
	touch $@
