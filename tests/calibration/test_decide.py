"""The decision on synthetic traces: what is promised holds for users who had no say, and is told honestly of the test split."""

import math

import numpy as np
import pytest

from builders.traces import even_costs, traces
from rexit.calibration.decide import DecideOptions, back_to_full_depth, decide
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Judge, parse
from rexit.calibration.record.traces import Traces, split_users
from rexit.errors import InputError

LAYERS = (2, 4, 6)
GOAL = Goal((parse("ndcg@5"), parse("user-auc")), 0.04)


def decided(noise, goal: Goal = GOAL, users=600, costs=None):
    exits = len(noise)
    return decided_on(traces(users, 10, noise, seed=1), traces(users, 10, noise, seed=2), goal, costs or even_costs(exits))


def decided_on(validation: Traces, test: Traces, goal: Goal = GOAL, costs=None, **options):
    return decide(
        validation=validation,
        test=test,
        costs=costs or even_costs(validation.exits),
        depths=LAYERS[: validation.exits],
        variant_sha256="digest",
        goal=goal,
        options=DecideOptions(**options),
    )


def row(made, name: str):
    return next(one for one in made.rows if one.name == name)


def test_good_early_heads_pay_and_are_certified() -> None:
    made = decided([0.6, 0.3, 0.0])
    assert made.chosen is not None and made.chosen.certified and made.chosen.p_value <= 0.05
    assert (made.saving > 0.2 and made.users_needed is None) or made.users_needed > 0
    assert made.users == {"choosing": 200, "certifying": 400, "test": 600}
    policy, full = row(made, "policy"), row(made, "full depth")
    assert policy.mean_layers < 6 and policy.cost_us < full.cost_us
    for name in ("ndcg@5", "user-auc", "ndcg@10", "auc", "logloss"):
        drop, low, high = policy.drops[name]
        sign = -1 if name == "logloss" else 1
        assert drop == pytest.approx(sign * (full.values[name] - policy.values[name]), abs=1e-12)
        assert low <= drop <= high
    assert policy.drops["user-auc"][0] < GOAL.max_drop


def test_what_chooses_is_not_what_certifies() -> None:
    """Labels of the certifying users decide whether a policy is certified; those of the choosing users do not."""
    t = traces(600, 10, [0.6, 0.3, 0.0], seed=1)
    chooses, certifies = split_users(t)
    assert chooses.user_count == 200 and len(chooses) + len(certifies) == len(t)
    made = decided_on(t, t)
    last = certifies.log_odds @ np.float32([0, 0, 1])
    judge = Judge(certifies.users, certifies.liked, certifies.offsets, made.maps[2].a * last + np.float32(made.maps[2].b))
    one = made.candidates[0]
    c = made.policy.calibrated(certifies.log_odds)
    score = np.take_along_axis(c, one.policy.stops(certifies.log_odds, certifies.offsets)[:, None], 1)[:, 0]
    from rexit.calibration import certify

    p = [certify.p_value(judge.losses(m, score), (-1.0, 1.0), GOAL.max_drop, 0.05) for m in GOAL.metrics]
    assert one.p_value == pytest.approx(max(p), rel=1e-3)


def test_users_without_a_value_are_not_counted_as_tested() -> None:
    """A certificate of NDCG@5 that names them names users who had no part in it."""
    t = traces(600, 10, [0.6, 0.3, 0.0], seed=1)
    t.liked[t.users % 4 == 0] = True
    goal = Goal((*GOAL.metrics, parse("agreement"), parse("auc")), 0.3)
    made = decided_on(t, t, goal)
    certifies = split_users(t)[1]
    likes = np.bincount(certifies.users, certifies.liked)
    both = int(np.count_nonzero((likes > 0) & (likes < 10)))
    assert both < 320 and made.users["certifying"] == 400
    assert made.tested == {"ndcg@5": both, "user-auc": both, "agreement": 400, "auc": 400}


