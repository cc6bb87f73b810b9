#!/bin/sh
# mutate.sh PYTHON FOLDER [MODULE]: changes the operators, comparisons and numbers of a Python module, one at a time, with cosmic-ray,
# runs its tests after each change, and prints the changes that no test noticed. MODULE: such as src/rexit/format/times.py;
# without it, another module every day. FOLDER has cosmic-ray. The module has to be committed: it is changed in place.
# SAMPLE=12: so many of the changes, drawn with a fixed seed.
set -e
python=$1 folder=$2 module=$3

# tests/a/b/test_c.py, tests/a/test_c.py or the folder tests/a/b/c of a/b/c.py; otherwise the first three files that import it or
# its package, or all tests of its folder
tests_of() {
  stem=$(basename "$1" .py)
  package=$(dirname "$1" | sed 's|^src/rexit/*||')
  place=tests/$package
  for file in "$place/test_$stem.py" "$(dirname "$place")/test_$stem.py" "$place/$stem"; do
    if [ -f "$file" ] || ls "$file"/test_*.py >/dev/null 2>&1; then echo "$file"; return; fi
  done
  dotted=rexit$(echo "/$package" | sed 's|/$||; s|/|.|g')
  for import in "(from|import) $dotted\.$stem\b|from $dotted import .*\b$stem\b" "(from|import) $dotted\b"; do
    files=$(git grep -lE "$import" -- 'tests/*test_*.py' | head -3 | tr '\n' ' ')
    if [ -n "$files" ]; then break; fi
  done
  case $place in
    tests/doors/cli/*) place=tests/doors/cli ;;
    tests/) place= ;;
  esac
  if [ -n "$files" ] || [ -d "$place" ]; then echo "${files:-$place}"; fi
}

if [ -z "$module" ]; then
  modules=$(for file in $(git ls-files 'src/rexit/*.py' 'exporter/*.py' 'calibration/*.py' 'runtime/*.py'); do
    if [ -n "$(tests_of "$file")" ]; then echo "$file"; fi
  done)
  module=$(echo "$modules" | sed -n "$(($(date +%s) / 86400 % $(echo "$modules" | wc -l) + 1))p")
fi
tests=$(tests_of "$module")
[ -n "$tests" ] || { echo "$module: no tests of its name under tests/, and none imports it" >&2; exit 1; }
git diff --quiet HEAD -- "$module" || { echo "$module: has uncommitted changes" >&2; exit 1; }
echo "$module by $tests"

cat >"$folder/config.toml" <<EOF
[cosmic-ray]
module-path = "$module"
timeout = 300
excluded-modules = []
test-command = "env -u PYTHONPATH $python -m pytest -q -x -m 'not slow' -p no:cacheprovider $tests"
distributor.name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = [
  "core/ReplaceBinaryOperator_BitOr_.*",  # of types
  "core/ReplaceBinaryOperator_.*_(Bit.*|.Shift|FloorDiv|Mod|Pow)",
  "core/ReplaceComparisonOperator_(Is|IsNot)_(Eq|NotEq|Lt|LtE|Gt|GtE)",
  "core/ReplaceComparisonOperator_.*_(Is|IsNot|Eq)",
]
EOF
export PYTHONPATH="$folder" PYTHONDONTWRITEBYTECODE=1
run() { tool=$1; shift; "$python" "$folder/bin/$tool" "$@"; }
run cosmic-ray init --force "$folder/config.toml" "$folder/session.sqlite"
run cr-filter-operators "$folder/session.sqlite" "$folder/config.toml"
"$python" - "$folder/session.sqlite" "${SAMPLE:-}" <<'EOF'
import random, sqlite3, sys

session = sqlite3.connect(sys.argv[1])
jobs = [job for (job,) in session.execute(
    "SELECT job_id FROM mutation_specs ORDER BY start_pos_row, start_pos_col, operator_name, occurrence")]
filtered = {job for (job,) in session.execute("SELECT job_id FROM work_results")}
possible = [job for job in jobs if job not in filtered]
drawn = random.Random(0).sample(possible, min(int(sys.argv[2] or len(possible)), len(possible)))
for table in ("work_results", "mutation_specs", "work_items"):
    session.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(job,) for job in set(jobs) - set(drawn)])
session.commit()
print(f"{len(drawn)} of {len(possible)} changes")
EOF
run cosmic-ray baseline "$folder/config.toml"
run cosmic-ray exec "$folder/config.toml" "$folder/session.sqlite"
run cr-report --show-diff --surviving-only "$folder/session.sqlite"
