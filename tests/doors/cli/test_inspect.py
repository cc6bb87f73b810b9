"""`rexit inspect` of bundles, catalogs and policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import ITEMS
from rexit import runtime
from rexit.format.request import MAX_CANDIDATES
from running.command import Run, assert_one_line, calibrate


@pytest.mark.medium
def test_bundle_and_its_policy(run: Run, place: Path) -> None:
    assert "Not calibrated" in run("inspect", place / "bundle").out
    calibrate(run, place)
    shown = run("inspect", place / "bundle", "--json").json
    assert shown["model"]["exits"] == [1, 2, 4] and shown["max_candidates"] == MAX_CANDIDATES
    (variant,) = shown["variants"]
    assert [s["depth"] for s in variant["segments"]] == ["0-1", "1-2", "2-4"]
    assert variant["policy"]["exits"][2]["layers"] == 4
    assert shown["catalog"]["counts"]["items"] == ITEMS
    text, largest = run("inspect", place / "bundle"), max(segment["bytes"] for segment in variant["segments"])
    assert "A request has at most 10,000 candidates." in text.out
    assert text.code == 0 and "segment-2.onnx" in text.out and "history(recent, 4)" in text.out
    assert f"largest segment {largest / 1e3:.1f} kB" in text.out
    policy = run("inspect", place / "bundle/variants/cpu-fp32/policy.json", "--json").json
    assert policy["kind"] == "policy" and len(policy["policy"]["exits"]) == 3
    assert "in the population" not in run("inspect", place / "bundle/variants/cpu-fp32/policy.json").out
    report = place / "bundle/variants/cpu-fp32/report.json"
    assert_one_line(run("inspect", report), 4, "report.json: `patience` is missing")


def test_catalog(run: Run, original: Path) -> None:
    assert run("inspect", original / "catalog", "--json").json["catalog"]["splits"]["test"] == 120


def test_a_file_is_no_bundle(run: Run, tmp_path: Path) -> None:
    (file := tmp_path / "bundle.tar").write_bytes(b"")
    assert_one_line(run("bench", file), 4, "bundle.tar: is a file, expected a bundle's folder")
    assert_one_line(run("inspect", file), 4, "bundle.tar: not a bundle")
    assert f"FAILED {file}: is a file, expected a bundle's folder" in run("verify", file).out


def test_prompt_is_the_runtimes(run: Run, original: Path) -> None:
    shown = run("inspect", original / "bundle", "--user", 103, "--item=-7", "--as-of", 30, "--json").json
    with runtime.open(original / "bundle") as session:
        prefix, (candidate,) = session.prompt(103, [-7], as_of=30)
    assert shown["prefix"]["tokens"] == prefix.tolist()
    assert shown["candidates"] == [{"item": -7, "tokens": candidate.tolist()}]


def test_neither(run: Run, tmp_path: Path) -> None:
    assert_one_line(run("inspect", tmp_path), 4, "not a bundle (manifest.json), a catalog (catalog.json) or a policy file")


def test_a_policy_with_rules_of_the_slate(run: Run, place: Path) -> None:
    path = place / "bundle/variants/cpu-fp32/policy.json"
    exits = [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3
    rules = {"quorum": 3, "top_k": {"k": 5, "ordered": True, "rise": [0.5, 0.25], "fall": [1.0, 0.75]}}
    made_on = {"device": "cpu", "threads": 3, "machine": {}, "slate": 20}
    write_policy(place / "bundle", exits, **rules, made_on=made_on)
    for what in (path, place / "bundle"):
        ended = run("inspect", what)
        assert ended.code == 0
        for text in (
            "rise",
            "0.750",
            "slate's top 5, in it once their rank is known",
            "Where at most 3 of a slate are left",
            "with 3 threads",
        ):
            assert text in ended.out
    shown = run("inspect", path, "--json").json["policy"]
    assert (shown["quorum"], shown["top_k"], shown["made_on"]) == (3, rules["top_k"], made_on)


def test_a_policy_that_reads_earlier_heads(run: Run, place: Path) -> None:
    exits = [{"a": 1.0, "b": 0.0, "upper": None, "lower": None} for _ in range(3)]
    exits[2] |= {"a": -0.5, "earlier": [0.25, 1.5]}
    write_policy(place / "bundle", exits)
    path = place / "bundle" / "variants" / "cpu-fp32" / "policy.json"
    ended = run("inspect", path)
    assert "c = a z + b + earlier heads' log-odds, weighted" in " ".join(ended.out.split()) and "0.25, 1.5" in ended.out
    assert [e["earlier"] for e in run("inspect", path, "--json").json["policy"]["exits"]] == [[], [], [0.25, 1.5]]


def test_user_without_items_and_catalog_without_runtime(run: Run, original: Path) -> None:
    assert_one_line(run("inspect", original / "bundle", "--user", 103), 2, "needs both --user and --items")
    assert_one_line(run("inspect", original / "catalog", "--user", 103, "--items", "3"), 2, "catalog: is not a bundle")


def test_options_of_a_prompt_without_one(run: Run, original: Path) -> None:
    """They have no effect on anything else, so a forgotten --user would go unnoticed."""
    both = ("--as-of", 30, "--tokenizer", original)
    for what in ("bundle", "catalog"):
        assert_one_line(
            run("inspect", original / what, *both),
            2,
            "--as-of and --tokenizer: only for a prompt, which needs --user and --items",
        )
