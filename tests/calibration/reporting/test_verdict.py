"""The verdict in each case, from a decision's own figures."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders.decisions import decide_on
from builders.traces import traces
from rexit.calibration.decision import Decision, Gain, back_to_full_depth
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import parse
from rexit.calibration.reporting import content
from rexit.calibration.reporting.verdict import judge, model_name, short_slates
from rexit.upkeep.audit.betting import Tail
from rexit.upkeep.measure import Conditions, CostProfile

DEPTHS = (1, 2, 6)
GOAL = Goal((parse("ndcg@5"), parse("top-k-overlap@5")), 0.08)


@functools.cache
def decision() -> Decision:
    """A dynamic policy; its figures are replaced by those of a test."""
    validation, test = (traces(600, 10, (2.0, 0.7, 0.0), seed=seed) for seed in (1, 2))
    dynamic = decide_on(validation, GOAL, test, depths=DEPTHS)
    assert dynamic.chosen is not None and dynamic.chosen.fixed is None
    return dynamic


def row(ms: float | None, layers: float, drops: dict[str, tuple[float, float, float]] | None = None) -> dict[str, Any]:
    zero = {metric.name: (0.0, 0.0, 0.0) for metric in GOAL.metrics}
    return {"ms_per_slate": ms, "cost_us": 1000 * (ms or 2.0), "mean_layers": layers, "drops": drops or zero}


def table(ndcg=(0.0016, -0.0030, 0.0060), overlap=(0.0314, 0.0270, 0.0360), timed: bool = True) -> dict[str, Any]:
    policy = row(1.0, 1.1, {"ndcg@5": ndcg, "top-k-overlap@5": overlap})
    rows = {"full depth": row(2.9, 6.0), "1 layer": row(0.9, 1.0), "2 layers": row(1.2, 2.0), "policy": policy}
    return rows if timed else {name: {**entry, "ms_per_slate": None} for name, entry in rows.items()}


def gain(ndcg: tuple[float, float, float], overlap: tuple[float, float, float]) -> dict[str, Any]:
    return {"layers": 1, "differences": {"ndcg@5": ndcg, "top-k-overlap@5": overlap}}


BETTER, WORSE, UNSURE = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (-0.0018, -0.0060, 0.0020)


@pytest.mark.medium
def test_policy_that_beats_the_fixed_depth() -> None:
    verdict = judge(decision(), DEPTHS, table(), gain(UNSURE, BETTER))
    assert (verdict.action, verdict.comparison) == ("use the policy", "better")
    assert verdict.text == (
        "Use this policy: 2.9x faster than the full model (1.0 ms instead of 2.9 a slate), 1.1 of 6 layers on average. No change "
        "of NDCG@5 is shown (\N{MINUS SIGN}0.0016 ± 0.0045). It keeps 96.9 ± 0.4 % of the full model's top five. Compared with a "
        "one-layer model it costs 0.1 ms more and keeps 2.0 points more of the full model's top five; no difference in NDCG@5 "
        "(\N{MINUS SIGN}0.0018 ± 0.0040) is shown."
    )
    assert verdict.guarantee is not None and verdict.guarantee.startswith("With 95 % confidence, users like these lose")


@pytest.mark.parametrize(
    ("differences", "comparison", "headline", "compared"),
    [
        (
            (UNSURE, UNSURE),
            "not shown",
            "Use this policy, or a one-layer model, which may do as well",
            "it costs 0.1 ms more; no",
        ),
        (
            (WORSE, BETTER),
            "worse in part",
            "Compare this policy with a one-layer model before you use it",
            "loses 0.0200 ± 0.0100",
        ),
        (
            (BETTER, WORSE),
            "worse in part",
            "Compare this policy with a one-layer model before you use it",
            "2.0 points less of the",
        ),
    ],
)
def test_policy_that_a_fixed_depth_may_replace(differences: Any, comparison: str, headline: str, compared: str) -> None:
    verdict = judge(decision(), DEPTHS, table(), gain(*differences))
    assert verdict.comparison == comparison and compared in verdict.text
    assert verdict.text.startswith(f"{headline}: the policy is 2.9x faster than the full model")


def test_fixed_depth_that_ranks_better_for_little_more_is_mentioned() -> None:
    """Of those that cost at most half as much again, lose nothing and surely gain something."""
    differences = {"ndcg@5": WORSE, "top-k-overlap@5": UNSURE}
    gains = tuple(Gain(exit_, 0.0, differences) for exit_ in (0, 1))
    better = replace(decision(), gains=gains)
    for milliseconds, layers in (((1.2, 1.4), 1), ((0.9, 1.4), 2), ((0.9, 1.6), None)):
        costs = {"policy": 1.0, "1 layer": milliseconds[0], "2 layers": milliseconds[1], "full depth": 2.9}
        dearer = content._dearer(better, costs, DEPTHS)
        assert (dearer and dearer["layers"]) == layers
    in_part = replace(better, gains=tuple(replace(gain, differences=differences | {"top-k-overlap@5": BETTER}) for gain in gains))
    assert content._dearer(in_part, {**costs, "2 layers": 1.2}, DEPTHS) is None
    verdict = judge(decision(), DEPTHS, table(), None, {"layers": 2, "differences": differences})
    assert verdict.text.endswith("A two-layer model ranks better for 0.2 ms more: +0.0200 ± 0.0100 of NDCG@5.")


@pytest.mark.parametrize(
    ("sizes", "asked", "words"),
    [
        ([50] + [5] * 9, 50, "Only 1 of 10 slates have 50 candidates (median 5) and 90 % of the slates have at most 5, "),
        ([50] + [6] * 9, 50, "Only 1 of 10 slates have 50 candidates (median 6): slates as you serve them"),
        ([8, 4, 4], None, "67 % of the slates have at most 5, where no place is contested: slates"),
        ([20, 20, 12], 20, None),
    ],
)
def test_slates_that_are_few_or_short_are_said(sizes: list[int], asked: int | None, words: str | None) -> None:
    sentence = short_slates(np.array(sizes), asked, GOAL)
    assert sentence is None if words is None else sentence is not None and sentence.startswith(words)
    assert judge(decision(), DEPTHS, table(), None, slates="Short.").text.endswith(" Short.")


def test_policy_that_no_fixed_depth_is_as_cheap_as() -> None:
    verdict = judge(decision(), DEPTHS, table(timed=False), None)
    assert verdict.comparison is None and verdict.text.endswith("No fixed depth is as cheap.")
    assert "(1.0 ms instead of 2.9 a slate by the cost model, not timed)" in verdict.text


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        ((0.0103, 0.0036, 0.0178), "NDCG@5 falls by 0.0103 ± 0.0071."),
        ((-0.0103, -0.0178, -0.0036), "NDCG@5 rises by 0.0103 ± 0.0071."),
        ((0.0, 0.0, 0.0), "NDCG@5 is unchanged."),
        ((0.0178, -0.0051, 0.0407), "No change of NDCG@5 is shown (\N{MINUS SIGN}0.0178 ± 0.0229)."),
        ((0.0500, -0.0200, 0.1200), "No change of NDCG@5 is shown (\N{MINUS SIGN}0.0500 ± 0.0700)."),
    ],
)
def test_what_becomes_of_a_metric(drop: tuple[float, float, float], sentence: str) -> None:
    """An interval that holds 0 shows nothing: that is not `unchanged`."""
    assert judge(decision(), DEPTHS, table(ndcg=drop), None).summary[1] == sentence


def test_log_loss_rises_where_it_is_worse() -> None:
    goal = replace(GOAL, metrics=(parse("logloss"),))
    rows = table()
    rows["policy"]["drops"] = {"logloss": (0.01, 0.005, 0.015)}
    by_log_loss = replace(decision(), goal=goal, tested={"logloss": 400})
    assert judge(by_log_loss, DEPTHS, rows, None).summary[1] == "Log loss rises by 0.0100 ± 0.0050."


def test_policy_that_is_a_fixed_depth() -> None:
    chosen = decision().chosen
    assert chosen is not None
    verdict = judge(replace(decision(), chosen=replace(chosen, fixed=1)), DEPTHS, table(), None)
    assert verdict.action == "export a shallower model" and verdict.text.startswith("Export a two-layer model: 2.9x faster than")
    assert "Export it with `rexit export --exits 1,2`" in verdict.text


def test_full_model_where_nothing_is_worth_having() -> None:
    full = back_to_full_depth(decision())
    failed = tuple(replace(candidate, certified=False) for candidate in full.candidates)
    cases = {
        "should save": judge(full, DEPTHS, table(), None, slower=True),
        "nothing that loses at most 0.08 of NDCG@5 and top-5 overlap saves 1 % of the time.": judge(
            replace(full, candidates=()), DEPTHS, table(), None
        ),
        "what is certified that loses at most 0.08 of NDCG@5 and top-5 overlap saves less than 1 %": judge(
            full, DEPTHS, table(), None
        ),
        "are too few for the policy likeliest to pass; about 1,200 would do if their losses": judge(
            replace(full, candidates=failed, users_needed=1234.0), DEPTHS, table(), None
        ),
        "lose more than is allowed under the policy likeliest to pass, so more users like them would not help": judge(
            replace(full, candidates=failed, users_needed=math.inf), DEPTHS, table(), None
        ),
        f"Only 30 of {full.users['certifying']} have a liked candidate and another: `--metric expected-ndcg@5` compares": judge(
            replace(full, candidates=failed, users_needed=1234.0, tested=full.tested | {"ndcg@5": 30}), DEPTHS, table(), None
        ),
    }
    for words, verdict in cases.items():
        assert verdict.action == "keep the full model" and verdict.text.startswith("Keep the full model: "), words
        assert words in verdict.text and verdict.guarantee is None


@pytest.mark.parametrize(
    ("ndcg", "overlap", "shown"),
    [
        ((-0.0190, -0.0310, -0.0070), (0.02, -0.01, 0.05), "+0.0190 ± 0.0120 of NDCG@5."),
        ((-0.0190, -0.0510, 0.0130), (0.02, -0.01, 0.05), "+0.0190 ± 0.0320 of NDCG@5, which is not shown to be more than"),
        ((-0.0190, -0.0310, -0.0070), (0.02, 0.01, 0.03), None),
        ((0.0010, -0.0310, 0.0330), (0.0, 0.0, 0.0), None),
    ],
)
def test_full_model_below_a_fixed_depth_names_it(ndcg: Any, overlap: Any, shown: str | None) -> None:
    rows = table()
    rows["2 layers"]["drops"] = {"ndcg@5": ndcg, "top-k-overlap@5": overlap}
    verdict = judge(back_to_full_depth(decision()), DEPTHS, rows, None)
    words = "On the test users a two-layer model ranked above it, 2.4x as fast: "
    assert verdict.headline == "Keep the full model" and (words in verdict.text) == (shown is not None)
    assert shown is None or words + shown in verdict.text


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        (
            (0.0028, 0.0009, 0.0046),
            "The layers add 0.0028 (0.0009 to 0.0046) of NDCG@5 to the look-up, for 90 ms instead of 0.1.",
        ),
        (
            (0.0010, -0.0020, 0.0040),
            "The layers are not shown to add to the look-up: +0.0010 (\N{MINUS SIGN}0.0020 to 0.0040) of NDCG@5, for 90 ms "
            "instead of 0.1.",
        ),
        (
            (-0.0030, -0.0050, -0.0010),
            "The layers rank below the look-up: \N{MINUS SIGN}0.0030 (\N{MINUS SIGN}0.0050 to \N{MINUS SIGN}0.0010) of NDCG@5, "
            "for 90 ms instead of 0.1.",
        ),
    ],
)
def test_what_the_layers_add_to_the_look_up(drop: tuple[float, float, float], sentence: str) -> None:
    zero = row(0.1, 0.0, {"ndcg@5": drop, "top-k-overlap@5": drop})
    rows = table() | {"exit zero": zero, "full depth": row(90.0, 6.0)}
    for doubt in (None, "This model ranks below a baseline."):
        assert judge(decision(), (0, 2, 6), rows, None, doubt=doubt).layers == sentence
    assert judge(decision(), (0, 2, 6), rows, None, labelled=False).layers is None, "nobody knows"
    assert judge(decision(), DEPTHS, table(), None).layers is None


@pytest.mark.parametrize(
    ("timed", "speed"),
    [(True, "speeds were timed while something disturbed the machine"), (False, "speeds are on that scale")],
)
def test_costs_that_were_counted_are_said(timed: bool, speed: str) -> None:
    """The verdict stays one about the model."""
    profile = CostProfile(Conditions("", "cpu", 2, {}), 5.0, (), 0.71)
    verdict = judge(decision(), DEPTHS, table(timed=timed), gain(UNSURE, BETTER), profile=profile)
    assert verdict.headline == "Use this policy" and verdict.text.endswith(
        "Times on this machine fit no cost model (its median error is 71 %), so costs are counted in layers and tokens; "
        f"{speed}. Measure them again when nothing else runs: `--from-traces --measure-costs`."
    )


def test_model_that_may_rank_nothing() -> None:
    doubt = "This model is not shown to rank: its user AUC …, chance is 0.5."
    verdict = judge(decision(), DEPTHS, table(), None, doubt=doubt)
    assert verdict.action == "check the model" and verdict.doubt == doubt
    assert verdict.text == (
        f"Check the model first. {doubt} A policy can only keep that ranking. The policy written is 2.9x "
        "faster than the full model (1.0 ms instead of 2.9 a slate)."
    )


@pytest.mark.parametrize(
    ("layers", "name"),
    [(1, "a one-layer model"), (8, "an eight-layer model"), (11, "an 11-layer model"), (12, "a 12-layer model")],
)
def test_model_names(layers: int, name: str) -> None:
    assert model_name(layers) == name


def test_without_a_catalog_sentences_are_about_queries() -> None:
    """The page's own words are held by test_page.py."""
    full = back_to_full_depth(decision())
    failed = replace(full, candidates=tuple(replace(candidate, certified=False) for candidate in full.candidates))
    rows = table()
    rows["2 layers"]["drops"] = {"ndcg@5": (-0.02, -0.03, -0.01), "top-k-overlap@5": (0.0, 0.0, 0.0)}
    useless = replace(
        full, choice=replace(full.choice, maps=(*full.choice.maps[:-1], replace(full.choice.maps[-1], useful=False)))
    )
    with_tail = replace(decision(), goal=replace(GOAL, tail=Tail(0.1, 0.2)))
    for needed in (None, 1234.0, math.inf):
        for case in (decision(), with_tail, full, replace(failed, users_needed=needed), useless):
            verdict = judge(case, DEPTHS, rows, None, noun="queries")
            text = f"{verdict.text} {verdict.guarantee} {verdict.shortfall}".replace("user AUC", "")
            assert not re.search(r"\b(users?|likes?d?)\b(?! th)", text), text
            assert "queries" in text or case is useless, text
