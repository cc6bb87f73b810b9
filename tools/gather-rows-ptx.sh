#!/bin/sh
# Writes runtime/src/backends/nvidia/gather_rows_ptx.hpp: gather_rows.cu as PTX, which the GPU's driver compiles. Needs clang with
# its NVPTX back end, and no CUDA. The PTX is old enough for every driver that TensorRT 10 runs on.
set -eu
cd "$(dirname "$0")/../runtime/src/backends/nvidia"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cat >"$place/kernel.cu" <<'CUDA'
#define __global__ __attribute__((global))
struct Index {
  unsigned int x;
};
#define REXIT_INDEX(register) (Index{static_cast<unsigned int>(__nvvm_read_ptx_sreg_##register##_x())})
#define blockIdx REXIT_INDEX(ctaid)
#define threadIdx REXIT_INDEX(tid)
#define blockDim REXIT_INDEX(ntid)
#define gridDim REXIT_INDEX(nctaid)
#include "gather_rows.cu"
CUDA
"${CLANG:-clang++}" -x cuda --cuda-device-only --cuda-gpu-arch=sm_75 -Xclang -target-feature -Xclang +ptx63 -nocudainc \
  -nocudalib -Wno-unknown-cuda-version -std=c++17 -O2 -fno-unroll-loops -I. -S -o "$place/kernel.ptx" "$place/kernel.cu"
{
  echo '// gather_rows.cu, compiled by tools/gather-rows-ptx.sh.'
  echo '#pragma once'
  echo
  echo 'namespace rexit::core::cuda {'
  echo
  echo 'constexpr char gather_rows_ptx[] = R"ptx('
  grep -v '^//\|^$\|^	// ' "$place/kernel.ptx" | expand -t 8
  echo ')ptx";'
  echo
  echo '}  // namespace rexit::core::cuda'
} >gather_rows_ptx.hpp
