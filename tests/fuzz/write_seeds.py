"""The seeds that fuzzing starts from: `python -m fuzz.write_seeds`, in tests/, writes tests/fuzz/seeds/ anew.

They are kept in the repository, so that a fuzzer and the replay need no Python.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import drop_catalog, refresh, write_json, write_policy
from builders.bundles.catalog import in_lists, make_catalog, with_inputs
from builders.bundles.engines import ENGINES, KEY, add_engines
from builders.bundles.pairs import bert, write_pairs
from builders.bundles.variants import TENSORRT_HALF
from builders.bundles.zero import add_score_exit, with_numbers
from builders.onnx_graphs.added_nodes import write_added
from rexit.format.bundle.manifest import Pair

SEEDS = Path(__file__).parent / "seeds"
EXITS = [{"a": 1.5, "b": -0.25, "upper": 1.0, "lower": 2.0}] * 2 + [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}]
KEPT = [{**EXITS[0], "keep": 2}, EXITS[1], {**EXITS[1], "keep": 1}, EXITS[2]]
TOP_K = {"k": 2, "ordered": True, "rise": [1.0, 0.5], "fall": [2.0, 0.5]}
MADE_ON = {"device": "cpu", "threads": 2, "machine": {"architecture": "x86_64", "onnxruntime": "1.20.0", "rexit": "0.1.0"}}
POLICIES: dict[str, dict[str, Any]] = {
    "policy": {"exits": EXITS, "quorum": 2, "top_k": TOP_K, "made_on": MADE_ON},
    "strings": {
        "exits": [{**rule, "a": -1.0, "earlier": [0.5] * k} if k else rule for k, rule in enumerate(EXITS)],
        "floor": {"c": 0.5},
    },
    "lists": {"exits": EXITS, "prior_shift": -2.5},
    "zero": {"exits": KEPT},
}
"""Of some of the bundles, by their names."""
TEXTS = {"empty": "", "values": '{"a": [1, -2.5, "\\u00fc", null, true, {"schema": 1}], "schema": 1e3}', "deep": "[" * 40}
REQUESTS = {
    "policy": json.dumps({"patience": 2, "exits": [KEPT[0], KEPT[1], KEPT[3]], "quorum": 1, "top_k": TOP_K}),
    "ids": '{"id": "a\\u00fc", "user": 100, "items": [-7, 8], "recent": [3, [8, false]], "as_of": 40, "top_k": 1}',
    "strings": '{"id": 1.5, "user": "user-\u00fc0001", "items": ["item-\u00fc0000", "item-\\u00fc0001"],'
    ' "deadline_ms": 1e3, "floor": true}',
    "inputs": '{"user": 100, "items": [3], "inputs": {"device": "tv", "query": "red shoes", "hour": 21.5, "note": [3, 4]}}',
    "retrieve": '{"user": 103, "retrieve": 9, "recent": [3, [8, false]], "as_of": 40, "top_k": 4}',
    "tokens": '{"prefix": [3, 4], "candidates": [[5], [6, 7]], "force_exit": 0, "user": null}',
    "texts": '{"query": "the [SEP] ab", "documents": ["th\\u00e9 ab", "", "a, b [MASK] the the the the the the the the"]}',
    "scores": '{"prefix": [3], "candidates": [[5], [6, 7]], "scores": {"bm25": [0.5, null]}}',
}
# Every kernel of rexit's domain, on what segment 1 computes anyway; keys and values in float32 and float16.
KERNELS = """
    q1 = Unsqueeze (query1, zero) \n k1 = Unsqueeze (nk1, zero) \n v1 = Unsqueeze (nv1, zero)
    past_k = Unsqueeze (pk1, zero) \n past_v = Unsqueeze (pv1, zero)
    half_k = Cast <to = 10> (past_k) \n half_v = Cast <to = 10> (past_v)
    seen = rexit.SlateAttention <scale = 0.35> (q1, k1, v1, past_k, past_v, owner)
    seen_half = rexit.SlateAttention <scale = 0.35> (q1, k1, v1, half_k, half_v, owner)
    both_sides = rexit.SlateAttention <scale = 0.35, window = 2.0> (q1, k1, v1, past_k, past_v, owner)
    rounded_sides = rexit.SlateAttentionBFloat16 <scale = 0.35, window = 2.0> (q1, k1, v1, past_k, past_v, owner)
    q_tokens = Transpose <perm = [0, 2, 1, 3]> (q1) \n k_tokens = Transpose <perm = [0, 2, 1, 3]> (k1)
    by_token = rexit.EncoderAttention <scale = 0.35, window = 3.0> (q_tokens, k_tokens, k_tokens, owner)
    rounded_token = rexit.EncoderAttentionBFloat16 <scale = 0.35, window = 3.0> (q_tokens, k_tokens, k_tokens, owner)
    both_tokens = Sum (by_token, rounded_token)
    weight = ReduceMax <keepdims = 0, axes = [0]> (state)
    rows, scales = rexit.QuantizeRows (state)
    normed, normed_scales = rexit.RMSNormQuantizeRows <epsilon = 0.00001> (state, weight)
    gated, gated_scales = rexit.SwiGLUQuantizeRows (state, state, scales)
    gelu, gelu_scales = rexit.GELUQuantizeRows <approximate = "none"> (state, weight)
    geglu, geglu_scales = rexit.GeGLUQuantizeRows <approximate = "tanh"> (state, state, scales)
    plain, plain_scales = rexit.LayerNormQuantizeRows <epsilon = 0.00001> (state, weight, weight)
    summed_norm, added_norm, added_scales = rexit.AddLayerNormQuantizeRows <epsilon = 0.1> (state, state, weight, weight, weight)
    biased = rexit.ScaleAddRows (state, scales, weight)
    summed = rexit.ScaleAddRows (biased, scales, summed_norm)
    ones = Constant <value = float[1] {1}> ()
    sizes = Constant <value = int64[4] {1, 8, 16, 2}> ()
    wide = Expand (ones, sizes)
    panel = Cast <to = 16> (wide)
    rounded = rexit.RoundRows (state)
    rounded_norm = rexit.RMSNormRoundRows <epsilon = 0.00001> (state, weight)
    rounded_gate = rexit.SwiGLURoundRows (state, state)
    first = rexit.MatMulBFloat16 (rounded, panel)
    second = rexit.MatMulAddBFloat16 (rounded_norm, panel, first)
    third = rexit.MatMulAddBFloat16 (rounded_gate, panel, second)
    bias_columns = Constant <value = int64[1] {16}> ()
    bias = Expand (ones, bias_columns)
    fourth = rexit.MatMulAddBFloat16 (rounded, panel, bias)
    rounded_gelu = rexit.MatMulGELURoundRows <approximate = "none"> (rounded, panel, bias)
    plain_gelu = Cast <to = 1> (rounded_gelu)
    fifth, rounded_fifth = rexit.MatMulAddLayerNormRoundRows <epsilon = 0.1> (rounded, panel, bias, fourth, bias, bias)
    byte = Constant <value = int8[1] {1}> ()
    byte_sizes = Constant <value = int64[4] {1, 4, 16, 4}> ()
    packed = Expand (byte, byte_sizes)
    column_count = Constant <value = int64[1] {16}> ()
    columns = Expand (ones, column_count)
    offset = Constant <value = int32[1] {-2048}> ()
    offsets = Expand (offset, column_count)
    product = rexit.MultiplyRows (rows, scales, packed, columns, offsets)
    added = rexit.MultiplyAddRows (rows, scales, packed, columns, offsets, product)
    inside, inside_scales = rexit.MultiplySwiGLUQuantizeRows (rows, scales, packed, columns, offsets, packed, columns, offsets)
    half_inside, half_scales = rexit.MultiplyGeGLUQuantizeRows <approximate = "none">
        (rows, scales, packed, columns, offsets, packed, columns, offsets)
    active, active_scales = rexit.MultiplyGELUQuantizeRows <approximate = "none">
        (rows, scales, packed, columns, offsets, columns, columns)
    last, last_rows, last_scales = rexit.MultiplyAddLayerNormQuantizeRows <epsilon = 0.1>
        (rows, scales, packed, columns, offsets, columns, product, columns, columns, columns)
    of_products = Concat <axis = 1> (active_scales, last, last_scales, plain_gelu, fifth)
    of_rows = Concat <axis = 1> (of_products, normed_scales, gated_scales, gelu_scales, geglu_scales, plain_scales, added_scales)
    both = Concat <axis = 1> (of_rows, summed, third, added, inside_scales, half_scales)
    most_rows = ReduceMax <keepdims = 0> (both)
    seen_sides = Sum (both_sides, rounded_sides)
    most_tokens = ReduceMax <keepdims = 0> (both_tokens)
    most_seen = ReduceMax <keepdims = 0> (seen)
    most_sides = ReduceMax <keepdims = 0> (seen_sides)
    most_half = ReduceMax <keepdims = 0> (seen_half)
    number = Max (most_rows, most_seen, most_half, most_sides, most_tokens)"""


def put(name: str, contents: bytes | str) -> None:
    path = SEEDS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())


def pack(folder: Path) -> bytes:
    """A tar archive of the folder, the same for the same files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                member = tarfile.TarInfo(path.relative_to(folder).as_posix())
                member.size = path.stat().st_size
                archive.addfile(member, io.BytesIO(path.read_bytes()))
    return file.getvalue()


