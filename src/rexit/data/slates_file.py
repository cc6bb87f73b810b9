"""Files of slates: prompts of your own with labels, as any reranking data set has them. docs/tables.md describes them.

1. `prefix` and the candidates are whole texts or lists of token ids. A reranker may have `query` in the place of `prefix`: then
   candidates are documents.
2. A row with `candidates` is a slate, and its `label` a list. Rows with `candidate` and a single `label` form a slate with the
   rows of the same `group` and prefix, wherever these are.
3. Columns `score.NAME` are first stages' scores of each candidate, such as BM25's; null: missing. Exit zero reads them.
4. A group (a user; a query, whose text it is without such a column) is the unit of every interval and guarantee, and is in one
   split. A column `split` says which. Without it, a hash of the name says (`rexit.format.roles`): about a fifth is for training,
   two fifths for validation, the rest for test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from rexit.data.slates import Slate, SlateT, TokenSlate, parts
from rexit.errors import InputError
from rexit.format.bundle.catalog import SCORE, SPLITS, Catalog, named
from rexit.format.bundle.files import digest, short, typed
from rexit.format.ids import Id
from rexit.format.request import Request
from rexit.format.roles import Roles, chooses, split_of

if TYPE_CHECKING:
    from rexit.data.texts import TextEncoder

FORMATS = (".parquet", ".jsonl")
_LARGEST = float(np.finfo(np.float32).max)

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class _File(Generic[SlateT]):
    """A file of slates.

    Attributes:
        path: The file.
        slates: By split, in the order of the file.
        roles: Its users' or groups'.
    """

    path: Path
    slates: Mapping[str, Sequence[SlateT]]
    roles: Roles

    @cached_property
    def sha256(self) -> str:
        """The file's digest."""
        return digest(self.path)

    def cut(self, split: str, size: int | None = None) -> list[SlateT]:
        """Returns a split's slates. size: the most candidates of a slate, larger slates are cut; None: slates as they are.

        Raises:
            InputError: The split is empty, or the size is below 1.
        """
        if size is not None and size < 1:
            raise InputError(f"slate size {size}, expected at least 1")
        if not (slates := self.slates[split]):
            groups = f"{len({slate.user for slate in self.all_slates})} groups{' with labels' if self.labelled else ''}"
            raise InputError(f"{self.path}: the {split} split is empty, expected at least one of the {groups}")
        return [part for slate in slates for part in parts(slate, size)]

    @property
    def labelled(self) -> bool:
        """Whether the slates have labels."""
        return next(self.all_slates).labelled

    @property
    def all_slates(self) -> Iterator[SlateT]:
        """The slates of all splits."""
        return itertools.chain.from_iterable(self.slates.values())

    @property
    def largest(self) -> int:
        """Candidates of the largest slate."""
        return max(len(slate.items) for slate in self.all_slates)


@dataclass(frozen=True)
class Query:
    """A slate's query and documents as texts, and whether each document is relevant."""

    group: Id
    text: str
    documents: list[str]
    liked: list[bool]


