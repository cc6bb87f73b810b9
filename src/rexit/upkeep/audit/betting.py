"""A test that may run for ever: has a mean risen above its limit?

`calibration.certify` bets against "the mean loss is above the limit", on a known number of users. A service bets the other way,
against "the mean loss is within the limit", and knows neither how many losses will come nor when something changes.

1. A bettor starts with a capital w and bets a share of it on every loss x in [0, 1]: w is multiplied by 1 + bet (x - limit). As
   long as the mean loss, given all before, is at most the limit, no bettor gains on average (Waudby-Smith & Ramdas, "Estimating
   means of bounded random variables by betting", arXiv 2010.09686; for watching a model in use: Timans et al., arXiv 2506.16416).
2. The best bet is unknown, so each of `BETS` bets gets a share of the capital.
3. The time of the change is unknown, so bettors start before every loss, with capitals that sum to 1. A bettor that starts at
   the change has lost nothing before it. Bettors with the same bet are kept as one sum, so memory does not grow.
4. The capital is that of all bettors, future ones included. It begins at 1, so by Ville's inequality the chance that it ever
   reaches 1 / level is at most `level` while the mean is within the limit. An alarm is that event.

A tail, "at most a share of the users loses more than so much", is tested in the same way, by each user's yes or no.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError

LEVEL = 0.05
"""The chance that there is ever a false alarm."""

BETS = 12
"""The boldest bet, then half of it, and so on. Trying them all costs log(BETS) at most; a bet wrong by a factor costs more."""

BOLDEST = 0.9
"""The boldest bet, as a share of the bet that loses everything on a loss of 0."""

ROUNDING = 1e-9
"""A loss that is above a limit by no more than this is equal to it."""

_CEILING = 1e280
"""Capital stops growing here, before float64 overflows."""


@dataclass(frozen=True)
class Tail:
    """At most a share of the users may lose more than a loss, of each metric with a value per user.

    Attributes:
        share: of the users, above 0 and below 1.
        loss: in each metric's own unit, 0 to below 1.
    """

    share: float
    loss: float

    @classmethod
    def parse(cls, text: str) -> Tail:
        """Returns the tail of `SHARE:LOSS`, as in `0.05:0.1`. Raises InputError for any other text."""
        try:
            share, loss = map(float, text.split(":"))
        except ValueError as exc:
            raise InputError(f"tail {text!r}, expected SHARE:LOSS, as in 0.05:0.1") from exc
        return cls(share, loss)

    def sentence(self, whom: str = "them") -> str:
        """What it says of `whom`, as a part of a sentence."""
        lose = f"more than {self.loss:g}" if self.loss else "anything"
        return f"at most {100 * self.share:g} % of {whom} lose {lose}"


def exceeds(losses: NDArray[np.float64], loss: float) -> NDArray[np.bool_]:
    """Returns which users lose more than `loss`. A loss that equals it does not count."""
    return losses > loss + ROUNDING


class Capital:
    """The capital of a test of "the mean loss is at most `limit`".

    Args:
        limit: the most that the mean of losses from 0 to 1 may be.
        level: the chance of a false alarm.

    Raises:
        InputError: limit or level is not between 0 and 1.
    """

    def __init__(self, limit: float, level: float = LEVEL) -> None:
        for name, value in (("limit", limit), ("level", level)):
            if not 0 < value < 1:
                raise InputError(f"{name} {value:g}: expected a number above 0 and below 1")
        self.limit, self.level = limit, level
        self.count = 0
        """Losses so far."""
        self.alarm_at: int | None = None
        """After how many losses the alarm came; None: it has not."""
        self._bets = BOLDEST / limit * 0.5 ** np.arange(BETS)
        self._bettors = np.zeros(BETS)
        self._reserve = 1.0  # of bettors that start later

    def add(self, loss: float) -> None:
        """Bets on a loss. Raises ValueError for a loss outside 0 to 1."""
        if not 0 <= loss <= 1:
            raise ValueError(f"loss {loss}: expected 0 to 1")
        self.count += 1
        start = _start_capital(self.count)
        self._reserve -= start
        self._bettors += start / BETS
        self._bettors *= 1 + self._bets * (loss - self.limit)
        np.minimum(self._bettors, _CEILING, out=self._bettors)
        if self.alarm_at is None and self.value >= 1 / self.level:
            self.alarm_at = self.count

    @property
    def value(self) -> float:
        """The capital now."""
        return float(self._reserve + self._bettors.sum())


class LossTest:
    """The test of what users lose: the mean's limit, and the tail's if there is one; then each has half the level.

    Args:
        limit: the most that the mean loss may be.
        tail: what users who lose most may lose; None: it is not tested.
    """

    def __init__(self, limit: float, tail: Tail | None) -> None:
        level = LEVEL if tail is None else LEVEL / 2
        self.capital = Capital(limit, level)
        self.of_tail = None if tail is None else Capital(tail.share, level)
        self._tail, self._total, self._over = tail, 0.0, 0

    def add(self, loss: float) -> None:
        """Bets on a user's loss."""
        self.capital.add(min(1.0, max(0.0, loss)))  # rounding may take it out
        self._total += loss
        if self._tail is not None and self.of_tail is not None:
            over = bool(exceeds(np.array(loss), self._tail.loss))
            self._over += over
            self.of_tail.add(float(over))

    @property
    def mean(self) -> float | None:
        """Mean of the losses; None without any."""
        return self._total / self.capital.count if self.capital.count else None

    @property
    def share(self) -> float:
        """The share of the users who lose more than the tail's loss; 0 without any."""
        return self._over / max(1, self.capital.count)

    @property
    def alarm_at(self) -> int | None:
        """After how many users the first alarm came, of either; None: neither has come."""
        return min(filter(None, (capital.alarm_at for capital in (self.capital, self.of_tail) if capital)), default=None)

    @property
    def alarm_capital(self) -> float:
        """The capital that is an alarm, of either."""
        return 1 / self.capital.level


def _start_capital(n: int) -> float:
    """The capital of the bettors that start before loss n, from 1. Those from 2^b to below 2^(b+1) share 1 / ((b+1) (b+2)). This
    sums to 1 and falls hardly faster than 1 / n, so a late change costs little more than log n."""
    b = n.bit_length() - 1
    return 1 / ((b + 1) * (b + 2) << b)
