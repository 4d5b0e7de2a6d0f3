# Each target sets up what it needs (scripts/bootstrap) and says what it cannot have.
#   STOCKADE_VENV=DIR   the virtual environment (default .venv)
#   TESTS="…"           what `make test` hands to pytest (default: everything)
#   TEST_WORKERS=N      test files that run at the same time (default 4: most of the slow ones wait, they do not compute)

SHELL := /bin/bash
VENV := $(or $(STOCKADE_VENV),.venv)
BIN := $(VENV)/bin
TESTS ?=
export TEST_WORKERS ?= 4
export STOCKADE_VENV := $(VENV)
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo test lint types contracts docs package package-check screenshots reference check format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: ## two hosts, one policy, real packets (as root; otherwise the same story in process)
	@scripts/bootstrap demo
	@$(BIN)/stockade demo

test: ## every tier of the tests; a tier whose needs are absent skips with the reason
	@scripts/bootstrap test
	@scripts/run-tests $(TESTS)

lint: ## ruff: rules and format
	@scripts/bootstrap tools
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: ## mypy --strict
	@scripts/bootstrap tools
	@$(BIN)/mypy

contracts: ## the arrows between the rooms (import-linter)
	@scripts/bootstrap tools
	@$(BIN)/lint-imports

docs: ## the manual, into site/
	@scripts/bootstrap tools
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: ## the wheel and the Debian package, into dist/ (a minute; more where gssapi and bonsai are built anew)
	@scripts/bootstrap demo
	@packaging/debian/build-deb dist

package-check: ## build the package, install and use it, boot its units, try a new user's first hour (root)
	@scripts/check-package

screenshots: ## the manual's pictures of the web console, anew (docs/images), by clicking through it
	@scripts/bootstrap test
	@mkdir -p docs/images
	@STOCKADE_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -q tests/host/test_web_console.py

reference: ## write the generated pages of docs/ anew
	@scripts/bootstrap tools
	@$(BIN)/python scripts/generate_reference.py

check: ## lint, types, contracts, docs and test: what CI runs
	@scripts/check

format: ## put the sources into the project's format
	@scripts/bootstrap tools
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the virtual environment, caches and built pages
	rm -rf .venv site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
