# Two commands do everything on a fresh machine: `make score` and `make test`.
# EXTRA=gpu installs the CUDA stack instead of the CPU one.
PYTHON ?= python3
VENV   ?= .venv
EXTRA  ?= cpu
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(EXTRA)
# Real data for development, if it lies beside the checkout; tests that need it skip without it.
ifneq ($(wildcard ../shared/data),)
export ECR_DATA_DIR ?= $(abspath ../shared/data)
endif

.PHONY: install score pipeline serve test test-all lint format lock figures watch slurm-help clean

install: $(STAMP)

$(STAMP): pyproject.toml requirements/install.sh requirements/$(EXTRA).lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	bash requirements/install.sh $(VENV) $(EXTRA)
	touch $@

score: install  ## score the embedded sample with the bundled judge
	$(BIN)/python jobs/score.py

pipeline: install  ## the embedded sample from dialogues to a report, stage by stage
	$(BIN)/python jobs/pipeline.py

serve: install  ## a page and an API to talk to the bundled policy, on this machine
	$(BIN)/python jobs/serve.py --open

test: install  ## what CI runs, half an hour on two cores; what needs real data or a GPU says why it skips
	$(BIN)/python -m pytest

test-all: install  ## and every further fault of every stage, which takes much longer
	$(BIN)/python -m pytest -m ""

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock:  ## resolve pyproject.toml into requirements/*.lock (needs uv)
	uv pip compile pyproject.toml --extra cpu --extra dev --override requirements/cpu.override --universal \
	  --python-version 3.11 --no-header --no-annotate --no-emit-find-links --torch-backend cpu \
	  --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio \
	  --no-emit-package torchcodec --no-emit-index-url -o requirements/cpu.lock
	uv pip compile pyproject.toml --extra gpu --extra dev --universal --python-version 3.11 \
	  --no-header --no-annotate -o requirements/gpu.lock

figures: install  ## put the measured tables into README.md, and write the Grafana boards
	$(BIN)/python -m ecr_ray.cluster.boards
	$(BIN)/python -m ecr_ray.benchmarks.figures

watch: install  ## Prometheus and Grafana over a running cluster, as far as they are installed
	$(BIN)/python -m ecr_ray.cluster.watch $(ARGS)

slurm-help: install  ## the options of slurm_ray_start.sh; README.md shows the common ways to use it
	$(BIN)/python -m ecr_ray.cluster.slurm --help

clean:
	rm -rf $(VENV) runs .cache
