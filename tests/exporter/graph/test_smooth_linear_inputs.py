"""Smoothing: the same numbers from other constants, a smaller loss in int8; inputs that cannot be divided stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.graphs import count, error, graph, run, weight
from rexit.errors import InputError
from rexit.exporter.graph import chain
from rexit.exporter.graph.accelerators import quantize_dequantize_int8
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.cpu.quantized_weights import quantize_linear_int8
from rexit.exporter.graph.linear_layers import SAMPLE
from rexit.exporter.graph.passes import array
from rexit.exporter.graph.smooth_linear_inputs import EXPONENTS, best_smoothing, smooth_for_fixed_scales, smooth_linear_inputs
from rexit.format.bundle import Bundle, Catalog

K, N = 64, 96
LAYER = """
segment (float[1, T, 64] x) => (float[1, T, 64] y, float[1, T, 16] k) {
  normed = RMSNormalization <axis = -1, epsilon = 1e-5> (x, g)
  k = MatMul(normed, wk)
  gate = MatMul(normed, wg)
  up = MatMul(normed, wu)
  sigmoid = Sigmoid(gate)
  silu = Mul(gate, sigmoid)
  product = Mul(silu, up)
  y = MatMul(product, wd)
}"""


def _constants() -> dict[str, np.ndarray]:
    """Channel 7 of the normed input and channel 11 of the product are 60 times as large as the rest."""
    gain, up = np.ones(K, np.float32), weight(K, N, 3)
    gain[7] = 60
    up /= np.abs(up).max(0)
    up[:, 11] *= 60
    return {"g": gain, "wk": weight(K, 16, 1), "wg": weight(K, N, 2), "wu": up, "wd": weight(N, K, 4)}


def _x(tokens: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, tokens, K)).astype(np.float32)


def _sampled(
    folder: Path,
    text: str = LAYER,
    names: tuple[str, ...] = ("normed", "product"),
    constants: dict[str, np.ndarray] | None = None,
) -> ir.Model:
    """The graph, with samples of the inputs of its linear layers."""
    constants = constants or _constants()
    watched = graph(text, constants)
    values = {value.name: value for node in watched.graph for value in node.outputs}
    watched.graph.outputs.extend(values[name] for name in names if not values[name].is_graph_output())
    actual = run(watched, {"x": _x(seed=1)}, folder)
    model = graph(text, constants)
    for node in model.graph:
        for value in node.outputs:
            if value.name in names:
                value.meta[SAMPLE] = actual[value.name].reshape(-1, actual[value.name].shape[-1])
    return model


def test_the_graph_computes_the_same(tmp_path: Path) -> None:
    x, plain, model = _x(), graph(LAYER, _constants()), smooth_linear_inputs(_sampled(tmp_path))
    assert count(model) == count(plain)
    assert not np.array_equal(array(model.graph.node(0).inputs[1]), _constants()["g"])
    expected, actual = run(plain, {"x": x}, tmp_path), run(model, {"x": x}, tmp_path)
    for name, numbers in expected.items():
        np.testing.assert_allclose(actual[name], numbers, rtol=1e-4, atol=1e-5 * np.abs(numbers).max())


def test_int8_loses_less(tmp_path: Path) -> None:
    x, exact = _x(), run(graph(LAYER, _constants()), {"x": _x()}, tmp_path)
    plain = run(quantize_linear_int8(graph(LAYER, _constants())), {"x": x}, tmp_path)
    smooth = run(quantize_linear_int8(smooth_linear_inputs(_sampled(tmp_path))), {"x": x}, tmp_path)
    for name in exact:
        assert error(smooth[name], exact[name]) < 0.7 * error(plain[name], exact[name])


DECOMPOSED = """
  squares = Mul(x, x)
  mean = ReduceMean <keepdims = 1> (squares, last)
  root = Sqrt(mean)
  unit = Div(x, root)
  normed = Mul(unit, g)"""


def test_fixed_scales_lose_less_behind_a_norm_of_standard_operators(tmp_path: Path) -> None:
    rms = "\n  normed = RMSNormalization <axis = -1, epsilon = 1e-5> (x, g)"
    last = {"last": np.array([-1])}
    text, x = LAYER.replace(rms, DECOMPOSED), _x()
    exact = run(graph(text, _constants() | last), {"x": x}, tmp_path)
    plain, smooth = (_sampled(tmp_path, text, constants=_constants() | last) for _ in range(2))
    before = run(quantize_dequantize_int8(plain, max_loss=np.inf), {"x": x}, tmp_path)
    after = run(quantize_dequantize_int8(smooth_for_fixed_scales(smooth), max_loss=np.inf), {"x": x}, tmp_path)
    for name in exact:
        assert error(after[name], exact[name]) < 0.8 * error(before[name], exact[name])


def test_the_scale_is_the_best_of_those_tried() -> None:
    """The docstring's formulas in float64."""
    x, w = _x()[0] * _constants()["g"], weight(K, 16)

    def lost(s: np.ndarray) -> float:
        a, b = x.astype(np.float64) / s, w.astype(np.float64) * s[:, None]
        row, column = np.abs(a).max(1, keepdims=True) / 127, np.abs(b).max(0) / 127
        exact = x.astype(np.float64) @ w
        difference = (np.rint(a / row) * row) @ (np.rint(b / column) * column) - exact
        return float(((difference**2).sum(1) / (exact**2).sum(1)).mean())

    tried = [np.abs(x).max(0) ** a / np.abs(w).max(1) ** (1 - a) for a in EXPONENTS]
    result = best_smoothing(x, w)
    assert result is not None
    assert lost(result) == pytest.approx(min(map(lost, tried)), rel=0.02)
    assert lost(result) < 0.5 * lost(np.ones(K))


