#!/bin/sh
# Builds examples/rust against the shared library, and runs it: a language that knows C functions and JSON.
# rust.sh RUSTC LIBRARY_FOLDER SOURCE_FOLDER WORK_FOLDER BUNDLE
set -eu
rm -rf "$4"
mkdir -p "$4"
"$1" -O -L "$2" -C "link-arg=-Wl,-rpath,$2" -o "$4/score" "$3/examples/rust/score.rs"
"$4/score" "$5" '{"id": 7, "user": 106, "items": [-7, 8, 88]}' >"$4/answer.txt"
grep -q '^{"id":7,"user":106,"variant":' "$4/answer.txt"
if "$4/score" "$5" '{"user": 106, "items": [4]}' >"$4/error.txt"; then exit 1; fi
grep -q '^items.0.: item 4 is not in the catalog' "$4/error.txt"
