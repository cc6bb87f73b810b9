"""Models of one node of rexit's domain, with inputs and what NumPy makes of them.

For the function's own body, and for a kernel of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import erf

import numpy as np
import onnx.parser
import onnx_ir as ir
from numpy.typing import NDArray

from builders.onnx_graphs.graphs import Arrays, with_outlier
from rexit.exporter.graph.cpu import bfloat16_products, fuse_rows, pack_weights
from rexit.exporter.graph.cpu.bfloat16_attention import ROUNDED
from rexit.exporter.graph.cpu.quantize_linear_int8 import define_quantize_rows
from rexit.exporter.graph.cpu.slate_attention import NAME, define_slate_attention

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
QUANTIZED = "uint8[1, T, K] quantized, float[1, T, 1] scale_out"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    name: str
    model: ir.Model
    feed: Arrays
    expected: Arrays
    tolerance: float = 1e-5

    def check(self, actual: Arrays) -> None:
        """Raises AssertionError. Sums in another order may round one value in a hundred to its neighbour."""
        for name, expected in self.expected.items():
            if expected.dtype == np.uint8:
                steps = np.abs(actual[name].astype(int) - expected)
                assert actual[name].dtype == np.uint8 and steps.max() <= 1 and steps.mean() < 0.01
            else:
                margin = self.tolerance * np.abs(expected).max()
                np.testing.assert_allclose(
                    actual[name], expected, rtol=self.tolerance, atol=margin, err_msg=f"{self.name}: {name}"
                )


def cases() -> list[Case]:
    rows = [case for tokens, width in ((1, 8), (7, 64), (5, 45)) for case in _rows(tokens, width)]
    slates = [([9], 0), ([1], 0), ([9], 5), ([1], 33), ([4, 1, 7], 0), ([8, 1, 2, 5], 5), ([3, 3, 3], 33), ([1, 1, 1], 1)]
    return [
        *rows,
        *(
            case
            for tokens, width, columns in ((1, 8, 16), (7, 64, 192), (5, 46, 48))
            for case in _bfloat16(tokens, width, columns)
        ),
        *(case for sizes in ((1, 4, 16), (7, 32, 48)) for case in _products(*sizes)),
        *(_slate(sizes, prefix, stored) for stored in ("float", "float16") for sizes, prefix in slates),
        *(_slate(sizes, prefix, "float16", rounded=True) for sizes, prefix in slates[2:6]),
    ]


def one_node(text: str, *define: Callable[[ir.Model], None]) -> ir.Model:
    """A model from ONNX's text form that may call functions of rexit's domain, and these functions."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "rexit" : 1]>\n{text}')
    model = ir.serde.deserialize_model(proto)
    for add in define:
        add(model)
    return model


def quantize_rows(x: Floats) -> Arrays:
    scale = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-30)) * np.float32(1 / 127)
    return {"quantized": (np.rint(x / scale) + 128).astype(np.uint8), "scale_out": scale}


def slate_attention(feed: Arrays, scale: float, rounded: bool = False) -> Floats:
    """Every token by itself. rounded: the softmax's numerators to bfloat16."""
    keys = np.concatenate([feed["past_key"], feed["key"]], 2)[0].astype(np.float64)
    values = np.concatenate([feed["past_value"], feed["value"]], 2)[0].astype(np.float64)
    groups, prefix = feed["groups"], feed["past_key"].shape[2]
    out: NDArray[np.float32] = np.zeros(feed["query"].shape, np.float32)
    heads = out.shape[1]
    for token in range(len(groups)):
        own = [prefix + other for other in range(token + 1) if groups[other] == groups[token]]
        actual = [*range(prefix), *own]
        for head in range(heads):
            shared = head * len(keys) // heads
            scores = scale * keys[shared, actual] @ feed["query"][0, head, token]
            shares = np.exp(scores - scores.max())
            numerators = bfloat16(shares) if rounded else shares
            out[0, head, token] = numerators / shares.sum() @ values[shared, actual]
    return out


