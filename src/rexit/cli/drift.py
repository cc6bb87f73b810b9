"""`rexit drift`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.audited import print_audit
from rexit.cli.common.options import JsonOption, VariantOption
from rexit.cli.common.output import print_json, stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.calibration.drift import ExitDrift


def drift(
    bundle: Annotated[Path, typer.Argument(help="The bundle that was served.")],
    counters: Annotated[Path, typer.Argument(help="Counters: from `rexit score --counters`, or a service's own.")],
    audit_log: Annotated[
        Path | None, typer.Option(help="Audited slates, as `rexit audit` reads them: also tell what the policy loses.")
    ] = None,
    variant: VariantOption = None,
    json: JsonOption = False,
) -> None:
    """Tell whether candidates are still like those that the policy was calibrated on.

    Compares the distribution of calibrated log-odds at each exit, and the shares that stopped there, with calibration's. The
    population stability index (PSI) and Kolmogorov-Smirnov's statistic (KS) decide, the worse of the two. Below a PSI of 0.1 and
    a KS of 0.126 nothing has moved. From a PSI of 0.25 or a KS of 0.197 on, calibrate again. The verdict is `cannot tell` if too
    few candidates were counted, or if nearly all of calibration's are in one bin. Runs no model. The exit code does not depend on
    the verdict.

    Drift does not say what the policy loses. Audited slates do: --audit-log adds their test, as `rexit audit` has it.

    ```
    rexit score bundle --pairs today.parquet --out scores.parquet \\
      --counters counters.json
    rexit drift bundle counters.json
    ```
    """
    from rexit.audit import Watch, read_limits, read_log
    from rexit.bundle import Bundle, Counters
    from rexit.calibration.drift import compare, read_reference

    opened = Bundle.open(bundle, variant)
    counted = Counters.read(counters, len(opened.manifest.exits), opened.variant_sha256, opened.policy_sha256)
    result = compare(counted, read_reference(opened).counters)
    watch: Watch | None = None
    if audit_log is not None:
        watch = Watch(read_limits(opened))
        watch.add_all(read_log(audit_log))
    if json:
        print_json({**result.to_json(), "audit": None if watch is None else watch.to_json()})
        return
    print_table(
        f"{opened.variant.name}: counted, and as calibrated",
        ["exit", "reached", "needed", "PSI", "KS", "stopped", "as calibrated", "verdict"],
        [_row(k, e) for k, e in enumerate(result.exits)],
    )
    if result.cut_short > 0:
        stdout.print(f"A deadline stopped {result.cut_short:.1%} of the candidates; they count as stopped.")
    stdout.print(result.conclusion)
    if watch is not None:
        print_audit(watch)


def _row(k: int, e: ExitDrift) -> list[str]:
    shares = ["-" if math.isnan(share) else f"{share:.1%}" for share in e.stopped]
    statistics = ["-" if math.isnan(value) else f"{value:.3f}" for value in (e.psi, e.ks)]
    return [str(k), str(e.reached[0]), "-" if e.needed is None else str(e.needed), *statistics, *shares, e.verdict]
