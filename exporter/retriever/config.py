"""`--retriever-config`: how the retriever is made, in a TOML or JSON file whose keys are fields of an index's options."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rexit.errors import InputError
from rexit.exporter.options import IndexOptions, LightGCNOptions

_LIGHTGCN = {field.name: field.default for field in fields(LightGCNOptions) if field.name != "seed"}
_KNOWN: Mapping[str, Any] = {
    **_LIGHTGCN,
    "neighbours": IndexOptions.neighbours,
}
"""The keys, each with a value of the type that is expected."""


def with_config(options: IndexOptions, path: Path) -> IndexOptions:
    """Returns the options with a file's values.

    Args:
        options: values that the file does not name are kept.
        path: `.json` is JSON, anything else TOML.

    Raises:
        InputError: the file cannot be read, or a key is unknown or has a value of another type.
    """
    values = _read(path)
    for name, value in values.items():
        if name not in _KNOWN:
            raise InputError(f"{path}: unknown key {name!r}, expected some of {', '.join(_KNOWN)}")
        kind = type(_KNOWN[name])
        if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
            expected = "a number" if kind is float else "a whole number"
            raise InputError(f"{path}: {name} is {value!r}, expected {expected}")
    return replace(
        options,
        lightgcn=replace(options.lightgcn, **{name: values[name] for name in _LIGHTGCN if name in values}),
        neighbours=values.get("neighbours", options.neighbours),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # of both parsers, and of bytes that are not UTF-8
        raise InputError(f"{path}: not {'JSON' if path.suffix == '.json' else 'TOML'}: {str(exc).splitlines()[0]}") from exc
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object")
    return values
