"""Slates that exit early and late, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rexit.bundle import Policy
from rexit.bundle.catalog import Id
from rexit.calibration.record.traces import Traces
from rexit.slates import Slate

COUNT = 3
CANDIDATES = 8
"""Shown of a slate."""


@dataclass(frozen=True)
class Example:
    """A slate's first candidates, and after how many layers each one stops. prompt: of the first one, as text."""

    user: Id
    items: tuple[Id, ...]
    layers: tuple[int, ...]
    liked: tuple[bool, ...]
    prompt: str | None


def pick(
    policy: Policy, slates: Sequence[Slate], traces: Traces, depths: Sequence[int], prompt: Callable[[Slate], str] | None = None
) -> tuple[list[Example], list[Example]]:
    """The COUNT slates with the fewest layers per candidate, and those with the most, among slates of at least half the largest
    size: of users not shown before, in the order of the split where they tie. traces: of these slates, [n, E] with depths [E] in
    layers. None are picked where all slates stop alike."""
    layers = np.array(depths)[policy.stops(traces.log_odds, traces.offsets)]
    sizes = np.diff(traces.offsets)
    mean = np.add.reduceat(layers, traces.offsets[:-1]) / sizes
    order = [int(n) for n in np.argsort(mean, kind="stable") if 2 * sizes[n] >= sizes.max()]
    if mean[order[0]] == mean[order[-1]]:
        return [], []

    def example(n: int) -> Example:
        slate, shown = slates[n], slice(traces.offsets[n], traces.offsets[n] + CANDIDATES)
        part = layers[shown][: len(slate.items)].tolist()
        text = None if prompt is None else prompt(slate)
        return Example(slate.user, slate.items[:CANDIDATES], tuple(part), tuple(slate.liked[:CANDIDATES].tolist()), text)

    users: set[Id] = set()

    def first(numbers: Sequence[int]) -> list[Example]:
        made: list[Example] = []
        for n in numbers:
            if len(made) < COUNT and slates[n].user not in users:
                users.add(slates[n].user)
                made.append(example(n))
        return made

    return first(order), first(order[::-1])