def without_graphs(folder: Path, variant: str = "cpu-fp32") -> None:
    """A double of the backend runs them, so that their contents do not matter."""
    for path in (folder / "variants" / variant).glob("segment-*"):
        path.write_text("none")
    refresh(folder, variant)


def write_bundles(place: Path) -> None:
    small = {"users": 4, "items": 6}
    catalogs = {
        "plain": make_catalog(),
        "vectors": make_catalog(vectors=True),
        "strings": make_catalog(strings=True),
        "lists": in_lists(make_catalog()),
        "policy": make_catalog(**small),
        "inputs": with_inputs(make_catalog()),
        "zero": with_numbers(make_catalog()),
    }
    for name, catalog in catalogs.items():
        folder = write_bundle(place / name, BundleOptions(catalog))
        if name in ("plain", "vectors", "zero"):
            put(f"graph/{name}", pack(folder))
        without_graphs(folder)
        if name in POLICIES:
            write_policy(folder, **POLICIES[name])
        put(f"bundle/{name}", pack(folder))
    folder = write_bundle(place / "tokens", BundleOptions(make_catalog(**small)))
    drop_catalog(folder)
    without_graphs(folder)
    put("bundle/tokens", pack(folder))
    add_score_exit(folder)
    put("bundle/scores", pack(folder))
    plain = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}  # small tables
    folder = write_pairs(
        place / "texts", bert(["the", "th", "##e", "ab", "\u00e9"], **plain), Pair(24), BundleOptions(make_catalog(**small))
    )
    without_graphs(folder)
    put("bundle/texts", pack(folder))
    put("graph/kernels", pack(write_added(place / "kernels", KERNELS, BundleOptions(make_catalog(**small)))))
    folder = write_bundle(place / "engines", BundleOptions(make_catalog(**small), variants=(TENSORRT_HALF,)))
    without_graphs(folder)
    without_graphs(folder, TENSORRT_HALF)
    add_engines(folder)
    put("engines/one", (folder / ENGINES / KEY / "engine.json").read_bytes())
    put("bundle/engines", pack(folder))


