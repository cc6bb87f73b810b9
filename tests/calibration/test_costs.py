"""The cost of a slate by where its candidates stop; what deployed modes take."""

import numpy as np
import pytest

from rexit.calibration.costs import Costs, latencies
from rexit.calibration.slates import Slate
from synthetic_traces import FakeSession

TRUE = Costs(7.0, np.array([100.0, 50.0, 60.0]), np.array([3.0, 4.0, 5.0]))


def slate(user: int, n: int) -> Slate:
    return Slate(user, tuple(range(n)), 0, np.zeros(n, bool))


def test_mean_pays_the_prefix_for_the_deepest_candidate_only() -> None:
    stops = np.array([0, 0, 2, 1, 1])
    offsets = np.array([0, 3, 5])
    first = 100 + 50 + 60 + 3 + 3 + (3 + 4 + 5)
    second = 100 + 50 + 2 * (3 + 4)
    assert TRUE.mean(stops, offsets) == pytest.approx(7 + (first + second) / 2)


def test_latencies_are_per_mode_in_milliseconds() -> None:
    session = FakeSession(3, TRUE, lambda u, i: 0.0, [1, 1, 1])
    times, exits = latencies(session, [slate(1, 10)], (None, 0, 2))
    assert times[0] == pytest.approx([0.337, 0.137, 0.337])
    assert exits[0].tolist() == [2] * 10
