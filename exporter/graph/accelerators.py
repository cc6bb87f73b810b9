"""The passes of TensorRT and CUDA, and what their graphs may have.

`half` converts a float32 graph to float16, with float32 where half is too coarse. Every change of type is an explicit Cast: a
strongly typed TensorRT network rejects operators whose inputs have two float types.

Nodes that stay float32 are found by operator, not by name, so that every family works:

1. Norms: means, squares and roots, and the elementwise nodes behind them, up to the product with the norm's weight. A mean of
   squares can exceed half's 65504.
2. Attention's softmax, and the scale, soft-cap and mask before it, back to the product of queries and keys. A single Attention
   operator takes halves and computes its softmax in float32.
3. Positions: the angles of rotary embeddings, up to their sines and cosines, and counts of tokens. Half cannot represent odd
   numbers beyond 2048.
4. The head: from the rows it reads, or their mean, to `logits`.

Everything else is half: weights, hidden states, keys, values. The input `vectors` is float32, as the runtime fills it for all
variants alike, and is cast where it is read. Inputs and outputs keep their names. A weight beyond half's range is refused; the
mask's float32 minimum becomes half's minimum.

`round_halves` rewrites a float16 (half) graph so that ONNX Runtime's CPU rounds every half: float32 operators with rounded
results.

ONNX Runtime has few half kernels for the CPU. By default it computes in float32 and rounds only where it must, so that a sum that
overflows in half, and is infinite on a GPU, goes unnoticed. Here

1. an operator with half results computes in float32, and two Casts, to half and back, round each result;
2. half constants and half inputs are read through a Cast;
3. half outputs are Casts of rounded values.

So products are accumulated in float32 and rounded once, as on tensor cores. No accelerator guarantees the order of a sum.

`dequantize_blocks_int4`: linear layers with 4-bit weights in blocks along K, for TensorRT, with a blocked DequantizeLinear before
each product.

    w[k, n] = scale[k / BLOCK, n] * q[k, n]        q in -8 … 7, scale > 0 and exact in float16

1. The scale is the best of several (`best_scale`).
2. Symmetric, without a zero point; inputs and products stay float16. Heads do not change.

K must be a multiple of BLOCK.

`quantize_dequantize_int8`: linear layers in int8 with fixed scales, by QuantizeLinear and DequantizeLinear, which TensorRT fuses
into one product.

    y = DequantizeLinear(QuantizeLinear(x, s)) @ DequantizeLinear(w, columns)

1. An input has one scale for all tokens, chosen on sampled rows (`clipping_bound`, `rexit.exporter.graph.chain`). Numbers
   beyond 127 scales saturate.
2. Weights have a scale per column and are rounded by the same rows (`round_weights`).
3. Layers with the same input share its QuantizeLinear. They stay float32, to become half, if rounding loses more than MAX_LOSS: a
   single `down` that reads an outlier token can lose as much as all other layers together.
4. Symmetric, zero points 0; biases, heads and attention's own products do not change.
5. Scales are exact in float16, so they do not change when the graph becomes half.

`opset` changes the opset: QuantizeLinear and DequantizeLinear support float16 from 19 on, 4-bit blocks from 21 on. It runs before
they are inserted: shapes and types are inferred by the graph's opset.

`allowed_operators` refuses operators that the oldest supported TensorRT, JetPack 6's 10.3, cannot parse. The table is the
parser's own (`operators.md` of onnx-tensorrt, release 10.1, the last before 10.3). The compiler in the tests is newer and
supports more, so it would not notice.

`heads_without_gemm` makes each Gemm of a head a MatMul, then a Sub of its negated bias.

ONNX Runtime's XNNPACK provider takes a Gemm's number of rows from the graph, where it is dynamic here, and fails at the first
run. MatMul and Add would not help: ONNX Runtime makes a Gemm of them. a - (-b) is a + b to the bit.

`mask_past_padding` masks padding behind the prefix, so that a pass may have more rows of past keys and values than its prefix has
tokens.

A pass without a prefix then has one row of padding instead of none. TensorRT's header allows a dimension of 0, but compilers have
raised a profile's minimum of 0 to 1. Passes of similar sizes can be padded to the same size.

The prefix has as many tokens as the first token's position says, since positions continue behind the prefix for every group:

1. Row p of the past is visible if p < positions[0]. torch traced it as always visible, an Expand of true to [T, P].
2. Padding must be finite: attention multiplies it by 0. Without padding the graph computes what it did, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript.version_converter import ConvertVersionPass

from rexit.errors import CheckpointError
from rexit.exporter.graph.linear_layers import (
    HEADS,
    SAMPLE,
    Linear,
    by_input,
    gemm_bias,
    heads,
    is_plain,
    layers_to_quantize,
    product_of,
)
from rexit.exporter.graph.passes import FLOAT, HALF, array, cast, constant, describe, is_constant, is_filled, producer, replace
from rexit.exporter.graph.rounding import LARGEST, best_scale, clipping_bound, rounded, rounded_by, rounded_weights

VECTORS = "vectors"

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_PARTS_OF_NORMS = frozenset({"Pow", "ReduceL2", "ReduceMean", "ReduceSum", "Reciprocal", "Sqrt"})
_POSITIONS = frozenset({"Cos", "CumSum", "Sin"})
_ELEMENTWISE = frozenset({"Abs", "Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Tanh", "Where"}) | _PARTS_OF_NORMS


def half(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that half cannot hold."""
    model = common.ShapeInferencePass()(model).model  # fusions leave values without a type
    exact = stays_float32(model)
    casts = Casts(model.graph)
    for entry in model.graph.inputs:
        if entry.dtype == FLOAT and entry.name != VECTORS:
            entry.dtype = HALF
    for node in list(model.graph):
        for n, value in enumerate(node.inputs):
            if value is not None and value.dtype in (FLOAT, HALF):
                node.replace_input_with(n, casts.to(value, FLOAT if node in exact else HALF, node))
        for value in node.outputs:
            if value.dtype is None:
                raise CheckpointError(f"fp16: the type of {value.name}, from {node.op_type} {node.name}, is unknown")
            if value.dtype == FLOAT and node not in exact:
                value.type = ir.TensorType(HALF)  # a new one: passes let values share a type
        if node.op_type == "Attention":
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", FLOAT)
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == FLOAT and node not in exact:
            node.attributes["to"] = ir.AttrInt64("to", HALF)
    for n, value in enumerate(model.graph.outputs):
        if value.dtype == FLOAT and value.name not in HEADS:
            casts.output(n, value)
    return model


