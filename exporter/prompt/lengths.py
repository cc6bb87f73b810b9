"""How long the prompts of a catalog are, and which placeholder and column the longest ones owe their length to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.program import Fields, Lengths, Op, longest, placeholder

USERS, ITEMS = 2000, 10  # measured: at most so many users with a history, and a slate of so many items for each


def prompt_lengths(catalog: Catalog) -> dict[str, Any]:
    """`prompt.lengths` of catalog.json, as docs/format.md describes it: what `catalog`'s prompts measure, and what the longest
    one that its tables allow is made of. The same catalog gives the same figures.
    """
    prefixes, candidates = _measure(catalog)
    return {
        "users": len(prefixes),
        "prefix": {**_percentiles(prefixes), "longest": _blame(catalog, "prefix")},
        "candidate": {**_percentiles(candidates), "longest": _blame(catalog, "candidate")},
    }


def _measure(catalog: Catalog) -> tuple[list[int], list[int]]:
    """The tokens of prefixes and of candidates, from users drawn among those with a history and items drawn among all."""
    random, builder = np.random.default_rng(0), PromptBuilder(catalog)
    users = np.flatnonzero(np.diff(catalog.user_table["history_offsets"]))
    slates = [
        builder.prompt_rows(int(user), random.integers(len(catalog.items), size=ITEMS))
        for user in random.permutation(users)[:USERS]
    ]
    return [len(slate.prefix) for slate in slates], [len(candidate) for slate in slates for candidate in slate.candidates]


def _percentiles(lengths: Sequence[int] | NDArray[Any]) -> dict[str, int]:
    p50, p99 = np.percentile(lengths, [50, 99], method="inverted_cdf")
    return {"p50": int(p50), "p99": int(p99), "max": int(np.max(lengths))}


def _blame(catalog: Catalog, part: str) -> dict[str, Any] | None:
    """The op of a part that can append the most tokens, and the column that its longest text comes from. None: no ops."""
    lengths: Lengths = np.diff(catalog.piece_table["offsets"])
    fields = _fields(catalog)
    if not (ops := catalog.info["prompt"][part]):
        return None
    op, tokens = longest(ops, lengths, fields)
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
