# The two commands a newcomer needs: `make demo` and `make test`. Each sets up what it uses, in this folder only.
# Works with GNU make 3.81, which macOS still brings, and any POSIX shell.

# PYTHON may be given: make demo PYTHON=/opt/python3.13/bin/python3
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && echo "$$p" && break; done)

VENV := .venv
EXAMPLE := examples/ranking
MODEL := $(EXAMPLE)/model/ranker.txt
EMBEDDING := examples/embedding
ENCODER := $(EMBEDDING)/model/model.onnx

# `make demo` takes at most four minutes: the second example, which needs up to two, runs where they are left.
STARTED := $(shell date +%s)
SECOND_UNTIL_S := 120

# What a user has set up for other projects must not reach these environments, nor these environments it.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_ROOT
unexport PYTEST_PLUGINS PYTEST_DISABLE_PLUGIN_AUTOLOAD
export PYTHONNOUSERSITE := 1
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
INSTALL := -m pip install --quiet --quiet

# A measurement needs the machine to itself, and two installations must not share an environment: -j changes nothing.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo demo-embedding test lint clean check check-openmp

# $(call step,what it does,command): announces it, runs it, and says how long it took; no commas in the first.
step = @printf '==> %s\n' '$(1)'; start=$$(date +%s); { $(2); } || exit $$?; \
    printf '    done in %s s\n' "$$(($$(date +%s) - start))"

help:
	@echo 'make demo    load a real ranking model behind a real server and judge it (first run: 1 to 4 minutes)'
	@echo 'make demo-embedding   find out how much a sentence encoder takes (1 to 2 minutes)'
	@echo 'make test    style, types and the whole test suite'
	@echo 'make lint    style and types only'
	@echo 'make clean   remove environments, caches, the trained model and artifacts'
	@echo 'PYTHON=/path/to/python3 on the command line chooses the Python (3.10 or newer)'

# A busy machine may leave a demonstration inconclusive: that is shown and explained, but breaks nothing.
SHOWN := --capacity-inconclusive=warn -rs

demo: check-openmp $(VENV)/.installed $(EXAMPLE)/.venv/.installed $(MODEL)
	@printf '==> %s\n' 'loading the ranker (starts its server; about a minute)'
	@cd $(EXAMPLE) && { ../../$(VENV)/bin/python -m pytest -v $(SHOWN); status=$$?; }; \
	    echo "artifacts (one JSON file for each test): $(EXAMPLE)/.capacity/"; exit $$status
	@if [ $$(($$(date +%s) - $(STARTED))) -le $(SECOND_UNTIL_S) ]; \
	    then $(MAKE) --no-print-directory demo-embedding; \
	    else echo 'next: make demo-embedding finds out how much a sentence encoder takes (1 to 2 minutes)'; fi

demo-embedding: check $(VENV)/.installed $(EMBEDDING)/.venv/.installed $(ENCODER)
	@printf '==> %s\n' 'how much does the sentence encoder take? (starts its server; about a minute)'
	@cd $(EMBEDDING) && { ../../$(VENV)/bin/python -m pytest -v $(SHOWN) -k how_much_it_takes; status=$$?; }; \
	    echo "artifacts: $(EMBEDDING)/.capacity/"; exit $$status

# The sentence encoder's own tests are skipped without its environment, which this makes (under a minute).
test: lint $(EMBEDDING)/.venv/.installed $(ENCODER)
	@printf '==> %s\n' 'running the test suite (some minutes)'
	@$(VENV)/bin/python -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(call step,ruff check,$(VENV)/bin/python -m ruff check .)
	$(call step,ruff format --check,$(VENV)/bin/python -m ruff format --check .)
	$(call step,mypy --strict,$(VENV)/bin/python -m mypy)

clean:
	rm -rf $(VENV) examples/*/.venv examples/*/model examples/*/.capacity examples/*/.pytest_cache
	rm -rf .capacity build dist .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. A stamp lies inside the environment it vouches for and is written last, so that an interrupted
# installation is taken up again and a removed environment takes its stamp along.

