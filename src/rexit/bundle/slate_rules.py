"""When candidates stop because of the others in their slate: docs/format.md's rules 2 and 3, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TopK:
    """Stops candidates whose place in or out of the best `k` of their slate is known; if `ordered`, those in it not before their
    rank is known.

    rise, fall: [exits - 1], how far c may still move up and down from each exit to the last.
    """

    k: int
    ordered: bool
    rise: tuple[float, ...]
    fall: tuple[float, ...]


def slate_stops(c: Floats, candidate_stop: Bools, offsets: Integers, quorum: float, top_k: TopK | None) -> Integers:
    """The exit each candidate stops at: int64 [n].

    c: float32 [n, exits], calibrated. candidate_stop: bool [n, exits], where thresholds and patience stop it; True at the last
    exit. offsets: int64 [S + 1] of the slates. quorum: 0: off.
    """
    stops = np.asarray(candidate_stop.argmax(1), np.int64)
    if top_k is not None:
        stops = _settled(c, stops, offsets, top_k)
    # A quorum ends its slate: until then it changes nothing.
    return np.minimum(stops, _quorum_exits(stops, c.shape[1], offsets, quorum)) if quorum else stops


def _quorum_exits(stops: Integers, exits: int, offsets: Integers, quorum: float) -> Integers:
    """The first exit after which few enough of its slate are undecided, for each candidate: int64 [n]."""
    sizes = np.diff(offsets)
    slates = np.repeat(np.arange(len(sizes)) * exits, sizes)
    stopped = np.bincount(slates + stops, minlength=len(sizes) * exits).reshape(-1, exits).cumsum(1)
    few = sizes[:, None] - stopped <= float(np.float32(quorum)) * sizes[:, None]
    return np.repeat(few.argmax(1), sizes)


def _settled(c: Floats, stops: Integers, offsets: Integers, rule: TopK) -> Integers:
    """`stops` with the top-k rule."""
    sizes = np.diff(offsets)
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    # Slates as rows, filled up with candidates that stopped before the first exit and whose NaN are last in every order.
    at = np.full(inside.shape, -1)
    at[inside] = stops
    now = np.full(inside.shape, np.nan, np.float32)
    low, high = now.copy(), now.copy()
    for k in range(c.shape[1] - 1):
        rows = (at > k).any(1)
        now[inside] = c[:, k]
        low = np.where(at >= k, now - np.float32(rule.fall[k]), low)
        high = np.where(at >= k, now + np.float32(rule.rise[k]), high)
        known = _known(low[rows], high[rows], sizes[rows, None], rule)
        at[rows] = np.where(known, np.minimum(at[rows], k), at[rows])
    return at[inside]


def _known(low: Floats, high: Floats, sizes: Integers, rule: TopK) -> Bools:
    """Whose place is known: bool [slates, most candidates], of intervals float32 of the same shape."""
    width = low.shape[1]
    # Both ends in one order, lower ones first where they tie: how many of the other kind come before an end counts for it all
    # `high < low_i`, or all `low <= high_i`.
    order = np.concatenate([low, high], axis=1).argsort(1, kind="stable")
    is_high = order >= width
    before = np.empty_like(order)
    np.put_along_axis(before, order, np.where(is_high, (~is_high).cumsum(1), is_high.cumsum(1)), 1)
    above = sizes - 1 - before[:, :width]
    surely = sizes - before[:, width:]
    return (surely >= rule.k) | ((above < rule.k) & ((above == surely) if rule.ordered else True))


def add_possible(c: Floats, slack: NDArray[np.float64], may: Bools, must: Bools, quorum: float, top_k: TopK | None) -> None:
    """Adds to one slate's `may` and `must` where its own rules stop candidates if c float32 [n, exits] is known only to within
    +-slack [exits].

    may, must: bool [n, exits], whether a candidate that gets as far as this exit may stop there, and does so in any case. How
    many others stop, or are above, is bounded by what each of them may do by itself.
    """
    n, exits = may.shape
    stopped = _Bounds.none(n)
    may_reach, must_reach = np.ones(n, np.bool_), np.ones(n, np.bool_)
    for k in range(exits - 1):
        if top_k is not None:
            here = _Bounds.around(c[:, k], slack[k], top_k.rise[k], top_k.fall[k])
            may_settle, must_settle = here.known(stopped.joined(here, may_reach), top_k)
            may[:, k] |= may_settle
            must[:, k] |= must_settle
            stopped = stopped.joined(here, may_reach & may[:, k])
        # Where a quorum has been reached nobody gets any further, so what follows may assume that it has not.
        fewest, most = must_reach & ~may[:, k], may_reach & ~must[:, k]
        if quorum:
            enough = float(np.float32(quorum)) * n
            may[:, k] |= np.count_nonzero(fewest) <= enough
            must[:, k] |= np.count_nonzero(most) <= enough
        must_reach, may_reach = fewest, most


@dataclass(frozen=True)
class _Bounds:
    """What the ends of n candidates' intervals may be: float32 [n] each."""

    least_low: Floats
    most_low: Floats
    least_high: Floats
    most_high: Floats

    @classmethod
    def none(cls, n: int) -> _Bounds:
        """No value at all: to be joined."""
        least, most = np.full(n, np.inf, np.float32), np.full(n, -np.inf, np.float32)
        return cls(least, most, least, most)

    @classmethod
    def around(cls, c: Floats, slack: float, rise: float, fall: float) -> _Bounds:
        """Of c to within +-slack, as the rule computes them: rounding keeps their order."""
        least, most = ((c.astype(np.float64) + s).astype(np.float32) for s in (-slack, slack))
        up, down = np.float32(rise), np.float32(fall)
        return cls(least - down, most - down, least + up, most + up)

    def joined(self, other: _Bounds, where: Bools) -> _Bounds:
        """Bounds of both, of `other` only for some candidates."""
        return _Bounds(
            np.where(where, np.minimum(self.least_low, other.least_low), self.least_low),
            np.where(where, np.maximum(self.most_low, other.most_low), self.most_low),
            np.where(where, np.minimum(self.least_high, other.least_high), self.least_high),
            np.where(where, np.maximum(self.most_high, other.most_high), self.most_high),
        )

    def known(self, others: _Bounds, rule: TopK) -> tuple[Bools, Bools]:
        """Whose place may be known, and whose is in any case, beside the others (who include themselves): bool [n] each."""
        most_above = _count(others.most_high, self.least_low, "left") - 1
        fewest_above = _count(others.least_high, self.most_low, "left") - (others.least_high >= self.most_low)
        most_surely = _count(others.most_low, self.least_high, "right") - (others.most_low > self.least_high)
        fewest_surely = _count(others.least_low, self.most_high, "right")
        may, must = fewest_above < rule.k, most_above < rule.k
        if rule.ordered:
            may &= fewest_above <= most_surely
            must &= most_above == fewest_surely
        return may | (most_surely >= rule.k), must | (fewest_surely >= rule.k)


def _count(values: Floats, limits: Floats, side: str) -> Integers:
    """How many values are at least (`left`) or above (`right`) each limit: int64 [n]."""
    return len(values) - np.searchsorted(np.sort(values), limits, side)  # type: ignore[call-overload, no-any-return]
