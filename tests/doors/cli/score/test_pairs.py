"""`rexit score --pairs`: files of requests, and what is kept when one of them fails."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, CatalogContents, make_catalog
from rexit import runtime
from running.command import Run, assert_one_line, write_pairs


@pytest.mark.parametrize(("source", "target"), [("csv", "csv"), ("parquet", "parquet"), ("csv", "parquet")])
def test_rows_keep_order_and_equal_single_requests(run: Run, place: Path, source: str, target: str) -> None:
    pairs, out = write_pairs(place), place / f"scores.{target}"
    if source == "parquet":
        frame = pl.read_csv(pairs)
        pairs = place / "pairs.parquet"
        frame.write_parquet(pairs)
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", out, "--json")
    assert ended.code == 0 and (ended.json["pairs"], ended.json["slates"]) == (4, 3)
    scored = pl.read_csv(out) if target == "csv" else pl.read_parquet(out)
    assert scored.columns == ["user_id", "item_id", "as_of", "probability", "raw_log_odds", "exit"]
    assert scored["item_id"].to_list() == [3, 8, -7, 8]
    with runtime.open(place / "bundle") as session:
        for row in scored.iter_rows(named=True):
            alone = session.score(row["user_id"], [row["item_id"]], as_of=row["as_of"])
            assert row["raw_log_odds"] == pytest.approx(float(alone.log_odds[0]), abs=1e-4)
            assert row["exit"] == alone.exit[0]


def test_columns_may_have_other_names(run: Run, place: Path) -> None:
    pairs = write_pairs(place, text="u,film\n100,3\n")
    out = place / "o.csv"
    assert run("score", place / "bundle", "--pairs", pairs, "--out", out, "--column", "user=u", "--column", "item=film").code == 0
    assert pl.read_csv(out).height == 1


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id,film\n100,3\n", "no column 'item_id' (--column item=NAME), it has: user_id, film"),
        ("who,film\n100,3\n", "no columns 'user_id' (--column user=NAME) and 'item_id' (--column item=NAME), it has: who, film"),
        ("user_id,item_id\n100,3\n100,3,9\n", "row 2 has 3 fields, the header has 2"),
        ("user_id,item_id,as_of\n100,3,30\n100,3\n", "row 2 has 2 fields, the header has 3"),
        ("user_id,item_id,as_of\n100,3,30\n100,3,\n", "row 2: `as_of` is missing"),
        ("user_id,item_id\n100,3\n100,\n", "row 2: `item_id` is missing"),
        ("user_id,item_id\n100,3\n100,4\n", "1 item is not in the catalog: 4 (row 2)"),
        (
            "user_id,item_id\n" + "".join(f"100,{i}\n" for i in (3, 4, 5, 4, 6, 7, 9, 10, 11)),
            "7 items are not in the catalog: 4 (row 2), 5 (row 3), 6 (row 5), 7 (row 6), 9 (row 7) and 2 more",
        ),
        ("user_id,item_id\n100,three\n", "this catalog's item ids are 64-bit integers"),
        (
            "user_id,item_id,as_of\n100,3,soon\n",
            "row 1: `as_of` is 'soon', expected a 64-bit whole number (seconds), or a date or time like 2024-03-01",
        ),
        ("user_id,item_id,probability\n100,3,1\n", "already has a column 'probability'"),
        ("user_id,item_id\n", "has no rows"),
        ("", "empty, expected a header line"),
        ("user_id,item_id,item_id\n100,3,3\n", "column 'item_id' appears 2 times, expected unique names"),
        ('user_id,item_id\n100,"3\n', "line 2: unexpected end of data"),
        ("user_id,item_id\n007,3\n", "row 1: user '007': this catalog's user ids are 64-bit integers"),
        ("user_id,item_id\n100,3\n100,03\n", "row 2: item '03': this catalog's item ids are 64-bit integers"),
        ("user_id,item_id\n1_00,3\n", "row 1: user '1_00'"),
        ("user_id,item_id\n100,3\n9223372036854775808,3\n", "row 2: user '9223372036854775808'"),
    ],
)
def test_bad_rows_write_nothing(run: Run, place: Path, text: str, expected: str) -> None:
    pairs, out = write_pairs(place, text=text), place / "scores.csv"
    assert_one_line(run("score", place / "bundle", "--pairs", pairs, "--out", out), 2, "pairs.csv", expected)
    assert not out.exists()


@pytest.mark.parametrize("column", ["user_id", "item_id"])
@pytest.mark.parametrize(
    ("values", "seen"), [([[100], [103]], "large_list<element: int64>"), ([100.0, None], "double"), ([True, False], "bool")]
)
def test_ids_of_a_type_that_no_catalog_has(run: Run, place: Path, column: str, values: list[object], seen: str) -> None:
    """As `rexit index` refuses them."""
    pairs, out = place / "pairs.parquet", place / "o.csv"
    pl.DataFrame({"user_id": [100, 103], "item_id": [3, 8], column: values}).write_parquet(pairs)
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", out)
    assert_one_line(ended, 2, f"pairs.parquet: column '{column}' holds {seen}, expected integers or strings")
    assert not out.exists()


MOMENT = datetime(1970, 1, 1, 0, 0, 30, tzinfo=UTC)
"""30 in the catalog's seconds."""


