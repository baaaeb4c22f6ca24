# pocketvlm: `make demo` sets up and answers about a picture; `make test` sets up and passes every check.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SOURCES := pyproject.toml CMakeLists.txt $(shell find native -type f)

.PHONY: demo ui test test-ui test-full test-long test-formats test-train test-clients test-scale lint types pytest native-test neon neon-if-present sanitize docs bench clean

demo: $(VENV)/.installed
	$(BIN)/pocketvlm run nano -i examples/penguin.png -p "Describe this image."

# The server's web page. An install builds it too; it needs Node.js (or gets it from PyPI) and an npm registry.
ui:
	$(PYTHON) web/build.py

# The page: types, its pure parts, and a browser against a server with nano. Installs npm packages and, as root, Chromium.
CHROMIUM = $(or $(shell command -v chromium || command -v chromium-browser || command -v google-chrome),$(shell [ -e /usr/bin/chromium ] && echo /usr/bin/chromium))
test-ui: $(VENV)/.developed
	@$(if $(CHROMIUM),true,[ "$$(id -u)" = 0 ] || { echo "the page cannot be tested here without Chromium: apt install chromium" >&2; exit 1; }; apt-get update -qq && apt-get install -y -qq chromium fonts-noto-cjk > /dev/null)
	$(PYTHON) web/build.py
	$(PYTHON) web/build.py --packages
	PATH="$$($(PYTHON) web/build.py --node):$$PATH" POCKETVLM="$(abspath $(BIN))/pocketvlm" $(SHELL) web/tests/run.sh

test: lint types native-test neon-if-present pytest

lint: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developed
	$(BIN)/mypy

pytest: $(VENV)/.developed
	$(BIN)/pytest -m "not full and not long and not clients and not formats and not scale and not train"
	$(BIN)/pytest -m "full and not long"

# The real checkpoint's shape, random weights, about 12 GB of memory: what `make test` does of it, and three longer cases.
test-full: $(VENV)/.developed
	$(BIN)/pytest -m full --durations=0

# Half an hour that `make test` leaves out: the server under load, random requests and random schedules at length, and
# new random examples for every test that draws some (`make test` draws the same ones each time).
test-long: $(VENV)/.developed
	$(BIN)/pytest -m "long and not full" --durations=0 --hypothesis-profile=new
	$(BIN)/pytest -m "not full and not long and not clients and not formats and not scale and not train" --hypothesis-profile=new $$(grep -rlE --include="test_*.py" "^(import|from) hypothesis" tests)

# Clusters of several nodes on this machine, and the steps of the container: installs Ray.
test-scale: $(VENV)/.scaled
	$(BIN)/pytest -m scale --durations=0

$(VENV)/.scaled: $(VENV)/.developed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,ray]"
	@touch $@

# Quantized checkpoints against the libraries that wrote them.
test-formats: $(VENV)/.formats build/formats/.unpacked
	$(BIN)/pytest -m formats --durations=0

# Training, on nano: the loop against a plain one of transformers and peft, resuming, two processes, and the tutorial as written.
test-train: $(VENV)/.trained
	$(BIN)/pytest -m train --durations=0

# Packages that are read by path, since they no longer install beside a new PyTorch, or ask for much that tests do not use.
DOWNLOAD = $(BIN)/python -m pip download --quiet --no-deps --dest $(@D)
CONVERTER := convert_hf_to_gguf.py conversion gguf-py
build/formats/.unpacked: $(VENV)/.formats
	@mkdir -p $(@D)
	$(DOWNLOAD) --no-binary :all: autoawq==0.2.9 llama-cpp-python==0.3.36
	$(DOWNLOAD) --only-binary :all: --python-version 3.11 --platform manylinux2014_x86_64 auto-gptq==0.7.1
	$(DOWNLOAD) --only-binary :all: mlx-vlm==0.7.10
	tar -xzf $(@D)/autoawq-0.2.9.tar.gz -C $(@D)
	tar -xzf $(@D)/llama_cpp_python-0.3.36.tar.gz -C $(@D) $(CONVERTER:%=llama_cpp_python-0.3.36/vendor/llama.cpp/%)
	for wheel in $(@D)/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(@D) || exit 1; done
	@touch $@

# --- real clients against the server: tests/clients ---

