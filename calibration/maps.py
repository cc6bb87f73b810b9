"""One map per exit from raw log-odds to calibrated ones, so that scores from different depths rank together.

An exit's c reads its own head, or all heads so far. The heads before an exit have run, so reading them costs nothing.
OptiRAG-Rec stops by "predictive confidence across various heads".

1. Maps of own heads are Platt's, see `fit`.
2. Maps of all heads so far: c = a z_k + b + w_0 z_0 + ... + w_(k-1) z_(k-1), by logistic regression with a ridge on the
   differences of a and w from Platt's map. Signs are free: a deep head may count against a shallow one. In that regression each
   user has an intercept of its own, as what ranks is compared within a user: a first stage's scores, such as BM25's, are higher
   for some queries than for others, which says nothing of their candidates. Platt's map of the sum then makes it a log-odds.
   With an infinite ridge it is Platt's map of the own head.
3. All exits share one ridge, chosen by cross-validation over users: the least held-out log loss, mean over the exits that have
   earlier ones. Each part is judged with the ridge that is best for the other parts.
4. `auto` reads all heads if that lowers the held-out log loss by a share of MIN_GAIN or more, and by more than its standard
   error over users (the one-standard-error rule of Breiman and others, 1984), and if at the last exit they rank as well as the
   last head's own map, see `_ranks_as_well`. It decides once for all exits, so that chance has one try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from rexit.calibration.metrics import LABEL_FREE, Judge, Metric, log_losses
from rexit.calibration.traces import Traces
from rexit.data.ranking import mean_by_user
from rexit.format.bundle import ExitPolicy, Policy
from rexit.format.bundle.policy import MAX_INTERCEPT, MAX_SLOPE

Labels = NDArray[np.bool_] | NDArray[np.float64]
"""Labels, or probabilities of a like."""

USELESS_SLOPE = 1e-6
FOLDS = 5


@dataclass(frozen=True)
class PlattMap:
    """c = a z + b, a > 0.

    Attributes:
        a, b: slope and intercept.
        useful: False if the head ranks backwards or not at all: its exit must never stop.
        earlier: weights of the heads before it, which add to c (see `fit_all_heads`), while a may have any sign; empty: they add
            nothing.
    """

    a: float
    b: float
    useful: bool
    earlier: tuple[float, ...] = ()


def fit(log_odds: NDArray[np.float32], liked: Labels) -> PlattMap:
    """Returns the map with which P(liked) = sigmoid(a z + b) is most likely.

    Platt (1999), "Probabilistic outputs for support vector machines", with the targets of the paper, (N+ + 1)/(N+ + 2) and
    1/(N- + 2), which keep the slope finite if one threshold separates the labels. a and b are rounded to float32, as in the
    runtime.

    Args:
        log_odds: raw, float32 [n].
        liked: bool [n], with both labels present; or probabilities of a like, float64 [n], which are the targets themselves.
    """
    z = log_odds.astype(np.float64)
    positives = float(liked.sum())
    negatives = len(liked) - positives
    centre, scale = float(z.mean()), float(z.std())
    a, b = 0.0, 0.0
    if scale > 0:
        features = np.stack([(z - centre) / scale, np.ones_like(z)])
        slope, intercept = logistic_regression(features, targets(liked)).tolist()
        a = slope / scale
        b = intercept - a * centre
    # Too steep: log-odds that differ only by rounding.
    if a <= USELESS_SLOPE or a > MAX_SLOPE or abs(b) > MAX_INTERCEPT:
        prior = float(np.log(positives / negatives))
        return PlattMap(float(np.float32(USELESS_SLOPE)), float(np.float32(prior)), False)
    return PlattMap(float(np.float32(a)), float(np.float32(b)), True)


def targets(liked: Labels) -> NDArray[np.float64]:
    """Returns Platt's targets, float64 [n]. liked: bool [n]; or probabilities, float64 [n], which stay as they are."""
    if liked.dtype != np.bool_:
        return np.asarray(liked, np.float64)
    positives = int(liked.sum())
    negatives = len(liked) - positives
    return np.asarray(np.where(liked, (positives + 1) / (positives + 2), 1 / (negatives + 2)), np.float64)


