"""`OUT.partial`: a folder with the results of a run so far, so that the next run continues from there.

    lock           locked by the running process
    pairs-000 …    the pairs by user, as records of `pair_type`; a user's row in the catalog determines the file
    plan.json      what is scored, and how; written when all pairs are partitioned
    scored-000 …   the scores of a partition, as records of `SCORE` in the order of their rows; scored-000.json has its summary

All files but pairs-000 appear whole or not at all. Until there is a plan, the next run begins anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.batch.pairs import Batch, PairFiles, user_or_item
from rexit.bundle import Bundle, Catalog, Id, locked_file, write_file, write_json
from rexit.bundle.context import Context, Value
from rexit.bundle.request_text import NO_TOKENS, RequestText, Text
from rexit.errors import InputError
from rexit.ids import first_few, to_id
from rexit.progress import Progress
from rexit.texts import RequestEncoder

PARTITIONS = 256
"""Number of partitions. A killed run loses at most one. All their files are open at once when the scores are put in order."""


def pair_type(contexts: int, tokens: int) -> np.dtype[Any]:
    """The type of a pair's record. row: in the files, from 0. user: the user's row in the catalog, or -1 - n for the n-th unknown
    user. item: the item's row in the catalog. time: 0 without times. context: numbers of the contexts' values. request: the
    tokens of each request text, filled up to its limit with -1.

    contexts: how many the catalog has. tokens: the sum of the request texts' limits.
    """
    fields = [(name, "<i8") for name in ("row", "user", "item", "time")]
    return np.dtype([*fields, ("context", "<i4", (contexts,)), ("request", "<i4", (tokens,))])


def catalog_pair_type(catalog: Catalog) -> np.dtype[Any]:
    """The type of a pair's record for a catalog."""
    return pair_type(len(catalog.contexts), catalog.request_texts.width)


SCORE = np.dtype(
    [
        ("row", "<i8"),
        ("last", "<i8"),
        ("rank", "<i4"),
        ("exit", "<i4"),
        ("probability", "<f4"),
        ("log_odds", "<f4"),
    ]
)
"""A row of the output. last: the last row of its slate. rank: its place in the slate."""


@dataclass(frozen=True)
class Plan:
    """What all partitions have in common.

    Attributes:
        rows: Number of pairs.
        users: Number of users.
        unknown: Users that the catalog does not have.
        partitions: Numbers of the partitions that have pairs.
        early: Pairs as of a time at or before the catalog's first interaction.
        late: Pairs as of a time after its last interaction.
        text_times: Whether some time is not written as a plain integer; then the column stays text.
    """

    rows: int
    users: int
    unknown: tuple[Id, ...]
    partitions: tuple[int, ...]
    early: int
    late: int
    text_times: bool


