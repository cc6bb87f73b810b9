"""A model of four layers with random weights: its segments as graphs, and the same model in plain NumPy.

`reference(weights, prefix, candidate)` runs one candidate's whole prompt through the model, token by token in order, with none of
what the runtime does: no packing, no prefix, no compaction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LAYERS, EXITS, HIDDEN, HEADS, HEAD_DIM = 4, (1, 2, 4), 16, 2, 8
VOCABULARY, POSITIONS = 64, 96

Weights = dict[str, NDArray[np.float32]]


def make_weights() -> Weights:
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    weights = {"embed": matrix(VOCABULARY, HIDDEN, 1.0), "position": matrix(POSITIONS, HIDDEN, 0.5)}
    for n in range(LAYERS):
        weights |= {f"{n}.{name}": matrix(HIDDEN, HIDDEN, 0.3) for name in ("q", "k", "v", "o", "up", "down")}
    return weights | {f"head.{k}": matrix(HIDDEN, 2, 0.4) for k in range(len(EXITS))}


def reference(weights: Weights, prefix: NDArray[Any], candidate: NDArray[Any]) -> NDArray[np.float64]:
    """Log-odds at each exit, [exits], in float64, of one candidate behind its prefix."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    tokens = np.concatenate([prefix, candidate]).astype(np.int64)
    hidden, result = w["embed"][tokens], []
    for n in range(LAYERS):
        x = hidden + w["position"][: len(tokens)]
        q, k, v = ((x @ w[f"{n}.{name}"]).reshape(-1, HEADS, HEAD_DIM) for name in "qkv")
        attended = np.zeros_like(v)
        for t in range(len(tokens)):
            for h in range(HEADS):
                score = k[: t + 1, h] @ q[t, h] / np.sqrt(HEAD_DIM)
                share = np.exp(score - score.max())
                attended[t, h] = share @ v[: t + 1, h] / share.sum()
        hidden = hidden + attended.reshape(-1, HIDDEN) @ w[f"{n}.o"]
        hidden = hidden + np.tanh(hidden @ w[f"{n}.up"]) @ w[f"{n}.down"]
        if n + 1 in EXITS:
            logits = hidden[-1] @ w[f"head.{EXITS.index(n + 1)}"]
            result.append(logits[1] - logits[0])
    return np.array(result)


def segment_names(k: int, exits: tuple[int, ...] = EXITS) -> dict[str, Any]:
    """Segment k as variant.json describes it; names differ from the roles, so that they must be read from there."""
    begin, end = (0, *exits)[k], exits[k]
    layers = range(begin, end)
    outputs: dict[str, Any] = {} if end == LAYERS else {"hidden": "state_out"}
    outputs |= {"logits": "label_logits", "new_keys": [f"nk{n}" for n in layers], "new_values": [f"nv{n}" for n in layers]}
    return {
        "graph": f"segment-{k}.onnx",
        "weights": f"segment-{k}.onnx.data",
        "layers": [begin, end],
        "hidden_dtype": "float32",
        "cache_dtype": "float32",
        "inputs": {
            **({"hidden": "state"} if begin else {"tokens": "ids"}),
            **{"positions": "place", "groups": "owner", "rows": "read"},
            **{"past_keys": [f"pk{n}" for n in layers], "past_values": [f"pv{n}" for n in layers]},
        },
        "outputs": outputs,
    }


def segment_graph(k: int, weights: Weights, exits: tuple[int, ...] = EXITS) -> onnx.ModelProto:
    """Segment k in standard ops of opset 17."""
    names = segment_names(k, exits)
    ins, outs, (begin, end) = names["inputs"], names["outputs"], names["layers"]
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "axis0": np.array([0], np.int64),
        "axis1": np.array([1], np.int64),
        "open": np.array(0, np.float32),
        "shut": np.array(-1e9, np.float32),
        "split": np.array([0, HEADS, HEAD_DIM], np.int64),
        "merge": np.array([0, HIDDEN], np.int64),
        "scale": np.array(1 / np.sqrt(HEAD_DIM), np.float32),
        "position": weights["position"],
        "head": weights[f"head.{k}"],
    }

    def op(kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        out = name or f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    if begin:
        hidden = ins["hidden"]
    else:
        constants["embed"] = weights["embed"]
        hidden = op("Gather", "embed", ins["tokens"])
    count = op("Gather", op("Shape", ins["groups"]), "zero")
    index = op("Range", "zero", count, "one")
    same = op("Equal", op("Unsqueeze", ins["groups"], "axis1"), op("Unsqueeze", ins["groups"], "axis0"))
    own = op("And", same, op("LessOrEqual", op("Unsqueeze", index, "axis0"), op("Unsqueeze", index, "axis1")))
    prefix = op("Unsqueeze", op("Gather", op("Shape", ins["past_keys"][0]), "one"), "axis0")
    shape = op("Concat", op("Unsqueeze", count, "axis0"), prefix, axis=0)
    before = op(
        "Cast", op("ConstantOfShape", shape, value=helper.make_tensor("v", TensorProto.INT64, [1], [1])), to=TensorProto.BOOL
    )
    mask = op("Where", op("Concat", before, own, axis=1), "open", "shut")
    place = op("Gather", "position", ins["positions"])

    for i, n in enumerate(range(begin, end)):
        constants |= {f"{n}.{name}": weights[f"{n}.{name}"] for name in ("q", "k", "v", "o", "up", "down")}
        x = op("Add", hidden, place)
        new = {"k": outs["new_keys"][i], "v": outs["new_values"][i], "q": f"query{n}"}
        for name, out in new.items():
            op("Transpose", op("Reshape", op("MatMul", x, f"{n}.{name}"), "split"), name=out, perm=[1, 0, 2])
        keys = op("Concat", ins["past_keys"][i], new["k"], axis=1)
        values = op("Concat", ins["past_values"][i], new["v"], axis=1)
        scores = op("Mul", op("MatMul", new["q"], op("Transpose", keys, perm=[0, 2, 1])), "scale")
        attended = op("MatMul", op("Softmax", op("Add", scores, mask), axis=-1), values)
        attended = op("Reshape", op("Transpose", attended, perm=[1, 0, 2]), "merge")
        hidden = op("Add", hidden, op("MatMul", attended, f"{n}.o"))
        up = op("Tanh", op("MatMul", hidden, f"{n}.up"))
        last = i + begin + 1 == end and "hidden" in outs
        hidden = op("Add", hidden, op("MatMul", up, f"{n}.down"), name=outs["hidden"] if last else None)
    op("MatMul", op("Gather", hidden, ins["rows"]), "head", name=outs["logits"])

    def info(name: str, kind: int, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kind, list(shape))

    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    inputs = [info(ins["hidden"], f32, "T", HIDDEN) if begin else info(ins["tokens"], i64, "T")]
    inputs += [info(ins["positions"], i64, "T"), info(ins["groups"], i64, "T"), info(ins["rows"], i64, "N")]
    inputs += [info(name, f32, HEADS, "P", HEAD_DIM) for name in (*ins["past_keys"], *ins["past_values"])]
    outputs = [info(outs["hidden"], f32, "T", HIDDEN)] if "hidden" in outs else []
    outputs += [info(outs["logits"], f32, "N", constants["head"].shape[1])]
    outputs += [info(name, f32, HEADS, "T", HEAD_DIM) for name in (*outs["new_keys"], *outs["new_values"])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, f"segment-{k}", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
