"""`rexit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import CatalogOption, JsonOption, LabelIdsOption, RerankerOption, SlatesOption, label_ids_of
from rexit.cli.common.output import print_json, progress, shown, stderr, stdout
from rexit.cli.common.tables import print_table
from rexit.exporter.options import TrainOptions

_DEFAULT = TrainOptions()


# Long because typer takes the options, their defaults and their help from the signature.
def train(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file, or id on the Hugging Face Hub, of a pretrained decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write. States to go on from are kept in OUT.training.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    label_ids: LabelIdsOption = None,
    reranker: RerankerOption = None,
    exits: Annotated[str, typer.Option(help="Depths in layers, e.g. 5,10,20. Default: every five layers and the last.")] = (
        _DEFAULT.exits
    ),
    lora: Annotated[int, typer.Option(help="Rank of low-rank additions to all linear layers; 0: all weights are trained.")] = (
        _DEFAULT.lora
    ),
    save_adapter: Annotated[
        bool, typer.Option("--save-adapter", help="With --lora: write the additions alone; merged otherwise.")
    ] = False,
    freeze_embeddings: Annotated[
        bool, typer.Option("--freeze-embeddings", help="Leave the token embeddings as they are.")
    ] = False,
    distill: Annotated[float, typer.Option(help="Weight of self-distillation from the last exit.")] = _DEFAULT.distill,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Scored training pairs, .parquet with user_id, item_id and probability, that soften the labels."),
    ] = None,
    teacher_weight: Annotated[float, typer.Option(help="Share of a label that is the teacher's.")] = _DEFAULT.teacher_weight,
    slate: Annotated[int, typer.Option(help="Interactions packed behind one prefix.")] = _DEFAULT.slate,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one forward pass at most, padding included.")] = (
        _DEFAULT.batch_tokens
    ),
    accumulate: Annotated[int, typer.Option(help="Forward passes of one step.")] = _DEFAULT.accumulate,
    epochs: Annotated[float, typer.Option(help="Passes over the training split, unless --steps says how long.")] = (
        _DEFAULT.epochs
    ),
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0: by --epochs.")] = _DEFAULT.steps,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of the deepest layers; 0: the base stays as it is. Default: 1e-4, with --lora 1e-3."
        ),
    ] = None,
    head_rate: Annotated[float, typer.Option(help="Peak learning rate of the last head.")] = _DEFAULT.head_rate,
    rate_ratio: Annotated[float, typer.Option(help="Rate of an exit's layers over that of the exit before.")] = (
        _DEFAULT.rate_ratio
    ),
    schedule: Annotated[str, typer.Option(help="How the rate falls after the warm-up: cosine or linear.")] = _DEFAULT.schedule,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = _DEFAULT.warmup,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = _DEFAULT.weight_decay,
    precision: Annotated[
        str, typer.Option(help="Of what is computed: float32, bfloat16, or auto: bfloat16 where it is faster.")
    ] = _DEFAULT.precision,
    seed: Annotated[int, typer.Option(help="Of the projectors, and of batches and their order.")] = _DEFAULT.seed,
    save_every: Annotated[int, typer.Option(help="Steps between two states that a stopped training goes on from.")] = (
        _DEFAULT.save_every
    ),
    max_minutes: Annotated[float, typer.Option(help="Stop after so long, to go on another time; 0: when done.")] = (
        _DEFAULT.max_minutes
    ),
    validation_slates: Annotated[
        int, typer.Option(help="Validation slates to report AUC on, evenly spaced; 0: all.")
    ] = _DEFAULT.validation_slates,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a decoder with heads at several depths, and write a multi-exit checkpoint.

    Trains as it will be served: one user's prefix with later interactions packed behind it is one forward pass and many labels.
    The loss is the mean of all exits' cross-entropies; shallower layers learn at higher rates. Projectors of the vectors in
    prompts are trained along.

    A training that was stopped goes on when the same command is given again, and ends as it would have without the stop. Several
    processes: `torchrun --nproc-per-node 4 -m rexit train MODEL …`.

    ```
    rexit train SmolLM2-135M --catalog catalog --out checkpoint
    rexit train SmolLM2-135M --catalog catalog --out adapter \\
      --lora 16 --save-adapter
    ```

    Next: `rexit export checkpoint --catalog catalog --out bundle`. A model that ranks well as it is needs no training but heads:
    `rexit heads`.
    """
    from rexit.exporter.training.run import train_model

    options = TrainOptions(
        exits=exits,
        lora=lora,
        save_adapter=save_adapter,
        freeze_embeddings=freeze_embeddings,
        distill=distill,
        teacher=None if teacher is None else str(teacher),
        teacher_weight=teacher_weight,
        slate=slate,
        batch_tokens=batch_tokens,
        accumulate=accumulate,
        epochs=epochs,
        steps=steps,
        rate=rate,
        head_rate=head_rate,
        rate_ratio=rate_ratio,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        precision=precision,
        seed=seed,
        save_every=save_every,
        max_minutes=max_minutes,
        validation_slates=validation_slates,
        label_ids=label_ids_of(label_ids),
        reranker=reranker,
    )

    def say(line: str) -> None:
        stderr.print(line, soft_wrap=True)

    with progress() as bar:
        report = train_model(model, catalog, out, options, slates=slates, say=say, progress=shown(bar))
    if report is None:
        return
    if as_json:
        print_json(report.to_json())
        return
    parts = report.objectives or {"": {"auc": report.auc, "user_auc": report.user_auc}}
    for name, figures in parts.items():
        rows = [
            (f"{depth} layers", f"{area:.4f}", f"{by_user:.4f}")
            for depth, area, by_user in zip(report.exits, figures["auc"], figures["user_auc"], strict=True)
        ]
        title = f"{report.checkpoint}, on {report.validation_slates} validation slates"
        print_table(f"{title}, {name}" if name else title, ("exit", "AUC", "user AUC"), rows)
    stdout.print(f"{report.state}: the training's last states; delete the folder when done", soft_wrap=True)
