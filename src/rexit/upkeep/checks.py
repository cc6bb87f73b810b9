"""Whether a bundle is whole, and computes on this machine what it computed where it was exported.

1. Files: digests, tables, calibration's traces, the policy, engines. No model runs.
2. The runtime against golden samples: the same prompts, the same log-odds, the exits that the policy says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from rexit.devices import Device
from rexit.errors import BackendError, BundleError, RexitError
from rexit.format.bundle import Bundle, Engine, Manifest, Policy, engine_folders
from rexit.format.bundle.files import read_json
from rexit.format.bundle.policy import FILE as POLICY_FILE
from rexit.progress import Progress, silent
from rexit.upkeep.audit import REPORT_FILE

if TYPE_CHECKING:
    from rexit.runtime import Session


@dataclass(frozen=True)
class Check:
    """One check of one variant.

    Attributes:
        variant: Name of the variant; "" if the bundle cannot be opened.
        name: What was checked.
        outcome: `FAILED` if there are failures.
        detail: How much was checked, or why it was not.
        failures: One line each.
    """

    variant: str
    name: str
    outcome: Literal["ok", "FAILED", "skipped"]
    detail: str
    failures: tuple[str, ...] = ()


def checked(variant: str, name: str, detail: str, failures: Iterable[str] = ()) -> Check:
    """A check that was done: `ok` without failures."""
    lines = tuple(failures)
    return Check(variant, name, "FAILED" if lines else "ok", detail, lines)


__all__ = ["Check", "check_bundle"]

T = TypeVar("T")


def check_files(bundle: Bundle) -> list[Check]:
    """Checks all digests, the vectors, calibration's traces, and that the policy is the variant's and calibration's."""
    from rexit.calibration.reference import FILE as REFERENCE_FILE
    from rexit.calibration.traces import TRACES_FILE, check_recording

    checks = [_digests(bundle)]
    try:
        has_vectors = bundle.has_catalog and bundle.catalog.vector_ids is not None
    except BundleError:  # a failure of the digests, too
        has_vectors = False
    if has_vectors:
        checks.append(_attempt(bundle, "vectors", bundle.vectors))
    if (traces := bundle.folder / TRACES_FILE).exists():
        checks.append(_attempt(bundle, "traces", lambda: check_recording(traces)))
    if (float32 := bundle.folder / REFERENCE_FILE).exists():
        checks.append(_attempt(bundle, "reference", lambda: check_recording(float32)))
    checks.append(_attempt(bundle, "policy", lambda: _policy(bundle), _policy_detail))
    return checks


def check_rows(bundle: Bundle) -> Check:
    """Checks every row of the catalog, which all variants share."""
    from rexit import runtime

    counts = bundle.catalog.info["counts"] if bundle.has_catalog else {}
    detail = f"{counts['users']} users, {counts['items']} items" if counts else "no catalog"
    return _attempt(bundle, "rows", lambda: runtime.verify(bundle.path, bundle.variant.name), lambda _: detail)


def check_engines(bundle: Bundle) -> list[Check]:
    """Checks the digests of a TensorRT variant's engines, and that they were built from its graphs."""
    if bundle.variant.target != "tensorrt":
        return []
    folders = engine_folders(bundle.folder)
    if not folders:
        return [Check(bundle.variant.name, "engines", "skipped", "none built yet, run `rexit compile`")]
    failures: list[str] = []
    for folder in folders:
        try:
            engine = Engine.read(folder)
            engine.check(folder, bundle.variant)
            failures += engine.edited(folder)
        except BundleError as exc:
            failures.append(str(exc))
    return [checked(bundle.variant.name, "engines", ", ".join(folder.name for folder in folders), failures)]


def _digests(bundle: Bundle) -> Check:
    try:
        failures = [*bundle.edited(), *(bundle.catalog.edited() if bundle.has_catalog else [])]
    except BundleError as exc:
        failures = [str(exc)]
    count = len(bundle.manifest.files) + len(bundle.variant.files)
    return checked(bundle.variant.name, "digests", f"{count} files", failures)


