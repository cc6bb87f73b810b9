"""The contexts of interactions: columns of their file, as numbers of the values that prompts know.

Rules
1. A context without values and bins takes the values of its column in all interactions: whole numbers by size, else by text.
2. A cell is a value as text, without outer spaces; of bins, a number.
3. A cell that is empty or unknown is refused, or `MISSING` where the template says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rexit.bundle.context import MISSING, MOST_VALUES, UNKNOWN, Context
from rexit.errors import InputError
from rexit.exporter.catalog.entities import check_rows

CONTEXT = "context."
"""Begins the placeholder of a context, and the name of its column in a catalog's splits."""


@dataclass(frozen=True)
class ContextRule:
    """A section `[context.NAME]`: what a context may be.

    column: of the interactions. values: as written; empty: those of the column, or bins. edges: of bins; empty: it has values.
    words: how values or bins are written in prompts; empty: a value as it is, a bin by its lower edge.
    unknown: one of `rexit.bundle.context.UNKNOWN`.
    """

    name: str
    column: str
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    unknown: str = UNKNOWN[0]


def known_contexts(rules: Sequence[ContextRule], interactions: pl.DataFrame, path: Path) -> tuple[Context, ...]:
    """The contexts of a template with their values.

    Args:
        rules: the template's.
        interactions: a column `context.NAME` of raw cells for each.
        path: the interactions file, for messages.

    Raises:
        InputError: a column has too many values, or numbers with fractions.
    """
    contexts = []
    for rule in rules:
        values = rule.values
        if not values and not rule.edges:
            values = _distinct(interactions[CONTEXT + rule.name], rule, path)
        contexts.append(Context(name=rule.name, values=values, edges=rule.edges, unknown=rule.unknown))
    return tuple(contexts)


def with_context_numbers(interactions: pl.DataFrame, contexts: Sequence[Context], path: Path) -> pl.DataFrame:
    """Replaces raw cells by the numbers of their values, int32.

    Raises:
        InputError: the first row with a value that its context refuses.
    """
    for context in contexts:
        raw = interactions[CONTEXT + context.name]
        cells = _texts(raw, path)
        distinct = cells.drop_nulls().unique(maintain_order=True)
        found = [context.find(value) for value in distinct]
        numbers = cells.replace_strict(
            distinct,
            pl.Series([MISSING if n is None else n for n in found], dtype=pl.Int32),
            default=MISSING,
            return_dtype=pl.Int32,
        )
        if context.unknown == "refuse":
            check_rows(numbers == MISSING, raw, path, context.expected)
        interactions = interactions.with_columns(numbers.alias(raw.name))
    return interactions


def _distinct(raw: pl.Series, rule: ContextRule, path: Path) -> tuple[str, ...]:
    if raw.dtype.is_float():
        raise InputError(f"{path}: column {rule.column!r} holds {raw.dtype}: give [context.{rule.name}] bins")
    values = _texts(raw, path).drop_nulls().unique().to_list()
    if not 1 <= len(values) <= MOST_VALUES:
        raise InputError(
            f"{path}: column {rule.column!r} has {len(values)} values, a context takes 1 to {MOST_VALUES}: "
            f"give [context.{rule.name}] values or bins"
        )
    whole = all(value.lstrip("-").isascii() and value.lstrip("-").isdigit() for value in values)
    return tuple(sorted(values, key=(lambda value: (int(value), value)) if whole else None))


def _texts(raw: pl.Series, path: Path) -> pl.Series:
    """Cells as text; null where there is none."""
    try:
        texts = raw.cast(pl.String).str.strip_chars()
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, which has no text form") from exc
    return pl.select(pl.when(texts != "").then(texts).alias(raw.name)).to_series()
