"""`catalog/`: users, items and the prompt program, as `rexit index` wrote them. Tables are memory-mapped."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rexit.bundle.files import FileEntry, check_hashes, check_sizes, digest, read_entries, read_json
from rexit.errors import BundleError, InputError

TABLES = ("users.safetensors", "items.safetensors", "pieces.safetensors")
SPLITS = ("train", "validation", "test")

Id = int | str


@dataclass(frozen=True)
class Ids:
    """Row <-> id. `values` is ascending: int64 [n], or UTF-8 bytes ordered bytewise."""

    values: NDArray[Any]
    kind: str  # "int64" or "string"

    def __len__(self) -> int:
        return len(self.values)

    def row(self, id: Id) -> int | None:
        """The row of an id, None when the catalog does not hold it."""
        if self.kind == "string":
            key: Any = str(id).encode()
        elif isinstance(id, str):
            try:
                key = int(id)
            except ValueError:
                return None
        elif isinstance(id, int | np.integer) and not isinstance(id, bool):
            key = int(id)
        else:
            return None
        at = int(np.searchsorted(self.values, key))
        return at if at < len(self.values) and self.values[at] == key else None

    def rows(self, ids: Sequence[Id], what: str = "item") -> NDArray[np.int64]:
        """Rows of many ids. Raises InputError for the first one that is not in the catalog."""
        rows = np.empty(len(ids), np.int64)
        for n, id in enumerate(ids):
            row = self.row(id)
            if row is None:
                raise InputError(f"{what} {id!r} is not in the catalog")
            rows[n] = row
        return rows

    def id(self, row: int) -> Id:
        value = self.values[row]
        return bytes(value).decode() if self.kind == "string" else int(value)


@dataclass(frozen=True)
class Split:
    """One part of the interactions, ordered by (user row, time, item row). Rows are the catalog's."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    liked: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Catalog:
    """An opened catalog folder; `info` is catalog.json, the tables are read on first use."""

    path: Path
    info: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Checks structure and sizes. Raises BundleError."""
        path = Path(path)
        if not path.is_dir():
            raise BundleError(f"{path}: no such catalog folder")
        info = read_json(path / "catalog.json")
        for key in ("ids", "counts", "labels", "embedding", "prompt", "splits"):
            if not isinstance(info.get(key), dict):
                raise BundleError(f"{path}/catalog.json: `{key}` is missing or not an object")
        files = read_entries(info.get("files"), path / "catalog.json")
        if set(files) != set(TABLES):
            raise BundleError(f"{path}/catalog.json: lists {sorted(files)}, expected {sorted(TABLES)}")
        if any(info["ids"].get(what) not in ("int64", "string") for what in ("user", "item")):
            raise BundleError(f"{path}/catalog.json: ids are {info['ids']}, expected `int64` or `string` for `user` and `item`")
        check_sizes(path, files)
        return cls(path, info, files)

    @cached_property
    def sha256(self) -> str:
        """The catalog's digest: that of catalog.json, which carries those of the tables."""
        return digest(self.path / "catalog.json")

    def _table(self, name: str) -> dict[str, NDArray[Any]]:
        try:
            with safe_open(self.path / name, "np") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        except (SafetensorError, OSError) as exc:
            raise BundleError(f"{self.path / name}: not a safetensors table: {exc}") from exc

    @cached_property
    def user_table(self) -> dict[str, NDArray[Any]]:
        return self._table("users.safetensors")

    @cached_property
    def item_table(self) -> dict[str, NDArray[Any]]:
        return self._table("items.safetensors")

    @cached_property
    def piece_table(self) -> dict[str, NDArray[Any]]:
        return self._table("pieces.safetensors")

    def _ids(self, table: dict[str, NDArray[Any]], kind: str) -> Ids:
        if kind == "int64":
            return Ids(table["ids"], kind)
        raw, offsets = table["id_bytes"].tobytes(), table["id_offsets"]
        values = np.empty(len(offsets) - 1, object)
        values[:] = [raw[a:b] for a, b in itertools.pairwise(offsets.tolist())]
        return Ids(values, kind)

    @cached_property
    def users(self) -> Ids:
        return self._ids(self.user_table, self.info["ids"]["user"])

    @cached_property
    def items(self) -> Ids:
        return self._ids(self.item_table, self.info["ids"]["item"])

    def edited(self) -> list[str]:
        """One line for each table whose hash is not the one recorded; empty when all are right."""
        return list(check_hashes(self.path, self.files))

    def split(self, name: str) -> Split:
        """`train`, `validation` or `test`. Only a catalog made by `rexit index` has them; a bundle's copy does not."""
        if name not in SPLITS:
            raise InputError(f"split {name!r}, expected one of {', '.join(SPLITS)}")
        entry = self.info["splits"].get(name)
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise BundleError(f"{self.path}/catalog.json: splits.{name} has no `path`")
        expected = read_entries({entry["path"]: entry}, self.path / "catalog.json")[entry["path"]]
        path = self.path / entry["path"]
        if not path.is_file():
            raise BundleError(f"{path}: missing; a bundle's catalog holds no splits, use the one `rexit index` wrote")
        if FileEntry.of(path) != expected:
            raise BundleError(f"{path}: not the file catalog.json describes (truncated or edited)")
        frame = pl.read_parquet(path)
        return Split(
            self.users.rows(frame["user"].to_list(), "user"),
            self.items.rows(frame["item"].to_list(), "item"),
            frame["time"].to_numpy().astype(np.int64),
            frame["liked"].to_numpy().astype(np.bool_),
        )
