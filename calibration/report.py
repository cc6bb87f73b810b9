"""What calibration reports: `report.json`, and the conclusion in a paragraph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rexit import __version__
from rexit.bundle import Bundle
from rexit.bundle.files import json_values
from rexit.calibration import certify, drift
from rexit.calibration.decide import Decision, Row
from rexit.calibration.examples import Example
from rexit.calibration.traces import Traces
from rexit.measure.costs import Costs, depth_name
from rexit.measure.profile import CostProfile
from rexit.slates import SIZE

METRICS = ("ndcg@10", "user-auc")
"""What a policy is judged by unless other metrics are asked for: a recommender ranks one user's slate."""

BINS = 10
"""Of a reliability diagram."""


@dataclass(frozen=True)
class CalibrationOptions:
    """What can be chosen for a calibration; `rexit calibrate --help` says the same.

    metrics: none of them may drop by more than `max_drop` against full depth, with this confidence. top_k: what is shown of a
    slate, if not all of it. slate: candidates per slate. max_slates: at most so many of each split, evenly spaced; 0: all.
    timed_slates: how many are timed. repeats: of each timing; the median counts. device, threads: as for `rexit.open`. profile: a
    file that `rexit bench --profile` wrote; None: costs are measured. cached_share: of slates whose prefix is cached when they
    are scored. from_traces: decide on what the last calibration observed, without running the model.
    suggest_exits: also find out which heads are worth keeping.
    """

    metrics: Sequence[str] = METRICS
    max_drop: float = 0.01
    confidence: float = 0.95
    top_k: int | None = None
    slate: int = SIZE
    max_slates: int = 5000
    timed_slates: int = 16
    repeats: int = 5
    device: str | None = None
    threads: int = 0
    profile: Path | None = None
    cached_share: float = 0.0
    from_traces: bool = False
    suggest_exits: bool = False


@dataclass(frozen=True)
class Measured:
    """Mean milliseconds per slate of the deployed policy, then of each exit forced; and how many of the candidates timed
    stopped at exactly the exit their traces say. The others are within rounding of a threshold."""

    milliseconds: tuple[float, ...]
    candidates: int
    as_traced: int


@dataclass(frozen=True)
class Findings:
    """What a calibration found. traces: by split, validation and test. measured: None if no model ran. slower: the policy chosen
    was not faster when timed, so `decision` is back at full depth. early, late: examples. doubt: why the model's ranking may be
    worth nothing, see `rexit.ranking.doubt`."""

    traces: Mapping[str, Traces]
    profile: CostProfile
    costs: Costs
    decision: Decision
    measured: Measured | None
    slower: bool
    early: Sequence[Example]
    late: Sequence[Example]
    doubt: str | None


def build(bundle: Bundle, options: CalibrationOptions, findings: Findings) -> dict[str, Any]:
    """The content of `report.json`: plain JSON values."""
    depths, decision, measured, profile = bundle.manifest.exits, findings.decision, findings.measured, findings.profile
    policy, traces, goal = decision.policy, findings.traces, decision.goal
    seen, test = traces["validation"], traces["test"]
    stops, c = policy.stops(test.log_odds, test.offsets), policy.calibrated(test.log_odds)
    last = np.full(len(test), len(depths) - 1)
    timed = _timed(decision, measured, depths)
    report: dict[str, Any] = {
        "schema": 1,
        "requires": [],
        "producer": f"rexit {__version__}",
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "catalog_sha256": bundle.manifest.catalog_sha256,
        "layers": depths[-1],
        "device": profile.conditions.device,
        "threads": profile.conditions.threads,
        "machine": profile.conditions.machine,
        "settings": {n: v for n, v in asdict(options).items() if n not in ("profile", "from_traces", "suggest_exits")},
        "data": {n: {"pairs": len(t), "slates": len(t.offsets) - 1, "users": t.user_count} for n, t in traces.items()},
        "users": dict(decision.users),
        "tested": dict(decision.tested),
        "profile": profile.to_json(),
        "costs": {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in asdict(findings.costs).items()},
        "policy": {
            "kind": "full depth" if decision.chosen is None else "dynamic" if decision.chosen.fixed is None else "fixed depth",
            "patience": policy.patience,
            "quorum": policy.quorum,
            "top_k": policy.top_k and asdict(policy.top_k),
        },
        "exits": [
            {
                "layers": d,
                **asdict(e),
                "useful": m.useful,
                "stopped": float(np.mean(stops == k)),
                "reliability": _reliability(c[:, k], test.liked),
            }
            for k, (d, e, m) in enumerate(zip(depths, policy.exits, decision.maps, strict=True))
        ],
        "table": [{**_row(row), "ms_per_slate": timed.get(row.name)} for row in decision.rows],
        "candidates": [
            {
                "budget": one.budget,
                "fixed": None if one.fixed is None else depths[one.fixed],
                "expected": {m.name: d for m, d in zip(goal.metrics, one.outcome.drops, strict=True)},
                "p_value": one.p_value,
                "certified": one.certified,
                "test": _row(row),
            }
            for one, row in zip(decision.candidates, decision.curve, strict=True)
        ],
        "parts": {name: _parts(findings.costs, exits, test) for name, exits in (("full depth", last), ("policy", stops))},
        "gain": _gain(decision, timed, depths),
        "saving": decision.saving,
        "heads": [{"exits": [depths[k] for k in one.exits], "cost_us": one.cost_us} for one in decision.heads],
        "suggested_exits": decision.suggested and [depths[k] for k in decision.suggested.exits],
        "users_needed": None if decision.needed is None or math.isinf(decision.needed) else decision.needed,
        "shortfall": _shortfall(decision),
        "guarantee": _guarantee(decision),
        "doubt": findings.doubt,
        "decisions": measured and {"candidates": measured.candidates, "as_traced": measured.as_traced},
        "reference": drift.reference(policy.calibrated(seen.log_odds), policy.stops(seen.log_odds, seen.offsets)),
        "examples": {"early": list(map(asdict, findings.early)), "late": list(map(asdict, findings.late))},
    }
    report["conclusion"] = " ".join(filter(None, (findings.doubt, _conclusion(report, findings))))
    plain: dict[str, Any] = json_values(report)
    return plain


