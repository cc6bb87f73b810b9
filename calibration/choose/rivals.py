"""Other ways to choose where candidates stop, tuned on the same traces: what a policy has to beat. Not by default.

Each way has one parameter or a greedy rule, and takes the cheapest setting whose metrics drop by no more than is allowed. They
follow their papers, on log-odds and without what needs training of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.choose.evaluate import Evaluation, Outcome

Stops = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]]
"""From raw log-odds and c, both float32 [n, E], to the exit of each pair, int64 [n]."""

ABOUT = {
    "one threshold": ("stops at the first exit whose calibrated probability is sure enough, the same at all exits", ""),
    "entropy": ("the same, by the entropy of the heads' own softmax, as DeeBERT does", "2004.12993"),
    "patience": ("stops once so many heads in a row give the same answer, as PABEE does", "2006.04152"),
    "exit shares": ("a geometric series of shares of candidates that exits take, as EENet meets a budget", "2301.07099"),
    "one exit at a time": ("thresholds lowered where the saving for the drop is largest, as Apparate does", "2312.05385"),
}
"""How each works, and the arXiv number of its paper."""

STEPS = 40
ROUNDS = 400


def tuned(evaluation: Evaluation, allowed: float) -> dict[str, Stops]:
    """Returns each rival by name, tuned on this split; full depth where nothing else is within the allowed drop."""
    z, c = evaluation.traces.log_odds, evaluation.c
    exits = c.shape[1]
    families: dict[str, Iterable[Stops]] = {
        "one threshold": map(_threshold, _quantiles(np.abs(c[:, :-1]))),
        "entropy": map(_entropy, _quantiles(np.abs(z[:, :-1]))),
        "patience": map(_patience, range(1, exits + 1)),
        "exit shares": map(_ExitShares(c).thresholds, np.geomspace(0.02, 50, STEPS)),
    }
    cheapest = {name: _cheapest(evaluation, allowed, family) for name, family in families.items()}
    return {**cheapest, "one exit at a time": _greedy(evaluation, allowed)}


def _cheapest(evaluation: Evaluation, allowed: float, family: Iterable[Stops]) -> Stops:
    best, least = (
        _threshold(np.float32(np.inf)),
        evaluation.outcome(np.full(len(evaluation.c), evaluation.c.shape[1] - 1)).cost_us,
    )
    for rival in family:
        outcome = evaluation.outcome(rival(evaluation.traces.log_odds, evaluation.c))
        if outcome.drop <= allowed and outcome.cost_us < least:
            best, least = rival, outcome.cost_us
    return best


def _quantiles(confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.unique(np.quantile(confidence, np.linspace(0, 0.995, STEPS)).astype(np.float32))


def _first(fires: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first exit that stops: bool [n, E - 1] to int64 [n]; the last one stops all."""
    return np.asarray(np.where(fires.any(1), fires.argmax(1), fires.shape[1]), np.int64)


def _threshold(t: np.float32) -> Stops:
    """The same |c| at every exit: maximum probability."""
    return lambda z, c: _first(np.abs(c[:, :-1]) >= t)


def _entropy(t: np.float32) -> Stops:
    """The same entropy of the heads' own softmax at every exit, which with two labels is the same |z|: DeeBERT (2004.12993)."""
    return lambda z, c: _first(np.abs(z[:, :-1]) >= t)


def _patience(heads: int) -> Stops:
    """As soon as so many heads in a row give the same answer: PABEE (2006.04152)."""

    def stops(z: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.int64]:
        agree = np.ones(c.shape, np.int64)
        for k in range(1, c.shape[1]):
            agree[:, k] = np.where((c[:, k] >= 0) == (c[:, k - 1] >= 0), agree[:, k - 1] + 1, 1)
        return _first(agree[:, :-1] >= heads)

    return stops


class _ExitShares:
    """Thresholds by which each exit takes a given share of the candidates, the share of an exit being a constant times that of
    the exit before: how EENet (2301.07099) meets a budget, with |c| in the place of its learnt exit scores."""

    def __init__(self, c: NDArray[np.float32]) -> None:
        self._confidence = np.abs(c[:, :-1])

    def thresholds(self, ratio: float) -> Stops:
        exits = self._confidence.shape[1] + 1
        share = ratio ** np.arange(exits)
        share /= share.sum()
        left, limits = np.ones(len(self._confidence), np.bool_), []
        for k in range(exits - 1):
            confidence = self._confidence[left, k]
            part = min(1.0, share[k] * len(left) / max(1, len(confidence)))
            limits.append(np.quantile(confidence, 1 - part).astype(np.float32) if len(confidence) else np.float32(np.inf))
            left &= self._confidence[:, k] < limits[k]
        limit = np.array(limits, np.float32)
        return lambda z, c: _first(np.abs(c[:, :-1]) >= limit)


def _greedy(evaluation: Evaluation, allowed: float) -> Stops:
    """Thresholds of |c| lowered one exit at a time, always where the saving for the drop is largest, the step doubled after a
    success and halved at the border: Apparate (2312.05385)."""
    z, c = evaluation.traces.log_odds, evaluation.c
    confidence = np.abs(c[:, :-1])
    ascending = np.sort(confidence, axis=0)
    place, step = np.zeros(confidence.shape[1]), np.full(confidence.shape[1], 0.1)

    def stopping(shares: NDArray[np.float64]) -> Stops:
        at = ((1 - shares) * (len(confidence) - 1)).astype(np.int64)
        limit = np.where(shares > 0, ascending[at, np.arange(len(shares))], np.float32(np.inf)).astype(np.float32)
        return lambda z, c: _first(np.abs(c[:, :-1]) >= limit)

    def outcome_of(shares: NDArray[np.float64]) -> Outcome:
        return evaluation.outcome(stopping(shares)(z, c))

    now = outcome_of(place)
    for _ in range(ROUNDS):
        best, best_ratio = None, -np.inf
        for k in np.flatnonzero((place < 1) & (step > 0.005)).tolist():
            trial = place.copy()
            trial[k] = min(1.0, place[k] + step[k])
            outcome = outcome_of(trial)
            if outcome.drop > allowed:
                step[k] /= 2
            elif outcome.cost_us < now.cost_us:
                ratio = (now.cost_us - outcome.cost_us) / max(outcome.drop - now.drop, 1e-9)
                if ratio > best_ratio:
                    best, best_ratio = (k, trial, outcome), ratio
            else:
                step[k] = min(1.0, 2 * step[k]) if trial[k] < 1 else 0.0
        if best is not None:
            widened, place, now = best
            step[widened] *= 2
        elif not ((place < 1) & (step > 0.005)).any():
            break
    return stopping(place)
