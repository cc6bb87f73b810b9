"""Per-user chronological split."""

from __future__ import annotations

import polars as pl

from rexit.bundle.catalog import SPLITS

HELD_OUT = 10  # one interaction in this many for validation, as many for test


def assign(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sorts interactions and says which split each belongs to.

    Rules
    1. Order: user row, time, item row; what is equal in all three keeps the order of the file.
    2. Of a user's n interactions the last floor(n/10) are `test`, the floor(n/10) before them `validation`, the rest `train`.
       So a user with fewer than ten is all training.

    `interactions` needs `user` and `item` as rows and `time`; the result has one more column, `split`.
    """
    n, position = pl.len().over("user"), pl.int_range(pl.len()).over("user")
    left = n - position  # 1 for the user's last interaction
    train, validation, test = SPLITS
    return interactions.sort("user", "time", "item", maintain_order=True).with_columns(
        split=pl.when(left <= n // HELD_OUT)
        .then(pl.lit(test))
        .when(left <= 2 * (n // HELD_OUT))
        .then(pl.lit(validation))
        .otherwise(pl.lit(train))
    )
