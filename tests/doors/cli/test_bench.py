"""`rexit bench`: what it measures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from running.command import Run, assert_one_line, calibrate


@pytest.mark.medium
def test_counts_and_orders_what_it_measures(run: Run, place: Path) -> None:
    calibrate(run, place)
    report = run("bench", place / "bundle", "--slate", 5, "--requests", 3, "--json").json
    names = [(m["mode"], m["prefix"]) for m in report["modes"]]
    modes = ("full depth", "calibrated", "1 layer", "2 layers")
    assert names == [(mode, prefix) for mode in modes for prefix in ("cold", "warm")]
    depth = {m["mode"]: m["mean_layers"] for m in report["modes"]}
    assert (depth["full depth"], depth["1 layer"], depth["2 layers"]) == (4, 1, 2)
    for m in report["modes"]:
        assert 0 < m["p50_ms"] <= m["p90_ms"] <= m["p99_ms"] and 0 < m["retrieval_share"] < 1
        assert set(m["stages_ms"]) == {"retrieval", "prefix", "slate"} and min(m["stages_ms"].values()) >= 0
    assert report["peak_rss_bytes"] > 10e6 and report["session_bytes"] > 0


def test_cold_is_cold_and_warm_is_warm(run: Run, original: Path, reused: list[bool]) -> None:
    assert run("bench", original / "bundle", "--slate", 5, "--requests", 2).code == 0
    assert reused == [False, *([False, True] * 3 * 2)]


def test_table_without_a_policy(run: Run, original: Path) -> None:
    ended = run("bench", original / "bundle", "--slate", 5, "--requests", 2)
    assert ended.code == 0 and "Not calibrated" in ended.out and "Open to first score" in ended.out
    assert re.search(
        r"Memory: \d{2,4} MB peak, \d{1,2}\.\d MB of it session buffers\nMachine: .* threads one per core", ended.out
    )


def test_slate_larger_than_the_catalog(run: Run, original: Path) -> None:
    assert_one_line(run("bench", original / "bundle", "--slate", 21), 2, "--slate 21, the catalog has 20 items")
