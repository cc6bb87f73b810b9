"""Labels that arrive later, joined to audited slates: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from rexit.audit.betting import Tail
from rexit.audit.log import AuditedSlate
from rexit.audit.losses import Loss
from rexit.calibration.metrics import parse
from rexit.calibration.outcomes import label
from rexit.errors import InputError

ITEMS = list(range(8))
METRICS = [parse(name) for name in ("ndcg@3", "user-auc", "auc")]


def slate(user: int, policy: np.ndarray, full: np.ndarray) -> AuditedSlate:
    return AuditedSlate(float(user), user, list(ITEMS), policy.tolist(), full.tolist(), [0] * 8, "e" * 64)


def service(users: int, noise: float, seed: int = 0) -> tuple[list[AuditedSlate], dict[tuple[int, int], bool]]:
    """Slates whose labels follow from c at full depth; the policy sees it with noise."""
    random = np.random.default_rng(seed)
    slates, outcomes = [], {}
    for user in range(users):
        full = random.normal(0, 2, 8)
        slates.append(slate(user, full + random.normal(0, noise, 8), full))
        for item in ITEMS:
            outcomes[user, item] = bool(random.random() < 1 / (1 + np.exp(-full[item])))
    return slates, outcomes


def test_metrics_are_scikit_learns() -> None:
    slates, outcomes = service(60, 1.0)
    labelled = label(slates, outcomes, False, METRICS, {})
    liked = np.array([[outcomes[user, item] for item in ITEMS] for user in range(60)])
    both = liked.any(1) & ~liked.all(1)
    for answer, field, name in (("policy", "policy", "policy"), ("full", "full", "full depth")):
        c = np.array([getattr(slate, field) for slate in slates])
        by_name = {metric.name: getattr(metric, answer) for metric in labelled.metrics}
        assert by_name["auc"] == pytest.approx(roc_auc_score(liked.ravel(), c.ravel()))
        assert by_name["user-auc"] == pytest.approx(np.mean([roc_auc_score(liked[u], c[u]) for u in np.flatnonzero(both)]))
        assert by_name["ndcg@3"] == pytest.approx(ndcg_score(liked[both], c[both], k=3))
        answers = next(answers for answers in labelled.probabilities if answers.name == name)
        p = 1 / (1 + np.exp(-c.ravel()))
        assert answers.log_loss == pytest.approx(log_loss(liked.ravel(), p), rel=1e-5)
        assert answers.reliability.ratio is not None
        assert answers.reliability.ratio[0] == pytest.approx(p.sum() / liked.sum(), rel=1e-5)
    assert labelled.pairs == 480 and labelled.users == 60 and labelled.outcomes == (480, 480)
    assert labelled.probabilities[0].reliability.ece[0] > labelled.probabilities[1].reliability.ece[0]


def test_the_certified_limit_is_tested() -> None:
    limits = {"ndcg@3": 0.01}
    noisy, true = (label(*service(600, noise), False, METRICS, limits).metrics[0] for noise in (4.0, 0.05))
    assert noisy.alarm and noisy.drop > 0.05 and noisy.capital is not None and noisy.limit == 0.01
    assert not true.alarm and true.capital is not None and true.capital < 20 and abs(true.drop) < 0.01


def test_a_certified_tail_is_tested() -> None:
    """The mean may hold while more users than allowed lose much."""
    slates, outcomes = service(600, 1.5)
    kept, broken = (
        label(slates, outcomes, False, METRICS[:1], {"ndcg@3": 0.3}, tail=Tail(share, 0.2)).metrics[0] for share in (0.5, 0.02)
    )
    assert not kept.alarm and broken.alarm and kept.capital is not None and kept.capital < 1
    assert kept.tail is not None and broken.tail is not None and 0.05 < kept.tail[0] == broken.tail[0] < 0.4


@pytest.mark.parametrize("name", ["top-k-overlap@3", "agreement"])
def test_a_loss_without_labels_is_of_whole_slates(name: str) -> None:
    """Half of the slates have four outcomes each, the others none: what the whole slates lose is what is bet on."""
    slates, outcomes = service(400, 3.0)
    some = {(user, item): liked for (user, item), liked in outcomes.items() if item >= 4 and user % 2}
    loss = Loss.parse(name)
    losses = [loss.of_slate(np.float32(slate.policy), np.float32(slate.full)) for slate in slates]
    limit = float(np.mean(losses)) / 2
    metric = label(slates, some, False, [parse(name)], {name: limit}).metrics[0]
    assert metric.users == 400 and metric.drop == pytest.approx(np.mean(losses))
    assert metric.alarm and metric.limit == limit


def test_likes_alone_make_the_others_of_their_users_not_liked() -> None:
    slates, outcomes = service(40, 0.5)
    likes = {pair: True for pair, liked in outcomes.items() if liked and pair[0] < 20}
    labelled = label(slates, {**likes, (999, 0): True}, True, METRICS, {})
    users = {user for user, _ in likes}
    assert labelled.pairs == 8 * len(users) and labelled.outcomes == (len(likes) + 1, len(likes))
    ratio = labelled.probabilities[1].reliability.ratio
    assert ratio is not None and ratio[0] == pytest.approx(
        sum((1 / (1 + np.exp(-np.array(slates[user].full)))).sum() for user in users) / len(likes), rel=1e-5
    )


def test_metrics_without_a_value_are_left_out() -> None:
    slates = [slate(user, np.arange(8.0), np.arange(8.0)) for user in range(2)]
    labelled = label(slates, {(0, 1): True, (1, 2): False}, False, METRICS, {})
    assert [metric.name for metric in labelled.metrics] == ["auc"]


def test_what_cannot_be_joined() -> None:
    slates, _ = service(3, 0.5)
    with pytest.raises(InputError, match="none of 1 outcomes belongs to an audited slate"):
        label(slates, {(0, 99): True}, False, METRICS, {})
    with pytest.raises(InputError, match="all 1 labelled candidates are liked, expected both kinds"):
        label(slates, {(0, 1): True}, False, METRICS, {})
