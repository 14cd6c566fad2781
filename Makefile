# COMFYUI_PATH=... PYTHON=... use a ComfyUI and a Python of your own; then nothing is installed.
PYTHON ?= python3
RUN := $(if $(COMFYUI_PATH),$(PYTHON),.venv/bin/python) -P
export COMFYUI_PATH

.PHONY: setup browser demo test demo-model vectors benchmark workflows pictures locales lint
.DEFAULT_GOAL := demo

setup:
	@$(PYTHON) scripts/setup_environment.py

browser:
	@$(PYTHON) scripts/setup_environment.py --browser

demo: setup
	@$(RUN) scripts/demo.py

test: browser
	@$(RUN) -m pytest tests

demo-model: setup
	@$(RUN) scripts/run_module.py demo.training.train

vectors: setup
	@$(RUN) scripts/run_module.py benchmarks.shipped_vectors

benchmark: setup
	@$(RUN) scripts/run_module.py benchmarks.main_job

workflows: setup
	@$(RUN) scripts/build_workflows.py

pictures: browser
	@$(RUN) scripts/make_pictures.py

locales: setup
	@$(RUN) scripts/build_locales.py

lint: setup
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .
