"""benchmarks/ranking/judgement.py against scikit-learn and users written out as often as they are drawn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from rexit.data.ranking import auc_difference, user_auc
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")
USERS = np.repeat(np.arange(40), np.random.default_rng(1).integers(1, 30, 40))


@pytest.fixture
def judgement():
    import judgement

    return judgement


def pairs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and labels drawn from them."""
    random = np.random.default_rng(seed)
    probability = random.integers(1, 20, len(USERS)) / 20
    return probability, random.random(len(USERS)) < probability


def each_user(metric, score: np.ndarray, liked: np.ndarray) -> float:
    parts = [(score[user == USERS], liked[user == USERS]) for user in np.unique(USERS)]
    return float(np.mean([metric(y, s) for s, y in parts if y.any() and not y.all()]))


def ndcg(liked: np.ndarray, score: np.ndarray) -> float:
    discounts = 1 / np.log2(np.arange(2, 12))
    best = np.sort(liked)[::-1][:10]
    return liked[np.argsort(-score)][:10] @ discounts[: len(liked)] / (best @ discounts[: len(best)])


def test_metrics_are_those_of_the_libraries(judgement) -> None:
    probability, liked = pairs()
    intervals = judgement.Judgement(USERS, liked).of(probability, probability).interval()
    assert intervals["auc"][0] == pytest.approx(roc_auc_score(liked, probability))
    assert intervals["user_auc"][0] == pytest.approx(each_user(roc_auc_score, probability, liked))
    assert intervals["user_auc"][0] == pytest.approx(user_auc(probability, USERS, liked))
    assert intervals["log_loss"][0] == pytest.approx(log_loss(liked, probability))
    untied = probability + np.random.default_rng(2).random(len(liked)) / 100
    intervals = judgement.Judgement(USERS, liked).of(untied).interval()
    assert intervals["ndcg@10"][0] == pytest.approx(each_user(ndcg, untied, liked))


def test_ties_are_worth_their_average(judgement) -> None:
    users, liked = np.zeros(3, int), np.array([True, False, False])
    intervals = judgement.Judgement(users, liked).of(np.zeros(3)).interval()
    assert intervals["ndcg@10"][0] == pytest.approx(np.mean([1, 1 / np.log2(3), 1 / 2]))
    assert intervals["auc"][0] == intervals["user_auc"][0] == 0.5


def test_a_drawn_user_counts_as_often_as_drawn(judgement) -> None:
    probability, liked = pairs()
    judge = judgement.Judgement(USERS, liked)
    values, weights = judge.of(probability, probability).values[1], judge._weights[1].astype(int)
    rows = np.repeat(np.arange(len(USERS)), weights[USERS])
    assert values[0] == pytest.approx(roc_auc_score(liked[rows], probability[rows]))
    assert values[3] == pytest.approx(log_loss(liked[rows], probability[rows]))
    each = [(user_auc(probability[u == USERS], USERS[u == USERS], liked[u == USERS]), n) for u, n in enumerate(weights)]
    known = [(area, n) for area, n in each if not np.isnan(area)]
    assert values[1] == pytest.approx(sum(a * n for a, n in known) / sum(n for _, n in known))


def test_differences_are_paired(judgement) -> None:
    probability, liked = pairs()
    judge = judgement.Judgement(USERS, liked)
    mine, other = judge.of(probability), judge.of(np.random.default_rng(3).random(len(liked)))
    assert mine.minus(mine).interval()["auc"] == (0, 0, 0)
    value, low, high = mine.minus(other).interval()["auc"]
    assert 0 < low < value < high
    gate = auc_difference(probability.astype(np.float32), np.random.default_rng(3).random(len(liked)), USERS, liked)
    assert value == pytest.approx(gate[0]) and (low, high) == pytest.approx(gate[1:], abs=0.005), "the gate's is of first order"


def test_without_probabilities_there_is_no_log_loss(judgement) -> None:
    probability, liked = pairs()
    assert all(np.isnan(judgement.Judgement(USERS, liked).of(probability).interval()["log_loss"]))
