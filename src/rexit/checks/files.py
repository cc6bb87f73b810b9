"""Checks of a variant's files. None of them runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rexit.audit.limits import REPORT_FILE
from rexit.bundle import Bundle, Engine, Policy, engine_folders
from rexit.bundle.files import read_json
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.checks.check import Check, checked
from rexit.errors import BundleError

T = TypeVar("T")


def check_files(bundle: Bundle) -> list[Check]:
    """Checks all digests, the vectors, calibration's traces, and that the policy is the variant's and calibration's."""
    from rexit.calibration.record import recording

    checks = [_digests(bundle)]
    try:
        has_vectors = bundle.has_catalog and bundle.catalog.vector_ids is not None
    except BundleError:  # a failure of the digests, too
        has_vectors = False
    if has_vectors:
        checks.append(_attempt(bundle, "vectors", bundle.vectors))
    if (traces := bundle.folder / recording.FILE).exists():
        checks.append(_attempt(bundle, "traces", lambda: recording.check(traces)))
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
