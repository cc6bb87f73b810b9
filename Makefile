# make demo   real ratings to early-exit scores, everything set up on the way
# make demo-search   the same for a search: a reranker of Debian's packages
# make test   the tests, Python and C++, but those that take long
# make test-medium   the Python tests that take seconds each, such as whole exports
# make test-all   all of them, the packages, the other architecture, the sanitizers and ten minutes of fuzzing
# make test-aarch64   the C++ library cross-built for 64-bit ARM, its tests under QEMU, its answers against this machine's
# make test-aarch64-short   the same with the tests of kernels, answers and the ABI alone
# make test-distributed   examples/distributed with Ray, which is installed for it alone: a worker is killed on the way
# make test-integrations   rexit.integrations in LangChain, LlamaIndex and Haystack, which are installed for it alone
# make test-wheel   the Python wheel, built, repaired, installed on its own and held against this machine's answers
# make test-aarch64-wheel   the Python wheel, cross-built for 64-bit ARM, installed and held against this machine's answers, under QEMU
# make test-musl   the C++ library with musl in place of glibc, and the tests that need no ONNX Runtime
# make sizes   the library's size, as it is shipped and built for size
# make deb    Debian packages of the C++ library and rexit-run, in build/deb
# make test-deb   the packages, unpacked into an empty folder: rexit-run and examples/cpp score with them
# make sanitize   the C++ tests under the address and undefined-behaviour sanitizers, threads under the thread sanitizer
# make sanitize-short   the address and undefined-behaviour sanitizers over the tests that read untrusted files
# make fuzz   the C++ library under libFuzzer: MINUTES=60, or RUNS=1000000 per target; goes on from the last run
# make fuzz-short   the same, two seconds for each target
# make budgets   what each part of a request takes in instructions, counted by Valgrind, against tests/budgets/budgets.json
# make mutants   small changes of a Python module that its tests do not notice: MODULE=src/rexit/format/times.py, or another one every day
# make check  format, lint, types
# make docs   the site, in build/site
# make bench-peers   what benchmarks/speed/slate.py compares with: an hour of compiling and exporting
# make help   these lines
# make clean  forget what was built (the environment stays)

PYTHON ?= python3
# Everything that is made stands in two folders, so that .ci/run can have them for itself alone.
BUILD ?= build
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
WERROR ?= OFF
SHELL := /bin/bash
# `make setup` compiles the library for Python; what compiles it again, for C++, finds the same objects in this cache.
export CCACHE_DIR ?= $(abspath $(BUILD))/ccache
export CMAKE_C_COMPILER_LAUNCHER ?= ccache
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
# pip compiles nothing to bytecode (see below), so what Python compiles has to be kept: else each process takes seconds for it.
unexport PYTHONDONTWRITEBYTECODE
CPP_SOURCES := CMakeLists.txt $(shell find runtime tests/cpp tests/fuzz tests/budgets examples/cpp -name '*.cpp' -o -name '*.c' -o -name '*.h' -o -name '*.hpp' -o -name '*.txt' -o -name '*.in')
# Scripts belong to no package, and some of their names stand twice: they are type-checked folder by folder.
SCRIPTS = $(shell find benchmarks examples tools -name '*.py' -not -path '*/serving/*' -printf '%h\n' | sort -u)
IMPORTED := benchmarks/ranking:benchmarks/speed/peers:examples/movielens:examples/reranker

# $$(call imports,FILE...) among what a target depends on: those files and all of this repository that they import. Asked for
# only when make comes to that target; a machine without Python yet has nothing made that could be old.
.SECONDEXPANSION:
imports = $(if $(shell command -v $(PYTHON)),$(shell $(PYTHON) tools/imports.py $(1))$(if $(filter-out 0,$(.SHELLSTATUS)),$(error tools/imports.py failed)))

.DELETE_ON_ERROR:
.PHONY: help setup demo demo-search test test-all test-python test-medium test-cpp test-wheel test-aarch64 test-aarch64-short test-aarch64-wheel test-musl sizes deb test-deb test-distributed test-integrations sanitize sanitize-short fuzz fuzz-short budgets check docs format clean bench-peers mutants

help:
	@sed -n '/^# make/!q;s/^# //p' $(firstword $(MAKEFILE_LIST))

setup: $(BUILD)/.installed

