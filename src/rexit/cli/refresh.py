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
    catalog: Annotated[Path, typer.Option(help="The new catalog, from `rexit update`, with its splits.")],
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
    policy_users: Annotated[int, typer.Option(help="Most users, the latest of the validation split, to try a policy on.")] = 400,
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

    A policy is tried on validation slates of the new catalog, the latest of each user, cut as calibration cut them: each is
    answered by the policy and scored at full depth. The test is that of `rexit serve --audit`, which needs no labels. If the
    policy's mean loss cannot be within its limit, or calibration recorded no limit, nothing is swapped and the exit code is 9.
    `--keep-policy` swaps all the same; run `rexit calibrate` on the new catalog then.

    The swap is one rename. Processes that have the bundle open keep the old catalog until they open or reload it
    (`rexit_bundle_reload`, `Session.reloaded`). Killed at any point, the bundle is the old one or the new one.
    """
    from rexit.refresh import RefreshOptions
    from rexit.refresh import refresh as run

    options = RefreshOptions(checkpoint, keep_policy, policy_users=policy_users, device=device, threads=threads)
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
        policy = "" if variant.policy is None else f" Its policy: {variant.policy['conclusion']}."
        stdout.print(
            f"{variant.variant}: {variant.slates} golden slates, {variant.new_candidates} of their candidates new.{policy}"
        )
