"""What goes into each linear layer on real prompts, a few rows of it: for passes that weigh one channel against another.

Slates of the training split run through the float32 graphs, some of those in `rexit.exporter.ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import bundle
from rexit.bundle import Catalog
from rexit.exporter import golden
from rexit.exporter.observation import Observation, observe
from rexit.exporter.passes.smooth_linear_inputs import SAMPLE
from rexit.exporter.prompts import PromptBuilder, Slate

SLATES = 16
ROWS = 13
"""Rows kept of each run, evenly spaced. The first is among them: a prompt's first token is where models put outliers."""

Activations = dict[str, NDArray[np.float32]]
"""Rows [R, K] by the name of the value in the float32 graph."""


def draw(catalog: Catalog) -> list[Slate]:
    """Training slates, always the same ones; none where the split is empty."""
    split = catalog.split("train")
    builder = PromptBuilder(catalog)
    drawn = golden.choose(split, SLATES, seed=1) if len(split) else []
    return [builder.slate_rows(one.user, one.items, as_of=one.as_of) for one in drawn]


def sample(
    folder: Path,
    segments: Sequence[bundle.Segment],
    prompts: Sequence[Slate],
    max_tokens: int,
    each: Callable[[int], None] | None = None,
) -> list[Activations]:
    """The rows of each segment's linear inputs, see `observation.observe`."""
    found: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in segments]

    def see(k: int, name: str, numbers: NDArray[Any]) -> None:
        rows = numbers.reshape(-1, numbers.shape[-1])
        kept = np.unique(np.linspace(0, len(rows) - 1, ROWS).round().astype(int))
        found[k].setdefault(name, []).append(rows[kept])

    observe(folder, segments, prompts, max_tokens, see, each)
    return [{name: np.concatenate(parts) for name, parts in one.items()} for one in found]


ACTIVATIONS = Observation("activations", SAMPLE, draw, sample)
