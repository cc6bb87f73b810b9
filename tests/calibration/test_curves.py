"""Beta and isotonic maps: against scikit-learn's, on data whose right map is known, and when calibration prefers them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.traces import even_costs
from rexit.bundle.policy import interpolate
from rexit.calibration.choose import curves, maps, platt
from rexit.calibration.decide import DecideOptions, Goal, decide
from rexit.calibration.metrics import log_losses, parse
from rexit.calibration.record.traces import Traces
from rexit.errors import InputError

Truth = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def straight(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.8 * x - 0.5


def bent(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A beta map: steep below, nearly flat above. Its Platt map is near the identity."""
    return 2.0 * -np.logaddexp(0, -x) + 0.3 * np.logaddexp(0, x) + 1.4


def stepped(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A step that no line and no beta map has."""
    return np.where(x > 1.5, 2.5, -1.5) + 0.05 * x


def sampled(truth: Truth, users: int = 600, seed: int = 0, exits: int = 1) -> Traces:
    """Log-odds of which `truth` are the right ones; earlier exits are noisier."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 2, users * 10)
    liked = random.random(len(x)) < 1 / (1 + np.exp(-truth(x)))
    z = np.stack([x + random.normal(0, 0.5 * (exits - 1 - k), len(x)) for k in range(exits)], 1).astype(np.float32)
    return Traces(z, liked, np.repeat(np.arange(users), 10), np.arange(0, len(x) + 1, 10))


def chosen(t: Traces, kind: str = "auto") -> maps.Choice:
    return maps.choose("own", t, (), kind)


def test_isotonic_blocks_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.isotonic import IsotonicRegression

    monkeypatch.setattr(curves, "LEAST_PAIRS", 1)
    t = sampled(straight, 200)
    x = np.round(t.log_odds[:, 0], 1)  # with ties
    fitted = IsotonicRegression().fit_transform(x, t.liked)
    blocks = [(x[fitted == share].mean(dtype=np.float64), share) for share in np.unique(fitted) if 0 < share < 1]
    assert fitted.min() > 0 or fitted.max() < 1 or len(blocks) > 5
    points = curves.isotonic(x, t.liked)[1:-1]
    inner = slice(1 if fitted.min() == 0 else 0, -1 if fitted.max() == 1 else None)  # a block of one label joins its neighbour
    expected = [(at, np.log(share / (1 - share))) for at, share in blocks][inner]
    of_both_labels = points[inner]
    assert len(of_both_labels) == len(expected) > 5
    np.testing.assert_allclose(of_both_labels, expected, rtol=1e-5, atol=1e-5)


def test_beta_is_scikit_learns_regression_on_both_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(platt, "targets", lambda liked: liked.astype(np.float64))  # its regression takes labels
    t = sampled(bent, 2000)
    x = t.log_odds[:, 0]
    features = np.stack([-np.logaddexp(0.0, -x.astype(np.float64)), np.logaddexp(0.0, x.astype(np.float64))], 1)
    expected = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features, t.liked)
    p, q = expected.coef_[0]
    assert p == pytest.approx(2.0, abs=0.3) and q == pytest.approx(0.3, abs=0.1)
    off = interpolate(curves.beta(x, t.liked), x) - expected.decision_function(features)
    assert np.abs(off).max() < 0.0012 * abs(p - q) + 0.001


@pytest.mark.parametrize(("truth", "kind"), [(straight, "platt"), (bent, "beta"), (stepped, "isotonic")])
def test_auto_takes_the_map_that_is_right(truth: Truth, kind: str) -> None:
    t, test = sampled(truth, 2000), sampled(truth, 2000, seed=1)
    choice = chosen(t)
    assert choice.curve_choices[0].kind == kind and set(choice.curve_choices[0].gains) == {"beta", "isotonic"}
    assert bool(choice.maps[0].curve) == (kind != "platt") and choice.own == choice.maps
    c, before = (platt.apply(some, test.log_odds)[:, 0] for some in (choice.maps, platt.fit_all(t.log_odds, t.liked)))
    losses = [log_losses(scores, test.liked).mean() for scores in (c, before)]
    assert losses[0] < losses[1] - 0.004 if kind != "platt" else losses[0] == losses[1]
    p, right = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (c, truth(test.log_odds[:, 0].astype(np.float64))))
    assert np.abs(p - right).mean() < 0.025


