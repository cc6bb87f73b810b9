"""Other ways to choose where candidates stop, tuned on the same traces, for a policy to beat. Off by default.

Each way has one parameter or a greedy rule, and takes the cheapest setting whose metrics drop by no more than is allowed. They
follow their papers as far as log-odds allow, without parts that need training of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.choose.evaluate import Evaluation, Outcome
from rexit.calibration.choose.search import agreeing_heads

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
    """Returns each rival by name, tuned on this split; full depth if nothing else is within the allowed drop."""
    z, c = evaluation.traces.log_odds, evaluation.c
    exits = c.shape[1]
    families: dict[str, Iterable[Stops]] = {
        "one threshold": map(_threshold, _quantiles(np.abs(c[:, :-1]))),
        "entropy": map(_entropy, _quantiles(np.abs(z[:, :-1]))),
        "patience": map(_patience, range(1, exits + 1)),
        "exit shares": (_exit_shares(np.abs(c[:, :-1]), ratio) for ratio in np.geomspace(0.02, 50, STEPS)),
    }
    cheapest = {name: _cheapest(evaluation, allowed, family) for name, family in families.items()}
    return {**cheapest, "one exit at a time": _greedy(evaluation, allowed)}


def _cheapest(evaluation: Evaluation, allowed: float, family: Iterable[Stops]) -> Stops:
    z, c = evaluation.traces.log_odds, evaluation.c
    best = _threshold(np.float32(np.inf))
    min_us = evaluation.outcome(best(z, c)).cost_us
    for rival in family:
        outcome = evaluation.outcome(rival(z, c))
        if outcome.drop <= allowed and outcome.cost_us < min_us:
            best, min_us = rival, outcome.cost_us
    return best


def _quantiles(confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.unique(np.quantile(confidence, np.linspace(0, 0.995, STEPS)).astype(np.float32))


def _first(may_stop: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first exit that stops each pair, int64 [n]; the last exit stops all. may_stop: bool [n, E - 1]."""
    return np.asarray(np.where(may_stop.any(1), may_stop.argmax(1), may_stop.shape[1]), np.int64)


def _threshold(t: np.float32) -> Stops:
    """The same |c| at every exit: maximum probability."""
    return lambda z, c: _first(np.abs(c[:, :-1]) >= t)


def _entropy(t: np.float32) -> Stops:
    """The same entropy of the heads' own softmax at every exit, which with two labels is the same |z|: DeeBERT (2004.12993)."""
    return lambda z, c: _first(np.abs(z[:, :-1]) >= t)


def _patience(heads: int) -> Stops:
    """As soon as so many heads in a row give the same answer: PABEE (2006.04152)."""
    return lambda z, c: _first(agreeing_heads(c)[:, :-1] >= heads)


def _exit_shares(confidence: NDArray[np.float32], ratio: float) -> Stops:
    """Each exit takes a given share of the candidates, `ratio` times that of the exit before: how EENet (2301.07099) meets a
    budget, with |c| instead of its learnt exit scores. confidence: |c|, float32 [n, E - 1]."""
    count, early_exits = confidence.shape
    shares = ratio ** np.arange(early_exits + 1)
    shares /= shares.sum()
    left, limits = np.ones(count, np.bool_), np.full(early_exits, np.inf, np.float32)
    for k in range(early_exits):
        if left.any():
            part = min(1.0, shares[k] * count / np.count_nonzero(left))
            limits[k] = np.quantile(confidence[left, k], 1 - part)
        left &= confidence[:, k] < limits[k]
    return lambda z, c: _first(np.abs(c[:, :-1]) >= limits)


def _greedy(evaluation: Evaluation, allowed: float) -> Stops:
    """Thresholds of |c| are lowered one exit at a time, where the saving for the drop is largest. The step doubles after a
    success and is halved at the border: Apparate (2312.05385)."""
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
