# make quickstart   installs, fetches a small real model, fine-tunes it on this machine, shows what changed
# make test         installs, runs all tests
# make docs         writes the generated pages into docs/reference/, builds the site into site/
# make vllm-env     builds an environment for vLLM, 3 GB, for `siredon serve --engine vllm` and `siredon vllm-serve`
# make compressor-env  builds an environment for llm-compressor, for `siredon quantize --method gptq` and `fp8_static`
# Another interpreter or environment: make PYTHON=python3.12 VENV=/path/to/venv test
# Use packages that are already there, such as torch of a GPU image: make VENV_FLAGS=--system-site-packages test

PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?=
VLLM_ENV ?= .vllm-env
COMPRESSOR_ENV ?= .compressor-env
BIN := $(VENV)/bin
CONFIG := examples/smollm2/identity-lora-cpu.yml
# One thread a test process: several of them share the cores.
WORKERS ?= auto

.PHONY: vllm-env compressor-env quickstart test test-long lint audit matrix docs docs-serve install model clean

quickstart: $(VENV)/.installed model
	@echo "== fine-tuning (a few minutes) =="
	$(BIN)/siredon train $(CONFIG)
	@echo "== the same three questions, before and after =="
	$(BIN)/siredon inference $(CONFIG) --compare --max-new-tokens 60 \
		--prompt "Who are you?" \
		--prompt "What is the capital of France?" \
		--prompt "Give me one tip for sleeping well."
	@echo "adapter:    outputs/smollm2-identity"
	@echo "loss plot:  outputs/smollm2-identity/loss.png"
	@echo "try next:   $(BIN)/siredon inference $(CONFIG)            (ask it yourself)"
	@echo "            $(BIN)/siredon merge-lora $(CONFIG)           (a normal model folder)"
	@echo "            $(BIN)/siredon check YOUR.yml                 (your own configuration)"

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist worksteal -m "not long"

test-long: $(VENV)/.installed-dev model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist worksteal -m long --ignore tests/runs/test_real_model.py
	$(BIN)/python -m pytest tests/runs/test_real_model.py -m long

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known holes in the pinned packages.  They are looked up on the network: where that cannot be, this says so and ends
# well, as a build must not depend on it.  A hole that is found is an error.
audit:
	@{ $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/python -m pip install --quiet pip-audit; } \
		|| { echo "audit: not done: pip-audit cannot be installed"; exit 0; }; \
	found=$$($(VENV)-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --progress-spinner off 2>&1); \
	status=$$?; echo "$$found"; \
	missed=$$(echo "$$found" | grep -c "could not be audited"); \
	[ "$$missed" -eq 0 ] || echo "audit: not done for $$missed packages, of which nothing could be looked up"; \
	if [ $$status -ne 0 ] && ! echo "$$found" | grep -q "known vulnerabilit"; then \
		echo "audit: not done: the service that knows of holes cannot be reached"; exit 0; \
	fi; exit $$status

matrix: $(VENV)/.installed-dev
	$(BIN)/python -m tests.matrix docs/matrix.md
	$(BIN)/python -m tests.preference_matrix docs/preference-matrix.md

docs: $(VENV)/.installed-docs
	$(BIN)/python -m siredon.cli.pages docs/reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

install: $(VENV)/.installed

model: $(VENV)/.installed
	$(BIN)/python examples/smollm2/fetch_model.py

vllm-env: $(VLLM_ENV)/.installed

$(VLLM_ENV)/.installed: install_vllm.py
	$(PYTHON) install_vllm.py --into $(VLLM_ENV)
	@touch $@

compressor-env: $(COMPRESSOR_ENV)/.installed

$(COMPRESSOR_ENV)/.installed: install_compressor.py install_vllm.py
	$(PYTHON) install_compressor.py --into $(COMPRESSOR_ENV)
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt install.py | $(BIN)/python
	$(BIN)/python install.py --extras gguf
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt install.py | $(BIN)/python
	$(BIN)/python install.py --extras dev
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt install.py | $(BIN)/python
	$(BIN)/python install.py --extras docs
	@touch $@

clean:
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache outputs last_run_prepared