@pytest.mark.medium
@pytest.mark.parametrize(
    "times",
    [
        pl.Series([MOMENT]),
        pl.Series([MOMENT.replace(tzinfo=None)]).cast(pl.Datetime("ns")),
        pl.Series([MOMENT + timedelta(milliseconds=999)]),
        pl.Series(["1970-01-01T00:00:30Z"]),
        pl.Series(["1970-01-01 01:00:30+01:00"], dtype=pl.Categorical),
        pl.Series([30.0]),
        pl.Series(["30"]),
        pl.Series([30], dtype=pl.UInt8),
    ],
    ids=lambda times: str(times.dtype),
)
def test_times_in_any_form_are_the_same_moment(run: Run, place: Path, times: pl.Series) -> None:
    """As `rexit index` reads them; Parquet and text keep what they have."""
    frame = pl.DataFrame({"user_id": [100], "item_id": [3], "as_of": times})
    frame.write_parquet(place / "pairs.parquet")
    text = times[0].isoformat() if isinstance(times[0], datetime) else str(times[0])
    (place / "pairs.tsv").write_text(f"user_id\titem_id\tas_of\n100\t3\t{text}\n")
    assert run("score", place / "bundle", "--pairs", write_pairs(place, text=FIRST), "--out", place / "plain.parquet").code == 0
    expected = pl.read_parquet(place / "plain.parquet").drop("as_of")
    for name in ("pairs.parquet", "pairs.tsv"):
        ended = run("score", place / "bundle", "--pairs", place / name, "--out", place / "o.parquet")
        assert ended.code == 0 and ended.err == "", ended.err
        scored = pl.read_parquet(place / "o.parquet")
        assert scored.drop("as_of").equals(expected)
        kept = times if name == "pairs.parquet" else pl.Series(["30"]).cast(pl.Int64) if text == "30" else pl.Series([text])
        assert scored["as_of"].to_list() == kept.to_list()


FIRST = "user_id,item_id,as_of\n100,3,30\n"


@pytest.mark.parametrize(
    ("times", "seen"),
    [([[30]], "large_list<element: int64>"), ([timedelta(seconds=30)], "duration[us]"), ([True], "bool")],
)
def test_a_column_that_holds_no_times(run: Run, place: Path, times: list[object], seen: str) -> None:
    pl.DataFrame({"user_id": [100], "item_id": [3], "as_of": times}).write_parquet(place / "pairs.parquet")
    ended = run("score", place / "bundle", "--pairs", place / "pairs.parquet", "--out", place / "o.csv")
    assert_one_line(ended, 2, f"pairs.parquet: column 'as_of' holds {seen}, expected whole numbers, dates or ISO 8601 text")


def test_pairs_outside_the_catalogs_times_are_said(run: Run, place: Path) -> None:
    """A time in another unit leaves no history, or all of it."""
    pairs = write_pairs(place, text="user_id,item_id,as_of\n100,3,30\n100,8,5\n103,3,1970-01-01\n103,8,20240301000\n")
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv")
    early, late = ended.err.strip().splitlines()
    assert early.startswith("rexit: 2 of 4 pairs are as of a time not after the catalog's first interaction, 1")
    assert "(1970-01-01T00:00:1" in early and early.endswith(": none is visible to them")
    assert late.startswith("rexit: 1 of 4 pairs are as of a time after the catalog's last interaction, ")
    assert late.endswith(": all are visible to them")
    pairs = write_pairs(place, text="user_id,item_id\n100,3\n")
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv", "--as-of", "1969-12-31")
    assert "rexit: 1 of 1 pairs are as of a time not after the catalog's first" in ended.err


@pytest.mark.parametrize("line", [1, 2, 5000])
def test_text_that_is_not_utf8_is_named_by_its_line(run: Run, place: Path, line: int) -> None:
    lines = [b"user_id,item_id", *[b"100,3"] * 5000]
    lines[line - 1] += b",\xe9"
    pairs = place / "pairs.csv"
    pairs.write_bytes(b"\n".join(lines))
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv")
    assert_one_line(ended, 2, f"pairs.csv: line {line}: not UTF-8")


@pytest.mark.parametrize(
    ("pairs", "out", "more", "line"),
    [
        ("no.csv", "o.csv", (), "no.csv: no such file"),
        ("pairs.parquet", "o.csv", (), "pairs.parquet: cannot be read as Parquet"),
        ("p.xlsx", "o.csv", (), "ends in '.xlsx', expected .csv or .tsv or .parquet"),
        ("pairs.csv", "o.xlsx", (), "ends in '.xlsx', expected .csv or .parquet"),
        ("pairs.csv", "bundle.csv", (), "bundle.csv: cannot be written: it is a folder"),
        ("pairs.csv", "missing/o.csv", (), "o.csv: cannot be written"),
        ("pairs.csv", "pairs.csv/o.csv", (), "o.csv: cannot be written"),
        ("pairs.csv", "o.csv", ("--column", "as_of=when"), "no column 'when' (--column as_of=NAME), it has: user_id, item_id"),
    ],
)
def test_files_that_are_not_there_or_of_another_kind(
    run: Run, place: Path, pairs: str, out: str, more: tuple[str, ...], line: str
) -> None:
    """Without a column of times that is named, every interaction would be visible."""
    for name in ("pairs.csv", "pairs.parquet"):
        write_pairs(place, name)
    (place / "bundle.csv").mkdir()
    assert_one_line(run("score", place / "bundle", "--pairs", place / pairs, "--out", place / out, *more), 2, line)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that root cannot write to either")
