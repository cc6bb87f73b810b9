"""Variants that `rexit export` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.exporter.draft import VariantReport
    from rexit.exporter.export import ExportReport

_FIGURES = (("correlation", ".6f"), ("mean", ".4f"), ("worst", ".4f"), ("kl", ".1e"), ("order", ".4f"))

_LARGE_SEGMENT = 400e6
"""Bytes of a segment's graph and weights above which building its engine may fail on a small device."""


def print_export(report: ExportReport) -> None:
    """Prints tables of parity and quality for each variant, and where the bundle is."""
    if report.doubt is not None:
        stdout.print(report.doubt, soft_wrap=True, markup=False)
    for variant in report.variants:
        _print_variant(variant, report.pairs, report.slates)
    if reason := report.variants[0].unrotated:
        stdout.print(f"not rotated, so that lower precisions may lose more: {reason}", soft_wrap=True, markup=False)
    for name, files in report.gone.items():
        advice = f"; `rexit calibrate --variant {name}` makes a new policy" if "policy.json" in files else ""
        stdout.print(f"{name}: replaced, and with it went {', '.join(files)}{advice}", soft_wrap=True)
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
    largest = max(variant.segments, key=lambda segment: segment.bytes)
    if variant.name.startswith("tensorrt") and largest.bytes > _LARGE_SEGMENT:
        stdout.print(
            f"warning: layers {largest.layers[0]}-{largest.layers[1]} have {largest.bytes / 1e6:.0f} MB in one segment. TensorRT "
            "needs that in one piece, which a Jetson of 8 GB may not have. More exits make smaller segments.",
            soft_wrap=True,
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
    minimum = "" if gate["correlation"] is None else f"correlation at least {gate['correlation']:g}, "
    if kept := quality.get("kept"):
        stdout.print(f"kept in bfloat16, as all in int8 lost too much: {', '.join(kept)}", soft_wrap=True)
    verdict = {"passed": "passed", "failed": "FAILED, accepted on request", "undecided": "UNDECIDED, accepted on request"}
    stdout.print(
        f"{quality['pairs']} validation pairs in {quality['slates']} slates of {quality['users']} users; "
        f"{minimum}AUC loss at most {gate['auc_drop']:g}: {verdict[quality['verdict']]}",
        soft_wrap=True,
    )


def _number(value: float | None, form: str) -> str:
    return "NaN" if value is None else format(value, form)
