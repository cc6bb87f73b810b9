"""Embeddings from elsewhere, in the place of LightGCN's: a team's own graph network, trained where its graph lives.

Files
1. Parquet with the ids in the catalog's id column and the embeddings in the only column of lists; or `NAME.npy`, [n, D], with the
   ids in `NAME.ids.npy` or, a line each, in `NAME.ids.txt`; or safetensors with `ids` (int64) and `embeddings`.
2. Numbers are float16, float32 or float64, finite, and no row is zero. All files have one width.
3. Users and items without a row have zeros. Rows of unknown ids are refused.

Use
4. Users are compared by cosine: each row is scaled to unit length. Or by dot product: all rows of users are divided by one power
   of two, likewise those of items.
5. A user's row names their similar users as long as a request says nothing newer than the catalog knows. Every other request
   folds its user in: it sums the `fold_in` rows of the items they liked. By the rule `mean` these are the items' rows. By the
   rule `least-squares` they are the items' rows times the matrix W that brings the means of what users liked closest to the
   users' own rows: min_W |M W - U|^2 + ridge |W|^2, with a ridge of RIDGE times the mean square of M's columns. W is fitted on
   the likes of the train split. Both rules are our choice.
6. Users are folded in from their likes of the train split where no users' file is given.
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
from safetensors import SafetensorError, safe_open
from scipy.sparse import csr_array

from rexit.bundle.vectors import MAX_WIDTH
from rexit.errors import InputError
from rexit.exporter.catalog.chunks import by_range
from rexit.exporter.catalog.entities import check_rows, id_values, match, unify_ids
from rexit.exporter.catalog.source_tables import check_columns, read_table
from rexit.exporter.options import ExternalOptions

if TYPE_CHECKING:
    from rexit.exporter.retriever.lightgcn import Likes, Retriever

RIDGE = 1e-3
BLOCK = 1 << 24  # numbers in work at once

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
        path: `.parquet`, `.npy` or `.safetensors`.
        id_column: the ids' column in Parquet.

    Raises:
        InputError: the file cannot be read, an id stands twice, or a row is not finite, zero or too wide.
    """
    readers = {".parquet": _parquet, ".npy": _npy, ".safetensors": _safetensors}
    if path.suffix not in readers:
        raise InputError(f"{path}: expected embeddings in a file that ends in .parquet, .npy or .safetensors")
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
    for block in _blocks(rows):
        part = _float32(rows[block])
        if not (finite := np.isfinite(part).all(1)).all():
            raise InputError(f"{path}: the embedding of {ids[block][int(finite.argmin())]!r} has a number that is not finite")
        if not (nonzero := part.any(1)).all():
            raise InputError(
                f"{path}: the embedding of {ids[block][int(nonzero.argmin())]!r} is zero: leave out what is not known"
            )
    return Embeddings(path, ids, rows)


def _blocks(rows: NDArray[Any]) -> Iterator[slice]:
    """Slices of about BLOCK numbers."""
    step = max(1, BLOCK // rows.shape[1])
    for begin in range(0, len(rows), step):
        yield slice(begin, begin + step)


def _float32(rows: NDArray[Any]) -> Matrix:
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as not finite
        return rows.astype(np.float32, copy=False)


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
    beside = [path.with_suffix(suffix) for suffix in (".ids.npy", ".ids.txt")]
    if beside[0].exists():
        return pl.Series("id", _array(beside[0])), rows
    if beside[1].exists():
        return pl.Series("id", _lines(beside[1]), pl.String), rows
    raise InputError(f"{path}: its ids are missing, expected {beside[0].name} or {beside[1].name} beside it")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8 at byte {exc.start}") from exc


def _array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode, allow_pickle=False))
    except (ValueError, EOFError, BadZipFile) as exc:
        raise InputError(f"{path}: not a NumPy array: {str(exc).partition('. ')[0]}") from exc


def _safetensors(path: Path, _: str) -> tuple[pl.Series, NDArray[Any]]:
    try:
        with safe_open(path, "np") as tensors:
            if missing := {"ids", "embeddings"} - set(tensors.keys()):
                raise InputError(f"{path}: no tensor {min(missing)!r}, the file has: {', '.join(sorted(tensors.keys()))}")
            if (dtype := tensors.get_slice("embeddings").get_dtype()) not in ("F16", "F32", "F64"):
                raise InputError(f"{path}: embeddings are {dtype}, expected F16, F32 or F64")
            return pl.Series("id", tensors.get_tensor("ids")), tensors.get_tensor("embeddings")
    except SafetensorError as exc:
        raise InputError(f"{path}: not a safetensors file: {exc}") from exc


