"""Nodes of domain rexit in the runtime: without a body in the graph, so that only a kernel can run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rexit
from builders.bundles.bundle import write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.onnx_graphs.added_nodes import write_added
from rexit.errors import BackendError

ONE_HEAD = "u = Unsqueeze (state, axes01)"  # [1, 1, T, 8]

TOKENS_FIRST = f"{ONE_HEAD} \n t = Transpose <perm = [0, 2, 1, 3]> (u)"  # [1, T, 1, 8]

PANEL = (
    "ones = Constant <value = float[1] {1}> () \n sizes = Constant <value = int64[4] {1, 8, 16, 2}> () \n"
    "wide = Expand (ones, sizes) \n panel = Cast <to = 16> (wide) \n columns = Constant <value = int64[1] {16}> () \n"
    "sixteen = Expand (ones, columns) \n half = Constant <value = int64[1] {8}> () \n eight = Expand (ones, half) \n"
    "row = ReduceMax <keepdims = 1, axes = [0]> (state)"
)
"""A weight of 16 rows and 16 columns."""

SOUND = [
    "q, number = rexit.QuantizeRows (state)",
    "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, number = rexit.RMSNormQuantizeRows <epsilon = 0.00001> (state, w)",
    "q, s = rexit.QuantizeRows (state) \n r, number = rexit.SwiGLUQuantizeRows (state, state, s)",
    "q, s = rexit.QuantizeRows (state) \n number = rexit.ScaleAddRows (state, s, state)",
    "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, s = rexit.QuantizeRows (state) \n"
    "number = rexit.ScaleAddRows (state, s, w)",
    "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, number = rexit.LayerNormQuantizeRows <epsilon = 0.1> (state, w, w)",
    "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n"
    "number, q, s = rexit.AddLayerNormQuantizeRows <epsilon = 0.1> (state, state, w, w, w)",
    'w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, number = rexit.GELUQuantizeRows <approximate = "none"> (state, w)',
    'q, s = rexit.QuantizeRows (state) \n r, number = rexit.GeGLUQuantizeRows <approximate = "tanh"> (state, state, s)',
    "r = rexit.RoundRows (state) \n number = Cast <to = 1> (r)",
    "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n r = rexit.RMSNormRoundRows <epsilon = 0.00001> (state, w) \n"
    "number = Cast <to = 1> (r)",
    "r = rexit.SwiGLURoundRows (state, state) \n number = Cast <to = 1> (r)",
    f"{PANEL} \n r = rexit.RoundRows (state) \n number = rexit.MatMulBFloat16 (r, panel)",
    f"{PANEL} \n r = rexit.RoundRows (state) \n p = rexit.MatMulBFloat16 (r, panel) \n"
    "number = rexit.MatMulAddBFloat16 (r, panel, p)",
    f"{PANEL} \n r = rexit.RoundRows (state) \n number = rexit.MatMulAddBFloat16 (r, panel, sixteen)",
    f'{PANEL} \n r = rexit.RoundRows (state) \n p = rexit.MatMulGELURoundRows <approximate = "tanh"> (r, panel, sixteen) \n'
    "number = Cast <to = 1> (p)",
    f"{PANEL} \n r = rexit.RoundRows (state) \n p = rexit.MatMulBFloat16 (r, panel) \n"
    "number, q = rexit.MatMulAddLayerNormRoundRows <epsilon = 0.1> (r, panel, sixteen, p, sixteen, sixteen)",
    f"{ONE_HEAD} \n number = rexit.SlateAttention <scale = 0.5> (u, u, u, u, u, owner)",
    f"{ONE_HEAD} \n h = Cast <to = 10> (u) \n number = rexit.SlateAttention <scale = 0.5> (u, u, u, h, h, owner)",
    f"{ONE_HEAD} \n h = Cast <to = 10> (u) \n number = rexit.SlateAttention <scale = 0.5> (u, h, h, h, h, owner)",
    f"{ONE_HEAD} \n h = Cast <to = 10> (u) \n number = rexit.SlateAttentionBFloat16 <scale = 0.5> (u, h, h, h, h, owner)",
    f"{TOKENS_FIRST} \n number = rexit.EncoderAttention <scale = 0.5, window = 2.0> (t, t, t, owner)",
    f"{TOKENS_FIRST} \n number = rexit.EncoderAttentionBFloat16 <scale = 0.5, window = 100.0> (t, t, t, owner)",
]
"""Each leaves something in `number`."""

WEIGHT = """shape = Constant <value = int64[4] {1, 4, 16, 4}> () \n count = Constant <value = int64[1] {16}> ()
    w = ConstantOfShape <value = int8[1] {3}> (shape) \n c = ConstantOfShape <value = float[1] {0.5}> (count)
    o = ConstantOfShape <value = int32[1] {-6144}> (count) \n q, s = rexit.QuantizeRows (state) \n"""
PRODUCTS = [
    f"{WEIGHT} number = rexit.MultiplyRows (q, s, w, c, o)",
    f"{WEIGHT} p = rexit.MultiplyRows (q, s, w, c, o) \n number = rexit.MultiplyAddRows (q, s, w, c, o, p)",
    f"{WEIGHT} number = rexit.MultiplyAddRows (q, s, w, c, o, c)",
    f"{WEIGHT} r, number = rexit.MultiplySwiGLUQuantizeRows (q, s, w, c, o, w, c, o)",
    f'{WEIGHT} r, number = rexit.MultiplyGeGLUQuantizeRows <approximate = "none"> (q, s, w, c, o, w, c, o)',
    f'{WEIGHT} r, number = rexit.MultiplyGELUQuantizeRows <approximate = "tanh"> (q, s, w, c, o, c, c)',
    f"{WEIGHT} p = rexit.MultiplyRows (q, s, w, c, o) \n"
    "number, r, t = rexit.MultiplyAddLayerNormQuantizeRows <epsilon = 0.1> (q, s, w, c, o, c, p, c, c, c)",
]
CPU = Path("/proc/cpuinfo")
HAS_PRODUCTS = CPU.exists() and "avx512_vnni" in CPU.read_text()
needs_products = pytest.mark.skipif(not HAS_PRODUCTS, reason="this processor has no kernels for products")

REFUSED = {
    "RMSNormQuantizeRows: expected a weight per column": "w = Reshape (state, flat) \n"
    "q, number = rexit.RMSNormQuantizeRows <epsilon = 0.00001> (state, w)",
    "LayerNormQuantizeRows: expected a number per column": "w = Reshape (state, flat) \n"
    "q, number = rexit.LayerNormQuantizeRows <epsilon = 0.1> (state, w, w)",
    "AddLayerNormQuantizeRows: the shapes of product and residual": "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n"
    "number, q, s = rexit.AddLayerNormQuantizeRows <epsilon = 0.1> (state, w, w, w, w)",
    "SwiGLUQuantizeRows: the shapes of gate, up and scale": "q, number = rexit.SwiGLUQuantizeRows (state, state, state)",
    "ScaleAddRows: the shapes of product, scale": "w = Reshape (state, flat) \n number = rexit.ScaleAddRows (state, w, w)",
    "QuantizeRows: x is a scalar": "w = ReduceMax <keepdims = 0> (state) \n q, number = rexit.QuantizeRows (w)",
    "QuantizeRows: x has no columns": "n = Slice (state, zero, zero, one) \n q, number = rexit.QuantizeRows (n)",
    "QuantizeRows: an input has more than four axes": "w = Unsqueeze (state, axes012) \n q, number = rexit.QuantizeRows (w)",
    "RMSNormRoundRows: expected a weight per column": "w = Reshape (state, flat) \n"
    "r = rexit.RMSNormRoundRows <epsilon = 0.00001> (state, w) \n number = Cast <to = 1> (r)",
    "SwiGLURoundRows: the shapes of gate and up": "w = Reshape (state, flat) \n r = rexit.SwiGLURoundRows (state, w) \n"
    "number = Cast <to = 1> (r)",
    "RoundRows: x is a scalar": "w = ReduceMax <keepdims = 0> (state) \n r = rexit.RoundRows (w) \n number = Cast <to = 1> (r)",
    "MatMulBFloat16: expected x [..., K] and a weight": f"{PANEL} \n r = rexit.RoundRows (state) \n"
    "number = rexit.MatMulBFloat16 (r, r)",
    "MatMulBFloat16: expected x": f"{PANEL} \n w = Concat <axis = 1> (state, state) \n r = rexit.RoundRows (w) \n"
    "number = rexit.MatMulBFloat16 (r, panel)",
    "MatMulBFloat16: expected x [..., K]": f"{PANEL} \n r = rexit.RoundRows (state) \n"
    "s = Slice (panel, zero, three, two) \n number = rexit.MatMulBFloat16 (r, s)",
    "MatMulGELURoundRows: expected a number per column": f"{PANEL} \n r = rexit.RoundRows (state) \n"
    'p = rexit.MatMulGELURoundRows <approximate = "none"> (r, panel, eight) \n number = Cast <to = 1> (p)',
    "MatMulAddLayerNormRoundRows: the shapes of product and residual": f"{PANEL} \n r = rexit.RoundRows (state) \n"
    "number, p = rexit.MatMulAddLayerNormRoundRows <epsilon = 0.1> (r, panel, sixteen, row, sixteen, sixteen)",
    "MatMulAddLayerNormRoundRows: expected a number per column": f"{PANEL} \n r = rexit.RoundRows (state) \n"
    "q = rexit.MatMulBFloat16 (r, panel) \n"
    "number, p = rexit.MatMulAddLayerNormRoundRows <epsilon = 0.1> (r, panel, sixteen, q, sixteen, eight)",
    "MatMulAddBFloat16: the shapes of product and residual": f"{PANEL} \n r = rexit.RoundRows (state) \n"
    "both = Concat <axis = 0> (panel, panel) \n number = rexit.MatMulAddBFloat16 (r, both, state)",
    "SlateAttention: expected [1, heads, tokens, head_dim]": "number = rexit.SlateAttention <scale = 0.5> "
    "(state, state, state, state, state, owner)",
    "SlateAttention: expected [1, heads, tokens": f"{ONE_HEAD} \n n = Slice (u, zero, zero, three) \n"
    "number = rexit.SlateAttention <scale = 0.5> (n, n, n, n, n, owner)",
    "SlateAttention: the number of heads is not a multiple": f"{ONE_HEAD} \n n = Slice (u, zero, zero, one) \n"
    "number = rexit.SlateAttention <scale = 0.5> (n, u, u, u, u, owner)",
    "SlateAttention: keys and values": f"{ONE_HEAD} \n v = Concat <axis = 2> (u, u) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, u, v, u, u, owner)",
    "SlateAttention: the number of heads": f"{ONE_HEAD} \n k = Concat <axis = 1> (u, u) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, k, k, k, k, owner)",
    "SlateAttention: expected keys and values in float32 or float16": f"{ONE_HEAD} \n h = Cast <to = 11> (u) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, u, u, h, h, owner)",
    "SlateAttention: expected keys and values in": f"{ONE_HEAD} \n h = Cast <to = 7> (u) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, u, h, u, u, owner)",
    "EncoderAttention: expected [1, tokens, heads, head_dim]": f"{TOKENS_FIRST} \n"
    "number = rexit.EncoderAttention <scale = 0.5, window = 2.0> (state, t, t, owner)",
    "EncoderAttention: the number of heads": f"{TOKENS_FIRST} \n k = Concat <axis = 2> (t, t) \n"
    "number = rexit.EncoderAttention <scale = 0.5, window = 2.0> (t, k, k, owner)",
    "EncoderAttention: keys and values": f"{TOKENS_FIRST} \n k = Concat <axis = 2> (t, t) \n"
    "number = rexit.EncoderAttention <scale = 0.5, window = 2.0> (t, t, k, owner)",
    "EncoderAttention: expected a key and a group": f"{TOKENS_FIRST} \n g = Concat <axis = 0> (owner, owner) \n"
    "number = rexit.EncoderAttention <scale = 0.5, window = 2.0> (t, t, t, g)",
    "SlateAttention: expected a key and a group": f"{ONE_HEAD} \n g = Concat <axis = 0> (owner, owner) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, u, u, u, u, g)",
}


def check_log_odds_stay(text: str, tmp_path: Path) -> None:
    """The nodes add 0 times their number."""
    with rexit.open(write_bundle(tmp_path / "plain")) as session:
        expected = session.trace(USER_IDS[2], ITEM_IDS)
    with rexit.open(write_added(tmp_path / "changed", text)) as session:
        np.testing.assert_array_equal(session.trace(USER_IDS[2], ITEM_IDS), expected)


@pytest.mark.medium
@pytest.mark.parametrize("text", SOUND)
def test_kernels_run(text: str, tmp_path: Path) -> None:
    check_log_odds_stay(text, tmp_path)


def test_an_encoder_without_a_window_is_refused_when_the_graph_is_opened(tmp_path: Path) -> None:
    text = f"{TOKENS_FIRST} \n number = rexit.EncoderAttention <scale = 0.5, window = 0.0> (t, t, t, owner)"
    with pytest.raises(BackendError, match="EncoderAttention: expected a window of at least 1"):
        rexit.open(write_added(tmp_path, text))


def test_an_unknown_approximation_is_refused_when_the_graph_is_opened(tmp_path: Path) -> None:
    bundle = write_added(tmp_path, 'q, number = rexit.GELUQuantizeRows <approximate = "a"> (state, state)')
    with pytest.raises(BackendError, match="GELUQuantizeRows: expected approximate to be none or tanh"):
        rexit.open(bundle)


REFUSED_PRODUCTS = {
    "MultiplyRows: expected a weight [N / 16, K / 4, 16, 4]": f"{WEIGHT} v = Concat <axis = 1> (w, w) \n"
    "number = rexit.MultiplyRows (q, s, v, c, o)",
    "MultiplyRows: expected a weight": f"{WEIGHT} v = Concat <axis = 0> (w, w) \n number = rexit.MultiplyRows (q, s, v, c, o)",
    "MultiplyRows: x has no columns": f"{WEIGHT} n = Slice (state, zero, zero, one) \n b = Cast <to = 2> (n) \n"
    "v = Slice (w, zero, zero, one) \n number = rexit.MultiplyRows (b, n, v, c, o)",
    "MultiplyRows: expected a scale per row": f"{WEIGHT} number = rexit.MultiplyRows (q, state, w, c, o)",
    "MultiplyRows: expected a scale and an offset per column": f"{WEIGHT} n = Concat <axis = 0> (o, o) \n"
    "number = rexit.MultiplyRows (q, s, w, c, n)",
    "MultiplyAddRows: the shapes of product and residual": f"{WEIGHT} number = rexit.MultiplyAddRows (q, s, w, c, o, s)",
    "MultiplyGELUQuantizeRows: expected a number per column": f"{WEIGHT} n = Concat <axis = 0> (c, c) \n"
    'r, number = rexit.MultiplyGELUQuantizeRows <approximate = "none"> (q, s, w, c, o, n, c)',
    "MultiplyAddLayerNormQuantizeRows: the shapes of product and residual": f"{WEIGHT}"
    "number, r, t = rexit.MultiplyAddLayerNormQuantizeRows <epsilon = 0.1> (q, s, w, c, o, c, s, c, c, c)",
    "MultiplyAddLayerNormQuantizeRows: expected a number per column": f"{WEIGHT} p = rexit.MultiplyRows (q, s, w, c, o) \n"
    "n = Concat <axis = 0> (c, c) \n"
    "number, r, t = rexit.MultiplyAddLayerNormQuantizeRows <epsilon = 0.1> (q, s, w, c, o, c, p, c, c, n)",
    "MultiplySwiGLUQuantizeRows: expected a weight": f"{WEIGHT} v = Concat <axis = 1> (w, w) \n"
    "r, number = rexit.MultiplySwiGLUQuantizeRows (q, s, w, c, o, v, c, o)",
}

WITHOUT_MEMORY = """
import resource, sys
import rexit
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from rexit.errors import RexitError

