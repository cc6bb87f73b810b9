"""Calibration ratio and error: against scikit-learn's, on probabilities known to be right or wrong, with sampled negatives."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rexit.calibration import maps, probabilities
from rexit.calibration.probabilities import Split, diagram, table_of, title
from rexit.errors import InputError
from rexit.format.bundle import ExitPolicy, Policy
from rexit.format.candidates import Candidates


def population(users: int = 500, base: float = -1.0, seed: int = 0) -> tuple[NDArray[np.float32], Split]:
    """The right log-odds of each pair, ten to a user, and the labels."""
    random = np.random.default_rng(seed)
    z = random.normal(base, 1.2, users * 10).astype(np.float32)
    return z, Split(random.random(len(z)) < sigmoid(z), np.repeat(np.arange(users), 10))


def sigmoid(z: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(1 / (1 + np.exp(-z.astype(np.float64))))


def test_right_probabilities_have_a_ratio_of_one_and_an_error_by_chance() -> None:
    z, split = population()
    row = split.reliability("answers", "all", sigmoid(z))
    assert row.pairs == 5000 and row.ratio is not None
    assert row.ratio[1] < 1 < row.ratio[2] and row.ratio[0] == pytest.approx(row.predicted / row.observed)
    assert row.ece[0] < 2 * row.chance and row.ece[1] <= row.ece[0]
    assert row.observed == pytest.approx(split.liked.mean())


def test_wrong_probabilities_are_shown_to_be_wrong() -> None:
    z, split = population()
    high = split.reliability("answers", "all", sigmoid(z + 1))
    assert high.ratio is not None and high.ratio[1] > 1.3 and high.ece[1] > 3 * high.chance
    steep = split.reliability("answers", "all", sigmoid(3 * (z + 1) - 1))
    assert steep.ece[1] > 3 * steep.chance


def test_calibration_error_is_scikit_learns_curve() -> None:
    from sklearn.calibration import calibration_curve

    z, split = population()
    p = sigmoid(z + 0.5)
    liked, predicted = calibration_curve(split.liked, p, n_bins=10, strategy="quantile")
    assert split.reliability("answers", "all", sigmoid(z + 0.5)).ece[0] == pytest.approx(
        np.abs(liked - predicted).mean(), abs=2e-4
    )
    bins = diagram(p, split.liked)
    np.testing.assert_allclose([b["liked"] for b in bins], liked, atol=2e-3)
    np.testing.assert_allclose([b["probability"] for b in bins], predicted, atol=2e-3)


def test_users_are_the_unit() -> None:
    """A user's pairs that all go the same way are worth one, not ten."""
    random = np.random.default_rng(3)
    users = np.repeat(np.arange(300), 10)
    liked, p = np.repeat(random.random(300) < 0.3, 10), np.full(3000, 0.3, np.float32)
    together = Split(liked, users).reliability("answers", "all", p)
    alone = Split(random.permutation(liked), users).reliability("answers", "all", p)
    assert together.ratio is not None and alone.ratio is not None
    assert together.ratio[2] - together.ratio[1] > 2 * (alone.ratio[2] - alone.ratio[1])


@pytest.mark.medium
@pytest.mark.parametrize("rate", [1.0, 0.25, 0.02])
def test_the_prior_shift_restores_the_populations_base_rate(rate: float) -> None:
    """Fitted where a share of the negatives is left, right in the population they were sampled from."""
    (z, fitted), (other, everything) = (population(8000, base=-3.0, seed=seed) for seed in (1, 2))
    kept = fitted.liked | (np.random.default_rng(4).random(len(z)) < rate)
    fitted_map = maps.fit(z[kept], fitted.liked[kept])
    policy = Policy((ExitPolicy(fitted_map.a, fitted_map.b),), 1, "", prior_shift=probabilities.shift(rate))
    in_population = everything.reliability("answers", "all", policy.probabilities(other[:, None])[:, 0])
    assert in_population.ratio is not None and in_population.ratio[0] == pytest.approx(1, abs=0.08)
    assert in_population.ece[0] < 0.01
    left = everything.liked | (np.random.default_rng(5).random(len(other)) < rate)
    sample = Split(everything.liked[left], everything.users[left], rate)
    in_sample = sample.reliability("answers", "all", policy.probabilities(other[left, None])[:, 0])
    assert in_sample.observed == pytest.approx(in_population.observed, rel=0.1) and in_sample.ratio is not None
    assert in_sample.ratio[0] == pytest.approx(in_population.ratio[0], abs=0.08)
    if rate < 1:
        plain = Policy(policy.exits, 1, "")
        without = everything.reliability("answers", "all", plain.probabilities(other[:, None])[:, 0])
        assert without.ratio is not None and without.ratio[1] > 2


