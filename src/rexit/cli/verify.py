"""`rexit verify`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.options import DeviceOption, JsonOption, ThreadsOption
from rexit.cli.common.output import print_json, progress, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import BackendError, BundleError, RexitError

if TYPE_CHECKING:
    from rich import progress as rich_progress

    from rexit.bundle import Bundle, Policy
    from rexit.bundle.catalog import Id
    from rexit.bundle.golden import GoldenSlate
    from rexit.runtime import Session

EXIT_CODE = 8
ON_THE_CPU = "; --device cpu checks the graphs on the CPU"


@dataclass(frozen=True)
class Check:
    """One check of one variant. `outcome`: ok, FAILED or skipped; `failures`: one line each."""

    variant: str
    name: str
    outcome: str
    detail: str
    failures: tuple[str, ...] = ()


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: Annotated[str | None, typer.Option(help="Only this variant. Default: all.")] = None,
    threads: ThreadsOption = 0,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Check that a bundle is whole and computes on this machine what it computed where it was exported.

    Checks the digests of all files, and of calibration's traces; every row of the catalog; golden samples (the runtime assembles
    the same prompts and gives the same log-odds, within the tolerance recorded at export); exit decisions (each candidate stops
    where the policy says and answers with the log-odds that a trace in the same session has there, with a cold and with a warm
    prefix); and TensorRT engines (digests, and that they were built from these graphs). If a variant's backend is missing on this
    machine, only its files are checked, unless the variant or a device is named. Exits with 8 if anything fails.

    ```
    rexit verify bundle && systemctl restart recommender
    ```
    """
    checks = _checks(bundle, variant, threads, device)
    failed = [line for check in checks for line in check.failures]
    if json:
        print_json({"ok": not failed, "checks": [asdict(c) for c in checks]})
    else:
        print_table(
            str(bundle), ["variant", "check", "outcome", "detail"], [[c.variant, c.name, c.outcome, c.detail] for c in checks]
        )
        for line in failed:
            stdout.print(f"FAILED {line}", markup=False, soft_wrap=True)
        if not failed:
            skipped = sum(check.outcome == "skipped" for check in checks)
            stdout.print(f"All others passed, {skipped} skipped." if skipped else "All checks passed.")
    if failed:
        raise typer.Exit(EXIT_CODE)


def _checks(path: Path, variant: str | None, threads: int, device: str | None) -> list[Check]:
    from rexit.bundle import Bundle, Manifest

    try:
        names = [variant] if variant is not None else list(Manifest.read(path).variants) if path.is_dir() else [None]
    except BundleError as exc:
        return [_check("", "structure", "", [str(exc)])]
    checks = []
    with progress() as bar:
        for name in names:
            try:
                opened = Bundle.open(path, name)
            except BundleError as exc:
                checks.append(_check(name or "", "structure", "", [str(exc)]))
                continue
            found = [*_files(opened), *_engines(opened)]
            checks += found
            if all(c.outcome != "FAILED" for c in found):
                if not any(c.name == "rows" for c in checks):
                    checks.append(_rows(opened))
                checks += _behaviour(opened, threads, device, variant is not None, bar)
    return checks


def _files(bundle: Bundle) -> list[Check]:
    """Digests, those of traces too, and that the policy belongs to this variant."""
    from rexit.calibration.record import recording

    name, checks = bundle.variant.name, []
    count = len(bundle.manifest.files) + len(bundle.variant.files)
    try:
        edited = [*bundle.edited(), *bundle.catalog.edited()]
        has_vectors = bundle.catalog.vector_ids is not None
    except BundleError as exc:
        edited, has_vectors = [str(exc)], False
    checks.append(_check(name, "digests", f"{count} files", edited))
    if has_vectors:
        try:
            bundle.vectors()
            checks.append(_check(name, "vectors", "", ()))
        except BundleError as exc:
            checks.append(_check(name, "vectors", "", [str(exc)]))
    if (traces := bundle.folder / recording.FILE).exists():
        try:
            recording.check(traces)
            checks.append(_check(name, "traces", "", ()))
        except BundleError as exc:
            checks.append(_check(name, "traces", "", [str(exc)]))
    try:
        policy = bundle.policy()
        checks.append(_check(name, "policy", "not calibrated" if policy is None else f"patience {policy.patience}", ()))
    except BundleError as exc:
        checks.append(_check(name, "policy", "", [str(exc)]))
    return checks


def _rows(bundle: Bundle) -> Check:
    """Every row of the catalog, which all variants share."""
    from rexit import runtime

    try:
        runtime.verify(bundle.path, bundle.variant.name)
    except BundleError as exc:
        return _check(bundle.variant.name, "rows", "", [str(exc)])
    counts = bundle.catalog.info["counts"]
    return _check(bundle.variant.name, "rows", f"{counts['users']} users, {counts['items']} items", ())


def _engines(bundle: Bundle) -> list[Check]:
    """Digests of a TensorRT variant's engines, and that they were built from its graphs."""
    from rexit.bundle import Engine, engine_folders

    if bundle.variant.target != "tensorrt":
        return []
    name, folders, failures = bundle.variant.name, engine_folders(bundle.folder), []
    if not folders:
        return [Check(name, "engines", "skipped", "none built yet, run `rexit compile`")]
    for folder in folders:
        try:
            engine = Engine.read(folder)
            engine.check(folder, bundle.variant)
            failures += engine.edited(folder)
        except BundleError as exc:
            failures.append(str(exc))
    return [_check(name, "engines", ", ".join(folder.name for folder in folders), failures)]


