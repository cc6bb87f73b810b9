"""The verdict: what to do, and why. The terminal, report.json and the page show the same object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration import certify
from rexit.calibration.decision import FLOAT32, OWN_FULL_DEPTH, Decision, Interval
from rexit.calibration.floor import Floor
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Metric, parse
from rexit.upkeep.measure import CostProfile, depth_name

USE_POLICY = "use the policy"
EXPORT_SHALLOWER_MODEL = "export a shallower model"
KEEP_FULL_MODEL = "keep the full model"
CHECK_MODEL = "check the model"
"""The actions of a verdict."""

BETTER, NOT_SHOWN, WORSE_IN_PART = "better", "not shown", "worse in part"
"""How a dynamic policy compares with the best fixed depth that costs no more."""

NO_LABELS = (
    "This is against the full model, not against the truth: the slates have no labels, so nobody has checked that it ranks."
)
"""The first line of a verdict without labels."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

Row = Mapping[str, Any]
"""A row of the report's table."""


@dataclass(frozen=True)
class Verdict:
    """What to do, and why.

    Attributes:
        action: one of the four above.
        headline: the action in a few words.
        summary: why, in sentences; the first may continue the headline.
        comparison: how a dynamic policy compares with the best fixed depth that costs no more; None if there is no such depth.
        guarantee: in a sentence; None for full depth.
        shortfall: why the first policy that failed was not certified, as a part of a sentence; None if none failed.
        doubt: why the model's ranking may be worth nothing, see `rexit.data.ranking.doubt`; None if there is no reason.
        layers: what the layers add to the look-up, in a sentence, see `layers_add`; None without exit zero or without labels.
        also: how the policy ranks other candidates, in a sentence; None: nobody asked.
        floor: what the floor keeps and leaves out, or why there is none; likewise.
        losses: what precision and stopping lost on test, in a sentence; None without a float32 reference.
    """

    action: str
    headline: str
    summary: Sequence[str]
    comparison: str | None = None
    guarantee: str | None = None
    shortfall: str | None = None
    doubt: str | None = None
    layers: str | None = None
    also: str | None = None
    floor: str | None = None
    losses: str | None = None

    @property
    def text(self) -> str:
        """Headline and summary as one paragraph."""
        continues = not self.summary[0][0].isupper()
        return f"{self.headline}{':' if continues else '.'} {' '.join(self.summary)}"

    @property
    def lines(self) -> list[str]:
        """What the terminal and the page begin with, a paragraph each."""
        return [line for line in (self.layers, self.text, self.guarantee, self.losses, self.floor, self.also) if line is not None]


def judge(
    decision: Decision,
    depths: Sequence[int],
    table: Mapping[str, Row],
    gain: Mapping[str, Any] | None,
    dearer: Mapping[str, Any] | None = None,
    *,
    slates: str | None = None,
    profile: CostProfile | None = None,
    slower: bool = False,
    doubt: str | None = None,
    labelled: bool = True,
    noun: str = "users",
    also: Mapping[str, Any] | None = None,
) -> Verdict:
    """Returns the verdict of a calibration.

    Args:
        decision: what was chosen.
        depths: layers of each exit.
        table: ways to stop on the test split, by name.
        gain: how the policy compares with the best fixed depth that costs no more, `layers` and `differences`.
        dearer: the same for a fixed depth that costs little more and ranks better.
        slates: why the slates may say little, in a sentence.
        profile: what segments cost; if it is unreliable, costs were counted.
        slower: whether the chosen policy was not faster when timed, so that `decision` is back at full depth.
        doubt: why the model's ranking may be worth nothing.
        labelled: whether the slates have labels.
        noun: whom the slates are of, `users` or `queries`.
        also: how the policy ranks other candidates.
    """
    if decision.chosen is None:
        verdict = _keep_full_model(decision, depths, table, slower, noun)
    elif decision.chosen.fixed is not None:
        verdict = _shallower_model(decision, depths, table, decision.chosen.fixed, noun)
    else:
        verdict = _use_policy(decision, depths, table, gain)
        if dearer is not None:
            verdict = replace(verdict, summary=(*verdict.summary, _better(decision.goal, table, dearer)))
    verdict = replace(verdict, summary=(*verdict.summary, *([] if slates is None else [slates])))
    if not labelled:
        verdict = replace(verdict, summary=(NO_LABELS, *map(_sentence, verdict.summary)))
    if profile is not None and profile.is_unreliable:
        verdict = replace(verdict, summary=(*verdict.summary, _counted(profile, table)))
    if labelled and depths[0] == 0:
        verdict = replace(verdict, layers=layers_add(decision.goal, table))
    verdict = replace(verdict, guarantee=_guarantee(decision, noun), shortfall=_shortfall(decision, noun), doubt=doubt)
    verdict = replace(verdict, losses=losses_by_part(decision, noun))
    if also is not None:
        verdict = replace(verdict, also=on_others(also))
    if decision.floor is not None:
        verdict = replace(verdict, floor=of_floor(decision.floor, decision.policy.prior_shift, noun))
    if doubt is None:
        return verdict
    written = "full depth" if decision.chosen is None else _speed(table)
    reach = "A policy can only keep that ranking." if depths[0] else "Exits that read exit zero too may rank better than it."
    summary = (doubt, reach, f"The policy written is {written}.", *(() if labelled else (NO_LABELS,)))
    headline = verdict.headline if verdict.action == CHECK_MODEL else "Check the model first"
    return replace(verdict, action=CHECK_MODEL, headline=headline, summary=summary)