def test_unwritable_folder_is_found_before_scoring(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "open", lambda *words, **keywords: pytest.fail("scoring began"))
    assert_one_line(
        run("score", place / "bundle", "--pairs", write_pairs(place), "--out", "/proc/o.csv"), 2, "/proc: cannot be written"
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_top_k_of_each_slate_best_first(run: Run, place: Path, suffix: str) -> None:
    rows = [(user, item) for item in ITEM_IDS for user in USER_IDS[:3]]
    pairs = write_pairs(place, text="user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in rows))
    complete, top = place / "whole.csv", place / f"top.{suffix}"
    assert run("score", place / "bundle", "--pairs", pairs, "--out", complete).code == 0
    assert run("score", place / "bundle", "--pairs", pairs, "--out", top, "--top-k", 4).code == 0
    scored = pl.read_csv(complete)
    best = [
        scored.filter(pl.col("user_id") == user).sort("probability", "raw_log_odds", descending=True).head(4)
        for user in USER_IDS[:3]
    ]
    best_rows = pl.read_csv(top) if suffix == "csv" else pl.read_parquet(top)
    expected = pl.concat(best)
    assert (
        best_rows["user_id"].to_list() == expected["user_id"].to_list()
        and best_rows["item_id"].to_list() == expected["item_id"].to_list()
    )


def test_unknown_users_are_said(run: Run, place: Path) -> None:
    users = [100, *range(1, 8), 103]
    pairs = write_pairs(place, text="user_id,item_id\n" + "".join(f"{u},3\n{u},8\n" for u in users))
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv", "--json")
    assert ended.code == 0 and ended.json["unknown_users"] == [1, 2, 3, 4, 5, 6, 7]
    assert ended.err == (
        "rexit: 7 of 9 users are not in the catalog and are scored without any history: 1, 2, 3, 4, 5 and 2 more\n"
    )


def test_text_ids_that_look_like_numbers(run: Run, place: Path) -> None:
    """`007` and `7` are two items, and two users, of a catalog whose ids are text."""

    info, tables = make_catalog(strings=True)
    for kind, count in (("users.safetensors", 12), ("items.safetensors", 20)):
        ids = sorted(b"%d" % n if n % 2 else b"00%d" % n for n in range(count))
        tables[kind] |= {
            "id_bytes": np.frombuffer(b"".join(ids), np.uint8),
            "id_offsets": np.cumsum([0, *map(len, ids)]).astype(np.int64),
        }
    bundle = write_bundle(place / "text", BundleOptions(CatalogContents(info, tables)))
    pairs = write_pairs(place, text="user_id,item_id,note\n004,0010,a\n7,0010,0x1F\n004,9,1.50\n")
    assert run("score", bundle, "--pairs", pairs, "--out", place / "o.csv").err == ""
    rows = [line.split(",")[:3] for line in (place / "o.csv").read_text().splitlines()[1:]]
    assert rows == [["004", "0010", "a"], ["7", "0010", "0x1F"], ["004", "9", "1.50"]]
    scored = pl.read_csv(place / "o.csv", infer_schema_length=0)
    with runtime.open(bundle) as session:
        alone = session.score("7", ["0010"]).log_odds[0]
    assert float(scored["raw_log_odds"][1]) == pytest.approx(float(alone), abs=1e-4)
    pairs = write_pairs(place, text="user_id,item_id\n4,3\n")
    assert "1 of 1 users are not in the catalog" in run("score", bundle, "--pairs", pairs, "--out", place / "o.csv").err
    pairs = write_pairs(place, text="user_id,item_id\n004,10\n")
    ended = run("score", bundle, "--pairs", pairs, "--out", place / "o.csv")
    assert_one_line(ended, 2, "1 item is not in the catalog: '10' (row 1)")


def test_byte_order_mark_and_quotes(run: Run, place: Path) -> None:
    pairs = place / "pairs.csv"
    pairs.write_bytes('\ufeffuser_id,item_id,note\r\n100,3,"a, ""b"""\r\n\r\n'.encode())
    assert run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv").code == 0
    header, row = (place / "o.csv").read_text().splitlines()
    assert header == "user_id,item_id,note,probability,raw_log_odds,exit" and row.startswith('100,3,"a, ""b""",')


def test_without_pyarrow(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "rexit.doors.batch", raising=False)
    ended = run("score", place / "bundle", "--pairs", write_pairs(place), "--out", place / "o.csv")
    assert_one_line(ended, 1, "this needs the Python package `pyarrow`", "pip install 'rexit[batch]'")
