#!/usr/bin/env bash
# The first run on a Jetson, or on any machine with an NVIDIA GPU: builds rexit, compiles a bundle's engines, and packs the results
# into one archive to send back: versions, verification, parity with the CPU at every exit, times, memory, and a profile if Nsight
# Systems is installed.
# jetson-first-run.sh BUNDLE [--cpu] [--out FOLDER] [--python PYTHON] [--requests N]
#   --cpu       the same steps without a GPU: no TensorRT in the build, no engines, every variant's graphs on the CPU
#   --out       where the results go, and FOLDER.tar.gz beside it (default: rexit-first-run)
#   --python    a Python with rexit's packages, whose `rexit` is used (default: .venv/bin/python of this checkout)
#   --requests  of each kind that `rexit bench` times (default: 50)
# Only engines are added to BUNDLE. A step that fails does not stop the others; the exit status is then 1.
# Environment: COMPILE_PYTHON, the Python that has TensorRT's binding (default: /usr/bin/python3); CMAKE_ARGS for the build.
set -uo pipefail

bundle='' cpu=0 out=rexit-first-run requests=50
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
usage() { sed -n '2,12s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --cpu) cpu=1 ;;
    --out | --python | --requests) [ $# -ge 2 ] || usage; declare "${1#--}=$2"; shift ;;
    -*) usage ;;
    *) [ -z "$bundle" ] || usage; bundle=$1 ;;
  esac
  shift
done
[ -n "$bundle" ] || usage
[ -f "$bundle/manifest.json" ] || { echo "jetson-first-run: $bundle: is not a bundle (manifest.json is missing)" >&2; exit 2; }
[ ! -e "$out" ] || { echo "jetson-first-run: $out: already exists; choose another --out" >&2; exit 2; }
mkdir -p "$out/logs" || exit 2
out=$(cd "$out" && pwd)
rexit=("$python" -c 'from rexit.doors.cli import main; main()')
device=() ; [ $cpu -eq 0 ] || device=(--device cpu)
failed=0
printf 'step\toutcome\tseconds\n' >"$out/steps.tsv"

step() { # NAME COMMAND...: its output goes to logs/NAME.txt, its outcome to steps.tsv
  local name=$1 begin=$SECONDS outcome=ok
  shift
  "$@" >"$out/logs/$name.txt" 2>&1 || { outcome="FAILED ($?)"; failed=1; }
  printf '%s\t%s\t%s\n' "$name" "$outcome" $((SECONDS - begin)) | tee -a "$out/steps.tsv"
}
skip() { printf '%s\tskipped: %s\t0\n' "$1" "$2" | tee -a "$out/steps.tsv"; }

machine() { # describes this machine; missing files and commands are listed as such
  local file
  for file in /etc/nv_tegra_release /etc/os-release /proc/cpuinfo /proc/meminfo /proc/device-tree/model; do
    echo "== $file"
    if [ -r "$file" ]; then tr -d '\0' <"$file"; echo; else echo "not found"; fi
  done
  local command
  for command in 'uname -a' 'nvpmodel -q' 'jetson_clocks --show' 'nvidia-smi' 'free -m' 'c++ --version' 'cmake --version' "$python --version"; do
    echo "== $command"
    if command -v "${command%% *}" >/dev/null; then $command 2>&1 || echo "failed"; else echo "not found"; fi
  done
  echo "== packages"
  dpkg-query -W 'libnvinfer*' 'nvidia-jetpack*' 'cuda-cudart*' 'libonnxruntime*' 2>&1 | grep -v 'no packages found' || true
  echo "== git"
  git -C "$root" rev-parse HEAD 2>&1 || true
}

build() {
  local options=(-DCMAKE_BUILD_TYPE=Release -DREXIT_TESTS=OFF)
  [ $cpu -eq 1 ] || options+=(-DREXIT_TENSORRT=ON)
  # shellcheck disable=SC2086
  cmake -S "$root" -B "$out/build" "${options[@]}" ${CMAKE_ARGS:-} && cmake --build "$out/build" -j "$(nproc)"
}

bench() { # VARIANT: the report in bench-VARIANT.json
  "${rexit[@]}" bench "$bundle" --variant "$1" "${device[@]}" --requests "$requests" --json >"$out/bench-$1.json"
}

parity() { "$python" "$root/tools/device_parity.py" "$bundle" "$1" "${device[@]}" | tee "$out/parity-$1.json"; }

bench_watched() { # VARIANT: with the device's memory and load, once a second
  local watcher='' status=0
  if command -v tegrastats >/dev/null; then
    tegrastats --interval 1000 >"$out/tegrastats-$1.txt" & watcher=$!
  elif [ $cpu -eq 0 ] && command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu,clocks.sm,power.draw --format=csv -l 1 >"$out/nvidia-smi-$1.csv" & watcher=$!
  fi
  bench "$1" || status=$?
  [ -z "$watcher" ] || kill "$watcher"
  return $status
}

profile() { # VARIANT: kernels and copies of a few requests
  nsys profile --force-overwrite true --output "$out/nsys-$1" "${rexit[@]}" bench "$bundle" --variant "$1" "${device[@]}" --requests 3 \
    && nsys stats --force-export true --format csv --output "$out/nsys-$1" "$out/nsys-$1.nsys-rep"
}

verify() { "${rexit[@]}" verify "$bundle" --variant "$1" "${device[@]}" --json | tee "$out/verify-$1.json"; }

names() { "$python" -c 'import json, sys; print("\n".join(json.load(open(sys.argv[1]))["variants"]))' "$bundle/manifest.json"; }
target() { "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["target"])' "$bundle/variants/$1/variant.json"; }

step machine machine
step build build
step variants names
for variant in $(names); do
  if [ $cpu -eq 1 ]; then
    skip "compile-$variant" "--cpu"
  elif [ "$(target "$variant")" != tensorrt ]; then
    skip "compile-$variant" "not a TensorRT variant"
  else
    step "compile-$variant" "${rexit[@]}" compile "$bundle" --variant "$variant" --python "${COMPILE_PYTHON:-/usr/bin/python3}"
  fi
  step "verify-$variant" verify "$variant"
  step "parity-$variant" parity "$variant"
  step "bench-$variant" bench_watched "$variant"
  if [ $cpu -eq 1 ]; then
    skip "profile-$variant" "--cpu"
  elif command -v nsys >/dev/null; then
    step "profile-$variant" profile "$variant"
  else
    skip "profile-$variant" "nsys not found"
  fi
done
tar -C "$(dirname "$out")" --exclude=build -czf "$out.tar.gz" "$(basename "$out")" || failed=1
if [ $failed -eq 0 ]; then echo "all steps succeeded: $out.tar.gz"; else echo "failed: $(grep -c FAILED "$out/steps.tsv") steps, see $out/steps.tsv: $out.tar.gz"; fi
exit $failed