class Work:
    """The locked folder of one output file. See `opened`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextlib.contextmanager
    def opened(cls, out: Path) -> Iterator[Work]:
        """Creates and locks the folder. The block removes it, or leaves it for the next run. Raises InputError if another run has
        it, or if it cannot be written."""
        folder = out.with_name(f"{out.name}.partial")
        try:
            folder.mkdir(exist_ok=True)
            with locked_file(folder / "lock", os.O_RDWR | os.O_CREAT, out):
                yield cls(folder)
        except OSError as exc:
            raise InputError(f"{exc.filename or folder}: cannot be written: {exc.strerror or exc}") from exc

    def plan(self, identity: Mapping[str, Any]) -> Plan | None:
        """Returns the plan of an earlier run; None without one. Raises InputError if that run was to score something else."""
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_bytes())
            before, plan = value["identity"], value["plan"]
            plan = Plan(**{**plan, **{name: tuple(plan[name]) for name in ("unknown", "partitions")}})
        except (ValueError, KeyError, TypeError) as exc:
            raise InputError(f"{path}: damaged; remove {self.folder} to begin anew") from exc
        if changed := [name for name, expected in identity.items() if before.get(name) != expected]:
            raise InputError(
                f"{self.folder}: holds an unfinished run with another {' and '.join(changed)}; "
                "finish it as it was begun, or remove the folder to begin anew"
            )
        return plan

    def split(
        self,
        files: PairFiles,
        bundle: Bundle,
        as_of: int | None,
        context: Mapping[str, Value],
        request: Mapping[str, Text],
        identity: Mapping[str, Any],
        progress: Progress,
    ) -> Plan:
        """Checks all pairs and partitions them. Raises InputError for the first bad row, and for items that the catalog does not
        have."""
        self.clear()
        reader, rows = _Reader(files, bundle, as_of, context, request), 0
        buffered: dict[int, list[NDArray[Any]]] = {}
        for batch in files.batches():
            records = reader.records(batch)
            partitions = records["user"] % PARTITIONS
            for partition in np.unique(partitions).tolist():
                buffered.setdefault(partition, []).append(records[partitions == partition])
            rows += len(records)
            progress("pairs read", rows, rows)
            if rows % _BUFFERED_ROWS < len(records):
                self._append(buffered)
        self._append(buffered)
        reader.finish()
        if not rows:
            raise InputError(f"{files.place}: has no rows")
        numbers = sorted(int(path.name.removeprefix("pairs-")) for path in self.folder.glob("pairs-*"))
        unknown = tuple(reader.unknown)
        plan = Plan(rows, reader.users, unknown, tuple(numbers), reader.early, reader.late, reader.text_times)
        write_json(self.folder / "plan.json", {"identity": identity, "plan": plan.__dict__})
        return plan

    def pairs(self, partition: int, catalog: Catalog) -> NDArray[Any]:
        """Returns records of `catalog_pair_type`, in the order of their rows."""
        return np.fromfile(self.path("pairs", partition), catalog_pair_type(catalog))

    def store(self, partition: int, scores: NDArray[Any], summary: Mapping[str, Any]) -> None:
        """Stores a finished partition. scores: records of `SCORE`."""
        path = self.path("scored", partition)
        write_json(path.with_suffix(".json"), summary)
        write_file(path, scores[np.argsort(scores["row"], kind="stable")].tobytes())

    def scored(self) -> dict[int, Path]:
        """Returns the finished partitions, with the files of their scores."""
        paths = sorted(path for path in self.folder.glob("scored-*") if not path.suffix)
        return {int(path.name.removeprefix("scored-")): path for path in paths}

    def summaries(self) -> list[dict[str, Any]]:
        """Returns the summaries of the finished partitions."""
        return [json.loads(path.with_suffix(".json").read_bytes()) for path in self.scored().values()]

    def clear(self) -> None:
        """Removes everything but the lock."""
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, kind: str, partition: int) -> Path:
        """Returns the file of a partition's pairs or scores. kind: `pairs` or `scored`."""
        return self.folder / f"{kind}-{partition:03d}"

    def _append(self, buffered: dict[int, list[NDArray[Any]]]) -> None:
        for partition, records in buffered.items():
            with open(self.path("pairs", partition), "ab") as file:
                file.write(np.concatenate(records).tobytes())
        buffered.clear()


