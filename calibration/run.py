"""`rexit calibrate` without the command line: a bundle's variant and a catalog's splits in, a policy and its report out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rexit.bundle import Bundle, Catalog, Policy, check_writable, sole_writer, write_file, write_json
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.calibration import decide
from rexit.calibration.plot import trade_off_png
from rexit.calibration.report import CalibrationOptions, Findings, Measured, build
from rexit.calibration.traces import Traces, collect
from rexit.errors import BackendError, BundleError, InputError
from rexit.measure.costs import Costs, latencies
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile, mean_tokens, measure_costs
from rexit.measure.scorer import Scorer
from rexit.progress import Progress, silent
from rexit.slates import Slate, cut, spread

REPORT_FILE = "report.json"
PLOT_FILE = "report.png"


@dataclass(frozen=True)
class Calibration:
    """The policy as written, and `report.json`'s content (plain JSON values)."""

    policy: Policy
    report: dict[str, Any]

    @property
    def conclusion(self) -> str:
        """One paragraph: whether early exit pays here, and by how much."""
        return str(self.report["conclusion"])


def calibrate(
    bundle: Bundle,
    catalog: Catalog,
    options: CalibrationOptions | None = None,
    *,
    progress: Progress = silent,
    open_session: Callable[[], Any] | None = None,
) -> Calibration:
    """Calibrates a variant and writes policy.json, report.json and report.png into its folder.

    1. Traces of the validation and test slates, by the variant itself; what its segments cost, from the file `options.profile`
       or measured here.
    2. The decision (see `decide`), on validation; quality on test.
    3. The policy goes into place and is timed as deployed, against full depth and each fixed depth, alternating on the same
       test slates. A policy whose candidates do not stop where their traces say is refused: what was chosen is not what runs.
       One that turns out not to be faster is replaced by full depth.
    4. The report is written. If anything fails or is interrupted after the policy went into place, the former policy comes back.

    `open_session` opens a session of the variant; by default `rexit.runtime.open` does. Raises BundleError if the catalog is not
    the one the variant was made for or the profile was measured under other conditions, BackendError if the policy decides
    otherwise than the traces say, InputError for options or labels that cannot work, a folder that cannot be written, or while
    another process is writing to the bundle.
    """
    with sole_writer(bundle.path):
        opened = Bundle.open(bundle.path, bundle.variant.name)  # as it is now that nobody else changes it
        return _Work(opened, options or CalibrationOptions(), progress, open_session).calibrate(catalog)