def aligned(embeddings: Embeddings, ids: pl.Series, what: str, source: Path) -> Matrix:
    """Returns the rows in the order of a catalog's ids, zeros where there is none: float32 [len(ids), D].

    Raises:
        InputError: an embedding's id is none of `ids`, which `source` has.
    """
    places, unknown = _match(embeddings.ids, ids)
    if len(unknown):
        raise InputError(
            f"{embeddings.path}: {what} {unknown[0]!r} is not in {source} ({len(unknown)} of {len(places)} {what}s are not)"
        )
    rows, at = np.zeros((len(ids), embeddings.rows.shape[1]), np.float32), places.to_numpy()
    for block in _blocks(embeddings.rows):
        rows[at[block]] = embeddings.rows[block]
    return rows


def _match(values: pl.Series, ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Returns the row of each value among a catalog's ids, null where there is none, and the values without a row."""
    values, ids = unify_ids([values, ids])
    rows = match(values, ids)
    return rows, values.filter(rows.is_null())


def retriever(items: Matrix, users: Matrix | None, likes: Likes, options: ExternalOptions) -> Retriever:
    """Builds a retriever from embeddings.

    Args:
        items: [I, D], zeros where nothing is known.
        users: [U, D] likewise, overwritten; None: folded in.
        likes: what the rule of folding in is fitted on, and recall is measured with.
        options: the rule, and how users are compared.

    Raises:
        InputError: `least-squares` without users' embeddings, or without a user who has one and likes an item that has one.
    """
    from rexit.exporter.retriever.lightgcn import Retriever, recalls

    fold_in = items
    if options.fold_in == "least-squares":
        if users is None:
            raise InputError("fold_in least-squares needs --user-embeddings: it is fitted on them")
        fold_in = items @ _least_squares(_liked(likes), items, users)
    if users is None:
        users = _liked(likes) @ fold_in
    scaled = _unit if options.similarity == "cosine" else _below_one
    users = scaled(users)
    fold_in = _below_one(fold_in.copy())
    recall, popularity = recalls(likes, items, fold_in)
    of_items = scaled(items.copy())
    half = np.float16
    return Retriever(users.astype(half), of_items.astype(half), fold_in.astype(half), recall, popularity, epochs=0)


def _liked(likes: Likes) -> csr_array:
    user, item = likes.graph
    return csr_array((np.ones(len(user), np.float32), (user, item)), shape=(likes.users, likes.items))


def _least_squares(liked: csr_array, items: Matrix, users: Matrix) -> Matrix:
    known, width = items.any(1).astype(np.float32), items.shape[1]
    square, cross = np.zeros((width, width)), np.zeros((width, width))
    for block in _blocks(users):
        counts = (liked[block] @ known)[:, None]
        fitted = (counts[:, 0] > 0) & users[block].any(1)
        means = (liked[block] @ items).astype(np.float64)[fitted] / counts[fitted]
        square += means.T @ means
        cross += means.T @ users[block][fitted].astype(np.float64)
    if not square.any():
        raise InputError("fold_in least-squares: no user has an embedding and likes an item that has one")
    square[np.diag_indices_from(square)] += RIDGE * np.trace(square) / len(square)
    return np.linalg.solve(square, cross).astype(np.float32)


def _unit(rows: Matrix) -> Matrix:
    """Overwrites rows with their directions; zeros stay."""
    rows = _below_one(rows)  # squares of larger numbers than 2^63 would overflow
    for block in _blocks(rows):
        lengths = np.linalg.norm(rows[block], axis=1, keepdims=True)
        np.divide(rows[block], lengths, out=rows[block], where=lengths > 0)
    return rows


def _below_one(rows: Matrix) -> Matrix:
    """Overwrites all rows with themselves over the power of two that brings the largest number into [0.5, 1): float16 holds
    them."""
    largest = max(np.abs(rows[block]).max() for block in _blocks(rows))
    np.ldexp(rows, -np.frexp(largest)[1], out=rows)
    return rows


def read_neighbours(path: Path, users: pl.Series, k: int, user_column: str) -> NDArray[np.int32]:
    """Returns the similar users that a table names, int32 [U, min(k, U - 1)], nearest first; a user's own row stands where there
    are fewer.

    Args:
        path: a table with the columns `user_column`, `neighbour` and `rank` (any number, the nearest lowest).
        users: the catalog's ids.
        k: how many of each user are kept.
        user_column: of the users whose neighbours these are.

    Raises:
        InputError: a column is missing, an id is unknown, or a user is their own neighbour or stands twice among another's.
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
        rows[name], unknown = _match(id_values(frame[name], path), users)
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
        raise InputError(f"{path}: {names[0]!r} stands twice among the neighbours of {names[1]!r}")
    pairs = pairs.sort("user", "rank", maintain_order=True)
    place = pairs.select(pl.int_range(pl.len()).over("user")).to_series().to_numpy()
    fits = place < similar.shape[1]
    similar[pairs["user"].to_numpy()[fits], place[fits]] = pairs["neighbour"].to_numpy()[fits]


def risk(info: Mapping[str, Any]) -> str | None:
    """Returns, in a sentence, how embeddings from elsewhere may know what prompts ask for; None if they cannot.

    Args:
        info: what catalog.json says.
    """
    embedding = info["embedding"]
    if "similarity" not in embedding:
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
