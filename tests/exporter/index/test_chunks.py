"""A catalog is the same, to the byte, however many chunks its interactions are worked on in."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.bundles.bundle_files import contents
from rexit.exporter.catalog import catalog_files as chunks
from rexit.exporter.retriever import external as embedding_files
from running.command import Run


@pytest.mark.medium
@pytest.mark.parametrize("extra", [(), ("--split", "time:0.6,0.8"), ("--split", "leave-last:1,1")])
def test_parts_change_nothing(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]) -> None:
    code, _, err = run(*extra)
    assert code == 0, err
    whole = contents(data / "catalog")
    rows: list[int] = []
    ranges = chunks.ranges
    monkeypatch.setattr(chunks, "ranges", lambda starts: rows.append(len(ranges(starts))) or ranges(starts))
    monkeypatch.setattr(chunks, "ROWS", 100)
    monkeypatch.setattr(embedding_files, "BLOCK", 24)
    assert run(*extra)[0] == 0
    assert contents(data / "catalog") == whole and max(rows) > 3
