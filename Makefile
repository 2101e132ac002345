# One entry to everything; each target installs what it needs first, and again only when
# the pinned versions change.
.DEFAULT_GOAL := help
.PHONY: help run test check bench screenshots package release lock clean
PYTHON := .venv/bin/python

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run:  ## install what is missing, get a llama.cpp build, start the app
	@scripts/bootstrap run
	@.venv/bin/llama-wrangler

check:  ## format, lint, types, unit tests, page tests: under a minute
	@scripts/bootstrap check
	@scripts/check

test:  ## every check and every test, with real models, window, tray and browser
	@scripts/bootstrap test
	@scripts/check static web
	$(PYTHON) -m pytest

bench:  ## measure what the design promises (tests/benchmarks)
	@scripts/bootstrap test
	@set -e; for file in tests/benchmarks/bench_*.py; do \
	  [ -e "$$file" ] || { echo "no benchmark in tests/benchmarks"; exit 1; }; \
	  echo "== $$file"; $(PYTHON) "$$file"; done

screenshots:  ## draw docs/images/*.png from the running app
	@scripts/bootstrap test
	$(PYTHON) -m scripts.screenshots docs/images

package:  ## build the packages of this system into dist/, and try them
	@scripts/package

release:  ## after `make package`: manifest, signature (LLAMA_WRANGLER_RELEASE_KEY), checksums
	$(PYTHON) -m scripts.release dist

lock:  ## pin the Python dependencies anew after a change of pyproject.toml
	@scripts/lock

clean:  ## remove what the tools here made, not the cache or the user's home
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache tests/.artifacts
	find tray_app tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