def stays_float32(model: ir.Model) -> set[ir.Node]:
    """The nodes that the rules keep in float32, including some without a float input or output."""
    exact: set[ir.Node] = set()
    open_norms: set[ir.Node] = set()
    for node in model.graph:  # in topological order: producers first
        before = {value.producer() for value in node.inputs if value is not None}
        if node.op_type in _NORMS:
            exact.add(node)
        elif node.op_type in _PARTS_OF_NORMS or (node.op_type in _ELEMENTWISE and not open_norms.isdisjoint(before)):
            exact.add(node)
            if not (node.op_type == "Mul" and any(_is_vector(value) for value in node.inputs)):
                open_norms.add(node)
    softmax = (node for node in model.graph if node.op_type == "Softmax")
    positions = (node for node in model.graph if node.op_type in _POSITIONS)
    outputs = (value.producer() for value in model.graph.outputs if value.name in HEADS)
    return (
        exact
        | _back(softmax, lambda node: node.op_type in _ELEMENTWISE)
        | _back(positions, lambda _node: True)
        | _back((node for node in outputs if node is not None), lambda node: not _reads_rows(node))
    )


def _reads_rows(node: ir.Node) -> bool:
    """Whether the node takes a head's rows from all tokens, or their mean."""
    is_mean = node.op_type == "MatMul" and producer(node.inputs[0], "Div") is not None
    return is_mean or node.op_type in ("Gather", "GatherND")


def _back(start: Iterable[ir.Node], follow: Callable[[ir.Node], bool]) -> set[ir.Node]:
    """The nodes in `start` and their producers, as far back as `follow` allows."""
    pending = list(start)
    visited = set(pending)
    while pending:
        for value in pending.pop().inputs:
            node = value.producer() if value is not None else None
            if node is not None and node not in visited and follow(node):
                visited.add(node)
                pending.append(node)
    return visited


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and is_constant(value) and value.shape is not None and len(value.shape) == 1


