# Every target installs what it needs into .venv first; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench chaos events legacy cluster bulk equal recovery-table wheel-check screenshots vendor docs lock clean

BIN := .venv/bin

# Where set, every process that Airflow starts would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.venv/.installed: requirements.lock pyproject.toml scripts/bootstrap
	@sh scripts/bootstrap

demo: .venv/.installed ## 25 real products through the whole workflow, then a table of their scores
	@$(BIN)/python -m squorflow.airflow.demo

serve: .venv/.installed ## Airflow with the dashboard, in this terminal, until Ctrl-C; PORT=… chooses its port
	@$(BIN)/python -m squorflow.airflow.serve $(if $(PORT),--port $(PORT))

test: .venv/.installed ## every check and every test
	PATH="$(CURDIR)/$(BIN):$$PATH" && ruff format --check . && ruff check . && lint-imports && mypy && pytest

lint: .venv/.installed ## the checks without the tests
	PATH="$(CURDIR)/$(BIN):$$PATH" && ruff format --check . && ruff check . && lint-imports && mypy

bench: .venv/.installed ## the benchmarks; each prints a table
	@for each in benchmarks/[a-z]*.py; do echo "$$each" && $(BIN)/python "$$each" || exit 1; done

events: .venv/.installed ## 10,000 transitions told to a webhook that fails, hangs and dies; prints the figures
	SQUORFLOW_TEST_TRANSITIONS=10000 $(BIN)/python -m pytest -q tests/chaos/test_event_delivery.py

chaos: .venv/.installed ## hundreds of products through Airflow while everything around them fails; STORM_SEED=… repeats one
	STORM_SIZE=large $(BIN)/pytest tests/chaos/test_storm.py -s

legacy: .venv/.installed ## 100,000 rows of the old system's queue imported, killed on the way and gone on with
	SQUORFLOW_TEST_RESULTS=yes SQUORFLOW_TEST_LEGACY_ROWS=100000 $(BIN)/python -m pytest -q -s tests/database/test_legacy.py

cluster: .venv/.installed ## 200 products through CeleryExecutor with Redis, one of two workers killed; prints the figures
	SQUORFLOW_TEST_RESULTS=yes SQUORFLOW_TEST_CLUSTER_PRODUCTS=$(or $(PRODUCTS),200) $(BIN)/python -m pytest -q -s tests/dags/cluster_run.py

bulk: .venv/.installed ## one bulk operation over 100,000 workflows through Airflow, its task killed on the way
	SQUORFLOW_TEST_RESULTS=yes $(BIN)/python -m pytest -q -s tests/dags/bulk_run.py

equal: .venv/.installed ## 200 real products through the DAG and the orchestrator, which have to leave the same behind
	SQUORFLOW_TEST_PRODUCTS=200 $(BIN)/python -m pytest -q tests/dags/test_dag_and_orchestrator.py

recovery-table: .venv/.installed ## inject every failure once and measure; `make docs` then puts it into docs/recovery.md
	PYTHONPATH=tests $(BIN)/python -m support.recovery_table

wheel-check: .venv/.installed ## the wheel in a bare environment elsewhere: migrations, plugin, API and DAGs
	@$(BIN)/python scripts/wheel_check.py

docs: .venv/.installed ## write the generated parts of the documentation anew
	@$(BIN)/python scripts/docs.py

screenshots: .venv/.installed ## take the pictures of the dashboard in docs/images anew; needs Chromium
	SQUORFLOW_SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser/test_screenshots.py

vendor: .venv/.installed ## fetch the browser's libraries anew and check them; needs npm
	@$(BIN)/python scripts/vendor.py

lock: ## resolve every version anew into requirements.lock
	@test -x $(BIN)/uv || sh scripts/bootstrap
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --all-extras --group dev --universal --generate-hashes \
		--python-version 3.11 --output-file requirements.lock

clean: ## remove .venv and caches; the data folder .squorflow stays
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
