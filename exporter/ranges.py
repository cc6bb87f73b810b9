"""What goes into each linear layer on real prompts: its largest magnitude, from which precisions with fixed scales make theirs.

Whole slates of the training split run through the float32 graphs, prefix and candidates; validation and test prompts are kept for
the judgement (`rexit.exporter.quality`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import bundle
from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter import golden
from rexit.exporter.observation import Observation, observe
from rexit.exporter.passes.quantize_dequantize import LARGEST_MAGNITUDE
from rexit.exporter.prompts import PromptBuilder, Slate

SLATES = 64
"""Slates drawn; a slate has at most `golden.SLATE` prompts."""
LEAST_PROMPTS = 100
"""Fewer prompts than this do not show how large a layer's inputs get."""

Ranges = dict[str, float]
"""Largest magnitude by the name of the value in the float32 graph."""


def draw(catalog: Catalog) -> list[Slate]:
    """Training slates, always the same ones. Raises InputError where there are too few prompts."""
    split = catalog.split("train")
    samples = golden.choose(split, SLATES, seed=1) if len(split) else []
    if (prompts := sum(len(sample.items) for sample in samples)) < LEAST_PROMPTS:
        raise InputError(
            f"{prompts} prompts of the training split are too few to calibrate on, at least {LEAST_PROMPTS} are needed"
        )
    builder = PromptBuilder(catalog)
    return [builder.slate_rows(sample.user, sample.items, as_of=sample.as_of) for sample in samples]


def largest(
    folder: Path,
    segments: Sequence[bundle.Segment],
    prompts: Sequence[Slate],
    max_tokens: int,
    each: Callable[[int], None] | None = None,
) -> list[Ranges]:
    """The ranges of each segment's linear inputs, see `observation.observe`."""
    found: list[Ranges] = [{} for _ in segments]

    def see(k: int, name: str, numbers: NDArray[Any]) -> None:
        found[k][name] = max(found[k].get(name, 0.0), float(np.abs(numbers).max()))

    observe(folder, segments, prompts, max_tokens, see, each)
    return found


RANGES = Observation("ranges", LARGEST_MAGNITUDE, draw, largest)
