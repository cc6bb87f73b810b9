from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from rexit.errors import InputError
from rexit.exporter.catalog import catalog_files
from running.full_disk import largest_file

# (user, item, time, liked), sorted by (user, time, item); user 1 has nothing, user 0 meets item 2 twice.
ROWS = [(0, 2, 5, True), (0, 0, 7, False), (0, 2, 7, False), (2, 1, 1, True), (2, 2, 6, True)]
FRAME = pl.DataFrame(ROWS, ["user", "item", "time", "liked"], orient="row")


def test_histories() -> None:
    written = catalog_files.histories(FRAME, 3)
    assert {name: (tensor.dtype.name, tensor.tolist()) for name, tensor in written.items()} == {
        "history_offsets": ("int64", [0, 3, 3, 5]),
        "history_items": ("int32", [2, 0, 2, 1, 2]),
        "history_times": ("int64", [5, 7, 7, 1, 6]),
        "history_liked": ("uint8", [1, 0, 0, 1, 1]),
        "history_by_item": ("int32", [1, 0, 2, 0, 1]),
    }


def test_ratings() -> None:
    written = catalog_files.ratings(FRAME, 4)
    assert {name: (tensor.dtype.name, tensor.tolist()) for name, tensor in written.items()} == {
        "rating_offsets": ("int64", [0, 1, 2, 5, 5]),
        "rating_times": ("int64", [7, 1, 5, 6, 7]),
        "rating_likes": ("int32", [0, 1, 1, 2, 2]),
    }


def test_ids() -> None:
    assert catalog_files.id_tensors(pl.Series([-5, 3]))["ids"].tolist() == [-5, 3]
    written = catalog_files.id_tensors(pl.Series(["a", "bé", ""]))
    assert written["id_bytes"].tobytes() == "abé".encode() and written["id_offsets"].tolist() == [0, 1, 4, 4]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: catalog_files.write_tensors(path, {"a": np.zeros(9000)}),
        lambda path: catalog_files.write_frame(path, pl.DataFrame({"a": np.random.default_rng(0).random(9000)})),
    ],
)
def test_a_full_disk_leaves_what_was_there(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("old")
    with largest_file(5000), pytest.raises(InputError, match="table: cannot be written: File too large"):
        write(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_tensors_are_written_as_they_are(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.empty((3, 0), np.int32), "c": np.arange(8)[:5]}
    catalog_files.write_tensors(tmp_path / "table", tensors)
    read = load_file(tmp_path / "table")
    assert read.keys() == tensors.keys() and all((read[name] == tensors[name]).all() for name in tensors)
