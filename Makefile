# `make help` lists the commands.
PYTHON ?= python3
BIN := .venv/bin
SERVE := .venv/.serve
EXPLORE := .venv/.explore
DEVELOP := .venv/.develop
TRITON := .venv/.triton
PROTOS := $(wildcard protos/*/*/*.proto)
RUN ?= runs/mnist

.DEFAULT_GOAL := help
.PHONY: help run test fit export lint types check format protos schema accuracy startup ground rivals speed tradeoffs constraints clean swaps faults explore inspect screenshots

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(SERVE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu]'
	@touch $@

$(EXPLORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,explorer]'
	@touch $@

$(DEVELOP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,train,ray,tracing,explorer,dev]'
	@touch $@ $(SERVE) $(EXPLORE)

# Triton's client, for the tests that call the server with it; its pins do not go with ours.
$(TRITON): tests/serving/triton-client.txt | $(DEVELOP)
	$(PYTHON) -m venv .venv/triton
	.venv/triton/bin/pip install --quiet --requirement tests/serving/triton-client.txt
	@touch $@

# Other servers, which our own is measured beside.
.venv/mlserver .venv/litserve .venv/pytriton: .venv/%: benchmarks/rivals/%.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --requirement $<
	@touch $@

run: $(SERVE) ## Serve the shipped model, classify the example images, go on serving until Ctrl-C
	@if $(BIN)/python -m serving.health >/dev/null 2>&1; then \
	  echo "A server runs already on port 8001; stop it first." >&2; exit 1; fi
	@$(BIN)/python -m serving --models models --default-model mnist --grpc-port 8001 --metrics-port 8002 & server=$$!; \
	trap 'kill $$server 2>/dev/null' EXIT; trap 'wait $$server; exit 0' INT TERM; \
	until $(BIN)/python -m serving.health >/dev/null 2>&1; do kill -0 $$server 2>/dev/null || exit 1; done; \
	$(BIN)/python -m serving.client --target localhost:8001 examples/digits/*.png \
	&& kill -0 $$server && echo "Serving gRPC on 8001 and metrics on 8002. Ctrl-C stops." && wait $$server

explore: $(EXPLORE) ## Show what the networks see, on http://localhost:8080; a server must run
	$(BIN)/python -m explorer

inspect: $(DEVELOP) ## Find what excites each unit of the members in RUN, for the explorer
	$(BIN)/python -m training.inspect $(RUN)

screenshots: $(DEVELOP) ## Take the pictures of docs/explorer.md
	$(BIN)/python -m tests.explorer.screenshots

test: $(DEVELOP) $(TRITON) ## Run all tests
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

fit: $(DEVELOP) ## Train six members on MNIST into RUN (default runs/mnist)
	$(BIN)/python -m training.fit --run $(RUN)

export: $(DEVELOP) ## Write RUN as the next version of models/mnist
	$(BIN)/python -m export $(RUN) --name mnist --models models

lint: $(DEVELOP) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEVELOP) ## Check types
	$(BIN)/mypy

check: lint types test ## Everything that must pass before a commit

format: $(DEVELOP) ## Format and fix what can be fixed by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(DEVELOP) ## Generate the Python stubs beside the .proto files, and Envoy's descriptors
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=. \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)
	$(BIN)/python -m deploy.envoy.descriptors

schema: $(DEVELOP) ## Write the manifest's JSON Schema to docs/bundle.schema.json
	$(BIN)/python -m export.manifest > docs/bundle.schema.json

accuracy: $(DEVELOP) ## Send the MNIST test images through gRPC; compare with the manifest
	$(BIN)/python -m benchmarks.accuracy

startup: $(DEVELOP) ## Measure how soon a server is ready and how much memory it holds
	$(BIN)/python -m benchmarks.startup

swaps: $(DEVELOP) ## Swap a model 200 times under full load; give a server 5000 damaged bundles
	$(BIN)/python -m benchmarks.swaps
	$(BIN)/python -m benchmarks.fuzz_bundles

ground: $(DEVELOP) ## Ask a running server for digits drawn on several grounds
	$(BIN)/python -m benchmarks.ground

rivals: $(DEVELOP) .venv/mlserver .venv/litserve ## Measure the server beside MLServer and LitServe
	$(BIN)/python -m benchmarks.serving --rivals mlserver --rivals litserve

speed: $(DEVELOP) ## Measure the server beside a naive one, under overload, and gRPC alone
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.wire

tradeoffs: $(DEVELOP) ## Measure accuracy against images a second, early stop included; needs MNIST
	$(BIN)/python -m benchmarks.efforts
	$(BIN)/python -m benchmarks.tradeoffs --plot docs/images/tradeoffs.png

faults: $(DEVELOP) ## Kill and restart servers under load, and count what callers notice
	$(BIN)/python -m benchmarks.faults

constraints: $(DEVELOP) ## Write the exact versions that are installed to constraints.txt
	{ $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; \
	  grep -E '^onnxruntime-(gpu|openvino)==' constraints.txt; } | sort -f > constraints.new
	mv constraints.new constraints.txt

clean: ## Remove the virtual environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
