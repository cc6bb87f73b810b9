import csv
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.interactions import in_unit, read_interactions, unit_of_times, without_repeats
from rexit.exporter.catalog.source_tables import read_entities, read_table, rows_of, unify_ids
from rexit.exporter.options import Columns, IndexOptions
from rexit.format.candidates import Candidates

GOOD = "user_id,item_id,rating,timestamp\n1,10,5,100\n2,11,3.5,101\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", GOOD),
        ("a.csv", "\ufeff" + GOOD.replace("\n", "\r\n")),
        ("a.tsv", GOOD.replace(",", "\t")),
        ("a.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t100.0\n2\t11\t3.5\t101.0\n"),
    ],
    ids=["csv", "csv with BOM and CRLF", "tsv", "RecBole"],
)
def test_text_formats_read_alike(tmp_path: Path, name: str, text: str) -> None:
    frame = read_interactions(write(tmp_path / name, text), IndexOptions())
    assert frame["time"].to_list() == [100, 101]
    assert frame["liked"].to_list() == [True, False]
    assert unify_ids([frame["user"]])[0].to_list() == [1, 2]


WHEN = ["2024-03-01T00:00:01.5Z", "2024-03-01 02:00:02+02:00", "2024-03-02"]


def timed(values: pl.Series, folder: Path, suffix: str) -> Path:
    frame = pl.DataFrame({"user_id": 1, "item_id": range(len(values)), "rating": [5, 1, 1], "timestamp": values})
    path = folder / f"a.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("seconds", [1709251201, 1709251202, 1709337600]),
        ("milliseconds", [1709251201500, 1709251202000, 1709337600000]),
        ("nanoseconds", [1709251201500000000, 1709251202000000000, 1709337600000000000]),
    ],
)
def test_iso_8601_text_is_read_like_parquets_dates(tmp_path: Path, suffix: str, unit: str, times: list[int]) -> None:
    text = read_interactions(timed(pl.Series(WHEN), tmp_path, suffix), IndexOptions())["time"]
    moments = pl.Series(
        [datetime.fromisoformat(moment).astimezone(UTC) for moment in ("2024-03-01T00:00:01.5Z", WHEN[1], f"{WHEN[2]}T00Z")]
    )
    dates = read_interactions(timed(moments.cast(pl.Datetime("ns", "Asia/Tokyo")), tmp_path, "parquet"), IndexOptions())["time"]
    assert text.equals(dates)
    assert in_unit(text, unit, Path("a")).to_list() == times
    assert unit_of_times(text) == "seconds"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2024-03-01", "yesterday", "3"], "row 2: 'timestamp' is 'yesterday', expected a date or time like 2024"),
        (["2024-03-01", "1709251201", "3"], "row 2: 'timestamp' is '1709251201', expected a date or time"),
        (["2024-03-01", None, "3"], "row 2: 'timestamp' is None, expected a date or time"),
        (["3", "2024-03-01", "4"], "row 2: 'timestamp' is '2024-03-01', expected a whole number, or in all rows a date"),
        (["now", "2024-03-01", "4"], "row 1: 'timestamp' is 'now', expected a whole number, or in all rows"),
        (["9" * 30, "2", "3"], "row 1: 'timestamp' is '99999"),
        ([[1], [2], [3]], "column 'timestamp' holds List(Int64), expected whole numbers, dates or ISO 8601 text"),
        ([True, False, True], "column 'timestamp' holds Boolean, expected whole numbers"),
        ([1.0, 2.5, 3.0], "row 2: 'timestamp' is 2.5, expected a whole number"),
        ([datetime(2024, 1, 1), None, None], "row 2: 'timestamp' is None, expected a date"),
    ],
)
def test_times_of_several_forms_are_refused(tmp_path: Path, values: list[object], message: str) -> None:
    path = timed(pl.Series(values), tmp_path, "parquet")
    with pytest.raises(InputError) as caught:
        read_interactions(path, IndexOptions())
    assert message in str(caught.value)


