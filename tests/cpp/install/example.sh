#!/bin/sh
# Installs the library, builds examples/cpp against it with find_package, and runs it: what a user does first.
# example.sh BUILD_FOLDER SOURCE_FOLDER WORK_FOLDER BUNDLE
# $CMAKE: the CMake that runs the tests, perhaps the only one. $EXAMPLE_RUN: what runs programs of another architecture.
set -eu
cmake() { "$CMAKE" "$@"; }
run=${EXAMPLE_RUN:-}
rm -rf "$3"
cmake --install "$1" --prefix "$3/prefix" >/dev/null
if command -v pkg-config >/dev/null; then # the prefix is that of the installation
  described=$(find "$3/prefix" -name rexit.pc)
  test "$(realpath "$(PKG_CONFIG_PATH=${described%/*} pkg-config --variable=includedir rexit)")" = "$(realpath "$3")/prefix/include"
fi
cmake -S "$2/examples/cpp" -B "$3/build" -DCMAKE_PREFIX_PATH="$3/prefix" -DCMAKE_CXX_FLAGS="${EXAMPLE_CXX_FLAGS:-}" >/dev/null
cmake --build "$3/build" >/dev/null
$run "$3/build/rexit_score" "$4" 106 -7 8 88
$run "$3/build/rexit_score" --raw "$4" 106 -7 8 88 >"$3/raw.txt"
test "$(wc -l <"$3/raw.txt")" -eq 3
if $run "$3/build/rexit_score" "$4" 106 4 2>"$3/error.txt"; then exit 1; fi
grep -q 'item 4 is not in the catalog.*(REXIT_UNKNOWN_ITEM)' "$3/error.txt"

