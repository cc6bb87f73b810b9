"""Files on disk: bounded JSON, digests, safe relative paths, atomic replacement."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from rexit import interrupts
from rexit.errors import BundleError, InputError

SCHEMA = 3
WRITERS = {
    "catalog.json": "`rexit index`",
    "exits.json": "`rexit heads` or `rexit train`",
    "manifest.json": "`rexit export`",
    "variant.json": "`rexit export`",
    "policy.json": "`rexit calibrate`",
    "report.json": "`rexit calibrate`",
    "engine.json": "`rexit compile`",
}
"""The command that writes each file."""
MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 32
MAX_JSON_VALUES = 1 << 16


class FileEntry(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (lower-case hex) of a file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Returns the entry of a file on disk."""
        return cls(path.stat().st_size, digest(path))

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        return msgspec.structs.asdict(self)


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, lower-case hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extent(value: Any) -> tuple[int, int]:
    """Returns how deeply a value is nested, and the number of values in it, itself included."""
    depth, values, level = 0, 0, [value]
    while level:
        depth += 1
        values += len(level)
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        ]
    return depth, values


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a catalog or bundle.

    Raises:
        BundleError: The file cannot be read, is larger or deeper than allowed, has another schema, or requires something.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise BundleError(f"{path}: {size} bytes, at most {MAX_JSON_BYTES} allowed")
        data = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read: {exc.strerror}") from exc
    return parse_json(data, str(path))


def parse_json(data: bytes, path: str) -> dict[str, Any]:
    """The same for a file's bytes. path: for messages."""
    try:
        value = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{path}: not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BundleError(f"{path}: holds {type(value).__name__}, expected a JSON object")
    depth, values = _extent(value)
    if depth > MAX_JSON_DEPTH:
        raise BundleError(f"{path}: nested {depth} deep, at most {MAX_JSON_DEPTH} allowed")
    if values > MAX_JSON_VALUES:
        raise BundleError(f"{path}: holds {values} values, at most {MAX_JSON_VALUES} allowed")
    if (schema := value.get("schema")) != SCHEMA:
        older = isinstance(schema, int) and schema < SCHEMA
        writer = WRITERS.get(PurePosixPath(path).name) if older else None
        advice = f": make it again with {writer}" if writer else ""
        raise BundleError(f"{path}: schema {schema!r}, this version reads schema {SCHEMA}{advice}")
    if requires := value.get("requires"):
        raise BundleError(f"{path}: requires {requires!r}, which this version does not know")
    return value


def _finite(text: str) -> float:
    """What JSON's numbers are: neither NaN nor beyond a float64."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def check_paths(files: Iterable[str]) -> None:
    """Raises ValueError for a path that leaves its folder."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or name != str(path) or ".." in path.parts or name in ("", "."):
            raise ValueError(f"file path {name!r} is not a plain relative path")


def check_sizes(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Raises BundleError unless every listed file is a regular file of the recorded size, without links in its path."""
    for name, entry in files.items():
        path = folder
        for part in PurePosixPath(name).parts:
            path = path / part
            if path.is_symlink():
                raise BundleError(f"{path}: is a link, which a bundle must not hold")
        if not path.is_file():
            raise BundleError(f"{path}: missing, {folder.name} lists it")
        if (size := path.stat().st_size) != entry.bytes:
            raise BundleError(f"{path}: {size} bytes, expected {entry.bytes} (truncated or edited)")


def check_hashes(folder: Path, files: Mapping[str, FileEntry]) -> Iterator[str]:
    """Yields one line per file with another hash than recorded."""
    for name, entry in files.items():
        if (sha256 := digest(folder / name)) != entry.sha256:
            yield f"{folder / name}: SHA-256 {sha256[:12]}…, expected {entry.sha256[:12]}… (edited)"


def check_writable(folder: Path) -> None:
    """Raises InputError if no file can be created in a folder, before minutes of work.

    It creates a file: permission bits say nothing about a read-only mount, and root ignores them.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"rexit")
            file.flush()
    except OSError as exc:
        raise InputError(f"{folder}: cannot be written: {exc.strerror}") from exc


def json_values(value: Any) -> Any:
    """Returns a value with lists for tuples, and None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Mapping[str, Any], flushed: bool = False) -> None:
    """Writes or replaces a JSON file, as `replaced` does. Raises InputError."""
    write_file(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", flushed)


def write_file(path: Path, data: str | bytes, flushed: bool = False) -> None:
    """Replaces a file, as `replaced` does. Raises InputError."""
    with replaced(path, flushed) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replaced(path: Path, flushed: bool = False) -> Iterator[Path]:
    """Yields the path of a sibling to write, and renames it to `path` afterwards. No reader or mapping ever sees half of it.

    Args:
        path: The file to create or replace.
        flushed: Flush it to the disk first, so that a power cut does not leave half of it either. Needless in a `new_folder`,
            which is flushed as a whole.

    Raises:
        InputError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        if flushed:
            flush(temporary)
        os.replace(temporary, path)
        if flushed:
            flush(path.parent)
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc.strerror}") from exc
    finally:
        with interrupts.deferred():
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flushes a file's content, or a folder's names, to the disk, so that a later rename cannot overtake them. Does nothing for a
    folder if the file system cannot flush folders."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
