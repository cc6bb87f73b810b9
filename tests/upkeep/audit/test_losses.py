"""What a slate loses without labels, by hand and against the metrics of calibration and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from rexit.calibration.metrics import Judge, parse
from rexit.errors import InputError
from rexit.upkeep.audit.losses import Loss

RANDOM = np.random.default_rng(7)
FULL = RANDOM.normal(0, 1, (30, 12)).astype(np.float32)
POLICY = (FULL + RANDOM.normal(0, 0.7, FULL.shape)).astype(np.float32).round(1)  # ties


@pytest.mark.parametrize("name", ["top-k-overlap@3", "top-k-overlap@10", "agreement"])
def test_losses_are_one_minus_the_certified_metrics(name: str) -> None:
    slates, size = FULL.shape
    users, offsets = np.repeat(np.arange(slates), size), np.arange(0, slates * size + 1, size)
    judge = Judge(users, np.tile([True, False], slates * size // 2), offsets, FULL.ravel())
    losses = [Loss.parse(name).of_slate(policy, full) for policy, full in zip(POLICY, FULL, strict=True)]
    assert losses == pytest.approx(judge.losses(parse(name), POLICY.ravel()).tolist())
    assert 0 < np.mean(losses) < 0.5


def test_rank_correlation_is_kendalls() -> None:
    loss = Loss.parse("rank-correlation")
    full = FULL[0]
    policy = RANDOM.permutation(full)
    assert loss.of_slate(policy, full) == pytest.approx((1 - kendalltau(policy, full).statistic) / 2)
    assert loss.of_slate(full, full) == 0 and loss.of_slate(-full, full) == 1
    assert loss.of_slate(np.zeros_like(full), full) == 0.5


def test_slates_without_a_value() -> None:
    single, same = np.float32([1.0]), np.float32([2.0, 2.0])
    assert np.isnan(Loss.parse("rank-correlation").of_slate(single, single)) and np.isnan(
        Loss.parse("rank-correlation").of_slate(same, same)
    )
    assert np.isnan(Loss.parse("top-k-overlap@2").of_slate(same, same))


@pytest.mark.parametrize("name", ["ndcg@10", "top-k-overlap", "top-k-overlap@0", "agreement@3", "top-k-overlap@x", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown, expected top-k-overlap@K"):
        Loss.parse(name)


@pytest.mark.parametrize("name", ["top-k-overlap@10", "agreement", "rank-correlation"])
def test_names_are_read_back(name: str) -> None:
    assert Loss.parse(name).name == name


LOG3 = float(np.log(3))


@pytest.mark.parametrize(
    ("name", "policy", "full", "loss"),
    [
        # Gains .75, .5, .25 and discounts 1, .6309.
        ("expected-ndcg@2", [0, 1, 2], [LOG3, 0, -LOG3], 1 - (0.25 + 0.5 * 0.6309) / (0.75 + 0.5 * 0.6309)),
        ("expected-ndcg@2", [2, 1, 1], [LOG3, 0, -LOG3], (0.5 - 0.375) * 0.6309 / (0.75 + 0.5 * 0.6309)),
        # Equal scores are in the order of the slate.
        ("top-k-overlap@2", [5, 5, 5], [3, 2, 1], 0),
        ("top-k-overlap@2", [5, 5, 5], [1, 2, 3], 0.5),
        ("agreement", [1, -1, 0], [-1, -1, 0], 1 / 3),
    ],
)
def test_losses_by_hand(name: str, policy: list[float], full: list[float], loss: float) -> None:
    assert Loss.parse(name).of_slate(np.float32(policy), np.float32(full)) == pytest.approx(loss, abs=1e-4)
