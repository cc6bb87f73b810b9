"""The gate of lower precision: what it measures, what it lets pass, and prompts that cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.data.token_slates import write_slates
from rexit.data.baselines import ZERO
from rexit.data.ranking import auc
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError, ParityError, QualityError
from rexit.exporter.gate import quality
from rexit.exporter.gate.quality import LogOdds, Prompts
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Gate
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import LabelledPairs
from rexit.format.bundle import Bundle, Catalog, Split
from rexit.format.roles import chooses
from rexit.progress import silent

EXITS = (1, 2, 4)
GATE = Gate(correlation=0.995, drop=0.001)


@pytest.fixture(scope="module")
def catalog(catalog_folder: Path) -> Catalog:
    return Catalog.open(catalog_folder)


@pytest.fixture(scope="module")
def validation_prompts(catalog: Catalog) -> Prompts:
    return Prompts.draw(catalog, 0)


@pytest.fixture(scope="module")
def answers(exported: Path, validation_prompts: Prompts) -> LogOdds:
    bundle = Bundle.open(exported)
    return validation_prompts.log_odds(Chain(bundle.folder, bundle.variant.segments, 512), "fp32")


def synthetic(users: int, per_user: int = 8, seed: int = 0) -> tuple[Prompts, LogOdds]:
    """Users of a slate each who like what three equal exits say, with chance, and empty prompts: only answers are judged."""
    random = np.random.default_rng(seed)
    log_odds = random.standard_normal(users * per_user).astype(np.float32)
    liked = random.random(users * per_user) < 1 / (1 + np.exp(-1.5 * log_odds))
    nothing = np.empty(0, np.int32)
    prompts = [Prompt(nothing, [nothing] * per_user, np.empty(0, np.int64), None)] * users
    pairs = LabelledPairs(np.repeat(np.arange(users), per_user), liked, {})
    return Prompts(prompts, pairs, whole=False, labelled=users), np.stack([log_odds] * 3, 1)


def noisy(answers: LogOdds, noise: float, exit: int = 1) -> LogOdds:
    """The same with noise of that standard deviation at one exit."""
    out = answers.copy()
    out[:, exit] += noise * np.random.default_rng(1).standard_normal(len(out)).astype(np.float32)
    return out


def test_prompts_are_those_of_all_who_choose_or_a_fixed_draw(catalog: Catalog, validation_prompts: Prompts) -> None:
    split = catalog.split("validation")
    choose = np.array([chooses(user) for user in catalog.users.take(split.users)])
    pairs = validation_prompts.pairs
    assert pairs.liked.tolist() == split.liked[choose].tolist()
    assert validation_prompts.whole and pairs.user_count == 4 < len(np.unique(split.users))
    np.testing.assert_array_equal(np.diff(pairs.users) != 0, np.diff(split.users[choose]) != 0)
    few = [Prompts.draw(catalog, 3) for _ in range(2)]
    assert len(few[0]) == few[0].pairs.user_count == 3 and not few[0].whole
    assert [s.prefix.tolist() for s in few[0].prompts] == [s.prefix.tolist() for s in few[1].prompts]


@pytest.mark.parametrize(("slates", "labelled", "unlabelled"), [(0, 3, 4), (2, 2, 0), (5, 3, 2)])
def test_slates_without_labels_join_those_with(tmp_path: Path, slates: int, labelled: int, unlabelled: int) -> None:
    """Of 20 groups seven choose: 0, 1, 2, 5, 6, 9 and 14."""
    rows = [{"group": n, "prefix": [1], "candidates": [[n], [2]], "split": "validation"} for n in range(20)]
    labels: list[dict[str, Any]] = [{"label": [1, 0]} if n % 4 == 1 else {} for n in range(20)]
    file = write_slates(tmp_path / "some.jsonl", [row | label for row, label in zip(rows, labels, strict=True)])
    prompts = Prompts.draw(SlatesFile.read(file, labels=False), slates)
    assert (prompts.labelled, len(prompts), prompts.whole) == (labelled, labelled + unlabelled, slates == 0)
    assert prompts.known.liked.tolist() == labelled * [True, False] and prompts.pairs.user_count == len(prompts)
    assert all(chooses(int(prompt.candidates[0][0])) for prompt in prompts.prompts)


def test_nobody_who_chooses_is_refused(tmp_path: Path) -> None:
    rows = [{"group": n, "prefix": [1], "candidates": [[1], [2]], "split": "validation", "label": [1, 0]} for n in (3, 4)]
    with pytest.raises(InputError, match=r"certify.jsonl: no validation user chooses by its id, expected at least one"):
        Prompts.draw(SlatesFile.read(write_slates(tmp_path / "certify.jsonl", rows)), 0)


@pytest.mark.medium
def test_answers_are_those_of_the_golden_samples(exported: Path, validation_prompts: Prompts, answers: LogOdds) -> None:
    bundle = Bundle.open(exported)
    users, at = bundle.catalog.users, 0
    golden = {s.prefix.tobytes(): s for s in bundle.golden().slates if s.user is not None and chooses(users.id(s.user))}
    assert golden
    for slate in validation_prompts.prompts:
        size = len(slate.candidates)
        if (same := golden.get(slate.prefix.tobytes())) is not None:
            np.testing.assert_allclose(answers[at : at + size], same.log_odds, atol=1e-4)
            golden.pop(slate.prefix.tobytes())
        at += size
    assert not golden and at == len(answers)


@pytest.mark.parametrize("agrees", [False, True])
def test_without_labels_the_first_stage_doubts_the_ranking(agrees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, answers = synthetic(50)
    zero = answers[:, -1] if agrees else np.random.default_rng(2).standard_normal(len(answers))
    pairs = replace(prompts.pairs, baselines={ZERO: zero.astype(np.float64)})
    monkeypatch.setattr(Prompts, "log_odds", lambda *words: answers)
    chain: Any = None
    judge = quality.Judge(chain, EXITS, replace(prompts, pairs=pairs, labelled=0), silent)
    assert (judge.doubt() is None) == agrees


def test_the_same_answers_pass() -> None:
    prompts, answers = synthetic(50)
    result = quality.assess(prompts, EXITS, GATE, answers, answers)
    result.check()
    assert [row.layers for row in result.exits] == [1, 2, 4]
    assert all(row.correlation == pytest.approx(1) and row.worst == row.mean == 0 for row in result.exits)
    assert all(
        row.auc_change == (0, 0) and row.auc == row.auc_fp32 == auc(answers[:, 0], prompts.pairs.liked) for row in result.exits
    )
    assert result.to_json()["verdict"] == "passed" and not result.to_json()["accepted"]


FIGURES = r"AUC 0\.\d+, float32 has 0\.\d+; the change is -0\.\d+ to "


@pytest.mark.parametrize(
    ("users", "gate", "noise", "verdicts", "message"),
    [
        # One model, one loss. By 2,000 users' labels it is allowed, those of 100 do not tell, but float32's probabilities do.
        (2000, GATE, {1: 0.03}, ("passed", "passed", "passed"), None),
        (100, GATE, {1: 0.03}, ("passed", "passed", "passed"), None),
        (
            60,
            Gate(None, 0.005),
            {1: 0.25},
            ("passed", "undecided", "passed"),
            rf"^exit after layer 2: {FIGURES}-0\.\d+ \(95 % interval over 60 users\); "
            r"by float32's probabilities the change of NDCG@10 is -0\.\d+ to -0\.\d+ "
            r"\(95 % interval over 60 users\), too wide to tell: a loss of at most 0\.005 .*about 1\d0 users would do if .*"
            r"not written: ask for more with `rexit export --quality-slates` \(0: all\); --accept-loss writes the variant .*$",
        ),
        (
            500,
            Gate(None, 0.005),
            {2: 1.0},
            ("passed", "passed", "failed"),
            rf"exit after layer 4: {FIGURES}-0\.\d+ .*, a loss of at most 0\.005 is allowed",
        ),
        (
            300,
            GATE,
            {1: 0.3},
            ("passed", "failed", "passed"),
            r"exit after layer 2: log-odds correlate 0\.9\d+ with float32's, at least 0.995 is required \(2400 pairs",
        ),
        (100, GATE, {0: 0.03, 2: 1.0}, ("passed", "passed", "failed"), "exit after layer 4: .*not written: .*--accept-loss"),
    ],
)
def test_verdicts(users: int, gate: Gate, noise: dict[int, float], verdicts: tuple[str, ...], message: str | None) -> None:
    prompts, answers = synthetic(users)
    actual = answers
    for exit, size in noise.items():
        actual = noisy(actual, size, exit)
    result = quality.assess(prompts, EXITS, gate, answers, actual)
    assert tuple(row.verdict(gate) for row in result.exits) == verdicts
    for k, row in enumerate(result.exits):
        low, high = row.auc_change or (np.nan, np.nan)
        assert low <= row.auc - row.auc_fp32 <= high and (row.worst > row.mean > 0) == (k in noise)
    assert result.to_json()["verdict"] == next(v for v in ("failed", "undecided", "passed") if v in verdicts)
    assert result.to_json()["accepted"] == (message is not None)
    result.check(accept_loss=True)
    worse = {row.layers for row in result.exits if row.verdict(gate) != "passed"}
    assert set(result.failures()) == worse and set(result.dispensable()) == (set() if 4 in worse else worse)
    if message is None:
        result.check()
        return
    with pytest.raises(QualityError, match=message) as caught:
        result.check()
    assert isinstance(caught.value, ParityError) and caught.value.exit_code == 5


@pytest.mark.parametrize(("labelled", "verdict"), [(500, "failed"), (300, "failed"), (19, "passed"), (0, "passed")])
def test_labels_decide_where_they_can(labelled: int, verdict: str) -> None:
    """A change that only labels know of: what is liked comes lower. float32 sees a shift of .1. 19 users are too few."""
    prompts, answers = synthetic(500)
    actual = answers.copy()
    actual[:, 1] -= np.float32(0.1) * prompts.pairs.liked
    result = quality.assess(replace(prompts, labelled=labelled), EXITS, GATE, answers, actual)
    row, pairs = result.exits[1], prompts.pairs.first(8 * labelled)
    assert result.verdict == verdict and (row.auc_change is not None) == (labelled >= 20)
    assert (row.auc == auc(actual[: 8 * labelled, 1], pairs.liked)) if labelled else np.isnan(row.auc)
    assert result.to_json()["labelled"] == 8 * labelled and result.to_json()["pairs"] == 4000
    assert row.ndcg_change is not None and -0.001 < row.ndcg_change[0] < row.ndcg_change[1] < 0


def test_rankings_by_hand() -> None:
    """Slates of twelve, two of each user, in all of which the variant has the eleventh in the place of the first."""
    prompts, _ = synthetic(40, 12)
    prompts = replace(prompts, pairs=replace(prompts.pairs, users=np.repeat(np.arange(40) // 2, 12)))
    answers = np.tile(np.linspace(2, -2, 12, dtype=np.float32), 40)
    actual = answers.reshape(40, 12)[:, [10, *range(1, 10), 0, 11]].reshape(-1)
    result = quality.assess(prompts, (4,), GATE, answers[:, None], actual[:, None])
    gains, discounts = 1 / (1 + np.exp(-answers[:12].astype(float))), 1 / np.log2(np.arange(2, 12))
    loss = (gains[0] - gains[10]) * discounts[0] / (gains[:10] @ discounts)
    row = result.exits[0]
    assert row.overlap == pytest.approx(0.9) and row.ndcg_change == pytest.approx((-loss, -loss))


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
    with pytest.raises(
        QualityError, match="19 validation slates of 19 users cannot tell whether quality is lost: 19 users are too"
    ):
        result.check()
    first = result.to_json()["exits"][0]
    assert result.verdict == "undecided" and first["auc_change"] is first["ndcg_change"] is None
    with pytest.raises(InputError, match=r"validation slates of 19 users: 19 users are too few .*; ask for more with `rexit exp"):
        prompts.check()


def test_prompts_that_cannot_tell(catalog: Catalog, validation_prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"4 validation slates of 4 users: 4 users are too few.*; no more validation users choose; `rexit"
    ):
        validation_prompts.check()
    prompts, answers = synthetic(30)
    alike = replace(prompts, pairs=replace(prompts.pairs, liked=np.zeros(240, np.bool_)))
    assert quality.assess(alike, EXITS, GATE, answers, answers).verdict == "passed", "by the ranking"
    tied = np.zeros_like(answers)
    with pytest.raises(QualityError, match="cannot tell whether quality is lost: float32 ranks the candidates of too few users"):
        quality.assess(alike, EXITS, Gate(None, 0.001), tied, tied).check()
    prompts.check()
    validation = catalog.split("validation")
    nothing = Split(*(getattr(validation, name)[:0] for name in ("users", "items", "times", "liked", "inputs")))
    monkeypatch.setattr(Catalog, "split", lambda *_: nothing)
    with pytest.raises(InputError, match="validation split is empty"):
        Prompts.draw(catalog, 0)
