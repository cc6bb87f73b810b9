"""All checks of a bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rexit.bundle import Bundle, Manifest
from rexit.checks.check import Check, checked
from rexit.checks.files import check_engines, check_files, check_rows
from rexit.checks.golden import check_golden
from rexit.devices import Device
from rexit.errors import BackendError, BundleError, RexitError
from rexit.progress import Progress, silent

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
            return check_golden(bundle, session, progress)
    except BackendError as exc:
        reason = f"{exc}{ON_THE_CPU if device is None and bundle.variant.target != 'cpu' else ''}"
        if exc.status == "REXIT_BACKEND_MISSING" and device is None and not named:
            return [Check(name, "golden samples", "skipped", reason)]
        return [checked(name, "golden samples", "", [reason])]
    except RexitError as exc:
        return [checked(name, "golden samples", "", [str(exc)])]
