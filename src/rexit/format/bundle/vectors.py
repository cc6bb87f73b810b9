"""Vectors in prompts: the ids that stand for them, and `vectors.safetensors`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rexit.errors import BundleError
from rexit.format.bundle.files import Name, Natural, Positive, typed, write_file

FILE = "vectors.safetensors"
MAX_VECTORS = 16
"""Maximum number of vectors of an item in one table."""
MAX_WIDTH = 1 << 16
"""Largest width of a projector's input."""
GCN = "gcn"
"""The table of the retriever's embeddings. A table with a colon in its name is of a text, any other of a column of vectors."""
USER, NOBODY = "user", "user.none"


class _Table(msgspec.Struct, frozen=True):
    """A table as `vectors` of the prompt lists it. dim: width of a column of vectors."""

    name: Name
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_VECTORS)]
    dim: Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)] | None = None

    def __post_init__(self) -> None:
        if self.is_column and (self.dim is None or self.count != 1):
            raise ValueError(f"{self.name!r} is a column of vectors, expected a `count` of 1 and a `dim`")

    @property
    def is_column(self) -> bool:
        return self.name != GCN and ":" not in self.name


class _Tokenizer(msgspec.Struct, frozen=True):
    vocab_size: Positive


class _Counts(msgspec.Struct, frozen=True):
    items: Natural


class _Sizes(msgspec.Struct, frozen=True):
    """What catalog.json says of the ids before those of vectors."""

    tokenizer: _Tokenizer
    counts: _Counts


@dataclass(frozen=True)
class VectorIds:
    """The ids beyond the vocabulary: the items' vectors, table by table, then the vector of the request's user.

    Attributes:
        vocabulary: Size of the vocabulary.
        items: Number of items.
        tables: Vectors per item in each table, in order.
        user: Whether prompts have the user's vector.
        dims: Widths of the columns of vectors that tables are made from.
    """

    vocabulary: int
    items: int
    tables: Mapping[str, int]
    user: bool
    dims: Mapping[str, int]

    @classmethod
    def of(cls, info: Mapping[str, Any], where: str) -> VectorIds | None:
        """Reads catalog.json. Returns None if its program has no vectors. Raises BundleError, which names the file `where`."""
        prompt = info["prompt"]
        placed, user = placed_vectors(prompt)
        listed = typed(prompt.get("vectors", []), tuple[_Table, ...], where, at="prompt vectors")
        tables = {table.name: table.count for table in listed}
        if placed != set(tables) or len(tables) != len(listed):
            names = [table.name for table in listed]
            raise BundleError(f"{where}: prompt vectors: are {names}, its ops place {sorted(map(str, placed))}")
        if not placed and not user:
            return None
        sizes = typed(info, _Sizes, where)
        dims = {table.name: table.dim for table in listed if table.is_column and table.dim is not None}
        return cls(sizes.tokenizer.vocab_size, sizes.counts.items, tables, user, dims)

    @property
    def user_id(self) -> int:
        """The id of the user's vector, after all others."""
        return self.vocabulary + self.items * sum(self.tables.values())

    @property
    def too_many(self) -> str | None:
        """Why prompts, which are int32, cannot hold all ids; None if they can."""
        if self.user_id < 1 << 31:
            return None
        per_item = sum(self.tables.values())
        return f"{self.vocabulary} tokens and {per_item} vectors for each of {self.items} items need ids beyond 2^31 - 1"

    def placeholder(self, token: int) -> str:
        """Returns the placeholder of an id beyond the vocabulary; "" for the second and further vectors of an item in a table."""
        for name, begin in reversed(self.begins().items()):
            if begin <= token < self.user_id:
                return f"{{item.{name}}}" if (token - begin) % self.tables[name] == 0 else ""
        return "{user.gcn}"

    def begins(self) -> dict[str, int]:
        """Returns the id of each table's first vector."""
        ends = self.vocabulary + self.items * np.cumsum([0, *self.tables.values()])
        return dict(zip(self.tables, ends.tolist(), strict=False))


@dataclass(frozen=True)
class Vectors:
    """The vectors, float16.

    Attributes:
        ids: The ids that stand for them.
        tables: [I, count, H] by name.
        user: What one liked item adds to the user's vector, [I, H]; None if prompts have no such vector.
        nobody: The vector of a user who liked nothing, [H]; None likewise.
    """

    ids: VectorIds
    tables: Mapping[str, NDArray[np.float16]]
    user: NDArray[np.float16] | None
    nobody: NDArray[np.float16] | None

    @classmethod
    def read(cls, path: Path, ids: VectorIds, width: int) -> Vectors:
        """Reads the vectors. width: H of the model. Raises BundleError for a table that is missing, not finite, or of another
        shape or type."""
        try:
            with safe_open(path, "np") as file:
                tables: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as exc:
            raise BundleError(f"{path}: not a safetensors table: {exc}") from exc
        expected: dict[str, tuple[int, ...]] = {name: (ids.items, count, width) for name, count in ids.tables.items()}
        if ids.user:
            expected |= {USER: (ids.items, width), NOBODY: (width,)}
        for name, shape in expected.items():
            if name not in tables:
                raise BundleError(f"{path}: has no tensor {name!r}, expected {sorted(expected)}")
            table = tables[name]
            if table.dtype != np.float16 or table.shape != shape:
                raise BundleError(f"{path}: {name!r} is {table.dtype} {list(table.shape)}, expected float16 {list(shape)}")
            if not np.isfinite(table).all():
                raise BundleError(f"{path}: {name!r} holds a number that is not finite")
        return cls(ids, {name: tables[name] for name in ids.tables}, tables.get(USER), tables.get(NOBODY))

    def write(self, path: Path) -> None:
        """Writes the file. Raises InputError if it cannot be written."""
        of_user = {} if self.user is None or self.nobody is None else {USER: self.user, NOBODY: self.nobody}
        write_file(path, save({**self.tables, **of_user}))

    @property
    def width(self) -> int:
        """Width of the model, H."""
        arrays = [*self.tables.values(), *([] if self.nobody is None else [self.nobody])]
        return int(arrays[0].shape[-1])

    @property
    def bytes(self) -> int:
        """Bytes of all vectors."""
        return sum(table.nbytes for table in (*self.tables.values(), self.user, self.nobody) if table is not None)

    def of(self, ids: NDArray[Any], liked: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Returns the vectors of ids, float32 [n, H], as the runtime passes them to the first segment.

        Args:
            ids: Ids beyond the vocabulary, [n].
            liked: Rows of the items that the user liked, with repetitions. Needed for the user's vector.
        """
        out = np.empty((len(ids), self.width), np.float32)
        for name, begin in self.ids.begins().items():
            table = self.tables[name].reshape(-1, self.width)
            here = (ids >= begin) & (ids < begin + len(table))
            out[here] = table[ids[here] - begin]
        if self.user is not None and self.nobody is not None and (here := ids == self.ids.user_id).any():
            assert liked is not None, "a user's vector needs what they liked"
            rows = self.user[liked].astype(np.float64)
            out[here] = rows.sum(0) / len(rows) if len(rows) else self.nobody
        return out


def placed_vectors(prompt: Mapping[str, Any]) -> tuple[set[Any], bool]:
    """Returns the tables that a program places, and whether it places the user's vector."""
    ops = list(_ops([*prompt.get("prefix", []), *prompt.get("candidate", [])]))
    return {op.get("table") for op in ops if op["op"] == "item_vector"}, any(op["op"] == "user_vector" for op in ops)


def _ops(ops: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for op in ops:
        yield op
        yield from _ops(op.get("entry", []))
