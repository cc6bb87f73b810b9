"""`catalog/`: ids of users and items and their rows, tables, the prompt program, and splits, as `rexit index` wrote them."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rexit.errors import BundleError, InputError
from rexit.format.bundle.files import FileEntry, Name, check_hashes, check_paths, check_sizes, digest, read_json, typed
from rexit.format.bundle.inputs import COLUMN as INPUT
from rexit.format.bundle.inputs import Codes, Inputs
from rexit.format.bundle.manifest import labels_of
from rexit.format.bundle.vectors import VectorIds
from rexit.format.candidates import Candidates
from rexit.format.ids import Id, to_id
from rexit.format.roles import RULE, Roles
from rexit.format.times import Timeline

if TYPE_CHECKING:
    import polars as pl

FEW = 1000
"""A copy of all ids pays off if more than one id in this many is looked up."""


class Column(Protocol):
    """One dimension of a tensor, in memory or in a file. Only the requested rows are read."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Ids:
    """The ids of a catalog's users or items by row, ascending.

    A few ids are looked up in the file itself, with some twenty reads per id. Many are looked up in a copy of all ids.

    Attributes:
        kind: `int64` or `string`.
        count: Number of ids.
        numbers: int64 [n], of integer ids.
        text: UTF-8 of string ids, ordered bytewise, uint8 [bytes].
        starts: Where each string id begins in `text`, int64 [n + 1].
        where: The file, for messages.
    """

    kind: str
    count: int
    numbers: Column | None = None
    text: Column | None = None
    starts: Column | None = None
    where: str = "ids"

    def __len__(self) -> int:
        return self.count

    def row(self, identifier: Id) -> int | None:
        """Returns the row of an id; None if the catalog does not have it."""
        if (key := self._key(identifier)) is None:
            return None
        at = bisect.bisect_left(range(self.count), key, key=self._at)
        return at if at < self.count and self._at(at) == key else None

    def find(self, ids: Sequence[Id]) -> NDArray[np.int64]:
        """Returns the rows of many ids, int64 [n]; -1 for an id that the catalog does not have."""
        if self.count == 0 or len(ids) * FEW <= self.count:
            return np.array([-1 if (row := self.row(identifier)) is None else row for identifier in ids], np.int64)
        keys = [self._key(identifier) for identifier in ids]
        known = np.array([key is not None for key in keys], np.bool_)
        targets = np.empty(len(keys), self._all.dtype)
        targets[:] = [self._all[0] if key is None else key for key in keys]
        at = np.minimum(np.searchsorted(self._all, targets), self.count - 1)
        return np.where(known & (self._all[at] == targets), at, -1)

    def rows(self, ids: Sequence[Id], what: str = "item") -> NDArray[np.int64]:
        """Returns the rows of many ids, int64 [n]. Raises InputError for the first unknown id. what: `user` or `item`, for the
        message."""
        rows = self.find(ids)
        if (rows < 0).any():
            raise InputError(f"{what} {ids[int((rows < 0).argmax())]!r} is not in the catalog")
        return rows

    def id(self, row: int) -> Id:
        """Returns the id of a row."""
        return self._plain([self._at(row)])[0]

    def take(self, rows: NDArray[np.int64]) -> list[Id]:
        """Returns the ids of many rows. rows: int64 [n]."""
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
        """Returns the UTF-8 of rows [begin, end). Raises BundleError if the offsets are damaged."""
        assert self.text is not None and self.starts is not None
        starts = self.starts[begin : end + 1].tolist()
        if starts[0] < 0 or any(a > b for a, b in itertools.pairwise(starts)):
            raise BundleError(f"{self.where}: the offsets of the ids of rows {begin} to {end} are not ascending")
        try:
            raw = self.text[starts[0] : starts[-1]].tobytes()
        except SafetensorError as exc:
            raise BundleError(f"{self.where}: the offsets of the ids of rows {begin} to {end} point beyond their text") from exc
        return [raw[a - starts[0] : b - starts[0]] for a, b in itertools.pairwise(starts)]

    def _key(self, identifier: Id) -> int | bytes | None:
        """Returns the key to compare by; None for an id that this kind of catalog cannot have."""
        value = to_id(identifier, self.kind)
        return value.encode() if isinstance(value, str) else value


SPLITS = ("train", "validation", "test")
"""For training, for choosing, for the final judgement. Every interaction is in one split."""

CANDIDATE = "candidate"
"""The column of a split's file that is false for a like that was not retrieved."""

SCORE = "score."
"""Prefix of the columns and tensors of first stages' scores."""


