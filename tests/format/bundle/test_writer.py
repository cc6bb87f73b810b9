"""Folders that appear whole or not at all, and one writer at a time: among real processes, killed ones too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rexit.errors import InputError
from rexit.format.bundle import write_file, writer
from rexit.format.bundle.writer import new_folder, sole_writer

BUSY = "bundle: another process is writing to it; try again when it has finished"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def process() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Runs Python code in a process of its own until it says that it is ready."""
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        lines = [
            "import os, sys, time",
            "from pathlib import Path",
            "from rexit.format.bundle import writer",
            "from rexit.format.bundle.writer import *",
            code,
        ]
        made = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True)
        started.append(made)
        assert made.stdout is not None and made.stdout.readline() == "ready\n"
        return made

    yield start
    for made in started:
        made.kill()
        made.communicate()


def _writing(target: Path) -> str:
    return f"""
with new_folder(Path({str(target)!r})) as folder:
    (folder / "half").write_text("of it")
    print("ready", flush=True)
    time.sleep(60)"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As much of one as matters here."""
    made = tmp_path / "bundle"
    (made / "variants" / "one" / "engines" / "key").mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    return made


def test_new_folder_takes_its_place_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "made" / "bundle"
    with new_folder(target) as folder:
        (folder / "a").write_text("new")
        assert not target.exists() and _names(target.parent) == [".bundle.tmp"]
    assert (target / "a").read_text() == "new" and _names(target.parent) == ["bundle"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
def test_new_folder_that_fails_leaves_the_old_one(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "a").write_text("old")
    with pytest.raises(failure), new_folder(target) as folder:
        (folder / "a").write_text("new")
        raise failure
    assert (target / "a").read_text() == "old" and _names(tmp_path) == ["bundle"]


def test_an_old_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "a").write_text("old")

    def rename(*_: Any) -> None:
        pytest.fail("two steps")

    monkeypatch.setattr(os, "rename", rename)
    with new_folder(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "new" and _names(tmp_path) == ["bundle"]


def test_interrupt_between_the_renames_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "a").write_text("old")
    rename, calls = os.rename, []

    def second_fails(source: Any, to: Any) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, to)

    monkeypatch.setattr(writer, "_exchange", lambda a, b: False)  # a file system that cannot
    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "old" and _names(tmp_path) == ["bundle"]


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), new_folder(tmp_path / "file" / "bundle"):
        pass


def test_full_disk_inside_the_block_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bundle: cannot be written: No space left on device"), new_folder(tmp_path / "bundle"):
        raise OSError(28, "No space left on device")
    assert _names(tmp_path) == []


def test_a_folder_is_made_by_one_process_at_a_time(tmp_path: Path, process: Callable[[str], subprocess.Popen[str]]) -> None:
    target = tmp_path / "bundle"
    alive = process(_writing(target))
    before = (tmp_path / ".bundle.tmp" / "new" / "half").read_text()
    with pytest.raises(InputError, match=BUSY), new_folder(target):
        pytest.fail("got in")
    assert (tmp_path / ".bundle.tmp" / "new" / "half").read_text() == before  # a live one's work stays
    with new_folder(tmp_path / "other"):  # and other places are free
        pass
    alive.send_signal(signal.SIGKILL)
    alive.wait()
    assert _names(tmp_path) == [".bundle.tmp", "other"]
    with new_folder(target) as folder:
        assert _names(folder) == []
    assert _names(tmp_path) == ["bundle", "other"]


def test_killed_between_the_renames_the_old_folder_comes_back(
    tmp_path: Path, process: Callable[[str], subprocess.Popen[str]]
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "a").write_text("old")
    code = """
writer._exchange = lambda a, b: False  # a file system that cannot
rename = os.rename
def second_waits(source, to):
    if Path(to).name == "bundle":
        print("ready", flush=True)
        time.sleep(60)
    rename(source, to)
os.rename = second_waits"""
    killed = process(f"{code}\nwith new_folder(Path({str(target)!r})): pass")
    killed.kill()
    killed.wait()
    assert not target.exists()
    with pytest.raises(ValueError), new_folder(target):
        assert (target / "a").read_text() == "old"
        raise ValueError
    assert (target / "a").read_text() == "old" and _names(tmp_path) == ["bundle"]