def _rows(tokens: int, width: int) -> list[Case]:
    random = np.random.default_rng(tokens)

    def normal(*shape: int) -> Floats:
        return random.standard_normal(shape).astype(np.float32)

    x, weight = with_outlier(tokens, width), normal(width)
    gate, up, scale = 300 * normal(1, tokens, width), 300 * normal(1, tokens, width), np.abs(normal(1, tokens, 1)) / 100
    x[0, -1] = up[0, -1] = 0
    residual = normal(1, tokens, width)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-3) * weight
    scaled = (gate * scale).astype(np.float32)
    inside = (scaled / (1 + np.exp(-scaled.astype(np.float64))) * up * scale).astype(np.float32)
    bias, factor, summed = normal(width), normal(width), x.astype(np.float64) + residual
    apart = summed - summed.mean(-1, keepdims=True)
    layer_normed = (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-3) * weight + bias).astype(np.float32)
    size = f"{tokens}x{width}"
    quantize = "segment (float[1, T, K] x) => (QUANTIZED) { quantized, scale_out = rexit.QuantizeRows (x) }"
    norm = """segment (float[1, T, K] x, float[K] weight) => (QUANTIZED) {
        quantized, scale_out = rexit.RMSNormQuantizeRows <epsilon = 0.001> (x, weight) }"""
    swiglu = """segment (float[1, T, K] gate, float[1, T, K] up, float[1, T, 1] scale) => (QUANTIZED) {
        quantized, scale_out = rexit.SwiGLUQuantizeRows (gate, up, scale) }"""
    layer_norm = """segment (float[1, T, K] x, float[K] weight, float[K] bias) => (QUANTIZED) {
        quantized, scale_out = rexit.LayerNormQuantizeRows <epsilon = 0.001> (x, weight, bias) }"""
    add_layer_norm = """segment (float[1, T, K] x, float[1, T, K] residual, float[K] weight, float[K] bias, float[K] factor)
        => (float[1, T, K] normed, QUANTIZED) {
        normed, quantized, scale_out = rexit.AddLayerNormQuantizeRows <epsilon = 0.001> (x, residual, weight, bias, factor) }"""
    gelu = """segment (float[1, T, K] x, float[K] factor) => (QUANTIZED) {
        quantized, scale_out = rexit.GELUQuantizeRows <approximate = "KIND"> (x, factor) }"""
    geglu = """segment (float[1, T, K] gate, float[1, T, K] up, float[1, T, 1] scale) => (QUANTIZED) {
        quantized, scale_out = rexit.GeGLUQuantizeRows <approximate = "KIND"> (gate, up, scale) }"""
    add = """segment (float[1, T, N] product, float[1, T, 1] scale, float[1, T, N] residual) => (float[1, T, N] out) {
        out = rexit.ScaleAddRows (product, scale, residual) }"""
    return [
        Case(f"QuantizeRows {size}", one_node(_text(quantize), define_quantize_rows), {"x": x}, quantize_rows(x)),
        Case(
            f"RMSNormQuantizeRows {size}",
            one_node(_text(norm), define_quantize_rows, fuse_rows.define_norm),
            {"x": x, "weight": weight},
            quantize_rows(normed.astype(np.float32)),
        ),
        Case(
            f"SwiGLUQuantizeRows {size}",
            one_node(_text(swiglu), define_quantize_rows, fuse_rows.define_swiglu),
            {"gate": gate, "up": up, "scale": scale},
            quantize_rows(inside),
        ),
        Case(
            f"LayerNormQuantizeRows {size}",
            one_node(_text(layer_norm), define_quantize_rows, fuse_rows.define_layer_norm),
            {"x": (x + residual), "weight": weight, "bias": bias},
            quantize_rows(layer_normed),
        ),
        Case(
            f"AddLayerNormQuantizeRows {size}",
            one_node(_text(add_layer_norm), define_quantize_rows, fuse_rows.define_add_layer_norm),
            {"x": x, "residual": residual, "weight": weight, "bias": bias, "factor": factor},
            {"normed": layer_normed, **quantize_rows(layer_normed * factor)},
        ),
        *(
            Case(
                f"GELUQuantizeRows {kind} {size}",
                one_node(_text(gelu).replace("KIND", kind), define_quantize_rows, fuse_rows.define_gelu),
                {"x": x, "factor": factor},
                quantize_rows(_gelu(x, kind) * factor),
            )
            for kind in ("none", "tanh")
        ),
        *(
            Case(
                f"GeGLUQuantizeRows {kind} {size}",
                one_node(_text(geglu).replace("KIND", kind), define_quantize_rows, fuse_rows.define_geglu),
                {"gate": gate, "up": up, "scale": scale},
                quantize_rows((_gelu(scaled, kind) * up * scale).astype(np.float32)),
            )
            for kind in ("none", "tanh")
        ),
        Case(
            f"ScaleAddRows {size}",
            one_node(add, fuse_rows.define_scale_add),
            {"product": gate, "scale": scale, "residual": residual},
            {"out": gate * scale + residual},
        ),
    ]


