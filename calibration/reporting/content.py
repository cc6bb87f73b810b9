"""The content of `report.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rexit import __version__
from rexit.calibration.decision import FLOAT32, FULL_DEPTH, LAST_HEAD, OWN_FULL_DEPTH, Baseline, Decision, Interval, Row
from rexit.calibration.goal import CalibrationOptions
from rexit.calibration.policies import MIN_SAVING
from rexit.calibration.probabilities import Split, diagram, table_of
from rexit.calibration.reporting import verdict
from rexit.calibration.traces import Traces
from rexit.data.ranking import noun_of
from rexit.format.bundle import Bundle
from rexit.format.bundle.files import SCHEMA, json_values
from rexit.upkeep.measure import CostProfile, Costs, depth_name

T = TypeVar("T")

LITTLE_MORE = 1.5
"""How many times the policy's cost a fixed depth that ranks better may cost, to be mentioned."""


@dataclass(frozen=True)
class Timings:
    """Times of the policy and of each forced exit, as deployed.

    Attributes:
        milliseconds: mean per slate: the policy's, then each exit's.
        speeds: full depth's time by each of these, with its 95 % interval over users.
        candidates: number of timed candidates.
        as_traced: how many of them stopped at the exit that their traces say; the others are within rounding of a threshold.
    """

    milliseconds: tuple[float, ...]
    speeds: tuple[Interval, ...]
    candidates: int
    as_traced: int

    def is_slower(self, disturbed: bool) -> bool:
        """Returns whether the policy does not save what makes a policy worth having. disturbed: whether times on this machine fit
        no cost model; then it must be shown to be slower."""
        if disturbed:
            return self.speeds[0][2] < 1
        return self.milliseconds[0] > (1 - MIN_SAVING) * self.milliseconds[-1]


@dataclass(frozen=True)
class Findings:
    """What a calibration found.

    Attributes:
        traces: by split, validation and test.
        profile: what segments cost.
        costs: what a slate costs.
        decision: what was chosen.
        timings: None if no model ran.
        slower: whether the chosen policy was not faster when timed, so that `decision` is back at full depth.
        doubt: why the model's ranking may be worth nothing, see `rexit.data.ranking.doubt`.
        baselines: rankings of the test split to compare with.
        negative_rate: the share of the population's negatives in the labels.
        fitting: how many users fit.
        also: how the policy ranks other candidates, see `CalibrationOptions`; None: nobody asked.
    """

    traces: Mapping[str, Traces]
    profile: CostProfile
    costs: Costs
    decision: Decision
    timings: Timings | None
    slower: bool
    doubt: str | None
    baselines: Sequence[Baseline] = ()
    negative_rate: float = 1.0
    fitting: int = 0
    also: Mapping[str, Any] | None = None


def build(bundle: Bundle, options: CalibrationOptions, findings: Findings) -> dict[str, Any]:
    """Returns the content of `report.json`: plain JSON values."""
    depths, decision, timings, profile = bundle.exits, findings.decision, findings.timings, findings.profile
    policy, test = decision.policy, findings.traces["test"]
    stops, p = policy.stops(test.log_odds, test.offsets), policy.probabilities(test.log_odds)
    last = np.full(len(test), len(depths) - 1)
    milliseconds = _by_row(decision, timings.milliseconds, depths) if timings else {}
    speeds = _by_row(decision, timings.speeds, depths) if timings else {}
    table = [{**_row(row), "ms_per_slate": milliseconds.get(row.name), "speed": speeds.get(row.name)} for row in decision.rows]
    gain, dearer = _gain(decision, milliseconds, depths), _dearer(decision, milliseconds, depths)
    rows = {row["policy"]: row for row in table}
    slate_size = None if bundle.manifest.catalog_sha256 is None else options.slate  # a file's slates are as long as they are
    noun = noun_of(bundle.has_catalog)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "producer": f"rexit {__version__}",
        "verdict": asdict(
            verdict.judge(
                decision,
                depths,
                rows,
                gain,
                dearer,
                slates=verdict.short_slates(np.diff(test.offsets), slate_size, decision.goal),
                profile=profile,
                slower=findings.slower,
                doubt=findings.doubt,
                labelled=test.labelled,
                noun=noun,
                also=findings.also,
            )
        ),
        "also": findings.also,
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "catalog_sha256": bundle.manifest.catalog_sha256,
        "noun": noun,
        "layers": depths[-1],
        "device": profile.conditions.device,
        "threads": profile.conditions.threads,
        "machine": profile.conditions.machine,
        "settings": _settings(options),
        "data": {n: {"pairs": len(t), "slates": len(t.offsets) - 1, "users": t.user_count} for n, t in findings.traces.items()},
        "users": {"fitting": findings.fitting, **decision.users},
        "tested": dict(decision.tested),
        "profile": profile.to_json(),
        "costs": {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in asdict(findings.costs).items()},
        "policy": {
            "kind": "full depth" if decision.chosen is None else "dynamic" if decision.chosen.fixed is None else "fixed depth",
            "patience": policy.patience,
            "quorum": policy.quorum,
            "top_k": policy.top_k and asdict(policy.top_k),
        },
        "maps": {
            "choice": decision.choice.reads,
            "ridge": decision.choice.ridge,
            "gain": decision.choice.gain,
        },
        "exits": _exits(findings, depths, p, stops),
        "probabilities": {
            "negative_rate": findings.negative_rate,
            "prior_shift": policy.prior_shift,
            "table": _probabilities(findings, depths, p, stops),
        },
        "table": table,
        "baselines": list(map(asdict, findings.baselines)),
        "candidates": _candidates(decision, depths),
        "parts": {name: _parts(findings.costs, exits, test) for name, exits in (("full depth", last), ("policy", stops))},
        "gain": gain,
        "dearer": dearer,
        "against": FLOAT32 if decision.has_reference else OWN_FULL_DEPTH,
        "losses": {name: asdict(losses) for name, losses in decision.losses.items()},
        "layers_add": _layers_add(rows, depths, test.labelled),
        "saving": decision.saving,
        "users_needed": _finite(decision.users_needed),
        "watch": decision.watch and decision.watch.to_json(),
        "floor": decision.floor and {**asdict(decision.floor), "needed": _finite(decision.floor.needed)},
        "decisions": timings and {"candidates": timings.candidates, "as_traced": timings.as_traced},
    }
    plain: dict[str, Any] = json_values(report)
    return plain


