"""Typed values from JSON, by msgspec, and back. A message names the field, what was seen and what was expected:

    variant.json: segments[1] layers: is 'all', expected an array
    variant.json: limits: `max_tokens` is missing

A type says what a field may be: one of some names by a pattern, `^(int64|string)$`. What no type can say, a `__post_init__`
checks: the ValueError that it raises is reported with the place of its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from rexit import __version__
from rexit.bundle.files import SCHEMA, json_values, read_json, write_json
from rexit.errors import BundleError, RexitError

T = TypeVar("T")

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]

_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile("Object missing required field (`.*`)")
_EXPECTED = re.compile("Expected (.*?)(?:, got .*)?")
_ONE_OF = re.compile(r"`str` matching regex '\^\((.*)\)\$'")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
"""msgspec's types as the runtime's messages name them."""


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
        raise error(f"{where}: {_problem(str(exc), value, kind, at)}") from exc


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


def _problem(text: str, value: Any, kind: Any, at: str) -> str:
    """One of msgspec's messages in words that name the place and the value that is there."""
    match = _MESSAGE.fullmatch(text)
    assert match is not None
    what, seen = match["what"], value
    steps: list[str | int] = []
    for name, index in _STEP.findall(match["path"] or ""):
        step: str | int = name or (index if index == "..." else int(index))
        if index == "...":
            step = _key_at_fault(text, value, steps, seen, kind)
        steps.append(step)
        seen = seen[step]
    place = (at + "".join(f"[{step}]" if isinstance(step, int) else f" {step}" for step in steps)).strip()
    prefix = f"{place}: " if place else ""
    if missing := _MISSING.fullmatch(what):
        return f"{prefix}{missing[1]} is missing"
    if expected := _EXPECTED.fullmatch(what):
        names = _ONE_OF.fullmatch(expected[1])
        words = names[1].replace("|", " or ") if names else re.sub(r"`([^`]*)`", lambda found: _in_words(found[1]), expected[1])
        return f"{prefix}is {short(seen)}, expected {words}"
    return f"{prefix}{what}"


def _in_words(union: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in union.split(" | "))


def _key_at_fault(text: str, value: Any, steps: list[str | int], node: dict[str, Any], kind: Any) -> str:
    """The key that msgspec's path leaves out: alone in its object, it causes the same message."""

    def only(part: Any, rest: list[str | int], key: str) -> Any:
        if not rest:
            return {key: node[key]}
        copy = part.copy()
        copy[rest[0]] = only(part[rest[0]], rest[1:], key)
        return copy

    for key in node:
        try:
            msgspec.convert(only(value, steps, key), kind)
        except msgspec.ValidationError as exc:
            if str(exc) == text:
                return key
    raise AssertionError(text)
