"""The request texts of interactions: a column of their file, tokenized once.

Rules
1. A cell is a text without outer spaces. An empty one is missing: refused, or `missing` of the template.
2. A text with more tokens than the template allows is refused.
3. A file without the column has no texts: all are missing.

In frames a text is its token ids in decimal with spaces between them, "" if it is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tokenizers import Tokenizer

from rexit.errors import InputError
from rexit.exporter.catalog.entities import check_rows
from rexit.texts import request_tokens

REQUEST = "request."
"""Begins the placeholder of a request text, and the name of its column in a catalog's splits."""


@dataclass(frozen=True)
class RequestRule:
    """A section `[request.NAME]`: what a request text may be.

    max_tokens: a longer text is refused. spaced: a space precedes the placeholder, and belongs to the text.
    missing: stands for a missing text; None: it is refused. column: of the interactions; None: NAME, if they have it.
    """

    name: str
    max_tokens: int
    spaced: bool
    missing: str | None = None
    column: str | None = None

    def column_of(self, columns: Collection[str]) -> str | None:
        """The column of the interactions, which have `columns`; None: all texts are missing."""
        if self.column is not None or self.missing is None:
            return self.column or self.name
        return self.name if self.name in columns else None


def with_request_tokens(
    interactions: pl.DataFrame, rules: Sequence[RequestRule], tokenizer: Tokenizer, path: Path
) -> pl.DataFrame:
    """Replaces raw cells by token ids, as text.

    Args:
        interactions: a column `request.NAME` of raw cells for each rule.
        rules: the template's.
        tokenizer: the catalog's.
        path: the interactions file, for messages.

    Raises:
        InputError: the first row with a text that is too long, or missing where one is required.
    """
    for rule in rules:
        raw = interactions[REQUEST + rule.name]
        try:
            texts = raw.cast(pl.String).fill_null("")
        except pl.exceptions.PolarsError as exc:
            raise InputError(f"{path}: column {rule.name!r} holds {raw.dtype}, which has no text form") from exc
        distinct = texts.unique(maintain_order=True)
        tokens = request_tokens(tokenizer, distinct.to_list(), rule.spaced)
        counts = texts.replace_strict(distinct, pl.Series([len(ids) for ids in tokens], dtype=pl.Int64))
        if rule.missing is None:
            check_rows(counts == 0, raw, path, "a text")
        check_rows(counts > rule.max_tokens, raw, path, f"at most {rule.max_tokens} tokens")
        written = pl.Series([" ".join(map(str, ids)) for ids in tokens], dtype=pl.String)
        interactions = interactions.with_columns(texts.replace_strict(distinct, written).alias(raw.name))
    return interactions