def test_dates_have_no_place_among_numbers_of_no_known_unit(tmp_path: Path) -> None:
    dates = read_interactions(timed(pl.Series(WHEN), tmp_path, "csv"), IndexOptions())["time"]
    with pytest.raises(InputError, match=r"a\.csv: its times are dates, the catalog's are whole numbers of no known unit"):
        in_unit(dates, None, Path("a.csv"))
    assert in_unit(pl.Series([3, 4]), None, Path("a.csv")).to_list() == [3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, expected a header line"),
        ("user_id,item_id,rating,timestamp\n", "a header and no rows"),
        (
            "user_id,item_id,stars,timestamp\n1,2,3,4\n",
            "no column 'rating' (--column rating=NAME; --implicit if there are no ratings)",
        ),
        (GOOD + "3,12,4\n", "line 4 has 3 fields, the header has 4"),
        (GOOD + "3,12,4,5,6\n", "line 4 has 5 fields, the header has 4"),
        (GOOD + '3,"12,4,5\n', "line 4: unexpected end of data"),
        (GOOD + ",12,4,102\n", "row 3: 'user_id' is None, expected an id"),
        (GOOD + "3,12,nan,102\n", "row 3: 'rating' is 'nan', expected a finite number"),
        (GOOD + "3,12,good,102\n", "row 3: 'rating' is 'good'"),
        (GOOD + "3,12,,102\n", "row 3: 'rating' is None"),
        (GOOD + "3,12,4,10.5\n", "row 3: 'timestamp' is '10.5', expected a whole number"),
        (GOOD + "3,12,4,\n", "row 3: 'timestamp' is None"),
        ("user_id,user_id,rating,timestamp\n1,2,3,4\n", "'user_id' appears 2 times"),
        ("a:token,a:float\n1,2\n", "'a' appears 2 times"),
    ],
)
def test_bad_interactions_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_interactions(write(tmp_path / "a.csv", text), IndexOptions())
    assert message in str(caught.value) and "a.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv: cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory|not a readable"):
        read_table(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match=r"bad.parquet: not a readable table"):
        read_table(tmp_path / "bad.parquet")
    (tmp_path / "latin.csv").write_bytes("id,title\n1,Amélie\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.csv: line 2: not UTF-8"):
        read_table(tmp_path / "latin.csv")


def test_entities_become_text(tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": [2, 1], "year": [1995, None], "genres": [["Drama", "War"], []], "title": [" Up ", ""]})
    frame.write_parquet(tmp_path / "i.parquet")
    read = read_entities(tmp_path / "i.parquet", "item_id")
    assert read.to_dict(as_series=False) == {
        "id": [2, 1], "year": ["1995", None], "genres": ["Drama, War", None], "title": ["Up", None],
    }  # fmt: skip


def test_a_cell_may_be_longer_than_pythons_csv_allows(tmp_path: Path) -> None:
    """A text, or a vector of some thousand numbers."""
    numbers = "0.0000001 " * 20_000
    path = write(tmp_path / "i.csv", f"item_id,title,look:float_seq\n1,{'x' * 200_000},{numbers}\n")
    read, limit = read_entities(path, "item_id"), csv.field_size_limit()
    assert read["title"].str.len_chars().to_list() == [200_000] and read["look"].list.len().to_list() == [20_000]
    assert csv.field_size_limit() == limit, "the process-wide limit is restored"


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "a?.tsv", "a[1].parquet"])
def test_a_file_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"user_id": ["7"], "note": ["read"]})
    if name.endswith("parquet"):
        table.write_parquet(tmp_path / name)
    else:
        table.write_csv(tmp_path / name, separator="\t" if name.endswith("tsv") else ",")
    write(tmp_path / "a1.csv", "user_id,note\n8,another file\n")
    assert read_table(tmp_path / name).rows() == [("7", "read")]


def test_tab_separated_text_has_no_quotes(tmp_path: Path) -> None:
    read = read_entities(write(tmp_path / "i.tsv", 'item_id\ttitle\n1\t"Up" and "Down\n'), "item_id")
    assert read["title"][0] == '"Up" and "Down'


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="id '1' appears 2 times, expected once"):
        read_entities(write(tmp_path / "i.csv", "item_id,title\n1,a\n2,b\n1,c\n"), "item_id")


def test_ids_are_integers_only_when_nothing_is_lost() -> None:
    def kinds(*columns: list[object]) -> list[list[object]]:
        return [c.to_list() for c in unify_ids([pl.Series(c) for c in columns])]

    assert kinds(["2", "-10"], [2, 3]) == [[2, -10], [2, 3]]
    assert kinds(["7", "007"], ["7"]) == [["7", "007"], ["7"]]
    assert kinds([1, 2], ["a"]) == [["1", "2"], ["a"]]
    assert kinds([str(2**63)]) == [[str(2**63)]]


def test_an_id_without_a_row_is_named_and_counted() -> None:
    ids = pl.Series([1, 2, 3])
    assert rows_of(pl.Series([3, 1, 3]), ids, "item", Path("r.csv"), Path("i.csv")).to_list() == [2, 0, 2]
    with pytest.raises(InputError, match=r"r.csv: item 9 is not in i.csv \(2 such items in 3 interactions\)"):
        rows_of(pl.Series([1, 9, 8, 9]), ids, "item", Path("r.csv"), Path("i.csv"))