def _gelu(x: Floats, kind: str) -> Floats:
    wide = x.astype(np.float64)
    share = np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)) if kind == "tanh" else np.vectorize(erf)(wide / np.sqrt(2))
    return np.asarray(wide / 2 * (1 + share), np.float32)


def _bfloat16(tokens: int, width: int, columns: int) -> list[Case]:
    """Rounded rows and products of them. A number halfway between two neighbours may be rounded to either."""
    random = np.random.default_rng(width)

    def normal(*shape: int) -> Floats:
        return random.standard_normal(shape).astype(np.float32)

    x, weight, gate, up = with_outlier(tokens, width), normal(width), 3 * normal(1, tokens, width), normal(1, tokens, width)
    matrix, residual = normal(width, columns), normal(1, tokens, columns)
    feed = {"x": x, "matrix": bfloat16_products.pack(matrix).astype(np.float32)}
    product = bfloat16(x).astype(np.float64) @ bfloat16(matrix).astype(np.float64)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-3) * weight
    inside = gate / (1 + np.exp(-gate.astype(np.float64))) * up
    size, define = f"{tokens}x{width}", bfloat16_products.DEFINITIONS
    read = "wide = Cast <to = 1> (rounded)"
    round_rows = f"segment (float[1, T, K] x) => (float[1, T, K] wide) {{ rounded = rexit.RoundRows (x) \n {read} }}"
    norm = f"""segment (float[1, T, K] x, float[K] weight) => (float[1, T, K] wide) {{
        rounded = rexit.RMSNormRoundRows <epsilon = 0.001> (x, weight) \n {read} }}"""
    swiglu = f"""segment (float[1, T, K] gate, float[1, T, K] up) => (float[1, T, K] wide) {{
        rounded = rexit.SwiGLURoundRows (gate, up) \n {read} }}"""
    operands = "rounded = rexit.RoundRows (x) \n weight = Cast <to = 16> (matrix)"
    multiply = f"""segment (float[1, T, K] x, float[P, H, C, 2] matrix) => (float[1, T, N] out) {{
        {operands} \n out = rexit.MatMulBFloat16 (rounded, weight) }}"""
    multiply_add = f"""segment (float[1, T, K] x, float[P, H, C, 2] matrix, float[1, T, N] residual) => (float[1, T, N] out) {{
        {operands} \n out = rexit.MatMulAddBFloat16 (rounded, weight, residual) }}"""
    return [
        Case(f"RoundRows {size}", one_node(round_rows, define["RoundRows"]), {"x": x}, {"wide": bfloat16(x)}),
        Case(
            f"RMSNormRoundRows {size}",
            one_node(norm, define["RMSNormRoundRows"]),
            {"x": x, "weight": weight},
            {"wide": bfloat16(normed)},
            4e-3,
        ),
        Case(
            f"SwiGLURoundRows {size}",
            one_node(swiglu, define["SwiGLURoundRows"]),
            {"gate": gate, "up": up},
            {"wide": bfloat16(inside)},
            4e-3,
        ),
        Case(
            f"MatMulBFloat16 {size}",
            one_node(multiply, define["RoundRows"], define["MatMulBFloat16"]),
            feed,
            {"out": product.astype(np.float32)},
        ),
        Case(
            f"MatMulAddBFloat16 {size}",
            one_node(multiply_add, define["RoundRows"], define["MatMulAddBFloat16"]),
            feed | {"residual": residual},
            {"out": (product + residual).astype(np.float32)},
        ),
    ]


