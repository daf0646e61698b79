# make demo: train on generated pictures, report in runs/demo.   make test: all checks.
PYTHON ?= python3
BIN := .venv/bin
BUILD_FILES := pyproject.toml setup.py requirements.txt CMakeLists.txt $(wildcard csrc/*.* csrc/*/*)

.PHONY: demo test
demo: .venv/installed
	$(BIN)/invcap train --data shapes --output runs/demo --cache runs/cache --overwrite

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
