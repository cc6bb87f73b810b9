"""Prompts as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rexit.errors import InputError


def decoder(folder: Path) -> Callable[[Sequence[int]], str]:
    """From token ids to text, special tokens as they are spelled. folder: one with a `tokenizer.json`, or that file. Raises
    InputError."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise InputError(f"{file}: no such file, expected a tokenizer.json")
    try:
        loaded = Tokenizer.from_file(str(file))
    except Exception as exc:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a tokenizer: {exc}") from exc
    return lambda ids: str(loaded.decode(ids, skip_special_tokens=False))