class _Work:
    """One calibration in progress: the steps of `calibrate`, and what they share."""

    def __init__(
        self, bundle: Bundle, options: CalibrationOptions, progress: Progress, open_session: Callable[[], Any] | None
    ) -> None:
        self._bundle, self._options, self._progress = bundle, options, progress
        self._depths = bundle.manifest.exits
        self._open_session = open_session or self._runtime_session

    def calibrate(self, catalog: Catalog) -> Calibration:
        bundle, options = self._bundle, self._options
        self._check(catalog)
        slates = {name: spread(cut(catalog, name, options.slate), options.max_slates) for name in ("validation", "test")}
        here = Conditions.here(bundle, None, options.threads)
        given = None if options.profile is None else CostProfile.read(options.profile, len(self._depths), here)
        check_writable(bundle.folder)
        _drop_foreign_policy(bundle)
        traces, profile, costs = self._observe(slates, given, here)
        self._progress("search", 0, 1)
        decision = decide.decide(
            traces["validation"], traces["test"], costs, self._depths, bundle.variant_sha256, options.max_auc_drop
        )
        self._progress("search", 1, 1)
        with _policy_in_place(bundle.folder / POLICY_FILE, decision.policy):
            measured = self._time(decision.policy, spread(slates["test"], options.timed_slates))
            slower = decision.pays and measured.milliseconds[0] > (1 - decide.MIN_SAVING) * measured.milliseconds[-1]
            if slower:
                decision = decide.back_to_full_depth(decision, self._depths)
                decision.policy.write(bundle.folder / POLICY_FILE)
            report = self._write(Findings(traces, profile, decision, measured, slower))
        return Calibration(decision.policy, report)

    def _check(self, catalog: Catalog) -> None:
        bundle = self._bundle
        if not 0 <= self._options.max_auc_drop < 0.5:
            raise InputError(f"--max-auc-drop {self._options.max_auc_drop}, expected a number from 0 to below 0.5")
        if catalog.sha256 != bundle.variant.catalog_sha256:
            raise BundleError(
                f"{catalog.path}: is catalog {catalog.sha256[:12]}…, variant {bundle.variant.name} was made for "
                f"{bundle.variant.catalog_sha256[:12]}…"
            )
        if len(self._depths) < 2:
            raise InputError(f"{bundle.path}: has one exit, nothing to calibrate; expected at least two")

    def _runtime_session(self) -> Any:
        from rexit import runtime

        return runtime.open(self._bundle.path, self._bundle.variant.name, threads=self._options.threads)

    def _observe(
        self, slates: Mapping[str, Sequence[Slate]], given: CostProfile | None, here: Conditions
    ) -> tuple[dict[str, Traces], CostProfile, Costs]:
        """Traces by split, the cost profile (the one given, else measured), and what it says about these slates."""
        limit = self._bundle.variant.max_tokens
        with contextlib.closing(self._open_session()) as session:
            traces = {name: collect(session, part, name, self._progress) for name, part in slates.items()}
            timed = spread(slates["validation"], self._options.timed_slates)
            profile = given or measure_costs(
                session, timed, len(self._depths), limit, here, repeats=self._options.repeats, progress=self._progress
            )
            return traces, profile, profile.costs(*mean_tokens(session, timed), limit)

    def _time(self, policy: Policy, timed: Sequence[Slate]) -> Measured:
        """The policy in place and each forced exit, as deployed."""
        modes = (None, *range(len(self._depths)))
        with contextlib.closing(self._open_session()) as session:
            times, stopped = latencies(session, timed, modes, self._options.repeats, self._progress)
            same = _decided_as_traced(session, policy, timed, stopped, self._bundle.variant.rounding)
        return Measured(tuple(float(t) for t in times.mean(0)), sum(len(s.items) for s in timed), same)

    def _write(self, findings: Findings) -> dict[str, Any]:
        bundle, decision = self._bundle, findings.decision
        report = build(bundle, self._options, findings)
        points = [decision.curve[b] for b in sorted(decision.curve)]
        title = f"{bundle.variant.name}: ranking against depth"
        drop = self._options.max_auc_drop
        png = trade_off_png(title, points, decision.fixed, decision.chosen, self._depths[-1], drop)
        write_file(bundle.folder / PLOT_FILE, png)
        write_json(bundle.folder / REPORT_FILE, report)
        return report


def _decided_as_traced(session: Scorer, policy: Policy, timed: Sequence[Slate], stopped: Sequence[Any], rounding: float) -> int:
    """How many candidates stopped exactly where their traces say. Raises BackendError for the first one whose exit not even
    rounding explains."""
    same = 0
    for slate, exits in zip(timed, stopped, strict=True):
        session.clear_cache()  # as it was scored: with keys copied from another prefix int8 may round differently
        trace = session.trace(slate.user, slate.items, as_of=slate.as_of)
        margin = rounding * max(1.0, float(np.abs(trace).max()))
        whole = np.array([0, len(trace)])
        expected, possible = policy.stops(trace, whole), policy.possible(trace, margin, whole)
        for item, exit, right, may in zip(slate.items, exits.tolist(), expected.tolist(), possible, strict=True):
            if not may[exit]:
                raise BackendError(
                    f"user {slate.user!r}, item {item!r}: stopped at exit {exit}, the trace says {right}: what would be deployed "
                    "is not what was calibrated, no policy was written; run `rexit verify`"
                )
            same += exit == right
    return same


def _drop_foreign_policy(bundle: Bundle) -> None:
    """Another variant's policy makes the runtime refuse the bundle; calibration is about to replace it."""
    try:
        bundle.policy()
    except BundleError:
        (bundle.folder / POLICY_FILE).unlink()


@contextlib.contextmanager
def _policy_in_place(path: Path, policy: Policy) -> Iterator[None]:
    """The policy in the bundle while the block runs and after it; what was there before comes back if the block fails."""
    before = path.read_bytes() if path.exists() else None
    policy.write(path)
    try:
        yield
    except BaseException:  # Ctrl-C too: a policy without its report would be half a calibration
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_file(path, before)
        raise