def _use_policy(decision: Decision, depths: Sequence[int], table: Mapping[str, Row], gain: Mapping[str, Any] | None) -> Verdict:
    policy, metrics = table["policy"], decision.goal.metrics
    saving = f"{_speed(table)}, {policy['mean_layers']:.1f} of {depths[-1]} layers on average."
    changes = [_change(metric, policy["drops"][metric.name]) for metric in metrics]
    if gain is None:
        return Verdict(USE_POLICY, "Use this policy", (saving, *changes, "No fixed depth is as cheap."))
    differences = [(metric, gain["differences"][metric.name]) for metric in metrics]
    shallower = model_name(gain["layers"])
    summary = (saving, *changes, _compared(shallower, differences, _ms(policy) - _ms(table[depth_name(gain["layers"])])))
    worse = [metric.title for metric, (_, _, high) in differences if high < 0]
    if worse:
        headline = f"Compare this policy with {shallower} before you use it"
        return Verdict(USE_POLICY, headline, (f"the policy is {saving}", *summary[1:]), WORSE_IN_PART)
    if any(low > 0 for _, (_, low, _) in differences):
        return Verdict(USE_POLICY, "Use this policy", summary, BETTER)
    headline = f"Use this policy, or {shallower}, which may do as well"
    return Verdict(USE_POLICY, headline, (f"the policy is {saving}", *summary[1:]), NOT_SHOWN)


def _better(goal: Goal, table: Mapping[str, Row], dearer: Mapping[str, Any]) -> str:
    """That a fixed depth ranks better for little more, in a sentence."""
    more_ms = _ms(table[depth_name(dearer["layers"])]) - _ms(table["policy"])
    differences = [(metric, dearer["differences"][metric.name]) for metric in goal.metrics]
    gains = [
        f"{signed(abs(value) if metric.higher_is_better else -abs(value))} ± {(high - low) / 2:.4f} of {metric.title}"
        for metric, (value, low, high) in differences
        if high < 0
    ]
    return _sentence(f"{model_name(dearer['layers'])} ranks better for {more_ms:.1f} ms more: {_and(gains)}.")


def short_slates(sizes: NDArray[np.int64], slate_size: int | None, goal: Goal) -> str | None:
    """Returns that most slates are shorter than asked for, or have no more than K candidates, in a sentence; None if neither.

    Args:
        sizes: candidates of each test slate, int64 [S].
        slate_size: the most candidates of a slate; None: not known.
        goal: K is its top-k, or that of its top-k overlap; without either there is none.
    """
    k = goal.top_k or max((metric.k for metric in goal.metrics if metric.kind == "top-k-overlap"), default=0)
    whole, small = int(np.count_nonzero(sizes == slate_size)), float(np.mean(sizes <= k))
    parts = []
    if slate_size is not None and np.median(sizes) < slate_size / 2:
        parts.append(f"only {whole:,} of {len(sizes):,} slates have {slate_size} candidates (median {np.median(sizes):g})")
    if small > 0.5:
        parts.append(f"{100 * small:.0f} % of the slates have at most {k}, where no place is contested")
    return _sentence(f"{_and(parts)}: slates as you serve them may cost and lose other amounts.") if parts else None


