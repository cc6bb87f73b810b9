#!/usr/bin/env bash
# Fuzzes with every target in turn: run.sh BUILD [TARGET...]
#   BUILD    where CMake built the targets; BUILD/corpus keeps what they found of use, so that the next run goes on from there
#   SECONDS_EACH=10, or RUNS_EACH=100000 executions, per target; SEED=1: the same mutations each time, as far as the time allows
# Ends at the first input that breaks something, with a copy of it in BUILD/found and status 1. STATS=FILE gets a line per target.
set -euo pipefail

build=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
targets=("$@")
[ ${#targets[@]} -ne 0 ] || targets=(tables engines request bundle reload graph)
limit=(-max_total_time="${SECONDS_EACH:-10}")
[ -z "${RUNS_EACH:-}" ] || limit=(-runs="$RUNS_EACH")
[ -z "${SEED:-}" ] || limit+=(-seed="$SEED")
mkdir -p "$build/found"
[ ! -d /dev/shm ] || export TMPDIR=/dev/shm # where bundles are written
# A graph may ask ONNX Runtime for more memory than there is; that it must answer with a status.
# What one execution frees fits 16 MB. Two frames of each allocation instead of thirty: a fifth less time; run a finding alone for all.
export ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=1024:quarantine_size_mb=16:malloc_context_size=2:${ASAN_OPTIONS:-}
for name in "${targets[@]}"; do
  corpus=$build/corpus/$name log=$build/found/$name.log length=4096
  # Of whole bundles libFuzzer's bookkeeping by compared values and by rare features takes more time than the executions do, and
  # mutations on mutations end at the first check.
  guide=(-use_value_profile=1)
  case $name in
    bundle | reload | graph | request) guide=(-entropic=0 -mutate_depth=2) ;;
  esac
  case $name in
    bundle | reload) length=65536 ;;
    graph) length=131072 ;;
  esac
  mkdir -p "$corpus"
  status=0
  "$build/tests/fuzz/fuzz_$name" "$corpus" "$here/seeds/$name" $([ ! -d "$here/findings/$name" ] || echo "$here/findings/$name") \
    "${limit[@]}" -max_len=$length -timeout=20 -rss_limit_mb=4096 -malloc_limit_mb=65536 "${guide[@]}" \
    -print_final_stats=1 -artifact_prefix="$build/found/$name-" >"$log" 2>&1 || status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  line="$name: ${runs:-?} executions, $(sed -n 's/.*cov: \([0-9]*\) ft: \([0-9]*\).*/\1 edges, \2 features/p' "$log" | tail -1)"
  echo "$line"
  [ -z "${STATS:-}" ] || echo "$(date -u +%FT%TZ) $line" >>"$STATS"
  [ $status -ne 72 ] || exit 130 # libFuzzer was interrupted; what it has found of use is in the corpus
  if [ $status -ne 0 ]; then
    tail -40 "$log"
    echo "fuzz: $name failed; log: $log. Move the input named above to tests/fuzz/findings/$name/ once it is fixed" >&2
    exit 1
  fi
done
