"""A guarantee over users: "with 95 % confidence the mean NDCG@10 lost against full depth is at most 0.01".

Users are the unit, taken to be exchangeable with those to come. After Angelopoulos et al. (2021), "Learn then Test" (arXiv
2110.01052):

1. One part of the users chooses policies and orders them, the likeliest to pass first. The other part, unseen until then,
   certifies. The user's id alone says which (`rexit.format.roles`), so who chose heads, maps or exits in any command does not
   certify.
2. `p_value` tests for each policy the hypothesis that its expected loss is above the limit; where a policy has to keep several
   limits, the largest p-value counts.
3. `tail_p_value` tests in the same way that too large a share of the users loses much.
4. `fixed_sequence` certifies in that order and stops at the first policy that fails, so any number of them may be tried at one
   level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv, ndtri

from rexit.calibration.metrics import Metric, parse
from rexit.errors import InputError
from rexit.upkeep.audit.betting import ROUNDING, exceeds

ORDER_SEED = 20250103
"""Users bet in a fixed order, independent of the data. Trying several seeds would void the guarantee."""

BOLDEST = 0.95
"""The largest bet, as a share of the bet that loses everything on the worst possible loss. With a few hundred users this, and not
their spread, limits the bets: see docs/notes/depth/method.md."""

POWER = 0.8
"""The chance to certify that `users_needed` asks for."""

FIRST_VARIANCE = 0.05
"""The initial guess of the variance, for losses from 0 to 1; counts as one user."""

MAX_USERS = 10**8
"""More users than this count as infinitely many."""


def p_value(losses: NDArray[np.float64], bounds: tuple[float, float], limit: float, level: float = 0.05) -> float:
    """Returns the p-value of the hypothesis that the expected loss is above the limit.

    It is at most any u in (0, 1) with a chance of at most u if the hypothesis holds, for any distribution within the bounds and
    any n. A betting martingale (Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting"): with
    losses scaled to x in [0, 1] and the limit to m,

        capital = prod (1 - bet_i (x_i - m)),  bet_i = min(BOLDEST / (1 - m), sqrt(2 log(1 / level) / (n variance_i)))

    where variance_i is that of the users before the i-th. Under the hypothesis capital does not grow on average, so the chance
    that it ever reaches 1 / u is at most u.

    It serves every metric: unlike a Hoeffding-Bentkus bound it adapts to the losses' spread (docs/notes/depth/method.md compares
    them).

    Args:
        losses: float64 [n], one per user, within `bounds`.
        bounds: the least and the largest loss possible.
        limit: in the unit of the losses.
        level: the level that bets aim at. The p-value is valid at any other level.

    Raises:
        InputError: for a limit outside the bounds or a level outside (0, 1).
        ValueError: for losses outside the bounds.
    """
    x, m = _scaled(losses, bounds, limit, level)
    if len(x) == 0:
        return 1.0
    x = np.random.default_rng(ORDER_SEED).permutation(x)
    counts = np.arange(1, len(x) + 1)
    mean = (m + np.cumsum(x)) / (counts + 1)
    variance = (FIRST_VARIANCE + np.cumsum((x - mean) ** 2)) / (counts + 1)
    bet = _bet(np.r_[FIRST_VARIANCE, variance[:-1]], len(x), m, level)
    return float(np.exp(-np.cumsum(np.log1p(-bet * (x - m))).max(initial=0.0)))


def tail_p_value(losses: NDArray[np.float64], share: float, loss: float) -> float:
    """Returns the exact binomial p-value of the hypothesis that more than `share` of the users lose more than `loss`.

    losses: float64 [n], one per user.
    """
    return float(bdtr(np.count_nonzero(exceeds(losses, loss)), len(losses), share)) if len(losses) else 1.0


def tail_users_needed(observed: float, share: float, level: float = 0.05) -> float:
    """Returns about how many users would certify in 4 of 5 calibrations that at most `share` of the users lose too much, if a
    share of `observed` did. Infinite if that is not below, or if more than MAX_USERS would be needed."""
    if not observed < share:
        return math.inf
    spread = -ndtri(level) * math.sqrt(share * (1 - share)) + ndtri(POWER) * math.sqrt(observed * (1 - observed))
    users = max((spread / (share - observed)) ** 2, math.log(level) / math.log1p(-share))  # not fewer than if nobody does
    return math.ceil(users) if users <= MAX_USERS else math.inf


def tail_margin(observed: float, share: float, users: int, level: float = 0.05) -> float:
    """Returns the `margin` of so many users who test that at most `share` of them lose too much, if `observed` is the share."""
    above = (share - observed) * math.sqrt(users) + ndtri(level) * math.sqrt(share * (1 - share))
    return _ratio(above, math.sqrt(observed * (1 - observed)))


def share_interval(count: int, n: int, chance: float = 0.2) -> tuple[float, float]:
    """Returns the ends of the exact interval (Clopper & Pearson) of the share that `count` of n users are. chance: to miss it."""
    low = float(betaincinv(count, n - count + 1, chance / 2)) if count else 0.0
    return low, float(betaincinv(count + 1, n - count, 1 - chance / 2)) if count < n else 1.0


def fixed_sequence(p_values: Sequence[float], level: float) -> int:
    """Returns how many policies are certified: those before the first whose p-value is above its level.

    Args:
        p_values: in an order that was fixed without the users that certify.
        level: the chance that a certificate is wrong.
    """
    return next((n for n, p in enumerate(p_values) if not p <= level), len(p_values))


def margin(losses: NDArray[np.float64], bounds: tuple[float, float], limit: float, users: int, level: float = 0.05) -> float:
    """Returns by how many standard deviations so many users are expected to pass, if their losses are distributed as these are:
    they do with about the chance that a standard normal number is below it. Arguments as for `p_value`.

    An estimate: log capital after n users is assumed to be normal, with n times the mean and variance of one bet on these losses.
    """
    x, m = _scaled(losses, bounds, limit, level)
    variance = (FIRST_VARIANCE + users * x.var()) / (users + 1)
    gain = np.log1p(-_bet(np.full(1, variance), users, m, level) * (x - m))
    return _ratio(users * gain.mean() + math.log(level), math.sqrt(users) * gain.std())


def users_needed(losses: NDArray[np.float64], bounds: tuple[float, float], limit: float, level: float = 0.05) -> float:
    """Returns about how many users would certify in 4 of 5 calibrations if their losses were distributed as these are.

    Infinite if these are not below the limit on average, or if more than MAX_USERS would be needed. Arguments as for `p_value`.
    """
    x, m = _scaled(losses, bounds, limit, level)
    if not x.mean() < m:
        return math.inf

    def certifies(n: int) -> bool:
        return margin(losses, bounds, limit, n, level) >= float(ndtri(POWER))

    low, high = 0, 1
    while not certifies(high):
        low, high = high, 2 * high
        if high > MAX_USERS:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certifies(middle) else (middle, high)
    return high


def guarantee(
    limits: Mapping[Metric, float],
    users: Mapping[str, int],
    level: float = 0.05,
    tail: str | None = None,
    noun: str = "users",
    against: str = "the full model",
) -> str:
    """Returns the guarantee in one sentence.

    Args:
        limits: each metric's limit; all hold at once.
        users: how many users certified it, by metric's name.
        level: the chance that the guarantee is wrong.
        tail: what else holds, as a part of a sentence.
        noun: whom the slates are of, `users` or `queries`.
        against: what losses are counted against.
    """
    promises = " and ".join(f"{limit:g} of {metric.title}" for metric, limit in limits.items())
    return (
        f"With {100 * (1 - level):g} % confidence, {noun} like these lose on average at most {promises} against "
        f"{against}{'' if tail is None else f', and {tail}'}: "
        f"tested on {count_users(users, noun)} who had no part in choosing the policy or its heads."
    )


def count_users(users: Mapping[str, int], noun: str = "users") -> str:
    """Returns how many users have a value: "1,943 users", or "18 users (NDCG@10) and 20 users (agreement)".

    users: by metric's name.
    """
    if len(set(users.values())) == 1:
        return f"{next(iter(users.values())):,} {noun}"
    return " and ".join(f"{count:,} {noun} ({parse(name).title})" for name, count in users.items())


def _ratio(above: float, spread: float) -> float:
    return float(above / spread) if spread else math.copysign(math.inf, above)


def _bet(variance: NDArray[np.float64], n: int, m: float, level: float) -> NDArray[np.float64]:
    return np.minimum(BOLDEST / (1 - m), np.sqrt(2 * math.log(1 / level) / (n * variance)))


def _scaled(
    losses: NDArray[np.float64], bounds: tuple[float, float], limit: float, level: float
) -> tuple[NDArray[np.float64], float]:
    low, high = bounds
    if not low < limit < high:
        raise InputError(f"limit {limit:g}: expected a loss above {low:g} and below {high:g}")
    if not 0 < level < 1:
        raise InputError(f"level {level:g}: expected a number above 0 and below 1")
    x = (losses - low) / (high - low)
    if not ((x >= -ROUNDING) & (x <= 1 + ROUNDING)).all():  # rounding may take a loss out of its bounds
        raise ValueError(f"losses from {losses.min()} to {losses.max()}, expected {low} to {high}")
    return x.clip(0, 1), (limit - low) / (high - low)
