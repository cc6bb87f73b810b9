"""Embeddings from elsewhere instead of LightGCN's: a team's own graph network, trained where its graph lives.

1. Users are compared by cosine: each row is scaled to unit length.
2. A user's row names their similar users as long as a request says nothing newer than the catalog knows. Every other request
   folds its user in: it sums the rows of the items they liked. That is our choice.
3. Without a users' file, users are folded in from their likes of the train split.

`embedding_files` reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rexit.exporter.retriever.embedding_files import Matrix, blocks

if TYPE_CHECKING:
    from rexit.exporter.retriever.lightgcn import Likes, Retriever


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
    """Returns a sentence on how embeddings from elsewhere may leak the answers of prompts; None if they cannot.

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
