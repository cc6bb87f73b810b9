"""The file of hidden rows: what it is reused for, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from rexit.errors import InputError
from rexit.exporter.heads.hidden_rows import ANSWER, HIDDEN, INFO, RowsFile, size

ORIGIN = {"model": "a", "catalog": "b"}


def opened(folder: Path, **changes: str) -> RowsFile:
    return RowsFile.open(folder, ORIGIN | changes, 2, 3, 4)


def test_saved_rows_are_there_again(tmp_path: Path) -> None:
    file = opened(tmp_path / "rows")
    assert file.done == 0 and sum((tmp_path / "rows" / name).stat().st_size for name in (HIDDEN, ANSWER)) == size(2, 3, 4)
    file.hidden[1, 2] = 7
    file.answer[:] = 0.5
    file.save(5)
    again = opened(tmp_path / "rows")
    assert again.done == 5 and (again.hidden[1, 2] == 7).all() and (again.answer == 0.5).all()


@pytest.mark.parametrize("name", ["model", "catalog"])
def test_rows_of_another_model_or_catalog(tmp_path: Path, name: str) -> None:
    opened(tmp_path / "rows").save(1)
    with pytest.raises(InputError, match=rf"rows: holds rows of another {name}: {ORIGIN[name]}, expected z; delete the folder"):
        opened(tmp_path / "rows", **{name: "z"})


@pytest.mark.parametrize("name", [HIDDEN, ANSWER])
def test_truncated_rows(tmp_path: Path, name: str) -> None:
    opened(tmp_path / "rows").save(1)
    path = tmp_path / "rows" / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=rf"{name}: \d+ bytes, expected \d+ bytes; delete the folder"):
        opened(tmp_path / "rows")
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: missing, expected \d+ bytes"):
        opened(tmp_path / "rows")


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1, "origin": 3, "done": 1}', '{"schema": 1, "origin": {}}'])
def test_folder_that_holds_no_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / INFO).write_text(text)
    with pytest.raises(InputError, match="delete the folder") as refused:
        opened(tmp_path / "rows")
    assert "\n" not in str(refused.value)
