"""Pieces: texts that are tokenized separately and stored once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rexit.errors import InputError
from rexit.exporter.catalog.tables import offsets
from rexit.exporter.libraries import hub_folder
from rexit.progress import Progress, silent

BATCH = 1 << 14  # texts tokenized at once
FILES = ("*token*", "*.model", "vocab*", "merges*", "config.json")
"""Patterns of a tokenizer's files on the Hub."""


@dataclass
class Pieces:
    """Collects texts and numbers them. The template's texts may name special tokens, the data's may not.

    A key is a text, whether it is the template's, and its most tokens (None: any number).
    """

    _rows: dict[tuple[str, bool, int | None], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._rows)

    def literal(self, text: str) -> int:
        """The piece of a text of the template."""
        return self._rows.setdefault((text, True, None), len(self._rows))

    def column(self, texts: pl.Series, missing: int, limit: int | None = None) -> NDArray[np.int32]:
        """The pieces of a column of texts; special tokens in them become ordinary text.

        Args:
            texts: strings.
            missing: the piece of null.
            limit: most tokens of a text; longer ones are cut.

        Returns:
            int32 [n].
        """
        known = texts.drop_nulls().unique(maintain_order=True)
        rows = {text: self._rows.setdefault((text, False, limit), len(self._rows)) for text in known}
        return texts.replace_strict({**rows, None: missing}, return_dtype=pl.Int32).to_numpy().astype(np.int32)

    def encode(self, tokenizer: Tokenizer, progress: Progress = silent) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Tokenizes all texts. Returns CSR: `offsets` int64 [K+1] and `tokens` int32 [offsets[K]]."""
        keys = list(self._rows)  # in the order of their rows
        lengths, tokens = np.zeros(len(keys), np.int64), []
        progress("tokens", 0, len(keys))
        for begin in range(0, len(keys), BATCH):
            ids = _token_ids(tokenizer, keys[begin : begin + BATCH])
            end = begin + len(ids)
            lengths[begin:end] = [len(text) for text in ids]
            tokens.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32))
            progress("tokens", end, len(keys))
        return offsets(lengths), np.concatenate(tokens)


def _token_ids(tokenizer: Tokenizer, keys: Sequence[tuple[str, bool, int | None]]) -> list[list[int]]:
    """The token ids of each of some keys of `Pieces`. The tokenizer's setting for special tokens is reset."""
    ids: list[list[int]] = [[] for _ in keys]
    for trusted in (True, False):
        chosen = [n for n, (_, literal, _) in enumerate(keys) if literal == trusted]
        tokenizer.encode_special_tokens = not trusted
        encoded = tokenizer.encode_batch([keys[n][0] for n in chosen], add_special_tokens=False)
        for n, encoding in zip(chosen, encoded, strict=True):
            ids[n] = encoding.ids[: keys[n][2]]
    tokenizer.encode_special_tokens = False
    return ids


def load_tokenizer(source: str) -> Tokenizer:
    """Loads a tokenizer, without padding and truncation.

    Args:
        source: a `tokenizer.json`, a folder with one, or an id on the Hugging Face Hub. transformers converts older formats.

    Raises:
        InputError: there is no such file, folder or id, or it holds no tokenizer.
    """
    path = Path(source)
    if not path.exists():
        path = hub_folder(source, FILES, InputError, f"tokenizer {source}", "file or folder")
    if path.is_dir() and (path / "tokenizer.json").is_file():
        path = path / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True).backend_tokenizer
    except Exception as exc:  # tokenizers raises bare Exception
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise InputError(f"tokenizer {source}: neither a tokenizer.json nor a folder with one: {reason}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's serialized form, in hex."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def single_token(tokenizer: Tokenizer, text: str, what: str) -> int:
    """The id of the single token that `text` is. Raises InputError, naming `what`, if it is none or several."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        tokens = [tokenizer.id_to_token(token) for token in ids]
        raise InputError(f"{what}: {text!r} is {len(ids)} tokens of this tokenizer {tokens}, expected exactly one")
    return int(ids[0])
