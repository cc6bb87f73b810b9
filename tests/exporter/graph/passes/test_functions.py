"""Functions of rexit's domain: what their bodies compute, against NumPy; how bodies are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.onnx_graphs.function_graphs import Case, cases
from builders.onnx_graphs.graphs import run
from rexit.exporter.graph.passes import tidy


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_bodies_compute_what_numpy_does(case: Case, tmp_path: Path) -> None:
    case.check(run(tidy(case.model), case.feed, tmp_path))
