"""Prompts as text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle import VectorIds


def decoder(folder: Path, ids: VectorIds | None = None) -> Callable[[Sequence[int]], str]:
    """From token ids to text, special tokens as they are spelled, vectors as their placeholders. folder: one with a
    `tokenizer.json`, or that file; ids: of the catalog's vectors. Raises InputError."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise InputError(f"{file}: no such file, expected a tokenizer.json")
    try:
        loaded = Tokenizer.from_file(str(file))
    except Exception as exc:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a tokenizer: {exc}") from exc
    if ids is None:
        return lambda tokens: str(loaded.decode(tokens, skip_special_tokens=False))

    def decode(tokens: Sequence[int]) -> str:
        parts: list[str] = []
        for is_vector, grouped in itertools.groupby(tokens, lambda token: token >= ids.vocabulary):
            run = list(grouped)
            parts += map(ids.placeholder, run) if is_vector else [str(loaded.decode(run, skip_special_tokens=False))]
        return "".join(parts)

    return decode
