"""Slates that exit early and late, for readers of the report to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rexit.bundle import Policy
from rexit.calibration.record.traces import Traces
from rexit.ids import Id
from rexit.slates import AnySlate

COUNT = 3
CANDIDATES = 8
"""How many candidates of a slate are shown."""


@dataclass(frozen=True)
class Example:
    """A slate's first candidates, and where they stop.

    Attributes:
        user: the slate's.
        items: the candidates shown.
        layers: after how many layers each candidate stops.
        liked: the candidates' labels.
        prompt: the first candidate's, as text.
    """

    user: Id
    items: tuple[Id, ...]
    layers: tuple[int, ...]
    liked: tuple[bool, ...]
    prompt: str | None


def pick(
    policy: Policy,
    slates: Sequence[AnySlate],
    traces: Traces,
    depths: Sequence[int],
    prompt: Callable[[AnySlate], str] | None = None,
) -> tuple[list[Example], list[Example]]:
    """Returns the COUNT slates with the fewest layers per candidate, and the COUNT with the most.

    There are none if all slates stop alike. Only slates of at least half the largest size count, and no user is shown twice.
    Ties keep the order of the split.

    Args:
        policy: where candidates stop.
        slates: the split's.
        traces: the traces of these slates.
        depths: layers of each exit.
        prompt: returns the text of a slate's first prompt; None: no prompts.
    """
    layers = np.array(depths)[policy.stops(traces.log_odds, traces.offsets)]
    sizes = np.diff(traces.offsets)
    mean = np.add.reduceat(layers, traces.offsets[:-1]) / sizes
    order = [int(n) for n in np.argsort(mean, kind="stable") if 2 * sizes[n] >= sizes.max()]
    if mean[order[0]] == mean[order[-1]]:
        return [], []
    shown: set[Id] = set()

    def first(numbers: Sequence[int]) -> list[Example]:
        examples: list[Example] = []
        for n in numbers:
            slate = slates[n]
            if len(examples) < COUNT and slate.user not in shown:
                shown.add(slate.user)
                stops = layers[traces.offsets[n] : traces.offsets[n + 1]][:CANDIDATES].tolist()
                liked = slate.liked[:CANDIDATES].tolist()
                text = None if prompt is None else prompt(slate)
                examples.append(Example(slate.user, slate.items[:CANDIDATES], tuple(stops), tuple(liked), text))
        return examples

    return first(order), first(order[::-1])
