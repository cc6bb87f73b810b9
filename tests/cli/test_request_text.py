"""`--request` of `rexit score` and `rexit inspect`, and request texts in files of pairs."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_request
from builders.bundles.reranker import ids, words_tokenizer
from rexit import runtime
from running.command import Run, assert_one_line

ITEMS = [int(item) for item in ITEM_IDS[:4]]
USER = int(USER_IDS[0])
SLATE = ("--user", USER, "--items", ",".join(map(str, ITEMS)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_bundle(tmp_path_factory.mktemp("request") / "bundle", BundleOptions(with_request(make_catalog())))
    add_tokenizer(folder, words_tokenizer().to_str())
    return folder


def test_one_slate(run: Run, bundle: Path) -> None:
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS, request={"query": ids("wing drag"), "note": ids("heat")}).log_odds.tolist()
    ended = run("score", bundle, *SLATE, "--request", "query=wing drag", "--request", "note=heat", "--json")
    assert [pl.Series([score["log_odds"]], dtype=pl.Float32)[0] for score in ended.json["scores"]] == expected


def test_the_prompt_of_a_slate(run: Run, bundle: Path) -> None:
    with runtime.open(bundle) as session:
        prefix, _ = session.prompt(USER, ITEMS, request={"query": ids("wing drag")})
    ended = run("inspect", bundle, *SLATE, "--request", "query=wing drag", "--json")
    assert ended.json["prefix"]["tokens"] == prefix.tolist()
    out = run("inspect", bundle).out
    assert "request text: query" in out and "at most 6 tokens, required" in out and "at most 4 tokens" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--request", "query"), "--request 'query', expected NAME=VALUE, as in query=red shoes"),
        (("--request", "=a"), "--request '=a', expected NAME=VALUE, as in query=red shoes"),
        (("--request", "query=a", "--request", "query=b"), "--request query: given twice, expected once"),
        (("--request", "page=home"), "request text 'page': the prompt places no such text, it has: query, note"),
        (("--request", "query=" + "wing " * 7), "request text 'query' has 7 tokens, expected at most 6"),
        ((), "request text 'query' is missing, expected at most 6 tokens"),
    ],
)
def test_bad_texts_are_one_line(run: Run, bundle: Path, words: tuple[str, ...], expected: str) -> None:
    for command in ("score", "inspect"):
        assert_one_line(run(command, bundle, *SLATE, *words), 2, expected)


def scored(run: Run, bundle: Path, place: Path, frame: pl.DataFrame, *more: object) -> list[float]:
    frame.write_parquet(place / "pairs.parquet")
    ended = run("score", bundle, "--pairs", place / "pairs.parquet", "--out", place / "out.parquet", "--json", *more)
    assert ended.code == 0, ended.err
    return pl.read_parquet(place / "out.parquet")["log_odds"].to_list()


def test_pairs_of_one_user_and_time_are_a_slate_for_each_text(run: Run, bundle: Path, tmp_path: Path) -> None:
    queries = ["wing drag", "heat"]
    with runtime.open(bundle) as session:
        expected = [0.0] * 4
        for n in (0, 1):
            session.clear_cache()
            expected[n::2] = session.score(USER, ITEMS[n::2], request={"query": queries[n]}).log_odds.tolist()
    frame = pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS, "query": [queries[n % 2] for n in range(4)]})
    assert scored(run, bundle, tmp_path, frame) == pytest.approx(expected, abs=1e-4)
    renamed = frame.rename({"query": "search"})
    assert scored(run, bundle, tmp_path, renamed, "--column", "request.query=search") == pytest.approx(expected, abs=1e-4)
    pairs = tmp_path / "pairs.csv"
    frame.write_csv(pairs)
    ended = run("score", bundle, "--pairs", pairs, "--out", tmp_path / "out.csv", "--json")
    assert ended.json["slates"] == 2
    assert pl.read_csv(tmp_path / "out.csv")["log_odds"].to_list() == pytest.approx(expected, abs=1e-4)


def test_one_text_for_all_pairs(run: Run, bundle: Path, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS, "note": ["A", None, "A", "A"]})
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS[1:2], request={"query": "heat"}).log_odds.tolist()
    assert scored(run, bundle, tmp_path, frame, "--request", "query=heat")[1] == pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize(
    ("columns", "more", "expected"),
    [
        ({"query": ["wing", "wing " * 7]}, (), "row 2: request text 'query' has 7 tokens, expected at most 6"),
        ({"query": ["wing", None]}, (), "row 2: request text 'query' is missing, expected at most 6 tokens"),
        ({"query": [[4], [4, 64]]}, (), "row 2: request text 'query'[1] is 64, expected a token id from 0 to 63"),
        ({}, (), "request text 'query' is missing, expected at most 6 tokens"),
        ({"query": ["wing", "wing"]}, ("--request", "query=wing"), "--request query and the column 'query' of"),
        ({}, ("--column", "request.query=search"), "no column 'search' (--column request.query=NAME), it has: user_id, item_id"),
    ],
)
def test_bad_columns_are_one_line(
    run: Run, bundle: Path, tmp_path: Path, columns: dict[str, list[object]], more: tuple[str, ...], expected: str
) -> None:
    pl.DataFrame({"user_id": [USER] * 2, "item_id": ITEMS[:2], **columns}).write_parquet(tmp_path / "pairs.parquet")
    ended = run("score", bundle, "--pairs", tmp_path / "pairs.parquet", "--out", tmp_path / "out.parquet", *more)
    assert_one_line(ended, 2, expected)


def test_texts_are_for_prompts(run: Run, bundle: Path) -> None:
    assert_one_line(run("inspect", bundle, "--request", "query=wing"), 2, "--request: only for a prompt")
