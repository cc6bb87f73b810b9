"""`rexit heads`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import CatalogOption, JsonOption, LabelIdsOption, RerankerOption, SlatesOption, label_ids_of
from rexit.cli.common.output import print_json, progress, shown, stderr
from rexit.cli.show.heads import print_heads
from rexit.exporter.options import HeadsOptions

_DEFAULT = HeadsOptions()


# Long because typer takes the options, their defaults and their help from the signature.
def heads(
    model: Annotated[str, typer.Argument(help="Folder of a model or PEFT adapter, GGUF file or Hub name.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder. OUT.rows keeps hidden rows.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    label_ids: LabelIdsOption = None,
    reranker: RerankerOption = None,
    exits: Annotated[
        str,
        typer.Option(help="Depths in layers, e.g. 5,10, or auto:K, the best."),
    ] = _DEFAULT.exits,
    max_slates: Annotated[int, typer.Option(help="Most training slates; 0: all.")] = _DEFAULT.max_slates,
    validation_slates: Annotated[int, typer.Option(help="Most validation slates; 0: all.")] = _DEFAULT.validation_slates,
    keep_last: Annotated[
        bool | None,
        typer.Option(
            "--keep-last/--no-keep-last",
            help="The last exit is MODEL's own answer.",
        ),
    ] = _DEFAULT.keep_last,
    accept_catalog: Annotated[bool, typer.Option("--accept-catalog", help="Fit on a catalog that MODEL does not name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fit heads on a model whose weights stay as they are, and write a multi-exit checkpoint.

    One forward pass keeps the hidden rows of all layers; a head is fitted for each. Exits are the few depths with the best curve
    of loss against cost. Another choice of exits or heads later needs no second pass.

    ```
    rexit heads SmolLM2-135M --catalog catalog --out checkpoint
    ```
    """
    from rexit.exporter.heads.run import fit_heads

    options = HeadsOptions(
        exits=exits,
        max_slates=max_slates,
        validation_slates=validation_slates,
        label_ids=label_ids_of(label_ids),
        reranker=reranker,
        keep_last=keep_last,
        accept_catalog=accept_catalog,
    )

    def say(line: str) -> None:
        stderr.print(line, soft_wrap=True)

    with progress() as bar:
        report = fit_heads(model, catalog, out, options, slates=slates, say=say, progress=shown(bar))
    if as_json:
        print_json(report.to_json())
    else:
        print_heads(report)
