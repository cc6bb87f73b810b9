"""What commands print: tables on terminals of several widths, progress without a terminal, a warning of `rexit export`."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rexit.doors.cli.common import output
from rexit.doors.cli.make.export import print_export
from rexit.exporter.assembly import SegmentReport, VariantReport
from rexit.exporter.export import ExportReport

COLUMNS = ["mode", "prefix", "requests/s", "mean wait", "median milliseconds", "verdict"]
ROWS = [
    ["full depth", "cold", 1.5, "12 MB", "-", "stays the same"],
    ["1 layer", "warm", 20.25, "3.5 MB", "0.1", "cannot tell, for too few candidates were counted"],
]


def table(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    """The lines under the title."""
    file = io.StringIO()
    monkeypatch.setattr(output, "stdout", Console(file=file, width=width, highlight=False))
    output.print_table("A title", [dict(zip(COLUMNS, row, strict=True)) for row in ROWS])
    return file.getvalue().splitlines()[1:]


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = table(monkeypatch, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for text in (*COLUMNS, *(str(cell) for row in ROWS for cell in row)):
        assert set(text.split()) <= set(words), text
    assert "…" not in "".join(lines)


def test_numbers_are_on_the_right_and_text_on_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    header, _, first, second, _ = table(monkeypatch, 160)
    for column, cells in (("requests/s", ("1.5", "20.25")), ("mean wait", ("12 MB", "3.5 MB"))):
        end = header.index(column) + len(column)
        assert all(line[:end].endswith(cell) for line, cell in zip((first, second), cells, strict=True))
    begin = header.index("verdict")
    assert first[begin:].startswith("stays") and second[begin:].startswith("cannot tell")


def test_a_wide_table_continues_below_with_its_first_column(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, 40)
    assert sum(line.startswith("mode") for line in lines) == sum(line.startswith("full depth") for line in lines) > 1
    assert sum(line.startswith("mode") for line in table(monkeypatch, 160)) == 1


@pytest.mark.parametrize(("silence", "lines"), [(0.0, "rexit: work: 1 of 3\nrexit: work: 2 of 3\n"), (60.0, "")])
def test_progress_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silence: float, lines: str
) -> None:
    monkeypatch.setattr(output, "SILENCE", silence)
    with output.progress() as bar:
        show = output.shown(bar)
        show("work", 1, 3)
        show("work", 2, 3)
    assert capsys.readouterr() == ("", lines)


def test_a_step_keeps_its_line_while_its_detail_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "SILENCE", 0.0)
    with output.progress() as bar:
        show = output.shown(bar, {"work": "hard work"})
        show("work · first", 1, 3)
        show("work · second", 2, 3)
        show("work", 3, 3)
    lines = ["hard work · first: 1 of 3", "hard work · second: 2 of 3", "hard work: 3 of 3"]
    assert capsys.readouterr().err.splitlines() == [f"rexit: {line}" for line in lines] and len(bar.tasks) == 1


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
