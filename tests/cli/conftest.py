"""The command line on a bundle that a real runtime runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.held_out import write_ranked
from rexit import runtime
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
