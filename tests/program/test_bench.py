"""`rexit-run bench` reports what `rexit bench` reports of one session."""

from __future__ import annotations

import json
from pathlib import Path

from builders.bundles.catalog import USER_IDS
from rexit.bundle import Bundle
from rexit.measure.bench import BenchOptions, bench_variant
from running.program import assert_one_error, run_program


def test_same_keys_and_work_as_python(bundle: Path) -> None:
    ended = run_program("bench", bundle, "--slate", 6, "--requests", 12, "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    theirs = bench_variant(Bundle.open(bundle), BenchOptions(slate=6, requests=12, sessions=()))
    assert theirs.keys() - report.keys() == {"variant_sha256", "throughput", "load", "profile"}
    assert report.keys() <= theirs.keys() and report["machine"].keys() == theirs["machine"].keys() - {"onnxruntime"}
    for name in ("variant", "slate", "requests", "threads", "device", "calibrated"):
        assert report[name] == theirs[name]
    assert {**report["machine"], "onnxruntime": theirs["machine"]["onnxruntime"]} == theirs["machine"]
    assert len(report["modes"]) == len(theirs["modes"]) == 8
    for row, other in zip(report["modes"], theirs["modes"], strict=True):
        assert row.keys() - other.keys() == {"prefix_tokens", "candidate_tokens"} and not other.keys() - row.keys()
        assert [row[key] for key in ("mode", "force_exit", "prefix")] == [other[key] for key in ("mode", "force_exit", "prefix")]
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] and row["candidate_tokens"] > 0
        if row["force_exit"] is not None:
            assert row["mean_layers"] == other["mean_layers"]
    cold, warm = report["modes"][:2]
    assert warm["stages_ms"]["prefix"] < cold["stages_ms"]["prefix"]


def test_table_and_chosen_users(bundle: Path) -> None:
    ended = run_program("bench", bundle, "--slate", 3, "--requests", 4, "--user", f"{USER_IDS[0]},{USER_IDS[1]}")
    assert ended.code == 0 and "calibrated" in ended.out and "Tokens on average" in ended.out


def test_bad_arguments(bundle: Path) -> None:
    assert_one_error(run_program("bench", bundle, "--slate", 21), 2, "--slate 21, the catalog has 20 items")
    assert_one_error(run_program("bench", bundle, "--slate", 0), 2, "--slate")
    assert_one_error(run_program("bench", bundle, "--requests", "x"), 2, "--requests")
    assert_one_error(run_program("bench", bundle, "--user", "me"), 2, "user 'me'")
