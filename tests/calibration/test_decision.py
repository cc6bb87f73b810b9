"""The decision on synthetic traces: promises hold for users who had no part in choosing, and the test split is only measured."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest

from builders.decisions import decide_on, row
from builders.traces import even_costs, traces
from rexit.calibration import certify
from rexit.calibration.decision import Decision
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Judge, parse
from rexit.calibration.traces import split_users
from rexit.errors import InputError
from rexit.format import roles
from rexit.upkeep.audit.betting import Tail

GOAL = Goal((parse("ndcg@5"), parse("user-auc")), 0.04)


@functools.cache
def decided(noise: tuple[float, ...], goal: Goal = GOAL, users: int = 600, free: bool = False) -> Decision:
    """free: depth costs nothing."""
    costs = even_costs(len(noise), once=0.0, each=0.0) if free else None
    validation, test = (traces(users, 10, noise, seed=seed) for seed in (1, 2))
    return decide_on(validation, goal, test, costs)


@pytest.mark.medium
def test_good_early_heads_pay_and_are_certified() -> None:
    decision = decided((0.6, 0.0))
    assert decision.chosen is not None and decision.chosen.certified and decision.chosen.p_value <= 0.05
    assert (decision.saving > 0.2 and decision.users_needed is None) or decision.users_needed > 0
    assert decision.users == {"choosing": 205, "certifying": 395, "test": 600}
    policy, full = row(decision, "policy"), row(decision, "full depth")
    assert policy.mean_layers < 4 and policy.cost_us < full.cost_us
    for name in ("ndcg@5", "user-auc", "ndcg@10", "auc", "logloss"):
        drop, low, high = policy.drops[name]
        sign = -1 if name == "logloss" else 1
        assert drop == pytest.approx(sign * (full.values[name] - policy.values[name]), abs=1e-12)
        assert low <= drop <= high
    assert policy.drops["user-auc"][0] < GOAL.max_drop


def test_what_chooses_is_not_what_certifies() -> None:
    """Labels of the certifying users decide whether a policy is certified; those of the choosing users do not."""
    t = traces(600, 10, [0.6, 0.0], seed=1)
    chooses, certifies = split_users(t)
    assert all(map(roles.chooses, chooses.ids)) and {*chooses.ids, *certifies.ids} == {*t.ids}
    decision = decided((0.6, 0.0))
    last = certifies.log_odds @ np.float32([0, 1])
    full = decision.choice.maps[1]
    judge = Judge(certifies.users, certifies.liked, certifies.offsets, full.a * last + np.float32(full.b))
    candidate = decision.candidates[0]
    c = decision.policy.calibrated(certifies.log_odds)
    score = np.take_along_axis(c, candidate.policy.stops(certifies.log_odds, certifies.offsets)[:, None], 1)[:, 0]
    p = [certify.p_value(judge.losses(m, score), (-1.0, 1.0), GOAL.max_drop, 0.05) for m in GOAL.metrics]
    assert candidate.p_value == pytest.approx(max(p), rel=1e-3)


@pytest.mark.medium
def test_a_tail_is_certified_beside_the_mean() -> None:
    """Both must hold at the whole level; a tail that no policy keeps leaves full depth."""
    loose, tight = (decided((0.6, 0.3, 0.0), replace(GOAL, tail=Tail(*tail))) for tail in ((0.1, 0.3), (0.01, 0.001)))
    assert loose.chosen is not None and loose.certificate() is not None
    assert loose.certificate()["tail"] == {"share": 0.1, "loss": 0.3} and loose.certificate()["users"] == loose.tested
    assert loose.chosen.p_values.keys() == {"ndcg@5", "user-auc", "tail of ndcg@5", "tail of user-auc"}
    assert tight.chosen is None and tight.certificate() is None
    p_values = tight.candidates[0].p_values
    assert max(p_values["ndcg@5"], p_values["user-auc"]) <= 0.05 < max(p_values.values())
    assert tight.users_needed is not None and tight.users_needed > 395


@pytest.mark.medium
def test_as_many_users_as_the_shortfall_names_certify() -> None:
    """Twice as many certify, and a fifth do not."""
    goal = Goal(GOAL.metrics, 0.02)
    small = decided((0.6, 0.3, 0.0), goal, users=150)
    assert small.chosen is None and small.users_needed is not None and small.users_needed > 50
    assert not any(c.certified for c in decided((0.6, 0.3, 0.0), goal, users=int(small.users_needed / 5)).candidates)
    assert decided((0.6, 0.3, 0.0), goal, users=int(2 * small.users_needed)).candidates[0].certified


@pytest.mark.medium
def test_users_without_a_value_are_not_counted_as_tested() -> None:
    """A certificate of NDCG@5 that names them names users who had no part in it."""
    t = traces(600, 10, [0.6, 0.0], seed=1)
    t.liked[t.users % 4 == 0] = True
    goal = Goal((*GOAL.metrics, parse("agreement"), parse("auc")), 0.3)
    decision = decide_on(t, goal)
    certifies = split_users(t)[1]
    likes = np.bincount(certifies.users, certifies.liked)
    both = int(np.count_nonzero((likes > 0) & (likes < 10)))
    assert both < 320 and decision.users["certifying"] == 395
    assert decision.tested == {"ndcg@5": both, "user-auc": both, "agreement": 395, "auc": 395}
    certificate = decision.certificate()
    assert certificate is not None and certificate["metrics"].keys() == certificate["users"].keys() == decision.tested.keys() - {
        "auc"
    }


@pytest.mark.medium
def test_what_is_not_certified_is_not_chosen() -> None:
    """Sixty users cannot certify a drop of 0.01, however good the heads are."""
    decision = decided((0.3, 0.2, 0.0), Goal(GOAL.metrics, 0.01), users=90)
    assert decision.candidates and not any(candidate.certified for candidate in decision.candidates)
    assert decision.chosen is None and all(math.isinf(e.upper) and math.isinf(e.lower) for e in decision.policy.exits)
    assert decision.users_needed is not None and decision.users_needed > 200
    assert row(decision, "policy").drops == row(decision, "full depth").drops


@pytest.mark.medium
def test_nothing_behind_the_first_that_fails_is_certified() -> None:
    decision = decided((2.0, 1.2, 0.0))
    certified = [candidate.certified for candidate in decision.candidates]
    assert certified == sorted(certified, reverse=True)
    assert not certified[-1]
    budgets = [candidate.budget for candidate in decision.candidates]
    assert budgets == sorted(budgets)


@pytest.mark.medium
def test_gains_are_over_each_fixed_depth() -> None:
    decision = decided((2.0, 0.7, 0.0), Goal(GOAL.metrics, 0.08))
    assert decision.chosen is not None and decision.chosen.fixed is None and [gain.exit for gain in decision.gains] == [0, 1]
    policy = row(decision, "policy")
    for gain, fixed in zip(decision.gains, (row(decision, "2 layers"), row(decision, "4 layers")), strict=True):
        for name, (value, low, high) in gain.differences.items():
            sign = -1 if name == "logloss" else 1
            assert value == pytest.approx(sign * (policy.values[name] - fixed.values[name]), abs=1e-9)
            assert low <= value <= high
    assert decision.gains[0].expected_drop > decision.gains[1].expected_drop > 0


def test_no_exit_pays_where_early_heads_know_nothing() -> None:
    decision = decided((50.0, 0.0), Goal(GOAL.metrics, 0.001))
    assert decision.chosen is None and decision.saving == 0
    assert row(decision, "policy").mean_layers == 4


def test_no_exit_pays_where_depth_costs_nothing() -> None:
    assert decided((0.0, 0.0, 0.0), free=True).chosen is None


@pytest.mark.medium
def test_backwards_head_never_stops() -> None:
    t = traces(600, 10, [0.2, 0.1, 0.0])
    t.log_odds[:, 0] *= -1
    decision = decide_on(t, GOAL)
    assert not decision.choice.maps[0].useful
    assert decision.chosen is not None and (decision.policy.stops(t.log_odds, t.offsets) >= 1).all()


@pytest.mark.medium
def test_maps_make_depths_comparable() -> None:
    """Heads on scales ten apart: ranking by raw log-odds would be ruined, ranking by c is not."""
    parts = []
    for seed in (1, 2):
        t = traces(600, 10, [1.5, 0.5, 0.0], seed=seed)
        t.log_odds[:] = t.log_odds * np.array([10, 1, 0.1], np.float32) + np.array([-7, 3, 0], np.float32)
        parts.append(t)
    decision = decide_on(parts[0], GOAL, parts[1])
    stops = decision.policy.stops(parts[1].log_odds, parts[1].offsets)
    assert len(np.unique(stops)) > 1
    assert row(decision, "policy").drops["auc"][0] < 0.04


@pytest.mark.medium
def test_top_k_rules_let_candidates_go_once_their_place_is_known() -> None:
    goal = Goal((parse("top-k-overlap@3"),), 0.05, top_k=3)
    with_rule = decided((1.0, 0.5, 0.0), goal)
    without = decided((1.0, 0.5, 0.0), Goal(goal.metrics, 0.05))
    assert with_rule.chosen is not None and with_rule.policy.top_k is not None and with_rule.policy.top_k.k == 3
    assert with_rule.saving > without.saving + 0.02
    assert row(with_rule, "policy").drops["top-k-overlap@3"][0] < 0.05


@pytest.mark.medium
def test_test_split_has_no_say() -> None:
    first = decided((0.6, 0.0))
    second = decide_on(traces(600, 10, [0.6, 0.0], seed=1), GOAL, traces(600, 10, [0.6, 0.0], seed=3))
    assert first.policy == second.policy and first.candidates == second.candidates
    assert first.rows[-1] != second.rows[-1]


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal((), 0.01), "no metric"),
        (Goal(GOAL.metrics, 0.0), "max drop 0.0, expected more than 0"),
        (Goal(GOAL.metrics, 0.5), "max drop 0.5"),
        (Goal(GOAL.metrics, float("nan")), "max drop nan"),
        (Goal(GOAL.metrics, 0.01, 1.0), "confidence 1.0, expected 0.5 to below 1"),
        (replace(GOAL, tail=Tail(0.0, 0.1)), "tail: a share of 0 of the users, expected more than 0"),
        (replace(GOAL, tail=Tail(1.0, 0.1)), "tail: a share of 1 of the users"),
        (replace(GOAL, tail=Tail(0.1, 1.0)), "tail: a loss of 1, expected 0 to below 1"),
        (Goal((parse("auc"),), tail=Tail(0.1, 0.1)), "tail: no metric has a value per user"),
        (Goal(GOAL.metrics, 0.01, 0.95, 0), "top k 0, expected at least 1"),
        (Goal(GOAL.metrics, 0.01, 0.95, 10), "top k 10: the largest slate has 10 candidates, expected more than 10"),
    ],
)
def test_impossible_goal(goal: Goal, message: str) -> None:
    t = traces(30, 10, [0.6, 0.3, 0.0])
    with pytest.raises(InputError, match=message):
        decide_on(t, goal)


def test_too_few_users_or_one_kind_of_label() -> None:
    t = traces(1, 10, [0.6, 0.0])
    with pytest.raises(
        InputError, match="validation: 1 of its 1 users choose by their ids and 0 certify, expected at least one of each"
    ):
        split_users(t)
    t = traces(30, 10, [0.6, 0.0])
    half = replace(t, liked=np.array([roles.chooses(t.ids[user]) for user in t.users]))
    with pytest.raises(InputError, match="of one part of the users are liked, expected both kinds"):
        split_users(half)


def test_few_pairs_choose_where_there_are_many() -> None:
    """Choosing users beyond the limit do not certify: they may have chosen the heads."""
    t = traces(3000, 60, [0.5, 0.0])
    chooses, certifies = split_users(t)
    assert 39_900 < len(chooses) <= 40_000 and sum(map(roles.chooses, t.ids)) > chooses.user_count
    assert certifies.ids == tuple(user for user in t.ids if not roles.chooses(user))
    assert (np.diff(chooses.offsets) == 10).all() and chooses.user_count == len(chooses) // 60


@pytest.mark.medium
def test_without_labels_maps_follow_the_full_model() -> None:
    """No label is read: other labels give the same decision. The last head's own map leaves it as it is."""
    validation, test = (traces(600, 10, [0.6, 0.0], seed=seed) for seed in (1, 2))
    no_labels = [replace(t, known=np.zeros(len(t), np.bool_)) for t in (validation, test)]
    goal = Goal((parse("expected-ndcg@5"), parse("top-k-overlap@5")), 0.1)
    first, second = (decide_on(replace(no_labels[0], liked=no_labels[0].liked ^ flip), goal, no_labels[1]) for flip in (0, 1))
    assert first == second and first.chosen is not None and first.choice.maps[-1].a == pytest.approx(1)
    assert 0.5 < first.choice.maps[0].a < 1, "a noisy head is drawn to the middle"
    assert first.rows[0].values.keys() == {"expected-ndcg@5", "top-k-overlap@5", "expected-ndcg@10", "agreement"}
    assert first.watch is not None and first.watch.certified and first.watch.limit == 0.1
    with pytest.raises(InputError, match=r"metric ndcg@5: needs labels and there are none"):
        decide_on(no_labels[0], GOAL, no_labels[1])
    with pytest.raises(InputError, match="validation: has no labels, expected them in both splits or in none"):
        decide_on(no_labels[0], goal, test)
    constant = replace(no_labels[0], log_odds=np.ones_like(validation.log_odds))
    for name in ("expected-ndcg@5", "top-k-overlap@5", "agreement"):
        with pytest.raises(InputError, match="the full model gives all candidates of a slate the same score, in every slate"):
            decide_on(constant, Goal((parse(name),), 0.1), no_labels[1])
