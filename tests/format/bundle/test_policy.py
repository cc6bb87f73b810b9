"""The stopping rule, on cases worked by hand and against its own tolerance."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rexit.errors import BundleError
from rexit.format.bundle import ExitPolicy, Policy, TopK


def policy(*exits: tuple[float, float, float, float], patience: int = 1) -> Policy:
    return Policy(tuple(ExitPolicy(*e) for e in exits), patience, "d")


FREE = (1.0, 0.0, math.inf, math.inf)
MADE_ON = {"device": "cpu", "threads": 2, "machine": {"architecture": "x86_64", "onnxruntime": None, "rexit": "0.1.0"}}
CERTIFIED = {"certificate": {"metrics": {"ndcg@10": 0.01}, "confidence": 0.95, "tail": {"share": 0.05, "loss": 0.1}}}


@pytest.mark.parametrize(
    ("z", "patience", "stops"),
    [
        ([2.0, 0.0, 0.0], 1, 0),  # c = 3 >= 3
        ([1.9, 9.0, 0.0], 1, 1),
        ([-3.0, 0.0, 0.0], 1, 0),  # c = -2 <= -2
        ([0.0, 0.0, 9.0], 1, 2),  # nobody is sure: the last stops
        ([9.0, 9.0, 0.0], 2, 1),  # the first is sure but alone
        ([9.0, -9.0, 9.0], 2, 2),  # they disagree
        ([9.0, 9.0, 9.0], 3, 2),
    ],
)
def test_stops_by_hand(z: list[float], patience: int, stops: int) -> None:
    made = policy((1.0, 1.0, 3.0, 2.0), (2.0, 0.0, 3.0, 2.0), FREE, patience=patience)
    assert made.stops(np.array([z], np.float32), np.array([0, 1])).tolist() == [stops]


def test_c_reads_the_heads_so_far() -> None:
    made = policy((2.0, 0.5, 1.0, 1.0), (-1.0, 0.25, 1.0, 1.0), (0.0, -0.5, 1.0, 1.0))
    exits = made.exits[0], replace(made.exits[1], earlier=(3.0,)), replace(made.exits[2], earlier=(-2.0, 4.0))
    z = np.float32([[1, 2, 9], [-1, 0.5, 9]])
    c = replace(made, exits=exits).calibrated(z)
    np.testing.assert_array_equal(c, np.float32([[2.5, -2 + 0.25 + 3, -0.5 - 2 + 8], [-1.5, -0.5 + 0.25 - 3, -0.5 + 2 + 2]]))
    assert c.dtype == np.float32


def test_infinite_threshold_never_stops_however_large_c_is() -> None:
    made = policy(FREE, FREE, FREE)
    z = np.array([[np.inf, -np.inf, 1], [-3e38, 3e38, 1]], np.float32)
    assert made.stops(z, np.array([0, 2])).tolist() == [2, 2]
    assert [side.tolist() for side in made.exit_range(z, 0.05, np.array([0, 2]))] == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exits": (ExitPolicy(a=-1.0), ExitPolicy())}, r"exits\[0\] a: is -1"),
        ({"exits": (ExitPolicy(b=math.nan), ExitPolicy())}, "not valid JSON"),
        ({"exits": (ExitPolicy(upper=-math.inf), ExitPolicy())}, "not valid JSON"),  # null would say the contrary
        ({"exits": (ExitPolicy(), ExitPolicy(earlier=(2e9,)))}, r"exits\[1\] earlier\[0\]: is 2e"),
        ({"quorum": -1}, "quorum: is -1"),
        ({"top_k": TopK(1, False, (-1.0,), (0.0,))}, r"top_k rise\[0\]: is -1"),
    ],
)
def test_what_no_reader_takes_is_not_written(tmp_path: Path, changes: dict, expected: str) -> None:
    """More in tests/damage/policies.py, of what JSON can hold."""
    with pytest.raises(BundleError, match=rf"\(not written\):? {expected}"):
        replace(policy(FREE, FREE), **changes).write(tmp_path / "policy.json")
    assert list(tmp_path.iterdir()) == []


def test_written_and_read_again(tmp_path: Path) -> None:
    path, plain = tmp_path / "policy.json", policy((float(np.float32(0.7)), 0.25, 1.5, math.inf), FREE, patience=2)
    quorum, top_k = {"quorum": 3}, {"top_k": TopK(5, True, (0.5,), (0.0,))}
    earlier = {"exits": (plain.exits[0], ExitPolicy(a=-0.5, earlier=(0.25,)))}
    for changes in ({}, quorum, top_k, quorum | top_k, earlier, {"prior_shift": -2.5}, {"made_on": MADE_ON}, CERTIFIED):
        made = replace(plain, **changes)
        made.write(path)
        assert Policy.read(path, 2, "d") == made
        assert all(
            (key in path.read_text()) == (key in changes) for key in ("quorum", "top_k", "prior_shift", "made_on", "certificate")
        )
        assert ("earlier" in path.read_text()) == (changes is earlier)


def test_the_prior_shift_multiplies_the_odds() -> None:
    shifted = replace(policy(FREE), prior_shift=float(np.float32(np.log(0.25))))
    z = np.float32([[0], [np.log(4)], [-1e30], [1e30]])
    np.testing.assert_allclose(shifted.probabilities(z)[:, 0], [0.2, 0.5, 0, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("exits", "changes", "early"),
    [
        ((ExitPolicy(), ExitPolicy(), ExitPolicy(upper=1.0)), {}, False),
        ((ExitPolicy(), ExitPolicy(upper=1.0), ExitPolicy()), {}, True),
        ((ExitPolicy(lower=1.0), ExitPolicy(), ExitPolicy()), {}, True),
        ((ExitPolicy(), ExitPolicy()), {"quorum": 1}, True),
        ((ExitPolicy(keep=2), ExitPolicy()), {}, True),
    ],
)
def test_a_policy_stops_early_by_a_limit_before_the_last_exit(exits: tuple, changes: dict, early: bool) -> None:
    assert Policy(exits, 1, "", **changes).stops_early == early