def logistic_regression(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the weights, float64 [d], with the least cross-entropy. scikit-learn's regression takes no targets between 0 and 1.

    Args:
        features: float64 [d, n], of mean 0 and variance 1; the last is 1 for all: the intercept.
        target: from 0 to 1, float64 [n].
    """
    count, pairs = features.shape

    def loss(weights: NDArray[np.float64]) -> float:
        c = weights @ features
        return float(np.mean(np.logaddexp(0.0, c) - target * c))

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(features @ (expit(weights @ features) - target) / pairs)

    def hessian(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(weights @ features)
        return np.asarray((features * (p * (1 - p))) @ features.T / pairs)

    best = minimize(loss, np.zeros(count), method="trust-exact", jac=gradient, hess=hessian, options={"gtol": 1e-10})
    return np.asarray(best.x, np.float64)


def fit_all(log_odds: NDArray[np.float32], liked: Labels) -> tuple[PlattMap, ...]:
    """Returns one map per exit. log_odds: raw, float32 [n, E]; liked: bool [n]."""
    return tuple(fit(log_odds[:, k], liked) for k in range(log_odds.shape[1]))


def apply(maps: Sequence[PlattMap], log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns c, float32 [n, E], computed as in the runtime. log_odds: raw, float32 [n, E]."""
    return Policy(tuple(ExitPolicy(m.a, m.b, earlier=m.earlier) for m in maps), 1, "").calibrated(log_odds)


def cross_fit(log_odds: NDArray[np.float32], liked: Labels, users: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns c, float32 [n, E], by maps that have not seen the pair's user: fitted on the other FOLDS - 1 parts of the users.

    Users are dealt out in turn, in the catalog's order, which does not depend on labels. If the other parts lack one of the
    labels, a part gets the map of all users.

    Args:
        log_odds: raw, float32 [n, E].
        liked: bool [n].
        users: int64 [n], numbered from 0.
    """
    c = np.empty_like(log_odds)
    fold = users % FOLDS
    for part in range(FOLDS):
        inside = fold == part
        others = ~inside
        both_labels = bool(others.any()) and 0 < liked[others].mean() < 1
        maps = fit_all(log_odds[others], liked[others]) if both_labels else fit_all(log_odds, liked)
        c[inside] = apply(maps, log_odds[inside])
    return c


OWN, ALL, AUTO = "own", "all", "auto"

RIDGES = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
"""Weights against the summed log loss, with log-odds scaled to deviation 1: a ridge r weighs about as much as r pairs."""

USER_VARIANCE = 100.0
"""Prior variance of a user's intercept, in squared log-odds: large, so that it is all but free."""

_STEPS, _ACCURACY = 50, 1e-9
"""Most Newton steps, and the relative decrease of the loss at which they end."""

MIN_GAIN = 0.002
"""Of the own heads' log loss, which is small where likes are rare. For less, `auto` keeps the simpler maps (our choice)."""

Maps = tuple[PlattMap, ...]


@dataclass(frozen=True)
class Choice:
    """The maps of a policy, and how they were chosen. E exits, n pairs of the choosing users.

    Attributes:
        reads: OWN or ALL, the heads that `maps` read.
        maps: one per exit.
        own: the maps of own heads, one per exit.
        c, own_c: by `maps` and `own`, cross-fitted by user, float32 [n, E].
        ridge: the ridge of the maps of all heads; None if none were fitted.
        gain: how much all heads lower the held-out log loss, with its 95 % interval; None if none were fitted.
    """

    reads: str
    maps: Maps
    own: Maps
    c: NDArray[np.float32] = field(compare=False)
    own_c: NDArray[np.float32] = field(compare=False)
    ridge: float | None = None
    gain: tuple[float, float, float] | None = None


def choose(kind: str, traces: Traces, metrics: Sequence[Metric]) -> Choice:
    """Returns the maps for a policy.

    Args:
        kind: OWN, ALL or AUTO.
        traces: the choosing users'.
        metrics: the goal's.
    """
    z, liked, users = traces.log_odds, traces.targets, traces.users
    own, own_c = fit_all(z, liked), cross_fit(z, liked, users)
    of_own = Choice(OWN, own, own, own_c, own_c)
    if kind == OWN or traces.exits == 1:
        return of_own
    c, ridge = _cross_validated(z, liked, users)
    of_heads = _losses(own_c, liked)
    gain = mean_by_user(of_heads - _losses(c, liked), users)
    of_all = Choice(ALL, fit_all_heads(z, liked, users)[ridge], own, c, own_c, RIDGES[ridge], gain)
    if kind == ALL or (
        gain[0] >= MIN_GAIN * of_heads.mean() and gain[0] > (gain[2] - gain[1]) / 4 and _ranks_as_well(traces, metrics, of_all)
    ):
        return of_all
    return replace(of_own, ridge=of_all.ridge, gain=gain)


def fit_all_heads(log_odds: NDArray[np.float32], liked: Labels, users: NDArray[np.int64]) -> list[Maps]:
    """Returns the maps of all heads so far for each of RIDGES, one per exit.

    An exit keeps its own head's map if it is the first, if no head so far ranks, or if a weight would leave the format's limits.

    Args:
        log_odds: raw, float32 [n, E].
        liked: bool [n], with both labels present.
        users: int64 [n], numbered from 0.
    """
    own, target = fit_all(log_odds, liked), targets(liked)
    z = log_odds.astype(np.float64)
    mean, deviation = z.mean(0), z.std(0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    features = np.vstack([((z - mean) * scale).T, np.ones(len(z))])
    maps: list[list[PlattMap]] = [[own[0]] for _ in RIDGES]
    for k in range(1, len(own)):
        rows = features[[*range(k + 1), -1]]
        centre = np.zeros(k + 2)
        centre[k], centre[-1] = own[k].a * deviation[k], own[k].b + own[k].a * mean[k]
        weights = centre
        ranks = any(platt_map.useful for platt_map in own[: k + 1])
        for fitted, ridge in zip(maps, RIDGES, strict=True):
            if ranks:
                weights = _within_users(rows, target, users, ridge, centre, weights)
            fitted.append(_map(weights, rows, liked, mean[: k + 1], scale[: k + 1]) or own[k] if ranks else own[k])
    return [tuple(fitted) for fitted in maps]


def _within_users(
    features: NDArray[np.float64],
    target: NDArray[np.float64],
    users: NDArray[np.int64],
    ridge: float,
    centre: NDArray[np.float64],
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The weights of a logistic regression with an intercept per user, by Newton's method, which eliminates the users'.

    Args:
        features, target: as for `logistic_regression`.
        users: int64 [n], numbered from 0.
        ridge: weight of half the squared distance from `centre`, without the intercept, added to the summed cross-entropy.
        centre: float64 [d].
        start: where to begin, float64 [d].
    """
    count = int(users.max()) + 1
    ridges = np.full(len(features), ridge)
    ridges[-1] = 0.0

    def loss(weights: NDArray[np.float64], own: NDArray[np.float64]) -> float:
        c = weights @ features + own[users]
        return float(
            np.logaddexp(0.0, c).sum() - target @ c + ridges / 2 @ (weights - centre) ** 2 + own @ own / (2 * USER_VARIANCE)
        )

    weights, own = start, np.zeros(count)
    value = loss(weights, own)
    for _ in range(_STEPS):
        p = expit(weights @ features + own[users])
        curvature = p * (1 - p)
        slope = features @ (p - target) + ridges * (weights - centre)
        own_slope = np.bincount(users, p - target, count) + own / USER_VARIANCE
        diagonal = np.bincount(users, curvature, count) + 1 / USER_VARIANCE
        mixed = np.stack([np.bincount(users, curvature * feature, count) for feature in features])
        block = (features * curvature) @ features.T + np.diag(ridges) - (mixed / diagonal) @ mixed.T
        step = np.linalg.lstsq(block, slope - mixed @ (own_slope / diagonal), rcond=None)[0]
        own_step, length = (own_slope - step @ mixed) / diagonal, 1.0
        while (next_value := loss(weights - length * step, own - length * own_step)) > value and length > _ACCURACY:
            length /= 2
        if next_value > value * (1 - _ACCURACY):
            break
        weights, own, value = weights - length * step, own - length * own_step, next_value
    return weights


def _map(
    weights: NDArray[np.float64],
    features: NDArray[np.float64],
    liked: Labels,
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> PlattMap | None:
    """The map of weights of scaled log-odds, the intercept last, by Platt's map of their sum; None if the sum does not rank, or
    if they are beyond the format's limits."""
    of_sum = fit((weights @ features).astype(np.float32), liked)
    slopes = of_sum.a * weights[:-1] * scale
    *earlier, a = slopes.astype(np.float32).tolist()
    b = float(np.float32(of_sum.a * weights[-1] + of_sum.b - slopes @ mean))
    if not of_sum.useful or not all(abs(weight) <= MAX_SLOPE for weight in (a, *earlier)) or not abs(b) <= MAX_INTERCEPT:
        return None
    return PlattMap(a, b, True, tuple(earlier))


def _cross_validated(log_odds: NDArray[np.float32], liked: Labels, users: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """c of each pair by the ridge that is best for the other parts, float32 [n, E]; and the number of the ridge that is best."""
    parts = users % FOLDS
    c = _cross_fit_ridges(log_odds, liked, users)
    losses = np.stack([np.bincount(parts, _losses(c_of_ridge, liked), FOLDS) for c_of_ridge in c])  # [ridges, parts]
    best = (losses.sum(1, keepdims=True) - losses).argmin(0)
    return np.take_along_axis(c, best[parts][None, :, None], axis=0)[0], int(losses.sum(1).argmin())


def _cross_fit_ridges(log_odds: NDArray[np.float32], liked: Labels, users: NDArray[np.int64]) -> NDArray[np.float32]:
    """c by each ridge, float32 [ridges, n, E], by maps fitted on the other parts, or on all if the others lack one of the
    labels."""
    c = np.empty((len(RIDGES), *log_odds.shape), np.float32)
    for part in range(FOLDS):
        inside = users % FOLDS == part
        others = ~inside if (~inside).any() and 0 < liked[~inside].mean() < 1 else np.ones_like(inside)
        for n, maps in enumerate(fit_all_heads(log_odds[others], liked[others], users[others])):
            c[n, inside] = apply(maps, log_odds[inside])
    return c


def _losses(c: NDArray[np.float32], liked: Labels) -> NDArray[np.float64]:
    """Each pair's log loss, mean over the exits that have earlier ones: float64 [n]."""
    losses = [log_losses(np.ascontiguousarray(c[:, k]), liked) for k in range(1, c.shape[1])]
    return np.asarray(np.mean(losses, axis=0), np.float64)


def _ranks_as_well(traces: Traces, metrics: Sequence[Metric], choice: Choice) -> bool:
    """Whether all heads may take the place of the last head alone at the last exit: none of the metrics by labels is shown to be
    worse, and where one compares with full depth's ranking, which they change, user AUC is shown to be better."""
    full, score = (np.ascontiguousarray(c[:, -1]) for c in (choice.own_c, choice.c))
    judge = Judge(traces.users, traces.liked, traces.offsets, full)
    if not traces.labelled:
        return not any(low > 0 for low, _ in judge.intervals(metrics, score).values())
    by_labels = [metric for metric in metrics if metric.kind not in LABEL_FREE]
    if len(by_labels) < len(metrics):
        user_auc = Metric("user-auc")
        if judge.intervals([user_auc], score)[user_auc][1] >= 0:
            return False
    return not by_labels or not any(low > 0 for low, _ in judge.intervals(by_labels, score).values())
