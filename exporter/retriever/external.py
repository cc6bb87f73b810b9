"""External embeddings instead of LightGCN's: a team's own graph network, trained where its graph lives.

Files
1. Parquet with the ids in the catalog's id column and the embeddings in the only column of lists; or `NAME.npy`, [n, D], with the
   ids in `NAME.ids.npy`.
2. Numbers are float16, float32 or float64, finite, and no row is zero. All files have one width.
3. Users and items without a row have zeros. Rows of unknown ids are refused.

Use
1. Users are compared by cosine: each row is scaled to unit length.
2. A user's row names their similar users as long as a request says nothing newer than the catalog knows. Every other request
   folds its user in: it sums the rows of the items they liked. That is our choice.
3. Without a users' file, users are folded in from their likes of the train split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rexit.errors import InputError
from rexit.exporter.catalog.source_tables import id_values, match, read_table, unify_ids
from rexit.format.bundle.vectors import MAX_WIDTH

if TYPE_CHECKING:
    from rexit.exporter.retriever.lightgcn import Likes, Retriever

BLOCK = 1 << 24
"""Numbers in memory at once."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """A file of embeddings: `ids` [n], each once, and `rows` [n, D], float16, float32 or float64; of a .npy they stay in the
    file."""

    path: Path
    ids: pl.Series
    rows: NDArray[Any]


def read_embeddings(path: Path, id_column: str) -> Embeddings:
    """Returns the embeddings that a file holds.

    Args:
        path: `.parquet` or `.npy`.
        id_column: the ids' column in Parquet.

    Raises:
        InputError: the file cannot be read, an id appears twice, or a row is not finite, zero or too wide.
    """
    readers = {".parquet": _parquet, ".npy": _npy}
    if path.suffix not in readers:
        raise InputError(f"{path}: expected embeddings in a file that ends in .parquet or .npy")
    try:
        ids, rows = readers[path.suffix](path, id_column)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if isinstance(ids.dtype, pl.Array):
        raise InputError(f"{path}: ids of shape {[len(ids), *ids.dtype.shape]}, expected one dimension")
    ids = id_values(ids, path)
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MAX_WIDTH:
        raise InputError(f"{path}: embeddings of shape {list(rows.shape)}, expected [n, D] with D from 1 to {MAX_WIDTH}")
    if rows.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(f"{path}: embeddings are {rows.dtype}, expected float16, float32 or float64")
    if len(ids) != len(rows):
        raise InputError(f"{path}: {len(ids)} ids and {len(rows)} embeddings, expected as many")
    if not len(ids):
        raise InputError(f"{path}: no embedding, expected at least one")
    if len(double := ids.filter(ids.is_duplicated())):
        raise InputError(f"{path}: id {double[0]!r} appears {(ids == double[0]).sum()} times, expected once")
    for block in blocks(rows):
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as not finite
            part = rows[block].astype(np.float32, copy=False)
        if not (finite := np.isfinite(part).all(1)).all():
            raise InputError(f"{path}: the embedding of {ids[block][int(finite.argmin())]!r} has a number that is not finite")
        if not (nonzero := part.any(1)).all():
            raise InputError(
                f"{path}: the embedding of {ids[block][int(nonzero.argmin())]!r} is zero: leave out what is not known"
            )
    return Embeddings(path, ids, rows)


def blocks(rows: NDArray[Any]) -> Iterator[slice]:
    """Slices of about BLOCK numbers."""
    step = max(1, BLOCK // rows.shape[1])
    for begin in range(0, len(rows), step):
        yield slice(begin, begin + step)


def _parquet(path: Path, id_column: str) -> tuple[pl.Series, NDArray[Any]]:
    frame = read_table(path)
    if id_column not in frame.columns:
        raise InputError(f"{path}: no column {id_column!r} of ids, the file has: {', '.join(frame.columns)}")
    lists = [name for name in frame.columns if isinstance(frame.schema[name], pl.List | pl.Array)]
    if len(lists) != 1:
        raise InputError(f"{path}: {len(lists)} columns of lists ({', '.join(lists)}), expected one, of embeddings")
    column = frame[lists[0]]
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    ids, widths = frame[id_column], column.list.len().fill_null(0)
    if not (width := int(widths[0])):
        raise InputError(f"{path}: the embedding of {ids[0]!r} has no number: leave out what is not known")
    if (other := widths != width).any():
        row = int(other.to_numpy().argmax())
        raise InputError(f"{path}: the embedding of {ids[row]!r} has {widths[row]} numbers, that of {ids[0]!r} has {width}")
    numbers = column.explode()
    if not numbers.dtype.is_float():
        raise InputError(f"{path}: column {lists[0]!r} holds {column.dtype}, expected lists of floats")
    return ids, numbers.to_numpy().reshape(len(frame), width)


def _npy(path: Path, _: str) -> tuple[pl.Series, NDArray[Any]]:
    rows = _array(path, "r")
    beside = path.with_suffix(".ids.npy")
    if not beside.exists():
        raise InputError(f"{path}: its ids are missing, expected {beside.name} beside it")
    return pl.Series("id", _array(beside)), rows


def _array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode, allow_pickle=False))
    except (ValueError, EOFError, BadZipFile) as exc:
        raise InputError(f"{path}: not a NumPy array: {str(exc).partition('. ')[0]}") from exc


def aligned(embeddings: Embeddings, ids: pl.Series, what: str, source: Path) -> Matrix:
    """Returns the rows in the order of a catalog's ids, zeros where there is none: float32 [len(ids), D].

    Raises:
        InputError: an embedding's id is none of `ids`, which `source` has.
    """
    values, ids = unify_ids([embeddings.ids, ids])
    places = match(values, ids)
    unknown = values.filter(places.is_null())
    if len(unknown):
        raise InputError(
            f"{embeddings.path}: {what} {unknown[0]!r} is not in {source} ({len(unknown)} of {len(places)} {what}s are not)"
        )
    rows, at = np.zeros((len(ids), embeddings.rows.shape[1]), np.float32), places.to_numpy()
    for block in blocks(embeddings.rows):
        rows[at[block]] = embeddings.rows[block]
    return rows


def retriever(items: Matrix, users: Matrix | None, likes: Likes) -> Retriever:
    """Builds a retriever from embeddings.

    Args:
        items: [I, D], zeros for unknown items.
        users: [U, D], zeros for unknown users; overwritten. None: users are folded in.
        likes: the likes that users are folded in from, and that measure recall.
    """
    from rexit.exporter.retriever.lightgcn import Retriever, recalls

    if users is None:
        user, item = likes.graph
        users = csr_array((np.ones(len(user), np.float32), (user, item)), shape=(likes.users, likes.items)) @ items
    users = _unit(users)
    fold_in = _below_one(items.copy())
    recall, popularity = recalls(likes, items, fold_in)
    of_items = _unit(items.copy())
    half = np.float16
    return Retriever(users.astype(half), of_items.astype(half), fold_in.astype(half), recall, popularity, epochs=0)


def _unit(rows: Matrix) -> Matrix:
    """Overwrites rows with their directions; zeros stay."""
    rows = _below_one(rows)  # squares of larger numbers than 2^63 would overflow
    for block in blocks(rows):
        lengths = np.linalg.norm(rows[block], axis=1, keepdims=True)
        np.divide(rows[block], lengths, out=rows[block], where=lengths > 0)
    return rows


def _below_one(rows: Matrix) -> Matrix:
    """Overwrites all rows with themselves over the power of two that brings the largest number into [0.5, 1): float16 holds
    them."""
    largest = max(np.abs(rows[block]).max() for block in blocks(rows))
    np.ldexp(rows, -np.frexp(largest)[1], out=rows)
    return rows


def risk(info: Mapping[str, Any]) -> str | None:
    """Returns a sentence on how external embeddings may leak the answers of prompts; None if they cannot.

    info: the values of catalog.json.
    """
    embedding = info["embedding"]
    if "users" not in embedding:
        return None
    if "as_of" not in embedding:
        return (
            "these embeddings may have learned from the interactions that are to be predicted, and nothing here can tell: "
            "say with --embeddings-as-of up to when they know what happened"
        )
    if known := embedding["known_answers"]:
        return f"{known:,} interactions of validation and test happened before --embeddings-as-of: the embeddings may know them"
    return None


def training_table(retriever: Retriever, begin: int) -> dict[str, NDArray[Any]]:
    """Returns the tensors of snapshots.safetensors: training prompts see the embeddings from the time `begin` on, and retrieve
    nothing before it."""
    tables: Sequence[str] = ("users", "items", "fold_in")
    begins = np.full((len(retriever.users), 1), begin, np.int64)
    return {"begins": begins, **{name: getattr(retriever, name)[None] for name in tables}}
