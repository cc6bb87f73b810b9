"""Golden samples: real validation slates with the log-odds the PyTorch model gives them. Parity is measured on them at export,
`rexit verify` runs them again on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Catalog, Split
from rexit.bundle.golden import GoldenSlate
from rexit.errors import InputError
from rexit.exporter.multi_exit import MultiExitModel
from rexit.exporter.prompts import PromptBuilder

SLATE = 20
"""Candidates of a slate, at most."""


@dataclass(frozen=True)
class Sample:
    """One user's consecutive held-out interactions as a slate; rows are the catalog's, `as_of` is the first one's time.

    liked: bool [n], what came of it.
    """

    user: int
    items: NDArray[np.int64]
    as_of: int
    liked: NDArray[np.bool_]


def choose(split: Split, count: int, seed: int = 0) -> list[Sample]:
    """`count` slates drawn from the split without replacement, in its order; the same ones for the same seed.

    A user's interactions are cut into slates of SLATE, in order, so a slate may be shorter. Raises InputError for an empty split.
    """
    if len(split) == 0:
        raise InputError("the catalog's validation split is empty, golden samples are drawn from it")
    starts = [
        start
        for rows in np.split(np.arange(len(split)), np.flatnonzero(np.diff(split.users)) + 1)
        for start in rows[::SLATE].tolist()
    ]
    drawn = np.sort(np.random.default_rng(seed).choice(len(starts), min(count, len(starts)), replace=False))
    samples = []
    for start in (starts[n] for n in drawn):
        user = split.users[start]
        rows = [row for row in range(start, min(start + SLATE, len(split))) if split.users[row] == user]
        samples.append(Sample(int(user), split.items[rows], int(split.times[start]), split.liked[rows]))
    return samples


def answer(
    model: MultiExitModel, catalog: Catalog, samples: Sequence[Sample], each: Callable[[int], None] | None = None
) -> list[GoldenSlate]:
    """Each sample's prompts, as the runtime assembles them, and the reference's log-odds. `each` is told the samples done."""
    builder = PromptBuilder(catalog)
    answered = []
    for done, sample in enumerate(samples, 1):
        slate = builder.slate_rows(sample.user, sample.items, as_of=sample.as_of)
        log_odds = model.reference(slate.prefix, slate.candidates)
        items = sample.items.astype(np.int32)
        answered.append(GoldenSlate(sample.user, items, sample.as_of, slate.prefix, slate.candidates, log_odds))
        if each:
            each(done)
    return answered
