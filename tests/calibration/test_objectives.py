"""Calibration of several objectives: masked labels, the utility's log-odds, gains, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.held_out import write_ranked
from builders.decisions import decide_on
from builders.traces import even_costs
from rexit import runtime
from rexit.bundle import Bundle, Catalog
from rexit.bundle.policy import utility_log_odds
from rexit.calibration import CalibrationOptions, calibrate, metrics
from rexit.calibration.choose.objectives import cross_fit, fit, weights_of
from rexit.calibration.goal import Goal
from rexit.calibration.record.traces import Traces, gains_of
from rexit.calibration.reporting import page
from rexit.calibration.reporting.page import page as make_page
from rexit.errors import InputError
from rexit.ranking import ByGain, ByUser

NAMES = ("click", "like")
UTILITY = {"click": 1.0, "like": 2.0}


def traces(users: int = 120, per_user: int = 20, noise: tuple[float, ...] = (1.0, 0.3, 0.1), seed: int = 0) -> Traces:
    """Two objectives with true log-odds of their own, which exit k sees with normal noise; a third of the likes is unknown."""
    random = np.random.default_rng(seed)
    n = users * per_user
    truth = random.normal(0, 1.5, (n, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    labels = (random.random((n, 2)) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    labels[random.random(n) < 1 / 3, 1] = -1
    z = np.stack([truth * 0.5 + random.normal(0, size, (n, 2)) for size in noise], 1).astype(np.float32)
    gains = gains_of(labels, list(UTILITY.values()))
    liked = gains > gains_of(np.zeros((1, 2), np.int8), list(UTILITY.values()))
    return Traces(z, liked, np.repeat(np.arange(users), per_user), np.arange(0, n + 1, 10), tuple(range(users)), labels, gains)


def test_gains_are_the_utility_of_labels() -> None:
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1, -1], [-1, -1]], np.int8)
    np.testing.assert_allclose(gains_of(labels, [1.0, 2.0]), [0, 1 / 3, 2 / 3, 1, 1 / 3, 0])
    np.testing.assert_allclose(gains_of(labels, [1.0, -3.0]), [3 / 4, 1, 0, 1 / 4, 1, 3 / 4])


def test_ndcg_of_gains_is_that_of_likes_where_gains_are_likes() -> None:
    random = np.random.default_rng(0)
    users, liked = random.integers(0, 30, 400), random.random(400) < 0.4
    score = np.float32(np.round(random.normal(0, 1, 400), 1))  # with ties
    np.testing.assert_allclose(
        ByGain(users, liked.astype(np.float64)).ndcg(score, 5), ByUser(users, liked).ndcg(score, 5), equal_nan=True
    )


def test_ndcg_of_gains() -> None:
    users, gains = np.zeros(4, np.int64), np.array([0.5, 1.0, 0.0, 0.25])
    discount = 1 / np.log2([2, 3])
    value = ByGain(users, gains).ndcg(np.float32([3, 2, 1, 0]), 2)[0]
    assert value == pytest.approx((0.5 * discount[0] + 1.0 * discount[1]) / (1.0 * discount[0] + 0.5 * discount[1]))
    assert np.isnan(ByGain(users, np.full(4, 0.5)).ndcg(np.float32([3, 2, 1, 0]), 2)[0])


def test_unknown_labels_are_left_out() -> None:
    pairs = traces()
    assert pairs.objectives is not None
    known = pairs.objectives[:, 1] >= 0
    maps = fit(pairs, UTILITY)
    noisy = pairs.log_odds.copy()
    noisy[~known, :, 1] = 50
    assert fit(replace(pairs, log_odds=noisy), UTILITY) == maps
    assert maps.useful() == (True, True, True) and maps.maps[2][1].a > maps.maps[0][1].a


def test_each_objective_has_the_probability_of_its_label() -> None:
    pairs, other = traces(), traces(seed=1)
    assert other.objectives is not None
    p = fit(pairs, UTILITY).probabilities(other.log_odds)
    for n in range(2):
        known = other.objectives[:, n] >= 0
        assert p[known, 2, n].mean() == pytest.approx((other.objectives[known, n] == 1).mean(), abs=0.03)


def test_cross_fitted_log_odds_are_by_maps_of_other_users() -> None:
    pairs = traces(users=20)
    fitted, cross = fit(pairs, UTILITY).apply(pairs).log_odds, cross_fit(pairs, UTILITY).log_odds
    assert cross.shape == fitted.shape == pairs.log_odds.shape[:2]
    assert 0 < np.abs(cross - fitted).max() < 1
    others = pairs.users % 5 != 3
    assert pairs.objectives is not None
    rest = replace(pairs, log_odds=pairs.log_odds[others], objectives=pairs.objectives[others])
    np.testing.assert_array_equal(cross[~others], fit(rest, UTILITY).apply(pairs).log_odds[~others])


def test_the_decision_is_about_the_utility() -> None:
    goal, test = Goal((metrics.parse("ndcg@5"), metrics.parse("agreement")), 0.1), traces(seed=1)
    decision = decide_on(traces(240), goal, test, even_costs(3), (1, 2, 4), utility=UTILITY)
    assert decision.chosen is not None and decision.policy.utility == UTILITY and decision.objectives is not None
    assert [len(e.objectives) for e in decision.policy.exits] == [2, 2, 2] and decision.policy.problem() is None
    x = utility_log_odds(list(UTILITY.values()), [e.objectives for e in decision.policy.exits], test.log_odds)[0]
    np.testing.assert_array_equal(decision.policy.stops(test.log_odds, test.offsets), decision.policy.stops(x, test.offsets))
    full = ByGain(test.users, gains_of(test.objectives, list(UTILITY.values()))).ndcg(x[:, -1], 5)  # type: ignore[arg-type]
    assert decision.rows[0].values["ndcg@5"] == pytest.approx(np.nanmean(full))
    assert "logloss" not in decision.rows[0].values and decision.rows[-1].mean_layers < 4


@pytest.mark.parametrize(
    ("utility", "message"),
    [
        ({"click": 1.0}, "utility has click, expected click, like"),
        ({"click": 1.0, "buy": 1.0}, "utility has click, buy, expected click, like"),
        ({"click": 0.0, "like": 0.0}, "utility: all weights are 0"),
        ({"click": float("nan"), "like": 0.0}, "utility click: is nan"),
    ],
)
def test_impossible_utilities_are_refused(utility: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        weights_of(utility, NAMES)


def test_a_utility_needs_objectives() -> None:
    assert weights_of(None, ()) == {} and weights_of(None, NAMES) == {"click": 1.0, "like": 1.0}
    assert list(weights_of({"like": 2.0, "click": 1.0}, NAMES)) == ["click", "like"]
    with pytest.raises(InputError, match="utility click: the bundle has a single objective"):
        weights_of({"click": 1.0}, ())


def test_an_objective_without_both_labels() -> None:
    pairs = traces()
    assert pairs.objectives is not None
    for value, kind in ((-1, "unknown"), (1, "yes"), (0, "no")):
        labels = pairs.objectives.copy()
        labels[:, 1] = value
        with pytest.raises(InputError, match=f"all labels of like are {kind} among the users who choose, expected both kinds"):
            fit(replace(pairs, objectives=labels), UTILITY)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    write_ranked(folder, objectives=NAMES)
    return folder


OPTIONS = CalibrationOptions(metrics=("ndcg@3",), max_drop=0.3, slate=5, timed_slates=2, repeats=1, utility=UTILITY)


def run(place: Path, **changes: Any) -> Any:
    return calibrate(Bundle.open(place / "bundle"), Catalog.open(place / "catalog"), replace(OPTIONS, **changes))


def test_it_is_written_and_followed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "page", lambda report: "<!doctype html>")
    done = run(place)
    bundle = Bundle.open(place / "bundle")
    policy = bundle.policy()
    assert policy is not None and policy == done.policy and policy.utility == UTILITY
    report = json.loads((bundle.folder / "report.json").read_text())
    assert report["utility"] == UTILITY and report["settings"]["utility"] == UTILITY
    rows = [row for row in report["probabilities"]["table"] if row["by"] == "answers"]
    assert [row["objective"] for row in rows] == ["click", "like"] and rows[1]["pairs"] < rows[0]["pairs"]
    with runtime.open(place / "bundle") as session:
        assert session.info.utility == UTILITY
    again = run(place, from_traces=True)
    assert again.policy.exits[-1].objectives == policy.exits[-1].objectives
    monkeypatch.undo()
    assert "click: the policy" in make_page(report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negative_rate": 0.5}, "negative rate 0.5: is for a single objective"),
        ({"metrics": ("logloss",)}, "metric logloss: is for a single objective"),
    ],
)
def test_options_for_one_objective_are_refused(place: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        run(place, **changes)
    assert "\n" not in str(refused.value)