# Clients that exclude each other's versions have environments of their own; npm's are in one folder, with their Node.js.
CLIENTS := $(patsubst tests/clients/environments/%.txt,.venv-clients/%/.installed,$(wildcard tests/clients/environments/*.txt))

test-clients: $(VENV)/.developed $(CLIENTS) build/clients/.installed
	$(BIN)/pytest -m clients --durations=0

.venv-clients/%/.installed: tests/clients/environments/%.txt constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --requirement $<
	@touch $@

build/clients/.installed: tests/clients/package.json
	@mkdir -p $(@D)
	cp $< $(@D)/package.json
	cd $(@D) && npm install --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

# --- the kernels alone: tests/native, a program without Python ---

# The system's cmake, or the one among the development tools.
CMAKE ?= $(or $(shell command -v cmake),$(BIN)/cmake)
CMAKE_NEEDS = $(if $(filter $(BIN)/%,$(CMAKE)),$(VENV)/.developed)
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

# $(call build,folder,settings): the program at build/<folder>/tests/native/kernels_test.
build = $(CMAKE) --log-level=WARNING -S . -B build/$(1) -DPOCKETVLM_TESTS=ON $(2) > /dev/null && \
	$(CMAKE) --build build/$(1) --parallel $(JOBS) > /dev/null
program = build/$(1)/tests/native/kernels_test

native-test: $(CMAKE_NEEDS)
	$(call build,native,-DPOCKETVLM_LONG_VNNI=ON)
	$(call program,native)

NEON_PACKAGES := g++-aarch64-linux-gnu qemu-user
NEON_TOOLS := aarch64-linux-gnu-g++ qemu-aarch64
NEON_MISSING = $(if $(filter $(words $(NEON_TOOLS)),$(words $(foreach tool,$(NEON_TOOLS),$(shell command -v $(tool))))),,yes)
NEON_HINT := the NEON kernels cannot be tested here without a cross compiler and an emulator: apt install $(NEON_PACKAGES)
EMULATE := qemu-aarch64 -L /usr/aarch64-linux-gnu

# For 64-bit ARM, emulated: all instruction sets, then the first alone on a processor that has no other.
neon: $(CMAKE_NEEDS)
	@$(if $(NEON_MISSING),echo "$(NEON_HINT)" >&2; exit 1,true)
	$(call build,neon,-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++)
	$(EMULATE) -cpu max $(call program,neon)
	$(EMULATE) -cpu cortex-a72 $(call program,neon) neon

# On ARM itself `native-test` has run them.
neon-if-present: ON_ARM = $(filter aarch64 arm64,$(shell uname -m))
neon-if-present:
	@$(if $(ON_ARM),true,$(if $(NEON_MISSING),echo "skipped: $(NEON_HINT)",$(MAKE) --no-print-directory neon))

# Optimised less, for what the compiler would hide. The thread sanitizer sees several pools at work at the same time.
ADDRESS := -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
THREAD  := -g1 -fsanitize=thread -Wno-tsan
sanitize: $(CMAKE_NEEDS)
	$(call build,address,-DPOCKETVLM_OPTIMIZE=-O1 -DCMAKE_CXX_FLAGS="$(ADDRESS)")
	$(call program,address)
	$(call build,thread,-DPOCKETVLM_OPTIMIZE=-O1 -DCMAKE_CXX_FLAGS="$(THREAD)")
	$(call program,thread) --together 3

docs: $(VENV)/.developed
	$(BIN)/python docs/filemap.py

bench: $(VENV)/.benched
	$(BIN)/python benchmarks/compare.py

clean:
	rm -rf build $(VENV) .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"pocketvlm needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Give another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	@touch $@

# With llama.cpp, built from source: some minutes.
$(VENV)/.benched: $(VENV)/.developed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,bench]"
	@touch $@

# llama.cpp for any processor, built anew: its AMX kernels crash on quantized files, and a cached build may have them.
$(VENV)/.formats: $(VENV)/.developed
	CMAKE_ARGS=-DGGML_NATIVE=OFF $(BIN)/python -m pip install --quiet --no-cache-dir --constraint constraints.txt llama-cpp-python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,formats]"
	@touch $@

$(VENV)/.trained: $(VENV)/.developed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,train,report]"
	@touch $@

$(VENV)/.developed: $(BIN)/python $(SOURCES) constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(VENV)/.installed $@
