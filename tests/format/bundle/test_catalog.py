"""Opening a catalog: ids, splits, and every way the folder can be damaged. No torch: the catalog is written by hand."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from rexit.errors import BundleError, InputError
from rexit.format.bundle import Catalog, FileEntry
from rexit.format.bundle.catalog import Ids

TABLES = {
    "users.safetensors": {"ids": np.array([-3, 10, 200], np.int64)},
    "items.safetensors": {"id_bytes": np.frombuffer("aazé".encode(), np.uint8), "id_offsets": np.array([0, 1, 3, 5], np.int64)},
    "pieces.safetensors": {"offsets": np.zeros(1, np.int64), "tokens": np.zeros(0, np.int32)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "splits").mkdir()
    for name, tensors in TABLES.items():
        save_file(tensors, tmp_path / name)
    splits = {}
    for name in ("train", "validation", "test"):
        path = f"splits/{name}.parquet"
        frame = pl.DataFrame({"user": [-3, 200], "item": ["é", "az"], "time": [5, 6], "liked": [True, False]})
        frame.write_parquet(tmp_path / path)
        splits[name] = {"path": path, "rows": 2, **FileEntry.of(tmp_path / path).to_json()}
    info = {
        "schema": 3,
        "ids": {"user": "int64", "item": "string"},
        **{key: {} for key in ("counts", "labels", "embedding", "prompt")},
        "splits": splits,
        "files": {name: FileEntry.of(tmp_path / name).to_json() for name in TABLES},
    }
    (tmp_path / "catalog.json").write_text(json.dumps(info))
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    info = json.loads((folder / "catalog.json").read_text())
    (folder / "catalog.json").write_text(json.dumps(info | values))


def test_ids_are_found_by_value_and_by_bytes(folder: Path) -> None:
    catalog = Catalog.open(folder)
    assert [catalog.users.row(id) for id in (-3, 10, 200, "10", 11, 201, "x", None)] == [0, 1, 2, 1, None, None, None, None]
    assert [catalog.items.row(id) for id in ("a", "az", "é", "", "b", "zz", 7)] == [0, 1, 2, None, None, None, None]
    assert [catalog.users.id(0), catalog.items.id(2)] == [-3, "é"]
    assert len(catalog.users) == len(catalog.items) == 3


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40, 10.5, float("nan"), float("inf"), True])
def test_an_id_that_is_no_int64_is_simply_not_there(number: float) -> None:
    assert Ids("int64", 2, np.array([1, 10], np.int64)).row(number) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["010", "+10", "1_0", " 10", "10 ", "-0", "", "\udcff", "1" * 5000])
def test_text_that_is_no_plain_integer_names_no_integer_id(text: str) -> None:
    """`010` and `10` are two ids wherever ids are read: neither may be taken for the other."""
    assert Ids("int64", 2, np.array([0, 10], np.int64)).row(text) is None
    assert Ids("int64", 2, np.array([0, 10], np.int64)).find(["10", text]).tolist() == [1, -1]


@pytest.mark.parametrize("value", [None, True, 1.5, "\udcff", "a\0"])
def test_what_is_no_text_names_no_id_of_text(value: Any) -> None:
    texts = [b"1.5", b"None", b"True", b"a"]
    starts = np.cumsum([0, *map(len, texts)])
    ids = Ids("string", len(texts), text=np.frombuffer(b"".join(texts), np.uint8), starts=starts)
    assert ids.row(value) is None and ids.row("True") == 2


def test_a_folder_whose_name_reads_like_a_pattern(folder: Path) -> None:
    assert len(Catalog.open(folder.rename(folder.with_name("catalog[1]"))).split("test")) == 2


def test_the_first_unknown_id_is_named(folder: Path) -> None:
    catalog = Catalog.open(folder)
    assert catalog.users.rows([200, -3], "user").tolist() == [2, 0]
    with pytest.raises(InputError, match="user 7 is not in the catalog"):
        catalog.users.rows([10, 7, 8], "user")


def test_a_split_comes_as_rows(folder: Path) -> None:
    split = Catalog.open(folder).split("test")
    assert (split.users.tolist(), split.items.tolist(), split.times.tolist(), split.liked.tolist()) == (
        [0, 2], [2, 1], [5, 6], [True, False],
    )  # fmt: skip
    assert len(split) == 2


def test_one_id_is_found_without_reading_the_table(folder: Path) -> None:
    """A million users: their ids alone are 8 MB, and a search reads a few hundred bytes of them."""
    names = [f"{3 * n:08d}" for n in range(1_000_000)]
    ids = {"id_bytes": np.frombuffer("".join(names).encode(), np.uint8), "id_offsets": np.arange(len(names) + 1) * 8}
    save_file(ids | {"embedding": np.zeros((len(names), 4), np.float16)}, folder / "users.safetensors")
    info = json.loads((folder / "catalog.json").read_text())
    files = info["files"] | {"users.safetensors": FileEntry.of(folder / "users.safetensors").to_json()}
    change(folder, ids=info["ids"] | {"user": "string"}, files=files)
    catalog = Catalog.open(folder)
    tracemalloc.start()
    try:
        rows = [catalog.users.row(name) for name in (names[0], names[777_777], names[-1], "00000004")]
        many = catalog.users.find([f"{n:08d}" for n in range(12)]).tolist()
        name = catalog.users.id(777_777)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == [0, 777_777, len(names) - 1, None] and name == names[777_777]
    assert many == [0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1]
    assert len(catalog.users) == len(names) and peak < 100_000


@pytest.mark.parametrize("count", [0, 1, 5, 3000])
@pytest.mark.parametrize("kind", ["int64", "string"])
def test_many_ids_are_found_as_one_is(count: int, kind: str) -> None:
    """Few in place, many in a copy; also in a catalog of no user."""
    numbers = np.arange(count) * 2
    names = [str(n).encode() for n in sorted(map(str, numbers.tolist()))]
    text, starts = np.frombuffer(b"".join(names), np.uint8), np.cumsum([0, *map(len, names)])
    ids = Ids("int64", len(numbers), numbers) if kind == "int64" else Ids("string", count, text=text, starts=starts)
    for queries in ([], [0], list(range(-3, 40)), ["x", "4", 2**70, "ü"]):
        one_by_one = [-1 if (row := ids.row(id)) is None else row for id in queries]
        assert ids.find(queries).tolist() == one_by_one
    rows = np.arange(count)[::-1]
    assert ids.take(rows) == [ids.id(int(row)) for row in rows]


def test_a_split_of_another_name_or_edited_or_missing(folder: Path) -> None:
    catalog = Catalog.open(folder)
    with pytest.raises(InputError, match="split 'tset', expected one of train, validation, test"):
        catalog.split("tset")
    path = folder / "splits/test.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"test.parquet: not the file catalog.json describes"):
        catalog.split("test")
    path.unlink()
    with pytest.raises(BundleError, match=r"a bundle's catalog does not hold it"):
        catalog.split("test")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "splits test: is None, expected an object"),
        ({"bytes": 1, "sha256": "", "path": 3}, "splits test path: is 3, expected a string"),
        ({"path": "../x.parquet", "bytes": 1, "sha256": ""}, "not a plain relative path"),
        ({"path": "splits/test.parquet"}, "splits test: `bytes` is missing"),
    ],
)
def test_a_split_badly_described(folder: Path, entry: object, message: str) -> None:
    change(folder, splits={"test": entry})
    with pytest.raises(BundleError, match=message):
        Catalog.open(folder).split("test")


def test_a_split_with_an_unknown_id(folder: Path) -> None:
    path = folder / "splits/test.parquet"
    pl.DataFrame({"user": [200, 7], "item": ["az", "é"], "time": [1, 2], "liked": [True, True]}).write_parquet(path)
    change(folder, splits={"test": {"path": "splits/test.parquet", **FileEntry.of(path).to_json()}})
    with pytest.raises(InputError, match="user 7 is not in the catalog"):
        Catalog.open(folder).split("test")


def test_no_folder_and_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such catalog folder"):
        Catalog.open(tmp_path / "none")
    with pytest.raises(BundleError, match=r"catalog.json: cannot be read: No such file"):
        Catalog.open(tmp_path)


def test_unknown_keys_are_ignored(folder: Path) -> None:
    change(folder, later="version")
    assert Catalog.open(folder).info["later"] == "version"


def test_a_table_of_the_right_size_with_other_bytes(folder: Path) -> None:
    path = folder / "items.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    catalog = Catalog.open(folder)
    assert len(catalog.edited()) == 1 and "items.safetensors" in catalog.edited()[0]
    with pytest.raises(BundleError, match=r"items.safetensors: not a safetensors table"):
        catalog.items.row("a")


@pytest.mark.parametrize(
    ("text", "starts", "line"),
    [
        (b"aaz\xc3\xa9", [0, 1, 9, 5], "the offsets of the ids of rows"),
        (b"aaz\xc3\xa9", [0, 1, 9, 9], "point beyond their text"),
        (b"aaz\xc3\xa9", [-1, 1, 3, 5], "are not ascending"),
        (b"aaz\xff\xfe", [0, 1, 3, 5], "not UTF-8"),
    ],
)
def test_damaged_text_ids(folder: Path, text: bytes, starts: list[int], line: str) -> None:
    path = folder / "items.safetensors"
    save_file({"id_bytes": np.frombuffer(text, np.uint8), "id_offsets": np.array(starts)}, path)
    change(folder, files=json.loads((folder / "catalog.json").read_text())["files"] | {path.name: FileEntry.of(path).to_json()})
    for read in (lambda ids: [ids.id(row) for row in range(3)], lambda ids: ids.take(np.arange(3))):
        with pytest.raises(BundleError, match=rf"items.safetensors: .*{line}"):
            read(Catalog.open(folder).items)
