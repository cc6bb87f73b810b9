"""Texts of a request's inputs, which the compiled module takes as token ids."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from rexit.bundle import Manifest
from rexit.bundle.files import parse_json
from rexit.bundle.inputs import Input, Inputs
from rexit.bundle.manifest import MANIFEST, TOKENIZER
from rexit.runtime import _native
from rexit.texts import InputTokenizer


class _Body(msgspec.Struct):
    """What is read here of a request in JSON."""

    inputs: dict[str, Any] | None = None


class TextInputs:
    """The inputs of a bundle that are texts.

    Args:
        entries: The inputs.
        tokenizer: None: the bundle has none.
    """

    def __init__(self, entries: tuple[Input, ...], tokenizer: InputTokenizer | None) -> None:
        self._entries = {entry.name: entry for entry in entries if entry.kind == "max_tokens"}
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, session: _native.Session, path: str) -> Self:
        """Reads those of an opened bundle; none without a catalog. path: of the bundle, for messages."""
        if not session.info().has_catalog:
            return cls((), None)
        manifest = Manifest.parse(session.read_file(MANIFEST), f"{path}/{MANIFEST}")
        file = f"{manifest.catalog_folder}/catalog.json"
        inputs = Inputs.of(parse_json(session.read_file(file), file), file)
        return cls(inputs.entries, InputTokenizer(session.read_file(TOKENIZER)) if TOKENIZER in manifest.files else None)

    def encode(self, name: str, text: str) -> str | list[int]:
        """Returns the token ids of a text; the text itself if this input has none. Raises InputError."""
        entry = self._entries.get(name)
        return text if entry is None else entry.encode(text, self._tokenizer).tolist()

    def encode_json(self, body: bytes) -> list[tuple[str, list[int]]]:
        """Returns the names and token ids of the texts in a request's JSON. Of JSON that is not a request's it returns none: the
        compiled module reads it all and says what is wrong. Raises InputError."""
        if not self._entries:
            return []
        try:
            inputs = msgspec.json.decode(body, type=_Body).inputs or {}
        except (msgspec.DecodeError, RecursionError):
            return []
        return [
            (name, entry.encode(inputs[name], self._tokenizer).tolist())
            for name, entry in self._entries.items()
            if isinstance(inputs.get(name), str)
        ]
