# make help lists everything. Every target sets the environment up first; .venv/.ready remembers that it is done.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-kernels test-gpu check format bench nano wheel clean distclean

BIN := .venv/bin
READY := .venv/.ready
KERNELS := .venv/.kernels
TRITON := 3.9.0
WORKERS ?= 2

# One torch thread per test worker: the workers share the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements-dev.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

demo: $(READY) ## Watch a stream, ask it questions, print every step live
	@$(BIN)/headrace demo

test: $(READY) ## Run all tests but the long ones, offline
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not long and not gpu and not triton"

test-long: $(READY) ## Run the long tests
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "long and not gpu and not triton"

$(KERNELS): $(READY)
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip -q install --no-deps "triton==$(TRITON)"
	@touch $@

test-kernels: $(KERNELS) ## Interpret and compile the kernels for a GPU on the CPU; installs triton (280 MB), Linux only
	@$(ONE_THREAD) TRITON_INTERPRET=1 $(BIN)/python -m pytest -n $(WORKERS) -m triton

test-gpu: $(READY) ## Run the tests that need a GPU
	@$(BIN)/python -m pytest -m gpu

check: $(READY) ## Lint, formatting, types and the rules of the house
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(ONE_THREAD) $(BIN)/python -m pytest tests/house

format: $(READY) ## Sort imports, fix what ruff can fix, format
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

bench: $(READY) ## Measure overhead, latency and accuracy; rebuild the tables of the README and the picture
	@mkdir -p runs/bench
	@$(BIN)/headrace --threads 1 bench overhead --save docs/results/overhead.json --readme README.md
	@$(BIN)/headrace --threads 1 bench latency --save runs/bench/latency.json --readme README.md
	@$(BIN)/headrace --threads 1 bench accuracy --save runs/bench/accuracy.jsonl --readme README.md \
		--picture docs/results/accuracy-time.png
	@$(BIN)/headrace --threads 1 bench budgets --seeds 3 --seconds 30 --save runs/bench/budgets.jsonl --readme README.md \
		--picture docs/results/accuracy-tokens.png
	@mv runs/bench/latency.json runs/bench/accuracy.jsonl runs/bench/budgets.jsonl docs/results/ # a stopped bench goes on, a finished one is done

nano: $(READY) ## Train the embedded model
	@$(BIN)/headrace train nano

wheel: $(READY) ## Build dist/headrace-*.whl
	@$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist

clean: ## Remove builds and caches, keep the environment
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environment too
	@rm -rf .venv src/*.egg-info
