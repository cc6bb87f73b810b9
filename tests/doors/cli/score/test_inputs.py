"""`--input` of `rexit score` and `rexit inspect`, and the columns of inputs in files of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_inputs
from builders.bundles.reranker import ids, words_tokenizer
from rexit import Request, runtime
from rexit.doors.batch import score_files, score_table
from running.command import Run, assert_one_line

ITEMS = [int(item) for item in ITEM_IDS[:4]]
USER = int(USER_IDS[0])
SLATE = ("--user", USER, "--items", ",".join(map(str, ITEMS)))
DEVICE, QUERY = ("--input", "device=tv"), ("--input", "query=wing")
"""What a request must have."""
INPUTS = ("device", "query", "note", "hour")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = BundleOptions(with_inputs(make_catalog()))
    folder = write_bundle(tmp_path_factory.mktemp("request") / "bundle", options)
    add_tokenizer(folder, words_tokenizer().to_str())
    return folder


def test_one_slate(run: Run, bundle: Path) -> None:
    request = Request(USER, ITEMS, inputs={"device": "phone", "hour": 20, "query": ids("wing drag"), "note": ids("heat")})
    with runtime.open(bundle) as session:
        expected = session.score(request).log_odds.tolist()
        prefix, _ = session.prompt(request)
    words = ("--input=device=phone", "--input=hour=20", "--input=query=wing drag", "--input=note=heat", "--json")
    ended = run("score", bundle, *SLATE, *words)
    assert [pl.Series([score["log_odds"]], dtype=pl.Float32)[0] for score in ended.json["scores"]] == expected
    assert run("inspect", bundle, *SLATE, *words).json["prefix"]["tokens"] == prefix.tolist()
    lines = {" ".join(line.split()) for line in run("inspect", bundle).out.splitlines()}
    assert {
        "input: device one of tv, phone, 7",
        "input: query at most 6 tokens",
        "input: note at most 4 tokens, or missing",
    } <= lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((*QUERY, "--input", "device"), "--input 'device', expected NAME=VALUE, as in device=tv"),
        ((*QUERY, "--input", "=tv"), "--input '=tv', expected NAME=VALUE, as in device=tv"),
        ((*QUERY, *DEVICE, "--input", "device=phone"), "--input device: given twice, expected once"),
        ((*DEVICE, *QUERY, "--input", "page=home"), f"inputs.page: the prompt has no such input, it has: {', '.join(INPUTS)}"),
        ((*QUERY, "--input", "device=radio"), "inputs.device is 'radio', expected one of tv, phone, 7"),
    ],
)
def test_bad_inputs_are_one_line(run: Run, bundle: Path, words: tuple[str, ...], expected: str) -> None:
    for command in ("score", "inspect"):
        assert_one_line(run(command, bundle, *SLATE, *words), 2, expected)


def test_inputs_are_for_prompts(run: Run, bundle: Path) -> None:
    assert_one_line(run("inspect", bundle, *QUERY), 2, "--input: only for a prompt")


def scored(run: Run, bundle: Path, pairs: Path, *more: object) -> list[float]:
    out = pairs.with_name(f"out{pairs.suffix}")
    ended = run("score", bundle, "--pairs", pairs, "--out", out, "--json", *more)
    assert ended.code == 0, ended.err
    scores = pl.read_csv(out) if pairs.suffix == ".csv" else pl.read_parquet(out)
    log_odds: list[float] = scores["raw_log_odds"].to_list()
    return log_odds


COLUMNS: list[tuple[tuple[str, ...], dict[str, list[Any]], str]] = [
    (QUERY, {"device": ["tv", "phone"] * 2, "hour": [3.0, 20.0] * 2}, "hour"),
    (DEVICE, {"query": ["wing drag", "heat"] * 2}, "query"),
]


@pytest.mark.parametrize(("words", "columns", "name"), COLUMNS, ids=["value", "text"])
def test_pairs_of_one_user_and_time_are_a_slate_for_each(
    run: Run, bundle: Path, tmp_path: Path, words: tuple[str, ...], columns: dict[str, list[Any]], name: str
) -> None:
    expected = [0.0] * 4
    with runtime.open(bundle) as session:
        for n in (0, 1):
            inputs = {"device": "tv", "query": "wing", **{column: values[n] for column, values in columns.items()}}
            session.clear_cache()
            expected[n::2] = session.score(USER, ITEMS[n::2], inputs=inputs).log_odds.tolist()
    frame = pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS, **columns})
    frame.write_parquet(tmp_path / "pairs.parquet")
    assert scored(run, bundle, tmp_path / "pairs.parquet", *words) == pytest.approx(expected, abs=1e-4)
    frame.rename({name: "other"}).write_parquet(tmp_path / "pairs.parquet")
    renamed = scored(run, bundle, tmp_path / "pairs.parquet", *words, "--column", f"input.{name}=other")
    assert renamed == pytest.approx(expected, abs=1e-4)
    frame.write_csv(tmp_path / "pairs.csv")
    assert scored(run, bundle, tmp_path / "pairs.csv", *words) == pytest.approx(expected, abs=1e-4)


def test_one_for_all_pairs(run: Run, bundle: Path, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS, "note": ["A", None, "A", "A"]})
    frame.write_parquet(tmp_path / "pairs.parquet")
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS[1:2], inputs={"device": "7", "query": "heat"}).log_odds.tolist()
    actual = scored(run, bundle, tmp_path / "pairs.parquet", "--input", "device=7", "--input", "query=heat")
    assert actual[1] == pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize(
    ("columns", "more", "expected"),
    [
        ({"device": ["tv", "radio"]}, QUERY, "row 2: inputs.device is 'radio', expected one of tv, phone, 7"),
        ({"device": ["tv", None]}, QUERY, "row 2: inputs.device is missing, expected one of tv, phone, 7"),
        ({"device": ["tv", "tv"]}, DEVICE, "inputs.device and the column 'device' both give a value, expected one"),
        ({}, ("--column", "input.device=kind"), "no column 'kind' (--column input.device=NAME), it has: user_id, item_id"),
        ({}, ("--column", "input.page=kind"), "no role 'input.page', expected one of user, item, as_of, input.device, "),
        ({"query": ["wing", "wing " * 7]}, DEVICE, "row 2: inputs.query has 7 tokens, expected at most 6"),
        ({"query": [[4.0], [4.0, 1.9]]}, DEVICE, "row 1: inputs.query[0] is 4.0, expected a token id"),
        (
            {"query": [[[4]], [[4]]]},
            DEVICE,
            "pairs.parquet: column 'query' holds large_list<element: large_list<element: int64>>, expected numbers, texts or",
        ),
        ({"device": [{"a": 1}] * 2}, QUERY, "pairs.parquet: column 'device' holds struct<a: int64>, expected numbers, texts"),
    ],
)
def test_bad_pairs_write_nothing(
    run: Run, bundle: Path, tmp_path: Path, columns: dict[str, list[Any]], more: tuple[str, ...], expected: str
) -> None:
    pl.DataFrame({"user_id": [USER] * 2, "item_id": ITEMS[:2], **columns}).write_parquet(tmp_path / "pairs.parquet")
    ended = run("score", bundle, "--pairs", tmp_path / "pairs.parquet", "--out", tmp_path / "out.parquet", *more)
    assert_one_line(ended, 2, expected)
    assert not (tmp_path / "out.parquet").exists()


def test_progress_while_inputs_are_checked(bundle: Path, tmp_path: Path) -> None:
    pairs, steps = tmp_path / "pairs.parquet", list[tuple[str, int, int]]()
    pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS, **COLUMNS[0][1]}).write_parquet(pairs)
    scorer = score_table(bundle, inputs={"query": "wing"})
    score_files(scorer, pairs, tmp_path / "out.csv", lambda *step: steps.append(step))
    assert steps[:2] == [("inputs", 0, 2), ("inputs", 1, 2)]
