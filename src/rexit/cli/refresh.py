"""`rexit refresh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import JsonOption, ThreadsOption
from rexit.cli.common.output import print_json, progress, shown, stdout
from rexit.cli.common.tables import print_table


def refresh(
    bundle: Annotated[Path, typer.Argument(help="The bundle. It may be in use.")],
    catalog: Annotated[Path, typer.Option(help="The new catalog, from `rexit index --update`, with its splits.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The checkpoint that the bundle was exported from. Needed if prompts have vectors: its projectors make new ones."
        ),
    ] = None,
    keep_policy: Annotated[
        bool,
        typer.Option("--keep-policy", help="Keep policies without trying them on the new catalog."),
    ] = False,
    golden_slates: Annotated[int, typer.Option(help="Golden slates to record per variant.")] = 16,
    drift_slates: Annotated[int, typer.Option(help="Most validation slates, the latest, to try a policy on.")] = 400,
    device: Annotated[str, typer.Option(help="Where variants are tried: cpu (any variant), cuda or tensorrt.")] = "cpu",
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Give a bundle a newer catalog: no export, no engines, no calibration.

    ```
    rexit refresh bundle --catalog catalog-today --checkpoint checkpoint
    ```

    Tokenizer, prompt program, kinds of ids and limits must be the bundle's own. If prompts have vectors, so must the checkpoint
    and the space of embeddings. Graphs, engines and variants stay as they are. Each variant must still give its golden samples on
    this machine; then new golden samples are recorded.

    A policy is tried on the latest validation slates of the new catalog, cut as calibration cut them. It stays if these
    candidates are like calibration's, or if this cannot be told; `rexit drift` says how that is judged. If they have drifted, or
    calibration left nothing to compare with, nothing is swapped and the exit code is 9. `--keep-policy` swaps all the same; run
    `rexit calibrate` on the new catalog then.

    The swap is one rename. Processes that have the bundle open keep the old catalog until they open or reload it
    (`rexit_bundle_reload`, `Session.reloaded`). Killed at any point, the bundle is the old one or the new one.
    """
    from rexit.refresh import RefreshOptions
    from rexit.refresh import refresh as run

    options = RefreshOptions(checkpoint, keep_policy, golden_slates, drift_slates, device, threads)
    with progress() as bar:
        report = run(bundle, catalog, options, progress=shown(bar))
    if json:
        print_json(report.to_json())
        return
    if not report.swapped:
        stdout.print(f"{bundle}: holds this catalog already; nothing was changed.")
        return
    print_table(str(bundle), ["", "new", "all"], [["users", *report.users[::-1]], ["items", *report.items[::-1]]])
    for variant in report.variants:
        policy = "" if variant.drift is None else f" Its policy: {variant.drift['conclusion']}"
        stdout.print(
            f"{variant.variant}: {variant.slates} golden slates, {variant.new_candidates} of their candidates new.{policy}"
        )