@dataclass(frozen=True)
class Split:
    """One part of the interactions, ordered by user row, time and item row.

    Attributes:
        users: Rows of the users, int64 [n].
        items: Rows of the items, int64 [n].
        times: In the catalog's unit, int64 [n].
        liked: bool [n].
        inputs: For each input of the prompt the place of its codes in `codes`, int32 [n, inputs].
        codes: The distinct codes (`rexit.format.bundle.inputs`), int32 each.
        scores: The first stages' that exit zero reads, float32 [n], NaN where missing, by name.
        missed: Which rows are likes that were not retrieved, bool [n]; None: candidates alone.
        weights: How much each counts in training, float32 [n]; None: all the same.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    liked: NDArray[np.bool_]
    inputs: NDArray[np.int32]
    codes: tuple[Codes, ...] = ()
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    missed: NDArray[np.bool_] | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def codes_of(self, row: int) -> tuple[Codes, ...]:
        """Returns the codes of an interaction's inputs."""
        return tuple(self.codes[place] for place in self.inputs[row])


def read_split(path: Path, users: Ids, items: Ids, inputs: Inputs, missed: bool = False) -> Split:
    """Reads a split's candidates. Raises InputError for an id that the catalog does not have. missed: read the likes that were
    not retrieved, too."""
    import polars as pl

    frame = pl.read_parquet(path, glob=False)
    of_retrieved = CANDIDATE in frame.columns
    if of_retrieved and not missed:
        frame = frame.filter(CANDIDATE)
    return Split(
        _rows(users, frame["user"], "user"),
        _rows(items, frame["item"], "item"),
        frame["time"].to_numpy().astype(np.int64),
        frame["liked"].to_numpy().astype(np.bool_),
        *_codes(frame, inputs),
        scores={name: frame[SCORE + name].to_numpy() for name in named(frame.columns, SCORE)},
        missed=~frame[CANDIDATE].to_numpy() if of_retrieved and missed else None,
        weights=frame["weight"].to_numpy() if "weight" in frame.columns else None,
    )


def named(columns: Iterable[str], prefix: str) -> list[str]:
    """Returns what follows the prefix in the columns that begin with it, ascending."""
    return sorted(column.removeprefix(prefix) for column in columns if column.startswith(prefix))


def _rows(ids: Ids, column: pl.Series, what: str) -> NDArray[np.int64]:
    """Returns the rows of a column of ids. Looks each distinct id up once."""
    import polars as pl

    unique = column.unique(maintain_order=True)
    return column.replace_strict(unique, ids.rows(unique.to_list(), what), return_dtype=pl.Int64).to_numpy()


def _codes(frame: pl.DataFrame, inputs: Inputs) -> tuple[NDArray[np.int32], tuple[Codes, ...]]:
    """Returns `inputs` and `codes` of a split."""
    import polars as pl

    columns = [frame[INPUT + name].fill_null("").rename("") for name in inputs.names]
    if not columns:
        return np.zeros((len(frame), 0), np.int32), ()
    distinct = pl.concat(columns).unique(maintain_order=True)
    places = pl.Series(range(len(distinct)), dtype=pl.Int32)
    rows = [column.replace_strict(distinct, places, return_dtype=pl.Int32).to_numpy() for column in columns]
    return np.column_stack(rows), tuple(np.array(text.split(), np.int32) for text in distinct)


_PIECES = ("piece", "missing", "yes", "no", "unseen", "empty", "bins", "pieces")
"""Keys of an op whose values are pieces."""

Pieces = Mapping[str, NDArray[Any]]
"""`offsets` and `tokens` of pieces.safetensors."""


def first_difference(
    program: Mapping[str, Any], pieces: Pieces, expected: Mapping[str, Any], expected_pieces: Pieces
) -> str | None:
    """Returns the first difference between two programs (`prompt` of catalog.json) with their pieces; None if there is none."""
    for part in ("prefix", "candidate"):
        sides = _spelled(program.get(part, []), pieces), _spelled(expected.get(part, []), expected_pieces)
        for at, (a, b) in enumerate(itertools.zip_longest(*sides)):
            if a != b:
                return f"{part} op {at} is {_short_op(a)}, expected {_short_op(b)}"
    inputs = [{entry["name"]: entry for entry in side.get("inputs") or []} for side in (program, expected)]
    for name, entry in inputs[0].items():
        if entry != inputs[1].get(name):
            return f"input {name!r} is {_short_entry(entry, 'name')}, expected {_short_entry(inputs[1].get(name), 'name')}"
    return None


