"""A bundle of a few kilobytes with random weights, and the same model in plain NumPy.

`write_bundle(folder)` needs only numpy, onnx and safetensors. `reference(bundle, prefix, candidate)` runs one candidate's whole
prompt through the model, token by token in order, with none of what the runtime does: no packing, no prefix, no compaction.
From the shell: `python tests/tiny_bundle.py FOLDER [--strings]`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

LAYERS, EXITS, HIDDEN, HEADS, HEAD_DIM = 4, (1, 2, 4), 16, 2, 8
VOCABULARY, POSITIONS, MAX_TOKENS, DIM = 64, 96, 24, 8
USERS, ITEMS, NEIGHBOURS = 12, 20, 3
# Not 0, 1, 2, ...: a row taken for an id must fail.
USER_IDS, ITEM_IDS = [100 + 3 * n for n in range(USERS)], [-7 + 5 * n for n in range(ITEMS)]

Weights = dict[str, NDArray[np.float32]]


def string_id(kind: str, number: int) -> str:
    """Ids of the string variety; a multi-byte letter, so that order is by byte."""
    return f"{kind}-ü{number:04d}"


def make_weights(seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    weights = {"embed": matrix(VOCABULARY, HIDDEN, 1.0), "position": matrix(POSITIONS, HIDDEN, 0.5)}
    for n in range(LAYERS):
        weights |= {f"{n}.{name}": matrix(HIDDEN, HIDDEN, 0.3) for name in ("q", "k", "v", "o", "up", "down")}
    return weights | {f"head.{k}": matrix(HIDDEN, 2, 0.4) for k in range(len(EXITS))}


def reference(weights: Weights, prefix: NDArray[Any], candidate: NDArray[Any]) -> NDArray[np.float64]:
    """Log-odds at each exit, in float64, of one candidate behind its prefix."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    tokens = np.concatenate([prefix, candidate]).astype(np.int64)
    hidden, result = w["embed"][tokens], []
    for n in range(LAYERS):
        x = hidden + w["position"][: len(tokens)]
        q, k, v = ((x @ w[f"{n}.{name}"]).reshape(-1, HEADS, HEAD_DIM) for name in "qkv")
        seen = np.zeros_like(v)
        for t in range(len(tokens)):
            for h in range(HEADS):
                score = k[: t + 1, h] @ q[t, h] / np.sqrt(HEAD_DIM)
                share = np.exp(score - score.max())
                seen[t, h] = share @ v[: t + 1, h] / share.sum()
        hidden = hidden + seen.reshape(-1, HIDDEN) @ w[f"{n}.o"]
        hidden = hidden + np.tanh(hidden @ w[f"{n}.up"]) @ w[f"{n}.down"]
        if n + 1 in EXITS:
            no, yes = hidden[-1] @ w[f"head.{EXITS.index(n + 1)}"]
            result.append(yes - no)
    return np.array(result)


def segment_names(k: int) -> dict[str, Any]:
    """Segment k as variant.json describes it; names differ from the roles, so that they must be read from there."""
    begin, end = (0, *EXITS)[k], EXITS[k]
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


