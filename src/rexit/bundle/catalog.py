"""`catalog/`: users, items and the prompt program, as `rexit index` wrote them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rexit.bundle.files import FileEntry, check_hashes, check_sizes, digest, read_entries, read_json, reason
from rexit.bundle.program import program_digest
from rexit.bundle.vectors import REQUIRED as VECTORS
from rexit.bundle.vectors import VectorIds
from rexit.errors import BundleError, InputError
from rexit.ids import to_id
from rexit.times import Timeline

if TYPE_CHECKING:
    import polars as pl

TABLES = ("users.safetensors", "items.safetensors", "pieces.safetensors")
CATALOG_FILES = ("catalog.json", *TABLES)
"""What a bundle copies of a catalog."""
LISTS = "user-lists"
"""What `requires` holds where the users' embeddings lie in lists."""
MOST_PROBES = 1 << 16
SPLITS = ("train", "validation", "test")
"""What trains, what is chosen by, what is judged by: every interaction is in one."""

Id = int | str

FEW = 1000
"""A copy of all ids pays off when more than one in this many is looked up."""


class Column(Protocol):
    """One dimension of a tensor, in memory or in a file, of which only the part asked for is read."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Ids:
    """Row <-> id. Ascending: int64 [n], or UTF-8 bytes ordered bytewise: `text` uint8 [bytes], `starts` int64 [n + 1].

    A few ids are looked up in the file itself, in some twenty reads each; many are looked up in a copy of all ids, made once.
    """

    kind: str  # "int64" or "string"
    count: int
    numbers: Column | None = None
    text: Column | None = None
    starts: Column | None = None
    where: str = "ids"  # for messages

    @classmethod
    def of_integers(cls, numbers: NDArray[np.int64]) -> Ids:
        """Ids held in memory: int64 [n], ascending."""
        return cls("int64", len(numbers), numbers)

    def __len__(self) -> int:
        return self.count

    def row(self, id: Id) -> int | None:
        """The row of an id; None if the catalog does not hold it."""
        if (key := self._key(id)) is None:
            return None
        at = bisect.bisect_left(range(self.count), key, key=self._at)
        return at if at < self.count and self._at(at) == key else None

    def find(self, ids: Sequence[Id]) -> NDArray[np.int64]:
        """Rows of many ids, int64 [n]; -1 for each one that is not in the catalog."""
        if self.count == 0 or len(ids) * FEW <= self.count:
            return np.array([-1 if (row := self.row(id)) is None else row for id in ids], np.int64)
        keys = [self._key(id) for id in ids]
        known = np.array([key is not None for key in keys], np.bool_)
        wanted = np.empty(len(keys), self._all.dtype)
        wanted[:] = [self._all[0] if key is None else key for key in keys]
        at = np.minimum(np.searchsorted(self._all, wanted), self.count - 1)
        return np.where(known & (self._all[at] == wanted), at, -1)

    def rows(self, ids: Sequence[Id], what: str = "item") -> NDArray[np.int64]:
        """Rows of many ids, int64 [n]. Raises InputError for the first one that is not in the catalog; `what` names its kind."""
        rows = self.find(ids)
        if (rows < 0).any():
            raise InputError(f"{what} {ids[int((rows < 0).argmax())]!r} is not in the catalog")
        return rows

    def id(self, row: int) -> Id:
        """The id of a row."""
        return self._plain([self._at(row)])[0]

    def take(self, rows: NDArray[np.int64]) -> list[Id]:
        """The ids of many rows, int64 [n]."""
        return self._plain(self._all[rows].tolist())

    def _plain(self, values: list[Any]) -> list[Id]:
        try:
            return [value.decode() for value in values] if self.kind == "string" else values
        except UnicodeDecodeError as exc:
            raise BundleError(f"{self.where}: holds an id that is not UTF-8") from exc

    def _at(self, row: int) -> int | bytes:
        if "_all" in vars(self):  # several times cheaper than reading the file
            value = self._all[row]
            return value if isinstance(value, bytes) else int(value)
        if self.numbers is not None:
            return int(self.numbers[row : row + 1][0])
        (value,) = self._texts(row, row + 1)
        return value

    @cached_property
    def _all(self) -> NDArray[Any]:
        if self.numbers is not None:
            return self.numbers[0 : self.count]
        values = np.empty(self.count, object)
        values[:] = self._texts(0, self.count)
        return values

    def _texts(self, begin: int, end: int) -> list[bytes]:
        """UTF-8 of rows [begin, end). Raises BundleError if the offsets make no sense."""
        assert self.text is not None and self.starts is not None
        starts = self.starts[begin : end + 1].tolist()
        if starts[0] < 0 or any(a > b for a, b in itertools.pairwise(starts)):
            raise BundleError(f"{self.where}: the offsets of the ids of rows {begin} to {end} are not ascending")
        try:
            raw = self.text[starts[0] : starts[-1]].tobytes()
        except SafetensorError as exc:
            raise BundleError(f"{self.where}: the offsets of the ids of rows {begin} to {end} point beyond their text") from exc
        return [raw[a - starts[0] : b - starts[0]] for a, b in itertools.pairwise(starts)]

    def _key(self, id: Id) -> int | bytes | None:
        """The key to compare by; None for an id that this kind of catalog cannot hold."""
        value = to_id(id, self.kind)
        return value.encode() if isinstance(value, str) else value


@dataclass(frozen=True)
class Split:
    """One part of the interactions, ordered by (user row, time, item row): four arrays [n], users and items as catalog rows."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    liked: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Catalog:
    """An opened catalog folder; `info` is catalog.json. Tables are read on first use; ids stay in the file."""

    path: Path
    info: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Checks structure and sizes. Raises BundleError."""
        path = Path(path)
        if not path.is_dir():
            raise BundleError(f"{path}: no such catalog folder")
        if not (path / "catalog.json").is_file() and (path / "manifest.json").is_file():
            raise BundleError(f"{path}: is a bundle, expected a catalog: the folder that `rexit index` wrote")
        info = read_json(path / "catalog.json", {VECTORS, LISTS})
        for key in ("ids", "counts", "labels", "embedding", "prompt", "splits"):
            if not isinstance(info.get(key), dict):
                raise BundleError(f"{path}/catalog.json: `{key}` is missing or not an object")
        files = read_entries(info.get("files"), path / "catalog.json")
        if set(files) != set(TABLES):
            raise BundleError(f"{path}/catalog.json: lists {sorted(files)}, expected {sorted(TABLES)}")
        if any(info["ids"].get(what) not in ("int64", "string") for what in ("user", "item")):
            raise BundleError(f"{path}/catalog.json: ids are {info['ids']}, expected `int64` or `string` for `user` and `item`")
        check_sizes(path, files)
        opened = cls(path, info, files)
        told, probes = LISTS in (info.get("requires") or []), opened.probes
        if told != (probes is not None):
            raise BundleError(f"{path}/catalog.json: `requires` {'holds' if told else 'lacks'} `{LISTS}`, probes are {probes}")
        if probes is not None and not (type(probes) is int and 0 < probes <= MOST_PROBES):
            raise BundleError(f"{path}/catalog.json: embedding.probes is {probes!r}, expected 1 to {MOST_PROBES}")
        try:
            ids = opened.vector_ids
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BundleError(f"{path}/catalog.json: not a prompt program: {reason(exc)}") from exc
        if ids and ids.too_many:
            raise BundleError(f"{path}/catalog.json: {ids.too_many}")
        return opened

    @cached_property
    def vector_ids(self) -> VectorIds | None:
        """The ids that stand for vectors in its prompts; None if these are text alone."""
        return VectorIds.of(self.info, f"{self.path}/catalog.json")

    @cached_property
    def sha256(self) -> str:
        """The catalog's digest: that of catalog.json, which carries those of the tables."""
        return digest(self.path / "catalog.json")

    @cached_property
    def timeline(self) -> Timeline:
        """What its times are, and from when to when its interactions are. Raises BundleError."""
        return Timeline.of(self.info.get("order"), f"{self.path}/catalog.json")

    @property
    def space(self) -> str:
        """What its embeddings can be compared with: the digest of the catalog whose training they are of. Updates keep it."""
        return str(self.info["embedding"].get("space", self.sha256))

    @property
    def traits(self) -> dict[str, str]:
        """What a model that is trained on it depends on and an update keeps: digests of its `tokenizer`, of its `prompt` program
        and of its `space`. Raises BundleError."""
        program = program_digest(self.info["prompt"], self.piece_table)
        return {"tokenizer": str(self.info["tokenizer"]["sha256"]), "prompt": program, "space": self.space}

    def _table(self, name: str) -> dict[str, NDArray[Any]]:
        try:
            with safe_open(self.path / name, "np") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is not a dict)
        except (SafetensorError, OSError) as exc:
            raise BundleError(f"{self.path / name}: not a safetensors table: {exc}") from exc

    @cached_property
    def user_table(self) -> dict[str, NDArray[Any]]:
        """All tensors of users.safetensors, by name. Raises BundleError."""
        return self._table("users.safetensors")

    @property
    def probes(self) -> int | None:
        """How many lists of users a search for similar ones looks at; None where there are none and it looks at all users."""
        probes: int | None = self.info["embedding"].get("probes")
        return probes

    @cached_property
    def user_embeddings(self) -> NDArray[np.float16]:
        """[U, D] by user row; in a table with lists they lie in the lists' order. Raises BundleError."""
        table = self.user_table
        if self.probes is None:
            return table["embeddings"]
        by_row, starts, users = np.empty_like(table["embeddings"]), table["list_offsets"], table["list_users"]
        if (
            starts.shape != (len(table["centres"]) + 1,)
            or starts[0] != 0
            or (np.diff(starts) < 0).any()
            or starts[-1] > len(by_row)
            or not np.array_equal(np.sort(users), np.arange(len(by_row)))
        ):
            raise BundleError(
                f"{self.path}/users.safetensors: `list_offsets` and `list_users` are no lists of {len(by_row)} users"
            )
        by_row[users] = table["embeddings"]
        return by_row

    @cached_property
    def item_table(self) -> dict[str, NDArray[Any]]:
        """All tensors of items.safetensors, by name. Raises BundleError."""
        return self._table("items.safetensors")

    @cached_property
    def piece_table(self) -> dict[str, NDArray[Any]]:
        """All tensors of pieces.safetensors, by name. Raises BundleError."""
        return self._table("pieces.safetensors")

    def _ids(self, name: str, kind: str) -> Ids:
        """Reads nothing but shapes: a production user table is too large to read for one user."""
        path = self.path / name
        try:
            table: Any = safe_open(path, "np")
            if kind == "int64":
                numbers = table.get_slice("ids")
                return Ids(kind, int(numbers.get_shape()[0]), numbers, where=str(path))
            text, starts = table.get_slice("id_bytes"), table.get_slice("id_offsets")
            return Ids(kind, int(starts.get_shape()[0]) - 1, text=text, starts=starts, where=str(path))
        except (SafetensorError, OSError, IndexError) as exc:
            raise BundleError(f"{path}: not a safetensors table: {exc}") from exc

    @cached_property
    def snapshots(self) -> dict[str, NDArray[Any]]:
        """What training prompts retrieve with (docs/format.md). Only a catalog made by `rexit index` has it."""
        return self._table(self._beside("snapshots", self.info.get("snapshots")).name)

    @cached_property
    def encoded(self) -> dict[str, NDArray[Any]]:
        """The items' columns of vectors that prompts place, by name, float16 [I, D] (docs/format.md); none if they place none.
        A bundle has no copy. Raises BundleError."""
        dims = {} if self.vector_ids is None else self.vector_ids.dims
        if not dims:
            return {}
        path = self._beside("encoded", self.info.get("encoded"))
        found, expected = self._table(path.name), {name: (len(self.items), dim) for name, dim in dims.items()}
        seen = {name: table.shape for name, table in found.items() if table.dtype == np.float16}
        if seen != expected:
            raise BundleError(f"{path}: holds float16 {seen}, expected {expected}")
        return found

    def _beside(self, key: str, entry: Any) -> Path:
        """A file that catalog.json describes and a bundle does not copy. Raises BundleError."""
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise BundleError(
                f"{self.path}/catalog.json: {key} has no `path`; a catalog made by `rexit index --update` has no snapshots to "
                "train with, index all interactions for that"
                if "updated" in self.info
                else f"{self.path}/catalog.json: {key} has no `path`"
            )
        expected = read_entries({entry["path"]: entry}, self.path / "catalog.json")[entry["path"]]
        path = self.path / entry["path"]
        if not path.is_file():
            raise BundleError(f"{path}: missing; a bundle's catalog does not hold it, use the catalog that `rexit index` wrote")
        if FileEntry.of(path) != expected:
            raise BundleError(f"{path}: not the file catalog.json describes (truncated or edited)")
        return Path(path)

    @cached_property
    def users(self) -> Ids:
        """The users' ids, read from the file as needed. Raises BundleError."""
        return self._ids("users.safetensors", self.info["ids"]["user"])

    @cached_property
    def items(self) -> Ids:
        """The items' ids, read from the file as needed. Raises BundleError."""
        return self._ids("items.safetensors", self.info["ids"]["item"])

    def edited(self) -> list[str]:
        """One line for each table whose hash is not the one recorded; empty if all are right."""
        return list(check_hashes(self.path, self.files))

    def split(self, name: str) -> Split:
        """The interactions of `train`, `validation` or `test`. Only a catalog written by `rexit index` has them; a bundle's copy
        does not.

        Raises InputError for another name, BundleError for a file that is missing or not the one recorded.
        """
        if name not in SPLITS:
            raise InputError(f"split {name!r}, expected one of {', '.join(SPLITS)}")
        path = self._beside(f"splits.{name}", self.info["splits"].get(name))
        import polars as pl

        frame = pl.read_parquet(path)
        return Split(
            _rows(self.users, frame["user"], "user"),
            _rows(self.items, frame["item"], "item"),
            frame["time"].to_numpy().astype(np.int64),
            frame["liked"].to_numpy().astype(np.bool_),
        )


def _rows(ids: Ids, column: pl.Series, what: str) -> NDArray[np.int64]:
    """Rows of a column of ids; each id is looked up once, however often it occurs."""
    import polars as pl

    unique = column.unique(maintain_order=True)
    return column.replace_strict(unique, ids.rows(unique.to_list(), what), return_dtype=pl.Int64).to_numpy()