$(BUILD)/.system: tools/system-packages.sh
	PYTHON=$(PYTHON) tools/system-packages.sh
	@mkdir -p $(@D) && touch $@

$(BIN)/python: | $(BUILD)/.system
	$(PYTHON) -m venv $(VENV)

# What rexit stands on, each package built as pip builds it. Not compiled to bytecode: that takes pip a minute for what is never
# imported; Python does it for what is. pip keeps one core busy; meanwhile another compiles what it can of the library, which is then
# found in the compiler's cache.
$(BUILD)/.requirements: $(BIN)/python pyproject.toml tools/requirements.py
	$(BIN)/python tools/requirements.py export dev >$(BUILD)/requirements.txt
	$(BIN)/pip install --quiet --no-compile cmake ninja
	$(BIN)/cmake -S . -B $(BUILD)/ahead $(CMAKE_OPTIONS) -DREXIT_TESTS=OFF -DREXIT_PROGRAM=OFF -DREXIT_WERROR=$(WERROR) >/dev/null
	$(BIN)/ninja -C $(BUILD)/ahead -j 1 rexit_core >/dev/null & \
	  $(BIN)/pip install --quiet --no-compile --requirement $(BUILD)/requirements.txt; status=$$?; kill $$! 2>/dev/null; wait; exit $$status
	rm -rf $(BUILD)/ahead
	@touch $@

# Our own two distributions without build isolation: their build tools are in the environment, so that a rebuild needs no network.
# The compiler is the one that CMake chooses below, and not the one that Python was built with: the cache tells them apart.
$(BUILD)/.installed: $(BUILD)/.requirements $(CPP_SOURCES) src/optimum-rexit/pyproject.toml
	PATH="$(abspath $(BIN)):$$PATH" CC="$${CC:-cc}" CXX="$${CXX:-c++}" $(BIN)/pip install --quiet --no-build-isolation --no-deps --config-settings build-dir=$(BUILD)/wheel --config-settings cmake.define.REXIT_WERROR=$(WERROR) --editable .
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable src/optimum-rexit
	@touch $@

# A bundle with golden samples, and this machine's answers to them.
$(BUILD)/golden/.written: $(BUILD)/.installed $$(call imports,tests/builders/bundles/recorded.py)
	rm -rf $(@D)
	PYTHONPATH=tests $(BIN)/python -m builders.bundles.recorded $(@D)
	@touch $@

CMAKE_OPTIONS := -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_BUILD_TYPE=Release
TEST_OPTIONS := -DREXIT_TESTS=ON -DREXIT_TEST_PYTHON=$(abspath $(BIN))/python -DREXIT_WERROR=$(WERROR) -DREXIT_TEST_GOLDEN=$(abspath $(BUILD))/golden

# The library, the example and rexit-run, as a C++ user builds them.
$(BUILD)/prefix/.installed: $(BUILD)/.installed
	$(BIN)/cmake -S . -B $(BUILD)/cpp $(CMAKE_OPTIONS) $(TEST_OPTIONS)
	$(BIN)/cmake --build $(BUILD)/cpp -j $(JOBS) --target rexit
	$(BIN)/cmake --install $(BUILD)/cpp --prefix $(@D) --component library
	$(BIN)/cmake --install $(BUILD)/cpp --prefix $(@D) --component development
	@touch $@

$(BUILD)/prefix/bin/rexit-run: $(BUILD)/prefix/.installed
	$(BIN)/cmake --build $(BUILD)/cpp -j $(JOBS) --target rexit-run
	$(BIN)/cmake --install $(BUILD)/cpp --prefix $(BUILD)/prefix --component program
	@touch $@

$(BUILD)/example/.built: $(BUILD)/prefix/.installed examples/cpp/CMakeLists.txt
	$(BIN)/cmake -S examples/cpp -B $(BUILD)/example $(CMAKE_OPTIONS) -DCMAKE_PREFIX_PATH=$(abspath $(BUILD))/prefix
	$(BIN)/cmake --build $(BUILD)/example -j $(JOBS)
	@touch $@

# And its tests.
$(BUILD)/cpp/.built: $(BUILD)/prefix/.installed $(BUILD)/golden/.written
	$(BIN)/cmake --build $(BUILD)/cpp -j $(JOBS)
	@touch $@

