"""Files on disk: bounded JSON, its types, digests, safe relative paths, atomic replacement.

JSON becomes typed values by msgspec, and back. A message names the field, what was seen and what was expected:

    variant.json: segments[1] layers: is 'all', expected an array
    variant.json: limits: `max_tokens` is missing

A type says what a field may be: one of some names by a pattern, `^(int64|string)$`. What no type can say, a `__post_init__`
checks: the ValueError that it raises is reported with the place of its value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from rexit import __version__, interrupts
from rexit.errors import BundleError, InputError, RexitError

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


T = TypeVar("T")

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]

_WORDS: dict[type, str] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    list: "an array",
    dict: "an object",
    NoneType: "null",
}
"""Types as the runtime's messages name them."""


def typed(value: Any, kind: type[T], where: str, *, at: str = "", error: type[RexitError] = BundleError) -> T:
    """Converts JSON values to a type. Unknown keys of objects are ignored.

    Args:
        value: What the JSON holds.
        kind: A msgspec.Struct, or any other type that msgspec knows.
        where: The file, for messages.
        at: The place of the value in the file, such as `watch`; "": it is the whole file.
        error: What is raised.

    Raises:
        error: The value is not of this type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise error(f"{where}: {_problem(value, kind, at) or exc}") from exc


def read_typed(path: Path, kind: type[T]) -> T:
    """Reads a file as `read_json` does, and converts it. Raises BundleError."""
    return typed(read_json(path), kind, str(path))


def to_json(value: msgspec.Struct) -> dict[str, Any]:
    """Returns plain JSON values. Fields with their default are left out if the struct says so (`omit_defaults`)."""
    plain: dict[str, Any] = json_values(msgspec.to_builtins(value))
    return plain


def write_typed(path: Path, value: Mapping[str, Any] | msgspec.Struct) -> None:
    """Writes a file that `read_typed` reads. Raises InputError if it cannot be written."""
    content = to_json(value) if isinstance(value, msgspec.Struct) else dict(value)
    if "files" in content:
        content["files"] = dict(sorted(content["files"].items()))
    write_json(path, {"schema": SCHEMA, "producer": f"rexit {__version__}", **content})


def short(value: Any) -> str:
    """Returns a value for a message, at most 60 characters."""
    return clipped(str(value).lower() if isinstance(value, bool) else repr(value))


def clipped(text: str) -> str:
    """Returns a text for a message, at most 60 characters."""
    return text if len(text) <= 60 else f"{text[:59]}…"


def _problem(value: Any, kind: Any, place: str) -> str | None:
    """The first thing in a value that is not of its type, in words; None if there is none."""
    prefix = f"{place}: " if place else ""
    if get_origin(kind) is Annotated and get_origin(get_args(kind)[0]) in (Union, UnionType):
        kind = get_args(kind)[0]
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    fitting = next((option for option in kinds if _is(value, _json_type(option))), None)
    if fitting is None:
        return f"{prefix}is {short(value)}, expected {' or '.join(dict.fromkeys(map(_in_words, kinds)))}"
    plain = get_args(fitting)[0] if get_origin(fitting) is Annotated else fitting
    if (fields := _fields(plain)) is not None:
        for name, part_kind, required in fields:
            if name not in value:
                if required:
                    return f"{prefix}`{name}` is missing"
            elif problem := _problem(value[name], part_kind, f"{place} {name}".strip()):
                return problem
    elif isinstance(value, dict):
        for key, part in value.items():
            if problem := _problem(part, (get_args(plain) or (str, Any))[1], f"{place} {key}".strip()):
                return problem
    elif isinstance(value, list | tuple):
        parts = get_args(plain) or (Any, ...)
        if get_origin(plain) is tuple and parts[-1] is not ... and len(parts) != len(value):
            return f"{prefix}is {short(value)}, expected an array of length {len(parts)}"
        for n, part in enumerate(value):
            if problem := _problem(part, parts[0] if parts[-1] is ... or len(parts) == 1 else parts[n], f"{place}[{n}]"):
                return problem
    try:
        msgspec.convert(value, fitting)
    except msgspec.ValidationError as exc:  # a bound, or what a `__post_init__` says
        cause = exc.__cause__
        return f"{prefix}{cause or f'is {short(value)}, expected {_in_words(fitting)}'}"
    return None


def _fields(kind: Any) -> list[tuple[str, Any, bool]] | None:
    """Name, type and whether it is required, of each field of a struct or dataclass; None for other types."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [(field.encode_name, field.type, field.required) for field in msgspec.structs.fields(kind)]
    if not dataclasses.is_dataclass(kind):
        return None
    hints, missing = get_type_hints(kind, include_extras=True), dataclasses.MISSING
    return [(f.name, hints[f.name], f.default is missing and f.default_factory is missing) for f in dataclasses.fields(kind)]


def _json_type(kind: Any) -> type | None:
    """The type of JSON that a Python type is written as; None: any."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    origin = get_origin(plain) or plain
    if origin is Any or not isinstance(origin, type):
        return None
    if issubclass(origin, msgspec.Struct | Mapping) or dataclasses.is_dataclass(origin):
        return dict
    return list if issubclass(origin, tuple | list) else origin


def _is(value: Any, json_type: type | None) -> bool:
    if json_type in (None, object):
        return True
    if json_type is list:
        return isinstance(value, list | tuple)
    return type(value) in ((int, float) if json_type is float else (json_type,))


def _in_words(kind: Any) -> str:
    """A type as the runtime's messages name it, with its bounds: `an integer >= 1`."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    json_type: Any = _json_type(kind)
    words, limits = "anything" if json_type is None else _WORDS.get(json_type, str(json_type)), []
    for meta in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        if meta.pattern is not None:
            return str(meta.pattern.removeprefix("^(").removesuffix(")$").replace("|", " or "))
        sizes = {">=": meta.ge, ">": meta.gt, "<=": meta.le, "<": meta.lt}
        limits += [f"{sign} {json_type(limit)}" for sign, limit in sizes.items() if limit is not None]
        lengths = {">=": meta.min_length, "<=": meta.max_length}
        limits += [f"of length {sign} {length}" for sign, length in lengths.items() if length is not None]
    return f"{words} {' and '.join(limits)}".strip()