def write_reloads(place: Path) -> None:
    """What stands later on in the folders of `plain` and `vectors`: a policy, or a refreshed catalog."""
    for name in ("plain", "vectors", "zero"):
        folder = Path(shutil.copytree(place / name, place / f"reload-{name}"))
        rules = {"top_k": {**TOP_K, "rise": [1.0, 0.5, 0.5], "fall": [2.0, 0.5, 0.5]}} if name == "zero" else {"top_k": TOP_K}
        write_policy(folder, KEPT if name == "zero" else EXITS, 1, quorum=2, **rules)
        put(f"reload/{name}", pack(folder))
    folder = Path(shutil.copytree(place / "plain", place / "reload-refreshed"))
    (folder / "catalog").rename(folder / "catalog-newer")
    manifest = json.loads((folder / "manifest.json").read_text())
    exported = manifest["files"]["catalog/catalog.json"]["sha256"]
    files = {path.replace("catalog/", "catalog-newer/"): entry for path, entry in manifest["files"].items()}
    in_force = {"folder": "catalog-newer", "exported_sha256": exported}
    write_json(folder / "manifest.json", {**manifest, "catalog": in_force, "files": files})
    put("reload/refreshed", pack(folder))


def write_tables() -> None:
    for strings in (False, True):
        catalog = make_catalog(4, 6, strings=strings)
        counts = catalog.info["counts"]
        for name, table in catalog.tables.items():
            kind = name.split(".")[0]
            told = {"table": kind, "kind": "string" if strings else "int64", "count": counts[kind], "dim": 8}
            metadata = {key: str(value) for key, value in {**told, "interactions": counts["interactions"]}.items()}
            put(f"tables/{kind}-{told['kind']}", save(table, metadata))
            if kind == "users" and not strings:
                listed = in_lists(catalog, lists=2)
                probes = {"probes": str(listed.info["embedding"]["probes"])}
                put(f"tables/{kind}-lists", save(listed.tables[name], {**metadata, **probes}))


def main() -> None:
    shutil.rmtree(SEEDS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        write_bundles(Path(place))
        write_reloads(Path(place))
    for name, text in TEXTS.items():
        put(f"engines/{name}", text)
    for name, text in REQUESTS.items():
        put(f"request/{name}", text)
    write_tables()


if __name__ == "__main__":
    main()
