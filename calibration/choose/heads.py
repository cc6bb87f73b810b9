"""Which of many heads to keep: a head that no policy needs is a graph more to load and a pass more to launch.

Backward elimination on the choosing users: the exit whose closing costs the cheapest policy least is closed for good, then the
search runs again without it. What a missing head saves by itself (its norm and projection, and one launch per pass) is not in the
cost model, which knows whole segments, so it is not counted: a real export without it is somewhat cheaper still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.choose.search import Search, Space
from rexit.progress import Progress, silent

AT_ONCE = 8
"""With more open exits than that, a quarter of them is closed in each round."""

TOLERANCE = 0.01
"""Heads are worth keeping if closing them costs more than this share."""


@dataclass(frozen=True)
class Heads:
    """The cheapest policy with some of the exits.

    Attributes:
        exits: the exits kept, the last one among them.
        cost_us: microseconds per slate, on the choosing users.
    """

    exits: tuple[int, ...]
    cost_us: float


def eliminate(
    evaluation: Evaluation, useful: Sequence[bool], budget: float, progress: Progress = silent
) -> tuple[list[Heads], Heads]:
    """Returns an entry for each number of heads tried, many first, and the fewest whose policy costs at most TOLERANCE more.

    Args:
        evaluation: of the choosing users.
        useful: whether each exit's head ranks.
        budget: what policies are expected to drop by, at most; rules for the top k are left out.
    """
    last = len(useful) - 1
    exits = [k for k in range(last) if useful[k]]
    steps: list[Heads] = []
    first = len(exits)
    while True:
        progress("heads", first - len(exits), first + 1)
        search = Search(evaluation, Space(evaluation.c, [k in exits for k in range(last + 1)]))
        search.explore()
        steps.append(Heads((*exits, last), search.trade_off([budget])[budget].outcome.cost_us))
        if not exits:
            break
        without = search.costs_without(budget)
        closed = 1 if len(exits) <= AT_ONCE else len(exits) // 4
        exits = sorted(set(exits) - set(sorted(exits, key=lambda k: (without[k], k))[:closed]))
    progress("heads", first + 1, first + 1)
    good = [heads for heads in steps if heads.cost_us <= (1 + TOLERANCE) * steps[0].cost_us]
    return steps, min(good, key=lambda heads: len(heads.exits))