def _context_value(cell: Any) -> Value | None:
    """A cell as a context's value, as `rexit index` reads it: text without outer spaces; None if nothing is left."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if cell is None or isinstance(cell, int | float):
        return cell
    return str(cell).strip() or None


def _text_value(cell: Any) -> Text:
    """A cell as a request text, as `rexit index` reads it; of a Parquet column of lists, token ids."""
    if cell is None:
        return NO_TOKENS
    if isinstance(cell, tuple | np.ndarray):
        return cell
    return str(cell)


_BUFFERED_ROWS = 1 << 19
"""Rows read before they are appended to the partitions, so that no file is opened for a handful of rows."""


class _Reader:
    """Turns rows into records."""

    def __init__(
        self, files: PairFiles, bundle: Bundle, as_of: int | None, context: Mapping[str, Value], request: Mapping[str, Text]
    ) -> None:
        catalog = bundle.catalog
        self._files, self._catalog, self._as_of, self._context = files, catalog, as_of, context
        self._encoder = RequestEncoder.of(bundle)
        self._request = self._encoder.request(request)
        kinds = catalog.info["ids"]
        self._parse_user, self._parse_item = user_or_item(kinds["user"], "user"), user_or_item(kinds["item"], "item")
        self._is_used = np.zeros(len(catalog.users), np.bool_)
        self.unknown: dict[Id, int] = {}
        self.early = self.late = 0
        self.text_times = False
        self._unknown_items: dict[Id, str] = {}

    @property
    def users(self) -> int:
        return int(self._is_used.sum()) + len(self.unknown)

    def records(self, batch: Batch) -> NDArray[Any]:
        columns = self._files.columns
        users, items = batch.read(columns.user, self._parse_user), batch.read(columns.item, self._parse_item)
        records = np.empty(len(batch), catalog_pair_type(self._catalog))
        records["row"] = np.arange(batch.first, batch.first + len(batch))
        records["user"], records["item"] = self._user_rows(users), self._item_rows(items, batch)
        records["time"] = self._times(batch)
        for n, context in enumerate(self._catalog.contexts.entries):
            records["context"][:, n] = self._context_numbers(context, batch)
        begin = 0
        for text in self._catalog.request_texts.entries:
            records["request"][:, begin : begin + text.limit] = self._text_rows(text, batch)
            begin += text.limit
        return records

    def _context_numbers(self, context: Context, batch: Batch) -> NDArray[np.int32] | int:
        column = self._files.contexts.get(context.name)
        if column is None:
            return context.number(self._context.get(context.name))
        return np.array(batch.read(column, lambda cell: context.number(_context_value(cell)), empty=True), np.int32)

    def _text_rows(self, text: RequestText, batch: Batch) -> NDArray[np.int32]:
        """Tokens of a request text, filled up with -1: int32 [rows or 1, limit]."""

        def padded(cell: Any) -> NDArray[np.int32]:
            tokens = self._encoder.tokens(text.name, _text_value(cell))
            return np.pad(tokens, (0, text.limit - len(tokens)), constant_values=-1)

        column = self._files.texts.get(text.name)
        if column is None:
            return padded(self._request.get(text.name))[None]
        return np.array(batch.read(column, padded, empty=True), np.int32)

    def _times(self, batch: Batch) -> NDArray[np.int64] | int:
        name = self._files.time
        if name is None and self._as_of is None:
            return 0
        timeline = self._catalog.timeline

        def parse(value: Any) -> int:
            self.text_times |= to_id(value, "int64") is None
            return timeline.parse(value, f"`{name}`")

        times = np.full(len(batch), self._as_of) if name is None else np.array(batch.read(name, parse), np.int64)
        self.early += int((times <= timeline.first).sum())
        self.late += int((times > timeline.last).sum())
        return times

    def _user_rows(self, users: Sequence[Id]) -> list[int]:
        distinct = list(dict.fromkeys(users))
        rows = dict(zip(distinct, self._catalog.users.find(distinct).tolist(), strict=True))
        self._is_used[[row for row in rows.values() if row >= 0]] = True
        for user, row in rows.items():
            if row < 0:
                rows[user] = -1 - self.unknown.setdefault(user, len(self.unknown))
        return [rows[user] for user in users]

    def _item_rows(self, items: Sequence[Id], batch: Batch) -> list[int]:
        distinct = list(dict.fromkeys(items))
        rows = dict(zip(distinct, self._catalog.items.find(distinct).tolist(), strict=True))
        place = f" of {batch.path.name}" if len(self._files.files) > 1 else ""
        for item, row in rows.items():
            if row < 0:
                self._unknown_items.setdefault(item, f"row {batch.before + items.index(item) + 1}{place}")
        return [rows[item] for item in items]

    def finish(self) -> None:
        """Raises InputError for items that the catalog does not have."""
        if unknown := self._unknown_items:
            are = "item is" if len(unknown) == 1 else "items are"
            named = first_few(list(unknown), name=lambda item: f"{item!r} ({unknown[item]})")
            raise InputError(f"{self._files.place}: {len(unknown)} {are} not in the catalog: {named}")
