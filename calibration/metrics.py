"""The metrics of a policy's ranking, with users as the unit.

| metric            | value of a user                                                 | users that have one         |
|-------------------|-----------------------------------------------------------------|-----------------------------|
| `ndcg@K`          | NDCG of the first K of all the user's pairs                     | with both labels            |
| `user-auc`        | AUC of all the user's pairs                                     | with both labels            |
| `agreement`       | share of the user's pairs whose c has the same sign as at full  | all                         |
|                   | depth                                                           |                             |
| `top-k-overlap@K` | share of full depth's first K that are among the policy's first | with a slate of more than K |
|                   | K, mean over the user's slates of more than K candidates        |                             |
| `expected-ndcg@K` | NDCG of the first K of a slate with the full model's            | with a slate whose          |
|                   | probability as gain, mean over the user's slates                | probabilities differ        |

The value of a split is the mean over users. `auc` and `logloss` are over all pairs of the split and have no value per user.

Ties count as their average in NDCG and AUC. In `top-k-overlap` the earlier candidate wins, as in the runtime's top-k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.data.ranking import RESAMPLES, ByUser, auc_contributions, bootstrap
from rexit.errors import InputError
from rexit.upkeep.audit.losses import Loss, SlateLosses

CHOICES = "ndcg@K, user-auc, auc, logloss, agreement, top-k-overlap@K or expected-ndcg@K, with K from 1"
LABEL_FREE = ("agreement", "top-k-overlap", "expected-ndcg")
"""Kinds that compare two rankings of whole slates: 1 minus a loss without labels."""


@dataclass(frozen=True)
class Metric(Loss):
    """A metric by labels, or 1 minus a loss without labels."""

    @property
    def title(self) -> str:
        """As sentences call it."""
        named = {"ndcg": f"NDCG@{self.k}", "user-auc": "user AUC", "auc": "AUC over all pairs", "logloss": "log loss"}
        return named.get(self.kind) or super().title

    @property
    def higher_is_better(self) -> bool:
        return self.kind != "logloss"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest loss of a user; None for metrics over pairs, whose losses have no bounds."""
        both_ways = {"ndcg": (-1.0, 1.0), "user-auc": (-1.0, 1.0)}
        return both_ways.get(self.kind) or ((0.0, 1.0) if self.kind in LABEL_FREE else None)


def parse(name: str) -> Metric:
    """Returns the metric of a name such as `ndcg@10`. Raises InputError for any other name."""
    kind, at, digits = name.partition("@")
    wants_k = kind in ("ndcg", "top-k-overlap", "expected-ndcg")
    if not wants_k and kind not in ("user-auc", "auc", "logloss", "agreement"):
        raise InputError(f"metric {name!r}: unknown, expected {CHOICES}")
    if bool(at) != wants_k:
        raise InputError(f"metric {name!r}: {'has no K' if wants_k else 'takes no K'}, expected {CHOICES}")
    if not wants_k:
        return Metric(kind)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9 and int(digits) >= 1):
        raise InputError(f"metric {name!r}: K is {digits!r}, expected a whole number from 1")
    return Metric(kind, int(digits))