@dataclass(frozen=True)
class SlatesFile(_File[TokenSlate]):
    """The slates of a file, as token ids.

    Attributes:
        unlabelled: Validation slates without labels, in a file where others have them. `slates` are then those with labels.
    """

    unlabelled: Sequence[TokenSlate] = ()

    @classmethod
    def read(cls, path: Path, encoder: Callable[[], TextEncoder] | None = None, *, labels: bool = True) -> SlatesFile:
        """Reads a file.

        Args:
            path: A `.parquet` or `.jsonl` file.
            encoder: Returns the model's encoder, and is called if a column holds text; None: only token ids are expected.
            labels: Whether every slate must have them; else some or all may be without.

        Raises:
            InputError: The file, naming the row.
        """
        path = Path(path)
        rows = list(_read(path, encoder))
        slates = [slate for slate, _ in rows]
        known = [slate.liked for slate in slates if slate.labelled]
        if labels and len(known) < len(slates):
            raise InputError(
                f"{path}: {len(slates) - len(known)} of {len(slates)} slates have no `label` (1 for what should rank high, 0 for "
                "the rest), expected labels of all"
            )
        liked = np.concatenate(known or [np.array([True, False])])
        if liked.all() or not liked.any():
            kind = "1 or more" if liked[0] else "below 1"
            raise InputError(f"{path}: all {len(liked)} labels are {kind}, expected both kinds: nothing can be ranked")
        named = _named_splits(path, rows)
        splits = named or {slate.user: split_of(slate.user) for slate in slates}
        used, rest = ([slate for slate in slates if slate.labelled == side] for side in (bool(known), not known))
        by_split = {name: [slate for slate in used if splits[slate.user] == name] for name in SPLITS}
        unlabelled = tuple(slate for slate in rest if splits[slate.user] == "validation")
        return cls(path, by_split, Roles.of_column(named) if named else Roles(), unlabelled)

    def queries(self, split: str) -> list[Query]:
        """Reads the texts of a split's slates. Raises InputError for a file without queries, or an empty split."""
        groups = {slate.user for slate in self.cut(split)}
        is_query, rows = _grouped(self.path)
        if not is_query:
            raise InputError(f"{self.path}: no column `query`, expected queries and documents as texts to train an encoder on")
        return [Query(row.group, row.prefix, row.candidates, list(map(bool, row.labels))) for row in rows if row.group in groups]

    @property
    def score_names(self) -> list[str]:
        """The first stages whose scores candidates have, ascending."""
        return list(next(self.all_slates).scores)

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the longest prefix, and of the longest candidate."""
        prefixes, candidates = zip(
            *((len(slate.prefix), max(map(len, slate.candidates))) for slate in self.all_slates), strict=True
        )
        return max(prefixes), max(candidates)

    def check_fits(self, vocabulary: int, max_positions: int, max_tokens: int | None = None) -> None:
        """Raises InputError for the first slate with a token beyond the vocabulary, or too long for the model.

        max_tokens: The most tokens of a candidate; None: no limit.
        """
        for slate in itertools.chain(self.all_slates, self.unlabelled):
            for part, tokens in slate.named_parts():
                where = f"{self.path}: group {slate.user!r}: {part}"
                if len(tokens) and int(tokens.max()) >= vocabulary:
                    at = int(tokens.argmax())
                    raise InputError(f"{where}[{at}] is {int(tokens[at])}, expected a token id from 0 to {vocabulary - 1}")
                if part == "prefix":
                    continue
                if len(slate.prefix) + len(tokens) > max_positions:
                    raise InputError(
                        f"{where}: has {len(slate.prefix)} + {len(tokens)} tokens (prefix + candidate), the model takes "
                        f"{max_positions}"
                    )
                if max_tokens is not None and len(tokens) > max_tokens:
                    raise InputError(f"{where}: has {len(tokens)} tokens, more than the {max_tokens} of --max-tokens")


class RequestLog(_File[Slate]):
    """What users of a bundle with a catalog were shown: requests, without labels. Nobody fits: there is no training split.

    A user whom the catalog does not have is a new one, as in a request; if it has none of them, the file is another catalog's.
    """

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> RequestLog:
        """Reads a `.parquet` or `.jsonl` file with a request in every row. Raises InputError, naming the row."""
        by_split: dict[str, list[Slate]] = {name: [] for name in SPLITS}
        known = 0
        for where, row in _rows(Path(path)):
            logged = typed(row, Request, f"{path}: {where}", error=InputError)
            try:
                if logged.user is None or logged.items is None:
                    raise InputError(f"`{'items' if logged.items is None else 'user'}` is missing")
                recent = (entry[0] if isinstance(entry, tuple) else entry for entry in logged.recent or ())
                catalog.items.rows([*logged.items, *recent])
                scores = _logged_scores(logged, catalog.score_names)
                known += int(catalog.users.find([logged.user])[0]) >= 0
                catalog.inputs.encode(logged.inputs, lambda text, _: [0] if text.strip() else [])  # a session has the tokenizer
            except InputError as exc:
                raise InputError(f"{path}: {where}: {exc}") from exc
            liked = np.zeros(len(logged.items), np.bool_)
            fields = (logged.user, tuple(logged.items), logged.as_of, liked, logged.inputs or {})
            slate = Slate(*fields, labelled=False, recent=logged.recent, scores=scores)
            by_split[split_of(slate.user, fits=False)].append(slate)
        if not known:
            raise InputError(f"{path}: none of its users is in the catalog, expected ids of the catalog's users")
        return cls(Path(path), by_split, Roles())


def _logged_scores(logged: Request, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The scores that exit zero reads, as a request's reader takes them. Raises InputError."""
    count, read = len(logged.items or ()), ", ".join(names) or "none"
    scores = {name: numbers for name, numbers in (logged.scores or {}).items() if numbers is not None}
    if unread := [name for name in logged.scores or {} if name not in names]:
        raise InputError(f"scores.{unread[0]}: exit zero reads no such score, it reads {read}")
    if names and not scores:
        raise InputError(f"scores is missing, expected a number for each candidate: exit zero reads {read}")
    for name, numbers in scores.items():
        if len(numbers) != count:
            raise InputError(f"scores.{name} has {len(numbers)} numbers, expected one for each of items, {count}")
    return {name: np.array(parse_scores(scores.get(name, [None] * count), f"scores.{name}"), np.float32) for name in names}


