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
    """Returns a function from token ids to text. Special tokens are spelled out, vectors become their placeholders.

    Args:
        folder: A folder with tokenizer.json, or that file.
        ids: Ids of the catalog's vectors; None: prompts are text only.

    Raises:
        InputError: There is no such tokenizer.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise InputError(f"{file}: no such file, expected a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as exc:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a tokenizer: {exc}") from exc
    if ids is None:
        return lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=False))

    def decode(tokens: Sequence[int]) -> str:
        parts: list[str] = []
        for is_vector, group in itertools.groupby(tokens, lambda token: token >= ids.vocabulary):
            run = list(group)
            parts += map(ids.placeholder, run) if is_vector else [str(tokenizer.decode(run, skip_special_tokens=False))]
        return "".join(parts)

    return decode