def _gain(decision: Decision, timed: Mapping[str, float], depths: Sequence[int]) -> dict[str, Any] | None:
    """Over the fixed depth that is expected to lose least, of those that take no longer than the policy: as timed, or by the cost
    model where nothing was. None if there is none."""
    cost = timed or {row.name: row.cost_us for row in decision.rows}
    cheap = [one for one in decision.gains if cost[depth_name(depths[one.exit])] <= cost["policy"]]
    if not cheap:
        return None
    best = min(cheap, key=lambda one: one.expected)
    verdict = _compared([best.differences[m.name] for m in decision.goal.metrics])
    return {"layers": depths[best.exit], "differences": dict(best.differences), "verdict": verdict}


def _row(row: Row) -> dict[str, Any]:
    return {"policy": row.name, **{n: v for n, v in asdict(row).items() if n != "name"}}


def _parts(costs: Costs, stops: NDArray[np.int64], traces: Traces) -> dict[str, Any]:
    """Of the mean slate's cost, in microseconds; by exit but for the base."""
    prefix, passes, candidates = costs.parts(stops, traces.offsets).tolist()
    return {"base_us": costs.base_us, "prefix_us": prefix, "pass_us": passes, "candidate_us": candidates}


def _timed(decision: Decision, measured: Measured | None, depths: Sequence[int]) -> dict[str, float]:
    """Milliseconds by the name of a row."""
    if measured is None:
        return {}
    first, *forced = measured.milliseconds
    names = [*map(depth_name, depths[:-1]), "full depth"]
    return {**dict(zip(names, forced, strict=True)), "policy": first if decision.chosen else forced[-1]}


