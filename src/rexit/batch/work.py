"""`OUT.partial`: a folder with what a run has done so far, so that the next one goes on from there.

    lock           held by the run at work
    pairs-000 …    the pairs by user, each as a record of `PAIR`; which file a user is in follows from the catalog
    plan.json      what is scored, and how; written when all pairs are partitioned
    scored-000 …   the scores of a partition, as records of `SCORE` in the order of their rows, with scored-000.json beside it

A file other than pairs-000 appears whole or not at all. Until there is a plan, the next run begins anew.
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
from rexit.bundle import Catalog, Id, locked_file, write_file, write_json
from rexit.errors import InputError
from rexit.ids import first_few, to_id
from rexit.progress import Progress

PARTITIONS = 256
"""A killed run loses one at most; all their files are read at once when the scores are put in order."""

PAIR = np.dtype([("row", "<i8"), ("user", "<i8"), ("item", "<i8"), ("time", "<i8")])
"""A pair: its row in the files, counted from 0; the item's row in the catalog, and the user's, or -1 - n for the n-th that the
catalog does not have; the time, 0 without one."""

SCORE = np.dtype(
    [
        ("row", "<i8"),
        ("last", "<i8"),
        ("rank", "<i4"),
        ("exit", "<i4"),
        ("probability", "<f4"),
        ("log_odds", "<f4"),
        ("cut_short", "?"),
    ]
)
"""A row that goes to the output, with the last row of its slate and its place there; exit -1: no answer in time."""


@dataclass(frozen=True)
class Plan:
    """What all partitions have in common. unknown: users that the catalog does not have. users: how many there are. early, late:
    pairs as of a time at or before the catalog's first interaction, and after its last. text_times: whether
    the files write a time otherwise than as a plain integer, so that the column stays text."""

    rows: int
    users: int
    unknown: tuple[Id, ...]
    partitions: tuple[int, ...]
    early: int
    late: int
    text_times: bool


class Work:
    """The folder of one output file, locked. See `opened`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextlib.contextmanager
    def opened(cls, out: Path) -> Iterator[Work]:
        """Creates and locks the folder; the block removes it, or leaves it for the next run. Raises InputError while another run
        is at work, or if it cannot be written."""
        folder = out.with_name(f"{out.name}.partial")
        try:
            folder.mkdir(exist_ok=True)
            with locked_file(folder / "lock", os.O_RDWR | os.O_CREAT, out):
                yield cls(folder)
        except OSError as exc:
            raise InputError(f"{exc.filename or folder}: cannot be written: {exc.strerror or exc}") from exc

    def plan(self, identity: Mapping[str, Any]) -> Plan | None:
        """The plan of an earlier run. Raises InputError if that run was to score something else."""
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_bytes())
            seen, plan = value["identity"], value["plan"]
            found = Plan(**{**plan, **{name: tuple(plan[name]) for name in ("unknown", "partitions")}})
        except (ValueError, KeyError, TypeError) as exc:
            raise InputError(f"{path}: damaged; remove {self.folder} to begin anew") from exc
        if changed := [name for name, wanted in identity.items() if seen.get(name) != wanted]:
            raise InputError(
                f"{self.folder}: holds an unfinished run with another {' and '.join(changed)}; "
                "finish it as it was begun, or remove the folder to begin anew"
            )
        return found

    def split(
        self, files: PairFiles, catalog: Catalog, as_of: int | None, identity: Mapping[str, Any], progress: Progress
    ) -> Plan:
        """Checks all pairs and partitions them. Raises InputError for the first row that is wrong, and for unknown items."""
        self.clear()
        reader, rows = _Reader(files, catalog, as_of), 0
        held: dict[int, list[NDArray[Any]]] = {}
        for batch in files.batches():
            records = reader.records(batch)
            home = records["user"] % PARTITIONS
            for partition in np.unique(home).tolist():
                held.setdefault(partition, []).append(records[home == partition])
            rows += len(records)
            progress("pairs read", rows, rows)
            if rows % _HELD_ROWS < len(records):
                self._append(held)
        self._append(held)
        reader.finish()
        if not rows:
            raise InputError(f"{files.given}: has no rows")
        partitions = sorted(int(path.name.removeprefix("pairs-")) for path in self.folder.glob("pairs-*"))
        unknown = tuple(reader.unknown)
        plan = Plan(rows, reader.users, unknown, tuple(partitions), reader.early, reader.late, reader.text_times)
        write_json(self.folder / "plan.json", {"identity": identity, "plan": plan.__dict__})
        return plan

    def pairs(self, partition: int) -> NDArray[Any]:
        """Records of `PAIR`, in the order of their rows."""
        return np.fromfile(self.path("pairs", partition), PAIR)

    def keep(self, partition: int, scores: NDArray[Any], summary: Mapping[str, Any]) -> None:
        """Settles a partition. scores: records of `SCORE`."""
        path = self.path("scored", partition)
        write_json(path.with_suffix(".json"), summary)
        write_file(path, scores[np.argsort(scores["row"], kind="stable")].tobytes())

    def scored(self) -> dict[int, Path]:
        """The partitions that are settled, with the files of their scores."""
        paths = sorted(path for path in self.folder.glob("scored-*") if not path.suffix)
        return {int(path.name.removeprefix("scored-")): path for path in paths}

    def summaries(self) -> list[dict[str, Any]]:
        """What was kept of the settled partitions beside their scores."""
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
        """Of a partition's pairs or scores; kind: `pairs` or `scored`."""
        return self.folder / f"{kind}-{partition:03d}"

    def _append(self, held: dict[int, list[NDArray[Any]]]) -> None:
        for partition, records in held.items():
            with open(self.path("pairs", partition), "ab") as file:
                file.write(np.concatenate(records).tobytes())
        held.clear()


_HELD_ROWS = 1 << 19
"""Read before the partitions are appended to, so that a file is not opened for a handful of rows."""


class _Reader:
    """From rows to records."""

    def __init__(self, files: PairFiles, catalog: Catalog, as_of: int | None) -> None:
        self._files, self._catalog, self._as_of = files, catalog, as_of
        kinds = catalog.info["ids"]
        self._parse_user, self._parse_item = user_or_item(kinds["user"], "user"), user_or_item(kinds["item"], "item")
        self._seen = np.zeros(len(catalog.users), np.bool_)
        self.unknown: dict[Id, int] = {}
        self.early = self.late = 0
        self.text_times = False
        self._unknown_items: dict[Id, str] = {}

    @property
    def users(self) -> int:
        return int(self._seen.sum()) + len(self.unknown)

    def records(self, batch: Batch) -> NDArray[Any]:
        columns = self._files.columns
        users, items = batch.read(columns.user, self._parse_user), batch.read(columns.item, self._parse_item)
        records = np.empty(len(batch), PAIR)
        records["row"] = np.arange(batch.first, batch.first + len(batch))
        records["user"], records["item"] = self._user_rows(users), self._item_rows(items, batch)
        records["time"] = self._times(batch)
        return records

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
        self._seen[[row for row in rows.values() if row >= 0]] = True
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
            raise InputError(f"{self._files.given}: {len(unknown)} {are} not in the catalog: {named}")