def certifying_groups(path: Path) -> tuple[int, bool]:
    """Returns how many groups of a file certify, of a partly labelled one those with labels, and whether any slate has labels,
    without a tokenizer. Raises InputError."""
    rows = _grouped(path)[1]
    labelled = [row for row in rows if None not in row.labels]
    splits = {row.group: row.split or split_of(row.group) for row in labelled or rows}
    return sum(split == "validation" and not chooses(group) for group, split in splits.items()), bool(labelled)


def _named_splits(path: Path, rows: Sequence[tuple[TokenSlate, _Row]]) -> dict[Id, str] | None:
    """Each group's split, from the column `split`; None if there is none."""
    if all(row.split is None for _, row in rows):
        return None
    splits: dict[Id, str] = {}
    for slate, row in rows:
        if row.split not in SPLITS:
            raise InputError(f"{path}: {row.where}: `split` is {short(row.split)}, expected one of {', '.join(SPLITS)}")
        if (other := splits.setdefault(slate.user, row.split)) != row.split:
            raise InputError(f"{path}: {row.where}: group {slate.user!r} is in {row.split} and in {other}, expected one split")
    return splits


@dataclass
class _Row:
    """A slate as in the file. where: the place of its first row, for messages."""

    where: str
    group: Id
    prefix: Any
    candidates: list[Any]
    labels: list[bool | None] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    split: Any = None


def _read(path: Path, make_encoder: Callable[[], TextEncoder] | None) -> Iterator[tuple[TokenSlate, _Row]]:
    """Yields each slate, and its row."""

    @cache
    def encoder() -> TextEncoder:
        if make_encoder is None:
            raise InputError("holds text, which needs the model's tokenizer; expected lists of token ids")
        return make_encoder()

    is_query, rows = _grouped(path)
    for row in rows:
        try:
            prefix, candidates = _tokens(row, is_query, encoder)
        except InputError as exc:
            raise InputError(f"{path}: {row.where}: {exc}") from exc
        scores = {name: np.array(numbers, np.float32) for name, numbers in row.scores.items()}
        labels, known = np.array(row.labels, np.bool_), [label is not None for label in row.labels]
        if any(known) and not all(known):
            raise InputError(
                f"{path}: {row.where}: {known.count(False)} of {len(known)} candidates have no label, expected all or none"
            )
        yield TokenSlate(row.group, prefix, tuple(candidates), labels, scores, all(known)), row


def _tokens(row: _Row, is_query: bool, encoder: Callable[[], TextEncoder]) -> tuple[Tokens, list[Tokens]]:
    texts = [value for value in (row.prefix, *row.candidates) if isinstance(value, str)]
    if is_query:
        if len(texts) != 1 + len(row.candidates):
            raise InputError("`query` and its candidates must be text; token ids go with `prefix`")
        prefix, candidates = encoder().prompt(row.prefix, row.candidates)
    else:
        encoded = iter(encoder().whole(texts) if texts else ())
        prefix, *candidates = (next(encoded) if isinstance(value, str) else value for value in (row.prefix, *row.candidates))
    for n, tokens in enumerate(candidates):
        if not len(tokens):
            raise InputError(f"candidate {n} has no tokens, expected at least one")
    return np.array(prefix, np.int32), [np.array(tokens, np.int32) for tokens in candidates]


def _grouped(path: Path) -> tuple[bool, list[_Row]]:
    """Whether prefixes are queries, and the slates."""
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path}: is empty, expected at least one row")
    names = set().union(*(row for _, row in rows))
    is_query = _one_of(path, names, "prefix", "query") == "query"
    single = _one_of(path, names, "candidate", "candidates") == "candidate"
    if "score" in names:
        raise InputError(f"{path}: the column `score` does not say whose it is, expected `score.NAME`, such as `score.bm25`")
    stages = named(names, SCORE)
    if "group" not in names and not is_query:
        meant = next(
            (f"; `{name}` may be meant: rename it" for name in ("id", "query_id", "qid", "user_id") if name in names), ""
        )
        raise InputError(
            f"{path}: no column `group` (a user or a query: groups are split), the file has: {', '.join(sorted(names))}{meant}"
        )
    slates: dict[Any, _Row] = {}
    for n, (where, row) in enumerate(rows):
        try:
            parsed = _parsed(row, where, "query" if is_query else "prefix", single, stages)
        except InputError as exc:
            raise InputError(f"{path}: {where}: {exc}") from exc
        prefix = parsed.prefix if isinstance(parsed.prefix, str) else tuple(parsed.prefix)
        slate = slates.setdefault((type(parsed.group), parsed.group, prefix) if single else n, parsed)
        if slate is not parsed:
            if slate.split != parsed.split:
                raise InputError(f"{path}: {where}: `split` is {parsed.split!r}, its slate's is {slate.split!r}")
            slate.candidates += parsed.candidates
            slate.labels += parsed.labels
            for name, numbers in parsed.scores.items():
                slate.scores[name] += numbers
    return is_query, list(slates.values())


