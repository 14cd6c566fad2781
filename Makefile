# COMFYUI_PATH=... PYTHON=... use a ComfyUI and a Python of your own; then nothing is installed.
PYTHON ?= python3
RUN := $(if $(COMFYUI_PATH),$(PYTHON),.venv/bin/python) -P
export COMFYUI_PATH

.PHONY: setup demo test demo-model vectors benchmark workflows locales lint
.DEFAULT_GOAL := demo

setup:
	@$(PYTHON) scripts/setup_environment.py

demo: setup
	@$(RUN) scripts/demo.py

test: setup
	@$(RUN) -m pytest tests

demo-model: setup
	@$(RUN) scripts/run_module.py demo.training.train

vectors: setup
	@$(RUN) scripts/run_module.py benchmarks.shipped_vectors

benchmark: setup
	@$(RUN) scripts/run_module.py benchmarks.main_job

workflows: setup
	@$(RUN) scripts/build_workflows.py

locales: setup
	@$(RUN) scripts/build_locales.py

lint: setup
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .
