"""Many decisions: what they certify keeps its promise in the population that their users were drawn from.

At the border: whatever is certified loses more than promised, so each certificate is a false one. Before each decision, one of
many heads that are equally bad in the population is chosen for the first exit, as `rexit heads` chooses. By chance it loses
little on the users who chose it; if these certify, it is certified.
"""

from collections.abc import Callable

import numpy as np
import pytest

from builders.decisions import decide_on
from rexit import roles
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import parse
from rexit.calibration.record import traces as recorded
from rexit.calibration.record.traces import Traces
from rexit.ranking import ByUser
from running.fast import fast

GOAL = Goal((parse("user-auc"),), 0.094, 0.8)
"""Each head loses 0.0944 to 0.105. One certificate in five may be wrong, so that few calibrations show it."""

USERS, PAIRS, HEADS, EVERYBODY = 120, 8, 300, 4000
HIDDEN = 0.95
"""How much of a label depends on what only full depth knows."""


class Population:
    """Users of whom the first exit knows the coarse half of what full depth knows.

    Full depth's log-odds are a level and a tiny rest, which decides much of the label. Its probabilities do not show that, so the
    search expects to lose nothing by stopping everybody at the first exit.
    """

    def __init__(self, random: np.random.Generator) -> None:
        n = EVERYBODY * PAIRS
        level, rest = random.choice([-1.0, 1.0], n), random.normal(size=n)
        self.liked = random.random(n) < 1 / (1 + np.exp(-level - HIDDEN * rest))
        self._users = np.repeat(np.arange(EVERYBODY), PAIRS)
        self._by_user = ByUser(self._users, self.liked)
        self._full = level + 1e-3 * rest
        self._heads = level + 1e-3 * random.normal(size=(HEADS, n))
        full = self._by_user.auc(self._full)
        self.losses = np.stack([full - self._by_user.auc(head) for head in self._heads])
        """User AUC that each user loses by each head: float64 [HEADS, EVERYBODY]."""
        self.counts = self._by_user.both
        """Users who have a user AUC."""

    def traces(self, head: int, users: np.ndarray) -> Traces:
        """The traces of some users with a head at the first exit."""
        log_odds = np.stack([self._heads[head], self._full], 1).astype(np.float32)
        offsets = np.arange(0, len(self.liked) + 1, PAIRS)
        everybody = Traces(log_odds, self.liked, self._users, offsets, tuple(range(EVERYBODY)))
        return everybody.of_users(np.isin(np.arange(EVERYBODY), users))


def false_certificates(calibrations: int, chooses_heads: Callable[[int], bool]) -> tuple[int, int]:
    """How many calibrations tried to stop everybody at the first exit, and how many certified that.

    chooses_heads: whether a user takes part in choosing a head.
    """
    population, tried, certified = Population(np.random.default_rng(10**6)), 0, 0
    for first in range(calibrations):
        users = (np.arange(USERS) * 31 + first * 127) % EVERYBODY
        choosing = [user for user in users.tolist() if chooses_heads(user) and population.counts[user]]
        head = int(population.losses[:, choosing].mean(1).argmin())
        decision = decide_on(population.traces(head, users), GOAL, depths=(1, 2))
        everybody = [candidate for candidate in decision.candidates if candidate.fixed == 0]
        tried += len(everybody) > 0
        certified += any(candidate.certified for candidate in everybody)
    return tried, certified


@pytest.mark.parametrize("calibrations", fast([48, 12], 12))
def test_certificates_are_seldom_false(monkeypatch: pytest.MonkeyPatch, calibrations: int) -> None:
    """Fewer users choose a policy than chose its head: those left out do not certify either."""
    monkeypatch.setattr(recorded, "MAX_SEARCH_PAIRS", 20 * PAIRS)
    tried, certified = false_certificates(calibrations, roles.chooses)
    assert tried == calibrations, "nothing is tried: the test shows nothing"
    assert certified <= 0.2 * calibrations + 2 * (0.16 * calibrations) ** 0.5, "more than one in five, and two deviations"


@pytest.mark.slow
def test_users_who_chose_heads_and_certify_are_found_out() -> None:
    """The test above can fail."""
    _, certified = false_certificates(60, lambda user: True)
    assert certified > 0.2 * 60 + 6
