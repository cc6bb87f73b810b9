"""What follows an exit's Platt map, where held-out users show that a probability is better for it: a beta or an isotonic map.

A Platt map is right where the log-odds of both labels are normal with one variance. Elsewhere its probabilities are wrong in
places, though right on average. Both maps start from x, the c of the Platt map (of the own head or of all heads), and only
ascend, so an exit ranks candidates as before. Both are written as a `curve`, points with lines between them, so that the runtime
computes one thing, to the bit as NumPy does.

1. Beta (Kull, Silva Filho and Flach, AISTATS 2017): c = p ln s - q ln(1 - s) + m with s = sigmoid(x), by logistic
   regression with p and q of at least LEAST_SLOPE, so that it ascends. It is evaluated at BETA_POINTS, between which lines are
   off by at most 0.0012 |p - q|.
2. Isotonic (Zadrozny and Elkan, KDD 2002): shares of likes by pool adjacent violators, whose blocks are joined with their
   neighbours until each has LEAST_PAIRS pairs and both labels. A point is a block's mean x and its share's log-odds. A step would
   make ties of what an exit can tell apart, and a block of one label an infinite c: hence lines between blocks, and beyond the
   first and the last block the slope of the Platt map. Fewer than two blocks: there is no isotonic map.
3. Each exit has its own choice, by cross-validation over users: `auto` takes the one of least log loss if that is lower than the
   Platt map's by LEAST_GAIN or more, with a 95 % interval over users above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from rexit.bundle.policy import MAX_INTERCEPT, MAX_POINTS, MAX_SLOPE, Curve
from rexit.calibration.choose import platt
from rexit.calibration.choose.platt import FOLDS, PlattMap
from rexit.calibration.metrics import log_losses
from rexit.calibration.record.traces import Traces
from rexit.errors import InputError
from rexit.ranking import mean_by_user

PLATT, BETA, ISOTONIC, AUTO = "platt", "beta", "isotonic", "auto"
CHOICES = (PLATT, BETA, ISOTONIC, AUTO)
KINDS = (BETA, ISOTONIC)

LEAST_GAIN = 0.001
"""Of log loss, in nats. For less, `auto` does not write a policy that readers before this one refuse (our choice)."""

LEAST_SLOPE = 0.02
"""Of a beta map towards both ends."""

LEAST_PAIRS = 50
"""Of a block: its share of likes is then known to about 0.07."""

BETA_POINTS = np.concatenate([[-30.0], 2 * np.log(np.tan(np.pi * (np.arange(33) + 0.5) / 66)), [30.0]])
"""Denser where the beta map bends: between neighbours it leaves its chord by the same at most."""

Maps = tuple[PlattMap, ...]
Fit = Callable[[NDArray[np.float32], NDArray[np.bool_]], Sequence[PlattMap]]
"""Fits a map without a curve for each exit: of raw log-odds, float32 [n, E], and labels, bool [n]."""


@dataclass(frozen=True)
class Choice:
    """An exit's curve, and how it was chosen.

    Attributes:
        kind: PLATT (no curve), BETA or ISOTONIC.
        gains: of those that were tried, by kind: how much lower the log loss left out is than the Platt map's, and its 95 %
            interval.
    """

    kind: str
    gains: dict[str, tuple[float, float, float]]


def check(kind: str) -> None:
    """Raises InputError for what is not of CHOICES."""
    if kind not in CHOICES:
        raise InputError(f"curve {kind!r}: unknown, expected {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")


def choose(
    kind: str, traces: Traces, maps: Sequence[PlattMap], c: NDArray[np.float32], fit: Fit
) -> tuple[Maps, NDArray[np.float32], tuple[Choice, ...]]:
    """Returns the maps with their curves, c cross-fitted by user with them, float32 [n, E], and each exit's choice.

    Args:
        kind: of CHOICES.
        traces: of the choosing users.
        maps: of each exit, fitted on all of them.
        c: by these maps, cross-fitted by user, float32 [n, E].
        fit: how the maps were fitted.

    Raises:
        InputError: if `kind` is ISOTONIC and an exit has too few blocks.
    """
    check(kind)
    tried = {PLATT: (), AUTO: KINDS}.get(kind, (kind,))
    if not tried:
        return tuple(maps), c, (Choice(PLATT, {}),) * len(maps)
    curves = _fit_all(tried, maps, platt.apply(maps, traces.log_odds), traces.liked)
    fitted = _cross_fit(tried, traces, fit)
    choices, chosen, best = [], [], c.copy()
    for k, platt_map in enumerate(maps):
        own = log_losses(np.ascontiguousarray(c[:, k]), traces.liked)
        gains = {
            name: mean_by_user(own - log_losses(np.ascontiguousarray(fitted[name][:, k]), traces.liked), traces.users)
            for name in tried
            if curves[name][k]
        }
        if kind == ISOTONIC and platt_map.useful and not gains:
            raise InputError(
                f"exit {k}: its isotonic map has one point on {len(traces)} pairs of the choosing users, expected at least two, "
                f"each of {LEAST_PAIRS} pairs and both labels: hold out more users, or choose another --curve"
            )
        shown = {name: gain for name, (gain, low, _) in gains.items() if kind != AUTO or (gain >= LEAST_GAIN and low > 0)}
        name = max(shown, key=shown.__getitem__, default=PLATT)
        if name != PLATT:
            platt_map, best[:, k] = replace(platt_map, curve=curves[name][k]), fitted[name][:, k]
        chosen.append(platt_map)
        choices.append(Choice(name, gains))
    return tuple(chosen), best, tuple(choices)


def _fit_all(
    kinds: Sequence[str], maps: Sequence[PlattMap], x: NDArray[np.float32], liked: NDArray[np.bool_]
) -> dict[str, list[Curve]]:
    """Each exit's curve by kind; none where its head does not rank."""
    fits = {BETA: beta, ISOTONIC: isotonic}
    return {kind: [fits[kind](x[:, k], liked) if m.useful else () for k, m in enumerate(maps)] for kind in kinds}


