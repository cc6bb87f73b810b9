"""Folders that appear whole or not at all, and one writer at a time.

A writer locks a file (flock) and does not wait for the lock. The kernel releases a lock when its process ends, however it ends.
So files in a place whose lock is free are leftovers of a killed process, and the next writer removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rexit import interrupts
from rexit.errors import InputError
from rexit.format.bundle.files import flush


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `target` when the block ends. It vanishes if the block fails or is interrupted.

    An existing `target` is replaced as a whole, only after the new folder was flushed: a power cut leaves one of the two.

    Temporary files are in `.NAME.tmp` next to the target: `new`; `lock`; and `old`, the former target, on file systems where two
    folders cannot change places at once.

    Raises:
        InputError: The place cannot be written, or another process is writing the same target.
    """
    target = Path(os.path.abspath(target))
    beside = target.with_name(f".{target.name}.tmp")
    try:
        with _locked_folder(beside, target):
            _settle(beside)
            try:
                (beside / "new").mkdir()
                yield beside / "new"
                for path in [*(beside / "new").rglob("*"), beside / "new"]:
                    flush(path)
                with interrupts.deferred():
                    interrupts.check()
                    if os.path.lexists(target) and not _exchange(beside / "new", target):
                        os.rename(target, beside / "old")
                    if not os.path.lexists(target):
                        os.rename(beside / "new", target)
                    flush(target.parent)
            finally:
                with interrupts.deferred(), contextlib.suppress(OSError):  # the next writer cleans up
                    _settle(beside)
    except OSError as exc:
        raise InputError(f"{target}: cannot be written: {exc.strerror or exc}") from exc


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges two folders in one step, so that there is always a folder at `b`. Returns False where that is not possible."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return renameat2 is not None and renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0


_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def link_or_copy(source: str, target: str) -> None:
    """Makes a hard link if the file system supports it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def bundle_copy(bundle: Path, variant: str) -> Iterator[Path]:
    """Yields a private copy of a bundle with the files of one variant, by hard links where possible. It is removed when the block
    ends.

    Only for the bundle's `sole_writer`. Replace the copy's files, never write into them. Raises InputError if the bundle cannot
    be written.
    """

    def ignored(folder: str, names: list[str]) -> set[str]:
        if Path(folder).parent == bundle / "variants" and Path(folder).name != variant:
            return set(names) - {"variant.json"}
        return {name for name in names if name.startswith(".")}

    copy = bundle / ".copy.tmp"  # a name that `sole_writer` cleans up after a killed process
    try:
        try:
            shutil.copytree(bundle, copy, symlinks=True, ignore=ignored, copy_function=link_or_copy)
        except OSError as exc:
            reason = exc.args[0][0][2] if isinstance(exc, shutil.Error) else exc.strerror or exc
            raise InputError(f"{bundle}: cannot be written: {reason}") from exc
        yield copy
    finally:
        with interrupts.deferred():
            shutil.rmtree(copy, ignore_errors=True)


@contextlib.contextmanager
def sole_writer(bundle: Path) -> Iterator[None]:
    """Makes this process the bundle's only writer while the block runs. Does nothing if there is no bundle.

    Raises InputError if another process is writing to it.
    """
    manifest = bundle / "manifest.json"
    if not manifest.is_file():
        yield
        return
    # For writing where that is allowed: NFS grants exclusive locks only then.
    with locked_file(manifest, os.O_RDWR if os.access(manifest, os.W_OK) else os.O_RDONLY, bundle):
        with contextlib.suppress(OSError):  # leftovers of killed processes, harmless; this is the only writer
            for folder in list(bundle.rglob(".*.tmp")):
                _settle(folder)
                _remove(folder)
            for file in list(bundle.rglob(".*.tmp-*")):
                _remove(file)
        yield


def _settle(beside: Path) -> None:
    """Removes the leftovers of a writer of a new folder. Restores the old folder if the writer ended between the two renames."""
    target, old = beside.with_name(beside.name.removeprefix(".").removesuffix(".tmp")), beside / "old"
    if os.path.lexists(old) and not os.path.lexists(target):
        os.rename(old, target)
    for leftover in (beside / "new", old):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked_folder(folder: Path, target: Path) -> Iterator[None]:
    """Creates a folder and locks a file in it. Removes both afterwards."""
    lock, locked = folder / "lock", False
    with contextlib.ExitStack() as stack:
        try:
            while not locked:
                folder.mkdir(parents=True, exist_ok=True)
                with interrupts.deferred(), contextlib.suppress(FileNotFoundError):  # removed meanwhile, by its last holder
                    stack.enter_context(locked_file(lock, os.O_RDWR | os.O_CREAT, target))
                    locked = True
            interrupts.check()
            yield
        finally:
            with interrupts.deferred(), contextlib.suppress(OSError):  # not empty: another writer is in it
                if locked:
                    lock.unlink(missing_ok=True)
                folder.rmdir()


@contextlib.contextmanager
def locked_file(path: Path, flags: int, what: Path) -> Iterator[None]:
    """Locks a file while the block runs. The block may replace or remove it: a process that gets the old file's lock tries again.

    Args:
        path: The file.
        flags: Flags to open it with.
        what: What the lock protects, for messages.

    Raises:
        InputError: Another process has the lock, or the file system has no locks.
        OSError: The file cannot be opened.
    """
    while True:
        file = os.open(path, flags, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(file)
            raise InputError(f"{what}: another process is writing to it; try again when it has finished") from exc
        except OSError as exc:
            os.close(file)
            raise InputError(f"{path}: cannot be locked, the file system does not support it: {exc.strerror}") from exc
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
