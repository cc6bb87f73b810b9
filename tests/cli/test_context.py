"""`--context` of `rexit score` and `rexit inspect`, and contexts in files of pairs."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_context
from rexit import runtime
from running.command import Run, assert_one_line

ITEMS = [int(item) for item in ITEM_IDS[:4]]
USER = int(USER_IDS[0])
SLATE = ("--user", USER, "--items", ",".join(map(str, ITEMS)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("context") / "bundle", BundleOptions(with_context(make_catalog())))


def test_one_slate(run: Run, bundle: Path) -> None:
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS, context={"device": "phone", "hour": 20}).log_odds.tolist()
    ended = run("score", bundle, *SLATE, "--context", "device=phone", "--context", "hour=20", "--json")
    assert [pl.Series([score["log_odds"]], dtype=pl.Float32)[0] for score in ended.json["scores"]] == expected


def test_the_prompt_of_a_slate(run: Run, bundle: Path) -> None:
    with runtime.open(bundle) as session:
        prefix, _ = session.prompt(USER, ITEMS, context={"device": "phone"})
    ended = run("inspect", bundle, *SLATE, "--context", "device=phone", "--json")
    assert ended.json["prefix"]["tokens"] == prefix.tolist()
    assert "context: device" in run("inspect", bundle).out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("device",), "--context 'device', expected NAME=VALUE, as in device=tv"),
        (("=tv",), "--context '=tv', expected NAME=VALUE, as in device=tv"),
        (("device=tv", "device=phone"), "--context device: given twice, expected once"),
        (("device=tv", "page=home"), "context 'page': the prompt places no such context, it has: device, hour"),
        (("device=radio",), "context 'device' is 'radio', expected one of tv, phone, 7"),
        ((), "context 'device' is missing, expected one of tv, phone, 7"),
    ],
)
def test_bad_contexts_are_one_line(run: Run, bundle: Path, words: tuple[str, ...], expected: str) -> None:
    options = [word for text in words for word in ("--context", text)]
    for command in ("score", "inspect"):
        assert_one_line(run(command, bundle, *SLATE, *options), 2, expected)


def scored(run: Run, bundle: Path, place: Path, frame: pl.DataFrame, *more: object) -> list[float]:
    frame.write_parquet(place / "pairs.parquet")
    ended = run("score", bundle, "--pairs", place / "pairs.parquet", "--out", place / "out.parquet", "--json", *more)
    assert ended.code == 0, ended.err
    return pl.read_parquet(place / "out.parquet")["log_odds"].to_list()


def test_pairs_of_one_user_and_time_are_a_slate_for_each_context(run: Run, bundle: Path, tmp_path: Path) -> None:
    moments = [{"device": "tv", "hour": 3.0}, {"device": "phone", "hour": 20.0}]
    with runtime.open(bundle) as session:
        expected = []
        for n, item in enumerate(ITEMS):
            session.clear_cache()
            expected += session.score(USER, [item], context=moments[n % 2]).log_odds.tolist()
    columns = {name: [moments[n % 2][name] for n in range(4)] for name in ("device", "hour")}
    frame = pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS, **columns})
    assert scored(run, bundle, tmp_path, frame) == pytest.approx(expected, abs=1e-4)
    renamed = frame.rename({"hour": "local_hour"})
    assert scored(run, bundle, tmp_path, renamed, "--column", "context.hour=local_hour") == pytest.approx(expected, abs=1e-4)
    pairs = tmp_path / "pairs.csv"
    frame.write_csv(pairs)
    ended = run("score", bundle, "--pairs", pairs, "--out", tmp_path / "out.csv", "--json")
    assert ended.json["slates"] == 2
    assert pl.read_csv(tmp_path / "out.csv")["log_odds"].to_list() == pytest.approx(expected, abs=1e-4)


def test_one_context_for_all_pairs(run: Run, bundle: Path, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [USER] * 4, "item_id": ITEMS})
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS, context={"device": "7"}).log_odds.tolist()
    assert scored(run, bundle, tmp_path, frame, "--context", "device=7") == expected


@pytest.mark.parametrize(
    ("columns", "more", "expected"),
    [
        ({"device": ["tv", "radio"]}, (), "row 2: context 'device' is 'radio', expected one of tv, phone, 7"),
        ({"device": ["tv", None]}, (), "row 2: context 'device' is missing, expected one of tv, phone, 7"),
        ({}, (), "context 'device' is missing, expected one of tv, phone, 7"),
        ({"device": ["tv", "tv"]}, ("--context", "device=tv"), "--context device and the column 'device' of"),
        ({}, ("--column", "context.device=kind"), "no column 'kind' (--column context.device=NAME), it has: user_id, item_id"),
        ({}, ("--column", "context.page=kind"), "no role 'context.page', expected one of user, item, as_of, context.device, "),
    ],
)
def test_bad_pairs_write_nothing(
    run: Run, bundle: Path, tmp_path: Path, columns: dict[str, list[str]], more: tuple[str, ...], expected: str
) -> None:
    pl.DataFrame({"user_id": [USER] * 2, "item_id": ITEMS[:2], **columns}).write_parquet(tmp_path / "pairs.parquet")
    ended = run("score", bundle, "--pairs", tmp_path / "pairs.parquet", "--out", tmp_path / "out.parquet", *more)
    assert_one_line(ended, 2, expected)
    assert not (tmp_path / "out.parquet").exists()
