#!/usr/bin/env bash
# Installs the Debian packages that the build needs and lacks; if that is not possible, names them in one line and fails.
# [PYTHON=python3] system-packages.sh [KIND]   KIND adds what a job needs: aarch64: the cross build and its emulated tests;
#   fuzz: clang with libFuzzer; budgets: Valgrind; musl: musl and GoogleTest's source
set -euo pipefail

python=${PYTHON:-python3}
missing=()
has_header() { echo "#include <$1>" | ${CXX:-c++} -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; }
has_libfuzzer() {
  command -v clang++ >/dev/null &&
    echo 'extern "C" int LLVMFuzzerTestOneInput(const char *, unsigned long) { return 0; }' | clang++ -fsanitize=fuzzer,address -x c++ - -o /dev/null 2>/dev/null
}
# Debian names the sanitizers' libraries after the version of its `clang`.
clang_runtime() { apt-cache depends clang | sed -n 's/.*Depends: clang-\([0-9]*\)$/libclang-rt-\1-dev/p' | head -1; }
command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
command -v ccache >/dev/null || missing+=(ccache)
has_header onnxruntime/onnxruntime_c_api.h || missing+=(libonnxruntime-dev)
has_header nlohmann/json.hpp || missing+=(nlohmann-json3-dev)
has_header gtest/gtest.h || missing+=(libgtest-dev)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null || missing+=(python3-dev)
if [ "${1:-}" = aarch64 ]; then
  command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
  command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
  [ -e /usr/src/googletest/CMakeLists.txt ] || missing+=(googletest)
fi
if [ "${1:-}" = musl ]; then
  [ -e /lib/ld-musl-x86_64.so.1 ] || missing+=(musl)
  [ -e /usr/src/googletest/CMakeLists.txt ] || missing+=(googletest)
fi
if [ "${1:-}" = budgets ]; then
  { command -v valgrind && has_header valgrind/callgrind.h; } >/dev/null || missing+=(valgrind)
fi
if [ "${1:-}" = fuzz ] && ! has_libfuzzer; then
  [ "$(id -u)" -ne 0 ] || apt-get update -qq
  missing+=(clang "$(clang_runtime)")
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "rexit: missing system packages; run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