def _reliability(c: NDArray[np.float32], liked: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Pairs in bins of equal count by probability: the mean probability of each bin, and the share that was liked."""
    p, order = expit(c.astype(np.float64)), np.argsort(c, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [{"probability": float(p[i].mean()), "liked": float(liked[i].mean()), "pairs": len(i)} for i in parts]


def _guarantee(decision: Decision) -> str | None:
    goal, chosen = decision.goal, decision.chosen
    if chosen is None:
        return None
    proven = {m: goal.max_drop for m in goal.metrics if m.bounds is not None}
    others = [m.name for m in goal.metrics if m.bounds is None]
    words = [certify.words(proven, {m.name: decision.tested[m.name] for m in proven}, goal.error)] if proven else []
    if others:
        words.append(
            f"By a bootstrap over {decision.users['certifying']:,} users, which is right for many of them, {_and(others)} drops "
            f"by at most {goal.max_drop:g} with {goal.confidence:.0%} confidence."
        )
    return " ".join(words)


def _conclusion(report: dict[str, Any], findings: Findings) -> str:
    """The verdict first, but for `doubt`."""
    decision, table = findings.decision, {row["policy"]: row for row in report["table"]}
    goal, full, policy = decision.goal, table["full depth"], table["policy"]
    allowed = f"within a drop of {goal.max_drop:g} of {' and '.join(m.name for m in goal.metrics)}"
    if findings.slower:
        return (
            f"No exit pays: the best policy {allowed} should save {decision.saving:.1%}, but is not faster when measured. The "
            "policy is full depth."
        )
    if decision.chosen is None:
        return f"{_why_not(decision, allowed)} The policy is full depth."
    time = _time(full, policy)
    lost = ", ".join(_lost(m.name, policy["drops"][m.name]) for m in goal.metrics)
    if decision.chosen.fixed is not None:
        depth = report["exits"][decision.chosen.fixed]["layers"]
        kept = ",".join(str(e["layers"]) for e in report["exits"][: decision.chosen.fixed + 1])
        return (
            f"Cut the model at layer {depth}: everybody stopping there is as good as any policy {allowed}, {time}. On the test "
            f"split {lost}. Export it as a smaller model with `rexit export --exits {kept}`. {report['guarantee']}"
        )
    return (
        f"Early exit pays: {policy['mean_layers']:.1f} of {report['layers']} layers on average, {time}. On the test split "
        f"{lost}. {_against_fixed(report)} {report['guarantee']}"
    )


def _shortfall(decision: Decision) -> str | None:
    """Why the first policy that was tested and not certified failed; None if none did."""
    failed = next((one for one in decision.candidates if not one.certified), None)
    if failed is None:
        return None
    which = "the most careful policy" if failed is decision.candidates[0] else "the first policy that failed"
    if decision.needed is None:
        pairs = [f"p = {p:.3g} for {name}" for name, p in failed.p_values.items() if p > decision.goal.error]
        return f"a bootstrap over {decision.users['certifying']:,} users does not show it of {which}, {_and(pairs)}"
    more = (
        "and no number would do if their losses were like these"
        if math.isinf(decision.needed)
        else f"about {decision.needed:,.0f} would be needed if their losses were like these"
    )
    values = {m.name: decision.tested[m.name] for m in decision.goal.metrics if m.bounds is not None}
    return f"{certify.counted(values)} are too few for {which}, {more}"


def _why_not(decision: Decision, allowed: str) -> str:
    if not decision.maps[-1].useful:
        return "No exit pays: not even the deepest head ranks; train the model before calibrating it."
    if not decision.candidates:
        return f"No exit pays: nothing {allowed} would save 1 % of the time."
    if any(one.certified for one in decision.candidates):
        return f"No exit pays: what is certified {allowed} saves less than 1 % of the time."
    return f"No policy is certified {allowed} with {decision.goal.confidence:.0%} confidence: {_shortfall(decision)}."


def _time(full: dict[str, Any], policy: dict[str, Any]) -> str:
    if policy["ms_per_slate"] is None:
        return (
            f"{full['cost_us'] / policy['cost_us']:.2f}x as fast as full depth by the cost model ({policy['cost_us'] / 1000:.1f} "
            f"instead of {full['cost_us'] / 1000:.1f} ms per slate; not timed)"
        )
    return (
        f"{full['ms_per_slate'] / policy['ms_per_slate']:.2f}x as fast as full depth ({policy['ms_per_slate']:.1f} instead of "
        f"{full['ms_per_slate']:.1f} ms per slate)"
    )


def _lost(name: str, drop: Sequence[float]) -> str:
    value, low, high = drop
    return f"{name} drops by {value:.4f} (95 % interval {low:+.4f} to {high:+.4f})"


def _against_fixed(report: dict[str, Any]) -> str:
    gain = report["gain"]
    if gain is None:
        return "No fixed depth costs as little."
    by_metric = {name: gain["differences"][name] for name in report["settings"]["metrics"]}
    told = ", ".join(f"{name} {value:+.4f} ({low:+.4f} to {high:+.4f})" for name, (value, low, high) in by_metric.items())
    better = [name for name, (_, low, _) in by_metric.items() if low > 0]
    worse = [name for name, (_, _, high) in by_metric.items() if high < 0]
    unsure = [name for name in by_metric if name not in (*better, *worse)]
    words = [f"dynamic exit is {how} in {_and(names)}" for how, names in (("better", better), ("worse", worse)) if names]
    if unsure:
        words.append(f"that it is better in {_and(unsure)} is not shown")
    return (
        f"Against always stopping after layer {gain['layers']}, the best fixed depth that costs no more: {told}; {_and(words)}."
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _compared(differences: Sequence[Sequence[float]]) -> str:
    """Dynamic exit with a fixed depth, by the intervals of the metrics asked for."""
    if any(high < 0 for _, _, high in differences):
        return "worse in part"
    return "better" if any(low > 0 for _, low, _ in differences) else "not shown"