# For the machine it runs on, with what Debian's own packages have: /usr, no run path.
$(BUILD)/deb/.built: $(BUILD)/.installed
	$(BIN)/cmake -S . -B $(@D) $(CMAKE_OPTIONS) -DREXIT_DEB=ON -DREXIT_TESTS=OFF -DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_SKIP_INSTALL_RPATH=ON
	$(BIN)/cmake --build $(@D) -j $(JOBS)
	rm -f $(@D)/*.deb
	cd $(@D) && $(abspath $(BIN))/cpack
	@touch $@

deb: $(BUILD)/deb/.built
	@ls $(BUILD)/deb/*.deb

test-deb: $(BUILD)/deb/.built $(BUILD)/golden/.written
	CMAKE=$(abspath $(BIN))/cmake REXIT_ONNXRUNTIME_LIBRARY=$$($(BIN)/python -c 'from rexit.runtime import onnxruntime_library as f; print(f())') \
	  sh tests/cpp/install/deb.sh $(BUILD)/deb . $(BUILD)/deb/test $(BUILD)/golden/bundle

# Beside the environment: Ray and what it brings are 300 MB that nothing else needs.
$(BUILD)/distributed/.installed: $(BUILD)/.installed pyproject.toml
	$(BIN)/pip install --quiet --no-compile --upgrade --target $(@D) "$$($(BIN)/python tools/requirements.py distributed | grep ^ray)"
	@touch $@

test-distributed: $(BUILD)/distributed/.installed
	PYTHONPATH=$(abspath $(BUILD)/distributed) $(BIN)/python -m pytest tests/examples/ray_workers.py

INTEGRATIONS := langchain llama-index haystack
$(BUILD)/integrations/.installed: $(BUILD)/.installed pyproject.toml
	$(BIN)/pip install --quiet --no-compile --upgrade --target $(@D) $$($(BIN)/python tools/requirements.py $(INTEGRATIONS) | grep -E '^(langchain|llama-index|haystack)')
	@touch $@

test-integrations: $(BUILD)/integrations/.installed
	PYTHONPATH=$(abspath $(BUILD)/integrations) $(BIN)/python -m pytest tests/integrations/libraries.py

$(BUILD)/.system-aarch64: tools/system-packages.sh
	PYTHON=$(PYTHON) tools/system-packages.sh aarch64
	@mkdir -p $(@D) && touch $@

$(BUILD)/aarch64-files/.fetched: $(BUILD)/.system-aarch64 $(BUILD)/.installed tools/aarch64-files.sh
	tools/aarch64-files.sh $(@D) $(BIN)/python
	@touch $@

$(BUILD)/aarch64/.configured: $(BUILD)/aarch64-files/.fetched
	$(BIN)/cmake -S . -B $(BUILD)/aarch64 $(CMAKE_OPTIONS) $(TEST_OPTIONS) \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/runtime/cmake/aarch64-linux-gnu.cmake \
	  -DREXIT_ONNXRUNTIME_INCLUDE=$(abspath $(BUILD))/aarch64-files/include/onnxruntime \
	  -DREXIT_JSON_INCLUDE=$(abspath $(BUILD))/aarch64-files/include \
	  -DREXIT_TEST_ONNXRUNTIME=$(abspath $(BUILD))/aarch64-files/onnxruntime/libonnxruntime.so
	@touch $@

$(BUILD)/aarch64/.built: $(BUILD)/aarch64/.configured $(BUILD)/golden/.written
	$(BIN)/cmake --build $(BUILD)/aarch64 -j $(JOBS)
	@touch $@

$(BUILD)/aarch64-wheel/.python: $(BUILD)/.system-aarch64 tools/aarch64-python.sh
	tools/aarch64-python.sh $(@D)
	@touch $@

$(BUILD)/aarch64-wheel/.installed: $(BUILD)/aarch64-wheel/.python $(BUILD)/aarch64-files/.fetched tools/aarch64-wheel.sh \
    $(shell find src exporter runtime calibration -name '*.py')
	WERROR=$(WERROR) tools/aarch64-wheel.sh $(@D) $(BUILD)/aarch64-files $(BIN)/python
	@touch $@

$(BUILD)/wheel-alone/.installed: $(BUILD)/.installed tools/wheel.sh $(shell find src exporter runtime calibration -name '*.py')
	WERROR=$(WERROR) tools/wheel.sh $(@D) $(BIN)/python
	@touch $@

include examples/movielens/demo.mk
include examples/search/demo.mk

test: test-cpp test-python

test-cpp: $(BUILD)/cpp/.built $(BUILD)/example/.built
	$(BIN)/ctest --test-dir $(BUILD)/cpp --output-on-failure -j $(JOBS) -LE slow

# A module's tests stay in one process, where they share what its fixtures build.
PYTEST = REXIT_TEST_BUILD=$(abspath $(BUILD)) $(BIN)/python -m pytest -n $(JOBS) --dist loadscope

test-python: $(BUILD)/.installed $(BUILD)/example/.built $(BUILD)/prefix/bin/rexit-run
	$(PYTEST)

test-medium: $(BUILD)/.installed $(BUILD)/example/.built $(BUILD)/prefix/bin/rexit-run
	$(PYTEST) -m 'medium and not slow'

# One after the other, so that none takes another's core; the first that fails ends it.
test-all: $(BUILD)/cpp/.built $(BUILD)/example/.built $(BUILD)/prefix/bin/rexit-run
	REXIT_TEST_SLOW=1 $(BIN)/ctest --test-dir $(BUILD)/cpp --output-on-failure -j $(JOBS)
	$(PYTEST) -m ''
	set -e; for target in budgets test-deb test-distributed test-integrations test-wheel test-aarch64 test-aarch64-wheel test-musl sanitize; do $(MAKE) $$target; done
	$(MAKE) fuzz MINUTES=10

test-aarch64: $(BUILD)/aarch64/.built
	REXIT_TEST_SLOW=1 $(BIN)/ctest --test-dir $(BUILD)/aarch64 --output-on-failure -j $(JOBS)

test-aarch64-short: $(BUILD)/aarch64/.configured $(BUILD)/golden/.written
	$(BIN)/cmake --build $(BUILD)/aarch64 -j $(JOBS) --target rexit test_kernels test_golden abi_test
	$(BIN)/ctest --test-dir $(BUILD)/aarch64 --output-on-failure -j $(JOBS) -R '^(test_kernels.*|test_golden|abi_test|newest_symbols)$$'

# Zig is a C++ compiler with musl. ccache does not know it.
$(BUILD)/musl-files/.fetched: $(BUILD)/.installed tools/header-links.sh
	PYTHON=$(PYTHON) tools/system-packages.sh musl
	tools/header-links.sh $(@D)/include
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(@D) ziglang==0.17.1
	@touch $@

HEADERS = -DREXIT_ONNXRUNTIME_INCLUDE=$(1)/onnxruntime -DREXIT_JSON_INCLUDE=$(1)
UNCACHED := CMAKE_C_COMPILER_LAUNCHER= CMAKE_CXX_COMPILER_LAUNCHER=

$(BUILD)/musl/.configured: $(BUILD)/musl-files/.fetched runtime/cmake/x86_64-linux-musl.cmake
	$(UNCACHED) ZIG=$(abspath $(BUILD))/musl-files/ziglang/zig $(BIN)/cmake -S . -B $(@D) $(CMAKE_OPTIONS) $(TEST_OPTIONS) \
	  -DREXIT_PROGRAM=OFF -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/runtime/cmake/x86_64-linux-musl.cmake \
	  $(call HEADERS,$(abspath $(BUILD))/musl-files/include)
	@touch $@

# ONNX Runtime's wheel is for glibc. What loads it is left out.
MUSL_TESTS := test_checked test_status test_half test_json test_sha256 test_kernels test_retrieval \
  test_deadline test_policy test_prefix_cache test_slate test_stops test_vector_rows test_engines \
  test_tensorrt

# They load ONNX Runtime, whose wheel needs glibc.
NOT_WITH_MUSL := Stop.EndsARunOfOnnxRuntime:TensorRt.TheCpuStillRunsTheGraphs:TensorRtLibrariesDeathTest.*

test-musl: $(BUILD)/musl/.configured
	$(BIN)/cmake --build $(BUILD)/musl -j $(JOBS) --target rexit $(MUSL_TESTS)
	GTEST_FILTER=-$(NOT_WITH_MUSL) $(BIN)/ctest --test-dir $(BUILD)/musl --output-on-failure -j $(JOBS) \
	  -R '^($(subst $(eval ) ,|,$(strip $(MUSL_TESTS))))$$'

# Stripped, in bytes.
SIZE_OPTIONS := -DREXIT_TESTS=OFF -DREXIT_PROGRAM=OFF
sizes: $(BUILD)/.installed
	$(BIN)/cmake -S . -B $(BUILD)/sizes/fast $(CMAKE_OPTIONS) $(SIZE_OPTIONS) >/dev/null
	$(BIN)/cmake -S . -B $(BUILD)/sizes/small $(CMAKE_OPTIONS) $(SIZE_OPTIONS) -DCMAKE_BUILD_TYPE=MinSizeRel \
	  -DCMAKE_CXX_FLAGS='-ffunction-sections -fdata-sections' -DCMAKE_SHARED_LINKER_FLAGS=-Wl,--gc-sections >/dev/null
	for build in fast small; do \
	  $(BIN)/cmake --build $(BUILD)/sizes/$$build -j $(JOBS) --target rexit >/dev/null && \
	  strip -o $(BUILD)/sizes/$$build.so $(BUILD)/sizes/$$build/librexit.so && \
	  echo "$$build: $$(stat -c %s $(BUILD)/sizes/$$build.so)" || exit 1; done

test-wheel: $(BUILD)/wheel-alone/.installed $(BUILD)/golden/.written
	sh tests/cpp/install/newest_symbols.sh readelf $(BUILD)/wheel-alone/venv/lib/python*/site-packages/rexit/_native.*.so
	$(BUILD)/wheel-alone/venv/bin/rexit verify $(BUILD)/golden/bundle --variant cpu-fp32
	$(BUILD)/wheel-alone/venv/bin/python tests/wheel/answers.py $(BUILD)/golden