@pytest.mark.parametrize("kind", ["beta", "isotonic"])
@pytest.mark.parametrize("truth", [straight, bent, stepped])
def test_rankings_stay(truth: Truth, kind: str) -> None:
    z = np.sort(np.random.default_rng(2).normal(0, 4, 3000).astype(np.float32))
    fitted = chosen(sampled(truth, 300), kind).maps[0]
    assert fitted.curve
    before, c = (platt.apply([m], z[:, None])[:, 0] for m in (replace(fitted, curve=()), fitted))
    assert (np.diff(c) >= 0).all()
    assert (np.diff(c)[np.diff(before) > 1e-3] > 0).all()  # equal only where float32 cannot tell


def test_what_no_user_shows_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "LEAST_GAIN", 1.0)
    t = sampled(stepped)
    choice = chosen(t)
    assert choice.curve_choices[0].kind == "platt" and choice.curve_choices[0].gains["isotonic"][1] > 0
    np.testing.assert_array_equal(choice.c, platt.cross_fit(t.log_odds, t.liked, t.users))


def test_no_curve_has_seen_the_user_it_is_applied_to() -> None:
    t = sampled(stepped, 60)
    turned = replace(t, liked=np.where(t.users == 3, ~t.liked, t.liked))
    for kind in ("beta", "isotonic"):
        before, after = (chosen(part, kind).c for part in (t, turned))
        assert ((before != after).any(1) == (t.users % platt.FOLDS != 3)).all()


def test_curves_of_all_heads_follow_their_maps() -> None:
    t = sampled(stepped, exits=3)
    choice = maps.choose("all", t, (), "isotonic")
    assert [len(m.earlier) for m in choice.maps] == [0, 1, 2] and all(m.curve for m in choice.maps)
    assert all(m.curve and not m.earlier for m in choice.own)
    for c, some in ((choice.c, choice.maps), (choice.own_c, choice.own)):
        assert np.abs(c - platt.apply(some, t.log_odds)).mean() < 0.3


def test_a_beta_map_ascends_where_the_labels_fall() -> None:
    points = np.array(chosen(sampled(lambda x: np.where(x > 0, 3 - x, 3 * x), 300), "beta").maps[0].curve)
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert slopes.min() == pytest.approx(curves.LEAST_SLOPE, abs=1e-3) and slopes[0] > 1


def test_a_head_that_does_not_rank_has_no_curve() -> None:
    t = sampled(bent, exits=2)
    t.log_odds[:, 0] *= -1
    choice = chosen(t, "isotonic")
    assert [c.kind for c in choice.curve_choices] == ["platt", "isotonic"] and not choice.maps[0].useful


def test_too_few_points_are_refused() -> None:
    with pytest.raises(InputError, match=r"exit 0: its isotonic map has one point on 60 pairs.*expected at least two"):
        chosen(sampled(straight, 6), "isotonic")
    assert chosen(sampled(straight, 6)).curve_choices[0].kind == "platt"
    with pytest.raises(InputError, match="curve 'spline': unknown, expected platt, beta, isotonic or auto"):
        chosen(sampled(straight, 6), "spline")


def test_the_policy_certified_is_the_one_with_curves() -> None:
    t, test = sampled(stepped, 400, exits=2), sampled(stepped, 400, seed=1, exits=2)
    decision = decide(
        validation=t,
        test=test,
        costs=even_costs(2),
        depths=(2, 4),
        variant_sha256="digest",
        goal=Goal((parse("user-auc"),), 0.1),
        options=DecideOptions(maps="own"),
    )
    assert decision.chosen is not None and decision.policy.exits[-1].curve
    stops = decision.policy.stops(test.log_odds, test.offsets)
    c = np.take_along_axis(decision.policy.calibrated(test.log_odds), stops[:, None], 1)[:, 0]
    assert decision.rows[-1].values["logloss"] == pytest.approx(log_losses(c, test.liked).mean(), rel=1e-6)
    full = [platt.apply(some, test.log_odds)[:, -1] for some in (decision.maps, platt.fit_all(t.log_odds, t.liked))]
    assert decision.rows[0].values["logloss"] == pytest.approx(log_losses(full[0], test.liked).mean(), rel=1e-6)
    assert log_losses(full[0], test.liked).mean() < log_losses(full[1], test.liked).mean() - 0.02