def segment_graph(k: int, weights: Weights) -> onnx.ModelProto:
    """Segment k in standard ops of opset 17."""
    names = segment_names(k)
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
        seen = op("MatMul", op("Softmax", op("Add", scores, mask), axis=-1), values)
        seen = op("Reshape", op("Transpose", seen, perm=[1, 0, 2]), "merge")
        hidden = op("Add", hidden, op("MatMul", seen, f"{n}.o"))
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
    outputs += [info(outs["logits"], f32, "N", 2)]
    outputs += [info(name, f32, HEADS, "T", HEAD_DIM) for name in (*outs["new_keys"], *outs["new_values"])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, f"segment-{k}", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# Pieces 0 to 9 are the program's literals and words; 10.. are fields. Piece 4 is empty.
PROGRAM: dict[str, Any] = {
    "template": "tiny",
    "prefix": [
        {"op": "piece", "piece": 0},
        {"op": "user_field", "field": "age", "missing": 1},
        {"op": "user_like_rate", "bins": [2, 3, 5], "missing": 4},
        {
            "op": "history",
            "order": "recent",
            "limit": 4,
            "empty": 1,
            "entry": [{"op": "item_field", "field": "title"}, {"op": "verdict", "yes": 6, "no": 7}],
        },
        {"op": "similar_liked", "limit": 4, "empty": 8, "entry": [{"op": "item_field", "field": "title"}]},
    ],
    "candidate": [
        {"op": "item_field", "field": "title"},
        {"op": "item_field", "field": "genre"},
        {"op": "item_like_rate", "bins": [2, 3, 5], "missing": 4},
        {"op": "item_count", "bins": [0, 1, 2, 3]},
        {"op": "history", "order": "nearest", "limit": 2, "empty": 1, "entry": [{"op": "item_field", "field": "genre"}]},
        {"op": "similar_verdict", "limit": 2, "yes": 6, "no": 7, "unseen": 8},
        {"op": "piece", "piece": 9},
    ],
    "max_prefix_tokens": 40,
    "max_candidate_tokens": 20,
}


def make_catalog(seed: int = 1, strings: bool = False) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
    """catalog.json without `files`, and the tables by file name."""
    random = np.random.default_rng(seed)
    events = sorted(
        (user, int(random.integers(10, 60)), int(item), bool(random.random() < 0.6))
        for user in range(USERS - 1)  # the last user has no history
        for item in random.integers(0, ITEMS - 1, random.integers(3, 12))  # the last item was never met; some are met twice
    )
    user_of, times, items, liked = (np.array(column) for column in zip(*events, strict=True))
    user_offsets = np.searchsorted(user_of, np.arange(USERS + 1)).astype(np.int64)
    by_item = np.concatenate([np.lexsort((np.arange(b - a), items[a:b])) for a, b in itertools.pairwise(user_offsets)])
    by_rating = np.lexsort((times, items))
    item_offsets = np.searchsorted(items[by_rating], np.arange(ITEMS + 1)).astype(np.int64)
    likes = np.concatenate([np.cumsum(liked[by_rating][a:b]) for a, b in itertools.pairwise(item_offsets)])

    def unit(rows: int) -> NDArray[np.float16]:
        values = random.standard_normal((rows, DIM))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)

    users, embeddings = unit(USERS), unit(ITEMS)
    embeddings[5] = embeddings[3]  # a tie
    scores = users.astype(np.float64) @ users.astype(np.float64).T
    np.fill_diagonal(scores, -np.inf)
    lengths = np.array([2, 1, 1, 2, 0, 1, 1, 1, 1, 2, *random.integers(1, 4, 30)])
    tables: dict[str, dict[str, NDArray[Any]]] = {
        "users.safetensors": {
            "embeddings": users,
            "similar": np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS].astype(np.int32),
            "history_offsets": user_offsets,
            "history_items": items.astype(np.int32),
            "history_times": times.astype(np.int64),
            "history_liked": liked.astype(np.uint8),
            "history_by_item": by_item.astype(np.int32),
            "field.age": random.integers(10, 20, USERS).astype(np.int32),
        },
        "items.safetensors": {
            "embeddings": embeddings,
            "fold_in": (unit(ITEMS) * np.float16(0.3)).astype(np.float16),
            "rating_offsets": item_offsets,
            "rating_times": times[by_rating].astype(np.int64),
            "rating_likes": likes.astype(np.int32),
            "field.title": (10 + np.arange(ITEMS)).astype(np.int32),
            "field.genre": random.integers(30, 40, ITEMS).astype(np.int32),
        },
        "pieces.safetensors": {
            "offsets": np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            "tokens": random.integers(0, VOCABULARY, lengths.sum()).astype(np.int32),
        },
    }
    for name, kind, ids in (("users.safetensors", "user", USER_IDS), ("items.safetensors", "item", ITEM_IDS)):
        if strings:
            raw = [string_id(kind, n).encode() for n in range(len(ids))]
            tables[name]["id_bytes"] = np.frombuffer(b"".join(raw), np.uint8)
            tables[name]["id_offsets"] = np.concatenate(([0], np.cumsum([len(r) for r in raw]))).astype(np.int64)
        else:
            tables[name]["ids"] = np.array(ids, np.int64)
    kind = "string" if strings else "int64"
    info = {
        "schema": 1,
        "requires": [],
        "producer": "tiny",
        "ids": {"user": kind, "item": kind},
        "counts": {"users": USERS, "items": ITEMS, "interactions": len(events), "pieces": len(lengths)},
        "label": {"column": "rating", "positive_at": 4.0},
        "tokenizer": {"vocab_size": VOCABULARY, "sha256": "0" * 64},
        "labels": {"no": 1, "yes": 2},
        "embedding": {"dim": DIM, "layers": 2},
        "prompt": PROGRAM,
        "retrieval": {},
        "splits": {},
    }
    return info, tables


def entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def write_policy(folder: Path, exits: list[dict[str, Any]], patience: int = 1, variant: str = "cpu-fp32") -> None:
    """A policy bound to the bundle's variant, as calibration writes it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = manifest["files"][f"variants/{variant}/variant.json"]["sha256"]
    value = {"schema": 1, "requires": [], "variant_sha256": digest, "patience": patience, "exits": exits}
    write_json(folder / "variants" / variant / "policy.json", value)


def refresh(folder: Path, variant: str = "cpu-fp32") -> None:
    """Records sizes and digests anew, from the leaves up: what someone who edits a bundle on purpose would do."""
    catalog, part = folder / "catalog", folder / "variants" / variant
    for path, below in ((catalog / "catalog.json", catalog), (part / "variant.json", part)):
        value = json.loads(path.read_text())
        value["files"] = {name: entry(below / name) for name in value["files"]}
        if path.name == "variant.json":
            value["catalog_sha256"] = entry(catalog / "catalog.json")["sha256"]
        write_json(path, value)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: entry(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest)


Catalog = tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]


def write_bundle(folder: Path, *, strings: bool = False, max_tokens: int = MAX_TOKENS, catalog_of: Catalog | None = None) -> Path:
    """Writes the bundle and returns its folder. `catalog_of` replaces what make_catalog gives."""
    variant, catalog = folder / "variants" / "cpu-fp32", folder / "catalog"
    variant.mkdir(parents=True)
    catalog.mkdir()
    info, tables = catalog_of or make_catalog(strings=strings)
    for name, table in tables.items():
        save_file(table, catalog / name)
    write_json(catalog / "catalog.json", {**info, "files": {name: {} for name in tables}})
    weights = make_weights()
    files = []
    for k in range(len(EXITS)):
        name = f"segment-{k}.onnx"
        onnx.save(
            segment_graph(k, weights), variant / name, save_as_external_data=True, location=f"{name}.data", size_threshold=256
        )
        files += [name, f"{name}.data"]
    write_json(
        variant / "variant.json",
        {
            **{"schema": 1, "requires": [], "producer": "tiny", "name": "cpu-fp32", "target": "cpu", "precision": "fp32"},
            **{"backend": "onnxruntime", "opset": 17, "catalog_sha256": "", "checkpoint_sha256": "f" * 64},
            "limits": {"max_tokens": max_tokens, "max_positions": POSITIONS},
            "segments": [segment_names(k) for k in range(len(EXITS))],
            "parity": {"tolerance": 1e-4, "samples": 0, "exits": []},
            "files": {name: {} for name in files},
        },
    )
    model = {"family": "tiny", "head": "own", "layers": LAYERS, "hidden_size": HIDDEN, "kv_heads": HEADS, "head_dim": HEAD_DIM}
    listed = ["catalog/catalog.json", *(f"catalog/{name}" for name in tables), "variants/cpu-fp32/variant.json"]
    write_json(
        folder / "manifest.json",
        {
            **{"schema": 1, "requires": [], "producer": "tiny", "exits": list(EXITS), "variants": ["cpu-fp32"]},
            "model": {**model, "vocab_size": VOCABULARY, "max_positions": POSITIONS, "checkpoint_sha256": "f" * 64},
            "files": {name: {} for name in listed},
        },
    )
    refresh(folder)
    return folder


if __name__ == "__main__":
    write_bundle(Path(sys.argv[1]), strings="--strings" in sys.argv[2:])