def _products(tokens: int, depth: int, columns: int) -> list[Case]:
    random = np.random.default_rng(depth)
    scale = random.uniform(0.001, 0.01, (1, tokens, 1)).astype(np.float32)
    feed: Arrays = {"q": random.integers(1, 256, (1, tokens, depth)).astype(np.uint8), "scale": scale}
    products = []
    for name in ("gate", "up"):
        weight = random.integers(-127, 128, (depth, columns)).astype(np.int8)
        feed[name] = pack_weights.pack(weight)
        feed[f"{name}_columns"] = random.uniform(0.001, 0.01, columns).astype(np.float32)
        feed[f"{name}_offsets"] = (-128 * weight.sum(0, dtype=np.int32)).astype(np.int32)
        sums = (feed["q"].astype(np.int32) - 128) @ weight.astype(np.int32)
        products.append(sums.astype(np.float32) * feed[f"{name}_columns"] * scale)
    gate, up = products
    residual = random.standard_normal(gate.shape).astype(np.float32)
    inside = (gate / (1 + np.exp(-gate.astype(np.float64))) * up).astype(np.float32)
    first, second = (f"int8[N16, K4, 16, 4] {name}, float[N] {name}_columns, int32[N] {name}_offsets" for name in ("gate", "up"))
    operands, weight_names = f"uint8[1, T, K] q, float[1, T, 1] scale, {first}", "gate, gate_columns, gate_offsets"
    plain = f"segment ({operands}) => (float[1, T, N] out) {{ out = rexit.MultiplyRows (q, scale, {weight_names}) }}"
    add = f"""segment ({operands}, float[1, T, N] residual) => (float[1, T, N] out) {{
        out = rexit.MultiplyAddRows (q, scale, {weight_names}, residual) }}"""
    swiglu = f"""segment ({operands}, {second}) => (QUANTIZED) {{ quantized, scale_out =
        rexit.MultiplySwiGLUQuantizeRows (q, scale, {weight_names}, up, up_columns, up_offsets) }}"""
    geglu = swiglu.replace("MultiplySwiGLUQuantizeRows", 'MultiplyGeGLUQuantizeRows <approximate = "none">')
    biased = add.replace("float[1, T, N] residual", "float[N] residual")
    size = f"{tokens}x{depth}x{columns}"
    one = {name: feed[name] for name in ("q", "scale", "gate", "gate_columns", "gate_offsets")}
    return [
        Case(f"MultiplyRows {size}", one_node(plain, pack_weights.define_multiply), one, {"out": gate}),
        Case(
            f"MultiplyAddRows {size}",
            one_node(add, fuse_rows.define_scale_add, pack_weights.define_multiply_add),
            one | {"residual": residual},
            {"out": gate + residual},
        ),
        Case(
            f"MultiplyAddRows bias {size}",
            one_node(biased, fuse_rows.define_scale_add, pack_weights.define_multiply_add),
            one | {"residual": residual[0, 0]},
            {"out": gate + residual[0, 0]},
        ),
        Case(
            f"MultiplyGeGLUQuantizeRows {size}",
            one_node(_text(geglu), define_quantize_rows, fuse_rows.define_geglu, pack_weights.define_geglu),
            feed,
            quantize_rows(_gelu(gate, "none") * up),
        ),
        Case(
            f"MultiplySwiGLUQuantizeRows {size}",
            one_node(_text(swiglu), define_quantize_rows, fuse_rows.define_swiglu, pack_weights.define_swiglu),
            feed,
            quantize_rows(inside),
        ),
    ]


def _text(text: str) -> str:
    return text.replace("QUANTIZED", QUANTIZED)


def bfloat16(numbers: Floats) -> Floats:
    """The nearest bfloat16, ties to even."""
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _slate(sizes: list[int], prefix: int, stored: str, rounded: bool = False) -> Case:
    """Groups of these sizes behind a prefix, numbered as after compaction: rising, with gaps. stored: the type of keys and
    values. rounded: all operands, to bfloat16. Another last bit of a score may round a numerator to its other neighbour."""
    random = np.random.default_rng(prefix)

    def normal(heads: int, tokens: int) -> Floats:
        return random.standard_normal((1, heads, tokens, HEAD_DIM)).astype(np.float32)

    tokens, scale = sum(sizes), 0.3
    feed: Arrays = {"query": normal(HEADS, tokens)}
    numbers = np.float16 if stored == "float16" else np.float32
    for name, count in (("key", tokens), ("value", tokens), ("past_key", prefix), ("past_value", prefix)):
        feed[name] = normal(KV_HEADS, count).astype(numbers)
    feed |= {"groups": np.repeat(3 * np.arange(len(sizes)) + 1, sizes)}
    op = ROUNDED if rounded else NAME
    heads, kv_heads = f"[1, {HEADS}, T, {HEAD_DIM}]", f"[1, {KV_HEADS}, T, {HEAD_DIM}]"
    past = kv_heads.replace("T", "P")
    operands = {n: bfloat16(x) if rounded and n != "groups" else x for n, x in feed.items()}
    text = f"""segment (float{heads} query, {stored}{kv_heads} key, {stored}{kv_heads} value,
        {stored}{past} past_key, {stored}{past} past_value, int64[T] groups) => (float{heads} out) {{
        out = rexit.{op} <scale = {scale}> (query, key, value, past_key, past_value, groups) }}"""
    model = one_node(text, partial(define_slate_attention, name=op, rounded=rounded))
    name = f"{op} {stored} {prefix}+{'+'.join(map(str, sizes))}"
    return Case(name, model, feed, {"out": slate_attention(operands, scale, rounded)}, 4e-3 if rounded else 1e-5)
