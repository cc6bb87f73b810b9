"""A profile finds the costs that made the times, survives its file, and serves its own variant only."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rexit.calibration.costs import Costs
from rexit.calibration.profile import Profile, SegmentCost, mean_tokens, measure
from rexit.calibration.slates import Slate
from rexit.errors import BundleError
from synthetic_traces import CANDIDATE_TOKENS, PREFIX_TOKENS, FakeSession

TRUE = Costs(7.0, np.array([100.0, 50.0, 60.0]), np.array([3.0, 4.0, 5.0]))
PROFILE = Profile(
    "a" * 64,
    7.5,
    (SegmentCost(1.0, 0.5, 20.0, 3.25), SegmentCost(0.0, 0.75, 0.0, 4.5)),
    0.01,
    2,
    {"cpu": "one", "cores": 2},
)


def slate(user: int, n: int) -> Slate:
    return Slate(user, tuple(range(n)), 0, np.zeros(n, bool))


class Line:
    """Answers in times that are linear in tokens, with prefixes of user-dependent length."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def score(self, user: int, items: tuple[int, ...], *, as_of: int | None, force_exit: int) -> SimpleNamespace:
        prefix, tokens = 10 * user, 12 * len(items)
        run = self.profile.segments[: force_exit + 1]
        stats = SimpleNamespace(
            retrieval_us=self.profile.base_us,
            prefix_us=sum(s.prefix_us + s.prefix_token_us * prefix for s in run),
            slate_us=sum(s.slate_us + s.candidate_token_us * tokens for s in run),
            prefix_tokens=prefix,
            candidate_tokens=tokens,
        )
        return SimpleNamespace(stats=stats)

    def warm_up(self) -> None: ...

    def clear_cache(self) -> None: ...


def test_measure_recovers_every_coefficient() -> None:
    found = measure(Line(PROFILE), [slate(1, 20), slate(5, 8), slate(9, 1)], 2, PROFILE.variant_sha256)
    assert found.base_us == pytest.approx(7.5) and found.variant_sha256 == PROFILE.variant_sha256
    assert found.fit_error == pytest.approx(0, abs=1e-9)
    for seen, true in zip(found.segments, PROFILE.segments, strict=True):
        assert list(vars(seen).values()) == pytest.approx(list(vars(true).values()), abs=1e-6)


def test_costs_are_those_behind_the_times() -> None:
    session, slates = FakeSession(3, TRUE, lambda u, i: 0.0, [1, 1, 1]), [slate(1, 20), slate(2, 7), slate(3, 1)]
    profile = measure(session, slates, 3, "x")
    tokens = mean_tokens(session, slates)
    assert tokens == (PREFIX_TOKENS, CANDIDATE_TOKENS)
    found = profile.costs(*tokens)
    assert found.base_us == pytest.approx(7)
    np.testing.assert_allclose(found.segment_us, TRUE.segment_us, rtol=1e-6)
    np.testing.assert_allclose(found.candidate_us, TRUE.candidate_us, rtol=1e-6)


def test_cost_is_never_negative_when_a_deeper_exit_was_timed_faster() -> None:
    odd = Costs(1.0, np.array([100.0, -30.0]), np.array([3.0, -1.0]))
    found = measure(FakeSession(2, odd, lambda u, i: 0.0, [1, 1]), [slate(1, 20)], 2, "x").costs(PREFIX_TOKENS, CANDIDATE_TOKENS)
    assert (found.segment_us >= 0).all() and (found.candidate_us >= 0).all()


def test_fit_error_is_told() -> None:
    class Curved(Line):
        def score(self, user: int, items: tuple[int, ...], **keywords: int) -> SimpleNamespace:
            scores = super().score(user, items, **keywords)
            scores.stats.slate_us = scores.stats.candidate_tokens**2
            return scores

    assert measure(Curved(PROFILE), [slate(1, 20)], 1, "x").fit_error > 0.1


def test_costs_grow_with_tokens() -> None:
    costs = PROFILE.costs(100, 10)
    assert costs.segment_us.tolist() == [20 + 1 + 50, 75] and costs.candidate_us.tolist() == [32.5, 45]


def test_file_round_trip(tmp_path: Path) -> None:
    PROFILE.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json", 2, "a" * 64) == PROFILE


def test_profile_of_another_variant(tmp_path: Path) -> None:
    PROFILE.write(tmp_path / "profile.json")
    with pytest.raises(BundleError, match="measured with variant aaaaaaaaaaaa…, this one is bbbbbbbbbbbb…: measure again"):
        Profile.read(tmp_path / "profile.json", 2, "b" * 64)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda v: v.pop("base_us"), "not a profile: KeyError"),
        (lambda v: v.update(segments=3), "not a profile: TypeError"),
        (lambda v: v["segments"][0].pop("slate_us"), "not a profile: TypeError"),
        (lambda v: v["segments"].pop(), "needs 2 segments"),
        (lambda v: v["segments"][1].update(slate_us=-1), "costs of 0 or more"),
        (lambda v: v.update(base_us="nan"), "costs of 0 or more"),
    ],
)
def test_damaged_profile(tmp_path: Path, damage, line: str) -> None:
    path = tmp_path / "profile.json"
    PROFILE.write(path)
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(BundleError, match=line):
        Profile.read(path, 2, "a" * 64)
