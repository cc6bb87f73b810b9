"""Vectors in prompts: which ids stand for them, and `vectors.safetensors`, which holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rexit.bundle.files import write_file
from rexit.errors import BundleError

REQUIRED = "vectors"
"""What `requires` holds where prompts have vectors."""
FILE = "vectors.safetensors"
MOST = 16
"""Vectors of one item in one table."""
WIDEST = 1 << 16
"""Numbers of what a projector takes."""
GCN = "gcn"
"""The table of the retriever's embeddings. One whose name holds a colon is of a text, any other of a column of vectors."""
USER, NOBODY = "user", "user.none"


@dataclass(frozen=True)
class VectorIds:
    """The ids beyond the vocabulary: I items' `count` vectors for each table in order, then one for the user of the request.

    tables: their counts by name; user: whether the program places the user's vector. dims: of the tables that are made of a
    column of vectors, how many numbers that holds for each item.
    """

    vocabulary: int
    items: int
    tables: Mapping[str, int]
    user: bool
    dims: Mapping[str, int]

    @classmethod
    def of(cls, info: Mapping[str, Any], where: str) -> VectorIds | None:
        """From catalog.json; None where its program has no vectors. Raises BundleError, naming the file `where`."""
        prompt = info["prompt"]
        placed, user = placed_vectors(prompt)
        tables, dims = _tables(prompt.get("vectors", []), where)
        if placed != set(tables):
            raise BundleError(f"{where}: `vectors` of the prompt are {list(tables)}, its ops place {sorted(map(str, placed))}")
        has, told = bool(placed or user), REQUIRED in (info.get("requires") or [])
        if has != told:
            raise BundleError(f"{where}: the prompt has {'' if has else 'no '}vectors, `requires` says otherwise")
        if not has:
            return None
        return cls(int(info["tokenizer"]["vocab_size"]), int(info["counts"]["items"]), tables, user, dims)

    @property
    def user_id(self) -> int:
        """The id of the user's vector, behind all others."""
        return self.vocabulary + self.items * sum(self.tables.values())

    @property
    def too_many(self) -> str | None:
        """Says that prompts, which are int32, cannot hold all ids; None if they can."""
        if self.user_id < 1 << 31:
            return None
        each = sum(self.tables.values())
        return f"{self.vocabulary} tokens and {each} vectors for each of {self.items} items need ids beyond 2^31 - 1"

    def placeholder(self, id: int) -> str:
        """How an id beyond the vocabulary reads in a prompt that is shown: its placeholder; nothing for a further one of M."""
        for name, begin in reversed(self.begins().items()):
            if begin <= id < self.user_id:
                return f"{{item.{name}}}" if (id - begin) % self.tables[name] == 0 else ""
        return "{user.gcn}"

    def begins(self) -> dict[str, int]:
        """The id of each table's first vector."""
        ends = self.vocabulary + self.items * np.cumsum([0, *self.tables.values()])
        return dict(zip(self.tables, ends.tolist(), strict=False))


@dataclass(frozen=True)
class Vectors:
    """The vectors themselves, float16. tables: [I, count, H] by name; user: [I, H], what one liked item adds to the user's
    vector, and nobody: [H], that of a user who liked nothing; both None where prompts have no vector of the user."""

    ids: VectorIds
    tables: Mapping[str, NDArray[np.float16]]
    user: NDArray[np.float16] | None
    nobody: NDArray[np.float16] | None

    @classmethod
    def read(cls, path: Path, ids: VectorIds, width: int) -> Vectors:
        """width: H of the model. Raises BundleError for what is missing, of another shape or type, or not finite."""
        try:
            with safe_open(path, "np") as file:
                found: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as exc:
            raise BundleError(f"{path}: not a safetensors table: {exc}") from exc
        expected: dict[str, tuple[int, ...]] = {name: (ids.items, count, width) for name, count in ids.tables.items()}
        if ids.user:
            expected |= {USER: (ids.items, width), NOBODY: (width,)}
        for name, shape in expected.items():
            if name not in found:
                raise BundleError(f"{path}: has no tensor {name!r}, expected {sorted(expected)}")
            seen = found[name]
            if seen.dtype != np.float16 or seen.shape != shape:
                raise BundleError(f"{path}: {name!r} is {seen.dtype} {list(seen.shape)}, expected float16 {list(shape)}")
            if not np.isfinite(seen).all():
                raise BundleError(f"{path}: {name!r} holds a number that is not finite")
        return cls(ids, {name: found[name] for name in ids.tables}, found.get(USER), found.get(NOBODY))

    def write(self, path: Path) -> None:
        """Raises InputError if the file cannot be written."""
        of_user = {} if self.user is None or self.nobody is None else {USER: self.user, NOBODY: self.nobody}
        write_file(path, save({**self.tables, **of_user}))

    @property
    def width(self) -> int:
        """H."""
        every = [*self.tables.values(), *([] if self.nobody is None else [self.nobody])]
        return int(every[0].shape[-1])

    @property
    def bytes(self) -> int:
        """Of all vectors."""
        return sum(table.nbytes for table in (*self.tables.values(), self.user, self.nobody) if table is not None)

    def of(self, ids: NDArray[Any], liked: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The vectors of ids [n] beyond the vocabulary, float32 [n, H], as the runtime gives them to the first segment.

        liked: rows of the items that the user liked, which the user's vector is made of, with repetitions; needed for that one.
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


def required(prompt: Mapping[str, Any]) -> list[str]:
    """`requires` of a catalog.json with this `prompt`."""
    return [REQUIRED] if any(placed_vectors(prompt)) else []


def placed_vectors(prompt: Mapping[str, Any]) -> tuple[set[Any], bool]:
    """The tables that the ops of a program place, and whether they place the user's vector."""
    ops = list(_ops([*prompt.get("prefix", []), *prompt.get("candidate", [])]))
    return {op["table"] for op in ops if op["op"] == "item_vector"}, any(op["op"] == "user_vector" for op in ops)


def _ops(ops: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for op in ops:
        yield op
        yield from _ops(op.get("entry", []))


def _tables(listed: Any, where: str) -> tuple[dict[str, int], dict[str, int]]:
    """Counts and, of columns of vectors, widths."""
    tables: dict[str, int] = {}
    dims: dict[str, int] = {}
    for one in listed if isinstance(listed, list) else [listed]:
        name, count = (one.get("name"), one.get("count")) if isinstance(one, dict) else (None, None)
        if not isinstance(name, str) or name in tables or type(count) is not int or not 1 <= count <= MOST:
            raise BundleError(
                f"{where}: `vectors` of the prompt holds {one!r}, expected a new `name` and a `count` of 1 to {MOST}"
            )
        tables[name] = count
        if name != GCN and ":" not in name:
            dim = one.get("dim")
            if type(dim) is not int or not 1 <= dim <= WIDEST or count != 1:
                raise BundleError(
                    f"{where}: `vectors` of the prompt holds {one!r}, expected of a column of vectors a `count` of 1 and a `dim` "
                    f"of 1 to {WIDEST}"
                )
            dims[name] = dim
    return tables, dims
