"""`rexit calibrate --slates`: groups take the place of users. The same prompts by ids and by tokens give the same traces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.bundles.bundle_files import drop_catalog
from builders.bundles.zero import add_score_exit
from builders.data.token_slates import write_slates
from rexit import runtime
from rexit.data.slates import cut
from rexit.format import roles
from rexit.format.bundle import Bundle, Catalog
from rexit.format.bundle.catalog import SPLITS
from running.command import Run, assert_one_line

OPTIONS = ("--metric", "ndcg@5", "--max-drop", "0.3", "--json")


def rows_of(place: Path) -> list[dict[str, Any]]:
    """The catalog's validation and test slates with the prompts that the runtime assembles; and a slate for training."""
    catalog, rows = Catalog.open(place / "catalog"), []
    with runtime.open(place / "bundle") as session:
        for split in SPLITS[1:]:
            for slate in cut(catalog, split):
                prefix, candidates = session.prompt(slate.request)
                tokens = [candidate.tolist() for candidate in candidates]
                label = slate.liked.tolist()
                group = slate.user if split == "validation" else f"{slate.user} {split}"  # the name decides who chooses
                rows.append({"group": group, "split": split, "prefix": prefix.tolist(), "label": label})
                rows[-1]["candidates"] = tokens
    return [*rows, {**rows[0], "group": "train", "split": "train"}]


@pytest.fixture
def by_tokens(place: Path, tmp_path: Path) -> Path:
    """A bundle without a catalog, and slates.jsonl."""
    write_slates(place / "slates.jsonl", rows_of(place))
    shutil.copytree(place / "bundle", place / "tokens")
    drop_catalog(place / "tokens")
    return place


@pytest.mark.slow
def test_the_same_prompts_have_the_same_traces(run: Run, by_tokens: Path) -> None:
    place = by_tokens
    by_ids = run("calibrate", place / "bundle", "--catalog", place / "catalog", *OPTIONS)
    by_slates = run("calibrate", place / "tokens", "--slates", place / "slates.jsonl", *OPTIONS)
    assert by_ids.code == by_slates.code == 0, by_slates.err
    traces = [load_file(place / name / "variants" / "cpu-fp32" / "traces.safetensors") for name in ("bundle", "tokens")]
    for name in ("validation.log_odds", "test.log_odds"):
        np.testing.assert_array_equal(traces[1][name], traces[0][name])
    ids, tokens = by_ids.json, by_slates.json
    assert tokens["data"] == ids["data"] and tokens["catalog_sha256"] is None
    for key in ("a", "b"):
        assert [rule[key] for rule in tokens["exits"]] == [rule[key] for rule in ids["exits"]]
    assert run("verify", place / "tokens").code == 0
    again = run("calibrate", place / "tokens", "--slates", place / "slates.jsonl", *OPTIONS, "--from-traces")
    assert again.code == 0
    rows = [json.loads(line) for line in (place / "slates.jsonl").read_text().splitlines()]
    write_slates(place / "slates.jsonl", [{**rows[0], "label": [1 - label for label in map(int, rows[0]["label"])]}, *rows[1:]])
    other = run("calibrate", place / "tokens", "--slates", place / "slates.jsonl", *OPTIONS, "--from-traces")
    assert_one_line(other, 4, "recorded with another file of slates: run")


