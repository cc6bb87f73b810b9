"""Stops a command at one of its file operations, and examines what it leaves.

    cd tests && python -m crash.points [--command export] [--how kill]

A *point* is the moment before an operation by which Python changes something below the command's folder: to open a file for
writing, to rename, remove, make a folder, link. A command runs in a fork of this process, so that nothing is imported twice.

| how | at the point |
|---|---|
| kill | SIGKILL |
| term | SIGTERM |
| full | the disk is full: this and all later operations that need room fail with ENOSPC |
| readonly | the disk is read-only, as Linux makes one that fails: this and all later points fail with EROFS |

After each, what the command writes must be the old or the new, whole, and its inputs unchanged. After `term` and `full` nothing
else may be left. `kill` and `readonly` leave no way to remove anything, so the same command is run again, after which nothing
else may be left. A command that fails says so in one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builders.bundles.bundle_files import contents
from rexit.doors.cli import main
from running.traced import traced_once

HOW: Final = ("kill", "term", "full", "readonly")
LEAVES: Final = ("kill", "readonly")  # what is temporary
CHANGES: Final = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
NEED_ROOM: Final = {"open", "os.mkdir", "os.link", "os.symlink"}


@dataclass(frozen=True)
class Command:
    """A command under test, in a folder.

    Attributes:
        name: its name.
        make: prepares everything that the command needs.
        words: the words of its command line.
        writes: name of the folder that it writes there.
        may_keep: names of files in it that a failed run may leave.
        check: raises if what it writes is not whole.
    """

    name: str
    make: Callable[[Path], None]
    words: Callable[[Path], list[object]]
    writes: str
    may_keep: tuple[str, ...]
    check: Callable[[Path], None]


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: as in a shell, 128 + N after signal N."""

    code: int
    err: str


def run(command: Command, place: Path, point: int | None, how: str = "kill") -> tuple[Ended, int]:
    """Runs a command up to a point, from 0; None: to its end. Returns how it ended, and how many points it reached."""
    counter, points = os.pipe()

    def child() -> None:
        os.close(counter)
        sys.argv = ["rexit", *(str(word) for word in command.words(place))]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _watch(place, points, point, how)
        main()

    process = _fork(child, log := Path(f"{place}.log"))
    os.close(points)
    with os.fdopen(counter, "rb") as pipe:
        count = len(pipe.read())
    return _ended(process, log), count


def apart(function: Callable[[], object], log: Path) -> Ended:
    """Runs a function in a fork, so that no pool of threads starts in this process: its forks would lack the threads."""
    return _ended(_fork(function, log), log)


def _fork(function: Callable[[], object], log: Path) -> int:
    child = os.fork()
    if child != 0:
        return child
    code = 70
    try:
        with log.open("w") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        function()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(process: int, log: Path) -> Ended:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(128 - code if code < 0 else code, log.read_text(errors="replace"))


def _watch(place: Path, points: int, point: int | None, how: str) -> None:
    """Writes a byte to `points` at each point, and stops the command at `point`."""
    below, count, broken = os.fsencode(place), 0, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, broken
        if not _changes(event, arguments, below):
            return
        os.write(points, b".")
        count += 1
        if count - 1 == point:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            broken = True
        if broken and (how == "readonly" or event in NEED_ROOM):
            code = errno.EROFS if how == "readonly" else errno.ENOSPC
            raise OSError(code, os.strerror(code), str(arguments[0]))

    sys.addaudithook(hook)