def test_a_bundle_has_one_writer_at_a_time(bundle: Path, process: Callable[[str], subprocess.Popen[str]]) -> None:
    alive = process(f"with sole_writer(Path({str(bundle)!r})):\n    print('ready', flush=True)\n    time.sleep(60)")
    with pytest.raises(InputError, match=BUSY), sole_writer(bundle):
        pytest.fail("got in")
    alive.kill()
    alive.wait()
    with sole_writer(bundle), pytest.raises(InputError, match=BUSY), sole_writer(bundle):
        pytest.fail("got in")
    with sole_writer(bundle):
        pass
    assert (bundle / "manifest.json").read_text() == "{}"


def test_a_bundle_is_rid_of_what_killed_processes_left(bundle: Path, process: Callable[[str], subprocess.Popen[str]]) -> None:
    part = bundle / "variants" / "one"
    (part / ".report.png.tmp-123").write_bytes(b"half a picture")
    killed = process(_writing(part / "engines" / "key"))
    killed.kill()
    killed.wait()
    (part / "engines" / "key").rename(part / "engines" / ".key.tmp" / "old")
    with sole_writer(bundle):
        assert _names(part) == ["engines"] and _names(part / "engines") == ["key"]


def test_whoever_waited_for_a_replaced_bundle_locks_the_new_one(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, flock = [], writer.fcntl.flock

    def replaced_meanwhile(file: int, how: int) -> None:
        opened.append(os.fstat(file).st_ino)
        if len(opened) == 1:
            (bundle / "new").write_text("{}")
            os.replace(bundle / "new", bundle / "manifest.json")
        flock(file, how)

    monkeypatch.setattr(writer.fcntl, "flock", replaced_meanwhile)
    with sole_writer(bundle):
        assert len(set(opened)) == 2 and opened[-1] == (bundle / "manifest.json").stat().st_ino


def test_nothing_is_locked_where_no_bundle_is(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "bundle"):
        assert _names(tmp_path) == []


def test_a_manifest_that_cannot_be_written_is_locked_all_the_same(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with sole_writer(bundle), pytest.raises(InputError, match=BUSY), sole_writer(bundle):
        pytest.fail("got in")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(writer.fcntl, "flock", none)
    with (
        pytest.raises(InputError, match=r"lock: cannot be locked, .*: Function not implemented"),
        new_folder(tmp_path / "bundle"),
    ):
        pytest.fail("got in")
    assert not (tmp_path / "bundle").exists()


class Disk:
    """What a power cut would leave under each name: only what was flushed. Watches the flushes, and names that change place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: set[int] = set()
        self.lost: list[str] = []
        fsync, replace, rename, exchange = os.fsync, os.replace, os.rename, writer._exchange
        monkeypatch.setattr(os, "fsync", lambda opened: (fsync(opened), self.held.add(os.fstat(opened).st_ino))[0])
        monkeypatch.setattr(os, "replace", lambda a, b: (self._take(Path(a)), replace(a, b))[1])
        monkeypatch.setattr(os, "rename", lambda a, b: (self._take(Path(a)), rename(a, b))[1])
        monkeypatch.setattr(writer, "_exchange", lambda a, b: (self._take(a), exchange(a, b))[1])

    def _take(self, path: Path) -> None:
        """Takes its place under another name: was all of it on the disk?"""
        self.lost += [entry.name for entry in (path, *path.rglob("*")) if entry.stat().st_ino not in self.held]


@pytest.mark.parametrize("there", [False, True])
def test_a_new_folder_is_on_the_disk_before_it_takes_its_place(there: bool, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "target"
    if there:
        target.mkdir()
    disk = Disk(monkeypatch)
    with new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("whole")
    assert disk.lost == [] and (target / "inner" / "file").stat().st_ino in disk.held
    assert tmp_path.stat().st_ino in disk.held, "the names themselves"


def test_a_flushed_file_is_on_the_disk_before_it_replaces_another(tmp_path: Path, monkeypatch) -> None:
    disk = Disk(monkeypatch)
    write_file(tmp_path / "policy.json", "{}", flushed=True)
    assert disk.lost == [] and {path.stat().st_ino for path in (tmp_path, tmp_path / "policy.json")} <= disk.held
    write_file(tmp_path / "other", "{}")
    assert disk.lost == [f".other.tmp-{os.getpid()}"], "the test would see it"