# Of the golden samples only float32's variant gives its own log-odds; answers.py compares all.
test-aarch64-wheel: $(BUILD)/aarch64-wheel/.installed $(BUILD)/golden/.written
	sh tests/cpp/install/newest_symbols.sh aarch64-linux-gnu-readelf $(BUILD)/aarch64-wheel/site/rexit/_native.abi3.so
	$(BUILD)/aarch64-wheel/python -m rexit verify $(BUILD)/golden/bundle --variant cpu-fp32
	$(BUILD)/aarch64-wheel/python tests/wheel/answers.py $(BUILD)/golden

# The sanitizers' builds know nothing of golden bundles: those are about answers, not about memory.
SANITIZE_OPTIONS := -DREXIT_TESTS=ON -DREXIT_TEST_PYTHON=$(abspath $(BIN))/python -DREXIT_WERROR=$(WERROR)

$(BUILD)/asan/.configured: $(BUILD)/.installed
	$(BIN)/cmake -S . -B $(@D) $(CMAKE_OPTIONS) $(SANITIZE_OPTIONS) -DREXIT_SANITIZE=ON
	@touch $@

$(BUILD)/asan/.built: $(BUILD)/asan/.configured
	$(BIN)/cmake --build $(@D) -j $(JOBS)
	@touch $@

