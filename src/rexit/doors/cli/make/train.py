"""`rexit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.doors.cli.common.arguments import CatalogOption, RerankerOption, SlatesOption, answers_of
from rexit.doors.cli.common.output import print_table, progress, say, shown, stdout
from rexit.exporter.options import TrainOptions

_DEFAULT = TrainOptions()


# Long because typer takes the options, their defaults and their help from the signature.
def train(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file or Hub name of a pretrained decoder or encoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder. OUT.training keeps states.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    reranker: RerankerOption = None,
    exits: Annotated[str, typer.Option(help="Depths, e.g. 5,10. Default: each fifth and the last.")] = (_DEFAULT.exits),
    lora: Annotated[int, typer.Option(help="Rank of low-rank additions; 0: all weights are trained.")] = (_DEFAULT.lora),
    freeze_embeddings: Annotated[
        bool, typer.Option("--freeze-embeddings", help="Leave the token embeddings as they are.")
    ] = False,
    slate: Annotated[int | None, typer.Option(help="Of a prefix, default 12; an encoder's documents of a query, 8.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Most tokens of a step. Default: 1024, encoder 4096.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the training split, without --steps.")] = (_DEFAULT.epochs),
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: by --epochs.")] = _DEFAULT.steps,
    rate: Annotated[float | None, typer.Option(help="Peak rate; 0: heads alone. Default: 1e-4, LoRA 1e-3.")] = None,
    head_rate: Annotated[float, typer.Option(help="Peak rate of heads and projectors.")] = _DEFAULT.head_rate,
    seed: Annotated[int, typer.Option(help="Of projectors, batches and their order.")] = _DEFAULT.seed,
) -> None:
    """Fine-tune a model with heads at several depths, and write a multi-exit checkpoint.

    A decoder, or an encoder of queries and documents, which need not be a cross-encoder yet. The same command again resumes a
    training that was stopped.

    ```
    rexit train SmolLM2-135M --catalog catalog --out checkpoint
    rexit train all-MiniLM-L6-v2 --slates slates.jsonl --out checkpoint
    ```
    """
    from rexit.exporter.training.fine_tuning import train_model

    options = TrainOptions(
        exits=exits,
        lora=lora,
        freeze_embeddings=freeze_embeddings,
        slate=slate,
        batch_tokens=batch_tokens,
        epochs=epochs,
        steps=steps,
        rate=rate,
        head_rate=head_rate,
        seed=seed,
        **answers_of(reranker, catalog),
    )

    with progress() as bar:
        report = train_model(model, catalog, out, options, slates=slates, say=say, progress=shown(bar))
    if report is None:
        return
    for line in (report.doubt, report.falling):
        if line is not None:
            stdout.print(line)
    areas = zip(report.exits, report.auc, report.user_auc, strict=True)
    ways = {f"{depth} layers": by_area for depth, *by_area in areas} | report.baselines
    rows = [{"exit": way, "AUC": f"{area:.4f}", "user AUC": f"{by_user:.4f}"} for way, (area, by_user) in ways.items()]
    print_table(f"{report.checkpoint}, on {report.validation_slates} validation slates", rows)
    stdout.print(f"{report.state}: the training's last states; delete the folder when done")
