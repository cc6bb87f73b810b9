"""`rexit refresh`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rexit.doors.cli.common.arguments import JsonOption
from rexit.doors.cli.common.output import print_json, print_table, progress, shown, stdout


def refresh(
    bundle: Annotated[Path, typer.Argument(help="The bundle. It may be in use.")],
    catalog: Annotated[Path, typer.Option(help="The new catalog, from `rexit index --from`, with its splits.")],
    checkpoint: Annotated[str | None, typer.Option(help="The bundle's checkpoint, needed if prompts have vectors.")] = None,
    keep_policy: Annotated[
        bool, typer.Option("--keep-policy", help="Keep policies without trying them on the new catalog.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu (any variant), cuda or tensorrt.")] = "cpu",
    json: JsonOption = False,
) -> None:
    """Give a bundle a newer catalog: no export, no engines, no calibration.

    ```
    rexit refresh bundle --catalog catalog-today --checkpoint checkpoint
    ```

    Each variant must still give its golden samples on this machine. A policy is tried on validation slates of the new catalog: if
    its mean loss cannot be within its limit, nothing is swapped and the exit code is 9. The swap is one rename;
    open sessions keep the old catalog until they reload it.
    """
    from rexit.upkeep.refresh import RefreshOptions
    from rexit.upkeep.refresh import refresh as run

    options = RefreshOptions(checkpoint, keep_policy, device=device)
    with progress() as bar:
        report = run(bundle, catalog, options, progress=shown(bar))
    if json:
        print_json(asdict(report))
        return
    if not report.swapped:
        stdout.print(f"{bundle}: holds this catalog already; nothing was changed.")
        return
    counts = {"users": report.users, "items": report.items}
    print_table(str(bundle), [{"": name, "new": new, "all": count} for name, (count, new) in counts.items()])
    for variant in report.variants:
        policy = "" if variant.policy is None else f" Its policy: {variant.policy['conclusion']}."
        stdout.print(
            f"{variant.variant}: {variant.slates} golden slates, {variant.new_candidates} of their candidates new.{policy}"
        )
