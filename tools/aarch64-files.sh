#!/usr/bin/env bash
# Collects the third-party files of the aarch64 build and tests in one folder: ONNX Runtime's and nlohmann's headers from the
# host, and ONNX Runtime's library from its aarch64 wheel, in the version that the given Python has.
# aarch64-files.sh FOLDER PYTHON
set -euo pipefail
folder=$1 python=$2

"$(dirname "$0")/header-links.sh" "$folder/include"

version=$("$python" -c 'from importlib.metadata import version; print(version("onnxruntime"))')
tag=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
rm -rf "$folder/wheel" "$folder/onnxruntime"
# Older platform tags silently give old versions.
"$python" -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 --python-version "$tag" \
  --implementation cp --dest "$folder/wheel" "onnxruntime==$version"
"$python" -m zipfile -e "$folder"/wheel/onnxruntime-*.whl "$folder/wheel"
mv "$folder/wheel/onnxruntime/capi" "$folder/onnxruntime"
rm -rf "$folder/wheel"
# One name for every version.
ln -s "$(basename "$(echo "$folder"/onnxruntime/libonnxruntime.so.*)")" "$folder/onnxruntime/libonnxruntime.so"
