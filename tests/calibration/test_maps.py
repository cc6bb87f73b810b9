"""Maps of all heads so far: what they learn, and when calibration prefers them to the own head's."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from builders.decisions import decide_on, row
from builders.traces import traces
from rexit.calibration import certify, maps
from rexit.calibration.decision import LAST_HEAD, Decision, back_to_full_depth
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Judge, log_losses, parse
from rexit.calibration.traces import Traces, split_users

GOAL = Goal((parse("ndcg@5"), parse("user-auc")), 0.05)


def differing(users: int = 600, seed: int = 1, noise: tuple[float, ...] = (1.0, 1.0, 1.2)) -> Traces:
    """Heads that err independently, so that together they know more than the last one; it is worse than the second."""
    random = np.random.default_rng(seed)
    n = users * 10
    truth = random.normal(0, 1.5, n)
    liked = random.random(n) < 1 / (1 + np.exp(-truth))
    z = np.stack([truth + random.normal(0, size, n) for size in noise], 1).astype(np.float32)
    return Traces(z, liked, np.repeat(np.arange(users), 10), np.arange(0, n + 1, 10), tuple(range(users)))


@functools.cache
def decided() -> Decision:
    return decide_on(differing(), GOAL, differing(seed=2))


def test_weights_are_those_of_the_best_combination() -> None:
    """The best estimate of t from t + e0 and t + e1, with noise of variance 1 and 4, weighs them 4 to 1."""
    t = differing(4000, noise=(1.0, 2.0))
    fitted = maps.fit_all_heads(t.log_odds, t.liked, t.users)[-1]
    assert fitted[0] == maps.fit_all(t.log_odds, t.liked)[0]
    assert fitted[1].earlier[0] / fitted[1].a == pytest.approx(4, rel=0.15)
    for value in (fitted[1].a, fitted[1].b, *fitted[1].earlier):
        assert value == float(np.float32(value))


def test_what_differs_between_users_does_not_count() -> None:
    """A first stage whose scores are higher for some users than for others keeps the weight it has within each."""
    t = differing(4000, noise=(1.0, 2.0))
    t.log_odds[:, 0] += 4 * np.random.default_rng(0).normal(size=4000).astype(np.float32)[t.users]
    fitted = maps.fit_all_heads(t.log_odds, t.liked, t.users)[-1][1]
    assert fitted.earlier[0] / fitted.a == pytest.approx(4, rel=0.2)


def test_a_strong_ridge_is_nearly_the_own_heads_map() -> None:
    t = differing()
    own = maps.fit_all(t.log_odds, t.liked)
    away = [
        max(map(abs, (fitted[2].a - own[2].a, *fitted[2].earlier))) for fitted in maps.fit_all_heads(t.log_odds, t.liked, t.users)
    ]
    assert away == sorted(away) and away[0] < away[-1] / 2


def test_a_head_that_ranks_backwards_counts_against() -> None:
    t = differing(2000)
    t.log_odds[:, 1] *= -1
    fitted = maps.fit_all_heads(t.log_odds, t.liked, t.users)[-1]
    assert not maps.fit_all(t.log_odds, t.liked)[1].useful
    assert fitted[1].useful and fitted[1].a < 0 < fitted[1].earlier[0] and fitted[2].earlier[1] < 0


def test_heads_that_say_nothing_keep_their_own_maps() -> None:
    t = differing()
    t.log_odds[:, 0], t.log_odds[:, 1] = 3.0, -1.0
    own = maps.fit_all(t.log_odds, t.liked)
    for fitted in maps.fit_all_heads(t.log_odds, t.liked, t.users):
        assert fitted[:2] == own[:2] and not fitted[1].useful
        assert fitted[2].earlier == (0.0, 0.0) and fitted[2].a == pytest.approx(own[2].a, rel=1e-3)


def test_no_map_has_seen_the_user_it_is_applied_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "RIDGES", (10.0,))
    t = differing(50)
    turned = replace(t, liked=np.where(t.users == 3, ~t.liked, t.liked))
    before, after = (maps.choose("all", part, GOAL.metrics).c for part in (t, turned))
    assert ((before != after).any(1) == (t.users % maps.FOLDS != 3)).all()


def test_auto_reads_all_heads_where_they_know_more() -> None:
    t, test = split_users(differing())[0], differing(seed=2)
    choice = maps.choose("auto", t, GOAL.metrics)
    assert choice.reads == "all" and choice.gain is not None and choice.gain[1] > 0 and choice.ridge in maps.RIDGES
    own, every = (maps.apply(m, test.log_odds) for m in (choice.own, choice.maps))
    for k in (1, 2):
        losses = [log_losses(np.ascontiguousarray(c[:, k]), test.liked).mean() for c in (own, every)]
        assert losses[1] < losses[0] - 0.01
    np.testing.assert_array_equal(own[:, 0], every[:, 0])


def test_auto_does_not_read_all_heads_for_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MIN_GAIN", 1.0)
    choice = maps.choose("auto", differing(), GOAL.metrics)
    assert choice.reads == "own" and choice.gain is not None and choice.gain[1] > 0


@pytest.mark.medium
def test_auto_reads_the_own_head_where_the_others_know_no_more() -> None:
    t = traces(200, 10, [1.0, 0.5, 0.0])  # what an exit does not know, the earlier ones do not know either
    choice = maps.choose("auto", t, GOAL.metrics)
    assert choice.reads == "own" and choice.maps == choice.own == maps.fit_all(t.log_odds, t.liked)
    assert choice.gain is not None and choice.gain[1] <= 0
    np.testing.assert_array_equal(choice.c, maps.cross_fit(t.log_odds, t.liked, t.users))
    assert maps.choose("all", t, GOAL.metrics).reads == "all"


def test_own_fits_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "fit_all_heads", None)
    assert maps.choose("own", differing(), GOAL.metrics).gain is None


def test_a_goal_without_labels_changes_the_ranking_only_where_labels_show_a_better_one() -> None:
    """What to lose nothing of, full depth's first three, is by all heads where labels show that these rank better."""
    goal, last_knows = (parse("top-k-overlap@3"),), differing(noise=(2.5, 2.5, 0.6))
    assert maps.choose("auto", differing(), goal).reads == "all"
    assert maps.choose("auto", last_knows, goal).reads == "own"
    assert maps.choose("auto", last_knows, GOAL.metrics).reads == "all"