def test_none_where_none_is_best_and_a_finite_scale_for_a_silent_channel() -> None:
    assert best_smoothing(np.zeros((4, K), np.float32), weight(K, 8)) is None
    assert best_smoothing(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)) is None
    bad = _x()[0]
    bad[0, 0] = np.inf
    assert best_smoothing(bad, weight(K, 8)) is None
    silent = _x()[0] * _constants()["g"]
    silent[:, 3] = 0
    result = best_smoothing(silent, weight(K, 16))
    assert result is not None and np.isfinite(result).all() and (result > 0).all()


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("y = MatMul(product, wd)", "y = MatMul(product, wd)\n  twice = Add(product, product)"),  # read by another
        ("product = Mul(silu, up)", "raised = Relu(up)\n  product = Mul(silu, raised)"),  # not made by a linear layer
    ],
)
def test_what_cannot_be_divided_stays(tmp_path: Path, line: str, instead: str) -> None:
    model = smooth_linear_inputs(_sampled(tmp_path, LAYER.replace(line, instead)))
    down = next(node for node in model.graph if node.outputs[0].name == "y")
    np.testing.assert_array_equal(array(down.inputs[1]), _constants()["wd"])
    assert not np.array_equal(array(model.graph.node(0).inputs[1]), _constants()["g"])


def test_readers_of_a_few_rows_are_divided_too(tmp_path: Path) -> None:
    few = LAYER.replace("gate = MatMul(normed, wg)", "some = Gather <axis = 1> (normed, picked)\n  gate = MatMul(some, wg)")
    few = few.replace("up = MatMul(normed, wu)", "up = MatMul(some, wu)").replace("T, 64] y", "2, 64] y")
    text = few.replace("(float[1, T, 64] x)", "(float[1, T, 64] x, int64[2] picked)")
    constants, x, picked = _constants(), _x(), np.array([3, 17])
    model = graph(text, constants)
    normed = model.graph.node(0).outputs[0]
    normed.meta[SAMPLE] = _x(seed=1)[0] * constants["g"]
    assert not np.array_equal(array(smooth_linear_inputs(model).graph.node(0).inputs[1]), constants["g"])
    feed = {"x": x, "picked": picked}
    expected = run(graph(text, constants), feed, tmp_path)
    for name, numbers in run(model, feed, tmp_path).items():
        np.testing.assert_allclose(numbers, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max())


def test_a_norm_shared_by_two_is_changed_for_one(tmp_path: Path) -> None:
    """Equal constants are stored once, so a norm's weight may be another's as well."""
    text = LAYER.replace("T, 16] k)", "T, 16] k, float[1, T, 64] other)").replace(
        "k = MatMul(normed, wk)", "k = MatMul(normed, wk)\n  other = RMSNormalization <axis = -1, epsilon = 1e-5> (x, g)"
    )
    x, model = _x(), smooth_linear_inputs(_sampled(tmp_path, text))
    np.testing.assert_array_equal(
        run(model, {"x": x}, tmp_path)["other"], run(graph(text, _constants()), {"x": x}, tmp_path)["other"]
    )


def test_activations_are_rows_of_every_linear_input(exported: Path, catalog_folder: Path) -> None:
    opened, prompts = Bundle.open(exported), chain.draw(Catalog.open(catalog_folder))
    result = chain.sample(Chain(opened.folder, opened.variant.segments, 512), prompts)
    assert [len(segment) for segment in result] == [4, 4, 9]
    again = chain.sample(Chain(opened.folder, opened.variant.segments, 512), prompts)
    for segment, other in zip(result, again, strict=True):
        for name, rows in segment.items():
            assert rows.ndim == 2 and rows.dtype == np.float32
            assert 0 < len(rows) <= chain.ROWS
            np.testing.assert_array_equal(rows, other[name])


def test_prompts_too_few_to_calibrate_on(catalog_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MIN_PROMPTS", 193)
    with pytest.raises(InputError, match="192 prompts of the training split are too few to calibrate on, at least 193"):
        chain.draw_for_scales(Catalog.open(catalog_folder))


@pytest.mark.parametrize("made", ["LayerNormalization <axis = -1> (x, g, b)", "Gelu(scaled)", "Unsqueeze(hidden, b0)"])
def test_a_value_that_cannot_be_scaled_where_it_is_made_is_read_divided(tmp_path: Path, made: str) -> None:
    """As an encoder's residual stream, its activations, and the hidden states that come into a segment."""
    text = f"""
segment (float[1, T, 64] x) => (float[1, T, 64] y) {{
  scaled = Mul(x, g)
  hidden = Squeeze(scaled, b0)
  normed = {made}
  product = MatMul(normed, w)
  y = Add(product, normed)
}}"""
    constants = {"g": _constants()["g"], "b": np.zeros(K, np.float32), "w": weight(K, K, 1), "b0": np.zeros(1, np.int64)}
    x, exact = _x(), run(graph(text, constants), {"x": _x()}, tmp_path)["y"]
    smooth = smooth_linear_inputs(_sampled(tmp_path, text, ("normed",), constants))
    assert count(smooth)["Mul"] == 2
    np.testing.assert_allclose(run(smooth, {"x": x}, tmp_path)["y"], exact, rtol=1e-4, atol=1e-3)
    plain = run(quantize_linear_int8(graph(text, constants)), {"x": x}, tmp_path)["y"]
    assert error(run(quantize_linear_int8(smooth), {"x": x}, tmp_path)["y"], exact) < 0.7 * error(plain, exact)