@pytest.mark.medium
@pytest.mark.parametrize("rate", [1.0, 0.25, 0.05])
def test_the_error_by_chance_is_that_of_right_probabilities(rate: float) -> None:
    """Over thirty draws of labels and of negatives, against what one of them is expected to show."""
    errors, chances = [], []
    for seed in range(30):
        z, everything = population(2000, base=-3.0, seed=seed)
        left = everything.liked | (np.random.default_rng(100 + seed).random(len(z)) < rate)
        row = Split(everything.liked[left], everything.users[left], rate).reliability("answers", "all", sigmoid(z[left]))
        errors.append(row.ece[0])
        chances.append(row.chance)
    assert np.mean(chances) == pytest.approx(np.mean(errors), rel=0.15)


def catalog(
    candidates: Candidates, items: int, history: list[tuple[int, int, int]], validation: list[tuple[int, int, int, bool]]
) -> Any:
    """history: user, item and time of each interaction, by user. validation: those and whether it is liked."""
    users, met, times = (np.array(column) for column in zip(*history, strict=True))
    rows = [np.array(column) for column in zip(*validation, strict=True)]
    split = SimpleNamespace(users=rows[0], items=rows[1], times=rows[2], liked=rows[3])
    table = {"history_offsets": np.searchsorted(users, np.arange(4)), "history_items": met, "history_times": times}
    return SimpleNamespace(candidates=candidates, users=range(3), items=range(items), user_table=table, split=lambda name: split)


def test_rate_of_draws_is_over_items_not_met() -> None:
    """User 0 met 3 of 10 items by the end of validation, one disliked there, and user 1 met one: 1 + 7 + 9 negatives in the
    population, five here. What user 0 meets later is one of the seven."""
    history = [(0, 0, 1), (0, 1, 2), (0, 9, 2), (0, 8, 3), (1, 2, 5)]
    validation = [(0, 1, 2, True), (0, 9, 2, False), (0, 7, 2, False), (0, 8, 2, False)]
    validation += [(1, 2, 5, True), (1, 3, 5, False), (1, 4, 5, False)]
    source = catalog(Candidates("uniform", 2), 10, history, validation)
    assert probabilities.negative_rate(source) == pytest.approx(5 / 17)


def test_rate_without_sampling_is_one() -> None:
    assert probabilities.negative_rate(catalog(Candidates("retrieved", 2), 3, [(0, 0, 1)], [(0, 0, 1, True)])) == 1
    assert probabilities.shift(1.0) == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_rates_that_are_no_share_are_refused(rate: float) -> None:
    with pytest.raises(InputError, match=f"negative rate {rate:g}, expected more than 0 and at most 1"):
        probabilities.check(rate)


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_a_diagram_of_probabilities_in_place_of_labels_counts_the_population(rate: float) -> None:
    """Without labels, what is liked is the full model's probability, which is of the sample; right ones are on the diagonal."""
    sample = sigmoid(population()[0])
    odds = rate * sample / (1 - sample)
    bins = diagram(np.float32(odds / (1 + odds)), sample.astype(np.float64), rate)
    np.testing.assert_allclose([b["liked"] for b in bins], [b["probability"] for b in bins], rtol=1e-4)


def test_a_table_shows_answers_and_every_exit() -> None:
    z, split = population()
    p, stops = np.stack([sigmoid(z + 1), sigmoid(z)], 1), np.where(z > 0, 0, 1)
    rows = table_of(split, (0, 4), p, stops)
    names = [title(vars(row)) for row in rows]
    assert names == ["the policy's answers", "all candidates at exit zero", "all candidates after layer 4"]
    ratios = [row.ratio[0] for row in rows if row.ratio]
    assert ratios[1] > ratios[0] > ratios[2] and {row.pairs for row in rows} == {5000}
