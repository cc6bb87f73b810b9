"""Many calibrations, from hidden rows on: what they certify keeps its promise in the population that users were drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from builders.promises import GOALS, run
from rexit.calibration import certify


def counts(numbers: Iterable[int], mapping: Callable[..., Iterable[Any]] = map) -> tuple[int, int, int]:
    """How many calibrations there were, how many certified a policy, and how many of these lose more than promised."""
    results = list(mapping(run, numbers))
    return len(results), sum(result.certified for result in results), sum(result.false for result in results)


@pytest.mark.medium
def test_promises_are_kept() -> None:
    """One of each kind; the tests below make many."""
    _, certified, false = counts(range(len(GOALS)))
    assert certified >= 2, "nothing is certified: the test shows nothing"
    assert false <= 1, "two of four by chance in one of seventy"


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(len(GOALS)), ids=list(GOALS))
def test_false_certificates_in_two_thousand(kind: int) -> None:
    """500 of each kind of goal: at most 5 % or, by chance, not surely more."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # xdist gives a module one process
        runs, _, false = counts(range(kind, 2000, len(GOALS)), pool.map)
    assert certify.share_interval(false, runs, 0.05)[0] <= 0.05, false


@pytest.mark.slow
def test_a_certificate_that_takes_twice_the_limit_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    monkeypatch.setattr(certify, "p_value", lambda losses, bounds, limit, level: 0.0 if losses.mean() < 2 * limit else 1.0)
    runs, _, false = counts(range(0, 80, len(GOALS)))
    assert false > 0.2 * runs
