"""`rexit verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rexit.doors.cli.common.arguments import DeviceOption, JsonOption
from rexit.doors.cli.common.output import print_json, print_table, progress, shown, stdout

EXIT_CODE = 8


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: Annotated[str | None, typer.Option(help="The variant to check. Default: all.")] = None,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Check that a bundle is whole and computes on this machine what it computed where it was exported.

    ```
    rexit verify bundle && systemctl restart recommender
    ```

    Checks the digests of all files, also of the policy and of calibration's traces; every row of the catalog; golden samples: the
    runtime assembles the same prompts and gives the same log-odds, within the tolerance recorded at export; exit decisions: each
    candidate stops where the policy says, and answers with the log-odds of the trace, with a cold and with a warm prefix;
    TensorRT engines: digests, and that they were built from these graphs.

    If a variant's backend is missing on this machine, only its files are checked, unless the variant or a device is named. Exits
    with 8 if anything fails.
    """
    from rexit.upkeep.checks import check_bundle

    with progress() as bar:
        checks = check_bundle(bundle, variant, device=device, progress=shown(bar))
    failures = list(dict.fromkeys(line for check in checks for line in check.failures))  # variants share files
    if json:
        print_json({"ok": not failures, "checks": [asdict(check) for check in checks]})
    else:
        rows = [{"variant": c.variant, "check": c.name, "outcome": c.outcome, "detail": c.detail} for c in checks]
        print_table(str(bundle), rows)
        for line in failures:
            stdout.print(f"FAILED {line}")
        if not failures:
            skipped = sum(check.outcome == "skipped" for check in checks)
            stdout.print(f"All others passed, {skipped} skipped." if skipped else "All checks passed.")
    if failures:
        raise typer.Exit(EXIT_CODE)
