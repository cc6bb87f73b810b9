"""The objectives' labels of interactions: a column of 0, 1 or nothing, or the numbers of a column from a threshold on.

Rules
1. An objective of the template without a rule of its own takes the column of its name.
2. An empty cell, and NaN, is unknown. Without a threshold any other cell is 0 or 1, or a boolean; with one, a finite number.
3. Sampled items (`--unrated`) were not met: all their labels are 0.
4. The training split has both labels of each objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from rexit.bundle.catalog import SPLITS
from rexit.bundle.labels import COLUMN
from rexit.errors import InputError
from rexit.exporter.catalog.entities import check_rows
from rexit.exporter.options import ObjectiveRule


def rules_of(objectives: Sequence[str], given: Sequence[ObjectiveRule], template: Path) -> tuple[ObjectiveRule, ...]:
    """A rule for each of the template's objectives, in their order. Raises InputError for one that the template does not have."""
    by_name: dict[str, ObjectiveRule] = {}
    for rule in given:
        if rule.name not in objectives:
            names = f"has {', '.join(objectives)}" if objectives else "names no `objectives` in [labels]"
            raise InputError(f"--objective {rule}: {template} {names}")
        if rule.name in by_name:
            raise InputError(f"--objective {rule}: {by_name[rule.name]} is given, too; expected one column for an objective")
        by_name[rule.name] = rule
    return tuple(by_name.get(name, ObjectiveRule(name, name)) for name in objectives)


def label_column(raw: pl.Series, rule: ObjectiveRule, path: Path) -> pl.Series:
    """An objective's labels, bool with nulls, from its column. Raises InputError for the first cell that is no label."""
    cells = raw
    if raw.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = raw.cast(pl.String).str.strip_chars()
        cells = text.set(text == "", None)
    try:
        numbers = cells.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError:
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, expected {_expected(rule)}") from None
    known = cells.is_not_null() & ~numbers.is_nan().fill_null(False)
    valid = numbers.is_finite() if rule.at_least is not None else numbers.is_in([0.0, 1.0])
    check_rows(known & ~valid.fill_null(False), raw, path, _expected(rule))
    labels = numbers >= (1.0 if rule.at_least is None else rule.at_least)
    return labels.set(~known, None)


def check_classes(samples: pl.DataFrame, rules: Sequence[ObjectiveRule], path: Path) -> None:
    """Rule 4. samples: `split` and the objectives' columns. Raises InputError."""
    train = samples.filter(pl.col("split") == SPLITS[0])
    for rule in rules:
        known = train[COLUMN + rule.name].drop_nulls()
        if known.is_empty() or known.all() or not known.any():
            seen = "none" if known.is_empty() else f"all {len(known)} {'1' if known.all() else '0'}"
            raise InputError(
                f"{path}: the known labels of objective {rule.name!r} ({rule}) are {seen} in the train split, expected 0 and 1: "
                "nothing can be learned of it"
            )


def without_labels(frame: pl.DataFrame) -> pl.DataFrame:
    """Sampled items' rows: every label 0."""
    return frame.with_columns(pl.lit(False).alias(name) for name in frame.columns if name.startswith(COLUMN))


def _expected(rule: ObjectiveRule) -> str:
    what = "0, 1 or nothing" if rule.at_least is None else "a number or nothing"
    return f"{what}, for objective {rule.name!r}"
