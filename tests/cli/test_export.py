"""What `rexit export` prints of a variant."""

from __future__ import annotations

import pytest

from rexit.cli.make.export import print_export
from rexit.exporter.draft import SegmentReport, VariantReport
from rexit.exporter.export import ExportReport


@pytest.mark.parametrize(
    ("name", "megabytes", "warned"), [("tensorrt-fp16", 401, True), ("tensorrt-fp16", 399, False), ("cpu-fp32", 401, False)]
)
def test_a_segment_too_large_for_a_small_device(
    capsys: pytest.CaptureFixture[str], name: str, megabytes: int, warned: bool
) -> None:
    segments = (SegmentReport((0, 2), 10, 1_000_000, 0.1), SegmentReport((2, 9), 10, megabytes * 1_000_000, 0.1))
    modes = dict.fromkeys(("single", "cached", "slate"), 0.0)
    variant = VariantReport(name, segments, (modes, modes), 1e-3, None, 500_000_000, None)
    print_export(ExportReport("bundle", (2, 9), (variant,), {}, {}, 1, 4, 500_000_000, {"load": 1.0}, None))
    assert (f"warning: layers 2-9 have {megabytes} MB in one segment" in capsys.readouterr().out) == warned
