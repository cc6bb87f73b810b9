"""Models of one node of rexit's domain, with inputs and what NumPy makes of them.

For the function's own body, and for a kernel of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import erf
from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
from numpy.typing import NDArray

from builders.onnx_graphs.graphs import Arrays, with_outlier
from rexit.exporter.graph.cpu import bfloat16 as bfloat16_products
from rexit.exporter.graph.cpu import fuse_rows, pack_weights
from rexit.exporter.graph.cpu.bfloat16 import ENCODER_ROUNDED, ROUNDED
from rexit.exporter.graph.cpu.quantized_weights import define_quantize_rows
from rexit.exporter.graph.cpu.slate_attention import ENCODER, NAME, define_encoder_attention, define_slate_attention

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
EPSILON = "<epsilon = 0.001>"
Floats = NDArray[np.float32]
Definition = Callable[[ir.Model], None]


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
        *(_slate(sizes, prefix, stored) for stored in (np.float32, np.float16) for sizes, prefix in slates),
        *(_slate(sizes, prefix, np.float16, rounded=True) for sizes, prefix in slates[2:6]),
        *(_encoder(sizes, window, rounded) for sizes, window in (([9], 1e7), ([4, 1, 7], 3)) for rounded in (False, True)),
    ]


def one_node(text: str, *define: Definition) -> ir.Model:
    """A model from ONNX's text form that may call functions of rexit's domain, and these functions."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "rexit" : 1]>\n{text}')
    model = ir.serde.deserialize_model(proto)
    for add in define:
        add(model)
    return model


def _call(op: str, feed: Arrays, expected: Arrays, *define: Definition, tolerance: float = 1e-5) -> Case:
    """One node over all of `feed`, in its order. op: its type, with attributes if it has some."""
    body = f"{', '.join(expected)} = rexit.{op} ({', '.join(feed)})"
    return _case(op, body, feed, expected, *define, tolerance=tolerance)


def _case(op: str, body: str, feed: Arrays, expected: Arrays, *define: Definition, tolerance: float = 1e-5) -> Case:
    """body: nodes in ONNX's text form, from the names of `feed` to those of `expected`."""
    first, *_ = feed.values()
    text = f"segment ({_signature(feed)}) => ({_signature(expected)}) {{ {body} }}"
    return Case(f"{op} of {list(first.shape)}", one_node(text, *define), feed, expected, tolerance)


def _signature(arrays: Arrays) -> str:
    types = {"float32": "float"}
    return ", ".join(f"{types.get(str(a.dtype), a.dtype)}{list(a.shape)} {name}" for name, a in arrays.items())


def quantize_rows(x: Floats) -> Arrays:
    scale = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-30)) * np.float32(1 / 127)
    return {"quantized": (np.rint(x / scale) + 128).astype(np.uint8), "scale_out": scale}


