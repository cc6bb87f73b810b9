"""Inputs of a request: from what callers pass to what the compiled module takes. It takes texts as token ids."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Self

import msgspec
import numpy as np

from rexit import _native
from rexit.bundle import Manifest
from rexit.bundle.files import parse_json
from rexit.bundle.inputs import Inputs
from rexit.bundle.manifest import MANIFEST, TOKENIZER
from rexit.errors import InputError
from rexit.prompts.texts import InputTokenizer
from rexit.runtime._arguments import NativeInput, to_text


class _Body(msgspec.Struct):
    """What is read here of a request in JSON."""

    inputs: dict[str, Any] | None = None


class InputEncoder:
    """Encodes the values that Python alone can read: texts, and whatever is neither a string nor a number. The compiled module
    checks all others.

    Args:
        inputs: Those of the bundle's prompts.
        tokenizer: None: the bundle has none.
    """

    def __init__(self, inputs: Inputs, tokenizer: InputTokenizer | None) -> None:
        self._inputs, self._tokenizer = inputs, tokenizer
        self._by_name = {entry.name: entry for entry in inputs.entries}
        self._texts = {entry.name: entry for entry in inputs.entries if entry.kind == "max_tokens"}

    @classmethod
    def of(cls, session: _native.Session, path: str) -> Self:
        """Reads an opened bundle. path: its path, for messages."""
        if not session.info().has_catalog:
            return cls(Inputs(), None)
        manifest = Manifest.parse(session.read_file(MANIFEST), f"{path}/{MANIFEST}")
        file = f"{manifest.catalog_folder}/catalog.json"
        inputs = Inputs.of(parse_json(session.read_file(file), file), file)
        has_texts = any(entry.kind == "max_tokens" for entry in inputs.entries)
        needs_tokenizer = has_texts and TOKENIZER in manifest.files
        return cls(inputs, InputTokenizer(session.read_file(TOKENIZER)) if needs_tokenizer else None)

    def warm_up(self) -> None:
        """Parses the tokenizer, if some input is a text. A problem with it is left to the first text: token ids need none."""
        if self._tokenizer is not None:
            with contextlib.suppress(InputError):
                self._tokenizer.parse()

    def encode(self, inputs: Mapping[str, Any]) -> list[tuple[str, NativeInput]]:
        """Returns names and values, without those that are None. Raises InputError."""
        plain = {name: value.item() if _is_scalar(value) else value for name, value in inputs.items()}
        return [
            (to_text("a name in inputs", name), self._encode(name, value)) for name, value in plain.items() if value is not None
        ]

    def encode_json(self, body: bytes) -> list[tuple[str, list[int]]]:
        """Returns the names and token ids of the texts in a request's JSON. Raises InputError for a text. Other mistakes in the
        JSON are left to the compiled module."""
        if not self._texts:
            return []
        try:
            inputs = msgspec.json.decode(body, type=_Body).inputs or {}
        except (ValueError, RecursionError):
            return []
        return [
            (name, entry.encode(inputs[name], self._tokenizer, self._inputs.vocabulary).tolist())
            for name, entry in self._texts.items()
            if isinstance(inputs.get(name), str)
        ]

    def _encode(self, name: str, value: Any) -> NativeInput:
        if isinstance(value, str):
            text = to_text(f"inputs.{name}", value)
            if name not in self._texts:
                return text
        if isinstance(value, Real) and not isinstance(value, bool):
            return _to_float(value)
        self._inputs.check_names([name])
        codes = self._by_name[name].encode(value, self._tokenizer, self._inputs.vocabulary)  # refuses all but a text
        return list(map(int, codes))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 0


def _to_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer or a fraction beyond float64
        return math.inf