def _behaviour(bundle: Bundle, threads: int, device: str | None, named: bool, bar: rich_progress.Progress) -> list[Check]:
    """Golden samples and exit decisions, by the runtime."""
    from rexit import runtime

    name = bundle.variant.name
    try:
        golden = bundle.golden()
        with contextlib.closing(runtime.open(bundle.path, name, threads=threads, device=device)) as session:
            return _golden(bundle, golden.slates, session, bar)
    except BackendError as exc:
        reason = f"{exc}{ON_THE_CPU if device is None and bundle.variant.target != 'cpu' else ''}"
        if exc.status == "REXIT_BACKEND_MISSING" and device is None and not named:
            return [Check(name, "golden samples", "skipped", reason)]
        return [_check(name, "golden samples", "", [reason])]
    except RexitError as exc:
        return [_check(name, "golden samples", "", [str(exc)])]


def _golden(bundle: Bundle, slates: Sequence[GoldenSlate], session: Session, bar: rich_progress.Progress) -> list[Check]:
    import numpy as np

    from rexit.bundle import Policy

    name, catalog = bundle.variant.name, bundle.catalog
    allowed = float(bundle.variant.parity["tolerance"])
    policy = bundle.policy() or Policy.full_depth(len(bundle.manifest.exits), bundle.variant_sha256)
    same = bundle.variant.rounding
    prompts: list[str] = []
    values: list[str] = []
    decisions: list[str] = []
    worst = 0.0
    task = bar.add_task(name, total=len(slates))
    for g, slate in enumerate(slates):
        user, items = catalog.users.id(slate.user), [catalog.items.id(int(row)) for row in slate.items]
        where = f"{name}: golden slate {g}, user {user!r}"
        prompts += _prompt_failures(where, items, session.prompt(user, items, as_of=slate.as_of), slate)
        session.clear_cache()  # with keys copied from another prefix, log-odds may differ in their last bits
        trace = session.trace(user, items, as_of=slate.as_of)
        distance = np.abs(trace - slate.log_odds)
        distance[~np.isfinite(distance)] = np.inf
        worst = max(worst, float(distance.max()))
        if distance.max() > allowed:
            row, k = divmod(int(distance.argmax()), distance.shape[1])
            expected = f"expected {slate.log_odds[row, k]:.5f} +- {allowed:g}"
            values.append(f"{where}, item {items[row]!r}, exit {k}: log-odds {trace[row, k]:.5f}, {expected}")
        session.clear_cache()
        for prefix in ("cold", "warm"):
            scores = session.score(user, items, as_of=slate.as_of)
            decisions += _decision_failures(f"{where}, {prefix} prefix", items, scores, trace, policy, same)
        bar.advance(task)
    size = f"{len(slates)} slates, {sum(len(s.items) for s in slates)} candidates"
    return [
        _check(name, "prompts", size, prompts),
        _check(name, "log-odds", f"worst {worst:.2g}, allowed {allowed:.2g}", values),
        _check(name, "exit decisions", "cold and warm prefix", decisions),
    ]


def _prompt_failures(where: str, items: Sequence[Id], seen: tuple[Any, Sequence[Any]], slate: GoldenSlate) -> Iterator[str]:
    """The first difference between the runtime's and the exporter's prefix and candidates, if there is one."""
    parts = [("the prefix", seen[0], slate.prefix)]
    parts += [(f"item {item!r}", a, b) for item, a, b in zip(items, seen[1], slate.candidates, strict=True)]
    for what, tokens, expected in parts:
        if (difference := _first_difference(tokens, expected)) is not None:
            yield f"{where}: the prompt of {what} differs from the exporter's: {difference}"
            return


def _first_difference(seen: Any, expected: Any) -> str | None:
    for at, (a, b) in enumerate(zip(seen, expected, strict=False)):
        if a != b:
            return f"token {at} is {a}, expected {b}"
    return None if len(seen) == len(expected) else f"{len(seen)} tokens, expected {len(expected)}"


def _decision_failures(where: str, items: Sequence[Id], scores: Any, trace: Any, policy: Policy, same: float) -> Iterator[str]:
    """Each candidate stops where the policy says, given the trace of the same session, and answers with that exit's log-odds.

    same: how far apart the two may be, relative above 1. A candidate that close to a threshold has more than one valid exit:
    see `Policy.exit_range`.
    """
    import numpy as np

    whole = np.array([0, len(trace)])
    earliest, latest = policy.exit_range(trace, same * max(1.0, float(abs(trace).max())), whole)
    expected = policy.stops(trace, whole)
    for i, item in enumerate(items):
        exit, log_odds = int(scores.exit[i]), float(scores.log_odds[i])
        if not earliest[i] <= exit <= latest[i]:
            yield f"{where}, item {item!r}: stopped at exit {exit}, expected {expected[i]}"
        elif not abs(log_odds - float(trace[i, exit])) <= same * max(1.0, abs(log_odds)):
            yield f"{where}, item {item!r}: log-odds {log_odds:.5f} at exit {exit}, the trace has {trace[i, exit]:.5f}"


def _check(variant: str, name: str, detail: str, failures: Sequence[str]) -> Check:
    return Check(variant, name, "FAILED" if failures else "ok", detail, tuple(failures))
