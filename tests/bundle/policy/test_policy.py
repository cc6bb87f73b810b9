"""The stopping rule, on cases worked by hand and against its own tolerance."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rexit.bundle import ExitPolicy, Policy, TopK
from rexit.errors import BundleError


def policy(*exits: tuple[float, float, float, float], patience: int = 1) -> Policy:
    return Policy(tuple(ExitPolicy(*e) for e in exits), patience, "d")


FREE = (1.0, 0.0, math.inf, math.inf)
FREE_EXIT = {"a": 1, "b": 0, "upper": None, "lower": None}
MADE_ON = {"device": "cpu", "threads": 2, "machine": {"architecture": "x86_64", "onnxruntime": None, "rexit": "0.1.0"}}
TOP_K = {"k": 1, "ordered": False, "rise": [0], "fall": [0]}


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


def test_full_depth_stops_at_the_last_only() -> None:
    z = np.random.default_rng(0).normal(0, 50, (100, 4)).astype(np.float32)
    assert (Policy.full_depth(4, "d").stops(z, np.array([0, 100])) == 3).all()


def test_c_reads_the_heads_so_far() -> None:
    made = policy((2.0, 0.5, 1.0, 1.0), (-1.0, 0.25, 1.0, 1.0), (0.0, -0.5, 1.0, 1.0))
    exits = made.exits[0], replace(made.exits[1], earlier=(3.0,)), replace(made.exits[2], earlier=(-2.0, 4.0))
    z = np.float32([[1, 2, 9], [-1, 0.5, 9]])
    c = replace(made, exits=exits).calibrated(z)
    np.testing.assert_array_equal(c, np.float32([[2.5, -2 + 0.25 + 3, -0.5 - 2 + 8], [-1.5, -0.5 + 0.25 - 3, -0.5 + 2 + 2]]))
    assert c.dtype == np.float32


def with_earlier_heads(made: Policy, random: np.random.Generator) -> Policy:
    exits = [replace(e, earlier=tuple(random.uniform(-1, 1, k).tolist())) for k, e in enumerate(made.exits)]
    return replace(made, exits=tuple(exits))


def random_policy(random: np.random.Generator) -> Policy:
    exits = [tuple(random.uniform((0.2, -1, 0, 0), (2, 1, 2, 2)).tolist()) for _ in range(3)]
    return policy(*exits, FREE, patience=int(random.integers(1, 4)))


@pytest.mark.parametrize("earlier", [False, True])
def test_exit_range_holds_every_answer_within_the_margin_and_little_else(earlier: bool) -> None:
    random = np.random.default_rng(0)
    allowed = 0.0
    for _ in range(50):
        made = with_earlier_heads(random_policy(random), random) if earlier else random_policy(random)
        z = random.normal(0, 1, (40, 4)).astype(np.float32)
        earliest, latest = made.exit_range(z, 0.05, np.array([0, 40]))
        allowed += (latest - earliest + 1).sum() / 2000
        for _ in range(20):
            stops = made.stops(z + random.uniform(-0.05, 0.05, z.shape).astype(np.float32), np.array([0, 40]))
            assert ((earliest <= stops) & (stops <= latest)).all()
    assert allowed < 1.3


def test_exit_range_without_margin_is_the_answer() -> None:
    random = np.random.default_rng(1)
    for n in range(20):
        made = with_earlier_heads(random_policy(random), random) if n % 2 else random_policy(random)
        z = random.normal(0, 1, (50, 4)).astype(np.float32)
        for side in made.exit_range(z, 0.0, np.array([0, 50])):
            np.testing.assert_array_equal(side, made.stops(z, np.array([0, 50])))


def test_infinite_threshold_never_stops_however_large_c_is() -> None:
    made = policy(FREE, FREE, FREE)
    z = np.array([[np.inf, -np.inf, 1], [-3e38, 3e38, 1]], np.float32)
    assert made.stops(z, np.array([0, 2])).tolist() == [2, 2]
    assert [side.tolist() for side in made.exit_range(z, 0.05, np.array([0, 2]))] == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("exit", "expected"),
    [
        ((math.inf, 0.0, 1.0, 1.0), "a: is inf"),
        ((1e-50, 0.0, 1.0, 1.0), "a: is 1e-50"),
        ((1.0, math.nan, 1.0, 1.0), "b: is nan"),
        ((1.0, 0.0, -math.inf, 1.0), "upper: is -inf"),  # null would say the contrary
        ((1.0, 0.0, 1.0, math.nan), "lower: is nan"),
    ],
)
def test_what_no_reader_takes_is_not_written(tmp_path: Path, exit: tuple[float, float, float, float], expected: str) -> None:
    with pytest.raises(BundleError, match=rf"not written: exits\[0\] {expected}"):
        policy(exit, FREE).write(tmp_path / "policy.json")
    assert list(tmp_path.iterdir()) == []


def test_written_and_read_again(tmp_path: Path) -> None:
    path, plain = tmp_path / "policy.json", policy((float(np.float32(0.7)), 0.25, 1.5, math.inf), FREE, patience=2)
    rules = {"quorum": 0.25}, {"top_k": TopK(5, True, (0.5,), (0.0,))}
    for variation in (plain, replace(plain, **rules[0]), replace(plain, **rules[1]), replace(plain, **rules[0], **rules[1])):
        variation.write(path)
        assert Policy.read(path, 2, "d") == variation
        replace(variation, made_on=MADE_ON).write(path)
        assert Policy.read(path, 2, "d") == replace(variation, made_on=MADE_ON)


def test_earlier_heads_are_written_where_there_are_some(tmp_path: Path) -> None:
    path, plain = tmp_path / "policy.json", policy(FREE, FREE, FREE)
    plain.write(path)
    assert b"earlier" not in path.read_bytes()
    exits = (*plain.exits[:2], replace(plain.exits[2], a=-0.5, earlier=(0.25, -0.125)))
    policy_with_earlier = replace(plain, exits=exits)
    policy_with_earlier.write(path)
    assert Policy.read(path, 3, "d") == policy_with_earlier
    assert [e.get("earlier") for e in json.loads(path.read_text())["exits"]] == [None, None, [0.25, -0.125]]


def test_the_prior_shift_is_written_where_there_is_one(tmp_path: Path) -> None:
    path, shifted = tmp_path / "policy.json", replace(policy(FREE, FREE), prior_shift=-2.5)
    shifted.write(path)
    assert Policy.read(path, 2, "d") == shifted
    replace(shifted, prior_shift=0.0).write(path)
    assert b"prior" not in path.read_bytes()


def test_the_prior_shift_multiplies_the_odds() -> None:
    shifted = replace(policy(FREE), prior_shift=float(np.float32(np.log(0.25))))
    np.testing.assert_allclose(shifted.probability(np.float32([0, np.log(4), -1e30, 1e30])), [0.2, 0.5, 0, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "earlier", "expected"),
    [
        (1.0, (1.0,), r"exits\[2\] earlier: has 1 numbers, expected one per earlier exit, 2"),
        (1.0, (1.0, 2.0, 3.0), r"exits\[2\] earlier: has 3 numbers"),
        (1.0, (1.0, math.nan), r"exits\[2\] earlier\[1\]: is nan, expected -1e\+09 to 1e\+09"),
        (1.0, (-1e10, 1.0), r"exits\[2\] earlier\[0\]: is -1"),
        (-math.inf, (1.0, 1.0), r"exits\[2\] a: is -inf"),
        (-1.0, (), r"exits\[2\] a: is -1, expected more than 0"),
    ],
)
def test_earlier_heads_that_no_reader_takes(tmp_path: Path, a: float, earlier: tuple[float, ...], expected: str) -> None:
    with pytest.raises(BundleError, match=f"not written: {expected}"):
        Policy((ExitPolicy(), ExitPolicy(), ExitPolicy(a, earlier=earlier)), 1, "d").write(tmp_path / "policy.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"quorum": math.nan}, "quorum: is nan"),
        ({"quorum": 1.0}, "quorum: is 1,"),
        ({"top_k": TopK(0, False, (0.0,), (0.0,))}, "top_k k: is 0"),
        ({"top_k": TopK(1, False, (math.inf,), (0.0,))}, r"top_k rise\[0\]: is inf"),
        ({"top_k": TopK(1, False, (0.0,), (0.0, 0.0))}, "top_k fall: has 2 numbers"),
    ],
)
def test_rules_of_the_slate_that_no_reader_takes_are_not_written(tmp_path: Path, rules: dict, expected: str) -> None:
    with pytest.raises(BundleError, match=f"not written: {expected}"):
        replace(policy(FREE, FREE), **rules).write(tmp_path / "policy.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"variant_sha256": "e"}, "made for another export of this variant"),
        ({"exits": [{"a": 1, "b": 10**400, "upper": None, "lower": None}] * 2}, r"exits\[0\] b: Number out of range"),
        ({"exits": [{"a": 1, "b": 0, "upper": None}] * 2}, r"exits\[0\]: `lower` is missing"),
    ],
)
def test_what_is_no_policy_of_this_variant(tmp_path: Path, change: dict, expected: str) -> None:
    """More in tests/damage/policies.py."""
    path = tmp_path / "policy.json"
    policy(FREE, FREE).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=expected):
        Policy.read(path, 2, "d")