def test_what_is_not_certified_is_not_chosen() -> None:
    """Sixty users cannot certify a drop of 0.01, however good the heads are."""
    made = decided([0.3, 0.2, 0.0], Goal(GOAL.metrics, 0.01), users=90)
    assert made.candidates and not any(one.certified for one in made.candidates)
    assert made.chosen is None and all(math.isinf(e.upper) and math.isinf(e.lower) for e in made.policy.exits)
    assert made.users_needed is not None and made.users_needed > 200
    assert row(made, "policy").drops == row(made, "full depth").drops


def test_nothing_behind_the_first_that_fails_is_certified() -> None:
    made = decided([2.0, 1.2, 0.0])
    certified = [one.certified for one in made.candidates]
    assert certified == sorted(certified, reverse=True)
    assert not certified[-1]
    assert [one.budget for one in made.candidates] == sorted(one.budget for one in made.candidates)


def test_fixed_depth_where_dynamic_exit_saves_nothing_more() -> None:
    made = decided([0.0, 0.0, 0.0])
    assert made.chosen is not None and made.chosen.fixed == 0 and made.gains == ()
    assert (made.policy.stops(np.float32([[-9, 0, 0], [0, 0, 0], [9, 0, 0]]), np.array([0, 3])) == 0).all()


def test_gains_are_over_each_fixed_depth() -> None:
    made = decided([2.0, 0.7, 0.0], Goal(GOAL.metrics, 0.08))
    assert made.chosen is not None and made.chosen.fixed is None and [one.exit for one in made.gains] == [0, 1]
    policy = row(made, "policy")
    for gain, fixed in zip(made.gains, (row(made, "2 layers"), row(made, "4 layers")), strict=True):
        for name, (value, low, high) in gain.differences.items():
            sign = -1 if name == "logloss" else 1
            assert value == pytest.approx(sign * (policy.values[name] - fixed.values[name]), abs=1e-9)
            assert low <= value <= high
    assert made.gains[0].expected_drop > made.gains[1].expected_drop > 0


def test_no_exit_pays_where_early_heads_know_nothing() -> None:
    made = decided([50.0, 50.0, 0.0], Goal(GOAL.metrics, 0.001))
    assert made.chosen is None and made.saving == 0
    assert row(made, "policy").mean_layers == 6


def test_no_exit_pays_where_depth_costs_nothing() -> None:
    made = decided([0.0, 0.0, 0.0], costs=even_costs(3, once=0.0, each=0.0))
    assert made.chosen is None


def test_backwards_head_never_stops() -> None:
    t = traces(600, 10, [0.2, 0.1, 0.0])
    t.log_odds[:, 0] *= -1
    made = decided_on(t, t)
    assert not made.maps[0].useful
    assert made.chosen is not None and (made.policy.stops(t.log_odds, t.offsets) >= 1).all()


def test_maps_make_depths_comparable() -> None:
    """Heads on scales ten apart: ranking by raw log-odds would be ruined, ranking by c is not."""
    parts = []
    for seed in (1, 2):
        t = traces(600, 10, [1.5, 0.5, 0.0], seed=seed)
        t.log_odds[:] = t.log_odds * np.array([10, 1, 0.1], np.float32) + np.array([-7, 3, 0], np.float32)
        parts.append(t)
    made = decided_on(*parts)
    stops = made.policy.stops(parts[1].log_odds, parts[1].offsets)
    assert len(np.unique(stops)) > 1
    assert row(made, "policy").drops["auc"][0] < 0.04


def test_rivals_are_in_the_table_and_keep_the_budget_where_they_were_tuned() -> None:
    noise = [0.8, 0.4, 0.0]
    parts = traces(600, 10, noise, seed=1), traces(600, 10, noise, seed=2)
    made = decided_on(*parts, rivals=True)
    names = [one.name for one in made.rows]
    rivals = ["one threshold", "entropy", "patience", "exit shares", "one exit at a time"]
    assert names == ["full depth", "2 layers", "4 layers", *rivals, "policy"]
    for name in names[3:]:
        assert row(made, name).drops["user-auc"][0] < 2 * GOAL.max_drop
    without = decided_on(*parts)
    assert [one.name for one in without.rows] == ["full depth", "2 layers", "4 layers", "policy"]
    assert without.policy == made.policy and row(without, "policy") == row(made, "policy")


