"""The comparison itself: it passes for what was exported, and sees each thing that could go wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from rexit.errors import BackendError, ParityError
from rexit.exporter.gate import parity
from rexit.exporter.graph.chain import Chain, chunks
from rexit.format.bundle import Bundle

EXITS = (1, 2, 4)


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Bundle:
    return Bundle.open(exported)


@pytest.fixture(scope="module")
def chain(bundle: Bundle) -> Chain:
    return Chain(bundle.folder, bundle.variant.segments, 512)


def test_every_mode_agrees(bundle: Bundle, chain: Chain) -> None:
    slates = bundle.golden().slates
    rows, pairs = parity.compare(chain, slates)
    assert pairs == sum(min(4, len(slate.candidates)) for slate in slates)
    assert [set(row) for row in rows] == [set(parity.MODES)] * 3
    assert max(max(row.values()) for row in rows) < 2e-5
    assert max(np.abs(slate.log_odds).max() for slate in slates) > 0.1
    parity.check(rows, EXITS, 1e-4)


def test_chunks_give_the_same_scores(bundle: Bundle) -> None:
    slate = max(bundle.golden().slates, key=lambda slate: len(slate.candidates))
    one_by_one = Chain(bundle.folder, bundle.variant.segments, len(slate.candidates[0]))
    rows, _ = parity.compare(one_by_one, [slate])
    parity.check(rows, EXITS, 1e-4)


def test_chunks_fill_up_to_the_limit() -> None:
    sizes = [3, 3, 3, 9, 1]
    assert [(c.start, c.stop) for c in chunks([np.zeros(n, np.int32) for n in sizes], 6)] == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_empty_prefix(bundle: Bundle, chain: Chain) -> None:
    slate = bundle.golden().slates[0]
    whole = [np.concatenate([slate.prefix, candidate]) for candidate in slate.candidates]
    moved = replace(slate, prefix=slate.prefix[:0], candidates=whole)
    rows, _ = parity.compare(chain, [moved])
    parity.check(rows, EXITS, 1e-4)


def test_another_model_is_seen_at_its_exit(bundle: Bundle, tmp_path: Path) -> None:
    for path in bundle.folder.glob("segment-*"):
        shutil.copyfile(path, tmp_path / path.name)
    model = onnx.load(tmp_path / "segment-1.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "projection.weight")
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, tmp_path / "segment-1.onnx", save_as_external_data=True, location="other.data")
    rows, _ = parity.compare(Chain(tmp_path, bundle.variant.segments, 512), bundle.golden().slates[:2])
    with pytest.raises(ParityError, match=r"exit after layer 2, (single|cached|slate): .* by .*, at most 0.0001 is allowed"):
        parity.check(rows, EXITS, 1e-4)


def test_nan_never_passes() -> None:
    rows = [{"single": 0.0, "cached": float("nan"), "slate": 0.5}]
    with pytest.raises(ParityError, match="cached: log-odds differ from the PyTorch model's by nan"):
        parity.check(rows, (4,), 1e-4)


def test_a_nan_among_numbers_is_kept(bundle: Bundle, chain: Chain) -> None:
    slate = bundle.golden().slates[0]
    log_odds = slate.log_odds.copy()
    log_odds[0, 1] = np.nan
    rows, _ = parity.compare(chain, [replace(slate, log_odds=log_odds), *bundle.golden().slates[1:2]])
    assert np.isnan(rows[1]["slate"]) and not np.isnan(rows[0]["slate"])


def test_a_graph_that_is_none(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "segment-0.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match="cannot open a segment"):
        Chain(tmp_path, bundle.variant.segments, 512)