def _shallower_model(decision: Decision, depths: Sequence[int], table: Mapping[str, Row], fixed: int, noun: str) -> Verdict:
    goal, exits = decision.goal, ",".join(str(depth) for depth in depths[: fixed + 1] if depth)
    summary = (
        f"{_speed(table)}, and no policy {_allowed(goal, noun)} is cheaper by 1 %.",
        *(_change(metric, table["policy"]["drops"][metric.name]) for metric in goal.metrics),
        f"Export it with `rexit export --exits {exits}`; until then this bundle's policy stops every candidate there."
        if depths[fixed]
        else "This bundle's policy stops every candidate there: the model is not needed for such a ranking.",
    )
    if depths[fixed] == 0:
        return Verdict(EXPORT_SHALLOWER_MODEL, "The look-up alone does as well", summary)
    return Verdict(EXPORT_SHALLOWER_MODEL, f"Export {model_name(depths[fixed])}", summary)


def _counted(profile: CostProfile, table: Mapping[str, Row]) -> str:
    """That times fit no cost model, in sentences."""
    timed = table["policy"]["ms_per_slate"] is not None
    speed = "speeds were timed while something disturbed the machine" if timed else "speeds are on that scale"
    return (
        f"Times on this machine fit no cost model (its median error is {100 * profile.fit_error:.0f} %), so costs are counted in "
        f"layers and tokens; {speed}. Measure them again when nothing else runs: `--from-traces --measure-costs`."
    )


def layers_add(goal: Goal, table: Mapping[str, Row]) -> str:
    """Returns what full depth adds to exit zero, with its interval and in time, in a sentence: by NDCG@10, or by the goal's first
    metric where the table lacks it."""
    zero, full = table[depth_name(0)], table["full depth"]
    metric = parse("ndcg@10") if "ndcg@10" in zero["drops"] else goal.metrics[0]
    value, low, high = zero["drops"][metric.name]
    span = f"({minus(f'{low:.4f}')} to {minus(f'{high:.4f}')}) of {metric.title}"
    times = f"for {_few_digits(_ms(full))} ms instead of {_few_digits(_ms(zero))}"
    if low > 0:
        return f"The layers add {value:.4f} {span} to the look-up, {times}."
    if high < 0:
        return f"The layers rank below the look-up: {signed(value)} {span}, {times}."
    return f"The layers are not shown to add to the look-up: {signed(value)} {span}, {times}."


def of_floor(floor: Floor, prior_shift: float, noun: str) -> str:
    """Returns what a floor keeps and leaves out, or why there is none."""
    keeps = f"{100 * floor.recall:g} % of their relevant candidates"
    if floor.left_out is None:
        few = f"{floor.users:,} {noun} with relevant candidates certify"
        enough = floor.users >= floor.needed
        return f"No floor: {few}, and {'lose too much at the lowest' if enough else f'about {floor.needed:,.0f} are needed'}."
    if floor.c is None or floor.test is None or floor.test_left_out is None:
        return (
            f"No floor: relevant and other candidates overlap. Where {noun} keep {keeps}, {100 * floor.left_out:.1f} % of the "
            "others are left out."
        )
    recall, low, high = (100 * share for share in floor.test)
    probability = 1 / (1 + math.exp(-floor.c - prior_shift))
    return (
        f"A request with `floor` leaves out what is below a probability of {probability:.2g}. With {100 * floor.confidence:g} % "
        f"confidence, {noun} like these keep on average at least {keeps}: tested on {floor.users:,} {noun}. On test they keep "
        f"{recall:.1f} % ({low:.1f} to {high:.1f}), and {100 * floor.test_left_out:.1f} % of the others are left out."
    )


def on_others(also: Mapping[str, Any]) -> str:
    """Returns how the policy ranks other candidates, in a sentence. also: `candidates`, `users`, and by metric `policy`, `full`
    and what is `lost`."""
    figures = []
    for name, values in also["metrics"].items():
        lost, low, high = values["lost"]
        against = f"{minus(f'{lost:.4f}')} ({minus(f'{low:.4f}')} to {minus(f'{high:.4f}')}) below full depth"
        figures.append(f"{parse(name).title} {values['policy']:.4f}, {against}")
    return f"On other candidates ({also['candidates']}, {also['users']:,} test users, not certified): {'; '.join(figures)}."


def _few_digits(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.2g}"


