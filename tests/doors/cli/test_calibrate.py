"""`rexit calibrate`: the policy and the report it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rexit.format.bundle import Bundle
from running.command import Run, assert_one_line, calibrate


@pytest.mark.medium
def test_writes_a_policy_the_runtime_follows(run: Run, place: Path) -> None:
    ended = calibrate(run, place, "--json")
    assert ended.code == 0
    report = ended.json
    assert json.loads((place / "bundle/variants/cpu-fp32/report.json").read_text()) == report
    assert report["decisions"]["as_traced"] == report["decisions"]["candidates"] > 0
    assert report["data"]["validation"]["pairs"] == 120 and report["policy"]["kind"] != "full depth"


@pytest.mark.medium
def test_a_prior_shift_is_told(run: Run, place: Path) -> None:
    ended = calibrate(run, place, "--negative-rate", 0.1)
    assert ended.code == 0 and "10 negatives for each in the labels" in " ".join(ended.out.split())
    assert "all candidates after layer 1" in ended.out and "the policy's answers" in ended.out
    policy = Bundle.open(place / "bundle").policy()
    assert policy is not None and policy.prior_shift == np.float32(np.log(0.1))


@pytest.mark.medium
def test_table_tells_the_report(run: Run, place: Path) -> None:
    ended = calibrate(run, place)
    report = json.loads((place / "bundle" / "variants" / "cpu-fp32" / "report.json").read_text())
    assert ended.code == 0
    for row in report["table"]:
        assert row["policy"] in ended.out
        assert f"{row['values']['ndcg@5']:.4f}" in ended.out
    text = ended.out.replace("\n", " ").replace("  ", " ")
    assert text.startswith(f"{report['verdict']['headline']}")
    assert all(sentence in text for sentence in (*report["verdict"]["summary"], report["verdict"]["guarantee"]))
    count = report["decisions"]["candidates"]
    assert f"As deployed, {count} of {count} candidates stop where their traces say.\n" in ended.out


@pytest.mark.medium
def test_a_tail_is_in_all_that_tells_of_the_policy(run: Run, place: Path) -> None:
    ended = calibrate(run, place, "--tail", "0.9:0.5", "--json")
    assert ended.code == 0 and "at most 90 % of them lose more than 0.5" in ended.json["verdict"]["guarantee"]
    shown = run("inspect", place / "bundle", "--json").json["variants"][0]["policy"]["certificate"]
    assert shown["tail"] == {"share": 0.9, "loss": 0.5} and shown["metrics"] == {"ndcg@5": 0.45}
    assert "Certified: metrics" in run("inspect", place / "bundle").out
    refused = calibrate(run, place, "--tail", "0.05:0.5", "--json")
    assert refused.code == 0 and "for the policy likeliest to pass" in refused.json["verdict"]["shortfall"]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("recall", "line"),
    [("0.5", "A request with `floor` leaves out what is below a probability of "), ("0.95", "No floor: ")],
)
def test_a_floor_is_written_or_its_lack_explained(run: Run, place: Path, recall: str, line: str) -> None:
    ended = calibrate(run, place, "--recall", recall, "--json")
    assert ended.code == 0 and ended.json["verdict"]["floor"].startswith(line)
    policy, floor = Bundle.open(place / "bundle").policy(), ended.json["floor"]
    assert policy is not None and (policy.floor is None) == (floor["c"] is None) == line.startswith("No floor")
    if policy.floor is not None:
        assert policy.floor == {key: floor[key] for key in ("c", "recall", "confidence", "users")} and floor["test"][0] > 0
    again = calibrate(run, place, "--recall", recall, "--json", "--from-traces")
    assert again.code == 0 and again.json["floor"] == floor
    assert calibrate(run, place, "--json").json["floor"] is None


def test_bundles_own_catalog_has_no_splits(run: Run, place: Path) -> None:
    ended = run("calibrate", place / "bundle", "--catalog", place / "bundle" / "catalog")
    assert_one_line(ended, 4, "validation.parquet: missing", "use the catalog that `rexit index` wrote")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metric", "top-k-overlap@50"), "metric top-k-overlap@50: the largest slate has 10 candidates, expected more than 50"),
        (("--recall", "1"), "recall 1.0, expected 0.5 to below 1"),
        (("--recall", "0.9", "--no-labels", "--metric", "agreement"), "recall 0.9: a floor needs labels, which say what is rele"),
        (("--tail", "5"), "tail '5', expected SHARE:LOSS, as in 0.05:0.1"),
    ],
)
def test_impossible_goal(run: Run, place: Path, words: tuple[object, ...], message: str) -> None:
    before = (place / "bundle" / "variants" / "cpu-fp32" / "policy.json").exists()
    assert_one_line(calibrate(run, place, *words), 2, message)
    assert (place / "bundle" / "variants" / "cpu-fp32" / "policy.json").exists() == before
