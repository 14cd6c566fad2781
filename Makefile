# COMFYUI_PATH=... PYTHON=... use a ComfyUI and a Python of your own; then nothing is installed.
PYTHON ?= python3
CHOSEN := $(if $(COMFYUI_PATH),$(PYTHON),.venv/bin/python)
RUN := $(CHOSEN) -m
SETUP := @$(PYTHON) -m scripts.setup_environment
COMFYUI := $(or $(COMFYUI_PATH),.cache/ComfyUI)
export COMFYUI_PATH

.PHONY: help demo test fuzz lint style types benchmark vectors demo-model workflows pictures locales setup tools browser
.DEFAULT_GOAL := help

help: ## this list
	@echo "make TARGET, or make TARGET COMFYUI_PATH=... PYTHON=... with a ComfyUI and a Python of your own:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1  \2/p' Makefile | awk '{name = $$1; $$1 = ""; printf "  %-11s%s\n", name, $$0}'

demo: setup ## discover a concept and steer with it, in a few minutes on a CPU
	@$(RUN) scripts.demo

test: browser ## all tests; those in the editor are skipped where there is no Chromium
	@OMP_NUM_THREADS=1 $(RUN) pytest -n auto --maxprocesses 4 --dist loadfile tests

fuzz: tools ## broken files and names: 200,000 of them, or as many as FUZZ_SECONDS allow
	@$(RUN) tests.fuzz $(if $(FUZZ_SECONDS),--seconds $(FUZZ_SECONDS))

lint: style types ## style, format and types

style: tools ## style and format
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

types: tools ## types of hspace/ and nodes/
	@PYTHONPATH=$(COMFYUI) $(RUN) basedpyright --pythonpath "$$(command -v $(CHOSEN))"

benchmark: setup ## measure the main job
	@$(RUN) benchmarks main_job

vectors: setup ## find the shipped vectors anew
	@$(RUN) benchmarks shipped_vectors

demo-model: tools ## train the demo model
	@$(RUN) demo.training.train

workflows: setup ## write workflows/ and subgraphs/ anew
	@$(RUN) scripts.build_workflows

pictures: browser ## make the pictures of the documentation anew
	@$(RUN) scripts.make_pictures

locales: setup ## write the nodes' texts into locales/, and list what is to be translated
	@$(RUN) scripts.build_locales

setup: ## .venv and ComfyUI with what the demo needs
	$(SETUP)

tools: ## and the tools of development
	$(SETUP) --tools

browser: ## and a Chromium for the tests in the editor
	$(SETUP) --browser
