#!/bin/sh
# The Debian packages, unpacked into an empty folder: rexit-run and examples/cpp, built against librexit-dev, score with them.
# Installs nothing. deb.sh DEB_FOLDER SOURCE_FOLDER WORK_FOLDER BUNDLE
# $CMAKE: the CMake that runs the tests, perhaps the only one.
set -eu
cmake() { "$CMAKE" "$@"; }
rm -rf "$3"
mkdir -p "$3"
root=$(realpath "$3")/root # CMake looks for a relative prefix nowhere
for package in "$1"/*.deb; do
  dpkg-deb -x "$package" "$root"
  dpkg-deb -f "$package" Package Depends
done
dpkg-deb -f "$1"/rexit-run_*.deb Depends | grep -q 'librexit0.1 (= .*libc6 '
dpkg-deb -f "$1"/librexit-dev_*.deb Depends | grep -q 'librexit0.1 (= '
# Of the library's SONAME, librexit.so.0.1: else dpkg-shlibdeps finds no package for programs linked with it.
soname=$(readelf --dynamic "$root"/usr/lib/*-linux-gnu/librexit.so.*.*.* | sed -n 's/.*SONAME.*\[librexit\.so\.\(.*\)\]/\1/p')
dpkg-deb --ctrl-tarfile "$1"/librexit0.1_*.deb | tar -xO ./shlibs | grep -q "^librexit $soname librexit0.1 "
LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
! readelf --dynamic "$root/usr/bin/rexit-run" | grep -E 'RPATH|RUNPATH'
cmake -S "$2/examples/cpp" -B "$3/build" -DCMAKE_PREFIX_PATH="$root/usr" >/dev/null
cmake --build "$3/build" >/dev/null
"$3/build/rexit_score" --raw "$4" 106 -7 8 88
echo '{"user": 106, "items": [-7, 8, 88]}' | "$root/usr/bin/rexit-run" pipe "$4" | grep '"scores"'