with rexit.open(sys.argv[1], threads=2) as session:
    session.score(USER_IDS[2], ITEM_IDS, force_exit=0)
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + (12 << 20), before[1]))
    try:
        session.score(USER_IDS[2], ITEM_IDS, force_exit=1)
    except RexitError as error:
        print(error.status, error)
    resource.setrlimit(resource.RLIMIT_AS, before)
    print(len(session.score(USER_IDS[2], ITEM_IDS, force_exit=1)))
"""


@pytest.mark.slow
def test_a_kernel_out_of_memory_is_an_error(tmp_path: Path) -> None:
    """A block's scores are 64 query heads times 100,000 tokens, 26 MB in each thread; the tensors are small."""
    text = f"""{ONE_HEAD}
        k = Slice (u, zero, one, three)
        shape = Constant <value = int64[4] {{1, 64, 1, 1}}> ()
        q = Expand (k, shape)
        long = Constant <value = int64[4] {{1, 1, 100000, 1}}> ()
        past = ConstantOfShape (long)
        number = rexit.SlateAttention <scale = 0.5> (q, k, k, past, past, owner)"""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY, write_added(tmp_path, text)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.returncode == 0, ran.stderr
    failed, scored = ran.stdout.splitlines()
    assert failed.startswith("REXIT_OUT_OF_MEMORY") and "segment-1.onnx" in failed
    assert scored == str(len(ITEM_IDS))