class Casts:
    """Converts values: constants become new constants, other values get a Cast that all readers share."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._converted: dict[ir.Value, ir.Value] = {}

    def to(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` in `dtype`, computed before `reader`, the first node that needs it."""
        if value.dtype == dtype:
            return value
        if value not in self._converted:
            if is_constant(value):
                self._converted[value] = constant(self._graph, f"{value.name}.float16", halved(array(value), str(value.name)))
            else:
                node = cast(value, dtype, "float16" if dtype == HALF else "float32")
                self._graph.insert_before(reader, node)
                self._converted[value] = node.outputs[0]
        return self._converted[value]

    def output(self, n: int, value: ir.Value) -> None:
        """Converts the graph's output n to half, under the same name."""
        name = value.name
        value.name = f"{name}.float32"
        node = cast(value, HALF, "float16")
        node.outputs[0].name = name
        self._graph.append(node)
        self._graph.outputs[n] = node.outputs[0]


def halved(numbers: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """Rounds to half. Raises CheckpointError for a number beyond half's range, except float32's minimum, which masks use."""
    numbers = np.where(numbers == np.finfo(np.float32).min, np.float32(np.finfo(np.float16).min), numbers)
    with np.errstate(over="ignore"):
        out = numbers.astype(np.float16)
    if not np.isfinite(out).all():
        largest = np.abs(numbers).max()
        raise CheckpointError(f"fp16: {name} holds {largest:.6g}, float16 ends at {np.finfo(np.float16).max:.0f}")
    return out


def round_halves(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Names and types of inputs and outputs stay."""
    graph = model.graph
    nodes = list(graph)
    outputs = {value: n for n, value in enumerate(graph.outputs)}
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype == HALF and (readers := list(value.uses())):
            wide = cast(value, FLOAT, "wide")
            graph.insert_before(nodes[0], wide)
            for reader, n in readers:
                reader.replace_input_with(n, wide.outputs[0])
    for node in nodes:
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == HALF:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for value in node.outputs:
            if value.dtype != HALF:
                continue
            readers, name = list(value.uses()), value.name
            value.dtype = FLOAT
            narrow = cast(value, HALF, "rounded")
            wide = cast(narrow.outputs[0], FLOAT, "wide")
            graph.insert_after(node, [narrow, wide])
            for reader, n in readers:
                reader.replace_input_with(n, wide.outputs[0])
            if value in outputs:
                value.name, narrow.outputs[0].name = f"{name}.exact", name
                graph.outputs[outputs[value]] = narrow.outputs[0]
    return model


BLOCK = 64
_CLIPS = np.linspace(0.7, 1.0, 7, dtype=np.float32)


def dequantize_blocks_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    for linear in layers_to_quantize(model, "int4", BLOCK):
        _dequantize(model.graph, linear)
    return model


def quantize_blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rounds a weight [K, N]. Returns integers in -8 … 7 as float32 [K, N], and scales float32 [K / BLOCK, N]."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    largest = np.abs(blocks).max(1, keepdims=True)
    scale = best_scale(blocks, (half_scale(largest * clip, 7.5) for clip in _CLIPS), 1)
    return rounded(blocks, scale).reshape(weight.shape), scale[:, 0]


def _dequantize(graph: ir.Graph, linear: Linear) -> None:
    values, scales = quantize_blocks(array(linear.weight))
    name = linear.weight.name
    small = constant(graph, f"{name}.int4", values.astype(ml_dtypes.int4))
    scale = constant(graph, f"{name}.scale", scales)
    dequantize = ir.node("DequantizeLinear", [small, scale], {"axis": 0, "block_size": BLOCK})
    linear.node.replace_input_with(1, describe(dequantize.outputs[0], f"{name}.dequantized", linear.weight))
    graph.insert_before(linear.node, [dequantize])


MAX_LOSS = 0.003
"""Maximum share of a token's squared output that rounding may lose on average. Our choice, measured in
docs/notes/precision/tensorrt.md."""

Floats = NDArray[np.float32]


def quantize_dequantize_int8(model: ir.Model, max_loss: float = MAX_LOSS) -> ir.Model:
    """Changes the model, whose linear inputs have samples in their `meta`, in place and returns it. Raises CheckpointError if
    there is nothing to quantize."""
    graph = model.graph
    layers = layers_to_quantize(model, "int8")
    zero = constant(graph, "int8.zero", np.zeros((), np.int8))
    for group in by_input(layers):
        entry = group[0].input
        assert SAMPLE in entry.meta, f"{entry.name} was not observed"
        sample, weights = entry.meta[SAMPLE], [array(linear.weight) for linear in group]
        weight = np.concatenate(weights, 1)  # rounded together, as they share inputs
        step = half_scale(np.array(clipping_bound(sample)), LARGEST)
        columns = half_scale(np.abs(weight).max(0), LARGEST)
        values = rounded_weights(weight, columns, sample, float(step))
        if _loss(sample, weight, step, values * columns) > max_loss:
            continue
        scale = constant(graph, f"{entry.name}.scale", step)
        quantize = ir.node("QuantizeLinear", [entry, scale, zero])
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])
        describe(quantize.outputs[0], f"{entry.name}.int8", entry, zero.dtype)
        describe(dequantize.outputs[0], f"{entry.name}.dequantized", entry)
        graph.insert_before(group[0].node, [quantize, dequantize])
        ends = np.cumsum([part.shape[1] for part in weights])[:-1]
        for linear, part, part_columns in zip(group, np.split(values, ends, 1), np.split(columns, ends), strict=True):
            linear.node.replace_input_with(0, dequantize.outputs[0])
            linear.node.replace_input_with(1, _weight(graph, linear, part, part_columns))
    return model


def half_scale(largest: NDArray[np.float32], over: float) -> NDArray[np.float32]:
    """The smallest float16 that is at least largest / over; 1 where that is zero. float32, in the shape of `largest`."""
    exact = np.asarray(largest, np.float32) / np.float32(over)
    scale = exact.astype(np.float16)
    scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale[exact == 0] = 1
    return scale.astype(np.float32)


def _loss(x: Floats, weight: Floats, step: Floats, rounded: Floats) -> float:
    exact = x @ weight
    approximate = rounded_by(x, np.float32(step)) @ rounded
    size = np.square(exact).sum(1)
    return float((np.square(approximate - exact).sum(1)[size > 0] / size[size > 0]).mean()) if size.any() else 0.0


def _weight(graph: ir.Graph, linear: Linear, values: NDArray[np.int8], columns: Floats) -> ir.Value:
    reader, weight = linear.node, linear.weight
    small = constant(graph, f"{weight.name}.int8", np.ascontiguousarray(values))
    scale = constant(graph, f"{weight.name}.scale", np.ascontiguousarray(columns))
    zeros = constant(graph, f"{weight.name}.zeros", np.zeros(len(columns), np.int8))
    dequantize = ir.node("DequantizeLinear", [small, scale, zeros], {"axis": 1})
    out = describe(dequantize.outputs[0], f"{weight.name}.dequantized", weight)
    graph.insert_before(reader, [dequantize])
    return out


def opset(version: int) -> Callable[[ir.Model], ir.Model]:
    """A pass that converts a model to this version in place and returns it."""

    def converted(model: ir.Model) -> ir.Model:
        out = ConvertVersionPass(version)(model).model
        assert out.opset_imports[""] == version
        return out

    return converted


to_opset_19, to_opset_21 = opset(19), opset(21)


_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
_WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_BOOL = frozenset({ir.DataType.BOOL})
_SMALL = frozenset({ir.DataType.INT8, ir.DataType.INT4})
_ANY = _FLOATS | _WHOLE | _BOOL

_NUMBERS = _FLOATS | _WHOLE

OPERATORS: dict[str, frozenset[ir.DataType]] = {
    # norms; of LayerNormalization its first output alone
    **dict.fromkeys(("LayerNormalization", "Pow", "Reciprocal", "Sqrt"), _FLOATS),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "Sub"), _NUMBERS),
    # activations, soft-capping, attention, rotary angles
    **dict.fromkeys(("Clip", "Cos", "Erf", "Exp", "Sigmoid", "Sin", "Softmax", "Softplus", "Tanh"), _FLOATS),
    **dict.fromkeys(("Abs", "Add", "CumSum", "Div", "Max", "Min", "Mul", "Neg", "Relu"), _NUMBERS),
    # heads, linear layers, attention
    **dict.fromkeys(("Gemm", "MatMul"), _FLOATS),
    # the mask
    **dict.fromkeys(("And", "Not", "Or"), _BOOL),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Range"), _NUMBERS),
    "Where": _ANY,
    # moving and shaping
    **dict.fromkeys(("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "GatherND", "Identity", "Reshape"), _ANY),
    **dict.fromkeys(("Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"), _ANY),
    "GatherElements": _NUMBERS,
    # 8 and 4 bits; zero points are zero
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _FLOATS | _SMALL),
}
"""Allowed types of inputs, by operator, and what a decoder needs them for."""

CONSTANT_AXES = {"CumSum": 1, "ReduceMean": 1, "ReduceSum": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1}
"""Operators with constant axes: the index of the input that holds them."""


def allowed_operators(model: ir.Model) -> ir.Model:
    """Returns the model unchanged. Raises CheckpointError for the first node that the table does not allow."""
    for node in model.graph:
        known = OPERATORS.get(node.op_type) if node.domain == "" else None
        name = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
        if known is None:
            raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT has no operator {name}")
        for value in node.inputs:
            if value is not None and value.dtype not in known:
                kind = "an unknown type" if value.dtype is None else value.dtype.name
                raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT has no {name} of {kind} ({value.name})")
        axes = CONSTANT_AXES.get(node.op_type)
        if axes is not None and axes < len(node.inputs) and node.inputs[axes] is not None and not is_constant(node.inputs[axes]):
            raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT needs constant axes in {name}")
    return model


def heads_without_gemm(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. A Gemm with factors, a transposed input or a computed bias stays."""
    for node in heads(model):
        if node.op_type != "Gemm" or not is_plain(node):
            continue
        bias = gemm_bias(node)
        if bias is not None and not is_constant(bias):
            continue
        nodes = [product_of(model.graph, node)]
        if bias is not None:
            negated = constant(model.graph, f"{bias.name}.negated", -array(bias))
            nodes.append(ir.node("Sub", [nodes[0].outputs[0], negated]))
        replace(model.graph, node, nodes)
    return model


POSITIONS = "positions"
PAST = "past_key_"
_MASKS = ("And", "Equal")


def mask_past_padding(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if the prefix's part of the mask is not recognized."""
    graph = model.graph
    expands = [node for node in graph if _is_visible_prefix(node)]
    if len(expands) != 1:
        raise CheckpointError(f"the mask of the prefix is not recognized: {len(expands)} nodes expand it, expected 1")
    (expand,) = expands
    inputs = {value.name: value for value in graph.inputs if value.name is not None}
    positions = inputs[POSITIONS]
    past = next(value for name, value in inputs.items() if name.startswith(PAST))
    zero, one = (constant(graph, f"mask_past_padding.{name}", np.array(n, np.int64)) for n, name in enumerate(("zero", "one")))
    nodes: list[ir.Node] = []

    def add(op: str, *values: ir.Value, dtype: ir.DataType = ir.DataType.INT64, **attributes: int) -> ir.Value:
        node = ir.node(op, values, attributes)
        out = node.outputs[0]
        out.name, out.dtype = f"mask_past_padding.{op.lower()}", dtype
        nodes.append(node)
        return out

    rows = add("Range", zero, add("Squeeze", add("Shape", past, start=1, end=2)), one)
    prefix_tokens = add("Gather", positions, zero, axis=0)
    visible = add("Less", rows, prefix_tokens, dtype=ir.DataType.BOOL)
    assert past.shape is not None
    visible.shape = ir.Shape([past.shape[1]])
    graph.insert_before(expand, nodes)
    expand.replace_input_with(0, visible)
    return model


def _is_visible_prefix(node: ir.Node) -> bool:
    """Whether the node expands true and is concatenated with the own group's mask: an And's, an encoder's Equal's."""
    shown = node.inputs[0] if node.op_type == "Expand" else None
    if shown is None or shown.dtype != ir.DataType.BOOL or not is_filled(shown, True):
        return False
    joined = (
        reader.inputs[1]
        for reader, _ in node.outputs[0].uses()
        if reader.op_type == "Concat" and reader.inputs[0] is node.outputs[0]
    )
    return any(producer(own, op) is not None for own in joined for op in _MASKS)
