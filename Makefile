# `make run` and `make test` set up .venv when needed, then do the job.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test test-third-party docs lint perf clean

run: $(READY)
	$(BIN)/ong run permuted-mnist naive ewc ogd ncl ong-prior ong-replay joint
	$(BIN)/ong report runs/permuted-mnist

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-third-party: $(READY)
	$(BIN)/python -m pip install --quiet timm peft
	$(BIN)/python -m pytest -n auto -m third_party

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml
	@echo open build/site/index.html

perf: $(READY)
	for program in data_path steps threads jobs refresh ogd_dense profiles networks estimate peers growth whole_run autoencoder; do $(BIN)/python perf/$$program.py || exit 1; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ong needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