$(VENV)/.made $(EXAMPLE)/.venv/.made $(EMBEDDING)/.venv/.made: | check
	$(call step,making $(@D),"$(PYTHON)" -m venv $(@D) && $(@D)/bin/python $(INSTALL) "pip>=22" && touch $@)

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	$(call step,installing pytest-capacity into $(VENV) (half a minute; compiles two small C extensions),\
	    $(@D)/bin/python $(INSTALL) -e . && touch $@)

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(call step,installing what the tests need into $(VENV) (half a minute),\
	    $(@D)/bin/python $(INSTALL) -e '.[dev]' && touch $@)

$(EXAMPLE)/.venv/.installed: $(EXAMPLE)/requirements.txt $(EXAMPLE)/.venv/.made
	$(call step,installing the ranker and its server into $(EXAMPLE)/.venv (half a minute),\
	    $(@D)/bin/python $(INSTALL) -r $(EXAMPLE)/requirements.txt && touch $@)

$(MODEL): $(EXAMPLE)/train.py $(EXAMPLE)/ranker.py $(EXAMPLE)/.venv/.installed
	$(call step,training the ranker (ten seconds),$(EXAMPLE)/.venv/bin/python $(EXAMPLE)/train.py)

$(EMBEDDING)/.venv/.installed: $(EMBEDDING)/requirements.txt $(EMBEDDING)/.venv/.made
	$(call step,installing the sentence encoder and its server into $(EMBEDDING)/.venv (half a minute),\
	    $(@D)/bin/python $(INSTALL) -r $(EMBEDDING)/requirements.txt && touch $@)

ENCODER_SOURCE := $(addprefix $(EMBEDDING)/,build.py encoder.py graph.py reference.py texts.py)

$(ENCODER): $(ENCODER_SOURCE) $(EMBEDDING)/.venv/.installed
	$(call step,building the sentence encoder (ten seconds),$(EMBEDDING)/.venv/bin/python $(EMBEDDING)/build.py)

# Prerequisites: one line for each that is missing, and nothing begun.

define CHECK
import os, shlex, subprocess, sys, sysconfig, tempfile

def compiles(source, *options):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "check.c")
        with open(path, "w") as file:
            file.write(source)
        command = [*compiler, *options, "-c", path, "-o", path + ".o"]
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
        except OSError:
            return False

missing = []
try:
    import ensurepip, venv
except ImportError as error:
    missing.append(f"{sys.executable} cannot make environments ({error}): install python3-venv (Debian, Ubuntu)")
compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
if not compiles("int main(void) { return 0; }"):
    missing.append(
        f"a C compiler is missing ({compiler[0]} does not compile): install gcc (Debian, Ubuntu, Fedora) "
        "or run xcode-select --install (macOS)"
    )
elif not compiles("#include <Python.h>", *("-I" + sysconfig.get_path(p) for p in ("include", "platinclude"))):
    missing.append(f"the C headers of {sys.executable} are missing: install python3-dev (Debian, Ubuntu) or python3-devel (Fedora)")
for line in missing:
    print("make: " + line, file=sys.stderr)
sys.exit(2 if missing else 0)
endef
export CHECK

# LightGBM's wheel uses the system's OpenMP runtime; its own complaint would come a minute later.
define CHECK_OPENMP
import ctypes, sys
try:
    if sys.platform == "linux":
        ctypes.CDLL("libgomp.so.1")
except OSError:
    print("make: the OpenMP runtime libgomp.so.1 is missing: install libgomp1 (Debian, Ubuntu) or libgomp (Fedora)", file=sys.stderr)
    sys.exit(2)
endef
export CHECK_OPENMP

check:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 || { \
	    echo 'make: Python 3.10 or newer is missing ("$(PYTHON)" is not): install it or name one with PYTHON=/path/to/python3' >&2; \
	    exit 2; }
	@"$(PYTHON)" -c "$$CHECK"

check-openmp: check
	@"$(PYTHON)" -c "$$CHECK_OPENMP"
