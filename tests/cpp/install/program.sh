#!/bin/sh
# rexit-run on the tests' bundles: each command once, with the exit codes that scripts rely on. tests/program has the rest.
# program.sh PROGRAM WORK_FOLDER BUNDLE GOLDEN_BUNDLE      GOLDEN_BUNDLE: with golden samples, or empty
# $EXAMPLE_RUN: emulator for programs of another architecture.
set -eu
program=$1 work=$2 bundle=$3 golden=$4
rexit_run() { ${EXAMPLE_RUN:-} "$program" "$@"; }
ends_with() { # CODE ARGUMENTS…
  expected=$1 code=0
  shift
  rexit_run "$@" >"$work/out.txt" 2>"$work/error.txt" || code=$?
  [ "$code" -eq "$expected" ] || { echo "rexit-run $*: exit code $code, expected $expected" >&2; cat "$work/error.txt" >&2; exit 1; }
}
mkdir -p "$work"
rexit_run --version
ends_with 2 pipe "$bundle" --sessions 0
grep -q 'rexit-run: error: --sessions is `0`, expected' "$work/error.txt"
ends_with 4 pipe "$work/none"
ends_with 8 verify "$work/none"
printf '%s\n' '{"id": 1, "user": 106, "items": [-7, 8]}' 'no request' '{"id": 2, "user": 5, "items": [88]}' |
  rexit_run pipe "$bundle" --sessions 2 | sort >"$work/answers.txt"
test "$(grep -c '"scores"' "$work/answers.txt")" -eq 2
test "$(grep -c '^{"error"' "$work/answers.txt")" -eq 1
if [ -n "$golden" ]; then
  rexit_run verify "$golden" --variant cpu-fp32  # the others hold float32's log-odds, too
fi