def _one_of(path: Path, names: set[str], a: str, b: str) -> str:
    present = [name for name in (a, b) if name in names]
    if len(present) != 1:
        seen = f"both `{a}` and `{b}`" if present else f"no column `{a}` or `{b}`"
        raise InputError(f"{path}: {seen}, expected one of them; the file has: {', '.join(sorted(names))}")
    return present[0]


def _parsed(row: Mapping[str, Any], where: str, prefix: str, single: bool, stages: Sequence[str]) -> _Row:
    group = row.get("group", row.get("query"))
    if isinstance(group, bool) or not isinstance(group, int | str) or group == "":
        raise InputError(f"`group` is {short(group)}, expected a string or an integer")
    if single:
        values: Any = [row.get("candidate")]
        labels: Any = [row.get("label")]
        scores: dict[str, Any] = {name: [row.get(SCORE + name)] for name in stages}
        names = ["`candidate`"]
    else:
        values, labels, scores = row.get("candidates"), row.get("label"), {name: row.get(SCORE + name) for name in stages}
        if not isinstance(values, list) or not values:
            raise InputError(f"`candidates` is {short(values)}, expected a list with at least one")
        if labels is None:
            labels = [None] * len(values)
        if not isinstance(labels, list) or len(labels) != len(values):
            seen = f"{len(labels)} of them" if isinstance(labels, list) else short(labels)
            raise InputError(f"`label` is {seen}, expected a list of {len(values)}, one for each candidate")
        for name, numbers in scores.items():
            if numbers is None:
                scores[name] = [None] * len(values)
            elif not isinstance(numbers, list) or len(numbers) != len(values):
                seen = f"{len(numbers)} of them" if isinstance(numbers, list) else short(numbers)
                raise InputError(f"`{SCORE}{name}` is {seen}, expected a list of {len(values)}, one for each candidate")
        names = [f"candidates[{n}]" for n in range(len(values))]
    candidates = [_part(value, name) for value, name in zip(values, names, strict=True)]
    first_stages = {name: parse_scores(numbers, f"`{SCORE}{name}`") for name, numbers in scores.items()}
    liked = [_liked(label) for label in labels]
    return _Row(where, group, _part(row.get(prefix), f"`{prefix}`"), candidates, liked, first_stages, row.get("split"))


def _part(value: Any, name: str) -> Any:
    """A text, or a list of token ids."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for n, token in enumerate(value):
            if type(token) is not int or not 0 <= token < 1 << 31:
                raise InputError(f"{name}[{n}] is {short(token)}, expected a token id")
        return value
    raise InputError(f"{name} is {short(value)}, expected text or a list of token ids")


def _liked(label: Any) -> bool | None:
    if label is None:
        return None
    if not isinstance(label, int | float) or (isinstance(label, float) and not math.isfinite(label)):  # a bool is an int
        raise InputError(f"a label is {short(label)}, expected a number or a boolean; 1 or more is relevant")
    return label >= 1


def parse_scores(scores: Iterable[Any], name: str) -> list[float]:
    """Returns what `parse_score` does of each of a first stage's scores."""
    return [parse_score(score, name) for score in scores]


def parse_score(score: Any, name: str) -> float:
    """Returns a first stage's score: a number that float32 can hold, or the text of one; None is NaN. Raises InputError, which
    names it."""
    if score is None:
        return math.nan
    with contextlib.suppress(TypeError, ValueError):
        is_number = not isinstance(score, bool) and "_" not in str(score)  # to Python, 1_000 is 1000
        if is_number and abs(number := float(score)) <= _LARGEST:
            return number
    raise InputError(f"{name} is {short(score)}, expected a finite number")


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row's place and columns. Raises InputError."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: the name ends in {path.suffix!r}, expected {' or '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    yield from _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise InputError(f"{path}: not a readable table: {str(exc).splitlines()[0]}") from exc
    for n, row in enumerate(frame.iter_rows(named=True)):
        yield f"row {n + 1}", row


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for n, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as exc:
                    raise InputError(f"{path}: line {n}: not JSON: {exc}") from exc
                if not isinstance(row, dict):
                    raise InputError(f"{path}: line {n}: is {short(row)}, expected an object")
                yield f"line {n}", row
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8 at byte {exc.start}") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
