"""`rexit calibrate` without the command line: a bundle's variant and a catalog's splits in, a policy and its report out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rexit.bundle import Bundle, Catalog, Policy, check_writable, sole_writer, write_file, write_json
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.calibration import decide
from rexit.calibration.plot import trade_off_png
from rexit.calibration.report import Measured, Settings, build
from rexit.calibration.traces import collect
from rexit.errors import BackendError, BundleError, InputError
from rexit.measure.costs import latencies
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile, mean_tokens, measure
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
        return str(self.report["conclusion"])


def calibrate(
    bundle: Bundle,
    catalog: Catalog,
    settings: Settings | None = None,
    *,
    threads: int = 0,
    profile: Path | None = None,
    progress: Progress = silent,
    open_session: Callable[[], Any] | None = None,
) -> Calibration:
    """Calibrates a variant and writes policy.json, report.json and report.png into its folder.

    1. Traces of the validation and test slates, by the variant itself; what its segments cost, from the file `profile` or
       measured here.
    2. The decision (see `decide`), on validation; quality on test.
    3. The policy goes into place and is timed as deployed, against full depth and each fixed depth, alternating on the same
       test slates. A policy whose candidates do not stop where their traces say is refused: what was chosen is not what runs.
       One that is not faster in truth is taken back to full depth.
    4. The report is written. If anything fails or is interrupted after the policy went into place, the former policy comes back.

    `open_session` makes a session of the variant; by default `rexit.runtime.open` with `threads`. Raises BundleError where the
    catalog is not the one the variant was made for or the profile was measured otherwise than here, BackendError where the policy
    decides otherwise than traced, InputError for settings or labels that cannot work, a folder that cannot be written, or while
    another process writes into the bundle.
    """
    with sole_writer(bundle.path):
        opened = Bundle.open(bundle.path, bundle.variant.name)  # as it is now that nobody else changes it
        return _calibrate(opened, catalog, settings or Settings(), threads, profile, progress, open_session)


def _calibrate(
    bundle: Bundle,
    catalog: Catalog,
    settings: Settings,
    threads: int,
    profile: Path | None,
    progress: Progress,
    open_session: Callable[[], Any] | None,
) -> Calibration:
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
        spread(cut(catalog, name, settings.slate), settings.max_slates) for name in ("validation", "test")
    )
    layers, digest = bundle.manifest.exits, bundle.variant_sha256
    here = Conditions.here(bundle, None, threads)
    given = None if profile is None else CostProfile.read(profile, len(layers), here)
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
        limit = bundle.variant.max_tokens
        used = given or measure(session, timed, len(layers), limit, here, repeats=settings.repeats, progress=progress)
        costs = used.costs(*mean_tokens(session, timed), limit)
    progress("search", 0, 1)
    decision = decide.decide(validation, test, costs, layers, digest, settings.max_auc_drop)
    progress("search", 1, 1)
    with _policy_in_place(bundle.folder / POLICY_FILE, decision.policy):
        measured = _deployed(
            open_session,
            decision,
            spread(test_slates, settings.timed_slates),
            len(layers),
            bundle.variant.rounding,
            settings,
            progress,
        )
        slower = decision.pays and measured.milliseconds[0] > (1 - decide.LEAST_SAVING) * measured.milliseconds[-1]
        if slower:
            decision = decide.full_depth(decision, layers)
            decision.policy.write(bundle.folder / POLICY_FILE)
        report = build(bundle, settings, threads, validation, test, used, decision, measured, slower)
        points = [decision.curve[b] for b in sorted(decision.curve)]
        title = f"{bundle.variant.name}: ranking against depth"
        png = trade_off_png(title, points, decision.fixed, decision.chosen, layers[-1], settings.max_auc_drop)
        write_file(bundle.folder / PLOT_FILE, png)
        write_json(bundle.folder / REPORT_FILE, report)
    return Calibration(decision.policy, report)


def _deployed(
    open_session: Callable[[], Any],
    decision: decide.Decision,
    timed: Sequence[Slate],
    exits: int,
    rounding: float,
    settings: Settings,
    progress: Progress,
) -> Measured:
    with contextlib.closing(open_session()) as session:
        times, stopped = latencies(session, timed, (None, *range(exits)), settings.repeats, progress)
        same = _decided_as_traced(session, decision.policy, timed, stopped, rounding)
    return Measured(tuple(float(t) for t in times.mean(0)), sum(len(s.items) for s in timed), same)


def _decided_as_traced(session: Scorer, policy: Policy, timed: Sequence[Slate], stopped: Sequence[Any], rounding: float) -> int:
    """How many candidates stopped just where their traces say. Raises BackendError for the first that stopped where not even
    rounding can have led it."""
    same = 0
    for slate, exits in zip(timed, stopped, strict=True):
        session.clear_cache()  # as it was scored: behind keys copied from another prefix int8 may round another way
        trace = session.trace(slate.user, slate.items, as_of=slate.as_of)
        margin = rounding * max(1.0, float(np.abs(trace).max()))
        expected, possible = policy.stops(trace), policy.possible(trace, margin)
        for item, exit, right, may in zip(slate.items, exits.tolist(), expected.tolist(), possible, strict=True):
            if not may[exit]:
                raise BackendError(
                    f"user {slate.user!r}, item {item!r}: stopped at exit {exit}, the trace says {right}: what would be deployed "
                    "is not what was calibrated, no policy was written; run `rexit verify`"
                )
            same += exit == right
    return same


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
