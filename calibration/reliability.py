"""Whether probabilities are right, with users as the unit: calibration ratio and expected calibration error, by groups of pairs.

1. The calibration ratio is predicted over observed likes: 1.2 promises a fifth too many. It is the number that a bid pays for.
2. The expected calibration error (ECE) is the mean difference between probability and share of likes, over BINS bins of equal
   count by probability (Naeini et al., AAAI 2015; equal counts, since equal widths leave bins empty). It is above 0 by chance: of
   probabilities that are right, `chance` is what to expect.
3. Where negatives were sampled, each stands for 1 / rate of the world's (`prior`): p is the probability after the prior shift,
   and a negative weighs that much. A pair's weighted excess then has variance p (1 - p) / rate: of the pairs that are in the
   split, a share of p / (p + (1 - p) rate) are likes.
4. Intervals are of 95 %, by a bootstrap over users; the ECE's is its own distribution around the value found, chance included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.comparison import Interval
from rexit.ranking import bootstrap

BINS = 10
LEAST_PAIRS = 100
"""Of a group's table row: of fewer nothing can be said."""
MOST_GROUPS = 20
"""Values of a field that have a row each, the most frequent ones."""
FREQUENCY_GROUPS = 4


@dataclass(frozen=True)
class Reliability:
    """How right the probabilities of a group of pairs are.

    Attributes:
        by: what divides the pairs: "answers", "exit", "item frequency", or a field.
        group: which of them.
        pairs: how many.
        predicted, observed: mean probability and share of likes, of the world.
        ratio: predicted over observed; None without a like.
        ece: the expected calibration error.
        chance: what it would be if the probabilities were right.
    """

    by: str
    group: str
    pairs: int
    predicted: float
    observed: float
    ratio: Interval | None
    ece: Interval
    chance: float


@dataclass(frozen=True)
class Split:
    """The pairs of a split. n pairs.

    Attributes:
        liked: bool [n]; or for `bins` alone, what each pair is worth, from 0 to 1, float64 [n].
        users: int64 [n], numbered from 0.
        rate: the share of the world's negatives that the split has.
    """

    liked: NDArray[np.bool_] | NDArray[np.float64]
    users: NDArray[np.int64]
    rate: float = 1.0

    def reliability(self, by: str, group: str, p: NDArray[np.float32], pairs: NDArray[np.bool_] | None = None) -> Reliability:
        """Returns how right probabilities are.

        Args:
            by, group: names, see `Reliability`.
            p: of the world, float32 [n].
            pairs: which of them, bool [n], at least one; None: all.
        """
        chosen: slice | NDArray[np.bool_] = slice(None) if pairs is None else pairs
        liked, users, p64 = self.liked[chosen], self.users[chosen], p[chosen].astype(np.float64)
        users = np.unique(users, return_inverse=True)[1]
        weights = np.where(liked, 1.0, 1 / self.rate)
        bins = np.empty(len(p64), np.int64)
        for n, part in enumerate(np.array_split(np.argsort(p64, kind="stable"), BINS)):
            bins[part] = n
        excess, count = weights * (p64 - liked), int(users.max()) + 1
        by_user = np.bincount(users * BINS + bins, excess, count * BINS).reshape(-1, BINS)
        total, likes = np.bincount(users, weights, count), np.bincount(users, liked.astype(np.float64), count)
        sums = np.column_stack([by_user, np.bincount(users, weights * p64, count)])
        draws = bootstrap(sums, np.column_stack([np.repeat(total[:, None], BINS, 1), likes]))
        errors, ratios = np.abs(draws[:, :BINS]).sum(1), draws[:, BINS]
        variance = np.bincount(bins, p64 * (1 - p64) / self.rate, BINS)
        predicted, observed = float(weights @ p64), float(np.count_nonzero(liked))
        ratio = (predicted / observed, *_ends(ratios[np.isfinite(ratios)])) if observed else None
        return Reliability(
            by,
            group,
            len(p64),
            predicted / float(total.sum()),
            observed / float(total.sum()),
            ratio,
            (float(np.abs(by_user.sum(0)).sum() / total.sum()), *_ends(errors)),
            float((np.sqrt(2 / np.pi * variance)).sum() / total.sum()),
        )

    def bins(self, p: NDArray[np.float32]) -> list[dict[str, float]]:
        """Returns the points of a reliability diagram: each bin's mean probability, share of likes and number of pairs."""
        weights, points = np.where(self.liked, 1.0, 1 / self.rate), []
        for part in np.array_split(np.argsort(p, kind="stable"), BINS):
            if len(part):
                mean = np.average(np.stack([p[part], self.liked[part]]).astype(np.float64), axis=1, weights=weights[part])
                points.append({"probability": float(mean[0]), "liked": float(mean[1]), "pairs": len(part)})
        return points


def title(row: Mapping[str, Any]) -> str:
    """Returns what tables call a row. row: the fields of a Reliability, and with several objectives the `objective`."""
    titles = {
        "answers": "the policy's answers",
        "exit": f"all candidates after layer {row['group']}",
        "item frequency": f"items with {row['group']} interactions",
    }
    name = titles.get(row["by"], f"{row['by']}: {row['group']}")
    return f"{row['objective']}: {name}" if "objective" in row else name


def _ends(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def by_frequency(counts: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yields groups of pairs of about equal size, by how often their items are in training: a name, and which pairs, bool [n].

    counts: training interactions of each pair's item, int64 [n].
    """
    edges = np.unique(np.quantile(counts, np.arange(1, FREQUENCY_GROUPS) / FREQUENCY_GROUPS, method="higher"))
    lows = [0, *(int(edge) for edge in edges if edge > 0)]
    for n, low in enumerate(lows):
        high = lows[n + 1] - 1 if n + 1 < len(lows) else None
        inside = (counts >= low) & (counts <= (np.inf if high is None else high))
        if inside.any():
            yield (f"{low:,} or more" if high is None else str(low) if high == low else f"{low:,} to {high:,}"), inside


def by_value(values: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yields the pairs of each value, most frequent first, at most MOST_GROUPS: the value, and which pairs, bool [n]."""
    names, numbers, counts = np.unique(np.array(values, str), return_inverse=True, return_counts=True)
    for n in np.argsort(-counts, kind="stable")[:MOST_GROUPS]:
        yield str(names[n]), numbers == n


def table(
    split: Split,
    depths: Sequence[int],
    p: NDArray[np.float32],
    stops: NDArray[np.int64],
    counts: NDArray[np.int64] | None,
    fields: Mapping[str, Sequence[str]],
) -> list[Reliability]:
    """Returns the rows of a policy's table: of its answers, of every exit, and of groups of its answers.

    An exit's row has all candidates, as a deadline may stop any of them there.

    Args:
        split: the pairs.
        depths: of each exit, in layers.
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
        split.reliability(by, name, answers, pairs) for by, name, pairs in groups if np.count_nonzero(pairs) >= LEAST_PAIRS
    ]
