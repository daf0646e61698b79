# make demo: train on generated pictures, report in runs/demo.   make check: a minute.
# make demo-real: the same on Debian's clip art, in runs/demo-real.
# make app: a page to work in, at http://127.0.0.1:7860; with runs/demo where `make demo` made it.
# make docs: the documentation, in site/.
# make test: everything.   make bench: the layer's speed on this CPU, in docs/layer_speed.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
BUILD_FILES := pyproject.toml setup.py requirements.txt CMakeLists.txt $(wildcard csrc/*.* csrc/*/*)
# Where an image of a container turns bytecode off, every worker would compile all tests again.
export PYTHONDONTWRITEBYTECODE :=
# A worker that is done takes tests from the end of the other's list: modules stay together.
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: demo demo-real app bench docs lint quick check test
demo: .venv/installed
	$(BIN)/invcap train --data shapes --drawings 3 --output runs/demo --cache runs/cache --overwrite

demo-real: .venv/installed
	test -e runs/openclipart || $(BIN)/invcap data openclipart --output runs/openclipart
	$(BIN)/invcap train --data runs/openclipart --held-out 0.12 --image-encoder features \
		--output runs/demo-real --cache runs/cache --overwrite

app: .venv/installed
	$(BIN)/invcap app $(addprefix --captioner ,$(patsubst %/config.json,%,$(wildcard runs/demo/config.json)))

bench: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/layer_speed.py

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.* csrc/*/*)
	$(BIN)/mypy

quick: .venv/installed
	$(PYTEST) -m "not slow"

check: .venv/installed
	$(MAKE) --jobs 2 lint quick

test: lint
	$(PYTEST) --durations 40

.venv/installed: $(BUILD_FILES)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install "torch>=2.11,<2.15" "setuptools>=77" cmake ninja pybind11
	$(BIN)/pip install --no-build-isolation --editable ".[test]"
	touch $@
