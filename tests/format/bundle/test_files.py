"""Files on disk: JSON within bounds, paths that stay inside, files that are replaced as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rexit.errors import BundleError, InputError
from rexit.format.bundle.files import (
    WRITERS,
    FileEntry,
    check_hashes,
    check_paths,
    check_sizes,
    flush,
    json_values,
    read_json,
    write_file,
    write_json,
)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"schema": 3, "title": "Amélie"})
    assert read_json(tmp_path / "a.json") == {"schema": 3, "title": "Amélie"}


def test_json_holds_no_other_numbers() -> None:
    value = {"a": (1.5, float("nan"), [float("-inf"), 2]), "b": {"c": float("inf")}}
    assert json_values(value) == {"a": [1.5, None, [None, 2]], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds list, expected a JSON object"),
        ("{}", "schema None, this version reads schema 3$"),
        ('{"schema": 4}', "schema 4, this version reads schema 3$"),
        ('{"schema": 3, "requires": ["teleport"]}', r"requires \['teleport'\]"),
        ('{"schema": 3, "deep": ' + "[" * 40 + "]" * 40 + "}", "nested 41 deep, at most 32"),
        ('{"schema": 3, "many": [' + "1," * (1 << 16) + "1]}", "holds 65540 values, at most 65536"),
        ('{"schema": 3, "x": NaN}', "not valid JSON: NaN is not a finite number"),
        ('{"schema": 3, "x": 1e400}', "not valid JSON: 1e400 is not"),
    ],
    ids=lambda text: text[:40],
)
def test_json_out_of_bounds(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "writer"), WRITERS.items())
def test_an_older_schema_is_made_again(tmp_path: Path, name: str, writer: str) -> None:
    (tmp_path / name).write_text('{"schema": 2}')
    with pytest.raises(BundleError, match=f"{name}: schema 2, this version reads schema 3: make it again with {writer}$"):
        read_json(tmp_path / name)


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "", ".", "a//b", "./a", "a/"])
def test_paths_that_leave_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative path"):
        check_paths(["a", name])


@pytest.fixture
def listed(tmp_path: Path) -> dict[str, FileEntry]:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_bytes(b"abc")
    return {"sub/a.bin": FileEntry.of(tmp_path / "sub" / "a.bin")}


def test_listed_files_are_right(tmp_path: Path, listed: dict[str, FileEntry]) -> None:
    check_sizes(tmp_path, listed)
    assert list(check_hashes(tmp_path, listed)) == []
    assert listed["sub/a.bin"] == FileEntry(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_truncated_missing_and_edited_files(tmp_path: Path, listed: dict[str, FileEntry]) -> None:
    path = tmp_path / "sub" / "a.bin"
    path.write_bytes(b"abd")
    assert [line for line in check_hashes(tmp_path, listed) if "edited" in line]
    path.write_bytes(b"ab")
    with pytest.raises(BundleError, match="2 bytes, expected 3"):
        check_sizes(tmp_path, listed)
    path.unlink()
    with pytest.raises(BundleError, match="missing"):
        check_sizes(tmp_path, listed)


def test_links_are_refused_anywhere_on_the_way(tmp_path: Path, listed: dict[str, FileEntry]) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "sub")
    with pytest.raises(BundleError, match="linked: is a link"):
        check_sizes(tmp_path, {"linked/a.bin": listed["sub/a.bin"]})


def test_write_file_replaces_whole_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_file(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"):
        write_file(path, "new")
    assert path.read_text() == "old" and _names(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems; that a file's content is not on the disk is one."""
    (tmp_path / "file").write_text("whole")

    def refuse(opened: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    flush(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        flush(tmp_path / "file")