def test_top_k_rules_let_candidates_go_once_their_place_is_known() -> None:
    goal = Goal((parse("top-k-overlap@3"),), 0.05, top_k=3)
    with_rule = decided([1.0, 0.5, 0.0], goal)
    without = decided([1.0, 0.5, 0.0], Goal(goal.metrics, 0.05))
    assert with_rule.chosen is not None and with_rule.policy.top_k is not None and with_rule.policy.top_k.k == 3
    assert with_rule.saving > without.saving + 0.02
    assert row(with_rule, "policy").drops["top-k-overlap@3"][0] < 0.05


def test_test_split_has_no_say() -> None:
    first, second = (
        decided_on(traces(300, 10, [0.6, 0.3, 0.0], seed=1), traces(300, 10, [0.6, 0.3, 0.0], seed=s)) for s in (2, 3)
    )
    assert first.policy == second.policy and first.candidates == second.candidates
    assert first.rows[-1] != second.rows[-1]


@pytest.mark.slow
def test_is_the_same_every_time() -> None:
    assert decided([0.8, 0.4, 0.0], users=200) == decided([0.8, 0.4, 0.0], users=200)


def test_back_to_full_depth() -> None:
    made = decided([0.6, 0.3, 0.0])
    back = back_to_full_depth(made)
    assert back.chosen is None and back.rows[-1].drops == made.rows[0].drops and back.gains == ()
    assert (back.policy.stops(np.full((3, 3), 99, np.float32), np.array([0, 3])) == 2).all()


def test_a_promise_over_pairs_is_the_bootstraps() -> None:
    made = decided([0.3, 0.2, 0.0], Goal((parse("auc"), parse("logloss")), 0.03))
    assert made.chosen is not None and 0 < made.chosen.p_value <= 0.05


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal((), 0.01), "no metric"),
        (Goal(GOAL.metrics, 0.0), "max drop 0.0, expected more than 0"),
        (Goal(GOAL.metrics, 0.5), "max drop 0.5"),
        (Goal(GOAL.metrics, float("nan")), "max drop nan"),
        (Goal(GOAL.metrics, 0.01, 1.0), "confidence 1.0, expected 0.5 to below 1"),
        (Goal(GOAL.metrics, 0.01, 0.95, 0), "top k 0, expected at least 1"),
        (Goal(GOAL.metrics, 0.01, 0.95, 10), "top k 10, expected less than the largest slate's 10 candidates"),
    ],
)
def test_impossible_goal(goal: Goal, message: str) -> None:
    t = traces(30, 10, [0.6, 0.3, 0.0])
    with pytest.raises(InputError, match=message):
        decided_on(t, t, goal)


def test_too_few_users_or_one_kind_of_label() -> None:
    t = traces(1, 10, [0.6, 0.0])
    with pytest.raises(InputError, match="validation: has one user, expected at least two"):
        split_users(t)
    t = traces(30, 10, [0.6, 0.0])
    half = Traces(t.log_odds, np.isin(t.users, np.unique(parted_users(t))), t.users, t.offsets)
    with pytest.raises(InputError, match="of one part of the users are liked, expected both kinds"):
        split_users(half)


def parted_users(t: Traces) -> np.ndarray:
    """Those that choose: their log-odds tell who they are."""
    return t.users[np.isin(t.log_odds[:, 0], split_users(t)[0].log_odds[:, 0])]


def test_few_pairs_choose_where_there_are_many() -> None:
    t = traces(3000, 40, [0.5, 0.0])
    chooses, certifies = split_users(t)
    assert 39_000 < len(chooses) <= 40_000 and len(certifies) == len(t) - len(chooses)
    assert (np.diff(chooses.offsets) == 10).all() and chooses.user_count == len(chooses) // 40
