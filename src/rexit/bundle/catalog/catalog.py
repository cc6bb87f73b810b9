"""`catalog/`: users, items and the prompt program, as `rexit index` wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rexit.bundle.catalog.ids import Ids
from rexit.bundle.catalog.program import program_digest
from rexit.bundle.catalog.splits import SPLITS, Split, read_split
from rexit.bundle.files import FileEntry, check_hashes, check_paths, check_sizes, digest, read_json
from rexit.bundle.inputs import Inputs
from rexit.bundle.labels import labels_of
from rexit.bundle.typed import typed
from rexit.bundle.vectors import VectorIds
from rexit.errors import BundleError, InputError
from rexit.roles import RULE, Roles
from rexit.times import Timeline

TABLES = ("users.safetensors", "items.safetensors", "pieces.safetensors")
ZERO = "zero.onnx"
"""Exit zero's graph, in catalogs with numbers."""
MAX_PROBES = 1 << 16
Kind = Annotated[str, msgspec.Meta(pattern="^(int64|string)$")]


class _Kinds(msgspec.Struct, frozen=True):
    user: Kind
    item: Kind


class _Embedding(msgspec.Struct, frozen=True):
    probes: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROBES)] | None = None


class _Op(msgspec.Struct, frozen=True):
    op: str
    entry: tuple[_Op, ...] = ()


class Number(msgspec.Struct, frozen=True, omit_defaults=True):
    """What exit zero reads of a candidate. limit: similar users or nearest items."""

    op: Annotated[
        str,
        msgspec.Meta(
            pattern="^(gcn|user_count|user_like_rate|item_count|item_like_rate|similar_like_rate|nearest_like_rate|score)$"
        ),
    ]
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None

    def __post_init__(self) -> None:
        if (self.limit is not None) != (self.op in ("similar_like_rate", "nearest_like_rate")):
            raise ValueError(f"limit: is {self.limit} with the number {self.op!r}")


class _Prompt(msgspec.Struct, frozen=True):
    prefix: tuple[_Op, ...] = ()
    candidate: tuple[_Op, ...] = ()
    numbers: tuple[Number, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.numbers)) < len(self.numbers):
            raise ValueError("numbers: has a number twice")


class _Info(msgspec.Struct, frozen=True):
    """catalog.json, as far as all its readers need it. `rexit.bundle.inputs` and its like read the rest."""

    ids: _Kinds
    counts: Mapping[str, int]
    labels: Any
    embedding: _Embedding
    prompt: _Prompt
    splits: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    def __post_init__(self) -> None:
        check_paths(self.files)
        expected = {*TABLES, ZERO} if self.prompt.numbers else set(TABLES)
        if set(self.files) != expected:
            raise ValueError(f"files: lists {sorted(self.files)}, expected {sorted(expected)}")


class _Entry(FileEntry, frozen=True):
    """A file that catalog.json describes and a bundle does not copy."""

    path: str

    def __post_init__(self) -> None:
        check_paths([self.path])


