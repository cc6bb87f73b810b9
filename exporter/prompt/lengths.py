"""Lengths of a catalog's prompts, and the placeholder and column that make the longest ones long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.program import Fields, Lengths, Op, longest, placeholder

USERS, ITEMS = 2000, 10  # most users measured, and items in each user's slate


def prompt_lengths(catalog: Catalog) -> dict[str, Any]:
    """`prompt.lengths` of catalog.json (docs/format.md): measured lengths, and what makes the longest possible prompt long.

    The same catalog gives the same figures.
    """
    prefixes, candidates = _measure(catalog)
    return {
        "users": len(prefixes),
        "prefix": {**_percentiles(prefixes), "longest": _longest(catalog, "prefix")},
        "candidate": {**_percentiles(candidates), "longest": _longest(catalog, "candidate")},
    }


def _measure(catalog: Catalog) -> tuple[list[int], list[int]]:
    """Tokens of prefixes and of candidates, for a sample of users with a history and of items."""
    random, builder = np.random.default_rng(0), PromptBuilder(catalog)
    example = catalog.inputs.encode(catalog.inputs.example())
    users = np.flatnonzero(np.diff(catalog.user_table["history_offsets"]))
    slates = [
        builder.prompt_rows(int(user), random.integers(len(catalog.items), size=ITEMS), inputs=[example])
        for user in random.permutation(users)[:USERS]
    ]
    return [len(slate.prefix) for slate in slates], [len(candidate) for slate in slates for candidate in slate.candidates]


def _percentiles(lengths: Sequence[int] | NDArray[Any]) -> dict[str, int]:
    p50, p99 = np.percentile(lengths, [50, 99], method="inverted_cdf")
    return {"p50": int(p50), "p99": int(p99), "max": int(np.max(lengths))}


def _longest(catalog: Catalog, part: str) -> dict[str, Any] | None:
    """The op of a part that can append the most tokens, and the column of its longest text. None: no ops."""
    lengths: Lengths = np.diff(catalog.piece_table["offsets"])
    fields = _fields(catalog)
    if not (ops := catalog.info["prompt"][part]):
        return None
    op, tokens = longest(ops, lengths, fields, catalog.inputs.entries)
    inner = longest(op["entry"], lengths, fields)[0] if op.get("entry") else op
    return {"placeholder": placeholder(op), "tokens": tokens, "column": _column(catalog, inner, lengths, fields)}


def _column(catalog: Catalog, op: Op, lengths: Lengths, fields: Fields) -> dict[str, Any] | None:
    what = op["op"].removesuffix("_field")
    if what not in ("user", "item"):
        return None
    cells = lengths[fields[f"{what}.{op['field']}"]]
    row, ids = int(cells.argmax()), catalog.users if what == "user" else catalog.items
    return {"name": f"{what}.{op['field'].removeprefix(' ')}", **_percentiles(cells), "id": ids.id(row)}


def _fields(catalog: Catalog) -> Fields:
    def of(what: str, table: Mapping[str, NDArray[Any]]) -> Fields:
        return {f"{what}.{name.removeprefix('field.')}": table[name] for name in table if name.startswith("field.")}

    return {**of("user", catalog.user_table), **of("item", catalog.item_table)}