def _policy(bundle: Bundle) -> Policy | None:
    """The policy. Raises BundleError, also if calibration wrote another one, as its report says."""
    report = bundle.folder / REPORT_FILE
    recorded = str(read_json(report).get("policy_sha256")) if report.exists() else None
    if recorded is not None and (actual := bundle.policy_sha256) != recorded:
        state = "missing" if actual is None else f"SHA-256 {actual[:12]}…"
        raise BundleError(
            f"{bundle.folder / POLICY_FILE}: {state}, {REPORT_FILE} has {recorded[:12]}…: run `rexit calibrate` again"
        )
    return bundle.policy()


def _policy_detail(policy: Policy | None) -> str:
    return "not calibrated" if policy is None else f"patience {policy.patience}"


def _attempt(bundle: Bundle, name: str, read: Callable[[], T], detail: Callable[[T], str] = lambda _: "") -> Check:
    """The check that `read` raises no BundleError. detail: of what it returns."""
    try:
        return checked(bundle.variant.name, name, detail(read()))
    except BundleError as exc:
        return checked(bundle.variant.name, name, "", [str(exc)])


def check_golden(name: str, session: Session, progress: Progress) -> list[Check]:
    """Checks a session against its golden samples. name: the variant's. Raises BundleError if these cannot be read."""
    prompts: list[str] = []
    log_odds: list[str] = []
    decisions: list[str] = []
    worst, candidates, slates, done = 0.0, 0, 1, 0
    while done < slates:
        check = session.check_golden(done)
        slates, done = check.slates, done + 1
        progress(name, done, slates)
        worst, candidates = max(worst, check.worst), candidates + len(check.trace)
        for lines, line in ((prompts, check.prompt), (log_odds, check.log_odds), (decisions, check.decision)):
            lines += [f"{name}: {line}"] if line else []
    return [
        *([checked(name, "prompts", f"{slates} slates, {candidates} candidates", prompts)] if session.info.has_catalog else []),
        checked(name, "log-odds", f"worst {worst:.2g}, allowed {check.tolerance:.2g}", log_odds),
        checked(name, "exit decisions", "cold and warm prefix", decisions),
    ]


ON_THE_CPU = "; --device cpu checks the graphs on the CPU"


def check_bundle(
    path: Path, variant: str | None = None, *, device: Device | None = None, progress: Progress = silent
) -> list[Check]:
    """Checks the files of a bundle and, where they are whole, what its variants compute.

    Args:
        path: The bundle's folder.
        variant: The variant to check; None: all. A variant that is not named may lack its backend on this machine: then what it
            computes is skipped.
        device: As in `rexit.open`. A named device must work.
        progress: Reports golden slates.

    Returns:
        The checks, in the order they were done.

    Raises:
        InputError: There is no such variant.
    """
    try:
        names: Sequence[str | None] = [variant]
        if variant is None and path.is_dir():
            names = Manifest.read(path).variants or [None]  # opening says what is wrong
    except BundleError as exc:
        return [checked("", "structure", "", [str(exc)])]
    checks: list[Check] = []
    for name in names:
        try:
            bundle = Bundle.open(path, name)
        except BundleError as exc:
            checks.append(checked(name or "", "structure", "", [str(exc)]))
            continue
        of_files = [*check_files(bundle), *check_engines(bundle)]
        checks += of_files
        if any(check.outcome == "FAILED" for check in of_files):
            continue
        if not any(check.name == "rows" for check in checks):
            checks.append(check_rows(bundle))
        checks += _check_behaviour(bundle, device, variant is not None, progress)
    return checks


def _check_behaviour(bundle: Bundle, device: Device | None, named: bool, progress: Progress) -> list[Check]:
    from rexit import runtime

    name = bundle.variant.name
    try:
        with contextlib.closing(runtime.open(bundle.path, name, device=device)) as session:
            return check_golden(name, session, progress)
    except BackendError as exc:
        reason = f"{exc}{ON_THE_CPU if device is None and bundle.variant.target != 'cpu' else ''}"
        if exc.status == "REXIT_BACKEND_MISSING" and device is None and not named:
            return [Check(name, "golden samples", "skipped", reason)]
        return [checked(name, "golden samples", "", [reason])]
    except RexitError as exc:
        return [checked(name, "golden samples", "", [str(exc)])]
