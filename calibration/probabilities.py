"""Whether probabilities are right, with users as the unit: the calibration ratio and the expected calibration error.

1. The calibration ratio is predicted over observed likes: 1.2 promises a fifth too many. A bid pays in proportion to it.
2. The expected calibration error (ECE) is the mean difference between probability and share of likes, over BINS bins of equal
   count by probability (Naeini et al., AAAI 2015; bins of equal width would leave some empty). Chance alone makes it larger than
   0: `chance` is the ECE to expect of probabilities that are right.
3. Where negatives were sampled, each counts as 1 / rate of them, and p is the probability in the population. A pair's
   weighted excess then has variance p (1 - p) / rate: a share of p / (p + (1 - p) rate) of the pairs in the split are likes.
4. Intervals are 95 %, by a bootstrap over users. The ECE's is that of its own draws, chance included, so it need not contain 0.

The prior shift makes probabilities those in the population, where the data has a share r of its negatives. A model learns the
odds of its data, 1 / r times the population's, and adding log r to the log-odds corrects them (King and Zeng, Political Analysis
2001; He et al., ADKDD 2014, for clicks). c remains the data's: the shift is the same for all candidates and exits, so no ranking
moves, and no stopping rule reads it.

1. `--negative-rate R`: r is R.
2. A catalog with drawn candidates: the population has the dislikes, all of which are in the data, and for each like a negative
   for each item that the user had not met by the end of the validation split. Drawn by popularity, r is right on average, not
   for each item.
3. Otherwise r is 1: retrieved candidates are those that a service would rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.decision import Interval
from rexit.calibration.evaluation import at_exit
from rexit.data.ranking import bootstrap
from rexit.data.slates_file import RequestLog, SlatesFile
from rexit.errors import InputError
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import Split as Interactions

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """How right the probabilities of all pairs are, as the policy answers them or at an exit.

    Attributes:
        by: "answers" or "exit".
        group: "all", or the exit's layers.
        pairs: number of pairs.
        predicted, observed: mean probability and share of likes, in the population.
        ratio: predicted over observed; None without a like.
        ece: the expected calibration error.
        chance: the ECE to expect if the probabilities were right.
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
    """The pairs of a split, n of them.

    Attributes:
        liked: bool [n].
        users: int64 [n], numbered from 0.
        rate: the share of the population's negatives that the split has.
    """

    liked: NDArray[np.bool_]
    users: NDArray[np.int64]
    rate: float = 1.0

    def reliability(self, by: str, group: str, p: NDArray[np.float32]) -> Reliability:
        """Returns how right probabilities are.

        Args:
            by, group: names, see `Reliability`.
            p: probabilities in the population, float32 [n].
        """
        liked, p64, users = self.liked, p.astype(np.float64), self.users
        weights, bins, count = _weights(liked.astype(np.float64), self.rate), _bin_numbers(p64), int(users.max()) + 1

        # Sums by user; the excess, predicted minus observed, also by bin.
        excess = np.bincount(users * BINS + bins, weights * (p64 - liked), count * BINS).reshape(-1, BINS)
        total = np.bincount(users, weights, count)
        predicted = np.bincount(users, weights * p64, count)
        likes = np.bincount(users, liked.astype(np.float64), count)
        draws = bootstrap(np.column_stack([excess, predicted]), np.column_stack([np.repeat(total[:, None], BINS, 1), likes]))
        ece_draws, ratio_draws = np.abs(draws[:, :BINS]).sum(1), draws[:, BINS]

        all_pairs, all_predicted, all_likes = float(total.sum()), float(weights @ p64), float(np.count_nonzero(liked))
        variance = np.bincount(bins, p64 * (1 - p64) / self.rate, BINS)
        return Reliability(
            by,
            group,
            pairs=len(p64),
            predicted=all_predicted / all_pairs,
            observed=all_likes / all_pairs,
            ratio=(all_predicted / all_likes, *_ends(ratio_draws[np.isfinite(ratio_draws)])) if all_likes else None,
            ece=(float(np.abs(excess.sum(0)).sum() / all_pairs), *_ends(ece_draws)),
            chance=float(np.sqrt(2 / np.pi * variance).sum() / all_pairs),  # the mean of a normal's absolute value
        )


