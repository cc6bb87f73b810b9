"""Drift: its numbers by hand and against SciPy, and how often it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rexit.bundle import Counters
from rexit.calibration.drift import DRIFTED, KS_DRIFTED, KS_MOVED, MOVED, Drift, compare, reference


def counted(c: NDArray[np.float32], stops: NDArray[np.int64] | None = None) -> Counters:
    stops = np.full(len(c), c.shape[1] - 1) if stops is None else stops
    return Counters.from_json(reference(c, stops), c.shape[1], "here")


def normal(n: int, mean: float = 0.0, scale: float = 1.5, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(mean, scale, (n, 1)).astype(np.float32)


def drift(seen: NDArray[np.float32], usual: NDArray[np.float32]) -> Drift:
    return compare(counted(seen), counted(usual))


def test_reference_holds_those_that_reached_each_exit() -> None:
    c = np.array([[0.1, 9, 9], [-9, 0.6, 9], [0.2, 0.7, -8]], np.float32)
    made = reference(c, np.array([0, 1, 2]))
    assert (made["reached"], made["stopped"]) == ([3, 2, 1], [1, 1, 1])
    filled = [{i: n for i, n in enumerate(row) if n} for row in made["histograms"]]
    assert filled == [{0: 1, 16: 2}, {17: 2}, {0: 1}]


def test_psi_by_hand() -> None:
    """Two groups of one bin each, below and above zero."""
    usual = np.repeat(np.float32([-0.1, 0.1]), 5000)[:, None]
    seen = np.repeat(np.float32([-0.1, 0.1]), [7000, 3000])[:, None]
    (exit,) = drift(seen, usual).exits
    assert exit.psi == pytest.approx((0.7 - 0.5) * math.log(0.7 / 0.5) + (0.3 - 0.5) * math.log(0.3 / 0.5), rel=1e-3)
    assert exit.ks == pytest.approx(0.2)


def test_ks_is_scipys_on_the_bins() -> None:
    seen, usual = normal(3000, 0.4), normal(5000, seed=1)
    binned = [np.clip(np.floor(2 * c[:, 0]), -16, 15) for c in (seen, usual)]
    assert drift(seen, usual).exits[0].ks == pytest.approx(stats.ks_2samp(*binned).statistic)


def test_groups_follow_the_reference_and_need_no_empty_bin() -> None:
    same = drift(normal(4000), normal(4000))
    assert same.exits[0].psi == 0 and same.verdict == "stable"


CROWDED = np.repeat(np.float32([-0.6, 0.1, 0.6]), [30, 940, 30])[:, None]
"""Nearly all in one bin, as c is where a model hardly ranks."""


def test_who_leaves_the_bin_that_holds_nearly_all_is_seen() -> None:
    """No alarm here means that candidates of another population are served by this policy."""
    for usual in (CROWDED, np.full((1000, 1), 0.1, np.float32)):
        for outermost in (9.0, -9.0):
            gone = drift(np.full((5000, 1), outermost, np.float32), usual)
            assert gone.verdict == "drifted" and "Calibrate again" in gone.conclusion
            assert gone.exits[0].psi > 1 and gone.exits[0].ks > 0.9
        half = drift(np.repeat(np.float32([0.1, 0.6]), 2500)[:, None], usual)
        assert half.verdict == "drifted"


def test_who_moves_within_the_bin_that_holds_nearly_all_is_not_seen() -> None:
    """`No drift` would be a claim that the counters cannot bear out."""
    within = drift(np.repeat(CROWDED, 5, axis=0), CROWDED)
    assert within.verdict == "cannot tell"
    assert within.conclusion == (
        "Nothing can be concluded: 94% of calibration's candidates are in one bin of c at exit 0, and moves within it do not "
        "show."
    )
    few = drift(CROWDED[:3], CROWDED)
    assert few.verdict == "cannot tell" and "3 candidates were counted" in few.conclusion


def test_ks_decides_where_many_small_moves_hide_from_the_groups() -> None:
    """A quarter of each group moves by one group: the PSI of ten even groups sees little."""
    usual = np.repeat(np.arange(10, dtype=np.float32) / 2, 500)[:, None]
    seen = np.repeat(np.arange(10, dtype=np.float32) / 2, [370, 450, 450, 450, 450, 550, 550, 550, 550, 630])[:, None]
    (exit,) = drift(seen, usual).exits
    assert exit.psi < MOVED and 0.05 < exit.ks < KS_MOVED and exit.verdict == "stable"
    seen = np.repeat(np.arange(10, dtype=np.float32) / 2, [350, 370, 370, 370, 370, 630, 630, 630, 630, 650])[:, None]
    (exit,) = drift(seen, usual).exits
    assert exit.psi < MOVED and exit.ks >= KS_MOVED and exit.verdict == "moved"


def test_borders_of_ks_are_those_of_a_normal_distribution_that_moves() -> None:
    for border, ks in ((MOVED, KS_MOVED), (DRIFTED, KS_DRIFTED)):
        assert ks == pytest.approx(2 * stats.norm.cdf(math.sqrt(border) / 2) - 1)


@pytest.mark.parametrize(("mean", "verdict"), [(0.0, "stable"), (0.6, "moved"), (1.2, "drifted"), (-6.0, "drifted")])
def test_verdicts(mean: float, verdict: str) -> None:
    found = drift(normal(5000, mean), normal(5000, seed=1))
    psi = found.exits[0].psi
    assert found.verdict == found.exits[0].verdict == verdict
    assert (psi >= MOVED, psi >= DRIFTED) == (verdict != "stable", verdict == "drifted") and math.isfinite(psi)
    assert (found.exits[0].ks >= KS_MOVED, found.exits[0].ks >= KS_DRIFTED) == (verdict != "stable", verdict == "drifted")
    assert ("Calibrate again" in found.conclusion) == (verdict == "drifted")


@pytest.mark.parametrize("groups", [2, 3, 5, 10])
def test_the_number_needed_is_what_psi_and_ks_both_take(groups: int) -> None:
    usual = np.repeat(np.arange(groups, dtype=np.float32) / 2, 4000 // groups)[:, None]
    psi, ks = MOVED / stats.chi2.ppf(0.95, groups - 1), 2 * KS_MOVED**2 / math.log(2 / 0.05)
    expected = 1 / (min(psi, ks) - 1 / len(usual))
    assert drift(usual, usual).exits[0].needed == pytest.approx(expected, rel=0.04)


def test_no_alarm_without_drift() -> None:
    """At the least number needed, the same distribution is called stable 19 times in 20."""
    usual = normal(2000, seed=10_000)
    needed = drift(usual, usual).exits[0].needed
    assert needed is not None and 50 < needed < 400
    alarms = sum(drift(normal(needed, seed=seed), usual).verdict != "stable" for seed in range(1000))
    assert alarms < 80
    needed = drift(CROWDED, CROWDED).exits[0].needed
    assert needed is not None
    random = np.random.default_rng(0)
    alarms = sum(drift(random.choice(CROWDED, needed), CROWDED).verdict != "cannot tell" for _ in range(1000))
    assert alarms < 80


def test_too_few_to_tell() -> None:
    few = drift(normal(20, 9.0), normal(5000))
    assert few.verdict == "cannot tell"
    assert few.conclusion == (
        f"Nothing can be concluded: 20 candidates were counted at exit 0, at least {few.exits[0].needed} are needed."
    )
    small = drift(normal(5000), normal(30))
    assert small.verdict == "cannot tell" and small.exits[0].needed is None and "calibration saw 30" in small.conclusion
    nobody = compare(Counters(*np.zeros((3, 1), np.int64), np.zeros((1, 32), np.int64)), counted(normal(5000)))
    assert nobody.verdict == "cannot tell" and math.isnan(nobody.exits[0].psi) and math.isnan(nobody.cut_short)


def test_later_exits_count_where_enough_reach_them() -> None:
    usual = np.concatenate([normal(5000), normal(5000, seed=1), normal(5000, seed=2)], axis=1)
    stops = np.r_[np.full(100, 2), np.full(2400, 1), np.zeros(2500, np.int64)]
    moved = usual + np.float32([0, 9, 9])
    found = compare(counted(moved, stops), counted(usual, stops))
    assert [e.verdict for e in found.exits] == ["stable", "drifted", "cannot tell"]
    assert found.verdict == "drifted" and "exit 1 (PSI" in found.conclusion and "exit 0" not in found.conclusion
    assert [e.stopped for e in found.exits] == [(0.5, 0.5), (0.96, 0.96), (1.0, 1.0)]
    never = compare(counted(usual, stops), counted(usual, np.zeros(5000, np.int64)))
    assert [e.verdict for e in never.exits] == ["stable", "cannot tell", "cannot tell"] and math.isnan(never.exits[1].stopped[1])