@pytest.mark.medium
@pytest.mark.parametrize("message", REFUSED)
def test_shapes_that_do_not_fit_are_refused(message: str, tmp_path: Path) -> None:
    with rexit.open(write_added(tmp_path / "changed", REFUSED[message])) as session:
        with pytest.raises(BackendError) as raised:
            session.score(USER_IDS[2], ITEM_IDS, force_exit=2)
        assert f"rexit.{message}" in str(raised.value)
        assert len(session.score(USER_IDS[2], ITEM_IDS, force_exit=0)) == len(ITEM_IDS)  # the first segment has no such node


@pytest.mark.parametrize("columns", [0, 1, 15, 17, 24, 31, 33, 47, 63])
@pytest.mark.parametrize("operator", ["MatMulBFloat16 (r, panel)", "MatMulAddBFloat16 (r, panel, p)"])
def test_a_panel_has_whole_vectors(columns: int, operator: str, tmp_path: Path) -> None:
    """The kernel writes whole vectors of columns: what is left over would lie behind the row."""
    panel = PANEL.replace("{1, 8, 16, 2}", f"{{1, 8, {columns}, 2}}").replace("Expand (ones, sizes)", "ConstantOfShape (sizes)")
    text = f"{panel} \n r = rexit.RoundRows (state) \n c = ReduceMax <keepdims = 1, axes = [1]> (state) \n"
    text += f"p = Concat <axis = 1> ({', '.join(['c'] * max(columns, 1))}) \n number = rexit.{operator}"
    bundle = write_added(tmp_path / "changed", text)
    with rexit.open(bundle) as session, pytest.raises(BackendError, match="a multiple of 16 columns"):
        session.score(USER_IDS[2], ITEM_IDS, force_exit=2)


