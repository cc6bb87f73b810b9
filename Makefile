# make demo   real ratings to early-exit scores, everything set up on the way
# make test   all tests, Python and C++
# make test-aarch64   the C++ library cross-built for 64-bit ARM, its tests under QEMU, its answers against this machine's
# make check  format, lint, types
# make bench-peers   what benchmarks/slate.py compares with: an hour of compiling and exporting
# make clean  forget what was built (the environment in .venv stays)

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc)
WERROR ?= OFF
SHELL := /bin/bash
CPP_SOURCES := CMakeLists.txt $(shell find runtime tests/cpp examples/cpp -name '*.cpp' -o -name '*.c' -o -name '*.h' -o -name '*.hpp' -o -name 'CMakeLists.txt' -o -name '*.in' -o -name '*.map')

.DELETE_ON_ERROR:
.PHONY: setup demo test test-python test-cpp test-aarch64 check format clean bench-peers

setup: build/.installed

build/.system: tools/system-packages.sh
	tools/system-packages.sh
	@mkdir -p build && touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Without build isolation: the build tools are in .venv, so that a rebuild of the extension needs no network.
build/.installed: build/.system $(BIN)/python pyproject.toml $(CPP_SOURCES)
	$(BIN)/pip install --quiet "scikit-build-core>=1.0" "nanobind>=3.1" cmake ninja
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[export,dev]"
	@touch $@

# A bundle with golden samples, and this machine's answers to them.
build/golden/.written: build/.installed $(wildcard tests/*_bundle.py) tests/tiny_quantized.py
	rm -rf $(@D)
	$(BIN)/python tests/golden_bundle.py $(@D)
	@touch $@

CMAKE_OPTIONS := -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_BUILD_TYPE=Release
TEST_OPTIONS := -DREXIT_TESTS=ON -DREXIT_WERROR=$(WERROR) -DREXIT_TEST_GOLDEN=$(CURDIR)/build/golden

# The library, its tests and the example, as a C++ user builds them.
build/cpp/.built: build/golden/.written
	$(BIN)/cmake -S . -B build/cpp $(CMAKE_OPTIONS) $(TEST_OPTIONS)
	$(BIN)/cmake --build build/cpp -j $(JOBS)
	$(BIN)/cmake --install build/cpp --prefix build/prefix
	@touch $@

build/example/.built: build/cpp/.built examples/cpp/CMakeLists.txt
	$(BIN)/cmake -S examples/cpp -B build/example $(CMAKE_OPTIONS) -DCMAKE_PREFIX_PATH=$(CURDIR)/build/prefix
	$(BIN)/cmake --build build/example -j $(JOBS)
	@touch $@

build/.system-aarch64: tools/system-packages.sh
	tools/system-packages.sh aarch64
	@mkdir -p build && touch $@

build/aarch64-files/.fetched: build/.system-aarch64 build/.installed tools/aarch64-files.sh
	tools/aarch64-files.sh $(@D) $(BIN)/python
	@touch $@

build/aarch64/.built: build/aarch64-files/.fetched build/golden/.written
	$(BIN)/cmake -S . -B build/aarch64 $(CMAKE_OPTIONS) $(TEST_OPTIONS) \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/runtime/cmake/aarch64-linux-gnu.cmake \
	  -DREXIT_ONNXRUNTIME_INCLUDE=$(CURDIR)/build/aarch64-files/include/onnxruntime \
	  -DREXIT_JSON_INCLUDE=$(CURDIR)/build/aarch64-files/include \
	  -DREXIT_TEST_ONNXRUNTIME=$(CURDIR)/build/aarch64-files/onnxruntime/libonnxruntime.so
	$(BIN)/cmake --build build/aarch64 -j $(JOBS)
	@touch $@

include examples/movielens/demo.mk

test: test-cpp test-python

test-cpp: build/cpp/.built build/example/.built
	$(BIN)/ctest --test-dir build/cpp --output-on-failure -j $(JOBS)

test-aarch64: build/aarch64/.built
	$(BIN)/ctest --test-dir build/aarch64 --output-on-failure -j $(JOBS)

test-python: build/.installed build/example/.built
	$(BIN)/python -m pytest

check: build/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(filter %.cpp %.c %.h %.hpp,$(CPP_SOURCES))

format: build/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(filter %.cpp %.c %.h %.hpp,$(CPP_SOURCES))

bench-peers: build/.installed
	PYTHON=$(PYTHON) benchmarks/peers.sh build/peers

clean:
	rm -rf build