@pytest.mark.parametrize(("rating", "positive_at", "message"), [
    ("1", 1.0, "every rating is a like: 'rating' is 1 to 1, a like is at least 1: choose another --positive-at, or what else is"),
    ("5", 4.0, "every rating is a like: 'rating' is 5 to 5"),
    ("3", 4.0, "no rating is a like: 'rating' is 3 to 3, a like is at least 4"),
])  # fmt: skip
def test_ratings_that_tell_nothing_apart(tmp_path: Path, rating: str, positive_at: float, message: str) -> None:
    path = write(tmp_path / "a.csv", f"user_id,item_id,rating,timestamp\n1,2,{rating},3\n1,3,{rating},4\n")
    with pytest.raises(InputError) as caught:
        read_interactions(path, IndexOptions(positive_at=positive_at))
    assert message in str(caught.value)


def test_a_file_of_likes_alone_is_read_where_dislikes_are_drawn(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user_id,item_id,rating,timestamp\n1,2,5,3\n1,3,5,4\n")
    assert read_interactions(path, IndexOptions(candidates=Candidates("popularity", 9)))["liked"].to_list() == [True, True]


@pytest.mark.parametrize(
    ("ratings", "kind"),
    [
        ([[1.0], [2.0]], "List(Float64)"),
        ([{"stars": 1}, {"stars": 5}], "Struct({'stars': Int64})"),
        ([b"1", b"5"], "Binary"),
        ([datetime(2020, 1, 1).date(), datetime(2020, 1, 2).date()], "Date"),
    ],
)
@pytest.mark.parametrize("column", ["rating", "score.bm25"])
def test_a_rating_of_another_type_is_named(tmp_path: Path, ratings: list[object], kind: str, column: str) -> None:
    rows = {"user_id": [1, 1], "item_id": [2, 3], "rating": [1, 5], "timestamp": [3, 4], column: ratings}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError) as caught:
        read_interactions(tmp_path / "a.parquet", IndexOptions(), scores=["bm25"] if column != "rating" else [])
    assert str(caught.value).endswith(f"a.parquet: column '{column}' holds {kind}, expected numbers")


@pytest.mark.parametrize("cell", [{"name": "Artist 0"}, [{"name": "Artist 0"}], [["Artist 0"]]])
def test_a_nested_cell_is_no_text(tmp_path: Path, cell: object) -> None:
    pl.DataFrame({"item_id": [1], "artist": [cell]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(InputError, match=r"items\.parquet: column 'artist' holds .*, which has no text form"):
        read_entities(tmp_path / "items.parquet", "item_id")


def test_a_split_column(tmp_path: Path) -> None:
    columns = Columns(split="fold")
    path = write(tmp_path / "a.csv", "user_id,item_id,rating,timestamp,fold\n1,2,3,4,train\n1,3,4,5,valid\n1,4,4,5,validation\n")
    assert read_interactions(path, IndexOptions(columns=columns))["split"].to_list() == ["train", "validation", "validation"]
    for bad, shown in (("dev", "'dev'"), ("", "None")):
        write(path, f"user_id,item_id,rating,timestamp,fold\n1,2,3,4,train\n1,3,4,5,{bad}\n")
        with pytest.raises(InputError, match=rf"row 2: 'fold' is {shown}, expected train, validation .or valid. or test"):
            read_interactions(path, IndexOptions(columns=columns))
    with pytest.raises(InputError, match=r"no column 'part' .--column split=NAME., the file has: "):
        read_interactions(path, IndexOptions(columns=Columns(split="part")))


def test_the_same_row_counts_once() -> None:
    """Otherwise a row that appears twice is on both sides of a split. Of two verdicts at one time the last holds."""
    read = [(1, 5, True), (1, 5, False), (2, 5, True), (1, 4, True), (2, 5, True)]
    frame = pl.DataFrame(read, ["user", "time", "liked"], orient="row").with_columns(item=7)
    unique = without_repeats(frame, Path("a.csv"))
    assert sorted(unique.select("user", "time", "liked").iter_rows()) == [(1, 4, True), (1, 5, False), (2, 5, True)]


def test_one_interaction_in_two_splits_is_refused() -> None:
    frame = pl.DataFrame({"user": ["u", "u"], "item": [1, 1], "time": [5, 5], "liked": True, "split": ["validation", "test"]})
    with pytest.raises(InputError, match=r"a.csv: user 'u' and item 1 at time 5 are in test and validation, expected one split"):
        without_repeats(frame, Path("a.csv"))
