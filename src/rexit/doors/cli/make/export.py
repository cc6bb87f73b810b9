"""`rexit export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.doors.cli.common.arguments import (
    CatalogOption,
    JsonOption,
    RerankerOption,
    SlatesOption,
    answers_of,
    check_one_source,
)
from rexit.doors.cli.common.output import print_json, print_table, progress, shown, stdout
from rexit.errors import InputError, QualityError
from rexit.exporter.options import ExportOptions

if TYPE_CHECKING:
    from rexit.exporter.assembly import VariantReport
    from rexit.exporter.export import ExportReport

_STAGES = {
    "load": "loading the checkpoint",
    "reference": "scoring golden slates in PyTorch",
    "segments": "exporting segments",
    "parity": "scoring golden slates with the segments",
    "activations": "running training slates for scales and smoothing",
    "write": "writing the bundle",
}

_FIGURES = {"correlation": ".6f", "mean": ".4f", "worst": ".4f"}

_LARGE_SEGMENT = 400e6
"""Bytes of a segment's graph and weights above which building its engine may fail on a small device."""

_DEFAULT = ExportOptions()


# Long because typer takes the options, their defaults and their help from the signature.
def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint or PEFT adapter, GGUF file or Hub name.")],
    out: Annotated[Path, typer.Option(help="The bundle, which keeps its other variants.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    exits: Annotated[str | None, typer.Option(help="Depths in layers, e.g. 2,4,6. Default: the checkpoint's.")] = None,
    head: Annotated[str | None, typer.Option(help="own (trained heads) or shared (the LM head's label rows).")] = None,
    target: Annotated[str, typer.Option(help="cpu, tensorrt or cuda.")] = _DEFAULT.target,
    precision: Annotated[str, typer.Option(help="One or several of fp32, bf16, int8, int4, fp16.")] = "fp32",
    max_tokens: Annotated[int, typer.Option(help="Most candidate tokens in one pass.")] = _DEFAULT.max_tokens,
    golden: Annotated[int, typer.Option(help="Validation slates kept as golden samples.")] = _DEFAULT.golden_slates,
    quality_slates: Annotated[int, typer.Option(help="Slates to judge a precision on. 0: all.")] = _DEFAULT.quality_slates,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Write variants that fail their gate; the bundle records it.")
    ] = False,
    accept_catalog: Annotated[
        bool, typer.Option("--accept-catalog", help="Export with a catalog that CHECKPOINT does not name.")
    ] = False,
    reranker: RerankerOption = None,
    with_tokenizer: Annotated[
        bool, typer.Option("--with-tokenizer", help="Put tokenizer.json into the bundle: it takes text then.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Cut a checkpoint into one ONNX graph per exit and write a bundle.

    Without trained heads: `--head shared` and `--exits`.

    ```
    rexit export checkpoint --catalog catalog --out bundle --precision fp32,int8
    rexit export reranker --slates slates.parquet --out bundle
    ```

    Exits are compared with PyTorch, lower precisions with float32, on validation slates. A variant does without
    exits that fail its gate; if its last one does, it is not written: exit code 5.
    """
    from rexit.exporter.export import export_bundle

    check_one_source(catalog, slates)
    options = ExportOptions(
        exits=_depths(exits),
        head=head,
        target=target,
        precisions=[part.strip() for part in precision.split(",")],
        max_tokens=max_tokens,
        golden_slates=golden,
        quality_slates=quality_slates,
        accept_loss=accept_loss,
        accept_catalog=accept_catalog,
        **answers_of(reranker, catalog),
        with_tokenizer=with_tokenizer,
    )
    with progress() as bar:
        report = export_bundle(checkpoint, catalog, out, options, slates=slates, progress=shown(bar, _STAGES))
    if as_json:
        print_json(report.to_json())
    else:
        print_export(report, catalog is not None)
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


def print_export(report: ExportReport, has_catalog: bool = True) -> None:
    """Prints tables of parity and quality for each variant, and where the bundle is."""
    if report.doubt is not None:
        stdout.print(report.doubt)
    from rexit.data.ranking import noun_of

    for variant in report.variants:
        _print_variant(variant, report.pairs, report.slates, noun_of(has_catalog))
    if reason := report.variants[0].unrotated:
        stdout.print(f"not rotated, so that lower precisions may lose more: {reason}")
    for name, files in report.gone.items():
        advice = f"; `rexit calibrate --variant {name}` makes a new policy" if "policy.json" in files else ""
        stdout.print(f"{name}: replaced, and with it went {', '.join(files)}{advice}")
    stdout.print(
        f"{report.bundle}: {report.bytes / 1e6:.1f} MB in {sum(report.seconds.values()):.0f} s "
        f"({', '.join(f'{name} {seconds:.0f}' for name, seconds in report.seconds.items())})"
    )


def _print_variant(variant: VariantReport, pairs: int, slates: int, users: str) -> None:
    print_table(
        f"Variant {variant.name}, {variant.bytes / 1e6:.1f} MB",
        [
            {
                "layers": f"{s.layers[0]}-{s.layers[1]}",
                "parameters": f"{s.parameters:,}",
                "MB": f"{s.bytes / 1e6:.1f}",
                "seconds": f"{s.seconds:.1f}",
                **{mode: f"{row[mode]:.1e}" for mode in ("single", "cached", "slate")},
            }
            for s, row in zip(variant.segments, variant.parity, strict=True)
        ],
    )
    largest = max(variant.segments, key=lambda segment: segment.bytes)
    if variant.name.startswith("tensorrt") and largest.bytes > _LARGE_SEGMENT:
        stdout.print(
            f"warning: layers {largest.layers[0]}-{largest.layers[1]} have {largest.bytes / 1e6:.0f} MB in one segment. TensorRT "
            "needs that in one piece, which a Jetson of 8 GB may not have. More exits make smaller segments."
        )
    reference = "PyTorch's" if variant.quality is None else "the variant's own for whole slates"
    stdout.print(
        f"single, cached, slate: largest difference of log-odds from {reference} at that exit, {variant.tolerance:.0e} allowed; "
        f"{pairs} pairs, {slates} slates"
    )
    if (quality := variant.quality) is None:
        return
    gate = quality["gate"]
    print_table(
        f"Variant {variant.name} against float32",
        [
            {
                "layers": row["layers"],
                **{key: _number(row[key], form) for key, form in _FIGURES.items()},
                "AUC float32": _number(row["auc_fp32"]),
                "AUC": _number(row["auc"]),
                "change, 95 %": _interval(row["auc_change"]),
                "overlap": _number(row["overlap"]),
                "expected NDCG, change": _interval(row["ndcg_change"]),
            }
            for row in quality["exits"]
        ],
    )
    minimum = "" if gate["correlation"] is None else f"correlation at least {gate['correlation']:g}, "
    verdict = {"passed": "passed", "failed": "FAILED, accepted on request", "undecided": "UNDECIDED, accepted on request"}
    stdout.print(
        f"{quality['pairs']} validation pairs in {quality['slates']} slates of {quality['users']} {users}; "
        f"{minimum}AUC loss, or where labels do not tell NDCG loss by float32's probabilities, at most {gate['drop']:g}: "
        f"{verdict[quality['verdict']]}"
    )
    for exit in quality["left_out"]:
        stdout.print(f"{variant.name} has no exit after layer {exit['layers']}: {exit['reason']}")


def _interval(ends: list[float] | None) -> str:
    return "unknown" if ends is None else " to ".join(f"{end:+.4f}" for end in ends)


def _number(value: float | None, form: str = ".4f") -> str:
    return "NaN" if value is None else format(value, form)