@dataclass(frozen=True)
class Catalog:
    """An opened catalog folder. Tables are read on first use; ids stay in the file.

    Attributes:
        path: The folder.
        info: catalog.json.
        files: Sizes and digests of the files that a bundle copies beside catalog.json.
    """

    path: Path
    info: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Opens a catalog; checks structure and sizes. Raises BundleError."""
        path = Path(path)
        if not path.is_dir():
            raise BundleError(f"{path}: no such catalog folder")
        if not (path / "catalog.json").is_file() and (path / "manifest.json").is_file():
            raise BundleError(f"{path}: is a bundle, expected a catalog: the folder that `rexit index` wrote")
        info = read_json(path / "catalog.json")
        known = typed(info, _Info, f"{path}/catalog.json")
        check_sizes(path, known.files)
        catalog = cls(path, info, known.files)
        ids, _, _ = catalog.vector_ids, catalog.inputs, catalog.labels
        if ids and ids.too_many:
            raise BundleError(f"{path}/catalog.json: {ids.too_many}")
        return catalog

    @cached_property
    def labels(self) -> dict[str, int]:
        """The token ids of the answers, see `rexit.bundle.labels`. Raises BundleError."""
        try:
            return labels_of(self.info)
        except ValueError as exc:
            raise BundleError(f"{self.path}/catalog.json: {exc}") from exc

    @cached_property
    def vector_ids(self) -> VectorIds | None:
        """The ids that stand for vectors in prompts; None if prompts are text only."""
        return VectorIds.of(self.info, f"{self.path}/catalog.json")

    @cached_property
    def inputs(self) -> Inputs:
        """What a request says for the prompt. Raises BundleError."""
        return Inputs.of(self.info, f"{self.path}/catalog.json")

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """What exit zero reads of a candidate, as ops; empty: the catalog has no exit zero."""
        return list(self.info["prompt"].get("numbers", []))

    @property
    def reads_scores(self) -> bool:
        """Whether exit zero reads the first stage's score of each candidate, which requests must bring."""
        return {"op": "score"} in self.numbers

    @cached_property
    def sha256(self) -> str:
        """The catalog's digest: the SHA-256 of catalog.json, which has those of the tables."""
        return digest(self.path / "catalog.json")

    @cached_property
    def timeline(self) -> Timeline:
        """What the times are, and the first and the last interaction's. Raises BundleError."""
        return typed(self.info.get("order"), Timeline, f"{self.path}/catalog.json", at="order")

    @property
    def space(self) -> str:
        """The space of the embeddings: the digest of the catalog that trained them. Only embeddings of one space can be compared;
        updates keep it."""
        return str(self.info["embedding"].get("space", self.sha256))

    @property
    def traits(self) -> dict[str, str]:
        """What a model trained on this catalog depends on, and an update keeps: digests of `tokenizer`, `prompt` program and
        `space`. Raises BundleError."""
        program = program_digest(self.info["prompt"], self.piece_table)
        return {"tokenizer": str(self.info["tokenizer"]["sha256"]), "prompt": program, "space": self.space}

    @property
    def roles(self) -> Roles:
        """Its users'. Raises BundleError."""
        if (rule := self.info.get("roles")) != RULE:
            raise BundleError(f"{self.path}/catalog.json: roles are {rule!r}, expected {RULE!r}: run `rexit index` again")
        return Roles()

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
        """Lists of users that a search for similar users looks at; None: there are no lists, it looks at all users."""
        probes: int | None = self.info["embedding"].get("probes")
        return probes

    @cached_property
    def user_embeddings(self) -> NDArray[np.float16]:
        """The users' embeddings by row, float16 [U, D]; a table with lists has them in the lists' order. Raises BundleError."""
        table = self.user_table
        if self.probes is None:
            return table["embeddings"]
        if missing := {"centres", "list_offsets", "list_users"} - set(table):
            raise BundleError(f"{self.path}/users.safetensors: tensor `{min(missing)}` is missing")
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
        """Reads only shapes: a production user table is too large to read for one user."""
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
        """What training prompts retrieve with. Only a catalog of `rexit index` has it, not an updated one. Raises BundleError."""
        return self._table(self._beside("snapshots", self.info.get("snapshots")).name)

    @cached_property
    def encoded(self) -> dict[str, NDArray[Any]]:
        """The items' columns of vectors that prompts place, by name, float16 [I, D]. A bundle has no copy. Raises BundleError."""
        dims = {} if self.vector_ids is None else self.vector_ids.dims
        if not dims:
            return {}
        path = self._beside("encoded", self.info.get("encoded"))
        columns, expected = self._table(path.name), {name: (len(self.items), dim) for name, dim in dims.items()}
        shapes = {name: column.shape for name, column in columns.items() if column.dtype == np.float16}
        if shapes != expected:
            raise BundleError(f"{path}: holds float16 {shapes}, expected {expected}")
        return columns

    def _beside(self, key: str, entry: Any) -> Path:
        """Returns a file that catalog.json describes and a bundle does not copy. Raises BundleError."""
        if entry is None and "updated" in self.info:
            raise BundleError(
                f"{self.path}/catalog.json: `{key}` is missing: a catalog made by `rexit index --from` has no snapshots to "
                "train with, index all interactions for that"
            )
        expected = typed(entry, _Entry, f"{self.path}/catalog.json", at=key)
        path = self.path / expected.path
        if not path.is_file():
            raise BundleError(f"{path}: missing; a bundle's catalog does not hold it, use the catalog that `rexit index` wrote")
        if FileEntry.of(path) != FileEntry(expected.bytes, expected.sha256):
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
        """Returns one line per file with another hash than recorded."""
        return list(check_hashes(self.path, self.files))

    def split(self, name: str) -> Split:
        """Returns the interactions of a split. A bundle's copy of the catalog has none.

        Args:
            name: `train`, `validation` or `test`.

        Raises:
            InputError: There is no such split.
            BundleError: Its file is missing, or not the recorded one.
        """
        if name not in SPLITS:
            raise InputError(f"split {name!r}, expected one of {', '.join(SPLITS)}")
        path = self._beside(f"splits {name}", self.info["splits"].get(name))
        return read_split(path, self.users, self.items, self.inputs)