def _cross_fit(kinds: Sequence[str], traces: Traces, fit: Fit) -> dict[str, NDArray[np.float32]]:
    """c by maps and curves that have not seen the pair's user, float32 [n, E] of each kind."""
    z, liked = traces.log_odds, traces.liked
    c = {kind: np.empty_like(z) for kind in kinds}
    for part in range(FOLDS):
        inside = traces.users % FOLDS == part
        others = ~inside if len(np.unique(liked[~inside])) == 2 else np.ones_like(inside)
        maps = fit(z[others], liked[others])
        for kind, curves in _fit_all(kinds, maps, platt.apply(maps, z[others]), liked[others]).items():
            c[kind][inside] = platt.apply([replace(m, curve=curve) for m, curve in zip(maps, curves, strict=True)], z[inside])
    return c


def beta(x: NDArray[np.float32], liked: NDArray[np.bool_]) -> Curve:
    """Returns the points of the beta map of x, float32 [n]. liked: bool [n]."""
    features, target = np.vstack([_beta_features(x.astype(np.float64)), np.ones(len(x))]), platt.targets(liked)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        c = weights @ features
        return float(np.mean(np.logaddexp(0.0, c) - target * c)), features @ (expit(c) - target) / len(c)

    bounds = [(LEAST_SLOPE, None), (LEAST_SLOPE, None), (None, None)]
    fitted = minimize(loss, [1.0, 1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}).x
    return _points(BETA_POINTS, fitted[:2] @ _beta_features(BETA_POINTS) + fitted[2])


def _beta_features(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln s and -ln(1 - s): float64 [2, n]."""
    return np.stack([-np.logaddexp(0.0, -x), np.logaddexp(0.0, x)])


def isotonic(x: NDArray[np.float32], liked: NDArray[np.bool_]) -> Curve:
    """Returns the points of the isotonic map of x, float32 [n]; none if they are too few. liked: bool [n]."""
    values, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)  # equal x have one share
    likes = np.bincount(inverse, liked)
    blocks = isotonic_regression(likes / counts, weights=counts).blocks[:-1]
    sums = np.stack([np.add.reduceat(part, blocks) for part in (counts, likes, counts * values.astype(np.float64))], 1)
    joined: list[NDArray[np.float64]] = []
    for block in sums:
        if joined and not _is_enough(joined[-1]):
            joined[-1] = joined[-1] + block
        else:
            joined.append(block)
    if len(joined) > 1 and not _is_enough(joined[-1]):
        last = joined.pop()
        joined[-1] = joined[-1] + last
    pairs, liked_pairs, total = np.array(joined).T
    if len(joined) < 2:
        return ()
    at, c = total / pairs, logit(liked_pairs / pairs)
    return _points(np.concatenate([[at[0] - 1], at, [at[-1] + 1]]), np.concatenate([[c[0] - 1], c, [c[-1] + 1]]))


def _is_enough(block: NDArray[np.float64]) -> bool:
    pairs, likes, _ = block.tolist()
    return bool(pairs >= LEAST_PAIRS and 0 < likes < pairs)


def _points(x: NDArray[np.float64], c: NDArray[np.float64]) -> Curve:
    """In float32; a point that is not above the one before it in both, or too far above it, is left out. None if they are too
    many or beyond the format's limits."""
    points: list[tuple[float, float]] = []
    for point in zip(x.astype(np.float32).tolist(), c.astype(np.float32).tolist(), strict=True):
        if points:
            run, rise = point[0] - points[-1][0], point[1] - points[-1][1]
            if run <= 0 or rise <= 0 or rise > MAX_SLOPE * run:
                continue
        points.append(point)
    within = np.abs(points).max() <= MAX_INTERCEPT
    return tuple(points) if 2 <= len(points) <= MAX_POINTS and within else ()
