"""What calibration reports: `report.json`, and the conclusion on whether early exit pays here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rexit import __version__
from rexit.bundle import Bundle
from rexit.bundle.files import json_values
from rexit.calibration import decide
from rexit.calibration.plot import Point
from rexit.calibration.traces import Traces
from rexit.measure.costs import depth_name
from rexit.measure.profile import CostProfile
from rexit.slates import SIZE


@dataclass(frozen=True)
class CalibrationOptions:
    """What can be chosen for a calibration; `rexit calibrate --help` says the same.

    max_auc_drop: allowed loss of AUC against full depth. slate: candidates per slate. max_slates: at most so many of each split,
    evenly spaced; 0: all. timed_slates: how many are timed. repeats: of each timing; the median counts. threads: of the backend;
    0: one per core. profile: a file that `rexit bench --profile` wrote; None: costs are measured.
    """

    max_auc_drop: float = 0.002
    slate: int = SIZE
    max_slates: int = 5000
    timed_slates: int = 16
    repeats: int = 5
    threads: int = 0
    profile: Path | None = None


@dataclass(frozen=True)
class Measured:
    """Mean milliseconds per slate of the deployed policy, then of each exit forced; and how many of the candidates timed
    stopped at exactly the exit their traces say. The others are within rounding of a threshold."""

    milliseconds: tuple[float, ...]
    candidates: int
    as_traced: int


@dataclass(frozen=True)
class Findings:
    """What a calibration found. traces: by split, validation and test. slower: the policy chosen was not faster when timed, so
    `decision` is back at full depth."""

    traces: Mapping[str, Traces]
    profile: CostProfile
    decision: decide.Decision
    measured: Measured
    slower: bool


def build(bundle: Bundle, options: CalibrationOptions, findings: Findings) -> dict[str, Any]:
    """The content of `report.json`: plain JSON values."""
    depths, decision, measured, profile = bundle.manifest.exits, findings.decision, findings.measured, findings.profile
    policy, traces = decision.policy, findings.traces
    shares = {n: np.bincount(policy.stops(t.log_odds, t.offsets), minlength=len(depths)) / len(t) for n, t in traces.items()}
    full_ms = measured.milliseconds[-1]
    chosen_ms = measured.milliseconds[0] if decision.pays else full_ms

    def row(name: str, point: Point, milliseconds: float) -> dict[str, Any]:
        quality = {"validation": asdict(point.validation), "test": asdict(point.test)}
        return {"policy": name, **quality, "ms_per_slate": milliseconds, "speed_up": full_ms / milliseconds}

    fixed = [row(depth_name(d), decision.fixed[d], measured.milliseconds[1 + k]) for k, d in enumerate(depths[:-1])]
    difference, low, high = decision.auc_difference
    report: dict[str, Any] = {
        "schema": 1,
        "requires": [],
        "producer": f"rexit {__version__}",
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "catalog_sha256": bundle.variant.catalog_sha256,
        "machine": profile.conditions.machine,
        "settings": {name: value for name, value in asdict(options).items() if name != "profile"},
        "data": {n: {"pairs": len(t), "slates": len(t.offsets) - 1, "users": int(t.users.max()) + 1} for n, t in traces.items()},
        "profile": profile.to_json(),
        "patience": policy.patience,
        "exits": [
            {"layers": d, **asdict(e), "useful": m.useful, "stopped": {n: float(s[k]) for n, s in shares.items()}}
            for k, (d, e, m) in enumerate(zip(depths, policy.exits, decision.maps, strict=True))
        ],
        "table": [row("full depth", decision.fixed[depths[-1]], full_ms), *fixed, row("calibrated", decision.chosen, chosen_ms)],
        "trade_off": [
            {"max_auc_drop": b, "validation": asdict(p.validation), "test": asdict(p.test)}
            for b, p in sorted(decision.curve.items())
        ],
        "test_check": {"auc_difference": difference, "low": low, "high": high, "allowed": -options.max_auc_drop},
        "decisions": {"candidates": measured.candidates, "as_traced": measured.as_traced},
        "predicted_saving": decision.saving,
        "pays": decision.pays,
    }
    report["conclusion"] = _conclusion(report, findings, options.max_auc_drop, depths[-1])
    plain: dict[str, Any] = json_values(report)
    return plain


def _conclusion(report: dict[str, Any], findings: Findings, max_auc_drop: float, layers: int) -> str:
    decision, full, chosen = findings.decision, report["table"][0], report["table"][-1]
    if findings.slower:
        return (
            f"No exit pays: the best policy within an AUC drop of {max_auc_drop:g} should save {decision.saving:.1%}, "
            "but is not faster when measured. The policy is full depth."
        )
    if not decision.pays and not decision.maps[-1].useful:
        return (
            f"No exit pays: not even the deepest head ranks (AUC {full['validation']['auc']:.3f} on validation). "
            "The policy is full depth; train the model before calibrating it."
        )
    if not decision.pays:
        return (
            f"No exit pays: within an AUC drop of {max_auc_drop:g} the best policy would save "
            f"{max(decision.saving, 0):.1%} of the time, less than {decide.MIN_SAVING:.0%}. The policy is full depth."
        )
    difference, low, high = decision.auc_difference
    allowed = -max_auc_drop
    if low >= allowed:
        verdict = "The drop is within what was allowed."
    elif difference >= allowed:
        verdict = "That is within what was allowed, but the test split is too small to be sure of it."
    elif high >= allowed:
        verdict = "That is more than was allowed, though within the noise of the test split."
    else:
        verdict = "That is MORE than was allowed: the validation split did not generalise; use more of it, or a smaller drop."
    return (
        f"Early exit pays: {chosen['test']['mean_layers']:.1f} of {layers} layers on average, {chosen['speed_up']:.2f}x "
        f"as fast as full depth ({chosen['ms_per_slate']:.1f} instead of {full['ms_per_slate']:.1f} ms per slate). "
        f"On the test split the AUC changes by {difference:+.4f} "
        f"(95 % interval {low:+.4f} to {high:+.4f}); allowed: {allowed:+g}. {verdict}{_only_exit(report)}"
    )


def _only_exit(report: dict[str, Any]) -> str:
    """A sentence for a policy that amounts to a fixed depth: a smaller model would do."""
    depths = [e["layers"] for e in report["exits"] if max(e["stopped"].values()) > 0]
    return f" Every candidate stops after layer {depths[0]}: deeper layers add nothing here." if len(depths) == 1 else ""