def program_digest(program: Mapping[str, Any], pieces: Pieces) -> str:
    """Returns the SHA-256 of a program (`prompt` of catalog.json), lower-case hex. It is equal for two programs that have no
    `first_difference` in what a model reads and place the same vectors."""
    spelled = {part: _spelled(program[part], pieces) for part in ("prefix", "candidate")}
    inputs = {"inputs": program["inputs"]} if program.get("inputs") else {}
    text = json.dumps({**spelled, "vectors": program.get("vectors", []), **inputs}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _spelled(ops: list[dict[str, Any]], pieces: Pieces) -> list[dict[str, Any]]:
    offsets, tokens = pieces["offsets"], pieces["tokens"]

    def spell(value: Any) -> Any:
        return (
            [spell(piece) for piece in value] if isinstance(value, list) else tokens[offsets[value] : offsets[value + 1]].tolist()
        )

    def spell_entry(key: str, value: Any) -> Any:
        if key == "entry":
            return _spelled(value, pieces)
        return spell(value) if key in _PIECES else value

    return [{key: spell_entry(key, value) for key, value in op.items()} for op in ops]


def _short_op(op: dict[str, Any] | None) -> str:
    return "missing" if op is None else f"{op['op']} ({_short_entry(op, 'op')})".removesuffix(" ()")


def _short_entry(entry: dict[str, Any] | None, without: str) -> str:
    """The entry's keys and values but one, at most 100 characters."""
    text = "missing" if entry is None else ", ".join(f"{key} {value}" for key, value in entry.items() if key != without)
    return text if len(text) <= 100 else text[:99] + "…"


def number_name(op: Mapping[str, Any]) -> str:
    """An op of exit zero as people read it: as a template's `[zero]` has it, or a column with what is made of its cosines."""
    if op["op"] == "score":
        return SCORE + str(op["name"])
    if "column" in op:
        return f"{op['column']} ({'mean' if op['op'] == 'mean_cosine' else 'largest'} cosine)"
    name = str(op["op"]).replace("user_", "user.").replace("item_", "item.")
    return f"{name}:{op['limit']}" if "limit" in op else name


VECTOR = "vector."
"""Prefix of the tensors of items.safetensors that are columns of vectors."""
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
    """What exit zero reads of a candidate. column: of vectors. limit: similar users, nearest items or latest likes. name: of a
    request's `scores`."""

    op: Annotated[
        str,
        msgspec.Meta(
            pattern="^(gcn|user_count|user_like_rate|item_count|item_like_rate|similar_like_rate|nearest_like_rate"
            "|mean_cosine|max_cosine|score)$"
        ),
    ]
    column: Name | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    name: Name | None = None

    def __post_init__(self) -> None:
        if (self.name is not None) != (self.op == "score"):
            raise ValueError(f"name: is {self.name!r} with the number {self.op!r}")
        if (self.limit is not None) != (self.op in ("similar_like_rate", "nearest_like_rate", "max_cosine")):
            raise ValueError(f"limit: is {self.limit} with the number {self.op!r}")
        if (self.column is not None) != self.op.endswith("_cosine"):
            raise ValueError(f"column: is {self.column!r} with the number {self.op!r}")


class _Prompt(msgspec.Struct, frozen=True):
    prefix: tuple[_Op, ...] = ()
    candidate: tuple[_Op, ...] = ()
    numbers: tuple[Number, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.numbers)) < len(self.numbers):
            raise ValueError("numbers: has a number twice")


class _Info(msgspec.Struct, frozen=True):
    """catalog.json, as far as all its readers need it. `rexit.format.bundle.inputs` and its like read the rest."""

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
        """The token ids of the answers, see `rexit.format.bundle.manifest`. Raises BundleError."""
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
    def score_names(self) -> list[str]:
        """The names of a request's `scores` that exit zero reads, in the order of its numbers; empty: it reads none."""
        return [op["name"] for op in self.numbers if op["op"] == "score"]

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
    def candidates(self) -> Candidates:
        """Those of its slates."""
        return Candidates.of(self.info)

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

    @property
    def vector_columns(self) -> list[str]:
        """The columns of item vectors that exit zero reads."""
        return sorted({op["column"] for op in self.numbers if "column" in op})

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

    def split(self, name: str, missed: bool = False) -> Split:
        """Returns the candidates of a split. A bundle's copy of the catalog has none.

        Args:
            name: `train`, `validation` or `test`.
            missed: With retrieved candidates, whether to read the likes that were not retrieved, too.

        Raises:
            InputError: There is no such split.
            BundleError: Its file is missing, or not the recorded one.
        """
        if name not in SPLITS:
            raise InputError(f"split {name!r}, expected one of {', '.join(SPLITS)}")
        path = self._beside(f"splits {name}", self.info["splits"].get(name))
        return read_split(path, self.users, self.items, self.inputs, missed)
