"""`rexit calibrate` without the command line: a bundle's variant and a catalog's splits in, a policy and its report out."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from rexit import __version__
from rexit.bundle import Bundle, Catalog, Policy, check_writable, write_file, write_json
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.calibration import decide
from rexit.calibration.costs import Costs, latencies, measure
from rexit.calibration.plot import Point, trade_off_png
from rexit.calibration.slates import Slate, slates, spread
from rexit.calibration.traces import Progress, Scorer, Traces, collect, silent
from rexit.errors import BundleError, InputError

REPORT_FILE = "report.json"
PLOT_FILE = "report.png"


@dataclass(frozen=True)
class Settings:
    """max_auc_drop: allowed loss against full depth. slate: candidates per slate. max_slates: per split, 0 for all, evenly
    spread. timed_slates: how many are timed. repeats: of each timing, the median counts."""

    max_auc_drop: float = 0.002
    slate: int = 20
    max_slates: int = 5000
    timed_slates: int = 16
    repeats: int = 3


@dataclass(frozen=True)
class Calibration:
    """The policy as written, and `report.json`'s content (plain JSON values)."""

    policy: Policy
    report: dict[str, Any]

    @property
    def conclusion(self) -> str:
        return str(self.report["conclusion"])


def calibrate(
    bundle: Bundle,
    catalog: Catalog,
    settings: Settings | None = None,
    *,
    threads: int = 0,
    progress: Progress = silent,
    open_session: Callable[[], Any] | None = None,
) -> Calibration:
    """Calibrates a variant and writes policy.json, report.json and report.png into its folder.

    1. Traces of the validation and test slates, and costs, by the variant itself.
    2. The decision (see `decide`), on validation; quality on test.
    3. The policy goes into place and is timed as deployed, against full depth and each fixed depth, alternating on the same
       test slates. A policy that is not faster in truth is taken back to full depth.
    4. The report is written. If anything fails or is interrupted after the policy went into place, the former policy comes back.

    `open_session` makes a session of the variant; by default `rexit.runtime.open` with `threads`. Raises BundleError where the
    catalog is not the one the variant was made for, InputError for settings or labels that cannot work, or a folder that cannot
    be written.
    """
    settings = settings or Settings()
    if not 0 <= settings.max_auc_drop < 0.5:
        raise InputError(f"--max-auc-drop {settings.max_auc_drop}, expected a number from 0 to below 0.5")
    if catalog.sha256 != bundle.variant.catalog_sha256:
        raise BundleError(
            f"{catalog.path}: is catalog {catalog.sha256[:12]}…, variant {bundle.variant.name} was made for "
            f"{bundle.variant.catalog_sha256[:12]}…"
        )
    if len(bundle.manifest.exits) < 2:
        raise InputError(f"{bundle.path}: has one exit, nothing to calibrate; expected at least two")
    validation_slates, test_slates = (
        spread(slates(catalog, catalog.split(name), settings.slate), settings.max_slates) for name in ("validation", "test")
    )
    check_writable(bundle.folder)
    _drop_foreign_policy(bundle)

    def default_session() -> Any:
        from rexit import runtime

        return runtime.open(bundle.path, bundle.variant.name, threads=threads)

    open_session = open_session or default_session
    with contextlib.closing(open_session()) as session:
        validation = collect(session, validation_slates, "validation", progress)
        test = collect(session, test_slates, "test", progress)
        timed = spread(validation_slates, settings.timed_slates)
        costs = measure(session, timed, len(bundle.manifest.exits), settings.repeats, progress)
    layers, digest = bundle.manifest.exits, bundle.variant_sha256
    progress("search", 0, 1)
    decision = decide.decide(validation, test, costs, layers, digest, settings.max_auc_drop)
    progress("search", 1, 1)
    with _policy_in_place(bundle.folder / POLICY_FILE, decision.policy):
        measured = _deployed(open_session, decision, spread(test_slates, settings.timed_slates), len(layers), settings, progress)
        slower = decision.pays and measured.milliseconds[0] > (1 - decide.LEAST_SAVING) * measured.milliseconds[-1]
        if slower:
            decision = decide.full_depth(decision, layers)
            decision.policy.write(bundle.folder / POLICY_FILE)
        report = _report(bundle, settings, threads, validation, test, costs, decision, measured, slower)
        points = [decision.curve[b] for b in sorted(decision.curve)]
        title = f"{bundle.variant.name}: ranking against depth"
        png = trade_off_png(title, points, decision.fixed, decision.chosen, layers[-1], settings.max_auc_drop)
        write_file(bundle.folder / PLOT_FILE, png)
        write_json(bundle.folder / REPORT_FILE, report)
    return Calibration(decision.policy, report)


