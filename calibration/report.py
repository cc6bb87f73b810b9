"""What calibration tells: `report.json`, and the one sentence that says whether early exit pays here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rexit import __version__
from rexit.bundle import Bundle
from rexit.calibration import decide
from rexit.calibration.plot import Point
from rexit.calibration.traces import Traces
from rexit.measure.costs import depth_name
from rexit.measure.profile import CostProfile


@dataclass(frozen=True)
class Settings:
    """max_auc_drop: allowed loss against full depth. slate: candidates per slate. max_slates: per split, 0 for all, evenly
    spread. timed_slates: how many are timed. repeats: of each timing, the median counts."""

    max_auc_drop: float = 0.002
    slate: int = 20
    max_slates: int = 5000
    timed_slates: int = 16
    repeats: int = 5


@dataclass(frozen=True)
class Measured:
    """Mean milliseconds per slate of the deployed policy, then of each exit forced; and how many of the candidates it timed
    stopped at just the exit their traces say. The others are within rounding of a threshold."""

    milliseconds: tuple[float, ...]
    candidates: int
    as_traced: int


def build(
    bundle: Bundle,
    settings: Settings,
    threads: int,
    validation: Traces,
    test: Traces,
    profile: CostProfile,
    decision: decide.Decision,
    measured: Measured,
    slower: bool,
) -> dict[str, Any]:
    """`report.json`'s content, plain JSON values. `slower`: the policy was taken back because the clock did not confirm it."""
    layers = bundle.manifest.exits
    policy, stops = decision.policy, {"validation": validation, "test": test}
    shares = {n: np.bincount(policy.stops(t.log_odds), minlength=len(layers)) / len(t) for n, t in stops.items()}
    full_ms = measured.milliseconds[-1]
    chosen_ms = measured.milliseconds[0] if decision.pays else full_ms

    def row(name: str, point: Point, milliseconds: float) -> dict[str, Any]:
        quality = {"validation": asdict(point.validation), "test": asdict(point.test)}
        return {"policy": name, **quality, "ms_per_slate": milliseconds, "speed_up": full_ms / milliseconds}

    fixed = [row(depth_name(d), decision.fixed[d], measured.milliseconds[1 + k]) for k, d in enumerate(layers[:-1])]
    difference, low, high = decision.auc_difference
    report: dict[str, Any] = {
        "schema": 1,
        "requires": [],
        "producer": f"rexit {__version__}",
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "catalog_sha256": bundle.variant.catalog_sha256,
        "machine": profile.conditions.machine,
        "settings": {**asdict(settings), "threads": threads},
        "data": {n: {"pairs": len(t), "slates": len(t.offsets) - 1, "users": int(t.users.max()) + 1} for n, t in stops.items()},
        "profile": profile.to_json(),
        "patience": policy.patience,
        "exits": [
            {"layers": d, **asdict(e), "useful": m.useful, "stopped": {n: float(s[k]) for n, s in shares.items()}}
            for k, (d, e, m) in enumerate(zip(layers, policy.exits, decision.maps, strict=True))
        ],
        "table": [row("full depth", decision.fixed[layers[-1]], full_ms), *fixed, row("calibrated", decision.chosen, chosen_ms)],
        "trade_off": [
            {"max_auc_drop": b, "validation": asdict(p.validation), "test": asdict(p.test)}
            for b, p in sorted(decision.curve.items())
        ],
        "test_check": {"auc_difference": difference, "low": low, "high": high, "allowed": -settings.max_auc_drop},
        "decisions": {"candidates": measured.candidates, "as_traced": measured.as_traced},
        "predicted_saving": decision.saving,
        "pays": decision.pays,
    }
    report["conclusion"] = _conclusion(report, decision, settings, layers[-1], slower)
    plain: dict[str, Any] = _plain(report)
    return plain


def _conclusion(report: dict[str, Any], decision: decide.Decision, settings: Settings, layers: int, slower: bool) -> str:
    full, chosen = report["table"][0], report["table"][-1]
    if slower:
        return (
            f"No exit pays: the best policy within an AUC drop of {settings.max_auc_drop:g} should save {decision.saving:.1%}, "
            "but is not faster when measured. The policy is full depth."
        )
    if not decision.pays and not decision.maps[-1].useful:
        return (
            f"No exit pays: not even the deepest head ranks (AUC {full['validation']['auc']:.3f} on validation). "
            "The policy is full depth; train the model before calibrating it."
        )
    if not decision.pays:
        return (
            f"No exit pays: within an AUC drop of {settings.max_auc_drop:g} the best policy would save "
            f"{max(decision.saving, 0):.1%} of the time, less than {decide.LEAST_SAVING:.0%}. The policy is full depth."
        )
    difference, low, high = decision.auc_difference
    allowed = -settings.max_auc_drop
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
    """Says so where the policy amounts to a fixed depth: a smaller model would do."""
    depths = [e["layers"] for e in report["exits"] if max(e["stopped"].values()) > 0]
    return f" Every candidate stops after layer {depths[0]}: deeper layers add nothing here." if len(depths) == 1 else ""


def _plain(value: Any) -> Any:
    """JSON has no infinity and no nan: both become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
