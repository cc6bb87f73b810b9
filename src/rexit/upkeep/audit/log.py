"""The file of audits, a line of JSON for each: the request as it came, and `audit` with its trace. `rexit serve` and programs of
your own write it, `rexit audit` reads it, and so does `rexit calibrate --slates` if the bundle has a catalog.
docs/format/policy.md describes it.

Only its owner may read the file: it holds what users asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.format.bundle import Id
from rexit.format.bundle.files import typed


@dataclass(frozen=True, eq=False)
class Audit:
    """A request that the policy answered, and its trace.

    Attributes:
        time: when it was traced, in seconds since 1970.
        request: the request's fields.
        log_odds: every exit's raw log-odds, float32 [candidates, exits].
        policy_sha256: digest of policy.json.
    """

    time: float
    request: Mapping[str, Any]
    log_odds: NDArray[np.float32]
    policy_sha256: str

    @property
    def unit(self) -> Id:
        """What counts once in a period: the user; without one, a digest of the query or the prefix; without these, as for an
        encoder's token ids, of all candidates."""
        user = self.request.get("user")
        if isinstance(user, int | str):
            return user
        text = next((self.request[name] for name in ("query", "prefix", "candidates") if self.request.get(name)), None)
        return "#" + hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


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

    def write(self, audit: Audit) -> None:
        """Appends a line, or nothing. Raises InputError if that fails."""
        log_odds = [[float(str(z)) for z in row] for row in audit.log_odds]  # as few digits as tell float32 apart
        fields = {"time": audit.time, "policy_sha256": audit.policy_sha256, "log_odds": log_odds}
        line = msgspec.json.encode({**audit.request, "audit": fields}) + b"\n"
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


class _Audit(msgspec.Struct):
    time: float
    policy_sha256: str
    log_odds: list[list[float]]


class _Line(msgspec.Struct):
    audit: _Audit


def read_log(path: Path, policy_sha256: str, exits: int) -> Iterator[Audit]:
    """Yields a policy's audits in order. An unfinished last line, which a killed service leaves, is skipped.

    Args:
        path: The file.
        policy_sha256: Digest of the policy that answered. Other lines are skipped.
        exits: Number of its exits.

    Raises:
        InputError: There is no such file, or a line is no audit.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):
                    audit = _read_line(line, f"{path}: line {number}", policy_sha256, exits)
                    if audit is not None:
                        yield audit
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8, expected a file of audits") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc


def _read_line(line: str, where: str, policy_sha256: str, exits: int) -> Audit | None:
    try:
        value = msgspec.json.decode(line)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{where}: not JSON: {exc}") from exc
    audit = typed(value, _Line, where, error=InputError).audit
    if audit.policy_sha256 != policy_sha256:
        return None
    if not audit.log_odds or any(len(row) != exits for row in audit.log_odds):
        raise InputError(f"{where}: audit.log_odds: expected {exits} numbers for each candidate, one for each exit")
    with np.errstate(over="ignore"):
        log_odds = np.array(audit.log_odds, np.float32)
    if not np.isfinite(log_odds).all():
        raise InputError(f"{where}: audit.log_odds: holds a number that float32 cannot")
    return Audit(audit.time, {name: field for name, field in value.items() if name != "audit"}, log_odds, policy_sha256)


def _cut_partial_line(file: int) -> None:
    """Removes an unfinished last line."""
    size = os.fstat(file).st_size
    end = size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(file, end)
