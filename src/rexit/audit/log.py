"""The file of audited slates, a line of JSON for each. `rexit serve` and programs of your own write it, `rexit audit` reads it.
docs/format/policy.md describes it.

Only its owner may read the file: it holds ids of users and items.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rexit.bundle import Id
from rexit.bundle.typed import typed
from rexit.errors import InputError


@dataclass(frozen=True)
class AuditedSlate:
    """A slate that the policy answered and that was then scored at full depth.

    Attributes:
        time: when it was audited, in seconds since 1970.
        user: the user's id; for a request by token ids, a digest of its prefix. It is the test's unit.
        items: the candidates' ids; for a request by token ids, their places.
        policy: the policy's c of each candidate.
        full: c at full depth.
        exits: the exit at which each candidate stopped.
        policy_sha256: digest of policy.json.
    """

    time: float
    user: Id
    items: list[Id]
    policy: list[float]
    full: list[float]
    exits: list[int]
    policy_sha256: str


class AuditLog:
    """The file, open for the one service that writes it. Raises InputError if it cannot be opened, or another service has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise InputError(f"{path}: cannot be written: {exc.strerror}") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._file)
            raise InputError(f"{path}: another service writes it, expected a file of its own for each") from exc
        _cut_partial_line(self._file)

    def write(self, slate: AuditedSlate) -> None:
        """Appends a line, or nothing. Raises InputError if that fails."""
        text = json.dumps(asdict(slate), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        line = text.encode("utf-8", "surrogatepass")
        try:
            end = os.fstat(self._file).st_size
            try:
                written = 0
                while written < len(line):  # a full disk takes a part of the line, then refuses the rest
                    written += os.write(self._file, line[written:])
            except OSError:
                os.ftruncate(self._file, end)
                raise
        except OSError as exc:
            raise InputError(f"{self._path}: cannot be written: {exc.strerror}") from exc

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):
            os.close(self._file)


def read_log(path: Path) -> Iterator[AuditedSlate]:
    """Yields the slates of a file in order. An unfinished last line, which a killed service leaves, is skipped.

    Raises:
        InputError: There is no such file, or a line is not an audited slate.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    yield _slate(line, f"{path}: line {number}")
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8, expected a file of audited slates") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc


def _slate(line: str, where: str) -> AuditedSlate:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{where}: not JSON: {exc}") from exc
    slate = typed(value, AuditedSlate, where, error=InputError)
    if not all(map(math.isfinite, [slate.time, *slate.policy, *slate.full])):
        raise InputError(f"{where}: holds a number that is not finite")
    if not len(slate.items) == len(slate.policy) == len(slate.full) == len(slate.exits) > 0:
        raise InputError(f"{where}: items, policy, full and exits differ in length, expected one of each per candidate")
    return slate


def _cut_partial_line(file: int) -> None:
    """Removes an unfinished last line."""
    size = os.fstat(file).st_size
    end = size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(file, end)
