"""Folders that appear whole or not at all, and one writer at a time.

A writer holds the lock of a file (flock) and does not wait for it. The kernel lets go of a lock when its holder ends, however it
ends: what lies in a place whose lock is to be had was left behind by a process that was killed, and is settled by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rexit import interrupts
from rexit.errors import InputError


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that takes `target`'s place when the block ends, and vanishes if it fails or is interrupted.

    An existing `target` is replaced as a whole, only at the end. Raises InputError when the place cannot be written, or while
    another process is making the same one.

    All that is temporary is in `.NAME.tmp` beside it: `new`; `old`, what `target` was, between two renames; `lock`.
    """
    target = Path(os.path.abspath(target))
    beside = target.with_name(f".{target.name}.tmp")
    try:
        with _locked_folder(beside, target):
            _settle(beside)
            try:
                (beside / "new").mkdir()
                yield beside / "new"
                interrupts.check()
                if os.path.lexists(target):
                    os.rename(target, beside / "old")
                os.rename(beside / "new", target)
            finally:
                _settle(beside)
    except OSError as exc:
        raise InputError(f"{target}: cannot be written: {exc.strerror or exc}") from exc


@contextlib.contextmanager
def sole_writer(bundle: Path) -> Iterator[None]:
    """Nobody else writes into the bundle, or replaces it, while the block runs. Nothing where no bundle is.

    Raises InputError while another process does.
    """
    manifest = bundle / "manifest.json"
    if not manifest.is_file():
        yield
        return
    # For writing where that is allowed: NFS gives exclusive locks for nothing else.
    with _locked(manifest, os.O_RDWR if os.access(manifest, os.W_OK) else os.O_RDONLY, bundle):
        with contextlib.suppress(OSError):  # what killed processes left, this being the only one alive; it harms nobody
            for folder in list(bundle.rglob(".*.tmp")):
                _settle(folder)
                _remove(folder)
            for file in list(bundle.rglob(".*.tmp-*")):
                _remove(file)
        yield


def _settle(beside: Path) -> None:
    """What a writer of a new folder has left: the old folder back in place if it ended between the two renames."""
    target, old = beside.with_name(beside.name.removeprefix(".").removesuffix(".tmp")), beside / "old"
    if os.path.lexists(old) and not os.path.lexists(target):
        os.rename(old, target)
    for left in (beside / "new", old):
        _remove(left)


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked_folder(folder: Path, target: Path) -> Iterator[None]:
    """A folder and the lock in it, both gone afterwards."""
    lock = folder / "lock"
    with contextlib.ExitStack() as stack:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # removed since, by whoever had it
                stack.enter_context(_locked(lock, os.O_RDWR | os.O_CREAT, target))
                break
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: the next one is in it already
                folder.rmdir()


@contextlib.contextmanager
def _locked(path: Path, flags: int, what: Path) -> Iterator[None]:
    """Holds the lock of a file, which may be replaced or removed in the block: whoever locks that one later looks again.

    Raises InputError where `what` has another writer, or the file system no locks; OSError where it cannot be opened.
    """
    while True:
        file = os.open(path, flags, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(file)
            raise InputError(f"{what}: another process is writing it; try again when that has ended") from exc
        except OSError as exc:
            os.close(file)
            raise InputError(f"{path}: cannot be locked, the file system does not do that: {exc.strerror}") from exc
        if _is_there(file, path):
            break
        os.close(file)
    try:
        yield
    finally:
        os.close(file)


def _is_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
