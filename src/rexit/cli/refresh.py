"""`rexit refresh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import JsonOption, ThreadsOption
from rexit.cli.common.output import print_json, progress, shown, stdout
from rexit.cli.common.tables import print_table


def refresh(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose catalog is swapped. It may be in use.")],
    catalog: Annotated[Path, typer.Option(help="The new catalog, from `rexit index --update`, with its splits.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="What the bundle was exported from. Needed where prompts have vectors: its projectors make the new ones."
        ),
    ] = None,
    keep_policy: Annotated[
        bool,
        typer.Option("--keep-policy", help="Keep policies without a look at what they meet in the new catalog."),
    ] = False,
    golden_slates: Annotated[int, typer.Option(help="Golden slates to make for each variant.")] = 16,
    drift_slates: Annotated[int, typer.Option(help="Validation slates, the latest, that a policy is tried on, at most.")] = 400,
    device: Annotated[str, typer.Option(help="Where variants run meanwhile: cpu (any variant), cuda or tensorrt.")] = "cpu",
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Give a bundle a newer catalog: no export, no engines, no calibration.

    Tokenizer, prompt program, kinds of ids and limits have to be the bundle's own; with vectors in prompts also the checkpoint,
    and the training that the embeddings are of. Graphs, engines and variants stay as they are. Golden samples are made anew, by
    each variant on this machine, after it has shown that its old ones still come out.

    A policy stays if what it meets in the latest validation slates of the new catalog, cut as calibration cut them, is what
    calibration saw (`rexit drift` says how that is judged). If it has drifted, or calibration left nothing to compare with, the
    refresh is refused: nothing is swapped, and the exit code is 9. `--keep-policy` swaps all the same; calibrate then, on the
    new catalog. Where nothing can be told, the policy stays and this is said.

    The swap is one rename. Whoever has the bundle open goes on with the old catalog, until it opens or reloads
    (`rexit_bundle_reload`, `Session.reloaded`). Killed at any point, the bundle is the old one or the new one.

    ```
    rexit refresh bundle --catalog catalog-today --checkpoint checkpoint
    ```
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
