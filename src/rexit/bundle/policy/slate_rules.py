"""When candidates stop because of the others in their slate: rules 2 to 4 of docs/format/policy.md, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
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


def slate_stops(
    c: Floats,
    candidate_stop: Bools,
    offsets: Integers,
    quorum: int,
    top_k: TopK | None,
    slack: Floats | None = None,
    keep: Sequence[int] = (),
    orders: Integers | None = None,
) -> Integers:
    """Returns the exit where each candidate stops, int64 [n].

    Args:
        c: calibrated log-odds, float32 [n, exits].
        candidate_stop: where thresholds and patience stop a candidate, bool [n, exits]; True at the last exit.
        offsets: where each slate begins, and n: int64 [slates + 1].
        quorum: the last so many of a slate stop too; 0: off.
        top_k: the rule of that name; None: off.
        slack: how much nearer each c is to settled than `top_k` says, float32 [exits]; None: 0. Below 0: further.
        keep: most candidates of a slate that go on after each exit, 0: all; empty: all everywhere.
        orders: `best_first(c, offsets)`, if it is known; None: it is computed.
    """
    stops = np.asarray(candidate_stop.argmax(1), np.int64)
    keep = [*keep, *[0] * (c.shape[1] - len(keep))]
    if any(keep) and orders is None:
        orders = best_first(c, offsets)
    if top_k is not None or (any(keep) and slack is not None and slack.any()):
        slack = np.zeros(c.shape[1], np.float32) if slack is None else slack
        stops = _settled(c, stops, offsets, top_k, slack, keep, orders)
    elif orders is not None:
        for k in np.flatnonzero(keep):
            _keep(stops, int(k), keep[k], orders[k], offsets)
    # A quorum ends its slate: until then it changes nothing.
    return np.minimum(stops, _quorum_exits(stops, c.shape[1], offsets, quorum)) if quorum else stops


def best_first(c: Floats, offsets: Integers) -> Integers:
    """Returns each slate's candidates by falling c, slate by slate, equal ones in their order: int64 [exits, n]."""
    slates = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.stack([np.lexsort((-column, slates)) for column in c.T])


def _keep(stops: Integers, exit_: int, most: int, order: Integers, offsets: Integers) -> None:
    """Stops all of a slate but the best `most` of those that would go on after an exit. order: `best_first` of that exit."""
    going = stops[order] > exit_
    count = np.concatenate([[0], going.cumsum()])
    place = count[1:] - np.repeat(count[offsets[:-1]], np.diff(offsets))
    stops[order[going & (place > most)]] = exit_


def _quorum_exits(stops: Integers, exits: int, offsets: Integers, quorum: int) -> Integers:
    """The first exit after which few enough of its slate are undecided, for each candidate: int64 [n]."""
    sizes = np.diff(offsets)
    slates = np.repeat(np.arange(len(sizes)) * exits, sizes)
    stopped = np.bincount(slates + stops, minlength=len(sizes) * exits).reshape(-1, exits).cumsum(1)
    few = sizes[:, None] - stopped <= quorum
    return np.repeat(few.argmax(1), sizes)


def _settled(
    c: Floats,
    stops: Integers,
    offsets: Integers,
    rule: TopK | None,
    slack: Floats,
    keep: Sequence[int],
    orders: Integers | None,
) -> Integers:
    """`stops` with the top-k rule and `keep`."""
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
        if rule is not None:
            low = np.where(at >= k, now + slack[k] - np.float32(rule.fall[k]), low)
            high = np.where(at >= k, now - slack[k] + np.float32(rule.rise[k]), high)
            known = known_places(low[rows], high[rows], sizes[rows, None], rule)
            at[rows] = np.where(known, np.minimum(at[rows], k), at[rows])
        if keep[k] and slack[k]:
            rows = (at > k).sum(1) > keep[k]
            beyond = _beyond(np.where(at[rows] > k, now[rows], -np.inf), keep[k], slack[k])
            at[rows] = np.where(beyond, np.minimum(at[rows], k), at[rows])
        elif keep[k] and orders is not None:
            stops = at[inside]
            _keep(stops, k, keep[k], orders[k], offsets)
            at[inside] = stops
    return at[inside]


def _beyond(c: Floats, most: int, slack: np.float32) -> Bools:
    """Whose c may not be among the best `most` of its row, each c known to within +-slack; below 0: whose surely is not."""
    last, next_ = _best(c, most)
    return last > c - 2 * slack if slack < 0 else next_ >= c - 2 * slack


def known_places(low: Floats, high: Floats, sizes: Integers, rule: TopK) -> Bools:
    """Returns whose place is known by the top-k rule, bool [slates, most candidates].

    Args:
        low, high: the ends of each candidate's interval, float32 of the same shape, NaN where a slate has no more candidates.
        sizes: candidates per slate, int64 [slates, 1].
        rule: its `k` and `ordered` count.
    """
    if rule.ordered:
        above, surely = _counts(low, high, sizes)
        return (surely >= rule.k) | ((above < rule.k) & (above <= surely))
    # As the counts say, by the k-th and the next best end alone, which needs no sorting.
    (low_k, low_next), (high_k, high_next) = _best(low, rule.k), _best(high, rule.k)
    crossed = low > high
    surely_out = np.where(crossed, low_next, low_k) > high
    surely_in = np.where(crossed, high_k, high_next) < low
    return surely_out | surely_in | (sizes <= rule.k)


def _best(ends: Floats, k: int) -> tuple[Floats, Floats]:
    """The k-th and the next largest number of each row, [slates, 1]; minus infinity where a row, but for its NaN, has fewer."""
    width = ends.shape[1]
    numbers = np.where(np.isnan(ends), -np.inf, ends)
    nothing = np.full((len(ends), 1), -np.inf, np.float32)
    if k >= width:
        return (numbers.min(1, keepdims=True) if k == width else nothing), nothing
    parted = np.partition(numbers, (width - k - 1, width - k), axis=1)
    return parted[:, width - k, None], parted[:, width - k - 1, None]


def _counts(low: Floats, high: Floats, sizes: Integers) -> tuple[Integers, Integers]:
    """How many others' intervals end at or above the start of a candidate's, and how many start above its end."""
    width = low.shape[1]
    # Both ends in one order, lower ones first where they tie: how many of the other kind come before an end counts for it all
    # `high < low_i`, or all `low <= high_i`.
    order = np.concatenate([low, high], axis=1).argsort(1, kind="stable")
    is_high = order >= width
    before = np.empty_like(order)
    np.put_along_axis(before, order, np.where(is_high, (~is_high).cumsum(1), is_high.cumsum(1)), 1)
    # Neither counts the candidate itself. Slack may have put its low end above its high one.
    return sizes - before[:, :width] - (low <= high), sizes - before[:, width:] - (low > high)