def slate_attention(feed: Arrays, scale: float, rounded: bool = False, window: float = 0) -> Floats:
    """Every token by itself. rounded: the softmax's numerators to bfloat16. window: an encoder's, 0: causal."""
    keys = np.concatenate([feed["past_key"], feed["key"]], 2)[0].astype(np.float64)
    values = np.concatenate([feed["past_value"], feed["value"]], 2)[0].astype(np.float64)
    groups, prefix = feed["groups"], feed["past_key"].shape[2]
    out: NDArray[np.float32] = np.zeros(feed["query"].shape, np.float32)
    heads = out.shape[1]
    for token in range(len(groups)):
        near = [other for other in range(len(groups)) if abs(other - token) < window or (not window and other <= token)]
        own = [prefix + other for other in near if groups[other] == groups[token]]
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
    product: Arrays = {"gate": gate, "up": up, "scale": scale}
    added: Arrays = {"x": x, "residual": residual, "weight": weight, "bias": bias, "factor": factor}

    def quantizing(op: str, define: Definition, feed: Arrays, rows: NDArray[Any], others: Arrays | None = None) -> Case:
        """An op whose last outputs are the quantized `rows`."""
        expected = {**(others or {}), **quantize_rows(rows.astype(np.float32))}
        return _call(op, feed, expected, define_quantize_rows, define)

    return [
        _call("QuantizeRows", {"x": x}, quantize_rows(x), define_quantize_rows),
        quantizing(f"RMSNormQuantizeRows {EPSILON}", fuse_rows.define_norm, {"x": x, "weight": weight}, normed),
        quantizing("SwiGLUQuantizeRows", fuse_rows.define_swiglu, product, inside),
        quantizing(
            f"LayerNormQuantizeRows {EPSILON}",
            fuse_rows.define_layer_norm,
            {"x": x + residual, "weight": weight, "bias": bias},
            layer_normed,
        ),
        quantizing(
            f"AddLayerNormQuantizeRows {EPSILON}",
            fuse_rows.define_add_layer_norm,
            added,
            layer_normed * factor,
            {"normed": layer_normed},
        ),
        *(
            case
            for kind in ("none", "tanh")
            for case in (
                quantizing(
                    f'GELUQuantizeRows <approximate = "{kind}">',
                    fuse_rows.define_gelu,
                    {"x": x, "factor": factor},
                    _gelu(x, kind) * factor,
                ),
                quantizing(
                    f'GeGLUQuantizeRows <approximate = "{kind}">',
                    fuse_rows.define_geglu,
                    product,
                    _gelu(scaled, kind) * up * scale,
                ),
            )
        ),
        _call(
            "ScaleAddRows",
            {"product": gate, "scale": scale, "residual": residual},
            {"out": gate * scale + residual},
            fuse_rows.define_scale_add,
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
    define = bfloat16_products.DEFINITIONS
    bias, scale, shift = normal(3, columns)
    apart = product + bias + residual
    apart -= apart.mean(-1, keepdims=True)
    norm = (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-3) * scale + shift).astype(np.float32)
    operands = "rounded = rexit.RoundRows (x) \n weight = Cast <to = 16> (matrix)"

    def rounding(op: str, name: str, feed: Arrays, numbers: NDArray[Any], tolerance: float = 1e-5) -> Case:
        body = f"rounded = rexit.{op} ({', '.join(feed)}) \n wide = Cast <to = 1> (rounded)"
        return _case(op, body, feed, {"wide": bfloat16(numbers)}, define[name], tolerance=tolerance)

    def multiplying(name: str, feed: Arrays, numbers: NDArray[Any]) -> Case:
        others = ", ".join(["rounded", "weight", *list(feed)[2:]])
        body = f"rounded = rexit.RoundRows (x) \n weight = Cast <to = 16> (matrix) \n out = rexit.{name} ({others})"
        return _case(name, body, feed, {"out": numbers.astype(np.float32)}, define["RoundRows"], define[name])

    return [
        rounding("RoundRows", "RoundRows", {"x": x}, x),
        rounding(f"RMSNormRoundRows {EPSILON}", "RMSNormRoundRows", {"x": x, "weight": weight}, normed, 4e-3),
        rounding("SwiGLURoundRows", "SwiGLURoundRows", {"gate": gate, "up": up}, inside, 4e-3),
        multiplying("MatMulBFloat16", feed, product),
        multiplying("MatMulAddBFloat16", feed | {"residual": residual}, product + residual),
        multiplying("MatMulAddBFloat16", feed | {"bias": bias}, product + bias),
        _case(
            "MatMulGELURoundRows",
            f'{operands} \n r = rexit.MatMulGELURoundRows <approximate = "none"> (rounded, weight, bias)'
            " \n wide = Cast <to = 1> (r)",
            feed | {"bias": bias},
            {"wide": bfloat16(_gelu((product + bias).astype(np.float32), "none"))},
            *(define["RoundRows"], define["MatMulGELURoundRows"]),
            tolerance=4e-3,
        ),
        _case(
            "MatMulAddLayerNormRoundRows",
            f"{operands} \n normed, r = rexit.MatMulAddLayerNormRoundRows {EPSILON} "
            "(rounded, weight, bias, residual, norm_weight, norm_bias) \n wide = Cast <to = 1> (r)",
            feed | {"bias": bias, "residual": residual, "norm_weight": scale, "norm_bias": shift},
            {"normed": norm, "wide": bfloat16(norm)},
            *(define["RoundRows"], define["MatMulAddLayerNormRoundRows"]),
            tolerance=4e-3,
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
    operands = {name: feed[name] for name in ("q", "scale", "gate", "gate_columns", "gate_offsets")}
    adding = (fuse_rows.define_scale_add, pack_weights.define_multiply_add)
    bias, factor, weight, shift = random.standard_normal((4, columns)).astype(np.float32)
    biased = gate + bias
    summed = biased.astype(np.float64) + residual
    apart = summed - summed.mean(-1, keepdims=True)
    normed = (apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-3) * weight + shift).astype(np.float32)
    norms: Arrays = {"residual": residual, "norm_weight": weight, "norm_bias": shift, "factor": factor}
    return [
        _call("MultiplyRows", operands, {"out": gate}, pack_weights.define_multiply),
        _call("MultiplyAddRows", operands | {"residual": residual}, {"out": gate + residual}, *adding),
        _call("MultiplyAddRows", operands | {"bias": residual[0, 0]}, {"out": gate + residual[0, 0]}, *adding),
        _call(
            'MultiplyGeGLUQuantizeRows <approximate = "none">',
            feed,
            quantize_rows(_gelu(gate, "none") * up),
            *(define_quantize_rows, fuse_rows.define_geglu, pack_weights.define_geglu),
        ),
        _call(
            "MultiplySwiGLUQuantizeRows",
            feed,
            quantize_rows(inside),
            *(define_quantize_rows, fuse_rows.define_swiglu, pack_weights.define_swiglu),
        ),
        _call(
            'MultiplyGELUQuantizeRows <approximate = "none">',
            operands | {"bias": bias, "factor": factor},
            quantize_rows(_gelu(biased, "none") * factor),
            *(define_quantize_rows, fuse_rows.define_scale_add, fuse_rows.define_gelu, pack_weights.define_multiply_gelu),
        ),
        _call(
            f"MultiplyAddLayerNormQuantizeRows {EPSILON}",
            operands | {"bias": bias} | norms,
            {"normed": normed, **quantize_rows(normed * factor)},
            *(define_quantize_rows, fuse_rows.define_scale_add, fuse_rows.define_add_layer_norm),
            pack_weights.define_multiply_add_layer_norm,
        ),
    ]


def bfloat16(numbers: Floats) -> Floats:
    """The nearest bfloat16, ties to even."""
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _slate(sizes: list[int], prefix: int, stored: type[np.floating[Any]], rounded: bool = False) -> Case:
    """Groups of these sizes behind a prefix, numbered as after compaction: rising, with gaps. stored: the type of keys and
    values. rounded: all operands, to bfloat16. Another last bit of a score may round a numerator to its other neighbour."""
    random = np.random.default_rng(prefix)

    def normal(heads: int, tokens: int) -> Floats:
        return random.standard_normal((1, heads, tokens, HEAD_DIM)).astype(np.float32)

    tokens, scale = sum(sizes), 0.3
    feed: Arrays = {"query": normal(HEADS, tokens)}
    for name, count in (("key", tokens), ("value", tokens), ("past_key", prefix), ("past_value", prefix)):
        feed[name] = normal(KV_HEADS, count).astype(stored)
    feed |= {"groups": np.repeat(3 * np.arange(len(sizes)) + 1, sizes)}
    op = ROUNDED if rounded else NAME
    operands = {n: bfloat16(x) if rounded and n != "groups" else x for n, x in feed.items()}
    return _call(
        f"{op} <scale = {scale}>",
        feed,
        {"out": slate_attention(operands, scale, rounded)},
        partial(define_slate_attention, name=op, rounded=rounded),
        tolerance=4e-3 if rounded else 1e-5,
    )


def _encoder(sizes: list[int], window: float, rounded: bool) -> Case:
    """Groups of these sizes, with the tokens' heads side by side."""
    random = np.random.default_rng(len(sizes))
    tokens, scale = sum(sizes), 0.3
    shapes = {
        "query": (1, tokens, HEADS, HEAD_DIM),
        "key": (1, tokens, KV_HEADS, HEAD_DIM),
        "value": (1, tokens, KV_HEADS, HEAD_DIM),
    }
    feed: Arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    groups = np.repeat(3 * np.arange(len(sizes)) + 1, sizes)
    none = np.zeros((1, KV_HEADS, 0, HEAD_DIM), np.float32)
    operands = {name: (bfloat16(x) if rounded else x).transpose(0, 2, 1, 3) for name, x in feed.items()}
    out = slate_attention({**operands, "past_key": none, "past_value": none, "groups": groups}, scale, rounded, window)
    op = ENCODER_ROUNDED if rounded else ENCODER
    return _call(
        f"{op} <scale = {scale}, window = {float(window)}>",
        {**feed, "groups": groups},
        {"out": np.ascontiguousarray(out.transpose(0, 2, 1, 3))},
        partial(define_encoder_attention, name=op, rounded=rounded),
        tolerance=4e-3 if rounded else 1e-5,
    )