def _ranked_above(goal: Goal, depths: Sequence[int], table: Mapping[str, Row], noun: str) -> str | None:
    """The fixed depth that ranked most above full depth on test, by the goal's first metric, and is shown below by none."""
    first, full = goal.metrics[0], table["full depth"]
    fixed = [(layers, table[depth_name(layers)]) for layers in depths[:-1]]
    worse = [any(row["drops"][metric.name][1] > 0 for metric in goal.metrics) for _, row in fixed]
    above = [way for way, is_worse in zip(fixed, worse, strict=True) if not is_worse and way[1]["drops"][first.name][0] < 0]
    if not above:
        return None
    layers, row = min(above, key=lambda way: float(way[1]["drops"][first.name][0]))
    drop, low, high = row["drops"][first.name]
    change = signed(-drop if first.higher_is_better else drop)
    sure = "" if high < 0 else ", which is not shown to be more than chance"
    return (
        f"On the test {noun} {model_name(layers)} ranked above it, {_ms(full) / _ms(row):.1f}x as fast: "
        f"{change} ± {(high - low) / 2:.4f} of {first.title}{sure}."
    )


def _keep_full_model(decision: Decision, depths: Sequence[int], table: Mapping[str, Row], slower: bool, noun: str) -> Verdict:
    goal, candidates = decision.goal, decision.candidates
    if not decision.choice.maps[-1].useful:
        return Verdict(CHECK_MODEL, "Train the model first", ("not even its last exit follows the labels.",))
    if slower:
        why = f"the certified policy should save {100 * decision.saving:.1f} % of the time, but is not faster when timed."
        advice = "If something else was running on this machine, measure again: `--from-traces --measure-costs`."
    elif not candidates:
        why = f"nothing {_allowed(goal, noun)} saves 1 % of the time."
        advice = "Allow a larger drop with `--max-drop` to see what exits would save."
    elif any(candidate.certified for candidate in candidates):
        why = f"what is certified {_allowed(goal, noun)} saves less than 1 % of the time."
        advice = "Allow a larger drop with `--max-drop` to see what exits would save."
    else:
        uncertified = f"no policy {_allowed(goal, noun)} is certified with {100 * goal.confidence:g} % confidence."
        why = f"{uncertified} {_sentence(_shortfall(decision, noun) or '')}."
        advice = f"Allow a larger drop (`--max-drop`), ask for less confidence (`--confidence`), or hold out more {noun}."
        certifying, places = decision.users["certifying"], next((m for m in goal.metrics if m.kind == "ndcg"), None)
        if places is not None and decision.tested[places.name] < certifying / 2:
            advice += (
                f" Only {decision.tested[places.name]:,} of {certifying:,} have a liked candidate and another: "
                f"`--metric expected-{places.name}` compares with the full model's ranking, for which every one counts."
            )
    above = _ranked_above(goal, depths, table, noun)
    return Verdict(KEEP_FULL_MODEL, "Keep the full model", (why, *([] if above is None else [above]), advice))


def _allowed(goal: Goal, noun: str) -> str:
    mean = f"that loses at most {goal.max_drop:g} of {_and([metric.title for metric in goal.metrics])}"
    return mean if goal.tail is None else f"{mean} on average, where {goal.tail.sentence(noun)},"


def _speed(table: Mapping[str, Row]) -> str:
    full, policy = table["full depth"], table["policy"]
    before, now = _ms(full), _ms(policy)
    timed = "" if policy["ms_per_slate"] is not None else " by the cost model, not timed"
    return f"{before / now:.1f}x faster than the full model ({now:.1f} ms instead of {before:.1f} a slate{timed})"


def _ms(row: Row) -> float:
    """Milliseconds per slate: as timed, or by the cost model if no model ran."""
    return float(row["cost_us"] / 1000 if row["ms_per_slate"] is None else row["ms_per_slate"])


def _change(metric: Metric, drop: Interval) -> str:
    """How a metric changes, in a sentence."""
    value, low, high = drop
    half = (high - low) / 2
    if metric.kind == "top-k-overlap":
        return f"It keeps {100 * (1 - value):.1f} ± {100 * half:.1f} % of the full model's top {number_word(metric.k)}."
    if metric.kind == "agreement":
        return f"It answers {100 * (1 - value):.1f} ± {100 * half:.1f} % of candidates as the full model does."
    change = -value if metric.higher_is_better else value
    figures = f"({signed(change)} ± {half:.4f})"
    if not low <= 0 <= high:
        return _sentence(f"{metric.title} {'falls' if change < 0 else 'rises'} by {abs(value):.4f} ± {half:.4f}.")
    if low == high:
        return _sentence(f"{metric.title} is unchanged.")
    return f"No change of {metric.title} is shown {figures}."


