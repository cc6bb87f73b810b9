"""The labels of the training split, softened by a teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.errors import InputError


def softened_labels(catalog: Catalog, teacher: Path, weight: float) -> NDArray[np.float32]:
    """The training split's labels, in its order, each moved by `weight` to what the teacher says of the pair.

    Raises:
        InputError: `teacher` is no file of scored pairs or does not have all of them.
    """
    rows = catalog.split("train")
    pairs = pl.DataFrame({"user_id": catalog.users.take(rows.users), "item_id": catalog.items.take(rows.items)})
    schema = pl.Schema([*pairs.schema.items(), ("probability", pl.Float64())])
    try:
        scored = pl.read_parquet(teacher, columns=[*schema]).cast(schema)
    except (OSError, pl.exceptions.PolarsError) as exc:
        raise InputError(
            f"{teacher}: {str(exc).splitlines()[0]}; expected a .parquet with user_id, item_id, probability"
        ) from exc
    copy = pl.int_range(pl.len()).over("user_id", "item_id").alias("copy")  # a pair may have several interactions
    matched = pairs.with_columns(copy).join(
        scored.with_columns(copy), on=["user_id", "item_id", "copy"], how="left", maintain_order="left"
    )
    if absent := matched.filter(~pl.col("probability").is_between(0, 1).fill_null(False)).rows():
        raise InputError(f"{teacher}: user {absent[0][0]!r}, item {absent[0][1]!r} has no probability from 0 to 1")
    return ((1 - weight) * rows.liked + weight * matched["probability"].to_numpy()).astype(np.float32)
