"""`OUT.partial`: a folder with the results of a run so far, so that the next run continues from there.

    lock           locked by the running process
    pairs-000 …    the pairs by user, as records of `records.pair_type`; a user's row in the catalog determines the file
    plan.json      what is scored, and how; written when all pairs are partitioned
    scored-000 …   the scores of a partition, as records of `SCORE` in the order of their rows; scored-000.json has its summary

All files but pairs-000 appear whole or not at all. Until there is a plan, the next run begins anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.batch.records import PairReader, pair_type
from rexit.bundle import Catalog, Id, locked_file, write_file, write_json
from rexit.errors import InputError
from rexit.progress import Progress

PARTITIONS = 256
"""Number of partitions. A killed run loses at most one. All their files are mapped at once when the scores are put in order."""
_BUFFERED_BYTES = 1 << 25
"""Size of the records read before they are appended to the partitions, so that no file is opened for a handful of rows."""


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

    def split(self, reader: PairReader, identity: Mapping[str, Any], progress: Progress) -> Plan:
        """Reads all pairs and partitions them. Raises InputError for the first bad row, and for items that the catalog does not
        have."""
        self.clear()
        rows = buffered_bytes = 0
        buffered: dict[int, list[NDArray[Any]]] = {}
        for batch in reader.files.batches(max(1, _BUFFERED_BYTES // reader.record_bytes)):
            records = reader.records(batch)
            partitions = records["user"] % PARTITIONS
            for partition in np.unique(partitions).tolist():
                buffered.setdefault(partition, []).append(records[partitions == partition])
            rows += len(records)
            progress("pairs read", rows, rows)
            buffered_bytes += records.nbytes
            if buffered_bytes >= _BUFFERED_BYTES:
                self._append(buffered)
                buffered_bytes = 0
        self._append(buffered)
        reader.finish()
        if not rows:
            raise InputError(f"{reader.files.place}: has no rows")
        numbers = sorted(int(path.name.removeprefix("pairs-")) for path in self.folder.glob("pairs-*"))
        unknown = tuple(reader.unknown)
        plan = Plan(rows, reader.users, unknown, tuple(numbers), reader.early, reader.late, reader.text_times)
        write_json(self.folder / "plan.json", {"identity": identity, "plan": plan.__dict__})
        return plan

    def pairs(self, partition: int, catalog: Catalog) -> NDArray[Any]:
        """Returns records of `pair_type`, in the order of their rows."""
        return np.fromfile(self.path("pairs", partition), pair_type(catalog.inputs))

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
