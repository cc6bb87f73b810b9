"""The command line on a bundle that a real runtime runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.held_out import write_ranked
from rexit import runtime
from rexit.calibration import calibration
from rexit.upkeep.measure import CostProfile, SegmentCost
from running.command import run  # noqa: F401
from running.traced import traced  # noqa: F401


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    write_ranked(place)
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil: `bundle` and `catalog`."""
    return Path(shutil.copytree(original, tmp_path / "place"))


@pytest.fixture(autouse=True)
def even_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rexit calibrate` measures, then takes every segment to cost the same and a policy to save half: the times of so small a
    bundle are noise, and a policy that seems no faster is not written."""
    measure, time = calibration.measure_costs, calibration.latencies

    def measure_costs(*words: Any, **keywords: Any) -> CostProfile:
        measured = measure(*words, **keywords)
        return replace(
            measured, base_us=5.0, segments=(SegmentCost(10.0, 0.0, 10.0, 1.0),) * len(measured.segments), fit_error=0.0
        )

    def latencies(session: Any, slates: Any, modes: Any, *words: Any, **keywords: Any) -> Any:
        _, exits = time(session, slates, modes, *words, **keywords)
        deepest = max(mode for mode in modes if mode is not None)
        return np.array([[(deepest + 1) / 2 if mode is None else mode + 1.0 for mode in modes]] * len(slates)), exits

    monkeypatch.setattr(calibration, "measure_costs", measure_costs)
    monkeypatch.setattr(calibration, "latencies", latencies)


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of `Session.score`: whether it found its prefix in the cache."""
    reuse: list[bool] = []
    real = runtime.Session.score

    def score(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
        scores = real(self, *words, **keywords)
        reuse.append(scores.stats.prefix_tokens_reused > 0)
        return scores

    monkeypatch.setattr(runtime.Session, "score", score)
    return reuse
