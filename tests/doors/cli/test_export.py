"""`rexit export`: what it prints of an export."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rexit.doors.cli.make.export import print_export
from rexit.exporter.assembly import SegmentReport, VariantReport
from rexit.exporter.export import ExportReport

SEGMENTS = (SegmentReport((0, 2), 12_000, 48_000_000, 3.25), SegmentReport((2, 6), 34_000, 500_000_000, 7.5))
PARITY = ({"single": 1e-6, "cached": 2e-6, "slate": 3e-6}, {"single": 4e-6, "cached": 5e-6, "slate": 6e-6})
EXIT = {"correlation": 0.99912345, "mean": 0.01, "worst": 0.25, "auc_fp32": 0.8, "auc": None, "auc_change": None}
QUALITY = {
    "gate": {"correlation": 0.995, "drop": 0.001},
    "verdict": "passed",
    "pairs": 900,
    "slates": 45,
    "users": 40,
    "exits": [{"layers": 6, **EXIT, "overlap": 0.97, "ndcg_change": [-0.002, 0.0005]}],
    "left_out": [{"layers": 2, "reason": "too wide to tell"}],
}
FLOAT32 = VariantReport("cpu-fp32", SEGMENTS, PARITY, 2e-4, None, 548_100_000, None)
INT8 = replace(FLOAT32, name="cpu-int8", quality=QUALITY, bytes=137_000_000)


def printed(capsys: pytest.CaptureFixture[str], *variants: VariantReport) -> str:
    report = ExportReport("out", (2, 6), variants, {}, {"cpu-int8": ("policy.json",)}, 6, 60, 700_200_000, {"write": 4.2}, None)
    print_export(report, has_catalog=False)
    return " ".join(capsys.readouterr().out.split())


def test_sizes_and_differences(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, FLOAT32)
    for line in (
        "Variant cpu-fp32, 548.1 MB",
        "0-2 12,000 48.0 3.2 1.0e-06 2.0e-06 3.0e-06",
        "2-6 34,000 500.0 7.5 4.0e-06 5.0e-06 6.0e-06",
        "from PyTorch's at that exit, 2e-04 allowed; 60 pairs, 6 slates",
        "cpu-int8: replaced, and with it went policy.json; `rexit calibrate --variant cpu-int8` makes a new policy",
        "out: 700.2 MB in 4 s (write 4)",
    ):
        assert line in text
    assert "warning" not in text and "against float32" not in text


def test_quality_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, INT8)
    for line in (
        "from the variant's own for whole slates at that exit",
        "6 0.999123 0.0100 0.2500 0.8000 NaN unknown 0.9700 -0.0020 to +0.0005",
        "900 validation pairs in 45 slates of 40 queries; correlation at least 0.995, AUC loss",
        "at most 0.001: passed",
        "cpu-int8 has no exit after layer 2: too wide to tell",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("name", "size", "warned"),
    [("tensorrt-fp16", 500_000_000, True), ("tensorrt-fp16", 400_000_000, False), ("cpu-fp32", 500_000_000, False)],
)
def test_a_segment_too_large_for_a_small_device(capsys: pytest.CaptureFixture[str], name: str, size: int, warned: bool) -> None:
    segments = (SEGMENTS[0], replace(SEGMENTS[1], bytes=size))
    text = printed(capsys, replace(FLOAT32, name=name, segments=segments))
    assert ("warning: layers 2-6 have 500 MB in one segment" in text) == ("warning" in text) == warned
