"""`rexit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import JsonOption, RerankerOption, SlatesOption, check_one_source, label_ids_of
from rexit.cli.common.output import print_json, progress
from rexit.cli.show.export import print_export
from rexit.errors import InputError, QualityError
from rexit.exporter.options import ExportOptions

_STAGES = {
    "load": "loading the checkpoint",
    "reference": "scoring golden slates in PyTorch",
    "segments": "exporting segments",
    "parity": "scoring golden slates with the segments",
    "activations": "running training slates for scales and smoothing",
    "quality": "scoring validation slates, float32 and lower precision",
    "write": "writing the bundle",
}


_DEFAULT = ExportOptions()


# Long because typer takes the options, their defaults and their help from the signature.
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Folder of a checkpoint or PEFT adapter, GGUF file or Hub name."),
    ],
    out: Annotated[Path, typer.Option(help="The bundle, which keeps its other variants.")],
    catalog: Annotated[Path | None, typer.Option(help="The catalog folder of `rexit index`.")] = None,
    slates: SlatesOption = None,
    exits: Annotated[
        str | None,
        typer.Option(help="Depths in layers, e.g. 2,4,6. Default: the checkpoint's."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="own (trained heads) or shared (the LM head's label rows)."),
    ] = None,
    target: Annotated[str, typer.Option(help="cpu, tensorrt or cuda.")] = _DEFAULT.target,
    precision: Annotated[
        str,
        typer.Option(help="One or several of fp32, bf16, int8, int4, fp16, fp8."),
    ] = "fp32",
    cache: Annotated[
        str,
        typer.Option(help="Stored keys and values: float16, int8."),
    ] = _DEFAULT.cache,
    max_tokens: Annotated[int, typer.Option(help="Most candidate tokens in one pass.")] = _DEFAULT.max_tokens,
    golden: Annotated[int, typer.Option(help="Validation slates kept as golden samples.")] = _DEFAULT.golden_slates,
    quality_slates: Annotated[int, typer.Option(help="Slates to judge a precision on. 0: all.")] = _DEFAULT.quality_slates,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Write variants that fail their gate; the bundle records it.",
        ),
    ] = False,
    accept_catalog: Annotated[
        bool,
        typer.Option("--accept-catalog", help="Export with a catalog that CHECKPOINT does not name."),
    ] = False,
    label_ids: Annotated[str | None, typer.Option(help="With --slates: ids of `no` and `yes`, e.g. 2152,9693.")] = None,
    reranker: RerankerOption = None,
    with_tokenizer: Annotated[
        bool,
        typer.Option("--with-tokenizer", help="Put tokenizer.json into the bundle: it takes text then."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut a checkpoint into one ONNX graph per exit and write a bundle. Without trained heads: `--head shared` and `--exits`.

    ```
    rexit export checkpoint --catalog catalog --out bundle --precision fp32,int8
    rexit export reranker --slates slates.parquet --out bundle
    ```

    Exits are compared with PyTorch, lower precisions with float32, on validation slates. A variant that loses more than its gate
    allows is not written, others are: exit code 5.
    """
    from rexit.exporter.export import export_bundle

    check_one_source(catalog, slates)
    if label_ids is not None and slates is None:
        raise InputError("--label-ids is for --slates: a catalog has its labels")
    options = ExportOptions(
        exits=_depths(exits),
        head=head,
        target=target,
        precisions=[part.strip() for part in precision.split(",")],
        cache=cache,
        max_tokens=max_tokens,
        golden_slates=golden,
        quality_slates=quality_slates,
        accept_loss=accept_loss,
        accept_catalog=accept_catalog,
        label_ids=label_ids_of(label_ids),
        reranker=reranker,
        with_tokenizer=with_tokenizer,
    )
    with progress() as bar:
        tasks = {stage: bar.add_task(text, total=None, visible=False) for stage, text in _STAGES.items()}

        def show(stage: str, done: int, total: int) -> None:
            bar.update(tasks[stage], completed=done, total=total, visible=True)

        report = export_bundle(checkpoint, catalog, out, options, slates=slates, progress=show)
    if as_json:
        print_json(report.to_json())
    else:
        print_export(report)
    if report.refused:
        written = ", ".join(variant.name for variant in report.variants)
        refused = "; ".join(f"{name} refused: {reason}" for name, reason in report.refused.items())
        raise QualityError(f"{report.bundle}: {written} written; {refused}")


def _depths(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as exc:
        raise InputError(f"exits {text!r}: expected depths in layers, e.g. 2,4,6") from exc
