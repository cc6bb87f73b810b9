"""The cost of a slate by where its candidates stop; what deployed modes take."""

import numpy as np
import pytest

from doubles.session import FakeSession
from rexit.data.slates import Slate
from rexit.upkeep.measure import Costs, latencies, passes

TRUE = Costs(7.0, np.array([90.0, 45.0, 50.0]), np.array([10.0, 5.0, 10.0]), np.array([3.0, 4.0, 5.0]), 10)


def slate(user: int, n: int) -> Slate:
    return Slate(user, tuple(range(n)), 0, np.zeros(n, bool))


def test_parts_are_what_the_mean_is_made_of() -> None:
    """Two slates, of three and two candidates: both reach exit 1, one the last."""
    stops, offsets = np.array([0, 0, 2, 1, 1]), np.array([0, 3, 5])
    prefix, passes, candidates = TRUE.parts(stops, offsets)
    assert prefix.tolist() == [90, 45, 25]
    assert passes.tolist() == [10, 5, 5]
    assert candidates.tolist() == [5 * 3 / 2, 3 * 4 / 2, 5 / 2]


def test_each_pass_of_a_slate_is_paid() -> None:
    """Two candidates a pass: of five, three passes reach exit 0, of the three left two reach exit 1, one the last."""
    costs = Costs(7.0, np.array([90.0, 45.0, 50.0]), np.array([10.0, 5.0, 10.0]), np.array([3.0, 4.0, 5.0]), 2)
    stops, offsets = np.array([0, 2, 1, 0, 1, 0]), np.array([0, 5, 6])
    first = 90 + 45 + 50 + 3 * 10 + 2 * 5 + 10 + 5 * 3 + 3 * 4 + 5
    second = 90 + 10 + 3
    assert costs.mean(stops, offsets) == pytest.approx(7 + (first + second) / 2)


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [
        ([4] * 10, 40, 1),
        ([4] * 11, 40, 2),
        ([4] * 10, 39, 2),
        ([30, 30, 30], 40, 3),
        ([100, 1, 39, 1], 40, 3),
        ([5], 1, 1),
        ([], 9, 0),
    ],
)
def test_passes_as_the_runtime_cuts_them(tokens: list[int], limit: int, expected: int) -> None:
    assert passes(tokens, limit) == expected


def test_latencies_are_per_mode_in_milliseconds() -> None:
    session = FakeSession(3, TRUE, lambda u, i: 0.0, [1, 1, 1])
    times, exits = latencies(session, [slate(1, 10)], (None, 0, 2))
    assert times[0] == pytest.approx([0.337, 0.137, 0.337])
    assert exits[0].tolist() == [2] * 10