$(BUILD)/tsan/.built: $(BUILD)/.installed
	$(BIN)/cmake -S . -B $(@D) $(CMAKE_OPTIONS) $(SANITIZE_OPTIONS) -DREXIT_SANITIZE_THREADS=ON
	$(BIN)/cmake --build $(@D) -j $(JOBS) --target test_stress test_cancel test_slate
	@touch $@

sanitize: $(BUILD)/asan/.built $(BUILD)/tsan/.built
	REXIT_TEST_SLOW=1 $(BIN)/ctest --test-dir $(BUILD)/asan --output-on-failure -j $(JOBS)
	$(BIN)/ctest --test-dir $(BUILD)/tsan --output-on-failure -R '^(test_stress|test_cancel|test_slate)$$'

SHORTLY_SANITIZED := test_damage test_reload test_session test_kernels

sanitize-short: $(BUILD)/asan/.configured
	$(BIN)/cmake --build $(BUILD)/asan -j $(JOBS) --target $(SHORTLY_SANITIZED)
	$(BIN)/ctest --test-dir $(BUILD)/asan --output-on-failure -j $(JOBS) -R '^($(subst $() ,|,$(SHORTLY_SANITIZED)))$$'

$(BUILD)/.system-fuzz: tools/system-packages.sh
	PYTHON=$(PYTHON) tools/system-packages.sh fuzz
	@mkdir -p $(@D) && touch $@