def _layers_add(rows: Mapping[str, Any], depths: Sequence[int], labelled: bool) -> dict[str, Any] | None:
    """What full depth ranks above exit zero, by metric with intervals; None without exit zero or without labels."""
    if depths[0] or not labelled:
        return None
    full, zero = rows[FULL_DEPTH], rows[depth_name(0)]
    cost = "cost_us" if zero["ms_per_slate"] is None else "ms_per_slate"
    return {
        "differences": zero["drops"],
        "ms": [way[cost] / (1000 if cost == "cost_us" else 1) for way in (full, zero)],
        "timed": cost == "ms_per_slate",
    }


def _settings(options: CalibrationOptions) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if name not in ("from_traces", "measure_costs", "also")}


def _exits(findings: Findings, depths: Sequence[int], p: NDArray[np.float32], stops: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Each exit's map and thresholds, the share of the test pairs that stops there, and its reliability diagram."""
    decision, test = findings.decision, findings.traces["test"]
    return [
        {
            "layers": layers,
            **{n: v for n, v in asdict(rule).items() if n != "keep" or v},
            "useful": platt_map.useful,
            "stopped": float(np.mean(stops == k)),
            "reliability": diagram(np.ascontiguousarray(p[:, k]), test.targets, findings.negative_rate),
        }
        for k, (layers, rule, platt_map) in enumerate(zip(depths, decision.policy.exits, decision.choice.maps, strict=True))
    ]


def _candidates(decision: Decision, depths: Sequence[int]) -> list[dict[str, Any]]:
    """The policies that were tested, in that order."""
    return [
        {
            "budget": candidate.budget,
            "fixed": None if candidate.fixed is None else depths[candidate.fixed],
            "expected": {m.name: d for m, d in zip(decision.goal.metrics, candidate.outcome.drops, strict=True)},
            "p_value": candidate.p_value,
            "certified": candidate.certified,
            "test": _row(row),
        }
        for candidate, row in zip(decision.candidates, decision.curve, strict=True)
    ]


def _probabilities(
    findings: Findings, depths: Sequence[int], p: NDArray[np.float32], stops: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """How right the probabilities are; empty without labels."""
    test = findings.traces["test"]
    if not test.labelled:
        return []
    split = Split(test.liked, test.users, findings.negative_rate)
    return list(map(asdict, table_of(split, depths, p, stops)))


def _finite(number: float | None) -> float | None:
    return None if number is None or math.isinf(number) else number


def _gain(decision: Decision, milliseconds: Mapping[str, float], depths: Sequence[int]) -> dict[str, Any] | None:
    """The policy's gain over the fixed depth that is expected to lose least, among those that take no longer than the policy: as
    timed, or by the cost model if no model ran. None if there is no such depth."""
    cost = milliseconds or {row.name: row.cost_us for row in decision.rows}
    cheap = [gain for gain in decision.gains if cost[depth_name(depths[gain.exit])] <= cost["policy"]]
    if not cheap:
        return None
    best = min(cheap, key=lambda gain: gain.expected_drop)
    return {"layers": depths[best.exit], "differences": dict(best.differences)}


def _dearer(decision: Decision, milliseconds: Mapping[str, float], depths: Sequence[int]) -> dict[str, Any] | None:
    """The policy's gain over the cheapest fixed depth that costs little more and ranks better: by a metric of the goal, and worse
    by none. None if there is no such depth."""
    cost = milliseconds or {row.name: row.cost_us for row in decision.rows}
    better = []
    for gain in decision.gains:
        name = depth_name(depths[gain.exit])
        differences = [gain.differences[metric.name] for metric in decision.goal.metrics]
        little_more = cost["policy"] < cost[name] <= min(LITTLE_MORE * cost["policy"], cost[FULL_DEPTH])
        if little_more and any(high < 0 for _, _, high in differences) and not any(low > 0 for _, low, _ in differences):
            better.append((cost[name], gain))
    if not better:
        return None
    _, best = min(better, key=lambda pair: pair[0])
    return {"layers": depths[best.exit], "differences": dict(best.differences)}


def _row(row: Row) -> dict[str, Any]:
    return {"policy": row.name, **{name: value for name, value in asdict(row).items() if name != "name"}}


def _parts(costs: Costs, stops: NDArray[np.int64], traces: Traces) -> dict[str, Any]:
    """The parts of the mean slate's cost, in microseconds; by exit except for the base."""
    prefix, passes, candidates = costs.parts(stops, traces.offsets).tolist()
    return {"base_us": costs.base_us, "prefix_us": prefix, "pass_us": passes, "candidate_us": candidates}


def _by_row(decision: Decision, timed: Sequence[T], depths: Sequence[int]) -> dict[str, T]:
    """What was measured of the policy and of each exit, by the name of a row."""
    policy, *forced = timed
    names = [*map(depth_name, depths[:-1]), FULL_DEPTH]
    whole = {LAST_HEAD: forced[-1], "policy": policy if decision.chosen else forced[-1]}
    return {**dict(zip(names, forced, strict=True)), **whole}
