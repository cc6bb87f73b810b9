"""Drift: its numbers by hand and against SciPy, and how often it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rexit.bundle import Counters
from rexit.calibration.drift import DRIFTED, MOVED, Drift, compare, reference


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
    """All of the reference in one bin: one group, which cannot differ."""
    usual = np.full((1000, 1), 0.1, np.float32)
    assert drift(normal(1000), usual).exits[0].psi == 0
    same = drift(normal(4000), normal(4000))
    assert same.exits[0].psi == 0 and same.verdict == "stable"


@pytest.mark.parametrize(("mean", "verdict"), [(0.0, "stable"), (0.6, "moved"), (1.2, "drifted"), (-6.0, "drifted")])
def test_verdicts(mean: float, verdict: str) -> None:
    found = drift(normal(5000, mean), normal(5000, seed=1))
    psi = found.exits[0].psi
    assert found.verdict == found.exits[0].verdict == verdict
    assert (psi >= MOVED, psi >= DRIFTED) == (verdict != "stable", verdict == "drifted") and math.isfinite(psi)
    assert ("Calibrate again" in found.conclusion) == (verdict == "drifted")


@pytest.mark.parametrize("groups", [2, 3, 5, 10])
def test_the_number_needed_is_the_chi_square_quantile(groups: int) -> None:
    usual = np.repeat(np.arange(groups, dtype=np.float32) / 2, 4000 // groups)[:, None]
    expected = 1 / (MOVED / stats.chi2.ppf(0.95, groups - 1) - 1 / len(usual))
    assert drift(usual, usual).exits[0].needed == pytest.approx(expected, rel=0.04)


def test_no_alarm_without_drift() -> None:
    """At the least number needed, the same distribution is called stable 19 times in 20."""
    usual = normal(2000, seed=10_000)
    needed = drift(usual, usual).exits[0].needed
    assert needed is not None and 50 < needed < 400
    alarms = sum(drift(normal(needed, seed=seed), usual).verdict != "stable" for seed in range(1000))
    assert alarms < 80


def test_too_few_to_tell() -> None:
    few = drift(normal(20, 9.0), normal(5000))
    assert few.verdict == "too few"
    assert few.conclusion == (
        f"Nothing can be concluded: 20 candidates were counted at exit 0, at least {few.exits[0].needed} are needed."
    )
    small = drift(normal(5000), normal(30))
    assert small.verdict == "too few" and small.exits[0].needed is None and "calibration saw 30" in small.conclusion
    nobody = compare(Counters(*np.zeros((3, 1), np.int64), np.zeros((1, 32), np.int64)), counted(normal(5000)))
    assert nobody.verdict == "too few" and math.isnan(nobody.exits[0].psi) and math.isnan(nobody.cut_short)


def test_later_exits_count_where_enough_reach_them() -> None:
    usual = np.concatenate([normal(5000), normal(5000, seed=1), normal(5000, seed=2)], axis=1)
    stops = np.r_[np.full(100, 2), np.full(2400, 1), np.zeros(2500, np.int64)]
    moved = usual + np.float32([0, 9, 9])
    found = compare(counted(moved, stops), counted(usual, stops))
    assert [e.verdict for e in found.exits] == ["stable", "drifted", "too few"]
    assert found.verdict == "drifted" and "exit 1 (PSI" in found.conclusion and "exit 0" not in found.conclusion
    assert [e.stopped for e in found.exits] == [(0.5, 0.5), (0.96, 0.96), (1.0, 1.0)]
    never = compare(counted(usual, stops), counted(usual, np.zeros(5000, np.int64)))
    assert [e.verdict for e in never.exits] == ["stable", "too few", "too few"] and math.isnan(never.exits[1].stopped[1])
