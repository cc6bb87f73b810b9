#!/bin/sh
# Builds librexit.a with rexit-run, and against it examples/cpp by find_package and a C program by pkg-config. Neither may need librexit.so.
# static_library.sh SOURCE_FOLDER WORK_FOLDER BUNDLES CMAKE_OPTION...
# $CMAKE: the CMake that runs the tests, perhaps the only one.
set -eu
cmake() { "$CMAKE" "$@"; }
source=$1 work=$2 bundles=$3
shift 3
rm -rf "$work"
cmake -S "$source" -B "$work/library" -DBUILD_SHARED_LIBS=OFF -DREXIT_TESTS=OFF -DCMAKE_INSTALL_LIBDIR=lib "$@" >/dev/null
cmake --build "$work/library" --parallel 2 >/dev/null
cmake --install "$work/library" --prefix "$work/prefix" >/dev/null
test -e "$work/prefix/lib/librexit.a"
stands_alone() { ! readelf --dynamic "$1" | grep 'NEEDED.*librexit'; }
if [ -e "$work/prefix/bin/rexit-run" ]; then
  stands_alone "$work/prefix/bin/rexit-run"
  echo '{"user": 106, "items": [-7, 8, 88]}' | "$work/prefix/bin/rexit-run" pipe "$bundles/sound/bundle" | grep '"scores"'
fi

cmake -S "$source/examples/cpp" -B "$work/example" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/example" >/dev/null
stands_alone "$work/example/rexit_score"
"$work/example/rexit_score" --raw "$bundles/sound/bundle" 106 -7 8 88

if command -v pkg-config >/dev/null; then
  cc -std=c99 "$source/tests/cpp/api/abi_test.c" -o "$work/abi_test" \
    $(PKG_CONFIG_PATH="$work/prefix/lib/pkgconfig" pkg-config --cflags --libs rexit)
  stands_alone "$work/abi_test"
  REXIT_TEST_BUNDLES="$bundles" "$work/abi_test"
else
  echo "no pkg-config here: the C program was not built"
fi