@dataclass(frozen=True)
class _Measured:
    """Mean milliseconds per slate of the deployed policy, then of each exit forced; and whether it decided as the trace says."""

    milliseconds: tuple[float, ...]
    candidates: int
    as_traced: int


def _deployed(
    open_session: Callable[[], Any],
    decision: decide.Decision,
    timed: Sequence[Slate],
    exits: int,
    settings: Settings,
    progress: Progress,
) -> _Measured:
    with contextlib.closing(open_session()) as session:
        times, stopped = latencies(session, timed, (None, *range(exits)), settings.repeats, progress)
        same = _decided_as_traced(session, decision.policy, timed, stopped)
    return _Measured(tuple(float(t) for t in times.mean(0)), sum(len(s.items) for s in timed), same)


def _decided_as_traced(session: Scorer, policy: Policy, timed: Sequence[Slate], stopped: Sequence[Any]) -> int:
    traces = (session.trace(s.user, s.items, as_of=s.as_of) for s in timed)
    return sum(int((policy.stops(t) == exits).sum()) for t, exits in zip(traces, stopped, strict=True))


def _drop_foreign_policy(bundle: Bundle) -> None:
    """A policy of another variant makes the runtime refuse the bundle; calibration is what replaces it."""
    try:
        bundle.policy()
    except BundleError:
        (bundle.folder / POLICY_FILE).unlink()


@contextlib.contextmanager
def _policy_in_place(path: Path, policy: Policy) -> Iterator[None]:
    before = path.read_bytes() if path.exists() else None
    policy.write(path)
    try:
        yield
    except BaseException:  # Ctrl-C too: a policy without its report would be a half-finished calibration
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_file(path, before)
        raise


def _report(
    bundle: Bundle,
    settings: Settings,
    threads: int,
    validation: Traces,
    test: Traces,
    costs: Costs,
    decision: decide.Decision,
    measured: _Measured,
    slower: bool,
) -> dict[str, Any]:
    layers = bundle.manifest.exits
    policy, stops = decision.policy, {"validation": validation, "test": test}
    shares = {n: np.bincount(policy.stops(t.log_odds), minlength=len(layers)) / len(t) for n, t in stops.items()}
    full_ms = measured.milliseconds[-1]
    chosen_ms = measured.milliseconds[0] if decision.pays else full_ms

    def row(name: str, point: Point, milliseconds: float) -> dict[str, Any]:
        quality = {"validation": asdict(point.validation), "test": asdict(point.test)}
        return {"policy": name, **quality, "ms_per_slate": milliseconds, "speed_up": full_ms / milliseconds}

    fixed = [row(f"always {d} layers", decision.fixed[d], measured.milliseconds[1 + k]) for k, d in enumerate(layers[:-1])]
    difference, low, high = decision.auc_difference
    report: dict[str, Any] = {
        "schema": 1,
        "requires": [],
        "producer": f"rexit {__version__}",
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "catalog_sha256": bundle.variant.catalog_sha256,
        "machine": machine(),
        "settings": {**asdict(settings), "threads": threads},
        "data": {n: {"pairs": len(t), "slates": len(t.offsets) - 1, "users": int(t.users.max()) + 1} for n, t in stops.items()},
        "costs_us": {"base": costs.base_us, "segment": costs.segment_us.tolist(), "candidate": costs.candidate_us.tolist()},
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
        f"(95 % interval {low:+.4f} to {high:+.4f}); allowed: {allowed:+g}. {verdict}"
    )


def machine() -> dict[str, Any]:
    """What the timings were taken on."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    runtimes = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            runtimes[name] = version(name)
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "onnxruntime": runtimes,
    }


def _plain(value: Any) -> Any:
    """JSON has no infinity and no nan: both become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
