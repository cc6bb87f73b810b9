"""`rexit export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.options import JsonOption, SlatesOption, check_one_source, label_ids_of
from rexit.cli.common.output import print_json, progress, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import InputError, QualityError
from rexit.exporter.options import ExportOptions

if TYPE_CHECKING:
    from rexit.exporter.draft import VariantReport
    from rexit.exporter.export import ExportReport

_STAGES = {
    "load": "loading the checkpoint",
    "reference": "scoring golden slates in PyTorch",
    "segments": "exporting segments",
    "parity": "scoring golden slates with the segments",
    "activations": "running training slates for scales and smoothing",
    "quality": "scoring validation slates, float32 and lower precision",
    "write": "writing the bundle",
}


_FIGURES = (("correlation", ".6f"), ("mean", ".4f"), ("worst", ".4f"), ("kl", ".1e"), ("order", ".4f"))

_DEFAULT = ExportOptions()


# Long because typer takes the options, their defaults and their help from the signature.
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Folder of a checkpoint or a PEFT adapter, a GGUF file, or a model's id on the Hugging Face Hub."),
    ],
    out: Annotated[Path, typer.Option(help="The bundle folder to write. An existing bundle keeps its other variants.")],
    catalog: Annotated[Path | None, typer.Option(help="The catalog folder of `rexit index`.")] = None,
    slates: SlatesOption = None,
    exits: Annotated[
        str | None,
        typer.Option(
            help="Depths in layers, e.g. 2,4,6; the model is cut after the last. Default: the checkpoint's exits, to full depth."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="own: trained heads, the default if there are any. shared: final norm and label rows of the LM head."),
    ] = None,
    target: Annotated[str, typer.Option(help="What the variant will run on: cpu, tensorrt or cuda.")] = _DEFAULT.target,
    precision: Annotated[
        str,
        typer.Option(
            help="cpu: fp32, bf16, int8, int4; tensorrt: fp16, int8, int4, fp8; cuda: fp16. Several (fp32,int8): a variant each."
        ),
    ] = "fp32",
    cache: Annotated[
        str,
        typer.Option(
            help="For cpu bf16, int8 and int4: how a session stores prefixes' keys and values, float16 or int8 (half the memory)."
        ),
    ] = _DEFAULT.cache,
    max_tokens: Annotated[
        int, typer.Option(help="Most candidate tokens in one pass. Larger slates are scored in chunks.")
    ] = _DEFAULT.max_tokens,
    tolerance: Annotated[
        float, typer.Option(help="Largest allowed difference of float32 log-odds from PyTorch's, at any exit.")
    ] = _DEFAULT.tolerance,
    golden: Annotated[
        int, typer.Option(help="Validation slates to compare on, and to store as golden samples.")
    ] = _DEFAULT.golden_slates,
    quality_slates: Annotated[
        int, typer.Option(help="Validation slates to judge a lower precision on. 0: all.")
    ] = _DEFAULT.quality_slates,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Write a variant even if it loses, or may lose, more than its gate allows. The bundle records this.",
        ),
    ] = False,
    accept_catalog: Annotated[
        bool,
        typer.Option(
            "--accept-catalog", help="Export with another catalog than CHECKPOINT was trained on, or if it does not name one."
        ),
    ] = False,
    label_ids: Annotated[
        str | None, typer.Option(help="With --slates: token ids of `no` and `yes`, e.g. 2152,9693. Default: the checkpoint's.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            help="What a reranker reads around a query and a document: qwen3-reranker, mxbai-rerank-v2 or a JSON file. Default: "
            "what CHECKPOINT says."
        ),
    ] = None,
    with_tokenizer: Annotated[
        bool,
        typer.Option("--with-tokenizer", help="Put the checkpoint's tokenizer.json into the bundle: Python and HTTP take text."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut a checkpoint into one ONNX graph per exit and write a bundle.

    ```
    rexit export checkpoint --catalog catalog --out bundle --precision fp32,int8
    rexit export checkpoint --catalog catalog --out bundle \\
      --target tensorrt --precision fp16,int8
    rexit export SmolLM2-135M --catalog catalog --out bundle \\
      --exits 10,20,30 --head shared
    rexit export reranker --slates slates.parquet --out bundle
    rexit export Qwen/Qwen3-Reranker-0.6B --reranker qwen3-reranker \\
      --slates slates.parquet --out bundle
    ```

    CHECKPOINT is a Hugging Face decoder with `exits.json` and `exit_heads.safetensors` next to it. With `--exits 5,10,15 --head
    shared` any decoder works. The catalog must be the one that CHECKPOINT was trained on, or an update of it: `exits.json` names
    its tokenizer, prompt program and space of embeddings.

    With `--slates` the bundle has no catalog: it scores token ids, and texts if the checkpoint is a reranker and its tokenizer is
    exported. docs/format/slates.md describes the file.

    Every exit is compared with the unsplit PyTorch model on real validation prompts: pair by pair, behind a cached prefix, and as
    whole slates. If log-odds differ by more than `--tolerance` anywhere, the export fails and writes nothing.

    Lower precisions are then compared with float32 on validation prompts. At every exit the correlation must be at least 0.999
    for fp16 and bf16 and 0.995 for int8 and fp8. All four may lose up to 0.001 of AUC, int4 up to 0.005. The loss is a 95 %
    interval over users, and the whole interval must be allowed. If only a part is, the slates are too few: give more with
    `--quality-slates`. A variant that fails is not written, unless `--accept-loss` is given; others are written all the same, and
    the exit code is 5.

    A first line warns if, on the same prompts, the interval of float32's user AUC includes chance, or if the items' shares of
    likes rank better. Only one process can write a bundle at a time.

    Next: `rexit calibrate bundle --catalog catalog` finds when to stop at which exit.
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
        tolerance=tolerance,
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
        _print(report)
    if report.refused:
        written = ", ".join(variant.name for variant in report.variants)
        refused = "; ".join(f"{name} refused: {reason}" for name, reason in report.refused.items())
        raise QualityError(f"{report.bundle}: {written} written; {refused}")


def _print(report: ExportReport) -> None:
    if report.doubt is not None:
        stdout.print(report.doubt, soft_wrap=True, markup=False)
    for variant in report.variants:
        _print_variant(variant, report.pairs, report.slates)
    if reason := report.variants[0].unrotated:
        stdout.print(f"not rotated, so that lower precisions may lose more: {reason}", soft_wrap=True, markup=False)
    stdout.print(
        f"{report.bundle}: {report.bytes / 1e6:.1f} MB in {sum(report.seconds.values()):.0f} s "
        f"({', '.join(f'{name} {seconds:.0f}' for name, seconds in report.seconds.items())})",
        soft_wrap=True,
        markup=False,
    )


def _print_variant(variant: VariantReport, pairs: int, slates: int) -> None:
    print_table(
        f"Variant {variant.name}, {variant.bytes / 1e6:.1f} MB",
        ("layers", "parameters", "MB", "seconds", "single", "cached", "slate"),
        (
            (
                f"{s.layers[0]}-{s.layers[1]}",
                f"{s.parameters:,}",
                f"{s.bytes / 1e6:.1f}",
                f"{s.seconds:.1f}",
                *(f"{row[mode]:.1e}" for mode in ("single", "cached", "slate")),
            )
            for s, row in zip(variant.segments, variant.parity, strict=True)
        ),
    )
    reference = "PyTorch's" if variant.quality is None else "the variant's own for whole slates"
    stdout.print(
        f"single, cached, slate: largest difference of log-odds from {reference} at that exit, {variant.tolerance:.0e} allowed; "
        f"{pairs} pairs, {slates} slates",
        soft_wrap=True,
    )
    if (quality := variant.quality) is None:
        return
    gate = quality["gate"]
    print_table(
        f"Variant {variant.name} against float32",
        (
            "layers",
            "correlation",
            "mean",
            "worst",
            "KL",
            "order",
            "AUC float32",
            "AUC",
            "change, 95 %",
            "user AUC float32",
            "user AUC",
        ),
        (
            (
                f"{row['layers']} {row['objective']}" if "objective" in row else row["layers"],
                *(_number(row[name], form) for name, form in _FIGURES),
                *(_number(row[name], ".4f") for name in ("auc_fp32", "auc")),
                "unknown" if row["auc_change"] is None else " to ".join(f"{end:+.4f}" for end in row["auc_change"]),
                *(_number(row[name], ".4f") for name in ("user_auc_fp32", "user_auc")),
            )
            for row in quality["exits"]
        ),
    )
    least = "" if gate["correlation"] is None else f"correlation at least {gate['correlation']:g}, "
    verdict = {"passed": "passed", "failed": "FAILED, accepted on request", "undecided": "UNDECIDED, accepted on request"}
    stdout.print(
        f"{quality['pairs']} validation pairs in {quality['slates']} slates of {quality['users']} users; "
        f"{least}AUC loss at most {gate['auc_drop']:g}: {verdict[quality['verdict']]}",
        soft_wrap=True,
    )


def _number(value: float | None, form: str) -> str:
    return "NaN" if value is None else format(value, form)


def _depths(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as exc:
        raise InputError(f"exits {text!r}: expected depths in layers, e.g. 2,4,6") from exc
