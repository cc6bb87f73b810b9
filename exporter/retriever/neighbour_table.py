"""A table of similar users from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.catalog.chunks import by_range
from rexit.exporter.catalog.entities import check_rows, id_values
from rexit.exporter.catalog.source_tables import check_columns, read_table
from rexit.exporter.retriever.embedding_files import match_ids


def read_neighbours(path: Path, users: pl.Series, k: int, user_column: str) -> NDArray[np.int32]:
    """Returns the similar users that a table names.

    Args:
        path: a table with the columns `user_column`, `neighbour` and `rank` (any number, the nearest lowest).
        users: the catalog's user ids.
        k: number of similar users to keep for each user.
        user_column: the column of the users whose neighbours these are.

    Returns:
        int32 [U, min(k, U - 1)], nearest first. A user with fewer neighbours has its own row in the remaining places.

    Raises:
        InputError: a column is missing, an id is unknown, or a user is their own neighbour or listed twice among another's.
    """
    columns = (user_column, "neighbour", "rank")
    check_columns({path: dict.fromkeys(columns, "")})
    frame = read_table(path, columns)
    rank = frame["rank"]
    if not (rank.dtype.is_numeric() or rank.dtype == pl.String):
        raise InputError(f"{path}: column 'rank' holds {rank.dtype}, expected numbers")
    if not rank.dtype.is_integer():
        rank = rank.cast(pl.Float64, strict=False)
        check_rows(~rank.is_finite().fill_null(False), frame["rank"], path, "a number")
    check_rows(rank.is_null(), rank, path, "a number")
    rows = {}
    for name in columns[:2]:
        rows[name], unknown = match_ids(id_values(frame[name], path), users)
        if len(unknown):
            raise InputError(f"{path}: user {unknown[0]!r} in column {name!r} is not in the catalog ({len(unknown)} rows)")
        frame = frame.drop(name)
    pairs = pl.DataFrame({"user": rows[user_column], "neighbour": rows["neighbour"], "rank": rank})
    del frame, rank, rows
    width = min(k, len(users) - 1)
    similar = np.repeat(np.arange(len(users), dtype=np.int32)[:, None], width, 1)
    for part in by_range(pairs, "user"):
        _place(part, similar, users, path)
    return similar


def _place(pairs: pl.DataFrame, similar: NDArray[np.int32], users: pl.Series, path: Path) -> None:
    """Writes the neighbours of some users into their rows. Raises InputError."""
    if len(loops := pairs.filter(pl.col("user") == pl.col("neighbour"))):
        raise InputError(f"{path}: user {users[loops['user'][0]]!r} is named as a neighbour of their own ({len(loops)} rows)")
    if (double := pairs.select("user", "neighbour").is_duplicated()).any():
        pair = pairs.filter(double)
        names = users[pair["neighbour"][0]], users[pair["user"][0]]
        raise InputError(f"{path}: {names[0]!r} appears twice among the neighbours of {names[1]!r}")
    pairs = pairs.sort("user", "rank", maintain_order=True)
    place = pairs.select(pl.int_range(pl.len()).over("user")).to_series().to_numpy()
    fits = place < similar.shape[1]
    similar[pairs["user"].to_numpy()[fits], place[fits]] = pairs["neighbour"].to_numpy()[fits]