def _changes(event: str, arguments: tuple[Any, ...], below: bytes) -> bool:
    if event == "ctypes.dlsym":  # the writer of folders looks it up each time before it exchanges two of them
        return bool(arguments[1] == "renameat2")
    if event == "open":
        path, mode, flags = arguments
        if not (flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not (isinstance(mode, str) and set(mode) & set("wax+")):
            return False
    elif event in CHANGES:
        path = arguments[0]
    else:
        return False
    return isinstance(path, str | bytes | os.PathLike) and os.fsencode(path).startswith(below)


class WrongError(AssertionError):
    """A stopped command left what it must not."""


def examine(command: Command, original: Path, point: int, how: str, whole: bool = True) -> str:
    """Stops the command at a point, in a copy of `original`. Returns which it left, `old` or `new`.

    whole: after `kill` and `readonly`, run it again and examine that as well.

    Raises:
        WrongError: It left anything else.
    """
    with tempfile.TemporaryDirectory(dir=original.parent) as folder:
        place = Path(folder) / "place"
        shutil.copytree(original, place, symlinks=True)
        before, names = _written(command, place), {path.name for path in place.iterdir()}
        others = _others(command, place)
        ended, _ = run(command, place, point, how)
        label = f"{command.name}, {how} at {point}"
        left = _state(command, place, before, label)
        if _others(command, place) != others:
            raise WrongError(f"{label}: an input has changed")
        if not _ended_well(ended, how, left):
            raise WrongError(f"{label}: {left}, ended with {ended.code}\n{ended.err}")
        if how in LEAVES:
            if not whole:
                return left
            again, _ = run(command, place, None)
            if again.code != 0:
                raise WrongError(f"{label}: the next run ended with {again.code}\n{again.err}")
            _state(command, place, before, f"{label}, then a whole run")
        if more := {path.name for path in place.rglob("*") if ".tmp" in path.name}:
            raise WrongError(f"{label}: {sorted(more)} was left behind")
        if more := {path.name for path in place.iterdir()} - names - {command.writes}:
            raise WrongError(f"{label}: {sorted(more)} was left behind")
        return left


def _ended_well(ended: Ended, how: str, left: str) -> bool:
    if how == "kill":
        return ended.code == 128 + signal.SIGKILL
    lines = [line for line in ended.err.splitlines() if line.startswith("rexit: ")]
    good = {0} if left == "new" else {1, 2}
    if how == "term":
        good.add(128 + signal.SIGTERM)
    if how == "readonly":  # the policy is new, its report cannot be written, nor the old policy brought back
        good |= {1, 2}
    return ended.code in good and "Traceback" not in ended.err and (ended.code == 0 or len(lines) == 1)


def _written(command: Command, place: Path) -> dict[str, bytes] | None:
    """Without temporary files, and those that a failed run may leave."""
    if not (place / command.writes).exists():
        return None
    files = contents(place / command.writes)
    return {name: file for name, file in files.items() if ".tmp" not in name and Path(name).name not in command.may_keep}


def _others(command: Command, place: Path) -> dict[str, bytes]:
    """The files that the command must not change."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and path.relative_to(place).parts[0].strip(".").removesuffix(".tmp") != command.writes
    }


def _state(command: Command, place: Path, before: dict[str, bytes] | None, label: str) -> str:
    if _written(command, place) == before:
        return "old"
    checked = apart(lambda: command.check(place), Path(f"{place}.check"))
    if checked.code != 0:
        raise WrongError(f"{label}: neither the old nor whole\n{checked.err}")
    return "new"


@contextlib.contextmanager
def prepared(command: Command) -> Iterator[tuple[Path, int]]:
    """Yields a folder with all that the command needs, and the number of its points."""
    with tempfile.TemporaryDirectory() as folder, traced_once(Path(folder)):
        original = Path(folder) / "original"
        original.mkdir()
        if (ended := apart(lambda: command.make(original), Path(folder) / "make.log")).code != 0:
            raise WrongError(f"{command.name}: cannot be prepared\n{ended.err}")
        copy = Path(shutil.copytree(original, Path(folder) / "whole", symlinks=True))
        ended, points = run(command, copy, None)
        if ended.code != 0:
            raise WrongError(f"{command.name}: ended with {ended.code}\n{ended.err}")
        if _state(command, copy, _written(command, original), f"{command.name}, a whole run") != "new":
            raise WrongError(f"{command.name}: a whole run changes nothing")
        shutil.rmtree(copy)
        yield original, points


def examine_all() -> None:
    from crash.commands import COMMANDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=[command.name for command in COMMANDS])
    parser.add_argument("--how", choices=HOW)
    args = parser.parse_args()
    for command in COMMANDS:
        if args.command not in (None, command.name):
            continue
        with prepared(command) as (original, points):
            for how in HOW if args.how is None else (args.how,):
                left = Counter(examine(command, original, point, how, whole=point % 5 == 0) for point in range(points))
                counts = ", ".join(f"{name} {count}" for name, count in sorted(left.items()))
                print(f"{command.name}, {how}: {points} points: {counts}", flush=True)


if __name__ == "__main__":
    examine_all()
