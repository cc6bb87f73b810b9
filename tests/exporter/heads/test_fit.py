"""A head is the minimum of its loss, and no scale of a number changes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rexit.errors import InputError
from rexit.exporter.heads import layers as fit
from rexit.exporter.heads.layers import Order, Regression, Target, platt

RANDOM = np.random.default_rng(0)
N, H = 400, 6
ROWS = RANDOM.normal(size=(N, H)).astype(np.float32)
LIKED = RANDOM.random(N) < 1 / (1 + np.exp(-(ROWS @ [1.0, -2, 0.5, 0, 0, 0] + 0.7)))


def test_head_is_scikit_learns_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "ROUNDING", 0.0)
    ridge = 0.05
    head = Regression(ROWS).fit(Target(LIKED), ridge)
    standard = (ROWS - ROWS.mean(0)) / ROWS.std(0)
    peer = LogisticRegression(C=1 / (ridge * N), tol=1e-8, max_iter=1000).fit(standard, LIKED)
    np.testing.assert_allclose(head.log_odds(ROWS), peer.decision_function(standard), atol=2e-3)


def test_scale_of_a_number_does_not_matter_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "ROUNDING", 0.0)
    stretched = ROWS * np.array([1000, 1, 1, 1, 1, 0.001], np.float32)
    plain, other = (Regression(rows).fit(Target(LIKED), 0.1).log_odds(rows) for rows in (ROWS, stretched))
    np.testing.assert_allclose(plain, other, atol=2e-3)


def test_number_that_is_always_the_same_has_no_part() -> None:
    rows = np.concatenate([ROWS, np.full((N, 1), 3.0, np.float32)], 1)
    head = Regression(rows).fit(Target(LIKED), 0.1)
    assert head.scale[-1] == 0 and np.isfinite(head.log_odds(rows)).all()


def test_numbers_that_vary_less_than_rounding_does_count_little() -> None:
    """The second column says as much as the first, but a lower precision would drown it."""
    rows = np.stack([ROWS[:, 1], 0.01 * ROWS[:, 1]], 1) + 0.1 * RANDOM.normal(size=(N, 2)) * [1, 0.01]
    head = Regression(rows.astype(np.float32)).fit(Target(LIKED), 1e-3)
    weight = np.abs(head.scale * head.weight)
    noise = fit.ROUNDING * np.linalg.norm(weight)
    assert noise < 0.2 * head.log_odds(rows).std()


def test_soft_target_gives_its_own_log_odds() -> None:
    z = 2 * ROWS[:, 0] - 1
    head = Regression(ROWS).fit(Target(1 / (1 + np.exp(-z))), 1e-6)
    np.testing.assert_allclose(head.log_odds(ROWS), z, atol=0.05)


def test_next_ridge_from_the_one_before_is_as_from_nothing() -> None:
    problem, target = Regression(ROWS + 5), Target(LIKED)
    warm, cold = problem.fit(target, 0.01, problem.fit(target, 1.0)), problem.fit(target, 0.01)
    np.testing.assert_allclose(warm.log_odds(ROWS + 5), cold.log_odds(ROWS + 5), atol=5e-3)


def test_platt_map_of_log_odds_that_are_twice_too_large() -> None:
    z = RANDOM.normal(size=4000).astype(np.float32)
    liked = RANDOM.random(4000) < 1 / (1 + np.exp(-z))
    a, b = platt(2 * z + 3, Target(liked))
    assert a == pytest.approx(0.5, abs=0.05) and b == pytest.approx(-1.5, abs=0.15)


def test_log_loss_of_certain_answers() -> None:
    np.testing.assert_allclose(
        Target(np.array([True, False, True])).losses(np.array([50.0, 50.0, 0.0])), [0, 50, np.log(2)], atol=1e-9
    )


SLATES = np.arange(0, N + 1, 20)


def test_order_of_a_slate_is_learned_where_all_its_probabilities_are_tiny() -> None:
    """Without the order's part the ridge leaves a head of one probability, since no other costs anything."""
    answer = (ROWS[:, 0] - 14).astype(np.float32)
    alone, ordered = (
        Regression(ROWS).fit(Target(1 / (1 + np.exp(-answer)), order), 0.003).log_odds(ROWS)
        for order in (None, Order(answer, SLATES))
    )
    assert alone.std() < 0.01 and np.corrcoef(ordered, answer)[0, 1] > 0.99 and ordered.std() > 0.8


def test_slopes_are_those_of_the_losses() -> None:
    answer, z, step = RANDOM.normal(size=N) * 3, RANDOM.normal(size=N), 1e-5
    target = Target(1 / (1 + np.exp(-answer)), Order(answer.astype(np.float32), SLATES))
    for n in (0, 19, 20, N - 1):
        moved = [target.losses(z + sign * step * (np.arange(N) == n)).sum() for sign in (1, -1)]
        assert target.slopes(z)[n] == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-5)


def test_a_mix_is_half_the_label_and_half_the_last_answer() -> None:
    slates: Any = SimpleNamespace(rows=slice(None), liked=LIKED)
    judges: Any = SimpleNamespace(chooses=slice(None), target=Target(LIKED))
    labels, mix, last = (fit._probability(name, slates, slates, ROWS[:, 0], judges) for name in fit.SHARES)
    np.testing.assert_array_equal(labels, LIKED)
    np.testing.assert_allclose(mix, (LIKED + last) / 2, atol=1e-6)
    assert 0 < last.min() < last.max() < 1


@pytest.mark.parametrize(
    ("liked", "chooses", "labelled", "message"),
    [
        ([1, 1, 0, 1], [1, 1, 0, 0], True, "choosing users are all 2 liked, expected likes and others"),
        ([1, 0, 0, 0], [1, 1, 0, 0], True, "other users are all 2 not liked, expected likes and others"),
        ([1, 0, 0, 1], [1, 1, 1, 1], True, "other users are none, expected likes and others"),
        ([0, 0, 0, 0], [1, 1, 1, 1], False, "other users are none, expected some"),
    ],
)
def test_validation_that_tells_nothing(liked: list[int], chooses: list[int], labelled: bool, message: str) -> None:
    slates: Any = SimpleNamespace(liked=np.array(liked, bool), chooses=np.array(chooses, bool), users=np.arange(4))
    with pytest.raises(InputError, match=message):
        fit._Validation(slates, np.zeros(4, np.float32), labelled)