@needs_products
@pytest.mark.parametrize("text", PRODUCTS)
def test_products_run(text: str, tmp_path: Path) -> None:
    check_log_odds_stay(text, tmp_path)


@needs_products
@pytest.mark.parametrize("message", REFUSED_PRODUCTS)
def test_products_of_sizes_that_do_not_fit_are_refused(message: str, tmp_path: Path) -> None:
    with rexit.open(write_added(tmp_path / "changed", REFUSED_PRODUCTS[message])) as session:
        with pytest.raises(BackendError) as raised:
            session.score(USER_IDS[2], ITEM_IDS, force_exit=2)
        assert f"rexit.{message}" in str(raised.value)


OPEN = "import rexit, sys; rexit.open(sys.argv[1]).warm_up()"


@pytest.mark.medium
@pytest.mark.parametrize("kernels", ["avx512", "avx2", "baseline"])
def test_narrower_kernels_can_be_asked_for(kernels: str, tmp_path: Path) -> None:
    """Products are of the widest vectors alone; without a body, ONNX Runtime refuses the node."""
    bundle = write_added(tmp_path, PRODUCTS[0])
    ran = subprocess.run(
        [sys.executable, "-c", OPEN, bundle], capture_output=True, text=True, env=os.environ | {"REXIT_KERNELS": kernels}
    )
    has_products = HAS_PRODUCTS and kernels == "avx512"
    assert (ran.returncode == 0) == has_products, ran.stderr
    assert has_products or "MultiplyRows" in ran.stderr


def test_unknown_kernels_are_refused(tmp_path: Path) -> None:
    bundle = write_added(tmp_path, SOUND[0])
    ran = subprocess.run(
        [sys.executable, "-c", OPEN, bundle], capture_output=True, text=True, env=os.environ | {"REXIT_KERNELS": "avx3"}
    )
    assert "$REXIT_KERNELS is `avx3`, expected avx512, avx2 or baseline" in ran.stderr


def test_a_missing_attribute_is_refused_when_opened(tmp_path: Path) -> None:
    text = "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, number = rexit.RMSNormQuantizeRows (state, w)"
    with pytest.raises(BackendError, match=r"segment-1\.onnx.*rexit\.RMSNormQuantizeRows"):
        rexit.open(write_added(tmp_path / "changed", text))
