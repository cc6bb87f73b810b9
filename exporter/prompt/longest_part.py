"""What makes a catalog's longest possible prompt long: a placeholder, and the longest text of its column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.prompt.program import Fields, Lengths, Op, longest, placeholder


def longest_part(catalog: Catalog, part: str) -> tuple[str, str]:
    """Returns what can append the most tokens to the part `prefix` or `candidate`, and the longest text of its column beside the
    99th percentile, with their tokens. The second is empty without a column, both for a part without ops."""
    lengths: Lengths = np.diff(catalog.piece_table["offsets"])
    fields = {**_fields("user", catalog.user_table), **_fields("item", catalog.item_table)}
    if not (ops := catalog.info["prompt"][part]):
        return "", ""
    op, tokens = longest(ops, lengths, fields, catalog.inputs.entries)
    inner = longest(op["entry"], lengths, fields)[0] if op.get("entry") else op
    return f"{placeholder(op) or 'text of the template'}: {tokens}", _longest_text(catalog, inner, lengths, fields)


def _longest_text(catalog: Catalog, op: Op, lengths: Lengths, fields: Fields) -> str:
    what = op["op"].removesuffix("_field")
    if what not in ("user", "item"):
        return ""
    cells = lengths[fields[f"{what}.{op['field']}"]]
    row, ids = int(cells.argmax()), catalog.users if what == "user" else catalog.items
    name, p99 = op["field"].removeprefix(" "), np.percentile(cells, 99, method="inverted_cdf")
    return f"{what}.{name} of {what} {ids.id(row)}: {cells[row]} (99 %: {p99})"


def _fields(what: str, table: Mapping[str, NDArray[Any]]) -> Fields:
    return {f"{what}.{name.removeprefix('field.')}": table[name] for name in table if name.startswith("field.")}
