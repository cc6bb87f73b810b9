"""The report's table of probabilities: how right a policy's are, in all and in groups of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.probabilities.reliability import Reliability, Split

MIN_PAIRS = 100
"""Groups with fewer pairs get no row."""
MAX_GROUPS = 20
"""A field's most frequent values get a row each."""
FREQUENCY_GROUPS = 4

Group = tuple[str, NDArray[np.bool_]]
"""A name, and which pairs it has, bool [n]."""


def table(
    split: Split,
    depths: Sequence[int],
    p: NDArray[np.float32],
    stops: NDArray[np.int64],
    counts: NDArray[np.int64] | None,
    fields: Mapping[str, Sequence[str]],
) -> list[Reliability]:
    """Returns the rows: the policy's answers, every exit, and groups of the answers.

    An exit's row has all candidates, as a deadline may stop any of them there.

    Args:
        split: the pairs.
        depths: layers of each exit.
        p: probabilities at each exit, float32 [n, E].
        stops: where the policy stops each pair, int64 [n].
        counts: training interactions of each pair's item, int64 [n]; None: unknown.
        fields: values by a field's name, n each.
    """
    answers = np.take_along_axis(p, stops[:, None], 1)[:, 0]
    rows = [split.reliability("answers", "all", answers)]
    rows += [split.reliability("exit", str(layers), np.ascontiguousarray(p[:, k])) for k, layers in enumerate(depths)]
    groups = [] if counts is None else [("item frequency", *group) for group in by_frequency(counts)]
    groups += [(field, *group) for field, values in fields.items() for group in by_value(values)]
    return rows + [
        split.reliability(by, name, answers, pairs) for by, name, pairs in groups if np.count_nonzero(pairs) >= MIN_PAIRS
    ]


def title(row: Mapping[str, Any]) -> str:
    """Returns what tables call a row. row: the fields of a Reliability."""
    titles = {
        "answers": "the policy's answers",
        "exit": f"all candidates {'at exit zero' if row['group'] == '0' else 'after layer ' + row['group']}",
        "item frequency": f"items with {row['group']} interactions",
    }
    return titles.get(row["by"], f"{row['by']}: {row['group']}")


def by_frequency(counts: NDArray[np.int64]) -> Iterator[Group]:
    """Yields groups of about equal size, by how often a pair's item is in training.

    counts: training interactions of each pair's item, int64 [n].
    """
    edges = np.unique(np.quantile(counts, np.arange(1, FREQUENCY_GROUPS) / FREQUENCY_GROUPS, method="higher"))
    lows = [0, *(int(edge) for edge in edges if edge > 0)]
    for low, next_low in zip(lows, [*lows[1:], None], strict=True):
        if next_low is None:
            inside, name = counts >= low, f"{low:,} or more"
        else:
            inside, high = (counts >= low) & (counts < next_low), next_low - 1
            name = str(low) if high == low else f"{low:,} to {high:,}"
        if inside.any():
            yield name, inside


def by_value(values: Sequence[str]) -> Iterator[Group]:
    """Yields the pairs of each value, the most frequent first, at most MAX_GROUPS values."""
    names, numbers, counts = np.unique(np.array(values, str), return_inverse=True, return_counts=True)
    for n in np.argsort(-counts, kind="stable")[:MAX_GROUPS]:
        yield str(names[n]), numbers == n