@pytest.mark.medium
def test_slates_without_labels_certify_against_the_full_model(run: Run, by_tokens: Path) -> None:
    """A file without labels, and a catalog whose labels do not count."""
    place = by_tokens
    rows = [json.loads(line) for line in (place / "slates.jsonl").read_text().splitlines()]
    write_slates(place / "log.jsonl", [{name: value for name, value in row.items() if name != "label"} for row in rows])
    words = ("calibrate", place / "tokens", "--slates", place / "log.jsonl", "--max-drop", 0.4, "--confidence", 0.6)
    ended = run(*words, "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    assert report["settings"]["metrics"] == ["expected-ndcg@10"] and report["probabilities"]["table"] == []
    assert report["verdict"]["summary"][0].startswith("This is against the full model, not against the truth")
    assert report["table"][0]["values"] == {"expected-ndcg@10": 1, "agreement": 1}
    assert report["exits"][-1]["a"] == pytest.approx(1) and report["exits"][-1]["b"] == pytest.approx(0, abs=1e-6)
    assert "have no labels" in (place / "tokens/variants/cpu-fp32/report.html").read_text()
    shown = run(*words, "--metric", "agreement", "--from-traces")
    assert shown.code == 0 and "not against the truth" in shown.out
    assert_one_line(run(*words, "--metric", "ndcg@5"), 2, "metric ndcg@5: needs labels and there are none")
    by_ids = run("calibrate", place / "bundle", "--catalog", place / "catalog", "--no-labels", *words[4:], "--json")
    assert by_ids.code == 0 and by_ids.json["verdict"]["summary"][0] == report["verdict"]["summary"][0]


def test_bundle_and_source_that_do_not_fit(run: Run, by_tokens: Path) -> None:
    place = by_tokens
    for words, code, problem in (
        ((), 2, "neither --catalog nor --slates given"),
        (("--catalog", place / "catalog", "--slates", place / "slates.jsonl"), 2, "both --catalog and --slates given"),
        (("--catalog", place / "catalog"), 4, "has no catalog, so a file of slates calibrates it"),
    ):
        assert_one_line(run("calibrate", place / "tokens", *words), code, problem)
    assert_one_line(
        run("calibrate", place / "bundle", "--slates", place / "slates.jsonl"), 2, "slates.jsonl: line 1: `items` is missing"
    )
    rows = [json.loads(line) for line in (place / "slates.jsonl").read_text().splitlines()]
    write_slates(place / "text.jsonl", [{**row, "prefix": "words"} for row in rows])
    assert_one_line(run("calibrate", place / "tokens", "--slates", place / "text.jsonl"), 2, "has no tokenizer.json")
    write_slates(place / "scores.jsonl", [{**row, "score.bm25": [0.5] * len(row["label"])} for row in rows])
    assert_one_line(
        run("calibrate", place / "tokens", "--slates", place / "scores.jsonl"),
        4,
        "its columns of scores are score.bm25, but exit zero of",
        "reads none",
    )
    rows[0]["candidates"][0] = [12345]
    write_slates(place / "tokens.jsonl", rows)
    assert_one_line(
        run("calibrate", place / "tokens", "--slates", place / "tokens.jsonl"),
        2,
        "candidates[0][0] is 12345, expected a token id",
    )
    assert Bundle.open(place / "tokens").policy() is None


def test_other_commands(run: Run, by_tokens: Path) -> None:
    """Those that read what a bundle without a catalog has, and those that need what it lacks."""
    tokens = by_tokens / "tokens"
    described = run("inspect", tokens, "--json").json
    assert described["tokens"]["max_prefix_tokens"] == 20 and "catalog" not in described
    assert "No catalog: requests are token ids." in run("inspect", tokens).out
    add_score_exit(shutil.copytree(tokens, scored := by_tokens / "scored"))
    assert "requests are token ids and first stages' scores: bm25." in run("inspect", scored).out
    bench = run("bench", tokens, "--slate", 5, "--requests", 2, "--json")
    assert bench.code == 0, bench.err
    assert {row["mode"] for row in bench.json["modes"]} >= {"full depth"}
    for words in (("score", "--user", 100, "--items", "3"), ("inspect", "--user", 100, "--items", "3")):
        ended = run(words[0], tokens, *words[1:])
        assert_one_line(ended, 2, "has no catalog: its requests are token ids, not ids of users and items")
    assert_one_line(run("refresh", tokens, "--catalog", by_tokens / "catalog"), 2, "has no catalog to refresh")


@pytest.mark.medium
def test_a_log_of_requests_calibrates_a_bundle_with_a_catalog(run: Run, place: Path) -> None:
    """Users and what they were shown, as a service logs them: no labels, no prompts, also of a user whom the catalog lacks."""
    catalog = Catalog.open(place / "catalog")
    shown = [
        {"user": slate.user, "items": list(slate.items), "as_of": slate.as_of, "top_k": 5, "audit": {"time": 1.5}}
        for split in SPLITS[1:]
        for slate in cut(catalog, split)
    ]
    items = shown[0]["items"]
    newcomers = [{"user": 10**6, "items": items, "recent": [items[0], [items[1], False]]}, {"user": 10**7, "items": items}]
    log = write_slates(place / "log.jsonl", [*shown, *newcomers])
    words = ("calibrate", place / "bundle", "--slates", log, "--max-drop", 0.4, "--confidence", 0.6, "--json")
    ended = run(*words)
    assert ended.code == 0, ended.err
    report, users = ended.json, {row["user"] for row in shown}
    assert report["verdict"]["summary"][0].startswith("This is against the full model, not against the truth")
    parts = {name: report["users"][name] for name in ("choosing", "certifying", "test")}
    validation = [user for user in (*users, 10**6, 10**7) if roles.split_of(user, fits=False) == "validation"]
    assert sum(parts.values()) == len(users) + 2
    assert parts["choosing"] == sum(map(roles.chooses, validation)) and parts["certifying"] == len(validation) - parts["choosing"]
    assert run("verify", place / "bundle").code == 0
    for change, problem in (
        ({"user": 5.5}, "log.jsonl: line 1: user: "),
        ({"items": []}, "log.jsonl: line 1: items: "),
        ({"items": ["x"]}, "log.jsonl: line 1: item 'x' is not in the catalog"),
        ({"recent": ["x"]}, "log.jsonl: line 1: item 'x' is not in the catalog"),
        ({"scores": [1.5]}, "log.jsonl: line 1: scores: "),
        ({"as_of": 1 << 63}, "log.jsonl: line 1: as_of: is 9223372036854775808, expected an integer"),
        ({"inputs": {"hour": 3}}, "log.jsonl: line 1: inputs.hour: the prompt has no such input"),
    ):
        write_slates(log, [{**shown[0], **change}, *shown[1:]])
        assert_one_line(run(*words), 2, problem)
    write_slates(log, [{**row, "user": n + 10**7} for n, row in enumerate(shown)])
    assert_one_line(run(*words), 2, "log.jsonl: none of its users is in the catalog")
    write_slates(log, shown[:1])
    assert_one_line(run(*words), 2, "split is empty, expected at least one of the 1 groups")
