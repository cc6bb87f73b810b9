"""Typed values from JSON, by msgspec, and back. A message names the field, what was seen and what was expected:

    variant.json: segments[1] layers: is 'all', expected an array
    variant.json: limits: `max_tokens` is missing

A type says what a field may be: one of some names by a pattern, `^(int64|string)$`. What no type can say, a `__post_init__`
checks: the ValueError that it raises is reported with the place of its value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from rexit import __version__
from rexit.bundle.files import SCHEMA, json_values, read_json, write_json
from rexit.errors import BundleError, RexitError

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
    text = str(value).lower() if isinstance(value, bool) else repr(value)
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
    if not isinstance(origin, type):
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