def log_losses(c: NDArray[np.float32], liked: NDArray[np.bool_] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns negative log-likelihoods in nats, float64 [n]. c: calibrated log-odds, float32 [n]; liked: bool [n],
    or probabilities."""
    c64 = c.astype(np.float64)
    return np.asarray(np.logaddexp(0.0, c64) - c64 * liked)


class Judge:
    """Judges rankings of a split, prepared so that judging another policy is fast.

    In every method `score` is what a policy ranks by: c where it stops each pair, float32 [n]. Every method raises InputError if
    the metric has no value on this split (one label only, no user with both, no slate of more than K), or if a score is not
    finite.

    Args:
        users: int64 [n], numbered from 0.
        liked: the labels, bool [n].
        offsets: where each slate begins, and n: int64 [S + 1].
        reference: c at the last exit, float32 [n].
    """

    def __init__(
        self,
        users: NDArray[np.int64],
        liked: NDArray[np.bool_],
        offsets: NDArray[np.int64],
        reference: NDArray[np.float32],
    ) -> None:
        self._liked, self._offsets, self._reference = liked, offsets, reference
        self._by_user = ByUser(users, liked)
        self._all = ByUser(np.zeros(len(liked), np.int64), liked)
        self._slates = SlateLosses(reference, offsets)
        self._full: dict[Metric, float] = {}

    def full(self, metric: Metric) -> float:
        """Returns the metric of full depth."""
        if metric not in self._full:
            self._full[metric] = self.value(metric, self._reference)
        return self._full[metric]

    def value(self, metric: Metric, score: NDArray[np.float32]) -> float:
        """Returns the metric on the whole split."""
        if metric.bounds is not None:
            return float(np.nanmean(self.per_user(metric, score)))
        self._check(metric, score)
        return float(self._all.auc(score)[0] if metric.kind == "auc" else log_losses(score, self._liked).mean())

    def drop(self, metric: Metric, score: NDArray[np.float32], other: NDArray[np.float32] | None = None) -> float:
        """Returns how much is lost against full depth, or against `other`, float32 [n]; more is worse for all metrics."""
        drop = (self.full(metric) if other is None else self.value(metric, other)) - self.value(metric, score)
        return drop if metric.higher_is_better else -drop

    def intervals(
        self,
        metrics: Sequence[Metric],
        score: NDArray[np.float32],
        resamples: int = RESAMPLES,
        other: NDArray[np.float32] | None = None,
    ) -> dict[Metric, tuple[float, float]]:
        """Returns the ends of each drop's 95 % interval, by a paired bootstrap over users (`rexit.data.ranking.bootstrap`)."""
        drops = self._resampled_drops(metrics, score, self._reference if other is None else other, resamples)
        low, high = np.nanpercentile(drops, [2.5, 97.5], axis=0)
        return {metric: (float(a), float(b)) for metric, a, b in zip(metrics, low, high, strict=True)}

    def chance_above(self, metric: Metric, score: NDArray[np.float32], limit: float) -> float:
        """Returns the share of bootstrap draws in which the drop is above the limit, never 0.

        It is a p-value for metrics over pairs, which `certify.p_value` cannot judge. Unlike that, it is right only for many
        users.
        """
        drops = self._resampled_drops([metric], score, self._reference, RESAMPLES)
        return (1 + int(np.count_nonzero(~(drops <= limit)))) / (1 + len(drops))

    def _resampled_drops(
        self, metrics: Sequence[Metric], score: NDArray[np.float32], other: NDArray[np.float32], resamples: int
    ) -> NDArray[np.float64]:
        """The drops of resampled users: float64 [resamples, metrics]."""
        sums, counts = (np.stack(columns, 1) for columns in zip(*(self._parts(m, score, other) for m in metrics), strict=True))
        return bootstrap(sums, counts, resamples)

    def _parts(
        self, metric: Metric, score: NDArray[np.float32], other: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The terms of two sums over users whose ratio is the drop: float64 [U] each. For the AUC this is exact to first order:
        the contributions of each user's pairs (DeLong et al. 1988; with clusters, Obuchowski 1997)."""
        numbers, users = self._by_user.numbers, len(self._by_user.pairs)
        if metric.bounds is not None:
            lost = self.per_user(metric, other) - self.per_user(metric, score)
            known = np.isfinite(lost)
            return np.where(known, lost, 0.0), known.astype(np.float64)
        drop = self.drop(metric, score, other)
        if metric.kind == "logloss":
            worse = log_losses(score, self._liked) - log_losses(other, self._liked)
            return np.bincount(numbers, worse).astype(np.float64), self._by_user.pairs.astype(np.float64)
        added = np.bincount(numbers, auc_contributions(other, self._liked) - auc_contributions(score, self._liked), users)
        return np.asarray(drop + users * added, np.float64), np.ones(users)

    def losses(self, metric: Metric, score: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns what each user with a value loses against full depth, float64, within `metric.bounds`. Their mean is `drop`.

        Raises InputError for metrics over pairs.
        """
        lost = self.per_user(metric, self._reference) - self.per_user(metric, score)
        return lost[np.isfinite(lost)]

    def user_count(self, metric: Metric) -> int:
        """Returns how many users have a value; of metrics over pairs, all."""
        return len(self._by_user.pairs) if metric.bounds is None else len(self.losses(metric, self._reference))

    def per_user(self, metric: Metric, score: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns each user's value, float64 [U], nan where a user has none. Raises InputError for metrics over pairs."""
        if metric.bounds is None:
            raise InputError(f"metric {metric.name}: is over all pairs, expected one with a value per user")
        self._check(metric, score)
        if metric.kind == "user-auc":
            return self._by_user.auc(score)
        if metric.kind == "ndcg":
            return self._by_user.ndcg(score, metric.k)
        if metric.kind == "agreement":
            same = (score >= 0) == (self._reference >= 0)
            return np.bincount(self._by_user.numbers, same) / self._by_user.pairs
        losses = self._slates.of(metric, score)
        known = np.isfinite(losses)
        owners, users = self._by_user.numbers[self._offsets[:-1]][known], len(self._by_user.pairs)
        with np.errstate(invalid="ignore"):
            return 1 - np.bincount(owners, losses[known], users) / np.bincount(owners, minlength=users)

    def _check(self, metric: Metric, score: NDArray[np.float32]) -> None:
        if not np.isfinite(score).all():
            bad = int(np.flatnonzero(~np.isfinite(score))[0])
            raise InputError(f"metric {metric.name}: the score of pair {bad} is {score[bad]}, expected finite scores")
        if metric.kind == "auc" and not self._all.both[0]:
            kind = "liked" if self._liked[0] else "not liked"
            raise InputError(f"metric auc: all {len(self._liked)} pairs are {kind}, expected both kinds")
        if metric.kind in ("ndcg", "user-auc") and not self._by_user.both.any():
            users = len(self._by_user.pairs)
            raise InputError(f"metric {metric.name}: none of {users} users has both a like and a dislike, expected some")
        if metric.kind == "expected-ndcg" and not self._slates.by_probability.both.any():
            raise InputError(
                f"metric {metric.name}: the full model gives all candidates of a slate the same score, in every slate"
            )
        if metric.kind == "top-k-overlap" and (largest := int(np.diff(self._offsets).max())) <= metric.k:
            raise InputError(f"metric {metric.name}: the largest slate has {largest} candidates, expected more than {metric.k}")
