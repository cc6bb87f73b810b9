#!/usr/bin/env bash
# Links to the host's headers of ONNX Runtime and nlohmann under one folder, for a cross compiler: /usr/include itself has
# the host's C library.
# header-links.sh FOLDER
set -euo pipefail
folder=$1

header_folder() { echo "#include <$1>" | ${CXX:-c++} -std=c++17 -x c++ -M - | tr ' ' '\n' | sed -n "s,/$1\$,,p"; }
mkdir -p "$folder"
ln -sfn "$(header_folder nlohmann/json.hpp)/nlohmann" "$folder/nlohmann"
ln -sfn "$(header_folder onnxruntime/onnxruntime_cxx_api.h)/onnxruntime" "$folder/onnxruntime"
