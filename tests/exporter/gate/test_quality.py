"""The gate of lower precision: what it measures, what it lets pass, and prompts that cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rexit.bundle import Bundle, Catalog, Split
from rexit.errors import InputError, ParityError, QualityError
from rexit.exporter.gate import quality
from rexit.exporter.gate.quality import LogOdds, Prompts
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Gate
from rexit.exporter.prompt.builder import Prompt
from rexit.ranking import auc

EXITS = (1, 2, 4)
GATE = Gate(correlation=0.995, auc_drop=0.001)


@pytest.fixture(scope="module")
def catalog(catalog_folder: Path) -> Catalog:
    return Catalog.open(catalog_folder)


@pytest.fixture(scope="module")
def validation_prompts(catalog: Catalog) -> Prompts:
    return Prompts.draw(catalog, 0)


@pytest.fixture(scope="module")
def answers(exported: Path, validation_prompts: Prompts) -> LogOdds:
    bundle = Bundle.open(exported)
    return validation_prompts.log_odds(Chain(bundle.folder, bundle.variant.segments, 512))


def synthetic(users: int, per_user: int = 8, seed: int = 0) -> tuple[Prompts, LogOdds]:
    """Users of a slate each who like what three equal exits say, with chance, and empty prompts: only answers are judged."""
    random = np.random.default_rng(seed)
    log_odds = random.standard_normal(users * per_user).astype(np.float32)
    liked = random.random(users * per_user) < 1 / (1 + np.exp(-1.5 * log_odds))
    nothing = np.empty(0, np.int32)
    prompts = [Prompt(nothing, [nothing] * per_user, np.empty(0, np.int64), None)] * users
    return Prompts(prompts, np.repeat(np.arange(users), per_user), liked, np.zeros(users * per_user), whole=False), np.stack(
        [log_odds] * 3, 1
    )


def test_divergence_and_order() -> None:
    """Against the definitions, in float64; log-odds of 60 have probabilities that float64 cannot tell from 1."""
    prompts, _ = synthetic(2, per_user=3)
    exact = np.array([0.0, 1.0, -2.0, 60.0, 3.0, 3.0], np.float32)[:, None]
    actual = np.array([0.5, 0.4, -2.0, 50.0, 60.0, 1.0], np.float32)[:, None]
    (row,) = quality.assess(prompts, (1,), GATE, exact, actual).exits
    p, q = (1 / (1 + np.exp(-values.astype(np.float64))) for values in (exact[:, 0], actual[:, 0]))
    at = [0, 1, 2, 5]
    usual = sum(p[n] * np.log(p[n] / q[n]) + (1 - p[n]) * np.log((1 - p[n]) / (1 - q[n])) for n in at)
    surprised = p[4] * np.log(p[4]) + (1 - p[4]) * (np.log(1 - p[4]) + 60)
    assert row.kl == pytest.approx((usual + surprised) / 6, rel=1e-6)
    # In slate one, 0.5 before 0.4 is wrong, the others are right; in slate two 50 before 60 is wrong and two are equal.
    assert row.order == pytest.approx(3 / 5)
    (same,) = quality.assess(prompts, (1,), GATE, exact, exact).exits
    assert same.kl == 0 and same.order == 1


def noisy(answers: LogOdds, noise: float, exit: int = 1) -> LogOdds:
    """The same with noise of that standard deviation at one exit."""
    out = answers.copy()
    out[:, exit] += noise * np.random.default_rng(1).standard_normal(len(out)).astype(np.float32)
    return out


def test_prompts_are_the_whole_split_or_a_fixed_draw(catalog: Catalog, validation_prompts: Prompts) -> None:
    split = catalog.split("validation")
    assert (
        validation_prompts.liked.tolist() == split.liked.tolist()
        and validation_prompts.whole
        and validation_prompts.user_count == 12
    )
    np.testing.assert_array_equal(np.diff(validation_prompts.users) != 0, np.diff(split.users) != 0)
    few = [Prompts.draw(catalog, 10) for _ in range(2)]
    assert len(few[0]) == few[0].user_count == 10 and not few[0].whole
    assert [s.prefix.tolist() for s in few[0].prompts] == [s.prefix.tolist() for s in few[1].prompts]


def test_answers_are_those_of_the_golden_samples(exported: Path, validation_prompts: Prompts, answers: LogOdds) -> None:
    bundle = Bundle.open(exported)
    golden = {slate.prefix.tobytes(): slate for slate in bundle.golden().slates}
    at = 0
    for slate in validation_prompts.prompts:
        size = len(slate.candidates)
        if (same := golden.get(slate.prefix.tobytes())) is not None:
            np.testing.assert_allclose(answers[at : at + size], same.log_odds, atol=1e-4)
            golden.pop(slate.prefix.tobytes())
        at += size
    assert not golden and at == len(answers)


def test_the_same_answers_pass() -> None:
    prompts, answers = synthetic(50)
    result = quality.assess(prompts, EXITS, GATE, answers, answers)
    result.check()
    assert [row.layers for row in result.exits] == [1, 2, 4]
    assert all(row.correlation == pytest.approx(1) and row.worst == row.mean == 0 for row in result.exits)
    assert all(row.auc_change == (0, 0) and row.auc == row.auc_fp32 == auc(answers[:, 0], prompts.liked) for row in result.exits)
    assert result.to_json()["verdict"] == "passed" and not result.to_json()["accepted"]


def test_a_little_noise_passes_when_there_are_users_enough_to_tell() -> None:
    """One model, one loss: the verdict hangs on how much is known of it."""
    verdicts = []
    for users in (100, 2000):
        prompts, answers = synthetic(users)
        result = quality.assess(prompts, EXITS, GATE, answers, noisy(answers, 0.03))
        verdicts.append(result.verdict)
        low, high = result.exits[1].auc_change or (0, 0)
        assert low < result.exits[1].auc - result.exits[1].auc_fp32 < high
    assert verdicts == ["undecided", "passed"]


def test_who_cannot_tell_is_told_what_helps() -> None:
    prompts, answers = synthetic(100)
    result = quality.assess(prompts, EXITS, GATE, answers, noisy(answers, 0.03))
    message = (
        r"exit after layer 2: AUC 0\.\d+, float32 has 0\.\d+; the change is -0\.\d+ to \+0\.\d+ "
        r"\(95 % interval over 100 users\), too wide to tell: a loss of at most 0\.001 is allowed; .*not written: "
    )
    with pytest.raises(QualityError, match=message + r"ask for more with --quality-slates \(0: all\); --accept-loss writes"):
        result.check()
    with pytest.raises(QualityError, match=message + r"the split has no more; --accept-loss writes"):
        replace(result, prompts=replace(prompts, whole=True)).check()
    result.check(accept_loss=True)
    assert result.to_json()["verdict"] == "undecided" and result.to_json()["accepted"]


def test_a_loss_that_is_sure_fails() -> None:
    prompts, answers = synthetic(500)
    result = quality.assess(prompts, EXITS, Gate(None, 0.005), answers, noisy(answers, 1.0, exit=2))
    message = r"after layer 4: AUC .* the change is -0\.\d+ to -0\.\d+ .*, a loss of at most 0\.005"
    with pytest.raises(QualityError, match=message):
        result.check()
    result.check(accept_loss=True)
    assert result.to_json()["verdict"] == "failed" and result.to_json()["accepted"]


def test_noise_at_one_exit_is_refused_by_its_name() -> None:
    prompts, answers = synthetic(300)
    result = quality.assess(prompts, EXITS, GATE, answers, noisy(answers, 0.3))
    with pytest.raises(
        QualityError, match=r"after layer 2: log-odds correlate 0\.9\d+ with float32's, at least 0.995 is required \(2400 pairs"
    ) as e:
        result.check()
    assert isinstance(e.value, ParityError) and e.value.exit_code == 5
    assert result.exits[1].worst > result.exits[1].mean > 0 == result.exits[0].worst


def test_a_better_ranking_passes() -> None:
    prompts, answers = synthetic(100)
    better = answers + np.where(prompts.liked, 100, 0)[:, None].astype(np.float32)
    quality.assess(prompts, EXITS, Gate(None, 0.001), answers, better).check()


def test_a_failure_is_told_before_what_is_undecided() -> None:
    prompts, answers = synthetic(100)
    result = quality.assess(prompts, EXITS, GATE, answers, noisy(noisy(answers, 0.03, exit=0), 1.0, exit=2))
    assert [row.verdict(GATE) for row in result.exits] == ["undecided", "passed", "failed"]
    with pytest.raises(QualityError, match="exit after layer 4: "):
        result.check()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("gate", [GATE, Gate(None, 0.005)])
def test_what_is_no_number_never_passes(value: float, gate: Gate) -> None:
    prompts, answers = synthetic(100)
    broken = answers.copy()
    broken[3, 2] = value
    result = quality.assess(prompts, EXITS, gate, answers, broken)
    with pytest.raises(QualityError, match=r"exit after layer 4: log-odds are not all finite"):
        result.check()
    json.dumps(result.to_json(), allow_nan=False)


def test_too_few_users_tell_nothing_however_equal_the_answers() -> None:
    """Drawn again and again, three users without a loss never show one."""
    prompts, answers = synthetic(19)
    result = quality.assess(prompts, EXITS, GATE, answers, answers)
    with pytest.raises(QualityError, match="19 users are too few to judge a variant by, at least 20 are needed"):
        result.check()
    assert result.verdict == "undecided" and result.to_json()["exits"][0]["auc_change"] is None
    with pytest.raises(InputError, match=r"validation slates of 19 users: 19 users are too few .*; ask for more with --quality-"):
        prompts.check()


def test_prompts_that_cannot_tell(catalog: Catalog, validation_prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"12 validation slates of 12 users: 12 users are too few.*; the split has no more; --"):
        validation_prompts.check()
    prompts, _ = synthetic(30)
    with pytest.raises(InputError, match="all 240 pairs are not liked, so there is no AUC; ask for more"):
        replace(prompts, liked=np.zeros_like(prompts.liked)).check()
    prompts.check()
    validation = catalog.split("validation")
    nothing = Split(*(getattr(validation, name)[:0] for name in ("users", "items", "times", "liked", "inputs")))
    monkeypatch.setattr(Catalog, "split", lambda *_: nothing)
    with pytest.raises(InputError, match="validation split is empty"):
        Prompts.draw(catalog, 0)
