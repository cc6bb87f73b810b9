#!/bin/sh
# Runs examples/cpp/rexit_blend: blend.sh PROGRAM WORK_FOLDER BUNDLE. $PYTHON writes its model; $EXAMPLE_RUN: as for example.sh.
set -eu
rm -rf "$2"
mkdir -p "$2"
"$PYTHON" -c '
import sys
from onnx import TensorProto, helper
n = helper.make_tensor_value_info("log_odds", TensorProto.FLOAT, ["n"]), helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
graph = helper.make_graph([helper.make_node("Sigmoid", ["log_odds"], ["score"])], "blend", n[:1], n[1:])
with open(sys.argv[1], "wb") as file:
    file.write(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())
' "$2/model.onnx"
run() { ${EXAMPLE_RUN:-} "$@"; }
run "$1" "$2/model.onnx" "$3" 106 -7 8 88 >"$2/scores.txt" 2>"$2/log.txt" || { cat "$2/log.txt"; exit 1; }
test "$(grep -c '^[01]\.[0-9]*$' "$2/scores.txt")" -eq 3
grep -q '^[1-9][0-9]* bytes allocated by the program' "$2/log.txt"
if run "$1" "$2/model.onnx" "$3" 106 4 2>"$2/error.txt"; then exit 1; fi
grep -q 'rexit_blend: .*item 4 is not in the catalog' "$2/error.txt"
