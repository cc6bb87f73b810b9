"""The inputs of interactions: columns of their file, encoded once.

Rules
1. An input of no kind takes the values of its column in all interactions: whole numbers of at most 19 digits by size, else by
   text.
2. A cell is a value as text, without outer spaces. An empty one is missing. A float is the number, as in requests; for a text it
   has the digits of float64.
3. A file without a column that the template does not name, of a text that may be missing, has no such texts: all are missing.

In frames codes are in decimal with spaces between them, "" if the value is missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tokenizers import Tokenizer

from rexit.data.texts import input_tokens
from rexit.errors import InputError
from rexit.exporter.catalog.source_tables import check_rows, texts_of
from rexit.format.bundle.inputs import COLUMN, KINDS, MAX_VALUES, Input

_WHOLE = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True)
class InputRule:
    """A section `[input.NAME]`.

    Attributes:
        name: NAME.
        entry: The input; None: its values are those of the column.
        column: Column of the interactions; None: NAME.
        words: The text of each value or bin in prompts; empty: the input's own.
        missing: The text in place of a missing value; None: it is refused.
    """

    name: str
    entry: Input | None = None
    column: str | None = None
    words: tuple[str, ...] = ()
    missing: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return self.entry is not None and self.entry.max_tokens is not None

    def column_in(self, columns: Collection[str]) -> str | None:
        """Returns the column of the interactions, which have `columns`; None: all values are missing."""
        needless = self.column is None and self.missing is not None and self.is_text
        return None if needless and self.name not in columns else self.column or self.name


def with_values(rule: InputRule, values: tuple[str, ...]) -> Input:
    """Returns a rule's input. values: Those of its column, for a rule that has none."""
    return rule.entry or Input(name=rule.name, values=values, optional=rule.missing is not None)


def known_inputs(rules: Sequence[InputRule], interactions: pl.DataFrame, path: Path) -> tuple[Input, ...]:
    """Returns the inputs of a template with their values.

    Args:
        rules: The template's.
        interactions: A column `input.NAME` of raw cells for each.
        path: The interactions file, for messages.

    Raises:
        InputError: A column has too many values, or numbers with fractions.
    """
    return tuple(rule.entry or with_values(rule, _distinct(interactions[COLUMN + rule.name], rule, path)) for rule in rules)


def with_codes(interactions: pl.DataFrame, inputs: Sequence[Input], tokenizer: Tokenizer, path: Path) -> pl.DataFrame:
    """Replaces raw cells by codes, as text.

    Args:
        interactions: A column `input.NAME` of raw cells for each input.
        inputs: The catalog's.
        tokenizer: Tokenizes texts.
        path: The interactions file, for messages.

    Raises:
        InputError: The first row with a value that its input refuses.
    """
    for entry in inputs:
        raw = interactions[COLUMN + entry.name]
        is_number = raw.dtype.is_float() and entry.max_tokens is None
        cells = raw.cast(pl.Float64) if is_number else _texts(raw, path)
        distinct = cells.unique(maintain_order=True)
        codes = pl.Series(_codes(entry, distinct, tokenizer), dtype=pl.String)
        column = cells.replace_strict(distinct, codes, return_dtype=pl.String)
        check_rows(column.is_null(), raw, path, entry.encoder.expected)
        interactions = interactions.with_columns(column.alias(raw.name))
    return interactions


def _codes(entry: Input, cells: pl.Series, tokenizer: Tokenizer) -> list[str | None]:
    """Returns the codes of each cell as text; None for one that is refused."""
    values = cells.to_list()
    if entry.max_tokens is not None:
        values = input_tokens(tokenizer, cells.fill_null("").to_list(), entry.spaced)
    codes: list[str | None] = []
    for value in values:
        try:
            codes.append(" ".join(map(str, entry.encode(value).tolist())))
        except InputError:
            codes.append(None)
    return codes


def _distinct(raw: pl.Series, rule: InputRule, path: Path) -> tuple[str, ...]:
    column = rule.column or rule.name
    if raw.dtype.is_float():
        raise InputError(f"{path}: column {column!r} holds {raw.dtype}: give [input.{rule.name}] bins or digits")
    values = _texts(raw, path).drop_nulls().unique().to_list()
    if not 1 <= len(values) <= MAX_VALUES:
        raise InputError(
            f"{path}: column {column!r} has {len(values)} values, an input takes 1 to {MAX_VALUES}: "
            f"give [input.{rule.name}] one of {', '.join(KINDS)}"
        )
    whole = all(_WHOLE.fullmatch(value) for value in values)
    return tuple(sorted(values, key=(lambda value: (int(value), value)) if whole else None))


def _texts(raw: pl.Series, path: Path) -> pl.Series:
    """Cells as text; null where there is none."""
    if raw.dtype.is_nested():
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, which has no text form")
    return texts_of(raw.cast(pl.Float64) if raw.dtype.is_float() else raw, path)