def table_of(split: Split, depths: Sequence[int], p: NDArray[np.float32], stops: NDArray[np.int64]) -> list[Reliability]:
    """Returns the report's rows: the policy's answers, then all candidates at every exit, as a deadline may stop any there.

    Args:
        split: the pairs.
        depths: layers of each exit.
        p: probabilities at each exit, float32 [n, E].
        stops: where the policy stops each pair, int64 [n].
    """
    exits = (split.reliability("exit", str(layers), np.ascontiguousarray(p[:, k])) for k, layers in enumerate(depths))
    return [split.reliability("answers", "all", at_exit(p, stops)), *exits]


def title(row: Mapping[str, Any]) -> str:
    """Returns what tables call a row. row: the fields of a Reliability."""
    if row["by"] == "answers":
        return "the policy's answers"
    return f"all candidates {'at exit zero' if row['group'] == '0' else 'after layer ' + row['group']}"


def diagram(p: NDArray[np.float32], outcomes: NDArray[np.generic], rate: float = 1.0) -> list[dict[str, float]]:
    """Returns the points of a reliability diagram: each bin's mean probability, share of likes and number of pairs.

    Args:
        p: probabilities in the population, float32 [n].
        outcomes: the labels, bool [n]; or their probabilities among the pairs, float64 [n].
        rate: the share of the population's negatives among the pairs.
    """
    worth, points = outcomes.astype(np.float64), []
    weights = _weights(worth, rate)
    for part in _bins(p):
        if len(part):
            probability = float(np.average(p[part].astype(np.float64), weights=weights[part]))
            liked = float(worth[part].sum() / weights[part].sum())
            points.append({"probability": probability, "liked": liked, "pairs": len(part)})
    return points


def _weights(outcomes: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """How many pairs of the population each pair stands for. outcomes: whether it is liked, or the probability of that."""
    return np.asarray(outcomes + (1 - outcomes) / rate, np.float64)


def _bins(p: NDArray[np.floating]) -> list[NDArray[np.int64]]:
    """The pairs of each bin, in ascending order of probability."""
    return np.array_split(np.argsort(p, kind="stable"), BINS)


def _bin_numbers(p: NDArray[np.floating]) -> NDArray[np.int64]:
    """Each pair's bin, int64 [n]."""
    numbers = np.empty(len(p), np.int64)
    for n, part in enumerate(_bins(p)):
        numbers[part] = n
    return numbers


def _ends(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def check(rate: float | None) -> None:
    """Raises InputError for a rate that is no share."""
    if rate is not None and not 0 < rate <= 1:
        raise InputError(f"negative rate {rate:g}, expected more than 0 and at most 1")


def shift(rate: float) -> float:
    """Returns log r, a float32."""
    return float(np.float32(math.log(rate)))


def negative_rate(source: Catalog | SlatesFile | RequestLog) -> float:
    """Returns r of a source that says how its negatives were sampled, 1 of any other."""
    if isinstance(source, SlatesFile | RequestLog):
        return 1.0
    return _rate_of_draws(source) if source.candidates.drawn else 1.0


def _rate_of_draws(catalog: Catalog) -> float:
    validation = catalog.split("validation")
    unmet = len(catalog.items) - _met(catalog, validation)
    likes, negatives = (int(np.count_nonzero(validation.liked == liked)) for liked in (True, False))
    dislikes = negatives - catalog.candidates.count * likes
    return _share(negatives, float(dislikes + unmet[validation.users[validation.liked]].sum()))


def _share(negatives: int, population: float) -> float:
    return min(1.0, negatives / population) if population else 1.0


def _met(catalog: Catalog, split: Interactions) -> NDArray[np.int64]:
    """How many different items each user had met by the end of their part of a split, int64 [users]."""
    users, table = len(catalog.users), catalog.user_table
    ends = np.full(users, np.iinfo(np.int64).min)
    np.maximum.at(ends, split.users, split.times)
    owner = np.repeat(np.arange(users), np.diff(table["history_offsets"]))
    known = table["history_times"] <= ends[owner]
    pairs = np.unique(owner[known] * len(catalog.items) + table["history_items"][known])
    return np.asarray(np.bincount(pairs // len(catalog.items), minlength=users), np.int64)