$(BUILD)/fuzz/.built: $(BUILD)/.system-fuzz $(BUILD)/.installed
	$(BIN)/cmake -S . -B $(@D) $(CMAKE_OPTIONS) -DREXIT_FUZZ=ON -DREXIT_TESTS=OFF -DREXIT_PROGRAM=OFF -DREXIT_WERROR=$(WERROR) -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
	$(BIN)/cmake --build $(@D) -j $(JOBS) --target fuzz_targets
	@touch $@

FUZZ := REXIT_ONNXRUNTIME_LIBRARY="$$($(BIN)/python -c 'import rexit.runtime._library as l; print(l.onnxruntime_library())')" tests/fuzz/run.sh $(BUILD)/fuzz
FUZZ_TARGETS := 6
MINUTES ?= 60

fuzz: $(BUILD)/fuzz/.built
	$(if $(RUNS),RUNS_EACH=$(RUNS),SECONDS_EACH=$$(($(MINUTES) * 60 / $(FUZZ_TARGETS)))) STATS=$(BUILD)/fuzz/stats $(FUZZ)

fuzz-short: $(BUILD)/fuzz/.built
	SECONDS_EACH=2 SEED=1 $(FUZZ)

$(BUILD)/.system-budgets: tools/system-packages.sh
	PYTHON=$(PYTHON) tools/system-packages.sh budgets
	@mkdir -p $(@D) && touch $@

$(BUILD)/budgets/.written: $(BUILD)/.installed $$(call imports,tests/builders/bundles/counted.py)
	rm -rf $(@D)
	PYTHONPATH=tests $(BIN)/python -m builders.bundles.counted $(@D)
	@touch $@

# Configured again: Valgrind may have come since.
budgets: $(BUILD)/.system-budgets $(BUILD)/prefix/.installed $(BUILD)/budgets/.written
	$(BIN)/cmake -S . -B $(BUILD)/cpp $(CMAKE_OPTIONS) $(TEST_OPTIONS) >/dev/null
	$(BIN)/cmake --build $(BUILD)/cpp -j $(JOBS) --target parts
	PYTHONPATH=tests $(BIN)/python -m budgets $(BUILD)/cpp/tests/budgets/parts $(BUILD)/budgets
	sh tests/cpp/install/newest_symbols.sh readelf $(BIN)/../lib/python*/site-packages/rexit/_native.*.so

$(BUILD)/cosmic-ray/.installed: $(BUILD)/.installed
	$(BIN)/pip install --quiet --upgrade --target $(@D) cosmic-ray==8.7.0
	@touch $@

mutants: $(BUILD)/cosmic-ray/.installed
	tools/mutate.sh $(BIN)/python $(abspath $(BUILD))/cosmic-ray $(MODULE)

check: $(BUILD)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=src:tests $(BIN)/mypy $(addprefix -p ,builders budgets crash damage doubles running)
	for folder in $(SCRIPTS); do MYPYPATH=src:$$folder:$(IMPORTED) $(BIN)/mypy $$folder/*.py || exit 1; done
	$(BIN)/clang-format --dry-run --Werror $(filter %.cpp %.c %.h %.hpp,$(CPP_SOURCES)) benchmarks/speed/products.cpp
	$(BIN)/python tools/outsiders.py

$(BUILD)/.docs-requirements: pyproject.toml tools/requirements.py | $(BUILD)/.installed
	$(BIN)/python tools/requirements.py docs >$(BUILD)/docs-requirements.txt
	$(BIN)/pip install --quiet --requirement $(BUILD)/docs-requirements.txt
	@touch $@

# The notice that is switched off is about mkdocs' future, at each build; docs/notes/engineering/libraries.md has it.
docs: $(BUILD)/.docs-requirements $(BUILD)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(abspath $(BUILD))/site

format: $(BUILD)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(filter %.cpp %.c %.h %.hpp,$(CPP_SOURCES)) benchmarks/speed/products.cpp

bench-peers: $(BUILD)/.installed
	PYTHON=$(PYTHON) benchmarks/speed/peers.sh $(BUILD)/peers

clean:
	rm -rf $(BUILD)