@pytest.mark.medium
def test_a_policy_of_all_heads_is_certified_against_what_the_runtime_answers_at_full_depth() -> None:
    t, test, decision = differing(), differing(seed=2), decided()
    assert decision.choice.reads == "all" and decision.chosen is not None
    assert decision.policy.exits[0].earlier == () and [len(e.earlier) for e in decision.policy.exits] == [0, 1, 2]
    certifiers = split_users(t)[1]
    policy = decision.candidates[0].policy
    c = policy.calibrated(certifiers.log_odds)
    judge = Judge(certifiers.users, certifiers.liked, certifiers.offsets, np.ascontiguousarray(c[:, -1]))
    stops = policy.stops(certifiers.log_odds, certifiers.offsets)
    score = c[np.arange(len(stops)), stops]
    for metric in GOAL.metrics:
        p = certify.p_value(judge.losses(metric, score), (-1.0, 1.0), GOAL.max_drop, 0.05)
        assert decision.candidates[0].p_values[metric.name] == pytest.approx(p, rel=1e-6)
    own = np.ascontiguousarray(maps.apply(decision.choice.own, test.log_odds)[:, -1])
    on_test = Judge(test.users, test.liked, test.offsets, own)
    last, full = row(decision, LAST_HEAD), row(decision, "full depth")
    assert last.values["auc"] == pytest.approx(on_test.value(parse("auc"), own))
    assert last.values["auc"] < full.values["auc"] - 0.01
    assert last.drops["auc"][0] > 0.01 and last.mean_layers == full.mean_layers and not any(full.drops["auc"])


def test_full_depth_reads_all_heads_too() -> None:
    """A first stage that ranks better than the model is not lost where nothing is certified, or nothing saves time."""
    uncertified = decide_on(differing(60), Goal(GOAL.metrics, 0.001), maps="all")
    for full in (back_to_full_depth(decided()), uncertified):
        assert full.choice.reads == "all" and full.chosen is None
        assert [len(e.earlier) for e in full.policy.exits] == [0, 1, 2] and not full.policy.stops_early
        assert row(full, "policy").values == row(full, "full depth").values


@pytest.mark.medium
def test_auto_reads_all_heads_also_where_likes_are_rare() -> None:
    """A gain in nats is small there, as the loss is."""
    t = differing(1500)
    rare = t.liked & (np.random.default_rng(0).random(len(t)) < 0.04)
    choice = maps.choose("auto", replace(t, liked=rare), GOAL.metrics)
    assert choice.gain is not None and choice.reads == "all" and choice.gain[0] < 0.01, choice.gain
