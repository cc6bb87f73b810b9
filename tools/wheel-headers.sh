#!/usr/bin/env bash
# Downloads the headers that a wheel is built with into FOLDER, in a manylinux container without packages for them: ONNX Runtime's
# from its release, and nlohmann's JSON. A wheel works with ONNX Runtime from the version of these headers on.
# wheel-headers.sh FOLDER
set -euo pipefail
folder=$1 onnxruntime=1.21.0 json=3.11.3
case $(uname -m) in x86_64) machine=x64 ;; *) machine=$(uname -m) ;; esac
mkdir -p "$folder/nlohmann"
curl --fail --silent --show-error --location \
  "https://github.com/microsoft/onnxruntime/releases/download/v$onnxruntime/onnxruntime-linux-$machine-$onnxruntime.tgz" |
  tar -xz -C "$folder" --strip-components=2 "onnxruntime-linux-$machine-$onnxruntime/include"
curl --fail --silent --show-error --location --output "$folder/nlohmann/json.hpp" \
  "https://github.com/nlohmann/json/releases/download/v$json/json.hpp"