def _compared(shallower: str, differences: Sequence[tuple[Metric, Interval]], more_ms: float) -> str:
    """How the policy compares with the best fixed depth that costs no more, in a sentence."""
    verbs = [f"costs {more_ms:.1f} ms more" if more_ms >= 0.05 else "costs as much"]
    for metric, (value, low, high) in differences:
        if low <= 0 <= high:
            continue
        half, points = (high - low) / 2, f"{100 * abs(value):.1f} points {'more' if value > 0 else 'less'} of"
        if metric.kind == "top-k-overlap":
            verbs.append(f"keeps {points} the full model's top {number_word(metric.k)}")
        elif metric.kind == "agreement":
            verbs.append(f"keeps {points} the full model's answers")
        else:
            verbs.append(f"{'gains' if value > 0 else 'loses'} {abs(value):.4f} ± {half:.4f} of {metric.title}")
    unsure = [
        f"{metric.title} ({signed(value)} ± {(high - low) / 2:.4f})"
        for metric, (value, low, high) in differences
        if low <= 0 <= high
    ]
    rest = f"; no difference in {_and(unsure)} is shown" if unsure else ""
    return f"Compared with {shallower} it {_and(verbs)}{rest}."


def _guarantee(decision: Decision, noun: str) -> str | None:
    goal = decision.goal
    if decision.chosen is None:
        return None
    proven = {metric: goal.max_drop for metric in goal.metrics if metric.bounds is not None}
    others = [metric.title for metric in goal.metrics if metric.bounds is None]
    sentences = []
    if proven:
        tail = None if goal.tail is None else goal.tail.sentence()
        against = f"the {FLOAT32}" if decision.has_reference else f"{OWN_FULL_DEPTH}, as the bundle has no float32 reference"
        tested = {metric.name: decision.tested[metric.name] for metric in proven}
        sentences.append(certify.guarantee(proven, tested, goal.error, tail, noun, against))
    if others:
        sentences.append(
            f"With {100 * goal.confidence:g} % confidence, {_and(others)} drops by at most {goal.max_drop:g}: by a bootstrap "
            f"over {decision.users['certifying']:,} {noun}, which is right for many, not for few."
        )
    return " ".join(sentences)


def losses_by_part(decision: Decision, noun: str) -> str | None:
    """Returns what precision and stopping lost on test, by the goal's first metric, in a sentence; None without a reference."""
    if not decision.has_reference:
        return None
    metric = decision.goal.metrics[0]
    parts, (whole, low, high) = decision.losses[metric.name], decision.losses[metric.name].whole
    precision, stopping = (minus(f"{loss + 0.0:.4f}") for loss in (parts.precision, parts.stopping))
    return (
        f"Measured on {decision.users['test']:,} test {noun}, not promised: {precision} of {metric.title} lost by precision, "
        f"{stopping} by stopping, {minus(f'{whole:.4f}')} ({minus(f'{low:.4f}')} to {minus(f'{high:.4f}')}) in all; float32 at "
        f"full depth has {parts.float32:.4f}, the model alone as handed in {parts.model:.4f}."
    )


def _shortfall(decision: Decision, noun: str) -> str | None:
    failed = next((candidate for candidate in decision.candidates if not candidate.certified), None)
    if failed is None:
        return None
    policy = "the policy likeliest to pass" if failed is decision.candidates[0] else "the first policy that failed"
    if decision.users_needed is None:
        pairs = [f"p = {p:.3g} for {name}" for name, p in failed.p_values.items() if p > decision.goal.error]
        return f"a bootstrap over {decision.users['certifying']:,} {noun} does not confirm {policy}, {_and(pairs)}"
    tested = {metric.name: decision.tested[metric.name] for metric in decision.goal.metrics if metric.bounds is not None}
    counted = certify.count_users(tested, noun)
    if math.isinf(decision.users_needed):
        return f"{counted} lose more than is allowed under {policy}, so more {noun} like them would not help"
    more = f"about {float(f'{decision.users_needed:.2g}'):,.0f}"
    return f"{counted} are too few for {policy}; {more} would do if their losses were like these"


def model_name(layers: int) -> str:
    """Returns "the look-up alone" for exit zero, "a one-layer model", "an eight-layer model", "a 12-layer model"."""
    if layers == 0:
        return "the look-up alone"
    article = "an" if layers in (8, 11, 18) or 80 <= layers < 90 else "a"
    return f"{article} {number_word(layers)}-layer model"


def number_word(number: int) -> str:
    """Returns a number up to ten as a word, a larger one in digits."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def signed(value: float) -> str:
    """Returns a number with its sign and four decimals."""
    return minus(f"{round(value, 4) + 0.0:+.4f}")  # no negative zero


def minus(number: str) -> str:
    """Returns a number with a true minus sign."""
    return number.replace("-", "\N{MINUS SIGN}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
